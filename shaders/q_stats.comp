#version 450
// q_stats: the queries of a block into the sums of their head (params.h: kept_stats_params).
//
// Group: 16 rows (16y …) of the d x d sums of query head x. A lane owns columns lane, lane + WG, …
// and adds 16 products a query; the 16 elements of the rows are in shared memory, 64 queries at a
// time. The lanes that own columns 16y … 16y + 15 also add the plain sums.
// Keys: WG lanes; D head size.

layout(constant_id = 1) const uint D = 64;

#include "kept.glsl"

layout(push_constant) uniform Push
{
    kept_stats_params p;
};

layout(std430, binding = 0) readonly restrict buffer Queries
{
    float q1[];
};
layout(std430, binding = 0) readonly restrict buffer Queries4
{
    vec4 q4[];
};
layout(std430, binding = 1) restrict buffer Stats
{
    float stats[];
};
layout(std430, binding = 2) readonly restrict buffer Step
{
    uint step_words[];
};

const uint BATCH = 64u;
shared vec4 rows[BATCH * 4u]; // [query][16]

void main()
{
    uint head = gl_WorkGroupID.x, first = gl_WorkGroupID.y * 16u, lane = gl_LocalInvocationID.x;
    if (KEPT_LIVE_ROWS(p) != p.row_cap) {
        return;
    }
    uint position = step_words[KEPT_STEP_BASE] + p.row_first;
    uint skipped = min(p.sinks - min(p.sinks, position), p.row_cap);
    uint to = head * KEPT_STATS_STRIDE(D);
    for (uint at = 0u; at < D; at += WG) {
        uint column = min(at + lane, D - 1u);
        vec4 a[4];
        float sum = 0.0;
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            a[k] = vec4(0.0);
        }
        for (uint from = skipped; from < p.row_cap; from += BATCH) {
            uint n = min(BATCH, p.row_cap - from);
            barrier();
            for (uint i = lane; i < n * 4u; i += WG) {
                uint q_at = ((from + (i >> 2)) * p.n_head + head) * D + first;
                rows[i] = q4[(q_at >> 2) + (i & 3u)];
            }
            barrier();
            for (uint r = 0u; r < n; r++) {
                float v = q1[((from + r) * p.n_head + head) * D + column];
                [[unroll]] for (uint k = 0u; k < 4u; k++) {
                    a[k] = fma(vec4(v), rows[r * 4u + k], a[k]);
                }
                sum += v;
            }
        }
        if (at + lane < D) {
            [[unroll]] for (uint k = 0u; k < 16u; k++) {
                stats[to + (first + k) * D + column] += a[k >> 2][k & 3u];
            }
            if (column - first < 16u) {
                stats[to + D * D + column] += sum;
            }
        }
    }
}

#version 450
// q_stats: the queries of a block into the sums of their head (params.h: kept_stats_params).
//
// Group: 16 rows (16y …) of the d x d sums of query head x. A lane owns columns lane, lane + WG, …,
// up to four at a time, and adds 16 products a query and column; the 16 elements of the rows are in
// shared memory, 64 queries at a time. The lanes of columns 16y … 16y + 15 write the plain sums.
// Keys: WG lanes; D head size.

layout(constant_id = 1) const uint D = 64;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_stats_params p; };

layout(std430, binding = 0) readonly restrict buffer Queries { float q1[]; };
layout(std430, binding = 0) readonly restrict buffer Queries4 { vec4 q4[]; };
layout(std430, binding = 1) restrict buffer Stats { float stats[]; };
layout(std430, binding = 2) readonly restrict buffer Step { uint step_words[]; };

const uint BATCH = 64u;
const uint NEED = (D + WG - 1u) / WG;
const uint CPL = NEED < 4u ? NEED : 4u; // columns of a lane at a time

shared vec4 rows[BATCH * 4u]; // [query][16]

// The row of queries that row r of the block is in; `start` is row 0's.
uint query_row(uint start, uint r)
{
    uint row = start + r;
    return row < p.queries_rows ? row : row - p.queries_rows;
}

// Sixteen elements of n queries into shared memory; `at` is the first in units of four.
void load_rows(uint start, uint from, uint n, uint at)
{
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < n * 4u; i += WG) {
        rows[i] = q4[query_row(start, from + (i >> 2)) * p.n_head * (D / 4u) + at + (i & 3u)];
    }
    barrier();
}

void main()
{
    uint head = gl_WorkGroupID.x, first = gl_WorkGroupID.y * 16u, lane = gl_LocalInvocationID.x;
    if (KEPT_LIVE_ROWS(p) != p.row_cap) {
        return;
    }
    uint position = step_words[KEPT_STEP_BASE] + p.row_first;
    uint skipped = min(p.sinks - min(p.sinks, position), p.row_cap);
    uint start = position % p.queries_rows;
    uint to = head * KEPT_STATS_STRIDE(D);
    for (uint at = 0u; at < D; at += WG * CPL) {
        vec4 a[CPL * 4u];
        float sum[CPL];
        [[unroll]] for (uint c = 0u; c < CPL; c++) {
            sum[c] = 0.0;
            [[unroll]] for (uint k = 0u; k < 4u; k++) {
                a[c * 4u + k] = vec4(0.0);
            }
        }
        for (uint from = skipped; from < p.row_cap; from += BATCH) {
            uint n = min(BATCH, p.row_cap - from);
            load_rows(start, from, n, (head * D + first) / 4u);
            for (uint r = 0u; r < n; r++) {
                uint at_row = (query_row(start, from + r) * p.n_head + head) * D;
                float v[CPL];
                [[unroll]] for (uint c = 0u; c < CPL; c++) {
                    uint column = min(at + c * WG + lane, D - 1u);
                    v[c] = q1[at_row + column];
                    sum[c] += v[c];
                }
                [[unroll]] for (uint k = 0u; k < 4u; k++) {
                    vec4 row = rows[r * 4u + k];
                    [[unroll]] for (uint c = 0u; c < CPL; c++) {
                        a[c * 4u + k] = fma(vec4(v[c]), row, a[c * 4u + k]);
                    }
                }
            }
        }
        [[unroll]] for (uint c = 0u; c < CPL; c++) {
            uint column = at + c * WG + lane;
            if (column < D) {
                [[unroll]] for (uint k = 0u; k < 16u; k++) {
                    stats[to + (first + k) * D + column] += a[c * 4u + (k >> 2)][k & 3u];
                }
                if (column - first < 16u) {
                    stats[to + D * D + column] += sum[c];
                }
            }
        }
    }
}

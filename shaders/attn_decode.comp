#version 450
// attn_decode: attention of few rows, split over the slots; partial results (params.h:
// kept_attn_params).
//
// Group: split (x), G query heads of one KV head (y), row (z). Splits are equal shares of the tiles
// of 16 that the row attends, so they follow what is live, not the capacity. The work:
// common/attention.glsl.
//
// Keys: WG lanes, 8 to 64; ORDER of the K records; D head size; G query heads a pass; GENERAL where
// slots are; KT, VT types of K and V.
// Shared memory: G * (D + T + 9) floats and T more, T = at most max(WG, 32).

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint G = 1;
layout(constant_id = 4) const uint GENERAL = 0;
layout(constant_id = 5) const uint KT = 1;
layout(constant_id = 6) const uint VT = 1;
const uint BQ = 1u;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_attn_params p; };

#include "attention.glsl"

layout(std430, binding = 5) writeonly restrict buffer Part { float part[]; };

// floor(n * i / S) without overflow: n < 2^28, i <= S <= 4096.
uint share_of(uint n, uint i)
{
    return n / p.n_splits * i + n % p.n_splits * i / p.n_splits;
}

void main()
{
    if (gl_WorkGroupID.z >= KEPT_LIVE_ROWS(p)) {
        return;
    }
    uint row = p.row_first + gl_WorkGroupID.z, split = gl_WorkGroupID.x;
    find_heads();
    load_row(0u, row, true);
    uvec2 range = whole_range();
    uint n = range.y - range.x;
    attend(range.x + share_of(n, split), range.x + share_of(n, split + 1u));

    uint stride = (D + 4u) * p.parts;
    uint to = (row * p.n_head + first_head) * stride + (p.part_first + split) * (D + 4u);
    for (uint e = gl_LocalInvocationID.x; e < n_heads * D; e += WG) {
        part[to + e / D * stride + 4u + e % D] = q4[e >> 2][e & 3u];
    }
    [[unroll]] for (uint c = 0u; c < G; c++) {
        if (gl_LocalInvocationID.x == 0u && c < n_heads) {
            part[to + c * stride] = m[c];
            part[to + c * stride + 1u] = score[c * T];
        }
    }
}

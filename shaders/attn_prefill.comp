#version 450
// attn_prefill: attention of many rows, finished or as parts for attn_merge (params.h:
// kept_attn_params).
//
// Group: BQ rows (x), G query heads of one KV head (y): BQ * G columns. Tiles that no row of the
// group attends are not visited. The work: common/attention.glsl.
//
// Keys: WG lanes, 8 to 64; ORDER of the K records; D head size; G query heads a pass; GENERAL where
// slots are; KT, VT types of K and V; BQ rows a group; OUT 0 finished, 1 parts. Shared memory:
// BQ * G * (D + T + 9) floats and T more, T = min(max(WG, 32), 64).

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint G = 1;
layout(constant_id = 4) const uint GENERAL = 0;
layout(constant_id = 5) const uint KT = 1;
layout(constant_id = 6) const uint VT = 1;
layout(constant_id = 7) const uint BQ = 8;
layout(constant_id = 8) const uint OUT = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_attn_params p; };

#include "attention.glsl"

layout(std430, binding = 5) writeonly restrict buffer Out { float out1[]; };

// Partial results of rows first … first + rows - 1, as attn_decode writes them.
void write_parts(uint first, uint rows)
{
    uint stride = (D + 4u) * p.parts;
    uint to = ((p.row_first + first) * p.n_head + first_head) * stride + p.part_first * (D + 4u);
    for (uint u = gl_LocalInvocationID.x; u < rows * n_heads * (D / 4u); u += WG) {
        uint column = u / (D / 4u), quad = u % (D / 4u), i = column / n_heads, g = column % n_heads;
        uint at = to + (i * p.n_head + g) * stride + 4u + 4u * quad;
        vec4 v = q4[(i * G + g) * (D / 4u) + quad];
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            out1[at + k] = v[k];
        }
    }
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        uint i = c / G, g = c % G;
        if (gl_LocalInvocationID.x == 0u && i < rows && g < n_heads) {
            uint at = to + (i * p.n_head + g) * stride;
            out1[at] = m[c];
            out1[at + 1u] = score[c * T];
        }
    }
}

void main()
{
    uint live = KEPT_LIVE_ROWS(p), first = gl_WorkGroupID.x * BQ;
    if (first >= live) {
        return;
    }
    find_heads();
    [[unroll]] for (uint i = 0u; i < BQ; i++) {
        load_row(i, p.row_first + min(first + i, live - 1u), first + i < live);
    }
    uvec2 range = whole_range();
    attend(range.x, range.y);
    if (OUT != 0u) {
        write_parts(first, min(BQ, live - first));
        return;
    }
    if (VT != KEPT_FMT_F16) {
        kept_hadamard(BQ * G * D, D);
    }

    uint rows = min(BQ, live - first), width = n_heads * D;
    for (uint u = gl_LocalInvocationID.x; u < rows * (width >> 4); u += WG) {
        uint i = u / (width >> 4), e = u % (width >> 4) * 16u, c = i * G + e / D;
        uint to = (p.row_first + first + i) * p.out_stride;
        float l_all = score[c * T], scale = l_all > 0.0 ? 1.0 / l_all : 0.0, sum = 0.0;
        for (uint j = 0u; j < 4u; j++) {
            vec4 v = l_all > 0.0 ? q4[(i * G * D + e) / 4u + j] * scale : vec4(0.0);
            [[unroll]] for (uint k = 0u; k < 4u; k++) {
                out1[to + first_head * D + e + 4u * j + k] = v[k];
            }
            sum += (v.x + v.y) + (v.z + v.w);
        }
        out1[to + p.n_head * D + (first_head * D + e) / 16u] = sum;
    }
}

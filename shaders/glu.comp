#version 450
// glu: out[i] = act(x[i]) * x[n + i] of each row, with sums of 16 (params.h: kept_glu_params).
//
// Group: 256 elements of a row (x), row (y). A lane takes pieces of 16 elements, so it writes their
// sum itself.
// Keys: WG lanes; ACT 0 silu, 1 gelu (tanh form). Strides are multiples of 4.

layout(constant_id = 1) const uint ACT = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_glu_params p; };

layout(std430, binding = 0) readonly restrict buffer X { vec4 x4[]; };
layout(std430, binding = 1) writeonly restrict buffer Out { vec4 out4[]; };
layout(std430, binding = 1) writeonly restrict buffer OutSums { float out1[]; };
layout(std430, binding = 2) readonly restrict buffer Step { uint step_words[]; };

float act(float v)
{
    return ACT == 0u ? kept_silu(v) : kept_gelu(v);
}

void main()
{
    if (gl_WorkGroupID.y >= KEPT_LIVE_ROWS(p)) {
        return;
    }
    uint row = p.row_first + gl_WorkGroupID.y;
    uint first = gl_WorkGroupID.x * 16u, last = min(first + 16u, p.n >> 4);
    uint gate_at = row * (p.x_stride >> 2), up_at = gate_at + (p.n >> 2);
    uint out_at = row * (p.out_stride >> 2);
    for (uint i = first + gl_LocalInvocationID.x; i < last; i += WG) {
        vec4 sum = vec4(0.0);
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            vec4 g = x4[gate_at + 4u * i + j];
            vec4 v = vec4(act(g.x), act(g.y), act(g.z), act(g.w)) * x4[up_at + 4u * i + j];
            out4[out_at + 4u * i + j] = v;
            sum += v;
        }
        out1[row * p.out_stride + p.n + i] = (sum.x + sum.y) + (sum.z + sum.w);
    }
}

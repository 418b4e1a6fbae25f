#version 450
// attn_merge: partial results of splits and segments into one output row (params.h:
// kept_merge_params).
//
// Group: one query head (y) of one row (x). A lane takes elements lane, lane + WG, … of the head
// and walks the parts.
// Part: m, l, 2 words, o[d]. Empty parts have m = -inf and weigh nothing.
// Keys: WG lanes; VROT: values are rotated, turn the output back.

layout(constant_id = 1) const uint VROT = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_merge_params p; };

layout(std430, binding = 0) readonly restrict buffer Part { float part[]; };
layout(std430, binding = 1) writeonly restrict buffer Out { float out1[]; };
layout(std430, binding = 2) readonly restrict buffer Step { uint step_words[]; };

shared float head_out[KEPT_MAX_HEAD_DIM];

#define KEPT_SHARED(i) head_out[i]
#include "slots.glsl"

void main()
{
    uint lane = gl_LocalInvocationID.x;
    if (gl_WorkGroupID.x >= KEPT_LIVE_ROWS(p)) {
        return;
    }
    uint row = p.row_first + gl_WorkGroupID.x, head = gl_WorkGroupID.y, stride = p.d + 4u;
    uint from = (row * p.n_head + head) * p.parts * stride;
    float m = KEPT_MINUS_INFINITY, l = 0.0;
    for (uint i = 0u; i < p.parts; i++) {
        m = max(m, part[from + i * stride]);
    }
    for (uint i = 0u; i < p.parts; i++) {
        float mi = part[from + i * stride];
        l += mi > KEPT_MINUS_INFINITY ? exp(mi - m) * part[from + i * stride + 1u] : 0.0;
    }
    float scale = l > 0.0 ? 1.0 / l : 0.0;
    for (uint e = lane; e < p.d; e += WG) {
        float o = 0.0;
        for (uint i = 0u; i < p.parts; i++) {
            float mi = part[from + i * stride];
            if (mi > KEPT_MINUS_INFINITY) {
                o = fma(exp(mi - m), part[from + i * stride + 4u + e], o);
            }
        }
        o = l > 0.0 ? o * scale : 0.0;
        head_out[e] = o;
        if (VROT == 0u) {
            out1[row * p.out_stride + head * p.d + e] = o;
        }
    }
    barrier();
    if (VROT != 0u) {
        kept_hadamard(p.d, p.d);
        for (uint e = lane; e < p.d; e += WG) {
            out1[row * p.out_stride + head * p.d + e] = head_out[e];
        }
    }
    for (uint s = lane; s < p.d >> 4; s += WG) {
        float sum = 0.0;
        for (uint i = 0u; i < 16u; i++) {
            sum += head_out[16u * s + i];
        }
        out1[row * p.out_stride + p.n_head * p.d + head * (p.d >> 4) + s] = sum;
    }
}

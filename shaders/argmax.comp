#version 450
// argmax: index and bits of the largest logit of each row, after the soft cap (params.h:
// kept_argmax_params).
//
// Group: one row. Floats are compared as ordered integers: NaN is 0, below -inf; -0 counts as 0;
// the lowest index wins.
// Keys: WG lanes.

#include "kept.glsl"

layout(push_constant) uniform Push { kept_argmax_params p; };

layout(std430, binding = 0) restrict buffer Logits { uint logits[]; };
layout(std430, binding = 1) writeonly restrict buffer Out { uint result[]; };
layout(std430, binding = 2) readonly restrict buffer Step { uint step_words[]; };

shared uvec3 best_of[WG]; // ordered value, index, bits

uint ordered(uint bits)
{
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0u;
    }
    bits = bits == 0x80000000u ? 0u : bits;
    return (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
}

bool better(uvec3 a, uvec3 b)
{
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

void main()
{
    uint lane = gl_LocalInvocationID.x;
    if (gl_WorkGroupID.x >= KEPT_LIVE_ROWS(p)) {
        return;
    }
    uint row = p.row_first + gl_WorkGroupID.x, at = row * p.stride;
    uvec3 best = uvec3(0u, 0xffffffffu, 0u);
    for (uint i = lane; i < p.n; i += WG) {
        uint bits = logits[at + i];
        if (p.softcap > 0.0) {
            bits = floatBitsToUint(p.softcap * kept_tanh(uintBitsToFloat(bits) / p.softcap));
            logits[at + i] = bits;
        }
        uvec3 v = uvec3(ordered(bits), i, bits);
        if (better(v, best)) {
            best = v;
        }
    }
    best_of[lane] = best;
    barrier();
    if (lane == 0u) {
        for (uint i = 1u; i < WG; i++) {
            if (better(best_of[i], best)) {
                best = best_of[i];
            }
        }
        result[row * 2u] = best.y;
        result[row * 2u + 1u] = best.z;
    }
}

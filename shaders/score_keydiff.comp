#version 450
// score_keydiff: how much a key differs from the others of its head (params.h: score_keydiff).
//
// Group: one KV head. A lane owns slots lane, lane + WG, … Three walks over the keys: 1 / |k| (kept
// in the slot's place of z), the mean of k / |k| by 32 elements, the cosines.
// Keys: WG lanes; ORDER of the K tiles; D head size; KT slot type.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint KT = 1;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_score_params p; };

layout(std430, binding = 0) readonly restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 0) readonly restrict buffer KSlots4 { uvec4 k4[]; };
layout(std430, binding = 1) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 2) restrict buffer Z { float z[]; };
layout(std430, binding = 3) readonly restrict buffer Step { uint step_words[]; };

#define KEPT_D D
#define KEPT_LOADS_K
#include "slots.glsl"
#include "retain.glsl"

shared vec4 mean[D / 4u];
shared vec4 partial[2u * WG];

// The sums of the lanes, divided by the count, into elements 8g … 8g + 7 of the mean.
void gather(vec4 lo, vec4 hi, uint g, uint count)
{
    uint lane = gl_LocalInvocationID.x;
    partial[lane] = lo;
    partial[WG + lane] = hi;
    barrier();
    for (uint i = lane; i < 8u; i += WG) {
        float sum = 0.0;
        for (uint k = 0u; k < WG; k++) {
            sum += partial[(i >> 2) * WG + k][i & 3u];
        }
        mean[2u * g + (i >> 2)][i & 3u] = sum / float(count);
    }
    barrier();
}

void find_mean(kept_head h, uint z_at)
{
    for (uint g0 = 0u; g0 < D / 8u; g0 += 4u) {
        vec4 lo[4], hi[4];
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            lo[i] = vec4(0.0);
            hi[i] = vec4(0.0);
        }
        for (uint s = gl_LocalInvocationID.x; s < h.count; s += WG) {
            float f = z[z_at + s];
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                vec4 k_lo, k_hi;
                kept_k8(h.first + s, g0 + i, k_lo, k_hi);
                lo[i] += f * k_lo;
                hi[i] += f * k_hi;
            }
        }
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            gather(lo[i], hi[i], g0 + i, h.count);
        }
    }
}

void main()
{
    uint kv_head = gl_WorkGroupID.x, lane = gl_LocalInvocationID.x;
    if (!block_is_live()) {
        return;
    }
    kept_head h = load_head(kv_head);
    h.count = min(h.count, p.z_stride);
    uint z_at = kv_head * (p.n_head / p.n_kv + 1u) * p.z_stride;
    if (h.count <= h.budget) {
        return;
    }
    vec4 lo, hi;
    for (uint s = lane; s < h.count; s += WG) {
        float square = 0.0;
        for (uint g0 = 0u; g0 < D / 8u; g0 += 4u) {
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                uint g = g0 + i;
                kept_k8(h.first + s, g, lo, hi);
                square += dot(lo, lo) + dot(hi, hi);
            }
        }
        z[z_at + s] = square == 0.0 ? 0.0 : 1.0 / sqrt(square);
    }
    find_mean(h, z_at);
    float square = 0.0;
    for (uint i = 0u; i < D / 4u; i++) {
        square += dot(mean[i], mean[i]);
    }
    for (uint s = lane; s < h.count; s += WG) {
        float sum = 0.0;
        for (uint g0 = 0u; g0 < D / 8u; g0 += 4u) {
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                uint g = g0 + i;
                kept_k8(h.first + s, g, lo, hi);
                sum += dot(lo, mean[2u * g]) + dot(hi, mean[2u * g + 1u]);
            }
        }
        float size = z[z_at + s];
        z[z_at + s] = size == 0.0 || square == 0.0 ? 0.0 : -sum * size / sqrt(square);
    }
}

#version 450
// slot_merge: values of evicted slots into the kept slots nearest to them (params.h: slot_merge).
//
// Group: evicted slot number x of one KV head (y). It finds where every evicted slot goes, and
// works only when it is the first that goes to its slot: then it merges all of those, in order, so
// no two groups write a slot. A lane takes four elements of the value.
// Keys: WG lanes; D head size; VT slot type.

layout(constant_id = 1) const uint D = 64;
layout(constant_id = 2) const uint VT = 1;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_merge_slots_params p; };

layout(std430, binding = 0) restrict buffer VSlots { uint v1[]; };
layout(std430, binding = 1) restrict buffer Meta { float meta[]; };
layout(std430, binding = 2) restrict buffer Scores { float scores[]; };
layout(std430, binding = 3) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 4) readonly restrict buffer Moves { uint moves[]; };
layout(std430, binding = 5) readonly restrict buffer Near { uint near[]; };
layout(std430, binding = 6) readonly restrict buffer Step { uint step_words[]; };

shared float value[D];
shared uint target[KEPT_MAX_BLOCK];  // nearest slot; CAP: none
shared float weight[KEPT_MAX_BLOCK]; // of those that go to this group's slot; else -1

#define KEPT_D D
#define KEPT_LOADS_V
#define KEPT_STORES_V
#define KEPT_SHARED(i) value[i]
#include "slots.glsl"

#define KEPT_MOVES
#include "retain.glsl"

uint nearest_of(uint e, kept_moves m, uint cap)
{
    float best = KEPT_MINUS_INFINITY;
    uint slot = cap;
    for (uint split = 0u; split < p.n_splits; split++) {
        uint at = 2u * ((gl_WorkGroupID.y * p.n_splits + split) * p.row_cap + e);
        float like = uintBitsToFloat(near[at]);
        uint there = near[at + 1u];
        if (like > best || (like == best && like > KEPT_MINUS_INFINITY && there < slot)) {
            best = like;
            slot = there;
        }
    }
    return moves[m.at + e] < cap ? min(slot, cap) : cap;
}

// Weights of evicted slots number x … that go to `slot`; returns their sum.
float find_weights(kept_head h, kept_moves m, uint slot)
{
    uint plane = p.total + h.first;
    for (uint e = gl_LocalInvocationID.x; e < m.n_lost; e += WG) {
        float w = -1.0;
        if (target[e] == slot) {
            float log_w = scores[plane + moves[m.at + e]] - scores[plane + slot];
            bool number = (floatBitsToUint(log_w) & 0x7fffffffu) <= 0x7f800000u;
            w = number ? exp(min(log_w, 9.25)) : -1.0;
            w = min(w, 1e4);
        }
        weight[e] = w;
    }
    barrier();
    float sum = 0.0;
    for (uint e = 0u; e < m.n_lost; e++) {
        sum += max(weight[e], 0.0);
    }
    return sum;
}

void main()
{
    uint own = gl_WorkGroupID.x, kv_head = gl_WorkGroupID.y, lane = gl_LocalInvocationID.x;
    if (!block_is_live()) {
        return;
    }
    kept_head h = load_head(kv_head);
    kept_moves m = load_moves(kv_head, h.cap);
    if (own >= m.n_lost) {
        return;
    }
    for (uint e = lane; e < m.n_lost; e += WG) {
        target[e] = nearest_of(e, m, h.cap);
    }
    barrier();
    uint slot = target[own];
    bool is_first = slot < h.cap;
    for (uint e = 0u; e < own; e++) {
        is_first = is_first && target[e] != slot;
    }
    if (!is_first) {
        return;
    }
    float total = find_weights(h, m, slot);
    for (uint i = lane; i < D / 4u; i += WG) {
        vec4 sum = kept_v4(h.first + slot, i);
        for (uint e = own; e < m.n_lost; e++) {
            if (weight[e] >= 0.0) {
                sum += weight[e] * kept_v4(h.first + moves[m.at + e], i);
            }
        }
        sum /= 1.0 + total;
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            value[4u * i + k] = sum[k];
        }
    }
    barrier();
    kept_store_v(h.first + slot);
    if (lane == 0u) {
        uint at = h.first + slot, plane = p.total + at;
        meta[plane] += log(1.0 + total);
        scores[plane] += log(1.0 + total);
        scores[at] *= 1.0 + total;
    }
}

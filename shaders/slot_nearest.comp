#version 450
// slot_nearest: the kept slot most like each evicted one (params.h: slot_nearest).
//
// Group: one split (x) of the slots of one KV head (y); common/nearest.glsl says how. The keys are
// those of evicted slots.
// Keys: WG lanes; ORDER of the K tiles; D head size; KT slot type.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint KT = 1;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_merge_slots_params p; };

layout(std430, binding = 0) readonly restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 0) readonly restrict buffer KSlots4 { uvec4 k4[]; };
layout(std430, binding = 1) readonly restrict buffer Meta { int meta[]; };
layout(std430, binding = 2) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 3) readonly restrict buffer Moves { uint moves[]; };
layout(std430, binding = 4) writeonly restrict buffer Near { uint near[]; };
layout(std430, binding = 5) readonly restrict buffer Step { uint step_words[]; };

#define KEPT_D D
#define KEPT_LOADS_K
#include "slots.glsl"

#define KEPT_MOVES
#include "retain.glsl"

// Keys at a time (at most 16 KiB with best_of) and slots of a lane at a time: more in small groups,
// where lanes run in turn and what they share is loaded by each of them.
const uint EB_SMALL = D > 256u ? 4u : D > 128u ? 8u : 16u;
const uint EB_LARGE = D > 128u ? 4u : WG > 128u ? 4u : 8u;
const uint EB = WG < 16u ? EB_SMALL : EB_LARGE;
const uint SPL = WG < 16u ? 8u : WG < 32u ? 2u : 1u;

kept_head h;

void near_load(uint slot, uint g, out vec4 lo, out vec4 hi)
{
    kept_k8(h.first + slot, g, lo, hi);
}

bool near_counts(uint slot)
{
    return meta[h.first + slot] != KEPT_POS_GONE;
}

#include "nearest.glsl"

// Evicted keys number e0 …; zeros past the last.
void load_evicted(kept_moves m, uint e0)
{
    for (uint i = gl_LocalInvocationID.x; i < EB * D / 8u; i += WG) {
        uint e = i % EB, g = i / EB;
        uint slot = e0 + e < m.n_lost ? moves[m.at + e0 + e] : h.cap;
        vec4 lo = vec4(0.0), hi = vec4(0.0);
        if (slot < h.cap) {
            kept_k8(h.first + slot, g, lo, hi);
        }
        key4[2u * g * EB + e] = lo;
        key4[(2u * g + 1u) * EB + e] = hi;
    }
    barrier();
}

void main()
{
    uint split = gl_WorkGroupID.x, kv_head = gl_WorkGroupID.y, lane = gl_LocalInvocationID.x;
    if (!block_is_live()) {
        return;
    }
    h = load_head(kv_head);
    kept_moves m = load_moves(kv_head, h.cap);
    uint n_tiles = (m.count + 15u) >> 4;
    uint first = share_of(n_tiles, split, p.n_splits) * 16u;
    uint end = min(share_of(n_tiles, split + 1u, p.n_splits) * 16u, m.count);
    for (uint e0 = 0u; e0 < m.n_lost; e0 += EB) {
        load_evicted(m, e0);
        find_best(first, end);
        gather_best();
        for (uint e = lane; e < min(EB, m.n_lost - e0); e += WG) {
            vec2 best = best_for(e);
            uint to = 2u * ((kv_head * p.n_splits + split) * p.row_cap + e0 + e);
            if (moves[m.at + e0 + e] < h.cap) {
                near[to] = floatBitsToUint(best.x);
                near[to + 1u] = floatBitsToUint(best.y);
            }
        }
        barrier();
    }
}

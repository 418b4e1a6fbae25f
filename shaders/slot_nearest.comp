#version 450
// slot_nearest: the kept slot most like each evicted one (params.h: slot_nearest).
//
// Group: one split (x) of the slots of one KV head (y). EB evicted keys at a time are in shared
// memory; a lane owns slots lane, lane + WG, … of the split and remembers the best of them for
// each. Then the lanes' best become 8 a key, and those one; the lower slot of equals.
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
const uint LEFT = WG < 8u ? WG : 8u; // partial results of a key

shared vec4 evicted[EB * D / 4u]; // [element / 4][key]
shared vec2 best_of[EB * WG];     // [key][lane]: likeness, bits of the slot

bool better(vec2 a, vec2 b)
{
    return a.x > b.x || (a.x == b.x && floatBitsToUint(a.y) < floatBitsToUint(b.y));
}

// Evicted keys number e0 …; zeros past the last.
void load_evicted(kept_head h, kept_moves m, uint e0)
{
    for (uint i = gl_LocalInvocationID.x; i < EB * D / 8u; i += WG) {
        uint e = i % EB, g = i / EB;
        uint slot = e0 + e < m.n_evicted ? moves[m.at + e0 + e] : h.cap;
        vec4 lo = vec4(0.0), hi = vec4(0.0);
        if (slot < h.cap) {
            kept_k8(h.first + slot, g, lo, hi);
        }
        evicted[2u * g * EB + e] = lo;
        evicted[(2u * g + 1u) * EB + e] = hi;
    }
    barrier();
}

// The lane's best of slots first … end - 1, end > first, for each key.
void find_best(kept_head h, uint first, uint end)
{
    uint lane = gl_LocalInvocationID.x;
    vec2 best[EB];
    [[unroll]] for (uint e = 0u; e < EB; e++) {
        best[e] = vec2(KEPT_MINUS_INFINITY, 0.0);
    }
    for (uint at = first; at < end; at += WG * SPL) {
        float dots[EB * SPL], square[SPL];
        [[unroll]] for (uint n = 0u; n < SPL; n++) {
            square[n] = 0.0;
            [[unroll]] for (uint e = 0u; e < EB; e++) {
                dots[e * SPL + n] = 0.0;
            }
        }
        for (uint g = 0u; g < D / 8u; g++) {
            vec4 lo[SPL], hi[SPL];
            [[unroll]] for (uint n = 0u; n < SPL; n++) {
                kept_k8(h.first + min(at + n * WG + lane, end - 1u), g, lo[n], hi[n]);
                square[n] += dot(lo[n], lo[n]) + dot(hi[n], hi[n]);
            }
            [[unroll]] for (uint e = 0u; e < EB; e++) {
                vec4 e_lo = evicted[2u * g * EB + e], e_hi = evicted[(2u * g + 1u) * EB + e];
                [[unroll]] for (uint n = 0u; n < SPL; n++) {
                    vec4 v = fma(hi[n], e_hi, lo[n] * e_lo);
                    dots[e * SPL + n] += (v.x + v.y) + (v.z + v.w);
                }
            }
        }
        [[unroll]] for (uint n = 0u; n < SPL; n++) {
            uint s = at + n * WG + lane;
            bool kept = s < end && meta[h.first + min(s, end - 1u)] != KEPT_POS_GONE;
            float size = sqrt(square[n]);
            [[unroll]] for (uint e = 0u; e < EB; e++) {
                float v = dots[e * SPL + n] / size;
                v = square[n] == 0.0 || !is_finite(v) ? -3e38 : v;
                best[e] = kept && v > best[e].x ? vec2(v, uintBitsToFloat(s)) : best[e];
            }
        }
    }
    [[unroll]] for (uint e = 0u; e < EB; e++) {
        best_of[e * WG + lane] = best[e];
    }
    barrier();
}

vec2 best_from(uint at, uint end, uint by)
{
    vec2 best = best_of[at];
    for (uint i = at + by; i < end; i += by) {
        if (better(best_of[i], best)) {
            best = best_of[i];
        }
    }
    return best;
}

void main()
{
    uint split = gl_WorkGroupID.x, kv_head = gl_WorkGroupID.y, lane = gl_LocalInvocationID.x;
    if (!block_is_live()) {
        return;
    }
    kept_head h = load_head(kv_head);
    kept_moves m = load_moves(kv_head, h.cap);
    uint n_tiles = (m.count + 15u) >> 4;
    uint first = share_of(n_tiles, split, p.n_splits) * 16u;
    uint end = min(share_of(n_tiles, split + 1u, p.n_splits) * 16u, m.count);
    for (uint e0 = 0u; e0 < m.n_evicted; e0 += EB) {
        load_evicted(h, m, e0);
        find_best(h, first, end);
        for (uint i = lane; i < EB * LEFT; i += WG) {
            uint at = i / LEFT * WG;
            best_of[at + i % LEFT] = best_from(at + i % LEFT, at + WG, LEFT);
        }
        barrier();
        for (uint e = lane; e < min(EB, m.n_evicted - e0); e += WG) {
            vec2 best = best_from(e * WG, e * WG + LEFT, 1u);
            uint to = 2u * ((kv_head * p.n_splits + split) * p.row_cap + e0 + e);
            if (moves[m.at + e0 + e] < h.cap) {
                near[to] = floatBitsToUint(best.x);
                near[to + 1u] = floatBitsToUint(best.y);
            }
        }
        barrier();
    }
}

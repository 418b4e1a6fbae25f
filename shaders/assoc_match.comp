#version 450
// assoc_match: associative memory: the slot most like each token of a sub-batch (params.h:
// kept_assoc_params).
//
// Group: one split (x) of the slots of one KV head (y); common/nearest.glsl says how. The keys are
// those of the tokens, divided by their lengths.
// Keys: WG lanes; D head size.

layout(constant_id = 1) const uint D = 64;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_assoc_params p; };

layout(std430, binding = 0) readonly restrict buffer Raw { float raw[]; };
layout(std430, binding = 1) readonly restrict buffer Meta { int meta[]; };
layout(std430, binding = 2) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 3) writeonly restrict buffer Near { uint near[]; };
layout(std430, binding = 4) readonly restrict buffer Step { uint step_words[]; };

#define KEPT_ASSOC
#include "retain.glsl"

// Tokens at a time (at most 16 KiB with best_of), all of them where they fit, and slots of a lane
// at a time: more in small groups, where lanes run in turn and what they share is loaded by each.
const uint EB_SMALL = D > 256u ? 4u : D > 128u ? 8u : 16u;
const uint EB_LARGE = D > 256u ? 4u : WG > 128u ? 4u : D > 128u ? 8u : WG > 64u ? 8u : 16u;
const uint EB = WG < 16u ? EB_SMALL : EB_LARGE;
const uint SPL = WG < 16u ? 8u : WG < 32u ? 2u : 1u;

kept_head h;

void near_load(uint slot, uint g, out vec4 lo, out vec4 hi)
{
    uint at = assoc_at(gl_WorkGroupID.y, slot, 8u * g);
    lo = vec4(raw[at], raw[at + 16u], raw[at + 32u], raw[at + 48u]);
    hi = vec4(raw[at + 64u], raw[at + 80u], raw[at + 96u], raw[at + 112u]);
}

bool near_counts(uint slot)
{
    return meta[h.first + slot] != KEPT_POS_GONE;
}

#include "nearest.glsl"

// Tokens in slots t0 … t0 + EB - 1; zeros where `first` is above.
void load_tokens(int t0, int first)
{
    for (uint i = gl_LocalInvocationID.x; i < EB * D / 8u; i += WG) {
        uint e = i % EB, g = i / EB;
        vec4 lo = vec4(0.0), hi = vec4(0.0);
        if (t0 + int(e) >= first) {
            near_load(uint(t0 + int(e)), g, lo, hi);
        }
        key4[2u * g * EB + e] = lo;
        key4[(2u * g + 1u) * EB + e] = hi;
    }
    barrier();
}

// Divides them by their lengths. One that has none becomes infinite: no likeness is a number. Ends
// with a barrier.
void normalise()
{
    for (uint e = gl_LocalInvocationID.x; e < EB; e += WG) {
        float square = 0.0;
        for (uint g = 0u; g < D / 4u; g++) {
            square += dot(key4[g * EB + e], key4[g * EB + e]);
        }
        bool sound = square != 0.0 && is_finite(square);
        float f = inversesqrt(square);
        for (uint g = 0u; g < D / 4u; g++) {
            key4[g * EB + e] = sound ? key4[g * EB + e] * f : vec4(-KEPT_MINUS_INFINITY);
        }
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
    if (assoc_idle(h)) {
        return;
    }
    int begin = assoc_begin(assoc_window(h)), first = assoc_first(begin);
    uint before = uint(max(begin, 0)), n_tiles = (before + 15u) >> 4;
    uint from = max(share_of(n_tiles, split, p.n_splits) * 16u, p.sinks);
    uint to = min(share_of(n_tiles, split + 1u, p.n_splits) * 16u, before);
    for (uint e0 = 0u; e0 < KEPT_ASSOC_SUB; e0 += EB) {
        if (begin + int(e0 + EB) <= first) {
            continue;
        }
        load_tokens(begin + int(e0), first);
        normalise();
        find_best(from, to);
        gather_best();
        for (uint e = lane; e < EB; e += WG) {
            vec2 best = best_for(e);
            uint at = p.sub * KEPT_ASSOC_SUB + e0 + e;
            at = 2u * ((kv_head * p.n_splits + split) * p.row_cap + at);
            if (begin + int(e0 + e) >= first) {
                near[at] = floatBitsToUint(best.x);
                near[at + 1u] = floatBitsToUint(best.y);
            }
        }
        barrier();
    }
}

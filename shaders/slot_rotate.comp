#version 450
// slot_rotate: compact positions: keys turned to their new place (params.h: kept_rotate_params).
//
// Group: a tile of 16 slots (x) of one KV head (y), one slot after the other in shared memory.
// Keys: WG lanes; ORDER of the K tiles; D head size; KT slot type; ALWAYS 1: not only where ROTATE
// is set.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint KT = 1;
layout(constant_id = 4) const uint ALWAYS = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_rotate_params p; };

layout(std430, binding = 0) buffer KSlots { uint k1[]; };
layout(std430, binding = 0) buffer KSlots4 { uvec4 k4[]; };
layout(std430, binding = 1) restrict buffer Meta { int meta[]; };
layout(std430, binding = 2) readonly restrict buffer Table { vec2 table[]; };
layout(std430, binding = 3) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 4) readonly restrict buffer Moves { uint moves[]; };
layout(std430, binding = 5) readonly restrict buffer Z { int z[]; };
layout(std430, binding = 6) readonly restrict buffer Step { uint step_words[]; };

shared float key[D];

#define KEPT_D D
#define KEPT_LOADS_K
#define KEPT_STORES_K
#define KEPT_SHARED(i) key[i]
#include "slots.glsl"

#define KEPT_MOVES
#define KEPT_ROPE
#include "retain.glsl"

void turn(uint slot, int by)
{
    uint lane = gl_LocalInvocationID.x;
    for (uint g = lane; g < D / 8u; g += WG) {
        vec4 lo, hi;
        kept_k8(slot, g, lo, hi);
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            key[8u * g + k] = lo[k];
            key[8u * g + 4u + k] = hi[k];
        }
    }
    barrier();
    if (KT != KEPT_FMT_F16) {
        kept_hadamard(D, D);
    }
    rope_turn(by);
    if (KT != KEPT_FMT_F16) {
        kept_hadamard(D, D);
    }
    kept_store_k(slot);
    barrier();
}

void main()
{
    uint kv_head = gl_WorkGroupID.y, first = gl_WorkGroupID.x * 16u;
    if (!block_is_live()) {
        return;
    }
    kept_head h = load_head(kv_head);
    uint n = min(with_after(min(h.base, h.cap), h.cap), p.z_stride);
    if (ALWAYS == 0u && !load_moves(kv_head, h.cap).rotate) {
        return;
    }
    for (uint s = first; s < min(first + 16u, n); s++) {
        int to = z[kv_head * p.z_head_stride + s], by = to - meta[h.first + s];
        barrier(); // all lanes have read the position
        if (by == 0 || by > 255 || by < -256 * int(p.hi_bias)) {
            continue;
        }
        if (p.rope_pairs != KEPT_ROPE_NONE) {
            turn(h.first + s, by);
        }
        if (gl_LocalInvocationID.x == 0u) {
            meta[h.first + s] = to;
        }
    }
}

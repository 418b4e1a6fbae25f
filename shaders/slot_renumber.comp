#version 450
// slot_renumber: compact positions: every kept slot's place in the order of positions, or the
// memory at one position (params.h: kept_rotate_params).
//
// Group: 64 slots (x) of one KV head (y). A lane counts, for each of its slots, the smaller
// positions of the head; they pass through shared memory 256 at a time.
// Keys: WG lanes, a power of two; ALWAYS 1: the memory at one position.

layout(constant_id = 1) const uint ALWAYS = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_rotate_params p; };

layout(std430, binding = 0) readonly restrict buffer Meta { int meta[]; };
layout(std430, binding = 1) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 2) readonly restrict buffer Moves { uint moves[]; };
layout(std430, binding = 3) writeonly restrict buffer Z { uint z[]; };
layout(std430, binding = 4) readonly restrict buffer Step { uint step_words[]; };

#define KEPT_MOVES
#include "retain.glsl"

const uint BATCH = 256u;
const uint SPL = WG < 64u ? 64u / WG : 1u; // slots of a lane
shared ivec4 positions[BATCH / 4u];

// The memory at the position before the window.
void put_at_one(kept_head h, uint first, uint end)
{
    uint memory_end = h.base - min(h.base, p.window);
    for (uint s = first + gl_LocalInvocationID.x; s < end; s += WG) {
        bool memory = s >= p.sinks && s < memory_end;
        z[gl_WorkGroupID.y * p.z_head_stride + s] =
            uint(memory ? block_end() - int(p.window) - 1 : meta[h.first + s]);
    }
}

void main()
{
    uint kv_head = gl_WorkGroupID.y, first = gl_WorkGroupID.x * 64u;
    uint lane = gl_LocalInvocationID.x;
    if (!block_is_live()) {
        return;
    }
    kept_head h = load_head(kv_head);
    uint n = min(with_after(min(h.base, h.cap), h.cap), p.z_stride);
    if (ALWAYS == 1u) {
        put_at_one(h, first, min(n, first + 64u));
        return;
    }
    if (!load_moves(kv_head, h.cap).rotate || first >= n) {
        return;
    }
    uint turn = moves[kv_head * KEPT_MOVES_STRIDE(p.row_cap) + KEPT_MOVES_ROTATE];
    turn = min(turn, 1u << 30);
    int own[SPL];
    uint smaller[SPL];
    [[unroll]] for (uint i = 0u; i < SPL; i++) {
        own[i] = meta[h.first + min(first + i * WG + lane, n - 1u)];
        smaller[i] = 0u;
    }
    for (uint from = 0u; from < n; from += BATCH) {
        barrier();
        for (uint i = lane; i < BATCH; i += WG) {
            positions[i >> 2][i & 3u] = from + i < n ? meta[h.first + from + i] : 0x7fffffff;
        }
        barrier();
        for (uint k = 0u; k < min(BATCH, n - from); k += 4u) {
            ivec4 other = positions[k >> 2];
            [[unroll]] for (uint i = 0u; i < SPL; i++) {
                uvec4 less = uvec4(lessThan(other, ivec4(own[i])));
                smaller[i] += (less.x + less.y) + (less.z + less.w);
            }
        }
    }
    [[unroll]] for (uint i = 0u; i < SPL; i++) {
        uint slot = first + i * WG + lane;
        if (i * WG + lane < 64u && slot < n) {
            bool keeps = own[i] > int(smaller[i] + turn);
            z[kv_head * p.z_head_stride + slot] = keeps ? uint(own[i]) - turn : smaller[i];
        }
    }
}

/* slot_renumber: compact positions: every kept slot's place in the order of positions, or the
 * memory at one position (kept_rotate_params).
 *
 * Group: 64 slots (x) of one KV head (y), KEPT_V of them a lane at once; every position of the head
 * passes by once.
 */
#include "common/kept.clh"
#include "common/retain.clh"

#ifndef ALWAYS
#define ALWAYS 0
#endif
#define OWN_VECTORS (WG == 1 ? 4 : 1)
#if KEPT_V == 16
#define AS_I as_int16
#else
#define AS_I as_int
#endif

__kernel KEPT_GROUP void slot_renumber(__global const uint *meta, __global const uint *heads,
                                       __global const uint *moves, __global uint *z,
                                       __global const uint *step, const struct kept_rotate_params p)
{
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint kv = get_group_id(1), first = get_group_id(0) * 64;
    struct extent e = extent_of(heads, kv, p.total);
    uint n = min(with_after(step, e.base, e.cap), p.z_stride), end = min(n, first + 64);
    __global const uint *pos = meta + e.first;
    __global uint *to = z + (ulong)kv * p.z_head_stride;
    if (ALWAYS == 1) { /* the memory at the position before the window */
        uint base = head_word(heads, kv, KEPT_HEAD_BASE);
        uint memory_end = base - min(base, p.window), at = BLOCK_END(step, p) - p.window - 1;
        for (uint s = first + LID; s < end; s += WG)
            to[s] = s >= p.sinks && s < memory_end ? at : pos[s];
        return;
    }
    if (!moves_of(moves, kv, p.row_cap, e.cap).rotate)
        return;
    uint turn = moves[(ulong)kv * KEPT_MOVES_STRIDE(p.row_cap) + KEPT_MOVES_ROTATE];
    turn = min(turn, 1u << 30);
    for (uint s = first + LID * KEPT_V; s < end; s += WG * KEPT_V * OWN_VECTORS) {
        U own[OWN_VECTORS], smaller[OWN_VECTORS];
        for (uint i = 0; i < OWN_VECTORS; i++) {
            uint at = min(s + 16 * i, end);
            own[i] = load_words(pos + at, end - at, 0);
            smaller[i] = (U)(0u);
        }
        for (uint other = 0; other < n; other++) {
#pragma unroll
            for (uint i = 0; i < OWN_VECTORS; i++)
#if KEPT_V == 16
                smaller[i] -= as_uint16((int16)((int)pos[other]) < as_int16(own[i]));
#else
                smaller[i] += (int)pos[other] < as_int(own[i]);
#endif
        }
        for (uint i = 0; i < OWN_VECTORS; i++) {
            uint at = min(s + 16 * i, end);
            I keeps = AS_I(own[i]) > AS_I(smaller[i] + turn);
            store_words(to + at, end - at, select(smaller[i], own[i] - turn, keeps));
        }
    }
}

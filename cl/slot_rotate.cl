/* slot_rotate: compact positions: keys turned to their new place (kept_rotate_params).
 *
 * Group: 16 slots (x) of one KV head (y), one after the other; the lanes share a key.
 */
#include "common/kept.clh"
#include "common/retain.clh"

#ifndef ALWAYS
#define ALWAYS 0
#endif

__kernel KEPT_GROUP void slot_rotate(__global uint *k_slots, __global int *meta,
                                     __global const float *table, __global const uint *heads,
                                     __global const uint *moves, __global const int *z,
                                     __global const uint *step, const struct kept_rotate_params p)
{
    SHARED float x[D];
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint kv = get_group_id(1), first = get_group_id(0) * 16;
    struct extent e = extent_of(heads, kv, p.total);
    uint n = min(with_after(step, e.base, e.cap), p.z_stride), end = min(n, first + 16);
    if (ALWAYS == 0 && !moves_of(moves, kv, p.row_cap, e.cap).rotate)
        return;
    __global int *pos = meta + e.first;
    __global const int *new_pos = z + (ulong)kv * p.z_head_stride;
    __global uint *tile = k_slots + (ulong)((e.first + first) / 16) * KEPT_TILE_WORDS(KT, D);
    bool turns = p.rope_pairs != KEPT_ROPE_NONE;
    for (uint s = first; s < end; s++) {
        long delta = (long)new_pos[s] - pos[s];
        bool moves = delta != 0 && delta >= -256l * p.hi_bias && delta <= 255;
        if (WG == 1 && !moves)
            continue; /* lanes meet for every slot: PoCL 3.1 loses barriers under a condition */
        key_load(tile, D, s % 16, x);
        SYNC_GLOBAL();                          /* delta and the key have been read */
        for (uint side = 0; side < 2; side++) { /* into plain elements and back */
            if (ROTATED(KT))
                hadamard(x, D, D);
            if (side == 0)
                key_turn(x, table, turns && moves ? (int)delta : 0, p.n_rot, p.rope_pairs,
                         p.hi_bias);
        }
        if (turns && moves)
            key_store(tile, D, s % 16, x);
        if (LID == 0 && moves)
            pos[s] = new_pos[s];
        SYNC(); /* x is free */
    }
}

/* slot_rotate: compact positions: keys turned to their new place (kept_rotate_params).
 *
 * Group: 16 slots (x) of one KV head (y), one after the other; the lanes share a key.
 */
#include "common/kept.clh"
#include "common/retain.clh"

/* RoPE by delta positions, where it turns. All lanes; ends with SYNC. */
MEETING void turn(SHARED float *x, __global const float *table, int delta,
                  const struct kept_rotate_params *p)
{
    uint half_rot = p->rope_pairs == KEPT_ROPE_NONE ? 0 : p->n_rot / 2;
    bool adjacent = p->rope_pairs == KEPT_ROPE_ADJACENT;
    __global const float *lo = table + (ulong)(delta & 255) * p->n_rot;
    __global const float *hi = table + (ulong)(256 + (int)p->hi_bias + (delta >> 8)) * p->n_rot;
    for (uint i = LID; i < half_rot; i += WG) {
        uint at_a = adjacent ? 2 * i : i, at_b = adjacent ? 2 * i + 1 : i + half_rot;
        float2 s = vload2(i, lo), t = vload2(i, hi);
        float c = s.x * t.x - s.y * t.y, sn = s.x * t.y + s.y * t.x;
        float a = x[at_a], b = x[at_b];
        x[at_a] = a * c - b * sn;
        x[at_b] = a * sn + b * c;
    }
    SYNC();
}

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
    if (!moves_of(moves, kv, p.row_cap, e.cap).rotate)
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
                turn(x, table, turns && moves ? (int)delta : 0, &p);
        }
        if (turns && moves)
            key_store(tile, D, s % 16, x);
        if (LID == 0 && moves)
            pos[s] = new_pos[s];
        SYNC(); /* x is free */
    }
}

/* assoc_raw: associative memory: keys turned back (kept_assoc_params).
 *
 * Group: a tile of 16 slots (x) of one KV head (y). A tile of keys is a tile of raw.
 */
#include "common/kept.clh"
#include "common/assoc.clh"

/* Turns each key back from its position. */
static void turn_back(TILE y, __global const float *table, const int *pos,
                      const struct kept_assoc_params *p)
{
    for (uint i = SET; i < p->n_rot / 2; i += SETS) {
        float c[KEPT_V], s[KEPT_V];
        for (uint k = 0; k < KEPT_V; k++) {
            float2 angle = (float2)(1.0f, 0.0f);
            if (is_turned(pos[k], p))
                angle = rope_angle(table, p->n_rot, p->hi_bias, pos[k], i);
            c[k] = angle.x;
            s[k] = angle.y;
        }
#if KEPT_V == 16
        tile_turn_back(y, rope_pair(p->rope_pairs, p->n_rot, i), vload16(0, c), vload16(0, s));
#else
        tile_turn_back(y, rope_pair(p->rope_pairs, p->n_rot, i), c[0], s[0]);
#endif
    }
}

__kernel KEPT_GROUP void assoc_raw(__global const uint *k_slots, __global int *meta,
                                   __global const float *table, __global const uint *heads,
                                   __global float *raw, __global const uint *step,
                                   const struct kept_assoc_params p)
{
    TILE_OF(y, D);
    int pos[KEPT_V];
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint kv = get_group_id(1), t = get_group_id(0), at = t * 16, end = BLOCK_END(step, p);
    struct extent e = extent_of(heads, kv, p.total);
    uint c = window_begin(&e, end, &p);
    if (at >= c)
        return;
    uint n = min(c - at, 16u), skip = max(p.sinks, at) - at;
    meta += e.first + at;
    tile_load(k_slots + (ulong)(e.first / 16 + t) * KEPT_TILE_WORDS(KT, D), (I)(-1), y);
    if (ROTATED(KT))
        tile_hadamard(y);
    for (uint k = 0; k < KEPT_V; k++)
        pos[k] = OWN_SLOT + k < n ? meta[OWN_SLOT + k] : (int)KEPT_POS_GONE;
    turn_back(y, table, pos, &p);
    SYNC();
    raw += (ulong)kv * p.raw_stride * D + (ulong)at * D;
    for (uint i = SET; i < D; i += SETS)
        tile_store(raw + i * 16, skip, n, OWN(y, i));
    /* what is counted of tokens begins when they leave the window */
    uint leaving = max(c - min(c, p.row_cap), p.sinks);
    for (uint s = max(leaving, at) - at + LID; s < n; s += WG) {
        meta[KEPT_ASSOC_COUNT * p.total + s] = as_int(1.0f);
        meta[KEPT_ASSOC_FRAC * p.total + s] = 0;
        meta[KEPT_ASSOC_STAMP * p.total + s] = (int)end;
    }
}

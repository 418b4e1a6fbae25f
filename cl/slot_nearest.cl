/* slot_nearest: the kept slot most like an evicted one (kept_merge_slots_params).
 *
 * Group: one split of the tiles (x) of one KV head (y). EVICTED evicted keys at a time stay in x;
 * the tiles pass by and a lane keeps, for its slot of the tiles and the evicted keys of its set,
 * the best likeness so far and the tile that had it.
 */
#include "common/kept.clh"
#include "common/nearest.clh"

/* Powers of two; what they hold in registers or local memory shrinks with D. */
#define MOST    (WG == 1 ? 64 : 32)
#define EVICTED (D <= 64 ? MOST : D <= 128 ? MOST / 2 : D <= 256 ? MOST / 4 : MOST / 8)
/* Evicted keys whose sums are in registers together. */
#define PER_SET (EVICTED / SETS)
#define AT_ONCE (PER_SET >= 8 ? 8 : PER_SET >= 4 ? 4 : PER_SET >= 2 ? 2 : 1)

/* What is added to likenesses of tile t: 0, or -inf where the slot is not a kept one. */
static F penalty(__global const uint *pos, uint t, uint count)
{
    uint slot = t * 16 + OWN_SLOT;
    U p = load_words(pos + slot, slot < count ? count - slot : 0, (uint)KEPT_POS_GONE);
    return PICK((F)(0.0f), (F)(-INFINITY), p == (uint)KEPT_POS_GONE);
}

/* Compares the tile y with evicted keys x of this set; n of them count. */
static void compare(TILE y, SHARED const float *x, uint n, uint t, F gone, F inverse, TILE best,
                    TILE at)
{
    for (uint b = SET * AT_ONCE; b < n; b += SETS * AT_ONCE) {
        F dot[AT_ONCE];
#pragma unroll
        for (uint k = 0; k < AT_ONCE; k++)
            dot[k] = (F)(0.0f);
        for (uint i = 0; i < D; i++) {
            F v = OWN(y, i);
#pragma unroll
            for (uint k = 0; k < AT_ONCE; k++)
                dot[k] = MAC(v, (F)(x[(b + k) * D + i]), dot[k]);
        }
#pragma unroll
        for (uint k = 0; k < AT_ONCE; k++) {
            F like = likeness(dot[k], inverse, gone), old = OWN(best, b + k);
            OWN(at, b + k) = PICK(OWN(at, b + k), (F)((float)t), like > old);
            OWN(best, b + k) = PICK(old, like, like > old);
        }
    }
}

__kernel KEPT_GROUP void slot_nearest(__global const uint *k_slots, __global const uint *meta,
                                      __global const uint *heads, __global const uint *moves,
                                      __global uint *near, __global const uint *step,
                                      const struct kept_merge_slots_params p)
{
    TILE_OF(y, D);
    TILE_OF(best, EVICTED);
    TILE_OF(at, EVICTED); /* tile numbers, below 2^24 */
    SHARED float x[EVICTED * D];
#if WG > 1
    __local float scratch[WG];
#endif
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint split = get_group_id(0), kv = get_group_id(1);
    struct extent e = extent_of(heads, kv, p.total);
    struct moves m = moves_of(moves, kv, p.row_cap, e.cap);
    __global const uint *pos = meta + e.first;
    __global const uint *k = k_slots + (ulong)(e.first / 16) * KEPT_TILE_WORDS(KT, D);
    uint n_tiles = (m.count + 15) / 16;
    uint first = (uint)((ulong)n_tiles * split / p.n_splits);
    uint end = (uint)((ulong)n_tiles * (split + 1) / p.n_splits);
    near += 2 * (ulong)(kv * p.n_splits + split) * p.row_cap;
    for (uint e0 = 0; e0 < m.lost; e0 += EVICTED) {
        uint n = min(m.lost - e0, (uint)EVICTED);
        for (uint i = LID; i < EVICTED * (D / 16); i += WG) {
            uint b = i / (D / 16), slot = b < n ? m.evicted[e0 + b] : e.cap;
            float16 v = (float16)(0.0f);
            if (slot < e.cap)
                v = key_run(k + (ulong)(slot / 16) * KEPT_TILE_WORDS(KT, D), D, slot % 16,
                            i % (D / 16));
            vstore16(v, i, x);
        }
        for (uint b = SET; b < EVICTED; b += SETS) {
            OWN(best, b) = (F)(-INFINITY);
            OWN(at, b) = (F)(0.0f);
        }
        SYNC();
        for (uint t = first; t < end; t++) {
            tile_load(k + (ulong)t * KEPT_TILE_WORDS(KT, D), (I)(-1), y);
            F inverse = rsqrt(SET_SUM(tile_square(y), scratch));
            compare(y, x, n, t, penalty(pos, t, m.count), inverse, best, at);
            SYNC();
        }
        for (uint b = LID; b < n; b += WG)
            if (m.evicted[e0 + b] < e.cap)
                vstore2(settle(best, at, b), e0 + b, near);
        SYNC();
    }
}

/* score_keydiff: how much a key differs from the others (kept_score_params).
 *
 * Group: one KV head. Once over its tiles for the mean direction, once more for the cosines.
 */
#include "common/kept.clh"
#include "common/retain.clh"

/* The keys of tile t, 0 where a slot is not there. All lanes; ends with SYNC. */
MEETING void tile_of_head(__global const uint *k, uint t, uint count, TILE y)
{
    I there = (int)(t * 16 + OWN_SLOT) + IOTA < (int)count;
#if KEPT_V == 1
    there = -there;
#endif
    tile_load(k + (ulong)t * KEPT_TILE_WORDS(KT, D), there, y);
}

static F inverse_length(F square)
{
#if KEPT_V == 16
    return select(rsqrt(square), (F)(0.0f), square == 0.0f);
#else
    return square == 0.0f ? 0.0f : rsqrt(square);
#endif
}

__kernel KEPT_GROUP void score_keydiff(__global const uint *k_slots, __global const uint *heads,
                                       __global float *z, __global const uint *step,
                                       const struct kept_score_params p)
{
    TILE_OF(y, D);
#if WG == 1
    float mean[D];
    float16 sums[D];
    for (uint i = 0; i < D; i++)
        sums[i] = (float16)(0.0f);
#else
    __local float scratch[WG], mean[D], lengths[16];
#endif
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint kv = get_group_id(0);
    struct extent e = extent_of(heads, kv, p.total);
    uint count = min(count_before(&e, BLOCK_END(step, p)), p.z_stride);
    if (count <= head_word(heads, kv, KEPT_HEAD_BUDGET))
        return;
    __global const uint *k = k_slots + (ulong)(e.first / 16) * KEPT_TILE_WORDS(KT, D);
    z += (ulong)kv * (p.n_head / p.n_kv + 1) * p.z_stride;
#if WG > 1
    for (uint i = LID; i < D; i += WG)
        mean[i] = 0.0f;
#endif
    for (uint t = 0; t < (count + 15) / 16; t++) {
        tile_of_head(k, t, count, y);
        F inverse = inverse_length(SET_SUM(tile_square(y), scratch));
#if WG == 1
        for (uint i = 0; i < D; i++)
            sums[i] = MAC(y[i], inverse, sums[i]);
#else
        if (LID < 16)
            lengths[LID] = inverse;
        SYNC();
        for (uint i = LID; i < D; i += WG)
            for (uint s = 0; s < 16; s++)
                mean[i] = MAC(y[i * 16 + s], lengths[s], mean[i]);
        SYNC();
#endif
    }
    float square = 0.0f;
#if WG == 1
    for (uint i = 0; i < D; i++) {
        mean[i] = sum16(sums[i]);
        square += mean[i] * mean[i];
    }
#else
    for (uint i = 0; i < D; i++)
        square += mean[i] * mean[i];
#endif
    float of_mean = square == 0.0f ? 0.0f : rsqrt(square);
    for (uint t = 0; t < (count + 15) / 16; t++) {
        tile_of_head(k, t, count, y);
        F inverse = inverse_length(SET_SUM(tile_square(y), scratch));
        F even = (F)(0.0f), odd = even;
        for (uint i = SET * 2; i < D; i += SETS * 2) {
            even = MAC(OWN(y, i), (F)(mean[i]), even);
            odd = MAC(OWN(y, i + 1), (F)(mean[i + 1]), odd);
        }
        F dot = SET_SUM(even + odd, scratch);
        if (SET == 0)
            store_some(z + t * 16 + OWN_SLOT, t * 16 + OWN_SLOT < count ? count - t * 16 : 0,
                       -(dot * of_mean * inverse));
        SYNC();
    }
}

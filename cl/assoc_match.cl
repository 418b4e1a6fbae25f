/* assoc_match: associative memory: the slot most like each token of a sub-batch
 * (kept_assoc_params).
 *
 * Group: one split of the tiles (x) of one KV head (y). The keys of BATCH tokens stay in x, as
 * [element][token]; the sets of lanes take turns at the tiles, and a lane keeps, for its slot of
 * them, the best likeness of every token so far and the tile that had it. Then the lanes compare.
 */
#include "common/kept.clh"
#include "common/assoc.clh"
#include "common/nearest.clh"

#define BATCH   (D <= 256 || WG == 1 ? 16 : 8)
#define AT_ONCE (WG == 1 ? 8 : BATCH) /* tokens whose sums are in registers together */
#define MEETS   4                     /* tokens that lanes compare at once */

/* Keys of the tokens in slots t0 … t0 + BATCH - 1; zeros for those before the first. */
static void load_tokens(__global const float *raw, int t0, int first, SHARED float *x)
{
    for (uint i = LID; i < D * BATCH; i += WG) {
        int t = t0 + (int)(i % BATCH);
        x[i] = t >= first ? raw[raw_at((uint)t, i / BATCH)] : 0.0f;
    }
}

/* Divides them by their lengths. One that has none becomes infinite: no likeness is a number. */
static void normalise(SHARED float *x)
{
    for (uint k = LID; k < BATCH; k += WG) {
        float square = 0.0f;
        for (uint i = 0; i < D; i++)
            square = MAC(x[i * BATCH + k], x[i * BATCH + k], square);
        float inverse = rsqrt(square);
        bool sound = square > 0.0f && square < INFINITY;
        for (uint i = 0; i < D; i++)
            x[i * BATCH + k] = sound ? x[i * BATCH + k] * inverse : INFINITY;
    }
}

/* What is added to likenesses of tile t: 0, or -inf where the slot is not compared with. */
static F penalty(__global const uint *pos, uint t, uint sinks, uint end)
{
    uint at = t * 16 + OWN_SLOT;
    U p = load_words(pos + at, at < end ? end - at : 0, (uint)KEPT_POS_GONE);
    U slot = U_OF_I(IOTA) + at;
    return PICK((F)(0.0f), (F)(-INFINITY), p == (uint)KEPT_POS_GONE || slot < sinks);
}

/* Compares a tile of raw with the tokens. */
static void compare(__global const float *y, SHARED const float *x, uint t, F gone, F *best, F *at)
{
#pragma unroll
    for (uint b = 0; b < BATCH; b += AT_ONCE) {
        F dot[AT_ONCE], square = (F)(0.0f);
#pragma unroll
        for (uint k = 0; k < AT_ONCE; k++)
            dot[k] = (F)(0.0f);
        for (uint i = 0; i < D; i++) {
#if KEPT_V == 16
            F v = vload16(i, y);
#else
            F v = y[i * 16 + OWN_SLOT];
#endif
            square = MAC(v, v, square);
#pragma unroll
            for (uint k = 0; k < AT_ONCE; k++)
                dot[k] = MAC(v, (F)(x[i * BATCH + b + k]), dot[k]);
        }
        F inverse = rsqrt(square);
#pragma unroll
        for (uint k = 0; k < AT_ONCE; k++) {
            F like = likeness(dot[k], inverse, gone), old = best[b + k];
            at[b + k] = PICK(at[b + k], (F)((float)t), like > old);
            best[b + k] = PICK(old, like, like > old);
        }
    }
}

#if WG > 1
/* The best of all lanes for MEETS tokens, token k in entry k * WG of the lists. */
MEETING void meet(const float *best, const float *at, __local float *likes, __local uint *slots)
{
    SYNC();
#pragma unroll
    for (uint k = 0; k < MEETS; k++) {
        likes[k * WG + LID] = best[k];
        slots[k * WG + LID] = best[k] > -INFINITY ? (uint)at[k] * 16 + OWN_SLOT : 0;
    }
    SYNC();
    for (uint n = WG; n > 1;) {
        uint keep = (n + 1) / 2;
        for (uint k = 0; k < MEETS && LID < n - keep; k++) {
            uint a = k * WG + LID, b = a + keep;
            if (likes[b] > likes[a] || (likes[b] == likes[a] && slots[b] < slots[a])) {
                likes[a] = likes[b];
                slots[a] = slots[b];
            }
        }
        SYNC();
        n = keep;
    }
}
#endif

__kernel KEPT_GROUP void assoc_match(__global const float *raw, __global const uint *meta,
                                     __global const uint *heads, __global uint *near,
                                     __global const uint *step, const struct kept_assoc_params p)
{
    SHARED float x[D * BATCH];
#if WG > 1
    __local float likes[MEETS * WG];
    __local uint slots[MEETS * WG];
#endif
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint split = get_group_id(0), kv = get_group_id(1);
    struct extent e = extent_of(heads, kv, p.total);
    if (is_idle(heads, kv, &e, BLOCK_END(step, p), &p))
        return;
    struct tokens to = tokens_of(window_begin(&e, BLOCK_END(step, p), &p), &p);
    uint n_tiles = (to.before + 15) / 16;
    uint begin = (uint)((ulong)n_tiles * split / p.n_splits);
    uint end = (uint)((ulong)n_tiles * (split + 1) / p.n_splits);
    raw += (ulong)kv * p.raw_stride * D;
    near += 2 * ((ulong)(kv * p.n_splits + split) * p.row_cap + p.sub * KEPT_ASSOC_SUB);
    for (uint b = 0; b < KEPT_ASSOC_SUB; b += BATCH) {
        F best[BATCH], at[BATCH]; /* tile numbers, below 2^24 */
        for (uint k = 0; k < BATCH; k++) {
            best[k] = (F)(-INFINITY);
            at[k] = (F)(0.0f);
        }
        SYNC(); /* x is free */
        load_tokens(raw, to.begin + (int)b, to.first, x);
        SYNC();
        normalise(x);
        SYNC();
        for (uint t = begin + SET; t < end; t += SETS)
            compare(raw + (ulong)t * 16 * D, x, t,
                    penalty(meta + e.first, t, p.sinks, to.before), best, at);
#if WG == 1
        for (uint k = 0; k < BATCH; k++)
            if (to.begin + (int)(b + k) >= to.first)
                vstore2(settle(best, at, k), b + k, near);
#else
#pragma unroll
        for (uint k = 0; k < BATCH; k += MEETS) {
            meet(best + k, at + k, likes, slots);
            uint own = b + k + LID;
            if (LID < MEETS && to.begin + (int)own >= to.first) {
                uint2 found = (uint2)(as_uint(likes[LID * WG]), slots[LID * WG]);
                vstore2(found, own, near);
            }
        }
#endif
    }
    MEET_AT_END();
}

/* backend/cpu/fast_nearest.c: slot_nearest: d products for every pair of an evicted and a kept
 * slot.
 *
 * A lane is a kept slot. A tile of keys is prepared once and meets all evicted keys, COLUMNS at a
 * time in registers; the best so far of every evicted slot is kept lane by lane. Two forms:
 *
 *   floats  the tile as f32, one multiplication an element
 *   bytes   quantised keys on processors with products of four bytes (AVX-512 VNNI): the products
 *           of a block of 32 are summed as integers, exactly, then scaled by both scales. The
 *           instruction multiplies unsigned by signed bytes: the tile's are 128 too large, and the
 *           sum begins at -128 times the sum of the evicted key's.
 */
#include <math.h>

#include "backend/cpu/fast.h"
#include "backend/cpu/fast_moves.h"

#define NEAR_FLOATS 16384u /* of evicted keys at once */
#if CPU_SIMD == 512
#define COLUMNS 8
#else
#define COLUMNS 4
#endif
#if CPU_SIMD == 512 && defined(__GNUC__)
#define BYTES_FORM
#endif

struct job {
    const struct kept_host_call *call;
    struct ref_block block;
    bool bytes;        /* the form */
    uint32_t n_groups; /* of splits, of a KV head: an item does one */
};

/* Some evicted slots of a KV head and the best they met. Their keys go COLUMNS together: what
 * belongs to place p of key i is at [i / COLUMNS][p][i % COLUMNS], see place_of. */
struct evicted {
    uint32_t d, n;                   /* n: a multiple of COLUMNS, the last ones repeated */
    uint32_t number[KEPT_MAX_BLOCK]; /* in the list */
    float best[KEPT_MAX_BLOCK][16];
    uint32_t slot[KEPT_MAX_BLOCK][16];
    float key[NEAR_FLOATS]; /* floats: d places */
    /* bytes: d / 4 words; of each block of 32 the scale, and -128 times the sum */
    uint32_t word[NEAR_FLOATS / 4];
    float scale[NEAR_FLOATS / 32];
    int32_t base[NEAR_FLOATS / 32];
};

SIMD_INLINE size_t place_of(uint32_t i, uint32_t places, uint32_t place)
{
    return ((size_t)(i / COLUMNS) * places + place) * COLUMNS + i % COLUMNS;
}

/* A tile of keys. */
struct tile {
    uint32_t first;                       /* slot of lane 0 */
    vm kept;                              /* lanes that count */
    float inverse[16];                    /* 1 / length */
    float y[16 * KEPT_MAX_HEAD_DIM];      /* floats: [d][16] */
    uint32_t word[4 * KEPT_MAX_HEAD_DIM]; /* bytes: [d / 4][16] */
    float scale[KEPT_MAX_HEAD_DIM / 2];   /* bytes: [d / 32][16] */
};

/* ---- the best so far ---- */

SIMD_INLINE void keep_best(struct evicted *w, uint32_t i, const struct tile *t, vf dot)
{
    vf like = vf_max(vf_mul(dot, vf_load(t->inverse)), vf_set(-3e38f)); /* NaN too */
    vf place = vf_bits(vi_add(vi_iota(), vi_set(t->first))), best = vf_load(w->best[i]);
    vm better = vm_and(t->kept, vm_less(best, like));
    vf_store(w->best[i], vf_select(better, like, best));
    vf_store((float *)w->slot[i], vf_select(better, place, vf_bits(vi_load(w->slot[i]))));
}

/* Writes the best of all lanes, of equals the lowest slot. */
static void put_nearest(const struct evicted *w, uint32_t *near)
{
    for (uint32_t i = 0; i < w->n; i++) {
        uint32_t *to = near + (size_t)2 * w->number[i];
        float like = fast_best(w->best[i], w->slot[i], to + 1);
        memcpy(to, &like, sizeof like);
    }
}

/* ---- floats ---- */

/* 1 / the root; a length of 0 makes every likeness NaN. */
static void put_inverse(struct tile *t, vf square)
{
    vf_store(t->inverse, vf_div(vf_set(1), vf_sqrt(square)));
}

static void take_floats(struct tile *t, uint32_t type, const uint32_t *from, uint32_t d)
{
    vf square = vf_set(0);
    fast_keys(type, from, d, t->y, 16);
    for (uint32_t i = 0; i < d; i++)
        square = vf_fma(vf_load(t->y + 16 * i), vf_load(t->y + 16 * i), square);
    put_inverse(t, square);
}

/* COLUMNS evicted slots from `at` on against the tile. */
static void meet_floats(struct evicted *w, uint32_t at, const struct tile *t)
{
    const float *key = w->key + place_of(at, w->d, 0);
    vf dot[COLUMNS];
    for (int c = 0; c < COLUMNS; c++)
        dot[c] = vf_set(0);
    for (uint32_t i = 0; i < w->d; i++) {
        vf y = vf_load(t->y + 16 * i);
        for (int c = 0; c < COLUMNS; c++)
            dot[c] = vf_fma(y, vf_set(key[(size_t)i * COLUMNS + (size_t)c]), dot[c]);
    }
    for (int c = 0; c < COLUMNS; c++)
        keep_best(w, at + (uint32_t)c, t, dot[c]);
}

/* ---- bytes ---- */

/* Word j (0 … 7) of a block of 32: four signed bytes, of q4_0 less 8. words: those of the block,
 * `stride` apart. */
static uint32_t block_bytes(uint32_t type, const uint32_t *words, uint32_t j)
{
    if (type == KEPT_FMT_Q8_0)
        return words[j];
    uint32_t q = words[j % 4] >> (j / 4 * 4) & 0x0F0F0F0F; /* 0 … 15 */
    return ((q | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
}

/* The bytes of evicted key i; `none`: its values are no numbers. */
static void take_bytes(struct evicted *w, uint32_t i, uint32_t type, const uint32_t *words,
                       bool none)
{
    const uint32_t *scales = words + KEPT_SLOT_Q(type, w->d);
    for (uint32_t b = 0; b < w->d / 32; b++) {
        uint32_t sum = 0; /* of bytes that are 128 too large */
        for (uint32_t j = 0; j < 8; j++) {
            uint32_t word = block_bytes(type, words + (type == KEPT_FMT_Q8_0 ? 8 : 4) * b, j);
            uint32_t high = word ^ 0x80808080u;
            sum += ((high & 0x00FF00FFu) + (high >> 8 & 0x00FF00FFu)) * 0x10001u >> 16;
            w->word[place_of(i, w->d / 4, 8 * b + j)] = word;
        }
        size_t at = place_of(i, w->d / 32, b);
        w->base[at] = -128 * ((int32_t)sum - 32 * 128);
        w->scale[at] = none ? NAN : simd_from_half((uint16_t)(scales[b / 2] >> (b % 2 * 16)));
    }
}

#if defined(BYTES_FORM)

#define WITH_BYTES __attribute__((target("avx512vnni")))

static bool has_bytes(void)
{
    return __builtin_cpu_supports("avx512vnni");
}

/* The tile's bytes plus 128, and 1 / the keys' lengths. */
WITH_BYTES static void take_tile_bytes(struct tile *t, uint32_t type, const uint32_t *from,
                                       uint32_t d)
{
    const uint32_t *scales = from + 16 * (size_t)KEPT_SLOT_Q(type, d);
    vf square = vf_set(0);
    for (uint32_t b = 0; b < d / 32; b++) {
        vi sum = vi_set(0), pair = vi_load(scales + 16 * (size_t)(b / 2));
        vf scale = vf_half(b % 2 == 0 ? pair : VI_SHR(pair, 16));
        for (uint32_t j = 0; j < 8; j++) {
            uint32_t at = type == KEPT_FMT_Q8_0 ? 8 * b + j : 4 * b + j % 4;
            vi q = vi_load(from + 16 * (size_t)at);
            if (type == KEPT_FMT_Q4_0)
                q = vi_add(vi_and(j < 4 ? q : VI_SHR(q, 4), vi_set(0x0F0F0F0F)),
                           vi_set(0x78787878));
            else
                q = vi_xor(q, vi_set(0x80808080));
            vf_store((float *)(t->word + (8 * b + j) * 16), vf_bits(q));
            vi size = _mm512_abs_epi8(vi_xor(q, vi_set(0x80808080)));
            sum = _mm512_dpbusd_epi32(sum, size, size);
        }
        vf_store(t->scale + 16 * b, scale);
        square = vf_fma(vf_mul(scale, scale), vf_from_int(sum), square);
    }
    put_inverse(t, square);
}

WITH_BYTES static void meet_bytes(struct evicted *w, uint32_t at, const struct tile *t)
{
    const uint32_t *word = w->word + place_of(at, w->d / 4, 0), *of_tile = t->word;
    const size_t block = place_of(at, w->d / 32, 0);
    vf dot[COLUMNS];
    for (int c = 0; c < COLUMNS; c++)
        dot[c] = vf_set(0);
    for (uint32_t b = 0; b < w->d / 32; b++) {
        const int32_t *base = w->base + block + (size_t)b * COLUMNS;
        const float *by = w->scale + block + (size_t)b * COLUMNS;
        vf scale = vf_load(t->scale + 16 * b);
        vi sum[COLUMNS];
        for (int c = 0; c < COLUMNS; c++)
            sum[c] = vi_set((uint32_t)base[c]);
        for (int j = 0; j < 8; j++, word += COLUMNS, of_tile += 16) {
            vi q = vi_load(of_tile);
            for (int c = 0; c < COLUMNS; c++)
                sum[c] = _mm512_dpbusd_epi32(sum[c], q, vi_set(word[c]));
        }
        for (int c = 0; c < COLUMNS; c++)
            dot[c] = vf_fma(vf_mul(vf_from_int(sum[c]), scale), vf_set(by[c]), dot[c]);
    }
    for (int c = 0; c < COLUMNS; c++)
        keep_best(w, at + (uint32_t)c, t, dot[c]);
}

#else

static bool has_bytes(void)
{
    return false;
}
#define take_tile_bytes take_floats
#define meet_bytes      meet_floats

#endif

/* ---- both ---- */

/* Takes evicted slots from number e on, as many as fit; returns where the next ones begin. A key
 * that is no number becomes NaN as a whole, so that all it meets counts the same. */
static uint32_t take_evicted(struct evicted *w, const struct fast_moves *m, const struct job *job,
                             uint32_t e)
{
    uint32_t cap = ref_min(KEPT_MAX_BLOCK, NEAR_FLOATS / w->d) / COLUMNS * COLUMNS;
    uint32_t type = job->call->keys[KEPT_KEY_SCORE_KT], words[FAST_SLOT_WORDS];
    float key[KEPT_MAX_HEAD_DIM];
    for (w->n = 0; (e < m->lost && w->n < cap) || w->n % COLUMNS != 0; e += e < m->lost) {
        if (e < m->lost && m->evicted[e] >= m->head.cap)
            continue;
        vf sum = vf_set(0);
        if (e < m->lost) /* else the last one again */
            fast_load_k(type, w->d, (const uint32_t *)job->call->bind[0],
                        (size_t)m->head.first + m->evicted[e], words);
        fast_unpack(type, words, words + KEPT_SLOT_Q(type, w->d), w->d, key);
        for (uint32_t i = 0; i < w->d; i += 16)
            sum = vf_fma(vf_load(key + i), vf_load(key + i), sum);
        bool none = !isfinite(vf_hsum(sum));
        if (job->bytes)
            take_bytes(w, w->n, type, words, none);
        for (uint32_t i = 0; !job->bytes && i < w->d; i++)
            w->key[place_of(w->n, w->d, i)] = none ? NAN : key[i];
        w->number[w->n] = e < m->lost ? e : w->number[w->n - 1];
        w->n++;
    }
    return e;
}

/* The lanes of a tile that hold kept slots. */
static vm kept_lanes(const int32_t *pos, uint32_t first, uint32_t count)
{
    vi gone = vi_xor(vi_load(pos), vi_set((uint32_t)KEPT_POS_GONE)), none = vi_set(0);
    vm live = vm_lt(vi_add(vi_iota(), vi_set(first)), vi_set(count));
    return vm_and(live, vm_or(vm_lt(gone, none), vm_lt(none, gone)));
}

/* One split. */
static void search(const struct job *job, struct evicted *w, const int32_t *pos,
                   const uint32_t *tiles, uint32_t count, uint32_t split)
{
    const struct kept_merge_slots_params *p = job->call->params;
    uint32_t type = job->call->keys[KEPT_KEY_SCORE_KT];
    uint64_t n_tiles = ((uint64_t)count + 15) / 16;
    uint32_t t = (uint32_t)(n_tiles * split / p->n_splits);
    uint32_t end = (uint32_t)(n_tiles * (split + 1) / p->n_splits);
    struct tile tile;
    for (uint32_t i = 0; i < w->n; i++) {
        vf_store(w->best[i], vf_set(-INFINITY));
        memset(w->slot[i], 0, sizeof w->slot[i]);
    }
    for (; t < end; t++) {
        const uint32_t *from = tiles + (size_t)t * KEPT_TILE_WORDS(type, p->d);
        tile.first = 16 * t;
        tile.kept = kept_lanes(pos + 16 * t, 16 * t, count);
        if (vm_bits(tile.kept) == 0)
            continue;
        (job->bytes ? take_tile_bytes : take_floats)(&tile, type, from, w->d);
        for (uint32_t at = 0; at < w->n; at += COLUMNS)
            (job->bytes ? meet_bytes : meet_floats)(w, at, &tile);
    }
}

static void nearest_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *job = user;
    const struct kept_host_call *call = job->call;
    const struct kept_merge_slots_params *p = call->params;
    uint32_t h = item / job->n_groups, group = item % job->n_groups, block = job->block.block;
    const struct fast_moves m = fast_moves_of(call->bind[2], call->bind[3], h, p->total, block);
    const uint32_t *tiles =
        (const uint32_t *)call->bind[0] +
        m.head.first / 16 * (size_t)KEPT_TILE_WORDS(call->keys[KEPT_KEY_SCORE_KT], p->d);
    const int32_t *pos = (const int32_t *)call->bind[1] + m.head.first;
    uint32_t *near = (uint32_t *)call->bind[4] + (size_t)2 * h * p->n_splits * block;
    struct evicted w;
    w.d = p->d;
    for (uint32_t e = 0; e < m.lost;) {
        e = take_evicted(&w, &m, job, e);
        uint32_t split = p->n_splits * group / job->n_groups;
        for (; split < p->n_splits * (group + 1) / job->n_groups; split++) {
            search(job, &w, pos, tiles, m.count, split);
            put_nearest(&w, near + (size_t)2 * split * block);
        }
    }
}

void CPU_NAME(slot_nearest)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_merge_slots_params *p = call->params;
    struct job job = {.call = call};
    /* evicted keys are prepared once an item: no more items than keep all threads busy */
    job.n_groups = ref_min(p->n_splits, (4 * kept_pool_threads(pool) + p->n_kv - 1) / p->n_kv);
    job.bytes = call->keys[KEPT_KEY_SCORE_KT] != KEPT_FMT_F16 && has_bytes();
    if (ref_block_of(p, (const uint32_t *)call->bind[5], &job.block))
        kept_pool_run(pool, p->n_kv * job.n_groups, nearest_item, &job);
}

/* backend/cpu/fast_attn.c: attention over slots, decode and prefill by one loop.
 *
 * A column is one query head of one row. A pass takes up to MAX_COLUMNS columns of one KV head
 * (decode: the heads of a row; prefill: rows and heads, row-major) through blocks of 64 slots:
 *
 *   scores  lane = slot: a word of a K record is two elements of 16 slots, each used by all columns
 *   softmax online: a block's maximum rescales what was summed before
 *   output  lane = element of the head: a V row is used by all columns
 *
 * so K and V are converted from f16 once for all columns of a pass. Slots that no column of the
 * pass attends are left out of the output sum altogether: whatever stale values they hold has no
 * part in it.
 */
#include <math.h>

#include "backend/cpu/fast.h"

#define BLOCK_TILES 4
#define BLOCK_SLOTS (16 * BLOCK_TILES)
#if CPU_SIMD == 512
#define MAX_COLUMNS 8
#else
#define MAX_COLUMNS 4
#endif
#define ITEM_PASSES 4 /* prefill: passes of an item */

struct columns {
    const struct kept_host_call *call;
    const struct kept_attn_params *p;
    uint32_t kv_head, n;
    const float *q[MAX_COLUMNS];
    int32_t position[MAX_COLUMNS], first[MAX_COLUMNS]; /* GENERAL 0 attends first … position */
    float m[MAX_COLUMNS], l[MAX_COLUMNS];
    float o[MAX_COLUMNS][KEPT_MAX_HEAD_DIM];
};

/* One block of slots. */
struct block {
    uint32_t n_tiles;
    uint32_t slot[BLOCK_TILES];            /* of each tile's first lane */
    float score[MAX_COLUMNS][BLOCK_SLOTS]; /* then exp(score - m) */
    uint32_t n_live, live[BLOCK_SLOTS];    /* places in the block that some column attends */
};

static const uint32_t *meta_of(const struct columns *c)
{
    return (const uint32_t *)c->call->bind[3] + (size_t)c->kv_head * 3 * c->p->cap;
}

/* Slots of the KV head that may hold something (GENERAL 1). */
static uint32_t live_slots(const struct kept_host_call *call, const struct kept_attn_params *p,
                           uint32_t kv_head)
{
    uint32_t live = ((const uint32_t *)call->bind[4])[kv_head];
    return live < p->cap ? live : p->cap;
}

/* First position attended from `position`: inside the window and not yet overwritten. */
static int32_t first_position(const struct kept_attn_params *p, int32_t position)
{
    int64_t reach = p->window != 0 && p->window < p->cap ? p->window : p->cap;
    int64_t first = (int64_t)position - reach + 1;
    return first > 0 ? (int32_t)first : 0;
}

/* ---- scores ---- */

SIMD_INLINE void tile_scores(const int n, const struct columns *c, const uint32_t *record, vf *s)
{
    vf even[MAX_COLUMNS], odd[MAX_COLUMNS];
    for (int i = 0; i < n; i++) {
        even[i] = vf_set(0);
        odd[i] = vf_set(0);
    }
    for (uint32_t w = 0; w < c->p->d / 2; w++) {
        vi word = vi_load(record + 16 * (size_t)w);
        vf a = vf_half(word), b = vf_half(VI_SHR(word, 16));
        for (int i = 0; i < n; i++) {
            even[i] = vf_fma(a, vf_set(c->q[i][2 * w]), even[i]);
            odd[i] = vf_fma(b, vf_set(c->q[i][2 * w + 1]), odd[i]);
        }
    }
    for (int i = 0; i < n; i++)
        s[i] = vf_add(even[i], odd[i]);
}

/* cap * tanh(s / cap) = cap - 2 cap / (e^(2 s / cap) + 1) */
SIMD_INLINE vf soft_cap(vf s, float cap)
{
    vf e = vf_exp(vf_mul(s, vf_set(2 / cap)));
    return vf_sub(vf_set(cap), vf_div(vf_set(2 * cap), vf_add(e, vf_set(1))));
}

/* Which lanes of a tile column i attends; adds the slots' bias to the score. `at` is the place of
 * lane 0: a position (GENERAL 0) or a slot. */
SIMD_INLINE vm attended(const struct columns *c, int i, bool general, uint32_t at, vf *score)
{
    const struct kept_attn_params *p = c->p;
    vi place = vi_add(vi_iota(), vi_set(at));
    vi here = vi_set((uint32_t)c->position[i]);
    if (!general)
        return vm_and(vm_le(vi_set((uint32_t)c->first[i]), place), vm_le(place, here));
    const uint32_t *meta = meta_of(c);
    vi pos = vi_load(meta + at), until = vi_load(meta + p->cap + at);
    vm yes = vm_and(vm_le(pos, here), vm_lt(here, until));
    yes = vm_and(yes, vm_lt(place, vi_set(live_slots(c->call, p, c->kv_head))));
    if (p->window != 0) {
        int64_t last_out = (int64_t)c->position[i] - p->window;
        vi bound = vi_set((uint32_t)(int32_t)(last_out < INT32_MIN ? INT32_MIN : last_out));
        yes = vm_and(yes, vm_or(vm_lt(bound, pos), vm_lt(pos, vi_set(0))));
    }
    *score = vf_add(*score, vf_load((const float *)(meta + 2 * (size_t)p->cap + at)));
    return yes;
}

/* Fills b->score and the list of live places. */
SIMD_INLINE void block_scores(const int n, const struct columns *c, bool general, uint32_t tile,
                              struct block *b)
{
    const struct kept_attn_params *p = c->p;
    const uint32_t *k =
        (const uint32_t *)c->call->bind[1] + (size_t)c->kv_head * p->cap * (p->d / 2);
    b->n_live = 0;
    for (uint32_t t = 0; t < b->n_tiles; t++) {
        uint32_t slot = (tile + t) % (p->cap / 16) * 16, any = 0;
        vf s[MAX_COLUMNS];
        b->slot[t] = slot;
        tile_scores(n, c, k + (size_t)slot * (p->d / 2), s);
        for (int i = 0; i < n; i++) {
            if (p->softcap > 0)
                s[i] = soft_cap(s[i], p->softcap);
            vm yes = attended(c, i, general, (tile + t) * 16, &s[i]);
            any |= vm_bits(yes);
            vf_store(&b->score[i][16 * t], vf_select(yes, s[i], vf_set(-INFINITY)));
        }
        for (uint32_t r = 0; r < 16; r++) {
            b->live[b->n_live] = 16 * t + r;
            b->n_live += any >> r & 1;
        }
    }
}

/* ---- softmax and output ---- */

/* Column i: scores become exp(score - m) with the new maximum; what was summed before is rescaled.
 */
static void block_softmax(struct columns *c, struct block *b, int i)
{
    float *score = b->score[i];
    vf best = vf_load(score);
    for (uint32_t t = 1; t < b->n_tiles; t++)
        best = vf_max(best, vf_load(score + 16 * t));
    float m = vf_hmax(best);
    if (m > c->m[i]) {
        vf scale = vf_exp(vf_set(c->m[i] - m)); /* 0 at first: m was -inf */
        for (uint32_t k = 0; k < c->p->d; k += 16)
            vf_store(&c->o[i][k], vf_mul(vf_load(&c->o[i][k]), scale));
        c->l[i] *= vf_hmax(scale);
        c->m[i] = m;
    }
    vf sum = vf_set(0), base = vf_set(c->m[i] == -INFINITY ? 0 : c->m[i]);
    for (uint32_t t = 0; t < b->n_tiles; t++) {
        vf e = vf_exp(vf_sub(vf_load(score + 16 * t), base));
        vf_store(score + 16 * t, e);
        sum = vf_add(sum, e);
    }
    c->l[i] += vf_hsum(sum);
}

SIMD_INLINE void block_output(const int n, struct columns *c, const struct block *b)
{
    const struct kept_attn_params *p = c->p;
    const uint16_t *v = (const uint16_t *)c->call->bind[2] + (size_t)c->kv_head * p->cap * p->d;
    for (uint32_t k = 0; k < p->d; k += 16) {
        vf acc[MAX_COLUMNS];
        for (int i = 0; i < n; i++)
            acc[i] = vf_load(&c->o[i][k]);
        for (uint32_t j = 0; j < b->n_live; j++) {
            uint32_t at = b->live[j];
            vf value = vf_load_half(v + (size_t)(b->slot[at / 16] + at % 16) * p->d + k);
            for (int i = 0; i < n; i++)
                acc[i] = vf_fma(vf_set(b->score[i][at]), value, acc[i]);
        }
        for (int i = 0; i < n; i++)
            vf_store(&c->o[i][k], acc[i]);
    }
}

SIMD_INLINE void attend_n(const int n, struct columns *c, bool general, uint32_t tile, uint32_t end)
{
    struct block b;
    for (; tile < end; tile += b.n_tiles) {
        b.n_tiles = end - tile < BLOCK_TILES ? end - tile : BLOCK_TILES;
        block_scores(n, c, general, tile, &b);
        if (b.n_live == 0)
            continue;
        for (int i = 0; i < n; i++)
            block_softmax(c, &b, i);
        block_output(n, c, &b);
    }
}

/* Tiles [tile, end) of positions (GENERAL 0) or slots for all columns. */
static void attend(struct columns *c, uint32_t tile, uint32_t end)
{
    bool general = c->call->keys[KEPT_KEY_ATTN_GENERAL] != 0;
    for (uint32_t i = 0; i < c->n; i++) {
        c->m[i] = -INFINITY;
        c->l[i] = 0;
        memset(c->o[i], 0, c->p->d * sizeof(float));
    }
    switch (c->n) {
#define CASE(n)                             \
    case n:                                 \
        attend_n(n, c, general, tile, end); \
        break
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
#if MAX_COLUMNS == 8
        CASE(5);
        CASE(6);
        CASE(7);
        CASE(8);
#endif
    default:
        break;
    }
}

static void add_column(struct columns *c, uint32_t row, uint32_t head)
{
    const struct kept_attn_params *p = c->p;
    const uint32_t *step = (const uint32_t *)c->call->bind[6];
    uint32_t i = c->n++;
    c->q[i] = (const float *)c->call->bind[0] + (size_t)row * p->q_stride + (size_t)head * p->d;
    c->position[i] = (int32_t)step[KEPT_STEP_TOKENS + p->chunk + row];
    c->first[i] = first_position(p, c->position[i]);
}

/* The tiles that hold anything for any column. */
static void tile_range(const struct columns *c, uint32_t *tile, uint32_t *end)
{
    uint32_t first = UINT32_MAX, last_end = 0;
    if (c->call->keys[KEPT_KEY_ATTN_GENERAL] != 0) {
        *tile = 0;
        *end = (live_slots(c->call, c->p, c->kv_head) + 15) / 16;
        return;
    }
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->position[i] < 0)
            continue;
        uint32_t lo = (uint32_t)c->first[i] / 16, hi = (uint32_t)c->position[i] / 16 + 1;
        first = lo < first ? lo : first;
        last_end = hi > last_end ? hi : last_end;
    }
    *tile = last_end == 0 ? 0 : first;
    *end = last_end;
}

/* ---- decode ---- */

struct job {
    const struct kept_host_call *call;
    const struct kept_attn_params *p;
    uint32_t group; /* query heads of a KV head */
    uint32_t n_rows, n_blocks;
};

static void decode_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *j = user;
    const struct kept_attn_params *p = j->p;
    uint32_t split = item % p->n_splits, kv = item / p->n_splits % p->n_kv;
    uint32_t row = p->row_first + item / p->n_splits / p->n_kv;
    for (uint32_t g = 0; g < j->group; g += MAX_COLUMNS) {
        struct columns c = {.call = j->call, .p = p, .kv_head = kv};
        uint32_t head = kv * j->group + g, tile, end;
        for (uint32_t i = g; i < j->group && i < g + MAX_COLUMNS; i++)
            add_column(&c, row, kv * j->group + i);
        tile_range(&c, &tile, &end);
        uint64_t n = end - tile;
        attend(&c, tile + (uint32_t)(n * split / p->n_splits),
               tile + (uint32_t)(n * (split + 1) / p->n_splits));
        for (uint32_t i = 0; i < c.n; i++) {
            size_t part = ((size_t)row * p->n_head + head + i) * p->parts + p->part_first + split;
            float *out = (float *)j->call->bind[5] + part * (p->d + 4);
            out[0] = c.m[i];
            out[1] = c.l[i];
            memcpy(out + 4, c.o[i], p->d * sizeof(float));
        }
    }
}

void CPU_NAME(attn_decode)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_attn_params *p = call->params;
    struct job j = {.call = call, .p = p, .group = p->n_head / p->n_kv};
    j.n_rows = kept_live_rows(p, (const uint32_t *)call->bind[6]);
    kept_pool_run(pool, j.n_rows * p->n_kv * p->n_splits, decode_item, &j);
}

/* ---- prefill ---- */

static void prefill_pass(const struct job *j, uint32_t kv, uint32_t first, uint32_t end)
{
    const struct kept_attn_params *p = j->p;
    struct columns c = {.call = j->call, .p = p, .kv_head = kv};
    uint32_t tile, tile_end;
    for (uint32_t i = first; i < end; i++)
        add_column(&c, p->row_first + i / j->group, kv * j->group + i % j->group);
    tile_range(&c, &tile, &tile_end);
    attend(&c, tile, tile_end);
    for (uint32_t i = 0; i < c.n; i++) {
        size_t row = p->row_first + (first + i) / j->group;
        uint32_t head = kv * j->group + (first + i) % j->group;
        float *out = (float *)j->call->bind[5] + row * p->out_stride;
        float *sums = out + (size_t)p->n_head * p->d + head * (p->d / 16);
        vf scale = vf_set(c.l[i] > 0 ? 1 / c.l[i] : 0);
        for (uint32_t k = 0; k < p->d; k += 16) {
            vf o = vf_mul(vf_load(&c.o[i][k]), scale);
            vf_store(out + head * p->d + k, o);
            sums[k / 16] = vf_hsum(o);
        }
    }
}

static void prefill_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *j = user;
    uint32_t n = j->n_rows * j->group, kv = item / j->n_blocks;
    /* the longest ranges first, so that the last items are short */
    uint32_t block = j->n_blocks - 1 - item % j->n_blocks;
    uint32_t first = block * ITEM_PASSES * MAX_COLUMNS;
    for (int pass = 0; pass < ITEM_PASSES && first < n; pass++, first += MAX_COLUMNS)
        prefill_pass(j, kv, first, first + MAX_COLUMNS < n ? first + MAX_COLUMNS : n);
}

void CPU_NAME(attn_prefill)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_attn_params *p = call->params;
    struct job j = {.call = call, .p = p, .group = p->n_head / p->n_kv};
    j.n_rows = kept_live_rows(p, (const uint32_t *)call->bind[6]);
    j.n_blocks = (j.n_rows * j.group + ITEM_PASSES * MAX_COLUMNS - 1) / (ITEM_PASSES * MAX_COLUMNS);
    kept_pool_run(pool, j.n_blocks * p->n_kv, prefill_item, &j);
}

/* ---- merge ---- */

static void merge_head(const struct kept_merge_params *p, const float *part, float *out,
                       float *sums)
{
    size_t stride = p->d + 4;
    float m = -INFINITY, l = 0;
    for (uint32_t i = 0; i < p->parts; i++)
        m = part[i * stride] > m ? part[i * stride] : m;
    for (uint32_t k = 0; k < p->d; k += 16)
        vf_store(out + k, vf_set(0));
    for (uint32_t i = 0; i < p->parts && m > -INFINITY; i++) {
        const float *from = part + i * stride;
        if (from[0] == -INFINITY)
            continue;
        float weight = expf(from[0] - m);
        l += weight * from[1];
        for (uint32_t k = 0; k < p->d; k += 16)
            vf_store(out + k, vf_fma(vf_set(weight), vf_load(from + 4 + k), vf_load(out + k)));
    }
    vf scale = vf_set(l > 0 ? 1 / l : 0);
    for (uint32_t k = 0; k < p->d; k += 16) {
        vf o = vf_mul(vf_load(out + k), scale);
        vf_store(out + k, o);
        sums[k / 16] = vf_hsum(o);
    }
}

static void merge_row(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct kept_host_call *call = user;
    const struct kept_merge_params *p = call->params;
    size_t row = p->row_first + item, parts = (size_t)p->parts * (p->d + 4);
    const float *part = (const float *)call->bind[0] + row * p->n_head * parts;
    float *out = (float *)call->bind[1] + row * p->out_stride;
    float *sums = out + (size_t)p->n_head * p->d;
    for (uint32_t head = 0; head < p->n_head; head++)
        merge_head(p, part + head * parts, out + (size_t)head * p->d, sums + head * (p->d / 16));
}

void CPU_NAME(attn_merge)(const struct kept_host_call *call, struct kept_pool *pool)
{
    struct kept_host_call own = *call;
    kept_pool_run(pool, kept_live_rows(call->params, (const uint32_t *)call->bind[2]), merge_row,
                  &own);
}

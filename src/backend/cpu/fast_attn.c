/* backend/cpu/fast_attn.c: attention over slots, decode and prefill by one loop.
 *
 * A column is one query head of one row. A pass takes up to MAX_COLUMNS columns of one KV head
 * (decode: the heads of a row; prefill: rows and heads, row-major) through blocks of 64 slots:
 *
 *   scores  lane = slot: a word of a K tile is a few elements of 16 slots, each used by all columns
 *   softmax online: a block's maximum rescales what was summed before
 *   output  lane = element of the head: a V row is used by all columns
 *
 * so K and V are converted to f32 once for all columns of a pass. The scales of quantised V are
 * multiplied into the weights of a block, not into its values. Slots that no column of the pass
 * attends are left out of the output sum altogether: whatever stale values they hold has no part in
 * it. Plain slots and budgeted ones run the same operations, so they give the same bits where they
 * hold the same.
 */
#include <math.h>

#include "backend/cpu/fast.h"
#include "backend/cpu/fast_slots.h"

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
    uint32_t general, n;
    const uint32_t *k, *v;              /* of the KV head's first tile */
    uint32_t k_words, v_words, n_tiles; /* of a tile; tiles of the KV head */
    const int32_t *pos, *until;         /* planes of meta from the KV head's first slot */
    const float *bias;
    struct ref_head head; /* not of plain slots */
    const float *q[MAX_COLUMNS];
    int32_t position[MAX_COLUMNS], first[MAX_COLUMNS]; /* plain: attends first … position */
    uint32_t count[MAX_COLUMNS];                       /* else: slots it sees */
    float m[MAX_COLUMNS], l[MAX_COLUMNS];
    float o[MAX_COLUMNS][KEPT_MAX_HEAD_DIM];
};

/* One block of slots. */
struct block {
    uint32_t n_tiles;
    const uint32_t *v[BLOCK_TILES];
    float score[MAX_COLUMNS][BLOCK_SLOTS];     /* then exp(score - m) */
    float scaled[2][MAX_COLUMNS][BLOCK_SLOTS]; /* that times the scales of two blocks of V */
    uint32_t n_live, live[BLOCK_SLOTS];        /* places in the block that some column attends */
};

/* No columns yet. */
static void begin(struct columns *c, const struct kept_host_call *call, uint32_t kv_head)
{
    const struct kept_attn_params *p = call->params;
    uint32_t kt = call->keys[KEPT_KEY_ATTN_KT], vt = call->keys[KEPT_KEY_ATTN_VT];
    c->call = call;
    c->p = p;
    c->general = call->keys[KEPT_KEY_ATTN_GENERAL];
    c->n = 0;
    c->k_words = KEPT_TILE_WORDS(kt, p->d);
    c->v_words = KEPT_TILE_WORDS(vt, p->d);
    size_t slot = (size_t)kv_head * p->cap;
    c->n_tiles = p->cap / 16;
    if (c->general != KEPT_SLOTS_PLAIN) {
        const uint32_t *meta = (const uint32_t *)call->bind[3];
        c->head = fast_head_at((const uint32_t *)call->bind[4], kv_head, p->cap);
        slot = c->head.first;
        c->n_tiles = (c->head.cap + 15) / 16;
        c->pos = (const int32_t *)meta + slot;
        c->bias = (const float *)meta + p->cap + slot;
        if (c->general == KEPT_SLOTS_RULE)
            c->until = c->pos + 2 * (size_t)p->cap;
    }
    c->k = (const uint32_t *)call->bind[1] + slot / 16 * c->k_words;
    c->v = (const uint32_t *)call->bind[2] + slot / 16 * c->v_words;
}

/* First position attended from `position`: inside the window and not yet overwritten. */
static int32_t first_position(const struct kept_attn_params *p, int32_t position)
{
    int64_t reach = p->window != 0 && p->window < p->cap ? p->window : p->cap;
    int64_t first = (int64_t)position - reach + 1;
    return first > 0 ? (int32_t)first : 0;
}

/* ---- scores ---- */

/* cap * tanh(s / cap) = cap - 2 cap / (e^(2 s / cap) + 1) */
SIMD_INLINE vf soft_cap(vf s, float cap)
{
    vf e = vf_exp(vf_mul(s, vf_set(2 / cap)));
    return vf_sub(vf_set(cap), vf_div(vf_set(2 * cap), vf_add(e, vf_set(1))));
}

/* Which lanes of a tile column i attends; adds the slots' bias to the score. `at` is the place of
 * lane 0: a position (plain) or a slot. */
SIMD_INLINE vm attended(const struct columns *c, int i, uint32_t at, vf *score)
{
    vi place = vi_add(vi_iota(), vi_set(at));
    vi here = vi_set((uint32_t)c->position[i]);
    if (c->general == KEPT_SLOTS_PLAIN)
        return vm_and(vm_le(vi_set((uint32_t)c->first[i]), place), vm_le(place, here));
    vm yes = vm_lt(place, vi_set(c->count[i]));
    *score = vf_add(*score, vf_load(c->bias + at));
    if (c->general == KEPT_SLOTS_BUDGETED)
        return yes;
    vi pos = vi_load(c->pos + at), until = vi_load(c->until + at);
    yes = vm_and(yes, vm_and(vm_le(pos, here), vm_lt(here, until)));
    if (c->p->window != 0) {
        int64_t last_out = (int64_t)c->position[i] - c->p->window;
        vi bound = vi_set((uint32_t)(int32_t)(last_out < INT32_MIN ? INT32_MIN : last_out));
        yes = vm_and(yes, vm_or(vm_lt(bound, pos), vm_lt(pos, vi_set(0))));
    }
    return yes;
}

/* Fills b->score and the list of live places. */
SIMD_INLINE void block_scores(const int type, const int n, const struct columns *c, uint32_t tile,
                              struct block *b)
{
    const struct kept_attn_params *p = c->p;
    b->n_live = 0;
    for (uint32_t t = 0; t < b->n_tiles; t++) {
        uint32_t any = 0, i_tile = (tile + t) % c->n_tiles;
        vf s[MAX_COLUMNS];
        b->v[t] = c->v + (size_t)i_tile * c->v_words;
        fast_dots(type, n, c->q, c->k + (size_t)i_tile * c->k_words, p->d, s);
        for (int i = 0; i < n; i++) {
            if (p->softcap > 0)
                s[i] = soft_cap(s[i], p->softcap);
            vm yes = attended(c, i, (tile + t) * 16, &s[i]);
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
static void block_softmax(struct columns *c, struct block *b, uint32_t i)
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

/* The weights of all columns times the scales of blocks 2j and 2j + 1 of the values. */
static void scale_weights(uint32_t type, const struct columns *c, struct block *b, uint32_t j)
{
    for (uint32_t t = 0; t < b->n_tiles; t++) {
        vi pair = fast_scale_words(type, b->v[t], c->p->d, j);
        vf even = vf_half(pair), odd = vf_half(VI_SHR(pair, 16));
        for (uint32_t i = 0; i < c->n; i++) {
            vf weight = vf_load(&b->score[i][16 * t]);
            vf_store(&b->scaled[0][i][16 * t], vf_mul(even, weight));
            vf_store(&b->scaled[1][i][16 * t], vf_mul(odd, weight));
        }
    }
}

SIMD_INLINE void block_output(const int type, const int n, struct columns *c, struct block *b)
{
    const uint32_t d = c->p->d, row_words = KEPT_SLOT_Q((uint32_t)type, d);
    for (uint32_t k = 0; k < d; k += 16) {
        vf acc[MAX_COLUMNS];
        float(*weight)[BLOCK_SLOTS] = type == KEPT_FMT_F16 ? b->score : b->scaled[k / 32 % 2];
        if (type != KEPT_FMT_F16 && k % 64 == 0)
            scale_weights((uint32_t)type, c, b, k / 64);
        for (int i = 0; i < n; i++)
            acc[i] = vf_load(&c->o[i][k]);
        for (uint32_t j = 0; j < b->n_live; j++) {
            uint32_t at = b->live[j];
            vf value = fast_v_elements(type, b->v[at / 16] + at % 16 * row_words, k);
            for (int i = 0; i < n; i++)
                acc[i] = vf_fma(vf_set(weight[i][at]), value, acc[i]);
        }
        for (int i = 0; i < n; i++)
            vf_store(&c->o[i][k], acc[i]);
    }
}

/* ---- forms ---- */

/* fn(type, columns, c, …) with type and the number of columns as constants; in portable C the
 * latter as a variable, which is as fast and much less code. */
#define OF_COLUMNS(n, fn, type, ...) \
    case n:                          \
        fn(type, n, __VA_ARGS__);    \
        break;
#if MAX_COLUMNS == 8
#define MORE_COLUMNS(...)      \
    OF_COLUMNS(5, __VA_ARGS__) \
    OF_COLUMNS(6, __VA_ARGS__) \
    OF_COLUMNS(7, __VA_ARGS__) \
    OF_COLUMNS(8, __VA_ARGS__)
#else
#define MORE_COLUMNS(...)
#endif
#if CPU_SIMD == 0
#define BY_COLUMNS(fn, type, c, ...) fn(type, (int)(c)->n, c, __VA_ARGS__)
#else
#define BY_COLUMNS(fn, type, c, ...)            \
    switch ((c)->n) {                           \
        OF_COLUMNS(1, fn, type, c, __VA_ARGS__) \
        OF_COLUMNS(2, fn, type, c, __VA_ARGS__) \
        OF_COLUMNS(3, fn, type, c, __VA_ARGS__) \
        OF_COLUMNS(4, fn, type, c, __VA_ARGS__) \
        MORE_COLUMNS(fn, type, c, __VA_ARGS__)  \
    default:                                    \
        break;                                  \
    }
#endif

typedef void (*scores_fn)(const struct columns *c, uint32_t tile, struct block *b);
typedef void (*output_fn)(struct columns *c, struct block *b);

static void scores_half(const struct columns *c, uint32_t tile, struct block *b)
{
    BY_COLUMNS(block_scores, KEPT_FMT_F16, c, tile, b);
}

static void scores_q8(const struct columns *c, uint32_t tile, struct block *b)
{
    BY_COLUMNS(block_scores, KEPT_FMT_Q8_0, c, tile, b);
}

static void scores_q4(const struct columns *c, uint32_t tile, struct block *b)
{
    BY_COLUMNS(block_scores, KEPT_FMT_Q4_0, c, tile, b);
}

static void output_half(struct columns *c, struct block *b)
{
    BY_COLUMNS(block_output, KEPT_FMT_F16, c, b);
}

static void output_q8(struct columns *c, struct block *b)
{
    BY_COLUMNS(block_output, KEPT_FMT_Q8_0, c, b);
}

static void output_q4(struct columns *c, struct block *b)
{
    BY_COLUMNS(block_output, KEPT_FMT_Q4_0, c, b);
}

/* Tiles [tile, end) of positions (plain) or slots for all columns. */
static void attend(struct columns *c, uint32_t tile, uint32_t end)
{
    uint32_t kt = c->call->keys[KEPT_KEY_ATTN_KT], vt = c->call->keys[KEPT_KEY_ATTN_VT];
    scores_fn scores = kt == KEPT_FMT_F16    ? scores_half
                       : kt == KEPT_FMT_Q8_0 ? scores_q8
                                             : scores_q4;
    output_fn output = vt == KEPT_FMT_F16    ? output_half
                       : vt == KEPT_FMT_Q8_0 ? output_q8
                                             : output_q4;
    struct block b;
    for (uint32_t i = 0; i < c->n; i++) {
        c->m[i] = -INFINITY;
        c->l[i] = 0;
        memset(c->o[i], 0, c->p->d * sizeof(float));
    }
    for (; tile < end; tile += b.n_tiles) {
        b.n_tiles = end - tile < BLOCK_TILES ? end - tile : BLOCK_TILES;
        scores(c, tile, &b);
        if (b.n_live == 0)
            continue;
        for (uint32_t i = 0; i < c->n; i++)
            block_softmax(c, &b, i);
        output(c, &b);
    }
}

static void add_column(struct columns *c, uint32_t row, uint32_t head)
{
    const struct kept_attn_params *p = c->p;
    const uint32_t *step = (const uint32_t *)c->call->bind[6];
    uint32_t i = c->n++;
    c->q[i] = (const float *)c->call->bind[0] + (size_t)row * p->q_stride + (size_t)head * p->d;
    c->position[i] = (int32_t)step[KEPT_STEP_TOKENS + p->chunk + row];
    if (c->general == KEPT_SLOTS_PLAIN)
        c->first[i] = first_position(p, c->position[i]);
    else
        c->count[i] = ref_head_count(&c->head, (int64_t)c->position[i] + 1);
}

/* The tiles that hold anything for any column. */
static void tile_range(const struct columns *c, uint32_t *tile, uint32_t *end)
{
    uint32_t first = UINT32_MAX, last_end = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        bool plain = c->general == KEPT_SLOTS_PLAIN;
        if (plain && c->position[i] < 0)
            continue;
        uint32_t lo = plain ? (uint32_t)c->first[i] / 16 : 0;
        uint32_t hi = plain ? (uint32_t)c->position[i] / 16 + 1 : (c->count[i] + 15) / 16;
        first = lo < first ? lo : first;
        last_end = hi > last_end ? hi : last_end;
    }
    *tile = last_end == 0 ? 0 : first;
    *end = last_end;
}

/* Column i as the part of a split. */
static void write_part(const struct columns *c, uint32_t i, size_t row, uint32_t head,
                       uint32_t split)
{
    const struct kept_attn_params *p = c->p;
    size_t part = (row * p->n_head + head) * p->parts + p->part_first + split;
    float *out = (float *)c->call->bind[5] + part * (p->d + 4);
    out[0] = c->m[i];
    out[1] = c->l[i];
    memcpy(out + 4, c->o[i], p->d * sizeof(float));
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
        struct columns c;
        uint32_t head = kv * j->group + g, tile, end;
        begin(&c, j->call, kv);
        for (uint32_t i = g; i < j->group && i < g + MAX_COLUMNS; i++)
            add_column(&c, row, kv * j->group + i);
        tile_range(&c, &tile, &end);
        uint64_t n = end - tile;
        attend(&c, tile + (uint32_t)(n * split / p->n_splits),
               tile + (uint32_t)(n * (split + 1) / p->n_splits));
        for (uint32_t i = 0; i < c.n; i++)
            write_part(&c, i, row, head + i, split);
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

/* Column i, finished. */
static void write_output(struct columns *c, uint32_t i, size_t row, uint32_t head)
{
    const struct kept_attn_params *p = c->p;
    float *out = (float *)c->call->bind[5] + row * p->out_stride;
    float *sums = out + (size_t)p->n_head * p->d + head * (p->d / 16);
    vf scale = vf_set(c->l[i] > 0 ? 1 / c->l[i] : 0);
    if (c->call->keys[KEPT_KEY_ATTN_VT] != KEPT_FMT_F16)
        fast_hadamard(c->o[i], p->d);
    for (uint32_t k = 0; k < p->d; k += 16) {
        vf o = vf_mul(vf_load(&c->o[i][k]), scale);
        vf_store(out + head * p->d + k, o);
        sums[k / 16] = vf_hsum(o);
    }
}

static void prefill_pass(const struct job *j, uint32_t kv, uint32_t first, uint32_t end)
{
    const struct kept_attn_params *p = j->p;
    bool parts = j->call->keys[KEPT_KEY_ATTN_OUT] != 0;
    struct columns c;
    uint32_t tile, tile_end;
    begin(&c, j->call, kv);
    for (uint32_t i = first; i < end; i++)
        add_column(&c, p->row_first + i / j->group, kv * j->group + i % j->group);
    tile_range(&c, &tile, &tile_end);
    attend(&c, tile, tile_end);
    for (uint32_t i = 0; i < c.n; i++) {
        size_t row = p->row_first + (first + i) / j->group;
        uint32_t head = kv * j->group + (first + i) % j->group;
        if (parts)
            write_part(&c, i, row, head, 0);
        else
            write_output(&c, i, row, head);
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

static void merge_head(const struct kept_merge_params *p, bool rotated, const float *part,
                       float *out, float *sums)
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
    if (rotated)
        fast_hadamard(out, p->d);
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
    bool rotated = call->keys[KEPT_KEY_MERGE_VROT] != 0;
    for (uint32_t head = 0; head < p->n_head; head++)
        merge_head(p, rotated, part + head * parts, out + (size_t)head * p->d,
                   sums + head * (p->d / 16));
}

void CPU_NAME(attn_merge)(const struct kept_host_call *call, struct kept_pool *pool)
{
    struct kept_host_call own = *call;
    kept_pool_run(pool, kept_live_rows(call->params, (const uint32_t *)call->bind[2]), merge_row,
                  &own);
}

/* kernel/contract.c: per kernel, the ranges of its parameters and the bytes each binding must have.
 *
 * A need is computed from the last element a full call touches: row_first + row_cap rows.
 * Everything is 64-bit; the factors are 32-bit and at most three meet in a product of element
 * counts, which the ranges checked first keep below 2^63. What the device reads from its own memory
 * (the number of live rows, row offsets, tokens, positions) cannot be checked here; kernels clamp
 * it. */
#include "kernel/contract.h"

#include "base/status.h"

#define MAX_K     (1u << 24)
#define MAX_COUNT (1u << 28) /* rows, strides, slots */

struct check {
    const struct kept_kernel_row *row;
    enum kept_format format;
    const uint32_t *keys;
    const uint64_t *bind_bytes;
    struct kept_error *err;
    kept_status status; /* of the first thing that was wrong */
};

static void require(struct check *c, bool holds, const char *what, uint64_t value)
{
    if (!holds && c->status == KEPT_OK)
        c->status =
            kept_fail(c->err, KEPT_E_ARGUMENT, "kernel %s: parameter %s = %llu is out of range",
                      c->row->stem, what, (unsigned long long)value);
}

static void at_most(struct check *c, const char *what, uint64_t value, uint64_t max)
{
    require(c, value <= max, what, value);
}

/* Binding i must hold this many 4-byte elements. */
static void need(struct check *c, uint32_t i, uint64_t n_elems)
{
    if (c->status == KEPT_OK && c->bind_bytes[i] / 4 < n_elems)
        c->status = kept_fail(
            c->err, KEPT_E_ARGUMENT, "kernel %s: binding '%s' has %llu bytes, the call needs %llu",
            c->row->stem, c->row->bind_names[i], (unsigned long long)c->bind_bytes[i],
            (unsigned long long)n_elems * 4);
}

/* `n` rows of `stride` elements of which `width` are used. */
static void need_rows(struct check *c, uint32_t i, uint64_t n, uint64_t stride, uint64_t width)
{
    need(c, i, n == 0 ? 0 : (n - 1) * stride + width);
}

/* Checks the common head of all parameters; returns the rows that buffers must have. */
static uint64_t check_rows(struct check *c, uint32_t step_at, uint32_t rows_at, uint32_t first,
                           uint32_t cap)
{
    at_most(c, "rows_at", rows_at, 15);
    at_most(c, "row_first", first, MAX_COUNT);
    at_most(c, "row_cap", cap, MAX_COUNT);
    need(c, step_at, KEPT_STEP_TOKENS);
    return (uint64_t)first + cap;
}

static void check_record(struct check *c, uint32_t k, uint32_t n_words, uint32_t h, uint32_t s,
                         uint32_t d)
{
    require(c, k <= MAX_K && kept_format_k_valid(c->format, k), "k", k);
    require(c, c->keys[KEPT_KEY_ORDER] <= KEPT_VECTOR, "ORDER", c->keys[KEPT_KEY_ORDER]);
    if (c->status != KEPT_OK)
        return;
    struct kept_record record = kept_record_of(c->format, k);
    require(c, n_words == record.n_words, "record_words", n_words);
    require(c, record.h.n_groups == 0 || h == record.h.offset_words, "h_words", h);
    require(c, record.s.n_groups == 0 || s == record.s.offset_words, "s_words", s);
    require(c, record.d.n_groups == 0 || d == record.d.offset_words, "d_words", d);
}

static uint64_t tiles_of(uint32_t n)
{
    return ((uint64_t)n + KEPT_TILE_ROWS - 1) / KEPT_TILE_ROWS;
}

static void check_embed(struct check *c, const struct kept_embed_params *p)
{
    uint64_t rows = check_rows(c, 2, p->rows_at, p->row_first, p->row_cap);
    check_record(c, p->k, p->record_words, p->h_words, p->s_words, p->d_words);
    at_most(c, "x_stride", p->x_stride, MAX_COUNT);
    require(c, p->token_first % KEPT_TILE_ROWS == 0, "token_first", p->token_first);
    need(c, 0, tiles_of(p->n_tokens) * p->record_words);
    need_rows(c, 1, rows, p->x_stride, p->k);
    need(c, 2, KEPT_STEP_TOKENS + rows);
}

static void check_norm(struct check *c, const struct kept_norm_params *p)
{
    uint64_t rows = check_rows(c, 5, p->rows_at, p->row_first, p->row_cap);
    uint32_t mode = c->keys[KEPT_KEY_NORM_MODE];
    at_most(c, "MODE", mode, 2);
    at_most(c, "first_at", p->first_at, 15);
    require(c, p->k != 0 && p->k <= MAX_K && p->k % 16 == 0, "k", p->k);
    at_most(c, "x_stride", p->x_stride, MAX_COUNT);
    at_most(c, "y_stride", p->y_stride, MAX_COUNT);
    at_most(c, "out_stride", p->out_stride, MAX_COUNT);
    need_rows(c, 0, rows, p->x_stride, p->k);
    if (mode != 0) {
        need_rows(c, 1, rows, p->y_stride, p->k);
        need(c, 2, p->k);
    }
    if (mode != 2) {
        need(c, 3, p->k);
        need_rows(c, 4, rows, p->out_stride, p->k + p->k / 16);
    }
}

static void check_matmul(struct check *c, const struct kept_matmul_params *p)
{
    uint64_t rows = check_rows(c, 3, p->rows_at, p->row_first, p->row_cap);
    uint32_t epi =
        c->keys[c->row->id == KEPT_KERNEL_MATVEC ? KEPT_KEY_MATVEC_EPI : KEPT_KEY_MATMAT_EPI];
    bool glu = epi == KEPT_EPI_GLU_SILU || epi == KEPT_EPI_GLU_GELU;
    uint64_t tiles = tiles_of(p->n_rows), width = (uint64_t)p->y_offset + p->n_rows;
    at_most(c, "EPI", epi, KEPT_EPI_GLU_GELU);
    at_most(c, "x_first_at", p->x_first_at, 15);
    check_record(c, p->k, p->record_words, p->h_words, p->s_words, p->d_words);
    at_most(c, "n_rows", p->n_rows, MAX_COUNT);
    at_most(c, "x_stride", p->x_stride, MAX_COUNT);
    at_most(c, "y_stride", p->y_stride, MAX_COUNT);
    at_most(c, "y_offset", p->y_offset, MAX_COUNT);
    if (glu) {
        require(c, p->y_offset % 16 == 0, "y_offset", p->y_offset);
        require(c, p->up_tiles >= tiles && p->up_tiles <= MAX_COUNT, "up_tiles", p->up_tiles);
        require(c, p->sums_offset >= width && p->sums_offset <= MAX_COUNT, "sums_offset",
                p->sums_offset);
        width = (uint64_t)p->sums_offset + p->y_offset / 16 + tiles;
    }
    need(c, 0, (tiles + (glu ? p->up_tiles : 0)) * p->record_words);
    need_rows(c, 1, rows, p->x_stride, (uint64_t)p->k + p->k / 16);
    need_rows(c, 2, rows, p->y_stride, p->n_rows == 0 ? 0 : width);
}

/* Head geometry that slot_write and attention share. */
static void check_heads(struct check *c, uint32_t n_head, uint32_t n_kv, uint32_t d, uint32_t cap)
{
    require(c, n_kv != 0 && n_kv <= 65536, "n_kv", n_kv);
    require(c, n_head != 0 && n_head <= 65536 && (n_kv == 0 || n_head % n_kv == 0), "n_head",
            n_head);
    require(c, d != 0 && d <= KEPT_MAX_HEAD_DIM && d % 32 == 0, "d", d);
    require(c, cap != 0 && cap <= MAX_COUNT && cap % 64 == 0, "cap", cap);
}

static void check_type(struct check *c, const char *what, uint32_t type)
{
    require(c, type == KEPT_FMT_F16 || type == KEPT_FMT_Q8_0 || type == KEPT_FMT_Q4_0, what, type);
}

/* Words of `slots` slots of this type. */
static uint64_t slot_words(uint32_t type, uint32_t d, uint64_t slots)
{
    return slots / 16 * KEPT_TILE_WORDS(type, d);
}

/* Slots behind a call: of every KV head in a plain store, together in a budgeted one. */
static uint64_t all_slots(uint32_t general, uint32_t n_kv, uint32_t cap)
{
    return general == KEPT_SLOTS_PLAIN ? (uint64_t)n_kv * cap : cap;
}

static void check_slot_write(struct check *c, const struct kept_slot_write_params *p)
{
    uint64_t rows = check_rows(c, 10, p->rows_at, p->row_first, p->row_cap);
    uint64_t width = ((uint64_t)p->n_head + 2ull * p->n_kv) * p->d;
    uint32_t store = c->keys[KEPT_KEY_SLOT_STORE];
    uint64_t slots = all_slots(store, p->n_kv, p->cap);
    check_heads(c, p->n_head, p->n_kv, p->d, p->cap);
    check_type(c, "KT", c->keys[KEPT_KEY_SLOT_KT]);
    check_type(c, "VT", c->keys[KEPT_KEY_SLOT_VT]);
    at_most(c, "STORE", store, KEPT_SLOTS_RULE);
    at_most(c, "rope_pairs", p->rope_pairs, KEPT_ROPE_HALVES);
    require(c, p->n_rot <= p->d && p->n_rot % 2 == 0, "n_rot", p->n_rot);
    at_most(c, "hi_bias", p->hi_bias, MAX_COUNT);
    at_most(c, "qkv_stride", p->qkv_stride, MAX_COUNT);
    at_most(c, "chunk", p->chunk, MAX_COUNT);
    at_most(c, "queries_rows", p->queries_rows, 2 * KEPT_MAX_BLOCK);
    at_most(c, "queries_at", p->queries_at, 15);
    at_most(c, "borrowed", p->borrowed, 1);
    need_rows(c, 0, rows, p->qkv_stride, width);
    if (p->rope_pairs != KEPT_ROPE_NONE)
        need(c, 1, (257ull + p->hi_bias) * p->n_rot);
    if (c->keys[KEPT_KEY_SLOT_BIAS] != 0)
        need(c, 2, width);
    if (c->keys[KEPT_KEY_SLOT_QKNORM] != 0) {
        need(c, 3, p->d);
        need(c, 4, p->d);
    }
    need(c, 5, slot_words(c->keys[KEPT_KEY_SLOT_KT], p->d, slots));
    need(c, 6, slot_words(c->keys[KEPT_KEY_SLOT_VT], p->d, slots));
    if (store != KEPT_SLOTS_PLAIN) {
        need(c, 7, (uint64_t)p->n_kv * KEPT_HEAD_WORDS);
        need(c, 8, (store == KEPT_SLOTS_RULE ? 3 : 2) * slots);
    }
    need(c, 9, (uint64_t)p->queries_rows * p->n_head * p->d);
    need(c, 10, KEPT_STEP_TOKENS + (uint64_t)p->chunk + rows);
}

static void check_birth(struct check *c, const struct kept_birth_params *p)
{
    uint64_t rows = check_rows(c, 5, p->rows_at, p->row_first, p->row_cap);
    bool dms = c->keys[KEPT_KEY_BIRTH_DMS] != 0;
    check_heads(c, p->n_kv, p->n_kv, 32, p->total);
    at_most(c, "chunk", p->chunk, MAX_COUNT);
    at_most(c, "alpha_stride", p->alpha_stride, MAX_COUNT);
    at_most(c, "alpha_first", p->alpha_first, MAX_COUNT);
    at_most(c, "alpha_step", p->alpha_step, MAX_COUNT);
    at_most(c, "alpha_rows", p->alpha_rows, KEPT_MAX_BLOCK);
    at_most(c, "shift", p->shift, 1);
    at_most(c, "window", p->window, MAX_COUNT);
    need_rows(c, 0, p->alpha_rows != 0 ? p->alpha_rows : rows, p->alpha_stride,
              p->alpha_first + (p->n_kv - 1ull) * p->alpha_step + 1);
    if (c->keys[KEPT_KEY_BIRTH_BIAS] != 0)
        need(c, 1, p->n_kv);
    need(c, 2, 2ull * p->total);
    if (dms)
        need(c, 3, 3ull * p->total);
    need(c, 4, (uint64_t)p->n_kv * KEPT_HEAD_WORDS);
    need(c, 5, KEPT_STEP_TOKENS + (uint64_t)p->chunk + rows);
}

static void check_attn(struct check *c, const struct kept_attn_params *p)
{
    uint64_t rows = check_rows(c, 6, p->rows_at, p->row_first, p->row_cap);
    uint64_t width = (uint64_t)p->n_head * p->d;
    uint32_t general = c->keys[KEPT_KEY_ATTN_GENERAL];
    uint64_t slots = all_slots(general, p->n_kv, p->cap);
    check_heads(c, p->n_head, p->n_kv, p->d, p->cap);
    check_type(c, "KT", c->keys[KEPT_KEY_ATTN_KT]);
    check_type(c, "VT", c->keys[KEPT_KEY_ATTN_VT]);
    at_most(c, "GENERAL", general, KEPT_SLOTS_RULE);
    require(c, c->keys[KEPT_KEY_ATTN_D] == p->d, "D", c->keys[KEPT_KEY_ATTN_D]);
    at_most(c, "q_stride", p->q_stride, MAX_COUNT);
    at_most(c, "chunk", p->chunk, MAX_COUNT);
    need_rows(c, 0, rows, p->q_stride, width);
    need(c, 1, slot_words(c->keys[KEPT_KEY_ATTN_KT], p->d, slots));
    need(c, 2, slot_words(c->keys[KEPT_KEY_ATTN_VT], p->d, slots));
    if (general != KEPT_SLOTS_PLAIN) {
        need(c, 3, (general == KEPT_SLOTS_RULE ? 3 : 2) * slots);
        need(c, 4, (uint64_t)p->n_kv * KEPT_HEAD_WORDS);
    }
    bool decode = c->row->id == KEPT_KERNEL_ATTN_DECODE;
    if (!decode)
        at_most(c, "OUT", c->keys[KEPT_KEY_ATTN_OUT], 1);
    if (decode || c->keys[KEPT_KEY_ATTN_OUT] != 0) {
        require(c, p->n_splits != 0 && p->n_splits <= (decode ? 4096 : 1), "n_splits", p->n_splits);
        require(c, p->parts <= 65536 && (uint64_t)p->part_first + p->n_splits <= p->parts, "parts",
                p->parts);
        need(c, 5, rows * p->n_head * p->parts * (p->d + 4));
    } else {
        at_most(c, "out_stride", p->out_stride, MAX_COUNT);
        need_rows(c, 5, rows, p->out_stride, width + width / 16);
    }
    need(c, 6, KEPT_STEP_TOKENS + (uint64_t)p->chunk + rows);
}

static void check_merge(struct check *c, const struct kept_merge_params *p)
{
    uint64_t rows = check_rows(c, 2, p->rows_at, p->row_first, p->row_cap);
    uint64_t width = (uint64_t)p->n_head * p->d;
    require(c, p->n_head != 0 && p->n_head <= 65536, "n_head", p->n_head);
    require(c, p->d != 0 && p->d <= KEPT_MAX_HEAD_DIM && p->d % 32 == 0, "d", p->d);
    require(c, p->parts != 0 && p->parts <= 65536, "parts", p->parts);
    at_most(c, "out_stride", p->out_stride, MAX_COUNT);
    need(c, 0, rows * p->n_head * p->parts * (p->d + 4));
    need_rows(c, 1, rows, p->out_stride, width + width / 16);
}

static void check_glu(struct check *c, const struct kept_glu_params *p)
{
    uint64_t rows = check_rows(c, 2, p->rows_at, p->row_first, p->row_cap);
    require(c, p->n != 0 && p->n <= MAX_K && p->n % 16 == 0, "n", p->n);
    at_most(c, "ACT", c->keys[KEPT_KEY_GLU_ACT], 1);
    at_most(c, "x_stride", p->x_stride, MAX_COUNT);
    at_most(c, "out_stride", p->out_stride, MAX_COUNT);
    need_rows(c, 0, rows, p->x_stride, 2ull * p->n);
    need_rows(c, 1, rows, p->out_stride, (uint64_t)p->n + p->n / 16);
}

static void check_argmax(struct check *c, const struct kept_argmax_params *p)
{
    uint64_t rows = check_rows(c, 2, p->rows_at, p->row_first, p->row_cap);
    require(c, p->n != 0 && p->n <= MAX_COUNT, "n", p->n);
    at_most(c, "stride", p->stride, MAX_COUNT);
    need_rows(c, 0, rows, p->stride, p->n);
    need_rows(c, 1, rows, 2, 2);
}

static void check_peak(struct check *c, const struct kept_peak_params *p)
{
    uint64_t rows = check_rows(c, 4, p->rows_at, p->row_first, p->row_cap);
    check_heads(c, p->n_head, p->n_kv, p->d, p->cap);
    require(c, c->keys[KEPT_KEY_ATTN_D] == p->d, "D", c->keys[KEPT_KEY_ATTN_D]);
    at_most(c, "SUM", c->keys[KEPT_KEY_PEAK_SUM], 1);
    require(c, p->n_slots <= p->cap, "n_slots", p->n_slots);
    at_most(c, "q_stride", p->q_stride, MAX_COUNT);
    at_most(c, "chunk", p->chunk, MAX_COUNT);
    at_most(c, "after", p->after, MAX_COUNT);
    if (c->keys[KEPT_KEY_PEAK_SUM] != 0)
        need(c, 4, KEPT_STEP_TOKENS + (uint64_t)p->chunk + rows);
    need_rows(c, 0, rows, p->q_stride, (uint64_t)p->n_head * p->d);
    need(c, 1, slot_words(KEPT_FMT_F16, p->d, (uint64_t)p->n_kv * p->cap));
    need(c, 2, rows * p->n_head * (p->d + 4));
    need(c, 3, (uint64_t)p->n_kv * p->n_slots);
}

/* ---- maintenance ---- */

static void check_block(struct check *c, const void *params, uint32_t step_at)
{
    const uint32_t *p = params;
    check_rows(c, step_at, p[0], p[1], p[2]);
    require(c, p[2] != 0 && p[2] <= KEPT_MAX_BLOCK, "block", p[2]);
}

/* The table, and slots of all heads together. */
static void check_store(struct check *c, uint32_t n_kv, uint32_t d, uint32_t total,
                        uint32_t heads_at)
{
    check_heads(c, n_kv, n_kv, d, total);
    need(c, heads_at, (uint64_t)n_kv * KEPT_HEAD_WORDS);
}

static void check_stats(struct check *c, const struct kept_stats_params *p)
{
    check_block(c, p, 2);
    check_heads(c, p->n_head, 1, p->d, 64);
    require(c, c->keys[KEPT_KEY_STATS_D] == p->d, "D", c->keys[KEPT_KEY_STATS_D]);
    at_most(c, "queries_rows", p->queries_rows, MAX_COUNT);
    require(c, p->queries_rows >= p->row_cap, "queries_rows", p->queries_rows);
    need(c, 0, (uint64_t)p->queries_rows * p->n_head * p->d);
    need(c, 1, (uint64_t)p->n_head * KEPT_STATS_STRIDE((uint64_t)p->d));
}

static void check_score(struct check *c, const struct kept_score_params *p)
{
    bool expected = c->row->id == KEPT_KERNEL_SCORE_EXPECTED;
    check_block(c, p, expected ? 6 : 3);
    check_heads(c, p->n_head, p->n_kv, p->d, p->total);
    check_store(c, p->n_kv, p->d, p->total, expected ? 4 : 1);
    check_type(c, "KT", c->keys[KEPT_KEY_SCORE_KT]);
    require(c, c->keys[KEPT_KEY_SCORE_D] == p->d, "D", c->keys[KEPT_KEY_SCORE_D]);
    at_most(c, "z_stride", p->z_stride, MAX_COUNT);
    need(c, 0, slot_words(c->keys[KEPT_KEY_SCORE_KT], p->d, p->total));
    need(c, expected ? 5 : 2, ((uint64_t)p->n_head + p->n_kv) * p->z_stride);
    if (!expected)
        return;
    check_type(c, "VT", c->keys[KEPT_KEY_SCORE_VT]);
    at_most(c, "rope_pairs", p->rope_pairs, KEPT_ROPE_HALVES);
    require(c, p->n_rot <= p->d && p->n_rot % 2 == 0, "n_rot", p->n_rot);
    require(c, p->refresh != 0, "refresh", p->refresh);
    at_most(c, "hi_bias", p->hi_bias, MAX_COUNT);
    at_most(c, "mean_row", p->mean_row, MAX_COUNT);
    need(c, 1, slot_words(c->keys[KEPT_KEY_SCORE_VT], p->d, p->total));
    need(c, 2, (uint64_t)p->n_head * KEPT_STATS_STRIDE((uint64_t)p->d));
    if (p->rope_pairs != KEPT_ROPE_NONE)
        need(c, 3, ((uint64_t)p->mean_row + 1) * p->n_rot);
}

static void check_select(struct check *c, const struct kept_select_params *p)
{
    check_block(c, p, 6);
    check_heads(c, p->n_head, p->n_kv, p->d, p->total);
    check_store(c, p->n_kv, p->d, p->total, 4);
    at_most(c, "SCORER", c->keys[KEPT_KEY_SELECT_SCORER], KEPT_SCORER_DMS);
    at_most(c, "z_stride", p->z_stride, MAX_COUNT);
    require(c, p->refresh != 0, "refresh", p->refresh);
    if (c->keys[KEPT_KEY_SELECT_SCORER] <= KEPT_SCORER_DIRECT)
        need(c, 0, ((uint64_t)p->n_head + p->n_kv) * p->z_stride);
    if (c->keys[KEPT_KEY_SELECT_SCORER] == KEPT_SCORER_EXPECTED) {
        require(c, p->keep > 0 && p->keep <= 1, "keep", 0);
        need(c, 1, (uint64_t)p->n_head * KEPT_STATS_STRIDE((uint64_t)p->d));
    }
    need(c, 2, 2ull * p->total);
    need(c, 3, 2ull * p->total);
    need(c, 5, (uint64_t)p->n_kv * KEPT_MOVES_STRIDE(p->row_cap));
}

static void check_merge_slots(struct check *c, const struct kept_merge_slots_params *p)
{
    bool nearest = c->row->id == KEPT_KERNEL_SLOT_NEAREST;
    uint32_t type = c->keys[nearest ? KEPT_KEY_SCORE_KT : KEPT_KEY_SLOT_MERGE_VT];
    uint32_t d = c->keys[nearest ? KEPT_KEY_SCORE_D : KEPT_KEY_SLOT_MERGE_D];
    check_block(c, p, nearest ? 5 : 6);
    check_store(c, p->n_kv, p->d, p->total, nearest ? 2 : 3);
    check_type(c, nearest ? "KT" : "VT", type);
    require(c, d == p->d, "D", d);
    require(c, p->n_splits != 0 && p->n_splits <= 4096, "n_splits", p->n_splits);
    need(c, 0, slot_words(type, p->d, p->total));
    need(c, 1, 2ull * p->total);
    if (!nearest)
        need(c, 2, 2ull * p->total);
    need(c, nearest ? 3 : 4, (uint64_t)p->n_kv * KEPT_MOVES_STRIDE(p->row_cap));
    need(c, nearest ? 4 : 5, 2ull * p->n_kv * p->n_splits * p->row_cap);
}

static void check_move(struct check *c, const struct kept_move_params *p)
{
    check_block(c, p, 6);
    check_store(c, p->n_kv, p->d, p->total, 4);
    check_type(c, "KT", c->keys[KEPT_KEY_MOVE_KT]);
    check_type(c, "VT", c->keys[KEPT_KEY_MOVE_VT]);
    require(c, p->meta_planes == 2 || p->meta_planes == 3 || p->meta_planes == KEPT_ASSOC_PLANES,
            "meta_planes", p->meta_planes);
    need(c, 0, slot_words(c->keys[KEPT_KEY_MOVE_KT], p->d, p->total));
    need(c, 1, slot_words(c->keys[KEPT_KEY_MOVE_VT], p->d, p->total));
    need(c, 2, (uint64_t)p->meta_planes * p->total);
    need(c, 3, 2ull * p->total);
    need(c, 5, (uint64_t)p->n_kv * KEPT_MOVES_STRIDE(p->row_cap));
}

static void check_rotate(struct check *c, const struct kept_rotate_params *p)
{
    bool rotate = c->row->id == KEPT_KERNEL_SLOT_ROTATE;
    check_block(c, p, rotate ? 6 : 4);
    check_store(c, p->n_kv, p->d, p->total, rotate ? 3 : 1);
    at_most(c, "z_stride", p->z_stride, MAX_COUNT);
    at_most(c, "z_head_stride", p->z_head_stride, MAX_COUNT);
    require(c, p->z_head_stride >= p->z_stride, "z_head_stride", p->z_head_stride);
    need(c, rotate ? 1 : 0, 2ull * p->total);
    need(c, rotate ? 4 : 2, (uint64_t)p->n_kv * KEPT_MOVES_STRIDE(p->row_cap));
    need_rows(c, rotate ? 5 : 3, p->n_kv, p->z_head_stride, p->z_stride);
    at_most(c, "ALWAYS", c->keys[rotate ? KEPT_KEY_ROTATE_ALWAYS : KEPT_KEY_RENUMBER_ALWAYS], 1);
    if (!rotate)
        return;
    check_type(c, "KT", c->keys[KEPT_KEY_SCORE_KT]);
    require(c, c->keys[KEPT_KEY_SCORE_D] == p->d, "D", c->keys[KEPT_KEY_SCORE_D]);
    at_most(c, "rope_pairs", p->rope_pairs, KEPT_ROPE_HALVES);
    require(c, p->n_rot <= p->d && p->n_rot % 2 == 0, "n_rot", p->n_rot);
    at_most(c, "hi_bias", p->hi_bias, MAX_COUNT);
    need(c, 0, slot_words(c->keys[KEPT_KEY_SCORE_KT], p->d, p->total));
    if (p->rope_pairs != KEPT_ROPE_NONE)
        need(c, 2, (257ull + p->hi_bias) * p->n_rot);
}

static void check_assoc_keys(struct check *c, const struct kept_assoc_params *p)
{
    check_type(c, "KT", c->keys[KEPT_KEY_SCORE_KT]);
    require(c, c->keys[KEPT_KEY_SCORE_D] == p->d, "D", c->keys[KEPT_KEY_SCORE_D]);
    require(c, c->keys[KEPT_KEY_ORDER] <= KEPT_VECTOR, "ORDER", c->keys[KEPT_KEY_ORDER]);
    at_most(c, "rope_pairs", p->rope_pairs, KEPT_ROPE_HALVES);
    require(c, p->n_rot <= p->d && p->n_rot % 2 == 0, "n_rot", p->n_rot);
    require(c, p->n_rot != 0 || p->rope_pairs == KEPT_ROPE_NONE, "n_rot", p->n_rot);
    at_most(c, "hi_bias", p->hi_bias, MAX_K / 256); /* 256 times it is a position */
    at_most(c, "mean_row", p->mean_row, MAX_K / 256 * 4);
    need(c, 0, slot_words(c->keys[KEPT_KEY_SCORE_KT], p->d, p->total));
}

static void check_assoc(struct check *c, const struct kept_assoc_params *p)
{
    bool raw = c->row->id == KEPT_KERNEL_ASSOC_RAW, match = c->row->id == KEPT_KERNEL_ASSOC_MATCH;
    uint64_t table = ((uint64_t)p->mean_row + 1) * p->n_rot;
    check_block(c, p, raw ? 5 : match ? 4 : 8);
    require(c, p->row_cap % KEPT_ASSOC_SUB == 0, "block", p->row_cap);
    require(c, !(p->threshold < -1), "threshold", 0);
    check_store(c, p->n_kv, p->d, p->total, raw ? 3 : match ? 2 : 6);
    at_most(c, "raw_stride", p->raw_stride, MAX_COUNT);
    require(c, p->raw_stride % KEPT_TILE_ROWS == 0, "raw_stride", p->raw_stride);
    need(c, raw ? 4 : match ? 0 : 4, (uint64_t)p->n_kv * p->raw_stride * p->d);
    need(c, match ? 1 : raw ? 1 : 2, (uint64_t)KEPT_ASSOC_PLANES * p->total);
    if (!raw) {
        require(c, p->n_splits != 0 && p->n_splits <= 4096, "n_splits", p->n_splits);
        require(c, p->sub < p->row_cap / KEPT_ASSOC_SUB, "sub", p->sub);
        need(c, match ? 3 : 7, 2ull * p->n_kv * p->n_splits * p->row_cap);
    }
    if (match) {
        require(c, c->keys[KEPT_KEY_MATCH_D] == p->d, "D", c->keys[KEPT_KEY_MATCH_D]);
        return;
    }
    check_assoc_keys(c, p);
    if (p->rope_pairs != KEPT_ROPE_NONE)
        need(c, raw ? 2 : 5, table);
    if (raw)
        return;
    check_type(c, "VT", c->keys[KEPT_KEY_SCORE_VT]);
    at_most(c, "FORM", c->keys[KEPT_KEY_ASSOC_FORM], 1);
    need(c, 1, slot_words(c->keys[KEPT_KEY_SCORE_VT], p->d, p->total));
    need(c, 3, 2ull * p->total);
}

kept_status kept_kernel_check(enum kept_kernel_id id, enum kept_format format, const uint32_t *keys,
                              const void *params, const uint64_t *bind_bytes,
                              struct kept_error *err)
{
    struct check c = {kept_kernel_row(id), format, keys, bind_bytes, err, KEPT_OK};
    switch (id) {
    case KEPT_KERNEL_EMBED:
        check_embed(&c, params);
        break;
    case KEPT_KERNEL_NORM:
        check_norm(&c, params);
        break;
    case KEPT_KERNEL_MATVEC:
    case KEPT_KERNEL_MATMAT:
        check_matmul(&c, params);
        break;
    case KEPT_KERNEL_SLOT_WRITE:
        check_slot_write(&c, params);
        break;
    case KEPT_KERNEL_SLOT_BIRTH:
        check_birth(&c, params);
        break;
    case KEPT_KERNEL_ATTN_DECODE:
    case KEPT_KERNEL_ATTN_PREFILL:
        check_attn(&c, params);
        break;
    case KEPT_KERNEL_ATTN_MERGE:
        check_merge(&c, params);
        break;
    case KEPT_KERNEL_GLU:
        check_glu(&c, params);
        break;
    case KEPT_KERNEL_ARGMAX:
        check_argmax(&c, params);
        break;
    case KEPT_KERNEL_ATTN_PEAK:
        check_peak(&c, params);
        break;
    case KEPT_KERNEL_Q_STATS:
        check_stats(&c, params);
        break;
    case KEPT_KERNEL_SCORE_EXPECTED:
    case KEPT_KERNEL_SCORE_KEYDIFF:
        check_score(&c, params);
        break;
    case KEPT_KERNEL_SLOT_SELECT:
        check_select(&c, params);
        break;
    case KEPT_KERNEL_SLOT_NEAREST:
    case KEPT_KERNEL_SLOT_MERGE:
        check_merge_slots(&c, params);
        break;
    case KEPT_KERNEL_SLOT_MOVE:
        check_move(&c, params);
        break;
    case KEPT_KERNEL_SLOT_RENUMBER:
    case KEPT_KERNEL_SLOT_ROTATE:
        check_rotate(&c, params);
        break;
    case KEPT_KERNEL_ASSOC_RAW:
    case KEPT_KERNEL_ASSOC_MATCH:
    case KEPT_KERNEL_ASSOC_WRITE:
        check_assoc(&c, params);
        break;
    case KEPT_KERNEL_COUNT:
        break;
    }
    return c.status;
}

/* tune/check_attn.c: cases and bounds of attention (decode, prefill).
 *
 * Bound of the output o / l of one query head. A score is a product of d terms (error e_t as in
 * check_matmul.c, the soft cap and the bias add theirs); its weight p_t = exp(score - m) then has a
 * relative error of
 *     r_t = exp(e_t + e_max) - 1 + the error of exp itself,
 * and the output, a weighted mean of the values, moves by at most sum p_t r_t |v_t - o| / l. The
 * sums over n slots add (4 sqrt(n) + 8) u sum p_t |v_t| / l; |v_t| of a quantised slot is what
 * any unpacking adds up (check_store.c). Scores are computed here in double from the same bytes.
 * Finished output (prefill, OUT 0) is rotated back by Hadamard where values are quantised: sums of
 * HB elements with their bounds, over sqrt(HB).
 *
 * The form of partial results (decode, OUT 1) is free: which tiles a split takes, and by how little
 * m misses the maximum. They are brought to one form first: merged, as (log of the sum, 1, output)
 * in the first part, the others zero. Slots that no query of the call attends may hold NaN and Inf
 * (a token that was taken back).
 */
#include "tune/check_case.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/str.h"

enum { QKV, K_SLOTS, V_SLOTS, META, HEADS, OUT, STEP };

#define MAX_D      256
#define CHUNK_ROWS 512 /* of prefill */

/* ---- keys and shapes ---- */

static void attn_keys(struct check_case *c)
{
    static const uint32_t ds[] = {32, 64, 64, 96, 128, 256};
    static const uint32_t groups[] = {1, 2, 3, 4, 8};
    static const uint32_t types[] = {KEPT_FMT_F16, KEPT_FMT_Q8_0, KEPT_FMT_Q4_0};
    kept_check_group(c, 16, 64);
    kept_check_set_key(c, "D", kept_check_pick(c, ds, 6));
    kept_check_set_key(c, "G", kept_check_pick(c, groups, 5));
    kept_check_set_key(c, "KT", kept_check_pick(c, types, 3));
    kept_check_set_key(c, "VT", kept_check_pick(c, types, 3));
    kept_check_set_key(c, "GENERAL", kept_check_range(c, KEPT_SLOTS_PLAIN, KEPT_SLOTS_RULE));
}

void kept_keys_attn_decode(struct check_case *c)
{
    attn_keys(c);
}

void kept_keys_attn_prefill(struct check_case *c)
{
    static const uint32_t rows[] = {1, 2, 4, 8};
    attn_keys(c);
    kept_check_set_key(c, "BQ", kept_check_pick(c, rows, 4));
    kept_check_set_key(c, "OUT", kept_check_range(c, 0, 1));
    kept_check_fit_attn(c);
}

/* Query heads a pass and rows a group are halved until queries and scores fit the device's shared
 * memory; the estimate covers both languages. */
void kept_check_fit_attn(struct check_case *c)
{
    uint64_t lanes = kept_check_key(c, "WG") > 32 ? kept_check_key(c, "WG") : 32;
    uint64_t column_bytes = (kept_check_key(c, "D") + 2 * lanes + 12) * 4;
    uint64_t limit = c->caps->max_shared_bytes;
    uint32_t rows = kept_check_key(c, "BQ") != 0 ? kept_check_key(c, "BQ") : 1,
             heads = kept_check_key(c, "G");
    while (limit != 0 && rows * heads * column_bytes + lanes * 8 > limit && rows * heads > 1) {
        if (rows > 1)
            rows /= 2;
        else
            heads /= 2;
    }
    kept_check_set_key(c, "BQ", rows);
    kept_check_set_key(c, "G", heads);
}

static uint32_t general(const struct check_case *c)
{
    return c->keys[KEPT_KEY_ATTN_GENERAL];
}

/* Whether the call writes partial results, not finished output. */
static bool writes_parts(const struct check_case *c)
{
    return c->row->id == KEPT_KERNEL_ATTN_DECODE || kept_check_key(c, "OUT") != 0;
}

/* Rows of a whole chunk: of a bounded store, in a shape that takes no time. */
static bool is_chunk(uint32_t max_rows)
{
    return max_rows >= CHUNK_ROWS;
}

static uint32_t pick_rows(struct check_case *c, uint32_t few)
{
    bool small = general(c) != KEPT_SLOTS_PLAIN && c->keys[KEPT_KEY_ATTN_D] <= 64;
    return small && kept_check_chance(c, 8) ? CHUNK_ROWS : few;
}

static void pick_attn(struct check_case *c, uint32_t max_rows)
{
    static const uint32_t groups[] = {1, 2, 3, 4, 5, 8, 9};
    struct kept_attn_params *p = &c->params.attn;
    const struct check_model *m = c->model;
    p->d = c->keys[KEPT_KEY_ATTN_D];
    p->n_kv = m != NULL ? m->n_kv : kept_check_range(c, 1, is_chunk(max_rows) ? 2 : 3);
    p->n_head =
        m != NULL ? m->n_head : p->n_kv * kept_check_pick(c, groups, is_chunk(max_rows) ? 3 : 7);
    p->q_stride =
        (p->n_head + 2 * p->n_kv) * p->d + (m != NULL ? 0 : 4 * kept_check_range(c, 0, 2));
    p->cap = 64 * (m != NULL ? (m->n_past + m->rows + 63) / 64 : kept_check_range(c, 1, 5));
    p->window = m == NULL && kept_check_chance(c, 45) ? kept_check_range(c, 1, p->cap) : 0;
    if (is_chunk(max_rows))
        p->cap = 64;
    else if (p->window == 0 && p->cap < max_rows + 16) /* every row's whole past is in the cache */
        p->cap = (max_rows + 16 + 63) / 64 * 64;
    p->softcap = m == NULL && kept_check_chance(c, 30) ? 50.0f : 0;
    if (writes_parts(c)) {
        bool decode = c->row->id == KEPT_KERNEL_ATTN_DECODE;
        p->n_splits = !decode ? 1 : m != NULL ? 4 : kept_check_range(c, 1, 6);
        p->part_first = m != NULL ? 0 : kept_check_range(c, 0, 2);
        p->parts = p->part_first + p->n_splits + (m != NULL ? 0 : kept_check_range(c, 0, 2));
    } else {
        p->out_stride =
            KEPT_ACT_STRIDE(p->n_head * p->d) + (m != NULL ? 0 : 4 * kept_check_range(c, 0, 2));
    }
}

/* A query of a full cache stays within it; with a window, positions go around the ring and far out;
 * those of bounded stores go to the last ones there are. */
static int32_t pick_position(struct check_case *c, uint32_t max_rows)
{
    const struct kept_attn_params *p = &c->params.attn;
    if (c->model != NULL)
        return (int32_t)c->model->n_past;
    if (kept_check_chance(c, 15))
        return 0;
    if (general(c) != KEPT_SLOTS_PLAIN && kept_check_chance(c, 10))
        return INT32_MAX - 4 * CHUNK_ROWS - (int32_t)kept_check_range(c, 0, 1000);
    if ((p->window != 0 || general(c) != KEPT_SLOTS_PLAIN) && kept_check_chance(c, 50))
        return (int32_t)kept_check_range(c, 0, 200000);
    uint32_t spare = max_rows + 12;
    return (int32_t)kept_check_range(c, 0, p->cap > spare ? p->cap - spare : 0);
}

/* ---- what is attended ---- */

/* Whether a query at the position sees slot s of the KV head's extent, and the slot's bias. */
static bool sees(const struct check_case *c, uint32_t kv, int64_t position, uint32_t s, float *bias)
{
    const struct kept_attn_params *p = &c->params.attn;
    const uint32_t *meta = c->bind[META].before;
    *bias = 0;
    if (general(c) == KEPT_SLOTS_PLAIN) { /* the last position that has this slot */
        int64_t back = (position + p->cap - s) % p->cap, t = position - back;
        return t >= 0 && (p->window == 0 || back < p->window);
    }
    struct ref_head h = ref_head_at(c->bind[HEADS].before, kv, p->cap);
    uint32_t slot = h.first + s;
    if (s >= ref_head_count(&h, position + 1))
        return false;
    memcpy(bias, &meta[REF_BIAS(p->cap, slot)], 4);
    if (general(c) == KEPT_SLOTS_BUDGETED)
        return true;
    int64_t at = (int32_t)meta[REF_POS(p->cap, slot)],
            until = (int32_t)meta[REF_UNTIL(p->cap, slot)];
    bool inside = p->window == 0 || at > position - p->window || at < 0;
    return at <= position && position < until && inside;
}

/* Slots of a KV head's extent, and where it begins in the bindings. */
static uint32_t extent(const struct check_case *c, uint32_t kv, uint64_t *first)
{
    const struct kept_attn_params *p = &c->params.attn;
    if (general(c) == KEPT_SLOTS_PLAIN) {
        *first = (uint64_t)kv * p->cap;
        return p->cap;
    }
    struct ref_head h = ref_head_at(c->bind[HEADS].before, kv, p->cap);
    *first = h.first;
    return h.cap;
}

static int32_t position_of(const struct check_case *c, uint32_t row)
{
    return (int32_t)c->bind[STEP].before[KEPT_STEP_TOKENS + c->params.attn.chunk + row];
}

static bool seen_by_any(const struct check_case *c, uint32_t kv, uint32_t s)
{
    float bias;
    for (uint32_t i = 0; i < c->live; i++)
        if (sees(c, kv, position_of(c, c->params.attn.row_first + i), s, &bias))
            return true;
    return false;
}

/* ---- contents ---- */

/* NaN and Inf where nothing is attended. */
static void spoil(struct check_case *c)
{
    for (uint32_t kv = 0; kv < c->params.attn.n_kv; kv++) {
        uint64_t first;
        uint32_t n = extent(c, kv, &first);
        for (uint32_t s = 0; s < n; s++)
            if (kept_check_chance(c, 70) && !seen_by_any(c, kv, s)) {
                kept_check_spoil_slot(c, K_SLOTS, first + s);
                kept_check_spoil_slot(c, V_SLOTS, first + s);
            }
    }
}

static int32_t slot_position(struct check_case *c, int32_t position)
{
    switch (kept_check_range(c, 0, 7)) {
    case 0:
        return -(int32_t)kept_check_range(c, 1, 600); /* episodic */
    case 1:
        return position + (int32_t)kept_check_range(c, 0, 9);
    default:
        return position - (int32_t)kept_check_range(c, 0, (uint32_t)position + 1);
    }
}

/* A head: kept slots, and tokens since EDGE; or EDGE after the queries, or after all there can be
 * (the BASE slots are seen from everywhere, and no others); a few are empty. */
static void fill_head(struct check_case *c, uint32_t *h, int32_t position)
{
    uint32_t cap = h[KEPT_HEAD_CAP];
    uint32_t since = kept_check_range(c, 0, cap < 80 ? cap : 80);
    int32_t edge = position - (int32_t)since;
    h[KEPT_HEAD_BASE] = kept_check_range(c, 0, kept_check_chance(c, 50) ? cap - since : cap);
    h[KEPT_HEAD_SHIFT] = kept_check_range(c, 0, (uint32_t)position);
    if (kept_check_chance(c, 20))
        edge = position + (int32_t)kept_check_range(c, 0, 100);
    if (kept_check_chance(c, 10)) {
        edge = position + 1000;
        h[KEPT_HEAD_BASE] = 0;
    }
    if (kept_check_chance(c, 20)) {
        edge = INT32_MAX;
        h[KEPT_HEAD_BASE] = kept_check_chance(c, 30) ? 0 : kept_check_range(c, 1, cap);
    }
    if (c->model != NULL) {
        edge = (int32_t)c->model->n_past;
        h[KEPT_HEAD_BASE] = c->model->n_past;
    }
    h[KEPT_HEAD_EDGE] = (uint32_t)(edge > 0 || kept_check_chance(c, 30) ? edge : 0);
}

/* Positions, biases and ends of a head's slots; NaN in those that are not counted. */
static void fill_meta(struct check_case *c, const struct ref_head *h, int32_t position)
{
    const struct kept_attn_params *p = &c->params.attn;
    uint32_t *meta = c->bind[META].before;
    for (uint32_t s = h->first; s < h->first + ref_head_count(h, (int64_t)position + 100); s++) {
        int32_t at = c->model != NULL ? (int32_t)(s - h->first) : slot_position(c, position);
        int32_t until = c->model != NULL || kept_check_chance(c, 75)
                            ? INT32_MAX
                            : at + (int32_t)kept_check_range(c, 0, 300);
        float bias = kept_check_chance(c, 50) ? 0 : logf(1 + 50 * fabsf(kept_check_unit(c)));
        meta[REF_POS(p->cap, s)] = (uint32_t)at;
        memcpy(&meta[REF_BIAS(p->cap, s)], &bias, 4);
        if (general(c) == KEPT_SLOTS_RULE)
            meta[REF_UNTIL(p->cap, s)] = (uint32_t)until;
    }
}

/* The heads table and meta; cap becomes the slots of all heads. */
static void fill_heads(struct check_case *c, int32_t position)
{
    struct kept_attn_params *p = &c->params.attn;
    if (general(c) == KEPT_SLOTS_PLAIN) {
        kept_check_bind(c, HEADS, 16);
        kept_check_bind(c, META, 16);
        return;
    }
    p->cap = kept_check_heads(c, HEADS, p->n_kv, p->cap);
    kept_check_bind(c, META, (general(c) == KEPT_SLOTS_RULE ? 3ull : 2ull) * p->cap);
    for (uint32_t i = 0; !c->failed && i < p->n_kv; i++) {
        fill_head(c, c->bind[HEADS].before + (uint64_t)i * KEPT_HEAD_WORDS, position);
        struct ref_head h = ref_head_at(c->bind[HEADS].before, i, p->cap);
        fill_meta(c, &h, position);
    }
}

static void fill_slots(struct check_case *c)
{
    const struct kept_attn_params *p = &c->params.attn;
    uint64_t n = general(c) == KEPT_SLOTS_PLAIN ? (uint64_t)p->n_kv * p->cap : p->cap;
    struct ref_slots k = {NULL, c->keys[KEPT_KEY_ATTN_KT], c->keys[KEPT_KEY_ORDER], p->d};
    struct ref_slots v = {NULL, c->keys[KEPT_KEY_ATTN_VT], REF_ROWS, p->d};
    kept_check_bind_slots(c, K_SLOTS, k, n);
    kept_check_bind_slots(c, V_SLOTS, v, n);
    kept_check_fill_slots(c, K_SLOTS, kept_check_chance(c, 10) ? 40 : 2);
    kept_check_fill_slots(c, V_SLOTS, 2);
}

static void gen_attn(struct check_case *c, uint32_t max_rows)
{
    struct kept_attn_params *p = &c->params.attn;
    pick_attn(c, max_rows);
    int32_t position = pick_position(c, max_rows);
    uint32_t *step =
        kept_check_step(c, STEP, c->model != NULL ? c->model->rows : max_rows, position, &p->chunk);
    uint32_t planned = kept_check_planned_rows(c);
    float *qkv = kept_check_bind_f32(c, QKV, (uint64_t)planned * p->q_stride);
    fill_heads(c, position);
    fill_slots(c);
    kept_check_bind(c, OUT,
                    writes_parts(c) ? (uint64_t)planned * p->n_head * p->parts * (p->d + 4)
                                    : (uint64_t)planned * p->out_stride);
    if (c->failed || step == NULL)
        return;
    if (c->model == NULL && kept_check_chance(c, 20)) /* rows of several branches: any order */
        for (uint32_t i = 0; i < planned; i++)
            step[KEPT_STEP_TOKENS + p->chunk + i] = (uint32_t)position + kept_check_range(c, 0, 5);
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++)
        for (uint32_t i = 0; i < p->n_head * p->d; i++)
            qkv[(uint64_t)row * p->q_stride + i] = kept_check_value(c, 0.5f);
    if (c->model == NULL && kept_check_chance(c, 40))
        spoil(c);
    c->live_slots = c->model != NULL ? c->model->n_past + c->model->rows : p->cap;
    kept_snprintf(c->shape, sizeof c->shape,
                  "heads %u/%u, d %u, cap %u, window %u, softcap %g, position %d, splits %u",
                  p->n_head, p->n_kv, p->d, p->cap, p->window, p->softcap, position, p->n_splits);
}

void kept_gen_attn_decode(struct check_case *c)
{
    gen_attn(c, pick_rows(c, 9));
}

void kept_gen_attn_prefill(struct check_case *c)
{
    gen_attn(c, pick_rows(c, kept_check_chance(c, 20) ? 70 : 20));
}

/* ---- bounds ---- */

/* One query head: scores, weights and the output in double, and bounds. */
struct head {
    const struct check_case *c;
    uint32_t kv, n; /* attended slots */
    const float *q;
    uint64_t *slot;        /* [cap] */
    double *score, *error; /* [cap] */
    double log_sum, log_sum_bound;
    double out[MAX_D], bound[MAX_D];
};

static void add_slot(struct head *h, uint64_t slot, double bias)
{
    const struct kept_attn_params *p = &h->c->params.attn;
    double s = 0, size = 0, k[MAX_D], amp[MAX_D];
    kept_check_slot(h->c, K_SLOTS, slot, k, amp);
    for (uint32_t i = 0; i < p->d; i++) {
        s += h->q[i] * k[i];
        size += fabs(h->q[i]) * amp[i];
    }
    double error = (4 * sqrt(p->d) + 8) * CHECK_U * size + p->d * CHECK_TINY * 64;
    if (p->softcap > 0) {
        error += kept_check_tanh_bound(s, p->softcap);
        s = p->softcap * tanh(s / p->softcap);
    }
    h->slot[h->n] = slot;
    h->score[h->n] = s + bias;
    h->error[h->n++] = error + 2 * CHECK_U * (fabs(s) + fabs(bias));
}

static void list_slots(struct head *h, uint32_t row)
{
    uint64_t first;
    uint32_t n = extent(h->c, h->kv, &first);
    float bias;
    h->n = 0;
    for (uint32_t s = 0; s < n; s++)
        if (sees(h->c, h->kv, position_of(h->c, row), s, &bias))
            add_slot(h, first + s, bias);
}

/* Adds slot t with its share of the total to the output (pass 0) or to the bounds (pass 1). */
static void add_value(struct head *h, uint32_t t, double share, double relative, bool bounds)
{
    const struct kept_attn_params *p = &h->c->params.attn;
    double sums = (4 * sqrt(h->n) + 8) * CHECK_U, v[MAX_D], amp[MAX_D];
    kept_check_slot(h->c, V_SLOTS, h->slot[t], v, amp);
    for (uint32_t i = 0; i < p->d; i++) {
        if (bounds)
            h->bound[i] += share * (relative * fabs(v[i] - h->out[i]) + sums * amp[i]) +
                           2 * CHECK_TINY * amp[i]; /* a weight that was flushed to zero */
        else
            h->out[i] += share * v[i];
    }
}

static void head_bounds(struct head *h)
{
    uint32_t d = h->c->params.attn.d;
    double m = -INFINITY, error_max = 0, l = 0;
    for (uint32_t t = 0; t < h->n; t++) {
        m = fmax(m, h->score[t]);
        error_max = fmax(error_max, h->error[t]);
    }
    for (uint32_t t = 0; t < h->n; t++)
        l += exp(h->score[t] - m);
    for (uint32_t i = 0; i < d; i++) {
        h->out[i] = 0;
        h->bound[i] = 2 * CHECK_TINY;
    }
    h->log_sum = m + log(l);
    h->log_sum_bound = (4 * sqrt(h->n) + 8 + 2 * fabs(h->log_sum)) * CHECK_U;
    for (uint32_t t = 0; t < h->n; t++)
        add_value(h, t, exp(h->score[t] - m) / l, 0, false);
    for (uint32_t t = 0; t < h->n; t++) {
        double share = exp(h->score[t] - m) / l;
        double relative =
            expm1(h->error[t] + error_max) + 2 * kept_check_exp_bound(h->score[t] - m);
        h->log_sum_bound += share * relative;
        add_value(h, t, share, relative, true);
    }
    for (uint32_t i = 0; i < d; i++)
        h->bound[i] += 4 * CHECK_U * fabs(h->out[i]);
}

static void store_part(struct check_case *c, const struct head *h, uint64_t i_head)
{
    const struct kept_attn_params *p = &c->params.attn;
    uint64_t at = (i_head * p->parts + p->part_first) * (p->d + 4);
    kept_check_bound(c, OUT, at, h->log_sum_bound);
    for (uint32_t i = 0; i < p->d; i++)
        kept_check_bound(c, OUT, at + 4 + i, h->bound[i]);
}

static void store_output(struct check_case *c, struct head *h, uint64_t at)
{
    if (c->keys[KEPT_KEY_ATTN_VT] != KEPT_FMT_F16)
        kept_check_hadamard(h->out, h->bound, c->params.attn.d);
    for (uint32_t i = 0; i < c->params.attn.d; i++)
        kept_check_bound(c, OUT, at + i, h->bound[i]);
}

static void bound_rows(struct check_case *c, struct head *h)
{
    const struct kept_attn_params *p = &c->params.attn;
    bool parts = writes_parts(c);
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        uint64_t out = (uint64_t)row * p->out_stride;
        for (uint32_t head = 0; head < p->n_head; head++) {
            h->kv = head / (p->n_head / p->n_kv);
            h->q = (const float *)(const void *)c->bind[QKV].before + (uint64_t)row * p->q_stride +
                   (uint64_t)head * p->d;
            list_slots(h, row);
            if (h->n == 0)
                continue; /* exactly empty */
            head_bounds(h);
            if (parts)
                store_part(c, h, (uint64_t)row * p->n_head + head);
            else
                store_output(c, h, out + (uint64_t)head * p->d);
        }
        if (!parts)
            kept_check_bound_sums(c, OUT, out, out + (uint64_t)p->n_head * p->d, p->n_head * p->d);
    }
}

static void bound_attn(struct check_case *c)
{
    struct head h = {.c = c};
    size_t cap = c->params.attn.cap;
    h.slot = kept_calloc(cap, sizeof *h.slot);
    h.score = kept_calloc(cap, sizeof *h.score);
    h.error = kept_calloc(cap, sizeof *h.error);
    if (h.slot != NULL && h.score != NULL && h.error != NULL)
        bound_rows(c, &h);
    else
        c->failed = true;
    kept_free(h.slot);
    kept_free(h.score);
    kept_free(h.error);
}

void kept_bound_attn_decode(struct check_case *c)
{
    bound_attn(c);
}

void kept_bound_attn_prefill(struct check_case *c)
{
    bound_attn(c);
}

/* ---- one form for partial results ---- */

/* A part is empty, or m is the maximum: l counts from one slot to all. */
static bool sound(const float *part, uint32_t most)
{
    if (part[1] == 0)
        return part[0] == -INFINITY;
    return part[0] > -INFINITY && part[1] > 0.99 && part[1] < 1.01 * most;
}

/* The n parts from `part` on as one; of `most` slots. */
static void merge_parts(float *part, uint32_t n, uint32_t d, uint32_t most)
{
    size_t stride = d + 4;
    bool all_sound = true;
    double m = -INFINITY, l = 0, out[MAX_D] = {0};
    for (uint32_t i = 0; i < n; i++) {
        all_sound = all_sound && sound(part + i * stride, most);
        if (!(part[i * stride] <= m))
            m = part[i * stride];
    }
    for (uint32_t i = 0; i < n; i++) {
        double w = part[i * stride] == m ? (m == -INFINITY ? 0 : 1) : exp(part[i * stride] - m);
        l += w * part[i * stride + 1];
        for (uint32_t k = 0; k < d; k++)
            out[k] += w * part[i * stride + 4 + k];
    }
    memset(part, 0, n * stride * sizeof *part);
    part[0] = !all_sound ? NAN : l == 0 ? -INFINITY : (float)(m + log(l));
    for (uint32_t k = 0; k < d; k++)
        part[4 + k] = l == 0 ? (float)out[k] : (float)(out[k] / l);
}

void kept_canon_attn(const struct check_case *c, uint32_t *const *bind)
{
    const struct kept_attn_params *p = &c->params.attn;
    float *part = (float *)(void *)bind[OUT];
    if (!writes_parts(c))
        return;
    for (uint32_t i = 0; i < c->live * p->n_head; i++) {
        uint64_t head = (uint64_t)p->row_first * p->n_head + i;
        merge_parts(part + (head * p->parts + p->part_first) * (p->d + 4), p->n_splits, p->d,
                    p->cap);
    }
}

/* tune/check_slots.c: cases and bounds of slot_write.
 *
 * Exact: f16 v without bias, and f16 k without bias, norm and rotation, because both sides round
 * the same f32 to f16 (nearest even). Otherwise f32 errors e of an element (bias u; norm as in
 * check_rows.c; rotation: the angle is a product of two complex numbers, 4 u, and the rotated pair
 * adds 4 more, relative to |a| + |b|; Hadamard as a dot product). Stored values have bounds from
 * these errors by check_store.c.
 */
#include "tune/check_case.h"

#include <math.h>
#include <string.h>

#include "base/str.h"

enum { QKV, TABLE, BIAS, WQ, WK, K_SLOTS, V_SLOTS, HEADS, META, QUERIES, STEP };

#define MAX_D    256
#define MAX_ROWS 20

void kept_keys_slot_write(struct check_case *c)
{
    static const uint32_t types[] = {KEPT_FMT_F16, KEPT_FMT_Q8_0, KEPT_FMT_Q4_0};
    kept_check_group(c, 16, 128);
    kept_check_set_key(c, "QKNORM", kept_check_range(c, 0, 1));
    kept_check_set_key(c, "BIAS", kept_check_range(c, 0, 1));
    kept_check_set_key(c, "KT", kept_check_pick(c, types, 3));
    kept_check_set_key(c, "VT", kept_check_pick(c, types, 3));
    kept_check_set_key(c, "STORE", kept_check_range(c, KEPT_SLOTS_PLAIN, KEPT_SLOTS_RULE));
}

static void pick_slot_write(struct check_case *c)
{
    static const uint32_t ds[] = {32, 64, 64, 96, 128, 256};
    static const uint32_t groups[] = {1, 2, 3, 4, 7, 8};
    static const uint32_t blocks[] = {MAX_ROWS, 32, 64, KEPT_MAX_BLOCK};
    struct kept_slot_write_params *p = &c->params.slot_write;
    const struct check_model *m = c->model;
    p->d = m != NULL ? m->d : kept_check_pick(c, ds, 6);
    p->n_kv = m != NULL ? m->n_kv : kept_check_range(c, 1, 4);
    p->n_head = m != NULL ? m->n_head : p->n_kv * kept_check_pick(c, groups, 6);
    p->rope_pairs = m != NULL ? KEPT_ROPE_ADJACENT : kept_check_range(c, 0, 2);
    p->n_rot = p->rope_pairs == KEPT_ROPE_NONE ? 0 : p->d;
    if (p->n_rot != 0 && m == NULL &&
        kept_check_chance(c, 30)) /* only a part of the head rotates */
        p->n_rot = 2 * kept_check_range(c, 1, p->d / 2);
    p->qkv_stride =
        (p->n_head + 2 * p->n_kv) * p->d + (m != NULL ? 0 : 4 * kept_check_range(c, 0, 2));
    p->cap = 64 * (m != NULL ? (m->n_past + m->rows + 63) / 64 : kept_check_range(c, 1, 3));
    p->hi_bias = m == NULL && kept_check_chance(c, 30) ? kept_check_range(c, 1, 3) : 0;
    p->queries_rows = m == NULL && kept_check_chance(c, 50) ? kept_check_pick(c, blocks, 4) : 0;
    p->queries_at = kept_check_chance(c, 50) ? KEPT_STEP_ACCEPTED : KEPT_STEP_ROWS;
    p->borrowed = m == NULL && kept_check_chance(c, 30);
    p->q_scale = 1 / sqrtf((float)p->d);
    p->eps = 1e-6f;
}

/* Cosines and sines of the low byte and of the rest of a position. */
static void fill_table(struct check_case *c, uint32_t n_hi)
{
    struct kept_slot_write_params *p = &c->params.slot_write;
    uint32_t half = p->n_rot / 2, n = 256 + p->hi_bias + n_hi;
    float *table = kept_check_bind_f32(c, TABLE, half == 0 ? 16 : (uint64_t)n * half * 2);
    if (table == NULL || half == 0)
        return;
    for (uint32_t i = 0; i < half; i++) {
        double theta = pow(10000, -(double)i / half);
        for (uint32_t row = 0; row < n; row++) {
            double at = row < 256 ? row : 256.0 * ((double)row - 256 - p->hi_bias);
            table[((uint64_t)row * half + i) * 2] = (float)cos(at * theta);
            table[((uint64_t)row * half + i) * 2 + 1] = (float)sin(at * theta);
        }
    }
}

static bool budgeted(const struct check_case *c)
{
    return kept_check_key(c, "STORE") != KEPT_SLOTS_PLAIN;
}

/* Positions of a chunk: consecutive from anywhere, across the ring's end as it comes; negative ones
 * of a table that begins there (queries are kept by position % a power of two then, so that none
 * share a place). */
static int32_t pick_position(struct check_case *c)
{
    struct kept_slot_write_params *p = &c->params.slot_write;
    if (c->model != NULL)
        return (int32_t)c->model->n_past;
    if (budgeted(c) && p->hi_bias != 0 && kept_check_chance(c, 50)) {
        p->queries_rows = p->queries_rows == MAX_ROWS ? 32 : p->queries_rows;
        return -(int32_t)kept_check_range(c, 1, 256 * p->hi_bias);
    }
    switch (kept_check_range(c, 0, 5)) {
    case 0:
        return 0;
    case 1:
        return 250;
    case 2:
        return (int32_t)kept_check_range(c, 100000, 140000);
    default:
        return (int32_t)kept_check_range(c, 0, 700);
    }
}

/* Tokens before EDGE, in the extent, across its end, and past it; positions of RoPE down to where
 * the table begins, a few below it. */
static void fill_heads(struct check_case *c, int32_t position)
{
    struct kept_slot_write_params *p = &c->params.slot_write;
    if (!budgeted(c)) {
        kept_check_bind(c, HEADS, 16);
        return;
    }
    p->cap = kept_check_heads(c, HEADS, p->n_kv, p->cap);
    for (uint32_t i = 0; !c->failed && i < p->n_kv; i++) {
        uint32_t *h = c->bind[HEADS].before + (uint64_t)i * KEPT_HEAD_WORDS;
        uint32_t cap = h[KEPT_HEAD_CAP];
        int32_t edge = position - (int32_t)kept_check_range(c, 0, cap - 1);
        h[KEPT_HEAD_BASE] = kept_check_range(c, 0, cap);
        if (kept_check_chance(c, 50)) /* room for the tokens that can have any */
            h[KEPT_HEAD_BASE] = kept_check_range(c, 0, cap - (uint32_t)(position - edge));
        if (kept_check_chance(c, 15))
            edge = position + (int32_t)kept_check_range(c, 0, MAX_ROWS);
        if (c->model != NULL) {
            edge = position;
            h[KEPT_HEAD_BASE] = c->model->n_past;
        }
        bool negative = position < 0 || kept_check_chance(c, 30);
        h[KEPT_HEAD_EDGE] = (uint32_t)(edge > 0 || negative ? edge : 0);
        uint32_t above = (uint32_t)position + 256 * p->hi_bias; /* the table's beginning */
        if (c->model == NULL && kept_check_chance(c, 50))
            h[KEPT_HEAD_SHIFT] = kept_check_range(c, 0, above);
        if (c->model == NULL && kept_check_chance(c, 5))
            h[KEPT_HEAD_SHIFT] = above + kept_check_range(c, 1, MAX_ROWS);
    }
}

static void fill_rows(struct check_case *c, float *qkv, float *bias, float *wq, float *wk)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    uint32_t width = (p->n_head + 2 * p->n_kv) * p->d;
    for (uint32_t i = 0; kept_check_key(c, "BIAS") && i < width; i++)
        bias[i] = kept_check_value(c, 1);
    for (uint32_t i = 0; kept_check_key(c, "QKNORM") && i < p->d; i++) {
        wq[i] = kept_check_value(c, 1);
        wk[i] = kept_check_value(c, 1);
    }
    float scale = kept_check_chance(c, 10) ? 3000 : 2; /* outliers then overflow f16 */
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++)
        for (uint32_t i = 0; i < width; i++)
            qkv[(uint64_t)row * p->qkv_stride + i] = kept_check_value(c, scale);
}

void kept_gen_slot_write(struct check_case *c)
{
    struct kept_slot_write_params *p = &c->params.slot_write;
    pick_slot_write(c);
    int32_t position = pick_position(c);
    uint32_t *step =
        kept_check_step(c, STEP, c->model != NULL ? c->model->rows : MAX_ROWS, position, &p->chunk);
    uint32_t planned = kept_check_planned_rows(c), width = (p->n_head + 2 * p->n_kv) * p->d;
    int32_t end = position + (int32_t)p->chunk;
    fill_table(c, end > 0 ? (uint32_t)end / 256 + 1 : 1);
    fill_heads(c, position);
    uint64_t slots = budgeted(c) ? p->cap : (uint64_t)p->n_kv * p->cap;
    uint32_t planes = kept_check_key(c, "STORE") == KEPT_SLOTS_RULE ? 3 : 2;
    float *qkv = kept_check_bind_f32(c, QKV, (uint64_t)planned * p->qkv_stride);
    float *bias = kept_check_bind_f32(c, BIAS, kept_check_key(c, "BIAS") ? width : 16);
    float *wq = kept_check_bind_f32(c, WQ, kept_check_key(c, "QKNORM") ? p->d : 16);
    float *wk = kept_check_bind_f32(c, WK, kept_check_key(c, "QKNORM") ? p->d : 16);
    struct ref_slots k = {NULL, kept_check_key(c, "KT"), kept_check_key(c, "ORDER"), p->d};
    struct ref_slots v = {NULL, kept_check_key(c, "VT"), REF_ROWS, p->d};
    kept_check_bind_slots(c, K_SLOTS, k, slots);
    kept_check_bind_slots(c, V_SLOTS, v, slots);
    kept_check_bind(c, META, budgeted(c) ? planes * slots : 16);
    kept_check_bind(c, QUERIES,
                    p->queries_rows != 0 ? (uint64_t)p->queries_rows * p->n_head * p->d : 16);
    if (c->failed || step == NULL)
        return;
    if (kept_check_chance(c, 50)) /* else none */
        step[KEPT_STEP_ACCEPTED] = kept_check_range(c, 0, 2 * MAX_ROWS);
    fill_rows(c, qkv, bias, wq, wk);
    kept_snprintf(c->shape, sizeof c->shape,
                  "heads %u/%u, d %u, rot %u kind %u, cap %u, queries %u, position %d", p->n_head,
                  p->n_kv, p->d, p->n_rot, p->rope_pairs, p->cap, p->queries_rows, position);
}

/* ---- bounds ---- */

/* One head of a row: exact values, and how far f32 ones may be from them. */
struct head {
    double value[MAX_D], error[MAX_D];
};

/* With bias and norm: what `queries` gets. */
static void begin_head(const struct check_case *c, uint32_t row, uint32_t h, struct head *out)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    const float *v = (const float *)(const void *)c->bind[QKV].before +
                     (uint64_t)row * p->qkv_stride + (uint64_t)h * p->d;
    const float *bias = (const float *)(const void *)c->bind[BIAS].before + (uint64_t)h * p->d;
    const float *w = (const float *)(const void *)c->bind[h < p->n_head ? WQ : WK].before;
    bool is_v = h >= p->n_head + p->n_kv, normed = kept_check_key(c, "QKNORM") && !is_v;
    double sum = 0, errors = 0, *value = out->value, *error = out->error;
    for (uint32_t i = 0; i < p->d; i++) {
        value[i] = v[i] + (kept_check_key(c, "BIAS") ? (double)bias[i] : 0);
        error[i] = kept_check_key(c, "BIAS") ? CHECK_U * fabs(value[i]) + CHECK_TINY : 0;
        sum += value[i] * value[i];
        errors += 2 * fabs(value[i]) * error[i];
    }
    double mean = sum / p->d + p->eps, f = 1 / sqrt(mean);
    double relative = (0.5 * sqrt(p->d) + 8) * CHECK_U + 0.5 * errors / p->d / mean;
    for (uint32_t i = 0; normed && i < p->d; i++) {
        error[i] = fabs(value[i] * f * w[i]) * relative +
                   (error[i] * f + CHECK_TINY * (1 + f)) * (1 + fabs(w[i]));
        value[i] *= f * w[i];
    }
}

static struct ref_rope rope_of(const struct check_case *c)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    const struct check_bind *table = &c->bind[TABLE];
    return (struct ref_rope){(const float *)(const void *)table->before, table->n_words * 4,
                             p->n_rot, p->rope_pairs, p->hi_bias};
}

static void turn_head(const struct check_case *c, int64_t position, bool borrowed, struct head *h)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    struct ref_rope rope = rope_of(c);
    if (borrowed)
        h->value[p->d - 1] = h->error[p->d - 1] = 0;
    for (uint32_t i = 0; i < p->n_rot / 2; i++) {
        uint32_t a, b;
        ref_rope_pair(&rope, i, &a, &b);
        double size = fabs(h->value[a]) + fabs(h->value[b]);
        h->error[a] = h->error[b] =
            h->error[a] + h->error[b] + 8 * CHECK_U * size + 2 * CHECK_TINY * (1 + size);
    }
    ref_rope_turn(&rope, position, h->value);
    if (borrowed)
        h->value[p->d - 1] = h->error[p->d - 1] = 0;
    if (kept_check_key(c, "KT") != KEPT_FMT_F16)
        kept_check_hadamard(h->value, h->error, p->d);
}

static void bound_q(struct check_case *c, uint32_t row, uint32_t h, int32_t position, int64_t turn)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    struct head head;
    bool copied = p->queries_rows != 0 && row < c->bind[STEP].before[p->queries_at];
    begin_head(c, row, h, &head);
    for (uint32_t i = 0; copied && i < p->d; i++) {
        uint64_t query = (uint32_t)position % p->queries_rows;
        uint64_t at = (query * p->n_head + h) * p->d + i;
        kept_check_bound(c, QUERIES, at,
                         head.error[i] + 2 * CHECK_U * fabs(head.value[i]) * (head.error[i] > 0) +
                             CHECK_TINY);
    }
    turn_head(c, turn, p->borrowed != 0 && h % (p->n_head / p->n_kv) == 0, &head);
    for (uint32_t i = 0; i < p->d; i++) {
        uint64_t at = (uint64_t)row * p->qkv_stride + (uint64_t)h * p->d + i;
        kept_check_bound(c, QKV, at,
                         head.error[i] * p->q_scale + CHECK_TINY +
                             2 * CHECK_U * fabs(kept_check_want(c, QKV, at)));
    }
}

static void bound_kv(struct check_case *c, uint32_t row, uint32_t kv, uint64_t slot, int64_t turn)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    struct head head;
    begin_head(c, row, p->n_head + kv, &head);
    turn_head(c, turn, false, &head);
    kept_check_bound_slot(c, K_SLOTS, slot, head.value, head.error);
    begin_head(c, row, p->n_head + p->n_kv + kv, &head);
    if (kept_check_key(c, "VT") != KEPT_FMT_F16)
        kept_check_hadamard(head.value, head.error, p->d);
    kept_check_bound_slot(c, V_SLOTS, slot, head.value, head.error);
}

void kept_bound_slot_write(struct check_case *c)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    struct ref_rope rope = rope_of(c);
    uint32_t group = p->n_head / p->n_kv;
    for (uint32_t i = 0; i < c->live * p->n_kv; i++) {
        uint32_t row = p->row_first + i / p->n_kv, kv = i % p->n_kv;
        int32_t position = (int32_t)c->bind[STEP].before[KEPT_STEP_TOKENS + p->chunk + row];
        int64_t turn = position, slot = (int64_t)kv * p->cap + position % p->cap;
        bool stored = true;
        if (budgeted(c)) {
            struct ref_head h = ref_head_at(c->bind[HEADS].before, kv, p->cap);
            int64_t at = (int64_t)h.base + position - h.edge;
            turn -= h.shift;
            stored = position >= h.edge && at < h.cap;
            slot = h.first + at;
        }
        if (!ref_rope_has(&rope, turn))
            continue; /* nothing is written */
        for (uint32_t h = kv * group; h < (kv + 1) * group; h++)
            bound_q(c, row, h, position, turn);
        if (stored)
            bound_kv(c, row, kv, (uint64_t)slot, turn);
    }
}

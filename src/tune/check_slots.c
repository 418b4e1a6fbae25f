/* tune/check_slots.c: cases and bounds of slot_write.
 *
 * Exact: v without bias, and k without bias, norm and rotation, because both sides round the same
 * f32 to f16 (nearest even). Otherwise f32 errors e of an element (bias u; norm as in check_rows.c;
 * rotation: the angle is a product of two complex numbers, 4 u, and the rotated pair adds 4 more,
 * relative to |a| + |b|), and a stored f16 may fall to the other side: one f16 unit more.
 */
#include "tune/check_case.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/str.h"

enum { QKV, TABLE, BIAS, WQ, WK, K_SLOTS, V_SLOTS, HEADS, META, QUERIES, STEP };

#define MAX_D 256

void kept_keys_slot_write(struct check_case *c)
{
    kept_check_group(c, 16, 128);
    kept_check_set_key(c, "QKNORM", kept_check_range(c, 0, 1));
    kept_check_set_key(c, "BIAS", kept_check_range(c, 0, 1));
}

static void pick_slot_write(struct check_case *c)
{
    static const uint32_t ds[] = {32, 64, 64, 96, 128, 256};
    static const uint32_t groups[] = {1, 2, 3, 4, 7, 8};
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

/* Positions of a chunk: consecutive from anywhere, across the ring's end as it comes. */
static int32_t pick_position(struct check_case *c)
{
    if (c->model != NULL)
        return (int32_t)c->model->n_past;
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

void kept_gen_slot_write(struct check_case *c)
{
    struct kept_slot_write_params *p = &c->params.slot_write;
    pick_slot_write(c);
    int32_t position = pick_position(c);
    uint32_t *step =
        kept_check_step(c, STEP, c->model != NULL ? c->model->rows : 20, position, &p->chunk);
    uint32_t planned = kept_check_planned_rows(c), heads = p->n_head + 2 * p->n_kv;
    p->hi_bias = c->model == NULL && kept_check_chance(c, 30) ? kept_check_range(c, 1, 3) : 0;
    fill_table(c, ((uint32_t)position + p->chunk) / 256 + 1);
    float *qkv = kept_check_bind_f32(c, QKV, (uint64_t)planned * p->qkv_stride);
    float *bias = kept_check_bind_f32(c, BIAS, kept_check_key(c, "BIAS") ? heads * p->d : 16);
    float *wq = kept_check_bind_f32(c, WQ, kept_check_key(c, "QKNORM") ? p->d : 16);
    float *wk = kept_check_bind_f32(c, WK, kept_check_key(c, "QKNORM") ? p->d : 16);
    kept_check_bind(c, K_SLOTS, (uint64_t)p->n_kv * p->cap * p->d / 2);
    kept_check_bind(c, V_SLOTS, (uint64_t)p->n_kv * p->cap * p->d / 2);
    kept_check_bind(c, HEADS, 16);
    kept_check_bind(c, META, 16);
    kept_check_bind(c, QUERIES, 16);
    c->bind[K_SLOTS].half = c->bind[V_SLOTS].half = true;
    if (c->failed || step == NULL)
        return;
    for (uint32_t i = 0; kept_check_key(c, "BIAS") && i < heads * p->d; i++)
        bias[i] = kept_check_value(c, 1);
    for (uint32_t i = 0; kept_check_key(c, "QKNORM") && i < p->d; i++) {
        wq[i] = kept_check_value(c, 1);
        wk[i] = kept_check_value(c, 1);
    }
    float scale = kept_check_chance(c, 10) ? 3000 : 2; /* outliers then overflow f16 */
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++)
        for (uint32_t i = 0; i < heads * p->d; i++)
            qkv[(uint64_t)row * p->qkv_stride + i] = kept_check_value(c, scale);
    kept_snprintf(c->shape, sizeof c->shape,
                  "heads %u/%u, d %u, rot %u kind %u, cap %u, position %d", p->n_head, p->n_kv,
                  p->d, p->n_rot, p->rope_pairs, p->cap, position);
}

/* f32 errors of head h of a row, and magnitudes before rotation; 0 errors: exact. */
static void head_errors(const struct check_case *c, uint32_t row, uint32_t h, double *error)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    const float *v = (const float *)(const void *)c->bind[QKV].before +
                     (uint64_t)row * p->qkv_stride + (uint64_t)h * p->d;
    const float *bias = (const float *)(const void *)c->bind[BIAS].before + (uint64_t)h * p->d;
    const float *w = (const float *)(const void *)c->bind[h < p->n_head ? WQ : WK].before;
    bool is_v = h >= p->n_head + p->n_kv, normed = kept_check_key(c, "QKNORM") && !is_v;
    double value[MAX_D], sum = 0, errors = 0;
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
    bool adjacent = p->rope_pairs == KEPT_ROPE_ADJACENT;
    for (uint32_t i = 0; !is_v && i < p->n_rot / 2; i++) {
        uint32_t a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : i + p->n_rot / 2;
        double size = fabs(value[a]) + fabs(value[b]);
        error[a] = error[b] =
            error[a] + error[b] + 8 * CHECK_U * size + 2 * CHECK_TINY * (1 + size);
    }
}

static double f16_unit(double v)
{
    v = fabs(v);
    return v < 6.103515625e-5 ? 5.9604645e-8 : ldexp(1, (int)floor(log2(v)) - 10);
}

/* Bound of the stored half i_half of the binding; a value that could round past the largest f16 may
 * be infinite. */
static void bound_half(struct check_case *c, uint32_t i_bind, uint64_t i_half, double error)
{
    if (error == 0) { /* exact but for the sign of zero: below the smallest f16 */
        kept_check_bound(c, i_bind, i_half, 1e-9);
        return;
    }
    double want =
        kept_f16_to_f32((uint16_t)(c->bind[i_bind].want[i_half / 2] >> (16 * (i_half & 1))));
    bool edge = isinf(want) || fabs(want) + error > 65488;
    kept_check_bound(c, i_bind, i_half, edge ? CHECK_ANY : error + f16_unit(fabs(want) + error));
}

static uint64_t k_half(const struct check_case *c, uint32_t kv_head, uint32_t slot, uint32_t i)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    uint64_t tile = ((uint64_t)kv_head * p->cap + slot / 16 * 16) * p->d;
    uint32_t r = slot % 16, w = i % 8 / 2;
    uint32_t word = i / 8 * 64 + (kept_check_key(c, "ORDER") == KEPT_LANE ? r * 4 + w : w * 16 + r);
    return tile + 2 * word + i % 2;
}

void kept_bound_slot_write(struct check_case *c)
{
    const struct kept_slot_write_params *p = &c->params.slot_write;
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        uint32_t slot = c->bind[STEP].before[KEPT_STEP_TOKENS + p->chunk + row] % p->cap;
        for (uint32_t h = 0; h < p->n_head + 2 * p->n_kv; h++) {
            double error[MAX_D];
            head_errors(c, row, h, error);
            for (uint32_t i = 0; i < p->d; i++) {
                uint64_t at = (uint64_t)row * p->qkv_stride + (uint64_t)h * p->d + i;
                uint32_t kv = h - p->n_head;
                if (h < p->n_head)
                    kept_check_bound(c, QKV, at,
                                     error[i] * p->q_scale + CHECK_TINY +
                                         2 * CHECK_U * fabs(kept_check_want(c, QKV, at)));
                else if (kv < p->n_kv)
                    bound_half(c, K_SLOTS, k_half(c, kv, slot, i), error[i]);
                else
                    bound_half(c, V_SLOTS, ((uint64_t)(kv - p->n_kv) * p->cap + slot) * p->d + i,
                               error[i]);
            }
        }
    }
}

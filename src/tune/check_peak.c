/* tune/check_peak.c: cases and bounds of attn_peak.
 *
 * A candidate is q.k - (m + log l): a dot product (as in check_attn.c), a logarithm (Vulkan allows
 * 3 units, and 2^-21 near 1; OpenCL 3 units), and sums of the four numbers, 2 u of each. The
 * largest of candidates is off by at most the largest error of any of them; of a sum of weights
 * each is off by what its logarithm is and by the exponential's own error.
 */
#include "tune/check_case.h"

#include <math.h>

#include "base/str.h"

enum { QKV, K_SLOTS, PART, PEAK, STEP };

#define MAX_D 256

void kept_keys_attn_peak(struct check_case *c)
{
    static const uint32_t ds[] = {32, 64, 64, 96, 128, 256};
    kept_check_group(c, 16, 128);
    kept_check_set_key(c, "D", kept_check_pick(c, ds, 6));
    kept_check_set_key(c, "SUM", kept_check_range(c, 0, 1));
}

static void pick_peak(struct check_case *c)
{
    static const uint32_t groups[] = {1, 2, 3, 4, 8, 9};
    struct kept_peak_params *p = &c->params.peak;
    const struct check_model *m = c->model;
    p->d = c->keys[KEPT_KEY_ATTN_D];
    p->n_kv = m != NULL ? m->n_kv : kept_check_range(c, 1, 4);
    p->n_head = m != NULL ? m->n_head : p->n_kv * kept_check_pick(c, groups, 6);
    p->q_stride =
        (p->n_head + 2 * p->n_kv) * p->d + (m != NULL ? 0 : 4 * kept_check_range(c, 0, 2));
    p->cap = 64 * (m != NULL ? (m->n_past + m->rows + 63) / 64 : kept_check_range(c, 1, 4));
    p->n_slots = m != NULL ? m->n_past : kept_check_range(c, 1, p->cap);
    p->after = kept_check_chance(c, 50) ? 0 : kept_check_range(c, 1, 100);
}

/* Queries, and of their partial results what is read: m and l. */
static void fill_row(struct check_case *c, uint32_t row)
{
    const struct kept_peak_params *p = &c->params.peak;
    float *q = (float *)(void *)c->bind[QKV].before + (uint64_t)row * p->q_stride;
    float *part = (float *)(void *)c->bind[PART].before + (uint64_t)row * p->n_head * (p->d + 4);
    for (uint32_t i = 0; i < p->n_head * p->d; i++)
        q[i] = kept_check_value(c, 0.5f);
    for (uint32_t h = 0; h < p->n_head; h++, part += p->d + 4) {
        part[0] = kept_check_value(c, kept_check_chance(c, 20) ? 80 : 5);
        part[1] = 1 + 200 * fabsf(kept_check_unit(c));
        part[1] = kept_check_chance(c, 10) ? 1 : part[1];
    }
}

void kept_gen_attn_peak(struct check_case *c)
{
    struct kept_peak_params *p = &c->params.peak;
    pick_peak(c);
    struct ref_slots k = {NULL, KEPT_FMT_F16, c->keys[KEPT_KEY_ORDER], p->d};
    kept_check_step(c, STEP, c->model != NULL ? c->model->rows : 20,
                    (int32_t)kept_check_range(c, 0, p->n_slots + 8), &p->chunk);
    uint64_t planned = kept_check_planned_rows(c), slots = (uint64_t)p->n_kv * p->cap;
    kept_check_bind(c, QKV, planned * p->q_stride);
    kept_check_bind_slots(c, K_SLOTS, k, slots);
    kept_check_bind(c, PART, planned * p->n_head * (p->d + 4));
    float *peak = kept_check_bind_f32(c, PEAK, (uint64_t)p->n_kv * p->n_slots);
    if (c->failed)
        return;
    kept_check_fill_slots(c, K_SLOTS, 2);
    for (uint64_t s = 0; s < slots; s++) /* slots that have no peak */
        if (s % p->cap >= p->n_slots)
            kept_check_spoil_slot(c, K_SLOTS, s);
    for (uint32_t i = 0; i < p->n_kv * p->n_slots; i++)
        peak[i] = kept_check_key(c, "SUM") != 0 ? fabsf(kept_check_value(c, 0.1f))
                  : kept_check_chance(c, 50)    ? -INFINITY
                                                : kept_check_value(c, 5);
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++)
        fill_row(c, row);
    c->live_slots = p->n_slots;
    kept_snprintf(c->shape, sizeof c->shape, "heads %u/%u, d %u, cap %u, slots %u, after %u",
                  p->n_head, p->n_kv, p->d, p->cap, p->n_slots, p->after);
}

/* *value: the candidate itself. */
static double candidate_error(const struct check_case *c, uint32_t row, uint32_t head,
                              const double *k, double *value)
{
    const struct kept_peak_params *p = &c->params.peak;
    const float *q = (const float *)(const void *)c->bind[QKV].before +
                     (uint64_t)row * p->q_stride + (uint64_t)head * p->d;
    const float *part = (const float *)(const void *)c->bind[PART].before +
                        ((uint64_t)row * p->n_head + head) * (p->d + 4);
    double s = 0, size = 0, log_l = log(part[1]);
    for (uint32_t i = 0; i < p->d; i++) {
        s += q[i] * k[i];
        size += fabs(q[i] * k[i]);
    }
    *value = s - part[0] - log_l;
    return (4 * sqrt(p->d) + 8) * CHECK_U * size + p->d * CHECK_TINY * 64 + ldexp(1, -21) +
           6 * CHECK_U * fabs(log_l) +
           2 * CHECK_U * (fabs(s) + fabs(part[0]) + fabs(log_l) + fabs(s - part[0] - log_l));
}

static double sum_bound(const struct check_case *c, uint32_t i, const double *k)
{
    const struct kept_peak_params *p = &c->params.peak;
    const uint32_t *positions = c->bind[STEP].before + KEPT_STEP_TOKENS + p->chunk + p->row_first;
    uint32_t group = p->n_head / p->n_kv, kv = i / p->n_slots, counted = 0;
    double bound = 0, value;
    for (uint32_t t = 0; t < c->live * group; t++) {
        uint32_t at = positions[t / group];
        if (at <= i % p->n_slots + p->after || at >= p->n_slots)
            continue;
        double error =
            candidate_error(c, p->row_first + t / group, kv * group + t % group, k, &value);
        double low = fmin(0, value);
        bound +=
            fmin(1, exp(fmin(0, low + error)) * (expm1(error) + 2 * kept_check_exp_bound(low))) +
            2 * CHECK_TINY;
        counted++;
    }
    return c->live == 0 ? 0
                        : bound + 2 * CHECK_TINY +
                              (counted + 2) * CHECK_U * fabs(kept_check_want(c, PEAK, i));
}

void kept_bound_attn_peak(struct check_case *c)
{
    const struct kept_peak_params *p = &c->params.peak;
    uint32_t group = p->n_head / p->n_kv;
    for (uint32_t i = 0; i < p->n_kv * p->n_slots; i++) {
        uint32_t kv = i / p->n_slots;
        double k[MAX_D], amp[MAX_D], bound = 0, value;
        kept_check_slot(c, K_SLOTS, (uint64_t)kv * p->cap + i % p->n_slots, k, amp);
        if (kept_check_key(c, "SUM") != 0) {
            bound = sum_bound(c, i, k);
            if (bound > 0)
                kept_check_bound(c, PEAK, i, bound);
            continue;
        }
        for (uint32_t t = 0; t < c->live * group; t++)
            bound = fmax(bound, candidate_error(c, p->row_first + t / group, kv * group + t % group,
                                                k, &value));
        if (bound > 0)
            kept_check_bound(c, PEAK, i, bound + CHECK_U * fabs(kept_check_want(c, PEAK, i)));
    }
}

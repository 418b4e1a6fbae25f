/* tune/check_merge.c: cases and bounds of the merge of partial results of attention.
 *
 * The output is a weighted mean of what the parts hold, so its bound is that of check_attn.c with
 * parts for slots: the weights are exp(m - M), the sums have `parts` terms. Cases: a few rows of
 * many splits, and the rows of a chunk with a part of each of two segments, one of them often
 * empty.
 */
#include "tune/check_case.h"

#include <math.h>

#include "base/str.h"

#define MAX_D      256
#define CHUNK_ROWS 512 /* of prefill */

void kept_keys_attn_merge(struct check_case *c)
{
    kept_check_group(c, 16, 128);
    kept_check_set_key(c, "VROT", kept_check_range(c, 0, 1));
}

static void fill_part(struct check_case *c, float *part, uint32_t d, bool empty)
{
    part[0] = empty ? -INFINITY : kept_check_value(c, kept_check_chance(c, 20) ? 80 : 5);
    part[1] = empty ? 0 : 1 + 20 * fabsf(kept_check_unit(c));
    for (uint32_t i = 0; i < d; i++)
        part[4 + i] = empty ? 0 : part[1] * kept_check_value(c, 2);
}

void kept_gen_attn_merge(struct check_case *c)
{
    static const uint32_t ds[] = {32, 64, 64, 96, 128, 256};
    struct kept_merge_params *p = &c->params.merge;
    const struct check_model *m = c->model;
    bool chunk = m == NULL && kept_check_chance(c, 10);
    p->d = m != NULL ? m->d : kept_check_pick(c, ds, chunk ? 4 : 6);
    p->n_head = m != NULL ? m->n_head : kept_check_range(c, 1, chunk ? 4 : 12);
    p->parts = m != NULL ? 4 : chunk ? 2 : kept_check_range(c, 1, 40);
    p->out_stride =
        KEPT_ACT_STRIDE(p->n_head * p->d) + (m != NULL ? 0 : 4 * kept_check_range(c, 0, 2));
    kept_check_step(c, 2, m != NULL ? m->rows : chunk ? CHUNK_ROWS : 9, 0, NULL);
    uint32_t planned = kept_check_planned_rows(c);
    uint64_t heads = (uint64_t)planned * p->n_head;
    float *part = kept_check_bind_f32(c, 0, heads * p->parts * (p->d + 4));
    kept_check_bind(c, 1, (uint64_t)planned * p->out_stride);
    if (c->failed)
        return;
    for (uint64_t head = (uint64_t)p->row_first * p->n_head;
         head < (uint64_t)(p->row_first + c->live) * p->n_head; head++) {
        bool all_empty = kept_check_chance(c, 10);
        for (uint32_t i = 0; i < p->parts; i++)
            fill_part(c, part + (head * p->parts + i) * (p->d + 4), p->d,
                      all_empty || kept_check_chance(c, chunk ? 40 : 20));
    }
    kept_snprintf(c->shape, sizeof c->shape, "heads %u, d %u, parts %u", p->n_head, p->d, p->parts);
}

static void merge_bounds(struct check_case *c, const float *part, uint64_t at)
{
    const struct kept_merge_params *p = &c->params.merge;
    size_t stride = p->d + 4;
    double m = -INFINITY, l = 0, out[MAX_D], bound[MAX_D];
    for (uint32_t i = 0; i < p->parts; i++)
        m = fmax(m, part[i * stride]);
    for (uint32_t i = 0; m > -INFINITY && i < p->parts; i++)
        l += exp(part[i * stride] - m) * part[i * stride + 1];
    if (l == 0)
        return; /* exactly 0 */
    for (uint32_t k = 0; k < p->d; k++) {
        out[k] = 0;
        for (uint32_t i = 0; i < p->parts; i++)
            out[k] += exp(part[i * stride] - m) / l * part[i * stride + 4 + k];
        bound[k] = 4 * CHECK_U * fabs(out[k]) + 2 * CHECK_TINY;
        for (uint32_t i = 0; i < p->parts; i++) {
            double w = exp(part[i * stride] - m), o = fabs(part[i * stride + 4 + k]);
            double relative =
                isinf(part[i * stride]) ? 0 : 2 * kept_check_exp_bound(part[i * stride] - m);
            relative += (4 * sqrt(p->parts) + 4) * CHECK_U;
            bound[k] += (w * relative + 2 * CHECK_TINY) / l * /* TINY: a weight flushed to zero */
                        (o + fabs(out[k]) * part[i * stride + 1]);
        }
    }
    if (kept_check_key(c, "VROT") != 0)
        kept_check_hadamard(out, bound, p->d);
    for (uint32_t k = 0; k < p->d; k++)
        kept_check_bound(c, 1, at + k, bound[k]);
}

void kept_bound_attn_merge(struct check_case *c)
{
    const struct kept_merge_params *p = &c->params.merge;
    const float *part = (const float *)(const void *)c->bind[0].before;
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        uint64_t out = (uint64_t)row * p->out_stride;
        for (uint32_t head = 0; head < p->n_head; head++)
            merge_bounds(c, part + ((uint64_t)row * p->n_head + head) * p->parts * (p->d + 4),
                         out + (uint64_t)head * p->d);
        kept_check_bound_sums(c, 1, out, out + (uint64_t)p->n_head * p->d, p->n_head * p->d);
    }
}

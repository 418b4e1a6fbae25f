/* tune/check_birth.c: cases and bounds of slot_birth.
 *
 * Two roundings of a sum and one or two of a product and a sum: 4 u of the sizes added up. Whether
 * a token is evicted is compared bit for bit: decisions keep a distance from 0 or are exactly 0.
 */
#include <math.h>

#include "base/str.h"
#include "tune/check_maintain.h"

enum { ALPHA, BIAS, SCORES, META, HEADS, STEP };

#define MAX_ROWS 150u

void kept_keys_slot_birth(struct check_case *c)
{
    kept_check_group(c, 16, 256);
    kept_check_set_key(c, "BIAS", kept_check_range(c, 0, 1));
    kept_check_set_key(c, "DMS", kept_check_range(c, 0, 1));
}

static void pick_birth(struct check_case *c)
{
    static const uint32_t windows[] = {1, 16, 128, 512, 1u << 20};
    struct kept_birth_params *p = &c->params.birth;
    const struct check_model *m = c->model;
    p->n_kv = m != NULL ? m->n_kv : kept_check_range(c, 1, 9);
    p->alpha_step = m != NULL ? 1 : kept_check_range(c, 1, 40);
    p->alpha_first = m != NULL ? 0 : kept_check_range(c, 0, 31);
    p->alpha_stride = p->alpha_first + p->n_kv * p->alpha_step + kept_check_range(c, 0, 5);
    p->alpha_rows = m == NULL && kept_check_chance(c, 40) ? 64 * kept_check_range(c, 1, 4) : 0;
    p->shift = kept_check_range(c, 0, 1);
    p->window = kept_check_pick(c, windows, 5);
    p->scale = kept_check_chance(c, 50) ? 100 : 1;
    p->offset = kept_check_chance(c, 50) ? -5 : 0;
}

/* Heads with rows before EDGE, in the extent, at its ends and past it. */
static void fill_heads(struct check_case *c, int32_t position)
{
    struct kept_birth_params *p = &c->params.birth;
    p->total = kept_check_heads(c, HEADS, p->n_kv, 256);
    for (uint32_t i = 0; !c->failed && i < p->n_kv; i++) {
        uint32_t *h = c->bind[HEADS].before + (uint64_t)i * KEPT_HEAD_WORDS;
        int32_t edge = position - (int32_t)kept_check_range(c, 0, 100);
        if (kept_check_chance(c, 40)) /* the first row is the first since EDGE, or one of few */
            edge = position + (int32_t)kept_check_range(c, 0, 3);
        h[KEPT_HEAD_EDGE] = (uint32_t)(edge > 0 ? edge : 0);
        h[KEPT_HEAD_BASE] =
            kept_check_chance(c, 30) ? 0 : kept_check_range(c, 0, h[KEPT_HEAD_CAP] + 1);
    }
}

static double decision(const struct check_case *c, uint32_t row, uint32_t h, double *size)
{
    const struct kept_birth_params *p = &c->params.birth;
    const float *alpha = (const float *)(const void *)c->bind[ALPHA].before;
    const float *bias = (const float *)(const void *)c->bind[BIAS].before;
    uint32_t position = c->bind[STEP].before[KEPT_STEP_TOKENS + p->chunk + row];
    uint64_t x = p->alpha_rows != 0 ? position % p->alpha_rows : row;
    double v = alpha[x * p->alpha_stride + p->alpha_first + (uint64_t)h * p->alpha_step];
    double b = kept_check_key(c, "BIAS") ? bias[h] : 0;
    *size = (fabs(v) + fabs(b)) * p->scale + fabs(p->offset);
    return (v + b) * p->scale + p->offset;
}

void kept_gen_slot_birth(struct check_case *c)
{
    struct kept_birth_params *p = &c->params.birth;
    int32_t position = (int32_t)(c->model != NULL ? c->model->n_past : kept_check_range(c, 0, 700));
    pick_birth(c);
    kept_check_step(c, STEP, c->model != NULL ? c->model->rows : MAX_ROWS, position, &p->chunk);
    uint32_t rows = p->alpha_rows != 0 ? p->alpha_rows : kept_check_planned_rows(c);
    fill_heads(c, position);
    float *alpha = kept_check_bind_f32(c, ALPHA, (uint64_t)rows * p->alpha_stride);
    float *bias = kept_check_bind_f32(c, BIAS, kept_check_key(c, "BIAS") ? p->n_kv : 16);
    kept_check_bind(c, SCORES, 2ull * p->total);
    kept_check_bind(c, META, kept_check_key(c, "DMS") ? 3ull * p->total : 16);
    for (uint32_t h = 0; !c->failed && kept_check_key(c, "BIAS") && h < p->n_kv; h++)
        bias[h] = kept_check_unit(c);
    for (uint64_t i = 0; !c->failed && i < (uint64_t)rows * p->alpha_stride; i++)
        alpha[i] = kept_check_unit(c);
    for (uint32_t i = 0; !c->failed && i < c->live * p->n_kv; i++) {
        uint32_t row = p->row_first + i / p->n_kv, h = i % p->n_kv;
        uint32_t at = c->bind[STEP].before[KEPT_STEP_TOKENS + p->chunk + row];
        uint64_t x = p->alpha_rows != 0 ? at % p->alpha_rows : row;
        float *own = &alpha[x * p->alpha_stride + p->alpha_first + h * p->alpha_step];
        double size, a = decision(c, row, h, &size);
        if (fabs(a) < 1e-4 * size) /* too close to call */
            *own = 3;
        if (kept_check_chance(c, 3))
            *own = kept_check_chance(c, 50) ? NAN : INFINITY;
    }
    kept_snprintf(c->shape, sizeof c->shape, "%u KV heads, position %d, shift %u, window %u",
                  p->n_kv, position, p->shift, p->window);
}

void kept_bound_slot_birth(struct check_case *c)
{
    const struct kept_birth_params *p = &c->params.birth;
    for (uint32_t i = 0; i < c->live * p->n_kv; i++) {
        uint32_t row = p->row_first + i / p->n_kv, h = i % p->n_kv;
        struct ref_head head = kept_check_head_before(c, HEADS, h, p->total);
        int32_t position = (int32_t)c->bind[STEP].before[KEPT_STEP_TOKENS + p->chunk + row];
        int64_t at = (int64_t)ref_min(head.base, head.cap) + position - head.edge - p->shift;
        double size;
        if (position < head.edge || at < 0 || at >= head.cap)
            continue;
        double a = decision(c, row, h, &size);
        kept_check_bound(c, SCORES, head.first + (uint64_t)at,
                         isfinite(a) ? 4 * CHECK_U * size + CHECK_TINY : 1);
    }
}

/* tune/check_rows.c: cases and bounds of the kernels that work on rows alone: norm, glu, argmax.
 *
 * norm: the mean of k squares has a relative error of sqrt(k) u like any sum (check_matmul.c has
 * the argument; all terms are positive, so it is relative to the result), halved by the root; root,
 * division and two products add 8 u. With the residual in front, both sides round the sum, and its
 * error enters the mean and the element. glu: see kept_check_act_bound. argmax: exact. With a soft
 * cap the rewritten logits have the error of tanh, and which of two near equals is larger may
 * change; the choice must then be the first largest of the logits as the device wrote them.
 */
#include "tune/check_case.h"

#include <math.h>
#include <string.h>

#include "base/str.h"

static const float *f32_before(const struct check_case *c, uint32_t i_bind)
{
    return (const float *)(const void *)c->bind[i_bind].before;
}

/* ---- norm ---- */

enum { NORM_X, NORM_Y, NORM_W_POST, NORM_W, NORM_OUT, NORM_STEP };

void kept_keys_norm(struct check_case *c)
{
    kept_check_group(c, 16, 256);
    kept_check_set_key(c, "MODE", kept_check_range(c, 0, 2));
}

static void fill(struct check_case *c, float *to, uint32_t n, float scale)
{
    for (uint32_t i = 0; i < n; i++)
        to[i] = kept_check_value(c, scale);
}

void kept_gen_norm(struct check_case *c)
{
    static const float scales[] = {1, 1, 1, 1e-20f, 1e4f};
    struct kept_norm_params *p = &c->params.norm;
    bool bench = c->model != NULL;
    uint32_t mode = c->keys[KEPT_KEY_NORM_MODE];
    p->k = bench ? c->model->k : kept_check_k(c, KEPT_FORMAT_F32);
    p->x_stride = p->k + (bench ? 0 : 4 * kept_check_range(c, 0, 2));
    p->y_stride = p->k + (bench ? 0 : 4 * kept_check_range(c, 0, 2));
    p->out_stride = KEPT_ACT_STRIDE(p->k) + (bench ? 0 : 4 * kept_check_range(c, 0, 2));
    p->eps = kept_check_chance(c, 50) ? 1e-5f : 1e-6f;
    p->first_at = !bench && kept_check_chance(c, 30) ? KEPT_STEP_OUT_FIRST : KEPT_STEP_ZERO;
    uint32_t *step = kept_check_step(c, NORM_STEP, bench ? c->model->rows : 20, 0, NULL);
    uint32_t planned = kept_check_planned_rows(c);
    uint32_t first = p->first_at == KEPT_STEP_ZERO ? 0 : kept_check_range(c, 0, 4);
    if (step != NULL && p->first_at != KEPT_STEP_ZERO)
        step[p->first_at] = first;
    uint32_t rows = first + planned;
    float *x = kept_check_bind_f32(c, NORM_X, (uint64_t)rows * p->x_stride);
    float *y = kept_check_bind_f32(c, NORM_Y, mode != 0 ? (uint64_t)rows * p->y_stride : 16);
    float *w_post = kept_check_bind_f32(c, NORM_W_POST, mode != 0 ? p->k : 16);
    float *w = kept_check_bind_f32(c, NORM_W, mode != 2 ? p->k : 16);
    kept_check_bind(c, NORM_OUT, mode != 2 ? (uint64_t)planned * p->out_stride : 16);
    if (c->failed)
        return;
    if (mode != 0)
        fill(c, w_post, p->k, 1);
    if (mode != 2)
        fill(c, w, p->k, 1);
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        float scale = scales[kept_check_range(c, 0, 4)];
        bool zero = kept_check_chance(c, 5);
        fill(c, x + (uint64_t)(first + row) * p->x_stride, p->k, zero ? 0 : scale);
        if (mode != 0)
            fill(c, y + (uint64_t)(first + row) * p->y_stride, p->k, zero ? 0 : scale);
    }
    kept_snprintf(c->shape, sizeof c->shape, "k %u, rows from %u", p->k, first);
}

/* 1 / sqrt(mean + eps), and its relative error from that of the elements (`errors`, absolute; NULL:
 * none). */
static double norm_factor(const struct kept_norm_params *p, const float *v, const float *errors,
                          double *relative)
{
    double sum = 0, error = 0;
    for (uint32_t i = 0; i < p->k; i++) {
        sum += (double)v[i] * v[i];
        error += errors == NULL ? 0 : 2 * fabs(v[i]) * errors[i];
    }
    double mean = sum / p->k + p->eps;
    *relative = (0.5 * sqrt(p->k) + 8) * CHECK_U + 0.5 * error / p->k / mean;
    return 1 / sqrt(mean);
}

void kept_bound_norm(struct check_case *c)
{
    const struct kept_norm_params *p = &c->params.norm;
    uint32_t mode = c->keys[KEPT_KEY_NORM_MODE], first = c->bind[NORM_STEP].before[p->first_at];
    const float *x_want = (const float *)(const void *)c->bind[NORM_X].want;
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        uint64_t at_x = (uint64_t)(first + row) * p->x_stride;
        uint64_t at_out = (uint64_t)row * p->out_stride;
        const float *y = f32_before(c, NORM_Y) + (uint64_t)(first + row) * p->y_stride;
        const float *w_post = f32_before(c, NORM_W_POST), *w = f32_before(c, NORM_W);
        double relative, f;
        for (uint32_t i = 0; mode != 0 && i < p->k; i++) {
            if (i == 0)
                f = norm_factor(p, y, NULL, &relative);
            double added = fabs(y[i] * f * w_post[i]);
            kept_check_bound(c, NORM_X, at_x + i,
                             added * relative + 2 * CHECK_U * fabs(x_want[at_x + i]) +
                                 2 * CHECK_TINY * (1 + f) * (1 + fabs(w_post[i])));
        }
        if (mode == 2)
            continue;
        const float *errors = mode == 1 ? c->bind[NORM_X].bound + at_x : NULL;
        f = norm_factor(p, x_want + at_x, errors, &relative);
        for (uint32_t i = 0; i < p->k; i++) {
            double error = errors != NULL ? errors[i] : 0;
            double out = fabs(kept_check_want(c, NORM_OUT, at_out + i));
            kept_check_bound(c, NORM_OUT, at_out + i,
                             out * relative +
                                 (error * f + 2 * CHECK_TINY * (1 + f)) * (1 + fabs(w[i])));
        }
        kept_check_bound_sums(c, NORM_OUT, at_out, at_out + p->k, p->k);
    }
}

/* ---- glu ---- */

void kept_keys_glu(struct check_case *c)
{
    kept_check_group(c, 16, 256);
    kept_check_set_key(c, "ACT", kept_check_range(c, 0, 1));
}

void kept_gen_glu(struct check_case *c)
{
    struct kept_glu_params *p = &c->params.glu;
    bool bench = c->model != NULL;
    p->n = bench ? c->model->n_ff : 16 * kept_check_range(c, 1, kept_check_chance(c, 50) ? 4 : 60);
    p->x_stride = 2 * p->n + (bench ? 0 : 4 * kept_check_range(c, 0, 2));
    p->out_stride = KEPT_ACT_STRIDE(p->n) + (bench ? 0 : 4 * kept_check_range(c, 0, 2));
    kept_check_step(c, 2, bench ? c->model->rows : 20, 0, NULL);
    uint32_t planned = kept_check_planned_rows(c);
    float *x = kept_check_bind_f32(c, 0, (uint64_t)planned * p->x_stride);
    kept_check_bind(c, 1, (uint64_t)planned * p->out_stride);
    if (c->failed)
        return;
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++)
        fill(c, x + (uint64_t)row * p->x_stride, 2 * p->n, kept_check_chance(c, 20) ? 100 : 3);
    kept_snprintf(c->shape, sizeof c->shape, "n %u", p->n);
}

void kept_bound_glu(struct check_case *c)
{
    const struct kept_glu_params *p = &c->params.glu;
    bool gelu = c->keys[KEPT_KEY_GLU_ACT] != 0;
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        const float *x = f32_before(c, 0) + (uint64_t)row * p->x_stride;
        uint64_t out = (uint64_t)row * p->out_stride;
        for (uint32_t i = 0; i < p->n; i++)
            kept_check_bound(c, 1, out + i,
                             kept_check_act_bound(x[i], gelu) * fabs(x[p->n + i]) +
                                 4 * CHECK_U * fabs(kept_check_want(c, 1, out + i)) + CHECK_TINY);
        kept_check_bound_sums(c, 1, out, out + p->n, p->n);
    }
}

/* ---- argmax ---- */

void kept_keys_argmax(struct check_case *c)
{
    kept_check_group(c, 16, 256);
}

/* Equal largest values, NaN among them, rows of -inf, of NaN and of one value. */
static void fill_logits(struct check_case *c, float *v, uint32_t n, bool odd_values)
{
    uint32_t kind = odd_values ? kept_check_range(c, 0, 9) : 9;
    for (uint32_t i = 0; i < n; i++) {
        v[i] = kept_check_value(c, 10);
        if (kind == 0)
            v[i] = -INFINITY;
        else if (kind == 1 || (kind == 2 && kept_check_chance(c, 30)))
            v[i] = NAN;
        else if (kind == 3)
            v[i] = -7.5f;
        else if (kind == 4)
            v[i] = floorf(v[i] / 4);
        else if (kind == 5 && kept_check_chance(c, 5))
            v[i] = INFINITY;
        else if (kind == 6 && i + 1 == n)
            v[i] = 1e30f;
        else if (kind == 7 && i > 0)
            v[i] = i % 2 ? NAN : -INFINITY;
    }
}

void kept_gen_argmax(struct check_case *c)
{
    struct kept_argmax_params *p = &c->params.argmax;
    bool bench = c->model != NULL;
    p->n = bench ? c->model->n_vocab : kept_check_range(c, 1, kept_check_chance(c, 40) ? 40 : 3000);
    if (!bench && kept_check_chance(c, 5))
        p->n = 49152 + kept_check_range(c, 0, 20);
    p->stride = p->n + (bench ? 0 : kept_check_range(c, 0, 5));
    p->softcap = !bench && kept_check_chance(c, 35) ? 30.0f : 0;
    kept_check_step(c, 2, bench ? 1 : 6, 0, NULL);
    uint32_t planned = kept_check_planned_rows(c);
    float *logits = kept_check_bind_f32(c, 0, (uint64_t)planned * p->stride);
    kept_check_bind(c, 1, (uint64_t)planned * 2);
    if (c->failed)
        return;
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++)
        fill_logits(c, logits + (uint64_t)row * p->stride, p->n, p->softcap == 0 && !bench);
    kept_snprintf(c->shape, sizeof c->shape, "n %u, softcap %g", p->n, p->softcap);
}

void kept_bound_argmax(struct check_case *c)
{
    const struct kept_argmax_params *p = &c->params.argmax;
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        const float *v = f32_before(c, 0) + (uint64_t)row * p->stride;
        bool all_nan = true;
        for (uint32_t i = 0; i < p->n; i++) {
            all_nan = all_nan && isnan(v[i]);
            if (p->softcap > 0)
                kept_check_bound(c, 0, (uint64_t)row * p->stride + i,
                                 kept_check_tanh_bound(v[i], p->softcap));
        }
        if (all_nan) /* whose bits, nobody needs */
            kept_check_bound(c, 1, 2 * (uint64_t)row + 1, CHECK_ANY);
    }
}

void kept_canon_argmax(const struct check_case *c, uint32_t *const *bind)
{
    const struct kept_argmax_params *p = &c->params.argmax;
    for (uint32_t row = p->row_first; p->softcap > 0 && row < p->row_first + c->live; row++) {
        const float *v = (const float *)(const void *)bind[0] + (uint64_t)row * p->stride;
        uint32_t *out = bind[1] + 2 * (uint64_t)row, best = 0;
        for (uint32_t i = 0; i < p->n; i++)
            if (v[i] > v[best])
                best = i;
        if (out[0] == best && memcmp(&out[1], &v[best], 4) == 0)
            out[0] = out[1] = 0; /* right for these logits, which are compared by themselves */
        else
            out[0] = best == 0 ? UINT32_MAX : out[0];
    }
}

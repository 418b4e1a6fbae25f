/* kernel/ref/ref_norm.c: references of norm and glu: one row at a time. */
#include "kernel/ref/ref.h"

#include <math.h>

#include "kernel/ref/ref_rows.h"

static double norm_factor(const float *v, uint32_t k, float eps)
{
    double sum = 0;
    for (uint32_t i = 0; i < k; i++)
        sum += (double)v[i] * v[i];
    return 1 / sqrt(sum / k + eps);
}

void ref_norm(const struct kept_host_call *call)
{
    const struct kept_norm_params *p = call->params;
    const float *w_post = (const float *)call->bind[2], *w = (const float *)call->bind[3];
    const uint32_t *step = (const uint32_t *)call->bind[5];
    uint32_t mode = call->keys[KEPT_KEY_NORM_MODE];
    uint32_t live = kept_live_rows(p, step);
    uint64_t first = step[p->first_at];
    for (uint32_t i = 0; i < live; i++) {
        uint64_t row = p->row_first + i, from = first + row;
        if ((from * p->x_stride + p->k) * 4 > call->bind_bytes[0])
            return;
        float *x = (float *)call->bind[0] + from * p->x_stride;
        if (mode != 0) {
            if ((from * p->y_stride + p->k) * 4 > call->bind_bytes[1])
                return;
            const float *y = (const float *)call->bind[1] + from * p->y_stride;
            double f = norm_factor(y, p->k, p->eps);
            for (uint32_t k = 0; k < p->k; k++)
                x[k] = (float)(x[k] + y[k] * f * w_post[k]);
        }
        if (mode != 2) {
            float *out = (float *)call->bind[4] + row * p->out_stride;
            double f = norm_factor(x, p->k, p->eps);
            for (uint32_t k = 0; k < p->k; k++)
                out[k] = (float)(x[k] * f * w[k]);
            ref_sums(out, p->k);
        }
    }
}

void ref_glu(const struct kept_host_call *call)
{
    const struct kept_glu_params *p = call->params;
    uint32_t live = kept_live_rows(p, (const uint32_t *)call->bind[2]);
    for (uint32_t i = 0; i < live; i++) {
        size_t row = p->row_first + i;
        const float *x = (const float *)call->bind[0] + row * p->x_stride;
        float *out = (float *)call->bind[1] + row * p->out_stride;
        for (uint32_t k = 0; k < p->n; k++) {
            double act = call->keys[KEPT_KEY_GLU_ACT] == 0 ? ref_silu(x[k]) : ref_gelu(x[k]);
            out[k] = (float)(act * x[p->n + k]);
        }
        ref_sums(out, p->n);
    }
}

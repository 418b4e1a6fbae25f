/* kernel/ref/ref_argmax.c: reference of argmax. The soft cap is computed in f32, because what is
 * compared is what is stored. */
#include "kernel/ref/ref.h"

#include <math.h>
#include <string.h>

void ref_argmax(const struct kept_host_call *call)
{
    const struct kept_argmax_params *p = call->params;
    uint32_t *out = (uint32_t *)call->bind[1];
    uint32_t live = kept_live_rows(p, (const uint32_t *)call->bind[2]);
    for (uint32_t i = 0; i < live; i++) {
        size_t row = p->row_first + i;
        float *v = (float *)call->bind[0] + row * p->stride;
        uint32_t best = 0;
        for (uint32_t k = 0; k < p->n; k++) {
            if (p->softcap > 0)
                v[k] = p->softcap * tanhf(v[k] / p->softcap);
            if (v[k] > v[best] || (isnan(v[best]) && !isnan(v[k])))
                best = k;
        }
        out[row * 2] = best;
        memcpy(&out[row * 2 + 1], &v[best], 4);
    }
}

/* kernel/ref/ref_birth.c: reference of slot_birth: scores, and how long a token can be seen,
 * decided when it is written.
 */
#include "kernel/ref/ref.h"

#include "kernel/ref/ref_slots.h"

/* What the row at `position` decides for the KV head. */
static void decide(const struct kept_host_call *call, uint32_t kv_head, int32_t position, double a)
{
    const struct kept_birth_params *p = call->params;
    struct ref_head head = ref_head_at((const uint32_t *)call->bind[4], kv_head, p->total);
    uint32_t base = head.base < head.cap ? head.base : head.cap;
    int64_t at = (int64_t)base + position - head.edge - p->shift;
    if (position < head.edge || at < 0 || at >= head.cap)
        return;
    uint64_t slot = head.first + (uint64_t)at;
    bool dms = call->keys[KEPT_KEY_BIRTH_DMS] != 0;
    int64_t until = (int64_t)position - p->shift + p->window + 1;
    ((float *)call->bind[2])[slot] = (float)(dms ? -a : a);
    if (dms)
        ((int32_t *)call->bind[3])[REF_UNTIL(p->total, slot)] = a > 0 ? (int32_t)until : INT32_MAX;
}

void ref_slot_birth(const struct kept_host_call *call)
{
    const struct kept_birth_params *p = call->params;
    const uint32_t *step = (const uint32_t *)call->bind[5];
    const float *alpha = (const float *)call->bind[0], *bias = (const float *)call->bind[1];
    bool biased = call->keys[KEPT_KEY_BIRTH_BIAS] != 0;
    uint32_t live = kept_live_rows(p, step);
    for (uint32_t row = p->row_first; row < p->row_first + live; row++) {
        int32_t position = (int32_t)step[KEPT_STEP_TOKENS + p->chunk + row];
        uint64_t x = p->alpha_rows != 0 ? (uint32_t)position % p->alpha_rows : row;
        for (uint32_t h = 0; h < p->n_kv; h++) {
            uint64_t at = x * p->alpha_stride + p->alpha_first + (uint64_t)h * p->alpha_step;
            double v = (double)alpha[at] + (biased ? (double)bias[h] : 0);
            decide(call, h, position, v * p->scale + p->offset);
        }
    }
}

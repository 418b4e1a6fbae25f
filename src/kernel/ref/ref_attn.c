/* kernel/ref/ref_attn.c: references of attention: decode (partial results of each split), prefill,
 * merge.
 *
 * One query head against one range of slots is a list of (slot, score), two passes: the maximum,
 * then the sums. Slots are visited through `visit`, which knows the two addressings (GENERAL 0:
 * positions; GENERAL 1: pos, until, bias).
 */
#include "kernel/ref/ref.h"

#include <math.h>

#include "base/half.h"
#include "kernel/ref/ref_rows.h"

struct attn {
    const struct kept_host_call *call;
    const struct kept_attn_params *p;
    bool general;
    uint32_t kv_head;
    const float *q;
    int32_t position;
    /* the range in tiles of 16: of positions (GENERAL 0) or of slots (GENERAL 1) */
    int64_t tile_first, tile_end;
    double m, l;
    double o[KEPT_MAX_HEAD_DIM];
};

static double k_value(const struct attn *a, uint32_t slot, uint32_t i)
{
    const struct kept_attn_params *p = a->p;
    const uint16_t *tile = (const uint16_t *)a->call->bind[1] + (size_t)a->kv_head * p->cap * p->d +
                           (size_t)(slot / 16) * 16 * p->d;
    uint32_t r = slot % 16, g = i / 8, w = i % 8 / 2;
    uint32_t word = g * 64 + (a->call->keys[KEPT_KEY_ORDER] == KEPT_LANE ? r * 4 + w : w * 16 + r);
    return kept_f16_to_f32(tile[word * 2 + i % 2]);
}

static double score_of(const struct attn *a, uint32_t slot)
{
    double s = 0;
    for (uint32_t i = 0; i < a->p->d; i++)
        s += a->q[i] * k_value(a, slot, i);
    if (a->p->softcap > 0)
        s = a->p->softcap * tanh(s / a->p->softcap);
    return s;
}

/* First position that is attended: inside the window, and not yet overwritten. */
static int64_t first_position(const struct kept_attn_params *p, int32_t position)
{
    int64_t reach = p->window != 0 && p->window < p->cap ? p->window : p->cap;
    int64_t lo = (int64_t)position - reach + 1;
    return lo > 0 ? lo : 0;
}

/* The slot and score of place t of the range; false when it is not attended. */
static bool visit(const struct attn *a, int64_t t, uint32_t *slot, double *score)
{
    const struct kept_attn_params *p = a->p;
    if (!a->general) {
        if (t > a->position || t < first_position(p, a->position))
            return false;
        *slot = (uint32_t)(t % p->cap);
        *score = score_of(a, *slot);
        return true;
    }
    const int32_t *pos = (const int32_t *)a->call->bind[3] + (size_t)a->kv_head * 3 * p->cap;
    const int32_t *until = pos + p->cap;
    const float *bias = (const float *)(until + p->cap);
    uint32_t live = ((const uint32_t *)a->call->bind[4])[a->kv_head];
    if (t >= live || t >= p->cap || pos[t] > a->position || a->position >= until[t])
        return false;
    if (p->window != 0 && pos[t] >= 0 && (int64_t)pos[t] <= (int64_t)a->position - p->window)
        return false;
    *slot = (uint32_t)t;
    *score = score_of(a, *slot) + bias[t];
    return true;
}

static void attend(struct attn *a)
{
    const struct kept_attn_params *p = a->p;
    uint32_t slot;
    double score;
    a->m = -INFINITY;
    a->l = 0;
    for (uint32_t i = 0; i < p->d; i++)
        a->o[i] = 0;
    for (int64_t t = a->tile_first * 16; t < a->tile_end * 16; t++)
        if (visit(a, t, &slot, &score) && score > a->m)
            a->m = score;
    if (a->m == -INFINITY)
        return;
    for (int64_t t = a->tile_first * 16; t < a->tile_end * 16; t++) {
        if (!visit(a, t, &slot, &score))
            continue;
        double w = exp(score - a->m);
        const uint16_t *v =
            (const uint16_t *)a->call->bind[2] + ((size_t)a->kv_head * p->cap + slot) * p->d;
        a->l += w;
        for (uint32_t i = 0; i < p->d; i++)
            a->o[i] += w * kept_f16_to_f32(v[i]);
    }
}

/* All tiles that hold something for this query. */
static void whole_range(struct attn *a)
{
    const struct kept_attn_params *p = a->p;
    a->tile_first = 0;
    a->tile_end = 0;
    if (a->general) {
        uint32_t live = ((const uint32_t *)a->call->bind[4])[a->kv_head];
        a->tile_end = ((live < p->cap ? live : p->cap) + 15) / 16;
    } else if (a->position >= 0) {
        a->tile_first = first_position(p, a->position) / 16;
        a->tile_end = a->position / 16 + 1;
    }
}

static struct attn begin(const struct kept_host_call *call, uint32_t row, uint32_t head)
{
    const struct kept_attn_params *p = call->params;
    const uint32_t *step = (const uint32_t *)call->bind[6];
    struct attn a = {.call = call, .p = p, .general = call->keys[KEPT_KEY_ATTN_GENERAL] != 0};
    a.kv_head = head / (p->n_head / p->n_kv);
    a.q = (const float *)call->bind[0] + (size_t)row * p->q_stride + (size_t)head * p->d;
    a.position = (int32_t)step[KEPT_STEP_TOKENS + p->chunk + row];
    whole_range(&a);
    return a;
}

void ref_attn_decode(const struct kept_host_call *call)
{
    const struct kept_attn_params *p = call->params;
    uint32_t live = kept_live_rows(p, (const uint32_t *)call->bind[6]);
    if (p->d > KEPT_MAX_HEAD_DIM)
        return;
    for (uint32_t i = 0; i < live * p->n_head; i++) {
        uint32_t row = p->row_first + i / p->n_head, head = i % p->n_head;
        struct attn a = begin(call, row, head);
        int64_t first = a.tile_first, n = a.tile_end - first;
        for (uint32_t split = 0; split < p->n_splits; split++) {
            a.tile_first = first + n * split / p->n_splits;
            a.tile_end = first + n * (split + 1) / p->n_splits;
            attend(&a);
            size_t part = ((size_t)row * p->n_head + head) * p->parts + p->part_first + split;
            float *out = (float *)call->bind[5] + part * (p->d + 4);
            out[0] = (float)a.m;
            out[1] = (float)a.l;
            for (uint32_t k = 0; k < p->d; k++)
                out[4 + k] = (float)a.o[k];
        }
    }
}

void ref_attn_prefill(const struct kept_host_call *call)
{
    const struct kept_attn_params *p = call->params;
    uint32_t live = kept_live_rows(p, (const uint32_t *)call->bind[6]);
    if (p->d > KEPT_MAX_HEAD_DIM)
        return;
    for (uint32_t i = 0; i < live; i++) {
        uint32_t row = p->row_first + i;
        float *out = (float *)call->bind[5] + (size_t)row * p->out_stride;
        for (uint32_t head = 0; head < p->n_head; head++) {
            struct attn a = begin(call, row, head);
            attend(&a);
            for (uint32_t k = 0; k < p->d; k++)
                out[head * p->d + k] = a.l > 0 ? (float)(a.o[k] / a.l) : 0;
        }
        ref_sums(out, p->n_head * p->d);
    }
}

static void merge_head(const struct kept_merge_params *p, const float *part, float *out)
{
    size_t stride = p->d + 4;
    double m = -INFINITY, l = 0;
    for (uint32_t i = 0; i < p->parts; i++)
        if (part[i * stride] > m)
            m = part[i * stride];
    for (uint32_t i = 0; m > -INFINITY && i < p->parts; i++)
        l += exp(part[i * stride] - m) * part[i * stride + 1];
    for (uint32_t k = 0; k < p->d; k++) {
        double o = 0;
        for (uint32_t i = 0; l > 0 && i < p->parts; i++)
            o += exp(part[i * stride] - m) * part[i * stride + 4 + k];
        out[k] = l > 0 ? (float)(o / l) : 0;
    }
}

void ref_attn_merge(const struct kept_host_call *call)
{
    const struct kept_merge_params *p = call->params;
    uint32_t live = kept_live_rows(p, (const uint32_t *)call->bind[2]);
    for (uint32_t i = 0; i < live; i++) {
        size_t row = p->row_first + i;
        const float *part = (const float *)call->bind[0] + row * p->n_head * p->parts * (p->d + 4);
        float *out = (float *)call->bind[1] + row * p->out_stride;
        for (uint32_t head = 0; head < p->n_head; head++)
            merge_head(p, part + (size_t)head * p->parts * (p->d + 4), out + head * p->d);
        ref_sums(out, p->n_head * p->d);
    }
}

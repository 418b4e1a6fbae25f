/* kernel/ref/ref_attn.c: references of attention: decode (partial results of each split), prefill,
 * merge, and the peaks of calibration.
 *
 * One query head against one range of slots is a list of (slot, score), two passes: the maximum,
 * then the sums. Slots are visited through `visit`, which knows where they are: a ring of positions
 * (GENERAL 0) or a head's extent (1, 2).
 */
#include "kernel/ref/ref.h"

#include <math.h>

#include "kernel/ref/ref_rows.h"
#include "kernel/ref/ref_slots.h"

struct attn {
    const struct kept_host_call *call;
    const struct kept_attn_params *p;
    struct ref_slots k, v;
    uint32_t general;
    uint64_t slot_first; /* of the KV head */
    uint32_t count;      /* slots that the query sees (GENERAL 1, 2) */
    const float *q;
    int32_t position;
    /* the range in tiles of 16: of positions (GENERAL 0) or of slots */
    int64_t tile_first, tile_end;
    double m, l;
    double o[KEPT_MAX_HEAD_DIM];
};

static double dot(const float *q, const double *k, uint32_t d)
{
    double s = 0;
    for (uint32_t i = 0; i < d; i++)
        s += q[i] * k[i];
    return s;
}

static double score_of(const struct attn *a, uint64_t slot)
{
    double k[KEPT_MAX_HEAD_DIM];
    ref_slot_load(&a->k, slot, k);
    double s = dot(a->q, k, a->p->d);
    return a->p->softcap > 0 ? a->p->softcap * tanh(s / a->p->softcap) : s;
}

/* First position that is attended: inside the window, and not yet overwritten. */
static int64_t first_position(const struct kept_attn_params *p, int32_t position)
{
    int64_t reach = p->window != 0 && p->window < p->cap ? p->window : p->cap;
    int64_t lo = (int64_t)position - reach + 1;
    return lo > 0 ? lo : 0;
}

/* The rule of GENERAL 2: until when, and since when where there is a window. */
static bool by_rule(const struct attn *a, uint64_t slot)
{
    const int32_t *meta = (const int32_t *)a->call->bind[3];
    int32_t pos = meta[REF_POS(a->p->cap, slot)], until = meta[REF_UNTIL(a->p->cap, slot)];
    if (pos > a->position || a->position >= until)
        return false;
    return a->p->window == 0 || pos < 0 || pos > (int64_t)a->position - a->p->window;
}

/* The slot and score of place t of the range; false when it is not attended. */
static bool visit(const struct attn *a, int64_t t, uint64_t *slot, double *score)
{
    const struct kept_attn_params *p = a->p;
    if (a->general == KEPT_SLOTS_PLAIN) {
        if (t > a->position || t < first_position(p, a->position))
            return false;
        *slot = a->slot_first + (uint64_t)(t % p->cap);
        *score = score_of(a, *slot);
        return true;
    }
    *slot = a->slot_first + (uint64_t)t;
    if (t >= a->count || (a->general == KEPT_SLOTS_RULE && !by_rule(a, *slot)))
        return false;
    *score = score_of(a, *slot) + ((const float *)a->call->bind[3])[REF_BIAS(p->cap, *slot)];
    return true;
}

static void attend(struct attn *a)
{
    const struct kept_attn_params *p = a->p;
    uint64_t slot;
    double score, v[KEPT_MAX_HEAD_DIM];
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
        ref_slot_load(&a->v, slot, v);
        a->l += w;
        for (uint32_t i = 0; i < p->d; i++)
            a->o[i] += w * v[i];
    }
}

/* Where the KV head's slots are, and all tiles that hold something for this query. */
static void whole_range(struct attn *a, uint32_t kv_head)
{
    const struct kept_attn_params *p = a->p;
    a->tile_first = 0;
    a->tile_end = 0;
    a->slot_first = (uint64_t)kv_head * p->cap;
    if (a->general != KEPT_SLOTS_PLAIN) {
        struct ref_head head = ref_head_at((const uint32_t *)a->call->bind[4], kv_head, p->cap);
        a->slot_first = head.first;
        a->count = ref_head_count(&head, (int64_t)a->position + 1);
        a->tile_end = ((int64_t)a->count + 15) / 16;
    } else if (a->position >= 0) {
        a->tile_first = first_position(p, a->position) / 16;
        a->tile_end = a->position / 16 + 1;
    }
}

static struct attn begin(const struct kept_host_call *call, uint32_t row, uint32_t head)
{
    const struct kept_attn_params *p = call->params;
    const uint32_t *step = (const uint32_t *)call->bind[6], *keys = call->keys;
    struct attn a = {
        .call = call,
        .p = p,
        .k = {(uint32_t *)call->bind[1], keys[KEPT_KEY_ATTN_KT], keys[KEPT_KEY_ORDER], p->d},
        .v = {(uint32_t *)call->bind[2], keys[KEPT_KEY_ATTN_VT], REF_ROWS, p->d},
        .general = keys[KEPT_KEY_ATTN_GENERAL],
    };
    a.q = (const float *)call->bind[0] + (size_t)row * p->q_stride + (size_t)head * p->d;
    a.position = (int32_t)step[KEPT_STEP_TOKENS + p->chunk + row];
    whole_range(&a, head / (p->n_head / p->n_kv));
    return a;
}

static void write_part(const struct attn *a, uint32_t row, uint32_t head, uint32_t split)
{
    const struct kept_attn_params *p = a->p;
    size_t part = ((size_t)row * p->n_head + head) * p->parts + p->part_first + split;
    float *out = (float *)a->call->bind[5] + part * (p->d + 4);
    out[0] = (float)a->m;
    out[1] = (float)a->l;
    for (uint32_t k = 0; k < p->d; k++)
        out[4 + k] = (float)a->o[k];
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
            write_part(&a, row, head, split);
        }
    }
}

static void prefill_parts(const struct kept_host_call *call, uint32_t live)
{
    const struct kept_attn_params *p = call->params;
    for (uint32_t i = 0; i < live * p->n_head; i++) {
        uint32_t row = p->row_first + i / p->n_head, head = i % p->n_head;
        struct attn a = begin(call, row, head);
        attend(&a);
        write_part(&a, row, head, 0);
    }
}

void ref_attn_prefill(const struct kept_host_call *call)
{
    const struct kept_attn_params *p = call->params;
    uint32_t live = kept_live_rows(p, (const uint32_t *)call->bind[6]);
    if (p->d > KEPT_MAX_HEAD_DIM)
        return;
    if (call->keys[KEPT_KEY_ATTN_OUT] != 0) {
        prefill_parts(call, live);
        return;
    }
    for (uint32_t i = 0; i < live; i++) {
        uint32_t row = p->row_first + i;
        float *out = (float *)call->bind[5] + (size_t)row * p->out_stride;
        for (uint32_t head = 0; head < p->n_head; head++) {
            struct attn a = begin(call, row, head);
            attend(&a);
            if (a.v.type != KEPT_FMT_F16)
                ref_hadamard(a.o, p->d);
            for (uint32_t k = 0; k < p->d; k++)
                out[head * p->d + k] = a.l > 0 ? (float)(a.o[k] / a.l) : 0;
        }
        ref_sums(out, p->n_head * p->d);
    }
}

static void merge_head(const struct kept_merge_params *p, bool rotated, const float *part,
                       float *out)
{
    size_t stride = p->d + 4;
    double m = -INFINITY, l = 0, sums[KEPT_MAX_HEAD_DIM];
    for (uint32_t i = 0; i < p->parts; i++)
        if (part[i * stride] > m)
            m = part[i * stride];
    for (uint32_t i = 0; m > -INFINITY && i < p->parts; i++)
        l += exp(part[i * stride] - m) * part[i * stride + 1];
    for (uint32_t k = 0; k < p->d; k++) {
        sums[k] = 0;
        for (uint32_t i = 0; l > 0 && i < p->parts; i++)
            sums[k] += exp(part[i * stride] - m) * part[i * stride + 4 + k];
    }
    if (rotated)
        ref_hadamard(sums, p->d);
    for (uint32_t k = 0; k < p->d; k++)
        out[k] = l > 0 ? (float)(sums[k] / l) : 0;
}

void ref_attn_merge(const struct kept_host_call *call)
{
    const struct kept_merge_params *p = call->params;
    uint32_t live = kept_live_rows(p, (const uint32_t *)call->bind[2]);
    bool rotated = call->keys[KEPT_KEY_MERGE_VROT] != 0;
    if (p->d > KEPT_MAX_HEAD_DIM)
        return;
    for (uint32_t i = 0; i < live; i++) {
        size_t row = p->row_first + i;
        const float *part = (const float *)call->bind[0] + row * p->n_head * p->parts * (p->d + 4);
        float *out = (float *)call->bind[1] + row * p->out_stride;
        for (uint32_t head = 0; head < p->n_head; head++)
            merge_head(p, rotated, part + (size_t)head * p->parts * (p->d + 4),
                       out + (size_t)head * p->d);
        ref_sums(out, p->n_head * p->d);
    }
}

/* The largest of q.k - lse over the live rows and the group's heads; -inf when all rows are empty.
 */
static double peak_of(const struct kept_host_call *call, const double *k, uint32_t kv,
                      uint32_t live)
{
    const struct kept_peak_params *p = call->params;
    uint32_t group = p->n_head / p->n_kv;
    double peak = -INFINITY;
    for (uint32_t i = 0; i < live * group; i++) {
        size_t row = p->row_first + i / group, head = kv * group + i % group;
        const float *part = (const float *)call->bind[2] + (row * p->n_head + head) * (p->d + 4);
        const float *q = (const float *)call->bind[0] + row * p->q_stride + head * p->d;
        if (part[1] > 0)
            peak = fmax(peak, dot(q, k, p->d) - (part[0] + log(part[1])));
    }
    return peak;
}

/* What the group's heads in live rows behind slot s, but not behind the last slot, attend to it. */
static double sum_of(const struct kept_host_call *call, const double *k, uint32_t kv, uint32_t s,
                     uint32_t live)
{
    const struct kept_peak_params *p = call->params;
    const uint32_t *positions =
        (const uint32_t *)call->bind[4] + KEPT_STEP_TOKENS + p->chunk + p->row_first;
    uint32_t group = p->n_head / p->n_kv;
    double sum = 0;
    for (uint32_t i = 0; i < live * group; i++) {
        uint32_t at = positions[i / group];
        size_t row = p->row_first + i / group, head = kv * group + i % group;
        const float *part = (const float *)call->bind[2] + (row * p->n_head + head) * (p->d + 4);
        const float *q = (const float *)call->bind[0] + row * p->q_stride + head * p->d;
        if (at > s + p->after && at < p->n_slots && part[1] > 0)
            sum += exp(fmin(0, dot(q, k, p->d) - (part[0] + log(part[1]))));
    }
    return sum;
}

void ref_attn_peak(const struct kept_host_call *call)
{
    const struct kept_peak_params *p = call->params;
    uint32_t live = kept_live_rows(p, (const uint32_t *)call->bind[4]);
    struct ref_slots slots = {(uint32_t *)call->bind[1], KEPT_FMT_F16, call->keys[KEPT_KEY_ORDER],
                              p->d};
    float *peak = (float *)call->bind[3];
    if (p->d > KEPT_MAX_HEAD_DIM)
        return;
    for (uint32_t i = 0; i < p->n_kv * p->n_slots; i++) {
        double k[KEPT_MAX_HEAD_DIM];
        uint32_t kv = i / p->n_slots;
        ref_slot_load(&slots, (uint64_t)kv * p->cap + i % p->n_slots, k);
        if (call->keys[KEPT_KEY_PEAK_SUM] != 0) {
            peak[i] = (float)(peak[i] + sum_of(call, k, kv, i % p->n_slots, live));
            continue;
        }
        double best = peak_of(call, k, kv, live);
        if (best > peak[i])
            peak[i] = (float)best;
    }
}

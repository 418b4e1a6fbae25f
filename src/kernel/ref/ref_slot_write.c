/* kernel/ref/ref_slot_write.c: reference of slot_write: bias, QK norm and rotation of one head at a
 * time in a small array, then q back in place, k and v as f16 into their slots. */
#include "kernel/ref/ref.h"

#include <math.h>

#include "base/half.h"
#include "kernel/ref/ref_rows.h"

struct slot_write {
    const struct kept_slot_write_params *p;
    const struct kept_host_call *call;
    const float *table; /* NULL: positions outside the table, nothing is rotated */
    int32_t position;
    uint32_t slot;
};

/* The complex number of pair i at the position. */
static void angle(const struct slot_write *s, uint32_t i, double *c, double *sn)
{
    uint32_t half = s->p->n_rot / 2;
    uint32_t lo = (uint32_t)s->position & 255u;
    int64_t hi = ((int64_t)s->position - (int64_t)lo) / 256;
    const float *a = s->table + ((size_t)lo * half + i) * 2;
    const float *b = s->table + ((size_t)(256 + (int64_t)s->p->hi_bias + hi) * half + i) * 2;
    *c = (double)a[0] * b[0] - (double)a[1] * b[1];
    *sn = (double)a[0] * b[1] + (double)a[1] * b[0];
}

static bool in_table(const struct slot_write *s)
{
    uint32_t lo = (uint32_t)s->position & 255u;
    int64_t row = 256 + (int64_t)s->p->hi_bias + ((int64_t)s->position - (int64_t)lo) / 256;
    return row >= 0 && ((uint64_t)row + 1) * s->p->n_rot * 4 <= s->call->bind_bytes[1];
}

static void norm(double *v, const float *w, uint32_t d, float eps)
{
    double sum = 0;
    for (uint32_t i = 0; i < d; i++)
        sum += v[i] * v[i];
    double f = 1 / sqrt(sum / d + eps);
    for (uint32_t i = 0; i < d; i++)
        v[i] *= f * w[i];
}

static void rotate(const struct slot_write *s, double *v)
{
    const struct kept_slot_write_params *p = s->p;
    if (p->rope_pairs == KEPT_ROPE_NONE)
        return;
    bool adjacent = p->rope_pairs == KEPT_ROPE_ADJACENT;
    for (uint32_t i = 0; i < p->n_rot / 2; i++) {
        uint32_t at_a = adjacent ? 2 * i : i, at_b = adjacent ? 2 * i + 1 : i + p->n_rot / 2;
        double c, sn, a = v[at_a], b = v[at_b];
        angle(s, i, &c, &sn);
        v[at_a] = a * c - b * sn;
        v[at_b] = a * sn + b * c;
    }
}

static void store_k(const struct slot_write *s, uint32_t kv_head, const double *v)
{
    const struct kept_slot_write_params *p = s->p;
    uint16_t *tile = (uint16_t *)s->call->bind[5] + (size_t)kv_head * p->cap * p->d +
                     (size_t)(s->slot / 16) * 16 * p->d;
    uint32_t r = s->slot % 16;
    bool lane = s->call->keys[KEPT_KEY_ORDER] == KEPT_LANE;
    for (uint32_t i = 0; i < p->d; i++) {
        uint32_t g = i / 8, w = i % 8 / 2;
        uint32_t word = g * 64 + (lane ? r * 4 + w : w * 16 + r);
        tile[word * 2 + i % 2] = kept_f32_to_f16((float)v[i]);
    }
}

static void store_v(const struct slot_write *s, uint32_t kv_head, const double *v)
{
    uint32_t d = s->p->d;
    uint16_t *to = (uint16_t *)s->call->bind[6] + ((size_t)kv_head * s->p->cap + s->slot) * d;
    for (uint32_t i = 0; i < d; i++)
        to[i] = kept_f32_to_f16((float)v[i]);
}

/* Head h of the row: 0 … n_head-1 are q, then n_kv of k, then n_kv of v. */
static void write_head(const struct slot_write *s, float *qkv, uint32_t h)
{
    const struct kept_slot_write_params *p = s->p;
    const float *bias = (const float *)s->call->bind[2];
    uint32_t d = p->d;
    bool is_q = h < p->n_head, is_v = h >= p->n_head + p->n_kv;
    double v[KEPT_MAX_HEAD_DIM];
    float *from = qkv + (size_t)h * d;
    for (uint32_t i = 0; i < d; i++)
        v[i] = s->call->keys[KEPT_KEY_SLOT_BIAS] != 0 ? (double)from[i] + bias[h * d + i] : from[i];
    if (is_v) {
        store_v(s, h - p->n_head - p->n_kv, v);
        return;
    }
    if (s->call->keys[KEPT_KEY_SLOT_QKNORM])
        norm(v, (const float *)s->call->bind[is_q ? 3 : 4], d, p->eps);
    rotate(s, v);
    if (!is_q) {
        store_k(s, h - p->n_head, v);
        return;
    }
    for (uint32_t i = 0; i < d; i++)
        from[i] = (float)(v[i] * p->q_scale);
}

void ref_slot_write(const struct kept_host_call *call)
{
    const struct kept_slot_write_params *p = call->params;
    const uint32_t *step = (const uint32_t *)call->bind[10];
    uint32_t live = kept_live_rows(p, step);
    if (p->d > KEPT_MAX_HEAD_DIM)
        return;
    for (uint32_t i = 0; i < live; i++) {
        uint32_t row = p->row_first + i;
        struct slot_write s = {.p = p, .call = call, .table = (const float *)call->bind[1]};
        s.position = (int32_t)step[KEPT_STEP_TOKENS + p->chunk + row];
        s.slot = (uint32_t)s.position % p->cap;
        if (p->rope_pairs != KEPT_ROPE_NONE && !in_table(&s))
            continue;
        float *qkv = (float *)call->bind[0] + (size_t)row * p->qkv_stride;
        for (uint32_t h = 0; h < p->n_head + 2 * p->n_kv; h++)
            write_head(&s, qkv, h);
    }
}

/* kernel/ref/ref_slot_write.c: reference of slot_write: bias, QK norm and rotations of one head at
 * a time in a small array, then q back in place, k and v into their slot, of the slots' type.
 */
#include "kernel/ref/ref.h"

#include <math.h>

#include "kernel/ref/ref_slots.h"

struct slot_write {
    const struct kept_slot_write_params *p;
    const struct kept_host_call *call;
    struct ref_slots k, v;
    struct ref_rope rope;
    float *qkv;  /* the row */
    bool copied; /* its queries are */
    int32_t position;
    /* of the KV head: */
    uint32_t kv_head;
    int64_t turn;  /* the position of RoPE */
    bool stored;   /* whether the token has a slot */
    uint64_t slot; /* from the start of the bindings */
};

/* Where the token's slot of the KV head is, and its rotation. */
static void find_slot(struct slot_write *s, uint32_t kv_head)
{
    const struct kept_slot_write_params *p = s->p;
    s->kv_head = kv_head;
    s->turn = s->position;
    s->stored = true;
    s->slot = (uint64_t)kv_head * p->cap + (uint32_t)s->position % p->cap;
    if (s->call->keys[KEPT_KEY_SLOT_STORE] == KEPT_SLOTS_PLAIN)
        return;
    struct ref_head head = ref_head_at((const uint32_t *)s->call->bind[7], kv_head, p->cap);
    int64_t since = (int64_t)s->position - head.edge;
    s->turn = (int64_t)s->position - head.shift;
    s->stored = since >= 0 && head.base + since < head.cap;
    s->slot = head.first + (uint64_t)(head.base + since);
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

/* Head h of the row with its bias: 0 … n_head-1 are q, then n_kv of k, then n_kv of v. */
static void head_of(const struct slot_write *s, uint32_t h, double *v)
{
    const float *from = s->qkv + (size_t)h * s->p->d;
    const float *bias = (const float *)s->call->bind[2] + (size_t)h * s->p->d;
    bool biased = s->call->keys[KEPT_KEY_SLOT_BIAS] != 0;
    for (uint32_t i = 0; i < s->p->d; i++)
        v[i] = biased ? (double)from[i] + bias[i] : from[i];
}

static void write_q(const struct slot_write *s, uint32_t h)
{
    const struct kept_slot_write_params *p = s->p;
    double v[KEPT_MAX_HEAD_DIM];
    head_of(s, h, v);
    if (s->call->keys[KEPT_KEY_SLOT_QKNORM] != 0)
        norm(v, (const float *)s->call->bind[3], p->d, p->eps);
    if (s->copied) {
        size_t row = (uint32_t)s->position % p->queries_rows;
        float *to = (float *)s->call->bind[9] + (row * p->n_head + h) * p->d;
        for (uint32_t i = 0; i < p->d; i++)
            to[i] = (float)v[i];
    }
    bool borrowed = p->borrowed != 0 && h % (p->n_head / p->n_kv) == 0;
    v[p->d - 1] = borrowed ? 0 : v[p->d - 1];
    ref_rope_turn(&s->rope, s->turn, v);
    v[p->d - 1] = borrowed ? 0 : v[p->d - 1];
    if (s->k.type != KEPT_FMT_F16)
        ref_hadamard(v, p->d);
    for (uint32_t i = 0; i < p->d; i++)
        s->qkv[(size_t)h * p->d + i] = (float)(v[i] * p->q_scale);
}

static void write_kv(const struct slot_write *s)
{
    const struct kept_slot_write_params *p = s->p;
    double v[KEPT_MAX_HEAD_DIM];
    head_of(s, p->n_head + s->kv_head, v);
    if (s->call->keys[KEPT_KEY_SLOT_QKNORM] != 0)
        norm(v, (const float *)s->call->bind[4], p->d, p->eps);
    ref_rope_turn(&s->rope, s->turn, v);
    if (s->k.type != KEPT_FMT_F16)
        ref_hadamard(v, p->d);
    ref_slot_store(&s->k, s->slot, v);
    head_of(s, p->n_head + p->n_kv + s->kv_head, v);
    if (s->v.type != KEPT_FMT_F16)
        ref_hadamard(v, p->d);
    ref_slot_store(&s->v, s->slot, v);
}

static void write_meta(const struct slot_write *s)
{
    uint32_t store = s->call->keys[KEPT_KEY_SLOT_STORE], total = s->p->cap;
    uint32_t *meta = (uint32_t *)s->call->bind[8];
    if (store == KEPT_SLOTS_PLAIN)
        return;
    meta[REF_POS(total, s->slot)] = (uint32_t)(int32_t)s->turn;
    meta[REF_BIAS(total, s->slot)] = 0;
    if (store == KEPT_SLOTS_RULE)
        meta[REF_UNTIL(total, s->slot)] = INT32_MAX;
}

static void write_row(struct slot_write *s)
{
    const struct kept_slot_write_params *p = s->p;
    uint32_t group = p->n_head / p->n_kv;
    for (uint32_t kv = 0; kv < p->n_kv; kv++) {
        find_slot(s, kv);
        if (!ref_rope_has(&s->rope, s->turn))
            continue;
        for (uint32_t h = kv * group; h < (kv + 1) * group; h++)
            write_q(s, h);
        if (!s->stored)
            continue;
        write_kv(s);
        write_meta(s);
    }
}

void ref_slot_write(const struct kept_host_call *call)
{
    const struct kept_slot_write_params *p = call->params;
    const uint32_t *step = (const uint32_t *)call->bind[10], *keys = call->keys;
    uint32_t live = kept_live_rows(p, step);
    struct slot_write s = {
        .p = p,
        .call = call,
        .k = {(uint32_t *)call->bind[5], keys[KEPT_KEY_SLOT_KT], keys[KEPT_KEY_ORDER], p->d},
        .v = {(uint32_t *)call->bind[6], keys[KEPT_KEY_SLOT_VT], REF_ROWS, p->d},
        .rope = {(const float *)call->bind[1], call->bind_bytes[1], p->n_rot, p->rope_pairs,
                 p->hi_bias},
    };
    if (p->d > KEPT_MAX_HEAD_DIM)
        return;
    for (uint32_t row = p->row_first; row < p->row_first + live; row++) {
        s.qkv = (float *)call->bind[0] + (size_t)row * p->qkv_stride;
        s.copied = p->queries_rows != 0 && row < step[p->queries_at];
        s.position = (int32_t)step[KEPT_STEP_TOKENS + p->chunk + row];
        write_row(&s);
    }
}

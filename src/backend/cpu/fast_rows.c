/* backend/cpu/fast_rows.c: norm, glu, slot_write and argmax: one row is one item.
 *
 * In decode these are a few thousand elements between matrix products and run on the calling
 * thread; what matters is that they vectorise and read each row once. Widths that are no multiple
 * of 16 (none of a real model) take the reference.
 */
#include <math.h>

#include "backend/cpu/fast.h"
#include "backend/cpu/fast_slots.h"
#include "kernel/ref/ref.h"

/* ---- norm ---- */

static float norm_factor(const float *v, uint32_t k, float eps)
{
    vf sum = vf_set(0), more = vf_set(0);
    uint32_t i = 0;
    for (; i + 32 <= k; i += 32) {
        vf a = vf_load(v + i), b = vf_load(v + i + 16);
        sum = vf_fma(a, a, sum);
        more = vf_fma(b, b, more);
    }
    for (; i < k; i += 16)
        sum = vf_fma(vf_load(v + i), vf_load(v + i), sum);
    return (float)(1 / sqrt((double)vf_hsum(vf_add(sum, more)) / k + eps));
}

static void norm_row(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct kept_host_call *call = user;
    const struct kept_norm_params *p = call->params;
    const float *w_post = (const float *)call->bind[2], *w = (const float *)call->bind[3];
    uint32_t mode = call->keys[KEPT_KEY_NORM_MODE];
    uint64_t row = p->row_first + item, from = row + ((const uint32_t *)call->bind[5])[p->first_at];
    if ((from * p->x_stride + p->k) * 4 > call->bind_bytes[0])
        return;
    float *x = (float *)call->bind[0] + from * p->x_stride;
    if (mode != 0) {
        if ((from * p->y_stride + p->k) * 4 > call->bind_bytes[1])
            return;
        const float *y = (const float *)call->bind[1] + from * p->y_stride;
        vf f = vf_set(norm_factor(y, p->k, p->eps));
        for (uint32_t i = 0; i < p->k; i += 16) {
            vf v = vf_mul(vf_load(y + i), f);
            vf_store(x + i, vf_fma(v, vf_load(w_post + i), vf_load(x + i)));
        }
    }
    if (mode == 2)
        return;
    float *out = (float *)call->bind[4] + row * p->out_stride;
    vf f = vf_set(norm_factor(x, p->k, p->eps));
    for (uint32_t i = 0; i < p->k; i += 16) {
        vf v = vf_mul(vf_mul(vf_load(x + i), f), vf_load(w + i));
        vf_store(out + i, v);
        out[p->k + i / 16] = vf_hsum(v);
    }
}

void CPU_NAME(norm)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_norm_params *p = call->params;
    struct kept_host_call own = *call;
    if (p->k % 16 != 0)
        ref_norm(call);
    else
        kept_pool_run(pool, kept_live_rows(p, (const uint32_t *)call->bind[5]), norm_row, &own);
}

/* ---- glu ---- */

static void glu_row(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct kept_host_call *call = user;
    const struct kept_glu_params *p = call->params;
    size_t row = p->row_first + item;
    const float *x = (const float *)call->bind[0] + row * p->x_stride;
    float *out = (float *)call->bind[1] + row * p->out_stride;
    bool silu = call->keys[KEPT_KEY_GLU_ACT] == 0;
    for (uint32_t i = 0; i < p->n; i += 16) {
        vf gate = vf_load(x + i);
        vf v = vf_mul(silu ? vf_silu(gate) : vf_gelu(gate), vf_load(x + p->n + i));
        vf_store(out + i, v);
        out[p->n + i / 16] = vf_hsum(v);
    }
}

void CPU_NAME(glu)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_glu_params *p = call->params;
    struct kept_host_call own = *call;
    if (p->n % 16 != 0)
        ref_glu(call);
    else
        kept_pool_run(pool, kept_live_rows(p, (const uint32_t *)call->bind[2]), glu_row, &own);
}

/* ---- slot_write ---- */

/* A row, and where its token goes in the KV head at work. */
struct slot {
    const struct kept_host_call *call;
    const struct kept_slot_write_params *p;
    float *qkv;
    int32_t position;
    bool copied; /* the row's queries are kept */
    uint32_t kv_head;
    struct ref_rope rope;
    int64_t turned; /* the position of `turn`, */
    bool in_table;  /* if it has one */
    bool stored;
    size_t at;                     /* the slot, from the start of the bindings */
    float turn[KEPT_MAX_HEAD_DIM]; /* cos and sin of each pair */
};

/* The slot of the KV head; false when its rotation is not in the table. */
static bool find_slot(struct slot *s, uint32_t kv_head)
{
    const struct kept_slot_write_params *p = s->p;
    int64_t turn = s->position;
    bool same = kv_head != 0;
    s->kv_head = kv_head;
    s->stored = true;
    s->at = (size_t)kv_head * p->cap + (uint32_t)s->position % p->cap;
    if (s->call->keys[KEPT_KEY_SLOT_STORE] != KEPT_SLOTS_PLAIN) {
        struct ref_head h = fast_head_at((const uint32_t *)s->call->bind[7], kv_head, p->cap);
        int64_t since = (int64_t)s->position - h.edge;
        turn -= h.shift;
        same = same && turn == s->turned;
        s->stored = since >= 0 && h.base + since < h.cap;
        s->at = h.first + (size_t)(h.base + since);
    }
    s->turned = turn;
    if (!same && (s->in_table = ref_rope_has(&s->rope, turn)) && p->rope_pairs != KEPT_ROPE_NONE)
        fast_turn_at(&s->rope, turn, s->turn);
    return s->in_table;
}

/* Head h of the row with its bias. */
static void load_head(const struct slot *s, uint32_t h, float *v)
{
    uint32_t d = s->p->d;
    memcpy(v, s->qkv + (size_t)h * d, d * sizeof(float));
    if (s->call->keys[KEPT_KEY_SLOT_BIAS] == 0)
        return;
    const float *bias = (const float *)s->call->bind[2] + (size_t)h * d;
    for (uint32_t i = 0; i < d; i += 16)
        vf_store(v + i, vf_add(vf_load(v + i), vf_load(bias + i)));
}

static void norm_head(const struct slot *s, const float *w, float *v)
{
    if (s->call->keys[KEPT_KEY_SLOT_QKNORM] == 0)
        return;
    vf f = vf_set(norm_factor(v, s->p->d, s->p->eps));
    for (uint32_t i = 0; i < s->p->d; i += 16)
        vf_store(v + i, vf_mul(vf_mul(vf_load(v + i), f), vf_load(w + i)));
}

static void turn_head(const struct slot *s, float *v, bool borrowed)
{
    float *last = v + s->p->d - 1;
    *last = borrowed ? 0 : *last;
    fast_turn(&s->rope, s->turn, v);
    *last = borrowed ? 0 : *last;
    if (s->call->keys[KEPT_KEY_SLOT_KT] != KEPT_FMT_F16)
        fast_hadamard(v, s->p->d);
}

static void write_q(const struct slot *s, uint32_t h)
{
    const struct kept_slot_write_params *p = s->p;
    float v[KEPT_MAX_HEAD_DIM];
    load_head(s, h, v);
    norm_head(s, (const float *)s->call->bind[3], v);
    if (s->copied) {
        size_t row = (uint32_t)s->position % p->queries_rows;
        memcpy((float *)s->call->bind[9] + (row * p->n_head + h) * p->d, v, p->d * sizeof *v);
    }
    turn_head(s, v, p->borrowed != 0 && h % (p->n_head / p->n_kv) == 0);
    for (uint32_t i = 0; i < p->d; i += 16)
        vf_store(s->qkv + (size_t)h * p->d + i, vf_mul(vf_load(v + i), vf_set(p->q_scale)));
}

static void write_kv(const struct slot *s)
{
    const struct kept_slot_write_params *p = s->p;
    uint32_t kt = s->call->keys[KEPT_KEY_SLOT_KT], vt = s->call->keys[KEPT_KEY_SLOT_VT];
    float v[KEPT_MAX_HEAD_DIM];
    uint32_t words[FAST_SLOT_WORDS];
    load_head(s, p->n_head + s->kv_head, v);
    norm_head(s, (const float *)s->call->bind[4], v);
    turn_head(s, v, false);
    fast_pack(kt, v, p->d, words);
    fast_store_k(kt, p->d, (uint32_t *)s->call->bind[5], s->at, words);
    load_head(s, p->n_head + p->n_kv + s->kv_head, v);
    if (vt != KEPT_FMT_F16)
        fast_hadamard(v, p->d);
    fast_pack(vt, v, p->d, words);
    fast_store_v(vt, p->d, (uint32_t *)s->call->bind[6], s->at, words);
}

static void write_meta(const struct slot *s)
{
    uint32_t store = s->call->keys[KEPT_KEY_SLOT_STORE];
    uint32_t *meta = (uint32_t *)s->call->bind[8] + s->at;
    if (store == KEPT_SLOTS_PLAIN)
        return;
    meta[0] = (uint32_t)(int32_t)s->turned;
    meta[s->p->cap] = 0;
    if (store == KEPT_SLOTS_RULE)
        meta[2 * (size_t)s->p->cap] = INT32_MAX;
}

/* Of rows that share a place of the queries (more rows than places) the last one is kept. */
static bool keeps_queries(const struct kept_slot_write_params *p, const uint32_t *step,
                          uint32_t item)
{
    const uint32_t *position = step + KEPT_STEP_TOKENS + p->chunk + p->row_first;
    uint32_t live = kept_live_rows(p, step), end = step[p->queries_at];
    if (p->queries_rows == 0 || p->row_first + item >= end)
        return false;
    if (live > end - p->row_first)
        live = end - p->row_first;
    for (uint32_t i = item + 1; live > p->queries_rows && i < live; i++)
        if (position[i] % p->queries_rows == position[item] % p->queries_rows)
            return false;
    return true;
}

static void slot_row(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct kept_host_call *call = user;
    const struct kept_slot_write_params *p = call->params;
    const uint32_t *step = (const uint32_t *)call->bind[10];
    struct slot s;
    uint32_t row = p->row_first + item, group = p->n_head / p->n_kv;
    s.call = call;
    s.p = p;
    s.position = (int32_t)step[KEPT_STEP_TOKENS + p->chunk + row];
    s.qkv = (float *)call->bind[0] + (size_t)row * p->qkv_stride;
    s.rope = (struct ref_rope){(const float *)call->bind[1], call->bind_bytes[1], p->n_rot,
                               p->rope_pairs, p->hi_bias};
    s.copied = keeps_queries(p, step, item);
    for (uint32_t kv = 0; kv < p->n_kv; kv++) {
        if (!find_slot(&s, kv))
            continue;
        for (uint32_t h = kv * group; h < (kv + 1) * group; h++)
            write_q(&s, h);
        if (!s.stored)
            continue;
        write_kv(&s);
        write_meta(&s);
    }
}

void CPU_NAME(slot_write)(const struct kept_host_call *call, struct kept_pool *pool)
{
    struct kept_host_call own = *call;
    kept_pool_run(pool, kept_live_rows(call->params, (const uint32_t *)call->bind[10]), slot_row,
                  &own);
}

/* ---- argmax ---- */

static void argmax_row(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct kept_host_call *call = user;
    const struct kept_argmax_params *p = call->params;
    size_t row = p->row_first + item;
    float *v = (float *)call->bind[0] + row * p->stride;
    uint32_t *out = (uint32_t *)call->bind[1] + row * 2, best = 0, i = 0;
    vf high = vf_set(-INFINITY);
    if (p->softcap > 0)
        for (uint32_t k = 0; k < p->n; k++)
            v[k] = p->softcap * tanhf(v[k] / p->softcap);
    for (; i + 16 <= p->n; i += 16)
        high = vf_max(vf_load(v + i), high); /* NaN leaves high as it is */
    float max = vf_hmax(high);
    for (; i < p->n; i++)
        max = v[i] > max ? v[i] : max;
    while (best < p->n && !(v[best] == max))
        best++;
    if (best == p->n) /* only NaN */
        best = 0;
    out[0] = best;
    memcpy(&out[1], &v[best], 4);
}

void CPU_NAME(argmax)(const struct kept_host_call *call, struct kept_pool *pool)
{
    struct kept_host_call own = *call;
    kept_pool_run(pool, kept_live_rows(call->params, (const uint32_t *)call->bind[2]), argmax_row,
                  &own);
}

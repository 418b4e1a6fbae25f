/* backend/cpu/fast_rows.c: norm, glu, slot_write and argmax: one row is one item.
 *
 * In decode these are a few thousand elements between matrix products and run on the calling
 * thread; what matters is that they vectorise and read each row once. Widths that are no multiple
 * of 16 (none of a real model) take the reference.
 */
#include <math.h>

#include "backend/cpu/fast.h"
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

struct slot {
    const struct kept_host_call *call;
    const struct kept_slot_write_params *p;
    uint32_t at;                   /* the slot */
    float turn[KEPT_MAX_HEAD_DIM]; /* cos and sin of each pair at the row's position */
};

/* False when the position lies outside the table. */
static bool find_turn(struct slot *s, int32_t position)
{
    const struct kept_slot_write_params *p = s->p;
    const float *table = (const float *)s->call->bind[1];
    uint32_t lo = (uint32_t)position & 255u, half = p->n_rot / 2;
    int64_t hi = 256 + (int64_t)p->hi_bias + ((int64_t)position - (int64_t)lo) / 256;
    if (hi < 0 || ((uint64_t)hi + 1) * p->n_rot * 4 > s->call->bind_bytes[1])
        return false;
    const float *a = table + (size_t)lo * p->n_rot, *b = table + (size_t)hi * p->n_rot;
    for (uint32_t i = 0; i < half; i++) {
        s->turn[2 * i] = a[2 * i] * b[2 * i] - a[2 * i + 1] * b[2 * i + 1];
        s->turn[2 * i + 1] = a[2 * i] * b[2 * i + 1] + a[2 * i + 1] * b[2 * i];
    }
    return true;
}

static void rotate(const struct slot *s, float *v)
{
    uint32_t half = s->p->n_rot / 2;
    bool adjacent = s->p->rope_pairs == KEPT_ROPE_ADJACENT;
    for (uint32_t i = 0; i < half; i++) {
        float *a = adjacent ? v + 2 * i : v + i, *b = adjacent ? v + 2 * i + 1 : v + i + half;
        float c = s->turn[2 * i], sn = s->turn[2 * i + 1], old = *a;
        *a = old * c - *b * sn;
        *b = old * sn + *b * c;
    }
}

static void store_k(const struct slot *s, uint32_t kv_head, const uint16_t *half)
{
    const struct kept_slot_write_params *p = s->p;
    uint32_t *tile =
        (uint32_t *)s->call->bind[5] + ((size_t)kv_head * p->cap + s->at / 16 * 16) * (p->d / 2);
    for (uint32_t w = 0; w < p->d / 2; w++)
        tile[w * 16 + s->at % 16] = half[2 * w] | (uint32_t)half[2 * w + 1] << 16;
}

static void write_head(const struct slot *s, float *from, uint32_t h)
{
    const struct kept_slot_write_params *p = s->p;
    const uint32_t *keys = s->call->keys;
    bool is_q = h < p->n_head, is_v = h >= p->n_head + p->n_kv;
    float v[KEPT_MAX_HEAD_DIM];
    uint16_t half[KEPT_MAX_HEAD_DIM];
    memcpy(v, from, p->d * sizeof(float));
    if (keys[KEPT_KEY_SLOT_BIAS] != 0) {
        const float *bias = (const float *)s->call->bind[2] + (size_t)h * p->d;
        for (uint32_t i = 0; i < p->d; i += 16)
            vf_store(v + i, vf_add(vf_load(v + i), vf_load(bias + i)));
    }
    if (!is_v && keys[KEPT_KEY_SLOT_QKNORM] != 0) {
        const float *w = (const float *)s->call->bind[is_q ? 3 : 4];
        vf f = vf_set(norm_factor(v, p->d, p->eps));
        for (uint32_t i = 0; i < p->d; i += 16)
            vf_store(v + i, vf_mul(vf_mul(vf_load(v + i), f), vf_load(w + i)));
    }
    if (!is_v && p->rope_pairs != KEPT_ROPE_NONE)
        rotate(s, v);
    if (is_q) {
        for (uint32_t i = 0; i < p->d; i += 16)
            vf_store(from + i, vf_mul(vf_load(v + i), vf_set(p->q_scale)));
        return;
    }
    for (uint32_t i = 0; i < p->d; i += 16)
        vf_store_half(half + i, vf_load(v + i));
    if (is_v) {
        size_t row = (size_t)(h - p->n_head - p->n_kv) * p->cap + s->at;
        memcpy((uint16_t *)s->call->bind[6] + row * p->d, half, p->d * sizeof(uint16_t));
    } else {
        store_k(s, h - p->n_head, half);
    }
}

static void slot_row(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct kept_host_call *call = user;
    const struct kept_slot_write_params *p = call->params;
    struct slot s = {.call = call, .p = p};
    uint32_t row = p->row_first + item;
    int32_t position =
        (int32_t)((const uint32_t *)call->bind[10])[KEPT_STEP_TOKENS + p->chunk + row];
    s.at = (uint32_t)position % p->cap;
    if (p->rope_pairs != KEPT_ROPE_NONE && !find_turn(&s, position))
        return;
    float *qkv = (float *)call->bind[0] + (size_t)row * p->qkv_stride;
    for (uint32_t h = 0; h < p->n_head + 2 * p->n_kv; h++)
        write_head(&s, qkv + (size_t)h * p->d, h);
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

/* slot_write: QK norm, rotary embedding, K and V into their slots (kept_slot_write_params).
 *
 * A group has one head of one row: y < n_head a q head, else K and V of KV head y - n_head. Lanes
 * take rotated pairs, then what is not rotated. An element is read and written by the same lane, so
 * q is changed in place. Halves are stored one by one: two lanes may own the halves of one word.
 */
#include "common/kept.clh"

#ifndef QKNORM
#define QKNORM 0
#endif
#ifndef BIAS
#define BIAS 0
#endif

struct head {
    __global float *v;       /* the head's d elements */
    __global const float *b; /* their bias */
    __global const float *w; /* weights of the norm */
    float f;                 /* factor of the norm */
    __global half *slot;     /* K: where the slot's first half is; 0: a q head */
    float q_scale;
};

static float head_value(const struct head *h, uint i)
{
    float v = h->v[i];
#if BIAS
    v += h->b[i];
#endif
    return v;
}

static float normed_value(const struct head *h, uint i)
{
#if QKNORM
    return head_value(h, i) * h->f * h->w[i];
#else
    return head_value(h, i);
#endif
}

static void head_store(const struct head *h, uint i, float v)
{
    if (h->slot == 0) {
        h->v[i] = v * h->q_scale;
        return;
    }
    uint g = i / 8, w = i % 8 / 2;
    uint word = g * 64 + w * (ORDER == KEPT_LANE ? 1 : 16);
    vstore_half_rte(v, word * 2 + i % 2, h->slot);
}

static void rotate_and_store(const struct head *h, __global const float *table, int position,
                             const struct kept_slot_write_params *p)
{
    uint n_rot = p->rope_pairs == KEPT_ROPE_NONE ? 0 : p->n_rot, half_rot = n_rot / 2;
    int row_hi = 256 + (int)p->hi_bias + (position >> 8);
    __global const float *lo = table + (ulong)(position & 255) * n_rot;
    __global const float *hi = table + (ulong)row_hi * n_rot;
    for (uint i = LID; i < half_rot; i += WG) {
        bool adjacent = p->rope_pairs == KEPT_ROPE_ADJACENT;
        uint at_a = adjacent ? 2 * i : i, at_b = adjacent ? 2 * i + 1 : i + half_rot;
        float2 s = vload2(i, lo), t = vload2(i, hi);
        float c = s.x * t.x - s.y * t.y, sn = s.x * t.y + s.y * t.x;
        float a = normed_value(h, at_a), b = normed_value(h, at_b);
        head_store(h, at_a, a * c - b * sn);
        head_store(h, at_b, a * sn + b * c);
    }
    for (uint i = n_rot + LID; i < p->d; i += WG)
        head_store(h, i, normed_value(h, i));
}

__kernel KEPT_GROUP void slot_write(__global float *qkv, __global const float *table,
                                    __global const float *bias, __global const float *wq,
                                    __global const float *wk, __global half *k_slots,
                                    __global half *v_slots, __global const uint *heads,
                                    __global uint *meta, __global float *queries,
                                    __global const uint *step, const struct kept_slot_write_params p)
{
#if WG > 1
    __local float scratch[WG];
#endif
    if (get_group_id(0) >= LIVE_ROWS(step, p))
        return;
    uint row = p.row_first + get_group_id(0), y = get_group_id(1);
    int position = (int)step[KEPT_STEP_TOKENS + p.chunk + row];
    uint slot = (uint)position % p.cap;
    bool is_q = y < p.n_head;
    uint kv = y - p.n_head;
    struct head h;
    h.v = qkv + (ulong)row * p.qkv_stride + y * p.d;
    h.b = bias + y * p.d;
    h.w = is_q ? wq : wk;
    h.f = 1.0f;
    h.slot = is_q ? 0 : k_slots + (ulong)kv * p.cap * p.d + (ulong)(slot / 16) * 16 * p.d +
                            slot % 16 * (ORDER == KEPT_LANE ? 8 : 2);
    h.q_scale = p.q_scale;
#if QKNORM
    float sum = 0.0f;
    for (uint i = LID; i < p.d; i += WG)
        sum += head_value(&h, i) * head_value(&h, i);
    h.f = 1.0f / sqrt(GROUP_SUM(sum, scratch) / (float)p.d + p.eps);
#endif
    rotate_and_store(&h, table, position, &p);
    if (!is_q) {
        struct head v = h;
        v.v = h.v + p.n_kv * p.d;
        v.b = h.b + p.n_kv * p.d;
        __global half *to = v_slots + ((ulong)kv * p.cap + slot) * p.d;
        for (uint i = LID; i < p.d; i += WG)
            vstore_half_rte(head_value(&v, i), i, to);
    }
}

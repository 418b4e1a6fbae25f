/* slot_write: QK norm, rotary embedding, K and V into their slots (kept_slot_write_params).
 *
 * A group has one head of one row: y < n_head a q head, else K and V of KV head y - n_head. q, or k
 * and v, are in x while they are worked on; a lane has elements LID, LID + WG, … until pairs are
 * rotated. All groups meet at the same barriers.
 */
#include "common/kept.clh"
#include "common/slots.clh"

#ifndef QKNORM
#define QKNORM 0
#endif
#ifndef BIAS
#define BIAS 0
#endif
#ifndef STORE
#define STORE KEPT_SLOTS_PLAIN
#endif

/* A head of qkv, with its bias. */
static void head_load(SHARED float *x, __global const float *v, __global const float *bias, uint d)
{
    for (uint i = LID; i < d; i += WG) {
        x[i] = v[i];
#if BIAS
        x[i] += bias[i];
#endif
    }
}

#if QKNORM
static void head_norm(SHARED float *x, __global const float *w, SHARED float *scratch,
                      const struct kept_slot_write_params *p)
{
    float sum = 0.0f;
    for (uint i = LID; i < p->d; i += WG)
        sum += x[i] * x[i];
    float f = 1.0f / sqrt(GROUP_SUM(sum, scratch) / (float)p->d + p->eps);
    for (uint i = LID; i < p->d; i += WG)
        x[i] = x[i] * f * w[i];
}
#endif

/* Element `last` stays 0. */
static void head_rotate(SHARED float *x, __global const float *table, int position, uint last,
                        const struct kept_slot_write_params *p)
{
    uint n_rot = p->rope_pairs == KEPT_ROPE_NONE ? 0 : p->n_rot, half_rot = n_rot / 2;
    bool adjacent = p->rope_pairs == KEPT_ROPE_ADJACENT;
    int row_hi = 256 + (int)p->hi_bias + (position >> 8);
    __global const float *lo = table + (ulong)(position & 255) * n_rot;
    __global const float *hi = table + (ulong)row_hi * n_rot;
    for (uint i = LID; i < half_rot; i += WG) {
        uint at_a = adjacent ? 2 * i : i, at_b = adjacent ? 2 * i + 1 : i + half_rot;
        float2 s = vload2(i, lo), t = vload2(i, hi);
        float c = s.x * t.x - s.y * t.y, sn = s.x * t.y + s.y * t.x;
        float a = x[at_a], b = x[at_b];
        x[at_a] = a * c - b * sn;
        x[at_b] = at_b == last ? 0.0f : a * sn + b * c;
    }
}

/* Where a KV head has the token at `position`: a slot of the store. */
struct home {
    bool there;
    ulong slot;
    int turn; /* the position of RoPE */
};

static struct home home_of(__global const uint *heads, uint kv, int position,
                           const struct kept_slot_write_params *p)
{
    struct home h;
#if STORE == KEPT_SLOTS_PLAIN
    h.there = true;
    h.slot = (ulong)kv * p->cap + (uint)position % p->cap;
    h.turn = position;
#else
    struct extent e = extent_of(heads, kv, p->cap);
    uint since = (uint)position - (uint)e.edge;
    h.there = position >= e.edge && since < e.cap - e.base;
    h.slot = e.first + e.base + since;
    h.turn = (int)((uint)position - (uint)e.shift);
#endif
    return h;
}

/* k and v of a KV head, in x one after the other, into their slot. */
static void slot_store(SHARED const float *x, __global uint *k_slots, __global uint *v_slots,
                       __global uint *meta, const struct home *home,
                       const struct kept_slot_write_params *p)
{
    ulong tile = home->slot / 16;
    key_store(k_slots + tile * KEPT_TILE_WORDS(KT, p->d), p->d, home->slot % 16, x);
    value_store(v_slots + tile * KEPT_TILE_WORDS(VT, p->d), p->d, home->slot % 16, x + p->d);
#if STORE != KEPT_SLOTS_PLAIN
    if (LID == 0) {
        meta[home->slot] = (uint)home->turn;
        meta[p->cap + home->slot] = as_uint(0.0f);
        if (STORE == KEPT_SLOTS_RULE)
            meta[2ul * p->cap + home->slot] = 0x7fffffffu;
    }
#endif
}

__kernel KEPT_GROUP void slot_write(__global float *qkv, __global const float *table,
                                    __global const float *bias, __global const float *wq,
                                    __global const float *wk, __global uint *k_slots,
                                    __global uint *v_slots, __global const uint *heads,
                                    __global uint *meta, __global float *queries,
                                    __global const uint *step,
                                    const struct kept_slot_write_params p)
{
    SHARED float x[2 * MAX_D];
#if QKNORM
    SHARED float scratch[WG];
#endif
    if (get_group_id(0) >= LIVE_ROWS(step, p))
        return;
    uint row = p.row_first + get_group_id(0), y = get_group_id(1), d = p.d;
    bool is_q = y < p.n_head;
    uint kv = is_q ? y / (p.n_head / p.n_kv) : y - p.n_head;
    int position = (int)step[KEPT_STEP_TOKENS + p.chunk + row];
    struct home home = home_of(heads, kv, position, &p);
    if (p.rope_pairs != KEPT_ROPE_NONE && (home.turn >> 8) < -(int)p.hi_bias)
        return; /* the table begins later */
    __global float *v = qkv + (ulong)row * p.qkv_stride + y * d;
    head_load(x, v, bias + y * d, d);
    if (!is_q)
        head_load(x + d, v + p.n_kv * d, bias + (y + p.n_kv) * d, d);
#if QKNORM
    head_norm(x, is_q ? wq : wk, scratch, &p);
#endif
    if (is_q && p.queries_rows != 0 && row < step[p.queries_at]) {
        uint at = (uint)position % p.queries_rows;
        for (uint i = LID; i < d; i += WG)
            queries[((ulong)at * p.n_head + y) * d + i] = x[i];
    }
    bool borrowed = is_q && p.borrowed != 0 && y % (p.n_head / p.n_kv) == 0;
    if (borrowed && LID == (d - 1) % WG)
        x[d - 1] = 0.0f;
    SYNC();
    head_rotate(x, table, home.turn, borrowed ? d - 1 : UINT_MAX, &p);
    SYNC();
    if (ROTATED(KT))
        hadamard(x, d, d);
    if (ROTATED(VT))
        hadamard(x + d, is_q ? 0 : d, d);
    if (is_q)
        for (uint i = LID; i < d; i += WG)
            v[i] = x[i] * p.q_scale;
    else if (home.there)
        slot_store(x, k_slots, v_slots, meta, &home, &p);
}

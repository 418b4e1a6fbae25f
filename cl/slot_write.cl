/* slot_write: QK norm, rotary embedding, K and V into their slots (kept_slot_write_params).
 *
 * A group has one head of one row: y < n_head a q head, else K and V of KV head y - n_head. The head
 * is in x while it is worked on; a lane has elements LID, LID + WG, … until pairs are rotated.
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

static void head_rotate(SHARED float *x, __global const float *table, int position,
                        const struct kept_slot_write_params *p)
{
    uint n_rot = p->rope_pairs == KEPT_ROPE_NONE ? 0 : p->n_rot, half_rot = n_rot / 2;
    int row_hi = 256 + (int)p->hi_bias + (position >> 8);
    __global const float *lo = table + (ulong)(position & 255) * n_rot;
    __global const float *hi = table + (ulong)row_hi * n_rot;
    SYNC();
    for (uint i = LID; i < half_rot; i += WG) {
        bool adjacent = p->rope_pairs == KEPT_ROPE_ADJACENT;
        uint at_a = adjacent ? 2 * i : i, at_b = adjacent ? 2 * i + 1 : i + half_rot;
        float2 s = vload2(i, lo), t = vload2(i, hi);
        float c = s.x * t.x - s.y * t.y, sn = s.x * t.y + s.y * t.x;
        float a = x[at_a], b = x[at_b];
        x[at_a] = a * c - b * sn;
        x[at_b] = a * sn + b * c;
    }
    SYNC();
    if (ROTATED(KT))
        hadamard(x, p->d, p->d);
}

/* Where a KV head has the token at `position`: a slot of the store. */
struct home {
    bool there;
    ulong slot;
    int shift; /* RoPE turns by position - shift */
};

static struct home home_of(__global const uint *heads, uint kv, int position,
                           const struct kept_slot_write_params *p)
{
    struct home h;
#if STORE == KEPT_SLOTS_PLAIN
    h.there = true;
    h.slot = (ulong)kv * p->cap + (uint)position % p->cap;
    h.shift = 0;
#else
    struct extent e = extent_of(heads, kv, p->cap);
    uint since = (uint)position - (uint)e.edge;
    h.there = position >= e.edge && since < e.cap - e.base;
    h.slot = e.first + e.base + since;
    h.shift = e.shift;
#endif
    return h;
}

/* Of a q head at v: the copy of queries, then the rotated head back. */
static void query_finish(SHARED float *x, __global float *v, __global float *queries,
                         __global const float *table, int position,
                         const struct kept_slot_write_params *p)
{
    if (p->queries_rows != 0)
        for (uint i = LID; i < p->d; i += WG)
            queries[i] = x[i];
    head_rotate(x, table, position, p);
    for (uint i = LID; i < p->d; i += WG)
        v[i] = x[i] * p->q_scale;
}

__kernel KEPT_GROUP void slot_write(__global float *qkv, __global const float *table,
                                    __global const float *bias, __global const float *wq,
                                    __global const float *wk, __global uint *k_slots,
                                    __global uint *v_slots, __global const uint *heads,
                                    __global uint *meta, __global float *queries,
                                    __global const uint *step,
                                    const struct kept_slot_write_params p)
{
    SHARED float x[MAX_D];
#if QKNORM
    SHARED float scratch[WG];
#endif
    if (get_group_id(0) >= LIVE_ROWS(step, p))
        return;
    uint row = p.row_first + get_group_id(0), y = get_group_id(1);
    bool is_q = y < p.n_head;
    uint kv = is_q ? y / (p.n_head / p.n_kv) : y - p.n_head;
    int position = (int)step[KEPT_STEP_TOKENS + p.chunk + row];
    struct home home = home_of(heads, kv, position, &p);
    int turn = (int)((uint)position - (uint)home.shift);
    __global float *v = qkv + (ulong)row * p.qkv_stride + y * p.d;
    head_load(x, v, bias + y * p.d, p.d);
#if QKNORM
    head_norm(x, is_q ? wq : wk, scratch, &p);
#endif
    if (is_q) {
        uint at = p.queries_rows != 0 ? (uint)position % p.queries_rows : 0;
        query_finish(x, v, queries + ((ulong)at * p.n_head + y) * p.d, table, turn, &p);
        return;
    }
    if (!home.there)
        return;
    uint in_tile = home.slot % 16;
    head_rotate(x, table, turn, &p);
    key_store(k_slots + home.slot / 16 * KEPT_TILE_WORDS(KT, p.d), p.d, in_tile, x);
    SYNC();
    head_load(x, v + p.n_kv * p.d, bias + (y + p.n_kv) * p.d, p.d);
    SYNC();
    if (ROTATED(VT))
        hadamard(x, p.d, p.d);
    value_store(v_slots + home.slot / 16 * KEPT_TILE_WORDS(VT, p.d), p.d, in_tile, x);
#if STORE != KEPT_SLOTS_PLAIN
    if (LID == 0) {
        meta[home.slot] = (uint)turn;
        meta[p.cap + home.slot] = as_uint(0.0f);
        if (STORE == KEPT_SLOTS_RULE)
            meta[2ul * p.cap + home.slot] = 0x7fffffffu;
    }
#endif
}

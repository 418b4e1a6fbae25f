/* attn_prefill: attention of many rows (kept_attn_params).
 *
 * A group has BQ rows and one pass of up to G heads of one KV head: COLS = BQ * G columns, column =
 * row * G + head.
 * It goes through all tiles that any of its rows attends and writes the finished output with its
 * sums of 16.
 */
#include "common/kept.clh"
#if WG == 1
#define KEPT_V 16
#else
#define KEPT_V 1
#endif
#ifndef G
#define G 1
#endif
#ifndef BQ
#define BQ 8
#endif
#define COLS (BQ * G)
#include "common/attend.clh"

__kernel KEPT_GROUP void attn_prefill(__global const float *qkv, __global const uint *k_slots,
                                      __global const uint *v_slots, __global const uint *meta,
                                      __global const uint *live, __global float *out,
                                      __global const uint *step, const struct kept_attn_params p)
{
#if WG > 1
    __local float q[COLS * D], score[COLS * WG], tree[COLS * WG], sums[COLS];
    __local uint used[WG];
    __local int positions[COLS];
#endif
    uint n_live = LIVE_ROWS(step, p), r0 = get_group_id(0) * BQ;
    if (r0 >= n_live)
        return;
    uint rows = min(n_live - r0, (uint)BQ), row0 = p.row_first + r0;
    uint group = p.n_head / p.n_kv, passes = (group + G - 1) / G;
    uint kv = get_group_id(1) / passes, head0 = get_group_id(1) % passes * G;
    uint heads = min(group - head0, (uint)G), first = 0xffffffffu, end = 0;
    struct segment s = segment_of(k_slots, v_slots, meta, live, &p, kv);
    __global const uint *at_position = step + KEPT_STEP_TOKENS + p.chunk + row0;
    for (uint r = 0; r < rows; r++) {
        uint from, to;
        tile_range(&s, (int)at_position[r], &from, &to);
        if (to > from) {
            first = min(first, from);
            end = max(end, to);
        }
    }
    head0 += kv * group;
    __global const float *qs = qkv + (ulong)row0 * p.q_stride + head0 * D;
    __global float *to = out + (ulong)row0 * p.out_stride;

#if WG == 1
    struct columns c;
    columns_clear(&c);
    for (uint i = 0; i < COLS; i++) {
        uint r = i / G, h = i % G;
        bool there = r < rows && h < heads;
        c.q[i] = there ? qs + (ulong)r * p.q_stride + h * D : qs;
        c.p[i] = there ? (int)at_position[r] : OFF_POSITION;
    }
    for (uint t = first; t < end; t++)
        attend_tile(&s, &c, t);
    for (uint i = 0; i < COLS; i++) {
        uint r = i / G, h = i % G;
        if (r >= rows || h >= heads)
            continue;
        __global float *o = to + (ulong)r * p.out_stride;
        float l = sum16(c.l[i]);
        for (uint j = 0; j < CHUNKS; j++) {
            float16 v = l > 0.0f ? c.o[i][j] / l : (float16)(0.0f);
            uint chunk = (head0 + h) * CHUNKS + j;
            vstore16(v, chunk, o);
            o[p.n_head * D + chunk] = sum16(v);
        }
    }
#else
    struct meeting at = {q, score, tree, used};
    struct lane my;
    for (uint i = LID; i < COLS * D; i += WG) {
        uint r = i / D / G, h = i / D % G;
        q[i] = r < rows && h < heads ? qs[(ulong)r * p.q_stride + h * D + i % D] : 0.0f;
    }
    for (uint i = LID; i < COLS; i += WG)
        positions[i] = i / G < rows && i % G < heads ? (int)at_position[i / G] : OFF_POSITION;
    attend(&s, &at, positions, first, end, &my);
    for (uint c = 0; c < COLS; c++)
        if (LID == 0)
            sums[c] = my.l[c];
    SYNC();
    for (uint i = LID; i < COLS * (D / 16); i += WG) {
        uint c = i / (D / 16), j = i % (D / 16), r = c / G, h = c % G;
        if (r >= rows || h >= heads)
            continue;
        __global float *o = to + (ulong)r * p.out_stride;
        uint chunk = (head0 + h) * (D / 16) + j;
        float16 v = vload16(j, q + c * D);
        v = sums[c] > 0.0f ? v / sums[c] : (float16)(0.0f);
        vstore16(v, chunk, o);
        o[p.n_head * D + chunk] = sum16(v);
    }
#endif
}

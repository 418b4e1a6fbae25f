/* attn_decode: attention of few rows, split over the slots (kept_attn_params).
 *
 * A group has split x of the tiles, pass z of the heads of one KV head (up to G of them, folded: K
 * and V are read once for all), and one row. It writes partial results (m, l, o) that attn_merge
 * joins.
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
#define COLS G
#include "common/attend.clh"

__kernel KEPT_GROUP void attn_decode(__global const float *qkv, __global const uint *k_slots,
                                     __global const uint *v_slots, __global const uint *meta,
                                     __global const uint *live, __global float *part,
                                     __global const uint *step, const struct kept_attn_params p)
{
#if WG > 1
    __local float q[COLS * D], score[COLS * WG], tree[COLS * WG];
    __local uint used[WG];
    __local int positions[COLS];
#endif
    if (get_group_id(2) >= LIVE_ROWS(step, p))
        return;
    uint row = p.row_first + get_group_id(2), split = get_group_id(0);
    uint group = p.n_head / p.n_kv, passes = (group + G - 1) / G;
    uint kv = get_group_id(1) / passes, head0 = get_group_id(1) % passes * G;
    uint heads = min(group - head0, (uint)G), first, end;
    int position = (int)step[KEPT_STEP_TOKENS + p.chunk + row];
    struct segment s = segment_of(k_slots, v_slots, meta, live, &p, kv);
    tile_range(&s, position, &first, &end);
    uint n = end - first;
    end = first + (uint)((ulong)n * (split + 1) / p.n_splits);
    first += (uint)((ulong)n * split / p.n_splits);
    head0 += kv * group;
    __global const float *qs = qkv + (ulong)row * p.q_stride + head0 * D;
    ulong at_part = ((ulong)row * p.n_head + head0) * p.parts + p.part_first + split;
    __global float *out = part + at_part * (D + 4);
    ulong out_stride = (ulong)p.parts * (D + 4);

#if WG == 1
    struct columns c;
    columns_clear(&c);
    for (uint i = 0; i < G; i++) {
        c.q[i] = qs + min(i, heads - 1) * D;
        c.p[i] = i < heads ? position : OFF_POSITION;
    }
    for (uint t = first; t < end; t++)
        attend_tile(&s, &c, t);
    for (uint i = 0; i < heads; i++) {
        out[i * out_stride] = c.m[i];
        out[i * out_stride + 1] = sum16(c.l[i]);
        for (uint j = 0; j < CHUNKS; j++)
            vstore16(c.o[i][j], j, out + i * out_stride + 4);
    }
#else
    struct meeting at = {q, score, tree, used};
    struct lane my;
    for (uint i = LID; i < COLS * D; i += WG)
        q[i] = i / D < heads ? qs[i] : 0.0f;
    for (uint i = LID; i < COLS; i += WG)
        positions[i] = i < heads ? position : OFF_POSITION;
    attend(&s, &at, positions, first, end, &my);
    for (uint c = 0; c < COLS; c++) {
        if (LID == 0 && c < heads) {
            out[c * out_stride] = my.m[c];
            out[c * out_stride + 1] = my.l[c];
        }
    }
    for (uint i = LID; i < heads * D; i += WG)
        out[i / D * out_stride + 4 + i % D] = q[i];
#endif
}

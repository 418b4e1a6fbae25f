/* attn_decode: attention of few rows, split over the slots (kept_attn_params).
 *
 * A group has split x of the tiles, pass z of the heads of one KV head (up to G of them, folded: K
 * and V are read once for all), and one row. It writes partial results (m, l, o) that attn_merge
 * joins.
 */
#include "common/kept.clh"
#define BQ 1
#include "common/attend.clh"

__kernel KEPT_GROUP void attn_decode(__global const float *qkv, __global const uint *k_slots,
                                     __global const uint *v_slots, __global const uint *meta,
                                     __global const uint *heads, __global float *part,
                                     __global const uint *step, const struct kept_attn_params p)
{
#if WG > 1
    __local float q[COLS * D], score[COLS * WG], tree[COLS * WG];
    __local uint used[WG];
    __local int positions[COLS];
#endif
    if (get_group_id(2) >= LIVE_ROWS(step, p))
        return;
    struct inputs in = {qkv, k_slots, v_slots, meta, heads, step};
    uint row = p.row_first + get_group_id(2), split = get_group_id(0);
    struct work w = work_of(&in, &p, row, 1);
    uint n = w.end > w.first ? w.end - w.first : 0;
    w.end = w.first + (uint)((ulong)n * (split + 1) / p.n_splits);
    w.first += (uint)((ulong)n * split / p.n_splits);
    ulong at_part = ((ulong)row * p.n_head + w.head) * p.parts + p.part_first + split;
    __global float *out = part + at_part * (D + 4);
    ulong out_stride = (ulong)p.parts * (D + 4);

#if WG == 1
    struct columns c;
    attend(&w, &c);
    for (uint i = 0; i < w.heads; i++) {
        out[i * out_stride] = c.m[i];
        out[i * out_stride + 1] = sum16(c.l[i]);
        for (uint j = 0; j < CHUNKS; j++)
            vstore16(c.o[i][j], j, out + i * out_stride + 4);
    }
#else
    struct meeting at = {q, score, tree, used, positions};
    struct lane my;
    attend(&w, &at, &my);
    for (uint c = 0; c < COLS; c++) {
        if (LID == 0 && c < w.heads) {
            out[c * out_stride] = my.m[c];
            out[c * out_stride + 1] = my.l[c];
        }
    }
    for (uint i = LID; i < w.heads * D; i += WG)
        out[i / D * out_stride + 4 + i % D] = q[i];
#endif
}

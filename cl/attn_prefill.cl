/* attn_prefill: attention of many rows (kept_attn_params).
 *
 * A group has BQ rows and one pass of up to G heads of one KV head. It goes through all tiles that
 * any of its rows attends and writes the finished output with its sums of 16 (OUT 0), or partial
 * results (m, l, o) that attn_merge joins with those of other segments (OUT 1).
 */
#include "common/kept.clh"
#include "common/attend.clh"

#ifndef OUT
#define OUT 0
#endif

#if OUT == 0
/* Chunk `chunk` (16 elements) of a row of the output and its sum. */
static void output_store(__global float *row, uint width, uint chunk, float16 o, float l)
{
    o = l > 0.0f ? o / l : (float16)(0.0f);
    vstore16(o, chunk, row);
    row[width + chunk] = sum16(o);
}
#endif

__kernel KEPT_GROUP void attn_prefill(__global const float *qkv, __global const uint *k_slots,
                                      __global const uint *v_slots, __global const uint *meta,
                                      __global const uint *heads, __global float *out,
                                      __global const uint *step, const struct kept_attn_params p)
{
#if WG > 1
    __local float q[COLS * D], score[COLS * WG], tree[COLS * WG];
#if OUT == 0
    __local float sums[COLS];
#endif
    __local uint used[WG];
    __local int positions[COLS];
#endif
    uint n_live = LIVE_ROWS(step, p), r0 = get_group_id(0) * BQ;
    if (r0 >= n_live)
        return;
    struct inputs in = {qkv, k_slots, v_slots, meta, heads, step};
    struct work w = work_of(&in, &p, p.row_first + r0, min(n_live - r0, (uint)BQ));
#if OUT == 0
    __global float *to = out + (ulong)(p.row_first + r0) * p.out_stride;
#else
    ulong part_words = (ulong)p.parts * (D + 4), row_words = p.n_head * part_words;
    __global float *to = out + (p.row_first + r0) * row_words + w.head * part_words +
                         (ulong)p.part_first * (D + 4);
#endif

#if WG == 1
    struct columns c;
    attend(&w, &c);
    for (uint i = 0; i < COLS; i++) {
        uint r = i / G, h = i % G;
        if (r >= w.rows || h >= w.heads)
            continue;
        float l = sum16(c.l[i]);
#if OUT == 0
        if (ROTATED(VT))
            hadamard((float *)c.o[i], D, D);
        for (uint j = 0; j < D / 16; j++)
            output_store(to + (ulong)r * p.out_stride, p.n_head * D, (w.head + h) * (D / 16) + j,
                         c.o[i][j], l);
#else
        __global float *part = to + r * row_words + h * part_words;
        part[0] = c.m[i];
        part[1] = l;
        for (uint j = 0; j < CHUNKS; j++)
            vstore16(c.o[i][j], j, part + 4);
#endif
    }
#else
    struct meeting at = {q, score, tree, used, positions};
    struct lane my;
    attend(&w, &at, &my);
#if OUT == 0
    for (uint c = 0; c < COLS; c++)
        if (LID == 0)
            sums[c] = my.l[c];
    SYNC();
    if (ROTATED(VT))
        hadamard(q, COLS * D, D);
    for (uint i = LID; i < COLS * (D / 16); i += WG) {
        uint c = i / (D / 16), j = i % (D / 16), r = c / G, h = c % G;
        if (r >= w.rows || h >= w.heads)
            continue;
        output_store(to + (ulong)r * p.out_stride, p.n_head * D, (w.head + h) * (D / 16) + j,
                     vload16(j, q + c * D), sums[c]);
    }
#else
    for (uint c = 0; c < COLS; c++) {
        if (LID == 0 && c / G < w.rows && c % G < w.heads) {
            __global float *part = to + c / G * row_words + c % G * part_words;
            part[0] = my.m[c];
            part[1] = my.l[c];
        }
    }
    for (uint i = LID; i < COLS * D; i += WG) {
        uint r = i / D / G, h = i / D % G;
        if (r < w.rows && h < w.heads)
            to[r * row_words + h * part_words + 4 + i % D] = q[i];
    }
#endif
#endif
}

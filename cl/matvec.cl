/* matvec: a matrix times 1 to 8 activation rows (kept_matmul_params).
 *
 *   WG >= 16: lane = row of a tile in one of KS = WG/16 slices of K, lid = slice * 16 + row.
 *       Slice s takes units s, s + KS and so on; x is uniform in it. Slices meet in local memory.
 *   WG 1: a work-item = a tile of 16 rows as 16-wide vectors, all of K: no local memory or barrier.
 * Tunables: NC columns a group, TR tiles a group works through one after the other, EPI epilogue.
 */
#ifndef NC
#define NC 1
#endif
#ifndef TR
#define TR 1
#endif
#ifndef EPI
#define EPI 0
#endif
#include "common/kept.clh"
#if WG == 1
#define KEPT_V 16
#else
#define KEPT_V 1
#endif
#define COLUMNS NC
#include "common/columns.clh"

#define GLU (EPI >= KEPT_EPI_GLU_SILU)
#define MATRICES (GLU ? 2 : 1)

#if WG == 1

static void tile_product(__global const uint *record, const struct kept_matmul_params *p,
                         __global const float *const x[NC], F acc[NC])
{
    struct weights w = weights_of(record, p->h_words, p->s_words, p->d_words, 0);
    for (uint c = 0; c < NC; c++)
        acc[c] = (F)(0.0f);
    for (uint u = 0; u < p->k / 32; u++)
        unit_product(&w, u, p->k, x, acc);
}

#include "common/epilogue.clh"

__kernel KEPT_GROUP void matvec(__global const uint *weights, __global const float *x,
                                __global float *y, __global const uint *step,
                                const struct kept_matmul_params p)
{
    uint live = LIVE_ROWS(step, p), c0 = get_group_id(1) * NC;
    if (c0 >= live)
        return;
    __global const float *xs[NC];
    for (uint c = 0; c < NC; c++) /* columns past the last repeat it and are not stored */
        xs[c] = x + ((ulong)step[p.x_first_at] + p.row_first + min(c0 + c, live - 1)) * p.x_stride;
    uint tiles = (p.n_rows + 15) / 16, first = get_group_id(0) * TR, end = min(first + TR, tiles);
    for (uint tile = first; tile < end; tile++) {
        uint n = p.n_rows - tile * 16;
        F acc[MATRICES][NC];
        for (uint m = 0; m < MATRICES; m++)
            tile_product(weights + (ulong)(tile + m * p.up_tiles) * p.record_words, &p, xs, acc[m]);
        for (uint c = 0; c < NC && c0 + c < live; c++) {
            __global float *to = y + (ulong)(p.row_first + c0 + c) * p.y_stride;
#if GLU
            float16 a = gated(acc[0][c], acc[1][c], n);
            to[p.sums_offset + p.y_offset / 16 + tile] = sum16(a);
#else
            float16 a = acc[0][c];
#endif
            store_tile(to + p.y_offset + tile * 16, n, a);
        }
    }
}

#else

#define KS (WG / 16)

/* Sum over the slices of what the group's lanes hold for row r and column c of matrix m. */
static float slice_sum(__local const float *part, uint m, uint c, uint r)
{
    float sum = 0.0f;
    for (uint s = 0; s < KS; s++)
        sum += part[(m * NC + c) * WG + s * 16 + r];
    return sum;
}

static void tile_store(__local float *part, __global float *y, const struct kept_matmul_params *p,
                       uint tile, uint columns)
{
    for (uint i = LID; i < 16 * columns; i += WG) {
        uint c = i / 16, r = i % 16, row = tile * 16 + r;
        float a = slice_sum(part, 0, c, r);
        __global float *to = y + (ulong)c * p->y_stride + p->y_offset + row;
#if GLU
        a = (EPI == KEPT_EPI_GLU_SILU ? silu1(a) : gelu1(a)) * slice_sum(part, 1, c, r);
        a = row < p->n_rows ? a : 0.0f;
        /* Slice 0 of its column is read by this lane alone. */
        part[c * WG + r] = a;
#endif
        if (row < p->n_rows)
            *to = EPI == KEPT_EPI_ADD ? *to + a : a;
    }
#if GLU
    SYNC();
    for (uint c = LID; c < columns; c += WG) {
        float sum = 0.0f;
        for (uint r = 0; r < 16; r++)
            sum += part[c * WG + r];
        y[(ulong)c * p->y_stride + p->sums_offset + p->y_offset / 16 + tile] = sum;
    }
#endif
}

__kernel KEPT_GROUP void matvec(__global const uint *weights, __global const float *x,
                                __global float *y, __global const uint *step,
                                const struct kept_matmul_params p)
{
    __local float part[MATRICES * NC * WG];
    uint live = LIVE_ROWS(step, p), c0 = get_group_id(1) * NC, lid = LID;
    if (c0 >= live)
        return;
    __global const float *xs[NC];
    for (uint c = 0; c < NC; c++) /* columns past the last repeat it and are not stored */
        xs[c] = x + ((ulong)step[p.x_first_at] + p.row_first + min(c0 + c, live - 1)) * p.x_stride;
    uint tiles = (p.n_rows + 15) / 16, first = get_group_id(0) * TR, end = min(first + TR, tiles);
    for (uint tile = first; tile < end; tile++) {
        for (uint m = 0; m < MATRICES; m++) {
            struct weights w = weights_of(weights + (ulong)(tile + m * p.up_tiles) * p.record_words,
                                          p.h_words, p.s_words, p.d_words, lid % 16);
            float acc[NC];
            for (uint c = 0; c < NC; c++)
                acc[c] = 0.0f;
            for (uint u = lid / 16; u < p.k / 32; u += KS)
                unit_product(&w, u, p.k, xs, acc);
            for (uint c = 0; c < NC; c++)
                part[(m * NC + c) * WG + lid] = acc[c];
        }
        SYNC();
        tile_store(part, y + (ulong)(p.row_first + c0) * p.y_stride, &p, tile,
                   min(live - c0, (uint)NC));
        SYNC();
    }
}

#endif

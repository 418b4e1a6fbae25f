/* q_stats: the queries of a block into the sums of their head (kept_stats_params).
 *
 * Group (x, y): query head x, elements 16y … 16y + 15 of one factor of the products. The sums of
 * products are symmetric, so they are taken as columns of the matrix: a lane has vectors of 16, and
 * COLUMNS of them at once.
 */
#include "common/kept.clh"

#ifndef D
#define D 64
#endif
#define COLUMNS (WG == 1 ? 8 : 1)

/* The row of queries that row r of the block is in; `start` is row 0's. */
static uint query_row(uint start, uint r, uint rows)
{
    uint row = start + r;
    return row < rows ? row : row - rows;
}

__kernel KEPT_GROUP void q_stats(__global const float *queries, __global float *stats,
                                 __global const uint *step, const struct kept_stats_params p)
{
    if (LIVE_ROWS(step, p) != p.row_cap)
        return;
    uint head = get_group_id(0), part = get_group_id(1);
    uint position = step[KEPT_STEP_BASE] + p.row_first;
    uint first = min(p.sinks - min(p.sinks, position), p.row_cap);
    uint start = position % p.queries_rows;
    ulong stride = (ulong)p.n_head * D;
    __global const float *q = queries + (ulong)head * D;
    __global float *sums = stats + (ulong)head * KEPT_STATS_STRIDE(D);
    for (uint j = LID * COLUMNS; j < D; j += WG * COLUMNS) {
        float16 sum[COLUMNS];
#pragma unroll
        for (uint i = 0; i < COLUMNS; i++)
            sum[i] = (float16)(0.0f);
        for (uint r = first; r < p.row_cap; r++) {
            __global const float *row = q + query_row(start, r, p.queries_rows) * stride;
            float16 v = vload16(part, row);
#pragma unroll
            for (uint i = 0; i < COLUMNS; i++)
                sum[i] = MAC(v, (float16)(row[j + i]), sum[i]);
        }
#pragma unroll
        for (uint i = 0; i < COLUMNS; i++) {
            __global float *to = sums + (j + i) * D;
            vstore16(vload16(part, to) + sum[i], part, to);
        }
    }
    if (LID == 0) {
        float16 sum = (float16)(0.0f);
        for (uint r = first; r < p.row_cap; r++)
            sum += vload16(part, q + query_row(start, r, p.queries_rows) * stride);
        __global float *to = sums + D * D;
        vstore16(vload16(part, to) + sum, part, to);
    }
}

/* glu: gated activation where the matrix kernels could not fuse it (kept_glu_params).
 *
 * A group has 256 elements of one row, a lane a chunk of 16 with its sum. ACT 0: silu, 1: gelu
 * (tanh form).
 */
#include "common/kept.clh"

#ifndef ACT
#define ACT 0
#endif

__kernel KEPT_GROUP void glu(__global const float *x, __global float *out,
                             __global const uint *step, const struct kept_glu_params p)
{
    if (get_group_id(1) >= LIVE_ROWS(step, p))
        return;
    ulong row = p.row_first + get_group_id(1);
    __global const float *gate = x + row * p.x_stride, *up = gate + p.n;
    __global float *to = out + row * p.out_stride;
    uint first = get_group_id(0) * 16, end = min(first + 16, p.n / 16);
    for (uint i = first + LID; i < end; i += WG) {
        float16 g = vload16(i, gate);
        float16 v = (ACT == 0 ? silu16(g) : gelu16(g)) * vload16(i, up);
        vstore16(v, i, to);
        to[p.n + i] = sum16(v);
    }
}

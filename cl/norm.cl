/* norm: RMS norm, with the residual add of post-norm models (kept_norm_params).
 *
 * A group has one row; a lane takes chunks of 16 elements, so that the sums of 16 which follow an
 * activation row need no other lane. Two sums over the group at most.
 *   MODE 0: out = n(x, w)   1: x += n(y, w_post), then out = n(x, w)   2: x += n(y, w_post)
 */
#include "common/kept.clh"

#ifndef MODE
#define MODE 0
#endif

#if WG == 1
#define SCRATCH 0
#else
#define SCRATCH scratch
#endif

static float squares(__global const float *v, uint k)
{
    float16 sum = 0.0f;
    for (uint i = LID; i < k / 16; i += WG) {
        float16 a = vload16(i, v);
        sum = MAC(a, a, sum);
    }
    return sum16(sum);
}

__kernel KEPT_GROUP void norm(__global float *x, __global const float *y,
                              __global const float *w_post, __global const float *w,
                              __global float *out, __global const uint *step,
                              const struct kept_norm_params p)
{
#if WG > 1
    __local float scratch[WG];
#endif
    if (get_group_id(0) >= LIVE_ROWS(step, p))
        return;
    ulong row = p.row_first + get_group_id(0), from = row + step[p.first_at];
    __global float *xr = x + from * p.x_stride;
#if MODE != 0
    __global const float *yr = y + from * p.y_stride;
    float f_post = 1.0f / sqrt(GROUP_SUM(squares(yr, p.k), SCRATCH) / (float)p.k + p.eps);
    for (uint i = LID; i < p.k / 16; i += WG)
        vstore16(vload16(i, xr) + vload16(i, yr) * f_post * vload16(i, w_post), i, xr);
#endif
#if MODE != 2
    /* A lane reads only the chunks that it wrote itself above. */
    __global float *to = out + row * p.out_stride;
    float f = 1.0f / sqrt(GROUP_SUM(squares(xr, p.k), SCRATCH) / (float)p.k + p.eps);
    for (uint i = LID; i < p.k / 16; i += WG) {
        float16 v = vload16(i, xr) * f * vload16(i, w);
        vstore16(v, i, to);
        to[p.k + i] = sum16(v);
    }
#endif
}

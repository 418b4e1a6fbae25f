/* attn_merge: splits and segments of attention into one output (kept_merge_params).
 *
 * A group has one head of one row; a lane takes chunks of 16 elements and goes through the parts:
 * at most a few dozen, so every lane finds the maximum and the sum for itself. With VROT the chunks
 * meet in x to be rotated.
 */
#include "common/kept.clh"
#include "common/slots.clh"

#ifndef VROT
#define VROT 0
#endif

__kernel KEPT_GROUP void attn_merge(__global const float *part, __global float *out,
                                    __global const uint *step, const struct kept_merge_params p)
{
#if VROT
    SHARED float x[MAX_D];
#endif
    if (get_group_id(0) >= LIVE_ROWS(step, p))
        return;
    ulong row = p.row_first + get_group_id(0);
    uint head = get_group_id(1), stride = p.d + 4, chunks = p.d / 16;
    __global const float *in = part + (row * p.n_head + head) * p.parts * stride;
    __global float *to = out + row * p.out_stride;
    float m = -INFINITY, l = 0.0f;
    for (uint i = 0; i < p.parts; i++)
        m = fmax(m, in[(ulong)i * stride]);
    for (uint i = 0; i < p.parts; i++)
        if (in[(ulong)i * stride] > -INFINITY)
            l += exp(in[(ulong)i * stride] - m) * in[(ulong)i * stride + 1];
    for (uint c = LID; c < chunks; c += WG) {
        float16 o = 0.0f;
        for (uint i = 0; i < p.parts; i++) {
            __global const float *from = in + (ulong)i * stride;
            if (from[0] > -INFINITY)
                o += exp(from[0] - m) * vload16(c, from + 4);
        }
        o = l > 0.0f ? o / l : (float16)(0.0f);
#if VROT
        vstore16(o, c, x);
    }
    SYNC();
    hadamard(x, p.d, p.d);
    for (uint c = LID; c < chunks; c += WG) {
        float16 o = vload16(c, x);
#endif
        vstore16(o, head * chunks + c, to);
        to[p.n_head * p.d + head * chunks + c] = sum16(o);
    }
}

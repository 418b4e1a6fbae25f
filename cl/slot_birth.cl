/* slot_birth: scores that a token's own row decides (kept_birth_params).
 *
 * Group: 64 rows (x) of one KV head (y); a lane takes rows LID, LID + WG, …
 */
#include "common/kept.clh"
#include "common/slots.clh"

#ifndef BIAS
#define BIAS 0
#endif
#ifndef DMS
#define DMS 0
#endif

__kernel KEPT_GROUP void slot_birth(__global const float *alpha, __global const float *bias,
                                    __global float *scores, __global uint *meta,
                                    __global const uint *heads, __global const uint *step,
                                    const struct kept_birth_params p)
{
    uint kv = get_group_id(1), first = get_group_id(0) * 64;
    uint live = LIVE_ROWS(step, p), end = min(live, first + 64);
    struct extent e = extent_of(heads, kv, p.total);
    for (uint i = first + LID; i < end; i += WG) {
        uint row = p.row_first + i;
        int position = (int)step[KEPT_STEP_TOKENS + p.chunk + row];
        uint since = (uint)position - (uint)e.edge;
        if (position < e.edge || since > e.cap - e.base)
            continue;
        uint at = e.base + since;
        if (at < p.shift || at - p.shift >= e.cap)
            continue;
        uint x = p.alpha_rows != 0 ? (uint)position % p.alpha_rows : row;
        float a = alpha[(ulong)x * p.alpha_stride + p.alpha_first + kv * p.alpha_step];
#if BIAS
        a += bias[kv];
#endif
        a = a * p.scale + p.offset;
        ulong slot = e.first + at - p.shift;
        scores[slot] = DMS ? -a : a;
        if (DMS)
            meta[2ul * p.total + slot] =
                a > 0.0f ? (uint)position - p.shift + p.window + 1 : 0x7fffffffu;
    }
}

/* argmax: greedy choice, soft cap of the logits (kept_argmax_params).
 *
 * A group has one row. A lane keeps the largest value it met and its index; the lowest index wins a
 * tie, NaN never wins. NONE as an index means that nothing but NaN was met; the row's answer is
 * then 0.
 * WG 1 looks at 16 logits at a time, as 16 lanes would.
 */
#define NONE 0xffffffffu
#include "common/kept.clh"

/* Is (v, i) a better choice than (best, at)? */
static int better(float v, uint i, float best, uint at)
{
    return i != NONE && (at == NONE || v > best || (v == best && i < at));
}

#if WG == 1
static uint row_argmax(__global float *v, uint n, float softcap)
{
    float16 best = -INFINITY;
    uint16 at = NONE, i = (uint16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (uint g = 0; g < n / 16; g++, i += 16u) {
        float16 a = vload16(g, v);
        if (softcap > 0.0f) {
            a = softcap * tanh(a / softcap);
            vstore16(a, g, v);
        }
        int16 take = a > best || (at == NONE && a == a);
        best = select(best, a, take);
        at = select(at, i, take);
    }
    float bests[16];
    uint ats[16];
    vstore16(best, 0, bests);
    vstore16(at, 0, ats);
    for (uint k = 1; k < 16; k++) {
        if (better(bests[k], ats[k], bests[0], ats[0])) {
            bests[0] = bests[k];
            ats[0] = ats[k];
        }
    }
    for (uint k = n / 16 * 16; k < n; k++) {
        if (softcap > 0.0f)
            v[k] = softcap * tanh(v[k] / softcap);
        if (better(v[k], v[k] == v[k] ? k : NONE, bests[0], ats[0])) {
            bests[0] = v[k];
            ats[0] = k;
        }
    }
    return ats[0];
}
#else
static uint row_argmax(__global float *v, uint n, float softcap, __local float *bests,
                       __local uint *ats)
{
    uint lid = LID, at = NONE;
    float best = -INFINITY;
    for (uint i = lid; i < n; i += WG) {
        float a = v[i];
        if (softcap > 0.0f) {
            a = softcap * tanh(a / softcap);
            v[i] = a;
        }
        if (better(a, a == a ? i : NONE, best, at)) {
            best = a;
            at = i;
        }
    }
    bests[lid] = best;
    ats[lid] = at;
    SYNC();
    for (uint k = WG; k > 1;) {
        uint keep = (k + 1) / 2;
        if (lid < k - keep && better(bests[lid + keep], ats[lid + keep], bests[lid], ats[lid])) {
            bests[lid] = bests[lid + keep];
            ats[lid] = ats[lid + keep];
        }
        SYNC();
        k = keep;
    }
    return ats[0];
}
#endif

__kernel KEPT_GROUP void argmax(__global float *logits, __global uint *out,
                                __global const uint *step, const struct kept_argmax_params p)
{
#if WG > 1
    __local float bests[WG];
    __local uint ats[WG];
#endif
    if (get_group_id(0) >= LIVE_ROWS(step, p))
        return;
    ulong row = p.row_first + get_group_id(0);
    __global float *v = logits + row * p.stride;
#if WG == 1
    uint at = row_argmax(v, p.n, p.softcap);
#else
    uint at = row_argmax(v, p.n, p.softcap, bests, ats);
    barrier(CLK_GLOBAL_MEM_FENCE); /* a capped logit may be another lane's */
#endif
    if (LID == 0) {
        at = at == NONE ? 0 : at;
        out[row * 2] = at;
        out[row * 2 + 1] = as_uint(v[at]);
    }
}

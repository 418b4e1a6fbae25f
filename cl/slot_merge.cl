/* slot_merge: values of evicted slots into kept ones (kept_merge_slots_params).
 *
 * Group: evicted slot number x of one KV head (y). The first of those that share a nearest slot
 * does the work for all of them; the groups of the others return. Only that group writes the slot.
 */
#include "common/kept.clh"
#include "common/nearest.clh"

#define RUNS ((D / 16 + WG - 1) / WG) /* runs of 16 elements that a lane owns */

__kernel KEPT_GROUP void slot_merge(__global uint *v_slots, __global float *meta,
                                    __global float *scores, __global const uint *heads,
                                    __global const uint *moves, __global const uint *near,
                                    __global const uint *step,
                                    const struct kept_merge_slots_params p)
{
    SHARED uint target[KEPT_MAX_BLOCK];
    SHARED float x[D];
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint own = get_group_id(0), kv = get_group_id(1);
    struct extent e = extent_of(heads, kv, p.total);
    struct moves m = moves_of(moves, kv, p.row_cap, e.cap);
    if (own >= m.lost)
        return;
    struct nearest n = {near + 2 * (ulong)kv * p.n_splits * p.row_cap, p.n_splits, p.row_cap,
                        e.cap, -INFINITY};
    uint i = LID;
#if WG == 1
    for (; i < m.lost && i + 16 <= p.row_cap; i += 16)
        nearest_of_16(&n, i, target + i);
#endif
    for (; i < m.lost; i += WG)
        nearest_of(&n, i, target + i);
    SYNC();
    uint r = target[own];
    if (r >= e.cap || m.evicted[own] >= e.cap)
        return;
    for (i = 0; i < own; i++)
        if (target[i] == r && m.evicted[i] < e.cap)
            return;

    __global uint *v = v_slots + (ulong)(e.first / 16) * KEPT_TILE_WORDS(VT, D);
    __global float *bias = meta + p.total + e.first + r;
    __global float *score = scores + e.first, *weight = score + p.total;
    __global uint *tile = v + (ulong)(r / 16) * KEPT_TILE_WORDS(VT, D);
    float16 sum[RUNS];
    float total = 0.0f;
    for (uint j = 0; j < RUNS; j++)
        if (LID + j * WG < D / 16)
            sum[j] = value_run(tile, D, r % 16, LID + j * WG);
    for (i = own; i < m.lost; i++) {
        uint slot = m.evicted[i];
        if (target[i] != r || slot >= e.cap)
            continue;
        float w = exp(weight[slot] - weight[r]);
        if (isnan(w))
            continue;
        w = fmin(w, 1e4f);
        total += w;
        __global const uint *from = v + (ulong)(slot / 16) * KEPT_TILE_WORDS(VT, D);
        for (uint j = 0; j < RUNS; j++)
            if (LID + j * WG < D / 16)
                sum[j] = MAC(value_run(from, D, slot % 16, LID + j * WG), (float16)(w), sum[j]);
    }
    for (uint j = 0; j < RUNS; j++)
        if (LID + j * WG < D / 16)
            vstore16(sum[j] / (1.0f + total), LID + j * WG, x);
    SYNC_GLOBAL(); /* slot r has been read */
    value_store(tile, D, r % 16, x);
    if (LID == 0) {
        float gain = log1p(total);
        *bias += gain;
        weight[r] += gain;
        score[r] *= 1.0f + total;
    }
    MEET_AT_END();
}

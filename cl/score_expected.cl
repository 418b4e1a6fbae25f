#include "common/kept.clh"

__kernel KEPT_GROUP void score_expected(__global const uint *k_slots, __global const uint *v_slots, __global const uint *stats, __global const uint *table, __global const uint *heads, __global uint *z, __global const uint *step, const struct kept_score_params p)
{
}

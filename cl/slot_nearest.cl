#include "common/kept.clh"

__kernel KEPT_GROUP void slot_nearest(__global const uint *k_slots, __global const uint *meta, __global const uint *heads, __global const uint *moves, __global uint *near, __global const uint *step, const struct kept_merge_slots_params p)
{
}

#include "common/kept.clh"

__kernel KEPT_GROUP void slot_rotate(__global uint *k_slots, __global uint *meta, __global const uint *table, __global const uint *heads, __global const uint *moves, __global const uint *z, __global const uint *step, const struct kept_rotate_params p)
{
}

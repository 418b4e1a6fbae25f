#include "common/kept.clh"

__kernel KEPT_GROUP void slot_move(__global uint *k_slots, __global uint *v_slots, __global uint *meta, __global uint *scores, __global const uint *heads, __global const uint *moves, __global const uint *step, const struct kept_move_params p)
{
}

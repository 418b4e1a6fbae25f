#include "common/kept.clh"

__kernel KEPT_GROUP void slot_renumber(__global const uint *meta, __global const uint *heads, __global const uint *moves, __global uint *z, __global const uint *step, const struct kept_rotate_params p)
{
}

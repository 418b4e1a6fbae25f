#include "common/kept.clh"

__kernel KEPT_GROUP void slot_select(__global const uint *z, __global uint *stats, __global uint *scores, __global uint *meta, __global uint *heads, __global uint *moves, __global const uint *step, const struct kept_select_params p)
{
}

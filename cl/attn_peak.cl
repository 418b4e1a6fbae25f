#include "common/kept.clh"

__kernel KEPT_GROUP void attn_peak(__global const uint *qkv, __global const uint *k_slots, __global const uint *part, __global uint *peak, __global const uint *step, const struct kept_peak_params p)
{
}

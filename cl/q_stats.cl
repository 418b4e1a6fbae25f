#include "common/kept.clh"

__kernel KEPT_GROUP void q_stats(__global const uint *queries, __global uint *stats, __global const uint *step, const struct kept_stats_params p)
{
}

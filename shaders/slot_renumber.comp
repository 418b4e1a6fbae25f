#version 450
// slot_renumber: compact positions: every kept slot's place in the order of positions (params.h:
// kept_rotate_params).
//
// Group: 64 slots (x) of one KV head (y). A lane counts, for its slots in turn, the smaller
// positions of the head; they pass through shared memory 256 at a time.
// Keys: WG lanes.

#include "kept.glsl"

layout(push_constant) uniform Push
{
    kept_rotate_params p;
};

layout(std430, binding = 0) readonly restrict buffer Meta
{
    int meta[];
};
layout(std430, binding = 1) readonly restrict buffer Heads
{
    uint heads[];
};
layout(std430, binding = 2) readonly restrict buffer Moves
{
    uint moves[];
};
layout(std430, binding = 3) writeonly restrict buffer Z
{
    uint z[];
};
layout(std430, binding = 4) readonly restrict buffer Step
{
    uint step_words[];
};

#define KEPT_MOVES
#include "retain.glsl"

const uint BATCH = 256u;
shared int positions[BATCH];

void main()
{
    uint kv_head = gl_WorkGroupID.y, first = gl_WorkGroupID.x * 64u;
    uint lane = gl_LocalInvocationID.x;
    if (!block_is_live()) {
        return;
    }
    kept_head h = load_head(kv_head);
    uint n = min(min(h.base, h.cap), p.z_stride);
    if (!load_moves(kv_head, h.cap).rotate || first >= n) {
        return;
    }
    for (uint at = first; at < first + 64u; at += WG) {
        uint slot = at + lane;
        bool mine = slot < min(n, first + 64u);
        int own = mine ? meta[h.first + slot] : 0;
        uint smaller = 0u;
        for (uint from = 0u; from < n; from += BATCH) {
            uint n_batch = min(BATCH, n - from);
            barrier();
            for (uint i = lane; i < n_batch; i += WG) {
                positions[i] = meta[h.first + from + i];
            }
            barrier();
            for (uint i = 0u; i < n_batch; i++) {
                smaller += positions[i] < own ? 1u : 0u;
            }
        }
        if (mine) {
            z[kv_head * p.z_head_stride + slot] = smaller;
        }
    }
}

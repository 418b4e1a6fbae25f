#version 450
// slot_birth: scores that a token's own row decides (params.h: kept_birth_params).
//
// Group: 64 rows (x) of one KV head (y); a lane takes rows lane, lane + WG, …
// Keys: WG lanes; BIAS; DMS.

layout(constant_id = 1) const uint BIAS = 0;
layout(constant_id = 2) const uint DMS = 0;

#include "kept.glsl"

layout(push_constant) uniform Push
{
    kept_birth_params p;
};

layout(std430, binding = 0) readonly restrict buffer Alpha
{
    float alpha[];
};
layout(std430, binding = 1) readonly restrict buffer Bias
{
    float bias[];
};
layout(std430, binding = 2) writeonly restrict buffer Scores
{
    float scores[];
};
layout(std430, binding = 3) writeonly restrict buffer Meta
{
    int meta[];
};
layout(std430, binding = 4) readonly restrict buffer Heads
{
    uint heads[];
};
layout(std430, binding = 5) readonly restrict buffer Step
{
    uint step_words[];
};

// The slot that the row at `position` decides for; 0xffffffff: none.
uint find_slot(uint kv_head, int position)
{
    uint at = kv_head * KEPT_HEAD_WORDS;
    uint first = min(heads[at + KEPT_HEAD_FIRST], p.total);
    uint cap = min(heads[at + KEPT_HEAD_CAP], p.total - first);
    uint base = min(heads[at + KEPT_HEAD_BASE], cap);
    int edge = int(heads[at + KEPT_HEAD_EDGE]);
    uint since = uint(position) - uint(edge);
    if (position < edge || since > cap - base) {
        return ~0u;
    }
    uint slot = base + since;
    return slot >= p.shift && slot - p.shift < cap ? first + slot - p.shift : ~0u;
}

void main()
{
    uint kv_head = gl_WorkGroupID.y, live = KEPT_LIVE_ROWS(p);
    for (uint i = gl_LocalInvocationID.x; i < 64u; i += WG) {
        uint row = gl_WorkGroupID.x * 64u + i;
        if (row >= live) {
            continue;
        }
        row += p.row_first;
        int position = int(step_words[KEPT_STEP_TOKENS + p.chunk + row]);
        uint slot = find_slot(kv_head, position);
        uint x = p.alpha_rows != 0u ? uint(position) % p.alpha_rows : row;
        float a = alpha[x * p.alpha_stride + p.alpha_first + kv_head * p.alpha_step];
        if (BIAS != 0u) {
            a += bias[kv_head];
        }
        a = a * p.scale + p.offset;
        if (slot == ~0u) {
            continue;
        }
        scores[slot] = DMS != 0u ? -a : a;
        if (DMS != 0u) {
            int until = position - int(p.shift) + int(p.window) + 1;
            meta[2u * p.total + slot] = a > 0.0 ? until : 0x7fffffff;
        }
    }
}

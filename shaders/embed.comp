#version 450
// embed: rows of the embedding table, dequantised: x[row][i] = scale * W[token[row]][i].
//
// Group: one row of x. A lane takes half blocks of 16 elements: lane, lane + WG, …
// Keys: WG lanes; ORDER word order of the records.

layout(constant_id = 1) const uint ORDER = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_embed_params p; };

#include "weights.glsl"

layout(std430, binding = 1) writeonly restrict buffer X { vec4 x4[]; };
layout(std430, binding = 2) readonly restrict buffer Step { uint step_words[]; };

void main()
{
    if (gl_WorkGroupID.x >= KEPT_LIVE_ROWS(p)) {
        return;
    }
    uint row = p.row_first + gl_WorkGroupID.x;
    uint token = step_words[KEPT_STEP_TOKENS + row] - p.token_first;
    if (token >= p.n_tokens) {
        return;
    }
    uint record = (token >> 4) * p.record_words, lane = token & 15u;
    uint to = row * (p.x_stride >> 2);
    kept_planes_load();
    for (uint i = gl_LocalInvocationID.x; i < p.k >> 4; i += WG) {
        vec4 v[4];
        kept_half16(record, lane, i >> 1, i & 1u, v);
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            x4[to + 4u * i + j] = p.scale * v[j];
        }
    }
}

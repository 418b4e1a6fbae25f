#version 450
// score_expected: expected logits of slots, and the lengths of their values (params.h:
// kept_score_params).
//
// Group: 64 slots (x) of one KV head (y), NS at a time. Their keys, turned back to y, lie in shared
// memory as [element][slot], so that a lane is a slot and the sums of queries are read uniformly:
//
//     y^T S y = sum over blocks b of IB elements of
//               y_b . (S_bb y_b + 2 sum over elements j before b of S_bj y_j)
//
// S is symmetric, so row j holds the IB words of column j that a block needs. With more lanes than
// slots the blocks are dealt to PARTS lanes a slot; with fewer a lane has SPL slots.
// Keys: WG lanes, a power of two; ORDER of the K tiles; D head size; KT, VT slot types.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint KT = 1;
layout(constant_id = 4) const uint VT = 1;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_score_params p; };

layout(std430, binding = 0) readonly restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 0) readonly restrict buffer KSlots4 { uvec4 k4[]; };
layout(std430, binding = 1) readonly restrict buffer VSlots { uint v1[]; };
layout(std430, binding = 2) readonly restrict buffer Stats { vec4 stats4[]; };
layout(std430, binding = 3) readonly restrict buffer Table { vec2 table[]; };
layout(std430, binding = 4) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 5) writeonly restrict buffer Z { float z[]; };
layout(std430, binding = 6) readonly restrict buffer Step { uint step_words[]; };

// Slots at once: 8 KiB of keys.
const uint NS = D <= 32u ? 64u : D <= 64u ? 32u : D <= 128u ? 16u : D <= 256u ? 8u : 4u;
const uint SPL = NS > WG ? NS / WG : 1u;
const uint PARTS = WG > NS ? WG / NS : 1u;
const uint IB = D > 256u ? 16u : WG < 32u ? 8u : 16u;
const uint Q = IB / 4u;
// Rows of S a turn. Lavapipe leaves all loops of an invocation after 65,535 turns together.
const uint ROWS = D > 256u ? 16u : 8u;

shared vec2 turn[D / 2u];
shared vec2 partial[WG];

#define KEPT_LOADS_V
#include "keys.glsl"

#define KEPT_ROPE
#include "retain.glsl"

// Turns the keys in y back by turn[].
void turn_back()
{
    if (p.rope_pairs != KEPT_ROPE_NONE) {
        for (uint i = gl_LocalInvocationID.x; i < NS * (p.n_rot >> 1); i += WG) {
            uint slot = i % NS, pair = i / NS;
            uvec2 at = rope_pair(pair) * (NS + 1u) + slot;
            vec2 back = complex_product(vec2(y[at.x], y[at.y]), vec2(1.0, -1.0) * turn[pair]);
            y[at.x] = back.x;
            y[at.y] = back.y;
        }
        barrier();
    }
}

// Sums of the lanes that share a slot: valid in lanes below NS.
vec2 sum_parts(vec2 v)
{
    if (PARTS == 1u) {
        return v;
    }
    uint lane = gl_LocalInvocationID.x;
    barrier();
    partial[lane] = v;
    barrier();
    for (uint i = 1u; i < PARTS; i++) {
        v += partial[(lane + i * NS) % WG];
    }
    return v;
}

// Of the slots of this lane: sum of q . y, y^T S y; a lane's share of them.
void multiply(uint at, out vec2 sums[SPL])
{
    uint slot = gl_LocalInvocationID.x % NS, part = gl_LocalInvocationID.x / NS;
    [[unroll]] for (uint n = 0u; n < SPL; n++) {
        sums[n] = vec2(0.0);
    }
    for (uint b0 = 0u; b0 < D / IB; b0 += PARTS) {
        // there and back, so that every part has short and long blocks
        uint b = b0 + ((b0 / PARTS & 1u) == 0u ? part : PARTS - 1u - part);
        if (b >= D / IB) {
            continue;
        }
        vec4 t[SPL * Q];
        [[unroll]] for (uint k = 0u; k < SPL * Q; k++) {
            t[k] = vec4(0.0);
        }
        for (uint j0 = 0u; j0 < (b + 1u) * IB; j0 += ROWS) {
            float times = j0 < b * IB ? 2.0 : 1.0;
            [[unroll]] for (uint i = 0u; i < ROWS; i++) {
                uint j = j0 + i;
                float yj[SPL];
                [[unroll]] for (uint n = 0u; n < SPL; n++) {
                    yj[n] = times * y[j * (NS + 1u) + slot + n * WG];
                }
                [[unroll]] for (uint k = 0u; k < Q; k++) {
                    vec4 s = stats4[at + j * (D / 4u) + b * Q + k];
                    [[unroll]] for (uint n = 0u; n < SPL; n++) {
                        t[n * Q + k] = fma(vec4(yj[n]), s, t[n * Q + k]);
                    }
                }
            }
        }
        [[unroll]] for (uint k = 0u; k < IB; k++) {
            float sum = stats4[at + D * (D / 4u) + b * Q + (k >> 2)][k & 3u];
            [[unroll]] for (uint n = 0u; n < SPL; n++) {
                float yi = y[(b * IB + k) * (NS + 1u) + slot + n * WG];
                sums[n] += yi * vec2(sum, t[n * Q + (k >> 2)][k & 3u]);
            }
        }
    }
}

// All rows of z for NS slots of the head, first … of them, those in from … count - 1.
void score(kept_head h, uint first, uint from, float n_seen)
{
    uint lane = gl_LocalInvocationID.x, slot = lane % NS, group = p.n_head / p.n_kv;
    uint kv_head = gl_WorkGroupID.y, z_at = kv_head * (group + 1u) * p.z_stride;
    for (uint row = 0u; row <= group; row++) {
        vec2 sums[SPL];
        if (row < group) {
            multiply((kv_head * group + row) * (KEPT_STATS_STRIDE(D) / 4u), sums);
        } else {
            [[unroll]] for (uint n = 0u; n < SPL; n++) {
                uint at = h.first + min(first + slot + n * WG, h.count - 1u);
                sums[n] = vec2(0.0);
                for (uint i = lane / NS; i < D / 4u; i += PARTS) {
                    vec4 v = kept_v4(at, i);
                    sums[n].x += dot(v, v);
                }
            }
        }
        [[unroll]] for (uint n = 0u; n < SPL; n++) {
            vec2 sum = sum_parts(sums[n]);
            uint s = first + slot + n * WG;
            float along = sum.x / n_seen;
            float spread = sum.y / n_seen - along * along;
            float v = row < group ? p.q_scale * along + 0.5 * p.q_scale * p.q_scale * spread
                                  : sqrt(sum.x);
            if (lane < NS && s >= from && s < h.count) {
                z[z_at + row * p.z_stride + s] = v;
            }
        }
    }
}

void main()
{
    if (!block_is_live()) {
        return;
    }
    kept_head h = load_head(gl_WorkGroupID.y);
    h.count = min(h.count, p.z_stride);
    uint from = score_from(h, p.window, p.refresh), first = gl_WorkGroupID.x * 64u;
    int end = block_end(), position = end - h.shift;
    if (h.count <= h.budget || first >= h.count || first + 64u <= from || !rope_has(position)) {
        return;
    }
    for (uint i = gl_LocalInvocationID.x; i < p.n_rot >> 1; i += WG) {
        if (p.rope_pairs != KEPT_ROPE_NONE) {
            turn[i] =
                complex_product(rope_angle(position, i), table[p.mean_row * (p.n_rot >> 1) + i]);
        }
    }
    float n_seen = float(max(end - int(p.sinks), 1));
    for (uint s = first; s < min(first + 64u, h.count); s += NS) {
        if (s + NS > from) {
            barrier();
            load_keys(h.first + s, h.first + h.count);
            turn_back();
            score(h, s, from, n_seen);
        }
    }
}

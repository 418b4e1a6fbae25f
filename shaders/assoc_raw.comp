#version 450
// assoc_raw: associative memory: keys turned back (params.h: kept_assoc_params).
//
// Group: a tile of 16 slots (x) of one KV head (y), NS of them at a time in shared memory as
// [element][slot], which is the order of raw.
// Keys: WG lanes; ORDER of the K tiles; D head size; KT slot type.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint KT = 1;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_assoc_params p; };

layout(std430, binding = 0) readonly restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 0) readonly restrict buffer KSlots4 { uvec4 k4[]; };
layout(std430, binding = 1) restrict buffer Meta { int meta[]; };
layout(std430, binding = 2) readonly restrict buffer Table { vec2 table[]; };
layout(std430, binding = 2) readonly restrict buffer Table4 { vec4 table4[]; };
layout(std430, binding = 3) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 4) writeonly restrict buffer Raw { float raw[]; };
layout(std430, binding = 4) writeonly restrict buffer Raw4 { vec4 raw4[]; };
layout(std430, binding = 5) readonly restrict buffer Step { uint step_words[]; };

// Slots at once: 8 KiB of keys.
const uint NS = D <= 128u ? 16u : D <= 256u ? 8u : 4u;
#include "keys.glsl"

#define KEPT_ASSOC
#define KEPT_ROPE
#include "retain.glsl"

// Turns a pair of a slot back by the product of two angles.
void turn_pair(uint pair, uint slot, vec2 fine, vec2 coarse)
{
    uvec2 at = rope_pair(pair) * (NS + 1u) + slot;
    vec2 back =
        complex_product(vec2(y[at.x], y[at.y]), vec2(1.0, -1.0) * complex_product(fine, coarse));
    y[at.x] = back.x;
    y[at.y] = back.y;
}

// Turns each of the keys of slots first … of the store back from its position, two pairs at a time:
// loads of four words cost software drivers what one word does.
void turn_back(uint first, uint end)
{
    if ((p.n_rot & 3u) == 0u) {
        uint row = p.n_rot >> 2;
        for (uint i = gl_LocalInvocationID.x; i < NS * row; i += WG) {
            uint slot = i % NS, two = i / NS;
            int position = meta[min(first + slot, end - 1u)];
            if (assoc_turns(position)) {
                vec4 fine = table4[(uint(position) & 255u) * row + two];
                vec4 coarse = table4[uint(coarse_row(position)) * row + two];
                turn_pair(2u * two, slot, fine.xy, coarse.xy);
                turn_pair(2u * two + 1u, slot, fine.zw, coarse.zw);
            }
        }
        barrier();
        return;
    }
    for (uint i = gl_LocalInvocationID.x; i < NS * (p.n_rot >> 1); i += WG) {
        uint slot = i % NS, pair = i / NS;
        int position = meta[min(first + slot, end - 1u)];
        if (assoc_turns(position)) {
            turn_pair(pair, slot, rope_angle(position, pair), vec2(1.0, 0.0));
        }
    }
    barrier();
}

// What is counted of tokens begins when they leave the window.
void begin_count(kept_head h, uint first, uint end)
{
    for (uint s = first + gl_LocalInvocationID.x; s < end; s += WG) {
        uint at = h.first + s;
        meta[KEPT_ASSOC_COUNT * p.total + at] = floatBitsToInt(1.0);
        meta[KEPT_ASSOC_FRAC * p.total + at] = 0;
        meta[KEPT_ASSOC_STAMP * p.total + at] = block_end();
    }
}

// Keys of slots first … below `end` into raw, four at a time where none of them is a sink.
void store_raw(uint kv_head, uint first, uint end)
{
    if (first >= p.sinks && first + NS <= end) {
        for (uint i = gl_LocalInvocationID.x; i < NS * D / 4u; i += WG) {
            uint slot = i % (NS / 4u) * 4u, element = i / (NS / 4u);
            uint at = element * (NS + 1u) + slot;
            raw4[assoc_at(kv_head, first + slot, element) >> 2] =
                vec4(y[at], y[at + 1u], y[at + 2u], y[at + 3u]);
        }
        return;
    }
    for (uint i = gl_LocalInvocationID.x; i < NS * D; i += WG) {
        uint slot = first + i % NS, element = i / NS;
        if (slot >= p.sinks && slot < end) {
            raw[assoc_at(kv_head, slot, element)] = y[element * (NS + 1u) + i % NS];
        }
    }
}

void main()
{
    uint kv_head = gl_WorkGroupID.y, tile = gl_WorkGroupID.x * 16u;
    if (!block_is_live()) {
        return;
    }
    kept_head h = load_head(kv_head);
    uint window_at = assoc_window(h), end = min(tile + 16u, window_at);
    for (uint first = tile; first < end; first += NS) {
        barrier();
        load_keys(h.first + first, h.first + window_at);
        turn_back(h.first + first, h.first + window_at);
        store_raw(kv_head, first, end);
    }
    uint leaving = max(window_at - min(window_at, p.row_cap), p.sinks);
    begin_count(h, max(tile, leaving), end);
}

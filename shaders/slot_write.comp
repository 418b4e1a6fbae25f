#version 450
// slot_write: bias, QK norm and rotation of q and k heads; q back in place, k and v as f16 into
// their slots (params.h: kept_slot_write_params).
//
// Group: one head (y) of one row (x): y < n_head a q head, else the k and v head y - n_head. A head
// lives in shared memory between the stages; a lane takes elements or pairs lane, lane + WG, …
// Keys: WG lanes; ORDER of the K records; QKNORM; BIAS.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint QKNORM = 0;
layout(constant_id = 3) const uint BIAS = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_slot_write_params p; };

layout(std430, binding = 0) restrict buffer Qkv { float qkv[]; };
layout(std430, binding = 1) readonly restrict buffer Table { vec2 table[]; };
layout(std430, binding = 2) readonly restrict buffer Bias { float bias[]; };
layout(std430, binding = 3) readonly restrict buffer Wq { float wq[]; };
layout(std430, binding = 4) readonly restrict buffer Wk { float wk[]; };
layout(std430, binding = 5) writeonly restrict buffer KSlots { uint k_slots[]; };
layout(std430, binding = 6) writeonly restrict buffer VSlots { uint v_slots[]; };
layout(std430, binding = 10) readonly restrict buffer Step { uint step_words[]; };

shared float head[KEPT_MAX_HEAD_DIM];
shared float partial[WG];

// Element i of a row of q | k | v.
float element(uint row_at, uint i)
{
    float v = qkv[row_at + i];
    if (BIAS != 0u) {
        v += bias[i];
    }
    return v;
}

void norm(bool is_q)
{
    uint lane = gl_LocalInvocationID.x;
    float squares = 0.0;
    for (uint i = lane; i < p.d; i += WG) {
        squares += head[i] * head[i];
    }
    partial[lane] = squares;
    barrier();
    float sum = 0.0;
    for (uint i = 0u; i < WG; i++) {
        sum += partial[i];
    }
    float f = 1.0 / sqrt(sum / float(p.d) + p.eps);
    for (uint i = lane; i < p.d; i += WG) {
        head[i] *= f * (is_q ? wq[i] : wk[i]);
    }
    barrier();
}

void rotate(uint lo_at, uint hi_at)
{
    uint pairs = p.n_rot >> 1;
    bool adjacent = p.rope_pairs == KEPT_ROPE_ADJACENT;
    for (uint i = gl_LocalInvocationID.x; i < pairs; i += WG) {
        vec2 a = table[lo_at + i], b = table[hi_at + i];
        float c = a.x * b.x - a.y * b.y, s = a.x * b.y + a.y * b.x;
        uint i_a = adjacent ? 2u * i : i, i_b = adjacent ? 2u * i + 1u : i + pairs;
        float u = head[i_a], v = head[i_b];
        head[i_a] = u * c - v * s;
        head[i_b] = u * s + v * c;
    }
    barrier();
}

void store_kv(uint row_at, uint kv_head, uint slot)
{
    uint pairs = p.d >> 1;
    uint k_at = kv_head * p.cap * pairs + (slot >> 4) * 16u * pairs, r = slot & 15u;
    uint v_at = (kv_head * p.cap + slot) * pairs;
    uint v_from = (p.n_head + p.n_kv + kv_head) * p.d;
    for (uint i = gl_LocalInvocationID.x; i < pairs; i += WG) {
        uint g = i >> 2, w = i & 3u;
        uint at = k_at + g * 64u + (ORDER == KEPT_LANE ? r * 4u + w : w * 16u + r);
        k_slots[at] = kept_pack_half2(head[2u * i], head[2u * i + 1u]);
        v_slots[v_at + i] = kept_pack_half2(element(row_at, v_from + 2u * i),
                                            element(row_at, v_from + 2u * i + 1u));
    }
}

void main()
{
    if (gl_WorkGroupID.x >= KEPT_LIVE_ROWS(p)) {
        return;
    }
    uint row = p.row_first + gl_WorkGroupID.x, y = gl_WorkGroupID.y;
    bool is_q = y < p.n_head;
    int position = int(step_words[KEPT_STEP_TOKENS + p.chunk + row]);
    uint row_at = row * p.qkv_stride, pairs = p.n_rot >> 1;
    uint lo_at = (uint(position) & 255u) * pairs;
    int hi_row = 256 + int(p.hi_bias) + (position >> 8);
    if (p.rope_pairs != KEPT_ROPE_NONE &&
        (hi_row < 0 || (uint(hi_row) + 1u) * pairs > uint(table.length()))) {
        return;
    }
    for (uint i = gl_LocalInvocationID.x; i < p.d; i += WG) {
        head[i] = element(row_at, y * p.d + i);
    }
    barrier();
    if (QKNORM != 0u) {
        norm(is_q);
    }
    if (p.rope_pairs != KEPT_ROPE_NONE) {
        rotate(lo_at, uint(hi_row) * pairs);
    }
    if (is_q) {
        for (uint i = gl_LocalInvocationID.x; i < p.d; i += WG) {
            qkv[row_at + y * p.d + i] = head[i] * p.q_scale;
        }
    } else {
        store_kv(row_at, y - p.n_head, uint(position) % p.cap);
    }
}

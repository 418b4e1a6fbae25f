#version 450
// slot_write: bias, QK norm and rotation of q and k heads; q back in place, k and v into their
// slots (params.h: kept_slot_write_params).
//
// Group: one head (y) of one row (x): y < n_head a q head, else the k and v head y - n_head. A head
// lives in shared memory between the stages; a lane takes elements or pairs lane, lane + WG, …
// Keys: WG lanes; ORDER of the K records; QKNORM; BIAS; KT, VT types of K and V; STORE where slots
// are.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint QKNORM = 0;
layout(constant_id = 3) const uint BIAS = 0;
layout(constant_id = 4) const uint KT = 1;
layout(constant_id = 5) const uint VT = 1;
layout(constant_id = 6) const uint STORE = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_slot_write_params p; };

layout(std430, binding = 0) restrict buffer Qkv { float qkv[]; };
layout(std430, binding = 1) readonly restrict buffer Table { vec2 table[]; };
layout(std430, binding = 2) readonly restrict buffer Bias { float bias[]; };
layout(std430, binding = 3) readonly restrict buffer Wq { float wq[]; };
layout(std430, binding = 4) readonly restrict buffer Wk { float wk[]; };
layout(std430, binding = 5) writeonly restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 6) writeonly restrict buffer VSlots { uint v1[]; };
layout(std430, binding = 7) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 8) writeonly restrict buffer Meta { uint meta[]; };
layout(std430, binding = 9) writeonly restrict buffer Queries { float queries[]; };
layout(std430, binding = 10) readonly restrict buffer Step { uint step_words[]; };

shared float head[KEPT_MAX_HEAD_DIM];
shared float partial[WG];

#define KEPT_D p.d
#define KEPT_SHARED(i) head[i]
#define KEPT_STORES_K
#define KEPT_STORES_V
#include "slots.glsl"

uint row_at; // where the row of q | k | v begins

// Element i of the row.
float element(uint i)
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

// Element `last` stays 0.
void rotate(uint lo_at, uint hi_at, uint last)
{
    uint pairs = p.n_rot >> 1;
    bool adjacent = p.rope_pairs == KEPT_ROPE_ADJACENT;
    for (uint i = gl_LocalInvocationID.x; i < pairs; i += WG) {
        vec2 a = table[lo_at + i], b = table[hi_at + i];
        float c = a.x * b.x - a.y * b.y, s = a.x * b.y + a.y * b.x;
        uint i_a = adjacent ? 2u * i : i, i_b = adjacent ? 2u * i + 1u : i + pairs;
        float u = head[i_a], v = head[i_b];
        head[i_a] = u * c - v * s;
        head[i_b] = i_b == last ? 0.0 : u * s + v * c;
    }
    barrier();
}

// Values of f16: straight from the row.
void store_half_v(uint v_from, uint slot)
{
    uint at = kept_v_at(slot);
    for (uint i = gl_LocalInvocationID.x; i < p.d >> 1; i += WG) {
        v1[at + i] = kept_pack_half2(element(v_from + 2u * i), element(v_from + 2u * i + 1u));
    }
}

// The key in head, then the value, into slot number `slot` of the store.
void store_kv(uint kv_head, uint slot)
{
    uint v_from = (p.n_head + p.n_kv + kv_head) * p.d;
    kept_store_k(slot);
    if (VT == KEPT_FMT_F16) {
        store_half_v(v_from, slot);
        return;
    }
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < p.d; i += WG) {
        head[i] = element(v_from + i);
    }
    barrier();
    kept_hadamard(p.d, p.d);
    kept_store_v(slot);
}

void store_meta(uint slot, int position)
{
    if (gl_LocalInvocationID.x == 0u) {
        meta[slot] = uint(position);
        meta[p.cap + slot] = 0u;
        if (STORE == KEPT_SLOTS_RULE) {
            meta[2u * p.cap + slot] = 0x7fffffffu;
        }
    }
}

// The token's slot in the store; 0xffffffff: none.
uint find_slot(uint kv_head, int position)
{
    if (STORE == KEPT_SLOTS_PLAIN) {
        return kv_head * p.cap + uint(position) % p.cap;
    }
    uint at = kv_head * KEPT_HEAD_WORDS, base = heads[at + KEPT_HEAD_BASE];
    uint first = min(heads[at + KEPT_HEAD_FIRST], p.cap);
    uint cap = min(heads[at + KEPT_HEAD_CAP], p.cap - first);
    int edge = int(heads[at + KEPT_HEAD_EDGE]);
    uint since = uint(position) - uint(edge);
    return position >= edge && base < cap && since < cap - base ? first + base + since : ~0u;
}

void main()
{
    if (gl_WorkGroupID.x >= KEPT_LIVE_ROWS(p)) {
        return;
    }
    uint row = p.row_first + gl_WorkGroupID.x, y = gl_WorkGroupID.y;
    bool is_q = y < p.n_head;
    uint kv_head = is_q ? y / (p.n_head / p.n_kv) : y - p.n_head;
    int token = int(step_words[KEPT_STEP_TOKENS + p.chunk + row]), position = token;
    if (STORE != KEPT_SLOTS_PLAIN) {
        position -= int(heads[kv_head * KEPT_HEAD_WORDS + KEPT_HEAD_SHIFT]);
    }
    uint pairs = p.n_rot >> 1, lo_at = (uint(position) & 255u) * pairs;
    int hi_row = 256 + int(p.hi_bias) + (position >> 8);
    row_at = row * p.qkv_stride;
    if (p.rope_pairs != KEPT_ROPE_NONE &&
        (hi_row < 256 || (uint(hi_row) + 1u) * pairs > uint(table.length()))) {
        return;
    }
    for (uint i = gl_LocalInvocationID.x; i < p.d; i += WG) {
        head[i] = element(y * p.d + i);
    }
    barrier();
    if (QKNORM != 0u) {
        norm(is_q);
    }
    if (is_q && p.queries_rows != 0u && row < step_words[p.queries_at]) {
        uint to = (uint(token) % p.queries_rows * p.n_head + y) * p.d;
        for (uint i = gl_LocalInvocationID.x; i < p.d; i += WG) {
            queries[to + i] = head[i];
        }
        barrier();
    }
    bool borrowed = is_q && p.borrowed != 0u && y % (p.n_head / p.n_kv) == 0u;
    if (borrowed) {
        if (gl_LocalInvocationID.x == 0u) {
            head[p.d - 1u] = 0.0;
        }
        barrier();
    }
    if (p.rope_pairs != KEPT_ROPE_NONE) {
        rotate(lo_at, uint(hi_row) * pairs, borrowed ? p.d - 1u : ~0u);
    }
    if (KT != KEPT_FMT_F16) {
        kept_hadamard(p.d, p.d);
    }
    if (is_q) {
        for (uint i = gl_LocalInvocationID.x; i < p.d; i += WG) {
            qkv[row_at + y * p.d + i] = head[i] * p.q_scale;
        }
        return;
    }
    uint slot = find_slot(kv_head, token);
    if (slot != ~0u) {
        store_kv(kv_head, slot);
        if (STORE != KEPT_SLOTS_PLAIN) {
            store_meta(slot, position);
        }
    }
}

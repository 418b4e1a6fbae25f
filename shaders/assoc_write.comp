#version 450
// assoc_write: associative memory: like tokens averaged into one slot (params.h:
// kept_assoc_params).
//
// Group: token x of the sub-batch of one KV head (y). It finds where every token goes, and works
// only when it is the first that goes to its slot: then it averages all of those, in order, so no
// two groups write a slot or a token. Value and key pass through x[] one after the other.
// Keys: WG lanes; ORDER of the K tiles; D head size; KT, VT slot types; FORM 1: as published.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint KT = 1;
layout(constant_id = 4) const uint VT = 1;
layout(constant_id = 5) const uint FORM = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_assoc_params p; };

layout(std430, binding = 0) restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 1) restrict buffer VSlots { uint v1[]; };
layout(std430, binding = 2) restrict buffer Meta { int meta[]; };
layout(std430, binding = 3) restrict buffer Scores { float scores[]; };
layout(std430, binding = 4) restrict buffer Raw { float raw[]; };
layout(std430, binding = 5) readonly restrict buffer Table { vec2 table[]; };
layout(std430, binding = 6) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 7) readonly restrict buffer Near { uint near[]; };
layout(std430, binding = 8) readonly restrict buffer Step { uint step_words[]; };

shared float x[D];
shared uint target[KEPT_ASSOC_SUB]; // slot that a token goes into; CAP: it stays

#define KEPT_D D
#define KEPT_LOADS_V
#define KEPT_STORES_V
#define KEPT_STORES_K
#define KEPT_SHARED(i) x[i]
#include "slots.glsl"

#define KEPT_ASSOC
#define KEPT_ROPE
#include "retain.glsl"

kept_head h;
int begin; // slot of token 0

uint target_of(uint token)
{
    float best = KEPT_MINUS_INFINITY;
    uint slot = h.cap, at = p.sub * KEPT_ASSOC_SUB + token;
    for (uint split = 0u; split < p.n_splits; split++) {
        uint from = 2u * ((gl_WorkGroupID.y * p.n_splits + split) * p.row_cap + at);
        float like = uintBitsToFloat(near[from]);
        uint there = near[from + 1u];
        if (like > best || (like == best && like > KEPT_MINUS_INFINITY && there < slot)) {
            best = like;
            slot = there;
        }
    }
    bool is_hit = begin + int(token) >= assoc_first(begin) && best >= p.threshold;
    return is_hit && slot >= p.sinks && slot < uint(max(begin, 0)) ? slot : h.cap;
}

// Value and raw key of the slot, which stands for c tokens, averaged with those of tokens own …
// that go there; the key stays in x.
void average(uint slot, float c, uint own, float n)
{
    uint lane = gl_LocalInvocationID.x, kv_head = gl_WorkGroupID.y;
    for (uint i = lane; i < D / 4u; i += WG) {
        vec4 sum = c * kept_v4(h.first + slot, i);
        for (uint e = own; e < KEPT_ASSOC_SUB; e++) {
            if (target[e] == slot) {
                sum += kept_v4(h.first + uint(begin) + e, i);
            }
        }
        sum /= c + n;
        [[unroll]] for (uint k = 0u; k < 4u; k++) {
            x[4u * i + k] = sum[k];
        }
    }
    barrier();
    kept_store_v(h.first + slot);
    barrier();
    for (uint i = lane; i < D; i += WG) {
        uint at = assoc_at(kv_head, slot, i);
        float sum = c * raw[at];
        for (uint e = own; e < KEPT_ASSOC_SUB; e++) {
            if (target[e] == slot) {
                sum += raw[assoc_at(kv_head, uint(begin) + e, i)];
            }
        }
        sum /= c + n;
        raw[at] = sum;
        x[i] = sum;
    }
    barrier();
}

bool has_position(int position)
{
    return position > -0x1000000 && position < 0x1000000 &&
           (p.rope_pairs == KEPT_ROPE_NONE || assoc_turns(position));
}

// The mean position as pos_r + whole + frac, frac within -0.5 … 0.5. Whole tokens are counted in
// integers: they are exact however far apart positions are.
void move_position(uint slot, float c, uint own, float n, out int whole, out float frac)
{
    int position = meta[h.first + slot], moved = 0;
    for (uint e = own; e < KEPT_ASSOC_SUB; e++) {
        int other = meta[h.first + uint(begin) + e];
        if (target[e] == slot && has_position(position) && has_position(other)) {
            moved += other - position;
        }
    }
    frac = intBitsToFloat(meta[KEPT_ASSOC_FRAC * p.total + h.first + slot]);
    frac = abs(frac) <= 1.0 ? frac : 0.0;
    whole = int(floor(float(moved) / (c + n)));
    float left = float(moved - whole * (int(c) + int(n))) - float(whole) * fract(c);
    frac = (c * frac + left) / (c + n);
    float more = floor(frac + 0.5);
    whole += int(more);
    frac -= more;
}

// What is known of the slot and its tokens. One lane.
void conclude(uint slot, int position, float frac, float c, uint own, float n)
{
    uint at = h.first + slot;
    if (FORM == 0u) {
        float gain = log(1.0 + n / c);
        meta[at] = position;
        meta[KEPT_ASSOC_FRAC * p.total + at] = floatBitsToInt(frac);
        meta[p.total + at] = floatBitsToInt(intBitsToFloat(meta[p.total + at]) + gain);
        scores[p.total + at] += gain;
        scores[at] *= (c + n) / c;
    } else {
        scores[at] = float(uint(block_end()));
    }
    meta[KEPT_ASSOC_COUNT * p.total + at] = floatBitsToInt(c + n);
    meta[KEPT_ASSOC_STAMP * p.total + at] = block_end();
    for (uint e = own; e < KEPT_ASSOC_SUB; e++) {
        if (target[e] == slot) {
            meta[h.first + uint(begin) + e] = KEPT_POS_GONE;
            scores[p.total + h.first + uint(begin) + e] = KEPT_MINUS_INFINITY;
        }
    }
}

void main()
{
    uint own = gl_WorkGroupID.x, lane = gl_LocalInvocationID.x;
    if (!block_is_live()) {
        return;
    }
    h = load_head(gl_WorkGroupID.y);
    begin = assoc_begin(assoc_window(h));
    if (assoc_idle(h) || begin + int(own) < assoc_first(begin)) {
        return;
    }
    for (uint e = lane; e < KEPT_ASSOC_SUB; e += WG) {
        target[e] = target_of(e);
    }
    barrier();
    uint slot = target[own];
    if (FORM == 1u && slot == h.cap && lane == 0u) {
        scores[h.first + uint(begin) + own] = float(uint(block_end()));
    }
    bool is_first = slot < h.cap;
    float n = 0.0;
    for (uint e = 0u; e < KEPT_ASSOC_SUB; e++) {
        is_first = is_first && (e >= own || target[e] != slot);
        n += target[e] == slot ? 1.0 : 0.0;
    }
    if (!is_first) {
        return;
    }
    float c = intBitsToFloat(meta[KEPT_ASSOC_COUNT * p.total + h.first + slot]), frac = 0.0;
    c = c >= 1.0 ? min(c, 16777216.0) : 1.0;
    int position = meta[h.first + slot], whole = 0;
    if (FORM == 0u) {
        move_position(slot, c, own, n, whole, frac);
        position += whole;
    }
    average(slot, c, own, n); // meets: all lanes have read what one writes now
    if (lane == 0u) {
        conclude(slot, position, frac, c, own, n);
    }
    if (assoc_turns(position)) {
        rope_turn(position);
    }
    if (KT != KEPT_FMT_F16) {
        kept_hadamard(D, D);
    }
    kept_store_k(h.first + slot);
}

// common/attention.glsl: what attn_decode and attn_prefill share: tiles of slots against columns.
//
// A column is one query head of one row; a group has COLS = BQ * G of them, all of one KV head, so
// K and V are read once for all. Tiles of T slots, online softmax (m maximum, l sum, o output, all
// per column):
//   scores    lane = slot (SPL slots a lane in small groups): K record, q from shared memory
//   maxima    8 threads a column over the tile
//   weights   lane = slot: exp(score - m), over the scores
//   outputs   lane = unit of d: a pair of f16, a quad of other types (long d: UPL units a lane;
//             short d: SP shares of the slots)
// Slots are numbered from the head's first one; place t of a plain head is position t in slot t %
// cap, of a budgeted head it is slot t.
//
// Needs keys WG, ORDER, D, G, GENERAL, KT, VT and BQ (1 in decode), and the push block p.

layout(std430, binding = 0) readonly restrict buffer Qkv { float qkv[]; };
layout(std430, binding = 1) readonly restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 1) readonly restrict buffer KSlots4 { uvec4 k4[]; };
layout(std430, binding = 2) readonly restrict buffer VSlots { uint v1[]; };
layout(std430, binding = 3) readonly restrict buffer Meta { int meta[]; };
layout(std430, binding = 4) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 6) readonly restrict buffer Step { uint step_words[]; };

const uint COLS = BQ * G;
// Slots of a lane: small groups take tiles of 32, of 16 or WG where columns are many (registers).
const uint SMALL_TILE = (COLS > 4u ? 16u : 32u) * (COLS > 16u ? 0u : 1u);
const uint SPL = SMALL_TILE > WG ? SMALL_TILE / WG : 1u;
const uint T = WG * SPL < 64u ? WG * SPL : 64u;
const uint V2 = VT == KEPT_FMT_F16 ? 1u : 2u;        // pairs of a unit
const uint NU = D / (2u * V2);                       // units
const uint UPL = (NU + WG - 1u) / WG;                // units of a lane
const uint SP = NU <= WG ? WG / NU : 1u;             // shares of the slots

shared vec4 q4[COLS * D / 4u];     // queries; at the end outputs
shared float score[COLS * T];      // scores, then weights; at the end sums of lanes
shared vec4 top[COLS * 2u];        // 8 maxima a column
// 1 where some column attends the slot, else 0: the slot may hold anything
shared float usable[T];

#define KEPT_D D
#define KEPT_LOADS_K
#define KEPT_LOADS_V
#define KEPT_SHARED(i) q4[(i) >> 2][(i) & 3u]
#include "slots.glsl"

vec2 o[COLS * UPL * V2];
float m[COLS], l[COLS];
int position[BQ], first_seen[BQ];  // of the rows; position -1: row attends nothing
int count[BQ];                     // slots that the rows see; GENERAL 0: unused

uint kv_head, first_head, n_heads; // of this group
uint head_slots, head_cap;         // number of the head's first slot in the store; how many it has

void find_heads()
{
    uint group = p.n_head / p.n_kv, passes = (group + G - 1u) / G;
    kv_head = gl_WorkGroupID.y / passes;
    uint pass = gl_WorkGroupID.y % passes;
    first_head = kv_head * group + pass * G;
    n_heads = min(G, group - pass * G);
    head_slots = kv_head * p.cap;
    head_cap = p.cap;
    if (GENERAL != KEPT_SLOTS_PLAIN) {
        uint at = kv_head * KEPT_HEAD_WORDS;
        head_slots = min(heads[at + KEPT_HEAD_FIRST], p.cap);
        head_cap = min(heads[at + KEPT_HEAD_CAP], p.cap - head_slots);
    }
}

// KEPT_COUNT of a query at this position.
int slots_seen(int at)
{
    uint word = kv_head * KEPT_HEAD_WORDS;
    int edge = int(heads[word + KEPT_HEAD_EDGE]);
    uint since = at >= edge ? uint(at) - uint(edge) + 1u : 0u;
    uint base = min(heads[word + KEPT_HEAD_BASE], head_cap);
    return int(base + min(since, head_cap - base));
}

// Row number i of the group: its position, the first position that it attends; q of its heads into
// shared memory.
void load_row(uint i, uint row, bool present)
{
    position[i] = present ? int(step_words[KEPT_STEP_TOKENS + p.chunk + row]) : -1;
    count[i] = GENERAL != KEPT_SLOTS_PLAIN && present ? slots_seen(position[i]) : 0;
    uint reach = p.window != 0u ? min(p.window, p.cap) : p.cap;
    first_seen[i] = max(position[i] - int(reach) + 1, 0);
    for (uint e = gl_LocalInvocationID.x; e < G * D / 4u; e += WG) {
        uint g = e / (D / 4u), at = row * p.q_stride + first_head * D + 4u * e;
        vec4 q = vec4(0.0);
        if (present && g < n_heads) {
            q = vec4(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]);
        }
        q4[i * G * D / 4u + e] = q;
    }
}

// Tiles of 16 places that hold something for some row: first, end.
uvec2 whole_range()
{
    if (GENERAL != KEPT_SLOTS_PLAIN) {
        int most = 0;
        [[unroll]] for (uint i = 0u; i < BQ; i++) {
            most = max(most, count[i]);
        }
        return uvec2(0u, (uint(most) + 15u) >> 4);
    }
    int lo = 0x7fffffff, hi = -1;
    [[unroll]] for (uint i = 0u; i < BQ; i++) {
        if (position[i] >= 0) {
            lo = min(lo, first_seen[i]);
            hi = max(hi, position[i]);
        }
    }
    return hi < 0 ? uvec2(0u) : uvec2(uint(lo) >> 4, (uint(hi) >> 4) + 1u);
}

// Number in the store of the slot of place `base + i`; base = the tile's first place, less laps.
uint slot_of(uint base, uint i)
{
    uint s = base + i;
    if (GENERAL != KEPT_SLOTS_PLAIN) {
        return head_slots + min(s, head_cap - 1u);
    }
    return head_slots + (s >= head_cap ? s - head_cap : s);
}

// What the meta planes say of a slot: pos, until (GENERAL 2), bias.
struct Meta1 {
    int pos, until;
    float bias;
};

Meta1 meta_of(uint slot)
{
    Meta1 v = Meta1(0, 0, 0.0);
    if (GENERAL != KEPT_SLOTS_PLAIN) {
        v.bias = intBitsToFloat(meta[p.cap + slot]);
    }
    if (GENERAL == KEPT_SLOTS_RULE) {
        v.pos = meta[slot];
        v.until = meta[2u * p.cap + slot];
    }
    return v;
}

// The score of column c at place t: capped, biased, -inf where it is not attended.
float masked(float v, uint c, uint t, uint end, Meta1 of)
{
    int at = position[c / G];
    bool seen = t < end;
    if (GENERAL == KEPT_SLOTS_PLAIN) {
        seen = seen && int(t) <= at && int(t) >= first_seen[c / G];
    } else {
        seen = seen && int(t) < count[c / G];
    }
    if (GENERAL == KEPT_SLOTS_RULE) {
        seen = seen && of.pos <= at && at < of.until &&
               (p.window == 0u || of.pos < 0 || uint(at - of.pos) < p.window);
    }
    if (p.softcap > 0.0) {
        v = p.softcap * kept_tanh(v / p.softcap);
    }
    return seen ? v + of.bias : KEPT_MINUS_INFINITY;
}

float a[SPL * COLS]; // q.k of the lane's slots and of the columns

// Adds q.k of keys of f16.
void add_products_half(uint base)
{
    for (uint g = 0u; g < D / 8u; g++) {
        vec4 lo[SPL], hi[SPL];
        [[unroll]] for (uint n = 0u; n < SPL; n++) {
            uint i = gl_LocalInvocationID.x + n * WG;
            kept_k8(slot_of(base, min(i, T - 1u)), g, lo[n], hi[n]);
        }
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            vec4 q_lo = q4[c * (D / 4u) + 2u * g], q_hi = q4[c * (D / 4u) + 2u * g + 1u];
            [[unroll]] for (uint n = 0u; n < SPL; n++) {
                vec4 v = fma(q_hi, hi[n], q_lo * lo[n]);
                a[n * COLS + c] += (v.x + v.y) + (v.z + v.w);
            }
        }
    }
}

// Adds q.k of quantised keys, block by block: the scale is multiplied with sums of 16.
void add_products_quantised(uint base)
{
    uint tile[SPL], row[SPL];
    [[unroll]] for (uint n = 0u; n < SPL; n++) {
        uint slot = slot_of(base, min(gl_LocalInvocationID.x + n * WG, T - 1u));
        tile[n] = kept_k_tile(slot);
        row[n] = slot & 15u;
    }
    for (uint b = 0u; b < D / 32u; b++) {
        float d[SPL];
        uvec4 words[SPL];
        [[unroll]] for (uint n = 0u; n < SPL; n++) {
            d[n] = kept_k_scale(tile[n], b, row[n]);
        }
        [[unroll]] for (uint h = 0u; h < 2u; h++) {
            [[unroll]] for (uint n = 0u; n < SPL; n++) {
                if (KT == KEPT_FMT_Q8_0 || h == 0u) {
                    words[n] = kept_k_words(tile[n], KT == KEPT_FMT_Q8_0 ? 2u * b + h : b, row[n]);
                }
            }
            vec4 k[SPL * 4u];
            [[unroll]] for (uint j = 0u; j < SPL * 4u; j++) {
                k[j] = kept_k_quad(words[j >> 2], h, j & 3u);
            }
            [[unroll]] for (uint c = 0u; c < COLS; c++) {
                uint at = c * (D / 4u) + 8u * b + 4u * h;
                vec4 q0 = q4[at], q1 = q4[at + 1u], q2 = q4[at + 2u], q3 = q4[at + 3u];
                [[unroll]] for (uint n = 0u; n < SPL; n++) {
                    vec4 v = fma(q1, k[4u * n + 1u], q0 * k[4u * n]);
                    v = fma(q3, k[4u * n + 3u], fma(q2, k[4u * n + 2u], v));
                    a[n * COLS + c] = fma(d[n], (v.x + v.y) + (v.z + v.w), a[n * COLS + c]);
                }
            }
        }
    }
}

void scores(uint start, uint end, uint base)
{
    [[unroll]] for (uint i = 0u; i < SPL * COLS; i++) {
        a[i] = 0.0;
    }
    if (KT == KEPT_FMT_F16) {
        add_products_half(base);
    } else {
        add_products_quantised(base);
    }
    [[unroll]] for (uint n = 0u; n < SPL; n++) {
        uint i = gl_LocalInvocationID.x + n * WG;
        if (i < T) {
            bool any_seen = false;
            Meta1 of = meta_of(slot_of(base, i));
            [[unroll]] for (uint c = 0u; c < COLS; c++) {
                float s = masked(a[n * COLS + c], c, start + i, end, of);
                any_seen = any_seen || s != KEPT_MINUS_INFINITY;
                score[c * T + i] = s;
            }
            usable[i] = any_seen ? 1.0 : 0.0;
        }
    }
}

// Turns of loops are scarce on lavapipe, which leaves all loops of an invocation after 65,535 turns
// together: those inside attend's are unrolled where that makes little code.
void maxima()
{
    [[unroll]] for (uint n = 0u; n < COLS * 8u; n += WG) {
        uint u = n + gl_LocalInvocationID.x;
        if (u < COLS * 8u) {
            float v = KEPT_MINUS_INFINITY;
            [[unroll]] for (uint i = 0u; i < T; i += 8u) {
                v = max(v, score[(u >> 3) * T + i + (u & 7u)]);
            }
            top[u >> 2][u & 3u] = v;
        }
    }
}

// New maxima, weights instead of scores, old outputs scaled down to the new maxima.
void weights()
{
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        vec4 v = max(top[2u * c], top[2u * c + 1u]);
        float old = m[c];
        m[c] = max(old, max(max(v.x, v.y), max(v.z, v.w)));
        float shrink = old > KEPT_MINUS_INFINITY ? exp(old - m[c]) : 0.0;
        l[c] *= shrink;
        [[unroll]] for (uint n = 0u; n < SPL; n++) {
            uint i = gl_LocalInvocationID.x + n * WG;
            if (i < T) {
                float s = score[c * T + i];
                float w = s > KEPT_MINUS_INFINITY ? exp(s - m[c]) : 0.0;
                score[c * T + i] = w;
                l[c] += w;
            }
        }
        [[unroll]] for (uint i = 0u; i < UPL * V2; i++) {
            o[c * UPL * V2 + i] *= shrink;
        }
    }
}

// Unit i of a value: a pair (the other half is 0), or a quad.
vec4 load_unit(uint at, uint scale_at, uint i)
{
    if (VT == KEPT_FMT_F16) {
        return vec4(unpackHalf2x16(v1[at + i]), 0.0, 0.0);
    }
    return kept_v_quad(at, scale_at, i);
}

void outputs(uint base)
{
    uint lane = gl_LocalInvocationID.x;
    uint share = NU <= WG ? lane / NU : 0u, unit = NU <= WG ? lane % NU : lane;
    if (share >= SP) {
        return;
    }
    for (uint i = share; i < T; i += SP) {
        uint slot = slot_of(base, i), at = kept_v_at(slot), scale_at = kept_v_scale_at(slot);
        vec4 v[UPL];
        bool use = usable[i] != 0.0;
        [[unroll]] for (uint n = 0u; n < UPL; n++) {
            v[n] = use ? load_unit(at, scale_at, min(unit + n * WG, NU - 1u)) : vec4(0.0);
        }
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            float w = score[c * T + i];
            [[unroll]] for (uint n = 0u; n < UPL; n++) {
                uint to = (c * UPL + n) * V2;
                o[to] = fma(vec2(w), v[n].xy, o[to]);
                if (V2 == 2u) {
                    o[to + V2 - 1u] = fma(vec2(w), v[n].zw, o[to + V2 - 1u]);
                }
            }
        }
    }
}

// Adds up the shares and the lanes: afterwards q4 holds o of every column, score[c * T] holds l.
void gather()
{
    uint lane = gl_LocalInvocationID.x;
    uint share = NU <= WG ? lane / NU : 0u, unit = NU <= WG ? lane % NU : lane;
    if (lane < T) {
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            score[c * T + lane] = l[c];
        }
    }
    for (uint turn = 0u; turn < SP; turn++) {
        if (share == turn) {
            [[unroll]] for (uint c = 0u; c < COLS; c++) {
                [[unroll]] for (uint n = 0u; n < UPL * V2; n++) {
                    uint i = (unit + n / V2 * WG) * V2 + n % V2; // pair
                    uint at = c * (D / 4u) + (i >> 1), e = 2u * (i & 1u);
                    if (i < D / 2u) {
                        vec2 v = o[c * UPL * V2 + n];
                        q4[at][e] = turn == 0u ? v.x : q4[at][e] + v.x;
                        q4[at][e + 1u] = turn == 0u ? v.y : q4[at][e + 1u] + v.y;
                    }
                }
            }
        }
        barrier();
    }
    for (uint c = lane; c < COLS; c += WG) {
        float sum = 0.0;
        for (uint i = 0u; i < min(WG, T); i++) {
            sum += score[c * T + i];
        }
        score[c * T] = sum;
    }
    barrier();
}

// All of it over tiles of 16 first … end - 1.
void attend(uint first, uint end)
{
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        m[c] = KEPT_MINUS_INFINITY;
        l[c] = 0.0;
        [[unroll]] for (uint n = 0u; n < UPL * V2; n++) {
            o[c * UPL * V2 + n] = vec2(0.0);
        }
    }
    barrier();
    for (uint start = first * 16u; start < end * 16u; start += T) {
        uint base = GENERAL == KEPT_SLOTS_PLAIN ? start % p.cap : start;
        scores(start, end * 16u, base);
        barrier();
        maxima();
        barrier();
        weights();
        barrier();
        outputs(base);
        barrier();
    }
    gather();
}

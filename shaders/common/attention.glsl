// common/attention.glsl: what attn_decode and attn_prefill share: tiles of slots against columns.
//
// A column is one query head of one row; a group has COLS = BQ * G of them, all of one KV head, so
// K and V are read once for all. Tiles of T slots, online softmax (m maximum, l sum, o output, all
// per column):
//   scores    lane = slot (SPL slots a lane in small groups): K record, q from shared memory
//   maxima    8 threads a column over the tile
//   weights   lane = slot: exp(score - m), over the scores
//   outputs   lane = pair of d (long d: PPL pairs a lane; short d: SP shares of the slots)
//
// Needs keys WG, ORDER, D, G, GENERAL and BQ (1 in decode), and the push block p.

layout(std430, binding = 0) readonly restrict buffer Qkv { float qkv[]; };
layout(std430, binding = 1) readonly restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 1) readonly restrict buffer KSlots4 { uvec4 k4[]; };
layout(std430, binding = 2) readonly restrict buffer VSlots { uint v1[]; };
layout(std430, binding = 3) readonly restrict buffer Meta { int meta[]; };
layout(std430, binding = 4) readonly restrict buffer Live { uint live_slots[]; };
layout(std430, binding = 6) readonly restrict buffer Step { uint step_words[]; };

const uint COLS = BQ * G;
// Slots of a lane: small groups take tiles of 32, of 16 or WG where columns are many (registers).
const uint SMALL_TILE = (COLS > 4u ? 16u : 32u) * (COLS > 16u ? 0u : 1u);
const uint SPL = SMALL_TILE > WG ? SMALL_TILE / WG : 1u;
const uint T = WG * SPL < 64u ? WG * SPL : 64u;
const uint NP = D / 2u;                              // pairs
const uint PPL = (NP + WG - 1u) / WG;                // pairs of a lane
const uint SP = NP <= WG ? WG / NP : 1u;             // shares of the slots


shared vec4 q4[COLS * D / 4u];     // queries; at the end outputs
shared float score[COLS * T];      // scores, then weights; at the end sums of lanes
shared vec4 top[COLS * 2u];        // 8 maxima a column
// 1 where some column attends the slot, else 0: the slot may hold anything
shared float usable[T];

vec2 o[COLS * PPL];
float m[COLS], l[COLS];
int position[BQ], first_seen[BQ];  // of the rows; position -1: row attends nothing

uint kv_head, first_head, n_heads; // of this group

void find_heads()
{
    uint group = p.n_head / p.n_kv, passes = (group + G - 1u) / G;
    kv_head = gl_WorkGroupID.y / passes;
    uint pass = gl_WorkGroupID.y % passes;
    first_head = kv_head * group + pass * G;
    n_heads = min(G, group - pass * G);
}

// Row number i of the group: its position, the first position that it attends; q of its heads into
// shared memory.
void load_row(uint i, uint row, bool present)
{
    position[i] = present ? int(step_words[KEPT_STEP_TOKENS + p.chunk + row]) : -1;
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

// Tiles of 16 that hold something for some row: first, end. GENERAL 0: of positions; 1: of slots.
uvec2 whole_range()
{
    if (GENERAL != 0u) {
        return uvec2(0u, (min(live_slots[kv_head], p.cap) + 15u) >> 4);
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

uint slot_of(uint base, uint i)
{
    uint s = base + i;
    return s >= p.cap ? s - p.cap : s;
}

uvec4 load_k(uint slot, uint g)
{
    uint at = kv_head * p.cap * NP + (slot >> 4) * 16u * NP, row = slot & 15u;
    if (ORDER == KEPT_LANE) {
        return k4[(at >> 2) + g * 16u + row];
    }
    at += g * 64u + row;
    return uvec4(k1[at], k1[at + 16u], k1[at + 32u], k1[at + 48u]);
}

// The score of column c at place t (slot s): capped, biased, -inf where it is not attended.
float masked(float v, uint c, uint t, uint end)
{
    int at = position[c / G];
    bool seen = t < end;
    float bias = 0.0;
    if (GENERAL == 0u) {
        seen = seen && int(t) <= at && int(t) >= first_seen[c / G];
    } else {
        uint i = kv_head * 3u * p.cap + min(t, p.cap - 1u);
        int pos = meta[i];
        bias = intBitsToFloat(meta[i + 2u * p.cap]);
        seen = seen && t < live_slots[kv_head] && pos <= at && at < meta[i + p.cap] &&
               (p.window == 0u || pos < 0 || at - pos < int(p.window));
    }
    if (p.softcap > 0.0) {
        v = p.softcap * kept_tanh(v / p.softcap);
    }
    return seen ? v + bias : KEPT_MINUS_INFINITY;
}

void scores(uint start, uint end, uint base)
{
    float a[SPL * COLS];
    [[unroll]] for (uint i = 0u; i < SPL * COLS; i++) {
        a[i] = 0.0;
    }
    for (uint g = 0u; g < D / 8u; g++) {
        vec4 lo[SPL], hi[SPL];
        [[unroll]] for (uint n = 0u; n < SPL; n++) {
            uint i = gl_LocalInvocationID.x + n * WG;
            uvec4 k = load_k(slot_of(base, min(i, T - 1u)), g);
            lo[n] = vec4(unpackHalf2x16(k.x), unpackHalf2x16(k.y));
            hi[n] = vec4(unpackHalf2x16(k.z), unpackHalf2x16(k.w));
        }
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            vec4 q_lo = q4[c * (D / 4u) + 2u * g], q_hi = q4[c * (D / 4u) + 2u * g + 1u];
            [[unroll]] for (uint n = 0u; n < SPL; n++) {
                vec4 v = fma(q_hi, hi[n], q_lo * lo[n]);
                a[n * COLS + c] += (v.x + v.y) + (v.z + v.w);
            }
        }
    }
    [[unroll]] for (uint n = 0u; n < SPL; n++) {
        uint i = gl_LocalInvocationID.x + n * WG;
        if (i < T) {
            bool any_seen = false;
            [[unroll]] for (uint c = 0u; c < COLS; c++) {
                float s = masked(a[n * COLS + c], c, start + i, end);
                any_seen = any_seen || s != KEPT_MINUS_INFINITY;
                score[c * T + i] = s;
            }
            usable[i] = any_seen ? 1.0 : 0.0;
        }
    }
}

void maxima()
{
    for (uint u = gl_LocalInvocationID.x; u < COLS * 8u; u += WG) {
        float v = KEPT_MINUS_INFINITY;
        for (uint i = u & 7u; i < T; i += 8u) {
            v = max(v, score[(u >> 3) * T + i]);
        }
        top[u >> 2][u & 3u] = v;
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
        [[unroll]] for (uint i = 0u; i < PPL; i++) {
            o[c * PPL + i] *= shrink;
        }
    }
}

void outputs(uint base)
{
    uint lane = gl_LocalInvocationID.x;
    uint share = NP <= WG ? lane / NP : 0u, pair = NP <= WG ? lane % NP : lane;
    if (share >= SP) {
        return;
    }
    for (uint i = share; i < T; i += SP) {
        uint at = (kv_head * p.cap + slot_of(base, i)) * NP;
        vec2 v[PPL];
        bool use = usable[i] != 0.0;
        [[unroll]] for (uint n = 0u; n < PPL; n++) {
            v[n] = use ? unpackHalf2x16(v1[at + min(pair + n * WG, NP - 1u)]) : vec2(0.0);
        }
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            float w = score[c * T + i];
            [[unroll]] for (uint n = 0u; n < PPL; n++) {
                o[c * PPL + n] = fma(vec2(w), v[n], o[c * PPL + n]);
            }
        }
    }
}

// Adds up the shares and the lanes: afterwards q4 holds o of every column, score[c * T] holds l.
void gather()
{
    uint lane = gl_LocalInvocationID.x;
    uint share = NP <= WG ? lane / NP : 0u, pair = NP <= WG ? lane % NP : lane;
    if (lane < T) {
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            score[c * T + lane] = l[c];
        }
    }
    for (uint turn = 0u; turn < SP; turn++) {
        if (share == turn) {
            [[unroll]] for (uint c = 0u; c < COLS; c++) {
                [[unroll]] for (uint n = 0u; n < PPL; n++) {
                    uint i = pair + n * WG, at = c * (D / 4u) + (i >> 1), e = 2u * (i & 1u);
                    if (i < NP) {
                        vec2 v = o[c * PPL + n];
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
        [[unroll]] for (uint n = 0u; n < PPL; n++) {
            o[c * PPL + n] = vec2(0.0);
        }
    }
    barrier();
    for (uint start = first * 16u; start < end * 16u; start += T) {
        uint base = start % p.cap;
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

#version 450
// slot_select: scores, the slots that go, and what moves where (params.h: kept_select_params).
//
// Group: one KV head. A lane owns the slots lane, lane + WG, …, so what it writes of a slot it may
// read again. The m lowest of (score, slot) are found digit by digit: scores as ordered integers, 8
// bits a pass, a histogram in shared memory, then the slot numbers where scores are equal; a pass
// whose whole bin goes is the last. Consolidated slots have the lowest rank. The chosen are
// gathered in any order and ranked by counting, so results do not depend on the order of the
// atomics.
// Keys: WG lanes; SCORER where scores come from.

layout(constant_id = 1) const uint SCORER = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_select_params p; };

layout(std430, binding = 0) readonly restrict buffer Z { float z[]; };
layout(std430, binding = 1) restrict buffer Stats { float stats[]; };
layout(std430, binding = 2) restrict buffer Scores { float scores[]; };
layout(std430, binding = 3) restrict buffer Meta { int meta[]; };
layout(std430, binding = 4) restrict buffer Heads { uint heads[]; };
layout(std430, binding = 5) writeonly restrict buffer Moves { uint moves[]; };
layout(std430, binding = 6) readonly restrict buffer Step { uint step_words[]; };

#include "retain.glsl"

shared vec2 partial[WG];
shared uint histogram[256];
shared uint n_chosen;
shared uint chosen[KEPT_MAX_BLOCK], ascending[KEPT_MAX_BLOCK];
shared bool is_lost[KEPT_MAX_BLOCK]; // of ascending: was not consolidated

const uint AWAY = 0x80000000u; // in chosen: was consolidated

kept_head h;
uint window_at;   // C
uint z_at, group; // row 0 of this KV head's z; its query heads

// Consolidated before: goes whatever the budget.
bool is_gone(uint slot)
{
    return slot >= p.sinks && slot < window_at && meta[h.first + slot] == KEPT_POS_GONE;
}

vec2 group_max(vec2 v)
{
    barrier();
    partial[gl_LocalInvocationID.x] = v;
    barrier();
    for (uint i = 0u; i < WG; i++) {
        v = mix(v, partial[i], greaterThan(partial[i], v));
    }
    return v;
}

float group_sum(float v)
{
    barrier();
    partial[gl_LocalInvocationID.x].x = v;
    barrier();
    float sum = 0.0;
    for (uint i = 0u; i < WG; i++) {
        sum += partial[i].x;
    }
    return sum;
}

// The lane's first slot that is not below the multiple of WG at or before `from`.
uint own_slot(uint from)
{
    return from - from % WG + gl_LocalInvocationID.x;
}

float bias_of(uint slot)
{
    return intBitsToFloat(meta[p.total + h.first + slot]);
}

// What slots sinks … C-1 stand for besides themselves becomes less.
void fade()
{
    for (uint s = own_slot(p.sinks); s < window_at && p.keep < 1.0; s += WG) {
        float bias = bias_of(s);
        bias = bias > 60.0 ? bias + log(p.keep) : log(1.0 + (exp(bias) - 1.0) * p.keep);
        if (s >= p.sinks) {
            meta[p.total + h.first + s] = floatBitsToInt(bias);
        }
    }
}

// What slot s adds to lse: z with its bias, or z alone of the slots that lse is of.
float lse_term(uint s, float v)
{
    bool own = s >= p.sinks && s < window_at;
    return is_gone(s) || (p.apart == 1u && !own) ? KEPT_MINUS_INFINITY
           : p.apart == 1u                       ? v
                                                 : v + bias_of(s);
}

// lse and top of query head g.
vec2 normaliser(uint g)
{
    vec2 most = vec2(KEPT_MINUS_INFINITY);
    for (uint s = gl_LocalInvocationID.x; s < h.count; s += WG) {
        float v = z[z_at + g * p.z_stride + s];
        vec2 pair = is_gone(s) ? most : vec2(lse_term(s, v), v);
        most = mix(most, pair, greaterThan(pair, most));
    }
    most = group_max(most);
    float sum = 0.0;
    for (uint s = gl_LocalInvocationID.x; s < h.count; s += WG) {
        float v = lse_term(s, z[z_at + g * p.z_stride + s]);
        sum += v == KEPT_MINUS_INFINITY ? 0.0 : exp(v - most.x);
    }
    sum = group_sum(sum);
    return vec2(most.x + log(sum), most.y);
}

// Scores and weights of slots from … count - 1. Both planes hold sums until the last query head.
void score_slots(uint from)
{
    if (from == 0u) {
        fade();
    }
    for (uint g = 0u; g < group; g++) {
        uint at = (gl_WorkGroupID.x * group + g) * KEPT_STATS_STRIDE(p.d);
        vec2 norm;
        if (from == 0u) {
            norm = normaliser(g);
            if (gl_LocalInvocationID.x == 0u) {
                stats[at + KEPT_STATS_LSE(p.d)] = norm.x;
                stats[at + KEPT_STATS_TOP(p.d)] = norm.y;
            }
        } else {
            norm = vec2(stats[at + KEPT_STATS_LSE(p.d)], stats[at + KEPT_STATS_TOP(p.d)]);
        }
        for (uint s = own_slot(from); s < h.count; s += WG) {
            if (s < from || is_gone(s)) {
                continue;
            }
            uint i = h.first + s;
            float v = z[z_at + g * p.z_stride + s], bias = bias_of(s);
            float score = exp(v + bias - norm.x), weight = exp(v - norm.y);
            if (g > 0u) {
                score += scores[i];
                weight += scores[p.total + i];
            }
            if (g == group - 1u) {
                score *= z[z_at + group * p.z_stride + s] / float(group);
                weight = log(weight) + bias;
            }
            scores[i] = score;
            scores[p.total + i] = weight;
        }
    }
}

// The score as an integer that orders like it; what is no number is 1, a consolidated slot 0. Of
// slots sinks … C-1.
uint rank_of(uint slot)
{
    uint bits;
    if (meta[h.first + slot] == KEPT_POS_GONE) {
        return 0u;
    } else if (SCORER == KEPT_SCORER_RECENT) {
        return uint(meta[h.first + slot]) ^ 0x80000000u;
    } else if (SCORER == KEPT_SCORER_DIRECT) {
        bits = floatBitsToUint(z[z_at + slot]);
    } else {
        bits = floatBitsToUint(scores[h.first + slot]);
    }
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 1u;
    }
    bits = bits == 0x80000000u ? 0u : bits;
    return (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
}

// The n lowest of slots from … end - 1 into chosen[], in any order.
void choose(uint n, uint from, uint end)
{
    uint lane = gl_LocalInvocationID.x;
    uvec2 last = uvec2(0u), mask = uvec2(0u); // the highest that goes: rank, slot; bits known of it
    uint missing = n;
    for (uint digit = 0u; digit < 8u; digit++) {
        uint shift = 24u - 8u * (digit & 3u);
        for (uint i = lane; i < 256u; i += WG) {
            histogram[i] = 0u;
        }
        barrier();
        for (uint s = own_slot(from); s < end; s += WG) {
            uvec2 v = uvec2(s < from ? 0u : rank_of(s), s);
            if (s >= from && (v & mask) == last) {
                atomicAdd(histogram[((digit < 4u ? v.x : v.y) >> shift) & 255u], 1u);
            }
        }
        barrier();
        uint bin = 0u, n_bin = histogram[0];
        while (bin < 255u && n_bin < missing) {
            missing -= n_bin;
            bin++;
            n_bin = histogram[bin];
        }
        uvec2 here = digit < 4u ? uvec2(1u, 0u) : uvec2(0u, 1u);
        last |= here * (bin << shift);
        mask |= here * (255u << shift);
        barrier();
        if (n_bin <= missing) {
            break;
        }
    }
    if (lane == 0u) {
        n_chosen = 0u;
    }
    barrier();
    for (uint s = own_slot(from); s < end; s += WG) {
        uvec2 v = uvec2(s < from ? 0u : rank_of(s), s) & mask;
        if (s >= from && (v.x < last.x || (v.x == last.x && v.y <= last.y))) {
            uint i = atomicAdd(n_chosen, 1u);
            if (i < n) {
                chosen[i] = s | (rank_of(s) == 0u ? AWAY : 0u);
                meta[h.first + s] = KEPT_POS_GONE;
            }
        }
    }
    barrier();
    for (uint i = lane; i < n; i += WG) {
        uint rank = 0u, own = chosen[i] & ~AWAY;
        for (uint k = 0u; k < n; k++) {
            rank += (chosen[k] & ~AWAY) < own ? 1u : 0u;
        }
        ascending[rank] = own;
        is_lost[rank] = (chosen[i] & AWAY) == 0u;
    }
    barrier();
}

// How many of slots from … end - 1 have a rank below this one: 1 for those consolidated, 0x80000000
// for those that have a score below 0 besides, or one that is no number.
uint count_below(uint rank, uint from, uint end)
{
    if (gl_LocalInvocationID.x == 0u) {
        n_chosen = 0u;
    }
    barrier();
    for (uint s = own_slot(from); s < end; s += WG) {
        if (s >= from && rank_of(s) < rank) {
            atomicAdd(n_chosen, 1u);
        }
    }
    barrier();
    uint n = n_chosen;
    barrier();
    return n;
}

// The list of evicted slots that were not consolidated. Returns their number.
uint write_lost(uint at, uint n)
{
    uint lane = gl_LocalInvocationID.x, n_lost = 0u;
    for (uint i = 0u; i < n; i++) {
        if (is_lost[i] && i % WG == lane) {
            moves[at + n_lost] = ascending[i];
        }
        n_lost += is_lost[i] ? 1u : 0u;
    }
    for (uint i = n_lost + lane; i < p.row_cap; i += WG) {
        moves[at + i] = 0u;
    }
    return n_lost;
}

// The lists of moves for n evicted slots before `end` (C). Returns the number of fills.
uint write_fills(uint at, uint n, uint end)
{
    uint lane = gl_LocalInvocationID.x, block = p.row_cap, n_fills = 0u;
    for (uint i = 0u; i < n; i++) {
        n_fills += ascending[i] < end - n ? 1u : 0u;
    }
    for (uint i = lane; i < block; i += WG) {
        moves[at + 2u * block + i] = i < n_fills ? ascending[i] : 0u;
        if (i >= n_fills) {
            moves[at + block + i] = 0u;
        }
    }
    // of the last n slots the ones that stay, each at its rank among them
    for (uint i = lane; i < n; i += WG) {
        uint slot = end - n + i, gone_before = 0u;
        bool stays = true;
        for (uint k = n_fills; k < n; k++) {
            gone_before += ascending[k] < slot ? 1u : 0u;
            stays = stays && ascending[k] != slot;
        }
        if (stays) {
            moves[at + block + i - gone_before] = slot;
        }
    }
    return n_fills;
}

void main()
{
    uint kv_head = gl_WorkGroupID.x;
    if (!block_is_live()) {
        return;
    }
    h = load_head(kv_head);
    group = p.n_head / p.n_kv;
    z_at = kv_head * (group + 1u) * p.z_stride;
    if (SCORER == KEPT_SCORER_EXPECTED || SCORER == KEPT_SCORER_DIRECT) {
        h.count = min(h.count, p.z_stride);
    }
    uint end = h.count - min(h.count, p.window), over = h.count - min(h.count, h.budget);
    window_at = end;
    uint n_gone = count_below(1u, p.sinks, end), n = max(over, n_gone);
    if (SCORER == KEPT_SCORER_DMS) {
        n = max(n, count_below(0x80000000u, p.sinks, end));
    }
    n = min(n, end - min(end, p.sinks));
    n = min(n, min(p.row_cap, KEPT_MAX_BLOCK));
    int block_ends = block_end();
    bool scores_now = SCORER == KEPT_SCORER_EXPECTED && n > 0u && over > 0u;
    if (scores_now) {
        score_slots(score_from(h, p.window, p.refresh));
    }
    if (n > 0u) {
        choose(n, p.sinks, end);
    }
    uint at = kv_head * KEPT_MOVES_STRIDE(p.row_cap);
    uint n_lost = write_lost(at + KEPT_MOVES_LISTS, n);
    uint n_fills = write_fills(at + KEPT_MOVES_LISTS, n, end);
    barrier();
    if (gl_LocalInvocationID.x == 0u) {
        uint base = h.count - n, row = kv_head * KEPT_HEAD_WORDS;
        int reach = block_ends + int(p.row_cap) - h.shift;
        bool rotate = p.limit > 0u && reach > 0 && uint(reach) > p.limit;
        moves[at + KEPT_MOVES_M] = n;
        moves[at + KEPT_MOVES_COUNT] = h.count;
        moves[at + KEPT_MOVES_FILLS] = n_fills;
        moves[at + KEPT_MOVES_C] = end;
        uint turn = rotate ? min(uint(block_ends) - uint(h.shift) - base, p.limit / 2u) : 0u;
        moves[at + KEPT_MOVES_ROTATE] = turn;
        moves[at + KEPT_MOVES_LOST] = n_lost;
        for (uint i = KEPT_MOVES_LOST + 1u; i < KEPT_MOVES_LISTS; i++) {
            moves[at + i] = 0u;
        }
        heads[row + KEPT_HEAD_BASE] = base;
        heads[row + KEPT_HEAD_EDGE] = uint(block_ends);
        heads[row + KEPT_HEAD_EVICTED] = h.evicted + n;
        heads[row + KEPT_HEAD_CONSOLIDATED] += n_gone;
        if (scores_now) {
            heads[row + KEPT_HEAD_SCORED] = 1u;
        }
        if (rotate) {
            heads[row + KEPT_HEAD_SHIFT] = uint(h.shift) + turn;
        }
    }
}

#version 450
// slot_move: kept slots into the places of evicted ones, then the window and what follows it
// down behind them (params.h: kept_move_params).
//
// Group: one column (x: a word of a slot) of one KV head (y): K elements, K scales, V elements, V
// scales, meta planes, score planes. No column depends on another. Fills read from above C - m and
// write below it, so they need no order; the window overlaps itself: WG slots are read, all lanes
// meet, WG slots are written, from the lowest up.
// Keys: WG lanes; ORDER of the K tiles; KT, VT slot types.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint KT = 1;
layout(constant_id = 3) const uint VT = 1;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_move_params p; };

layout(std430, binding = 0) restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 1) restrict buffer VSlots { uint v1[]; };
layout(std430, binding = 2) restrict buffer Meta { uint meta[]; };
layout(std430, binding = 3) restrict buffer Scores { uint scores[]; };
layout(std430, binding = 4) readonly restrict buffer Heads { uint heads[]; };
layout(std430, binding = 5) readonly restrict buffer Moves { uint moves[]; };
layout(std430, binding = 6) readonly restrict buffer Step { uint step_words[]; };

#define KEPT_MOVES
#include "retain.glsl"

// Which array the column is in, and where its word of slot s is there:
//     at + (s / 16) * tile + (s % 16) * row
const uint IN_K = 0u, IN_V = 1u, IN_META = 2u, IN_SCORES = 3u;
uint array, at, tile, row;

void find_column(uint i)
{
    uint k_q = KEPT_SLOT_Q(KT, p.d), k_s = KEPT_SLOT_S(KT, p.d);
    uint v_q = KEPT_SLOT_Q(VT, p.d), v_s = KEPT_SLOT_S(VT, p.d);
    array = IN_K;
    tile = KEPT_TILE_WORDS(KT, p.d);
    if (i < k_q) {
        at = (i >> 2) * 64u + (i & 3u) * (ORDER == KEPT_LANE ? 1u : 16u);
        row = ORDER == KEPT_LANE ? 4u : 1u;
        return;
    }
    i -= k_q;
    if (i < k_s) {
        at = 16u * (k_q + i);
        row = 1u;
        return;
    }
    i -= k_s;
    array = IN_V;
    tile = KEPT_TILE_WORDS(VT, p.d);
    if (i < v_q) {
        at = i;
        row = v_q;
        return;
    }
    i -= v_q;
    if (i < v_s) {
        at = 16u * v_q + i;
        row = v_s;
        return;
    }
    i -= v_s;
    tile = 16u;
    row = 1u;
    array = i < p.meta_planes ? IN_META : IN_SCORES;
    at = (i < p.meta_planes ? i : i - p.meta_planes) * p.total;
}

uint place(uint slot)
{
    return at + (slot >> 4) * tile + (slot & 15u) * row;
}

uint read(uint slot)
{
    uint i = place(slot);
    if (array == IN_K) {
        return k1[i];
    }
    return array == IN_V ? v1[i] : array == IN_META ? meta[i] : scores[i];
}

void write(uint slot, uint word)
{
    uint i = place(slot);
    if (array == IN_K) {
        k1[i] = word;
    } else if (array == IN_V) {
        v1[i] = word;
    } else if (array == IN_META) {
        meta[i] = word;
    } else {
        scores[i] = word;
    }
}

void main()
{
    uint kv_head = gl_WorkGroupID.y, lane = gl_LocalInvocationID.x;
    if (!block_is_live()) {
        return;
    }
    kept_head h = load_head(kv_head);
    kept_moves m = load_moves(kv_head, h.cap);
    if (m.n_evicted == 0u) {
        return;
    }
    find_column(gl_WorkGroupID.x);
    for (uint i = lane; i < m.n_fills; i += WG) {
        uint from = moves[m.at + p.row_cap + i], to = moves[m.at + 2u * p.row_cap + i];
        if (from < h.cap && to < h.cap) {
            write(h.first + to, read(h.first + from));
        }
    }
    uint end = with_after(m.count, h.cap);
    for (uint from = m.window_at; from < end; from += WG) {
        uint slot = h.first + from + lane, word = 0u;
        bool mine = from + lane < end && from + lane >= m.n_evicted;
        if (mine) {
            word = read(slot);
        }
        memoryBarrierBuffer();
        barrier();
        if (mine) {
            write(slot - m.n_evicted, word);
        }
    }
}

/* slot_move: kept slots into the places of evicted ones, then the window and what follows it
 * down behind them (kept_move_params).
 *
 * Group: one column (x: a word of a slot) of one KV head (y): words of elements and of scales of K,
 * of V, planes of meta, planes of scores. No column depends on another. Fills read from above C - m
 * and write below it, so their order does not matter; the window overlaps itself and goes from the
 * lowest slot up, WG slots read before they are written.
 */
#include "common/kept.clh"
#include "common/retain.clh"

/* Where the column's word of slot s is: at + s / 16 * tile + s % 16 * row. */
struct column {
    __global uint *at;
    uint tile, row;
};

static __global uint *word_of(const struct column *c, uint slot)
{
    return c->at + (ulong)(slot / 16) * c->tile + slot % 16 * c->row;
}

/* Word i of a row of K or V. */
static struct column row_column(__global uint *slots, uint tile_words, struct row_words row0,
                                struct row_words row1, uint q_words, uint i)
{
    struct column c;
    bool scale = i >= q_words;
    c.tile = tile_words;
    c.at = slots + (scale ? row0.s + (i - q_words) * row0.scale : word_at(&row0, i));
    c.row = scale ? row1.s - row0.s : row1.q - row0.q;
    return c;
}

static struct column column_of(__global uint *k, __global uint *v, __global uint *meta,
                               __global uint *scores, const struct kept_move_params *p, uint i)
{
    uint d = p->d;
    uint k_words = KEPT_SLOT_Q(KT, d) + KEPT_SLOT_S(KT, d);
    uint v_words = KEPT_SLOT_Q(VT, d) + KEPT_SLOT_S(VT, d);
    if (i < k_words)
        return row_column(k, KEPT_TILE_WORDS(KT, d), key_words(d, 0), key_words(d, 1),
                          KEPT_SLOT_Q(KT, d), i);
    i -= k_words;
    if (i < v_words)
        return row_column(v, KEPT_TILE_WORDS(VT, d), value_words(d, 0), value_words(d, 1),
                          KEPT_SLOT_Q(VT, d), i);
    i -= v_words;
    bool is_meta = i < p->meta_planes;
    struct column c;
    c.at = (is_meta ? meta : scores) + (ulong)(is_meta ? i : i - p->meta_planes) * p->total;
    c.tile = 16;
    c.row = 1;
    return c;
}

__kernel KEPT_GROUP void slot_move(__global uint *k_slots, __global uint *v_slots,
                                   __global uint *meta, __global uint *scores,
                                   __global const uint *heads, __global const uint *moves,
                                   __global const uint *step, const struct kept_move_params p)
{
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint kv = get_group_id(1);
    struct extent e = extent_of(heads, kv, p.total);
    struct moves m = moves_of(moves, kv, p.row_cap, e.cap);
    if (m.m == 0)
        return;
    struct column c = column_of(k_slots, v_slots, meta, scores, &p, get_group_id(0));
    c.at += (ulong)(e.first / 16) * c.tile;
    for (uint i = LID; i < m.fills; i += WG)
        if (m.from[i] < e.cap && m.to[i] < e.cap)
            *word_of(&c, m.to[i]) = *word_of(&c, m.from[i]);
    SYNC_GLOBAL();
    uint end = with_after(step, m.count, e.cap);
    for (uint from = max(m.c, m.m); from < end; from += WG) {
        uint slot = from + LID, word = 0;
        if (slot < end)
            word = *word_of(&c, slot);
        SYNC_GLOBAL();
        if (slot < end)
            *word_of(&c, slot - m.m) = word;
    }
}

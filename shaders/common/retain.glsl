// common/retain.glsl: what the maintenance kernels of budgeted slots share: the block, a head's row
// of the heads table, what slot_select decided, rotations (params.h, section "maintenance of
// budgeted slots").
//
// Needs the push block p (rows_at, row_first, row_cap, total), step_words[] and heads[]. The
// includer defines first
//   KEPT_MOVES   to read moves[]
//   KEPT_ROPE    to rotate: `vec2 table[]`, p.n_rot, p.rope_pairs, p.hi_bias
//   KEPT_ASSOC   associative memory: p is kept_assoc_params

struct kept_head {
    uint first, cap, budget, base;
    int edge, shift;
    uint scored, evicted;
    uint count; // slots before maintenance
};

bool block_is_live()
{
    return KEPT_LIVE_ROWS(p) == p.row_cap;
}

// The position after the block.
int block_end()
{
    return int(step_words[KEPT_STEP_BASE] + p.row_first + p.row_cap);
}

// n slots, at most cap, and those of the tokens after the block.
uint with_after(uint n, uint cap)
{
    return n + min(step_words[KEPT_STEP_AFTER], cap - n);
}

// Whatever the table says, the extent lies inside the store.
kept_head load_head(uint kv_head)
{
    uint at = kv_head * KEPT_HEAD_WORDS;
    kept_head h;
    h.first = min(heads[at + KEPT_HEAD_FIRST], p.total);
    h.cap = min(heads[at + KEPT_HEAD_CAP], p.total - h.first);
    h.budget = heads[at + KEPT_HEAD_BUDGET];
    h.base = heads[at + KEPT_HEAD_BASE];
    h.edge = int(heads[at + KEPT_HEAD_EDGE]);
    h.shift = int(heads[at + KEPT_HEAD_SHIFT]);
    h.scored = heads[at + KEPT_HEAD_SCORED];
    h.evicted = heads[at + KEPT_HEAD_EVICTED];
    int end = block_end();
    uint since = end > h.edge ? uint(end) - uint(h.edge) : 0u;
    uint base = min(h.base, h.cap);
    h.count = base + min(since, h.cap - base);
    return h;
}

// First slot that expected attention scores: 0 when it scores all.
uint score_from(kept_head h, uint window, uint refresh)
{
    bool all = h.scored == 0u || uint(block_end()) % refresh == 0u;
    return all ? 0u : h.count - min(h.count, window + p.row_cap);
}

#ifdef KEPT_MOVES
// What slot_select decided for a KV head; needs moves[].
struct kept_moves {
    uint at; // where its words begin
    uint n_evicted, count, n_fills, window_at, n_lost;
    bool rotate;
};

kept_moves load_moves(uint kv_head, uint cap)
{
    kept_moves m;
    m.at = kv_head * KEPT_MOVES_STRIDE(p.row_cap);
    m.n_evicted = min(moves[m.at + KEPT_MOVES_M], p.row_cap);
    m.count = min(moves[m.at + KEPT_MOVES_COUNT], cap);
    m.n_fills = min(moves[m.at + KEPT_MOVES_FILLS], p.row_cap);
    m.window_at = min(moves[m.at + KEPT_MOVES_C], cap);
    m.n_lost = min(moves[m.at + KEPT_MOVES_LOST], p.row_cap);
    m.rotate = moves[m.at + KEPT_MOVES_ROTATE] != 0u;
    m.at += KEPT_MOVES_LISTS;
    return m;
}
#endif

#ifdef KEPT_ROPE
int coarse_row(int position)
{
    return 256 + int(p.hi_bias) + (position >> 8);
}

bool rope_has(int position)
{
    int row = coarse_row(position);
    return p.rope_pairs == KEPT_ROPE_NONE ||
           (row >= 256 && (uint(row) + 1u) * (p.n_rot >> 1) <= uint(table.length()));
}

vec2 complex_product(vec2 a, vec2 b)
{
    return vec2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

// Cosine and sine of pair i at a position that the table has.
vec2 rope_angle(int position, uint i)
{
    uint n_pairs = p.n_rot >> 1;
    return complex_product(table[(uint(position) & 255u) * n_pairs + i],
                           table[uint(coarse_row(position)) * n_pairs + i]);
}

// The elements of pair i.
uvec2 rope_pair(uint i)
{
    return p.rope_pairs == KEPT_ROPE_ADJACENT ? uvec2(2u * i, 2u * i + 1u)
                                              : uvec2(i, i + (p.n_rot >> 1));
}

#ifdef KEPT_SHARED
// Elements of KEPT_SHARED by the rotation of a position that the table has. All lanes; begins after
// a barrier, ends with one.
void rope_turn(int position)
{
    for (uint i = gl_LocalInvocationID.x; i < p.n_rot >> 1; i += WG) {
        uvec2 at = rope_pair(i);
        vec2 v = complex_product(vec2(KEPT_SHARED(at.x), KEPT_SHARED(at.y)),
                                 rope_angle(position, i));
        KEPT_SHARED(at.x) = v.x;
        KEPT_SHARED(at.y) = v.y;
    }
    barrier();
}
#endif
#endif

#ifdef KEPT_ASSOC
// Where the window begins (C), whatever the table says inside the scratch.
uint assoc_window(kept_head h)
{
    uint count = min(h.count, p.raw_stride);
    return count - min(count, p.window);
}

// Slot of the first token of the sub-batch (T); slots below 0 are none.
int assoc_begin(uint window_at)
{
    return int(window_at) - int(p.row_cap) + int(p.sub * KEPT_ASSOC_SUB);
}

// Heads within their budget have no sub-batches when only those over it do.
bool assoc_idle(kept_head h)
{
    return p.only_over == 1u && min(h.count, p.raw_stride) <= h.budget;
}

// The first slot of the sub-batch that has a token.
int assoc_first(int begin)
{
    return max(begin, int(min(p.sinks, 0x7fffffffu)));
}

// Where element i of the KV head's slot is in raw.
uint assoc_at(uint kv_head, uint slot, uint i)
{
    return kv_head * p.raw_stride * p.d + ((slot >> 4) * p.d + i) * 16u + (slot & 15u);
}

#ifdef KEPT_ROPE
// Keys at this position are turned.
bool assoc_turns(int position)
{
    int row = coarse_row(position);
    return p.rope_pairs != KEPT_ROPE_NONE && row >= 256 && row < int(p.mean_row);
}
#endif
#endif

bool is_finite(float v)
{
    return (floatBitsToUint(v) & 0x7fffffffu) < 0x7f800000u;
}

// floor(n * i / S) without overflow: n < 2^28, i <= S <= 4096.
uint share_of(uint n, uint i, uint n_splits)
{
    return n / n_splits * i + n % n_splits * i / n_splits;
}

/* tune/check_move.c: cases and bounds of slot_move and slot_rotate.
 *
 * slot_move is exact, to the last word of a slot. Where a table is spoilt (slot numbers that two
 * moves share, or past CAP) the head's slots may become anything, and nothing else.
 *
 * slot_rotate: errors of Hadamard, rotation and Hadamard, stored again. A slot that keeps its
 * position, or whose turn is outside the table, keeps its bits.
 */
#include <math.h>
#include <string.h>

#include "tune/check_maintain.h"

/* ---- slot_move ---- */

enum { MOVE_K, MOVE_V, MOVE_META, MOVE_SCORES, MOVE_HEADS, MOVE_MOVES, MOVE_STEP };

void kept_keys_slot_move(struct check_case *c)
{
    kept_check_type_keys(c);
}

/* A store of which every word differs. */
static void bind_words(struct check_case *c, uint32_t i_bind, uint64_t n_words)
{
    uint32_t *words = kept_check_bind(c, i_bind, n_words);
    for (uint64_t i = 0; words != NULL && i < n_words; i++)
        words[i] = c->model != NULL ? 0x2E662E66u : kept_check_u32(c);
}

void kept_gen_slot_move(struct check_case *c)
{
    struct kept_move_params *p = &c->params.move;
    static const uint32_t ds[] = {32, 64, 96, 128, 256}, planes[] = {2, 3, KEPT_ASSOC_PLANES};
    struct check_store st;
    kept_check_block(c, MOVE_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    p->n_kv = st.n_kv;
    p->d = c->model != NULL ? c->model->d : kept_check_pick(c, ds, 5);
    p->total = st.total;
    p->meta_planes = kept_check_pick(c, planes, 3);
    bind_words(c, MOVE_K, p->total / 16 * KEPT_TILE_WORDS(kept_check_key(c, "KT"), p->d));
    bind_words(c, MOVE_V, p->total / 16 * KEPT_TILE_WORDS(kept_check_key(c, "VT"), p->d));
    bind_words(c, MOVE_META, (uint64_t)p->meta_planes * p->total);
    bind_words(c, MOVE_SCORES, 2ull * p->total);
    kept_check_bind_moves(c, MOVE_MOVES, &st, KEPT_MAX_BINDS, false);
    kept_check_bind_heads(c, MOVE_HEADS, &st);
    kept_check_spoil_moves(c, MOVE_MOVES, &st);
}

void kept_bound_slot_move(struct check_case *c)
{
    const struct kept_move_params *p = &c->params.move;
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++) {
        struct ref_head head = kept_check_head_before(c, MOVE_HEADS, h, p->total);
        uint64_t at = (uint64_t)h * KEPT_MOVES_STRIDE(p->row_cap) + KEPT_MOVES_M;
        if (!kept_check_is_spoilt(c, MOVE_MOVES, h) || c->bind[MOVE_MOVES].before[at] == 0)
            continue;
        uint64_t k = KEPT_TILE_WORDS(kept_check_key(c, "KT"), p->d);
        uint64_t v = KEPT_TILE_WORDS(kept_check_key(c, "VT"), p->d);
        kept_check_loose(c, MOVE_K, head.first / 16 * k, head.cap / 16 * k);
        kept_check_loose(c, MOVE_V, head.first / 16 * v, head.cap / 16 * v);
        for (uint64_t i = 0; i < p->meta_planes; i++)
            kept_check_loose(c, MOVE_META, i * p->total + head.first, head.cap);
        for (uint64_t i = 0; i < 2; i++)
            kept_check_loose(c, MOVE_SCORES, i * p->total + head.first, head.cap);
    }
}

/* ---- slot_rotate ---- */

enum { ROT_K, ROT_META, ROT_TABLE, ROT_HEADS, ROT_MOVES, ROT_Z, ROT_STEP };

void kept_keys_slot_rotate(struct check_case *c)
{
    kept_check_type_keys(c);
    kept_check_set_key(c, "ALWAYS", kept_check_range(c, 0, 1));
}

/* New positions: the order of the slots, some unchanged, some far out. */
static void fill_places(struct check_case *c, const struct check_store *st, uint32_t h, uint32_t *z)
{
    const int32_t *pos = (const int32_t *)c->bind[ROT_META].before + st->head[h].first;
    uint32_t cap = st->head[h].cap;
    uint32_t n = ref_with_after(&st->block, ref_min(st->head[h].base, cap), cap);
    bool odd = c->model == NULL && kept_check_chance(c, 30);
    for (uint32_t s = 0; s < n; s++) {
        z[s] = 0;
        for (uint32_t other = 0; other < n; other++)
            z[s] += pos[other] < pos[s];
        if (odd && kept_check_chance(c, 20))
            z[s] = (uint32_t)pos[s];
        else if (odd && kept_check_chance(c, 20))
            z[s] = kept_check_range(c, 0, 1u << 29);
        else if (odd && kept_check_chance(c, 20))
            z[s] = (uint32_t)pos[s] + kept_check_range(c, 0, 300);
    }
}

void kept_gen_slot_rotate(struct check_case *c)
{
    struct kept_rotate_params *p = &c->params.rotate;
    struct check_store st;
    kept_check_block(c, ROT_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    p->n_kv = st.n_kv;
    p->d = st.d;
    p->rope_pairs = c->model != NULL ? KEPT_ROPE_ADJACENT : kept_check_range(c, 0, 2);
    p->n_rot = p->rope_pairs == KEPT_ROPE_NONE ? 0 : p->d;
    if (p->n_rot != 0 && c->model == NULL && kept_check_chance(c, 30))
        p->n_rot = 2 * kept_check_range(c, 1, p->d / 2);
    p->total = st.total;
    p->z_stride = st.max_cap;
    p->z_head_stride = p->z_stride * (1 + kept_check_range(c, 0, 3));
    /* enough for every position, or not */
    p->hi_bias = (uint32_t)st.block.end / 256 + 1;
    if (c->model == NULL && kept_check_chance(c, 20))
        p->hi_bias = kept_check_range(c, 0, p->hi_bias);
    kept_check_bind_store(c, ROT_K, &st, kept_check_key(c, "KT"), kept_check_key(c, "ORDER"));
    if (c->model == NULL && kept_check_chance(c, 40)) /* that storing again would change */
        kept_check_fill_slots(c, ROT_K, 1);
    kept_check_bind_meta(c, ROT_META, &st, 2);
    kept_check_bind_table(c, ROT_TABLE, p->n_rot, p->hi_bias, 1);
    kept_check_bind_moves(c, ROT_MOVES, &st, KEPT_MAX_BINDS, true);
    kept_check_bind_heads(c, ROT_HEADS, &st);
    uint32_t *z = kept_check_bind(c, ROT_Z, (uint64_t)p->n_kv * p->z_head_stride);
    for (uint32_t h = 0; !c->failed && h < st.n_kv; h++)
        fill_places(c, &st, h, z + (uint64_t)h * p->z_head_stride);
}

static void bound_turned(struct check_case *c, uint64_t slot, int64_t delta)
{
    const struct kept_rotate_params *p = &c->params.rotate;
    struct ref_rope rope = {(const float *)(const void *)c->bind[ROT_TABLE].before,
                            c->bind[ROT_TABLE].n_words * 4, p->n_rot, p->rope_pairs, p->hi_bias};
    double k[KEPT_MAX_HEAD_DIM], amp[KEPT_MAX_HEAD_DIM], error[KEPT_MAX_HEAD_DIM] = {0};
    bool hadamard = c->bind[ROT_K].slots.type != KEPT_FMT_F16;
    if (p->rope_pairs == KEPT_ROPE_NONE)
        return;
    kept_check_slot(c, ROT_K, slot, k, amp);
    if (hadamard)
        kept_check_hadamard(k, error, p->d);
    for (uint32_t i = 0; i < p->n_rot / 2; i++) {
        uint32_t a, b;
        ref_rope_pair(&rope, i, &a, &b);
        double size = fabs(k[a]) + fabs(k[b]);
        error[a] = error[b] = error[a] + error[b] + 10 * CHECK_U * size + 2 * CHECK_TINY;
    }
    ref_rope_turn(&rope, delta, k);
    if (hadamard)
        kept_check_hadamard(k, error, p->d);
    kept_check_bound_slot(c, ROT_K, slot, k, error);
}

void kept_bound_slot_rotate(struct check_case *c)
{
    const struct kept_rotate_params *p = &c->params.rotate;
    const int32_t *pos = (const int32_t *)c->bind[ROT_META].before;
    struct ref_block b = kept_check_block_of(c, ROT_STEP);
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++) {
        struct ref_head head = kept_check_head_before(c, ROT_HEADS, h, p->total);
        const uint32_t *z = c->bind[ROT_Z].before + (uint64_t)h * p->z_head_stride;
        const uint32_t *moves =
            c->bind[ROT_MOVES].before + (uint64_t)h * KEPT_MOVES_STRIDE(p->row_cap);
        uint32_t n = ref_with_after(&b, ref_min(head.base, head.cap), head.cap);
        n = ref_min(n, p->z_stride);
        bool turns = moves[KEPT_MOVES_ROTATE] != 0 || kept_check_key(c, "ALWAYS") == 1;
        for (uint32_t s = 0; turns && s < n; s++) {
            int64_t delta = (int64_t)(int32_t)z[s] - pos[head.first + s];
            if (delta != 0 && delta >= -256 * (int64_t)p->hi_bias && delta <= 255)
                bound_turned(c, (uint64_t)head.first + s, delta);
        }
    }
}

/* kernel/ref/ref_retain.c: references of what happens to evicted slots: the nearest kept slot, the
 * values that it takes over, moves, keys turned to compact positions.
 */
#include "kernel/ref/ref.h"

#include <math.h>

#include "kernel/ref/ref_maintain.h"

/* One KV head of a call: its slots and what slot_select said. Counts are within bounds, the slot
 * numbers of the lists are as they were read. */
struct moves {
    struct ref_head head;
    uint32_t m, count, fills, c, lost;
    const uint32_t *evicted, *from, *to;
    bool rotate;
};

static struct moves moves_of(const uint8_t *heads, const uint8_t *tables, uint32_t kv_head,
                             uint32_t total, uint32_t block)
{
    const uint32_t *t = (const uint32_t *)tables + (uint64_t)kv_head * KEPT_MOVES_STRIDE(block);
    struct moves m = {.head = ref_head_at((const uint32_t *)heads, kv_head, total)};
    m.m = ref_min(t[KEPT_MOVES_M], block);
    m.count = ref_min(t[KEPT_MOVES_COUNT], m.head.cap);
    m.fills = ref_min(t[KEPT_MOVES_FILLS], block);
    m.c = ref_min(t[KEPT_MOVES_C], m.head.cap);
    m.lost = ref_min(t[KEPT_MOVES_LOST], block);
    m.rotate = t[KEPT_MOVES_ROTATE] != 0;
    m.evicted = t + KEPT_MOVES_LISTS;
    m.from = m.evicted + block;
    m.to = m.from + block;
    return m;
}

/* ---- the nearest kept slot ---- */

/* k_i.k_s / |k_s|. */
static float likeness(const struct ref_slots *keys, uint64_t evicted, uint64_t kept)
{
    double a[KEPT_MAX_HEAD_DIM], b[KEPT_MAX_HEAD_DIM], dot = 0, square = 0;
    ref_slot_load(keys, evicted, a);
    ref_slot_load(keys, kept, b);
    for (uint32_t i = 0; i < keys->d; i++) {
        dot += a[i] * b[i];
        square += b[i] * b[i];
    }
    double like = dot / sqrt(square);
    return square == 0 || !isfinite(like) ? -3e38f : (float)like;
}

void ref_slot_nearest(const struct kept_host_call *call)
{
    const struct kept_merge_slots_params *p = call->params;
    const int32_t *meta = (const int32_t *)call->bind[1];
    struct ref_slots keys = {(uint32_t *)call->bind[0], call->keys[KEPT_KEY_SCORE_KT],
                             call->keys[KEPT_KEY_ORDER], p->d};
    struct ref_block b;
    if (p->d > KEPT_MAX_HEAD_DIM || !ref_block_of(p, (const uint32_t *)call->bind[5], &b))
        return;
    for (uint64_t i = 0; i < (uint64_t)p->n_kv * p->n_splits * b.block; i++) {
        uint32_t e = (uint32_t)(i % b.block), split = (uint32_t)(i / b.block % p->n_splits);
        uint32_t h = (uint32_t)(i / b.block / p->n_splits);
        struct moves m = moves_of(call->bind[2], call->bind[3], h, p->total, b.block);
        if (e >= m.lost || m.evicted[e] >= m.head.cap)
            continue;
        uint64_t n_tiles = (m.count + 15) / 16;
        uint32_t first = (uint32_t)(n_tiles * split / p->n_splits) * 16;
        uint32_t end = ref_min((uint32_t)(n_tiles * (split + 1) / p->n_splits) * 16, m.count);
        uint32_t nearest = 0;
        float best = -INFINITY;
        for (uint32_t s = first; s < end; s++) {
            if (meta[m.head.first + s] == KEPT_POS_GONE)
                continue;
            float like =
                likeness(&keys, (uint64_t)m.head.first + m.evicted[e], (uint64_t)m.head.first + s);
            if (like > best) {
                best = like;
                nearest = s;
            }
        }
        ((float *)call->bind[4])[2 * i] = best;
        ((uint32_t *)call->bind[4])[2 * i + 1] = nearest;
    }
}

/* ---- values of evicted slots into kept ones ---- */

struct merge {
    const struct kept_merge_slots_params *p;
    struct moves moves;
    uint32_t block;
    const uint32_t *near; /* of the KV head */
    struct ref_slots v;
    float *bias, *score, *weight; /* from slot 0 of the head on */
};

/* The slot nearest to evicted slot number e over all splits; CAP when there is none. */
static uint32_t nearest_of(const struct merge *g, uint32_t e)
{
    float best = -INFINITY;
    uint32_t slot = g->moves.head.cap;
    for (uint32_t split = 0; split < g->p->n_splits; split++) {
        const uint32_t *at = g->near + 2 * ((uint64_t)split * g->block + e);
        float like = *(const float *)(const void *)at;
        if (like > best || (like == best && like > -INFINITY && at[1] < slot)) {
            best = like;
            slot = at[1];
        }
    }
    return g->moves.evicted[e] < g->moves.head.cap ? slot : g->moves.head.cap;
}

/* Everything whose nearest slot is r, from evicted slot number `first` on. */
static void merge_into(const struct merge *g, uint32_t r, uint32_t first)
{
    double sum[KEPT_MAX_HEAD_DIM], v[KEPT_MAX_HEAD_DIM], total = 0;
    uint64_t base = g->moves.head.first;
    ref_slot_load(&g->v, base + r, sum);
    for (uint32_t e = first; e < g->moves.lost; e++) {
        if (nearest_of(g, e) != r)
            continue;
        uint32_t slot = g->moves.evicted[e];
        double w = exp((double)g->weight[slot] - g->weight[r]);
        if (isnan(w))
            continue;
        w = w < 1e4 ? w : 1e4;
        ref_slot_load(&g->v, base + slot, v);
        for (uint32_t i = 0; i < g->v.d; i++)
            sum[i] += w * v[i];
        total += w;
    }
    for (uint32_t i = 0; i < g->v.d; i++)
        sum[i] /= 1 + total;
    ref_slot_store(&g->v, base + r, sum);
    g->bias[r] = (float)(g->bias[r] + log1p(total));
    g->weight[r] = (float)(g->weight[r] + log1p(total));
    g->score[r] = (float)(g->score[r] * (1 + total));
}

static void merge_head(const struct merge *g)
{
    for (uint32_t e = 0; e < g->moves.lost; e++) {
        uint32_t r = nearest_of(g, e), earlier = 0;
        while (earlier < e && nearest_of(g, earlier) != r)
            earlier++;
        if (r < g->moves.head.cap && earlier == e)
            merge_into(g, r, e);
    }
}

void ref_slot_merge(const struct kept_host_call *call)
{
    const struct kept_merge_slots_params *p = call->params;
    struct merge g = {
        .p = p,
        .v = {(uint32_t *)call->bind[0], call->keys[KEPT_KEY_SLOT_MERGE_VT], REF_ROWS, p->d},
    };
    struct ref_block b;
    if (p->d > KEPT_MAX_HEAD_DIM || !ref_block_of(p, (const uint32_t *)call->bind[6], &b))
        return;
    g.block = b.block;
    for (uint32_t h = 0; h < p->n_kv; h++) {
        g.moves = moves_of(call->bind[3], call->bind[4], h, p->total, b.block);
        g.near = (const uint32_t *)call->bind[5] + 2 * (uint64_t)h * p->n_splits * b.block;
        g.bias = (float *)call->bind[1] + p->total + g.moves.head.first;
        g.score = (float *)call->bind[2] + g.moves.head.first;
        g.weight = g.score + p->total;
        merge_head(&g);
    }
}

/* ---- moves ---- */

struct stores {
    struct ref_slots k, v;
    uint32_t *meta, *scores;
    uint32_t total, meta_planes;
};

static void copy_words(const struct ref_slots *s, uint64_t to, uint64_t from)
{
    for (uint32_t i = 0; i < ref_slot_words(s); i++)
        s->words[ref_slot_word(s, to, i)] = s->words[ref_slot_word(s, from, i)];
}

/* A whole slot; numbers of the KV head that has them. */
static void move_slot(const struct stores *st, const struct ref_head *head, uint32_t from,
                      uint32_t to)
{
    if (from >= head->cap || to >= head->cap)
        return;
    uint64_t a = (uint64_t)head->first + from, b = (uint64_t)head->first + to;
    copy_words(&st->k, b, a);
    copy_words(&st->v, b, a);
    for (uint64_t i = 0; i < st->meta_planes; i++)
        st->meta[i * st->total + b] = st->meta[i * st->total + a];
    for (uint64_t i = 0; i < 2; i++)
        st->scores[i * st->total + b] = st->scores[i * st->total + a];
}

void ref_slot_move(const struct kept_host_call *call)
{
    const struct kept_move_params *p = call->params;
    struct stores st = {
        .k = {(uint32_t *)call->bind[0], call->keys[KEPT_KEY_MOVE_KT], call->keys[KEPT_KEY_ORDER],
              p->d},
        .v = {(uint32_t *)call->bind[1], call->keys[KEPT_KEY_MOVE_VT], REF_ROWS, p->d},
        .meta = (uint32_t *)call->bind[2],
        .scores = (uint32_t *)call->bind[3],
        .total = p->total,
        .meta_planes = p->meta_planes,
    };
    struct ref_block b;
    if (!ref_block_of(p, (const uint32_t *)call->bind[6], &b))
        return;
    for (uint32_t h = 0; h < p->n_kv; h++) {
        struct moves m = moves_of(call->bind[4], call->bind[5], h, p->total, b.block);
        for (uint32_t i = 0; m.m > 0 && i < m.fills; i++)
            move_slot(&st, &m.head, m.from[i], m.to[i]);
        uint32_t end = ref_with_after(&b, m.count, m.head.cap);
        for (uint32_t s = m.c; m.m > 0 && s < end; s++)
            if (s >= m.m)
                move_slot(&st, &m.head, s, s - m.m);
    }
}

/* ---- compact positions ---- */

static void rotate_slot(const struct ref_slots *keys, const struct ref_rope *rope, uint64_t slot,
                        int64_t delta)
{
    double k[KEPT_MAX_HEAD_DIM];
    bool hadamard = keys->type != KEPT_FMT_F16;
    if (rope->pairs == KEPT_ROPE_NONE)
        return;
    ref_slot_load(keys, slot, k);
    if (hadamard)
        ref_hadamard(k, keys->d);
    ref_rope_turn(rope, delta, k);
    if (hadamard)
        ref_hadamard(k, keys->d);
    ref_slot_store(keys, slot, k);
}

void ref_slot_rotate(const struct kept_host_call *call)
{
    const struct kept_rotate_params *p = call->params;
    struct ref_slots keys = {(uint32_t *)call->bind[0], call->keys[KEPT_KEY_SCORE_KT],
                             call->keys[KEPT_KEY_ORDER], p->d};
    struct ref_rope rope = {.table = (const float *)call->bind[2],
                            .table_bytes = call->bind_bytes[2],
                            .n_rot = p->n_rot,
                            .pairs = p->rope_pairs,
                            .hi_bias = p->hi_bias};
    struct ref_block b;
    if (p->d > KEPT_MAX_HEAD_DIM || !ref_block_of(p, (const uint32_t *)call->bind[6], &b))
        return;
    for (uint32_t h = 0; h < p->n_kv; h++) {
        struct moves m = moves_of(call->bind[3], call->bind[4], h, p->total, b.block);
        const uint32_t *z = (const uint32_t *)call->bind[5] + (uint64_t)h * p->z_head_stride;
        int32_t *pos = (int32_t *)call->bind[1] + m.head.first;
        uint32_t n = ref_with_after(&b, ref_min(m.head.base, m.head.cap), m.head.cap);
        n = ref_min(n, p->z_stride);
        bool turns = m.rotate || call->keys[KEPT_KEY_ROTATE_ALWAYS] == 1;
        for (uint32_t s = 0; turns && s < n; s++) {
            int64_t delta = (int64_t)(int32_t)z[s] - pos[s];
            if (delta == 0 || delta < -256 * (int64_t)p->hi_bias || delta > 255)
                continue;
            rotate_slot(&keys, &rope, (uint64_t)m.head.first + s, delta);
            pos[s] = (int32_t)z[s];
        }
    }
}

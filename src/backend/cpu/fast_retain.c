/* backend/cpu/fast_retain.c: what happens after slot_select: values of evicted slots into kept
 * ones, moves, keys turned to compact positions.
 */
#include <math.h>

#include "backend/cpu/fast.h"
#include "backend/cpu/fast_moves.h"

struct job {
    const struct kept_host_call *call;
    struct ref_block block;
};

/* ---- slot_merge ---- */

struct merge {
    struct fast_moves moves;
    uint32_t type, d;
    uint32_t *v;
    float *bias, *score, *weight;  /* from slot 0 of the head on */
    uint32_t near[KEPT_MAX_BLOCK]; /* of every evicted slot the slot that takes it; CAP: none */
};

/* near: [n_splits][block] pairs. */
static void find_near(struct merge *g, const uint32_t *near, uint32_t n_splits, uint32_t block)
{
    for (uint32_t e = 0; e < g->moves.lost; e++) {
        float best = -INFINITY, like;
        g->near[e] = g->moves.head.cap;
        for (uint32_t split = 0; split < n_splits; split++) {
            const uint32_t *at = near + 2 * ((size_t)split * block + e);
            memcpy(&like, at, 4);
            if (like > best || (like == best && like > -INFINITY && at[1] < g->near[e])) {
                best = like;
                g->near[e] = at[1];
            }
        }
        if (g->moves.evicted[e] >= g->moves.head.cap)
            g->near[e] = g->moves.head.cap;
    }
}

/* Everything whose nearest slot is r, from evicted slot number `first` on. */
static void merge_into(const struct merge *g, uint32_t r, uint32_t first)
{
    float sum[KEPT_MAX_HEAD_DIM], v[KEPT_MAX_HEAD_DIM];
    uint32_t words[FAST_SLOT_WORDS];
    double total = 0;
    size_t base = g->moves.head.first;
    fast_values_v(g->type, g->d, g->v, base + r, sum);
    for (uint32_t e = first; e < g->moves.lost; e++) {
        uint32_t slot = g->moves.evicted[e];
        if (g->near[e] != r)
            continue;
        double w = exp((double)g->weight[slot] - g->weight[r]);
        if (isnan(w))
            continue;
        w = w < 1e4 ? w : 1e4;
        fast_values_v(g->type, g->d, g->v, base + slot, v);
        for (uint32_t i = 0; i < g->d; i += 16)
            vf_store(sum + i, vf_fma(vf_set((float)w), vf_load(v + i), vf_load(sum + i)));
        total += w;
    }
    vf share = vf_set((float)(1 / (1 + total)));
    for (uint32_t i = 0; i < g->d; i += 16)
        vf_store(sum + i, vf_mul(vf_load(sum + i), share));
    fast_pack(g->type, sum, g->d, words);
    fast_store_v(g->type, g->d, g->v, base + r, words);
    g->bias[r] = (float)(g->bias[r] + log1p(total));
    g->weight[r] = (float)(g->weight[r] + log1p(total));
    g->score[r] = (float)(g->score[r] * (1 + total));
}

static void merge_item(void *user, uint32_t h, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *job = user;
    const struct kept_host_call *call = job->call;
    const struct kept_merge_slots_params *p = call->params;
    uint32_t block = job->block.block;
    struct merge g;
    g.moves = fast_moves_of(call->bind[3], call->bind[4], h, p->total, block);
    g.type = call->keys[KEPT_KEY_SLOT_MERGE_VT];
    g.d = p->d;
    g.v = (uint32_t *)call->bind[0];
    g.bias = (float *)call->bind[1] + p->total + g.moves.head.first;
    g.score = (float *)call->bind[2] + g.moves.head.first;
    g.weight = g.score + p->total;
    find_near(&g, (const uint32_t *)call->bind[5] + (size_t)2 * h * p->n_splits * block,
              p->n_splits, block);
    for (uint32_t e = 0; e < g.moves.lost; e++) {
        uint32_t r = g.near[e], earlier = 0;
        while (earlier < e && g.near[earlier] != r)
            earlier++;
        if (r < g.moves.head.cap && earlier == e)
            merge_into(&g, r, e);
    }
}

void CPU_NAME(slot_merge)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_merge_slots_params *p = call->params;
    struct job job = {.call = call};
    if (ref_block_of(p, (const uint32_t *)call->bind[6], &job.block))
        kept_pool_run(pool, p->n_kv, merge_item, &job);
}

/* ---- slot_move ---- */

/* The words of slot `from` to slot `to`, both from the start of the binding: of a K tile every
 * 16th, of a V tile two rows. */
static void move_k(uint32_t type, uint32_t d, uint32_t *store, size_t from, size_t to)
{
    uint32_t words = KEPT_SLOT_Q(type, d) + KEPT_SLOT_S(type, d);
    const uint32_t *a = store + from / 16 * KEPT_TILE_WORDS(type, d) + from % 16;
    uint32_t *b = store + to / 16 * KEPT_TILE_WORDS(type, d) + to % 16;
    for (uint32_t w = 0; w < words; w++)
        b[(size_t)16 * w] = a[(size_t)16 * w];
}

static void move_v(uint32_t type, uint32_t d, uint32_t *store, size_t from, size_t to)
{
    uint32_t n_q = KEPT_SLOT_Q(type, d), n_s = KEPT_SLOT_S(type, d);
    const uint32_t *a = store + from / 16 * KEPT_TILE_WORDS(type, d);
    uint32_t *b = store + to / 16 * KEPT_TILE_WORDS(type, d);
    memmove(b + to % 16 * n_q, a + from % 16 * n_q, n_q * sizeof *a);
    memmove(b + 16 * n_q + to % 16 * n_s, a + 16 * n_q + from % 16 * n_s, n_s * sizeof *a);
}

static void move_slot(const struct kept_host_call *call, bool keys, const struct ref_head *head,
                      uint32_t from, uint32_t to)
{
    const struct kept_move_params *p = call->params;
    size_t a = (size_t)head->first + from, b = (size_t)head->first + to;
    uint32_t *meta = (uint32_t *)call->bind[2], *scores = (uint32_t *)call->bind[3];
    if (from >= head->cap || to >= head->cap)
        return;
    if (keys) {
        move_k(call->keys[KEPT_KEY_MOVE_KT], p->d, (uint32_t *)call->bind[0], a, b);
        return;
    }
    move_v(call->keys[KEPT_KEY_MOVE_VT], p->d, (uint32_t *)call->bind[1], a, b);
    for (size_t i = 0; i < p->meta_planes; i++)
        meta[i * p->total + b] = meta[i * p->total + a];
    for (size_t i = 0; i < 2; i++)
        scores[i * p->total + b] = scores[i * p->total + a];
}

/* Keys are one item of a KV head, all else another. */
static void move_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *job = user;
    const struct kept_host_call *call = job->call;
    const struct kept_move_params *p = call->params;
    bool keys = item % 2 == 0;
    const struct fast_moves m =
        fast_moves_of(call->bind[4], call->bind[5], item / 2, p->total, job->block.block);
    if (m.m == 0)
        return;
    for (uint32_t i = 0; i < m.fills; i++)
        move_slot(call, keys, &m.head, m.from[i], m.to[i]);
    uint32_t end = ref_with_after(&job->block, m.count, m.head.cap);
    for (uint32_t s = m.c > m.m ? m.c : m.m; s < end; s++)
        move_slot(call, keys, &m.head, s, s - m.m);
}

void CPU_NAME(slot_move)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_move_params *p = call->params;
    struct job job = {.call = call};
    if (ref_block_of(p, (const uint32_t *)call->bind[6], &job.block))
        kept_pool_run(pool, 2 * p->n_kv, move_item, &job);
}

/* ---- slot_rotate ---- */

#define ROTATE_SLOTS 64 /* of an item */

static void rotate_slot(const struct job *job, const struct ref_rope *rope, size_t slot,
                        int64_t delta)
{
    const struct kept_rotate_params *p = job->call->params;
    uint32_t type = job->call->keys[KEPT_KEY_SCORE_KT], words[FAST_SLOT_WORDS];
    uint32_t *store = (uint32_t *)job->call->bind[0];
    float k[KEPT_MAX_HEAD_DIM], turn[KEPT_MAX_HEAD_DIM];
    if (rope->pairs == KEPT_ROPE_NONE)
        return;
    fast_values_k(type, p->d, store, slot, k);
    fast_turn_at(rope, delta, turn);
    if (type != KEPT_FMT_F16)
        fast_hadamard(k, p->d);
    fast_turn(rope, turn, k);
    if (type != KEPT_FMT_F16)
        fast_hadamard(k, p->d);
    fast_pack(type, k, p->d, words);
    fast_store_k(type, p->d, store, slot, words);
}

static void rotate_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *job = user;
    const struct kept_host_call *call = job->call;
    const struct kept_rotate_params *p = call->params;
    uint32_t n_items = (p->z_stride + ROTATE_SLOTS - 1) / ROTATE_SLOTS, h = item / n_items;
    uint32_t first = item % n_items * ROTATE_SLOTS;
    const struct ref_rope rope = {(const float *)call->bind[2], call->bind_bytes[2], p->n_rot,
                                  p->rope_pairs, p->hi_bias};
    const struct fast_moves m =
        fast_moves_of(call->bind[3], call->bind[4], h, p->total, job->block.block);
    const uint32_t *z = (const uint32_t *)call->bind[5] + (size_t)h * p->z_head_stride;
    int32_t *pos = (int32_t *)call->bind[1] + m.head.first;
    uint32_t n = ref_with_after(&job->block, ref_min(m.head.base, m.head.cap), m.head.cap);
    n = ref_min(n, p->z_stride);
    bool turns = m.rotate || call->keys[KEPT_KEY_ROTATE_ALWAYS] == 1;
    for (uint32_t s = first; turns && s < n && s < first + ROTATE_SLOTS; s++) {
        int64_t delta = (int64_t)(int32_t)z[s] - pos[s];
        if (delta == 0 || delta < -256 * (int64_t)p->hi_bias || delta > 255)
            continue;
        rotate_slot(job, &rope, (size_t)m.head.first + s, delta);
        pos[s] = (int32_t)z[s];
    }
}

void CPU_NAME(slot_rotate)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_rotate_params *p = call->params;
    uint32_t n_items = (p->z_stride + ROTATE_SLOTS - 1) / ROTATE_SLOTS;
    struct job job = {.call = call};
    if (ref_block_of(p, (const uint32_t *)call->bind[6], &job.block))
        kept_pool_run(pool, p->n_kv * n_items, rotate_item, &job);
}

/* backend/cpu/fast_assoc.c: associative memory: keys turned back, the slot most like a token that
 * leaves the window, averages of those that are alike.
 *
 * raw holds un-rotated keys as tiles of 16 slots, element i of them one vector. assoc_raw makes a
 * tile at a time: the Hadamard transform is additions of vectors, and so is the turn once the
 * angles, one position a slot, are laid out alike.
 *
 * assoc_match is a product of 16 tokens with all slots below them: COLUMNS tokens meet TILES tiles
 * in registers. The best so far of every token is kept lane by lane.
 */
#include <math.h>

#include "backend/cpu/fast.h"
#include "backend/cpu/fast_slots.h"
#include "kernel/ref/ref_maintain.h"

#define RAW_TILES 8u /* of an item of assoc_raw */
#if CPU_SIMD == 512
#define COLUMNS 8
#define TILES   2
#else
#define COLUMNS 4
#define TILES   1
#endif

struct job {
    const struct kept_host_call *call;
    struct ref_block block;
    uint32_t n_groups; /* of tiles or splits, of a KV head: an item does one */
};

/* One KV head of a call. */
struct assoc {
    const struct kept_assoc_params *p;
    struct ref_head head;
    uint32_t c, from;    /* where the window begins; the first slot that leaves it */
    int32_t begin;       /* T, may be negative */
    uint32_t first, end; /* tokens of the sub-batch */
    uint32_t entry;      /* of token `first` in near */
    uint8_t *meta;
    float *raw; /* of the head */
};

static struct assoc assoc_of(const struct job *job, uint32_t h, uint8_t *meta, const uint8_t *heads,
                             uint8_t *raw)
{
    const struct kept_assoc_params *p = job->call->params;
    struct assoc a = {.p = p, .meta = meta};
    a.head = fast_head_at((const uint32_t *)heads, h, p->total);
    uint32_t count = ref_min(ref_head_count(&a.head, job->block.end), p->raw_stride);
    a.c = count > p->window ? count - p->window : 0;
    a.from = a.c > job->block.block ? a.c - job->block.block : 0;
    a.from = a.from > p->sinks ? a.from : p->sinks;
    a.begin = (int32_t)a.c - (int32_t)job->block.block + (int32_t)(KEPT_ASSOC_SUB * p->sub);
    int32_t end = a.begin + (int32_t)KEPT_ASSOC_SUB;
    a.first = a.begin > 0 && (uint32_t)a.begin > p->sinks ? (uint32_t)a.begin : p->sinks;
    a.end = end > 0 && (uint32_t)end > a.first ? (uint32_t)end : a.first;
    if (p->only_over == 1 && count <= a.head.budget)
        a.end = a.first;
    a.entry = KEPT_ASSOC_SUB * p->sub + (a.first - (uint32_t)a.begin);
    a.raw = (float *)raw + (size_t)h * p->raw_stride * p->d;
    return a;
}

/* A plane of meta, from the head's slot 0 on. */
SIMD_INLINE uint32_t *plane(const struct assoc *a, uint32_t i)
{
    return (uint32_t *)a->meta + (size_t)i * a->p->total + a->head.first;
}

SIMD_INLINE float *raw_at(const struct assoc *a, uint32_t slot)
{
    return a->raw + (size_t)(slot / 16) * 16 * a->p->d + slot % 16;
}

static struct ref_rope rope_of(const struct kept_assoc_params *p, const uint8_t *table)
{
    return (struct ref_rope){(const float *)table, (uint64_t)p->mean_row * p->n_rot * 4, p->n_rot,
                             p->rope_pairs, p->hi_bias};
}

/* ---- assoc_raw ---- */

/* The Hadamard transform of 16 keys, an element a vector. */
static void hadamard_tile(float *y, uint32_t d)
{
    uint32_t block = d & (~d + 1u);
    vf f = vf_set(1 / sqrtf((float)block));
    for (uint32_t i = 0; i < d; i++)
        vf_store(y + 16 * (size_t)i, vf_mul(vf_load(y + 16 * (size_t)i), f));
    for (uint32_t step = 1; step < block; step *= 2)
        for (uint32_t i = 0; i < d; i++)
            if ((i & step) == 0) {
                float *at = y + 16 * (size_t)i, *other = at + 16 * (size_t)step;
                vf a = vf_load(at), b = vf_load(other);
                vf_store(at, vf_add(a, b));
                vf_store(other, vf_sub(a, b));
            }
}

/* Rows of the table for 16 slots: what position r turns by is the product of fine[r] and coarse[r],
 * both 1 where the table has none. */
struct turns {
    const float *fine[16], *coarse[16];
    bool found[16];
};

static const float no_turn[16] = {1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0};

static void find_turns(const struct ref_rope *rope, const int32_t *pos, uint32_t lo, uint32_t hi,
                       struct turns *t)
{
    for (uint32_t r = 0; r < 16; r++) {
        t->fine[r] = t->coarse[r] = no_turn;
        t->found[r] = r >= lo && r < hi && ref_rope_has(rope, pos[r]);
        if (!t->found[r])
            continue;
        uint32_t fine = (uint32_t)pos[r] & 255;
        int64_t coarse = 256 + (int64_t)rope->hi_bias + ((int64_t)pos[r] - fine) / 256;
        t->fine[r] = rope->table + (size_t)fine * rope->n_rot;
        t->coarse[r] = rope->table + (size_t)coarse * rope->n_rot;
    }
}

/* Words at … at + n - 1 of each slot's row, a word of 16 slots a vector. */
SIMD_INLINE void load_rows(const float *const *row, const bool *found, uint32_t at, uint32_t n,
                           vf v[16])
{
    float some[16] = {0};
    for (uint32_t r = 0; r < 16; r++) {
        const float *from = found[r] ? row[r] + at : row[r];
        if (n < 16)
            from = memcpy(some, from, n * sizeof *some);
        v[r] = vf_load(from);
    }
    vf_transpose(v);
}

/* By the conjugates of the slots' rotations. */
static void turn_tile_back(const struct ref_rope *rope, const struct turns *t, float *y)
{
    for (uint32_t at = 0; at < rope->n_rot; at += 16) {
        uint32_t n = ref_min(16, rope->n_rot - at);
        vf fine[16], coarse[16];
        load_rows(t->fine, t->found, at, n, fine);
        load_rows(t->coarse, t->found, at, n, coarse);
        for (uint32_t i = 0; i < n; i += 2) {
            uint32_t at_a, at_b;
            ref_rope_pair(rope, (at + i) / 2, &at_a, &at_b);
            float *a = y + 16 * (size_t)at_a, *b = y + 16 * (size_t)at_b;
            vf c = vf_sub(vf_mul(fine[i], coarse[i]), vf_mul(fine[i + 1], coarse[i + 1]));
            vf s = vf_fma(fine[i], coarse[i + 1], vf_mul(fine[i + 1], coarse[i]));
            vf x = vf_load(a), z = vf_load(b);
            vf_store(a, vf_fma(x, c, vf_mul(z, s)));
            vf_store(b, vf_sub(vf_mul(z, c), vf_mul(x, s)));
        }
    }
}

static void raw_tile(const struct job *job, const struct assoc *a, const struct ref_rope *rope,
                     uint32_t t)
{
    float own[16 * KEPT_MAX_HEAD_DIM];
    uint32_t type = job->call->keys[KEPT_KEY_SCORE_KT], d = a->p->d, first = 16 * t;
    uint32_t lo = first > a->p->sinks ? 0 : a->p->sinks - first;
    uint32_t hi = ref_min(a->c - first, 16); /* lanes lo … hi - 1 are written */
    bool whole = lo == 0 && hi == 16;
    float *to = a->raw + (size_t)first * d, *y = whole ? to : own;
    fast_keys(type,
              (const uint32_t *)job->call->bind[0] +
                  (a->head.first + first) / 16 * (size_t)KEPT_TILE_WORDS(type, d),
              d, y, 16);
    if (type != KEPT_FMT_F16)
        hadamard_tile(y, d);
    if (rope->pairs != KEPT_ROPE_NONE) {
        struct turns turns;
        find_turns(rope, (const int32_t *)plane(a, 0) + first, lo, hi, &turns);
        turn_tile_back(rope, &turns, y);
    }
    for (uint32_t i = 0; !whole && i < d; i++)
        memcpy(to + 16 * (size_t)i + lo, y + 16 * (size_t)i + lo, (hi - lo) * sizeof *y);
}

static void raw_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *job = user;
    const struct kept_host_call *call = job->call;
    const struct assoc a =
        assoc_of(job, item / job->n_groups, call->bind[1], call->bind[3], call->bind[4]);
    const struct ref_rope rope = rope_of(a.p, call->bind[2]);
    uint32_t t = item % job->n_groups * RAW_TILES, end = t + RAW_TILES;
    for (; t < end && 16 * t < a.c; t++) {
        if (16 * t + 16 <= a.p->sinks || a.p->sinks >= a.c)
            continue;
        raw_tile(job, &a, &rope, t);
        for (uint32_t s = 16 * t; s < 16 * t + 16 && s < a.c; s++) {
            const float one = 1;
            if (s < a.from)
                continue;
            memcpy(&plane(&a, KEPT_ASSOC_COUNT)[s], &one, 4);
            plane(&a, KEPT_ASSOC_FRAC)[s] = 0;
            plane(&a, KEPT_ASSOC_STAMP)[s] = (uint32_t)job->block.end;
        }
    }
}

void CPU_NAME(assoc_raw)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_assoc_params *p = call->params;
    struct job job = {.call = call, .n_groups = (p->raw_stride / 16 + RAW_TILES - 1) / RAW_TILES};
    if (ref_block_of(p, (const uint32_t *)call->bind[5], &job.block))
        kept_pool_run(pool, p->n_kv * job.n_groups, raw_item, &job);
}

/* ---- assoc_match ---- */

/* The tokens of a sub-batch, token T + i in column i, and the best they met. */
struct search {
    uint32_t d;
    float key[KEPT_ASSOC_SUB * KEPT_MAX_HEAD_DIM]; /* [d][16] */
    float inverse[KEPT_ASSOC_SUB];                 /* 1 / length */
    float best[KEPT_ASSOC_SUB][16];
    uint32_t slot[KEPT_ASSOC_SUB][16];
};

/* Tiles that meet the tokens together. */
struct meeting {
    const float *y[TILES];
    uint32_t first[TILES]; /* slot of lane 0 */
    vm kept[TILES];        /* lanes that count */
    vf inverse[TILES];     /* 1 / length */
};

/* A token of no length, or that is no number, becomes NaN as a whole: all it meets counts the
 * same. */
static void take_tokens(struct search *w, const struct assoc *a)
{
    w->d = a->p->d;
    memset(w->key, 0, KEPT_ASSOC_SUB * (size_t)w->d * sizeof *w->key);
    for (uint32_t t = a->first; t < a->end; t++) {
        const float *from = raw_at(a, t);
        uint32_t column = t - (uint32_t)a->begin;
        float square = 0;
        for (uint32_t i = 0; i < w->d; i++)
            square += from[16 * (size_t)i] * from[16 * (size_t)i];
        bool none = !(square > 0 && isfinite(square));
        w->inverse[column] = 1 / sqrtf(square);
        for (uint32_t i = 0; i < w->d; i++)
            w->key[16 * (size_t)i + column] = none ? NAN : from[16 * (size_t)i];
    }
}

SIMD_INLINE void keep_best(struct search *w, uint32_t i, const struct meeting *m, int j, vf dot)
{
    vf like = vf_max(vf_mul(dot, m->inverse[j]), vf_set(-3e38f)); /* NaN too */
    vf place = vf_bits(vi_add(vi_iota(), vi_set(m->first[j]))), best = vf_load(w->best[i]);
    vm better = vm_and(m->kept[j], vm_less(best, like));
    vf_store(w->best[i], vf_select(better, like, best));
    vf_store((float *)w->slot[i], vf_select(better, place, vf_bits(vi_load(w->slot[i]))));
}

/* COLUMNS tokens from `at` on; `square`, a constant: sums up the slots' lengths too. */
SIMD_INLINE void meet_some(struct search *w, struct meeting *m, uint32_t at, const bool square)
{
    vf dot[COLUMNS][TILES], length[TILES];
    for (int j = 0; j < TILES; j++) {
        length[j] = vf_set(0);
        for (int c = 0; c < COLUMNS; c++)
            dot[c][j] = vf_set(0);
    }
    for (uint32_t i = 0; i < w->d; i++) {
        const float *key = w->key + 16 * (size_t)i + at;
        vf y[TILES];
        for (int j = 0; j < TILES; j++) {
            y[j] = vf_load(m->y[j] + 16 * (size_t)i);
            if (square)
                length[j] = vf_fma(y[j], y[j], length[j]);
        }
        for (int c = 0; c < COLUMNS; c++)
            for (int j = 0; j < TILES; j++)
                dot[c][j] = vf_fma(y[j], vf_set(key[c]), dot[c][j]);
    }
    for (int j = 0; square && j < TILES; j++)
        m->inverse[j] = vf_div(vf_set(1), vf_sqrt(length[j]));
    for (int j = 0; j < TILES; j++)
        for (int c = 0; c < COLUMNS; c++)
            keep_best(w, at + (uint32_t)c, m, j, dot[c][j]);
}

static void meet(struct search *w, struct meeting *m)
{
    meet_some(w, m, 0, true);
    for (uint32_t at = COLUMNS; at < KEPT_ASSOC_SUB; at += COLUMNS)
        meet_some(w, m, at, false);
}

/* The lanes of a tile that hold slots to compare with. */
static vm kept_lanes(const struct assoc *a, uint32_t first)
{
    vi gone = vi_xor(vi_load(plane(a, 0) + first), vi_set((uint32_t)KEPT_POS_GONE));
    vi slots = vi_add(vi_iota(), vi_set(first)), none = vi_set(0);
    vm among = vm_and(vm_le(vi_set(a->p->sinks), slots), vm_lt(slots, vi_set((uint32_t)a->begin)));
    return vm_and(among, vm_or(vm_lt(gone, none), vm_lt(none, gone)));
}

/* Tiles t … end - 1; the last meeting may have one of them twice, which changes nothing. */
static void search_tiles(struct search *w, const struct assoc *a, uint32_t t, uint32_t end)
{
    struct meeting m;
    for (uint32_t i = 0; i < KEPT_ASSOC_SUB; i++) {
        vf_store(w->best[i], vf_set(-INFINITY));
        memset(w->slot[i], 0, sizeof w->slot[i]);
    }
    for (int n = 0; t < end || n != 0;) {
        bool more = t < end;
        if (more) {
            m.first[n] = 16 * t;
            m.y[n] = a->raw + (size_t)(16 * t) * w->d;
            m.kept[n] = kept_lanes(a, 16 * t++);
            if (vm_bits(m.kept[n]) == 0)
                continue;
        } else {
            m.first[n] = m.first[n - 1];
            m.y[n] = m.y[n - 1];
            m.kept[n] = m.kept[n - 1];
        }
        n = (n + 1) % TILES;
        if (n == 0)
            meet(w, &m);
    }
}

/* The best of all lanes, of equals the lowest slot. */
static void put_best(const struct search *w, const struct assoc *a, uint32_t *near)
{
    for (uint32_t t = a->first; t < a->end; t++) {
        uint32_t i = t - (uint32_t)a->begin, *to = near + 2 * (size_t)(a->entry + t - a->first);
        float like = fast_best(w->best[i], w->slot[i], to + 1);
        like = like > -3e38f ? like * w->inverse[i] : like;
        memcpy(to, &like, sizeof like);
    }
}

static void match_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *job = user;
    const struct kept_host_call *call = job->call;
    const struct kept_assoc_params *p = call->params;
    uint32_t h = item / job->n_groups, group = item % job->n_groups;
    const struct assoc a = assoc_of(job, h, call->bind[1], call->bind[2], call->bind[0]);
    uint32_t *near = (uint32_t *)call->bind[3] + (size_t)2 * h * p->n_splits * job->block.block;
    uint64_t n_tiles = a.begin > 0 ? ((uint64_t)a.begin + 15) / 16 : 0;
    struct search w;
    if (a.first == a.end)
        return;
    take_tokens(&w, &a);
    uint32_t split = (uint32_t)((uint64_t)p->n_splits * group / job->n_groups);
    for (; split < (uint64_t)p->n_splits * (group + 1) / job->n_groups; split++) {
        search_tiles(&w, &a, (uint32_t)(n_tiles * split / p->n_splits),
                     (uint32_t)(n_tiles * (split + 1) / p->n_splits));
        put_best(&w, &a, near + (size_t)2 * split * job->block.block);
    }
}

void CPU_NAME(assoc_match)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_assoc_params *p = call->params;
    struct job job = {.call = call};
    /* tokens are prepared once an item: no more items than keep all threads busy */
    job.n_groups = ref_min(p->n_splits, (4 * kept_pool_threads(pool) + p->n_kv - 1) / p->n_kv);
    if (ref_block_of(p, (const uint32_t *)call->bind[4], &job.block))
        kept_pool_run(pool, p->n_kv * job.n_groups, match_item, &job);
}

/* ---- assoc_write ---- */

/* A KV head of assoc_write. */
struct write {
    const struct kept_host_call *call;
    struct assoc a;
    struct ref_rope rope;
    int32_t end;                     /* E */
    float *score, *weight;           /* from slot 0 on */
    uint32_t target[KEPT_ASSOC_SUB]; /* of token first + i; CAP: it stays */
};

/* near: [n_splits][block] pairs. */
static void find_targets(struct write *w, const uint32_t *near, uint32_t block)
{
    const struct kept_assoc_params *p = w->a.p;
    for (uint32_t i = 0; i < w->a.end - w->a.first; i++) {
        uint32_t slot = w->a.head.cap;
        float best = -INFINITY, like;
        for (uint32_t split = 0; split < p->n_splits; split++) {
            const uint32_t *at = near + 2 * ((size_t)split * block + w->a.entry + i);
            memcpy(&like, at, 4);
            if (like > best || (like == best && like > -INFINITY && at[1] < slot)) {
                best = like;
                slot = at[1];
            }
        }
        bool hit = best >= p->threshold && slot >= p->sinks && w->a.begin > 0 &&
                   slot < (uint32_t)w->a.begin;
        w->target[i] = hit ? slot : w->a.head.cap;
    }
}

static bool has_position(const struct write *w, int32_t pos)
{
    return pos > -(1 << 24) && pos < 1 << 24 && ref_rope_has(&w->rope, pos);
}

/* Numbers of slot r that c tokens in it and n more change. */
static void put_numbers(const struct write *w, uint32_t r, double c, uint32_t n, double moved)
{
    int32_t *pos = (int32_t *)plane(&w->a, 0) + r;
    float *bias = (float *)plane(&w->a, 1) + r,
          *count = (float *)plane(&w->a, KEPT_ASSOC_COUNT) + r;
    float *frac = (float *)plane(&w->a, KEPT_ASSOC_FRAC) + r;
    *count = (float)(c + n);
    plane(&w->a, KEPT_ASSOC_STAMP)[r] = (uint32_t)w->end;
    if (w->call->keys[KEPT_KEY_ASSOC_FORM] != 0) {
        w->score[r] = (float)w->end;
        return;
    }
    double rest = fabsf(*frac) <= 1 ? *frac : 0, delta = (c * rest + moved) / (c + n);
    double whole = floor(delta + 0.5), gain = log((c + n) / c);
    *pos = (int32_t)((uint32_t)*pos + (uint32_t)(int32_t)whole);
    *frac = (float)(delta - whole);
    *bias = (float)(*bias + gain);
    w->weight[r] = (float)(w->weight[r] + gain);
    w->score[r] = (float)(w->score[r] * ((c + n) / c));
}

/* The average key, into raw and, turned, into its slot. */
static void put_key(const struct write *w, uint32_t r, float *k)
{
    uint32_t type = w->call->keys[KEPT_KEY_SCORE_KT], d = w->a.p->d, words[FAST_SLOT_WORDS];
    int32_t pos = (int32_t)plane(&w->a, 0)[r];
    float turn[KEPT_MAX_HEAD_DIM], *raw = raw_at(&w->a, r);
    for (uint32_t i = 0; i < d; i++)
        raw[16 * (size_t)i] = k[i];
    if (w->rope.pairs != KEPT_ROPE_NONE && ref_rope_has(&w->rope, pos)) {
        fast_turn_at(&w->rope, pos, turn);
        fast_turn(&w->rope, turn, k);
    }
    if (type != KEPT_FMT_F16)
        fast_hadamard(k, d);
    fast_pack(type, k, d, words);
    fast_store_k(type, d, (uint32_t *)w->call->bind[0], (size_t)w->a.head.first + r, words);
}

/* All tokens whose target is that of token first + i, the first of them. */
static void consolidate(const struct write *w, uint32_t i)
{
    uint32_t r = w->target[i], type = w->call->keys[KEPT_KEY_SCORE_VT], d = w->a.p->d, n = 0;
    uint32_t *values = (uint32_t *)w->call->bind[1], words[FAST_SLOT_WORDS];
    int32_t *pos = (int32_t *)plane(&w->a, 0);
    float count = ((float *)plane(&w->a, KEPT_ASSOC_COUNT))[r], k[KEPT_MAX_HEAD_DIM];
    float v[KEPT_MAX_HEAD_DIM], more[KEPT_MAX_HEAD_DIM], c = count >= 1 ? fminf(count, 1 << 24) : 1;
    double moved = 0;
    fast_values_v(type, d, values, (size_t)w->a.head.first + r, v);
    for (uint32_t e = 0; e < d; e++) {
        k[e] = c * raw_at(&w->a, r)[16 * (size_t)e];
        v[e] *= c;
    }
    for (uint32_t t = w->a.first + i; t < w->a.end; t++) {
        if (w->target[t - w->a.first] != r)
            continue;
        fast_values_v(type, d, values, (size_t)w->a.head.first + t, more);
        for (uint32_t e = 0; e < d; e++) {
            k[e] += raw_at(&w->a, t)[16 * (size_t)e];
            v[e] += more[e];
        }
        if (has_position(w, pos[t]) && has_position(w, pos[r]))
            moved += (double)pos[t] - pos[r];
        n++;
        pos[t] = KEPT_POS_GONE;
        w->weight[t] = -INFINITY;
    }
    float share = 1 / (c + (float)n);
    for (uint32_t e = 0; e < d; e++) {
        k[e] *= share;
        v[e] *= share;
    }
    put_numbers(w, r, c, n, moved);
    fast_pack(type, v, d, words);
    fast_store_v(type, d, values, (size_t)w->a.head.first + r, words);
    put_key(w, r, k);
}

/* Slots that take tokens do not depend on each other: an item has every n_groups-th token. */
static void write_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *job = user;
    uint32_t h = item / job->n_groups;
    const struct kept_host_call *call = job->call;
    const struct kept_assoc_params *p = call->params;
    struct write w = {.call = call, .end = (int32_t)job->block.end};
    w.a = assoc_of(job, h, call->bind[2], call->bind[6], call->bind[4]);
    w.rope = rope_of(p, call->bind[5]);
    w.score = (float *)call->bind[3] + w.a.head.first;
    w.weight = w.score + p->total;
    find_targets(&w,
                 (const uint32_t *)call->bind[7] + (size_t)2 * h * p->n_splits * job->block.block,
                 job->block.block);
    for (uint32_t i = item % job->n_groups; i < w.a.end - w.a.first; i += job->n_groups) {
        uint32_t earlier = 0;
        while (earlier < i && w.target[earlier] != w.target[i])
            earlier++;
        if (w.target[i] != w.a.head.cap && earlier == i)
            consolidate(&w, i);
        else if (w.target[i] == w.a.head.cap && call->keys[KEPT_KEY_ASSOC_FORM] == 1)
            w.score[w.a.first + i] = (float)w.end;
    }
}

void CPU_NAME(assoc_write)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_assoc_params *p = call->params;
    struct job job = {.call = call, .n_groups = 4};
    if (ref_block_of(p, (const uint32_t *)call->bind[8], &job.block))
        kept_pool_run(pool, p->n_kv * job.n_groups, write_item, &job);
}

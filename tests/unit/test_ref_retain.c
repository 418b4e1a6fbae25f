/* tests/unit/test_ref_retain.c: the references of slot maintenance, one after the other over
 * several blocks, against eviction by expected attention written down plainly: every token a
 * record, every sum in double, no slots, no tables.
 *
 * One KV head with two query heads. Each block appends random tokens, then both sides evict.
 * Compared are the kept tokens, their biases and values, and with compact positions their keys,
 * which the plain side turns anew from the unturned ones. What is stored (f16 or quantised) is then
 * taken over by the plain side, so that errors do not add up over the blocks.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernel/ref/ref.h"
#include "kernel/ref/ref_slots.h"

#define D        32u
#define GROUP    2u
#define SINKS    4u
#define WINDOW   24u
#define BLOCK    64u
#define BUDGET   100u
#define CAP      192u
#define FIRST    64u /* of the head in the store */
#define TOTAL    (FIRST + CAP + 64u)
#define N_BLOCKS 7u
#define HI_BIAS  2u
#define N_HI     5u
#define N_SPLITS 3u

/* ---- the plain side ---- */

struct token {
    int id, pos;
    double raw[D];     /* the key before rotation */
    double k[D], v[D]; /* as stored, Hadamard undone */
    double bias;
};

struct plain {
    struct token token[CAP];
    uint32_t n;
    double q[GROUP][N_BLOCKS * BLOCK][D];
    uint32_t seen, shift;
};

static double next(uint32_t *rng)
{
    *rng = *rng * 1664525u + 1013904223u;
    return (double)(int32_t)*rng / 2147483648.0;
}

static double angle_of(uint32_t pair, double position)
{
    return position * pow(10000, -2.0 * pair / D);
}

/* Adjacent pairs by a position. */
static void rotate(const double *from, double position, double *to)
{
    for (uint32_t i = 0; i < D / 2; i++) {
        double c = cos(angle_of(i, position)), s = sin(angle_of(i, position));
        to[2 * i] = from[2 * i] * c - from[2 * i + 1] * s;
        to[2 * i + 1] = from[2 * i] * s + from[2 * i + 1] * c;
    }
}

/* R = mean rotation of positions at … at + 511: a matrix. */
static void mean_rotation(double at, double r[D][D])
{
    memset(r, 0, sizeof(double[D][D]));
    for (uint32_t p = 0; p < 512; p++)
        for (uint32_t i = 0; i < D / 2; i++) {
            double c = cos(angle_of(i, at + p)) / 512, s = sin(angle_of(i, at + p)) / 512;
            r[2 * i][2 * i] += c;
            r[2 * i][2 * i + 1] -= s;
            r[2 * i + 1][2 * i] += s;
            r[2 * i + 1][2 * i + 1] += c;
        }
}

/* z of every token for query head g: R mu . k / sqrt(d) + k^T R Sigma R^T k / 2d. */
static void logits(const struct plain *p, uint32_t g, double r[D][D], double *z)
{
    double mu[D] = {0}, turned[D] = {0}, n = (double)p->seen - SINKS;
    for (uint32_t t = SINKS; t < p->seen; t++)
        for (uint32_t i = 0; i < D; i++)
            mu[i] += p->q[g][t][i] / n;
    for (uint32_t i = 0; i < D; i++)
        for (uint32_t j = 0; j < D; j++)
            turned[i] += r[i][j] * mu[j];
    for (uint32_t s = 0; s < p->n; s++) {
        double back[D] = {0}, square = 0, along = 0; /* back = R^T k */
        for (uint32_t i = 0; i < D; i++) {
            along += turned[i] * p->token[s].k[i];
            for (uint32_t j = 0; j < D; j++)
                back[i] += r[j][i] * p->token[s].k[j];
        }
        for (uint32_t t = SINKS; t < p->seen; t++) { /* the variance of (q - mu).back */
            double dot = 0;
            for (uint32_t i = 0; i < D; i++)
                dot += (p->q[g][t][i] - mu[i]) * back[i];
            square += dot * dot / n;
        }
        z[s] = along / sqrt(D) + square / (2 * D);
    }
}

static double dot_of(const double *a, const double *b)
{
    double sum = 0;
    for (uint32_t i = 0; i < D; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Scores and logarithms of weights of all tokens. */
static void weigh(const struct plain *p, double *score, double *weight)
{
    double r[D][D], z[GROUP][CAP];
    mean_rotation((double)p->seen - p->shift, r);
    for (uint32_t s = 0; s < p->n; s++)
        score[s] = weight[s] = 0;
    for (uint32_t g = 0; g < GROUP; g++) {
        double sum = 0, top = -INFINITY;
        logits(p, g, r, z[g]);
        for (uint32_t s = 0; s < p->n; s++) {
            sum += exp(z[g][s] + p->token[s].bias);
            top = fmax(top, z[g][s]);
        }
        for (uint32_t s = 0; s < p->n; s++) {
            score[s] += exp(z[g][s] + p->token[s].bias) / sum / GROUP;
            weight[s] += exp(z[g][s] - top);
        }
    }
    for (uint32_t s = 0; s < p->n; s++) {
        score[s] *= sqrt(dot_of(p->token[s].v, p->token[s].v));
        weight[s] = log(weight[s]) + p->token[s].bias;
    }
}

/* The most similar kept token by cosine. */
static uint32_t nearest(const struct plain *p, const bool *gone, uint32_t e)
{
    uint32_t best = 0;
    double most = -2;
    for (uint32_t s = 0; s < p->n; s++) {
        const double *a = p->token[e].k, *b = p->token[s].k;
        double cosine = dot_of(a, b) / sqrt(dot_of(a, a) * dot_of(b, b));
        if (!gone[s] && cosine > most) {
            most = cosine;
            best = s;
        }
    }
    return best;
}

static void transfer(struct plain *p, const bool *gone, const double *weight)
{
    double sum[CAP] = {0}, v[CAP][D] = {{0}};
    for (uint32_t e = 0; e < p->n; e++) {
        if (!gone[e])
            continue;
        uint32_t r = nearest(p, gone, e);
        double w = fmin(exp(weight[e] - weight[r]), 1e4);
        sum[r] += w;
        for (uint32_t i = 0; i < D; i++)
            v[r][i] += w * p->token[e].v[i];
    }
    for (uint32_t r = 0; r < p->n; r++) {
        for (uint32_t i = 0; i < D; i++)
            p->token[r].v[i] = (p->token[r].v[i] + v[r][i]) / (1 + sum[r]);
        p->token[r].bias += log(1 + sum[r]);
    }
}

static void compress(struct plain *p, bool merges)
{
    double score[CAP], weight[CAP];
    bool gone[CAP] = {false};
    uint32_t kept = 0;
    weigh(p, score, weight);
    for (uint32_t left = p->n; left > BUDGET; left--) {
        uint32_t worst = UINT32_MAX;
        for (uint32_t s = 0; s < p->n; s++) {
            int id = p->token[s].id;
            bool safe = id < (int)SINKS || id >= (int)(p->seen - WINDOW) || gone[s];
            if (!safe && (worst == UINT32_MAX || score[s] < score[worst]))
                worst = s;
        }
        gone[worst] = true;
    }
    if (merges)
        transfer(p, gone, weight);
    for (uint32_t s = 0; s < p->n; s++)
        if (!gone[s])
            p->token[kept++] = p->token[s];
    p->n = kept;
}

/* Back by half of the limit or all gaps; those that would pass the start stand in order there. */
static void renumber(struct plain *p, uint32_t limit)
{
    uint32_t gaps = p->seen - p->shift - p->n, turn = gaps < limit / 2 ? gaps : limit / 2;
    p->shift += turn;
    for (uint32_t s = 0; s < p->n; s++) {
        int rank = 0;
        for (uint32_t other = 0; other < p->n; other++)
            rank += p->token[other].id < p->token[s].id;
        p->token[s].pos -= (int)turn;
        if (p->token[s].pos < rank)
            p->token[s].pos = rank;
        rotate(p->token[s].raw, p->token[s].pos, p->token[s].k);
    }
}

/* ---- the references ---- */

struct store {
    uint32_t type, order, limit;
    uint32_t *k, *v, *meta, *scores, *heads, *moves, *near, *step;
    float *queries, *stats, *table, *z;
    struct ref_slots keys, values;
};

static void *zeros(size_t n_words)
{
    void *at = calloc(n_words, 4);
    assert_non_null(at);
    return at;
}

static void fill_table(float *table)
{
    for (uint32_t row = 0; row <= 256 + HI_BIAS + N_HI; row++)
        for (uint32_t i = 0; i < D / 2; i++) {
            double at = row < 256 ? row : 256.0 * ((double)row - 256 - HI_BIAS), c = 0, s = 0;
            bool mean = row == 256 + HI_BIAS + N_HI;
            for (uint32_t p = 0; p < (mean ? 512u : 1u); p++) {
                c += cos(angle_of(i, mean ? p : at)) / (mean ? 512 : 1);
                s += sin(angle_of(i, mean ? p : at)) / (mean ? 512 : 1);
            }
            table[row * D + 2 * i] = (float)c;
            table[row * D + 2 * i + 1] = (float)s;
        }
}

static void store_init(struct store *st, uint32_t type, uint32_t order, uint32_t limit)
{
    st->type = type;
    st->order = order;
    st->limit = limit;
    st->k = zeros((size_t)TOTAL / 16 * KEPT_TILE_WORDS(type, D));
    st->v = zeros((size_t)TOTAL / 16 * KEPT_TILE_WORDS(type, D));
    st->meta = zeros((size_t)2 * TOTAL);
    st->scores = zeros((size_t)2 * TOTAL);
    st->heads = zeros(KEPT_HEAD_WORDS);
    st->moves = zeros(KEPT_MOVES_STRIDE(BLOCK));
    st->near = zeros((size_t)2 * N_SPLITS * BLOCK);
    st->step = zeros(KEPT_STEP_TOKENS);
    st->queries = zeros((size_t)BLOCK * GROUP * D);
    st->stats = zeros((size_t)GROUP * KEPT_STATS_STRIDE(D));
    st->table = zeros((size_t)(257 + HI_BIAS + N_HI) * D);
    st->z = zeros((size_t)(GROUP + 1) * CAP);
    st->keys = (struct ref_slots){st->k, type, order, D};
    st->values = (struct ref_slots){st->v, type, REF_ROWS, D};
    st->heads[KEPT_HEAD_FIRST] = FIRST;
    st->heads[KEPT_HEAD_CAP] = CAP;
    st->heads[KEPT_HEAD_BUDGET] = BUDGET;
    fill_table(st->table);
}

static void store_finish(struct store *st)
{
    void *all[] = {st->k,    st->v,    st->meta,    st->scores, st->heads, st->moves,
                   st->near, st->step, st->queries, st->stats,  st->table, st->z};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

#define MAINTAIN .rows_at = KEPT_STEP_MAINTAIN, .row_first = 0, .row_cap = BLOCK

static void call(kept_reference_fn fn, const uint32_t *keys, const void *params, void *const *bind,
                 uint32_t n)
{
    struct kept_host_call c = {.keys = keys, .params = params};
    for (uint32_t i = 0; i < n; i++) {
        c.bind[i] = bind[i];
        c.bind_bytes[i] = UINT32_MAX;
    }
    fn(&c);
}

static void evict(struct store *st, bool merges)
{
    uint32_t types[] = {1, st->order, D, st->type, st->type}, expected[] = {1, 0};
    uint32_t of_order[] = {1, 0}, of_turn[] = {1, st->order, D, st->type, 0};
    uint32_t of_merge[] = {1, D, st->type}, of_move[] = {1, st->order, st->type, st->type};
    struct kept_stats_params stats = {MAINTAIN, .n_head = GROUP, .d = D, .sinks = SINKS,
                                      .queries_rows = BLOCK};
    struct kept_score_params score = {MAINTAIN,           .n_head = GROUP,
                                      .n_kv = 1,          .d = D,
                                      .n_rot = D,         .rope_pairs = KEPT_ROPE_ADJACENT,
                                      .total = TOTAL,     .z_stride = CAP,
                                      .hi_bias = HI_BIAS, .mean_row = 256 + HI_BIAS + N_HI,
                                      .sinks = SINKS,     .window = WINDOW,
                                      .refresh = BLOCK,   .q_scale = 1 / sqrtf(D)};
    struct kept_select_params select = {
        MAINTAIN,         .n_head = GROUP,    .n_kv = 1,      .d = D,
        .total = TOTAL,   .z_stride = CAP,    .sinks = SINKS, .window = WINDOW,
        .refresh = BLOCK, .limit = st->limit, .keep = 1};
    struct kept_merge_slots_params merge = {MAINTAIN, .n_kv = 1, .d = D, .total = TOTAL,
                                            .n_splits = N_SPLITS};
    struct kept_move_params move = {MAINTAIN, .n_kv = 1, .d = D, .total = TOTAL, .meta_planes = 2};
    struct kept_rotate_params turn = {MAINTAIN,
                                      .n_kv = 1,
                                      .d = D,
                                      .n_rot = D,
                                      .rope_pairs = KEPT_ROPE_ADJACENT,
                                      .total = TOTAL,
                                      .z_stride = CAP,
                                      .z_head_stride = (GROUP + 1) * CAP,
                                      .hi_bias = HI_BIAS};
    call(ref_q_stats, types, &stats, (void *[]){st->queries, st->stats, st->step}, 3);
    call(ref_score_expected, types, &score,
         (void *[]){st->k, st->v, st->stats, st->table, st->heads, st->z, st->step}, 7);
    call(ref_slot_select, expected, &select,
         (void *[]){st->z, st->stats, st->scores, st->meta, st->heads, st->moves, st->step}, 7);
    if (merges) {
        call(ref_slot_nearest, types, &merge,
             (void *[]){st->k, st->meta, st->heads, st->moves, st->near, st->step}, 6);
        call(ref_slot_merge, of_merge, &merge,
             (void *[]){st->v, st->meta, st->scores, st->heads, st->moves, st->near, st->step}, 7);
    }
    call(ref_slot_move, of_move, &move,
         (void *[]){st->k, st->v, st->meta, st->scores, st->heads, st->moves, st->step}, 7);
    call(ref_slot_renumber, of_order, &turn,
         (void *[]){st->meta, st->heads, st->moves, st->z, st->step}, 5);
    call(ref_slot_rotate, of_turn, &turn,
         (void *[]){st->k, st->meta, st->table, st->heads, st->moves, st->z, st->step}, 7);
}

/* ---- both ---- */

static void load(const struct ref_slots *s, uint32_t slot, double *v)
{
    ref_slot_load(s, FIRST + slot, v);
    if (s->type != KEPT_FMT_F16)
        ref_hadamard(v, D);
}

static void append(struct store *st, struct plain *p, uint32_t *rng)
{
    double stored[D];
    for (uint32_t i = 0; i < BLOCK; i++, p->seen++) {
        struct token *t = &p->token[p->n];
        uint32_t slot = st->heads[KEPT_HEAD_BASE] + p->seen - st->heads[KEPT_HEAD_EDGE];
        assert_int_equal(slot, p->n++);
        t->id = (int)p->seen;
        t->pos = (int)(p->seen - p->shift);
        t->bias = 0;
        for (uint32_t j = 0; j < D; j++) {
            t->raw[j] = 2 * next(rng);
            t->v[j] = next(rng);
            for (uint32_t g = 0; g < GROUP; g++) {
                float q = (float)(next(rng) * 3 + 0.5 * sin(j + g));
                p->q[g][p->seen][j] = st->queries[(i * GROUP + g) * D + j] = q;
            }
        }
        rotate(t->raw, t->pos, stored);
        if (st->type != KEPT_FMT_F16)
            ref_hadamard(stored, D);
        ref_slot_store(&st->keys, FIRST + slot, stored);
        memcpy(stored, t->v, sizeof stored);
        if (st->type != KEPT_FMT_F16)
            ref_hadamard(stored, D);
        ref_slot_store(&st->values, FIRST + slot, stored);
        st->meta[REF_POS(TOTAL, FIRST + slot)] = (uint32_t)t->pos;
        st->meta[REF_BIAS(TOTAL, FIRST + slot)] = 0;
        load(&st->keys, slot, t->k);
        load(&st->values, slot, t->v);
    }
}

static void assert_near(const double *got, const double *want, double relative)
{
    double size = sqrt(dot_of(want, want));
    for (uint32_t i = 0; i < D; i++)
        assert_true(fabs(got[i] - want[i]) <= relative * size);
}

/* Each slot is a kept token of its own; the plain side takes over what was stored, in slot
 * order. */
static void compare(struct store *st, struct plain *p, double relative)
{
    struct token in_order[CAP];
    assert_int_equal(st->heads[KEPT_HEAD_BASE], p->n);
    assert_int_equal(st->heads[KEPT_HEAD_EDGE], p->seen);
    assert_int_equal(st->heads[KEPT_HEAD_SHIFT], p->shift);
    for (uint32_t s = 0; s < p->n; s++) {
        uint32_t i = 0;
        while (i < p->n && p->token[i].pos != (int)st->meta[REF_POS(TOTAL, FIRST + s)])
            i++;
        assert_true(i < p->n);
        struct token *t = &p->token[i];
        float bias;
        double v[D], k[D];
        memcpy(&bias, &st->meta[REF_BIAS(TOTAL, FIRST + s)], 4);
        load(&st->keys, s, k);
        load(&st->values, s, v);
        assert_true(fabs(bias - t->bias) < 1e-4);
        assert_near(v, t->v, relative);
        assert_near(k, t->k, 2 * relative);
        memcpy(t->k, k, sizeof k);
        memcpy(t->v, v, sizeof v);
        t->bias = bias;
        in_order[s] = *t;
        t->pos = -1;
    }
    memcpy(p->token, in_order, p->n * sizeof *in_order);
    for (uint32_t s = 0; s < SINKS; s++)
        assert_int_equal(p->token[s].id, s);
    for (uint32_t s = 0; s < WINDOW; s++)
        assert_int_equal(p->token[p->n - 1 - s].id, p->seen - 1 - s);
}

/* `relative`: what one more rounding of a stored vector may change, of its length. */
static void chain(uint32_t type, uint32_t order, uint32_t limit, bool merges, double relative)
{
    struct plain *p = calloc(1, sizeof *p);
    struct store st;
    uint32_t rng = 7 + type, turns = 0;
    assert_non_null(p);
    store_init(&st, type, order, limit);
    for (uint32_t b = 0; b < N_BLOCKS; b++) {
        append(&st, p, &rng);
        st.step[KEPT_STEP_BASE] = b * BLOCK;
        st.step[KEPT_STEP_MAINTAIN] = BLOCK;
        uint32_t over = p->n > BUDGET ? p->n - BUDGET : 0;
        evict(&st, merges);
        compress(p, merges);
        if (limit > 0 && p->seen + BLOCK - p->shift > limit) {
            renumber(p, limit);
            turns++;
        }
        assert_int_equal(st.moves[KEPT_MOVES_M], over);
        compare(&st, p, relative);
    }
    assert_int_equal(st.heads[KEPT_HEAD_EVICTED], N_BLOCKS * BLOCK - BUDGET);
    assert_true(limit == 0 || turns >= 2);
    store_finish(&st);
    free(p);
}

static void plain_eviction(void **state)
{
    (void)state;
    chain(KEPT_FMT_F16, KEPT_LANE, 0, false, 1e-3);
    chain(KEPT_FMT_Q8_0, KEPT_VECTOR, 0, false, 1e-2);
}

static void values_are_handed_over(void **state)
{
    (void)state;
    chain(KEPT_FMT_F16, KEPT_VECTOR, 0, true, 1e-3);
    chain(KEPT_FMT_Q8_0, KEPT_LANE, 0, true, 1e-2);
    chain(KEPT_FMT_Q4_0, KEPT_LANE, 0, true, 0.12);
}

static void compact_positions(void **state)
{
    (void)state;
    chain(KEPT_FMT_F16, KEPT_LANE, 250, true, 1e-3); /* all gaps close at once */
    chain(KEPT_FMT_Q8_0, KEPT_LANE, 250, true, 2e-2);
    chain(KEPT_FMT_F16, KEPT_LANE, 300, true, 1e-3); /* half of them do */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_eviction),
        cmocka_unit_test(values_are_handed_over),
        cmocka_unit_test(compact_positions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

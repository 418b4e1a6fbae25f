/* tune/check_score.c: cases and bounds of q_stats, score_expected and score_keydiff.
 *
 * Sums of n terms have the error of check_matmul.c: 4 sqrt(n) u sum |terms|.
 *
 * Expected attention: z = q_scale mu.y + q_scale^2 / 2 y^T Sigma y, where Sigma = S / n - mu mu^T
 * may cancel, element by element or after the products: both are sums over
 *     A = sum |y_i| |y_j| (|S_ij| / n + |mu_i mu_j|),
 * each term with 16 roundings at most, summed in two steps of d terms. y itself is off by e: the
 * Hadamard transform adds log2(d) + 2 roundings of at most |k|, the turn 10 of the pair.
 *
 * Key difference: the mean over n slots of k / |k| is off by e_i; with cos = k.mean / (|k| |mean|)
 *     error <= sum |k_i| (e_i + |mean_i| (4 sqrt(d) + 8) u) / (|k| |mean|) + |cos| |e| / |mean|.
 * A key that is no number spoils the mean, and then every score of its head.
 */
#include <math.h>
#include <string.h>

#include "tune/check_maintain.h"

/* ---- q_stats ---- */

enum { STATS_QUERIES, STATS_STATS, STATS_STEP };

void kept_keys_q_stats(struct check_case *c)
{
    kept_check_maintain_keys(c);
}

void kept_gen_q_stats(struct check_case *c)
{
    struct kept_stats_params *p = &c->params.stats;
    struct check_store st;
    kept_check_block(c, STATS_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    p->n_head = c->model != NULL ? c->model->n_head : kept_check_range(c, 1, st.d < 128 ? 9 : 3);
    p->d = st.d;
    p->sinks = st.sinks;
    if (c->model == NULL && kept_check_chance(c, 40)) /* the block that has the sinks, or none */
        c->bind[STATS_STEP].before[KEPT_STEP_BASE] = kept_check_range(c, 0, 3);
    p->queries_rows = p->row_cap;
    if (c->model == NULL && kept_check_chance(c, 60))
        p->queries_rows += kept_check_range(c, 1, 70);
    uint64_t n = (uint64_t)p->queries_rows * p->n_head * p->d;
    uint64_t n_stats = (uint64_t)p->n_head * KEPT_STATS_STRIDE(p->d);
    float *queries = kept_check_bind_f32(c, STATS_QUERIES, n);
    float *stats = kept_check_bind_f32(c, STATS_STATS, n_stats);
    if (c->failed)
        return;
    for (uint64_t i = 0; i < n; i++)
        queries[i] = kept_check_value(c, 2);
    for (uint64_t i = 0; i < n_stats; i++)
        stats[i] = kept_check_value(c, 100);
}

void kept_bound_q_stats(struct check_case *c)
{
    const struct kept_stats_params *p = &c->params.stats;
    const float *queries = (const float *)(const void *)c->bind[STATS_QUERIES].before;
    const float *stats = (const float *)(const void *)c->bind[STATS_STATS].before;
    struct ref_block b = kept_check_block_of(c, STATS_STEP);
    uint32_t d = p->d;
    double unit = (4 * sqrt(p->row_cap) + 4) * CHECK_U;
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_head; h++)
        for (uint32_t i = 0; i <= d; i++)
            for (uint32_t j = 0; j < d; j++) {
                uint64_t at = (uint64_t)h * KEPT_STATS_STRIDE(d) + (uint64_t)i * d + j;
                double sum = fabs(stats[at]);
                for (uint32_t r = 0; r < p->row_cap; r++) {
                    const float *q =
                        queries +
                        ((uint64_t)ref_query_row(&b, r, p->queries_rows) * p->n_head + h) * d;
                    sum += fabs(i == d ? q[j] : (double)q[i] * q[j]);
                }
                kept_check_bound(c, STATS_STATS, at, sum * unit + CHECK_TINY * (p->row_cap + 1));
            }
}

/* ---- score_expected ---- */

enum { EA_K, EA_V, EA_STATS, EA_TABLE, EA_HEADS, EA_Z, EA_STEP };

void kept_keys_score_expected(struct check_case *c)
{
    kept_check_type_keys(c);
}

/* Statistics of queries with mean mu and spread `sigma`; with a mean far larger than the spread the
 * covariance cancels. */
static void fill_stats(struct check_case *c, float *stats, uint32_t d, double n)
{
    float mu[KEPT_MAX_HEAD_DIM], scale = kept_check_chance(c, 20) ? 10 : 1;
    double sigma = 0.5;
    for (uint32_t i = 0; i < d; i++)
        mu[i] = kept_check_unit(c) * scale;
    for (uint32_t i = 0; i < d; i++)
        for (uint32_t j = 0; j <= i; j++) {
            double covariance = i == j ? sigma : 0.01 * kept_check_unit(c);
            stats[i * d + j] = stats[j * d + i] = (float)(n * ((double)mu[i] * mu[j] + covariance));
        }
    for (uint32_t i = 0; i < d; i++)
        stats[d * d + i] = (float)(n * mu[i]);
}

static void pick_rotation(struct check_case *c, struct kept_score_params *p,
                          const struct check_store *st)
{
    uint32_t n_hi = (uint32_t)st->block.end / 256 + 1;
    p->rope_pairs = c->model != NULL ? KEPT_ROPE_ADJACENT : kept_check_range(c, 0, 2);
    p->n_rot = p->rope_pairs == KEPT_ROPE_NONE ? 0 : p->d;
    if (p->n_rot != 0 && c->model == NULL && kept_check_chance(c, 30))
        p->n_rot = 2 * kept_check_range(c, 1, p->d / 2);
    p->hi_bias = kept_check_chance(c, 30) ? kept_check_range(c, 1, 3) : 0;
    p->mean_row = 256 + p->hi_bias + n_hi;
    kept_check_bind_table(c, EA_TABLE, p->n_rot, p->hi_bias, n_hi);
}

/* Parameters that both scores have. */
static void score_params(struct check_case *c, const struct check_store *st)
{
    struct kept_score_params *p = &c->params.score;
    p->n_head = st->n_kv * st->group;
    p->n_kv = st->n_kv;
    p->d = st->d;
    p->total = st->total;
    p->z_stride = st->max_cap + (c->model != NULL ? 0 : 64 * kept_check_range(c, 0, 1));
    p->sinks = st->sinks;
    p->window = st->window;
}

void kept_gen_score_expected(struct check_case *c)
{
    struct kept_score_params *p = &c->params.score;
    struct check_store st;
    kept_check_block(c, EA_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    score_params(c, &st);
    p->refresh = kept_check_chance(c, 30) ? 64 : 4096;
    p->q_scale = 1 / sqrtf((float)p->d);
    pick_rotation(c, p, &st);
    kept_check_bind_store(c, EA_K, &st, kept_check_key(c, "KT"), kept_check_key(c, "ORDER"));
    kept_check_bind_store(c, EA_V, &st, kept_check_key(c, "VT"), REF_ROWS);
    kept_check_bind_heads(c, EA_HEADS, &st);
    kept_check_bind(c, EA_Z, (uint64_t)(p->n_head + p->n_kv) * p->z_stride);
    float *stats =
        kept_check_bind_f32(c, EA_STATS, (uint64_t)p->n_head * KEPT_STATS_STRIDE((uint64_t)p->d));
    if (c->failed)
        return;
    double n = (double)st.block.end - p->sinks;
    for (uint32_t h = 0; h < p->n_head; h++)
        fill_stats(c, stats + (uint64_t)h * KEPT_STATS_STRIDE(p->d), p->d, n < 1 ? 1 : n);
    for (uint32_t h = 0; c->model == NULL && h < p->n_kv; h++)
        if (st.count[h] != 0 && kept_check_chance(c, 15))
            kept_check_spoil_slot(c, kept_check_chance(c, 50) ? EA_K : EA_V,
                                  (uint64_t)st.head[h].first +
                                      kept_check_range(c, 0, st.count[h] - 1));
}

/* y of a slot and what f32 may be off by. */
static void turned_key(const struct check_case *c, uint64_t slot, int64_t position, double *y,
                       double *error)
{
    const struct kept_score_params *p = &c->params.score;
    const float *table = (const float *)(const void *)c->bind[EA_TABLE].before;
    struct ref_rope rope = {table, c->bind[EA_TABLE].n_words * 4, p->n_rot, p->rope_pairs,
                            p->hi_bias};
    const float *mean = table + (uint64_t)p->mean_row * p->n_rot;
    double amp[KEPT_MAX_HEAD_DIM];
    kept_check_slot(c, EA_K, slot, y, amp);
    for (uint32_t i = 0; i < p->d; i++)
        error[i] = 0;
    if (c->bind[EA_K].slots.type != KEPT_FMT_F16)
        kept_check_hadamard(y, error, p->d);
    for (uint32_t i = 0; p->rope_pairs != KEPT_ROPE_NONE && i < p->n_rot / 2; i++) {
        uint32_t at_a, at_b;
        double rc, rs;
        ref_rope_angle(&rope, position, i, &rc, &rs);
        ref_rope_pair(&rope, i, &at_a, &at_b);
        double re = rc * mean[2 * i] - rs * mean[2 * i + 1];
        double im = rc * mean[2 * i + 1] + rs * mean[2 * i], a = y[at_a], b = y[at_b];
        y[at_a] = a * re + b * im;
        y[at_b] = b * re - a * im;
        error[at_a] = error[at_b] =
            error[at_a] + error[at_b] + 10 * CHECK_U * (fabs(a) + fabs(b)) + CHECK_TINY;
    }
}

static double logit_bound(const struct kept_score_params *p, const float *stats, double n,
                          const double *y, const double *error)
{
    uint32_t d = p->d;
    double unit = (8 * sqrt(d) + 24) * CHECK_U, along = 0, square = 0, scale = p->q_scale;
    for (uint32_t i = 0; i < d; i++) {
        double mu = fabs(stats[d * d + i]) / n, row = 0, off = 0;
        for (uint32_t j = 0; j < d; j++) {
            double a = fabs(stats[i * d + j]) / n + mu * fabs(stats[d * d + j]) / n;
            row += a * fabs(y[j]);
            off += a * error[j];
        }
        square += fabs(y[i]) * (row * unit + 2 * off);
        along += mu * (fabs(y[i]) * unit + error[i]);
    }
    return scale * along + scale * scale / 2 * square + CHECK_TINY * d * (1 + scale);
}

void kept_bound_score_expected(struct check_case *c)
{
    const struct kept_score_params *p = &c->params.score;
    struct ref_block b = kept_check_block_of(c, EA_STEP);
    uint32_t group = p->n_head / p->n_kv;
    double seen = (double)(b.end - p->sinks), n = seen < 1 ? 1 : seen;
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++) {
        struct ref_head head = kept_check_head_before(c, EA_HEADS, h, p->total);
        uint32_t count = ref_head_count(&head, b.end);
        uint64_t z = (uint64_t)h * (group + 1) * p->z_stride;
        uint32_t from = ref_score_from(&b, &head, count, p->window, p->refresh);
        for (uint32_t s = from; count > head.budget && s < count; s++) {
            double y[KEPT_MAX_HEAD_DIM], error[KEPT_MAX_HEAD_DIM];
            turned_key(c, (uint64_t)head.first + s, b.end - head.shift, y, error);
            for (uint32_t g = 0; g < group; g++) {
                const float *stats = (const float *)(const void *)c->bind[EA_STATS].before +
                                     ((uint64_t)h * group + g) * KEPT_STATS_STRIDE(p->d);
                double bound = logit_bound(p, stats, n, y, error);
                kept_check_bound(c, EA_Z, z + (uint64_t)g * p->z_stride + s,
                                 isfinite(bound) ? bound : CHECK_ANY);
            }
            uint64_t size = z + (uint64_t)group * p->z_stride + s;
            double want = kept_check_want(c, EA_Z, size);
            kept_check_bound(c, EA_Z, size,
                             isfinite(want) ? want * (2 * sqrt(p->d) + 16) * CHECK_U + CHECK_TINY
                                            : CHECK_ANY);
        }
    }
}

/* ---- score_keydiff ---- */

enum { DIFF_K, DIFF_HEADS, DIFF_Z, DIFF_STEP };

void kept_keys_score_keydiff(struct check_case *c)
{
    kept_check_type_keys(c);
}

/* A key of zeros, one that is another's copy, one that is no number. */
static void odd_keys(struct check_case *c, const struct check_store *st, uint32_t h)
{
    const struct ref_slots *keys = &c->bind[DIFF_K].slots;
    double v[KEPT_MAX_HEAD_DIM] = {0};
    struct ref_slots to = {c->bind[DIFF_K].before, keys->type, keys->order, keys->d};
    uint64_t first = st->head[h].first;
    uint32_t last = st->count[h] == 0 ? 0 : st->count[h] - 1;
    if (st->count[h] == 0)
        return;
    if (kept_check_chance(c, 40))
        ref_slot_store(&to, first + kept_check_range(c, 0, last), v);
    if (kept_check_chance(c, 40)) {
        ref_slot_load(&to, first + kept_check_range(c, 0, last), v);
        ref_slot_store(&to, first + kept_check_range(c, 0, last), v);
    }
    if (kept_check_chance(c, 10))
        kept_check_spoil_slot(c, DIFF_K, first + kept_check_range(c, 0, last));
}

void kept_gen_score_keydiff(struct check_case *c)
{
    struct check_store st;
    kept_check_block(c, DIFF_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    score_params(c, &st);
    kept_check_bind_store(c, DIFF_K, &st, kept_check_key(c, "KT"), kept_check_key(c, "ORDER"));
    kept_check_bind_heads(c, DIFF_HEADS, &st);
    kept_check_bind(c, DIFF_Z, (uint64_t)(st.group + 1) * st.n_kv * c->params.score.z_stride);
    for (uint32_t h = 0; !c->failed && c->model == NULL && h < st.n_kv; h++)
        odd_keys(c, &st, h);
}

/* The mean and its error; false when a key is no number. */
static bool mean_key(const struct check_case *c, const struct ref_head *head, uint32_t count,
                     double *mean, double *error)
{
    double k[KEPT_MAX_HEAD_DIM], amp[KEPT_MAX_HEAD_DIM];
    uint32_t d = c->params.score.d;
    double unit = (4 * sqrt(count) + 2 * sqrt(d) + 12) * CHECK_U;
    for (uint32_t i = 0; i < d; i++)
        mean[i] = error[i] = 0;
    for (uint32_t s = 0; s < count; s++) {
        double size = 0;
        kept_check_slot(c, DIFF_K, (uint64_t)head->first + s, k, amp);
        for (uint32_t i = 0; i < d; i++)
            size += k[i] * k[i];
        if (!isfinite(size))
            return false;
        for (uint32_t i = 0; i < d && size != 0; i++) {
            mean[i] += k[i] / sqrt(size) / count;
            error[i] += fabs(k[i]) / sqrt(size) / count * unit;
        }
    }
    return true;
}

void kept_bound_score_keydiff(struct check_case *c)
{
    const struct kept_score_params *p = &c->params.score;
    struct ref_block b = kept_check_block_of(c, DIFF_STEP);
    double k[KEPT_MAX_HEAD_DIM], amp[KEPT_MAX_HEAD_DIM], mean[KEPT_MAX_HEAD_DIM];
    double error[KEPT_MAX_HEAD_DIM];
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++) {
        struct ref_head head = kept_check_head_before(c, DIFF_HEADS, h, p->total);
        uint32_t count = ref_head_count(&head, b.end);
        uint64_t z = (uint64_t)h * (p->n_head / p->n_kv + 1) * p->z_stride;
        if (count <= head.budget)
            continue;
        if (!mean_key(c, &head, count, mean, error)) {
            kept_check_loose(c, DIFF_Z, z, count);
            continue;
        }
        double of_mean = 0, of_error = 0;
        for (uint32_t i = 0; i < p->d; i++) {
            of_mean += mean[i] * mean[i];
            of_error += error[i] * error[i];
        }
        for (uint32_t s = 0; s < count; s++) {
            double size = 0, sum = 0;
            kept_check_slot(c, DIFF_K, (uint64_t)head.first + s, k, amp);
            for (uint32_t i = 0; i < p->d; i++) {
                size += k[i] * k[i];
                sum += amp[i] * (error[i] + fabs(mean[i]) * (4 * sqrt(p->d) + 8) * CHECK_U);
            }
            double cosine = fabs(kept_check_want(c, DIFF_Z, z + s));
            double bound = sum / sqrt(size * of_mean) + cosine * sqrt(of_error / of_mean) +
                           cosine * (4 * sqrt(p->d) + 16) * CHECK_U + CHECK_TINY;
            kept_check_bound(c, DIFF_Z, z + s, size * of_mean == 0 ? CHECK_TINY : bound);
        }
    }
}

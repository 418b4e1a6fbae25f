/* kernel/ref/ref_score.c: references of what slots are scored by: running sums of queries, expected
 * attention, key difference.
 */
#include "kernel/ref/ref.h"

#include <math.h>

#include "kernel/ref/ref_maintain.h"

void ref_q_stats(const struct kept_host_call *call)
{
    const struct kept_stats_params *p = call->params;
    const float *queries = (const float *)call->bind[0];
    struct ref_block b;
    if (!ref_block_of(p, (const uint32_t *)call->bind[2], &b))
        return;
    int64_t begin = b.end - b.block;
    uint32_t d = p->d;
    uint32_t first = begin >= p->sinks ? 0 : ref_min((uint32_t)(p->sinks - begin), b.block);
    for (uint32_t h = 0; h < p->n_head; h++) {
        float *stats = (float *)call->bind[1] + (uint64_t)h * KEPT_STATS_STRIDE(d);
        for (uint32_t i = 0; i <= d; i++) /* row d: the plain sums */
            for (uint32_t j = 0; j < d; j++) {
                double sum = stats[i * d + j];
                for (uint32_t r = first; r < b.block; r++) {
                    const float *q =
                        queries +
                        ((uint64_t)ref_query_row(&b, r, p->queries_rows) * p->n_head + h) * d;
                    sum += i == d ? q[j] : (double)q[i] * q[j];
                }
                stats[i * d + j] = (float)sum;
            }
    }
}

static double length(const double *v, uint32_t d)
{
    double sum = 0;
    for (uint32_t i = 0; i < d; i++)
        sum += v[i] * v[i];
    return sqrt(sum);
}

/* ---- expected attention ---- */

struct expected {
    const struct kept_score_params *p;
    struct ref_block block;
    struct ref_rope rope;
    struct ref_slots k, v;
};

/* y: the key turned back by the mean rotation of positions `position` … + 511. */
static void turn_back(const struct expected *e, int64_t position, double *y)
{
    const float *mean = e->rope.table + (uint64_t)e->p->mean_row * e->p->n_rot;
    if (e->p->rope_pairs == KEPT_ROPE_NONE)
        return;
    for (uint32_t i = 0; i < e->p->n_rot / 2; i++) {
        uint32_t at_a, at_b;
        double rc, rs;
        ref_rope_angle(&e->rope, position, i, &rc, &rs);
        double c = rc * mean[2 * i] - rs * mean[2 * i + 1];
        double s = rc * mean[2 * i + 1] + rs * mean[2 * i];
        ref_rope_pair(&e->rope, i, &at_a, &at_b);
        double a = y[at_a], b = y[at_b];
        y[at_a] = a * c + b * s;
        y[at_b] = b * c - a * s;
    }
}

/* The expected logit of a query head's future queries with y: y^T Sigma y = y^T S y / n -
 * (mu.y)^2. */
static double expected_logit(const struct expected *e, const float *stats, const double *y)
{
    uint32_t d = e->p->d;
    int64_t seen = e->block.end - e->p->sinks;
    double n = seen < 1 ? 1 : (double)seen, scale = e->p->q_scale;
    double along = 0, square = 0;
    for (uint32_t i = 0; i < d; i++) {
        double row = 0;
        for (uint32_t j = 0; j < d; j++)
            row += stats[i * d + j] * y[j];
        square += y[i] * row / n;
        along += stats[d * d + i] * y[i] / n;
    }
    return scale * along + scale * scale / 2 * (square - along * along);
}

static void expected_head(const struct expected *e, const struct kept_host_call *call,
                          uint32_t kv_head)
{
    const struct kept_score_params *p = e->p;
    struct ref_head head = ref_head_at((const uint32_t *)call->bind[4], kv_head, p->total);
    uint32_t group = p->n_head / p->n_kv;
    uint32_t count = ref_min(ref_head_count(&head, e->block.end), p->z_stride);
    int64_t position = e->block.end - head.shift;
    float *z = (float *)call->bind[5] + (uint64_t)kv_head * (group + 1) * p->z_stride;
    if (count <= head.budget || !ref_rope_has(&e->rope, position))
        return;
    uint32_t from = ref_score_from(&e->block, &head, count, p->window, p->refresh);
    for (uint32_t s = from; s < count; s++) {
        double y[KEPT_MAX_HEAD_DIM], v[KEPT_MAX_HEAD_DIM];
        ref_slot_load(&e->k, (uint64_t)head.first + s, y);
        ref_slot_load(&e->v, (uint64_t)head.first + s, v);
        if (e->k.type != KEPT_FMT_F16)
            ref_hadamard(y, p->d);
        turn_back(e, position, y);
        for (uint32_t g = 0; g < group; g++) {
            const float *stats = (const float *)call->bind[2] +
                                 ((uint64_t)kv_head * group + g) * KEPT_STATS_STRIDE(p->d);
            z[(uint64_t)g * p->z_stride + s] = (float)expected_logit(e, stats, y);
        }
        z[(uint64_t)group * p->z_stride + s] = (float)length(v, p->d);
    }
}

void ref_score_expected(const struct kept_host_call *call)
{
    const struct kept_score_params *p = call->params;
    struct expected e = {
        .p = p,
        .rope = {.table = (const float *)call->bind[3],
                 .table_bytes = call->bind_bytes[3],
                 .n_rot = p->n_rot,
                 .pairs = p->rope_pairs,
                 .hi_bias = p->hi_bias},
        .k = {(uint32_t *)call->bind[0], call->keys[KEPT_KEY_SCORE_KT], call->keys[KEPT_KEY_ORDER],
              p->d},
        .v = {(uint32_t *)call->bind[1], call->keys[KEPT_KEY_SCORE_VT], REF_ROWS, p->d},
    };
    if (p->d > KEPT_MAX_HEAD_DIM || !ref_block_of(p, (const uint32_t *)call->bind[6], &e.block))
        return;
    for (uint32_t h = 0; h < p->n_kv; h++)
        expected_head(&e, call, h);
}

/* ---- key difference ---- */

static void keydiff_head(const struct ref_slots *keys, const struct ref_head *head, uint32_t count,
                         float *z)
{
    double k[KEPT_MAX_HEAD_DIM], mean[KEPT_MAX_HEAD_DIM] = {0};
    uint32_t d = keys->d;
    for (uint32_t s = 0; s < count; s++) {
        ref_slot_load(keys, (uint64_t)head->first + s, k);
        double size = length(k, d);
        for (uint32_t i = 0; i < d && size != 0; i++)
            mean[i] += k[i] / size / count;
    }
    double of_mean = length(mean, d);
    for (uint32_t s = 0; s < count; s++) {
        double dot = 0;
        ref_slot_load(keys, (uint64_t)head->first + s, k);
        for (uint32_t i = 0; i < d; i++)
            dot += k[i] * mean[i];
        double size = length(k, d) * of_mean;
        z[s] = size == 0 ? 0 : (float)(-dot / size);
    }
}

void ref_score_keydiff(const struct kept_host_call *call)
{
    const struct kept_score_params *p = call->params;
    struct ref_slots keys = {(uint32_t *)call->bind[0], call->keys[KEPT_KEY_SCORE_KT],
                             call->keys[KEPT_KEY_ORDER], p->d};
    struct ref_block b;
    if (p->d > KEPT_MAX_HEAD_DIM || !ref_block_of(p, (const uint32_t *)call->bind[3], &b))
        return;
    for (uint32_t h = 0; h < p->n_kv; h++) {
        struct ref_head head = ref_head_at((const uint32_t *)call->bind[1], h, p->total);
        uint32_t count = ref_min(ref_head_count(&head, b.end), p->z_stride);
        uint64_t rows = (uint64_t)h * (p->n_head / p->n_kv + 1);
        if (count > head.budget)
            keydiff_head(&keys, &head, count, (float *)call->bind[2] + rows * p->z_stride);
    }
}

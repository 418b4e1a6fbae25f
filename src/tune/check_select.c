/* tune/check_select.c: cases and bounds of slot_select and slot_renumber.
 *
 * Which slots go is compared bit for bit. That is fair: stored, direct and recent ranks are read as
 * they are; ranks of expected attention are made from scores e^(-k / 50) of distinct k, 2 % apart,
 * against errors of 1e-4 at most, or are exact ties, of which the lower slot goes. z, biases and
 * |v| are chosen first at random, then z is what makes the score:
 *     z_g = log(score / |v|) - bias + o_g + (lse of the others), any o_g per query head.
 *
 * Errors: exp as in check_gen.c, with an argument z + bias - lse that is off by 2 u of its parts
 * and by that of lse; lse by the mean of the exps' errors, 4 sqrt(n) u of the sum, and log: 4 u or
 * 2^-21 (Vulkan near 1). Nothing may be said of a head with an infinite z when lse is made of it; z
 * that is no number makes all ranks of its head so, and the first slots go.
 */
#include <math.h>
#include <string.h>

#include "base/str.h"
#include "tune/check_maintain.h"

enum { SEL_Z, SEL_STATS, SEL_SCORES, SEL_META, SEL_HEADS, SEL_MOVES, SEL_STEP };

#define STEP_OF_SCORES 0.02 /* distance of two scores' logarithms */
#define MAX_SLOTS      2048u

void kept_keys_slot_select(struct check_case *c)
{
    kept_check_group(c, 16, 256);
    kept_check_set_key(c, "SCORER", kept_check_range(c, 0, KEPT_SCORER_DMS));
    if (kept_check_chance(c, 30))
        kept_check_set_key(c, "SCORER", KEPT_SCORER_EXPECTED);
}

/* ---- ranks that are read as they are ---- */

/* Distinct numbers, many equal ones, numbers that are none; never a denormal or -0, which devices
 * may take for 0. */
static float plain_rank(struct check_case *c, uint32_t kind)
{
    float v = kept_check_unit(c);
    if (kind == 0)
        v = floorf(v * 4);
    else if (kind == 1 && kept_check_chance(c, 20))
        v = NAN;
    else if (kind == 1 && kept_check_chance(c, 10))
        v = kept_check_chance(c, 50) ? INFINITY : -INFINITY;
    else if (kind == 2)
        v = NAN;
    else if (kind == 3)
        v = 0.25f;
    else if (kind == 4)
        v *= 1e30f;
    return fabsf(v) < 1e-30f ? 0 : v;
}

static void plain_ranks(struct check_case *c, float *to, uint32_t n)
{
    uint32_t kind = kept_check_range(c, 0, 9);
    for (uint32_t i = 0; i < n; i++)
        to[i] = plain_rank(c, kind);
}

/* ---- ranks of expected attention ---- */

/* What of a head is scored in this call. */
static uint32_t scored_from(const struct check_case *c, const struct ref_block *b,
                            const struct ref_head *head, uint32_t count)
{
    const struct kept_select_params *p = &c->params.select;
    return ref_score_from(b, head, count, p->window, p->refresh);
}

/* The biases of a head as they are when scores are made: where all are made, what slots sinks … C-1
 * stand for besides themselves has faded. */
static void faded_biases(const struct check_case *c, const struct ref_head *head, uint32_t count,
                         uint32_t from, double *bias)
{
    const struct kept_select_params *p = &c->params.select;
    const float *before =
        (const float *)(const void *)c->bind[SEL_META].before + p->total + head->first;
    bool fades = from == 0 && p->keep < 1;
    for (uint32_t i = 0; i < count; i++)
        bias[i] = fades && i >= p->sinks && (uint64_t)i + p->window < count
                      ? log1p(expm1(before[i]) * p->keep)
                      : before[i];
}

/* z, |v|, and stored scores, of a head whose slots get distinct scores or ties. */
static void expected_ranks(struct check_case *c, const struct check_store *st, uint32_t h)
{
    const struct kept_select_params *p = &c->params.select;
    uint32_t order[MAX_SLOTS], n = st->count[h], from = scored_from(c, &st->block, &st->head[h], n);
    float *z = (float *)(void *)c->bind[SEL_Z].before + (uint64_t)h * (st->group + 1) * p->z_stride;
    float *score = (float *)(void *)c->bind[SEL_SCORES].before + st->head[h].first;
    double bias[MAX_SLOTS];
    float *size = z + (uint64_t)st->group * p->z_stride, base = 20 * kept_check_unit(c);
    float offset[8], spread = kept_check_chance(c, 80) ? 1 : 4;
    faded_biases(c, &st->head[h], n, from, bias);
    kept_check_shuffle(c, order, n);
    for (uint32_t g = 0; g < st->group; g++) {
        float *stats = (float *)(void *)c->bind[SEL_STATS].before +
                       ((uint64_t)h * st->group + g) * KEPT_STATS_STRIDE(p->d);
        offset[g] = 3 * kept_check_unit(c);
        stats[KEPT_STATS_LSE(p->d)] = base + offset[g];
        stats[KEPT_STATS_TOP(p->d)] = base + offset[g] + kept_check_unit(c);
    }
    for (uint32_t s = 0; s < n; s++) {
        double log_score = -STEP_OF_SCORES * spread * order[s];
        uint32_t twin = s > from ? kept_check_range(c, from, s - 1) : s;
        bool tie = s > from && kept_check_chance(c, 5) && bias[twin] == bias[s];
        if (s < from) {
            score[s] = (float)exp(log_score);
            continue;
        }
        size[s] = tie ? size[twin] : 1 + 0.9f * kept_check_unit(c);
        for (uint32_t g = 0; g < st->group; g++)
            z[(uint64_t)g * p->z_stride + s] =
                tie ? z[(uint64_t)g * p->z_stride + twin]
                    : (float)(log_score - log(size[s]) - bias[s] + base + offset[g]);
    }
}

/* Numbers that are none where they have an exact meaning, or none at all (`from` 0 and
 * infinite). */
static void spoil_ranks(struct check_case *c, const struct check_store *st, uint32_t h)
{
    const struct kept_select_params *p = &c->params.select;
    uint32_t n = st->count[h], from = scored_from(c, &st->block, &st->head[h], n);
    float *z = (float *)(void *)c->bind[SEL_Z].before + (uint64_t)h * (st->group + 1) * p->z_stride;
    for (uint32_t i = 0; from < n && i < 3; i++) {
        uint32_t s = kept_check_range(c, from, n - 1), g = kept_check_range(c, 0, st->group);
        z[(uint64_t)g * p->z_stride + s] = kept_check_chance(c, 60)                    ? NAN
                                           : g < st->group && kept_check_chance(c, 50) ? -INFINITY
                                                                                       : INFINITY;
    }
}

static void fill_ranks(struct check_case *c, const struct check_store *st)
{
    const struct kept_select_params *p = &c->params.select;
    uint32_t scorer = kept_check_key(c, "SCORER");
    for (uint32_t h = 0; h < st->n_kv; h++) {
        float *z =
            (float *)(void *)c->bind[SEL_Z].before + (uint64_t)h * (st->group + 1) * p->z_stride;
        float *score = (float *)(void *)c->bind[SEL_SCORES].before + st->head[h].first;
        uint32_t n = ref_min(st->count[h], MAX_SLOTS);
        for (uint32_t s = 0; s < n; s++) /* weights too, and scores where they are not ranks */
            score[s] = score[st->total + s] = kept_check_unit(c);
        if (scorer == KEPT_SCORER_EXPECTED)
            expected_ranks(c, st, h);
        else if (scorer == KEPT_SCORER_DIRECT)
            plain_ranks(c, z, n);
        else if (scorer == KEPT_SCORER_STORED || scorer == KEPT_SCORER_DMS)
            plain_ranks(c, score, n);
        if (scorer == KEPT_SCORER_EXPECTED && c->model == NULL && kept_check_chance(c, 15))
            spoil_ranks(c, st, h);
    }
}

/* Marks slots as consolidated: some, all, more than a block; others that the kernel is not to look
 * at. */
static void consolidate(struct check_case *c, const struct check_store *st, uint32_t h)
{
    uint32_t *pos = c->bind[SEL_META].before + st->head[h].first, n = st->count[h];
    uint32_t percent = kept_check_chance(c, 70) ? kept_check_range(c, 1, 25) : 100;
    uint32_t cut = n > st->window ? n - st->window : 0;
    for (uint32_t s = st->sinks; s < cut; s++)
        if (kept_check_chance(c, percent))
            pos[s] = (uint32_t)KEPT_POS_GONE;
    if (n > 0 && st->sinks > 0 && kept_check_chance(c, 10))
        pos[0] = pos[n - 1] = (uint32_t)KEPT_POS_GONE;
}

void kept_gen_slot_select(struct check_case *c)
{
    static const uint32_t planes[] = {2, 3, KEPT_ASSOC_PLANES};
    struct kept_select_params *p = &c->params.select;
    struct check_store st;
    kept_check_block(c, SEL_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    p->n_head = st.n_kv * st.group;
    p->n_kv = st.n_kv;
    p->d = c->model != NULL ? st.d : 32 * kept_check_range(c, 1, 3);
    p->total = st.total;
    p->z_stride = st.max_cap + (c->model != NULL ? 0 : 64 * kept_check_range(c, 0, 1));
    p->sinks = st.sinks;
    p->window = st.window;
    p->refresh = kept_check_chance(c, 30) ? 64 : 4096;
    p->keep = kept_check_chance(c, 50) ? 1 : 0.55f + 0.45f * kept_check_unit(c);
    p->apart = kept_check_chance(c, 40);
    p->limit = kept_check_chance(c, 50) ? 0 : kept_check_range(c, 1, 2 * (uint32_t)st.block.end);
    kept_check_bind_f32(c, SEL_Z, (uint64_t)(p->n_head + p->n_kv) * p->z_stride);
    kept_check_bind_f32(c, SEL_STATS, (uint64_t)p->n_head * KEPT_STATS_STRIDE((uint64_t)p->d));
    kept_check_bind_f32(c, SEL_SCORES, 2 * (uint64_t)p->total);
    kept_check_bind_meta(c, SEL_META, &st, kept_check_pick(c, planes, 3));
    kept_check_bind_heads(c, SEL_HEADS, &st);
    kept_check_bind(c, SEL_MOVES, (uint64_t)p->n_kv * KEPT_MOVES_STRIDE(p->row_cap));
    if (!c->failed)
        fill_ranks(c, &st);
    for (uint32_t h = 0; !c->failed && c->model == NULL && h < st.n_kv; h++)
        if (kept_check_chance(c, 40))
            consolidate(c, &st, h);
}

/* ---- bounds ---- */

static double log_bound(double v)
{
    return fmax(4 * CHECK_U * fabs(v), 4.8e-7);
}

/* One KV head whose expected scores were made. */
struct scored {
    const struct kept_select_params *p;
    uint32_t count, from, group;
    const float *z;
    double bias[MAX_SLOTS], of_bias[MAX_SLOTS]; /* as they are then, and their errors */
    const int32_t *pos;
    uint32_t c;             /* where the window begins */
    uint64_t stats, scores; /* elements: of the first query head, of slot 0 */
};

/* Consolidated before the call: left out. */
static bool is_gone(const struct scored *s, uint32_t i)
{
    return i >= s->p->sinks && i < s->c && s->pos[i] == KEPT_POS_GONE;
}

/* Whether nothing can be said: lse is made of an infinite z. */
static bool is_loose(const struct scored *s)
{
    for (uint32_t g = 0; s->from == 0 && g < s->group; g++)
        for (uint32_t i = 0; i < s->count; i++)
            if (s->z[(uint64_t)g * s->p->z_stride + i] == INFINITY && !is_gone(s, i))
                return true;
    return false;
}

/* Bounds of lse and top of query head g; returns that of lse. */
static double bound_sums(struct check_case *c, const struct scored *s, uint32_t g)
{
    const float *z = s->z + (uint64_t)g * s->p->z_stride;
    uint64_t at = s->stats + (uint64_t)g * KEPT_STATS_STRIDE(s->p->d);
    double most = -INFINITY, sum = 0, error = 0;
    if (s->from != 0)
        return 0;
    bool apart = s->p->apart == 1;
    uint32_t from = apart ? s->p->sinks : 0, end = apart ? s->c : s->count;
    for (uint32_t i = from; i < end; i++)
        most = is_gone(s, i) ? most : fmax(most, z[i] + (apart ? 0 : s->bias[i]));
    for (uint32_t i = from; i < end; i++) {
        if (is_gone(s, i))
            continue;
        double bias = apart ? 0 : s->bias[i], v = z[i] + bias - most, w = exp(v);
        double parts = fabs(z[i]) + fabs(bias) + fabs(most);
        sum += w;
        error +=
            w > 0
                ? w * (kept_check_exp_bound(v) + 2 * CHECK_U * parts + (apart ? 0 : s->of_bias[i]))
                : 0;
    }
    double lse = kept_check_want(c, SEL_STATS, at + KEPT_STATS_LSE(s->p->d));
    double bound = error / sum + (4 * sqrt(s->count) + 4) * CHECK_U + log_bound(log(sum)) +
                   2 * CHECK_U * fabs(lse);
    if (isnan(lse)) /* top: of the numbers, or none */
        kept_check_bound(c, SEL_STATS, at + KEPT_STATS_TOP(s->p->d), CHECK_ANY);
    kept_check_bound(c, SEL_STATS, at + KEPT_STATS_LSE(s->p->d), isnan(bound) ? 1 : bound);
    return bound;
}

static void bound_scores(struct check_case *c, const struct scored *s)
{
    const struct kept_select_params *p = s->p;
    double lse[8];
    for (uint32_t g = 0; g < s->group; g++)
        lse[g] = bound_sums(c, s, g);
    for (uint32_t i = s->from; i < s->count; i++) {
        if (is_gone(s, i))
            continue;
        double worst = 0, of_weight = 0, bias = s->bias[i], nearest = -INFINITY;
        bool known = true; /* what top is */
        for (uint32_t g = 0; g < s->group; g++) {
            uint64_t at = s->stats + (uint64_t)g * KEPT_STATS_STRIDE(p->d);
            double z = s->z[(uint64_t)g * p->z_stride + i];
            double parts = fabs(z) + fabs(bias);
            double sum = kept_check_want(c, SEL_STATS, at + KEPT_STATS_LSE(p->d));
            double top = kept_check_want(c, SEL_STATS, at + KEPT_STATS_TOP(p->d));
            if (exp(z + bias - sum) > 0)
                worst = fmax(worst, lse[g] + s->of_bias[i] + 2 * CHECK_U * (parts + fabs(sum)) +
                                        kept_check_exp_bound(z + bias - sum));
            if (exp(z - top) > 0)
                of_weight = fmax(of_weight, kept_check_exp_bound(z - top) +
                                                2 * CHECK_U * (fabs(z) + fabs(top)));
            nearest = fmax(nearest, z - top);
            known = known && !isnan(sum);
        }
        double score = fabs(kept_check_want(c, SEL_SCORES, s->scores + i));
        double weight = fabs(kept_check_want(c, SEL_SCORES, s->scores + p->total + i));
        double bound = score * (worst + 16 * CHECK_U) + 16 * CHECK_TINY;
        kept_check_bound(c, SEL_SCORES, s->scores + i, isfinite(bound) ? bound : 1e-37);
        bound = of_weight + s->of_bias[i] + 16 * CHECK_U + log_bound(weight + fabs(bias)) +
                2 * CHECK_U * (weight + fabs(bias));
        kept_check_bound(c, SEL_SCORES, s->scores + p->total + i,
                         isfinite(bound) && known && nearest > -80 ? bound : CHECK_ANY);
    }
}

/* Of those that fade: exp, a difference near 0, log. */
static void bound_biases(struct check_case *c, const struct ref_head *head, struct scored *s)
{
    const struct kept_select_params *p = s->p;
    for (uint32_t i = 0; i < s->count; i++) {
        bool fades = s->from == 0 && p->keep < 1 && i >= p->sinks && i < s->c;
        s->of_bias[i] =
            fades ? kept_check_exp_bound(s->bias[i]) + 8 * CHECK_U + log_bound(s->bias[i]) : 0;
        if (fades)
            kept_check_bound(c, SEL_META, (uint64_t)p->total + head->first + i, s->of_bias[i]);
    }
}

static void bound_head(struct check_case *c, const struct ref_block *b, uint32_t h)
{
    const struct kept_select_params *p = &c->params.select;
    uint32_t group = p->n_head / p->n_kv;
    struct ref_head head = kept_check_head_before(c, SEL_HEADS, h, p->total);
    uint64_t moves = (uint64_t)h * KEPT_MOVES_STRIDE(b->block);
    struct scored s = {.p = p, .count = ref_head_count(&head, b->end), .group = group};
    s.from = scored_from(c, b, &head, s.count);
    s.z = (const float *)(const void *)c->bind[SEL_Z].before +
          (uint64_t)h * (group + 1) * p->z_stride;
    s.stats = (uint64_t)h * group * KEPT_STATS_STRIDE(p->d);
    s.pos = (const int32_t *)c->bind[SEL_META].before + head.first;
    s.c = s.count > p->window ? s.count - p->window : 0;
    s.scores = head.first;
    if (c->bind[SEL_MOVES].want[moves + KEPT_MOVES_M] == 0 || s.count <= head.budget)
        return;
    faded_biases(c, &head, s.count, s.from, s.bias);
    bound_biases(c, &head, &s);
    if (!is_loose(&s)) {
        bound_scores(c, &s);
        return;
    }
    kept_check_loose(c, SEL_MOVES, moves + KEPT_MOVES_FILLS, 1);
    kept_check_loose(c, SEL_MOVES, moves + KEPT_MOVES_LISTS, 3 * b->block);
    kept_check_loose(c, SEL_SCORES, head.first, head.cap);
    kept_check_loose(c, SEL_SCORES, (uint64_t)p->total + head.first, head.cap);
    kept_check_loose(c, SEL_META, head.first, head.cap);
    for (uint32_t g = 0; g < group; g++)
        kept_check_loose(c, SEL_STATS, s.stats + g * KEPT_STATS_STRIDE(p->d) + KEPT_STATS_LSE(p->d),
                         2);
}

void kept_bound_slot_select(struct check_case *c)
{
    struct ref_block b = kept_check_block_of(c, SEL_STEP);
    bool expected = kept_check_key(c, "SCORER") == KEPT_SCORER_EXPECTED;
    for (uint32_t h = 0; expected && kept_check_maintains(c) && h < c->params.select.n_kv; h++)
        bound_head(c, &b, h);
}

/* ---- slot_renumber: exact ---- */

enum { NUM_META, NUM_HEADS, NUM_MOVES, NUM_Z, NUM_STEP };

void kept_keys_slot_renumber(struct check_case *c)
{
    kept_check_group(c, 16, 256);
    kept_check_set_key(c, "ALWAYS", kept_check_range(c, 0, 1));
}

void kept_gen_slot_renumber(struct check_case *c)
{
    struct kept_rotate_params *p = &c->params.rotate;
    struct check_store st;
    kept_check_block(c, NUM_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    p->n_kv = st.n_kv;
    p->d = 32;
    p->total = st.total;
    p->z_stride = st.max_cap;
    p->sinks = st.sinks;
    p->window = kept_check_chance(c, 80) ? st.window : kept_check_range(c, 0, 2000);
    p->z_head_stride = p->z_stride * (1 + kept_check_range(c, 0, 3));
    kept_check_bind_meta(c, NUM_META, &st, 2);
    kept_check_bind_moves(c, NUM_MOVES, &st, KEPT_MAX_BINDS, true);
    kept_check_bind_heads(c, NUM_HEADS, &st);
    kept_check_bind(c, NUM_Z, (uint64_t)p->n_kv * p->z_head_stride);
    for (uint32_t h = 0; !c->failed && h < st.n_kv; h++) /* positions of any size and equal ones */
        for (uint32_t i = 0; i < 4 && st.count[h] > 0 && kept_check_chance(c, 20); i++)
            c->bind[NUM_META].before[st.head[h].first + kept_check_range(c, 0, st.count[h] - 1)] =
                kept_check_chance(c, 50) ? kept_check_u32(c) : 7;
}

void kept_bound_slot_renumber(struct check_case *c)
{
    (void)c;
}

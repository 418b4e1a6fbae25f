/* tune/check_assoc_write.c: cases and bounds of assoc_write.
 *
 * Which tokens are hits is decided by numbers that the case gives, so it is exact. An average of n
 * terms and c times another: n + 8 roundings of the sizes added up, of v those that any unpacking
 * adds up; the key then takes the errors of turning, Hadamard and storing. The mean position is a
 * sum of n + 1 terms divided; where it is nearer than its error to where rounding changes, the
 * position, the rest and the key may be either.
 */
#include <math.h>
#include <string.h>

#include "tune/check_assoc.h"

enum { AW_K, AW_V, AW_META, AW_SCORES, AW_RAW, AW_TABLE, AW_HEADS, AW_NEAR, AW_STEP };

#define NO_TARGET UINT32_MAX

void kept_keys_assoc_write(struct check_case *c)
{
    kept_check_type_keys(c);
    kept_check_set_key(c, "FORM", kept_check_range(c, 0, 1));
}

/* ---- what assoc_match might have found, and what it cannot ---- */

static uint32_t some_slot(struct check_case *c, const struct check_assoc_head *a, uint32_t among)
{
    uint32_t sinks = c->params.assoc.sinks;
    const uint32_t odd[] = {UINT32_MAX, a->head.cap, a->before, a->c, sinks - 1, 0x80000000u};
    if (a->before <= sinks || (c->model == NULL && kept_check_chance(c, 5)))
        return kept_check_pick(c, odd, 6);
    return sinks + kept_check_range(c, 0, among - 1) % (a->before - sinks);
}

static float some_likeness(struct check_case *c)
{
    float threshold = c->params.assoc.threshold;
    float at = isnan(threshold) ? 0.95f : threshold;
    switch (kept_check_range(c, 0, 11)) {
    case 0:
    case 1:
        return at;
    case 2:
        return nextafterf(at, -4);
    case 3:
        return nextafterf(at, 4);
    case 4:
        return kept_check_chance(c, 50) ? -INFINITY : -3e38f;
    case 5:
        return kept_check_chance(c, 50) ? NAN : INFINITY;
    case 6:
    case 7:
        return at - 0.2f;
    default:
        return at + 0.01f;
    }
}

/* In some split the best, in the others less, none, or an equal one. */
static void fill_near(struct check_case *c, const struct check_assoc_head *a, uint32_t h)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    uint32_t *near = c->bind[AW_NEAR].before + 2ull * h * p->n_splits * p->row_cap;
    uint32_t among = kept_check_chance(c, 60) ? kept_check_range(c, 1, 4) : 4096;
    for (uint32_t e = a->entry; e < a->entry + a->end - a->first; e++) {
        uint32_t right = kept_check_range(c, 0, p->n_splits - 1);
        float like = some_likeness(c);
        for (uint32_t split = 0; split < p->n_splits; split++) {
            float value = split == right || kept_check_chance(c, 15) ? like : like - 0.3f;
            if (split != right && kept_check_chance(c, 20))
                value = -INFINITY;
            near[2 * (split * p->row_cap + e) + 1] = some_slot(c, a, among);
            memcpy(&near[2 * (split * p->row_cap + e)], &value, 4);
        }
    }
}

static void fill_scores(struct check_case *c, float *scores, const struct check_store *st,
                        uint32_t h)
{
    static const float odd[] = {-INFINITY, NAN, 0, 1e30f};
    for (uint32_t s = st->head[h].first; s < st->head[h].first + st->count[h]; s++) {
        bool is_odd = c->model == NULL && kept_check_chance(c, 5);
        scores[s] = is_odd ? odd[kept_check_range(c, 0, 3)] : kept_check_unit(c);
        scores[st->total + s] = is_odd ? odd[kept_check_range(c, 0, 3)] : 5 * kept_check_unit(c);
    }
}

void kept_gen_assoc_write(struct check_case *c)
{
    struct kept_assoc_params *p = &c->params.assoc;
    struct check_store st;
    kept_check_block(c, AW_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    kept_check_assoc_params(c, AW_TABLE, &st);
    kept_check_bind_store(c, AW_K, &st, kept_check_key(c, "KT"), kept_check_key(c, "ORDER"));
    kept_check_bind_store(c, AW_V, &st, kept_check_key(c, "VT"), REF_ROWS);
    kept_check_assoc_meta(c, AW_META, &st);
    kept_check_bind_heads(c, AW_HEADS, &st);
    kept_check_assoc_keys(c, AW_RAW, &st);
    float *scores = kept_check_bind_f32(c, AW_SCORES, 2ull * p->total);
    kept_check_bind(c, AW_NEAR, 2ull * p->n_kv * p->n_splits * p->row_cap);
    for (uint32_t h = 0; !c->failed && h < st.n_kv; h++) {
        struct check_assoc_head a = kept_check_assoc_head(c, AW_HEADS, AW_STEP, h);
        fill_scores(c, scores, &st, h);
        fill_near(c, &a, h);
        if (c->model == NULL && st.count[h] != 0 && kept_check_chance(c, 15))
            kept_check_spoil_slot(
                c, AW_V, (uint64_t)st.head[h].first + kept_check_range(c, 0, st.count[h] - 1));
    }
}

/* ---- bounds ---- */

/* A slot and the tokens that go into it. */
struct average {
    const struct check_assoc_head *a;
    uint32_t h, r, n, token[KEPT_ASSOC_SUB];
    double c;
    double v[KEPT_MAX_HEAD_DIM], error[KEPT_MAX_HEAD_DIM];
    bool finite;
};

static uint32_t target_of(const struct check_case *c, const struct check_assoc_head *a, uint32_t h,
                          uint32_t t)
{
    uint32_t best[2];
    float like;
    kept_check_assoc_best(c, c->bind[AW_NEAR].before, h, a->entry + t - a->first, best);
    memcpy(&like, best, 4);
    bool hit = like >= c->params.assoc.threshold && best[1] >= c->params.assoc.sinks &&
               best[1] < a->before && like > -INFINITY;
    return hit ? best[1] : NO_TARGET;
}

static float plane(const struct check_case *c, uint64_t i_plane, uint64_t slot)
{
    float v;
    memcpy(&v, c->bind[AW_META].before + i_plane * c->params.assoc.total + slot, 4);
    return v;
}

/* Values of slot s with their sizes: un-rotated key, or value. */
static void values_of(const struct check_case *c, const struct average *g, bool key, uint32_t s,
                      double *v, double *size)
{
    const float *raw = (const float *)(const void *)c->bind[AW_RAW].before;
    if (!key)
        kept_check_slot(c, AW_V, (uint64_t)g->a->head.first + s, v, size);
    for (uint32_t i = 0; key && i < c->params.assoc.d; i++) {
        v[i] = raw[kept_check_raw_at(c, g->h, s, i)];
        size[i] = fabs(v[i]);
    }
}

static void average(const struct check_case *c, struct average *g, bool key)
{
    double v[KEPT_MAX_HEAD_DIM], size[KEPT_MAX_HEAD_DIM];
    uint32_t d = c->params.assoc.d;
    values_of(c, g, key, g->r, g->v, g->error);
    for (uint32_t i = 0; i < d; i++) {
        g->v[i] *= g->c;
        g->error[i] *= g->c;
    }
    for (uint32_t j = 0; j < g->n; j++) {
        values_of(c, g, key, g->token[j], v, size);
        for (uint32_t i = 0; i < d; i++) {
            g->v[i] += v[i];
            g->error[i] += size[i];
        }
    }
    g->finite = true;
    for (uint32_t i = 0; i < d; i++) {
        g->v[i] /= g->c + g->n;
        g->error[i] = g->error[i] / (g->c + g->n) * (g->n + 8) * CHECK_U + CHECK_TINY;
        g->finite = g->finite && isfinite(g->v[i]) && isfinite(g->error[i]);
    }
}

static bool in_table(const struct ref_rope *rope, int32_t pos)
{
    return pos > -(1 << 24) && pos < 1 << 24 && ref_rope_has(rope, pos);
}

/* The position and its rest; whether the position is certain. */
static bool bound_position(struct check_case *c, const struct average *g)
{
    struct ref_rope rope = kept_check_assoc_rope(c, AW_TABLE);
    const int32_t *pos = (const int32_t *)c->bind[AW_META].before + g->a->head.first;
    uint64_t slot = (uint64_t)g->a->head.first + g->r;
    uint64_t frac_at = (uint64_t)KEPT_ASSOC_FRAC * c->params.assoc.total + slot;
    double frac = plane(c, KEPT_ASSOC_FRAC, slot), sum, size;
    frac = fabs(frac) <= 1 ? frac : 0;
    sum = g->c * frac;
    size = fabs(sum);
    for (uint32_t j = 0; j < g->n; j++)
        if (in_table(&rope, pos[g->token[j]]) && in_table(&rope, pos[g->r])) {
            double by = (double)pos[g->token[j]] - pos[g->r];
            sum += by;
            size += fabs(by);
        }
    double error = size / (g->c + g->n) * (g->n + 8) * CHECK_U + 1e-7,
           at = sum / (g->c + g->n) + 0.5;
    bool certain = at - floor(at) > error && ceil(at) - at > error;
    kept_check_bound(c, AW_META, frac_at, certain ? error : (double)CHECK_ANY);
    if (!certain)
        kept_check_bound(c, AW_META, slot, CHECK_ANY);
    return certain;
}

static void bound_key(struct check_case *c, struct average *g, bool certain)
{
    struct ref_rope rope = kept_check_assoc_rope(c, AW_TABLE);
    uint64_t slot = (uint64_t)g->a->head.first + g->r;
    uint32_t d = c->params.assoc.d;
    int32_t pos = (int32_t)c->bind[AW_META].want[slot];
    average(c, g, true);
    for (uint32_t i = 0; i < d; i++)
        kept_check_bound(c, AW_RAW, kept_check_raw_at(c, g->h, g->r, i),
                         isfinite(g->v[i]) ? g->error[i] : (double)CHECK_ANY);
    if (!certain || !g->finite) {
        kept_check_loose(c, AW_K, slot * d, d);
        return;
    }
    bool turns = rope.pairs != KEPT_ROPE_NONE && ref_rope_has(&rope, pos);
    for (uint32_t i = 0; turns && i < rope.n_rot / 2; i++) {
        uint32_t a, b;
        ref_rope_pair(&rope, i, &a, &b);
        double size = fabs(g->v[a]) + fabs(g->v[b]);
        g->error[a] = g->error[b] =
            g->error[a] + g->error[b] + 10 * CHECK_U * size + 2 * CHECK_TINY;
    }
    if (turns)
        ref_rope_turn(&rope, pos, g->v);
    if (c->bind[AW_K].slots.type != KEPT_FMT_F16)
        kept_check_hadamard(g->v, g->error, d);
    kept_check_bound_slot(c, AW_K, slot, g->v, g->error);
}

static void bound_target(struct check_case *c, struct average *g)
{
    uint64_t total = c->params.assoc.total, slot = (uint64_t)g->a->head.first + g->r;
    float count = plane(c, KEPT_ASSOC_COUNT, slot);
    bool mean = kept_check_key(c, "FORM") == 0;
    g->c = count >= 1 ? fmin(count, 1 << 24) : 1;
    bound_key(c, g, !mean || bound_position(c, g));
    average(c, g, false);
    if (g->finite)
        kept_check_bound_slot(c, AW_V, slot, g->v, g->error);
    else
        kept_check_loose(c, AW_V, slot * c->params.assoc.d, c->params.assoc.d);
    kept_check_bound(c, AW_META, KEPT_ASSOC_COUNT * total + slot, 4 * CHECK_U * (g->c + g->n));
    if (!mean)
        return;
    double of_log = 8 * CHECK_U + fmax(4 * CHECK_U * log((g->c + g->n) / g->c), 4.8e-7);
    double bias = kept_check_want(c, AW_META, total + slot);
    double weight = kept_check_want(c, AW_SCORES, total + slot);
    double score = kept_check_want(c, AW_SCORES, slot);
    kept_check_bound(c, AW_META, total + slot, of_log + 2 * CHECK_U * fabs(bias));
    kept_check_bound(c, AW_SCORES, total + slot,
                     isfinite(weight) ? of_log + 2 * CHECK_U * fabs(weight) : 1);
    kept_check_bound(c, AW_SCORES, slot,
                     isfinite(score) ? fabs(score) * 8 * CHECK_U + CHECK_TINY : 1);
}

void kept_bound_assoc_write(struct check_case *c)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++) {
        struct check_assoc_head a = kept_check_assoc_head(c, AW_HEADS, AW_STEP, h);
        for (uint32_t t = a.first; t < a.end; t++) {
            struct average g = {.a = &a, .h = h, .r = target_of(c, &a, h, t)};
            bool first = g.r != NO_TARGET;
            for (uint32_t earlier = a.first; first && earlier < t; earlier++)
                first = target_of(c, &a, h, earlier) != g.r;
            for (uint32_t other = t; first && other < a.end; other++)
                if (target_of(c, &a, h, other) == g.r)
                    g.token[g.n++] = other;
            if (first)
                bound_target(c, &g);
        }
    }
}

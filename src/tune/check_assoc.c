/* tune/check_assoc.c: cases and bounds of assoc_raw and assoc_match.
 *
 * assoc_raw: errors of Hadamard and of a turn.
 *
 * assoc_match: as slot_nearest (check_retain.c): splits are brought to one, and another slot than
 * the reference's is as good when its cosine, computed here in double, differs by less than the
 * errors of both but is not equal. A cosine is a sum of d products over two roots: 4 sqrt(d) u of
 * the products' sizes over the lengths, and as much of itself.
 */
#include "tune/check_assoc.h"

#include <math.h>
#include <string.h>

#include "base/str.h"

/* ---- shared ---- */

static void pick_rotation(struct check_case *c, uint32_t i_table, const struct check_store *st)
{
    struct kept_assoc_params *p = &c->params.assoc;
    uint32_t n_hi = (uint32_t)st->block.end / 256 + 1;
    p->rope_pairs = c->model != NULL ? KEPT_ROPE_ADJACENT : kept_check_range(c, 0, 2);
    p->n_rot = p->rope_pairs == KEPT_ROPE_NONE ? 0 : p->d;
    if (p->n_rot != 0 && c->model == NULL && kept_check_chance(c, 30))
        p->n_rot = 2 * kept_check_range(c, 1, p->d / 2);
    p->hi_bias = kept_check_chance(c, 30) ? kept_check_range(c, 1, 3) : 0;
    p->mean_row = 256 + p->hi_bias + n_hi;
    if (i_table < KEPT_MAX_BINDS)
        kept_check_bind_table(c, i_table, p->n_rot, p->hi_bias, n_hi);
    if (c->model == NULL && kept_check_chance(c, 15)) /* not every position, or none */
        p->mean_row = kept_check_range(c, kept_check_chance(c, 30) ? 0 : 256, p->mean_row);
}

void kept_check_assoc_params(struct check_case *c, uint32_t i_table, const struct check_store *st)
{
    static const float thresholds[] = {-1, 0.5f, 0.95f, 0.95f, 0.95f, 1, 2, NAN};
    struct kept_assoc_params *p = &c->params.assoc;
    bool bench = c->model != NULL;
    p->n_kv = st->n_kv;
    p->d = st->d;
    p->total = st->total;
    p->raw_stride = st->max_cap + (bench ? 0 : 16 * kept_check_range(c, 0, 2));
    if (!bench && kept_check_chance(c, 10)) /* no room for every slot */
        p->raw_stride = 16 * kept_check_range(c, 1, st->max_cap / 16);
    p->sinks = st->sinks;
    p->window = st->window;
    p->n_splits = bench ? 8 : kept_check_range(c, 1, 9);
    p->sub = bench ? 1 : kept_check_range(c, 0, st->block.block / KEPT_ASSOC_SUB - 1);
    p->only_over = !bench && kept_check_chance(c, 30);
    p->threshold = bench ? 0.95f : thresholds[kept_check_range(c, 0, 7)];
    pick_rotation(c, i_table, st);
    size_t used = strlen(c->shape);
    kept_snprintf(c->shape + used, sizeof c->shape - used, ", sub %u, raw %u, rot %u kind %u",
                  p->sub, p->raw_stride, p->n_rot, p->rope_pairs);
}

static void odd_meta(struct check_case *c, uint32_t *meta, uint32_t total, uint32_t slot)
{
    static const float numbers[] = {0,   -3,       0.5f,      1e30f,  -1e30f,
                                    NAN, INFINITY, -INFINITY, 1e-40f, 16777216};
    static const uint32_t places[] = {(uint32_t)KEPT_POS_GONE, 0x7FFFFFFF, 0xFFFFFFFF, 1u << 24,
                                      (1u << 24) - 1,          0xFF000001, 0xFFFFFF00, 5000};
    float v = numbers[kept_check_range(c, 0, 9)];
    switch (kept_check_range(c, 0, 2)) {
    case 0:
        meta[slot] = kept_check_pick(c, places, 8);
        break;
    case 1:
        memcpy(&meta[KEPT_ASSOC_COUNT * (uint64_t)total + slot], &v, 4);
        break;
    default:
        memcpy(&meta[KEPT_ASSOC_FRAC * (uint64_t)total + slot], &v, 4);
        break;
    }
}

void kept_check_assoc_meta(struct check_case *c, uint32_t i_bind, const struct check_store *st)
{
    kept_check_bind_meta(c, i_bind, st, KEPT_ASSOC_PLANES);
    uint32_t *meta = c->bind[i_bind].before;
    for (uint32_t h = 0; !c->failed && h < st->n_kv; h++) {
        bool odd = c->model == NULL && kept_check_chance(c, 30);
        uint32_t slot = st->head[h].first;
        for (uint32_t end = slot + st->count[h]; slot < end; slot++) {
            bool one = kept_check_chance(c, 40);
            float count =
                one ? 1 : (float)kept_check_range(c, 2, kept_check_chance(c, 80) ? 9 : 5000);
            float frac = one && kept_check_chance(c, 20) ? 0 : 0.49f * kept_check_unit(c);
            memcpy(&meta[KEPT_ASSOC_COUNT * (uint64_t)st->total + slot], &count, 4);
            memcpy(&meta[KEPT_ASSOC_FRAC * (uint64_t)st->total + slot], &frac, 4);
            meta[KEPT_ASSOC_STAMP * (uint64_t)st->total + slot] = kept_check_range(c, 0, 5000);
            if (c->model == NULL && kept_check_chance(c, 5)) /* consolidated before */
                meta[slot] = (uint32_t)KEPT_POS_GONE;
            if (odd && kept_check_chance(c, 25))
                odd_meta(c, meta, st->total, slot);
        }
    }
}

uint64_t kept_check_raw_at(const struct check_case *c, uint32_t kv_head, uint32_t slot, uint32_t i)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    return ((uint64_t)kv_head * p->raw_stride + slot / 16 * 16) * p->d + (uint64_t)i * 16 +
           slot % 16;
}

struct ref_rope kept_check_assoc_rope(const struct check_case *c, uint32_t i_table)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    return (struct ref_rope){(const float *)(const void *)c->bind[i_table].before,
                             (uint64_t)p->mean_row * p->n_rot * 4, p->n_rot, p->rope_pairs,
                             p->hi_bias};
}

static struct check_assoc_head head_of(const struct check_case *c, struct ref_head head,
                                       struct ref_block block)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    uint32_t count = ref_min(ref_head_count(&head, block.end), p->raw_stride);
    struct check_assoc_head a = {.head = head, .c = count > p->window ? count - p->window : 0};
    int64_t begin = (int64_t)a.c - block.block + KEPT_ASSOC_SUB * p->sub;
    int64_t first = begin > p->sinks ? begin : p->sinks, end = begin + KEPT_ASSOC_SUB;
    a.before = begin > 0 ? (uint32_t)begin : 0;
    a.first = (uint32_t)first;
    bool idle = p->only_over == 1 && count <= head.budget;
    a.end = end > first && !idle ? (uint32_t)end : a.first;
    a.entry = KEPT_ASSOC_SUB * p->sub + (uint32_t)(first - begin);
    return a;
}

struct check_assoc_head kept_check_assoc_head(const struct check_case *c, uint32_t i_heads,
                                              uint32_t i_step, uint32_t kv_head)
{
    return head_of(c, kept_check_head_before(c, i_heads, kv_head, c->params.assoc.total),
                   kept_check_block_of(c, i_step));
}

/* Slot `to` becomes a multiple of slot `from` with noise. */
static void liken(struct check_case *c, float *raw, uint32_t h, uint32_t from, uint32_t to)
{
    static const float noises[] = {0, 0, 1e-3f, 0.1f, 0.3f, 1};
    float noise = noises[kept_check_range(c, 0, 5)];
    float scale = noise == 0 ? 1 : 1 + 0.9f * kept_check_unit(c);
    for (uint32_t i = 0; i < c->params.assoc.d; i++)
        raw[kept_check_raw_at(c, h, to, i)] =
            scale * raw[kept_check_raw_at(c, h, from, i)] + noise * kept_check_unit(c);
}

/* All elements of a slot, or one. */
static void spoil_key(struct check_case *c, float *raw, uint32_t h, uint32_t slot)
{
    static const float odd[] = {0, NAN, INFINITY, -INFINITY};
    uint32_t d = c->params.assoc.d, kind = kept_check_range(c, 0, 3);
    if (kind != 0 && kept_check_chance(c, 50)) {
        raw[kept_check_raw_at(c, h, slot, kept_check_range(c, 0, d - 1))] = odd[kind];
        return;
    }
    for (uint32_t i = 0; i < d; i++)
        raw[kept_check_raw_at(c, h, slot, i)] = odd[kind];
}

void kept_check_assoc_keys(struct check_case *c, uint32_t i_bind, const struct check_store *st)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    float *raw = kept_check_bind_f32(c, i_bind, (uint64_t)p->n_kv * p->raw_stride * p->d);
    for (uint32_t h = 0; raw != NULL && h < st->n_kv; h++) {
        struct check_assoc_head a = head_of(c, st->head[h], st->block);
        bool odd = c->model == NULL && kept_check_chance(c, 30);
        for (uint32_t s = p->sinks; s < a.c; s++) {
            float scale = kept_check_chance(c, 10) ? 0.01f : kept_check_chance(c, 10) ? 10 : 1;
            for (uint32_t i = 0; i < p->d; i++)
                raw[kept_check_raw_at(c, h, s, i)] = kept_check_unit(c) * scale;
            if (s > p->sinks && kept_check_chance(c, s < a.first ? 10 : 70))
                liken(c, raw, h, kept_check_range(c, p->sinks, s - 1), s);
        }
        for (uint32_t i = 0; odd && a.c > p->sinks && i < 4; i++)
            spoil_key(c, raw, h, kept_check_range(c, p->sinks, a.c - 1));
        for (uint32_t s = p->sinks; odd && kept_check_chance(c, 10) && s < a.first; s++)
            spoil_key(c, raw, h, s);
    }
}

void kept_check_assoc_best(const struct check_case *c, const uint32_t *near, uint32_t kv_head,
                           uint32_t e, uint32_t best[2])
{
    const struct kept_assoc_params *p = &c->params.assoc;
    kept_check_best_of_splits(near + 2 * (uint64_t)kv_head * p->n_splits * p->row_cap, p->n_splits,
                              p->row_cap, e, best);
}

/* ---- assoc_raw ---- */

enum { RAW_K, RAW_META, RAW_TABLE, RAW_HEADS, RAW_RAW, RAW_STEP };

void kept_keys_assoc_raw(struct check_case *c)
{
    kept_check_type_keys(c);
}

void kept_gen_assoc_raw(struct check_case *c)
{
    struct kept_assoc_params *p = &c->params.assoc;
    struct check_store st;
    kept_check_block(c, RAW_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    kept_check_assoc_params(c, RAW_TABLE, &st);
    kept_check_bind_store(c, RAW_K, &st, kept_check_key(c, "KT"), kept_check_key(c, "ORDER"));
    if (c->model == NULL && kept_check_chance(c, 40))
        kept_check_fill_slots(c, RAW_K, 1);
    kept_check_assoc_meta(c, RAW_META, &st);
    kept_check_bind_heads(c, RAW_HEADS, &st);
    kept_check_bind(c, RAW_RAW, (uint64_t)p->n_kv * p->raw_stride * p->d);
    for (uint32_t h = 0; !c->failed && c->model == NULL && h < st.n_kv; h++)
        if (st.count[h] != 0 && kept_check_chance(c, 15))
            kept_check_spoil_slot(
                c, RAW_K, (uint64_t)st.head[h].first + kept_check_range(c, 0, st.count[h] - 1));
}

static void bound_raw(struct check_case *c, const struct ref_rope *rope, uint32_t h, uint32_t s,
                      uint64_t slot)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    int32_t pos = (int32_t)c->bind[RAW_META].before[slot];
    double k[KEPT_MAX_HEAD_DIM], amp[KEPT_MAX_HEAD_DIM], error[KEPT_MAX_HEAD_DIM] = {0};
    kept_check_slot(c, RAW_K, slot, k, amp);
    if (c->bind[RAW_K].slots.type != KEPT_FMT_F16)
        kept_check_hadamard(k, error, p->d);
    bool turns = rope->pairs != KEPT_ROPE_NONE && ref_rope_has(rope, pos);
    for (uint32_t i = 0; turns && i < rope->n_rot / 2; i++) {
        uint32_t a, b;
        ref_rope_pair(rope, i, &a, &b);
        double size = fabs(k[a]) + fabs(k[b]);
        error[a] = error[b] = error[a] + error[b] + 10 * CHECK_U * size + 2 * CHECK_TINY;
    }
    for (uint32_t i = 0; i < p->d; i++) {
        uint64_t at = kept_check_raw_at(c, h, s, i);
        bool finite = isfinite(kept_check_want(c, RAW_RAW, at)) && isfinite(error[i]);
        kept_check_bound(c, RAW_RAW, at, finite ? error[i] + CHECK_TINY : CHECK_ANY);
    }
}

void kept_bound_assoc_raw(struct check_case *c)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    struct ref_rope rope = kept_check_assoc_rope(c, RAW_TABLE);
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++) {
        struct check_assoc_head a = kept_check_assoc_head(c, RAW_HEADS, RAW_STEP, h);
        for (uint32_t s = p->sinks; s < a.c; s++)
            bound_raw(c, &rope, h, s, (uint64_t)a.head.first + s);
    }
}

/* ---- assoc_match ---- */

enum { MATCH_RAW, MATCH_META, MATCH_HEADS, MATCH_NEAR, MATCH_STEP };

void kept_keys_assoc_match(struct check_case *c)
{
    kept_check_maintain_keys(c);
}

void kept_gen_assoc_match(struct check_case *c)
{
    struct kept_assoc_params *p = &c->params.assoc;
    struct check_store st;
    kept_check_block(c, MATCH_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    kept_check_assoc_params(c, KEPT_MAX_BINDS, &st);
    kept_check_assoc_meta(c, MATCH_META, &st);
    kept_check_bind_heads(c, MATCH_HEADS, &st);
    kept_check_assoc_keys(c, MATCH_RAW, &st);
    kept_check_bind(c, MATCH_NEAR, 2ull * p->n_kv * p->n_splits * p->row_cap);
}

/* Cosine in double and how far f32 may be off; -3e38 as in params.h. */
static double cosine(const struct check_case *c, uint32_t h, uint32_t t, uint32_t s, double *error)
{
    const float *raw = (const float *)(const void *)c->bind[MATCH_RAW].before;
    double dot = 0, size = 0, tt = 0, ss = 0, unit = (4 * sqrt(c->params.assoc.d) + 16) * CHECK_U;
    for (uint32_t i = 0; i < c->params.assoc.d; i++) {
        double x = raw[kept_check_raw_at(c, h, t, i)], y = raw[kept_check_raw_at(c, h, s, i)];
        dot += x * y;
        size += fabs(x * y);
        tt += x * x;
        ss += y * y;
    }
    double lengths = sqrt(tt) * sqrt(ss), like = dot / lengths;
    *error = 0;
    if (!isfinite(like))
        return -3e38f;
    *error = size / lengths * unit + fabs(like) * unit + CHECK_TINY;
    return like;
}

/* Whether slot `other` is as good as `slot` for token t. */
static bool as_good(const struct check_case *c, const struct check_assoc_head *a, uint32_t h,
                    uint32_t t, const uint32_t slots[2])
{
    uint32_t other = slots[1];
    double error_a, error_b;
    if (other < c->params.assoc.sinks || other >= a->before ||
        (int32_t)c->bind[MATCH_META].before[a->head.first + other] == KEPT_POS_GONE)
        return false;
    double x = cosine(c, h, t, slots[0], &error_a), y = cosine(c, h, t, other, &error_b);
    return x != y && fabs(x - y) <= error_a + error_b;
}

void kept_canon_assoc_match(const struct check_case *c, uint32_t *const *bind)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    uint32_t *want = c->bind[MATCH_NEAR].want, *near = bind[MATCH_NEAR];
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++) {
        struct check_assoc_head a = kept_check_assoc_head(c, MATCH_HEADS, MATCH_STEP, h);
        for (uint32_t t = a.first; t < a.end; t++) {
            uint32_t e = a.entry + t - a.first, best[2], right[2];
            kept_check_assoc_best(c, near, h, e, best);
            if (near != want) { /* the reference's is brought to this form later */
                kept_check_assoc_best(c, want, h, e, right);
                if (best[1] != right[1] && as_good(c, &a, h, t, (uint32_t[]){right[1], best[1]}))
                    best[1] = right[1];
            }
            for (uint32_t split = 0; split < p->n_splits; split++) {
                uint32_t *at = near + 2 * (((uint64_t)h * p->n_splits + split) * p->row_cap + e);
                at[0] = split == 0 ? best[0] : 0;
                at[1] = split == 0 ? best[1] : 0;
            }
        }
    }
}

void kept_bound_assoc_match(struct check_case *c)
{
    const struct kept_assoc_params *p = &c->params.assoc;
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++) {
        struct check_assoc_head a = kept_check_assoc_head(c, MATCH_HEADS, MATCH_STEP, h);
        for (uint32_t t = a.first; t < a.end; t++) {
            uint32_t e = a.entry + t - a.first, best[2];
            double error = 0;
            kept_check_assoc_best(c, c->bind[MATCH_NEAR].want, h, e, best);
            if (best[1] >= p->sinks && best[1] < a.before)
                cosine(c, h, t, best[1], &error);
            kept_check_bound(c, MATCH_NEAR, 2 * ((uint64_t)h * p->n_splits * p->row_cap + e),
                             2 * error);
        }
    }
}

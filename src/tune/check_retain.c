/* tune/check_retain.c: cases and bounds of slot_nearest and slot_merge.
 *
 * slot_nearest: how slots are shared among splits is free, so splits are brought to one: the best
 * of all, the lower slot of equals. A likeness is a sum of d products over a root: 4 sqrt(d) u of
 * their sizes. Another slot than the reference's is as good when its likeness, computed here in
 * double, differs by less than that but is not equal: of equals the lower one must be found.
 *
 * slot_merge: a weight w_e has the error of exp and of its argument; the merged value, a weighted
 * mean, moves by at most sum w_e r_e |v_e - v| / (1 + W), and its sum adds 4 sqrt(m) u.
 */
#include <math.h>
#include <string.h>

#include "tune/check_maintain.h"

static const uint32_t *moves_before(const struct check_case *c, uint32_t i_bind, uint32_t h)
{
    return c->bind[i_bind].before + (uint64_t)h * KEPT_MOVES_STRIDE(c->params.words[2]);
}

static void merge_params(struct check_case *c, const struct check_store *st)
{
    struct kept_merge_slots_params *p = &c->params.merge_slots;
    p->n_kv = st->n_kv;
    p->d = st->d;
    p->total = st->total;
    p->n_splits = c->model != NULL ? 8 : kept_check_range(c, 1, 9);
}

/* ---- slot_nearest ---- */

enum { NEAR_K, NEAR_META, NEAR_HEADS, NEAR_MOVES, NEAR_NEAR, NEAR_STEP };

void kept_keys_slot_nearest(struct check_case *c)
{
    kept_check_type_keys(c);
}

/* Keys that are each other's copies, that are zero, that are no number. */
static void odd_keys(struct check_case *c, const struct check_store *st, uint32_t h)
{
    double v[KEPT_MAX_HEAD_DIM], zero[KEPT_MAX_HEAD_DIM] = {0};
    struct ref_slots keys = c->bind[NEAR_K].slots;
    uint64_t first = st->head[h].first;
    uint32_t last = st->count[h] == 0 ? 0 : st->count[h] - 1;
    keys.words = c->bind[NEAR_K].before;
    for (uint32_t i = 0; st->count[h] != 0 && i < 40; i++) {
        ref_slot_load(&keys, first + kept_check_range(c, 0, last), v);
        ref_slot_store(&keys, first + kept_check_range(c, 0, last), v);
    }
    if (st->count[h] != 0 && kept_check_chance(c, 50))
        ref_slot_store(&keys, first + kept_check_range(c, 0, last), zero);
    if (st->count[h] != 0 && kept_check_chance(c, 10))
        for (uint32_t s = 0; s <= last; s++)
            ref_slot_store(&keys, first + s, zero);
    if (st->count[h] != 0 && kept_check_chance(c, 30))
        kept_check_spoil_slot(c, NEAR_K, first + kept_check_range(c, 0, last));
}

void kept_gen_slot_nearest(struct check_case *c)
{
    struct kept_merge_slots_params *p = &c->params.merge_slots;
    struct check_store st;
    kept_check_block(c, NEAR_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    merge_params(c, &st);
    kept_check_bind_store(c, NEAR_K, &st, kept_check_key(c, "KT"), kept_check_key(c, "ORDER"));
    kept_check_bind_meta(c, NEAR_META, &st, 2);
    kept_check_bind_moves(c, NEAR_MOVES, &st, NEAR_META, false);
    kept_check_bind_heads(c, NEAR_HEADS, &st);
    kept_check_bind(c, NEAR_NEAR, 2ull * p->n_kv * p->n_splits * p->row_cap);
    for (uint32_t h = 0; !c->failed && c->model == NULL && h < st.n_kv; h++)
        if (kept_check_chance(c, 30))
            odd_keys(c, &st, h);
    kept_check_spoil_moves(c, NEAR_MOVES, &st);
}

/* Likeness in double of two slots and how far f32 may be off; -3e38 as in params.h. */
static double likeness(const struct check_case *c, uint64_t evicted, uint64_t kept, double *error)
{
    double a[KEPT_MAX_HEAD_DIM], b[KEPT_MAX_HEAD_DIM], amp_a[KEPT_MAX_HEAD_DIM];
    double amp_b[KEPT_MAX_HEAD_DIM], dot = 0, size = 0, square = 0;
    uint32_t d = c->params.merge_slots.d;
    kept_check_slot(c, NEAR_K, evicted, a, amp_a);
    kept_check_slot(c, NEAR_K, kept, b, amp_b);
    for (uint32_t i = 0; i < d; i++) {
        dot += a[i] * b[i];
        size += amp_a[i] * amp_b[i];
        square += b[i] * b[i];
    }
    double like = dot / sqrt(square);
    *error = 0;
    if (square == 0 || !isfinite(like))
        return -3e38f;
    *error = size / sqrt(square) * (4 * sqrt(d) + 16) * CHECK_U +
             fabs(like) * (2 * sqrt(d) + 8) * CHECK_U + CHECK_TINY;
    return like;
}

/* What was found for evicted slot number e of a KV head. */
static void nearest_of(const struct check_case *c, const uint32_t *near, uint32_t h, uint32_t e,
                       uint32_t best[2])
{
    const struct kept_merge_slots_params *p = &c->params.merge_slots;
    kept_check_best_of_splits(near + 2 * (uint64_t)h * p->n_splits * p->row_cap, p->n_splits,
                              p->row_cap, e, best);
}

static void put_one_split(const struct check_case *c, uint32_t *near, uint32_t h, uint32_t e,
                          const uint32_t best[2])
{
    const struct kept_merge_slots_params *p = &c->params.merge_slots;
    for (uint32_t split = 0; split < p->n_splits; split++) {
        uint32_t *at = near + 2 * (((uint64_t)h * p->n_splits + split) * p->row_cap + e);
        at[0] = split == 0 ? best[0] : 0;
        at[1] = split == 0 ? best[1] : 0;
    }
}

/* Evicted slots of a KV head that have a result. */
static bool has_nearest(const struct check_case *c, uint32_t h, uint32_t e, struct ref_head *head)
{
    const uint32_t *moves = moves_before(c, NEAR_MOVES, h);
    *head = kept_check_head_before(c, NEAR_HEADS, h, c->params.merge_slots.total);
    return e < moves[KEPT_MOVES_LOST] && moves[KEPT_MOVES_LISTS + e] < head->cap;
}

/* Whether slot `other` is as good as `slot` for evicted slot number e. */
static bool as_good(const struct check_case *c, uint32_t h, uint32_t e, uint32_t slot,
                    uint32_t other)
{
    struct ref_head head = kept_check_head_before(c, NEAR_HEADS, h, c->params.merge_slots.total);
    const uint32_t *moves = moves_before(c, NEAR_MOVES, h);
    uint64_t evicted = (uint64_t)head.first + moves[KEPT_MOVES_LISTS + e];
    double error_a, error_b;
    if (other >= ref_min(moves[KEPT_MOVES_COUNT], head.cap) ||
        (int32_t)c->bind[NEAR_META].before[head.first + other] == KEPT_POS_GONE)
        return false;
    double a = likeness(c, evicted, (uint64_t)head.first + slot, &error_a);
    double b = likeness(c, evicted, (uint64_t)head.first + other, &error_b);
    return a != b && fabs(a - b) <= error_a + error_b;
}

void kept_canon_slot_nearest(const struct check_case *c, uint32_t *const *bind)
{
    const struct kept_merge_slots_params *p = &c->params.merge_slots;
    uint32_t *want = c->bind[NEAR_NEAR].want;
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++)
        for (uint32_t e = 0; e < p->row_cap; e++) {
            struct ref_head head;
            uint32_t best[2], right[2];
            if (!has_nearest(c, h, e, &head))
                continue;
            nearest_of(c, bind[NEAR_NEAR], h, e, best);
            if (bind[NEAR_NEAR] != want) { /* the reference's is brought to this form later */
                nearest_of(c, want, h, e, right);
                if (best[1] != right[1] && as_good(c, h, e, right[1], best[1]))
                    best[1] = right[1];
            }
            put_one_split(c, bind[NEAR_NEAR], h, e, best);
        }
}

void kept_bound_slot_nearest(struct check_case *c)
{
    const struct kept_merge_slots_params *p = &c->params.merge_slots;
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++)
        for (uint32_t e = 0; e < p->row_cap; e++) {
            struct ref_head head;
            uint32_t best[2];
            double error;
            if (!has_nearest(c, h, e, &head))
                continue;
            nearest_of(c, c->bind[NEAR_NEAR].want, h, e, best);
            likeness(c, (uint64_t)head.first + moves_before(c, NEAR_MOVES, h)[KEPT_MOVES_LISTS + e],
                     (uint64_t)head.first + best[1], &error);
            kept_check_bound(c, NEAR_NEAR, 2 * ((uint64_t)h * p->n_splits * p->row_cap + e),
                             2 * error);
        }
}

/* ---- slot_merge ---- */

enum { MRG_V, MRG_META, MRG_SCORES, MRG_HEADS, MRG_MOVES, MRG_NEAR, MRG_STEP };

void kept_keys_slot_merge(struct check_case *c)
{
    kept_check_type_keys(c);
}

/* A kept slot of the head; UINT32_MAX when there is none. */
static uint32_t pick_kept(struct check_case *c, const struct check_store *st, uint32_t h,
                          uint32_t among)
{
    const uint32_t *pos = c->bind[MRG_META].before + st->head[h].first;
    uint32_t n = st->count[h];
    for (uint32_t i = 0, s = n == 0 ? 0 : kept_check_range(c, 0, among - 1) % n; i < n; i++) {
        if ((int32_t)pos[s] != KEPT_POS_GONE)
            return s;
        s = s + 1 < n ? s + 1 : 0;
    }
    return UINT32_MAX;
}

/* The nearest slots of a head's evicted ones as slot_nearest might have found them: in some split
 * the best, in the others less, none, or an equal one of a higher number. */
static void fill_near(struct check_case *c, const struct check_store *st, uint32_t h)
{
    const struct kept_merge_slots_params *p = &c->params.merge_slots;
    uint32_t *near = c->bind[MRG_NEAR].before + 2ull * h * p->n_splits * p->row_cap;
    uint32_t among = kept_check_chance(c, 40) ? kept_check_range(c, 1, 4) : 4096;
    uint32_t m = moves_before(c, MRG_MOVES, h)[KEPT_MOVES_LOST];
    for (uint32_t e = 0; e < m && e < p->row_cap; e++) {
        uint32_t right = kept_check_range(c, 0, p->n_splits - 1), kind = kept_check_range(c, 0, 19);
        float like = 5 * kept_check_unit(c);
        for (uint32_t split = 0; split < p->n_splits; split++) {
            uint32_t slot = pick_kept(c, st, h, among);
            float value = split == right || kept_check_chance(c, 10) ? like : like - 1;
            if (kind == 0 || slot == UINT32_MAX || (split != right && kept_check_chance(c, 20))) {
                value = -INFINITY; /* no kept slot in this split */
                slot = 0;
            } else if (kind == 1) {
                value = -3e38f;
            } else if (kind == 2 && split == right) {
                slot = kept_check_chance(c, 50) ? UINT32_MAX : st->head[h].cap;
            }
            memcpy(&near[2 * (split * p->row_cap + e)], &value, 4);
            near[2 * (split * p->row_cap + e) + 1] = slot;
        }
    }
}

/* Logarithms of weights: ordinary, of every size, none. */
static float log_weight(struct check_case *c)
{
    switch (kept_check_range(c, 0, 39)) {
    case 0:
        return -INFINITY;
    case 1:
        return NAN;
    case 2:
        return 120 * kept_check_unit(c);
    default:
        return 5 * kept_check_unit(c);
    }
}

void kept_gen_slot_merge(struct check_case *c)
{
    struct kept_merge_slots_params *p = &c->params.merge_slots;
    struct check_store st;
    kept_check_block(c, MRG_STEP, &st);
    if (c->failed)
        return;
    kept_check_extents(c, &st);
    merge_params(c, &st);
    kept_check_bind_store(c, MRG_V, &st, kept_check_key(c, "VT"), REF_ROWS);
    kept_check_bind_meta(c, MRG_META, &st, 2);
    kept_check_bind_moves(c, MRG_MOVES, &st, MRG_META, false);
    kept_check_bind_heads(c, MRG_HEADS, &st);
    float *scores = kept_check_bind_f32(c, MRG_SCORES, 2ull * p->total);
    kept_check_bind(c, MRG_NEAR, 2ull * p->n_kv * p->n_splits * p->row_cap);
    for (uint32_t h = 0; !c->failed && h < p->n_kv; h++) {
        for (uint32_t s = st.head[h].first; s < st.head[h].first + st.count[h]; s++) {
            scores[s] = kept_check_unit(c);
            scores[p->total + s] = c->model != NULL ? 0 : log_weight(c);
        }
        fill_near(c, &st, h);
        if (c->model == NULL && st.count[h] != 0 && kept_check_chance(c, 10))
            kept_check_spoil_slot(
                c, MRG_V, (uint64_t)st.head[h].first + kept_check_range(c, 0, st.count[h] - 1));
    }
}

/* What one kept slot takes over. */
struct taken {
    double v[KEPT_MAX_HEAD_DIM], error[KEPT_MAX_HEAD_DIM];
    double total, off; /* W and its error */
};

static void take(const struct check_case *c, const struct ref_head *head, uint32_t h, uint32_t r,
                 struct taken *t)
{
    const struct kept_merge_slots_params *p = &c->params.merge_slots;
    const uint32_t *moves = moves_before(c, MRG_MOVES, h);
    const float *weight =
        (const float *)(const void *)c->bind[MRG_SCORES].before + p->total + head->first;
    double v[KEPT_MAX_HEAD_DIM], amp[KEPT_MAX_HEAD_DIM], size[KEPT_MAX_HEAD_DIM];
    kept_check_slot(c, MRG_V, (uint64_t)head->first + r, t->v, size);
    t->total = t->off = 0;
    for (uint32_t i = 0; i < p->d; i++)
        t->error[i] = 0;
    for (uint32_t e = 0; e < moves[KEPT_MOVES_LOST]; e++) {
        uint32_t best[2], slot = moves[KEPT_MOVES_LISTS + e];
        float like;
        nearest_of(c, c->bind[MRG_NEAR].before, h, e, best);
        memcpy(&like, best, 4);
        double by = (double)weight[slot] - weight[r], w = exp(by);
        if (best[1] != r || !(like > -INFINITY) || isnan(w))
            continue;
        w = w < 1e4 ? w : 1e4;
        double relative =
            kept_check_exp_bound(fabs(by)) + 2 * CHECK_U * (fabs(weight[slot]) + fabs(weight[r]));
        if (!(relative < 1)) /* infinite: 0 or the limit, exactly */
            relative = 0;
        kept_check_slot(c, MRG_V, (uint64_t)head->first + slot, v, amp);
        for (uint32_t i = 0; i < p->d; i++) {
            t->v[i] += w * v[i];
            size[i] += w * amp[i];
            t->error[i] += w * relative * fabs(v[i]);
        }
        t->total += w;
        t->off += w * relative + CHECK_TINY;
    }
    double unit = (4 * sqrt(moves[KEPT_MOVES_LOST]) + 8) * CHECK_U;
    for (uint32_t i = 0; i < p->d; i++) {
        t->v[i] /= 1 + t->total;
        t->error[i] =
            (t->error[i] + size[i] * unit + t->off * fabs(t->v[i])) / (1 + t->total) + CHECK_TINY;
    }
    t->off += t->total * unit;
}

static void bound_taken(struct check_case *c, const struct ref_head *head, uint32_t h, uint32_t r)
{
    const struct kept_merge_slots_params *p = &c->params.merge_slots;
    uint64_t slot = (uint64_t)head->first + r;
    struct taken t;
    bool finite = true;
    take(c, head, h, r, &t);
    for (uint32_t i = 0; i < p->d; i++)
        finite = finite && isfinite(t.v[i]);
    if (finite)
        kept_check_bound_slot(c, MRG_V, slot, t.v, t.error);
    else
        kept_check_loose(c, MRG_V, slot * p->d, p->d);
    double relative = t.off / (1 + t.total), grown = log(1 + t.total);
    double of_log = relative + fmax(4 * CHECK_U * grown, 4.8e-7);
    double bias = kept_check_want(c, MRG_META, p->total + slot);
    double weight = kept_check_want(c, MRG_SCORES, p->total + slot);
    double score = kept_check_want(c, MRG_SCORES, slot);
    kept_check_bound(c, MRG_META, p->total + slot, of_log + 2 * CHECK_U * fabs(bias));
    kept_check_bound(c, MRG_SCORES, p->total + slot,
                     isfinite(weight) ? of_log + 2 * CHECK_U * fabs(weight) : 1);
    kept_check_bound(c, MRG_SCORES, slot, fabs(score) * (relative + 4 * CHECK_U) + CHECK_TINY);
}

void kept_bound_slot_merge(struct check_case *c)
{
    const struct kept_merge_slots_params *p = &c->params.merge_slots;
    for (uint32_t h = 0; kept_check_maintains(c) && h < p->n_kv; h++) {
        struct ref_head head = kept_check_head_before(c, MRG_HEADS, h, p->total);
        const uint32_t *moves = moves_before(c, MRG_MOVES, h);
        for (uint32_t e = 0; e < moves[KEPT_MOVES_LOST]; e++) {
            uint32_t best[2];
            float like;
            nearest_of(c, c->bind[MRG_NEAR].before, h, e, best);
            memcpy(&like, best, 4);
            if (like > -INFINITY && best[1] < head.cap)
                bound_taken(c, &head, h, best[1]);
        }
    }
}

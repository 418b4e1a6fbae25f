/* kernel/ref/ref_assoc.c: references of associative memory: keys turned back, the slot most like a
 * token that leaves the window, and the averages of those that are alike.
 */
#include "kernel/ref/ref.h"

#include <math.h>
#include <string.h>

#include "kernel/ref/ref_maintain.h"

/* One KV head of a call. */
struct assoc {
    const struct kept_assoc_params *p;
    struct ref_block block;
    struct ref_head head;
    uint32_t c, from; /* where the window begins; the first slot that leaves it */
    bool idle;        /* no sub-batches */
    int64_t begin;    /* T: where the sub-batch begins, may be negative */
    struct ref_slots k, v;
    struct ref_rope rope;
    int32_t *pos, *stamp; /* planes, from the head's slot 0 on; so are the following */
    float *bias, *count, *frac, *score, *weight;
    float *raw;           /* of the head */
    const uint32_t *near; /* of the head */
};

/* Head `h` of the call: meta planes, counts; what needs other bindings the caller fills in. */
static void take_head(struct assoc *a, uint32_t h, const uint8_t *heads, uint8_t *meta)
{
    const struct kept_assoc_params *p = a->p;
    a->head = ref_head_at((const uint32_t *)heads, h, p->total);
    uint32_t count = ref_min(ref_head_count(&a->head, a->block.end), p->raw_stride);
    a->idle = p->only_over == 1 && count <= a->head.budget;
    a->c = count > p->window ? count - p->window : 0;
    a->from = a->c > a->block.block ? a->c - a->block.block : 0;
    a->from = a->from > p->sinks ? a->from : p->sinks;
    a->begin = (int64_t)a->c - a->block.block + (int64_t)KEPT_ASSOC_SUB * p->sub;
    a->pos = (int32_t *)meta + a->head.first;
    a->bias = (float *)meta + p->total + a->head.first;
    a->count = (float *)meta + (uint64_t)KEPT_ASSOC_COUNT * p->total + a->head.first;
    a->frac = (float *)meta + (uint64_t)KEPT_ASSOC_FRAC * p->total + a->head.first;
    a->stamp = (int32_t *)meta + (uint64_t)KEPT_ASSOC_STAMP * p->total + a->head.first;
}

static float *raw_at(const struct assoc *a, uint32_t slot, uint32_t i)
{
    return a->raw + ((uint64_t)(slot / 16) * a->p->d + i) * 16 + slot % 16;
}

static struct ref_rope rope_of(const struct kept_assoc_params *p, const uint8_t *table)
{
    return (struct ref_rope){.table = (const float *)table,
                             .table_bytes = (uint64_t)p->mean_row * p->n_rot * 4,
                             .n_rot = p->n_rot,
                             .pairs = p->rope_pairs,
                             .hi_bias = p->hi_bias};
}

/* By the conjugate of the position's rotation. */
static void turn_back(const struct ref_rope *rope, int64_t position, double *v)
{
    if (rope->pairs == KEPT_ROPE_NONE || !ref_rope_has(rope, position))
        return;
    for (uint32_t i = 0; i < rope->n_rot / 2; i++) {
        uint32_t at_a, at_b;
        double c, s;
        ref_rope_pair(rope, i, &at_a, &at_b);
        ref_rope_angle(rope, position, i, &c, &s);
        double x = v[at_a], y = v[at_b];
        v[at_a] = x * c + y * s;
        v[at_b] = y * c - x * s;
    }
}

void ref_assoc_raw(const struct kept_host_call *call)
{
    const struct kept_assoc_params *p = call->params;
    double k[KEPT_MAX_HEAD_DIM];
    struct assoc a = {
        .p = p,
        .k = {(uint32_t *)call->bind[0], call->keys[KEPT_KEY_SCORE_KT], call->keys[KEPT_KEY_ORDER],
              p->d},
        .rope = rope_of(p, call->bind[2]),
    };
    if (p->d > KEPT_MAX_HEAD_DIM || !ref_block_of(p, (const uint32_t *)call->bind[5], &a.block))
        return;
    for (uint32_t h = 0; h < p->n_kv; h++) {
        take_head(&a, h, call->bind[3], call->bind[1]);
        a.raw = (float *)call->bind[4] + (uint64_t)h * p->raw_stride * p->d;
        for (uint32_t s = p->sinks; s < a.c; s++) {
            ref_slot_load(&a.k, (uint64_t)a.head.first + s, k);
            if (a.k.type != KEPT_FMT_F16)
                ref_hadamard(k, p->d);
            turn_back(&a.rope, a.pos[s], k);
            for (uint32_t i = 0; i < p->d; i++)
                *raw_at(&a, s, i) = (float)k[i];
            if (s < a.from)
                continue;
            a.count[s] = 1;
            a.frac[s] = 0;
            a.stamp[s] = (int32_t)a.block.end;
        }
    }
}

static float cosine(const struct assoc *a, uint32_t t, uint32_t s)
{
    double dot = 0, tt = 0, ss = 0;
    for (uint32_t i = 0; i < a->p->d; i++) {
        double x = *raw_at(a, t, i), y = *raw_at(a, s, i);
        dot += x * y;
        tt += x * x;
        ss += y * y;
    }
    double like = dot / (sqrt(tt) * sqrt(ss));
    return isfinite(like) ? (float)like : -3e38f;
}

/* The tokens of the sub-batch: slots … to below the one returned. */
static uint32_t tokens_of(const struct assoc *a, uint32_t *first)
{
    int64_t end = a->begin + KEPT_ASSOC_SUB;
    *first = a->begin > a->p->sinks ? (uint32_t)a->begin : a->p->sinks;
    return !a->idle && end > *first && end <= a->c ? (uint32_t)end : *first;
}

void ref_assoc_match(const struct kept_host_call *call)
{
    const struct kept_assoc_params *p = call->params;
    struct assoc a = {.p = p};
    if (p->d > KEPT_MAX_HEAD_DIM || !ref_block_of(p, (const uint32_t *)call->bind[4], &a.block))
        return;
    for (uint32_t i = 0; i < p->n_kv * p->n_splits; i++) {
        uint32_t h = i / p->n_splits, split = i % p->n_splits, first;
        take_head(&a, h, call->bind[2], call->bind[1]);
        a.raw = (float *)call->bind[0] + (uint64_t)h * p->raw_stride * p->d;
        uint32_t *near = (uint32_t *)call->bind[3] + 2 * (uint64_t)i * a.block.block;
        uint32_t end = tokens_of(&a, &first), before = a.begin > 0 ? (uint32_t)a.begin : 0;
        uint64_t n_tiles = ((uint64_t)before + 15) / 16;
        uint32_t s0 = (uint32_t)(n_tiles * split / p->n_splits) * 16;
        uint32_t s1 = ref_min((uint32_t)(n_tiles * (split + 1) / p->n_splits) * 16, before);
        for (uint32_t t = first; t < end; t++) {
            float best = -INFINITY;
            uint32_t slot = 0;
            for (uint32_t s = s0 > p->sinks ? s0 : p->sinks; s < s1; s++) {
                float like = a.pos[s] == KEPT_POS_GONE ? -INFINITY : cosine(&a, t, s);
                if (like > best) {
                    best = like;
                    slot = s;
                }
            }
            uint32_t at = 2 * (KEPT_ASSOC_SUB * p->sub + (uint32_t)(t - a.begin));
            memcpy(near + at, &best, sizeof best);
            near[at + 1] = slot;
        }
    }
}

/* ---- consolidation ---- */

/* The slot that token t goes into; CAP when it stays. */
static uint32_t target_of(const struct assoc *a, uint32_t t)
{
    uint32_t at = KEPT_ASSOC_SUB * a->p->sub + (uint32_t)(t - a->begin), slot = a->head.cap;
    float best = -INFINITY;
    for (uint32_t split = 0; split < a->p->n_splits; split++) {
        const uint32_t *near = a->near + 2 * ((uint64_t)split * a->block.block + at);
        float like;
        memcpy(&like, near, sizeof like);
        if (like > best || (like == best && like > -INFINITY && near[1] < slot)) {
            best = like;
            slot = near[1];
        }
    }
    bool hit = best >= a->p->threshold && slot >= a->p->sinks && slot < a->begin;
    return hit ? slot : a->head.cap;
}

static bool has_position(const struct assoc *a, int32_t pos)
{
    return pos > -(1 << 24) && pos < 1 << 24 && ref_rope_has(&a->rope, pos);
}

/* Tokens that a slot stands for. */
static double count_of(float count)
{
    return count >= 1 ? fmin(count, 1 << 24) : 1;
}

static void store_key(const struct assoc *a, uint32_t r, double *k)
{
    if (a->rope.pairs != KEPT_ROPE_NONE && ref_rope_has(&a->rope, a->pos[r]))
        ref_rope_turn(&a->rope, a->pos[r], k);
    if (a->k.type != KEPT_FMT_F16)
        ref_hadamard(k, a->p->d);
    ref_slot_store(&a->k, (uint64_t)a->head.first + r, k);
}

/* Every token of [t, end) whose target is r, t the first of them. */
static void consolidate(const struct assoc *a, uint32_t r, uint32_t t, uint32_t end, uint32_t form)
{
    double k[KEPT_MAX_HEAD_DIM], v[KEPT_MAX_HEAD_DIM], x[KEPT_MAX_HEAD_DIM], n = 0, moved = 0;
    double c = count_of(a->count[r]), frac = fabs(a->frac[r]) <= 1 ? a->frac[r] : 0;
    ref_slot_load(&a->v, (uint64_t)a->head.first + r, v);
    for (uint32_t i = 0; i < a->p->d; i++) {
        k[i] = c * *raw_at(a, r, i);
        v[i] *= c;
    }
    for (; t < end; t++) {
        if (target_of(a, t) != r)
            continue;
        ref_slot_load(&a->v, (uint64_t)a->head.first + t, x);
        for (uint32_t i = 0; i < a->p->d; i++) {
            k[i] += *raw_at(a, t, i);
            v[i] += x[i];
        }
        if (has_position(a, a->pos[t]) && has_position(a, a->pos[r]))
            moved += (double)a->pos[t] - a->pos[r];
        n++;
        a->pos[t] = KEPT_POS_GONE;
        a->weight[t] = -INFINITY;
    }
    for (uint32_t i = 0; i < a->p->d; i++) {
        k[i] /= c + n;
        v[i] /= c + n;
        *raw_at(a, r, i) = (float)k[i];
    }
    if (form == 0) {
        double delta = (c * frac + moved) / (c + n), whole = floor(delta + 0.5);
        double gain = log((c + n) / c);
        a->pos[r] = (int32_t)((uint32_t)a->pos[r] + (uint32_t)(int32_t)whole);
        a->frac[r] = (float)(delta - whole);
        a->bias[r] = (float)(a->bias[r] + gain);
        a->weight[r] = (float)(a->weight[r] + gain);
        a->score[r] = (float)(a->score[r] * ((c + n) / c));
    } else {
        a->score[r] = (float)a->block.end;
    }
    a->count[r] = (float)(c + n);
    a->stamp[r] = (int32_t)a->block.end;
    ref_slot_store(&a->v, (uint64_t)a->head.first + r, v);
    store_key(a, r, k);
}

void ref_assoc_write(const struct kept_host_call *call)
{
    const struct kept_assoc_params *p = call->params;
    uint32_t form = call->keys[KEPT_KEY_ASSOC_FORM], first;
    struct assoc a = {
        .p = p,
        .k = {(uint32_t *)call->bind[0], call->keys[KEPT_KEY_SCORE_KT], call->keys[KEPT_KEY_ORDER],
              p->d},
        .v = {(uint32_t *)call->bind[1], call->keys[KEPT_KEY_SCORE_VT], REF_ROWS, p->d},
        .rope = rope_of(p, call->bind[5]),
    };
    if (p->d > KEPT_MAX_HEAD_DIM || !ref_block_of(p, (const uint32_t *)call->bind[8], &a.block))
        return;
    for (uint32_t h = 0; h < p->n_kv; h++) {
        take_head(&a, h, call->bind[6], call->bind[2]);
        a.score = (float *)call->bind[3] + a.head.first;
        a.weight = a.score + p->total;
        a.raw = (float *)call->bind[4] + (uint64_t)h * p->raw_stride * p->d;
        a.near = (const uint32_t *)call->bind[7] + 2 * (uint64_t)h * p->n_splits * a.block.block;
        uint32_t end = tokens_of(&a, &first);
        for (uint32_t t = first; t < end; t++) {
            uint32_t r = target_of(&a, t), earlier = first;
            while (earlier < t && target_of(&a, earlier) != r)
                earlier++;
            if (r == a.head.cap && form == 1)
                a.score[t] = (float)a.block.end;
            else if (r != a.head.cap && earlier == t)
                consolidate(&a, r, t, end, form);
        }
    }
}

/* kernel/ref/ref_select.c: references of slot_select (scores, the slots that go, the tables of
 * moves) and of slot_renumber.
 */
#include "kernel/ref/ref.h"

#include <math.h>
#include <string.h>

#include "kernel/ref/ref_maintain.h"

/* One KV head of a slot_select call. */
struct select {
    const struct kept_select_params *p;
    uint32_t scorer;
    struct ref_block block;
    struct ref_head head;
    uint32_t count, c, m;  /* slots, where the window begins, slots to go */
    const float *z;        /* rows of the KV head */
    float *stats;          /* of its first query head */
    float *score, *weight; /* from its slot 0 on */
    int32_t *pos;
    float *bias;
};

/* Consolidated before: goes whatever the budget. */
static bool is_gone(const struct select *s, uint32_t i)
{
    return i >= s->p->sinks && i < s->c && s->pos[i] == KEPT_POS_GONE;
}

/* ---- scores of expected attention ---- */

/* top and lse of a query head over all slots. */
static void sum_up(const struct select *s, uint32_t g)
{
    const float *z = s->z + (uint64_t)g * s->p->z_stride;
    float *stats = s->stats + (uint64_t)g * KEPT_STATS_STRIDE(s->p->d);
    double top = -INFINITY, most = -INFINITY, sum = 0;
    bool apart = s->p->apart == 1;
    uint32_t from = apart ? s->p->sinks : 0, end = apart ? s->c : s->count;
    for (uint32_t i = 0; i < s->count; i++)
        top = is_gone(s, i) ? top : fmax(top, z[i]);
    for (uint32_t i = from; i < end; i++)
        most = is_gone(s, i) ? most : fmax(most, (double)z[i] + (apart ? 0 : s->bias[i]));
    for (uint32_t i = from; i < end; i++)
        sum += is_gone(s, i) ? 0 : exp((double)z[i] + (apart ? 0 : s->bias[i]) - most);
    stats[KEPT_STATS_TOP(s->p->d)] = (float)top;
    stats[KEPT_STATS_LSE(s->p->d)] = (float)(most + log(sum));
}

/* What slots stand for besides themselves. */
static void fade(const struct select *s)
{
    for (uint32_t i = s->p->sinks; i < s->c && s->p->keep < 1; i++)
        s->bias[i] = (float)log1p(expm1(s->bias[i]) * s->p->keep);
}

static void score_expected(const struct select *s)
{
    const struct kept_select_params *p = s->p;
    uint32_t group = p->n_head / p->n_kv;
    uint32_t from = ref_score_from(&s->block, &s->head, s->count, p->window, p->refresh);
    if (from == 0)
        fade(s);
    for (uint32_t g = 0; from == 0 && g < group; g++)
        sum_up(s, g);
    for (uint32_t i = from; i < s->count; i++) {
        if (is_gone(s, i))
            continue;
        double mean = 0, sum = 0, bias = s->bias[i];
        for (uint32_t g = 0; g < group; g++) {
            const float *stats = s->stats + (uint64_t)g * KEPT_STATS_STRIDE(p->d);
            double z = s->z[(uint64_t)g * p->z_stride + i];
            mean += exp(z + bias - stats[KEPT_STATS_LSE(p->d)]) / group;
            sum += exp(z - stats[KEPT_STATS_TOP(p->d)]);
        }
        s->score[i] = (float)(mean * s->z[(uint64_t)group * p->z_stride + i]);
        s->weight[i] = (float)(log(sum) + bias);
    }
}

/* ---- the lowest ---- */

static double rank_of(const struct select *s, uint32_t i)
{
    if (s->scorer == KEPT_SCORER_RECENT)
        return s->pos[i];
    return s->scorer == KEPT_SCORER_DIRECT ? s->z[i] : s->score[i];
}

/* Of two slots the one that goes first; a is the lower slot. */
static bool goes_first(double a, double b)
{
    return isnan(a) || a <= b;
}

/* Consolidated slots before those whose rank is no number. */
static bool comes_before(const struct select *s, uint32_t a, double rank_a, uint32_t b,
                         double rank_b)
{
    if (is_gone(s, a) != is_gone(s, b))
        return is_gone(s, a);
    return is_gone(s, a) || goes_first(rank_a, rank_b);
}

/* The m slots that go, ascending, and which of them were consolidated. */
static void choose(const struct select *s, uint32_t *evicted, bool *gone)
{
    double rank[KEPT_MAX_BLOCK];
    uint32_t slot[KEPT_MAX_BLOCK], n = 0; /* in the order of going */
    for (uint32_t i = s->p->sinks; i < s->c; i++) {
        double r = rank_of(s, i);
        uint32_t at = n;
        while (at > 0 && !comes_before(s, slot[at - 1], rank[at - 1], i, r))
            at--;
        if (at == s->m)
            continue;
        n = ref_min(n + 1, s->m);
        memmove(rank + at + 1, rank + at, (n - at - 1) * sizeof *rank);
        memmove(slot + at + 1, slot + at, (n - at - 1) * sizeof *slot);
        rank[at] = r;
        slot[at] = i;
    }
    for (uint32_t i = s->p->sinks; i < s->c && n > 0; i++)
        for (uint32_t j = 0; j < n; j++)
            if (slot[j] == i) {
                *gone++ = is_gone(s, i);
                *evicted++ = i;
            }
    for (uint32_t i = 0; i < n; i++)
        s->pos[slot[i]] = KEPT_POS_GONE;
}

/* Leaves out what was consolidated; returns how many are left. */
static uint32_t keep_lost(uint32_t *evicted, const bool *gone, uint32_t m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m; i++)
        if (!gone[i])
            evicted[n++] = evicted[i];
    for (uint32_t i = n; i < m; i++)
        evicted[i] = 0;
    return n;
}

/* Which kept slots of C-m … C-1 go where; returns how many. */
static uint32_t fill(const struct select *s, const uint32_t *evicted, uint32_t *from, uint32_t *to)
{
    uint32_t end = s->c - s->m, next = end, gone = 0, n = 0;
    while (gone < s->m && evicted[gone] < end)
        gone++; /* of the evicted ones, these are filled */
    for (uint32_t behind = gone; next < s->c; next++) {
        if (behind < s->m && evicted[behind] == next) {
            behind++;
            continue;
        }
        from[n] = next;
        to[n] = evicted[n];
        n++;
    }
    return n;
}

/* How many go whatever the budget: by DMS or consolidated. */
static uint32_t flagged(const struct select *s)
{
    uint32_t n = 0;
    for (uint32_t i = s->p->sinks; i < s->c; i++)
        n += is_gone(s, i) || (s->scorer == KEPT_SCORER_DMS && !(s->score[i] >= 0));
    return n;
}

static void select_head(struct select *s, uint32_t *head, uint32_t *moves)
{
    const struct kept_select_params *p = s->p;
    uint32_t block = s->block.block, *evicted = moves + KEPT_MOVES_LISTS;
    uint32_t over = s->count > s->head.budget ? s->count - s->head.budget : 0;
    s->c = s->count > p->window ? s->count - p->window : 0;
    bool scored = over > 0 && s->scorer == KEPT_SCORER_EXPECTED;
    uint32_t consolidated = 0, first = flagged(s);
    for (uint32_t i = p->sinks; i < s->c; i++)
        consolidated += is_gone(s, i);
    over = over > first ? over : first;
    s->m = ref_min(ref_min(over, block), s->c > p->sinks ? s->c - p->sinks : 0);
    memset(moves, 0, KEPT_MOVES_STRIDE(block) * sizeof *moves);
    if (s->m > 0 && scored) {
        score_expected(s);
        head[KEPT_HEAD_SCORED] = 1;
    }
    if (s->m > 0) {
        bool gone[KEPT_MAX_BLOCK];
        choose(s, evicted, gone);
        moves[KEPT_MOVES_FILLS] = fill(s, evicted, evicted + block, evicted + 2 * block);
        moves[KEPT_MOVES_LOST] = keep_lost(evicted, gone, s->m);
    }
    moves[KEPT_MOVES_M] = s->m;
    moves[KEPT_MOVES_COUNT] = s->count;
    moves[KEPT_MOVES_C] = s->c;
    head[KEPT_HEAD_BASE] = s->count - s->m;
    head[KEPT_HEAD_EDGE] = (uint32_t)s->block.end;
    head[KEPT_HEAD_EVICTED] += s->m;
    head[KEPT_HEAD_CONSOLIDATED] += consolidated;
    if (p->limit > 0 && s->block.end + block - s->head.shift > p->limit) {
        uint32_t most = (uint32_t)s->block.end - (uint32_t)s->head.shift - head[KEPT_HEAD_BASE];
        moves[KEPT_MOVES_ROTATE] = ref_min(most, p->limit / 2);
        head[KEPT_HEAD_SHIFT] = (uint32_t)s->head.shift + moves[KEPT_MOVES_ROTATE];
    }
}

void ref_slot_select(const struct kept_host_call *call)
{
    const struct kept_select_params *p = call->params;
    struct select s = {.p = p, .scorer = call->keys[KEPT_KEY_SELECT_SCORER]};
    uint32_t *heads = (uint32_t *)call->bind[4], group = p->n_head / p->n_kv;
    if (!ref_block_of(p, (const uint32_t *)call->bind[6], &s.block))
        return;
    for (uint32_t h = 0; h < p->n_kv; h++) {
        s.head = ref_head_at(heads, h, p->total);
        s.count = ref_head_count(&s.head, s.block.end);
        if (s.scorer <= KEPT_SCORER_DIRECT)
            s.count = ref_min(s.count, p->z_stride);
        s.z = (const float *)call->bind[0] + (uint64_t)h * (group + 1) * p->z_stride;
        s.stats = (float *)call->bind[1] + (uint64_t)h * group * KEPT_STATS_STRIDE(p->d);
        s.score = (float *)call->bind[2] + s.head.first;
        s.weight = s.score + p->total;
        s.pos = (int32_t *)call->bind[3] + s.head.first;
        s.bias = (float *)call->bind[3] + p->total + s.head.first;
        select_head(&s, heads + (uint64_t)h * KEPT_HEAD_WORDS,
                    (uint32_t *)call->bind[5] + (uint64_t)h * KEPT_MOVES_STRIDE(s.block.block));
    }
}

/* ---- compact positions ---- */

/* The memory at the position before the window. */
static void put_at_one(const struct kept_rotate_params *p, const struct ref_block *b,
                       const struct ref_head *head, const int32_t *pos, uint32_t *z, uint32_t n)
{
    for (uint32_t s = 0; s < n; s++) {
        bool memory = s >= p->sinks && (uint64_t)s + p->window < head->base;
        z[s] = memory ? (uint32_t)(b->end - p->window - 1) : (uint32_t)pos[s];
    }
}

void ref_slot_renumber(const struct kept_host_call *call)
{
    const struct kept_rotate_params *p = call->params;
    const int32_t *meta = (const int32_t *)call->bind[0];
    struct ref_block b;
    if (!ref_block_of(p, (const uint32_t *)call->bind[4], &b))
        return;
    for (uint32_t h = 0; h < p->n_kv; h++) {
        const uint32_t *moves =
            (const uint32_t *)call->bind[2] + (uint64_t)h * KEPT_MOVES_STRIDE(b.block);
        struct ref_head head = ref_head_at((const uint32_t *)call->bind[1], h, p->total);
        uint32_t n = ref_with_after(&b, ref_min(head.base, head.cap), head.cap);
        n = ref_min(n, p->z_stride);
        uint32_t *z = (uint32_t *)call->bind[3] + (uint64_t)h * p->z_head_stride;
        const int32_t *pos = meta + head.first;
        if (call->keys[KEPT_KEY_RENUMBER_ALWAYS] == 1) {
            put_at_one(p, &b, &head, pos, z, n);
            continue;
        }
        int64_t turn = ref_min(moves[KEPT_MOVES_ROTATE], 1u << 30);
        for (uint32_t s = 0; turn && s < n; s++) {
            int64_t rank = 0;
            for (uint32_t other = 0; other < n; other++)
                rank += pos[other] < pos[s];
            z[s] = (uint32_t)(pos[s] - turn > rank ? pos[s] - turn : rank);
        }
    }
}

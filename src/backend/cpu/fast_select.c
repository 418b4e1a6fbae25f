/* backend/cpu/fast_select.c: slot_select and slot_renumber.
 *
 * A KV head is one item. Scores are made 16 slots at a time. The m-th lowest rank is found digit by
 * digit of 8 bits (ranks as words of the same order), which needs no memory for the ranks: four
 * passes count, the fifth takes what is below, and of equals the first ones.
 */
#include <math.h>

#include "backend/cpu/fast.h"
#include "backend/cpu/fast_slots.h"
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
    bool any_gone; /* some are consolidated */
};

/* ---- consolidated slots ---- */

/* Slot i is consolidated: it goes whatever the budget. */
SIMD_INLINE bool is_gone(const struct select *s, uint32_t i)
{
    return i >= s->p->sinks && i < s->c && s->pos[i] == KEPT_POS_GONE;
}

/* The lanes of slots i … i + 15 that are consolidated. */
static vm gone_lanes(const struct select *s, uint32_t i)
{
    vi slots = vi_add(vi_iota(), vi_set(i)); /* behind pos there is bias */
    vm among = vm_and(vm_le(vi_set(s->p->sinks), slots), vm_lt(slots, vi_set(s->c)));
    return vm_and(among, vm_le(vi_load(s->pos + i), vi_set((uint32_t)KEPT_POS_GONE)));
}

/* ---- scores of expected attention ---- */

/* 16 floats from p of which `n` exist; the others are `fill`. */
static vf load_some(const float *p, uint32_t n, float fill)
{
    float lanes[16];
    if (n >= 16)
        return vf_load(p);
    for (uint32_t r = 0; r < 16; r++)
        lanes[r] = r < n ? p[r] : fill;
    return vf_load(lanes);
}

static void store_some(float *p, uint32_t n, vf v)
{
    float lanes[16];
    vf_store(lanes, v);
    memcpy(p, lanes, (n < 16 ? n : 16) * sizeof *p);
}

/* z, with biases where bias is not NULL, of slots i … i + 15 below `end`; of others and of
 * consolidated ones -infinity. */
static vf load_z(const struct select *s, const float *z, const float *bias, uint32_t i,
                 uint32_t end)
{
    vf x = load_some(z + i, end - i, -INFINITY);
    if (bias != NULL)
        x = vf_add(x, load_some(bias + i, end - i, 0));
    return s->any_gone ? vf_select(gone_lanes(s, i), vf_set(-INFINITY), x) : x;
}

/* top and lse of a query head over all slots. */
static void sum_up(const struct select *s, uint32_t g)
{
    const float *z = s->z + (size_t)g * s->p->z_stride;
    float *stats = s->stats + (size_t)g * KEPT_STATS_STRIDE((size_t)s->p->d);
    vf top = vf_set(-INFINITY), most = top, sum = vf_set(0);
    bool apart = s->p->apart == 1;
    const float *bias = apart ? NULL : s->bias;
    uint32_t from = apart ? s->p->sinks : 0, end = apart ? s->c : s->count;
    for (uint32_t i = 0; i < s->count; i += 16)
        top = vf_max(load_z(s, z, NULL, i, s->count), top); /* NaN leaves it as it is */
    for (uint32_t i = from; i < end; i += 16)
        most = vf_max(load_z(s, z, bias, i, end), most);
    float high = vf_hmax(most);
    for (uint32_t i = from; i < end; i += 16)
        sum = vf_add(sum, vf_exp(vf_sub(load_z(s, z, bias, i, end), vf_set(high))));
    stats[KEPT_STATS_TOP(s->p->d)] = vf_hmax(top);
    stats[KEPT_STATS_LSE(s->p->d)] = high + logf(vf_hsum(sum));
}

/* Score and weight of 16 slots from slot i on. The weight's sum is taken relative to its largest
 * term, so that it never vanishes. */
static void score_tile(const struct select *s, uint32_t i)
{
    const struct kept_select_params *p = s->p;
    uint32_t group = p->n_head / p->n_kv, n = s->count - i;
    const float *z = s->z + i;
    vf bias = load_some(s->bias + i, n, 0), mean = vf_set(0), sum = mean, most = vf_set(-3e38f);
    for (uint32_t g = 0; g < group; g++) {
        const float *stats = s->stats + (size_t)g * KEPT_STATS_STRIDE((size_t)p->d);
        vf x = load_some(z + (size_t)g * p->z_stride, n, 0);
        vf lse = vf_set(stats[KEPT_STATS_LSE(p->d)]), top = vf_set(stats[KEPT_STATS_TOP(p->d)]);
        mean = vf_add(mean, vf_exp(vf_sub(vf_add(x, bias), lse)));
        most = vf_max(vf_sub(x, top), most);
    }
    for (uint32_t g = 0; g < group; g++) {
        const float *stats = s->stats + (size_t)g * KEPT_STATS_STRIDE((size_t)p->d);
        vf x = load_some(z + (size_t)g * p->z_stride, n, 0);
        vf top = vf_set(stats[KEPT_STATS_TOP(p->d)]);
        sum = vf_add(sum, vf_exp(vf_sub(vf_sub(x, top), most)));
    }
    vf size = load_some(z + (size_t)group * p->z_stride, n, 0);
    vf score = vf_mul(vf_div(mean, vf_set((float)group)), size);
    vf weight = vf_add(vf_add(vf_log(sum), most), bias);
    if (s->any_gone) {
        vm gone = gone_lanes(s, i);
        score = vf_select(gone, load_some(s->score + i, n, 0), score);
        weight = vf_select(gone, load_some(s->weight + i, n, 0), weight);
    }
    store_some(s->score + i, n, score);
    store_some(s->weight + i, n, weight);
}

/* What slots stand for besides themselves. */
static void fade(const struct select *s)
{
    for (uint32_t i = s->p->sinks; i < s->c && s->p->keep < 1; i++)
        if (s->bias[i] != 0)
            s->bias[i] = log1pf(expm1f(s->bias[i]) * s->p->keep);
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
    for (uint32_t i = from; i < s->count; i += 16)
        score_tile(s, i);
}

/* ---- the lowest ---- */

/* The rank of a slot as a word: consolidated 0, NaN 1, then in order; -0 is 0. (Words below
 * 0x7FFFFF are of no number, so none is in the way.) */
SIMD_INLINE uint32_t rank_of(const struct select *s, const float *rank, uint32_t i)
{
    uint32_t bits;
    if (s->scorer == KEPT_SCORER_RECENT)
        return (uint32_t)s->pos[i] ^ 0x80000000u;
    if (s->any_gone && is_gone(s, i))
        return 0;
    memcpy(&bits, rank + i, 4);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return 1;
    if (bits == 0x80000000u)
        bits = 0;
    return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

/* The m slots that go, ascending, and which of them were consolidated. */
static void choose(const struct select *s, uint32_t *evicted, bool *gone)
{
    const float *rank = s->scorer == KEPT_SCORER_DIRECT ? s->z : s->score;
    uint32_t last = 0, mask = 0, left = s->m; /* the m-th lowest; how many equal to it go */
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint32_t n[256] = {0}, digit = 0;
        for (uint32_t i = s->p->sinks; i < s->c; i++) {
            uint32_t r = rank_of(s, rank, i);
            n[r >> shift & 255] += (r & mask) == last;
        }
        for (; digit < 255 && n[digit] < left; digit++)
            left -= n[digit];
        last |= digit << shift;
        mask |= 255u << shift;
    }
    for (uint32_t i = s->p->sinks, n = 0; i < s->c && n < s->m; i++) {
        uint32_t r = rank_of(s, rank, i);
        if (r > last || (r == last && left == 0))
            continue;
        left -= r == last;
        gone[n] = s->pos[i] == KEPT_POS_GONE;
        evicted[n++] = i;
        s->pos[i] = KEPT_POS_GONE;
    }
}

/* Which kept slots of C-m … C-1 go where; returns how many. */
static uint32_t fill(const struct select *s, const uint32_t *evicted, uint32_t *from, uint32_t *to)
{
    uint32_t end = s->c - s->m, gone = 0, n = 0;
    while (gone < s->m && evicted[gone] < end)
        gone++; /* of the evicted ones, these are filled */
    for (uint32_t slot = end, behind = gone; slot < s->c && n < gone; slot++) {
        if (behind < s->m && evicted[behind] == slot) {
            behind++;
            continue;
        }
        from[n] = slot;
        to[n] = evicted[n];
        n++;
    }
    return n;
}

/* Leaves out what was consolidated; returns how many are left. */
static uint32_t keep_lost(uint32_t *evicted, const bool *gone, uint32_t m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m; i++)
        if (!gone[i])
            evicted[n++] = evicted[i];
    memset(evicted + n, 0, (m - n) * sizeof *evicted);
    return n;
}

static uint32_t consolidated(const struct select *s)
{
    uint32_t n = 0;
    for (uint32_t i = s->p->sinks; i < s->c; i++)
        n += s->pos[i] == KEPT_POS_GONE;
    return n;
}

/* How many go by DMS whatever the budget: with a score below 0 or none, consolidated ones too. */
static uint32_t flagged(const struct select *s)
{
    uint32_t n = 0;
    for (uint32_t i = s->p->sinks; i < s->c; i++)
        n += rank_of(s, s->score, i) < 0x80000000u;
    return n;
}

static void select_head(struct select *s, uint32_t *head, uint32_t *moves)
{
    const struct kept_select_params *p = s->p;
    uint32_t block = s->block.block, *evicted = moves + KEPT_MOVES_LISTS;
    uint32_t over = s->count > s->head.budget ? s->count - s->head.budget : 0;
    bool scored = over > 0 && s->scorer == KEPT_SCORER_EXPECTED;
    s->c = s->count > p->window ? s->count - p->window : 0;
    uint32_t n_gone = consolidated(s), first = n_gone;
    s->any_gone = n_gone > 0;
    if (s->scorer == KEPT_SCORER_DMS)
        first = flagged(s);
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
    head[KEPT_HEAD_CONSOLIDATED] += n_gone;
    if (p->limit > 0 && s->block.end + block - s->head.shift > p->limit) {
        uint32_t most = (uint32_t)s->block.end - (uint32_t)s->head.shift - head[KEPT_HEAD_BASE];
        moves[KEPT_MOVES_ROTATE] = ref_min(most, p->limit / 2);
        head[KEPT_HEAD_SHIFT] = (uint32_t)s->head.shift + moves[KEPT_MOVES_ROTATE];
    }
}

struct select_job {
    const struct kept_host_call *call;
    struct ref_block block;
};

static void select_item(void *user, uint32_t h, uint32_t i_thread)
{
    (void)i_thread;
    const struct select_job *job = user;
    const struct kept_host_call *call = job->call;
    const struct kept_select_params *p = call->params;
    uint32_t *heads = (uint32_t *)call->bind[4], group = p->n_head / p->n_kv;
    struct select s = {.p = p, .scorer = call->keys[KEPT_KEY_SELECT_SCORER], .block = job->block};
    s.head = fast_head_at(heads, h, p->total);
    s.count = ref_head_count(&s.head, s.block.end);
    if (s.scorer <= KEPT_SCORER_DIRECT)
        s.count = ref_min(s.count, p->z_stride);
    s.z = (const float *)call->bind[0] + (size_t)h * (group + 1) * p->z_stride;
    s.stats = (float *)call->bind[1] + (size_t)h * group * KEPT_STATS_STRIDE((size_t)p->d);
    s.score = (float *)call->bind[2] + s.head.first;
    s.weight = s.score + p->total;
    s.pos = (int32_t *)call->bind[3] + s.head.first;
    s.bias = (float *)call->bind[3] + p->total + s.head.first;
    select_head(&s, heads + (size_t)h * KEPT_HEAD_WORDS,
                (uint32_t *)call->bind[5] + (size_t)h * KEPT_MOVES_STRIDE(s.block.block));
}

void CPU_NAME(slot_select)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_select_params *p = call->params;
    struct select_job job = {.call = call};
    if (ref_block_of(p, (const uint32_t *)call->bind[6], &job.block))
        kept_pool_run(pool, p->n_kv, select_item, &job);
}

/* ---- compact positions ---- */

#define CHUNK 256 /* slots of an item of slot_renumber */

/* How many of 16 bits are set. */
static uint32_t bits_of(uint32_t x)
{
    x = (x & 0x5555) + (x >> 1 & 0x5555);
    x = (x & 0x3333) + (x >> 2 & 0x3333);
    x = (x & 0x0F0F) + (x >> 4 & 0x0F0F);
    return (x & 0xFF) + (x >> 8);
}

static void renumber_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct select_job *job = user;
    const struct kept_host_call *call = job->call;
    const struct kept_rotate_params *p = call->params;
    uint32_t n_chunks = (p->z_stride + CHUNK - 1) / CHUNK, h = item / n_chunks;
    const uint32_t *moves =
        (const uint32_t *)call->bind[2] + (size_t)h * KEPT_MOVES_STRIDE(job->block.block);
    struct ref_head head = fast_head_at((const uint32_t *)call->bind[1], h, p->total);
    uint32_t n = ref_with_after(&job->block, ref_min(head.base, head.cap), head.cap);
    n = ref_min(n, p->z_stride);
    uint32_t *z = (uint32_t *)call->bind[3] + (size_t)h * p->z_head_stride;
    const int32_t *pos = (const int32_t *)call->bind[0] + head.first;
    bool always = call->keys[KEPT_KEY_RENUMBER_ALWAYS] == 1;
    int64_t turn = ref_min(moves[KEPT_MOVES_ROTATE], 1u << 30);
    if (turn == 0 && !always)
        return;
    for (uint32_t s = item % n_chunks * CHUNK; s < n && s < (item % n_chunks + 1) * CHUNK; s++) {
        if (always) { /* the memory at the position before the window */
            bool memory = s >= p->sinks && (uint64_t)s + p->window < head.base;
            z[s] = memory ? (uint32_t)(job->block.end - p->window - 1) : (uint32_t)pos[s];
            continue;
        }
        vi mine = vi_set((uint32_t)pos[s]);
        uint32_t other = 0, smaller = 0;
        for (; other + 16 <= n; other += 16)
            smaller += bits_of(vm_bits(vm_lt(vi_load(pos + other), mine)));
        for (; other < n; other++)
            smaller += pos[other] < pos[s];
        z[s] = pos[s] - turn > (int64_t)smaller ? (uint32_t)(pos[s] - turn) : smaller;
    }
}

void CPU_NAME(slot_renumber)(const struct kept_host_call *call, struct kept_pool *pool)
{
    const struct kept_rotate_params *p = call->params;
    struct select_job job = {.call = call};
    if (ref_block_of(p, (const uint32_t *)call->bind[4], &job.block))
        kept_pool_run(pool, p->n_kv * ((p->z_stride + CHUNK - 1) / CHUNK), renumber_item, &job);
}

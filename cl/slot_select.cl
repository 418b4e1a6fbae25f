/* slot_select: which slots go, and what moves where (kept_select_params).
 *
 * Group: one KV head. The slots that go are found by value: every slot has a rank of 32 bits (ranks
 * ascend as scores do, 1 is no number, 0 consolidated), and the m-th lowest rank is built bit by
 * bit from the top, counting the ranks below it. Then a lane takes a stretch of slots and lists
 * those below that rank and, from the lowest slot up, as many of equal rank as are missing.
 */
#include "common/kept.clh"
#include "common/retain.clh"

#ifndef SCORER
#define SCORER KEPT_SCORER_EXPECTED
#endif
#if WG == 1
#define STRIDE 16u /* slots of all lanes together */
#else
#define STRIDE WG
#endif

/* Local memory of a group. */
struct meeting {
    SHARED uint *gone;      /* [KEPT_MAX_BLOCK] slots that go */
    SHARED uint *was_there; /* [KEPT_MAX_BLOCK] 1 where they were not consolidated */
    SHARED uint *less;      /* [WG] ranks below the m-th lowest, in a lane's stretch */
    SHARED uint *equal;     /* [WG] ranks equal to it */
    SHARED float *scratch;  /* [WG] */
};

/* One KV head. */
struct head {
    struct extent e;
    uint end, count, sinks, c, m;
    uint n_gone; /* consolidated before: go whatever the budget */
    __global const float *z;
    __global float *score, *weight;
    __global uint *pos;
    __global float *bias;
};

/* Which of the slots from s on are consolidated. */
static I are_gone(const struct head *h, uint s)
{
    U p = load_words(h->pos + s, h->count - s, 0u), slot = U_OF_I(IOTA) + s;
    return p == (uint)KEPT_POS_GONE && slot >= h->sinks && slot < h->c;
}

MEETING float group_max(F v, SHARED float *scratch)
{
#if WG == 1
    return max16(v);
#else
    scratch[LID] = v;
    SYNC();
    for (uint n = WG; n > 1;) {
        uint keep = (n + 1) / 2;
        if (LID < n - keep)
            scratch[LID] = fmax(scratch[LID], scratch[LID + keep]);
        SYNC();
        n = keep;
    }
    v = scratch[0];
    SYNC();
    return v;
#endif
}

MEETING float group_total(F v, SHARED float *scratch)
{
#if WG == 1
    return sum16(v);
#else
    return group_sum(v, scratch);
#endif
}

/* ---- scores of expected attention ---- */

/* What slots s … add to lse: z with the bias, or z alone of slots sinks … C-1. */
static F lse_terms(const struct head *h, F v, uint s, uint apart)
{
    F none = (F)(-INFINITY);
    U slot = U_OF_I(IOTA) + s;
    I others = are_gone(h, s);
    if (apart != 1)
        return PICK(v + load_some(h->bias + s, h->count - s, 0.0f), none, others);
    others = others || slot < h->sinks || slot >= h->c;
    return PICK(v, none, others);
}

/* top and lse of a query head. */
MEETING void sum_up(const struct head *h, __global const float *z, __global float *stats,
                    const struct kept_select_params *p, SHARED float *scratch)
{
    F top = (F)(-INFINITY), most = top, sum = (F)(0.0f);
    for (uint s = LID * KEPT_V; s < h->count; s += STRIDE) {
        F v = load_some(z + s, h->count - s, -INFINITY), none = (F)(-INFINITY);
        top = fmax(top, PICK(v, none, are_gone(h, s)));
        most = fmax(most, lse_terms(h, v, s, p->apart));
    }
    float all_top = group_max(top, scratch), all_most = group_max(most, scratch);
    for (uint s = LID * KEPT_V; s < h->count; s += STRIDE) {
        F v = load_some(z + s, h->count - s, -INFINITY);
        v = lse_terms(h, v, s, p->apart);
        sum += PICK(exp(v - all_most), (F)(0.0f), v == -INFINITY);
    }
    float all_sum = group_total(sum, scratch);
    if (LID == 0) {
        stats[KEPT_STATS_TOP(p->d)] = all_top;
        stats[KEPT_STATS_LSE(p->d)] = all_most + log(all_sum);
    }
}

/* What slots sinks … C-1 stand for besides themselves becomes less. */
static void fade(const struct head *h, float keep)
{
    for (uint s = h->sinks + LID * KEPT_V; s < h->c; s += STRIDE) {
        F bias = load_some(h->bias + s, h->c - s, 0.0f);
        F less = log1p(expm1(bias) * keep);
        store_some(h->bias + s, h->c - s, PICK(less, bias + log(keep), bias > 60.0f));
    }
}

MEETING void score_slots(const struct head *h, bool scored, __global float *stats, uint from,
                         const struct kept_select_params *p, SHARED float *scratch)
{
    uint group = p->n_head / p->n_kv;
    ulong stride = KEPT_STATS_STRIDE((ulong)p->d);
    if (scored && from == 0 && p->keep < 1.0f)
        fade(h, p->keep);
    SYNC_GLOBAL();
    for (uint g = 0; scored && from == 0 && g < group; g++)
        sum_up(h, h->z + (ulong)g * p->z_stride, stats + g * stride, p, scratch);
    SYNC_GLOBAL();
    for (uint s = from + LID * KEPT_V; scored && s < h->count; s += STRIDE) {
        uint n = h->count - s;
        F bias = load_some(h->bias + s, n, 0.0f), mean = (F)(0.0f), sum = (F)(0.0f);
        for (uint g = 0; g < group; g++) {
            F v = load_some(h->z + (ulong)g * p->z_stride + s, n, 0.0f);
            mean += exp(v + bias - stats[g * stride + KEPT_STATS_LSE(p->d)]);
            sum += exp(v - stats[g * stride + KEPT_STATS_TOP(p->d)]);
        }
        F size = load_some(h->z + (ulong)group * p->z_stride + s, n, 0.0f);
        F score = mean / (float)group * size, weight = log(sum) + bias;
        I gone = are_gone(h, s);
        store_some(h->score + s, n, PICK(score, load_some(h->score + s, n, 0.0f), gone));
        store_some(h->weight + s, n, PICK(weight, load_some(h->weight + s, n, 0.0f), gone));
    }
    SYNC_GLOBAL();
}

/* ---- the lowest ---- */

/* Ranks from slot s (sinks … C-1) on, of which n are there; the others are the highest. */
static U ranks(const struct head *h, uint s, uint n)
{
#if SCORER == KEPT_SCORER_RECENT
    return load_words(h->pos + s, n, 0x7fffffffu) ^ 0x80000000u;
#else
    __global const float *score = SCORER == KEPT_SCORER_DIRECT ? h->z : h->score;
    U bits = load_words((__global const uint *)score + s, n, 0x7f800000u);
    U sign = (U)(0x80000000u), size = bits & 0x7fffffffu, pos = load_words(h->pos + s, n, 0u);
    U rank = PICK(bits | sign, ~bits, (bits & sign) != 0u);
    rank = PICK(rank, sign, size == 0u);
    rank = PICK(rank, (U)(1u), size > 0x7f800000u);
    return PICK(rank, (U)(0u), pos == (uint)KEPT_POS_GONE);
#endif
}

/* How many of slots sinks … C-1 have a rank below this one. */
MEETING uint count_below(const struct head *h, uint rank, const struct meeting *at)
{
#if WG == 1
    int16 sum = 0; /* -1 for each */
    uint s = h->sinks;
    for (; s + 16 <= h->c; s += 16)
        sum += ranks(h, s, 16) < rank;
    if (s < h->c) {
        U last = ranks(h, s, h->c - s);
        sum += last < rank && IOTA < (int)(h->c - s);
    }
    int8 a = sum.lo + sum.hi;
    int4 b = a.lo + a.hi;
    int2 c = b.lo + b.hi;
    return (uint) - (c.x + c.y);
#else
    uint n = 0;
    for (uint s = h->sinks + LID; s < h->c; s += WG)
        n += ranks(h, s, 1) < rank;
    at->less[LID] = n;
    SYNC();
    n = 0;
    for (uint i = 0; i < WG; i++)
        n += at->less[i];
    SYNC();
    return n;
#endif
}

/* The m slots that go, ascending, into at->gone; their positions are gone. */
MEETING void choose(const struct head *h, const struct meeting *at)
{
    uint rank = 0; /* the largest with fewer than m below it: the m-th lowest */
    for (uint bit = 0x80000000u; bit != 0; bit /= 2)
        if (count_below(h, rank | bit, at) < h->m)
            rank |= bit;
    uint missing = h->m - count_below(h, rank, at);
    uint stretch = (max(h->c, h->sinks) - h->sinks + WG - 1) / WG;
    uint first = min(h->sinks + LID * stretch, h->c), end = min(first + stretch, h->c);
    uint n_less = 0, n_equal = 0;
#if WG > 1
    uint less = 0, equal = 0;
    for (uint s = first; s < end; s++) {
        uint own = ranks(h, s, 1);
        less += own < rank;
        equal += own == rank;
    }
    at->less[LID] = less;
    at->equal[LID] = equal;
    SYNC();
    for (uint i = 0; i < LID; i++) {
        n_less += at->less[i];
        n_equal += at->equal[i];
    }
#endif
    for (uint s = first; s < end; s += KEPT_V) {
        uint own[KEPT_V];
        U some = ranks(h, s, end - s);
#if WG == 1
        if (!any(some <= rank))
            continue;
        vstore16(some, 0, own);
#else
        own[0] = some;
#endif
        for (uint k = 0; k < min(end - s, (uint)KEPT_V); k++) {
            uint i = n_less + min(n_equal, missing);
            bool goes = own[k] < rank || (own[k] == rank && n_equal < missing);
            n_less += own[k] < rank;
            n_equal += own[k] == rank;
            if (goes) {
                at->gone[i] = s + k;
                at->was_there[i] = own[k] != 0; /* not consolidated */
                h->pos[s + k] = (uint)KEPT_POS_GONE;
            }
        }
    }
    SYNC();
}

/* Which kept slots of C-m … C-1 go where; returns how many. For one lane. */
static uint fill(const struct head *h, SHARED const uint *gone, __global uint *from,
                 __global uint *to)
{
    uint end = h->c - h->m, behind = 0, n = 0;
    while (behind < h->m && gone[behind] < end)
        behind++;
    for (uint s = end; s < h->c; s++) {
        if (behind < h->m && gone[behind] == s) {
            behind++;
            continue;
        }
        from[n] = s;
        to[n] = gone[n];
        n++;
    }
    return n;
}

/* The list of those that were not consolidated; returns how many. For one lane. */
static uint list_lost(const struct head *h, const struct meeting *at, __global uint *evicted)
{
    uint n = 0;
    for (uint i = 0; i < h->m; i++)
        if (at->was_there[i])
            evicted[n++] = at->gone[i];
    return n;
}

/* The head's row of the table and the first words of moves. For one lane. */
static void conclude(const struct head *h, bool scored, __global uint *head, __global uint *moves,
                     const struct kept_select_params *p)
{
    uint base = h->count - h->m;
    bool rotate = p->limit > 0 && (long)h->end + p->row_cap - h->e.shift > (long)p->limit;
    moves[KEPT_MOVES_M] = h->m;
    moves[KEPT_MOVES_COUNT] = h->count;
    moves[KEPT_MOVES_C] = h->c;
    uint turn = rotate ? min(h->end - (uint)h->e.shift - base, p->limit / 2) : 0;
    moves[KEPT_MOVES_ROTATE] = turn;
    head[KEPT_HEAD_BASE] = base;
    head[KEPT_HEAD_EDGE] = h->end;
    head[KEPT_HEAD_EVICTED] += h->m;
    head[KEPT_HEAD_CONSOLIDATED] += h->n_gone;
    if (rotate)
        head[KEPT_HEAD_SHIFT] = (uint)h->e.shift + turn;
    if (scored)
        head[KEPT_HEAD_SCORED] = 1;
}

__kernel KEPT_GROUP void slot_select(__global const float *z, __global float *stats,
                                     __global float *scores, __global uint *meta,
                                     __global uint *heads, __global uint *moves,
                                     __global const uint *step, const struct kept_select_params p)
{
    SHARED uint gone[KEPT_MAX_BLOCK], was_there[KEPT_MAX_BLOCK], less[WG], equal[WG];
    SHARED float scratch[WG];
    struct meeting at = {gone, was_there, less, equal, scratch};
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint kv = get_group_id(0), group = p.n_head / p.n_kv, block = p.row_cap;
    uint budget = head_word(heads, kv, KEPT_HEAD_BUDGET);
    struct head h;
    h.e = extent_of(heads, kv, p.total);
    h.end = BLOCK_END(step, p);
    h.count = count_before(&h.e, h.end);
    if (SCORER <= KEPT_SCORER_DIRECT)
        h.count = min(h.count, p.z_stride);
    h.c = h.count > p.window ? h.count - p.window : 0;
    h.m = h.count > budget ? h.count - budget : 0;
    h.z = z + (ulong)kv * (group + 1) * p.z_stride;
    h.score = scores + h.e.first;
    h.weight = h.score + p.total;
    h.pos = meta + h.e.first;
    h.bias = (__global float *)h.pos + p.total;
    h.sinks = p.sinks;
    bool is_over = h.m > 0;
    h.n_gone = count_below(&h, 1u, &at);
    h.m = max(h.m, h.n_gone);
    if (SCORER == KEPT_SCORER_DMS) /* what is below 0 goes whatever the budget */
        h.m = max(h.m, count_below(&h, 0x80000000u, &at));
    h.m = min(min(h.m, h.c > p.sinks ? h.c - p.sinks : 0), block);
    bool scored = SCORER == KEPT_SCORER_EXPECTED && is_over && h.m > 0;
    moves += kv * KEPT_MOVES_STRIDE(block);
    for (uint i = LID; i < KEPT_MOVES_STRIDE(block); i += WG)
        moves[i] = 0;
    uint from = scored_from(heads, kv, h.end, h.count, add_sat(p.window, block), p.refresh);
    SYNC_GLOBAL(); /* the table has been read, moves is empty */
    /* No slot to go: all of it runs all the same, without an effect. */
    if (SCORER == KEPT_SCORER_EXPECTED)
        score_slots(&h, scored, stats + (ulong)kv * group * KEPT_STATS_STRIDE(p.d), from, &p,
                    scratch);
    __global uint *evicted = moves + KEPT_MOVES_LISTS;
    choose(&h, &at);
    if (LID == 0) {
        moves[KEPT_MOVES_FILLS] = fill(&h, gone, evicted + block, evicted + 2 * block);
        moves[KEPT_MOVES_LOST] = list_lost(&h, &at, evicted);
        conclude(&h, scored, heads + kv * KEPT_HEAD_WORDS, moves, &p);
    }
    MEET_AT_END();
}

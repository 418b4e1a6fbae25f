/* tune/check_maintain.c: blocks, KV heads, stores and tables of moves for the cases of slot
 * maintenance.
 */
#include "tune/check_maintain.h"

#include <math.h>
#include <string.h>

#include "base/str.h"

/* ---- keys ---- */

void kept_check_maintain_keys(struct check_case *c)
{
    static const uint32_t ds[] = {32, 64, 64, 64, 96, 128, 128, 256};
    kept_check_group(c, 16, 256);
    kept_check_set_key(c, "D", kept_check_pick(c, ds, 8));
}

void kept_check_type_keys(struct check_case *c)
{
    static const uint32_t types[] = {KEPT_FMT_F16, KEPT_FMT_Q8_0, KEPT_FMT_Q4_0};
    kept_check_maintain_keys(c);
    kept_check_set_key(c, "KT", kept_check_pick(c, types, 3));
    kept_check_set_key(c, "VT", kept_check_pick(c, types, 3));
}

/* ---- the block ---- */

void kept_check_block(struct check_case *c, uint32_t i_step, struct check_store *st)
{
    static const uint32_t blocks[] = {64, 64, 64, 128, 256, 16};
    uint32_t *p = c->params.words, *step = kept_check_bind(c, i_step, KEPT_STEP_TOKENS + 8);
    bool bench = c->model != NULL;
    if (step == NULL)
        return;
    p[0] = bench || kept_check_chance(c, 75) ? KEPT_STEP_MAINTAIN : KEPT_STEP_ROWS;
    p[2] = bench ? 64 : kept_check_pick(c, blocks, 6);
    p[1] = bench || kept_check_chance(c, 60) ? 0 : p[2] * kept_check_range(c, 1, 3);
    st->block.block = p[2];
    /* tokens behind the block: none, some, more than any head has room for */
    st->block.after = bench || kept_check_chance(c, 50) ? 0
                      : kept_check_chance(c, 85)        ? kept_check_range(c, 1, 64)
                                                        : kept_check_u32(c);
    st->block.end = p[1] + p[2] + (bench ? 4096 : 64 * kept_check_range(c, 0, 100));
    memset(step, 0, KEPT_STEP_TOKENS * 4);
    step[KEPT_STEP_ROWS] = step[KEPT_STEP_MAINTAIN] = kept_check_range(c, 0, 2000);
    uint32_t rows = p[1] + p[2] + (kept_check_chance(c, 30) ? kept_check_range(c, 0, 300) : 0);
    if (!bench && kept_check_chance(c, 15)) /* a block that is not complete */
        rows = kept_check_chance(c, 50) ? p[1] + p[2] - 1 : kept_check_range(c, 0, p[1] + p[2] - 1);
    step[p[0]] = rows;
    step[KEPT_STEP_BASE] = (uint32_t)(st->block.end - p[1] - p[2]);
    step[KEPT_STEP_AFTER] = st->block.after;
    c->live = kept_live_rows(p, step);
}

bool kept_check_maintains(const struct check_case *c)
{
    return c->live == c->params.words[2];
}

struct ref_block kept_check_block_of(const struct check_case *c, uint32_t i_step)
{
    struct ref_block b;
    ref_block_of(&c->params, c->bind[i_step].before, &b);
    return b;
}

/* ---- KV heads ---- */

void kept_check_shuffle(struct check_case *c, uint32_t *list, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = kept_check_range(c, 0, i);
        list[i] = list[j];
        list[j] = i;
    }
}

/* Slots before the call, against a budget. */
static uint32_t pick_count(struct check_case *c, const struct check_store *st, uint32_t budget)
{
    uint32_t block = st->block.block;
    switch (c->model != NULL ? 9 : kept_check_range(c, 0, 9)) {
    case 0: /* shorter than the window, or empty */
        return kept_check_range(c, 0, ref_min(budget, st->sinks + st->window));
    case 1:
        return kept_check_range(c, 0, budget);
    case 2:
        return budget;
    case 3: /* one too many */
        return budget + 1;
    case 4:
    case 5:
        return budget + kept_check_range(c, 1, block);
    default:
        return budget + block;
    }
}

static void pick_head(struct check_case *c, struct check_store *st, uint32_t h)
{
    static const uint32_t spare[] = {0, 1, 33, 100, 200, 300};
    struct ref_head *head = &st->head[h];
    bool bench = c->model != NULL;
    uint32_t least = st->sinks + st->window, most = st->d >= 256 ? 3 : 6;
    head->budget = bench ? 1024 : least + spare[kept_check_range(c, 0, most - 1)];
    st->count[h] = pick_count(c, st, head->budget);
    head->cap = (head->budget + st->block.block + 63) / 64 * 64;
    if (!bench && kept_check_chance(c, 15)) /* what is past CAP was not stored */
        st->count[h] = head->cap;
    uint32_t since = bench ? 64 : ref_min(st->block.block, st->count[h]);
    if (!bench && kept_check_chance(c, 40))
        since = kept_check_range(c, 0, st->count[h]);
    since = ref_min(since, (uint32_t)st->block.end);
    head->edge = (int32_t)(st->block.end - since);
    head->base = st->count[h] - since;
    if (st->count[h] == head->cap && kept_check_chance(c, 50))
        head->base += kept_check_range(c, 0, 100);
    /* positions before the block are at least as many as slots */
    int64_t free = (int64_t)st->block.end - st->count[h];
    head->shift =
        free > 0 && kept_check_chance(c, 40) ? (int32_t)kept_check_range(c, 0, (uint32_t)free) : 0;
    head->scored = bench ? 0 : kept_check_range(c, 0, 1);
    head->evicted = kept_check_range(c, 0, 100000);
}

void kept_check_extents(struct check_case *c, struct check_store *st)
{
    static const uint32_t windows[] = {16, 32, 64, 100, 128};
    static const uint32_t groups[] = {1, 2, 3, 4, 7};
    uint32_t order[8];
    st->d = kept_check_key(c, "D") != 0 ? kept_check_key(c, "D") : 64;
    st->n_kv = c->model != NULL ? c->model->n_kv : kept_check_range(c, 1, CHECK_MAX_KV);
    st->group = c->model != NULL ? c->model->n_head / c->model->n_kv
                                 : kept_check_pick(c, groups, st->d >= 128 ? 2 : 5);
    st->sinks = kept_check_chance(c, 80) ? 4 : kept_check_range(c, 0, 9);
    st->window = kept_check_pick(c, windows, 5);
    st->total = st->max_cap = 0;
    kept_check_shuffle(c, order, st->n_kv);
    for (uint32_t i = 0; i < st->n_kv; i++) {
        struct ref_head *head = &st->head[order[i]];
        pick_head(c, st, order[i]);
        head->first = st->total + (kept_check_chance(c, 20) ? 64 : 0);
        st->total = head->first + head->cap;
        st->max_cap = head->cap > st->max_cap ? head->cap : st->max_cap;
        c->live_slots = st->max_cap;
    }
    kept_snprintf(c->shape, sizeof c->shape,
                  "%u KV heads of %u, d %u, block %u, E %lld, sinks %u, window %u, count %u of %u",
                  st->n_kv, st->group, st->d, st->block.block, (long long)st->block.end, st->sinks,
                  st->window, st->count[0], st->head[0].budget);
}

void kept_check_heads_after(struct check_store *st, uint32_t kv_head, uint32_t m)
{
    st->head[kv_head].base = st->count[kv_head] - m;
    st->head[kv_head].edge = (int32_t)st->block.end;
}

void kept_check_bind_heads(struct check_case *c, uint32_t i_bind, const struct check_store *st)
{
    uint32_t *heads = kept_check_bind(c, i_bind, (uint64_t)st->n_kv * KEPT_HEAD_WORDS);
    for (uint32_t h = 0; heads != NULL && h < st->n_kv; h++) {
        uint32_t *to = heads + (size_t)h * KEPT_HEAD_WORDS;
        to[KEPT_HEAD_FIRST] = st->head[h].first;
        to[KEPT_HEAD_CAP] = st->head[h].cap;
        to[KEPT_HEAD_BUDGET] = st->head[h].budget;
        to[KEPT_HEAD_BASE] = st->head[h].base;
        to[KEPT_HEAD_EDGE] = (uint32_t)st->head[h].edge;
        to[KEPT_HEAD_SHIFT] = (uint32_t)st->head[h].shift;
        to[KEPT_HEAD_SCORED] = st->head[h].scored;
        to[KEPT_HEAD_EVICTED] = st->head[h].evicted;
        to[KEPT_HEAD_CONSOLIDATED] = kept_check_range(c, 0, 1000);
        memset(to + KEPT_HEAD_CONSOLIDATED + 1, 0,
               (KEPT_HEAD_WORDS - KEPT_HEAD_CONSOLIDATED - 1) * sizeof *to);
    }
}

struct ref_head kept_check_head_before(const struct check_case *c, uint32_t i_heads,
                                       uint32_t kv_head, uint32_t total)
{
    return ref_head_at(c->bind[i_heads].before, kv_head, total);
}

/* ---- slots ---- */

uint32_t kept_check_stored(const struct check_store *st, uint32_t kv_head)
{
    return ref_with_after(&st->block, st->count[kv_head], st->head[kv_head].cap);
}

void kept_check_bind_store(struct check_case *c, uint32_t i_bind, const struct check_store *st,
                           uint32_t type, uint32_t order)
{
    double v[KEPT_MAX_HEAD_DIM];
    struct ref_slots form = {.type = type, .order = order, .d = st->d};
    kept_check_bind_slots(c, i_bind, form, st->total);
    form.words = c->bind[i_bind].before;
    for (uint32_t h = 0; !c->failed && h < st->n_kv; h++)
        for (uint32_t s = 0; s < kept_check_stored(st, h); s++) {
            float scale = kept_check_chance(c, 10) ? 0.01f : kept_check_chance(c, 10) ? 10 : 1;
            for (uint32_t i = 0; i < st->d; i++)
                v[i] = kept_check_unit(c) * scale;
            ref_slot_store(&form, (uint64_t)st->head[h].first + s, v);
        }
}

void kept_check_bind_meta(struct check_case *c, uint32_t i_bind, const struct check_store *st,
                          uint32_t n_planes)
{
    uint32_t *meta = kept_check_bind(c, i_bind, (uint64_t)n_planes * st->total);
    uint32_t order[4096];
    for (uint32_t h = 0; meta != NULL && h < st->n_kv; h++) {
        uint32_t first = st->head[h].first, n = ref_min(st->count[h], 4096);
        int64_t span = st->block.end - st->head[h].shift - n; /* to leave out here and there */
        uint32_t gap = span > 0 ? (uint32_t)span / (n + 1) : 0;
        /* sinks and window have their order, the others have been moved */
        uint32_t begin = ref_min(st->sinks, n), end = n > st->window ? n - st->window : 0;
        kept_check_shuffle(c, order, end > begin ? end - begin : 0);
        for (uint32_t s = 0; s < n + kept_check_stored(st, h) - st->count[h]; s++) {
            bool moved = s >= begin && s < end;
            int32_t pos = (int32_t)((moved ? begin + order[s - begin] : s) * (gap + 1));
            float bias = kept_check_chance(c, 70) ? 0 : 3 + 3 * kept_check_unit(c);
            memcpy(&meta[first + s], &pos, 4);
            memcpy(&meta[st->total + first + s], &bias, 4);
            if (n_planes == 3)
                meta[2 * (uint64_t)st->total + first + s] = 0x7FFFFFFFu;
        }
    }
}

/* ---- moves ---- */

static void fill_moves(struct check_case *c, uint32_t *t, uint32_t *pos,
                       const struct check_store *st, uint32_t h)
{
    uint32_t block = st->block.block, count = st->count[h], n_gone = 0, n = 0;
    uint32_t cut = count > st->window ? count - st->window : 0;
    uint32_t over = count > st->head[h].budget ? count - st->head[h].budget : 0;
    uint32_t m = ref_min(ref_min(over, block), cut > st->sinks ? cut - st->sinks : 0);
    uint32_t *evicted = t + KEPT_MOVES_LISTS, *from = evicted + block, *to = from + block;
    t[KEPT_MOVES_M] = m;
    t[KEPT_MOVES_COUNT] = count;
    t[KEPT_MOVES_C] = cut;
    for (uint32_t s = st->sinks; m > 0 && s < cut; s++) {
        /* each set of m is as likely as any other */
        if (kept_check_range(c, 0, cut - s - 1) >= m - n_gone)
            continue;
        evicted[n_gone++] = s;
        if (pos != NULL)
            pos[st->head[h].first + s] = (uint32_t)KEPT_POS_GONE;
    }
    for (uint32_t s = cut - m, gone = 0; s < cut && m > 0; s++) {
        while (gone < m && evicted[gone] < s)
            gone++;
        if (gone < m && evicted[gone] == s)
            continue;
        from[n] = s;
        to[n] = evicted[n];
        n++;
    }
    t[KEPT_MOVES_FILLS] = n;
    uint32_t of_ten = c->model != NULL ? 10 : kept_check_range(c, 0, 10); /* not consolidated */
    t[KEPT_MOVES_LOST] = 0;
    for (uint32_t i = 0; i < m; i++) {
        uint32_t slot = evicted[i];
        evicted[i] = 0;
        if (kept_check_range(c, 0, 9) < of_ten)
            evicted[t[KEPT_MOVES_LOST]++] = slot;
    }
}

void kept_check_bind_moves(struct check_case *c, uint32_t i_bind, struct check_store *st,
                           uint32_t i_meta, bool rotate)
{
    uint64_t stride = KEPT_MOVES_STRIDE(st->block.block);
    uint32_t *tables = kept_check_bind(c, i_bind, st->n_kv * stride);
    uint32_t *pos = i_meta < KEPT_MAX_BINDS ? c->bind[i_meta].before : NULL;
    if (c->failed)
        return;
    memset(tables, 0, st->n_kv * stride * 4);
    for (uint32_t h = 0; h < st->n_kv; h++) {
        uint32_t *t = tables + h * stride;
        fill_moves(c, t, pos, st, h);
        bool turns = rotate && (c->model != NULL || kept_check_chance(c, 70));
        t[KEPT_MOVES_ROTATE] = turns ? kept_check_range(c, 1, 256) : 0;
        kept_check_heads_after(st, h, t[KEPT_MOVES_M]);
    }
}

void kept_check_spoil_moves(struct check_case *c, uint32_t i_bind, const struct check_store *st)
{
    uint64_t stride = KEPT_MOVES_STRIDE(st->block.block);
    static const uint32_t heads[] = {KEPT_MOVES_M, KEPT_MOVES_COUNT, KEPT_MOVES_FILLS, KEPT_MOVES_C,
                                     KEPT_MOVES_LOST};
    bool sound = c->failed || c->model != NULL || c->sound_moves;
    for (uint32_t h = 0; !sound && h < st->n_kv; h++) {
        uint32_t *t = c->bind[i_bind].before + h * stride;
        if (!kept_check_chance(c, 12))
            continue;
        for (uint32_t i = 0; i < 5; i++)
            if (kept_check_chance(c, 25))
                t[heads[i]] = kept_check_chance(c, 50) ? UINT32_MAX : st->head[h].cap + 1000;
        for (uint32_t i = 0; i < 10; i++)
            t[kept_check_range(c, KEPT_MOVES_LISTS, (uint32_t)stride - 1)] =
                kept_check_chance(c, 50) ? kept_check_u32(c) | 0x10000u : 0x10000000u;
        t[KEPT_MOVES_LISTS] = UINT32_MAX; /* so that it is seen to be spoilt */
    }
}

bool kept_check_is_spoilt(const struct check_case *c, uint32_t i_bind, uint32_t kv_head)
{
    const uint32_t *t =
        c->bind[i_bind].before + (uint64_t)kv_head * KEPT_MOVES_STRIDE(c->params.words[2]);
    return t[KEPT_MOVES_LISTS] == UINT32_MAX;
}

void kept_check_best_of_splits(const uint32_t *near, uint32_t n_splits, uint32_t block, uint32_t e,
                               uint32_t best[2])
{
    float most = -INFINITY;
    best[1] = 0;
    for (uint32_t split = 0; split < n_splits; split++) {
        const uint32_t *at = near + 2 * ((uint64_t)split * block + e);
        float like;
        memcpy(&like, at, 4);
        if (like > most || (like == most && like > -INFINITY && at[1] < best[1])) {
            most = like;
            best[1] = at[1];
        }
    }
    memcpy(best, &most, 4);
}

/* ---- rotation ---- */

static void fill_rotation(float *row, double at, uint32_t half)
{
    for (uint32_t i = 0; i < half; i++) {
        double theta = pow(10000, -(double)i / half);
        row[2 * i] = (float)cos(at * theta);
        row[2 * i + 1] = (float)sin(at * theta);
    }
}

void kept_check_bind_table(struct check_case *c, uint32_t i_bind, uint32_t n_rot, uint32_t hi_bias,
                           uint32_t n_hi)
{
    uint32_t half = n_rot / 2, n = 256 + hi_bias + n_hi;
    float *table = kept_check_bind_f32(c, i_bind, half == 0 ? 16 : (n + 1ull) * n_rot);
    if (table == NULL || half == 0)
        return;
    for (uint32_t row = 0; row < n; row++)
        fill_rotation(table + (uint64_t)row * n_rot,
                      row < 256 ? row : 256.0 * ((double)row - 256 - hi_bias), half);
    float *mean = table + (uint64_t)n * n_rot;
    double sums[KEPT_MAX_HEAD_DIM] = {0};
    float row[KEPT_MAX_HEAD_DIM];
    for (uint32_t p = 0; p < 512; p++) {
        fill_rotation(row, p, half);
        for (uint32_t i = 0; i < n_rot; i++)
            sums[i] += row[i];
    }
    for (uint32_t i = 0; i < n_rot; i++)
        mean[i] = (float)(sums[i] / 512);
}

void kept_check_loose(struct check_case *c, uint32_t i_bind, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++)
        kept_check_bound(c, i_bind, i, CHECK_ANY);
}

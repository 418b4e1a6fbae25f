/* memory/retain.c: extents, scratch and maintenance calls of budgeted stores.
 *
 * Maintenance of a layer, in order: queries into the running sums, scores (all slots every
 * `refresh` tokens, in between those that leave the window), consolidation of what leaves the
 * window (associative memory), the choice of what goes, the nearest kept slot of each that goes and
 * the transfer of its value, the moves that close the gaps. Compact positions add two calls that do
 * nothing until a head's positions reach their limit.
 */
#include "memory/retain.h"

#include <string.h>

#include "kernel/registry.h"

#define SLOTS_OF_SPLIT 128u /* slot_nearest */
#define MAX_SPLITS     64u

static uint32_t round_up(uint64_t value, uint32_t to)
{
    return (uint32_t)((value + to - 1) / to * to);
}

uint32_t kept_retain_extent(const struct kept_retention *retention, uint32_t budget,
                            uint32_t context_tokens)
{
    uint64_t slots = (uint64_t)budget + retention->block;
    if (slots > context_tokens)
        slots = context_tokens;
    return round_up(slots + retention->hold, KEPT_SLOT_BLOCK);
}

uint32_t kept_retain_slack(const struct kept_retention *retention, uint32_t budget,
                           uint32_t context_tokens)
{
    uint64_t grown = (uint64_t)budget + retention->block;
    uint64_t room = kept_retain_extent(retention, budget, context_tokens);
    if (room >= context_tokens)
        room = UINT32_MAX; /* nothing comes behind the context */
    if (retention->limit != 0 && retention->limit < room)
        room = retention->limit; /* a slot's number is the least position it can have */
    return room > grown ? (uint32_t)(room - grown) : 0;
}

static uint32_t splits_of(const struct kept_store *store)
{
    uint32_t splits = (store->most + SLOTS_OF_SPLIT - 1) / SLOTS_OF_SPLIT;
    return splits < MAX_SPLITS ? splits : MAX_SPLITS;
}

struct kept_retain_words kept_retain_words(const struct kept_retention *retention,
                                           const struct kept_store *store)
{
    return (struct kept_retain_words){
        .z = ((uint64_t)store->n_head + store->n_kv) * store->most,
        .moves = (uint64_t)store->n_kv * KEPT_MOVES_STRIDE(retention->block),
        .near = 2ull * store->n_kv * splits_of(store) * retention->block,
        .raw = (uint64_t)store->n_kv * store->most * store->d,
    };
}

uint32_t kept_retain_planes(const struct kept_retention *retention)
{
    return retention->assoc != KEPT_ASSOC_OFF ? KEPT_ASSOC_PLANES : retention->dms ? 3 : 2;
}

void kept_retain_table(const struct kept_store *store, uint32_t *table)
{
    memset(table, 0, (size_t)store->n_kv * KEPT_HEAD_WORDS * sizeof *table);
    for (uint32_t h = 0; h < store->n_kv; h++) {
        table[h * KEPT_HEAD_WORDS + KEPT_HEAD_FIRST] = store->heads[h].first;
        table[h * KEPT_HEAD_WORDS + KEPT_HEAD_CAP] = store->heads[h].cap;
        table[h * KEPT_HEAD_WORDS + KEPT_HEAD_BUDGET] = store->heads[h].budget;
    }
}

/* One maintenance under emission. */
struct maintain {
    const struct kept_retention *retention;
    const struct kept_store *store;
    const struct kept_retain_scratch *scratch;
    const struct kept_retain_emit *emit;
    uint32_t row_first;
};

static struct kept_call begin(const struct maintain *m, enum kept_kernel_id id)
{
    struct kept_call call = {.id = id};
    memcpy(call.keys, kept_kernel_row(id)->key_defaults, sizeof call.keys);
    call.keys[0] = m->emit->wg;
    return call;
}

/* Arguments in the row's order; the step buffer is the last. */
static void finish(const struct maintain *m, struct kept_call *call, const struct kept_arg *args,
                   uint32_t n_args, const void *params)
{
    memcpy(call->args, args, n_args * sizeof *args);
    call->args[n_args] = m->emit->step;
    m->emit->call(m->emit->user, call, params, m->store->most);
}

#define FINISH(m, call, params, ...)                               \
    do {                                                           \
        const struct kept_arg args[] = {__VA_ARGS__};              \
        finish(m, call, args, sizeof args / sizeof *args, params); \
    } while (0)

static void add_queries(const struct maintain *m)
{
    const struct kept_store *store = m->store;
    struct kept_call call = begin(m, KEPT_KERNEL_Q_STATS);
    struct kept_stats_params params = {.rows_at = KEPT_STEP_MAINTAIN,
                                       .row_first = m->row_first,
                                       .row_cap = m->retention->block,
                                       .n_head = store->n_head,
                                       .d = store->d,
                                       .sinks = m->retention->sinks,
                                       .queries_rows = m->retention->block + store->delay};
    call.keys[KEPT_KEY_STATS_D] = store->d;
    FINISH(m, &call, &params, store->queries, store->stats);
}

static void score(const struct maintain *m)
{
    const struct kept_store *store = m->store;
    bool expected = m->retention->scorer == KEPT_SCORER_BY_EXPECTED;
    struct kept_call call =
        begin(m, expected ? KEPT_KERNEL_SCORE_EXPECTED : KEPT_KERNEL_SCORE_KEYDIFF);
    struct kept_score_params params = {.rows_at = KEPT_STEP_MAINTAIN,
                                       .row_first = m->row_first,
                                       .row_cap = m->retention->block,
                                       .n_head = store->n_head,
                                       .n_kv = store->n_kv,
                                       .d = store->d,
                                       .n_rot = store->n_rot,
                                       .rope_pairs = store->rope_pairs,
                                       .total = store->total,
                                       .z_stride = store->most,
                                       .hi_bias = store->hi_bias,
                                       .mean_row = store->mean_row,
                                       .sinks = m->retention->sinks,
                                       .window = m->retention->window,
                                       .refresh = m->retention->refresh,
                                       .q_scale = store->q_scale};
    call.keys[KEPT_KEY_ORDER] = m->emit->order;
    call.keys[KEPT_KEY_SCORE_D] = store->d;
    call.keys[KEPT_KEY_SCORE_KT] = store->k_type;
    if (expected) {
        call.keys[KEPT_KEY_SCORE_VT] = store->v_type;
        FINISH(m, &call, &params, store->k, store->v, store->stats, store->table,
               store->heads_table, m->scratch->z);
    } else {
        FINISH(m, &call, &params, store->k, store->heads_table, m->scratch->z);
    }
}

/* ---- associative memory ---- */

static void turn_keys_back(const struct maintain *m, const struct kept_assoc_params *params)
{
    const struct kept_store *store = m->store;
    struct kept_call call = begin(m, KEPT_KERNEL_ASSOC_RAW);
    call.keys[KEPT_KEY_ORDER] = m->emit->order;
    call.keys[KEPT_KEY_SCORE_D] = store->d;
    call.keys[KEPT_KEY_SCORE_KT] = store->k_type;
    FINISH(m, &call, params, store->k, store->meta, store->table, store->heads_table,
           m->scratch->raw);
}

static void average_like(const struct maintain *m, const struct kept_assoc_params *params)
{
    const struct kept_store *store = m->store;
    struct kept_call match = begin(m, KEPT_KERNEL_ASSOC_MATCH);
    struct kept_call write = begin(m, KEPT_KERNEL_ASSOC_WRITE);
    match.keys[KEPT_KEY_MATCH_D] = store->d;
    FINISH(m, &match, params, m->scratch->raw, store->meta, store->heads_table, m->scratch->near);
    write.keys[KEPT_KEY_ORDER] = m->emit->order;
    write.keys[KEPT_KEY_SCORE_D] = store->d;
    write.keys[KEPT_KEY_SCORE_KT] = store->k_type;
    write.keys[KEPT_KEY_SCORE_VT] = store->v_type;
    write.keys[KEPT_KEY_ASSOC_FORM] = m->retention->assoc == KEPT_ASSOC_PUBLISHED;
    FINISH(m, &write, params, store->k, store->v, store->meta, store->scores, m->scratch->raw,
           store->table, store->heads_table, m->scratch->near);
}

static void consolidate(const struct maintain *m)
{
    const struct kept_store *store = m->store;
    bool turned = m->retention->unrotated;
    struct kept_assoc_params params = {.rows_at = KEPT_STEP_MAINTAIN,
                                       .row_first = m->row_first,
                                       .row_cap = m->retention->block,
                                       .n_kv = store->n_kv,
                                       .d = store->d,
                                       .n_rot = turned ? store->n_rot : 0,
                                       .rope_pairs = turned ? store->rope_pairs : KEPT_ROPE_NONE,
                                       .total = store->total,
                                       .raw_stride = store->most,
                                       .hi_bias = store->hi_bias,
                                       .mean_row = store->mean_row,
                                       .sinks = m->retention->sinks,
                                       .window = m->retention->window,
                                       .n_splits = splits_of(store),
                                       .threshold = m->retention->threshold,
                                       .only_over = m->retention->assoc == KEPT_ASSOC_KEPT};
    turn_keys_back(m, &params);
    for (; params.sub < m->retention->block / KEPT_ASSOC_SUB; params.sub++)
        average_like(m, &params);
}

/* ---- what goes ---- */

static uint32_t select_scorer(const struct kept_retention *retention)
{
    if (retention->mode == KEPT_RETAIN_WINDOW)
        return KEPT_SCORER_RECENT;
    if (retention->dms)
        return KEPT_SCORER_DMS;
    if (retention->assoc == KEPT_ASSOC_PUBLISHED)
        return KEPT_SCORER_STORED; /* when a slot was last touched */
    return retention->scorer == KEPT_SCORER_BY_EXPECTED  ? KEPT_SCORER_EXPECTED
           : retention->scorer == KEPT_SCORER_BY_KEYDIFF ? KEPT_SCORER_DIRECT
                                                         : KEPT_SCORER_STORED;
}

static void select_slots(const struct maintain *m)
{
    const struct kept_store *store = m->store;
    struct kept_call call = begin(m, KEPT_KERNEL_SLOT_SELECT);
    uint32_t limit = m->retention->limit; /* of the tokens that come before the next maintenance */
    struct kept_select_params params = {.rows_at = KEPT_STEP_MAINTAIN,
                                        .row_first = m->row_first,
                                        .row_cap = m->retention->block,
                                        .n_head = store->n_head,
                                        .n_kv = store->n_kv,
                                        .d = store->d,
                                        .total = store->total,
                                        .z_stride = store->most,
                                        .sinks = m->retention->sinks,
                                        .window = m->retention->window,
                                        .refresh = m->retention->refresh,
                                        .limit = limit ? limit - store->delay : 0,
                                        .keep = m->retention->keep,
                                        .apart = m->retention->assoc != KEPT_ASSOC_OFF};
    call.keys[KEPT_KEY_SELECT_SCORER] = select_scorer(m->retention);
    FINISH(m, &call, &params, m->scratch->z, store->stats, store->scores, store->meta,
           store->heads_table, m->scratch->moves);
}

static void transfer_values(const struct maintain *m)
{
    const struct kept_store *store = m->store;
    struct kept_call nearest = begin(m, KEPT_KERNEL_SLOT_NEAREST);
    struct kept_call merge = begin(m, KEPT_KERNEL_SLOT_MERGE);
    struct kept_merge_slots_params params = {.rows_at = KEPT_STEP_MAINTAIN,
                                             .row_first = m->row_first,
                                             .row_cap = m->retention->block,
                                             .n_kv = store->n_kv,
                                             .d = store->d,
                                             .total = store->total,
                                             .n_splits = splits_of(store)};
    nearest.keys[KEPT_KEY_ORDER] = m->emit->order;
    nearest.keys[KEPT_KEY_SCORE_D] = store->d;
    nearest.keys[KEPT_KEY_SCORE_KT] = store->k_type;
    FINISH(m, &nearest, &params, store->k, store->meta, store->heads_table, m->scratch->moves,
           m->scratch->near);
    merge.keys[KEPT_KEY_SLOT_MERGE_D] = store->d;
    merge.keys[KEPT_KEY_SLOT_MERGE_VT] = store->v_type;
    FINISH(m, &merge, &params, store->v, store->meta, store->scores, store->heads_table,
           m->scratch->moves, m->scratch->near);
}

static void move_slots(const struct maintain *m)
{
    const struct kept_store *store = m->store;
    struct kept_call call = begin(m, KEPT_KERNEL_SLOT_MOVE);
    struct kept_move_params params = {.rows_at = KEPT_STEP_MAINTAIN,
                                      .row_first = m->row_first,
                                      .row_cap = m->retention->block,
                                      .n_kv = store->n_kv,
                                      .d = store->d,
                                      .total = store->total,
                                      .meta_planes = kept_retain_planes(m->retention)};
    call.keys[KEPT_KEY_ORDER] = m->emit->order;
    call.keys[KEPT_KEY_MOVE_KT] = store->k_type;
    call.keys[KEPT_KEY_MOVE_VT] = store->v_type;
    FINISH(m, &call, &params, store->k, store->v, store->meta, store->scores, store->heads_table,
           m->scratch->moves);
}

/* Keys turned to other positions: ranks when positions run out; always: the memory to the one
 * before the window. */
static void turn_keys(const struct maintain *m, bool always)
{
    const struct kept_store *store = m->store;
    struct kept_call renumber = begin(m, KEPT_KERNEL_SLOT_RENUMBER);
    struct kept_call rotate = begin(m, KEPT_KERNEL_SLOT_ROTATE);
    struct kept_rotate_params params = {
        .rows_at = KEPT_STEP_MAINTAIN,
        .row_first = m->row_first,
        .row_cap = m->retention->block,
        .n_kv = store->n_kv,
        .d = store->d,
        .n_rot = store->n_rot,
        .rope_pairs = store->rope_pairs,
        .total = store->total,
        .z_stride = store->most,
        .hi_bias = store->hi_bias,
        .z_head_stride = (store->n_head / store->n_kv + 1) * store->most,
        .sinks = m->retention->sinks,
        .window = m->retention->window,
    };
    renumber.keys[KEPT_KEY_RENUMBER_ALWAYS] = always;
    rotate.keys[KEPT_KEY_ROTATE_ALWAYS] = always;
    FINISH(m, &renumber, &params, store->meta, store->heads_table, m->scratch->moves,
           m->scratch->z);
    rotate.keys[KEPT_KEY_ORDER] = m->emit->order;
    rotate.keys[KEPT_KEY_SCORE_D] = store->d;
    rotate.keys[KEPT_KEY_SCORE_KT] = store->k_type;
    FINISH(m, &rotate, &params, store->k, store->meta, store->table, store->heads_table,
           m->scratch->moves, m->scratch->z);
}

void kept_retain_maintain(const struct kept_retention *retention, const struct kept_store *store,
                          const struct kept_retain_scratch *scratch, uint32_t row_first,
                          const struct kept_retain_emit *emit)
{
    const struct maintain m = {retention, store, scratch, emit, row_first};
    bool published = retention->assoc == KEPT_ASSOC_PUBLISHED;
    bool scored = retention->mode == KEPT_RETAIN_SCORED && !published;
    if (scored && retention->scorer == KEPT_SCORER_BY_EXPECTED)
        add_queries(&m);
    if (scored && retention->scorer != KEPT_SCORER_BY_GATE)
        score(&m);
    if (retention->assoc != KEPT_ASSOC_OFF)
        consolidate(&m);
    select_slots(&m);
    if (retention->merge)
        transfer_values(&m);
    move_slots(&m);
    if (retention->compact || published)
        turn_keys(&m, published);
}

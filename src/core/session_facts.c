/* core/session_facts.c: evaluating facts and queries beside a session's past, reading their keys
 * and values back, and putting those that are read where the programs that read facts find them.
 *
 * A fact's tokens stand at positions 4, 5, … after four sinks, whose slots stay. Keys come back as
 * stored; Hadamard and RoPE are undone here. Reading turns them to where they are read, by the
 * kernel that writes slots.
 */
#include "core/session_internal.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "kernel/ref/ref_slots.h"

/* What every layer has. */
struct sizes {
    uint32_t n_layers, n_kv, d, row; /* row: elements of a token's keys */
};

static struct sizes sizes_of(const struct kept_session *session)
{
    const struct kept_shape *shape = session->plan->shape;
    uint32_t n_kv = shape->layers[0].n_kv, d = shape->layers[0].d;
    return (struct sizes){shape->n_layers, n_kv, d, n_kv * d};
}

static uint64_t region_bytes(const struct kept_session *session, uint32_t region)
{
    return session->plan->regions[region].bytes;
}

/* The largest of what is read back or written whole. */
static uint64_t words_bytes(const struct kept_session *session)
{
    const struct kept_facts_plan *facts = &session->plan->facts;
    const uint32_t regions[] = {facts->encode.k,   facts->encode.v,  facts->encode.heads,
                                facts->read.heads, facts->read.meta, facts->x};
    uint64_t most = 0;
    for (size_t i = 0; i < sizeof regions / sizeof *regions; i++) {
        uint64_t bytes = region_bytes(session, regions[i]);
        most = bytes > most ? bytes : most;
    }
    return most;
}

#define ROPE_ROWS KEPT_FACT_ROWS /* positions of facts while they are evaluated */

static uint64_t rope_bytes(const struct kept_rope *rope)
{
    return (uint64_t)ROPE_ROWS * (rope->n_rot ? rope->n_rot : 2) * sizeof(float);
}

static kept_status read_rope(struct kept_session *session, uint32_t i, struct kept_error *err)
{
    const struct kept_rope *rope = &session->plan->shape->ropes[i];
    float **table = &session->facts->rope[i];
    *table = kept_alloc(rope_bytes(rope));
    if (!*table)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for facts");
    return kept_session_read(session, session->plan->rope_tables[i], 0, *table, rope_bytes(rope),
                             err);
}

kept_status kept_session_facts_create(struct kept_session *session, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    struct sizes n = sizes_of(session);
    session->facts = kept_calloc(1, sizeof *session->facts);
    if (!session->facts)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for facts");
    struct kept_session_facts *facts = session->facts;
    facts->sink_rows =
        kept_calloc((size_t)n.n_layers * KEPT_FACT_SINKS * n.row * 2, sizeof *facts->sink_rows);
    facts->words = kept_alloc(words_bytes(session));
    facts->rows = kept_calloc(1, n.n_layers * plan->facts.rows_layer_bytes);
    if (!facts->sink_rows || !facts->words || !facts->rows)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for facts");
    kept_status status = KEPT_OK;
    for (uint32_t i = 0; i < plan->shape->n_ropes && status == KEPT_OK; i++)
        status = read_rope(session, i, err);
    return status;
}

void kept_session_facts_destroy(struct kept_session *session)
{
    struct kept_session_facts *facts = session->facts;
    if (!facts)
        return;
    for (uint32_t i = 0; i < KEPT_MAX_ROPES; i++)
        kept_free(facts->rope[i]);
    kept_free(facts->sink_rows);
    kept_free(facts->words);
    kept_free(facts->rows);
    kept_free(facts);
    session->facts = NULL;
}

uint32_t kept_session_fact_slots(const kept_session *session)
{
    return session->facts ? session->facts->slots : 0;
}

void kept_session_clear_facts(kept_session *session)
{
    if (session->facts)
        session->facts->slots = 0;
}

/* ---- tables ---- */

/* Where a store's slots stand: words of every head's row but FIRST and CAP. */
struct table_row {
    uint32_t base;
    int32_t edge;
};

/* The rows of all heads. shifts [n_layers][n_kv], or NULL for none. */
static kept_status write_heads(struct kept_session *session, const struct kept_fact_store *store,
                               struct table_row row, const int32_t *shifts, struct kept_error *err)
{
    struct sizes n = sizes_of(session);
    uint32_t *words = session->facts->words;
    memset(words, 0, region_bytes(session, store->heads));
    for (uint32_t i = 0; i < n.n_layers; i++) {
        struct kept_fact_args args = kept_plan_fact_args(session->plan, store, i);
        for (uint32_t h = 0; h < n.n_kv; h++) {
            uint32_t *head = words + args.heads.offset_bytes / 4 + (size_t)h * KEPT_HEAD_WORDS;
            head[KEPT_HEAD_FIRST] = h * store->extent;
            head[KEPT_HEAD_CAP] = head[KEPT_HEAD_BUDGET] = store->extent;
            head[KEPT_HEAD_BASE] = row.base;
            head[KEPT_HEAD_EDGE] = (uint32_t)row.edge;
            head[KEPT_HEAD_SHIFT] = shifts ? (uint32_t)shifts[(size_t)i * n.n_kv + h] : 0;
        }
    }
    return kept_session_write(session, store->heads, 0, words, region_bytes(session, store->heads),
                              err);
}

/* ---- evaluating ---- */

static kept_status run_pieces(struct kept_session *session, uint32_t program, uint32_t first,
                              uint32_t end, struct kept_error *err)
{
    kept_status status = KEPT_OK;
    for (uint32_t i = first; i < end && status == KEPT_OK; i++) {
        if (atomic_load(&session->cancel)) {
            atomic_store(&session->cancel, false);
            return kept_fail(err, KEPT_E_CANCELLED, "cancelled while evaluating a fact");
        }
        status = kept_session_run(session, &session->recordings[program][i], 1, err);
    }
    return status;
}

/* n rows at positions from `first` on; tokens NULL: rows that have none. */
static kept_status write_rows(struct kept_session *session, const int32_t *tokens, uint32_t n,
                              int32_t first, struct kept_error *err)
{
    uint32_t chunk = session->plan->params.chunk_tokens;
    uint32_t *ids = session->step + KEPT_STEP_TOKENS, *positions = ids + chunk;
    memset(session->step, 0, KEPT_STEP_TOKENS * sizeof *session->step);
    session->step[KEPT_STEP_ROWS] = n;
    for (uint32_t i = 0; i < n; i++) {
        ids[i] = tokens ? (uint32_t)tokens[i] : 0;
        positions[i] = (uint32_t)(first + (int32_t)i);
    }
    return kept_session_write_step(session, KEPT_STEP_TOKENS + chunk + n, err);
}

/* Keys and values of a layer's slots [first, first + n_tokens) of every head, as they were before
 * they were turned. */
struct slot_rows {
    struct ref_slots slots;
    struct ref_rope rope; /* of keys; n_rot 0: of values */
    bool hadamard;
    uint32_t first, extent;
};

static void take_rows(const struct slot_rows *from, uint32_t n_kv, uint32_t n_tokens, float *out)
{
    uint32_t d = from->slots.d;
    double v[512];
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t h = 0; h < n_kv; h++) {
            float *to = out + ((size_t)t * n_kv + h) * d;
            ref_slot_load(&from->slots, (uint64_t)h * from->extent + from->first + t, v);
            if (from->hadamard)
                ref_hadamard(v, d);
            /* Below 256 the fine row is the whole rotation. */
            const float *turn =
                from->rope.table + (size_t)(from->first + t) * (from->rope.n_rot / 2 * 2);
            for (uint32_t i = 0; i < from->rope.n_rot / 2; i++) {
                double c = turn[2 * i], s = turn[2 * i + 1];
                uint32_t a, b;
                ref_rope_pair(&from->rope, i, &a, &b);
                double x = v[a], y = v[b];
                v[a] = x * c + y * s;
                v[b] = y * c - x * s;
            }
            for (uint32_t i = 0; i < d; i++)
                to[i] = (float)v[i];
        }
}

/* Slots [first, first + n_tokens) of the store that facts are evaluated in. */
static kept_status read_rows(struct kept_session *session, uint32_t first,
                             const struct kept_fact_rows *out, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    const struct kept_fact_store *store = &plan->facts.encode;
    struct sizes n = sizes_of(session);
    kept_status status = KEPT_OK;
    for (uint32_t value = 0; value < 2; value++) {
        uint32_t region = value ? store->v : store->k, type = value ? plan->v_type : plan->k_type;
        status = kept_session_read(session, region, 0, session->facts->words,
                                   region_bytes(session, region), err);
        for (uint32_t i = 0; i < n.n_layers && status == KEPT_OK; i++) {
            struct kept_fact_args args = kept_plan_fact_args(plan, store, i);
            const struct kept_arg *arg = value ? &args.v : &args.k;
            uint32_t i_rope = plan->shape->layers[i].rope;
            const struct kept_rope *rope = &plan->shape->ropes[i_rope];
            struct slot_rows rows = {
                .slots = {.words = session->facts->words + arg->offset_bytes / 4,
                          .type = type,
                          .order = value ? REF_ROWS : (uint32_t)plan->profile.word_order,
                          .d = n.d},
                .hadamard = type != KEPT_FMT_F16,
                .first = first,
                .extent = store->extent};
            rows.rope.table = session->facts->rope[i_rope];
            if (!value && rope->pairs != KEPT_ROPE_NONE)
                rows.rope = (struct ref_rope){.table = session->facts->rope[i_rope],
                                              .table_bytes = rope_bytes(rope),
                                              .n_rot = rope->n_rot,
                                              .pairs = rope->pairs};
            take_rows(&rows, n.n_kv, out->n_tokens,
                      (value ? out->v : out->k) + (size_t)i * out->n_tokens * n.row);
        }
    }
    return status;
}

static kept_status check_facts(const struct kept_session *session, struct kept_error *err)
{
    return session->facts ? KEPT_OK
                          : kept_fail(err, KEPT_E_STATE,
                                      "the session's plan has no room for facts: facts_max");
}

kept_status kept_session_fact_sinks(struct kept_session *session,
                                    const int32_t tokens[KEPT_FACT_SINKS], struct kept_error *err)
{
    kept_status status = check_facts(session, err);
    if (status != KEPT_OK)
        return status;
    struct kept_session_facts *facts = session->facts;
    const struct kept_facts_plan *planned = &session->plan->facts;
    struct sizes n = sizes_of(session);
    if (facts->has_sinks && memcmp(facts->sinks, tokens, sizeof facts->sinks) == 0)
        return KEPT_OK;
    facts->has_sinks = false;
    status = write_heads(session, &planned->encode, (struct table_row){0, 0}, NULL, err);
    if (status == KEPT_OK)
        status = write_rows(session, tokens, KEPT_FACT_SINKS, 0, err);
    if (status == KEPT_OK)
        status = run_pieces(session, planned->encoding, 0,
                            session->plan->programs[planned->encoding].n_pieces, err);
    struct kept_fact_rows rows = {.n_tokens = KEPT_FACT_SINKS, .k = facts->sink_rows};
    rows.v = rows.k + (size_t)n.n_layers * KEPT_FACT_SINKS * n.row;
    if (status == KEPT_OK)
        status = read_rows(session, 0, &rows, err);
    if (status != KEPT_OK)
        return status;
    memcpy(facts->sinks, tokens, sizeof facts->sinks);
    facts->has_sinks = true;
    return KEPT_OK;
}

kept_status kept_session_fact_hidden(struct kept_session *session, const int32_t *tokens,
                                     uint32_t n, float *out, struct kept_error *err)
{
    kept_status status = check_facts(session, err);
    const struct kept_facts_plan *planned = &session->plan->facts;
    if (status != KEPT_OK)
        return status;
    if (!session->facts->has_sinks || n == 0 || n > KEPT_FACT_MAX_TOKENS)
        return kept_fail(err, KEPT_E_ARGUMENT, "%u tokens of a fact: 1 to %u", n,
                         KEPT_FACT_MAX_TOKENS);
    session->facts->n_tokens = 0;
    status = write_rows(session, tokens, n, KEPT_FACT_SINKS, err);
    if (status == KEPT_OK)
        status = run_pieces(session, planned->encoding, 0, planned->n_address_pieces, err);
    if (status == KEPT_OK)
        status = kept_session_read(session, planned->x, 0, out,
                                   (uint64_t)n * planned->x_stride * sizeof *out, err);
    if (status == KEPT_OK)
        session->facts->n_tokens = n;
    return status;
}

kept_status kept_session_fact_rows(struct kept_session *session, struct kept_fact_rows *out,
                                   struct kept_error *err)
{
    const struct kept_facts_plan *planned = &session->plan->facts;
    if (!session->facts || session->facts->n_tokens == 0)
        return kept_fail(err, KEPT_E_STATE, "no fact is under evaluation");
    out->n_tokens = session->facts->n_tokens;
    session->facts->n_tokens = 0;
    kept_status status = run_pieces(session, planned->encoding, planned->n_address_pieces,
                                    session->plan->programs[planned->encoding].n_pieces, err);
    return status == KEPT_OK ? read_rows(session, KEPT_FACT_SINKS, out, err) : status;
}

/* ---- reading ---- */

/* Compact positions: what RoPE turns a head's tokens less by; with absolute ones nothing. */
static kept_status read_shifts(struct kept_session *session, int32_t *shifts,
                               struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    struct sizes n = sizes_of(session);
    kept_status status = KEPT_OK;
    memset(shifts, 0, (size_t)n.n_layers * n.n_kv * sizeof *shifts);
    for (uint32_t i = 0; i < n.n_layers && plan->retention.limit && status == KEPT_OK; i++) {
        const struct kept_arg *table = &plan->layers[i].store.heads_table;
        for (uint32_t h = 0; plan->layers[i].budgeted && h < n.n_kv && status == KEPT_OK; h++)
            status = kept_session_read(session, table->region,
                                       table->offset_bytes +
                                           ((uint64_t)h * KEPT_HEAD_WORDS + KEPT_HEAD_SHIFT) * 4,
                                       &shifts[(size_t)i * n.n_kv + h], sizeof *shifts, err);
    }
    return status;
}

/* Rows of `rows` to places [at, at + n_tokens) of every layer of the injection. */
static void place_rows(struct kept_session *session, const struct kept_fact_rows *rows, uint32_t at)
{
    const struct kept_facts_plan *planned = &session->plan->facts;
    struct sizes n = sizes_of(session);
    for (uint32_t i = 0; i < n.n_layers; i++)
        for (uint32_t t = 0; t < rows->n_tokens; t++) {
            size_t from = ((size_t)i * rows->n_tokens + t) * n.row;
            float *to = session->facts->rows + i * planned->rows_layer_bytes / 4 +
                        (size_t)(at + t) * planned->rows_stride;
            memcpy(to + n.row, rows->k + from, n.row * sizeof *to);
            memcpy(to + 2 * (size_t)n.row, rows->v + from, n.row * sizeof *to);
        }
}

/* Every next fact ends so many positions further away, none beside another. */
#define STEP (KEPT_FACT_SINKS + KEPT_FACT_MAX_TOKENS)

/* An injection under way. */
struct injection {
    const int32_t *shifts;
    uint32_t slots;
};

/* n rows that were placed, from this position on, into the next slots. */
static kept_status run_injection(struct kept_session *session, struct injection *to, uint32_t n,
                                 int32_t position, struct kept_error *err)
{
    const struct kept_facts_plan *planned = &session->plan->facts;
    kept_status status = write_heads(session, &planned->read,
                                     (struct table_row){to->slots, position}, to->shifts, err);
    for (uint32_t i = 0; i < sizes_of(session).n_layers && status == KEPT_OK; i++)
        status = kept_session_write(session, planned->rows, i * planned->rows_layer_bytes,
                                    (uint8_t *)session->facts->rows + i * planned->rows_layer_bytes,
                                    (uint64_t)n * planned->rows_stride * sizeof(float), err);
    if (status == KEPT_OK)
        status = write_rows(session, NULL, n, position, err);
    if (status == KEPT_OK)
        status = run_pieces(session, planned->injecting, 0,
                            session->plan->programs[planned->injecting].n_pieces, err);
    to->slots += n;
    return status;
}

/* Biases of facts, behind the positions that nobody reads; slots in the order of the injection. */
static kept_status write_biases(struct kept_session *session, const struct kept_fact_rows *facts,
                                const float *biases, uint32_t n_facts, struct kept_error *err)
{
    const struct kept_fact_store *store = &session->plan->facts.read;
    struct sizes n = sizes_of(session);
    memset(session->facts->words, 0, region_bytes(session, store->meta));
    for (uint32_t i = 0; i < n.n_layers; i++) {
        struct kept_fact_args args = kept_plan_fact_args(session->plan, store, i);
        uint32_t *plane =
            session->facts->words + args.meta.offset_bytes / 4 + (size_t)n.n_kv * store->extent;
        for (uint32_t h = 0; h < n.n_kv; h++) {
            uint32_t slot = h * store->extent + KEPT_FACT_SINKS;
            for (uint32_t f = n_facts; f-- > 0;) {
                for (uint32_t t = 0; t < facts[f].n_tokens; t++)
                    memcpy(&plane[slot++], &biases[f], sizeof biases[f]);
            }
        }
    }
    return kept_session_write(session, store->meta, 0, session->facts->words,
                              region_bytes(session, store->meta), err);
}

/* The furthest fact first, with the sinks before it. */
static kept_status inject_all(struct kept_session *session, const struct kept_fact_rows *facts,
                              uint32_t n, struct injection *to, struct kept_error *err)
{
    struct sizes size = sizes_of(session);
    int32_t end = (int32_t)session->position - (int32_t)session->plan->facts.gap;
    struct kept_fact_rows sinks = {.n_tokens = KEPT_FACT_SINKS, .k = session->facts->sink_rows};
    sinks.v = sinks.k + (size_t)size.n_layers * KEPT_FACT_SINKS * size.row;
    kept_status status = KEPT_OK;
    for (uint32_t f = n; f-- > 0 && status == KEPT_OK;) {
        uint32_t before = f + 1 == n ? KEPT_FACT_SINKS : 0, rows = before + facts[f].n_tokens;
        if (before)
            place_rows(session, &sinks, 0);
        place_rows(session, &facts[f], before);
        status = run_injection(session, to, rows, end - (int32_t)(f * STEP + rows), err);
    }
    return status;
}

kept_status kept_session_fact_inject(struct kept_session *session,
                                     const struct kept_fact_rows *facts, const float *biases,
                                     uint32_t n, struct kept_error *err)
{
    kept_status status = check_facts(session, err);
    struct sizes size = sizes_of(session);
    const struct kept_facts_plan *planned = &session->plan->facts;
    if (status != KEPT_OK)
        return status;
    session->facts->slots = 0;
    session->facts->n_tokens = 0;
    if (n == 0)
        return KEPT_OK;
    if (n > planned->top || !session->facts->has_sinks)
        return kept_fail(err, KEPT_E_ARGUMENT, "%u facts to read, the plan has room for %u", n,
                         planned->top);
    for (uint32_t f = 0; f < n; f++)
        if (facts[f].n_tokens > KEPT_FACT_MAX_TOKENS)
            return kept_fail(err, KEPT_E_ARGUMENT, "a fact of %u tokens to read: at most %u",
                             facts[f].n_tokens, KEPT_FACT_MAX_TOKENS);
    int32_t *shifts = kept_alloc((size_t)size.n_layers * size.n_kv * sizeof *shifts);
    if (!shifts)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to read facts");
    struct injection to = {.shifts = shifts};
    status = read_shifts(session, shifts, err);
    if (status == KEPT_OK)
        status = inject_all(session, facts, n, &to, err);
    if (status == KEPT_OK)
        status = write_biases(session, facts, biases, n, err);
    if (status == KEPT_OK)
        status = write_heads(session, &planned->read, (struct table_row){to.slots, INT32_MAX},
                             shifts, err);
    kept_free(shifts);
    if (status == KEPT_OK)
        session->facts->slots = to.slots;
    return status;
}

/* ---- addresses ---- */

kept_status kept_session_fact_address(struct kept_session *session, uint32_t tile,
                                      const float *rows, struct kept_error *err)
{
    kept_status status = check_facts(session, err);
    const struct kept_matrix *matrix = &session->plan->facts.addresses;
    if (status != KEPT_OK)
        return status;
    if (tile >= (matrix->n_rows + KEPT_TILE_ROWS - 1) / KEPT_TILE_ROWS)
        return kept_fail(err, KEPT_E_BUDGET, "the plan has room for %u facts", matrix->n_rows);
    uint64_t row_bytes = kept_format_row_bytes(KEPT_FORMAT_F16, matrix->k);
    uint64_t record_bytes = matrix->record.n_words * 4ull;
    uint8_t *blocks = kept_alloc(KEPT_TILE_ROWS * row_bytes + record_bytes);
    if (!blocks)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for addresses");
    uint32_t *record = (uint32_t *)(void *)(blocks + KEPT_TILE_ROWS * row_bytes);
    for (uint32_t i = 0; i < KEPT_TILE_ROWS; i++)
        kept_quant_row(KEPT_FORMAT_F16, rows + (size_t)i * matrix->k, matrix->k,
                       blocks + i * row_bytes);
    kept_relay_tile(KEPT_FORMAT_F16, (enum kept_order)session->plan->profile.word_order, blocks,
                    KEPT_TILE_ROWS, matrix->k, record);
    status = kept_session_write(session, matrix->pieces[0].region, tile * record_bytes, record,
                                record_bytes, err);
    kept_free(blocks);
    return status;
}

kept_status kept_session_fact_rank(struct kept_session *session, const float *query, float *out,
                                   uint32_t n, struct kept_error *err)
{
    kept_status status = check_facts(session, err);
    const struct kept_facts_plan *planned = &session->plan->facts;
    if (status != KEPT_OK)
        return status;
    if (n > planned->max)
        return kept_fail(err, KEPT_E_BUDGET, "%u facts, the plan has room for %u", n, planned->max);
    status = kept_session_write(session, planned->query, 0, query,
                                planned->addresses.k * sizeof *query, err);
    if (status == KEPT_OK)
        status = write_rows(session, NULL, 1, 0, err);
    if (status == KEPT_OK)
        status = run_pieces(session, planned->ranking, 0,
                            session->plan->programs[planned->ranking].n_pieces, err);
    if (status == KEPT_OK && n > 0)
        status = kept_session_read(session, planned->scores, 0, out, n * sizeof *out, err);
    return status;
}

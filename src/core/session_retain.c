/* core/session_retain.c: what a session does about slots that may be evicted: the tables of an
 * empty store, maintenance when a block is complete, and reading back what is live.
 *
 * The host never learns which slots went. It knows the position (`edge`) up to which layers were
 * maintained: by a program that maintains its own full blocks, or by the maintenance program, which
 * begins before the next evaluation once the position is a block past the edge. Blocks that an
 * evaluation ends with are left to the latter: until then the session can rewind to the edge.
 *
 * While tokens are decoded one by one the maintenance program is spread over them, each piece
 * before the token at its delay after the edge (`maintained`); decisions are those of the edge. Any
 * other evaluation runs what is left first.
 */
#include "core/session_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"

static uint32_t n_layers(const struct kept_session *session)
{
    return session->plan->shape->n_layers;
}

/* The same 32 bits over a whole region. */
static kept_status fill_region(struct kept_session *session, uint32_t region, uint32_t word,
                               uint32_t *words, struct kept_error *err)
{
    if (region == KEPT_NO_REGION)
        return KEPT_OK;
    uint64_t n_bytes = session->plan->regions[region].bytes;
    kept_status status = KEPT_OK;
    for (uint32_t i = 0; i < KEPT_FILL_BYTES / 4; i++)
        words[i] = word;
    for (uint64_t at = 0; at < n_bytes && status == KEPT_OK; at += KEPT_FILL_BYTES)
        status = kept_session_write(session, region, at, words,
                                    n_bytes - at < KEPT_FILL_BYTES ? n_bytes - at : KEPT_FILL_BYTES,
                                    err);
    return status;
}

static kept_status write_table(struct kept_session *session, uint32_t i, uint32_t *words,
                               struct kept_error *err)
{
    const struct kept_store *store = &session->plan->layers[i].store;
    if ((uint64_t)store->n_kv * KEPT_HEAD_WORDS * 4 > KEPT_FILL_BYTES)
        return kept_fail(err, KEPT_E_UNSUPPORTED, "layer %u has %u KV heads", i, store->n_kv);
    kept_retain_table(store, words);
    return kept_session_write(session, store->heads_table.region, store->heads_table.offset_bytes,
                              words, store->heads_table.n_bytes, err);
}

kept_status kept_session_begin_stores(struct kept_session *session, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    float lowest = -1e30f;
    uint32_t lowest_bits;
    kept_status status = KEPT_OK;
    if (!session->fresh)
        return KEPT_OK;
    memcpy(&lowest_bits, &lowest, sizeof lowest);
    for (uint32_t i = 0; session->fill && i < n_layers(session) && status == KEPT_OK; i++) {
        const struct kept_layer_plan *layer = &plan->layers[i];
        if (layer->budgeted)
            status = write_table(session, i, session->fill, err);
        if (status == KEPT_OK)
            status = fill_region(session, layer->stats, 0, session->fill, err);
        if (status == KEPT_OK)
            status = fill_region(session, layer->peaks, lowest_bits, session->fill, err);
        if (status == KEPT_OK)
            status = fill_region(session, layer->received, 0, session->fill, err);
    }
    if (status == KEPT_OK) {
        session->fresh = false;
        session->edge = 0;
        session->maintained = plan->last_delay + 1;
    }
    return status;
}

/* The pieces of the edge's block with delays from what ran up to before `end`. */
static kept_status run_maintenance(struct kept_session *session, uint32_t end,
                                   struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    const struct kept_program *program = &plan->programs[plan->maintenance];
    uint32_t begin = session->maintained;
    if (begin >= end)
        return KEPT_OK;
    session->maintained = end; /* there is no second try */
    session->step[KEPT_STEP_BASE] = session->edge - plan->retention.block;
    session->step[KEPT_STEP_MAINTAIN] = plan->retention.block;
    session->step[KEPT_STEP_AFTER] = session->position - session->edge;
    kept_status status = kept_session_write_step(session, KEPT_STEP_TOKENS, err);
    for (uint32_t i = 0; i < program->n_pieces && status == KEPT_OK; i++)
        if (program->pieces[i].delay >= begin && program->pieces[i].delay < end)
            status = kept_session_run(session, &session->recordings[plan->maintenance][i], 1, err);
    return status;
}

kept_status kept_session_maintain(struct kept_session *session,
                                  const struct kept_eval_params *params, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    uint32_t block = plan->retention.block, all = plan->last_delay + 1;
    bool one = params->n_tokens == 1 && !params->hold;
    if (!plan->retention.on)
        return KEPT_OK;
    if (session->position != session->accepted)
        return params->hold ? KEPT_OK
                            : kept_fail(err, KEPT_E_STATE,
                                        "the tokens after position %u were held: rewind to it "
                                        "first",
                                        session->accepted);
    if (session->position >= session->edge + block) {
        session->edge += block; /* from here on there is no way back */
        session->maintained = 0;
    }
    uint32_t due = session->position - session->edge + 1;
    return run_maintenance(session, one && due < all ? due : all, err);
}

/* The rows that the next chunk may have: programs see whole blocks only. */
uint32_t kept_session_rows_here(const struct kept_session *session, uint32_t rows, bool hold)
{
    const kept_plan *plan = session->plan;
    uint32_t calibrate = plan->params.calibrate_tokens, position = session->position;
    if (calibrate && position < calibrate && rows > calibrate - position)
        rows = calibrate - position;
    if (!plan->retention.on || hold)
        return rows;
    uint32_t block = plan->retention.block, into = position % block;
    if (into != 0)
        return rows < block - into ? rows : block - into;
    return rows > block && rows == plan->params.chunk_tokens ? rows / block * block : rows;
}

/* Rows of this chunk whose complete blocks the program maintains, or whose attention is counted. */
uint32_t kept_session_maintained_rows(struct kept_session *session, uint32_t rows, bool last,
                                      bool hold)
{
    const kept_plan *plan = session->plan;
    uint32_t block = plan->retention.block;
    if (plan->params.calibrate_tokens)
        return session->position >= plan->params.calibrate_tokens ? rows : 0;
    if (!plan->retention.on || hold || session->position % block != 0)
        return 0;
    uint32_t blocks = rows / block;
    if (last && blocks * block == rows)
        blocks--; /* a program with fewer rows than a block has none anyway */
    return rows < block ? 0 : blocks * block;
}

bool kept_session_is_behind_edge(const struct kept_session *session, uint32_t position)
{
    return session->plan->retention.on && !session->fresh && position < session->edge;
}

/* ---- what is live ---- */

static kept_status read_table(struct kept_session *session, uint32_t layer, uint32_t *table,
                              struct kept_error *err)
{
    const struct kept_arg *arg = &session->plan->layers[layer].store.heads_table;
    return kept_session_read(session, arg->region, arg->offset_bytes, table, arg->n_bytes, err);
}

static uint32_t live_of(const struct kept_session *session, const uint32_t *head)
{
    int64_t since = (int64_t)session->position - (int32_t)head[KEPT_HEAD_EDGE];
    int64_t live = (int64_t)head[KEPT_HEAD_BASE] + (since > 0 ? since : 0);
    return live < head[KEPT_HEAD_CAP] ? (uint32_t)live : head[KEPT_HEAD_CAP];
}

static void count_plain(const struct kept_session *session, uint32_t layer,
                        struct kept_slot_counts *out)
{
    const struct kept_layer *shape = &session->plan->shape->layers[layer];
    uint32_t cap = session->plan->layers[layer].cap, window = shape->window;
    uint32_t live = session->position < cap ? session->position : cap;
    if (window != 0 && live > window)
        live = window;
    out->live += (uint64_t)live * shape->n_kv;
    out->most = live > out->most ? live : out->most;
}

static void count_store(const struct kept_session *session, uint32_t layer, const uint32_t *table,
                        struct kept_slot_counts *out)
{
    for (uint32_t h = 0; h < session->plan->shape->layers[layer].n_kv; h++) {
        const uint32_t *head = table + (size_t)h * KEPT_HEAD_WORDS;
        uint32_t live = live_of(session, head);
        out->live += live;
        out->most = live > out->most ? live : out->most;
        out->evicted += head[KEPT_HEAD_EVICTED];
        out->consolidated += head[KEPT_HEAD_CONSOLIDATED];
    }
}

kept_status kept_session_slots(kept_session *session, struct kept_slot_counts *out,
                               struct kept_error *err)
{
    if (!session || !out)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_session_slots needs a session and out");
    *out = (struct kept_slot_counts){0};
    if (session->position == 0)
        return KEPT_OK;
    uint32_t *table = kept_alloc(KEPT_FILL_BYTES);
    kept_status status =
        table ? KEPT_OK : kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to count slots");
    for (uint32_t i = 0; i < n_layers(session) && status == KEPT_OK; i++) {
        if (!session->plan->layers[i].budgeted) {
            count_plain(session, i, out);
            continue;
        }
        status = read_table(session, i, table, err);
        if (status == KEPT_OK)
            count_store(session, i, table, out);
    }
    out->merged = session->plan->retention.merge ? out->evicted : 0;
    kept_free(table);
    return status;
}

struct kept_one {
    int32_t position;
    float bias;
};

static void sort_by_position(struct kept_one *list, uint32_t n)
{
    /* shell sort: a few thousand entries, mostly in order */
    for (uint32_t gap = n / 2; gap > 0; gap /= 2)
        for (uint32_t i = gap; i < n; i++)
            for (uint32_t j = i; j >= gap && list[j - gap].position > list[j].position; j -= gap) {
                struct kept_one other = list[j];
                list[j] = list[j - gap];
                list[j - gap] = other;
            }
}

kept_status kept_session_read_plane(struct kept_session *session, uint32_t layer, uint32_t plane,
                                    uint64_t first_slot, uint32_t n, uint32_t *words,
                                    struct kept_error *err)
{
    const struct kept_store *store = &session->plan->layers[layer].store;
    return kept_session_read(session, store->meta.region,
                             ((uint64_t)plane * store->total + first_slot) * 4, words, n * 4ull,
                             err);
}

/* One plane of a head's meta, into every second word of the list. */
static kept_status read_plane(struct kept_session *session, uint32_t layer, const uint32_t *head,
                              uint32_t plane, struct kept_one *list, uint32_t n,
                              struct kept_error *err)
{
    uint32_t *words = kept_alloc(((size_t)n + 1) * sizeof *words);
    if (!words)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u slots", n);
    kept_status status =
        kept_session_read_plane(session, layer, plane, head[KEPT_HEAD_FIRST], n, words, err);
    for (uint32_t i = 0; i < n && status == KEPT_OK; i++)
        memcpy(plane == 0 ? (void *)&list[i].position : (void *)&list[i].bias, &words[i], 4);
    kept_free(words);
    return status;
}

static kept_status read_kept(struct kept_session *session, uint32_t layer, const uint32_t *head,
                             struct kept_one *list, uint32_t n, struct kept_error *err)
{
    kept_status status = n ? read_plane(session, layer, head, 0, list, n, err) : KEPT_OK;
    if (status == KEPT_OK && n)
        status = read_plane(session, layer, head, 1, list, n, err);
    if (status == KEPT_OK)
        sort_by_position(list, n);
    return status;
}

static kept_status list_store(struct kept_session *session, uint32_t layer, uint32_t kv_head,
                              struct kept_one **list, uint32_t *n, struct kept_error *err)
{
    uint32_t *table = kept_alloc(KEPT_FILL_BYTES);
    kept_status status =
        table ? KEPT_OK : kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to list slots");
    if (status == KEPT_OK)
        status = read_table(session, layer, table, err);
    if (status == KEPT_OK) {
        const uint32_t *head = table + (size_t)kv_head * KEPT_HEAD_WORDS;
        *n = live_of(session, head);
        *list = kept_calloc((size_t)*n + 1, sizeof **list);
        status = *list ? read_kept(session, layer, head, *list, *n, err)
                       : kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u slots", *n);
    }
    kept_free(table);
    return status;
}

kept_status kept_session_kept(kept_session *session, uint32_t layer, uint32_t kv_head,
                              int32_t *positions, float *biases, uint32_t cap, uint32_t *n_live,
                              struct kept_error *err)
{
    if (!session || !n_live || (cap && (!positions || !biases)))
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_session_kept needs a session and room");
    const kept_plan *plan = session->plan;
    if (layer >= plan->shape->n_layers || kv_head >= plan->shape->layers[layer].n_kv)
        return kept_fail(err, KEPT_E_ARGUMENT, "there is no KV head %u in layer %u", kv_head,
                         layer);
    struct kept_one *list = NULL;
    kept_status status = KEPT_OK;
    *n_live = session->position;
    if (plan->layers[layer].budgeted && session->position)
        status = list_store(session, layer, kv_head, &list, n_live, err);
    for (uint32_t i = 0; i < cap && i < *n_live && status == KEPT_OK; i++) {
        positions[i] = list ? list[i].position : (int32_t)i;
        biases[i] = list ? list[i].bias : 0;
    }
    kept_free(list);
    return status;
}

/* ---- calibration ---- */

/* A calibrated layer's counts, [n_kv][calibrate_tokens]. */
static kept_status read_counts(struct kept_session *session, uint32_t layer, uint32_t region,
                               float *out, struct kept_error *err)
{
    if (region == KEPT_NO_REGION || session->fresh)
        return kept_fail(err, KEPT_E_STATE, "layer %u was not calibrated", layer);
    return kept_session_read(session, region, 0, out, session->plan->regions[region].bytes, err);
}

kept_status kept_session_peaks(kept_session *session, uint32_t layer, float *out,
                               struct kept_error *err)
{
    if (!session || !out || layer >= n_layers(session))
        return kept_fail(err, KEPT_E_ARGUMENT, "there are no peaks of layer %u", layer);
    return read_counts(session, layer, session->plan->layers[layer].peaks, out, err);
}

kept_status kept_session_received(kept_session *session, uint32_t layer, float *out,
                                  struct kept_error *err)
{
    if (!session || !out || layer >= n_layers(session))
        return kept_fail(err, KEPT_E_ARGUMENT, "there are no sums of layer %u", layer);
    return read_counts(session, layer, session->plan->layers[layer].received, out, err);
}

/* Rows of the device have their sums behind them: as many at once as the host buffer takes. */
kept_status kept_session_hidden(kept_session *session, uint32_t layer, float *out, uint32_t n_rows,
                                struct kept_error *err)
{
    if (!session || !out || layer >= n_layers(session))
        return kept_fail(err, KEPT_E_ARGUMENT, "there are no inputs of layer %u", layer);
    uint32_t region = session->plan->layers[layer].hidden, k = session->plan->shape->n_embd;
    if (region == KEPT_NO_REGION)
        return kept_fail(err, KEPT_E_STATE, "the inputs of layer %u are not in the plan", layer);
    if (n_rows > session->last_rows)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "inputs of %u tokens of layer %u: %u were evaluated together last", n_rows,
                         layer, session->last_rows);
    uint64_t row_bytes = 4ull * KEPT_ACT_STRIDE(k), first = session->last_rows - n_rows;
    uint32_t most = (uint32_t)(KEPT_FILL_BYTES / row_bytes);
    kept_status status = KEPT_OK;
    for (uint32_t row = 0; row < n_rows && status == KEPT_OK;) {
        uint32_t n = most == 0 ? 1 : n_rows - row < most ? n_rows - row : most;
        float *to = out + (size_t)row * k;
        void *raw = most == 0 ? (void *)to : session->fill;
        status = kept_session_read(session, region, (first + row) * row_bytes, raw,
                                   most == 0 ? k * 4ull : n * row_bytes, err);
        for (uint32_t i = 0; i < n && most != 0 && status == KEPT_OK; i++)
            memcpy(to + (size_t)i * k, (const uint8_t *)raw + i * row_bytes, k * 4ull);
        row += n;
    }
    return status;
}

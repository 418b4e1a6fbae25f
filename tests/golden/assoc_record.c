/* tests/golden/assoc_record.c: what associative memory reads and decides while a text is read, for
 * comparison with an independent implementation of its rules (assoc_replay.py).
 *
 *   assoc_record MODEL TEXT DEVICE TOKENS OUT [name value]…
 *     form 1|2 (kept, published), slots N of memory, window N, sinks N, block N, refresh N,
 *     merge 0|1, threshold R, unrotated 0|1
 *
 * The first TOKENS tokens of the text are evaluated a block at a time, with the plan's own
 * programs. Maintenance runs the plan's calls too, but as three submissions a layer, so that what
 * each has decided can be read in between. OUT (f16 slots): a line of JSON, then for every block,
 * for every bounded layer:
 *
 *     state   table u32 [n_kv][12], keys and values f16 [total][d] each (keys as stored, elements
 *             in order), meta [5][total], scores f32 [2][total]
 *     stats   f32 [n_head][KEPT_STATS_STRIDE(d)] without this block, queries f32
 *             [query_rows][n_head * d]; both left out for the published form
 *     meta    [5][total] when what is alike was averaged
 *     near    (f32, u32) [n_kv][n_splits][block]: the most similar slot of every token that left
 *     moves   u32 [n_kv][KEPT_MOVES_STRIDE(block)]: the slots that go, and what moves where
 *     state   after it
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "core/session_internal.h"
#include "kept/kept.h"
#include "kernel/ref/ref_slots.h"

#define EXIT_SKIP 77
#define STAGES    3u /* up to what is averaged; what goes; the rest */
#define MAX_TEXT  (1u << 24)

/* One bounded layer's maintenance. */
struct layer {
    uint32_t index;
    struct kept_recording *stages[STAGES];
    struct kept_arg near, moves;
    uint32_t n_splits;
};

struct record {
    kept_model *model;
    kept_device *device;
    kept_plan *plan;
    kept_session *session;
    int32_t *ids;
    size_t n_ids;
    uint32_t n_tokens;
    FILE *out;
    struct layer *layers;
    uint32_t n_layers;
    void *words; /* a region, or decoded slots */
};

static const struct kept_store *store_of(const struct record *r, const struct layer *layer)
{
    return &r->plan->layers[layer->index].store;
}

/* ---- maintenance in stages ---- */

static uint32_t stage_of(enum kept_kernel_id id)
{
    switch (id) {
    case KEPT_KERNEL_Q_STATS:
    case KEPT_KERNEL_SCORE_EXPECTED:
    case KEPT_KERNEL_ASSOC_RAW:
    case KEPT_KERNEL_ASSOC_MATCH:
    case KEPT_KERNEL_ASSOC_WRITE:
        return 0;
    case KEPT_KERNEL_SLOT_SELECT:
        return 1;
    default:
        return 2;
    }
}

/* The layer whose store the call works on. */
static bool works_on(const struct kept_call *call, const struct kept_store *store)
{
    const struct kept_arg *own[] = {&store->k, &store->v, &store->meta, &store->stats};
    for (uint32_t i = 0; i < kept_kernel_row(call->id)->n_binds; i++)
        for (size_t j = 0; j < sizeof own / sizeof *own; j++)
            if (call->args[i].region == own[j]->region && own[j]->region != store->table.region)
                return true;
    return false;
}

static kept_status record_call(struct record *r, struct kept_recording *recording,
                               const struct kept_call *call, struct kept_error *err)
{
    const struct kept_kernel_row *row = kept_kernel_row(call->id);
    struct kept_bind binds[KEPT_MAX_BINDS];
    for (uint32_t i = 0; i < row->n_binds; i++) {
        binds[i] = kept_session_bind(r->session, call->args[i].region);
        binds[i].offset_bytes += call->args[i].offset_bytes;
        binds[i].n_bytes = (call->args[i].n_bytes + 3) / 4 * 4;
    }
    for (uint32_t i = 0; i < r->session->n_kernels; i++) {
        struct kept_kernel *kernel = r->session->kernels[i];
        if (kernel->row->id == call->id &&
            memcmp(kernel->keys, call->keys, row->n_keys * sizeof *call->keys) == 0)
            return kept_recording_call(recording, kernel, binds, call->params, call->grid, err);
    }
    return KEPT_E_STATE;
}

static kept_status record_layer(struct record *r, struct layer *layer, struct kept_error *err)
{
    const struct kept_program *program = &r->plan->programs[r->plan->maintenance];
    const struct kept_store *store = store_of(r, layer);
    kept_status status = KEPT_OK;
    for (uint32_t s = 0; s < STAGES && status == KEPT_OK; s++)
        status = kept_recording_begin(r->session->device, program->n_calls, &layer->stages[s], err);
    for (uint32_t i = 0; i < program->n_calls && status == KEPT_OK; i++) {
        const struct kept_call *call = &program->calls[i];
        struct kept_assoc_params params;
        if (!works_on(call, store))
            continue;
        if (call->id == KEPT_KERNEL_ASSOC_MATCH) {
            memcpy(&params, call->params, sizeof params);
            layer->n_splits = params.n_splits;
            layer->near = call->args[3];
        } else if (call->id == KEPT_KERNEL_SLOT_SELECT) {
            layer->moves = call->args[5];
        }
        status = record_call(r, layer->stages[stage_of(call->id)], call, err);
    }
    for (uint32_t s = 0; s < STAGES && status == KEPT_OK; s++)
        status = kept_recording_end(layer->stages[s], err);
    return status;
}

/* The device takes no more recordings once it carries a session. */
static kept_status record_layers(struct record *r, struct kept_error *err)
{
    kept_status status = KEPT_OK;
    r->n_layers = r->plan->n_maintained;
    r->layers = calloc(r->n_layers, sizeof *r->layers);
    kept_device_unseal(r->session->device);
    for (uint32_t i = 0; i < r->n_layers && status == KEPT_OK; i++) {
        r->layers[i].index = r->plan->maintained[i];
        status = record_layer(r, &r->layers[i], err);
    }
    kept_device_seal(r->session->device);
    return status;
}

/* ---- what is written down ---- */

static kept_status put(struct record *r, struct kept_arg arg, uint64_t n_bytes,
                       struct kept_error *err)
{
    kept_status status =
        kept_session_read(r->session, arg.region, arg.offset_bytes, r->words, n_bytes, err);
    if (status == KEPT_OK && fwrite(r->words, 1, n_bytes, r->out) != n_bytes)
        return KEPT_E_IO;
    return status;
}

/* K or V of all slots, elements in order. */
static kept_status put_slots(struct record *r, const struct kept_store *store, bool keys,
                             struct kept_error *err)
{
    struct kept_arg arg = keys ? store->k : store->v;
    struct ref_slots slots = {.type = KEPT_FMT_F16,
                              .order = keys ? r->plan->profile.word_order : REF_ROWS,
                              .d = store->d};
    uint32_t n = store->d / 2, *row = calloc(n, sizeof *row);
    kept_status status = row ? kept_session_read(r->session, arg.region, arg.offset_bytes, r->words,
                                                 arg.n_bytes, err)
                             : KEPT_E_HOST_MEMORY;
    const uint32_t *words = r->words;
    for (uint32_t s = 0; s < store->total && status == KEPT_OK; s++) {
        for (uint32_t i = 0; i < n; i++)
            row[i] = words[ref_slot_word(&slots, s, i)];
        if (fwrite(row, sizeof *row, n, r->out) != n)
            status = KEPT_E_IO;
    }
    free(row);
    return status;
}

static kept_status put_state(struct record *r, const struct layer *layer, struct kept_error *err)
{
    const struct kept_store *store = store_of(r, layer);
    kept_status status = put(r, store->heads_table, store->n_kv * KEPT_HEAD_WORDS * 4ull, err);
    if (status == KEPT_OK)
        status = put_slots(r, store, true, err);
    if (status == KEPT_OK)
        status = put_slots(r, store, false, err);
    if (status == KEPT_OK)
        status = put(r, store->meta, 4ull * KEPT_ASSOC_PLANES * store->total, err);
    if (status == KEPT_OK)
        status = put(r, store->scores, 8ull * store->total, err);
    return status;
}

static kept_status put_statistics(struct record *r, const struct layer *layer,
                                  struct kept_error *err)
{
    const struct kept_store *store = store_of(r, layer);
    if (r->plan->retention.assoc == KEPT_ASSOC_PUBLISHED)
        return KEPT_OK;
    kept_status status =
        put(r, store->stats, 4ull * store->n_head * KEPT_STATS_STRIDE(store->d), err);
    if (status != KEPT_OK)
        return status;
    uint64_t rows = r->plan->retention.block + store->delay;
    return put(r, store->queries, 4ull * rows * store->n_head * store->d, err);
}

static kept_status put_layer(struct record *r, struct layer *layer, struct kept_error *err)
{
    const struct kept_store *store = store_of(r, layer);
    uint32_t block = r->plan->retention.block;
    kept_status status = put_state(r, layer, err);
    if (status == KEPT_OK)
        status = put_statistics(r, layer, err);
    if (status == KEPT_OK)
        status = kept_session_run(r->session, &layer->stages[0], 1, err);
    if (status == KEPT_OK)
        status = put(r, store->meta, 4ull * KEPT_ASSOC_PLANES * store->total, err);
    if (status == KEPT_OK)
        status = put(r, layer->near, 8ull * store->n_kv * layer->n_splits * block, err);
    if (status == KEPT_OK)
        status = kept_session_run(r->session, &layer->stages[1], 1, err);
    if (status == KEPT_OK)
        status = put(r, layer->moves, 4ull * store->n_kv * KEPT_MOVES_STRIDE(block), err);
    if (status == KEPT_OK)
        status = kept_session_run(r->session, &layer->stages[2], 1, err);
    return status == KEPT_OK ? put_state(r, layer, err) : status;
}

/* As kept_session_maintain does it. */
static kept_status put_block(struct record *r, struct kept_error *err)
{
    struct kept_session *session = r->session;
    session->edge += r->plan->retention.block;
    session->maintained = r->plan->last_delay + 1;
    session->step[KEPT_STEP_BASE] = session->edge - r->plan->retention.block;
    session->step[KEPT_STEP_MAINTAIN] = r->plan->retention.block;
    session->step[KEPT_STEP_AFTER] = 0;
    kept_status status =
        kept_session_write(session, r->plan->step, 0, session->step, KEPT_STEP_TOKENS * 4ull, err);
    for (uint32_t i = 0; i < r->n_layers && status == KEPT_OK; i++)
        status = put_layer(r, &r->layers[i], err);
    return status;
}

static void put_head_line(const struct record *r)
{
    const struct kept_retention *t = &r->plan->retention;
    const struct kept_store *store = store_of(r, &r->layers[0]);
    const struct kept_rope *rope =
        &r->plan->shape->ropes[r->plan->shape->layers[r->layers[0].index].rope];
    fprintf(r->out,
            "{\"published\": %d, \"unrotated\": %d, \"merge\": %d, \"threshold\": %.9g, "
            "\"sinks\": %u, \"window\": %u, \"block\": %u, \"refresh\": %u, \"keep\": %.9g, "
            "\"blocks\": %u, \"n_head\": %u, "
            "\"n_kv\": %u, \"d\": %u, \"n_rot\": %u, \"pairs\": %u, \"base\": %.17g, \"scale\": "
            "%.17g, \"q_scale\": %.9g, \"layers\": [",
            t->assoc == KEPT_ASSOC_PUBLISHED, t->unrotated, t->merge, (double)t->threshold,
            t->sinks, t->window, t->block, t->refresh, (double)t->keep, r->n_tokens / t->block,
            store->n_head, store->n_kv, store->d, rope->n_rot, rope->pairs, rope->base, rope->scale,
            (double)store->q_scale);
    for (uint32_t i = 0; i < r->n_layers; i++) {
        store = store_of(r, &r->layers[i]);
        fprintf(r->out,
                "%s{\"layer\": %u, \"total\": %u, \"query_rows\": %u, \"n_splits\": "
                "%u, \"heads\": [",
                i ? ", " : "", r->layers[i].index, store->total, t->block + store->delay,
                r->layers[i].n_splits);
        for (uint32_t h = 0; h < store->n_kv; h++)
            fprintf(r->out, "%s[%u, %u, %u]", h ? ", " : "", store->heads[h].first,
                    store->heads[h].cap, store->heads[h].budget);
        fprintf(r->out, "]}");
    }
    fprintf(r->out, "]}\n");
}

/* ---- the run ---- */

static kept_status take_room(struct record *r)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < r->plan->n_regions; i++)
        most = r->plan->regions[i].bytes > most ? r->plan->regions[i].bytes : most;
    r->words = malloc(most);
    return r->words ? KEPT_OK : KEPT_E_HOST_MEMORY;
}

static kept_status run(struct record *r, struct kept_error *err)
{
    uint32_t block = r->plan->retention.block;
    kept_status status = record_layers(r, err);
    if (status == KEPT_OK)
        status = take_room(r);
    if (status == KEPT_OK)
        put_head_line(r);
    for (uint32_t at = 0; at + block <= r->n_tokens && status == KEPT_OK; at += block) {
        struct kept_eval_params params = {.tokens = r->ids + at, .n_tokens = block};
        status = kept_session_eval(r->session, &params, err);
        if (status == KEPT_OK)
            status = put_block(r, err);
    }
    for (uint32_t i = 0; i < r->n_layers; i++)
        for (uint32_t s = 0; s < STAGES; s++)
            kept_recording_destroy(&r->layers[i].stages[s]);
    return status;
}

static bool set(struct kept_plan_params *p, const char *name, const char *value)
{
    struct kept_retain_params *t = &p->retain;
    uint32_t n = (uint32_t)strtoul(value, NULL, 10);
    if (strcmp(name, "form") == 0)
        t->assoc = (enum kept_assoc)n;
    else if (strcmp(name, "unrotated") == 0)
        t->assoc_keys = n ? KEPT_ASSOC_UNROTATED : KEPT_ASSOC_ROTATED;
    else if (strcmp(name, "slots") == 0)
        t->assoc_slots = n;
    else if (strcmp(name, "window") == 0)
        t->protect = (int32_t)n;
    else if (strcmp(name, "sinks") == 0)
        t->sinks = (int32_t)n;
    else if (strcmp(name, "block") == 0)
        t->block_tokens = p->chunk_tokens = n;
    else if (strcmp(name, "refresh") == 0)
        t->refresh_tokens = n;
    else if (strcmp(name, "merge") == 0)
        t->no_merge = n == 0;
    else if (strcmp(name, "threshold") == 0)
        t->assoc_threshold = strtof(value, NULL);
    else
        return false;
    return true;
}

static kept_status read_text(struct record *r, const char *path, struct kept_error *err)
{
    char *text = NULL;
    size_t n_bytes = 0;
    kept_status status = kept_file_load(path, MAX_TEXT, &text, &n_bytes, err);
    if (status == KEPT_OK)
        status = kept_tokenizer_encode(kept_model_tokenizer(r->model), text, n_bytes, 0, &r->ids,
                                       &r->n_ids, err);
    kept_free(text);
    if (status == KEPT_OK && r->n_ids < r->n_tokens) {
        snprintf(err->message, sizeof err->message, "%s has %zu tokens", path, r->n_ids);
        return KEPT_E_ARGUMENT;
    }
    return status;
}

static kept_status start(struct record *r, char **argv, const struct kept_plan_params *params,
                         struct kept_error *err)
{
    struct kept_profile profile;
    char choice[256];
    kept_status status = kept_model_open(argv[1], NULL, &r->model, err);
    if (status == KEPT_OK)
        status = read_text(r, argv[2], err);
    if (status == KEPT_OK)
        status = kept_device_create(argv[3], NULL, &r->device, choice, err);
    if (status != KEPT_OK)
        return status;
    kept_device_profile(r->device, &profile);
    status = kept_plan_create(r->model, &profile, params, &r->plan, err);
    if (status == KEPT_OK)
        status = kept_session_create(r->plan, r->device, NULL, NULL, &r->session, err);
    return status;
}

int main(int argc, char **argv)
{
    struct record r = {0};
    struct kept_error err = {0};
    struct kept_plan_params params = {.chunk_tokens = KEPT_SLOT_BLOCK,
                                      .retain = {.assoc = KEPT_ASSOC_KEPT, .assoc_slots = 384}};
    if (argc < 6)
        return 2;
    r.n_tokens = (uint32_t)strtoul(argv[4], NULL, 10);
    params.context_tokens = r.n_tokens + 256; /* the last block is not the end of the context */
    for (int i = 6; i + 1 < argc; i += 2)
        if (!set(&params, argv[i], argv[i + 1])) {
            fprintf(stderr, "assoc_record: no option '%s'\n", argv[i]);
            return 2;
        }
    kept_status status = start(&r, argv, &params, &err);
    if (status == KEPT_OK && !(r.out = fopen(argv[5], "wb")))
        status = KEPT_E_IO;
    if (status == KEPT_OK)
        status = run(&r, &err);
    if (r.out && fclose(r.out) != 0 && status == KEPT_OK)
        status = KEPT_E_IO;
    if (status != KEPT_OK)
        fprintf(stderr, "assoc_record: %s\n", err.message);
    free(r.words);
    free(r.layers);
    kept_session_destroy(&r.session);
    kept_plan_destroy(&r.plan);
    kept_device_destroy(&r.device);
    kept_tokens_free(&r.ids);
    kept_model_close(&r.model);
    return status == KEPT_OK ? 0 : status == KEPT_E_NO_DEVICE ? EXIT_SKIP : 1;
}

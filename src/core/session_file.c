/* core/session_file.c: a session's tokens and slots in a file.
 *
 * Little-endian. Header, tokens i32 [position], then per layer and KV head the stored positions:
 * all of them, or in a sliding-window layer those that a row at position `restored` or later
 * attends to. Keys f16 [positions][d], values f16 [positions][d]; an XXH3 of everything at the end.
 * Keys are stored rotated, in plain rows: the file does not depend on the device's word order,
 * capacity or limits. Bound to the model by the hash of its tensors.
 *
 * Quantised slots and stores that evict are written as they are on the device, region by region,
 * with what ranks them: such a file goes on exactly where it stopped, on a plan with the same slots
 * (`layout`: a hash of types, budgets, extents and word order).
 */
#include "core/session_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"
#include "base/str.h"

#define MAGIC   0x5353545045B4u /* arbitrary, with a byte that is not text */
#define VERSION 3u

struct header {
    uint64_t magic;
    uint32_t version, n_layers;
    uint64_t model_hash;
    uint32_t position;
    uint32_t restored; /* the earliest position that a session can rewind to after loading, but 0 */
    uint32_t n_kv, d;
    uint64_t layout;     /* 0: plain rows */
    uint32_t edge;       /* retention: maintained up to here, */
    uint32_t maintained; /* layers with delays below this one */
};

/* ---- stores as they are ---- */

static bool is_raw(const kept_plan *plan)
{
    return plan->retention.on || plan->k_type != KEPT_FMT_F16 || plan->v_type != KEPT_FMT_F16;
}

/* What must be equal for a raw file to fit. */
static uint64_t layout_of(const kept_plan *plan)
{
    const struct kept_retention *r = &plan->retention;
    uint32_t threshold, assoc = (uint32_t)r->assoc | (uint32_t)r->unrotated << 8;
    memcpy(&threshold, &r->threshold, sizeof threshold);
    const uint32_t words[] = {plan->k_type, plan->v_type,      plan->profile.word_order,
                              r->on,        (uint32_t)r->mode, (uint32_t)r->scorer,
                              r->merge,     r->compact,        r->past,
                              r->sinks,     r->window,         r->block,
                              r->refresh,   r->limit,          plan->params.context_tokens,
                              assoc,        threshold};
    uint64_t hash = kept_hash64(words, r->on ? sizeof words : 4 * sizeof *words, VERSION);
    for (uint32_t i = 0; i < plan->shape->n_layers; i++) {
        const struct kept_layer_plan *layer = &plan->layers[i];
        hash = kept_hash64(&layer->cap, sizeof layer->cap, hash);
        for (uint32_t h = 0; layer->budgeted && h < layer->store.n_kv; h++) {
            const struct kept_head_slots *head = &layer->store.heads[h];
            const uint32_t slots[] = {head->first, head->cap, head->budget};
            hash = kept_hash64(slots, sizeof slots, hash);
        }
    }
    return hash | 1;
}

/* The regions of a raw file: region number i, or KEPT_NO_REGION past the last. */
static uint32_t raw_region(const kept_plan *plan, uint32_t i)
{
    enum { A_LAYER = 6 };
    if (i == plan->shape->n_layers * A_LAYER)
        return plan->heads;
    if (i > plan->shape->n_layers * A_LAYER)
        return KEPT_NO_REGION;
    const struct kept_layer_plan *layer = &plan->layers[i / A_LAYER];
    const uint32_t regions[A_LAYER] = {layer->k_slots, layer->v_slots, layer->meta,
                                       layer->scores,  layer->stats,   layer->queries};
    return regions[i % A_LAYER];
}

static uint32_t n_raw_regions(const kept_plan *plan)
{
    return plan->shape->n_layers * 6 + 1;
}

static uint64_t raw_bytes(const kept_plan *plan)
{
    uint64_t n_bytes = 0;
    for (uint32_t i = 0; i < n_raw_regions(plan); i++) {
        uint32_t region = raw_region(plan, i);
        n_bytes += region == KEPT_NO_REGION ? 0 : plan->regions[region].bytes;
    }
    return n_bytes;
}

static kept_status move_raw(struct kept_session *session, uint8_t *at, bool saving,
                            struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    kept_status status = KEPT_OK;
    for (uint32_t i = 0; i < n_raw_regions(plan) && status == KEPT_OK; i++) {
        uint32_t region = raw_region(plan, i);
        if (region == KEPT_NO_REGION)
            continue;
        uint64_t n_bytes = plan->regions[region].bytes;
        status = saving ? kept_session_read(session, region, 0, at, n_bytes, err)
                        : kept_session_write(session, region, 0, at, n_bytes, err);
        at += n_bytes;
    }
    return status;
}

/* ---- plain rows ---- */

static void word_at(uint32_t order, uint32_t slot, uint32_t pair, uint32_t d, uint64_t *word)
{
    uint32_t group = pair / 4, w = pair % 4, row = slot % KEPT_TILE_ROWS;
    uint64_t record = (uint64_t)(slot / KEPT_TILE_ROWS) * KEPT_TILE_ROWS * (d / 2);
    *word = record + (uint64_t)group * KEPT_TILE_ROWS * 4 +
            (order == KEPT_ORDER_LANE ? row * 4 + w : w * KEPT_TILE_ROWS + row);
}

/* One KV head's slots between the device's layout and rows by position. */
struct head_job {
    struct kept_session *session;
    uint32_t layer, head, from, end; /* positions */
    uint32_t *slots;                 /* [cap * d/2] words as on the device */
    uint32_t *rows;                  /* [end - from][d/2] */
    bool keys, saving;
};

static void move_rows(const struct head_job *job)
{
    const struct kept_layer_plan *planned = &job->session->plan->layers[job->layer];
    uint32_t d = job->session->plan->shape->layers[job->layer].d;
    uint32_t order = job->session->plan->profile.word_order;
    for (uint32_t t = job->from; t < job->end; t++) {
        uint32_t slot = t % planned->cap;
        uint32_t *row = job->rows + (uint64_t)(t - job->from) * (d / 2);
        for (uint32_t pair = 0; pair < d / 2; pair++) {
            uint64_t word = (uint64_t)slot * (d / 2) + pair;
            if (job->keys)
                word_at(order, slot, pair, d, &word);
            if (job->saving)
                row[pair] = job->slots[word];
            else
                job->slots[word] = row[pair];
        }
    }
}

static kept_status move_head(struct head_job *job, struct kept_error *err)
{
    const struct kept_layer_plan *planned = &job->session->plan->layers[job->layer];
    uint32_t d = job->session->plan->shape->layers[job->layer].d;
    uint32_t region = job->keys ? planned->k_slots : planned->v_slots;
    uint64_t n_bytes = (uint64_t)planned->cap * d * 2, offset = job->head * n_bytes;
    kept_status status = KEPT_OK;
    if (job->saving)
        status = kept_session_read(job->session, region, offset, job->slots, n_bytes, err);
    else
        memset(job->slots, 0, n_bytes);
    if (status == KEPT_OK)
        move_rows(job);
    if (status == KEPT_OK && !job->saving)
        status = kept_session_write(job->session, region, offset, job->slots, n_bytes, err);
    return status;
}

static uint64_t most_slot_bytes(const kept_plan *plan)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < plan->shape->n_layers; i++) {
        uint64_t n_bytes = (uint64_t)plan->layers[i].cap * plan->shape->layers[i].d * 2;
        most = n_bytes > most ? n_bytes : most;
    }
    return most;
}

/* Rings hold a block more than their window: as far as that goes, a loaded session can rewind. */
static uint32_t first_restored(const struct kept_session *session)
{
    uint32_t first = session->position;
    uint32_t most = first < KEPT_SLOT_BLOCK ? first : KEPT_SLOT_BLOCK;
    for (uint32_t i = 0; i < most && kept_session_can_return(session, first - 1); i++)
        first--;
    return first;
}

static struct header header_of(const struct kept_session *session)
{
    const struct kept_layer *layer = &session->plan->shape->layers[0];
    struct header header;
    memset(&header, 0, sizeof header);
    header.magic = MAGIC;
    header.version = VERSION;
    header.n_layers = session->plan->shape->n_layers;
    header.model_hash = session->model_hash;
    header.position = session->position;
    header.restored = first_restored(session);
    header.n_kv = layer->n_kv;
    header.d = layer->d;
    if (is_raw(session->plan)) {
        header.layout = layout_of(session->plan);
        header.edge = session->edge;
        header.maintained = session->maintained;
        if (header.restored < header.edge)
            header.restored = header.edge;
    }
    return header;
}

/* Bytes of the whole file, checksum included. */
static uint64_t file_bytes(const struct kept_session *session, const struct header *header)
{
    const struct kept_shape *shape = session->plan->shape;
    uint64_t n_bytes = sizeof *header + header->position * 4ull + sizeof(uint64_t);
    if (is_raw(session->plan))
        return n_bytes + raw_bytes(session->plan);
    for (uint32_t i = 0; i < shape->n_layers; i++) {
        uint32_t from = kept_session_window_from(session, i, header->restored);
        n_bytes += (uint64_t)(header->position - from) * shape->layers[i].n_kv *
                   shape->layers[i].d * 2 * 2;
    }
    return n_bytes;
}

/* Walks all heads in file order; at points behind the tokens. */
static kept_status move_all(struct kept_session *session, const struct header *header, uint8_t *at,
                            bool saving, struct kept_error *err)
{
    const struct kept_shape *shape = session->plan->shape;
    if (is_raw(session->plan))
        return move_raw(session, at, saving, err);
    uint32_t *slots = kept_alloc(most_slot_bytes(session->plan));
    kept_status status = KEPT_OK;
    if (!slots)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to copy slots");
    for (uint32_t i = 0; i < shape->n_layers && status == KEPT_OK; i++) {
        struct head_job job = {.session = session,
                               .layer = i,
                               .from = kept_session_window_from(session, i, header->restored),
                               .end = header->position,
                               .slots = slots,
                               .saving = saving};
        uint64_t row_bytes = shape->layers[i].d * 2ull;
        for (uint32_t h = 0; h < shape->layers[i].n_kv * 2 && status == KEPT_OK; h++) {
            job.head = h / 2;
            job.keys = h % 2 == 0;
            job.rows = (uint32_t *)(void *)at;
            status = move_head(&job, err);
            at += (job.end - job.from) * row_bytes;
        }
    }
    kept_free(slots);
    return status;
}

kept_status kept_session_save(kept_session *session, const char *path, struct kept_error *err)
{
    if (!session || !path)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_session_save needs a session and a path");
    if (session->position != session->accepted)
        return kept_fail(err, KEPT_E_STATE,
                         "the tokens after position %u are held: rewind to it to save",
                         session->accepted);
    kept_status status = kept_session_begin_stores(session, err); /* of an empty one: its tables */
    if (status != KEPT_OK)
        return status;
    struct header header = header_of(session);
    uint64_t n_bytes = file_bytes(session, &header);
    uint8_t *bytes = kept_alloc(n_bytes);
    if (!bytes)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to save a session of %llu bytes",
                         (unsigned long long)n_bytes);
    memcpy(bytes, &header, sizeof header);
    memcpy(bytes + sizeof header, session->tokens, session->position * sizeof *session->tokens);
    status = move_all(session, &header, bytes + sizeof header + header.position * 4ull, true, err);
    if (status == KEPT_OK) {
        uint64_t hash = kept_hash64(bytes, n_bytes - sizeof hash, VERSION);
        memcpy(bytes + n_bytes - sizeof hash, &hash, sizeof hash);
        status = kept_file_replace(path, bytes, n_bytes, err);
    }
    kept_free(bytes);
    return status;
}

static kept_status check_header(const struct kept_session *session, const struct header *header,
                                const char *path, struct kept_error *err)
{
    struct header own = header_of(session);
    if (header->magic != MAGIC)
        return kept_fail(err, KEPT_E_FORMAT, "'%s' is not a session file", path);
    if (header->version != VERSION)
        return kept_fail(err, KEPT_E_UNSUPPORTED, "'%s' has version %u, this program reads %u",
                         path, header->version, VERSION);
    if (header->model_hash != own.model_hash || header->n_layers != own.n_layers ||
        header->n_kv != own.n_kv || header->d != own.d)
        return kept_fail(err, KEPT_E_MISMATCH,
                         "'%s' belongs to another model (hash %016llx, this one is %016llx)", path,
                         (unsigned long long)header->model_hash,
                         (unsigned long long)own.model_hash);
    if (header->layout != own.layout)
        return kept_fail(
            err, KEPT_E_MISMATCH,
            "'%s' has slots of another kind: use the --kv, --retain and --context options "
            "that it was made with",
            path);
    if (header->position > session->plan->params.context_tokens)
        return kept_fail(err, KEPT_E_CONTEXT_FULL,
                         "'%s' holds %u tokens, the planned context is %u", path, header->position,
                         session->plan->params.context_tokens);
    if (header->restored > header->position ||
        header->position - header->restored > KEPT_SLOT_BLOCK * 4 ||
        header->edge > header->position)
        return kept_fail(err, KEPT_E_FORMAT, "'%s' holds %u tokens and the windows from %u", path,
                         header->position, header->restored);
    uint32_t all = session->plan->last_delay + 1;
    if (session->plan->retention.on &&
        (header->maintained > all ||
         (header->maintained < all && header->position - header->edge > header->maintained)))
        return kept_fail(err, KEPT_E_FORMAT,
                         "'%s' was maintained up to delay %u of %u, %u tokens after a block", path,
                         header->maintained, all, header->position - header->edge);
    return KEPT_OK;
}

static kept_status check_file(struct kept_session *session, const uint8_t *bytes, size_t n_bytes,
                              const char *path, struct kept_error *err)
{
    struct header header;
    uint64_t hash;
    if (n_bytes < sizeof header + sizeof hash)
        return kept_fail(err, KEPT_E_FORMAT, "'%s' has %zu bytes, too few for a session", path,
                         n_bytes);
    memcpy(&header, bytes, sizeof header);
    kept_status status = check_header(session, &header, path, err);
    if (status != KEPT_OK)
        return status;
    memcpy(&hash, bytes + n_bytes - sizeof hash, sizeof hash);
    if (hash != kept_hash64(bytes, n_bytes - sizeof hash, VERSION))
        return kept_fail(err, KEPT_E_FORMAT, "'%s' is damaged: its checksum does not match", path);
    uint64_t expected = file_bytes(session, &header);
    if (expected != n_bytes)
        return kept_fail(err, KEPT_E_FORMAT, "'%s' has %zu bytes, %u tokens need %llu", path,
                         n_bytes, header.position, (unsigned long long)expected);
    for (uint32_t i = 0; i < header.position; i++) {
        int32_t token;
        memcpy(&token, bytes + sizeof header + i * 4ull, sizeof token);
        if (token < 0 || (uint32_t)token >= session->plan->shape->n_vocab)
            return kept_fail(err, KEPT_E_FORMAT, "'%s' has token id %d at position %u", path, token,
                             i);
    }
    return KEPT_OK;
}

/* Before the whole file is read: it may be one for a much larger context. */
static kept_status peek(const struct kept_session *session, const char *path,
                        struct kept_error *err)
{
    struct kept_file *file = NULL;
    struct header header;
    kept_status status = kept_file_open(path, &file, err);
    if (status != KEPT_OK)
        return status;
    if (kept_file_size(file) < sizeof header)
        status = kept_fail(err, KEPT_E_FORMAT, "'%s' has %llu bytes, too few for a session", path,
                           (unsigned long long)kept_file_size(file));
    if (status == KEPT_OK)
        status = kept_file_read_at(file, 0, &header, sizeof header, err);
    if (status == KEPT_OK)
        status = check_header(session, &header, path, err);
    kept_file_close(&file);
    return status;
}

kept_status kept_session_load(kept_session *session, const char *path, struct kept_error *err)
{
    char *bytes = NULL;
    size_t n_bytes = 0;
    struct header header;
    if (!session || !path)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_session_load needs a session and a path");
    uint64_t most = session->plan->info.kv_bytes + raw_bytes(session->plan) + sizeof header + 8 +
                    session->plan->params.context_tokens * 4ull;
    kept_status status = peek(session, path, err);
    if (status == KEPT_OK)
        status = kept_file_load(path, most, &bytes, &n_bytes, err);
    if (status == KEPT_OK)
        status = check_file(session, (const uint8_t *)bytes, n_bytes, path, err);
    if (status == KEPT_OK) {
        memcpy(&header, bytes, sizeof header);
        memcpy(session->tokens, bytes + sizeof header, header.position * 4ull);
        kept_session_set_position(session, 0);
        status = move_all(session, &header,
                          (uint8_t *)bytes + sizeof header + header.position * 4ull, false, err);
    }
    if (status == KEPT_OK) {
        kept_session_set_position(session, header.position);
        session->written = header.position;
        session->restored = header.restored;
        session->edge = header.edge;
        session->maintained = header.maintained;
        session->accepted = header.position;
        session->fresh = false;
    }
    kept_free(bytes);
    return status;
}

/* core/facts.c: a store of facts: the file (memory/episodes.h) and an index of it in host memory:
 * ids, tags, texts and addresses; payloads stay in the file. */
#include "core/facts_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"

/* ---- the index ---- */

void kept_facts_entry_free(struct kept_fact_entry **entry)
{
    if (!*entry)
        return;
    kept_free((char *)(uintptr_t)(*entry)->fact.id);
    kept_free((char *)(uintptr_t)(*entry)->fact.tag);
    kept_free((char *)(uintptr_t)(*entry)->fact.text);
    kept_free((*entry)->address);
    kept_free(*entry);
    *entry = NULL;
}

struct kept_fact_entry *kept_facts_entry(const kept_facts *facts,
                                         const struct kept_episode *episode)
{
    size_t bytes = kept_episodes_bound(facts->file)->n_embd * sizeof(float);
    struct kept_fact_entry *entry = kept_calloc(1, sizeof *entry);
    if (!entry)
        return NULL;
    entry->row = UINT32_MAX;
    entry->fact = (struct kept_fact){.id = kept_strdup(episode->id),
                                     .tag = kept_strdup(episode->tag ? episode->tag : ""),
                                     .text = kept_strdup(episode->text),
                                     .time_s = episode->time_s,
                                     .n_tokens = episode->n_tokens};
    entry->address = kept_alloc(bytes);
    if (!entry->fact.id || !entry->fact.tag || !entry->fact.text || !entry->address) {
        kept_facts_entry_free(&entry);
        return NULL;
    }
    memcpy(entry->address, episode->address, bytes);
    entry->hash =
        kept_hash64(episode->text, strlen(episode->text), kept_hash64(entry->address, bytes, 0));
    return entry;
}

struct kept_fact_entry *kept_facts_find(const kept_facts *facts, const char *id, uint32_t *at)
{
    uint32_t low = 0, high = facts->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (strcmp(facts->entries[middle]->fact.id, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (at)
        *at = low;
    return low < facts->n && strcmp(facts->entries[low]->fact.id, id) == 0 ? facts->entries[low]
                                                                           : NULL;
}

static void remove_at(kept_facts *facts, uint32_t at)
{
    struct kept_fact_entry *entry = facts->entries[at];
    if (facts->by_row && entry->row != UINT32_MAX) {
        facts->by_row[entry->row] = NULL;
        facts->stale[entry->row / KEPT_TILE_ROWS] = true;
    }
    kept_facts_entry_free(&entry);
    facts->n--;
    memmove(facts->entries + at, facts->entries + at + 1, (facts->n - at) * sizeof *facts->entries);
}

kept_status kept_facts_make_room(kept_facts *facts, uint32_t n, struct kept_error *err)
{
    if (n <= facts->cap - facts->n)
        return KEPT_OK;
    uint32_t cap = facts->n + n + facts->n / 2 + 16;
    struct kept_fact_entry **grown =
        kept_realloc_array(facts->entries, cap, sizeof *facts->entries);
    if (!grown)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u facts", cap);
    facts->entries = grown;
    facts->cap = cap;
    return KEPT_OK;
}

void kept_facts_insert(kept_facts *facts, struct kept_fact_entry *entry)
{
    uint32_t at;
    if (entry->fact.tag[0])
        for (uint32_t i = facts->n; i-- > 0;)
            if (strcmp(facts->entries[i]->fact.tag, entry->fact.tag) == 0)
                remove_at(facts, i);
    if (kept_facts_find(facts, entry->fact.id, &at))
        remove_at(facts, at);
    memmove(facts->entries + at + 1, facts->entries + at, (facts->n - at) * sizeof *facts->entries);
    facts->entries[at] = entry;
    facts->n++;
}

static void clear_index(kept_facts *facts)
{
    while (facts->n > 0)
        remove_at(facts, facts->n - 1);
    facts->n_damaged = 0;
}

/* ---- opening ---- */

/* A reading of all episodes. */
struct loading {
    kept_facts *facts;
    struct kept_error *err;
};

static void count_damage(void *user, const char *id, const char *why)
{
    struct loading *loading = user;
    const kept_model *model = loading->facts->model;
    loading->facts->n_damaged++;
    if (model)
        kept_logf(&model->log, KEPT_LOG_WARN, "fact '%s' of '%s' is skipped: %s", id,
                  loading->facts->path, why);
}

static kept_status take_episode(void *user, const struct kept_episode *episode)
{
    struct loading *loading = user;
    if (episode->n_tokens > KEPT_FACT_MAX_TOKENS) {
        count_damage(user, episode->id, "it is longer than a fact can be");
        return KEPT_OK;
    }
    kept_status status = kept_facts_make_room(loading->facts, 1, loading->err);
    if (status != KEPT_OK)
        return status;
    struct kept_fact_entry *entry = kept_facts_entry(loading->facts, episode);
    if (!entry)
        return kept_fail(loading->err, KEPT_E_HOST_MEMORY, "no memory for a fact");
    loading->facts->entries[loading->facts->n++] = entry; /* they come by rising id */
    return KEPT_OK;
}

static kept_status load_index(kept_facts *facts, struct kept_error *err)
{
    struct loading loading = {facts, err};
    struct kept_episodes_reader reader = {take_episode, count_damage, &loading};
    uint32_t version;
    kept_status status = kept_episodes_version(facts->file, &version, err);
    if (status != KEPT_OK)
        return status;
    clear_index(facts);
    status = kept_episodes_each(facts->file, false, &reader, err);
    if (status == KEPT_OK)
        facts->version = version; /* else the next one who asks reads all of it again */
    return status;
}

void kept_facts_stop_reading(kept_facts *facts)
{
    bool same = true;
    for (uint32_t i = 0; i < facts->n_read; i++) {
        const struct kept_fact_entry *entry = kept_facts_find(facts, facts->read[i].id, NULL);
        same = same && entry && entry->hash == facts->read[i].hash;
    }
    if (same)
        return;
    facts->n_read = 0;
    if (kept_facts_is_attached(facts))
        kept_session_clear_facts(facts->session);
}

kept_status kept_facts_refresh(kept_facts *facts, struct kept_error *err)
{
    uint32_t version;
    kept_status status = kept_episodes_version(facts->file, &version, err);
    if (status != KEPT_OK || version == facts->version)
        return status;
    status = load_index(facts, err);
    kept_facts_stop_reading(facts);
    return status;
}

static struct kept_episodes_bind bind_of(const kept_model *model, enum kept_slot_type payload)
{
    const struct kept_shape *shape = &model->shape;
    return (struct kept_episodes_bind){
        .header_hash = model->info.header_hash,
        .n_embd = shape->n_embd,
        .n_layers = shape->n_layers,
        .kv_row = shape->layers[0].n_kv * shape->layers[0].d,
        .address_layer = kept_fact_address_layer(shape->n_layers),
        .payload_type = payload == KEPT_SLOT_Q8_0 ? KEPT_EPISODE_Q8_0 : KEPT_EPISODE_F16};
}

static kept_status check_model(const kept_facts *facts, struct kept_error *err)
{
    const struct kept_episodes_bind *has = kept_episodes_bound(facts->file);
    if (!facts->model)
        return KEPT_OK;
    struct kept_episodes_bind wants = bind_of(facts->model, KEPT_SLOT_F16);
    if (has->header_hash != wants.header_hash)
        return kept_fail(err, KEPT_E_MISMATCH,
                         "the facts of '%s' belong to a model with hash %016llx, '%s' has %016llx",
                         facts->path, (unsigned long long)has->header_hash, facts->model->info.path,
                         (unsigned long long)wants.header_hash);
    if (has->n_embd != wants.n_embd || has->n_layers != wants.n_layers ||
        has->kv_row != wants.kv_row || has->address_layer != wants.address_layer)
        return kept_fail(err, KEPT_E_MISMATCH,
                         "the facts of '%s' are of %u layers of %u and %u elements, addressed at "
                         "layer %u; the model has %u of %u and %u, at %u",
                         facts->path, has->n_layers, has->n_embd, has->kv_row, has->address_layer,
                         wants.n_layers, wants.n_embd, wants.kv_row, wants.address_layer);
    return KEPT_OK;
}

static kept_status check_open(const char *path, const kept_model *model,
                              const struct kept_facts_open_params *params, struct kept_error *err)
{
    if (!path)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_facts_open needs a path");
    if (params->create && (params->read_only || !model))
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "to make '%s' a model is needed, and the right to write", path);
    if (params->create && params->payload != KEPT_SLOT_F16 && params->payload != KEPT_SLOT_Q8_0)
        return kept_fail(err, KEPT_E_ARGUMENT, "facts are stored in f16 or q8_0, not type %d",
                         (int)params->payload);
    return KEPT_OK;
}

kept_status kept_facts_open(const char *path, const kept_model *model,
                            const struct kept_facts_open_params *params, kept_facts **out,
                            struct kept_error *err)
{
    struct kept_facts_open_params none = {0};
    if (!out)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_facts_open needs out");
    *out = NULL;
    params = params ? params : &none;
    kept_status status = check_open(path, model, params, err);
    if (status != KEPT_OK)
        return status;
    kept_facts *facts = kept_calloc(1, sizeof *facts);
    if (facts)
        facts->path = kept_strdup(path);
    if (!facts || !facts->path) {
        kept_free(facts);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a store of facts");
    }
    facts->model = model;
    struct kept_episodes_bind bind;
    struct kept_episodes_options options = {.read_only = params->read_only};
    if (params->create && !kept_file_exists(path)) {
        bind = bind_of(model, params->payload);
        options.create = true;
        options.bind = &bind;
    }
    status = kept_episodes_open(path, &options, &facts->file, err);
    if (status == KEPT_OK)
        status = check_model(facts, err);
    if (status == KEPT_OK)
        status = load_index(facts, err);
    if (status != KEPT_OK)
        kept_facts_close(&facts);
    *out = facts;
    return status;
}

void kept_facts_close(kept_facts **out)
{
    if (!out || !*out)
        return;
    kept_facts *facts = *out;
    kept_facts_attach(facts, NULL, NULL);
    clear_index(facts);
    kept_episodes_close(&facts->file);
    kept_free(facts->entries);
    kept_free(facts->path);
    kept_free(facts);
    *out = NULL;
}

void kept_facts_info(const kept_facts *facts, struct kept_facts_info *out)
{
    const struct kept_episodes_bind *bind = kept_episodes_bound(facts->file);
    uint64_t rows = facts->session ? facts->session->plan->facts.max : 0;
    *out = (struct kept_facts_info){
        .n_facts = facts->n,
        .n_damaged = facts->n_damaged,
        .header_hash = bind->header_hash,
        .model_hash = bind->model_hash,
        .n_embd = bind->n_embd,
        .n_layers = bind->n_layers,
        .address_layer = bind->address_layer,
        .payload = bind->payload_type == KEPT_EPISODE_Q8_0 ? KEPT_SLOT_Q8_0 : KEPT_SLOT_F16,
        .host_bytes_per_fact =
            sizeof(struct kept_fact_entry) + sizeof(void *) + bind->n_embd * sizeof(float)};
    out->host_bytes = sizeof *facts + facts->n * out->host_bytes_per_fact +
                      rows * (sizeof(void *) + sizeof(float)) +
                      KEPT_EPISODES_STATS * (uint64_t)bind->n_embd * sizeof(float);
    if (facts->tile)
        out->host_bytes += 16ull * bind->n_embd * sizeof(float);
    for (uint32_t i = 0; i < facts->n; i++) {
        const struct kept_fact *fact = &facts->entries[i]->fact;
        out->host_bytes += strlen(fact->id) + strlen(fact->tag) + strlen(fact->text) + 3;
    }
}

/* ---- the file ---- */

kept_status kept_facts_each(kept_facts *facts, kept_fact_fn fn, void *user, struct kept_error *err)
{
    kept_status status = kept_facts_refresh(facts, err);
    for (uint32_t i = 0; i < facts->n && status == KEPT_OK; i++)
        if (!fn(user, &facts->entries[i]->fact))
            break;
    return status;
}

static bool is_chosen(const struct kept_fact *fact, const struct kept_fact_choice *choice)
{
    return choice->id    ? strcmp(fact->id, choice->id) == 0
           : choice->tag ? choice->tag[0] && strcmp(fact->tag, choice->tag) == 0
                         : strcmp(fact->text, choice->text) == 0;
}

static kept_status forget_in_file(kept_facts *facts, const struct kept_fact_choice *choice,
                                  uint64_t *n_forgotten, struct kept_error *err)
{
    const char *value = choice->id ? choice->id : choice->tag ? choice->tag : choice->text;
    enum kept_episodes_key key = choice->id    ? KEPT_EPISODES_BY_ID
                                 : choice->tag ? KEPT_EPISODES_BY_TAG
                                               : KEPT_EPISODES_BY_TEXT;
    uint64_t n = 0;
    kept_status status = kept_episodes_forget(facts->file, key, &value, 1, &n, err);
    *n_forgotten += n;
    return status;
}

/* Choices may point to strings of the facts themselves: these go when all were compared. */
static void drop_chosen(kept_facts *facts, const struct kept_fact_choice *choices,
                        uint32_t n_choices)
{
    for (uint32_t i = 0; i < facts->n; i++)
        for (uint32_t c = 0; c < n_choices && !facts->entries[i]->chosen; c++)
            facts->entries[i]->chosen = is_chosen(&facts->entries[i]->fact, &choices[c]);
    for (uint32_t i = facts->n; i-- > 0;)
        if (facts->entries[i]->chosen)
            remove_at(facts, i);
    kept_facts_stop_reading(facts);
}

kept_status kept_facts_forget(kept_facts *facts, const struct kept_fact_choice *choices,
                              uint32_t n_choices, uint64_t *n_forgotten, struct kept_error *err)
{
    uint64_t n = 0;
    if (!facts || (n_choices && !choices))
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_facts_forget needs a store and choices");
    for (uint32_t i = 0; i < n_choices; i++)
        if (!choices[i].id + !choices[i].tag + !choices[i].text != 2)
            return kept_fail(err, KEPT_E_ARGUMENT,
                             "choice %u of what to forget needs an id, a tag or a text", i);
    kept_status status = kept_facts_refresh(facts, err);
    if (status == KEPT_OK)
        status = kept_episodes_begin(facts->file, err);
    if (status != KEPT_OK)
        return status;
    for (uint32_t i = 0; i < n_choices && status == KEPT_OK; i++)
        status = forget_in_file(facts, &choices[i], &n, err);
    if (status == KEPT_OK)
        status = kept_episodes_commit(facts->file, err);
    if (status != KEPT_OK) {
        kept_episodes_rollback(facts->file);
        return status;
    }
    drop_chosen(facts, choices, n_choices);
    if (n_forgotten)
        *n_forgotten = n;
    if (kept_facts_is_attached(facts)) /* what fails here is done before the next search */
        kept_facts_upload(facts, NULL);
    return KEPT_OK;
}

kept_status kept_facts_compact(kept_facts *facts, struct kept_error *err)
{
    return kept_episodes_compact(facts->file, err);
}

/* ---- damage ---- */

struct damage {
    kept_fact_damage_fn fn;
    void *user;
    uint64_t n;
};

static void tell_damage(void *user, const char *id, const char *why)
{
    struct damage *damage = user;
    damage->n++;
    if (damage->fn)
        damage->fn(damage->user, id, why);
}

kept_status kept_facts_verify(const char *path, kept_fact_damage_fn fn, void *user,
                              uint64_t *n_facts, uint64_t *n_damaged, struct kept_error *err)
{
    struct kept_episodes_options options = {.read_only = true};
    struct kept_episodes *file = NULL;
    struct damage damage = {.fn = fn, .user = user};
    struct kept_episodes_reader reader = {NULL, tell_damage, &damage};
    uint64_t n = 0, bad = 0;
    kept_status status = kept_episodes_open(path, &options, &file, err);
    if (status == KEPT_OK)
        status = kept_episodes_count(file, &n, err);
    if (status == KEPT_OK)
        status = kept_episodes_verify(file, &reader, &bad, err);
    kept_episodes_close(&file);
    if (status == KEPT_OK) {
        *n_facts = n;
        *n_damaged = bad;
    }
    return status;
}

kept_status kept_facts_repair(const char *path, kept_fact_damage_fn fn, void *user,
                              uint64_t *n_kept, uint64_t *n_removed, struct kept_error *err)
{
    struct damage damage = {.fn = fn, .user = user};
    struct kept_episodes_reader reader = {NULL, tell_damage, &damage};
    struct kept_episodes_repaired repaired = {0};
    kept_status status = kept_episodes_repair(path, &reader, &repaired, err);
    if (status == KEPT_OK) {
        *n_kept = repaired.n_kept;
        *n_removed = repaired.n_removed;
    }
    return status;
}

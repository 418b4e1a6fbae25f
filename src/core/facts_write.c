/* core/facts_write.c: a store of facts meets a session: statistics of the model, addresses on the
 * device, and writing. */
#include "core/facts_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/str.h"
#include "kernel/blocks.h"

bool kept_facts_is_attached(const kept_facts *facts)
{
    return facts->session && facts->session->facts->owner == facts;
}

kept_status kept_facts_need_session(const kept_facts *facts, struct kept_error *err)
{
    if (facts && kept_facts_is_attached(facts))
        return KEPT_OK;
    if (facts && facts->session)
        return kept_fail(err, KEPT_E_STATE,
                         "another store of facts was attached to the session of '%s'", facts->path);
    return kept_fail(err, KEPT_E_STATE, "the store of facts has no session: kept_facts_attach");
}

/* ---- tokens ---- */

kept_status kept_facts_tokens(const kept_facts *facts, const char *text, size_t n_bytes,
                              int32_t **out, size_t *n, struct kept_error *err)
{
    const kept_tokenizer *tokenizer = kept_model_tokenizer(facts->model);
    bool spaced = n_bytes > 0 && (text[0] == ' ' || text[0] == '\n' || text[0] == '\t');
    char *copy = kept_alloc(n_bytes + 2);
    *out = NULL;
    if (!copy)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a text of %zu bytes", n_bytes);
    copy[0] = ' ';
    memcpy(copy + !spaced, text, n_bytes);
    kept_status status = kept_tokenizer_encode(tokenizer, copy, n_bytes + !spaced, 0, out, n, err);
    kept_free(copy);
    return status;
}

/* Four times nothing: line ends, and before them what the model begins every text with. */
static kept_status prepare_sinks(kept_facts *facts, struct kept_error *err)
{
    const kept_tokenizer *tokenizer = kept_model_tokenizer(facts->model);
    int32_t *ids = NULL, sinks[KEPT_FACT_SINKS];
    size_t n = 0;
    kept_status status = kept_tokenizer_encode(tokenizer, "\n\n\n\n", 4, 0, &ids, &n, err);
    if (status == KEPT_OK && n == 0)
        status = kept_fail(err, KEPT_E_UNSUPPORTED, "the vocabulary has no line end");
    for (uint32_t i = 0; i < KEPT_FACT_SINKS && status == KEPT_OK; i++)
        sinks[i] = ids[i % n];
    kept_tokens_free(&ids);
    if (status == KEPT_OK && kept_tokenizer_adds_bos(tokenizer))
        sinks[0] = kept_tokenizer_bos(tokenizer);
    return status == KEPT_OK ? kept_session_fact_sinks(facts->session, sinks, err) : status;
}

_Static_assert(KEPT_EPISODES_STATS == 2 + KEPT_BACKGROUNDS, "what the file has room for");

kept_status kept_facts_address(kept_facts *facts, const float *stats, const int32_t *tokens,
                               uint32_t n, float *out, struct kept_error *err)
{
    uint32_t k = kept_episodes_bound(facts->file)->n_embd;
    n = n < KEPT_FACT_MAX_TOKENS ? n : KEPT_FACT_MAX_TOKENS;
    float *hidden = kept_alloc((size_t)n * k * sizeof *hidden);
    if (!hidden)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for hidden states");
    kept_status status = prepare_sinks(facts, err);
    if (status == KEPT_OK)
        status = kept_session_fact_hidden(facts->session, tokens, n, hidden, err);
    if (status == KEPT_OK && !kept_address_pool(hidden, n, k, stats, out))
        status = kept_fail(err, KEPT_E_ARGUMENT, "%u tokens have no address: no numbers", n);
    kept_free(hidden);
    return status;
}

/* ---- statistics ---- */

/* Mean and deviation of hidden states over the plain text. */
static kept_status make_deviations(kept_facts *facts, const int32_t *tokens, size_t n, float *stats,
                                   struct kept_error *err)
{
    uint32_t k = kept_episodes_bound(facts->file)->n_embd;
    double *sums = kept_calloc(2 * (size_t)k, sizeof *sums);
    float *hidden = kept_alloc((size_t)KEPT_FACT_MAX_TOKENS * k * sizeof *hidden);
    kept_status status =
        sums && hidden ? KEPT_OK : kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for statistics");
    for (size_t at = 0; at < n && status == KEPT_OK; at += KEPT_FACT_MAX_TOKENS) {
        uint32_t here = n - at < KEPT_FACT_MAX_TOKENS ? (uint32_t)(n - at) : KEPT_FACT_MAX_TOKENS;
        status = kept_session_fact_hidden(facts->session, tokens + at, here, hidden, err);
        if (status == KEPT_OK)
            kept_address_add(hidden, here, k, sums);
    }
    if (status == KEPT_OK)
        kept_address_stats(sums, n, k, stats);
    kept_free(hidden);
    kept_free(sums);
    return status;
}

/* What is kept with the store: deviations, then the addresses of pieces of the same text. */
static kept_status make_stats(kept_facts *facts, float *stats, struct kept_error *err)
{
    uint32_t k = kept_episodes_bound(facts->file)->n_embd;
    int32_t *tokens = NULL;
    size_t n = 0;
    kept_status status = kept_facts_tokens(facts, kept_facts_plain_text,
                                           strlen(kept_facts_plain_text), &tokens, &n, err);
    if (status == KEPT_OK && n < KEPT_BACKGROUNDS)
        status = kept_fail(err, KEPT_E_UNSUPPORTED, "the vocabulary makes %zu tokens of prose", n);
    if (status == KEPT_OK)
        status = make_deviations(facts, tokens, n, stats, err);
    for (size_t i = 0; i < KEPT_BACKGROUNDS && status == KEPT_OK; i++) {
        size_t first = i * n / KEPT_BACKGROUNDS, end = (i + 1) * n / KEPT_BACKGROUNDS;
        status = kept_facts_address(facts, stats, tokens + first, (uint32_t)(end - first),
                                    stats + (2 + i) * k, err);
    }
    kept_tokens_free(&tokens);
    return status;
}

static kept_status need_stats(kept_facts *facts, struct kept_error *err)
{
    uint64_t hash = facts->session->model_hash;
    const struct kept_episodes_bind *bind = kept_episodes_bound(facts->file);
    if (kept_episodes_stats(facts->file)) {
        if (bind->model_hash == hash || bind->model_hash == 0)
            return KEPT_OK;
        return kept_fail(err, KEPT_E_MISMATCH,
                         "the facts of '%s' belong to weights with hash %016llx, the session has "
                         "%016llx",
                         facts->path, (unsigned long long)bind->model_hash,
                         (unsigned long long)hash);
    }
    float *stats = kept_alloc(KEPT_EPISODES_STATS * (size_t)bind->n_embd * sizeof *stats);
    if (!stats)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for statistics");
    kept_status status = prepare_sinks(facts, err);
    if (status == KEPT_OK)
        status = make_stats(facts, stats, err);
    if (status == KEPT_OK)
        status = kept_episodes_set_stats(facts->file, hash, stats, err);
    kept_free(stats);
    return status;
}

/* ---- addresses on the device ---- */

static kept_status upload_tile(kept_facts *facts, uint32_t tile, struct kept_error *err)
{
    uint32_t k = kept_episodes_bound(facts->file)->n_embd, max = facts->session->plan->facts.max;
    memset(facts->tile, 0, (size_t)KEPT_TILE_ROWS * k * sizeof *facts->tile);
    for (uint32_t i = 0; i < KEPT_TILE_ROWS; i++) {
        uint32_t row = tile * KEPT_TILE_ROWS + i;
        if (row < max && facts->by_row[row])
            memcpy(facts->tile + (size_t)i * k, facts->by_row[row]->address,
                   k * sizeof *facts->tile);
    }
    return kept_session_fact_address(facts->session, tile, facts->tile, err);
}

kept_status kept_facts_upload(kept_facts *facts, struct kept_error *err)
{
    uint32_t max = facts->session->plan->facts.max, free_row = 0;
    uint32_t tiles = (max + KEPT_TILE_ROWS - 1) / KEPT_TILE_ROWS;
    if (facts->n > max)
        return kept_fail(err, KEPT_E_BUDGET, "'%s' has %u facts, the plan has room for %u",
                         facts->path, facts->n, max);
    for (uint32_t i = 0; i < facts->n; i++) {
        struct kept_fact_entry *entry = facts->entries[i];
        if (entry->row != UINT32_MAX)
            continue;
        while (facts->by_row[free_row])
            free_row++;
        entry->row = free_row;
        facts->by_row[free_row] = entry;
        facts->stale[free_row / KEPT_TILE_ROWS] = true;
    }
    kept_status status = KEPT_OK;
    for (uint32_t tile = 0; tile < tiles && status == KEPT_OK; tile++) {
        if (!facts->stale[tile])
            continue;
        status = upload_tile(facts, tile, err);
        facts->stale[tile] = status != KEPT_OK;
    }
    return status;
}

static void detach(kept_facts *facts)
{
    if (kept_facts_is_attached(facts)) {
        kept_session_clear_facts(facts->session);
        facts->session->facts->owner = NULL;
    }
    for (uint32_t i = 0; i < facts->n; i++)
        facts->entries[i]->row = UINT32_MAX;
    kept_free(facts->by_row);
    kept_free(facts->stale);
    kept_free(facts->tile);
    kept_free(facts->scores);
    facts->by_row = NULL;
    facts->stale = NULL;
    facts->tile = facts->scores = NULL;
    facts->session = NULL;
    facts->n_read = 0;
}

static kept_status check_attach(const kept_facts *facts, const kept_session *session,
                                struct kept_error *err)
{
    if (!facts->model || session->plan->model != facts->model)
        return kept_fail(err, KEPT_E_MISMATCH, "the store of facts was not opened with this model");
    if (!session->facts)
        return kept_fail(err, KEPT_E_STATE, "the session's plan has no room for facts: facts_max");
    if (facts->n > session->plan->facts.max)
        return kept_fail(err, KEPT_E_BUDGET, "'%s' has %u facts, the plan has room for %u",
                         facts->path, facts->n, session->plan->facts.max);
    return KEPT_OK;
}

kept_status kept_facts_attach(kept_facts *facts, kept_session *session, struct kept_error *err)
{
    if (!facts)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_facts_attach needs a store");
    detach(facts);
    if (!session)
        return KEPT_OK;
    kept_status status = kept_facts_refresh(facts, err);
    if (status == KEPT_OK)
        status = check_attach(facts, session, err);
    if (status != KEPT_OK)
        return status;
    uint32_t max = session->plan->facts.max, tiles = (max + KEPT_TILE_ROWS - 1) / KEPT_TILE_ROWS;
    facts->by_row = kept_calloc(max, sizeof *facts->by_row);
    facts->stale = kept_calloc(tiles, sizeof *facts->stale);
    facts->tile =
        kept_alloc((size_t)KEPT_TILE_ROWS * session->plan->shape->n_embd * sizeof *facts->tile);
    facts->scores = kept_alloc(max * sizeof *facts->scores);
    facts->session = session;
    kept_session_clear_facts(session);
    session->facts->owner = facts;
    if (!facts->by_row || !facts->stale || !facts->tile || !facts->scores)
        status = kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u facts", max);
    for (uint32_t i = 0; i < tiles && status == KEPT_OK; i++)
        facts->stale[i] = true; /* of whoever was attached before */
    if (status == KEPT_OK)
        status = need_stats(facts, err);
    if (status == KEPT_OK)
        status = kept_facts_upload(facts, err);
    if (status != KEPT_OK)
        detach(facts);
    return status;
}

/* ---- writing ---- */

/* A writing under way: what was evaluated, to be taken over when the file has all of it. */
struct writing {
    kept_facts *facts;
    struct kept_fact_entry **entries; /* [n_inputs] */
    uint32_t n;
    struct kept_fact_rows rows; /* of the longest fact */
    uint8_t *payload;
    float *address;
    struct kept_facts_written report;
};

static kept_status begin_writing(struct writing *w, uint32_t n_inputs, struct kept_error *err)
{
    const struct kept_episodes_bind *bind = kept_episodes_bound(w->facts->file);
    size_t elements = (size_t)bind->n_layers * KEPT_FACT_MAX_TOKENS * bind->kv_row;
    w->entries = kept_calloc(n_inputs, sizeof(struct kept_fact_entry *));
    w->rows.k = kept_alloc(2 * elements * sizeof(float));
    w->rows.v = w->rows.k ? w->rows.k + elements : NULL;
    w->payload = kept_alloc(kept_episodes_payload_bytes(bind, KEPT_FACT_MAX_TOKENS));
    w->address = kept_alloc(bind->n_embd * sizeof(float));
    if (!w->entries || !w->rows.k || !w->payload || !w->address)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to write %u facts", n_inputs);
    return kept_facts_make_room(w->facts, n_inputs, err);
}

static void end_writing(struct writing *w)
{
    for (uint32_t i = 0; i < w->n; i++)
        kept_facts_entry_free(&w->entries[i]);
    kept_free(w->entries);
    kept_free(w->rows.k);
    kept_free(w->payload);
    kept_free(w->address);
}

/* Rows to bytes: of every layer the keys of all tokens, then the values. */
static void pack(const struct kept_episodes_bind *bind, const struct kept_fact_rows *rows,
                 uint8_t *to)
{
    enum kept_format format =
        bind->payload_type == KEPT_EPISODE_Q8_0 ? KEPT_FORMAT_Q8_0 : KEPT_FORMAT_F16;
    size_t row_bytes = kept_format_row_bytes(format, bind->kv_row);
    for (uint32_t i = 0; i < bind->n_layers; i++)
        for (uint32_t value = 0; value < 2; value++)
            for (uint32_t t = 0; t < rows->n_tokens; t++) {
                size_t at = ((size_t)i * rows->n_tokens + t) * bind->kv_row;
                kept_quant_row(format, (value ? rows->v : rows->k) + at, bind->kv_row, to);
                to += row_bytes;
            }
}

static kept_status check_input(const struct kept_fact_input *input, size_t n_tokens, uint32_t i,
                               struct kept_error *err)
{
    if (n_tokens == 0 || input->text[strspn(input->text, " \t\r\n")] == '\0')
        return kept_fail(err, KEPT_E_PROMPT, "fact %u is empty", i);
    if (n_tokens > KEPT_FACT_MAX_TOKENS)
        return kept_fail(err, KEPT_E_PROMPT,
                         "fact %u has %zu tokens, at most %u: write it in several", i, n_tokens,
                         KEPT_FACT_MAX_TOKENS);
    if ((input->id && strlen(input->id) >= KEPT_FACT_ID_BYTES) ||
        (input->tag && strlen(input->tag) >= KEPT_FACT_ID_BYTES))
        return kept_fail(err, KEPT_E_ARGUMENT, "fact %u: ids and tags have at most %u bytes", i,
                         KEPT_FACT_ID_BYTES - 1);
    return KEPT_OK;
}

static kept_status evaluate(struct writing *w, const struct kept_fact_input *input, uint32_t i,
                            uint32_t *n_tokens, struct kept_error *err)
{
    int32_t *tokens = NULL;
    size_t n = 0;
    uint64_t begin_ns = kept_clock_ns();
    kept_status status =
        kept_facts_tokens(w->facts, input->text, strlen(input->text), &tokens, &n, err);
    if (status == KEPT_OK)
        status = check_input(input, n, i, err);
    if (status == KEPT_OK)
        status = kept_facts_address(w->facts, kept_episodes_stats(w->facts->file), tokens,
                                    (uint32_t)n, w->address, err);
    if (status == KEPT_OK)
        status = kept_session_fact_rows(w->facts->session, &w->rows, err);
    kept_tokens_free(&tokens);
    *n_tokens = (uint32_t)n;
    w->report.eval_ns += kept_clock_ns() - begin_ns;
    return status;
}

static kept_status write_one(struct writing *w, const struct kept_fact_input *input, uint32_t i,
                             struct kept_error *err)
{
    const struct kept_episodes_bind *bind = kept_episodes_bound(w->facts->file);
    uint32_t n_tokens = 0, n_superseded = 0;
    kept_status status = evaluate(w, input, i, &n_tokens, err);
    if (status != KEPT_OK)
        return status;
    uint64_t begin_ns = kept_clock_ns();
    pack(bind, &w->rows, w->payload);
    struct kept_episode episode = {.id = input->id && input->id[0] ? input->id : NULL,
                                   .tag = input->tag ? input->tag : "",
                                   .text = input->text,
                                   .time_s = input->time_s ? input->time_s : kept_clock_unix_s(),
                                   .n_tokens = n_tokens,
                                   .address = w->address,
                                   .payload = w->payload};
    episode.payload_bytes = kept_episodes_payload_bytes(bind, n_tokens);
    status = kept_episodes_put(w->facts->file, &episode, w->report.id, &n_superseded, err);
    if (status != KEPT_OK)
        return status;
    episode.id = w->report.id;
    w->entries[w->n] = kept_facts_entry(w->facts, &episode);
    if (!w->entries[w->n])
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a fact");
    w->n++;
    w->report.n_written++;
    w->report.n_superseded += n_superseded;
    w->report.commit_ns += kept_clock_ns() - begin_ns;
    return KEPT_OK;
}

/* The file has them: so does the index. What of the device fails is done before the next search:
 * they are written already. */
static void take_over(struct writing *w)
{
    for (uint32_t i = 0; i < w->n; i++)
        kept_facts_insert(w->facts, w->entries[i]);
    w->n = 0;
    kept_facts_stop_reading(w->facts);
    kept_facts_upload(w->facts, NULL);
}

/* A fact of this tag (NULL or "": none) and id is in the way of a new one. */
static bool gives_way(const char *tag, const char *id, const char *new_tag, const char *new_id)
{
    return strcmp(id, new_id) == 0 || (tag && new_tag && tag[0] && strcmp(tag, new_tag) == 0);
}

/* How many there would be: facts, and inputs, that no (later) input takes the place of. */
static uint32_t count_left(const kept_facts *facts, const struct kept_fact_input *inputs,
                           uint32_t n_inputs, char (*ids)[KEPT_FACT_ID_BYTES])
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < facts->n + n_inputs; i++) {
        uint32_t own = i < facts->n ? 0 : i - facts->n;
        const char *tag = i < facts->n ? facts->entries[i]->fact.tag : inputs[own].tag;
        const char *id = i < facts->n ? facts->entries[i]->fact.id : ids[own];
        bool stays = true;
        for (uint32_t j = i < facts->n ? 0 : own + 1; j < n_inputs && stays; j++)
            stays = !gives_way(tag, id, inputs[j].tag, ids[j]);
        left += stays;
    }
    return left;
}

/* Where there may be too many, counts exactly: updates take no room. */
static kept_status check_room(const kept_facts *facts, const struct kept_fact_input *inputs,
                              uint32_t n_inputs, struct kept_error *err)
{
    uint32_t max = facts->session->plan->facts.max;
    if (facts->n <= max && n_inputs <= max - facts->n)
        return KEPT_OK;
    char(*ids)[KEPT_FACT_ID_BYTES] = kept_alloc(n_inputs * sizeof *ids);
    if (!ids)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to write %u facts", n_inputs);
    for (uint32_t i = 0; i < n_inputs; i++) {
        const char *tag = inputs[i].tag ? inputs[i].tag : "";
        if (inputs[i].id && inputs[i].id[0])
            kept_snprintf(ids[i], sizeof ids[i], "%s", inputs[i].id);
        else
            kept_episodes_name(tag, inputs[i].text, ids[i]);
    }
    uint32_t left = count_left(facts, inputs, n_inputs, ids);
    kept_free(ids);
    if (left <= max)
        return KEPT_OK;
    return kept_fail(err, KEPT_E_BUDGET,
                     "%u facts to write beside the %u of '%s': the plan has room for %u", n_inputs,
                     facts->n, facts->path, max);
}

kept_status kept_facts_write(kept_facts *facts, const struct kept_fact_input *inputs,
                             uint32_t n_inputs, kept_progress_fn progress, void *user,
                             struct kept_facts_written *out, struct kept_error *err)
{
    if (n_inputs && !inputs)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_facts_write needs facts");
    for (uint32_t i = 0; i < n_inputs; i++)
        if (!inputs[i].text)
            return kept_fail(err, KEPT_E_ARGUMENT, "fact %u has no text", i);
    kept_status status = kept_facts_need_session(facts, err);
    if (status == KEPT_OK)
        status = kept_facts_refresh(facts, err);
    if (status == KEPT_OK)
        status = check_room(facts, inputs, n_inputs, err);
    if (status != KEPT_OK)
        return status;
    struct writing w = {.facts = facts};
    status = begin_writing(&w, n_inputs, err);
    if (status == KEPT_OK)
        status = kept_episodes_begin(facts->file, err);
    for (uint32_t i = 0; i < n_inputs && status == KEPT_OK; i++) {
        status = write_one(&w, &inputs[i], i, err);
        if (status == KEPT_OK && progress && !progress(user, "facts", i + 1, n_inputs))
            status = kept_fail(err, KEPT_E_CANCELLED, "writing facts was cancelled");
    }
    uint64_t begin_ns = kept_clock_ns();
    if (status == KEPT_OK)
        status = kept_episodes_commit(facts->file, err);
    w.report.commit_ns += kept_clock_ns() - begin_ns;
    if (status == KEPT_OK)
        take_over(&w);
    else
        kept_episodes_rollback(facts->file);
    if (status == KEPT_OK && out)
        *out = w.report;
    end_writing(&w);
    return status;
}

/* facts_use.c: from --facts to what an answer reads.
 *
 * A store is opened read-only, so that any number of programs may answer from it while another one
 * writes. chat opens it again for writing when something is to be remembered or forgotten, and
 * keeps it so.
 */
#include "facts_use.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"
#include "json_out.h"
#include "past.h"
#include "terminal.h"

#define ROOM        64u /* facts that may be added before a larger plan is needed */
#define LEAST_MAX   256u
#define TAIL_TOKENS 48u

static bool may_be_new(const struct cli_settings *settings)
{
    return strcmp(settings->command, "chat") == 0 || strcmp(settings->command, "plan") == 0 ||
           settings->facts.add;
}

static void set_max(struct cli_engine *engine, uint64_t n_facts)
{
    const struct cli_number *given = &engine->settings->facts.max;
    uint64_t most = n_facts + ROOM > LEAST_MAX ? n_facts + ROOM : LEAST_MAX;
    most = given->given ? given->value : most;
    engine->facts_max = most < UINT32_MAX ? (uint32_t)most : UINT32_MAX;
}

static uint64_t n_facts(const kept_facts *facts)
{
    struct kept_facts_info info = {0};
    if (facts)
        kept_facts_info(facts, &info);
    return info.n_facts;
}

/* A damaged store: the warning, and on without it. Everything else is the caller's. */
static kept_status go_without(struct cli_engine *engine, kept_status status, struct kept_error *err)
{
    if (status != KEPT_E_FORMAT)
        return status;
    snprintf(engine->facts_warning, sizeof engine->facts_warning, "%s", err->message);
    cli_warn(engine->settings, "%s; going on without facts ('kept facts %.200s verify' tells more)",
             err->message, engine->settings->facts.store);
    if (engine->session)
        kept_session_clear_facts(engine->session);
    cli_facts_close(engine);
    *err = (struct kept_error){0};
    return KEPT_OK;
}

static void warn_damaged(struct cli_engine *engine)
{
    const char *store = engine->settings->facts.store;
    struct kept_facts_info info;
    kept_facts_info(engine->facts, &info);
    if (info.n_damaged == 0)
        return;
    snprintf(engine->facts_warning, sizeof engine->facts_warning,
             "%llu facts of '%.200s' are damaged", (unsigned long long)info.n_damaged, store);
    cli_warn(engine->settings, "%s and left out ('kept facts %.200s repair' removes them)",
             engine->facts_warning, store);
}

kept_status cli_facts_open_readable(struct cli_engine *engine, struct kept_error *err)
{
    const char *store = engine->settings->facts.store;
    const struct kept_facts_open_params params = {.read_only = true};
    if (access(store, F_OK) != 0)
        return cli_fail(err, KEPT_E_IO,
                        "there is no store '%.200s': 'kept facts %.200s add --model MODEL --text "
                        "TEXT' makes one",
                        store, store);
    kept_status status = kept_facts_open(store, engine->model, &params, &engine->facts, err);
    if (status != KEPT_OK)
        return status;
    warn_damaged(engine);
    set_max(engine, n_facts(engine->facts));
    return KEPT_OK;
}

kept_status cli_facts_open(struct cli_engine *engine, struct kept_error *err)
{
    const struct cli_settings *settings = engine->settings;
    const struct cli_fact_options *options = &settings->facts;
    bool facts = strcmp(settings->command, "facts") == 0; /* which opens its store itself */
    if (!options->store && !facts && (options->top || options->gap || options->max.given))
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "--facts-top, --facts-gap and --facts-max need --facts STORE");
    if (!options->store)
        return KEPT_OK;
    if (may_be_new(settings) && access(settings->facts.store, F_OK) != 0) {
        set_max(engine, 0);
        return KEPT_OK;
    }
    kept_status status = cli_facts_open_readable(engine, err);
    return status == KEPT_OK ? KEPT_OK : go_without(engine, status, err);
}

static kept_status check_payload(const struct cli_engine *engine, struct kept_error *err)
{
    const struct cli_fact_options *options = &engine->settings->facts;
    struct kept_facts_info info;
    kept_facts_info(engine->facts, &info);
    if (options->payload == CLI_NO_LIMIT || (enum kept_slot_type)options->payload == info.payload)
        return KEPT_OK;
    return cli_fail(err, KEPT_E_MISMATCH,
                    "'%.200s' has payloads of %s: --payload is for new stores; 'kept facts %.200s "
                    "export' gives its facts",
                    options->store, cli_slot_type_name(info.payload), options->store);
}

kept_status cli_facts_open_writable(struct cli_engine *engine, uint64_t n_more,
                                    struct kept_error *err)
{
    const struct cli_fact_options *options = &engine->settings->facts;
    struct kept_facts_open_params params = {.create = true};
    if (options->payload != CLI_NO_LIMIT)
        params.payload = (enum kept_slot_type)options->payload;
    if (engine->facts_writable)
        return KEPT_OK;
    cli_facts_close(engine);
    kept_status status =
        kept_facts_open(options->store, engine->model, &params, &engine->facts, err);
    engine->facts_writable = status == KEPT_OK;
    if (status == KEPT_OK)
        status = check_payload(engine, err);
    if (status == KEPT_OK && engine->session)
        return cli_facts_attach(engine, err);
    if (status == KEPT_OK)
        set_max(engine, n_facts(engine->facts) + n_more);
    return status;
}

void cli_facts_params(const struct cli_engine *engine, struct kept_plan_params *params)
{
    if (!engine->facts_max)
        return;
    params->facts_max = engine->facts_max;
    params->facts_top = engine->settings->facts.top;
    params->facts_gap = engine->settings->facts.gap;
}

kept_status cli_facts_attach(struct cli_engine *engine, struct kept_error *err)
{
    /* An empty store has nothing to read, and one that is read-only cannot take statistics. */
    if (!engine->facts || (!engine->facts_writable && n_facts(engine->facts) == 0))
        return KEPT_OK;
    kept_status status = kept_facts_attach(engine->facts, engine->session, err);
    engine->facts_attached = status == KEPT_OK;
    return engine->facts_writable ? status : go_without(engine, status, err);
}

void cli_facts_detach(struct cli_engine *engine)
{
    struct kept_error err;
    if (engine->facts_attached)
        kept_facts_attach(engine->facts, NULL, &err);
    engine->facts_attached = false;
}

void cli_facts_close(struct cli_engine *engine)
{
    cli_facts_detach(engine);
    kept_facts_close(&engine->facts);
    engine->facts_writable = false;
}

static kept_status add_used(struct cli_facts_used *used, const struct kept_fact_match *match,
                            struct kept_error *err)
{
    for (uint32_t i = 0; i < used->n; i++) {
        if (strcmp(used->items[i].id, match->id) != 0)
            continue;
        if (match->weight > used->items[i].weight)
            used->items[i] = *match;
        return KEPT_OK;
    }
    if (used->n == used->cap) {
        uint32_t cap = used->cap ? 2 * used->cap : KEPT_FACTS_MAX_TOP;
        struct kept_fact_match *items = realloc(used->items, cap * sizeof *items);
        if (!items)
            return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u facts", cap);
        used->items = items;
        used->cap = cap;
    }
    used->items[used->n++] = *match;
    return KEPT_OK;
}

struct kept_facts_read_params cli_facts_read_params(const struct cli_engine *engine,
                                                    const char *text, bool keep)
{
    const struct cli_fact_options *options = &engine->settings->facts;
    float least = 1e-30f; /* 0 is the library's default */
    return (struct kept_facts_read_params){
        .query = text,
        .top = options->top,
        .scope = options->scope > (double)least ? (float)options->scope : least,
        .keep = keep};
}

kept_status cli_facts_read(struct cli_engine *engine, const char *text, bool keep,
                           struct cli_facts_used *used, struct kept_error *err)
{
    struct kept_fact_match matches[KEPT_FACTS_MAX_TOP];
    struct kept_fact_scope scope = {0};
    uint32_t n = 0;
    if (!engine->facts_attached)
        return KEPT_OK;
    struct kept_facts_read_params params = cli_facts_read_params(engine, text, keep);
    kept_status status = kept_facts_read(engine->facts, &params, matches, &n, &scope, err);
    if (status == KEPT_E_PROMPT) /* nothing that could be looked for, as white space only */
        return KEPT_OK;
    if (status != KEPT_OK)
        return go_without(engine, status, err);
    if (!used->read)
        used->scope = scope;
    used->read = true;
    for (uint32_t i = 0; i < n && status == KEPT_OK; i++)
        status = add_used(used, &matches[i], err);
    return status;
}

kept_status cli_facts_read_tail(struct cli_engine *engine, const struct cli_tokens *ids,
                                struct cli_facts_used *used, struct kept_error *err)
{
    size_t n = ids->n < TAIL_TOKENS ? ids->n : TAIL_TOKENS, n_bytes = 0;
    char *text = NULL;
    bool exact;
    if (!engine->facts_attached)
        return KEPT_OK;
    kept_status status =
        kept_tokenizer_decode(engine->tokenizer, ids->ids + ids->n - n, n, 0, &text, &n_bytes, err);
    if (status != KEPT_OK)
        return status;
    char *clean = malloc(3 * n_bytes + 1); /* the tail may begin within a character */
    if (clean) {
        clean[cli_utf8_clean(text, n_bytes, clean, &exact)] = '\0';
        status = cli_facts_read(engine, clean, true, used, err);
    } else {
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu bytes", n_bytes);
    }
    free(clean);
    kept_text_free(&text);
    return status;
}

json_t *cli_facts_used_json(const struct cli_facts_used *used)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < used->n; i++)
        json_array_append_new(list, json_pack("{s:o, s:f}", "id",
                                              cli_json_text(used->items[i].id, SIZE_MAX), "weight",
                                              (double)used->items[i].weight));
    return list;
}

void cli_facts_used_note(const struct cli_engine *engine, const struct cli_facts_used *used)
{
    char text[512];
    size_t at = 0;
    if (!used->read)
        return;
    if (used->n == 0) {
        cli_note(engine->settings, "facts: none (the best has %.2f, the scope is %.2f)",
                 (double)used->scope.weight, engine->settings->facts.scope);
        return;
    }
    for (uint32_t i = 0; i < used->n && at < sizeof text - KEPT_FACT_ID_BYTES - 16; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s (%.2f)", i ? ", " : "",
                               used->items[i].id, (double)used->items[i].weight);
    cli_note(engine->settings, "facts: %s", text);
}

void cli_facts_used_finish(struct cli_facts_used *used)
{
    free(used->items);
    *used = (struct cli_facts_used){0};
}

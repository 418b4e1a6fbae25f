/* facts_search.c: a ranking of facts, with what they say. */
#include "facts_search.h"

#include <stdio.h>
#include <string.h>

#include "facts_use.h"
#include "json_out.h"
#include "terminal.h"

#define SHOWN 10u

struct search {
    struct kept_fact_match matches[SHOWN], used[KEPT_FACTS_MAX_TOP];
    uint32_t n, n_used;
    struct kept_fact_scope scope;
    json_t *texts; /* id: {id, text, tag, time} of the matches */
};

static bool note_text(void *user, const struct kept_fact *fact)
{
    struct search *search = user;
    for (uint32_t i = 0; i < search->n; i++)
        if (strcmp(search->matches[i].id, fact->id) == 0) {
            json_t *object = json_pack("{s:o, s:o}", "text", cli_json_text(fact->text, SIZE_MAX),
                                       "tag", cli_json_text(fact->tag, SIZE_MAX));
            json_object_set_new(search->texts, fact->id, object);
        }
    return true;
}

static bool is_used(const struct search *search, const char *id)
{
    bool used = false;
    for (uint32_t i = 0; i < search->n_used; i++)
        used |= strcmp(search->used[i].id, id) == 0;
    return used;
}

static const char *field(const struct search *search, const char *id, const char *name)
{
    const char *text = json_string_value(json_object_get(json_object_get(search->texts, id), name));
    return text ? text : "";
}

static json_t *search_json(const struct cli_engine *engine, const struct search *search,
                           const char *query)
{
    json_t *matches = json_array();
    for (uint32_t i = 0; i < search->n; i++) {
        const struct kept_fact_match *m = &search->matches[i];
        json_array_append_new(
            matches, json_pack("{s:o, s:f, s:f, s:b, s:s, s:s}", "id",
                               cli_json_text(m->id, SIZE_MAX), "weight", (double)m->weight,
                               "cosine", (double)m->cosine, "read", is_used(search, m->id), "tag",
                               field(search, m->id, "tag"), "text", field(search, m->id, "text")));
    }
    return json_pack("{s:o, s:o, s:f, s:f, s:f, s:b, s:o}", "store",
                     cli_json_text(engine->settings->facts.store, SIZE_MAX), "query",
                     cli_json_text(query, SIZE_MAX), "scope", engine->settings->facts.scope,
                     "weight", (double)search->scope.weight, "residual",
                     (double)search->scope.residual, "in_scope", search->n_used > 0, "matches",
                     matches);
}

static void print_search(const struct cli_engine *engine, const struct search *search)
{
    if (search->n == 0) {
        printf("%s holds no facts.\n", engine->settings->facts.store);
        return;
    }
    printf("  %7s %7s  %-16s %s\n", "weight", "cosine", "id", "text");
    for (uint32_t i = 0; i < search->n; i++) {
        const struct kept_fact_match *m = &search->matches[i];
        printf("%c %7.3f %7.3f  %-16s %s\n", is_used(search, m->id) ? '*' : ' ', (double)m->weight,
               (double)m->cosine, m->id, field(search, m->id, "text"));
    }
    if (search->n_used)
        printf("\nIn scope: * would be read (weight %.3f, the scope is %.3f; residual %.3f).\n",
               (double)search->scope.weight, engine->settings->facts.scope,
               (double)search->scope.residual);
    else
        printf("\nOut of scope: nothing would be read (weight %.3f, the scope is %.3f; residual "
               "%.3f).\n",
               (double)search->scope.weight, engine->settings->facts.scope,
               (double)search->scope.residual);
}

kept_status cli_facts_search(struct cli_engine *engine, const char *query, struct kept_error *err)
{
    struct search search = {.texts = json_object()};
    struct kept_facts_read_params params = cli_facts_read_params(engine, query, false);
    kept_status status = KEPT_OK;
    if (engine->facts_attached)
        status = kept_facts_search(engine->facts, query, search.matches, SHOWN, &search.n,
                                   &search.scope, err);
    if (status == KEPT_OK && search.n > 0)
        status = kept_facts_read(engine->facts, &params, search.used, &search.n_used, &search.scope,
                                 err);
    if (status == KEPT_OK && search.n > 0)
        status = kept_facts_each(engine->facts, note_text, &search, err);
    cli_progress_end();
    if (status == KEPT_OK && engine->settings->json)
        cli_json_print(search_json(engine, &search, query), false);
    else if (status == KEPT_OK)
        print_search(engine, &search);
    json_decref(search.texts);
    return status;
}

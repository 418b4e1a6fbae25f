/* facts_use.h: a store of facts beside a session: opened with the model, attached with the session,
 * read at prompts and while an answer is written. A store that is damaged is left out with a
 * warning; the answer goes on without it. */
#ifndef KEPT_TOOL_FACTS_USE_H
#define KEPT_TOOL_FACTS_USE_H

#include <jansson.h>

#include "engine.h"

/* Facts that an answer drew on, each with its largest weight, in the order of their first use. */
struct cli_facts_used {
    struct kept_fact_match *items;
    uint32_t n, cap;
    bool read;                    /* at least once */
    struct kept_fact_scope scope; /* of the prompt */
};

/* Opens the store for reading and sets engine->facts_max. KEPT_E_IO when it is not there. */
kept_status cli_facts_open_readable(struct cli_engine *engine, struct kept_error *err);
/* The same for --facts, if it is given: for chat, plan and eval facts --add a file that is not
 * there is an empty store; one that is damaged is left out with a warning. */
kept_status cli_facts_open(struct cli_engine *engine, struct kept_error *err);
/* The store for writing, made when it is not there, attached when there is a session. n_more: room
 * for so many facts is planned besides. */
kept_status cli_facts_open_writable(struct cli_engine *engine, uint64_t n_more,
                                    struct kept_error *err);
void cli_facts_params(const struct cli_engine *engine, struct kept_plan_params *params);
/* After the session was created. */
kept_status cli_facts_attach(struct cli_engine *engine, struct kept_error *err);
/* Before the session goes. */
void cli_facts_detach(struct cli_engine *engine);
void cli_facts_close(struct cli_engine *engine);

/* Looks for facts that have to do with the text, and makes them what the session reads. keep: when
 * there are none, what was read before stays. Nothing happens without a store. */
kept_status cli_facts_read(struct cli_engine *engine, const char *text, bool keep,
                           struct cli_facts_used *used, struct kept_error *err);
/* The same with the last tokens of an answer. */
kept_status cli_facts_read_tail(struct cli_engine *engine, const struct cli_tokens *ids,
                                struct cli_facts_used *used, struct kept_error *err);
/* What a read asks for, by the settings. */
struct kept_facts_read_params cli_facts_read_params(const struct cli_engine *engine,
                                                    const char *text, bool keep);

/* [{id, weight}]; empty without facts. */
json_t *cli_facts_used_json(const struct cli_facts_used *used);
/* "facts: f0003 (0.83)" for people. */
void cli_facts_used_note(const struct cli_engine *engine, const struct cli_facts_used *used);
void cli_facts_used_finish(struct cli_facts_used *used);

#endif

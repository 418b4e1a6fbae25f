/* generate.h: from tokens in a session to a streamed answer. */
#ifndef KEPT_TOOL_GENERATE_H
#define KEPT_TOOL_GENERATE_H

#include <jansson.h>

#include "facts_use.h"

struct cli_answer {
    struct cli_tokens ids;  /* generated, without the token that ended the answer */
    struct cli_buffer text; /* without the stop text */
    const char *finish;     /* "stop", "length", "context" or "cancelled" */
    uint32_t prompt_tokens, reused_tokens;
    uint32_t evaluated;      /* generated tokens that went back into the session */
    uint64_t first_token_ns; /* from the program's start (chat: from the question) */
    uint64_t prefill_ns, decode_ns;
    uint64_t seed;
    const char *query; /* what facts are looked for by: the user's text; NULL: none */
    struct cli_facts_used facts;
    struct kept_slot_counts slots; /* live when the answer ended */
};

/* Evaluates what of `tokens` the session does not hold yet, then generates. The text goes to
 * standard output as it comes, unless --json. `tokens` grows by the generated ones. KEPT_OK
 * also after Ctrl-C, with finish "cancelled". */
kept_status cli_generate(struct cli_engine *engine, struct cli_tokens *tokens,
                         kept_sampler *sampler, struct cli_answer *out, struct kept_error *err);
void cli_answer_finish(struct cli_answer *answer);

/* A sampler by the settings; *seed is the one given or a random one. */
kept_status cli_sampler(const struct cli_engine *engine, kept_sampler **out, uint64_t *seed,
                        struct kept_error *err);

/* The fields of `kept run --json`. */
json_t *cli_answer_json(const struct cli_engine *engine, const struct cli_answer *answer);
/* One line for people on standard error. */
void cli_answer_note(const struct cli_engine *engine, const struct cli_answer *answer);

#endif

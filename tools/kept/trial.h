/* trial.h: what a setting does to the model's predictions, against everything kept.
 *
 * At several places of a text a prefix of `context` tokens is evaluated (evicting as it goes); then
 * tokens are scored, teacher-forced, without evicting anything: the 512 that follow, or a verbatim
 * repetition of 192 tokens from the first half of the prefix. */
#ifndef KEPT_TOOL_TRIAL_H
#define KEPT_TOOL_TRIAL_H

#include <jansson.h>

#include "engine.h"
#include "meter.h"

#define CLI_MAX_PLACES  64u
#define CLI_CONTINUED   512u
#define CLI_COPIED      192u
#define CLI_COPY_BEFORE 32u /* tokens of the repetition that are not scored */

enum cli_parts { CLI_PART_NEXT = 1, CLI_PART_COPY = 2 };

struct cli_places {
    const int32_t *tokens;
    uint32_t context, n, parts; /* parts: of enum cli_parts */
    size_t starts[CLI_MAX_PLACES];
};

/* Evenly over the text; fewer than wanted where continuations would overlap. KEPT_E_PROMPT for a
 * text or context that is too short. */
kept_status cli_places_choose(const struct cli_tokens *tokens, uint32_t context, uint32_t wanted,
                              uint32_t parts, struct cli_places *out, struct kept_error *err);

struct cli_trial {
    /* in */
    struct cli_engine *engine;
    const struct cli_places *places;
    const char *what; /* for the progress line */
    FILE *logits;     /* the reference's: written by it, read by the others */
    bool is_reference;
    /* out */
    struct cli_part next, copy;
    struct kept_plan_info plan;
    struct kept_session_stats stats;
    struct kept_slot_counts slots; /* after the last prefix */
    double slots_per_head;
    double prefill_s, decode_s; /* per token */
    /* while it runs */
    struct cli_meter meter;
    uint32_t place;
};

/* Loads the model with these parameters (context, logits_rows and hold are set here), then goes
 * over all places. */
kept_status cli_trial_run(struct cli_trial *trial, const struct kept_plan_params *params,
                          struct kept_error *err);
void cli_trial_finish(struct cli_trial *trial);

/* Fields of `kept eval kl`, or those of `eval copy`. */
json_t *cli_trial_json(const struct cli_trial *trial, const struct cli_trial *reference,
                       enum cli_parts part);

#endif

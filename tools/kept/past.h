/* past.h: what is kept of the past: the options, the model's sidecar, and what people should know
 * about both. */
#ifndef KEPT_TOOL_PAST_H
#define KEPT_TOOL_PAST_H

#include <jansson.h>

#include "engine.h"

/* Opens the sidecar that --sidecar names, or the one beside the model if it is there: the model's
 * path with its last extension replaced by .kept. One that was not named and is not needed is left
 * out with a note when it cannot be used. */
kept_status cli_past_open(struct cli_engine *engine, struct kept_error *err);
/* Whether the sidecar belongs to the weights that were loaded, not only to their header. */
kept_status cli_past_check(const struct cli_engine *engine, struct kept_error *err);
/* Slot types and retention of a plan, by the settings. */
void cli_past_params(const struct cli_engine *engine, struct kept_plan_params *params);
/* Whether the settings make a plan at all, before a reference is run for minutes. */
kept_status cli_past_plan_check(struct cli_engine *engine, uint32_t context,
                                struct kept_error *err);
/* The settings: kv, retain, retain_budget, protect, sinks, scorer, merge, positions, sidecar,
 * assoc, assoc_form, assoc_keys, assoc_threshold. */
json_t *cli_past_json(const struct cli_engine *engine);
/* Notes on standard error: what the plan's settings cost, where that was measured. */
void cli_past_notes(const struct cli_engine *engine);

/* "MODEL.kept" for "MODEL.gguf"; freed by the caller, NULL without memory. */
char *cli_past_sidecar_path(const char *model);

const char *cli_slot_type_name(enum kept_slot_type type);

#endif

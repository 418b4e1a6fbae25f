/* engine.h: a model on a device with a plan and a session: what run, chat and eval begin with. */
#ifndef KEPT_TOOL_ENGINE_H
#define KEPT_TOOL_ENGINE_H

#include "kept/kept.h"

#include "settings.h"
#include "text.h"

struct cli_engine {
    const struct cli_settings *settings;
    struct kept_log log;
    kept_model *model;
    kept_sidecar *sidecar; /* NULL: none */
    const kept_tokenizer *tokenizer;
    kept_device *device;
    struct kept_profile profile;
    kept_plan *plan;
    kept_session *session;
    kept_facts *facts;  /* NULL: none (facts_use.h) */
    uint32_t facts_max; /* planned; 0: no store was asked for, or it cannot be used */
    bool facts_writable, facts_attached;
    char facts_warning[504]; /* why it is not used; "" when it is */
    uint64_t begin_ns;
};

/* Only the model and its sidecar: what is wrong with the files or the prompt is said before any
 * driver starts. */
kept_status cli_engine_model(struct cli_engine *engine, const struct cli_settings *settings,
                             struct kept_error *err);
/* The device and its profile. */
kept_status cli_engine_device(struct cli_engine *engine, struct kept_error *err);
/* The plan for the profile. KEPT_E_BUDGET when it does not fit; the plan is there all the
 * same. */
kept_status cli_engine_plan(struct cli_engine *engine, uint32_t context, uint32_t logits_rows,
                            struct kept_error *err);
/* Device, plan and session in one. */
kept_status cli_engine_start(struct cli_engine *engine, uint32_t context, uint32_t logits_rows,
                             struct kept_error *err);
/* The same in steps, for plans that differ from the settings: the parameters that the settings
 * give, a plan with them in place of the last one, a session of it. */
struct kept_plan_params cli_engine_params(const struct cli_engine *engine, uint32_t context,
                                          uint32_t logits_rows);
kept_status cli_engine_replan(struct cli_engine *engine, const struct kept_plan_params *params,
                              struct kept_error *err);
kept_status cli_engine_load(struct cli_engine *engine, struct kept_error *err);
/* Mean live slots of a KV head. */
uint64_t cli_slots_per_head(const struct cli_engine *engine, const struct kept_slot_counts *counts);
/* cli_report, with the plans that would fit when the budget is what failed. Releases
 * everything. */
enum cli_exit cli_engine_fail(struct cli_engine *engine, const struct kept_error *err);
void cli_engine_finish(struct cli_engine *engine);

#endif

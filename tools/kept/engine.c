/* engine.c: from settings to a session. */
#include "engine.h"

#include <stdio.h>

#include "facts_use.h"
#include "fail.h"
#include "json_out.h"
#include "past.h"
#include "plan_out.h"
#include "terminal.h"

kept_status cli_engine_model(struct cli_engine *engine, const struct cli_settings *settings,
                             struct kept_error *err)
{
    engine->settings = settings;
    engine->log = cli_log(settings);
    engine->begin_ns = cli_now_ns();
    const char *path = settings->model ? settings->model : settings->args[settings->n_args - 1];
    kept_status status = kept_model_open(path, &engine->log, &engine->model, err);
    if (status == KEPT_OK)
        engine->tokenizer = kept_model_tokenizer(engine->model);
    if (status == KEPT_OK)
        status = cli_past_open(engine, err);
    return status == KEPT_OK ? cli_facts_open(engine, err) : status;
}

kept_status cli_engine_device(struct cli_engine *engine, struct kept_error *err)
{
    const struct cli_settings *settings = engine->settings;
    struct kept_device_options options = {.log = &engine->log, .n_threads = settings->threads};
    char choice[256];
    const char *spec = settings->device ? settings->device : "auto";
    for (const char *c = spec; *c; c++)
        if (*c == ',')
            return cli_fail(err, KEPT_E_ARGUMENT,
                            "--device %.60s: more than one device is not available in this version",
                            spec);
    kept_status status = kept_device_create(spec, &options, &engine->device, choice, err);
    if (status != KEPT_OK)
        return status;
    kept_device_profile(engine->device, &engine->profile);
    cli_note(settings, "device: %s", choice);
    return KEPT_OK;
}

struct kept_plan_params cli_engine_params(const struct cli_engine *engine, uint32_t context,
                                          uint32_t logits_rows)
{
    const struct cli_settings *settings = engine->settings;
    struct kept_plan_params params = {.context_tokens = context,
                                      .chunk_tokens = settings->chunk,
                                      .logits_rows = logits_rows,
                                      .memory_bytes = settings->memory_bytes,
                                      .margin_bytes = settings->margin_bytes};
    cli_past_params(engine, &params);
    cli_facts_params(engine, &params);
    return params;
}

kept_status cli_engine_plan(struct cli_engine *engine, uint32_t context, uint32_t logits_rows,
                            struct kept_error *err)
{
    struct kept_plan_params params = cli_engine_params(engine, context, logits_rows);
    kept_status status = cli_engine_replan(engine, &params, err);
    if (status == KEPT_OK)
        cli_past_notes(engine);
    return status;
}

kept_status cli_engine_replan(struct cli_engine *engine, const struct kept_plan_params *params,
                              struct kept_error *err)
{
    cli_interrupt_session(NULL);
    cli_facts_detach(engine);
    kept_session_destroy(&engine->session);
    kept_plan_destroy(&engine->plan);
    kept_status status =
        kept_plan_create(engine->model, &engine->profile, params, &engine->plan, err);
    if (status == KEPT_E_UNSUPPORTED) /* by the device's limits, not for what the file is */
        err->status = status = KEPT_E_BUDGET;
    if (status != KEPT_OK)
        return status;
    const struct kept_plan_info *info = kept_plan_info(engine->plan);
    char total[32], budget[32];
    if (!info->fits)
        return cli_fail(err, KEPT_E_BUDGET, "the plan needs %s on %s, the budget is %s",
                        cli_bytes(total, info->total_bytes), engine->profile.id,
                        cli_bytes(budget, info->budget_bytes));
    return KEPT_OK;
}

kept_status cli_engine_start(struct cli_engine *engine, uint32_t context, uint32_t logits_rows,
                             struct kept_error *err)
{
    kept_status status = cli_engine_device(engine, err);
    if (status == KEPT_OK)
        status = cli_engine_plan(engine, context, logits_rows, err);
    return status == KEPT_OK ? cli_engine_load(engine, err) : status;
}

kept_status cli_engine_load(struct cli_engine *engine, struct kept_error *err)
{
    kept_status status = kept_session_create(engine->plan, engine->device, cli_progress,
                                             (void *)engine->settings, &engine->session, err);
    cli_progress_end();
    cli_interrupt_session(engine->session);
    if (status == KEPT_OK && cli_interrupted())
        status = cli_fail(err, KEPT_E_CANCELLED, "cancelled while loading");
    if (status == KEPT_OK)
        status = cli_past_check(engine, err);
    return status == KEPT_OK ? cli_facts_attach(engine, err) : status;
}

uint64_t cli_slots_per_head(const struct cli_engine *engine, const struct kept_slot_counts *counts)
{
    const struct kept_model_info *model = kept_model_info(engine->model);
    uint64_t heads = (uint64_t)model->n_layers * model->n_kv_head;
    return (counts->live + heads / 2) / heads;
}

enum cli_exit cli_engine_fail(struct cli_engine *engine, const struct kept_error *err)
{
    enum cli_exit code = cli_exit_of(err->status);
    if (err->status == KEPT_E_BUDGET && engine->plan && engine->settings->json) {
        cli_json_print(json_pack("{s:{s:s, s:o}, s:o}", "error", "code",
                                 kept_status_name(err->status), "message",
                                 cli_json_text(err->message, SIZE_MAX), "alternatives",
                                 cli_plan_alternatives(engine->plan)),
                       false);
    } else {
        cli_report(engine->settings, err);
        if (err->status == KEPT_E_BUDGET && engine->plan)
            cli_plan_print_alternatives(stderr, engine->plan);
    }
    cli_engine_finish(engine);
    return code;
}

void cli_engine_finish(struct cli_engine *engine)
{
    cli_interrupt_session(NULL);
    cli_progress_end();
    cli_facts_close(engine);
    kept_session_destroy(&engine->session);
    kept_plan_destroy(&engine->plan);
    kept_device_destroy(&engine->device);
    kept_sidecar_close(&engine->sidecar);
    kept_model_close(&engine->model);
}

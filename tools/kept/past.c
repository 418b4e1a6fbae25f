/* past.c: slot types, retention and sidecars, from options to plans. */
#include "past.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fail.h"
#include "terminal.h"

#define EXTENSION    ".kept"
#define SMALL_PARAMS 1000000000ull /* models whose keys do not stand 4 bits */

char *cli_past_sidecar_path(const char *model)
{
    const char *slash = strrchr(model, '/'), *dot = strrchr(slash ? slash : model, '.');
    size_t n = dot ? (size_t)(dot - model) : strlen(model);
    char *path = malloc(n + sizeof EXTENSION);
    if (path) {
        memcpy(path, model, n);
        memcpy(path + n, EXTENSION, sizeof EXTENSION);
    }
    return path;
}

/* Past the trained context the plan decides, unless it was told: by --context, before there is a
 * plan. */
static bool is_left_to_the_plan(const struct cli_engine *engine)
{
    const struct cli_settings *settings = engine->settings;
    return settings->past.retain == KEPT_RETAIN_AUTO &&
           settings->context > kept_model_info(engine->model)->trained_context_tokens;
}

/* The plan decided that the past has a budget; its context may be a text's length. */
static bool plan_decided(const struct cli_engine *engine)
{
    const struct kept_plan_info *info = engine->plan ? kept_plan_info(engine->plan) : NULL;
    return engine->settings->past.retain == KEPT_RETAIN_AUTO && info && info->retains &&
           info->context_tokens > kept_model_info(engine->model)->trained_context_tokens;
}

/* Whether heads compete for slots, so that a sidecar's budgets matter. */
static bool is_scored(const struct cli_engine *engine)
{
    const struct cli_past *past = &engine->settings->past;
    return past->retain == KEPT_RETAIN_SCORED || past->assoc_slots != 0 ||
           is_left_to_the_plan(engine);
}

static kept_status check_options(const struct cli_engine *engine, struct kept_error *err)
{
    const struct cli_settings *settings = engine->settings;
    const struct cli_past *past = &settings->past;
    bool full = past->retain == KEPT_RETAIN_FULL || past->retain == KEPT_RETAIN_AUTO;
    if (!past->assoc_slots && !settings->sweep &&
        (past->assoc_threshold != 0 || past->assoc_form || past->assoc_keys))
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "--assoc-threshold, --assoc-form and --assoc-keys need --assoc");
    if (!past->assoc_slots && settings->memory_svg)
        return cli_fail(err, KEPT_E_ARGUMENT, "--memory-svg needs --assoc");
    if (past->budget.given && full && !settings->sweep && !is_left_to_the_plan(engine))
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "--retain-budget needs --retain window or --retain scored");
    return KEPT_OK;
}

static kept_status open_beside(struct cli_engine *engine, struct kept_error *err)
{
    const struct cli_settings *settings = engine->settings;
    char *path = cli_past_sidecar_path(kept_model_info(engine->model)->path);
    kept_status status = KEPT_OK;
    if (!path)
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for the sidecar's path");
    if (access(path, F_OK) == 0)
        status = kept_sidecar_open(path, engine->model, &engine->sidecar, err);
    free(path);
    if (status != KEPT_OK && !is_scored(engine)) {
        cli_note(settings, "not used: %s", err->message);
        status = KEPT_OK;
    }
    return status;
}

kept_status cli_past_open(struct cli_engine *engine, struct kept_error *err)
{
    const char *path = engine->settings->past.sidecar;
    kept_status status = check_options(engine, err);
    if (status != KEPT_OK || (path && strcmp(path, "none") == 0))
        return status;
    return path ? kept_sidecar_open(path, engine->model, &engine->sidecar, err)
                : open_beside(engine, err);
}

kept_status cli_past_check(const struct cli_engine *engine, struct kept_error *err)
{
    struct kept_session_stats stats;
    bool used = is_scored(engine) || plan_decided(engine) || engine->settings->sweep;
    if (!engine->sidecar || !used)
        return KEPT_OK;
    uint64_t fitted = kept_sidecar_info(engine->sidecar)->model_hash;
    kept_session_stats(engine->session, &stats);
    if (fitted != stats.model_hash)
        return cli_fail(err, KEPT_E_MISMATCH,
                        "the sidecar was fitted on other weights than '%.200s' has (hash %016llx, "
                        "not %016llx): make one with 'kept fit'",
                        kept_model_info(engine->model)->path, (unsigned long long)fitted,
                        (unsigned long long)stats.model_hash);
    return KEPT_OK;
}

/* The library's way to say "none" is a negative number, 0 its default. */
static int32_t count_of(const struct cli_number *number)
{
    return !number->given ? 0 : number->value == 0 ? -1 : (int32_t)number->value;
}

void cli_past_params(const struct cli_engine *engine, struct kept_plan_params *params)
{
    const struct cli_past *past = &engine->settings->past;
    params->k_type = (enum kept_slot_type)past->k_type;
    params->v_type = (enum kept_slot_type)past->v_type;
    params->retain =
        (struct kept_retain_params){.mode = (enum kept_retain)past->retain,
                                    .budget_slots = past->budget.slots,
                                    .budget_percent = (float)past->budget.percent,
                                    .protect = count_of(&past->protect),
                                    .sinks = count_of(&past->sinks),
                                    .scorer = (enum kept_scorer)past->scorer,
                                    .no_merge = past->merge != 0,
                                    .positions = (enum kept_positions)past->positions,
                                    .sidecar = engine->sidecar,
                                    .assoc_slots = past->assoc_slots,
                                    .assoc_keys = (enum kept_assoc_keys)past->assoc_keys,
                                    .assoc_threshold = (float)past->assoc_threshold};
    if (past->assoc_slots)
        params->retain.assoc = past->assoc_form ? KEPT_ASSOC_PUBLISHED : KEPT_ASSOC_KEPT;
}

kept_status cli_past_plan_check(struct cli_engine *engine, uint32_t context, struct kept_error *err)
{
    struct kept_plan_params params = cli_engine_params(engine, context, 0);
    return cli_engine_replan(engine, &params, err);
}

json_t *cli_past_json(const struct cli_engine *engine)
{
    static const char *const retain[] = {"full", "window", "scored", "full"};
    static const char *const scorers[] = {"expected", "gate", "keydiff"};
    const struct cli_past *past = &engine->settings->past;
    bool decided = plan_decided(engine);
    bool scored = decided && (!past->assoc_slots || past->budget.given);
    char kv[32], budget[32] = "";
    snprintf(kv, sizeof kv, "%s:%s", cli_slot_type_name((enum kept_slot_type)past->k_type),
             cli_slot_type_name((enum kept_slot_type)past->v_type));
    if (past->budget.given && past->budget.slots)
        snprintf(budget, sizeof budget, "%u", past->budget.slots);
    else if (past->budget.given)
        snprintf(budget, sizeof budget, "%g%%", past->budget.percent);
    return json_pack("{s:s, s:s, s:s, s:s, s:b, s:s, s:b, s:i, s:s, s:s, s:f}", "kv", kv, "retain",
                     scored ? "scored" : retain[past->retain], "retain_budget", budget, "scorer",
                     scorers[past->scorer], "merge", past->merge == 0, "positions",
                     past->positions || decided ? "compact" : "absolute", "sidecar",
                     engine->sidecar != NULL, "assoc", (int)past->assoc_slots, "assoc_form",
                     past->assoc_form ? "published" : "kept", "assoc_keys",
                     past->assoc_form || past->assoc_keys ? "unrotated" : "rotated",
                     "assoc_threshold", past->assoc_threshold != 0 ? past->assoc_threshold : 0.95);
}

void cli_past_notes(const struct cli_engine *engine)
{
    const struct cli_settings *settings = engine->settings;
    const struct kept_model_info *model = kept_model_info(engine->model);
    if (settings->past.k_type == KEPT_SLOT_Q4_0 && model->n_params < SMALL_PARAMS)
        cli_note(settings,
                 "Keys of 4 bits cost models of this size about 3.5 %% of perplexity (measured on "
                 "SmolLM2-135M); --kv q8_0 or q8_0:q4_0 costs less than 1 %%.");
    if ((settings->past.retain == KEPT_RETAIN_SCORED || plan_decided(engine)) &&
        kept_plan_info(engine->plan)->retains && !settings->past.assoc_slots && !engine->sidecar)
        cli_note(
            settings,
            "There is no sidecar for this model, so every head gets the same budget. That loses "
            "verbatim recall,\nand costs 40 times the KL divergence of fitted budgets "
            "(SmolLM2-135M, half of the slots: 0.014, not 0.0003).\n'kept fit %.300s -f TEXT' "
            "makes one in minutes.",
            model->path);
}

const char *cli_slot_type_name(enum kept_slot_type type)
{
    static const char *const names[] = {"f16", "q8_0", "q4_0"};
    return (unsigned)type < sizeof names / sizeof *names ? names[type] : "unknown";
}

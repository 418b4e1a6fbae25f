/* eval_sweep.c: runs the reference once, then every method at every budget, and writes what came
 * out as a page and as JSON.
 *
 * A method that needs a sidecar is left out where there is none. "kv" keeps everything and changes
 * the type of slots instead: its points say what the bytes of a type buy. */
#include "eval_sweep.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval_kl.h"
#include "eval_text.h"
#include "fail.h"
#include "json_out.h"
#include "options.h"
#include "past.h"
#include "terminal.h"
#include "trial.h"

#define MAX_BUDGETS     16u
#define DEFAULT_BUDGETS "50%,25%,12.5%"
#define DEFAULT_PAGE    "sweep.html"

struct method {
    const char *name, *label;
    enum kept_retain mode;
    enum kept_scorer scorer;
    bool merge, sidecar, q8;
    enum kept_assoc assoc;
};

static const struct method methods[] = {
    {"window", "first and last tokens", KEPT_RETAIN_WINDOW, KEPT_SCORER_BY_EXPECTED, false, false,
     false},
    {"keydiff", "key difference, heads alike", KEPT_RETAIN_SCORED, KEPT_SCORER_BY_KEYDIFF, false,
     false, false},
    {"uniform", "expected attention, heads alike, merged", KEPT_RETAIN_SCORED,
     KEPT_SCORER_BY_EXPECTED, true, false, false},
    {"gate", "gate, head budgets", KEPT_RETAIN_SCORED, KEPT_SCORER_BY_GATE, false, true, false},
    {"budgets", "expected attention, head budgets", KEPT_RETAIN_SCORED, KEPT_SCORER_BY_EXPECTED,
     false, true, false},
    {"merged", "expected attention, head budgets, merged", KEPT_RETAIN_SCORED,
     KEPT_SCORER_BY_EXPECTED, true, true, false},
    {"merged-q8", "the same with q8_0 slots", KEPT_RETAIN_SCORED, KEPT_SCORER_BY_EXPECTED, true,
     true, true},
    {"assoc", "associative memory, heads alike", KEPT_RETAIN_FULL, KEPT_SCORER_BY_EXPECTED, true,
     false, false, KEPT_ASSOC_KEPT},
    {"assoc-published", "associative memory as published", KEPT_RETAIN_FULL,
     KEPT_SCORER_BY_EXPECTED, false, false, false, KEPT_ASSOC_PUBLISHED},
    {"kv", "everything kept, in fewer bits", KEPT_RETAIN_FULL, KEPT_SCORER_BY_EXPECTED, false,
     false, false},
};

#define N_METHODS (sizeof methods / sizeof *methods)

static const enum kept_slot_type kv_types[][2] = {{KEPT_SLOT_Q8_0, KEPT_SLOT_Q8_0},
                                                  {KEPT_SLOT_Q8_0, KEPT_SLOT_Q4_0},
                                                  {KEPT_SLOT_Q4_0, KEPT_SLOT_Q4_0}};

#define N_KV_TYPES (sizeof kv_types / sizeof *kv_types)

/* Whether a method keeps everything and has a point for each pair of types. */
static bool is_types(const struct method *method)
{
    return method->mode == KEPT_RETAIN_FULL && method->assoc == KEPT_ASSOC_OFF;
}

struct sweep {
    struct cli_engine *engine;
    struct cli_tokens tokens;
    struct cli_places places;
    struct cli_trial reference;
    FILE *logits;
    struct cli_budget budgets[MAX_BUDGETS];
    uint32_t n_budgets, n_points, n_done;
    bool wanted[N_METHODS];
    json_t *points, *left_out; /* why a point could not be planned */
};

/* ---- what to run ---- */

static kept_status read_budgets(struct sweep *sweep, struct kept_error *err)
{
    const struct cli_settings *settings = sweep->engine->settings;
    const char *at = settings->budgets ? settings->budgets : DEFAULT_BUDGETS;
    if (!settings->budgets && settings->past.budget.given) {
        sweep->budgets[sweep->n_budgets++] = settings->past.budget;
        return KEPT_OK;
    }
    for (;;) {
        size_t n = sweep->n_budgets < MAX_BUDGETS
                       ? cli_budget_read(at, &sweep->budgets[sweep->n_budgets])
                       : 0;
        if (!n || (at[n] && at[n] != ','))
            return cli_fail(
                err, KEPT_E_ARGUMENT,
                "--budgets: '%.60s' is no list of up to %u budgets, as in 50%%,25%%,512",
                settings->budgets, MAX_BUDGETS);
        sweep->n_budgets++;
        if (!at[n])
            return KEPT_OK;
        at += n + 1;
    }
}

static kept_status read_methods(struct sweep *sweep, struct kept_error *err)
{
    const char *at = sweep->engine->settings->methods;
    for (size_t m = 0; m < N_METHODS; m++)
        sweep->wanted[m] = !at;
    while (at && *at) {
        size_t n = strcspn(at, ","), m = 0;
        while (m < N_METHODS &&
               !(strlen(methods[m].name) == n && strncmp(methods[m].name, at, n) == 0))
            m++;
        if (m == N_METHODS)
            return cli_fail(err, KEPT_E_ARGUMENT,
                            "--methods: '%.*s' is none of window, keydiff, uniform, gate, budgets, "
                            "merged, merged-q8, assoc, assoc-published, kv",
                            (int)(n < 60 ? n : 60), at);
        sweep->wanted[m] = true;
        at += n + (at[n] == ',');
    }
    return KEPT_OK;
}

/* Methods for which something is missing are not run, with a note. */
static void leave_out(struct sweep *sweep)
{
    const kept_sidecar *sidecar = sweep->engine->sidecar;
    bool gate = sidecar && kept_sidecar_info(sidecar)->has_gate;
    for (size_t m = 0; m < N_METHODS; m++) {
        bool missing =
            (methods[m].sidecar && !sidecar) || (methods[m].scorer == KEPT_SCORER_BY_GATE && !gate);
        if (sweep->wanted[m] && missing && sweep->engine->settings->methods)
            cli_note(sweep->engine->settings, "left out: %s needs a sidecar%s", methods[m].name,
                     sidecar ? " with a gate" : "");
        sweep->wanted[m] &= !missing;
        if (sweep->wanted[m])
            sweep->n_points += is_types(&methods[m]) ? (uint32_t)N_KV_TYPES : sweep->n_budgets;
    }
}

/* ---- running ---- */

/* What is never evicted of a KV head: its first and last tokens. */
static uint32_t safe_slots(const struct kept_retain_params *retain)
{
    uint32_t sinks = retain->sinks == 0 ? KEPT_DEFAULT_SINKS : (uint32_t)retain->sinks;
    uint32_t protect = retain->protect == 0 ? KEPT_DEFAULT_PROTECT : (uint32_t)retain->protect;
    return (retain->sinks < 0 ? 0 : sinks) + (retain->protect < 0 ? 0 : protect);
}

static json_t *point_json(const struct sweep *sweep, const struct method *method,
                          const struct kept_plan_params *params, const struct cli_trial *trial)
{
    char kv[32];
    snprintf(kv, sizeof kv, "%s:%s", cli_slot_type_name(params->k_type),
             cli_slot_type_name(params->v_type));
    uint32_t slots = params->retain.budget_slots;
    double percent = (double)params->retain.budget_percent, context = sweep->places.context;
    if (method->assoc != KEPT_ASSOC_OFF)
        slots = params->retain.assoc_slots + safe_slots(&params->retain);
    if (is_types(method))
        percent = 100;
    else if (slots)
        percent = 100 * slots / context;
    json_t *point = json_pack("{s:s, s:s, s:s, s:f, s:I}", "method", method->name, "label",
                              method->label, "kv", kv, "budget_percent", percent, "budget_slots",
                              (json_int_t)(slots ? slots : percent / 100 * context));
    json_t *result = cli_trial_json(trial, &sweep->reference, CLI_PART_NEXT);
    if (point && result)
        json_object_update(point, result);
    json_decref(result);
    if (point && sweep->places.parts & CLI_PART_COPY) {
        double nats = cli_score_mean(&trial->copy.test) - cli_score_mean(&trial->copy.full);
        json_object_set_new(point, "copy_nats", json_real(nats));
        json_object_set_new(point, "copy_kl_mean", json_real(cli_part_kl(&trial->copy)));
    }
    return point;
}

static void leave_out_point(struct sweep *sweep, const struct method *method, const char *message)
{
    char why[640];
    snprintf(why, sizeof why, "%s: %s", method->name, message);
    cli_note(sweep->engine->settings, "left out: %s", why);
    json_array_append_new(sweep->left_out, cli_json_text(why, SIZE_MAX));
}

/* A budget that holds less than what is never evicted is left out, not the sweep given up. */
static kept_status try_plan(struct sweep *sweep, const struct method *method,
                            const struct kept_plan_params *params, bool *runs,
                            struct kept_error *err)
{
    struct kept_plan_params own = *params;
    own.context_tokens = sweep->places.context;
    kept_status status = cli_engine_replan(sweep->engine, &own, err);
    *runs = status == KEPT_OK;
    if (status != KEPT_E_ARGUMENT)
        return status;
    leave_out_point(sweep, method, err->message);
    return KEPT_OK;
}

static kept_status run_point(struct sweep *sweep, const struct method *method,
                             const struct kept_plan_params *params, struct kept_error *err)
{
    char what[64];
    struct cli_trial trial = {
        .engine = sweep->engine, .places = &sweep->places, .what = what, .logits = sweep->logits};
    snprintf(what, sizeof what, "%s (%u of %u)", method->name, ++sweep->n_done, sweep->n_points);
    bool runs;
    kept_status status = try_plan(sweep, method, params, &runs, err);
    if (status != KEPT_OK || !runs)
        return status;
    status = cli_trial_run(&trial, params, err);
    if (status == KEPT_OK) {
        json_t *point = point_json(sweep, method, params, &trial);
        cli_note(sweep->engine->settings, "%-10s %5.1f %%  %5.1f %% of the bytes  KL %.5f",
                 method->name, json_number_value(json_object_get(point, "budget_percent")),
                 100.0 * (double)trial.plan.kv_bytes / (double)sweep->reference.plan.kv_bytes,
                 cli_part_kl(&trial.next));
        json_array_append_new(sweep->points, point);
    }
    cli_trial_finish(&trial);
    return status;
}

/* Associative memory alone: the budget less the safe tokens is memory; false where nothing is
 * left for it. */
static bool set_memory(struct sweep *sweep, const struct method *method,
                       const struct cli_budget *budget, struct kept_retain_params *retain)
{
    uint32_t safe = safe_slots(retain), slots = budget->slots;
    char why[160];
    if (!slots)
        slots = (uint32_t)(budget->percent / 100 * sweep->places.context);
    retain->budget_slots = 0;
    retain->budget_percent = 0;
    retain->assoc_slots = slots > safe ? slots - safe : 0;
    if (retain->assoc_slots)
        return true;
    snprintf(why, sizeof why,
             "a budget of %u slots leaves none for memory: the first and last tokens take %u",
             slots, safe);
    sweep->n_done++;
    leave_out_point(sweep, method, why);
    return false;
}

static kept_status run_method(struct sweep *sweep, const struct method *method,
                              struct kept_error *err)
{
    kept_status status = KEPT_OK;
    bool full = is_types(method);
    uint32_t n = full ? (uint32_t)N_KV_TYPES : sweep->n_budgets;
    for (uint32_t i = 0; i < n && status == KEPT_OK; i++) {
        struct kept_plan_params params = cli_engine_params(sweep->engine, 0, 0);
        struct kept_retain_params *retain = &params.retain;
        retain->mode = method->mode;
        retain->scorer = method->scorer;
        retain->no_merge = !method->merge;
        retain->sidecar = method->sidecar ? sweep->engine->sidecar : NULL;
        retain->budget_slots = full ? 0 : sweep->budgets[i].slots;
        retain->budget_percent = full ? 0 : (float)sweep->budgets[i].percent;
        retain->assoc = method->assoc;
        retain->assoc_slots = 0;
        if (method->assoc != KEPT_ASSOC_OFF &&
            !set_memory(sweep, method, &sweep->budgets[i], retain))
            continue;
        if (full || method->q8) {
            params.k_type = full ? kv_types[i][0] : KEPT_SLOT_Q8_0;
            params.v_type = full ? kv_types[i][1] : KEPT_SLOT_Q8_0;
        }
        status = run_point(sweep, method, &params, err);
    }
    return status;
}

static kept_status run_all(struct sweep *sweep, struct kept_error *err)
{
    struct kept_plan_params full = cli_reference_params(sweep->engine);
    sweep->reference = (struct cli_trial){.engine = sweep->engine,
                                          .places = &sweep->places,
                                          .what = "everything kept",
                                          .logits = sweep->logits,
                                          .is_reference = true};
    kept_status status = cli_trial_run(&sweep->reference, &full, err);
    for (size_t m = 0; m < N_METHODS && status == KEPT_OK; m++)
        if (sweep->wanted[m])
            status = run_method(sweep, &methods[m], err);
    return status;
}

/* ---- output ---- */

static json_t *sweep_json(const struct sweep *sweep)
{
    const struct cli_engine *engine = sweep->engine;
    const struct cli_part *full = &sweep->reference.next;
    const struct kept_model_info *model = kept_model_info(engine->model);
    return json_pack("{s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:O, s:O}", "model",
                     cli_json_text(model->path, SIZE_MAX), "name",
                     cli_json_text(model->name, SIZE_MAX), "device", engine->profile.id, "context",
                     (json_int_t)sweep->places.context, "places", (json_int_t)sweep->places.n,
                     "tokens", (json_int_t)full->full.n, "kv_bytes_full",
                     (json_int_t)sweep->reference.plan.kv_bytes, "perplexity_full",
                     cli_perplexity(&full->full), "nll_full", cli_score_mean(&full->full),
                     "copy_nll_full", cli_score_mean(&sweep->reference.copy.full), "points",
                     sweep->points, "left_out", sweep->left_out);
}

/* "page.json" beside "page.html". */
static char *beside(const char *page)
{
    const char *slash = strrchr(page, '/'), *dot = strrchr(slash ? slash : page, '.');
    size_t n = dot ? (size_t)(dot - page) : strlen(page);
    char *path = malloc(n + 6);
    if (path) {
        memcpy(path, page, n);
        memcpy(path + n, ".json", 6);
    }
    return path;
}

static kept_status write_out(const json_t *json, const char *page, struct kept_error *err)
{
    char *path = beside(page);
    kept_status status = path ? KEPT_OK : cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for a path");
    if (status == KEPT_OK && strcmp(path, page) == 0)
        status = cli_fail(err, KEPT_E_ARGUMENT, "--out: '%.300s' is where the JSON goes", page);
    else if (status == KEPT_OK &&
             json_dump_file(json, path, JSON_INDENT(1) | JSON_REAL_PRECISION(8)) != 0)
        status = cli_fail(err, KEPT_E_IO, "cannot write '%.300s': %s", path, strerror(errno));
    free(path);
    return status == KEPT_OK ? cli_sweep_page(json, page, err) : status;
}

static kept_status prepare(struct sweep *sweep, struct kept_error *err)
{
    struct cli_engine *engine = sweep->engine;
    uint32_t context = cli_kl_context(engine);
    uint32_t parts = CLI_PART_NEXT | (context >= 2 * (CLI_COPIED + 1) ? CLI_PART_COPY : 0);
    sweep->points = json_array();
    sweep->left_out = json_array();
    kept_status status = read_budgets(sweep, err);
    if (status == KEPT_OK)
        status = read_methods(sweep, err);
    leave_out(sweep);
    if (status == KEPT_OK)
        status = cli_eval_tokens(engine, &sweep->tokens, err);
    if (status == KEPT_OK)
        status = cli_places_choose(&sweep->tokens, context, cli_kl_places(engine), parts,
                                   &sweep->places, err);
    if (status == KEPT_OK)
        status = cli_engine_device(engine, err);
    return status == KEPT_OK ? cli_logits_create(&sweep->logits, err) : status;
}

kept_status cli_eval_sweep(struct cli_engine *engine, struct kept_error *err)
{
    const struct cli_settings *settings = engine->settings;
    struct sweep sweep = {.engine = engine};
    const char *page = settings->out ? settings->out : DEFAULT_PAGE;
    kept_status status = prepare(&sweep, err);
    if (status == KEPT_OK)
        status = run_all(&sweep, err);
    json_t *json = status == KEPT_OK ? sweep_json(&sweep) : NULL;
    if (status == KEPT_OK && !json)
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for the sweep's JSON");
    if (status == KEPT_OK)
        status = write_out(json, page, err);
    if (status == KEPT_OK && settings->json)
        cli_json_print(json_incref(json), false);
    else if (status == KEPT_OK)
        printf("%zu points in %s and its JSON beside it\n", json_array_size(sweep.points), page);
    json_decref(json);
    json_decref(sweep.points);
    json_decref(sweep.left_out);
    cli_trial_finish(&sweep.reference);
    if (sweep.logits)
        fclose(sweep.logits);
    cli_tokens_finish(&sweep.tokens);
    return status;
}

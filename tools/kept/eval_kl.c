/* eval_kl.c: kept eval kl and kept eval copy: a setting against everything kept, by the same
 * engine, weights and device. */
#include "eval_kl.h"

#include <math.h>

#include "eval_text.h"
#include "fail.h"
#include "json_out.h"
#include "past.h"
#include "stream.h"
#include "terminal.h"
#include "trial.h"

#define DEFAULT_CONTEXT 2048u
#define DEFAULT_PLACES  3u

struct kept_plan_params cli_reference_params(const struct cli_engine *engine)
{
    struct kept_plan_params params = cli_engine_params(engine, 0, 0);
    params.k_type = params.v_type = KEPT_SLOT_F16;
    params.retain = (struct kept_retain_params){0};
    return params;
}

kept_status cli_kv_bytes_full(struct cli_engine *engine, uint32_t context, uint64_t *out,
                              struct kept_error *err)
{
    struct kept_plan_params params = cli_reference_params(engine);
    kept_plan *plan = NULL;
    params.context_tokens = context;
    kept_status status = kept_plan_create(engine->model, &engine->profile, &params, &plan, err);
    if (status == KEPT_OK)
        *out = kept_plan_info(plan)->kv_bytes;
    kept_plan_destroy(&plan);
    return status;
}

uint32_t cli_kl_context(const struct cli_engine *engine)
{
    const struct cli_settings *settings = engine->settings;
    uint32_t trained = kept_model_info(engine->model)->trained_context_tokens;
    return settings->context           ? settings->context
           : trained < DEFAULT_CONTEXT ? trained
                                       : DEFAULT_CONTEXT;
}

uint32_t cli_kl_places(const struct cli_engine *engine)
{
    return engine->settings->n_places ? engine->settings->n_places : DEFAULT_PLACES;
}

static json_t *head_json(const struct cli_engine *engine)
{
    return json_pack("{s:o, s:s, s:o}", "model",
                     cli_json_text(kept_model_info(engine->model)->path, SIZE_MAX), "device",
                     engine->profile.id, "setting", cli_past_json(engine));
}

static void say(const struct cli_engine *engine, json_t *result, const char *what)
{
    char bytes[32], full[32];
    if (engine->settings->json) {
        json_t *object = head_json(engine);
        if (object && result)
            json_object_update(object, result);
        cli_json_print(object, false);
        return;
    }
    double kv = json_number_value(json_object_get(result, "kv_bytes"));
    double kv_full = json_number_value(json_object_get(result, "kv_bytes_full"));
    double nll = json_number_value(json_object_get(result, "nll"));
    double nll_full = json_number_value(json_object_get(result, "nll_full"));
    printf("%s: KL %.6f mean, %.5f p95, %.5f p99, %.4f max; top-1 agreement %.2f %%\n", what,
           json_number_value(json_object_get(result, "kl_mean")),
           json_number_value(json_object_get(result, "kl_p95")),
           json_number_value(json_object_get(result, "kl_p99")),
           json_number_value(json_object_get(result, "kl_max")),
           100 * json_number_value(json_object_get(result, "top1_agreement")));
    printf("perplexity %.4f, %.4f with everything kept (%+.3f %%; %+.4f nats) over %lld tokens\n",
           exp(nll), exp(nll_full), 100 * (exp(nll - nll_full) - 1), nll - nll_full,
           (long long)json_integer_value(json_object_get(result, "tokens")));
    printf("keys and values %s, %s with everything kept (%.1f %%)\n",
           cli_bytes(bytes, (uint64_t)kv), cli_bytes(full, (uint64_t)kv_full),
           kv_full > 0 ? 100 * kv / kv_full : 100.0);
}

/* ---- places of a text ---- */

static kept_status run_places(struct cli_engine *engine, const struct cli_places *places,
                              FILE *logits, struct kept_error *err)
{
    struct cli_trial reference = {.engine = engine,
                                  .places = places,
                                  .what = "everything kept",
                                  .logits = logits,
                                  .is_reference = true};
    struct cli_trial trial = {
        .engine = engine, .places = places, .what = "the setting", .logits = logits};
    struct kept_plan_params full = cli_reference_params(engine);
    struct kept_plan_params params = cli_engine_params(engine, 0, 0);
    bool copy = places->parts & CLI_PART_COPY;
    kept_status status = cli_trial_run(&reference, &full, err);
    if (status == KEPT_OK)
        status = cli_trial_run(&trial, &params, err);
    if (status == KEPT_OK) {
        json_t *result = cli_trial_json(&trial, &reference, copy ? CLI_PART_COPY : CLI_PART_NEXT);
        cli_past_notes(engine);
        say(engine, result, copy ? "repeated text" : "following text");
        json_decref(result);
    }
    cli_trial_finish(&reference);
    cli_trial_finish(&trial);
    return status;
}

/* ---- a stream ---- */

static kept_status run_stream(struct cli_stream *stream, const struct kept_plan_params *params,
                              struct cli_meter *meter, struct kept_error *err)
{
    kept_status status = cli_engine_replan(stream->engine, params, err);
    if (status == KEPT_OK)
        status = cli_engine_load(stream->engine, err);
    stream->on_logits = cli_meter_rows;
    stream->user = meter;
    meter->tokens = stream->tokens;
    if (status == KEPT_OK)
        status = cli_stream_run(stream, err);
    return status == KEPT_OK ? cli_meter_check(meter, err) : status;
}

static json_t *stream_json(const struct cli_stream *stream, const struct cli_part *part,
                           const struct kept_plan_info *plan, uint64_t kv_bytes_full)
{
    double nll = cli_score_mean(&part->test), nll_full = cli_score_mean(&part->full);
    json_t *times = cli_stream_json(stream);
    json_t *object = json_pack(
        "{s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I}", "context",
        (json_int_t)stream->n, "tokens", (json_int_t)part->test.n, "perplexity",
        cli_perplexity(&part->test), "standard_error", cli_standard_error(&part->test), "nll", nll,
        "nll_full", nll_full, "kl_mean", cli_part_kl(part), "kl_p95", cli_part_quantile(part, 0.95),
        "kl_p99", cli_part_quantile(part, 0.99), "kl_max", cli_part_quantile(part, 1),
        "top1_agreement", cli_part_agreement(part), "ppl_ratio", exp(nll - nll_full), "kv_bytes",
        (json_int_t)plan->kv_bytes, "kv_bytes_full", (json_int_t)kv_bytes_full, "scorer_bytes",
        (json_int_t)plan->scorer_bytes);
    if (object && times)
        json_object_update(object, times);
    json_decref(times);
    return object;
}

static kept_status run_streams(struct cli_engine *engine, struct cli_stream *stream, FILE *logits,
                               struct kept_error *err)
{
    struct cli_part full = {0}, part = {0};
    struct cli_meter meter = {0};
    uint64_t kv_bytes_full = 0;
    struct kept_plan_params params = cli_reference_params(engine);
    params.context_tokens = stream->n;
    params.logits_rows = CLI_LOGITS_ROWS;
    stream->what = "everything kept";
    kept_status status = cli_meter_begin(&meter, engine, logits, true, err);
    meter.part = &full;
    if (status == KEPT_OK)
        status = run_stream(stream, &params, &meter, err);
    cli_meter_finish(&meter);
    cli_stream_finish(stream);
    if (status == KEPT_OK) {
        kv_bytes_full = kept_plan_info(engine->plan)->kv_bytes;
        params = cli_engine_params(engine, stream->n, CLI_LOGITS_ROWS);
        stream->what = "the setting";
        status = cli_meter_begin(&meter, engine, logits, false, err);
    }
    meter.part = &part;
    if (status == KEPT_OK)
        status = run_stream(stream, &params, &meter, err);
    if (status == KEPT_OK) {
        cli_part_sort(&part);
        json_t *result = stream_json(stream, &part, kept_plan_info(engine->plan), kv_bytes_full);
        cli_past_notes(engine);
        say(engine, result, "the stream");
        json_decref(result);
    }
    cli_meter_finish(&meter);
    cli_part_finish(&full);
    cli_part_finish(&part);
    return status;
}

kept_status cli_eval_kl(struct cli_engine *engine, bool copy, struct kept_error *err)
{
    const struct cli_settings *settings = engine->settings;
    struct cli_tokens tokens = {0};
    struct cli_places places = {0};
    struct cli_stream stream = {.engine = engine};
    uint32_t context = cli_kl_context(engine);
    FILE *logits = NULL;
    kept_status status = KEPT_OK;
    if (copy && settings->stream)
        status = cli_fail(err, KEPT_E_ARGUMENT, "eval copy has no --stream");
    if (status == KEPT_OK)
        status = cli_eval_tokens(engine, &tokens, err);
    if (status == KEPT_OK)
        status = settings->stream
                     ? cli_stream_choose(&stream, &tokens, context, err)
                     : cli_places_choose(&tokens, context, cli_kl_places(engine),
                                         copy ? CLI_PART_COPY : CLI_PART_NEXT, &places, err);
    if (status == KEPT_OK)
        status = cli_engine_device(engine, err);
    if (status == KEPT_OK)
        status = cli_past_plan_check(engine, context, err);
    if (status == KEPT_OK)
        status = cli_logits_create(&logits, err);
    if (status == KEPT_OK)
        status = settings->stream ? run_streams(engine, &stream, logits, err)
                                  : run_places(engine, &places, logits, err);
    if (logits)
        fclose(logits);
    cli_stream_finish(&stream);
    cli_tokens_finish(&tokens);
    return status;
}

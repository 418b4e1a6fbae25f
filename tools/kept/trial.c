/* trial.c: prefixes, scored tokens and the comparison with the reference. */
#include "trial.h"

#include <math.h>

#include "eval_text.h"
#include "fail.h"
#include "terminal.h"

#define HOLD_TOKENS  (CLI_CONTINUED + 64u) /* and what lies past the last block */
#define TIMED_TOKENS 16u                   /* evaluated one at a time, at most */
#define BLOCK        64u                   /* held tokens that come alone stay within one */

kept_status cli_places_choose(const struct cli_tokens *tokens, uint32_t context, uint32_t wanted,
                              uint32_t parts, struct cli_places *out, struct kept_error *err)
{
    size_t needed = (size_t)context + CLI_CONTINUED + 1;
    if (parts & CLI_PART_COPY && context < 2 * (CLI_COPIED + 1))
        return cli_fail(err, KEPT_E_ARGUMENT,
                        "a prefix of %u tokens is too short to repeat %u of it: give --context %u "
                        "or more",
                        context, CLI_COPIED, 2 * (CLI_COPIED + 1));
    if (context < 2)
        return cli_fail(err, KEPT_E_ARGUMENT, "a prefix of %u tokens is too short", context);
    if (tokens->n < needed)
        return cli_fail(err, KEPT_E_PROMPT,
                        "the text has %zu tokens, a prefix of %u and what follows it need %zu",
                        tokens->n, context, needed);
    size_t room = tokens->n - needed, most = 1 + room / (CLI_CONTINUED + 1);
    *out = (struct cli_places){.tokens = tokens->ids, .context = context, .parts = parts};
    out->n = wanted < most ? wanted : (uint32_t)most;
    out->n = out->n < CLI_MAX_PLACES ? out->n : CLI_MAX_PLACES;
    for (uint32_t i = 1; i < out->n; i++)
        out->starts[i] = room / (out->n - 1) * i;
    return KEPT_OK;
}

/* ---- one place ---- */

static bool progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    const struct cli_trial *trial = user;
    (void)what;
    return cli_progress((void *)trial->engine->settings, trial->what, trial->place * total + done,
                        trial->places->n * total);
}

static kept_status eval_prefix(struct cli_trial *trial, const struct cli_tokens *prefix,
                               struct kept_error *err)
{
    struct kept_eval_params params = {.tokens = prefix->ids,
                                      .n_tokens = trial->places->context,
                                      .progress = progress,
                                      .progress_user = trial};
    kept_status status = kept_session_rewind(trial->engine->session, 0, err);
    return status == KEPT_OK ? kept_session_eval(trial->engine->session, &params, err) : status;
}

/* To the end of the prefix; where the rings of sliding windows no longer have it, by evaluating the
 * prefix again. */
static kept_status go_back(struct cli_trial *trial, const struct cli_tokens *prefix,
                           struct kept_error *err)
{
    uint32_t context = trial->places->context;
    if (kept_session_position(trial->engine->session) == context)
        return KEPT_OK;
    kept_status status = kept_session_rewind(trial->engine->session, context, err);
    return status == KEPT_E_STATE ? eval_prefix(trial, prefix, err) : status;
}

/* Tokens fed after the prefix; those from `from` on are scored. */
static kept_status score(struct cli_trial *trial, struct cli_part *part, const int32_t *fed,
                         uint32_t n, uint32_t from, struct kept_error *err)
{
    struct kept_eval_params params = {.tokens = fed,
                                      .n_tokens = n,
                                      .on_logits = cli_meter_rows,
                                      .logits_from = from,
                                      .logits_user = &trial->meter,
                                      .hold = true};
    trial->meter.part = part;
    trial->meter.tokens = fed;
    trial->meter.base = trial->places->context;
    kept_status status = kept_session_eval(trial->engine->session, &params, err);
    return status == KEPT_OK ? cli_meter_check(&trial->meter, err) : status;
}

/* Seconds of a token evaluated alone, held. */
static kept_status time_decode(struct cli_trial *trial, const int32_t *fed, struct kept_error *err)
{
    struct kept_eval_params params = {.n_tokens = 1, .hold = true};
    uint32_t room = BLOCK - 1 - trial->places->context % BLOCK;
    uint32_t n = room < TIMED_TOKENS + 1 ? room : TIMED_TOKENS + 1;
    kept_status status = KEPT_OK;
    uint64_t begin_ns = 0;
    for (uint32_t i = 0; i < n && status == KEPT_OK; i++) {
        if (i == 1) /* the first one warms up */
            begin_ns = cli_now_ns();
        params.tokens = fed + i;
        status = kept_session_eval(trial->engine->session, &params, err);
    }
    if (n > 1)
        trial->decode_s = (double)(cli_now_ns() - begin_ns) / 1e9 / (n - 1);
    return status;
}

static kept_status run_place(struct cli_trial *trial, struct cli_tokens *prefix,
                             struct kept_error *err)
{
    const struct cli_places *places = trial->places;
    uint32_t context = places->context;
    const int32_t *tokens = places->tokens + places->starts[trial->place];
    bool last = trial->place + 1 == places->n;
    kept_status status = cli_begin_tokens(trial->engine, tokens, context, prefix, err);
    uint64_t begin_ns = cli_now_ns();
    if (status == KEPT_OK)
        status = eval_prefix(trial, prefix, err);
    trial->prefill_s += (double)(cli_now_ns() - begin_ns) / 1e9 / ((double)context * places->n);
    if (status == KEPT_OK && last)
        status = kept_session_slots(trial->engine->session, &trial->slots, err);
    if (status == KEPT_OK && places->parts & CLI_PART_NEXT)
        status = score(trial, &trial->next, tokens + context, CLI_CONTINUED, 0, err);
    if (status == KEPT_OK && places->parts & CLI_PART_COPY)
        status = go_back(trial, prefix, err);
    if (status == KEPT_OK && places->parts & CLI_PART_COPY)
        status =
            score(trial, &trial->copy, prefix->ids + context / 4, CLI_COPIED, CLI_COPY_BEFORE, err);
    if (status == KEPT_OK && last)
        status = go_back(trial, prefix, err);
    return status == KEPT_OK && last ? time_decode(trial, tokens + context, err) : status;
}

kept_status cli_trial_run(struct cli_trial *trial, const struct kept_plan_params *params,
                          struct kept_error *err)
{
    struct cli_engine *engine = trial->engine;
    struct kept_plan_params own = *params;
    struct cli_tokens prefix = {0};
    own.context_tokens = trial->places->context;
    own.logits_rows = CLI_LOGITS_ROWS;
    own.retain.hold_tokens = HOLD_TOKENS;
    kept_status status =
        cli_meter_begin(&trial->meter, engine, trial->logits, trial->is_reference, err);
    if (status == KEPT_OK)
        status = cli_engine_replan(engine, &own, err);
    if (status == KEPT_OK) {
        trial->plan = *kept_plan_info(engine->plan);
        status = cli_engine_load(engine, err);
    }
    for (trial->place = 0; trial->place < trial->places->n && status == KEPT_OK; trial->place++)
        status = run_place(trial, &prefix, err);
    if (engine->session)
        kept_session_stats(engine->session, &trial->stats);
    trial->slots_per_head = (double)cli_slots_per_head(engine, &trial->slots);
    cli_part_sort(&trial->next);
    cli_part_sort(&trial->copy);
    cli_meter_finish(&trial->meter);
    cli_tokens_finish(&prefix);
    cli_progress_end();
    return status;
}

void cli_trial_finish(struct cli_trial *trial)
{
    cli_part_finish(&trial->next);
    cli_part_finish(&trial->copy);
}

/* ---- output ---- */

static double rate(double seconds)
{
    return seconds > 0 ? 1 / seconds : 0;
}

static json_t *cost_json(const struct cli_trial *trial, const struct cli_trial *reference)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, "
        "s:f}",
        "kv_bytes", (json_int_t)trial->plan.kv_bytes, "kv_bytes_full",
        (json_int_t)reference->plan.kv_bytes, "scorer_bytes", (json_int_t)trial->plan.scorer_bytes,
        "planned_bytes", (json_int_t)trial->stats.planned_bytes, "actual_bytes",
        (json_int_t)trial->stats.actual_bytes, "slots_per_head", trial->slots_per_head,
        "slots_live", (json_int_t)trial->slots.live, "slots_planned", (json_int_t)trial->plan.slots,
        "evicted", (json_int_t)trial->slots.evicted, "merged", (json_int_t)trial->slots.merged,
        "consolidated", (json_int_t)trial->slots.consolidated, "prefill_tps",
        rate(trial->prefill_s), "prefill_tps_full", rate(reference->prefill_s), "decode_tps",
        rate(trial->decode_s), "decode_tps_full", rate(reference->decode_s), "added_prefill_s",
        trial->prefill_s - reference->prefill_s, "added_decode_s",
        trial->decode_s - reference->decode_s);
}

json_t *cli_trial_json(const struct cli_trial *trial, const struct cli_trial *reference,
                       enum cli_parts which)
{
    const struct cli_part *part = which == CLI_PART_NEXT ? &trial->next : &trial->copy;
    double nll = cli_score_mean(&part->test), nll_full = cli_score_mean(&part->full);
    json_t *object =
        json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}",
                  "context", (json_int_t)trial->places->context, "places",
                  (json_int_t)trial->places->n, "tokens", (json_int_t)part->test.n, "perplexity",
                  cli_perplexity(&part->test), "standard_error", cli_standard_error(&part->test),
                  "nll", nll, "nll_full", nll_full, "kl_mean", cli_part_kl(part), "kl_p95",
                  cli_part_quantile(part, 0.95), "kl_p99", cli_part_quantile(part, 0.99), "kl_max",
                  cli_part_quantile(part, 1), "top1_agreement", cli_part_agreement(part),
                  "ppl_ratio", exp(nll - nll_full), "perplexity_full", cli_perplexity(&part->full));
    json_t *cost = cost_json(trial, reference);
    if (object && cost)
        json_object_update(object, cost);
    json_decref(cost);
    return object;
}

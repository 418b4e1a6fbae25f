/* cmd_fit.c: kept fit: head budgets for a model, from reading texts twice.
 *
 * Each piece of text is evaluated, then evaluated once more behind itself; what the second
 * reading attends to is what a head needs of its past. One threshold over the log of the most
 * attention that each token of each head received gives every head its share (kept_sidecar_curve).
 * The first tokens and the last ones of a piece are left out: they are never evicted.
 *
 * With --gate the first reading also fits a gate (fit_gate.c).
 *
 * The sidecar is written as soon as the budgets are known; then settings are measured with it on
 * text that was not fitted on, and it is written again with the reports.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "engine.h"
#include "eval_kl.h"
#include "eval_text.h"
#include "fit_gate.h"
#include "json_out.h"
#include "past.h"
#include "sidecar_out.h"
#include "terminal.h"
#include "trial.h"

#define DEFAULT_TOKENS 1536u
#define DEFAULT_PIECES 3u
#define SKIPPED_FIRST  4u
#define SKIPPED_LAST   128u
#define LEAST_TOKENS   (2 * (SKIPPED_FIRST + SKIPPED_LAST))
#define REPORT_CONTEXT 2048u
#define REPORT_PLACES  2u

static const double report_shares[] = {0.5, 0.25, 0.125};

#define N_SHARES   (sizeof report_shares / sizeof *report_shares)
#define MAX_REPORT (2 * N_SHARES) /* f16 and q8_0 */

struct fit {
    struct cli_engine engine;
    struct cli_settings settings; /* the command line's, without a sidecar */
    char *path;                   /* of the sidecar */
    struct cli_tokens texts[CLI_MAX_TEXTS];
    size_t used[CLI_MAX_TEXTS]; /* tokens of a text that were fitted on */
    uint32_t n_tokens, n_pieces, piece;
    bool second;   /* reading */
    float *scores; /* [n_layers][n_kv][n_pieces * kept_tokens] */
    float shares[KEPT_CURVE_SHARES];
    float *fractions;
    struct cli_gate_fit *gate; /* NULL: none is asked for */
    uint64_t model_hash;
    struct kept_sidecar_report_info reports[MAX_REPORT];
    uint32_t n_reports;
    uint64_t fit_ns, begin_ns;
};

static uint32_t kept_tokens(const struct fit *fit)
{
    return fit->n_tokens - SKIPPED_FIRST - SKIPPED_LAST;
}

static size_t n_heads(const struct fit *fit)
{
    const struct kept_model_info *model = kept_model_info(fit->engine.model);
    return (size_t)model->n_layers * model->n_kv_head;
}

/* ---- the text ---- */

static kept_status read_texts(struct fit *fit, struct kept_error *err)
{
    const struct cli_texts *files = &fit->settings.files;
    kept_status status = KEPT_OK;
    if (!files->n)
        return cli_fail(err, KEPT_E_ARGUMENT, "there is no text: give -f FILE, once or more");
    for (uint32_t i = 0; i < files->n && status == KEPT_OK; i++)
        status = cli_text_tokens(&fit->engine, files->items[i], &fit->texts[i], err);
    return status;
}

/* Pieces go round over the texts, each from where the last one of its text ended. */
static kept_status check_texts(struct fit *fit, struct kept_error *err)
{
    const struct cli_settings *settings = &fit->settings;
    uint32_t n_texts = settings->files.n;
    fit->n_tokens = settings->n_tokens ? settings->n_tokens : DEFAULT_TOKENS;
    fit->n_pieces = settings->n_pieces ? settings->n_pieces : DEFAULT_PIECES;
    fit->n_pieces = fit->n_pieces > n_texts ? fit->n_pieces : n_texts;
    if (fit->settings.gate && fit->n_tokens < CLI_GATE_LEAST_TOKENS)
        return cli_fail(err, KEPT_E_ARGUMENT, "--tokens %u: with --gate a piece has %u or more",
                        fit->n_tokens, CLI_GATE_LEAST_TOKENS);
    if (fit->n_tokens < LEAST_TOKENS)
        return cli_fail(err, KEPT_E_ARGUMENT, "--tokens %u: a piece has %u tokens or more",
                        fit->n_tokens, LEAST_TOKENS);
    for (uint32_t i = 0; i < n_texts; i++) {
        size_t n = (fit->n_pieces + n_texts - 1 - i) / n_texts, needed = n * fit->n_tokens;
        if (fit->texts[i].n < needed)
            return cli_fail(err, KEPT_E_PROMPT,
                            "'%.200s' has %zu tokens, %zu pieces of %u need %zu: give more text, "
                            "or fewer --pieces or --tokens",
                            settings->files.items[i], fit->texts[i].n, n, fit->n_tokens, needed);
    }
    return KEPT_OK;
}

static const int32_t *next_piece(struct fit *fit)
{
    uint32_t i = fit->piece % fit->settings.files.n;
    const int32_t *tokens = fit->texts[i].ids + fit->used[i];
    fit->used[i] += fit->n_tokens;
    return tokens;
}

/* ---- reading twice ---- */

static bool progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    const struct fit *fit = user;
    uint64_t readings = 2 * (uint64_t)fit->piece + fit->second;
    (void)what;
    return cli_progress((void *)&fit->settings, "reading twice", readings * total + done,
                        2 * (uint64_t)fit->n_pieces * total);
}

static kept_status read_once(struct fit *fit, const int32_t *tokens, struct kept_error *err)
{
    struct kept_eval_params params = {
        .tokens = tokens, .n_tokens = fit->n_tokens, .progress = progress, .progress_user = fit};
    return kept_session_eval(fit->engine.session, &params, err);
}

/* What of a layer's peaks counts, behind the pieces before. Layers that were not calibrated
 * (sliding windows) keep zeros, which nobody looks at. */
static kept_status take_layer(struct fit *fit, uint32_t layer, float *peaks, struct kept_error *err)
{
    uint32_t n_kv = kept_model_info(fit->engine.model)->n_kv_head, n = kept_tokens(fit);
    kept_status status = kept_session_peaks(fit->engine.session, layer, peaks, err);
    if (status == KEPT_E_STATE)
        return KEPT_OK;
    for (uint32_t h = 0; h < n_kv && status == KEPT_OK; h++) {
        float *to = fit->scores + (((size_t)layer * n_kv + h) * fit->n_pieces + fit->piece) * n;
        memcpy(to, peaks + (size_t)h * fit->n_tokens + SKIPPED_FIRST, n * sizeof *to);
    }
    return status;
}

static kept_status read_piece(struct fit *fit, float *peaks, struct kept_error *err)
{
    struct cli_tokens first = {0};
    const int32_t *tokens = next_piece(fit);
    uint32_t n_layers = kept_model_info(fit->engine.model)->n_layers;
    kept_status status = cli_begin_tokens(&fit->engine, tokens, fit->n_tokens, &first, err);
    if (status == KEPT_OK)
        status = kept_session_rewind(fit->engine.session, 0, err);
    fit->second = false;
    if (status == KEPT_OK && fit->gate)
        status = cli_gate_read(fit->gate, first.ids, progress, fit, err);
    else if (status == KEPT_OK)
        status = read_once(fit, first.ids, err);
    fit->second = true;
    if (status == KEPT_OK)
        status = read_once(fit, tokens, err);
    for (uint32_t l = 0; l < n_layers && status == KEPT_OK; l++)
        status = take_layer(fit, l, peaks, err);
    if (status == KEPT_OK && fit->gate)
        status = cli_gate_add(fit->gate, fit->piece + 1 == fit->n_pieces, err);
    cli_tokens_finish(&first);
    return status;
}

static kept_status read_twice(struct fit *fit, struct kept_error *err)
{
    const struct kept_model_info *model = kept_model_info(fit->engine.model);
    size_t n_scores = n_heads(fit) * fit->n_pieces * kept_tokens(fit);
    struct kept_plan_params params = cli_engine_params(&fit->engine, 2 * fit->n_tokens, 0);
    struct kept_session_stats stats;
    params.calibrate_tokens = fit->n_tokens;
    params.calibrate_after = fit->settings.gate ? SKIPPED_LAST : 0;
    params.k_type = params.v_type = KEPT_SLOT_F16;
    fit->scores = calloc(n_scores, sizeof *fit->scores);
    fit->fractions = calloc(n_heads(fit) * KEPT_CURVE_SHARES, sizeof *fit->fractions);
    float *peaks = calloc((size_t)model->n_kv_head * fit->n_tokens, sizeof *peaks);
    kept_status status = KEPT_OK;
    if (!fit->scores || !fit->fractions || !peaks)
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu scores", n_scores);
    if (status == KEPT_OK)
        status = cli_engine_replan(&fit->engine, &params, err);
    if (status == KEPT_OK)
        status = cli_engine_load(&fit->engine, err);
    if (status == KEPT_OK && fit->settings.gate)
        status = cli_gate_begin(&fit->engine, fit->n_tokens, SKIPPED_FIRST, SKIPPED_LAST,
                                &fit->gate, err);
    for (fit->piece = 0; fit->piece < fit->n_pieces && status == KEPT_OK; fit->piece++)
        status = read_piece(fit, peaks, err);
    if (status == KEPT_OK && fit->gate)
        status = cli_gate_solve(fit->gate, err);
    cli_progress_end();
    free(peaks);
    if (status != KEPT_OK)
        return status;
    kept_session_stats(fit->engine.session, &stats);
    fit->model_hash = stats.model_hash;
    return kept_sidecar_curve(fit->engine.model, fit->scores, fit->n_pieces * kept_tokens(fit),
                              fit->shares, fit->fractions, err);
}

static kept_status write_sidecar(struct fit *fit, struct kept_error *err)
{
    struct kept_sidecar_params params = {.model_hash = fit->model_hash,
                                         .n_tokens = fit->n_pieces * fit->n_tokens,
                                         .n_shares = KEPT_CURVE_SHARES,
                                         .shares = fit->shares,
                                         .fractions = fit->fractions,
                                         .gate = fit->gate ? cli_gate_weights(fit->gate) : NULL,
                                         .gate_bias = fit->gate ? cli_gate_biases(fit->gate) : NULL,
                                         .n_reports = fit->n_reports,
                                         .reports = fit->reports};
    return kept_sidecar_write(fit->path, fit->engine.model, &params, err);
}

/* ---- reports ---- */

/* The longest rest of a text that was not fitted on. */
static struct cli_tokens rest_of(const struct fit *fit)
{
    struct cli_tokens best = {0};
    for (uint32_t i = 0; i < fit->settings.files.n; i++) {
        size_t n = fit->texts[i].n - fit->used[i];
        if (n > best.n)
            best = (struct cli_tokens){fit->texts[i].ids + fit->used[i], n, 0};
    }
    return best;
}

static kept_status report(struct fit *fit, const struct cli_trial *reference, double share,
                          enum kept_slot_type type, struct kept_error *err)
{
    char what[48];
    const struct cli_places *places = reference->places;
    struct cli_trial trial = {
        .engine = &fit->engine, .places = places, .what = what, .logits = reference->logits};
    struct kept_plan_params params = cli_engine_params(&fit->engine, 0, 0);
    params.k_type = params.v_type = type;
    params.retain = (struct kept_retain_params){.mode = KEPT_RETAIN_SCORED,
                                                .budget_slots = (uint32_t)(share * places->context),
                                                .sidecar = fit->engine.sidecar};
    snprintf(what, sizeof what, "measuring %g %% %s", 100 * share, cli_slot_type_name(type));
    kept_status status = cli_trial_run(&trial, &params, err);
    if (status == KEPT_OK) {
        double nll = cli_score_mean(&trial.next.test) - cli_score_mean(&trial.next.full);
        double copy = cli_score_mean(&trial.copy.test) - cli_score_mean(&trial.copy.full);
        fit->reports[fit->n_reports++] =
            (struct kept_sidecar_report_info){.context_tokens = places->context,
                                              .budget_slots = params.retain.budget_slots,
                                              .scored_tokens = (uint32_t)trial.next.test.n,
                                              .k_type = type,
                                              .v_type = type,
                                              .kl_mean = cli_part_kl(&trial.next),
                                              .ppl_ratio = exp(nll),
                                              .top1_agreement = cli_part_agreement(&trial.next),
                                              .copy_nats = copy};
    }
    cli_trial_finish(&trial);
    return status;
}

static kept_status run_reports(struct fit *fit, const struct cli_places *places, FILE *logits,
                               struct kept_error *err)
{
    struct cli_trial reference = {.engine = &fit->engine,
                                  .places = places,
                                  .what = "everything kept",
                                  .logits = logits,
                                  .is_reference = true};
    struct kept_plan_params full = cli_reference_params(&fit->engine);
    kept_status status = cli_trial_run(&reference, &full, err);
    for (uint32_t q8 = 0; q8 < 2; q8++)
        for (size_t i = 0; i < N_SHARES && status == KEPT_OK; i++)
            status =
                report(fit, &reference, report_shares[i], q8 ? KEPT_SLOT_Q8_0 : KEPT_SLOT_F16, err);
    cli_trial_finish(&reference);
    return status;
}

/* What the budgets cost, where enough text is left. */
static kept_status measure(struct fit *fit, struct kept_error *err)
{
    struct cli_tokens rest = rest_of(fit);
    struct cli_places places;
    uint32_t trained = kept_model_info(fit->engine.model)->trained_context_tokens;
    uint32_t context = trained < REPORT_CONTEXT ? trained : REPORT_CONTEXT;
    uint32_t least = 8 * (SKIPPED_FIRST + SKIPPED_LAST); /* 12.5 % hold what is never evicted */
    FILE *logits = NULL;
    while (context > least && rest.n < (size_t)context + CLI_CONTINUED + 1)
        context /= 2;
    if (context < least || rest.n < (size_t)context + CLI_CONTINUED + 1) {
        cli_note(&fit->settings, "Too little text is left to measure what the budgets cost.");
        return KEPT_OK;
    }
    kept_status status = cli_places_choose(
        &rest, context, fit->settings.n_places ? fit->settings.n_places : REPORT_PLACES,
        CLI_PART_NEXT | CLI_PART_COPY, &places, err);
    if (status == KEPT_OK)
        status = kept_sidecar_open(fit->path, fit->engine.model, &fit->engine.sidecar, err);
    if (status == KEPT_OK)
        status = cli_logits_create(&logits, err);
    if (status == KEPT_OK)
        status = run_reports(fit, &places, logits, err);
    if (logits)
        fclose(logits);
    return status == KEPT_OK ? write_sidecar(fit, err) : status;
}

/* ---- the command ---- */

static kept_status run(struct fit *fit, struct kept_error *err)
{
    kept_status status = cli_engine_model(&fit->engine, &fit->settings, err);
    if (status == KEPT_OK)
        status = read_texts(fit, err);
    if (status == KEPT_OK)
        status = check_texts(fit, err);
    if (status != KEPT_OK)
        return status;
    const char *model = kept_model_info(fit->engine.model)->path;
    fit->path = fit->settings.out ? strdup(fit->settings.out) : cli_past_sidecar_path(model);
    if (!fit->path)
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for a path");
    if (strcmp(fit->path, model) == 0)
        return cli_fail(err, KEPT_E_ARGUMENT, "--out: '%.300s' is the model itself", model);
    status = cli_engine_device(&fit->engine, err);
    if (status == KEPT_OK)
        status = read_twice(fit, err);
    if (status == KEPT_OK)
        status = write_sidecar(fit, err);
    fit->fit_ns = cli_now_ns() - fit->begin_ns;
    if (status == KEPT_OK && !fit->settings.no_reports)
        status = measure(fit, err);
    return status;
}

static json_t *correlations_json(const struct fit *fit)
{
    json_t *list = json_array();
    double value;
    for (uint32_t l = 0; l < kept_model_info(fit->engine.model)->n_layers; l++)
        json_array_append_new(list, cli_gate_correlation(fit->gate, l, &value) ? json_real(value)
                                                                               : json_null());
    return list;
}

/* Nothing where no piece was left to predict. */
static void print_correlations(const struct fit *fit)
{
    double value, sum = 0;
    uint32_t n = 0;
    for (uint32_t l = 0; l < kept_model_info(fit->engine.model)->n_layers; l++) {
        if (!cli_gate_correlation(fit->gate, l, &value))
            continue;
        if (n == 0)
            puts("\nHow well the gate of the other pieces predicts the last one (correlation):");
        sum += value;
        printf("%s  layer %-3u %5.3f", n > 0 && n % 5 == 0 ? "\n" : "", l, value);
        n++;
    }
    if (n > 0)
        printf("\n  mean %.3f\n", sum / n);
}

static kept_status say(const struct fit *fit, struct kept_error *err)
{
    kept_sidecar *sidecar;
    double seconds = (double)(cli_now_ns() - fit->begin_ns) / 1e9;
    kept_status status = kept_sidecar_open(fit->path, fit->engine.model, &sidecar, err);
    if (status != KEPT_OK)
        return status;
    if (fit->settings.json) {
        json_t *object = cli_sidecar_json(fit->path, sidecar);
        if (object) {
            json_object_set_new(object, "device", json_string(fit->engine.profile.id));
            json_object_set_new(object, "fit_s", json_real((double)fit->fit_ns / 1e9));
            json_object_set_new(object, "total_s", json_real(seconds));
            if (fit->gate)
                json_object_set_new(object, "gate_correlation", correlations_json(fit));
        }
        cli_json_print(object, false);
    } else {
        cli_sidecar_print(fit->path, sidecar);
        if (fit->gate)
            print_correlations(fit);
        printf("\nwritten to %s after %.0f s\n", fit->path, seconds);
    }
    kept_sidecar_close(&sidecar);
    return KEPT_OK;
}

enum cli_exit cli_fit(const struct cli_settings *settings)
{
    struct fit fit = {.settings = *settings, .begin_ns = cli_now_ns()};
    struct kept_error err = {0};
    enum cli_exit code = CLI_OK;
    fit.settings.past = (struct cli_past){.sidecar = "none"};
    fit.engine.settings = &fit.settings;
    kept_status status = run(&fit, &err);
    if (status == KEPT_OK)
        status = say(&fit, &err);
    if (status != KEPT_OK)
        code = cli_engine_fail(&fit.engine, &err);
    for (uint32_t i = 0; i < CLI_MAX_TEXTS; i++)
        cli_tokens_finish(&fit.texts[i]);
    free(fit.path);
    free(fit.scores);
    free(fit.fractions);
    cli_gate_finish(&fit.gate);
    cli_engine_finish(&fit.engine);
    return code;
}

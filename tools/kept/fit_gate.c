/* fit_gate.c: a gate that predicts what later tokens will attend to.
 *
 * Target: the log of the mean attention that a token receives, in the first reading, from the
 * positions more than `after` behind it and the query heads of its KV head. Input: what the layer's
 * attention block was given for the token, which is what a gate is applied to. One ridge regression
 * a layer; the sums grow piece by piece, a piece's inputs stay in host memory until its last token
 * was read.
 */
#include "fit_gate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "terminal.h"

#define LEAST_LATER 256u  /* positions that a mean is taken over */
#define LEAST_MEAN  1e-7f /* attention is counted from here */
#define RIDGE       0.01

struct cli_gate_fit {
    struct cli_engine *engine;
    uint32_t n_layers, n_kv, n_embd, group;
    uint32_t n_tokens, first, n_rows, after;
    uint32_t n_pieces;       /* added */
    kept_ridge **ridges;     /* [n_layers] */
    float *hidden;           /* [n_layers][n_tokens][n_embd] of the piece */
    float *received;         /* [n_kv][n_tokens] of a layer */
    float *targets;          /* [n_rows][n_kv] of a layer */
    float *weights, *biases; /* [n_layers][n_kv][n_embd], [n_layers][n_kv] */
    double *correlations;    /* [n_layers]; NaN: not known */
};

static kept_status allocate(struct cli_gate_fit *fit, struct kept_error *err)
{
    size_t heads = (size_t)fit->n_layers * fit->n_kv;
    fit->ridges = calloc(fit->n_layers, sizeof(kept_ridge *));
    fit->hidden = calloc((size_t)fit->n_layers * fit->n_tokens * fit->n_embd, sizeof(float));
    fit->received = calloc((size_t)fit->n_kv * fit->n_tokens, sizeof(float));
    fit->targets = calloc((size_t)fit->n_kv * fit->n_rows, sizeof(float));
    fit->weights = calloc(heads * fit->n_embd, sizeof(float));
    fit->biases = calloc(heads, sizeof(float));
    fit->correlations = calloc(fit->n_layers, sizeof(double));
    if (!fit->ridges || !fit->hidden || !fit->received || !fit->targets || !fit->weights ||
        !fit->biases || !fit->correlations)
        return cli_fail(err, KEPT_E_HOST_MEMORY,
                        "no memory for what %u layers are given for %u "
                        "tokens: give fewer --tokens",
                        fit->n_layers, fit->n_tokens);
    kept_status status = KEPT_OK;
    for (uint32_t l = 0; l < fit->n_layers && status == KEPT_OK; l++) {
        fit->correlations[l] = NAN;
        status = kept_ridge_create(fit->n_embd, fit->n_kv, &fit->ridges[l], err);
    }
    return status;
}

kept_status cli_gate_begin(struct cli_engine *engine, uint32_t n_tokens, uint32_t sinks,
                           uint32_t after, struct cli_gate_fit **out, struct kept_error *err)
{
    const struct kept_model_info *model = kept_model_info(engine->model);
    uint32_t least = CLI_GATE_LEAST_TOKENS;
    *out = NULL;
    if (n_tokens < least || n_tokens <= sinks + after + LEAST_LATER)
        return cli_fail(err, KEPT_E_ARGUMENT, "--tokens %u: with --gate a piece has %u or more",
                        n_tokens, least);
    struct cli_gate_fit *fit = calloc(1, sizeof *fit);
    if (!fit)
        return cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for a gate");
    *fit = (struct cli_gate_fit){.engine = engine,
                                 .n_layers = model->n_layers,
                                 .n_kv = model->n_kv_head,
                                 .n_embd = model->n_embd,
                                 .group = model->n_head / model->n_kv_head,
                                 .n_tokens = n_tokens,
                                 .first = sinks,
                                 .n_rows = n_tokens - sinks - after - LEAST_LATER,
                                 .after = after};
    kept_status status = allocate(fit, err);
    if (status == KEPT_OK)
        *out = fit;
    else
        cli_gate_finish(&fit);
    return status;
}

/* ---- reading ---- */

/* Progress of a chunk, as that of the whole piece. */
struct passed_on {
    kept_progress_fn progress;
    void *user;
    uint64_t before, total;
};

static bool pass_on(void *user, const char *what, uint64_t done, uint64_t total)
{
    const struct passed_on *on = user;
    (void)total;
    return on->progress(on->user, what, on->before + done, on->total);
}

static kept_status take_chunk(struct cli_gate_fit *fit, uint32_t at, uint32_t n,
                              struct kept_error *err)
{
    kept_status status = KEPT_OK;
    for (uint32_t l = 0; l < fit->n_layers && status == KEPT_OK; l++) {
        float *to = fit->hidden + ((size_t)l * fit->n_tokens + at) * fit->n_embd;
        status = kept_session_hidden(fit->engine->session, l, to, n, err);
        if (status == KEPT_E_STATE) /* a sliding window */
            status = KEPT_OK;
    }
    return status;
}

kept_status cli_gate_read(struct cli_gate_fit *fit, const int32_t *tokens,
                          kept_progress_fn progress, void *user, struct kept_error *err)
{
    uint32_t chunk = kept_plan_info(fit->engine->plan)->chunk_tokens;
    kept_status status = KEPT_OK;
    for (uint32_t at = 0; at < fit->n_tokens && status == KEPT_OK; at += chunk) {
        uint32_t n = fit->n_tokens - at < chunk ? fit->n_tokens - at : chunk;
        struct passed_on on = {progress, user, at, fit->n_tokens};
        struct kept_eval_params params = {
            .tokens = tokens + at, .n_tokens = n, .progress = pass_on, .progress_user = &on};
        status = kept_session_eval(fit->engine->session, &params, err);
        if (status == KEPT_OK)
            status = take_chunk(fit, at, n, err);
    }
    return status;
}

/* ---- fitting ---- */

static bool stopped(const struct cli_gate_fit *fit, uint32_t layer)
{
    return !cli_progress((void *)fit->engine->settings, "fitting the gate", layer, fit->n_layers);
}

static kept_status say_stopped(struct kept_error *err)
{
    return cli_fail(err, KEPT_E_CANCELLED, "cancelled while fitting the gate");
}

/* Inputs of the rows that are fitted on. */
static const float *inputs_of(const struct cli_gate_fit *fit, uint32_t layer)
{
    return fit->hidden + ((size_t)layer * fit->n_tokens + fit->first) * fit->n_embd;
}

/* KEPT_E_STATE for layers without a gate. */
static kept_status take_targets(struct cli_gate_fit *fit, uint32_t layer, struct kept_error *err)
{
    kept_status status = kept_session_received(fit->engine->session, layer, fit->received, err);
    if (status != KEPT_OK)
        return status;
    for (uint32_t i = 0; i < fit->n_rows; i++)
        for (uint32_t h = 0; h < fit->n_kv; h++) {
            uint32_t at = fit->first + i, later = fit->n_tokens - 1 - fit->after - at;
            float mean = fit->received[(size_t)h * fit->n_tokens + at] /
                         (float)((uint64_t)later * fit->group);
            fit->targets[(size_t)i * fit->n_kv + h] = logf(mean + LEAST_MEAN);
        }
    return KEPT_OK;
}

static float *weights_of(const struct cli_gate_fit *fit, uint32_t layer)
{
    return fit->weights + (size_t)layer * fit->n_kv * fit->n_embd;
}

static kept_status solve_layer(struct cli_gate_fit *fit, uint32_t layer, struct kept_error *err)
{
    return kept_ridge_solve(fit->ridges[layer], RIDGE, weights_of(fit, layer),
                            fit->biases + (size_t)layer * fit->n_kv, err);
}

static double gate_at(const struct cli_gate_fit *fit, uint32_t layer, uint32_t head, const float *x)
{
    const float *w = weights_of(fit, layer) + (size_t)head * fit->n_embd;
    double sum = fit->biases[(size_t)layer * fit->n_kv + head];
    for (uint32_t i = 0; i < fit->n_embd; i++)
        sum += (double)w[i] * x[i];
    return sum;
}

/* Of what the gate says of the piece with what was received. */
static double head_correlation(const struct cli_gate_fit *fit, uint32_t layer, uint32_t head)
{
    const float *x = inputs_of(fit, layer);
    double n = fit->n_rows, a = 0, b = 0, aa = 0, bb = 0, ab = 0;
    for (uint32_t i = 0; i < fit->n_rows; i++, x += fit->n_embd) {
        double guess = gate_at(fit, layer, head, x);
        double target = fit->targets[(size_t)i * fit->n_kv + head];
        a += guess;
        b += target;
        aa += guess * guess;
        bb += target * target;
        ab += guess * target;
    }
    double variances = (aa - a * a / n) * (bb - b * b / n);
    return variances > 0 ? (ab - a * b / n) / sqrt(variances) : 0;
}

static kept_status predict_layer(struct cli_gate_fit *fit, uint32_t layer, struct kept_error *err)
{
    double sum = 0;
    kept_status status = solve_layer(fit, layer, err);
    for (uint32_t h = 0; h < fit->n_kv && status == KEPT_OK; h++)
        sum += head_correlation(fit, layer, h);
    if (status == KEPT_OK)
        fit->correlations[layer] = sum / fit->n_kv;
    return status;
}

kept_status cli_gate_add(struct cli_gate_fit *fit, bool last, struct kept_error *err)
{
    for (uint32_t l = 0; l < fit->n_layers; l++) {
        if (stopped(fit, l))
            return say_stopped(err);
        kept_status status = take_targets(fit, l, err);
        if (status == KEPT_E_STATE) {
            kept_ridge_destroy(&fit->ridges[l]); /* it stays without a gate */
            continue;
        }
        if (status == KEPT_OK && last && fit->n_pieces > 0)
            status = predict_layer(fit, l, err);
        if (status == KEPT_OK)
            status =
                kept_ridge_add(fit->ridges[l], inputs_of(fit, l), fit->targets, fit->n_rows, err);
        if (status != KEPT_OK)
            return status;
    }
    fit->n_pieces++;
    return KEPT_OK;
}

kept_status cli_gate_solve(struct cli_gate_fit *fit, struct kept_error *err)
{
    kept_status status = KEPT_OK;
    for (uint32_t l = 0; l < fit->n_layers && status == KEPT_OK; l++) {
        if (stopped(fit, l))
            return say_stopped(err);
        if (fit->ridges[l])
            status = solve_layer(fit, l, err);
    }
    return status;
}

const float *cli_gate_weights(const struct cli_gate_fit *fit)
{
    return fit->weights;
}

const float *cli_gate_biases(const struct cli_gate_fit *fit)
{
    return fit->biases;
}

bool cli_gate_correlation(const struct cli_gate_fit *fit, uint32_t layer, double *out)
{
    *out = fit->correlations[layer];
    return isfinite(*out);
}

void cli_gate_finish(struct cli_gate_fit **fit)
{
    if (!*fit)
        return;
    for (uint32_t l = 0; (*fit)->ridges && l < (*fit)->n_layers; l++)
        kept_ridge_destroy(&(*fit)->ridges[l]);
    free((*fit)->ridges);
    free((*fit)->hidden);
    free((*fit)->received);
    free((*fit)->targets);
    free((*fit)->weights);
    free((*fit)->biases);
    free((*fit)->correlations);
    free(*fit);
    *fit = NULL;
}

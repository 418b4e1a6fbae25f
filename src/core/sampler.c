/* core/sampler.c: from logits to a token, on the host.
 *
 * Candidates are sorted by logit (index breaks ties) as far as the filters need them, so equal
 * inputs give equal choices on every machine. Random numbers come from a counter-based generator
 * keyed by (seed, position): a token's draw does not depend on how many draws were made before it.
 * Source of the mixing function: Steele, Lea and Flood 2014, SplitMix64.
 */
#include "kept/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "core/sampler_internal.h"

#define DEFAULT_REPEAT_LAST 64u
#define MAX_REPEAT_LAST     4096u

struct candidate {
    float logit;
    int32_t token;
};

struct kept_sampler {
    struct kept_sampler_params params;
    uint32_t n_vocab;
    struct candidate *candidates; /* [n_vocab] */
    double *weights;              /* [n_vocab] */
    int32_t *history;             /* ring of repeat_last */
    uint32_t n_history;           /* ever accepted */
};

static bool in_range(float value, float low, float high)
{
    return value >= low && value <= high; /* false for NaN */
}

static kept_status check_params(const struct kept_sampler_params *params, struct kept_error *err)
{
    if (!in_range(params->temperature, 0.0f, 100.0f))
        return kept_fail(err, KEPT_E_ARGUMENT, "temperature %g is not within 0 and 100",
                         (double)params->temperature);
    if (!in_range(params->top_p, 0.0f, 1.0f))
        return kept_fail(err, KEPT_E_ARGUMENT, "top-p %g is not within 0 and 1",
                         (double)params->top_p);
    if (!in_range(params->min_p, 0.0f, 1.0f))
        return kept_fail(err, KEPT_E_ARGUMENT, "min-p %g is not within 0 and 1",
                         (double)params->min_p);
    if (!in_range(params->repeat_penalty, 0.0f, 100.0f))
        return kept_fail(err, KEPT_E_ARGUMENT, "repetition penalty %g is not within 0 and 100",
                         (double)params->repeat_penalty);
    if (params->repeat_last > MAX_REPEAT_LAST)
        return kept_fail(err, KEPT_E_ARGUMENT, "a repetition window of %u tokens is over %u",
                         params->repeat_last, MAX_REPEAT_LAST);
    return KEPT_OK;
}

kept_status kept_sampler_create(const struct kept_sampler_params *params, uint32_t n_vocab,
                                kept_sampler **out, struct kept_error *err)
{
    if (out)
        *out = NULL;
    if (!params || !out || n_vocab == 0)
        return kept_fail(err, KEPT_E_ARGUMENT, "a sampler needs parameters and a vocabulary");
    kept_status status = check_params(params, err);
    if (status != KEPT_OK)
        return status;
    kept_sampler *sampler = kept_calloc(1, sizeof *sampler);
    if (!sampler)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a sampler");
    sampler->params = *params;
    sampler->n_vocab = n_vocab;
    if (sampler->params.repeat_last == 0)
        sampler->params.repeat_last = DEFAULT_REPEAT_LAST;
    if (sampler->params.repeat_penalty == 0.0f)
        sampler->params.repeat_penalty = 1.0f;
    sampler->candidates = kept_calloc(n_vocab, sizeof *sampler->candidates);
    sampler->weights = kept_calloc(n_vocab, sizeof *sampler->weights);
    sampler->history = kept_calloc(sampler->params.repeat_last, sizeof *sampler->history);
    if (!sampler->candidates || !sampler->weights || !sampler->history) {
        kept_sampler_destroy(&sampler);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to sample from %u tokens", n_vocab);
    }
    *out = sampler;
    return KEPT_OK;
}

void kept_sampler_destroy(kept_sampler **sampler)
{
    if (!sampler || !*sampler)
        return;
    kept_free((*sampler)->candidates);
    kept_free((*sampler)->weights);
    kept_free((*sampler)->history);
    kept_free(*sampler);
    *sampler = NULL;
}

uint32_t kept_sampler_n_vocab(const kept_sampler *sampler)
{
    return sampler->n_vocab;
}

void kept_sampler_reset(kept_sampler *sampler)
{
    sampler->n_history = 0;
}

void kept_sampler_accept(kept_sampler *sampler, int32_t token)
{
    sampler->history[sampler->n_history % sampler->params.repeat_last] = token;
    sampler->n_history++;
}

bool kept_sampler_is_greedy(const kept_sampler *sampler)
{
    return sampler->params.temperature == 0.0f && sampler->params.repeat_penalty == 1.0f;
}

/* NaN sinks below everything, so that it is never chosen. */
static float usable(float logit)
{
    return isnan(logit) ? -INFINITY : logit;
}

static void penalise(kept_sampler *sampler)
{
    uint32_t last = sampler->params.repeat_last;
    uint32_t n = sampler->n_history < last ? sampler->n_history : last;
    for (uint32_t i = 0; i < n; i++) {
        int32_t token = sampler->history[i];
        bool again = token < 0 || (uint32_t)token >= sampler->n_vocab;
        for (uint32_t j = 0; j < i && !again; j++)
            again = sampler->history[j] == token;
        if (again)
            continue;
        float *logit = &sampler->candidates[token].logit;
        *logit = *logit > 0.0f ? *logit / sampler->params.repeat_penalty
                               : *logit * sampler->params.repeat_penalty;
    }
}

static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : x->token > y->token;
}

static uint64_t mix(uint64_t z)
{
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1). */
static double uniform_at(uint64_t seed, uint32_t position)
{
    return (double)(mix(mix(seed) ^ position) >> 11) * 0x1p-53;
}

/* Moves the candidates that can survive the filters to the front and sorts them; returns how many.
 * A candidate below min-p, or so unlikely that the whole vocabulary of it weighs nothing, never
 * needs sorting. */
static uint32_t sort_likely(kept_sampler *sampler, float best)
{
    const struct kept_sampler_params *params = &sampler->params;
    float least = best - 40.0f * params->temperature;
    uint32_t n = 0;
    for (uint32_t i = 0; i < sampler->n_vocab; i++)
        if (sampler->candidates[i].logit >= least)
            sampler->candidates[n++] = sampler->candidates[i];
    qsort(sampler->candidates, n, sizeof *sampler->candidates, by_logit);
    return params->top_k != 0 && params->top_k < n ? params->top_k : n;
}

static int32_t draw(kept_sampler *sampler, uint32_t n, uint32_t position)
{
    const struct kept_sampler_params *params = &sampler->params;
    double best = sampler->candidates[0].logit, total = 0.0, kept = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        sampler->weights[i] =
            exp(((double)sampler->candidates[i].logit - best) / (double)params->temperature);
        total += sampler->weights[i];
    }
    bool nucleus = params->top_p > 0.0f && params->top_p < 1.0f;
    uint32_t n_kept = 0;
    while (n_kept < n && (n_kept == 0 || sampler->weights[n_kept] >= (double)params->min_p) &&
           (!nucleus || kept < (double)params->top_p * total))
        kept += sampler->weights[n_kept++];
    double at = uniform_at(params->seed, position) * kept;
    for (uint32_t i = 0; i + 1 < n_kept; i++) {
        at -= sampler->weights[i];
        if (at < 0.0)
            return sampler->candidates[i].token;
    }
    return sampler->candidates[n_kept - 1].token;
}

kept_status kept_sampler_choose(kept_sampler *sampler, const float *logits, uint32_t position,
                                int32_t *token, struct kept_error *err)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < sampler->n_vocab; i++)
        sampler->candidates[i] = (struct candidate){usable(logits[i]), (int32_t)i};
    if (sampler->params.repeat_penalty != 1.0f)
        penalise(sampler);
    for (uint32_t i = 1; i < sampler->n_vocab; i++)
        if (sampler->candidates[i].logit > sampler->candidates[best].logit)
            best = i;
    float top = sampler->candidates[best].logit;
    if (top == -INFINITY)
        return kept_fail(err, KEPT_E_ARGUMENT, "no logit at position %u is a number", position);
    if (sampler->params.temperature == 0.0f || isinf(top)) {
        *token = (int32_t)best;
        return KEPT_OK;
    }
    uint32_t n = sort_likely(sampler, top);
    *token = draw(sampler, n, position);
    return KEPT_OK;
}

/* core/sampler.c: from logits to a token, on the host.
 *
 * Candidates are ordered by logit (index breaks ties) through a heap, and only as far as the
 * filters keep them: a vocabulary of 262144 is never sorted. Equal inputs give equal choices.
 * Random numbers come from a counter-based generator keyed by (seed, position): a token's draw does
 * not depend on how many draws were made before it.
 * Source of the mixing function: Steele, Lea and Flood 2014, SplitMix64.
 */
#include "kept/sampler.h"

#include <math.h>
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
    if (!params || !out || n_vocab == 0 || n_vocab > INT32_MAX)
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
    sampler->history = kept_calloc(sampler->params.repeat_last, sizeof *sampler->history);
    if (!sampler->candidates || !sampler->history) {
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

/* Moves the candidates that weigh something to the front; returns how many. A vocabulary of 262144
 * of those left out weighs less than one part in 10^8. */
static uint32_t keep_likely(kept_sampler *sampler, float best)
{
    float least = best - 32.0f * sampler->params.temperature;
    uint32_t n = 0;
    for (uint32_t i = 0; i < sampler->n_vocab; i++)
        if (sampler->candidates[i].logit >= least)
            sampler->candidates[n++] = sampler->candidates[i];
    return n;
}

/* ---- candidates as a heap, the likeliest first ---- */

static bool goes_first(const struct candidate *a, const struct candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->token < b->token;
}

static void sink(struct candidate *heap, uint32_t n, uint32_t i)
{
    struct candidate moving = heap[i];
    for (uint32_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && goes_first(&heap[child + 1], &heap[child]))
            child++;
        if (!goes_first(&heap[child], &moving))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

/* Takes the likeliest off the heap of n and puts it where the heap then ends, at n - 1. */
static void pop(struct candidate *heap, uint32_t n)
{
    struct candidate first = heap[0];
    heap[0] = heap[n - 1];
    sink(heap, n - 1, 0);
    heap[n - 1] = first;
}

static double weight_of(const kept_sampler *sampler, const struct candidate *candidate, double best)
{
    return exp(((double)candidate->logit - best) / (double)sampler->params.temperature);
}

/* Orders candidates by likelihood only as far as the filters keep them: the kept ones are the last
 * n_kept of the n candidates, the likeliest at the very end. */
static uint32_t filter(kept_sampler *sampler, uint32_t n, double best, double *kept)
{
    const struct kept_sampler_params *params = &sampler->params;
    struct candidate *heap = sampler->candidates;
    bool nucleus = params->top_p > 0.0f && params->top_p < 1.0f;
    uint32_t most = params->top_k != 0 && params->top_k < n ? params->top_k : n, n_kept = 0;
    double total = 0.0;
    for (uint32_t i = n / 2; i-- > 0;)
        sink(heap, n, i);
    if (most < n) { /* the nucleus is a share of what top-k leaves */
        for (uint32_t i = 0; i < most; i++) {
            pop(heap, n - i);
            total += weight_of(sampler, &heap[n - i - 1], best);
        }
    } else {
        for (uint32_t i = 0; i < n && nucleus; i++)
            total += weight_of(sampler, &heap[i], best);
    }
    *kept = 0.0;
    while (n_kept < most && (!nucleus || *kept < (double)params->top_p * total)) {
        if (most == n)
            pop(heap, n - n_kept);
        double weight = weight_of(sampler, &heap[n - n_kept - 1], best);
        if (n_kept > 0 && weight < (double)params->min_p)
            break;
        *kept += weight;
        n_kept++;
    }
    return n_kept;
}

/* Draws among candidates by weight, from the last one down. */
static int32_t draw(const kept_sampler *sampler, const struct candidate *candidates, uint32_t n,
                    double best, double at)
{
    for (uint32_t i = n; i-- > 1;) {
        at -= weight_of(sampler, &candidates[i], best);
        if (at < 0.0)
            return candidates[i].token;
    }
    return candidates[0].token;
}

static int32_t sample(kept_sampler *sampler, double best, uint32_t position)
{
    const struct kept_sampler_params *params = &sampler->params;
    const struct candidate *candidates = sampler->candidates;
    uint32_t n = keep_likely(sampler, (float)best), n_kept = n;
    double kept = 0.0;
    if (params->top_k != 0 || params->top_p > 0.0f || params->min_p > 0.0f)
        n_kept = filter(sampler, n, best, &kept);
    else /* no order is needed */
        for (uint32_t i = 0; i < n; i++)
            kept += weight_of(sampler, &candidates[i], best);
    return draw(sampler, candidates + (n - n_kept), n_kept, best,
                uniform_at(params->seed, position) * kept);
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
    *token = sample(sampler, (double)top, position);
    return KEPT_OK;
}

/* kept/sampler.h: from logits to a token. Deterministic: the same parameters, seed, history and
 * logits give the same token. Order: repetition penalty, temperature 0 means the largest logit;
 * else top-k, temperature, top-p, min-p, draw. */
#ifndef KEPT_SAMPLER_H
#define KEPT_SAMPLER_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kept_sampler kept_sampler;

struct kept_sampler_params {
    float temperature; /* 0: greedy */
    uint32_t top_k;    /* 0: all */
    float top_p;       /* 0 or >= 1: all; Holtzman et al. 2020, nucleus sampling */
    float min_p;       /* 0: all; keeps tokens with p >= min_p * p_max */
    float
        /* 0 or 1: none; Keskar et al. 2019: divides positive, multiplies negative logits */
        repeat_penalty;
    uint32_t repeat_last; /* tokens of history the penalty looks at; 0: 64 */
    uint64_t seed;
};

/* KEPT_E_ARGUMENT when a value is negative, NaN or out of range (the message names it). */
KEPT_API kept_status kept_sampler_create(const struct kept_sampler_params *params, uint32_t n_vocab,
                                         kept_sampler **out, struct kept_error *err);
KEPT_API void kept_sampler_destroy(kept_sampler **sampler);
/* Chooses a token from logits [n_vocab] at this position (random numbers are keyed by seed and
 * position). NaN logits are never chosen; KEPT_E_ARGUMENT when all are NaN. */
KEPT_API kept_status kept_sampler_choose(kept_sampler *sampler, const float *logits,
                                         uint32_t position, int32_t *token, struct kept_error *err);
/* Tells the sampler what was added to the context: prompt tokens as well as chosen ones. */
KEPT_API void kept_sampler_accept(kept_sampler *sampler, int32_t token);
KEPT_API void kept_sampler_reset(kept_sampler *sampler);
KEPT_API bool kept_sampler_is_greedy(const kept_sampler *sampler); /* no penalty, temperature 0 */

#ifdef __cplusplus
}
#endif
#endif

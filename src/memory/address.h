/* memory/address.h: where a fact is: addresses of hidden states, and the least-squares weights of
 * the facts nearest to a query.
 *
 * Larimar (Das et al. 2024, arXiv 2403.11901) reads by projecting a query on the rows of a memory.
 * With rows that are the facts' own addresses E the dual form needs no training: w = (E E^T +
 * lambda I)^-1 E q. Unlike a cosine, w_i is small for a fact that others explain as well, which is
 * what tells a query about a stored fact from one that merely sounds like it. All sums in double
 * precision, facts in the order given: equal facts and query give equal bits.
 *
 * Ordinary sentences share a direction. Addresses of plain text (backgrounds) are part of every
 * system: what a query has in common with any text is theirs, not the facts'. With one fact stored
 * this takes false accepts from 7 in 100 to 1 in 1 000 (docs/measuring.md).
 */
#ifndef KEPT_MEMORY_ADDRESS_H
#define KEPT_MEMORY_ADDRESS_H

#include <stdint.h>

#include "kept/common.h"

#define KEPT_NEAREST       64u /* facts that the weights are solved for */
#define KEPT_BACKGROUNDS   40u /* addresses of ordinary text among them */
#define KEPT_ADDRESS_RIDGE 0.1

/* The address of n hidden states [n][k]: each element standardised by stats [2][k] (mean, 1 /
 * standard deviation), the mean over the states, of length 1. False when it is no direction. */
bool kept_address_pool(const float *hidden, uint32_t n, uint32_t k, const float *stats, float *out);

/* What stats are made of: sums over any number of states. sums [2][k], zero at first. */
void kept_address_add(const float *hidden, uint32_t n, uint32_t k, double *sums);
/* stats [2][k] of n states; an element that never changes gets 0 as 1 / deviation. */
void kept_address_stats(const double *sums, uint64_t n, uint32_t k, float *stats);

struct kept_address_match {
    float cosines[KEPT_NEAREST], weights[KEPT_NEAREST];
    float residual; /* |q - E^T w| / |q|, w of the facts alone */
};
/* How a query [k] matches n <= KEPT_NEAREST addresses, each [k], beside the backgrounds
 * [KEPT_BACKGROUNDS][k]. KEPT_E_HOST_MEMORY, KEPT_E_ARGUMENT where something is no number. */
kept_status kept_address_weigh(const float *const *addresses, uint32_t n, const float *backgrounds,
                               const float *query, uint32_t k, struct kept_address_match *out,
                               struct kept_error *err);

/* What is added to the scores of a fact's slots: more for the best one than a token of the prompt
 * has, less for others the further their weight is below the best (docs/measuring.md). */
float kept_address_bias(float weight, float best_weight);

#endif

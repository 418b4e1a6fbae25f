/* eval_score.h: how well logits predict what came next. */
#ifndef KEPT_TOOL_EVAL_SCORE_H
#define KEPT_TOOL_EVAL_SCORE_H

#include <stdbool.h>
#include <stdint.h>

struct cli_score {
    double sum, sum_squares; /* of -log p */
    uint64_t n;
};

/* -log of the probability that logits [n_vocab] give to the token. */
double cli_nll(const float *logits, uint32_t n_vocab, int32_t token);

/* Two distributions over what comes next. */
struct cli_difference {
    double kl; /* of the reference to the test, in nats */
    double nll_full, nll;
    bool agree; /* on the likeliest token */
};
struct cli_difference cli_compare(const float *full, const float *test, uint32_t n_vocab,
                                  int32_t token);

void cli_score_add(struct cli_score *score, double nll);
double cli_score_mean(const struct cli_score *score);
double cli_perplexity(const struct cli_score *score);
/* Of the perplexity; 0 with fewer than two tokens. */
double cli_standard_error(const struct cli_score *score);

#endif

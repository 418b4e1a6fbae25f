/* meter.h: predictions of a tested setting against those of a reference, token by token.
 *
 * The reference runs first and leaves its logits in a temporary file without a name; the tested run
 * reads them in the same order. */
#ifndef KEPT_TOOL_METER_H
#define KEPT_TOOL_METER_H

#include <stdio.h>

#include "engine.h"
#include "eval_score.h"

#define CLI_LOGITS_ROWS 32u /* handed over at once */

/* Scores against the reference (of the reference: against itself). */
struct cli_part {
    struct cli_score test, full;
    uint64_t n_agree;
    float *kl; /* [test.n]; ascending once sorted */
    size_t cap;
    double kl_sum;
};
void cli_part_sort(struct cli_part *part);
double cli_part_kl(const struct cli_part *part);
/* The KL that a share of the tokens does not pass. Of a sorted part. */
double cli_part_quantile(const struct cli_part *part, double share);
double cli_part_agreement(const struct cli_part *part);
void cli_part_finish(struct cli_part *part);

struct cli_meter {
    uint32_t n_vocab;
    bool is_reference;
    FILE *logits;          /* the reference's */
    struct cli_part *part; /* where scores go */
    const int32_t *tokens; /* of positions `base` and later */
    uint32_t base;
    float *rows; /* one of the reference: [n_vocab] */
    kept_status status;
};

/* A file that nobody sees and that goes away with the program: in TMPDIR, or /tmp. */
kept_status cli_logits_create(FILE **out, struct kept_error *err);

/* From the file's beginning. */
kept_status cli_meter_begin(struct cli_meter *meter, const struct cli_engine *engine, FILE *logits,
                            bool is_reference, struct kept_error *err);
/* A kept_logits_fn; its user is the meter. What goes wrong is said by cli_meter_check. */
void cli_meter_rows(void *meter, uint32_t first, uint32_t n_rows, const float *logits);
kept_status cli_meter_check(struct cli_meter *meter, struct kept_error *err);
void cli_meter_finish(struct cli_meter *meter);

#endif

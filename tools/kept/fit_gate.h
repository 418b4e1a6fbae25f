/* fit_gate.h: what kept fit --gate makes: a linear gate per KV head. */
#ifndef KEPT_TOOL_FIT_GATE_H
#define KEPT_TOOL_FIT_GATE_H

#include "engine.h"

struct cli_gate_fit;

/* How many tokens a piece must have. */
#define CLI_GATE_LEAST_TOKENS 512u

/* For pieces of n_tokens: of them neither the first `sinks` nor those with too few tokens left
 * after the next `after` are fitted on. KEPT_E_ARGUMENT, KEPT_E_HOST_MEMORY. */
kept_status cli_gate_begin(struct cli_engine *engine, uint32_t n_tokens, uint32_t sinks,
                           uint32_t after, struct cli_gate_fit **out, struct kept_error *err);
/* The first reading of a piece, from position 0, keeping what the layers are given. */
kept_status cli_gate_read(struct cli_gate_fit *fit, const int32_t *tokens,
                          kept_progress_fn progress, void *user, struct kept_error *err);
/* Adds the piece that was read; the last of several is first predicted by those before it. */
kept_status cli_gate_add(struct cli_gate_fit *fit, bool last, struct kept_error *err);
kept_status cli_gate_solve(struct cli_gate_fit *fit, struct kept_error *err);

/* [n_layers][n_kv][n_embd] and [n_layers][n_kv], after solving. */
const float *cli_gate_weights(const struct cli_gate_fit *fit);
const float *cli_gate_biases(const struct cli_gate_fit *fit);
/* How well the last piece was predicted: the mean of its heads' correlations. false: not known. */
bool cli_gate_correlation(const struct cli_gate_fit *fit, uint32_t layer, double *out);

void cli_gate_finish(struct cli_gate_fit **fit);

#endif

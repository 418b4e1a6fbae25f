/* eval_kl.h: kept eval kl and copy, and what the sweep and fit share with them. */
#ifndef KEPT_TOOL_EVAL_KL_H
#define KEPT_TOOL_EVAL_KL_H

#include "engine.h"

/* Of an engine with a model. */
kept_status cli_eval_kl(struct cli_engine *engine, bool copy, struct kept_error *err);
/* Everything kept, f16. */
struct kept_plan_params cli_reference_params(const struct cli_engine *engine);
/* Bytes of keys and values when everything is kept as f16. */
kept_status cli_kv_bytes_full(struct cli_engine *engine, uint32_t context, uint64_t *out,
                              struct kept_error *err);
/* --context and --places, or their defaults. */
uint32_t cli_kl_context(const struct cli_engine *engine);
uint32_t cli_kl_places(const struct cli_engine *engine);

#endif

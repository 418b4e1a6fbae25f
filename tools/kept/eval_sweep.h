/* eval_sweep.h: kept eval kl --sweep: quality against bytes, over budgets and methods. */
#ifndef KEPT_TOOL_EVAL_SWEEP_H
#define KEPT_TOOL_EVAL_SWEEP_H

#include <jansson.h>

#include "engine.h"

kept_status cli_eval_sweep(struct cli_engine *engine, struct kept_error *err);

/* The sweep's JSON as one page with curves (sweep_page.c). */
kept_status cli_sweep_page(const json_t *sweep, const char *path, struct kept_error *err);

#endif

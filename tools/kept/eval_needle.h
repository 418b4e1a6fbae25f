/* eval_needle.h: kept eval needle: numbers hidden in a long text, asked for at its end. */
#ifndef KEPT_TOOL_EVAL_NEEDLE_H
#define KEPT_TOOL_EVAL_NEEDLE_H

#include "engine.h"

kept_status cli_eval_needle(struct cli_engine *engine, struct kept_error *err);

#endif

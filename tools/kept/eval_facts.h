/* eval_facts.h: kept eval facts. */
#ifndef KEPT_TOOL_EVAL_FACTS_H
#define KEPT_TOOL_EVAL_FACTS_H

#include "engine.h"

/* Asks what the store of --facts knows, question by question, and prints the result. The engine has
 * its model, nothing more. */
kept_status cli_eval_facts(struct cli_engine *engine, struct kept_error *err);

#endif

/* facts_search.h: kept facts search: how facts rank for a text, and which of them would be read. */
#ifndef KEPT_TOOL_FACTS_SEARCH_H
#define KEPT_TOOL_FACTS_SEARCH_H

#include "engine.h"

/* The engine has a session and a store; prints a table, or JSON. */
kept_status cli_facts_search(struct cli_engine *engine, const char *query, struct kept_error *err);

#endif

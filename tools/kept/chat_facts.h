/* chat_facts.h: /remember, /forget and /facts of kept chat. */
#ifndef KEPT_TOOL_CHAT_FACTS_H
#define KEPT_TOOL_CHAT_FACTS_H

#include "engine.h"

/* "[#TAG] TEXT": writes a fact; what had the tag is superseded. */
kept_status cli_chat_remember(struct cli_engine *engine, const char *text, struct kept_error *err);
/* "#TAG", an id, or the whole text of a fact. */
kept_status cli_chat_forget(struct cli_engine *engine, const char *text, struct kept_error *err);
kept_status cli_chat_facts(struct cli_engine *engine, struct kept_error *err);

#endif

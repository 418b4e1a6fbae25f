/* session_io.h: sessions in files. */
#ifndef KEPT_TOOL_SESSION_IO_H
#define KEPT_TOOL_SESSION_IO_H

#include "engine.h"

/* Whether --session names a file that is there. */
bool cli_session_exists(const struct cli_settings *settings);
/* Replaces the session's state and `tokens` by the file's. */
kept_status cli_session_load(struct cli_engine *engine, const char *path, struct cli_tokens *tokens,
                             struct kept_error *err);
/* Evaluates what of `tokens` is not in the session yet (the last token of an answer) as far as
 * there is room, then saves. */
kept_status cli_session_save(struct cli_engine *engine, const char *path,
                             const struct cli_tokens *tokens, struct kept_error *err);

#endif

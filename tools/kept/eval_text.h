/* eval_text.h: the text that eval and fit read: tokens of a file, or ids. */
#ifndef KEPT_TOOL_EVAL_TEXT_H
#define KEPT_TOOL_EVAL_TEXT_H

#include "engine.h"

/* Tokens of a file's text, with BOS where the model adds one. */
kept_status cli_text_tokens(const struct cli_engine *engine, const char *path,
                            struct cli_tokens *out, struct kept_error *err);
/* Those of -f, or the ids of --ids. KEPT_E_ARGUMENT when neither is given. */
kept_status cli_eval_tokens(const struct cli_engine *engine, struct cli_tokens *out,
                            struct kept_error *err);
/* A run of tokens as the model begins one: a copy, its first token replaced by BOS where the model
 * adds one. Replaces what `out` had. */
kept_status cli_begin_tokens(const struct cli_engine *engine, const int32_t *tokens, size_t n,
                             struct cli_tokens *out, struct kept_error *err);

#endif

/* conversation.h: texts to the tokens that go into a session.
 *
 * A session that has begun is never rendered again: the next turn's text is what the template
 * writes after an assistant's message, found by rendering a stand-in conversation. So what is
 * in the session stays as it is, whatever the tokenizer would make of the answer's text, and a
 * session read from a file goes on without its messages.
 */
#ifndef KEPT_TOOL_CONVERSATION_H
#define KEPT_TOOL_CONVERSATION_H

#include "engine.h"

/* Adds the tokens of a prompt to `tokens`: with the chat template when the model has one (and
 * not --raw), as the first turn when tokens is empty, else as the next. KEPT_E_PROMPT: empty
 * or not UTF-8. */
kept_status cli_add_turn(const struct cli_engine *engine, const char *system,
                         const struct cli_buffer *text, struct cli_tokens *tokens,
                         struct kept_error *err);

/* Whether turns go through a template. */
bool cli_uses_template(const struct cli_engine *engine);

/* Prompt and answer must fit: KEPT_E_PROMPT with the numbers when they do not. */
kept_status cli_check_room(const struct cli_engine *engine, size_t n_before, size_t n_tokens,
                           struct kept_error *err);

#endif

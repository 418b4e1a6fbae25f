/* text.h: growing buffers of bytes and of tokens, and where prompts come from. */
#ifndef KEPT_TOOL_TEXT_H
#define KEPT_TOOL_TEXT_H

#include <stddef.h>

#include "kept/common.h"

#include "settings.h"

/* Zero-initialised is empty; bytes is NUL-terminated once something was added. */
struct cli_buffer {
    char *bytes;
    size_t n, cap;
};

struct cli_tokens {
    int32_t *ids;
    size_t n, cap;
};

/* false: no memory, nothing changed. */
bool cli_buffer_add(struct cli_buffer *buffer, const char *bytes, size_t n);
void cli_buffer_finish(struct cli_buffer *buffer);
bool cli_tokens_add(struct cli_tokens *tokens, const int32_t *ids, size_t n);
void cli_tokens_finish(struct cli_tokens *tokens);

/* The whole file; "-" is standard input. KEPT_E_IO, KEPT_E_HOST_MEMORY. */
kept_status cli_read_file(const char *path, struct cli_buffer *out, struct kept_error *err);

/* The text of -p, of -f, or of standard input when it is not a terminal. KEPT_E_ARGUMENT when
 * none is given, or two are. */
kept_status cli_read_prompt(const struct cli_settings *settings, struct cli_buffer *out,
                            struct kept_error *err);

/* Whole numbers from `low` to INT32_MAX separated by spaces, commas, brackets or line ends.
 * KEPT_E_PROMPT. */
kept_status cli_parse_ids(const struct cli_buffer *text, struct cli_tokens *out,
                          struct kept_error *err);

#endif

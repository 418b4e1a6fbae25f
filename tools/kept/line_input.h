/* line_input.h: lines from a person, with editing and history, or from a pipe. */
#ifndef KEPT_TOOL_LINE_INPUT_H
#define KEPT_TOOL_LINE_INPUT_H

#include <stdbool.h>
#include <stddef.h>

enum cli_line_result { CLI_LINE, CLI_LINE_END, CLI_LINE_INTERRUPTED };

struct cli_lines;

/* NULL: no memory. `prompt` is shown where standard input and output are a terminal. */
struct cli_lines *cli_lines_create(const char *prompt);
void cli_lines_destroy(struct cli_lines **lines);
bool cli_lines_interactive(const struct cli_lines *lines);
/* The next line without its end, valid until the next call. INTERRUPTED: Ctrl-C instead of a
 * line. */
enum cli_line_result cli_lines_next(struct cli_lines *lines, const char **line);

#endif

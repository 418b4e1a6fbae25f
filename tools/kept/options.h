/* options.h: reads a command line by one table of options, and prints that table as help. */
#ifndef KEPT_TOOL_OPTIONS_H
#define KEPT_TOOL_OPTIONS_H

#include <stddef.h>
#include <stdio.h>

#include "kept/common.h"

#include "settings.h"

/* One bit per command, so that an option can say where it belongs. */
enum cli_command_bit {
    CLI_RUN = 1 << 0,
    CLI_CHAT = 1 << 1,
    CLI_PLAN = 1 << 2,
    CLI_DEVICES = 1 << 3,
    CLI_INSPECT = 1 << 4,
    CLI_TOKENIZE = 1 << 5,
    CLI_EVAL = 1 << 6,
    CLI_SELFTEST = 1 << 7,
    CLI_FIT = 1 << 8,
    CLI_FACTS = 1 << 9,
    CLI_ALL = (1 << 10) - 1
};

/* Sets defaults, then reads argv[0 … argc-1] (what follows the command's name).
 * KEPT_E_ARGUMENT: one sentence that names the option and the value. Strings stay argv's. */
kept_status cli_options_parse(struct cli_settings *settings, uint32_t command_bit, int argc,
                              char **argv, struct kept_error *err);

/* N (slots, above 0) or P% (above 0, at most 100) at the beginning of the text: how many characters
 * it has, or 0. */
size_t cli_budget_read(const char *text, struct cli_budget *out);

/* The options of these commands, as lines of help. */
void cli_options_print(FILE *to, uint32_t command_bit);

/* The word of the list (ending with NULL) that was probably meant, or NULL. */
const char *cli_nearest(const char *word, const char *const *list);

#endif

/* fail.h: errors of the program itself, and what any error means to the caller of the program. */
#ifndef KEPT_TOOL_FAIL_H
#define KEPT_TOOL_FAIL_H

#include "kept/common.h"

#include "settings.h"

/* Exit codes are part of the program's contract. */
enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2, /* also an empty, invalid or too long prompt */
    CLI_BAD_FILE = 3,
    CLI_NO_ROOM = 4,
    CLI_NO_DEVICE = 5, /* also a lost device */
    CLI_CANCELLED = 130
};

/* Writes the sentence and returns the status. */
kept_status cli_fail(struct kept_error *err, kept_status status, const char *fmt, ...)
    KEPT_PRINTF(3, 4);

enum cli_exit cli_exit_of(kept_status status);

/* Says it on standard error, or as {"error": …} on standard output with --json; returns the
 * exit code. */
enum cli_exit cli_report(const struct cli_settings *settings, const struct kept_error *err);

#endif

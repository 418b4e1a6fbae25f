/* fail.c: errors to sentences, JSON and exit codes. */
#include "fail.h"

#include <stdarg.h>
#include <stdio.h>

#include "json_out.h"
#include "terminal.h"

kept_status cli_fail(struct kept_error *err, kept_status status, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    err->status = status;
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    return status;
}

enum cli_exit cli_exit_of(kept_status status)
{
    switch (status) {
    case KEPT_OK:
        return CLI_OK;
    case KEPT_E_ARGUMENT:
    case KEPT_E_PROMPT:
        return CLI_USAGE;
    case KEPT_E_IO:
    case KEPT_E_FORMAT:
    case KEPT_E_UNSUPPORTED:
    case KEPT_E_MISMATCH:
        return CLI_BAD_FILE;
    case KEPT_E_BUDGET:
    case KEPT_E_DEVICE_MEMORY:
        return CLI_NO_ROOM;
    case KEPT_E_NO_DEVICE:
    case KEPT_E_DEVICE_LOST:
        return CLI_NO_DEVICE;
    case KEPT_E_CANCELLED:
        return CLI_CANCELLED;
    default:
        return CLI_FAILED;
    }
}

enum cli_exit cli_report(const struct cli_settings *settings, const struct kept_error *err)
{
    cli_progress_end();
    if (settings->json)
        cli_json_print(json_pack("{s:{s:s, s:o}}", "error", "code", kept_status_name(err->status),
                                 "message", cli_json_text(err->message, SIZE_MAX)),
                       false);
    else
        fprintf(stderr, "kept: %s\n", err->message);
    return cli_exit_of(err->status);
}

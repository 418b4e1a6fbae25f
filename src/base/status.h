/* base/status.h: filling a kept_error, and writing to a kept_log. */
#ifndef KEPT_BASE_STATUS_H
#define KEPT_BASE_STATUS_H

#include <stdarg.h>

#include "kept/common.h"
#include "kept/log.h"

/* Writes the status and the formatted sentence into err (NULL: nothing) and returns the status. */
kept_status kept_fail(struct kept_error *err, kept_status status, const char *fmt, ...)
    KEPT_PRINTF(3, 4);

kept_status kept_vfail(struct kept_error *err, kept_status status, const char *fmt, va_list args);

/* Puts "context: " before the message of an error that is passed on; returns status. */
kept_status kept_fail_in(struct kept_error *err, kept_status status, const char *fmt, ...)
    KEPT_PRINTF(3, 4);

/* Formats and hands over a message when log is not NULL and its level asks for it. */
void kept_logf(const struct kept_log *log, enum kept_log_level level, const char *fmt, ...)
    KEPT_PRINTF(3, 4);

#endif

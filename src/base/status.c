/* base/status.c: status names, filling errors, writing to the log.
 *
 * Messages carry names out of files and texts out of drivers. Control bytes and invalid
 * UTF-8 in them become '?': a hostile name can neither steer a terminal nor spoil JSON.
 */
#include "base/status.h"

#include <stdarg.h>
#include <string.h>

#include "base/str.h"

#define STRINGIFY(x)          #x
#define VERSION_TEXT(a, b, c) STRINGIFY(a) "." STRINGIFY(b) "." STRINGIFY(c)

const char *kept_version(void)
{
    return VERSION_TEXT(KEPT_VERSION_MAJOR, KEPT_VERSION_MINOR, KEPT_VERSION_PATCH);
}

const char *kept_status_name(kept_status status)
{
    switch (status) {
#define X(name, value, sentence) \
    case KEPT_##name:            \
        return "KEPT_" #name;
        KEPT_STATUS_LIST(X)
#undef X
    }
    return "KEPT_E_UNKNOWN";
}

const char *kept_status_text(kept_status status)
{
    switch (status) {
#define X(name, value, sentence) \
    case KEPT_##name:            \
        return sentence;
        KEPT_STATUS_LIST(X)
#undef X
    }
    return "an unknown status code";
}

/* Bytes in the well-formed UTF-8 sequence at text, 0 when it is none; a NUL ends any. */
static size_t sequence_bytes(const unsigned char *text)
{
    unsigned char c = text[0], next = text[1];
    size_t n = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : 4;
    if ((c >= 0x80 && c < 0xC2) || c > 0xF4)
        return 0;
    if ((c == 0xE0 && next < 0xA0) || (c == 0xED && next > 0x9F) || (c == 0xF0 && next < 0x90) ||
        (c == 0xF4 && next > 0x8F))
        return 0; /* longer than needed, a surrogate, past the last code point */
    for (size_t i = 1; i < n; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

/* Replaces control bytes and what is not UTF-8, a sequence cut at the end included. */
static void clean(char *text)
{
    unsigned char *at = (unsigned char *)text;
    while (*at != 0) {
        size_t n = sequence_bytes(at);
        if (n == 0 || *at < 0x20 || *at == 0x7F) {
            *at = '?';
            n = 1;
        }
        at += n;
    }
}

kept_status kept_fail(struct kept_error *err, kept_status status, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    kept_vfail(err, status, fmt, args);
    va_end(args);
    return status;
}

kept_status kept_vfail(struct kept_error *err, kept_status status, const char *fmt, va_list args)
{
    if (err == NULL)
        return status;
    /* Formatted aside, because an argument may point into the message being replaced. */
    char text[sizeof err->message];
    kept_vsnprintf(text, sizeof text, fmt, args);
    clean(text);
    err->status = status;
    memcpy(err->message, text, sizeof text);
    return status;
}

kept_status kept_fail_in(struct kept_error *err, kept_status status, const char *fmt, ...)
{
    if (err == NULL)
        return status;
    char text[sizeof err->message];
    va_list args;
    va_start(args, fmt);
    size_t n = kept_vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    kept_snprintf(text + n, sizeof text - n, ": %s", err->message);
    clean(text);
    err->status = status;
    memcpy(err->message, text, sizeof text);
    return status;
}

void kept_logf(const struct kept_log *log, enum kept_log_level level, const char *fmt, ...)
{
    if (log == NULL || log->write == NULL)
        return;
    if (level > (log->level != 0 ? log->level : KEPT_LOG_WARN))
        return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    kept_vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    clean(text);
    log->write(log->user, level, text);
}

/* base/status.c: status names, filling errors, writing to the log.
 *
 * Messages carry names out of files and texts out of drivers. Control bytes in them become '?' so
 * that a hostile name
 * cannot steer a terminal, and a message that is cut is cut between characters.
 */
#include "base/status.h"

#include <stdarg.h>
#include <string.h>

#include "base/str.h"

#define STRINGIFY(x) #x
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

/* Replaces control bytes, and when the text filled its buffer drops a UTF-8 sequence cut at its
 * end. */
static void clean(char *text, size_t n_bytes, size_t cap_bytes)
{
    if (n_bytes + 1 == cap_bytes) {
        size_t lead = n_bytes;
        while (lead > 0 && n_bytes - lead < 3 && ((unsigned char)text[lead - 1] & 0xC0) == 0x80)
            lead--;
        if (lead > 0) {
            unsigned char c = (unsigned char)text[lead - 1];
            size_t want = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
            if (n_bytes - (lead - 1) < want)
                text[lead - 1] = '\0';
        }
    }
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F)
            *c = '?';
}

kept_status kept_fail(struct kept_error *err, kept_status status, const char *fmt, ...)
{
    if (err == NULL)
        return status;
    /* Formatted aside, because an argument may point into the message being replaced. */
    char text[sizeof err->message];
    va_list args;
    va_start(args, fmt);
    size_t n = kept_vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    clean(text, n, sizeof text);
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
    n += kept_snprintf(text + n, sizeof text - n, ": %s", err->message);
    clean(text, n, sizeof text);
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
    size_t n = kept_vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    clean(text, n, sizeof text);
    log->write(log->user, level, text);
}

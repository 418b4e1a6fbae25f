/* kept/log.h: where the library's messages go. NULL is valid everywhere and silent. */
#ifndef KEPT_LOG_H
#define KEPT_LOG_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kept_log_level {
    KEPT_LOG_ERROR = 1, /* something failed; the same sentence is in the kept_error */
    KEPT_LOG_WARN,      /* something a user should know: a bad cache file, a doubtful driver */
    KEPT_LOG_INFO,      /* choices and their reasons */
    KEPT_LOG_DEBUG      /* for developers */
};

/* The callback may be called from any thread that calls the library; `text` has no newline and is
 * valid during the call only. The struct is copied where it is given. */
struct kept_log {
    void (*write)(void *user, enum kept_log_level level, const char *text);
    void *user;
    enum kept_log_level level; /* messages above it are not formatted; 0 means KEPT_LOG_WARN */
};

/* Reports progress of something that may take over a second: `done` of `total` (0 when unknown) in
 * `what`'s unit. Returning false asks to cancel; the call under way then returns KEPT_E_CANCELLED.
 * */
typedef bool (*kept_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

#ifdef __cplusplus
}
#endif
#endif

/* kept/common.h: status codes, errors, versions and the conventions every other header relies on.
 *
 * Conventions of this library:
 * - Functions that can fail return a kept_status and take a `struct kept_error *` last; it may be
 * NULL. On failure it
 *   holds one sentence that names the object and the numbers. It is written only on failure.
 * - Results come through out-parameters, which are written only on success; constructors set the
 * out-pointer to NULL on
 *   failure. Destroy functions take the address of the pointer, accept NULL and null it.
 * - Parameter structs are zero-initialised by the caller; zero means the default. They need to live
 * only until the
 *   call returns, strings in them included.
 * - Sizes carry units in their names (_bytes, _tokens, _ns). Strings are UTF-8 and NUL-terminated
 * unless a length is
 *   given beside them.
 * - The library never prints, exits or aborts; it reports through return values and the log
 * callback (kept/log.h).
 */
#ifndef KEPT_COMMON_H
#define KEPT_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define KEPT_API __declspec(dllexport)
#elif defined(__GNUC__)
#define KEPT_API __attribute__((visibility("default")))
#else
#define KEPT_API
#endif

/* Marks what may change between any two versions. */
#define KEPT_API_EXPERIMENTAL KEPT_API

#if defined(__MINGW32__)
#define KEPT_PRINTF(fmt_at, args_at) __attribute__((format(gnu_printf, fmt_at, args_at)))
#elif defined(__GNUC__)
#define KEPT_PRINTF(fmt_at, args_at) __attribute__((format(printf, fmt_at, args_at)))
#else
#define KEPT_PRINTF(fmt_at, args_at)
#endif

#define KEPT_VERSION_MAJOR 0
#define KEPT_VERSION_MINOR 1
#define KEPT_VERSION_PATCH 0

/* X(name, value, sentence): the only list of status codes. */
#define KEPT_STATUS_LIST(X)                                                               \
    X(OK, 0, "done")                                                                      \
    X(E_ARGUMENT, -1, "a caller's argument is out of range")                              \
    X(E_HOST_MEMORY, -2, "host memory ran out")                                           \
    X(E_DEVICE_MEMORY, -3, "device memory ran out")                                       \
    X(E_IO, -4, "a file could not be read or written")                                    \
    X(E_FORMAT, -5, "a file is damaged or not of the expected format")                    \
    X(E_UNSUPPORTED, -6, "the file or device is valid but not supported")                 \
    X(E_BUDGET, -7, "the plan does not fit the budget")                                   \
    X(E_NO_DEVICE, -8, "there is no usable device of that name")                          \
    X(E_DEVICE_LOST, -9, "the device was lost")                                           \
    X(E_DRIVER, -10, "a driver call failed")                                              \
    X(E_CANCELLED, -11, "cancelled by the caller")                                        \
    X(E_CONTEXT_FULL, -12, "the planned context is full")                                 \
    X(E_PROMPT, -13, "the prompt is empty, invalid or too long")                          \
    X(E_STATE, -14, "the call is not allowed in this state")                              \
    X(E_TIMEOUT, -15, "the time given ran out")                                           \
    X(E_MISMATCH, -16, "two things that belong together do not match")                    \
    X(E_CHECK, -17, "a self-test found a wrong result")                                   \
    X(E_INTERNAL, -18, "an internal invariant does not hold")

typedef enum kept_status {
#define X(name, value, sentence) KEPT_##name = (value),
    KEPT_STATUS_LIST(X)
#undef X
} kept_status;

/* What went wrong, in one sentence with the object and the numbers. */
struct kept_error {
    kept_status status;
    char message[504];
};

/* "KEPT_E_FORMAT" and the general sentence of a code; never NULL. Thread-safety: any thread. */
KEPT_API const char *kept_status_name(kept_status status);
KEPT_API const char *kept_status_text(kept_status status);

/* "0.1.0" of the library that is linked. */
KEPT_API const char *kept_version(void);

#ifdef __cplusplus
}
#endif
#endif

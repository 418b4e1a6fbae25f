/* tune/check_run.h: executing one case on a device, shared by the comparison and the benchmark.
 * Private to tune. */
#ifndef KEPT_TUNE_CHECK_RUN_H
#define KEPT_TUNE_CHECK_RUN_H

#include "tune/check.h"
#include "tune/check_case.h"

/* All bindings of a case lie in one buffer, each between guards. */
struct check_runner {
    struct kept_device *device;
    struct kept_buf *buf;
    uint8_t *image;     /* host copy of the buffer */
    uint64_t cap_bytes; /* of both */
    uint64_t n_bytes;   /* used by the case */
    struct kept_bind binds[KEPT_MAX_BINDS];
};

/* Lays the case out and writes it to the device. */
kept_status kept_check_upload(struct check_runner *r, struct check_case *c, struct kept_error *err);
/* Records the call n_calls times, submits and waits; *ns (NULL allowed) is the time of submission
 * and wait. */
kept_status kept_check_execute(struct check_runner *r, const struct check_case *c,
                               struct kept_kernel *kernel, uint32_t n_calls, double *ns,
                               struct kept_error *err);
void kept_check_runner_finish(struct check_runner *r);

/* "WG 64 ORDER 0"; and whether the row and format are asked for. */
void kept_check_keys_text(const struct check_case *c, char *to, size_t cap_bytes);
bool kept_check_wanted(const struct kept_check_params *params, const struct kept_kernel_row *row,
                       enum kept_format format);
/* Default keys, then what the tuning tables give this device: what the product runs. */
void kept_check_tuned_keys(struct check_case *c, const struct kept_device *device);

#endif

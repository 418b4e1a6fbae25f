/* kernel/call.h: one planned kernel call: which kernel, with which keys, on which regions, with
 * which parameters.
 *
 * core/ and memory/ emit calls against regions (numbers handed out by the plan) before anything is
 * allocated; commit resolves regions to buffers and records the calls on a backend.
 */
#ifndef KEPT_KERNEL_CALL_H
#define KEPT_KERNEL_CALL_H

#include <stdint.h>

#include "kernel/registry.h"

struct kept_arg {
    uint32_t region;      /* index in the plan */
    uint64_t offset_bytes; /* inside the region; a multiple of 256 */
    uint64_t n_bytes;     /* what the call may touch from there */
};

struct kept_call {
    enum kept_kernel_id id;
    enum kept_format format;            /* ignored by kernels without a format axis */
    uint32_t keys[KEPT_MAX_KEYS];
    struct kept_arg args[KEPT_MAX_BINDS];
    uint32_t grid[3];                   /* groups */
    uint32_t params[KEPT_MAX_PARAM_BYTES / 4];
};

#endif

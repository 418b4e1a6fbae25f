/* backend/record.c: the wrappers of kernels and recordings.
 *
 * A call is checked completely before it is recorded: bindings inside their buffers and the
 * device's limits, the grid, and the kernel's contract (kernel/contract.h). Then its byte ranges go
 * through the hazard list, and the backend is asked for a barrier only where two calls conflict.
 */
#include "backend/backend.h"

#include <inttypes.h>

#include "backend/hazards.h"
#include "backend/wrap.h"
#include "base/alloc.h"
#include "base/status.h"
#include "kernel/contract.h"

/* ---- kernels ---- */

static kept_status create_kernel(struct kept_device *device, enum kept_kernel_id id,
                                 enum kept_format format, const uint32_t *keys,
                                 struct kept_kernel **out, struct kept_error *err)
{
    kept_status status = wrap_can_create(device, "a kernel", err);
    if (status != KEPT_OK)
        return status;
    if ((unsigned)id >= KEPT_KERNEL_COUNT)
        return kept_fail(err, KEPT_E_ARGUMENT, "there is no kernel %d", (int)id);
    const struct kept_kernel_row *row = kept_kernel_row(id);
    if (!row->has_formats)
        format = (enum kept_format)0;
    if ((unsigned)format >= KEPT_FORMAT_COUNT)
        return kept_fail(err, KEPT_E_ARGUMENT, "kernel %s: there is no weight format %d", row->stem,
                         (int)format);
    if (keys == NULL)
        keys = row->key_defaults;
    if (keys[0] == 0 || keys[0] > device->caps.max_group_lanes)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "kernel %s: WG %" PRIu32 ", the device takes 1 to %" PRIu32, row->stem,
                         keys[0], device->caps.max_group_lanes);
    struct kept_kernel *kernel = NULL;
    status = device->ops->kernel_create(device, row, format, keys, &kernel, err);
    if (status != KEPT_OK)
        return kept_fail_in(err, status, "kernel %s", row->stem);
    kernel->device = device;
    kernel->row = row;
    kernel->format = format;
    for (uint32_t i = 0; i < row->n_keys; i++)
        kernel->keys[i] = keys[i];
    device->n_kernels++;
    *out = kernel;
    return KEPT_OK;
}

kept_status kept_kernel_create(struct kept_device *device, enum kept_kernel_id id,
                               enum kept_format format, const uint32_t *keys,
                               struct kept_kernel **out, struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    *out = NULL;
    return wrap_result(device, create_kernel(device, id, format, keys, out, err), err);
}

void kept_kernel_destroy(struct kept_kernel **kernel)
{
    if (kernel == NULL || *kernel == NULL)
        return;
    (*kernel)->device->ops->kernel_destroy(*kernel);
    *kernel = NULL;
}

/* ---- recordings ---- */

static kept_status begin_recording(struct kept_device *device, uint32_t max_calls,
                                   struct kept_recording **out, struct kept_error *err)
{
    kept_status status = wrap_can_create(device, "a recording", err);
    if (status != KEPT_OK)
        return status;
    if (max_calls == 0 || max_calls > 1u << 20)
        return kept_fail(err, KEPT_E_ARGUMENT, "a recording of %" PRIu32 " calls", max_calls);
    struct kept_hazards *hazards = kept_calloc(1, sizeof *hazards);
    if (hazards == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a recording of %" PRIu32 " calls",
                         max_calls);
    struct kept_recording *recording = NULL;
    status = device->ops->recording_begin(device, max_calls, &recording, err);
    if (status != KEPT_OK) {
        kept_free(hazards);
        return status;
    }
    recording->device = device;
    recording->hazards = hazards;
    recording->max_calls = max_calls;
    *out = recording;
    return KEPT_OK;
}

kept_status kept_recording_begin(struct kept_device *device, uint32_t max_calls,
                                 struct kept_recording **out, struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    *out = NULL;
    return wrap_result(device, begin_recording(device, max_calls, out, err), err);
}

static kept_status check_open(const struct kept_recording *recording, struct kept_error *err)
{
    if (recording->ended)
        return kept_fail(err, KEPT_E_STATE, "the recording has ended");
    if (recording->n_calls >= recording->max_calls)
        return kept_fail(err, KEPT_E_ARGUMENT, "the recording holds %" PRIu32 " calls and is full",
                         recording->max_calls);
    return wrap_usable(recording->device, err);
}

static kept_status check_bind(const struct kept_recording *recording,
                              const struct kept_kernel_row *row, uint32_t i,
                              const struct kept_bind *bind, struct kept_error *err)
{
    const struct kept_caps *caps = &recording->device->caps;
    const char *name = row->bind_names[i];
    if (bind->buf == NULL || bind->buf->device != recording->device)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "kernel %s: binding '%s' is no buffer of this device", row->stem, name);
    if (bind->offset_bytes % caps->binding_align_bytes != 0)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "kernel %s: binding '%s' begins at %" PRIu64
                         ", not a multiple of %" PRIu32,
                         row->stem, name, bind->offset_bytes, caps->binding_align_bytes);
    if (bind->n_bytes == 0 || bind->n_bytes % 4 != 0 || bind->n_bytes > caps->max_binding_bytes)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "kernel %s: binding '%s' of %" PRIu64 " bytes: words, at most %" PRIu64
                         " bytes are possible",
                         row->stem, name, bind->n_bytes, caps->max_binding_bytes);
    if (bind->offset_bytes > bind->buf->n_bytes ||
        bind->n_bytes > bind->buf->n_bytes - bind->offset_bytes)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "kernel %s: binding '%s' of bytes %" PRIu64 " + %" PRIu64
                         " in a buffer of %" PRIu64,
                         row->stem, name, bind->offset_bytes, bind->n_bytes, bind->buf->n_bytes);
    return KEPT_OK;
}

static kept_status check_call(const struct kept_recording *recording,
                              const struct kept_kernel *kernel, const struct kept_bind *binds,
                              const void *params, const uint32_t grid[3], struct kept_error *err)
{
    kept_status status = check_open(recording, err);
    if (status != KEPT_OK)
        return status;
    if (kernel == NULL || kernel->device != recording->device)
        return kept_fail(err, KEPT_E_ARGUMENT, "the kernel belongs to another device");
    const struct kept_kernel_row *row = kernel->row;
    uint64_t bind_bytes[KEPT_MAX_BINDS] = {0};
    for (uint32_t i = 0; i < row->n_binds; i++) {
        status = check_bind(recording, row, i, &binds[i], err);
        if (status != KEPT_OK)
            return status;
        bind_bytes[i] = binds[i].n_bytes;
    }
    for (int i = 0; i < 3; i++)
        if (grid[i] == 0 || grid[i] > recording->device->caps.max_grid[i])
            return kept_fail(err, KEPT_E_ARGUMENT,
                             "kernel %s: %" PRIu32
                             " groups in dimension %d, the device takes 1 to %" PRIu32,
                             row->stem, grid[i], i, recording->device->caps.max_grid[i]);
    return kept_kernel_check(row->id, kernel->format, kernel->keys, params, bind_bytes, err);
}

/* Enters the ranges; asks the backend for a barrier where they conflict with earlier ones. */
static kept_status order(struct kept_recording *recording, const struct kept_hazard_range *ranges,
                         uint32_t n, struct kept_error *err)
{
    if (!kept_hazards_add(recording->hazards, ranges, n))
        return KEPT_OK;
    recording->n_barriers++;
    return recording->device->ops->barrier(recording, err);
}

kept_status kept_recording_call(struct kept_recording *recording, struct kept_kernel *kernel,
                                const struct kept_bind *binds, const void *params,
                                const uint32_t grid[3], struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    struct kept_device *device = recording->device;
    kept_status status = check_call(recording, kernel, binds, params, grid, err);
    if (status != KEPT_OK)
        return wrap_result(device, status, err);
    struct kept_hazard_range ranges[KEPT_MAX_BINDS];
    for (uint32_t i = 0; i < kernel->row->n_binds; i++)
        ranges[i] = (struct kept_hazard_range){
            .buf = binds[i].buf,
            .first = binds[i].offset_bytes,
            .end = binds[i].offset_bytes + binds[i].n_bytes,
            .write = (kernel->row->access[i] & KEPT_ACCESS_W) != 0,
        };
    status = order(recording, ranges, kernel->row->n_binds, err);
    if (status == KEPT_OK)
        status = device->ops->call(recording, kernel, binds, params, grid, err);
    if (status == KEPT_OK)
        recording->n_calls++;
    return wrap_result(device, status, err);
}

static kept_status check_copy(const struct kept_recording *recording, const struct kept_buf *buf,
                              uint64_t offset, uint64_t n_bytes, struct kept_error *err)
{
    if (buf == NULL || buf->device != recording->device)
        return kept_fail(err, KEPT_E_ARGUMENT, "a copy names no buffer of this device");
    if (n_bytes == 0 || n_bytes % 4 != 0 || offset % 4 != 0)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "a copy of bytes %" PRIu64 " + %" PRIu64 " is not whole words", offset,
                         n_bytes);
    if (offset > buf->n_bytes || n_bytes > buf->n_bytes - offset)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "a copy of bytes %" PRIu64 " + %" PRIu64
                         " lies outside a buffer of %" PRIu64,
                         offset, n_bytes, buf->n_bytes);
    return KEPT_OK;
}

kept_status kept_recording_copy(struct kept_recording *recording, struct kept_buf *to,
                                uint64_t to_offset, struct kept_buf *from, uint64_t from_offset,
                                uint64_t n_bytes, struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    struct kept_device *device = recording->device;
    kept_status status = check_open(recording, err);
    if (status == KEPT_OK)
        status = check_copy(recording, to, to_offset, n_bytes, err);
    if (status == KEPT_OK)
        status = check_copy(recording, from, from_offset, n_bytes, err);
    if (status == KEPT_OK && to == from && to_offset < from_offset + n_bytes &&
        from_offset < to_offset + n_bytes)
        status =
            kept_fail(err, KEPT_E_ARGUMENT, "a copy of %" PRIu64 " bytes onto itself", n_bytes);
    if (status != KEPT_OK)
        return wrap_result(device, status, err);
    struct kept_hazard_range ranges[2] = {
        {.buf = from, .first = from_offset, .end = from_offset + n_bytes, .write = false},
        {.buf = to, .first = to_offset, .end = to_offset + n_bytes, .write = true},
    };
    status = order(recording, ranges, 2, err);
    if (status == KEPT_OK)
        status = device->ops->copy(recording, to, to_offset, from, from_offset, n_bytes, err);
    if (status == KEPT_OK)
        recording->n_calls++;
    return wrap_result(device, status, err);
}

kept_status kept_recording_end(struct kept_recording *recording, struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    kept_status status = wrap_usable(recording->device, err);
    if (status == KEPT_OK && recording->ended)
        status = kept_fail(err, KEPT_E_STATE, "the recording has ended");
    if (status == KEPT_OK)
        status = recording->device->ops->recording_end(recording, err);
    if (status == KEPT_OK)
        recording->ended = true;
    return wrap_result(recording->device, status, err);
}

void kept_recording_destroy(struct kept_recording **recording)
{
    if (recording == NULL || *recording == NULL)
        return;
    kept_free((*recording)->hazards);
    (*recording)->device->ops->recording_destroy(*recording);
    *recording = NULL;
}

/* backend/backend.c: the wrappers of devices, buffers and the queue. (Kernels and recordings:
 * record.c.)
 *
 * Every wrapper does the same four things: check the state of the device (lost, sealed), check the
 * arguments against its capabilities, call the slot, and keep the counters that the plan and the
 * fault tests read. A failure is logged once, here, with the sentence that the caller gets. A slot
 * that reports a lost device marks the device: from then on every wrapper answers
 * KEPT_E_DEVICE_LOST without calling the backend.
 */
#include "backend/backend.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "backend/wrap.h"
#include "base/status.h"
#include "base/str.h"

#define PIECE_BYTES (4u << 20)

static const struct kept_backend_ops *const backends[KEPT_BACKENDS] = {
    &kept_backend_vulkan, &kept_backend_opencl, &kept_backend_cpu};

const struct kept_backend_ops *kept_backend_at(uint32_t i)
{
    return i < KEPT_BACKENDS ? backends[i] : NULL;
}

const struct kept_backend_ops *kept_backend_find(const char *name)
{
    for (uint32_t i = 0; name != NULL && i < KEPT_BACKENDS; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

/* ---- shared by the wrappers (wrap.h) ---- */

kept_status wrap_result(struct kept_device *device, kept_status status,
                        const struct kept_error *err)
{
    if (status == KEPT_OK || status == KEPT_E_TIMEOUT)
        return status;
    if (status == KEPT_E_DEVICE_LOST)
        device->lost = true;
    kept_logf(&device->log, KEPT_LOG_ERROR, "%s", err->message);
    return status;
}

kept_status wrap_usable(const struct kept_device *device, struct kept_error *err)
{
    if (device->lost)
        return kept_fail(err, KEPT_E_DEVICE_LOST, "device %s:%" PRIu32 " (%s) was lost",
                         device->ops->name, device->desc.index, device->desc.name);
    return KEPT_OK;
}

kept_status wrap_can_create(const struct kept_device *device, const char *what,
                            struct kept_error *err)
{
    if (device->sealed)
        return kept_fail(err, KEPT_E_STATE,
                         "%s cannot be created: the plan of device %s:%" PRIu32 " is committed",
                         what, device->ops->name, device->desc.index);
    return wrap_usable(device, err);
}

/* ---- devices ---- */

kept_status kept_backend_list(const struct kept_backend_ops *ops, const struct kept_log *log,
                              struct kept_device_desc *out, uint32_t cap, uint32_t *n,
                              char why[160], struct kept_error *err)
{
    *n = 0;
    why[0] = '\0';
    return ops->list(log, out, cap, n, why, err);
}

kept_status kept_device_open(const struct kept_backend_ops *ops, uint32_t index,
                             const struct kept_device_params *params, struct kept_device **out,
                             struct kept_error *err)
{
    static const struct kept_device_params none;
    struct kept_device *device = NULL;
    *out = NULL;
    if (params == NULL)
        params = &none;
    kept_status status = ops->device_open(index, params, &device, err);
    if (status != KEPT_OK)
        return status;
    device->ops = ops;
    if (params->log != NULL)
        device->log = *params->log;
    assert(device->caps.max_buffer_bytes != 0 && device->caps.max_binding_bytes != 0);
    assert(device->caps.max_group_lanes != 0 && device->caps.max_grid[0] != 0);
    assert(device->caps.binding_align_bytes != 0 && device->caps.binding_align_bytes <= 4096);
    *out = device;
    return KEPT_OK;
}

void kept_device_close(struct kept_device **device)
{
    if (device == NULL || *device == NULL)
        return;
    struct kept_device *d = *device;
    if (d->allocated_bytes != 0)
        kept_logf(&d->log, KEPT_LOG_ERROR,
                  "device %s:%" PRIu32 " closed with %" PRIu64 " bytes allocated", d->ops->name,
                  d->desc.index, d->allocated_bytes);
    d->ops->device_close(d);
    *device = NULL;
}

kept_status kept_device_memory(struct kept_device *device, struct kept_memory_info *out,
                               struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    struct kept_memory_info info = {0};
    kept_status status = wrap_usable(device, err);
    if (status == KEPT_OK)
        status = wrap_result(device, device->ops->memory_info(device, &info, err), err);
    if (status == KEPT_OK)
        *out = info;
    return status;
}

void kept_device_seal(struct kept_device *device)
{
    device->sealed = true;
}

void kept_device_unseal(struct kept_device *device)
{
    device->sealed = false;
}

/* ---- buffers ---- */

/* The backend said "out of memory"; says it again with the buffer's name and the numbers. */
static kept_status no_memory(struct kept_device *device, const char *name, uint64_t n_bytes,
                             struct kept_error *err)
{
    char need[32], left[32];
    struct kept_memory_info info = {0};
    kept_format_bytes(need, sizeof need, n_bytes);
    if (device->ops->memory_info(device, &info, NULL) != KEPT_OK || info.budget_bytes == 0)
        return kept_fail(err, KEPT_E_DEVICE_MEMORY,
                         "buffer '%s' needs %s, the heap has not that much free", name, need);
    uint64_t free_bytes =
        info.budget_bytes > info.usage_bytes ? info.budget_bytes - info.usage_bytes : 0;
    kept_format_bytes(left, sizeof left, free_bytes);
    return kept_fail(err, KEPT_E_DEVICE_MEMORY, "buffer '%s' needs %s, heap has %s free", name,
                     need, left);
}

static kept_status create_buf(struct kept_device *device, const char *name, uint64_t n_bytes,
                              uint32_t flags, struct kept_buf **out, struct kept_error *err)
{
    kept_status status = wrap_can_create(device, "a buffer", err);
    if (status != KEPT_OK)
        return status;
    if (n_bytes == 0 || n_bytes > device->caps.max_buffer_bytes ||
        (flags & ~(uint32_t)(KEPT_BUF_HOST | KEPT_BUF_FILLED)) != 0)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "buffer '%s' of %" PRIu64 " bytes: the device takes 1 to %" PRIu64, name,
                         n_bytes, device->caps.max_buffer_bytes);
    if (device->fail_allocation_at != 0 && --device->fail_allocation_at == 0)
        return no_memory(device, name, n_bytes, err);
    struct kept_buf *buf = NULL;
    status = device->ops->buf_create(device, n_bytes, flags, &buf, err);
    if (status == KEPT_E_DEVICE_MEMORY)
        return no_memory(device, name, n_bytes, err);
    if (status != KEPT_OK)
        return kept_fail_in(err, status, "buffer '%s'", name);
    buf->device = device;
    buf->n_bytes = n_bytes;
    buf->flags = flags;
    device->n_allocations++;
    device->allocated_bytes += n_bytes;
    if (device->allocated_bytes > device->peak_bytes)
        device->peak_bytes = device->allocated_bytes;
    *out = buf;
    return KEPT_OK;
}

kept_status kept_buf_create(struct kept_device *device, const char *name, uint64_t n_bytes,
                            uint32_t flags, struct kept_buf **out, struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    *out = NULL;
    return wrap_result(device, create_buf(device, name, n_bytes, flags, out, err), err);
}

void kept_buf_destroy(struct kept_buf **buf)
{
    if (buf == NULL || *buf == NULL)
        return;
    struct kept_device *device = (*buf)->device;
    device->allocated_bytes -= (*buf)->n_bytes;
    device->ops->buf_destroy(*buf);
    *buf = NULL;
}

static kept_status check_range(const struct kept_buf *buf, uint64_t offset, uint64_t n_bytes,
                               struct kept_error *err)
{
    if (offset > buf->n_bytes || n_bytes > buf->n_bytes - offset)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "bytes %" PRIu64 " + %" PRIu64 " lie outside a buffer of %" PRIu64, offset,
                         n_bytes, buf->n_bytes);
    if (buf->host == NULL && (offset % 4 != 0 || n_bytes % 4 != 0))
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "bytes %" PRIu64 " + %" PRIu64 " are not whole words", offset, n_bytes);
    return wrap_usable(buf->device, err);
}

kept_status kept_buf_write(struct kept_buf *buf, uint64_t offset, const void *from,
                           uint64_t n_bytes, struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    kept_status status = check_range(buf, offset, n_bytes, err);
    if (status == KEPT_OK && buf->host != NULL) {
        if (n_bytes != 0)
            memcpy((char *)buf->host + offset, from, n_bytes);
        return KEPT_OK;
    }
    for (uint64_t done = 0; status == KEPT_OK && done < n_bytes; done += PIECE_BYTES) {
        uint64_t n = n_bytes - done < PIECE_BYTES ? n_bytes - done : PIECE_BYTES;
        status = buf->device->ops->write(buf, offset + done, (const char *)from + done, n, err);
    }
    return wrap_result(buf->device, status, err);
}

kept_status kept_buf_read(struct kept_buf *buf, uint64_t offset, void *to, uint64_t n_bytes,
                          struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    kept_status status = check_range(buf, offset, n_bytes, err);
    if (status == KEPT_OK && buf->host != NULL) {
        if (n_bytes != 0)
            memcpy(to, (const char *)buf->host + offset, n_bytes);
        return KEPT_OK;
    }
    for (uint64_t done = 0; status == KEPT_OK && done < n_bytes; done += PIECE_BYTES) {
        uint64_t n = n_bytes - done < PIECE_BYTES ? n_bytes - done : PIECE_BYTES;
        status = buf->device->ops->read(buf, offset + done, (char *)to + done, n, err);
    }
    return wrap_result(buf->device, status, err);
}

/* ---- queue ---- */

static kept_status submit(struct kept_device *device, struct kept_recording *const *recordings,
                          uint32_t n, struct kept_error *err)
{
    kept_status status = wrap_usable(device, err);
    if (status != KEPT_OK)
        return status;
    if (n == 0)
        return kept_fail(err, KEPT_E_ARGUMENT, "a submission of no recordings");
    for (uint32_t i = 0; i < n; i++)
        if (recordings[i] == NULL || recordings[i]->device != device || !recordings[i]->ended)
            return kept_fail(
                err, KEPT_E_ARGUMENT,
                "recording %" PRIu32 " of %" PRIu32 " is not a finished one of this device", i, n);
    if (device->fail_submit_at != 0 && --device->fail_submit_at == 0)
        return kept_fail(err, KEPT_E_DRIVER,
                         "submission %" PRIu64 " of device %s:%" PRIu32 " failed on purpose",
                         device->n_submits, device->ops->name, device->desc.index);
    status = device->ops->submit(device, recordings, n, err);
    if (status == KEPT_OK)
        device->n_submits++;
    return status;
}

kept_status kept_submit(struct kept_device *device, struct kept_recording *const *recordings,
                        uint32_t n, struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    return wrap_result(device, submit(device, recordings, n, err), err);
}

kept_status kept_wait(struct kept_device *device, uint64_t timeout_ns, struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    kept_status status = wrap_usable(device, err);
    if (status == KEPT_OK)
        status = device->ops->wait(device, timeout_ns, err);
    return wrap_result(device, status, err);
}

kept_status kept_timestamps(struct kept_device *device, uint64_t *ns, uint32_t cap, uint32_t *n,
                            struct kept_error *err)
{
    struct kept_error local;
    err = err != NULL ? err : &local;
    kept_status status = wrap_usable(device, err);
    if (status == KEPT_OK && (device->ops->timestamps == NULL || !device->caps.timestamps))
        return kept_fail(err, KEPT_E_UNSUPPORTED, "device %s:%" PRIu32 " has no timestamps",
                         device->ops->name, device->desc.index);
    if (status == KEPT_OK)
        status = device->ops->timestamps(device, ns, cap, n, err);
    return wrap_result(device, status, err);
}

/* backend/opencl/ocl_device.c: opening a device, its capabilities, buffers, and the table of slots.
 *
 * Memory: every buffer is a plain cl_mem, host ones (pinned where the driver pins
 * CL_MEM_ALLOC_HOST_PTR) included. None has a host address: mapping a buffer while kernels use it
 * is undefined in OpenCL 1.2, so caps.host_visible and caps.host_buffers_mapped are false and
 * everything goes through write and read, which block. Drivers take memory at first touch; filling
 * a buffer with zeros makes it there at creation, where running out is a plain status. */
#include "backend/opencl/ocl.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"

#define FILL_BYTES (256u << 20) /* a fill command at a time: below every driver's watchdog */

static struct ocl_device *ocl(struct kept_device *device)
{
    return (struct ocl_device *)device;
}

static kept_status list(const struct kept_log *log, struct kept_device_desc *out, uint32_t cap,
                        uint32_t *n, char why[160], struct kept_error *err)
{
    struct ocl_api api;
    struct ocl_ref *refs;
    uint32_t count;
    *n = 0;
    if (!ocl_api_open(&api, why)) {
        kept_logf(log, KEPT_LOG_DEBUG, "opencl: %s", why);
        return KEPT_OK;
    }
    kept_status status = ocl_enumerate(&api, &refs, &count, why, err);
    if (status == KEPT_OK) {
        for (uint32_t i = 0; i < count && i < cap; i++)
            ocl_describe(&api, &refs[i], i, &out[i]);
        *n = count < cap ? count : cap;
    }
    kept_free(refs);
    ocl_api_close(&api);
    return status;
}

/* ---- open and close ---- */

static uint32_t u32_of(uint64_t value)
{
    return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

static void fill_caps(struct ocl_device *d, bool profile)
{
    struct kept_caps *caps = &d->base.caps;
    cl_device_id id = d->ref.device;
    size_t items[16] = {0};
    uint64_t lanes = ocl_info_u64(&d->api, id, CL_DEVICE_MAX_WORK_GROUP_SIZE);
    if (d->api.GetDeviceInfo(id, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof items, items, NULL) ==
            CL_SUCCESS &&
        items[0] < lanes)
        lanes = items[0];
    uint64_t align = ocl_info_u64(&d->api, id, CL_DEVICE_MEM_BASE_ADDR_ALIGN) / 8;
    caps->type = d->base.desc.type;
    caps->max_buffer_bytes =
        ocl_info_u64(&d->api, id, CL_DEVICE_MAX_MEM_ALLOC_SIZE) & ~(uint64_t)4095;
    caps->max_binding_bytes = caps->max_buffer_bytes;
    caps->binding_align_bytes = align < 16 ? 16 : u32_of(align);
    caps->max_group_lanes = u32_of(lanes);
    caps->max_shared_bytes = u32_of(ocl_info_u64(&d->api, id, CL_DEVICE_LOCAL_MEM_SIZE));
    /* OpenCL has no query for these; y and z are what NVIDIA hardware takes. */
    caps->max_grid[0] = INT32_MAX;
    caps->max_grid[1] = 65535;
    caps->max_grid[2] = 65535;
    caps->compute_units = u32_of(ocl_info_u64(&d->api, id, CL_DEVICE_MAX_COMPUTE_UNITS));
    caps->timestamps = profile;
    bool cpu = caps->type == KEPT_DEVICE_CPU;
    caps->order = cpu ? KEPT_ORDER_VECTOR : KEPT_ORDER_LANE;
    caps->vector_width = cpu ? 16 : 1;
}

static void device_close(struct kept_device *device)
{
    struct ocl_device *d = ocl(device);
    if (d->queue != NULL)
        d->api.Finish(d->queue);
    if (d->last != NULL)
        d->api.ReleaseEvent(d->last);
    ocl_events_release(d);
    kept_free(d->events);
    if (d->queue != NULL)
        d->api.ReleaseCommandQueue(d->queue);
    if (d->context != NULL)
        d->api.ReleaseContext(d->context);
    ocl_api_close(&d->api);
    kept_free(d->cache_dir);
    kept_free(d);
}

/* Finds device `index` and describes it; KEPT_E_NO_DEVICE or KEPT_E_UNSUPPORTED. */
static kept_status find(struct ocl_device *d, uint32_t index, struct kept_error *err)
{
    char why[160] = "";
    struct ocl_ref *refs = NULL;
    uint32_t count = 0;
    if (!ocl_api_open(&d->api, why))
        return kept_fail(err, KEPT_E_NO_DEVICE, "opencl:%" PRIu32 ": %s", index, why);
    kept_status status = ocl_enumerate(&d->api, &refs, &count, why, err);
    if (status == KEPT_OK && index >= count)
        status = count == 0
                     ? kept_fail(err, KEPT_E_NO_DEVICE, "opencl:%" PRIu32 ": %s", index, why)
                     : kept_fail(err, KEPT_E_NO_DEVICE,
                                 "there is no opencl:%" PRIu32 "; OpenCL has %" PRIu32 " device(s)",
                                 index, count);
    if (status == KEPT_OK) {
        d->ref = refs[index];
        ocl_describe(&d->api, &d->ref, index, &d->base.desc);
        if (!d->base.desc.usable)
            status =
                kept_fail(err, KEPT_E_UNSUPPORTED, "opencl:%" PRIu32 " (%s) cannot be used: %s",
                          index, d->base.desc.name, d->base.desc.why_not);
    }
    kept_free(refs);
    return status;
}

static kept_status start(struct ocl_device *d, const struct kept_device_params *params,
                         struct kept_error *err)
{
    char name[128], version[120];
    cl_int code;
    cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                          (cl_context_properties)d->ref.platform, 0};
    d->context = d->api.CreateContext(properties, 1, &d->ref.device, NULL, NULL, &code);
    if (d->context == NULL)
        return ocl_fail(err, code, "opencl:%" PRIu32 " (%s): no context", d->base.desc.index,
                        d->base.desc.name);
    d->queue = d->api.CreateCommandQueue(d->context, d->ref.device,
                                         params->profile ? CL_QUEUE_PROFILING_ENABLE : 0, &code);
    if (d->queue == NULL)
        return ocl_fail(err, code, "opencl:%" PRIu32 " (%s): no queue", d->base.desc.index,
                        d->base.desc.name);
    ocl_platform_text(&d->api, d->ref.platform, CL_PLATFORM_NAME, name, sizeof name);
    ocl_platform_text(&d->api, d->ref.platform, CL_PLATFORM_VERSION, version, sizeof version);
    kept_snprintf(d->platform, sizeof d->platform, "%s %s", name, version);
    if (params->cache_dir != NULL && (d->cache_dir = kept_strdup(params->cache_dir)) == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to open opencl:%" PRIu32,
                         d->base.desc.index);
    fill_caps(d, params->profile);
    return KEPT_OK;
}

static kept_status device_open(uint32_t index, const struct kept_device_params *params,
                               struct kept_device **out, struct kept_error *err)
{
    *out = NULL;
    struct ocl_device *d = kept_calloc(1, sizeof *d);
    if (d == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to open opencl:%" PRIu32, index);
    if (params->log != NULL)
        d->base.log = *params->log;
    kept_status status = find(d, index, err);
    if (status == KEPT_OK)
        status = start(d, params, err);
    if (status != KEPT_OK) {
        device_close(&d->base);
        return status;
    }
    d->base.ops = &kept_backend_opencl;
    *out = &d->base;
    return KEPT_OK;
}

static kept_status memory_info(struct kept_device *device, struct kept_memory_info *out,
                               struct kept_error *err)
{
    struct ocl_device *d = ocl(device);
    (void)err;
    *out = (struct kept_memory_info){.total_bytes = device->desc.memory_bytes,
                                     .budget_bytes = ocl_free_memory(&d->api, d->ref.device)};
    if (out->budget_bytes != 0) /* free now, and what this process has already */
        out->budget_bytes += device->allocated_bytes;
    return KEPT_OK;
}

/* ---- buffers ---- */

static kept_status fill_zero(struct ocl_device *d, cl_mem mem, uint64_t n_bytes, cl_int *code)
{
    static const cl_uint zero = 0;
    *code = CL_SUCCESS;
    for (uint64_t at = 0; at < n_bytes && *code == CL_SUCCESS; at += FILL_BYTES) {
        size_t n = (size_t)(n_bytes - at < FILL_BYTES ? n_bytes - at : FILL_BYTES);
        *code = d->api.EnqueueFillBuffer(d->queue, mem, &zero, sizeof zero, (size_t)at, n, 0, NULL,
                                         NULL);
    }
    if (*code == CL_SUCCESS)
        *code = d->api.Finish(d->queue);
    return ocl_status_of(*code);
}

kept_status ocl_buf_create(struct kept_device *device, uint64_t n_bytes, uint32_t flags,
                           struct kept_buf **out, struct kept_error *err)
{
    struct ocl_device *d = ocl(device);
    *out = NULL;
    uint64_t whole_words = (n_bytes + 3) & ~(uint64_t)3;
    if (whole_words < n_bytes || whole_words > SIZE_MAX)
        return kept_fail(err, KEPT_E_ARGUMENT, "a buffer of %" PRIu64 " bytes is not addressable",
                         n_bytes);
    struct ocl_buf *b = kept_calloc(1, sizeof *b);
    if (b == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to describe a buffer");
    cl_int code;
    cl_mem_flags kind = CL_MEM_READ_WRITE | (flags & KEPT_BUF_HOST ? CL_MEM_ALLOC_HOST_PTR : 0);
    b->mem = d->api.CreateBuffer(d->context, kind, (size_t)whole_words, NULL, &code);
    if (b->mem == NULL || fill_zero(d, b->mem, whole_words, &code) != KEPT_OK) {
        if (b->mem != NULL)
            d->api.ReleaseMemObject(b->mem);
        kept_free(b);
        return ocl_fail(
            err, code,
            "%s: a buffer of %" PRIu64 " bytes (%" PRIu64 " of %" PRIu64 " are allocated)",
            device->desc.name, n_bytes, device->allocated_bytes, device->desc.memory_bytes);
    }
    b->base = (struct kept_buf){.device = device, .n_bytes = n_bytes, .flags = flags};
    *out = &b->base;
    return KEPT_OK;
}

void ocl_buf_destroy(struct kept_buf *buf)
{
    struct ocl_buf *b = (struct ocl_buf *)buf;
    ocl(buf->device)->api.ReleaseMemObject(b->mem);
    kept_free(b);
}

kept_status ocl_write(struct kept_buf *buf, uint64_t offset, const void *from, uint64_t n_bytes,
                      struct kept_error *err)
{
    struct ocl_device *d = ocl(buf->device);
    cl_int code = d->api.EnqueueWriteBuffer(d->queue, ((struct ocl_buf *)buf)->mem, CL_TRUE,
                                            (size_t)offset, (size_t)n_bytes, from, 0, NULL, NULL);
    if (code != CL_SUCCESS)
        return ocl_fail(err, code, "%s: writing %" PRIu64 " bytes at %" PRIu64, d->base.desc.name,
                        n_bytes, offset);
    return KEPT_OK;
}

kept_status ocl_read(struct kept_buf *buf, uint64_t offset, void *to, uint64_t n_bytes,
                     struct kept_error *err)
{
    struct ocl_device *d = ocl(buf->device);
    cl_int code = d->api.EnqueueReadBuffer(d->queue, ((struct ocl_buf *)buf)->mem, CL_TRUE,
                                           (size_t)offset, (size_t)n_bytes, to, 0, NULL, NULL);
    if (code != CL_SUCCESS)
        return ocl_fail(err, code, "%s: reading %" PRIu64 " bytes at %" PRIu64, d->base.desc.name,
                        n_bytes, offset);
    return KEPT_OK;
}

const struct kept_backend_ops kept_backend_opencl = {
    .name = "opencl",
    .list = list,
    .device_open = device_open,
    .device_close = device_close,
    .memory_info = memory_info,
    .buf_create = ocl_buf_create,
    .buf_destroy = ocl_buf_destroy,
    .write = ocl_write,
    .read = ocl_read,
    .kernel_create = ocl_kernel_create,
    .kernel_destroy = ocl_kernel_destroy,
    .recording_begin = ocl_recording_begin,
    .call = ocl_call,
    .copy = ocl_copy,
    .barrier = ocl_barrier,
    .recording_end = ocl_recording_end,
    .recording_destroy = ocl_recording_destroy,
    .submit = ocl_submit,
    .wait = ocl_wait,
    .timestamps = ocl_timestamps,
};

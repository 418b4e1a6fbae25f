/* backend/cpu/cpu_device.c: the cpu backend: host memory, recordings as arrays of calls, a pool of
 * threads.
 *
 * A recording is an array of calls with resolved pointers and copied parameters. submit works it
 * off before it returns: call after call, each shared over the pool, so there are no barriers to
 * keep and wait has nothing left to do. Every call runs its fast form (cpu.h) where there is one
 * for its keys, and otherwise the reference function, one row an item where rows are independent.
 *
 * Buffers are zeroed pages of the system: pages never touched take no memory. Weights, which are
 * filled anyway, take huge pages where there are any.
 */
#include <string.h>

#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/pages.h"
#include "base/status.h"
#include "base/str.h"
#include "base/sysinfo.h"
#include "base/thread.h"

#define ALIGN_BYTES 64u

/* What is left when tests mask every instruction set: reference functions. */
static const struct cpu_fast reference_only = {.name = "reference"};

struct device {
    struct kept_device base;
    struct kept_pool *pool;
    const struct cpu_fast *fast;
    uint64_t *ns;              /* of the last submission's calls */
    uint32_t n_ns, cap_ns;     /* cap_ns >= the calls of all live recordings */
    uint32_t n_recorded_calls; /* of all live recordings */
};

struct buffer {
    struct kept_buf base;
};

struct kernel {
    struct kept_kernel base;
};

struct call {
    const struct kept_kernel_row *row; /* NULL: a copy from bind[1] to bind[0] */
    cpu_fast_fn fast;
    struct kept_host_call host;
    uint32_t params[KEPT_MAX_PARAM_BYTES / 4];
};

struct recording {
    struct kept_recording base;
    uint32_t n, cap;
    struct call calls[];
};

/* ---- device ---- */

static kept_status list(const struct kept_log *log, struct kept_device_desc *out, uint32_t cap,
                        uint32_t *n, char why[160], struct kept_error *err)
{
    (void)log, (void)why, (void)err;
    *n = 1;
    if (cap == 0)
        return KEPT_OK;
    struct kept_host_memory memory = kept_host_memory();
    struct kept_device_desc desc = {.api = "cpu", .type = KEPT_DEVICE_CPU, .usable = true};
    kept_host_cpu_name(desc.name, sizeof desc.name);
    kept_snprintf(desc.driver, sizeof desc.driver, "kept %s, %s, %u threads", kept_version(),
                  cpu_fast_best()->name, kept_cpu_count());
    kept_snprintf(desc.architecture, sizeof desc.architecture, "%s", cpu_fast_best()->name);
    desc.memory_bytes = memory.total_bytes;
    desc.free_bytes = memory.available_bytes;
    out[0] = desc;
    return KEPT_OK;
}

static struct kept_caps caps_of(const struct kept_pool *pool)
{
    return (struct kept_caps){
        .type = KEPT_DEVICE_CPU,
        .max_buffer_bytes = (uint64_t)(SIZE_MAX / 4),
        .max_binding_bytes = (uint64_t)(SIZE_MAX / 4),
        .binding_align_bytes = ALIGN_BYTES,
        .max_group_lanes = 1024,
        .max_shared_bytes = 1u << 20,
        .max_grid = {UINT32_MAX, UINT32_MAX, UINT32_MAX},
        .subgroup_min = 1,
        .subgroup_max = 1,
        .compute_units = kept_pool_threads(pool),
        .host_visible = true,
        .host_buffers_mapped = true,
        .timestamps = true,
        .order = KEPT_ORDER_VECTOR,
        .vector_width = 16,
    };
}

static kept_status device_open(uint32_t index, const struct kept_device_params *params,
                               struct kept_device **out, struct kept_error *err)
{
    uint32_t n;
    char why[160];
    if (index != 0)
        return kept_fail(err, KEPT_E_NO_DEVICE, "there is no device cpu:%u, only cpu:0", index);
    struct device *device = kept_calloc(1, sizeof *device);
    if (device == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for device cpu:0");
    kept_status status = kept_pool_create(params->n_threads, &device->pool, err);
    if (status != KEPT_OK) {
        kept_free(device);
        return status;
    }
    list(params->log, &device->base.desc, 1, &n, why, err);
    device->base.caps = caps_of(device->pool);
    device->fast = cpu_fast_at(params->mask_simd);
    if (device->fast == NULL)
        device->fast = &reference_only;
    *out = &device->base;
    return KEPT_OK;
}

static void device_close(struct kept_device *base)
{
    struct device *device = (struct device *)base;
    kept_pool_destroy(&device->pool);
    kept_free(device->ns);
    kept_free(device);
}

static kept_status memory_info(struct kept_device *device, struct kept_memory_info *out,
                               struct kept_error *err)
{
    (void)err;
    struct kept_host_memory memory = kept_host_memory();
    out->total_bytes = memory.total_bytes;
    out->usage_bytes = device->allocated_bytes;
    out->budget_bytes =
        memory.available_bytes == 0 ? 0 : memory.available_bytes + device->allocated_bytes;
    return KEPT_OK;
}

/* ---- buffers ---- */

static kept_status buf_create(struct kept_device *device, uint64_t n_bytes, uint32_t flags,
                              struct kept_buf **out, struct kept_error *err)
{
    (void)device;
    struct kept_host_memory memory = kept_host_memory();
    if (memory.available_bytes != 0 && n_bytes > memory.available_bytes)
        return kept_fail(err, KEPT_E_DEVICE_MEMORY, "%llu bytes are more than the machine has left",
                         (unsigned long long)n_bytes);
    struct buffer *buf = kept_calloc(1, sizeof *buf);
    if (buf == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a buffer's description");
    buf->base.host = kept_pages_alloc((size_t)n_bytes, (flags & KEPT_BUF_FILLED) != 0);
    if (buf->base.host == NULL) {
        kept_free(buf);
        return kept_fail(err, KEPT_E_DEVICE_MEMORY, "the system refused %llu bytes",
                         (unsigned long long)n_bytes);
    }
    *out = &buf->base;
    return KEPT_OK;
}

static void buf_destroy(struct kept_buf *base)
{
    struct buffer *buf = (struct buffer *)base;
    kept_pages_free(base->host, (size_t)base->n_bytes);
    kept_free(buf);
}

/* All buffers are mapped: the wrappers copy themselves. */
static kept_status buf_write(struct kept_buf *buf, uint64_t offset, const void *from,
                             uint64_t n_bytes, struct kept_error *err)
{
    (void)err;
    memcpy((char *)buf->host + offset, from, (size_t)n_bytes);
    return KEPT_OK;
}

static kept_status buf_read(struct kept_buf *buf, uint64_t offset, void *to, uint64_t n_bytes,
                            struct kept_error *err)
{
    (void)err;
    memcpy(to, (const char *)buf->host + offset, (size_t)n_bytes);
    return KEPT_OK;
}

/* ---- kernels ---- */

static kept_status kernel_create(struct kept_device *device, const struct kept_kernel_row *row,
                                 enum kept_format format, const uint32_t *keys,
                                 struct kept_kernel **out, struct kept_error *err)
{
    (void)device, (void)row, (void)format, (void)keys;
    struct kernel *kernel = kept_calloc(1, sizeof *kernel);
    if (kernel == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for its description");
    *out = &kernel->base;
    return KEPT_OK;
}

static void kernel_destroy(struct kept_kernel *kernel)
{
    kept_free(kernel);
}

/* The fast form for these keys; NULL where there is none. Records in LANE order take the reference.
 */
static cpu_fast_fn fast_form(const struct cpu_fast *fast, const struct kept_kernel *kernel)
{
    uint32_t at = kept_kernel_key(kernel->row->id, "ORDER");
    if (at < KEPT_MAX_KEYS && kernel->keys[at] != KEPT_VECTOR)
        return NULL;
    return fast->kernels[kernel->row->id];
}

/* ---- recordings ---- */

static kept_status recording_begin(struct kept_device *base, uint32_t max_calls,
                                   struct kept_recording **out, struct kept_error *err)
{
    struct device *device = (struct device *)base;
    if (device->n_recorded_calls + max_calls > device->cap_ns) {
        uint32_t cap = device->n_recorded_calls + max_calls;
        uint64_t *ns = kept_realloc_array(device->ns, cap, sizeof *ns);
        if (ns == NULL)
            return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for the times of %u calls", cap);
        device->ns = ns;
        device->cap_ns = cap;
    }
    struct recording *recording =
        kept_calloc(1, sizeof *recording + (size_t)max_calls * sizeof(struct call));
    if (recording == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a recording of %u calls",
                         max_calls);
    recording->cap = max_calls;
    device->n_recorded_calls += max_calls;
    *out = &recording->base;
    return KEPT_OK;
}

static kept_status call(struct kept_recording *base, struct kept_kernel *kernel,
                        const struct kept_bind *binds, const void *params, const uint32_t grid[3],
                        struct kept_error *err)
{
    (void)grid, (void)err;
    struct recording *recording = (struct recording *)base;
    struct call *c = &recording->calls[recording->n++];
    c->row = kernel->row;
    c->fast = fast_form(((struct device *)base->device)->fast, kernel);
    memcpy(c->params, params, kernel->row->param_bytes);
    c->host.format = kernel->format;
    c->host.keys = kernel->keys;
    c->host.params = c->params;
    for (uint32_t i = 0; i < kernel->row->n_binds; i++) {
        c->host.bind[i] = (uint8_t *)binds[i].buf->host + binds[i].offset_bytes;
        c->host.bind_bytes[i] = binds[i].n_bytes;
    }
    return KEPT_OK;
}

static kept_status copy(struct kept_recording *base, struct kept_buf *to, uint64_t to_offset,
                        struct kept_buf *from, uint64_t from_offset, uint64_t n_bytes,
                        struct kept_error *err)
{
    (void)err;
    struct recording *recording = (struct recording *)base;
    struct call *c = &recording->calls[recording->n++];
    c->row = NULL;
    c->host.bind[0] = (uint8_t *)to->host + to_offset;
    c->host.bind[1] = (uint8_t *)from->host + from_offset;
    c->host.bind_bytes[0] = n_bytes;
    return KEPT_OK;
}

static kept_status barrier(struct kept_recording *recording, struct kept_error *err)
{
    (void)recording, (void)err;
    return KEPT_OK;
}

static kept_status recording_end(struct kept_recording *recording, struct kept_error *err)
{
    (void)recording, (void)err;
    return KEPT_OK;
}

static void recording_destroy(struct kept_recording *base)
{
    struct recording *recording = (struct recording *)base;
    ((struct device *)base->device)->n_recorded_calls -= recording->cap;
    kept_free(recording);
}

/* ---- queue ---- */

/* Whether a call is more than its rows: a block of them, or their maximum. */
static bool takes_all_rows(enum kept_kernel_id id)
{
    return id == KEPT_KERNEL_ATTN_PEAK || id >= KEPT_KERNEL_Q_STATS;
}

/* One row of a call by the reference: all parameters begin with rows_at, row_first, row_cap. */
static void reference_row(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct call *c = user;
    struct kept_host_call host = c->host;
    uint32_t params[KEPT_MAX_PARAM_BYTES / 4];
    memcpy(params, c->params, c->row->param_bytes);
    params[1] += item;
    params[2] = 1;
    host.params = params;
    c->row->reference(&host);
}

static void run_call(const struct device *device, struct call *c)
{
    if (c->row == NULL) {
        memcpy(c->host.bind[0], c->host.bind[1], (size_t)c->host.bind_bytes[0]);
    } else if (c->fast != NULL) {
        c->fast(&c->host, device->pool);
    } else if (takes_all_rows(c->row->id)) {
        c->row->reference(&c->host);
    } else {
        const uint32_t *step = (const uint32_t *)c->host.bind[c->row->n_binds - 1];
        kept_pool_run(device->pool, kept_live_rows(c->params, step), reference_row, c);
    }
}

static kept_status submit(struct kept_device *base, struct kept_recording *const *recordings,
                          uint32_t n, struct kept_error *err)
{
    (void)err;
    struct device *device = (struct device *)base;
    uint64_t before = kept_clock_ns();
    device->n_ns = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct recording *recording = (struct recording *)recordings[i];
        for (uint32_t j = 0; j < recording->n; j++) {
            run_call(device, &recording->calls[j]);
            uint64_t now = kept_clock_ns();
            if (device->n_ns < device->cap_ns)
                device->ns[device->n_ns++] = now - before;
            before = now;
        }
    }
    return KEPT_OK;
}

static kept_status wait(struct kept_device *device, uint64_t timeout_ns, struct kept_error *err)
{
    (void)device, (void)timeout_ns, (void)err;
    return KEPT_OK;
}

static kept_status timestamps(struct kept_device *base, uint64_t *ns, uint32_t cap, uint32_t *n,
                              struct kept_error *err)
{
    (void)err;
    const struct device *device = (const struct device *)base;
    *n = device->n_ns < cap ? device->n_ns : cap;
    memcpy(ns, device->ns, *n * sizeof *ns);
    return KEPT_OK;
}

const struct kept_backend_ops kept_backend_cpu = {
    .name = "cpu",
    .list = list,
    .device_open = device_open,
    .device_close = device_close,
    .memory_info = memory_info,
    .buf_create = buf_create,
    .buf_destroy = buf_destroy,
    .write = buf_write,
    .read = buf_read,
    .kernel_create = kernel_create,
    .kernel_destroy = kernel_destroy,
    .recording_begin = recording_begin,
    .call = call,
    .copy = copy,
    .barrier = barrier,
    .recording_end = recording_end,
    .recording_destroy = recording_destroy,
    .submit = submit,
    .wait = wait,
    .timestamps = timestamps,
};

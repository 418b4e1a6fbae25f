/* backend/opencl/ocl_recording.c: recordings, submitting them, waiting for them.
 *
 * A recorded call is a cl_kernel of its own, so its arguments are set once. A binding that is not a
 * whole buffer is a sub-buffer; equal ones are made once per recording, which owns them. In-order
 * queues and device memory shared by sub-buffers and their buffer make the order of commands the
 * only dependency, so there are no barriers to record.
 *
 * wait polls: OpenCL 1.2 has no wait with a timeout. Sleeps are an eighth of the time waited so
 * far, at most 200 us, so that polling costs neither a busy core nor a noticeable delay. Without a
 * timeout the driver's own wait is used. */
#include "backend/opencl/ocl.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/status.h"

#define MAX_SLEEP_NS 200000u
#define MIN_SLEEP_NS 5000u

struct item {
    cl_kernel kernel; /* NULL: a copy */
    size_t global[3], local[3];
    cl_mem to, from;
    size_t to_offset, from_offset, n_bytes;
};

struct sub_buffer {
    const struct kept_buf *buf;
    uint64_t offset_bytes, n_bytes;
    cl_mem mem;
};

struct ocl_recording {
    struct kept_recording base;
    struct item *items;
    uint32_t n_items, items_cap;
    struct sub_buffer *subs;
    uint32_t n_subs, subs_cap;
};

static struct ocl_device *device_of(struct kept_recording *recording)
{
    return (struct ocl_device *)recording->device;
}

kept_status ocl_recording_begin(struct kept_device *device, uint32_t max_calls,
                                struct kept_recording **out, struct kept_error *err)
{
    *out = NULL;
    struct ocl_recording *r = kept_calloc(1, sizeof *r);
    if (r != NULL)
        r->items = kept_calloc(max_calls, sizeof *r->items);
    if (r == NULL || r->items == NULL) {
        kept_free(r);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a recording of %" PRIu32 " calls",
                         max_calls);
    }
    r->base.device = device;
    r->items_cap = max_calls;
    *out = &r->base;
    return KEPT_OK;
}

/* The memory object of a binding. */
static kept_status bind_mem(struct ocl_recording *r, const struct kept_bind *bind, cl_mem *out,
                            struct kept_error *err)
{
    struct ocl_device *d = device_of(&r->base);
    if (bind->offset_bytes == 0 && bind->n_bytes == bind->buf->n_bytes) {
        *out = ((const struct ocl_buf *)bind->buf)->mem;
        return KEPT_OK;
    }
    for (uint32_t i = r->n_subs; i-- > 0;) {
        const struct sub_buffer *s = &r->subs[i];
        if (s->buf == bind->buf && s->offset_bytes == bind->offset_bytes &&
            s->n_bytes == bind->n_bytes) {
            *out = s->mem;
            return KEPT_OK;
        }
    }
    if (r->n_subs == r->subs_cap) {
        uint32_t cap = r->subs_cap * 2 + 32;
        struct sub_buffer *grown = kept_realloc_array(r->subs, cap, sizeof *grown);
        if (grown == NULL)
            return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %" PRIu32 " sub-buffers", cap);
        r->subs = grown;
        r->subs_cap = cap;
    }
    cl_int code;
    cl_buffer_region region = {(size_t)bind->offset_bytes, (size_t)bind->n_bytes};
    cl_mem mem = d->api.CreateSubBuffer(((const struct ocl_buf *)bind->buf)->mem, CL_MEM_READ_WRITE,
                                        CL_BUFFER_CREATE_TYPE_REGION, &region, &code);
    if (mem == NULL)
        return ocl_fail(err, code, "%s: bytes %" PRIu64 " to %" PRIu64 " of a buffer of %" PRIu64,
                        d->base.desc.name, bind->offset_bytes, bind->offset_bytes + bind->n_bytes,
                        bind->buf->n_bytes);
    r->subs[r->n_subs++] = (struct sub_buffer){bind->buf, bind->offset_bytes, bind->n_bytes, mem};
    *out = mem;
    return KEPT_OK;
}

static struct item *next_item(struct ocl_recording *r, struct kept_error *err)
{
    if (r->n_items < r->items_cap)
        return &r->items[r->n_items];
    kept_fail(err, KEPT_E_STATE, "the recording has its %" PRIu32 " calls already", r->items_cap);
    return NULL;
}

static kept_status set_args(struct ocl_recording *r, cl_kernel object,
                            const struct kept_kernel_row *row, const struct kept_bind *binds,
                            const void *params, struct kept_error *err)
{
    struct ocl_device *d = device_of(&r->base);
    cl_int code;
    for (uint32_t i = 0; i < row->n_binds; i++) {
        cl_mem mem;
        kept_status status = bind_mem(r, &binds[i], &mem, err);
        if (status != KEPT_OK)
            return status;
        code = d->api.SetKernelArg(object, i, sizeof mem, &mem);
        if (code != CL_SUCCESS)
            return ocl_fail(err, code, "kernel %s: binding '%s'", row->stem, row->bind_names[i]);
    }
    code = d->api.SetKernelArg(object, row->n_binds, row->param_bytes, params);
    if (code != CL_SUCCESS)
        return ocl_fail(err, code, "kernel %s: %" PRIu32 " bytes of parameters", row->stem,
                        row->param_bytes);
    return KEPT_OK;
}

kept_status ocl_call(struct kept_recording *recording, struct kept_kernel *kernel,
                     const struct kept_bind *binds, const void *params, const uint32_t grid[3],
                     struct kept_error *err)
{
    struct ocl_recording *r = (struct ocl_recording *)recording;
    struct ocl_device *d = device_of(recording);
    const struct kept_kernel_row *row = kernel->row;
    struct item *item = next_item(r, err);
    if (item == NULL)
        return KEPT_E_STATE;
    cl_int code;
    cl_kernel object =
        d->api.CreateKernel(((struct ocl_kernel *)kernel)->program, row->stem, &code);
    if (object == NULL)
        return ocl_fail(err, code, "kernel %s", row->stem);
    kept_status status = set_args(r, object, row, binds, params, err);
    if (status != KEPT_OK) {
        d->api.ReleaseKernel(object);
        return status;
    }
    *item = (struct item){.kernel = object, .local = {kernel->keys[0], 1, 1}};
    for (int i = 0; i < 3; i++)
        item->global[i] = (size_t)grid[i] * item->local[i];
    r->n_items++;
    return KEPT_OK;
}

kept_status ocl_copy(struct kept_recording *recording, struct kept_buf *to, uint64_t to_offset,
                     struct kept_buf *from, uint64_t from_offset, uint64_t n_bytes,
                     struct kept_error *err)
{
    struct ocl_recording *r = (struct ocl_recording *)recording;
    struct item *item = next_item(r, err);
    if (item == NULL)
        return KEPT_E_STATE;
    *item = (struct item){.to = ((struct ocl_buf *)to)->mem,
                          .from = ((struct ocl_buf *)from)->mem,
                          .to_offset = (size_t)to_offset,
                          .from_offset = (size_t)from_offset,
                          .n_bytes = (size_t)n_bytes};
    r->n_items++;
    return KEPT_OK;
}

kept_status ocl_barrier(struct kept_recording *recording, struct kept_error *err)
{
    (void)recording;
    (void)err;
    return KEPT_OK;
}

kept_status ocl_recording_end(struct kept_recording *recording, struct kept_error *err)
{
    (void)recording;
    (void)err;
    return KEPT_OK;
}

void ocl_recording_destroy(struct kept_recording *recording)
{
    struct ocl_recording *r = (struct ocl_recording *)recording;
    struct ocl_device *d = device_of(recording);
    for (uint32_t i = r->n_items; i-- > 0;)
        if (r->items[i].kernel != NULL)
            d->api.ReleaseKernel(r->items[i].kernel);
    for (uint32_t i = r->n_subs; i-- > 0;)
        d->api.ReleaseMemObject(r->subs[i].mem);
    kept_free(r->subs);
    kept_free(r->items);
    kept_free(r);
}

/* ---- the queue ---- */

void ocl_events_release(struct ocl_device *device)
{
    for (uint32_t i = 0; i < device->n_events; i++)
        device->api.ReleaseEvent(device->events[i]);
    device->n_events = 0;
}

static uint32_t count_items(struct kept_recording *const *recordings, uint32_t n)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += ((const struct ocl_recording *)recordings[i])->n_items;
    return count;
}

static cl_int enqueue(struct ocl_device *d, const struct item *item, cl_event *event)
{
    if (item->kernel != NULL)
        return d->api.EnqueueNDRangeKernel(d->queue, item->kernel, 3, NULL, item->global,
                                           item->local, 0, NULL, event);
    return d->api.EnqueueCopyBuffer(d->queue, item->from, item->to, item->from_offset,
                                    item->to_offset, item->n_bytes, 0, NULL, event);
}

/* Room for the events of every call; only with profiling. */
static kept_status reserve_events(struct ocl_device *d, uint32_t count, struct kept_error *err)
{
    ocl_events_release(d);
    if (count <= d->events_cap)
        return KEPT_OK;
    cl_event *grown = kept_realloc_array(d->events, count, sizeof *grown);
    if (grown == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to time %" PRIu32 " calls", count);
    d->events = grown;
    d->events_cap = count;
    return KEPT_OK;
}

kept_status ocl_submit(struct kept_device *device, struct kept_recording *const *recordings,
                       uint32_t n, struct kept_error *err)
{
    struct ocl_device *d = (struct ocl_device *)device;
    bool profile = device->caps.timestamps;
    uint32_t left = count_items(recordings, n);
    if (profile) {
        kept_status status = reserve_events(d, left, err);
        if (status != KEPT_OK)
            return status;
    }
    cl_event last = NULL;
    for (uint32_t i = 0; i < n; i++) {
        const struct ocl_recording *r = (const struct ocl_recording *)recordings[i];
        for (uint32_t k = 0; k < r->n_items; k++, left--) {
            cl_event *event = left == 1 ? &last : profile ? &d->events[d->n_events] : NULL;
            cl_int code = enqueue(d, &r->items[k], event);
            if (code != CL_SUCCESS) {
                d->api.Finish(d->queue); /* nothing of this submission is left in flight */
                return ocl_fail(err, code,
                                "%s: call %" PRIu32 " of recording %" PRIu32 " was not accepted",
                                device->desc.name, k, i);
            }
            if (profile && left != 1)
                d->n_events++;
        }
    }
    if (last != NULL) {
        if (d->last != NULL)
            d->api.ReleaseEvent(d->last);
        d->last = last;
    }
    cl_int code = d->api.Flush(d->queue);
    return code == CL_SUCCESS ? KEPT_OK : ocl_fail(err, code, "%s: flush", device->desc.name);
}

/* The execution status of the last command: CL_COMPLETE, a positive number while under way,
 * negative after a failure. */
static cl_int last_status(struct ocl_device *d)
{
    cl_int status = CL_COMPLETE;
    cl_int code = d->api.GetEventInfo(d->last, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status,
                                      &status, NULL);
    return code == CL_SUCCESS ? status : code;
}

kept_status ocl_wait(struct kept_device *device, uint64_t timeout_ns, struct kept_error *err)
{
    struct ocl_device *d = (struct ocl_device *)device;
    if (d->last == NULL)
        return KEPT_OK;
    if (timeout_ns == UINT64_MAX)
        d->api.WaitForEvents(1, &d->last); /* its failure is the event's, read below */
    uint64_t begin = kept_clock_ns();
    cl_int status;
    while ((status = last_status(d)) > CL_COMPLETE) {
        uint64_t waited = kept_clock_ns() - begin;
        if (waited >= timeout_ns)
            return kept_fail(err, KEPT_E_TIMEOUT, "%s is still busy after %" PRIu64 " ms",
                             device->desc.name, waited / 1000000);
        uint64_t sleep = waited / 8;
        sleep = sleep < MIN_SLEEP_NS ? MIN_SLEEP_NS : sleep > MAX_SLEEP_NS ? MAX_SLEEP_NS : sleep;
        kept_sleep_ns(sleep < timeout_ns - waited ? sleep : timeout_ns - waited);
    }
    if (device->caps.timestamps && d->n_events < d->events_cap) {
        d->events[d->n_events++] = d->last; /* the last call's time */
    } else {
        d->api.ReleaseEvent(d->last);
    }
    d->last = NULL;
    if (status == CL_COMPLETE)
        return KEPT_OK;
    /* A command that ended abnormally: what it and all after it left behind is unknown. */
    return kept_fail(err, KEPT_E_DEVICE_LOST, "%s was lost: a command ended with %s (%d)",
                     device->desc.name, ocl_code_name(status), (int)status);
}

kept_status ocl_timestamps(struct kept_device *device, uint64_t *ns, uint32_t cap, uint32_t *n,
                           struct kept_error *err)
{
    struct ocl_device *d = (struct ocl_device *)device;
    uint32_t count = d->n_events < cap ? d->n_events : cap;
    for (uint32_t i = 0; i < count; i++) {
        cl_ulong begin = 0, end = 0;
        cl_int code = d->api.GetEventProfilingInfo(d->events[i], CL_PROFILING_COMMAND_START,
                                                   sizeof begin, &begin, NULL);
        if (code == CL_SUCCESS)
            code = d->api.GetEventProfilingInfo(d->events[i], CL_PROFILING_COMMAND_END, sizeof end,
                                                &end, NULL);
        if (code != CL_SUCCESS)
            return ocl_fail(err, code, "%s: time of call %" PRIu32, device->desc.name, i);
        ns[i] = end > begin ? end - begin : 0;
    }
    *n = count;
    return KEPT_OK;
}

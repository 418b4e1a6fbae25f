/* backend/opencl/ocl.h: what the files of this folder share.
 *
 * One context and one in-order queue a device. A kernel is a program of one row, format and set of
 * keys, built from the embedded source or taken from the disk cache. A recording is a list of
 * cl_kernel objects whose arguments are set once, when it is recorded; submitting it enqueues them.
 * The queue is in order, so barriers cost nothing and mean nothing.
 */
#ifndef KEPT_BACKEND_OPENCL_OCL_H
#define KEPT_BACKEND_OPENCL_OCL_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <CL/cl_ext.h>
#include <CL/cl_icd.h>

#include "backend/backend.h"
#include "base/dl.h"

/* Every function that is used, by the name after "cl". All are OpenCL 1.2 core. */
#define OCL_FUNCTIONS(X)                                                                           \
    X(GetPlatformIDs) X(GetPlatformInfo) X(GetDeviceIDs) X(GetDeviceInfo)                          \
    X(CreateContext) X(ReleaseContext) X(CreateCommandQueue) X(ReleaseCommandQueue)                \
    X(CreateBuffer) X(CreateSubBuffer) X(ReleaseMemObject)                                         \
    X(EnqueueFillBuffer) X(EnqueueWriteBuffer) X(EnqueueReadBuffer) X(EnqueueCopyBuffer)           \
    X(CreateProgramWithSource) X(CreateProgramWithBinary) X(BuildProgram) X(ReleaseProgram)        \
    X(GetProgramInfo) X(GetProgramBuildInfo)                                                       \
    X(CreateKernel) X(ReleaseKernel) X(SetKernelArg) X(GetKernelWorkGroupInfo)                     \
    X(EnqueueNDRangeKernel) X(Flush) X(Finish)                                                     \
    X(WaitForEvents) X(GetEventInfo) X(GetEventProfilingInfo) X(ReleaseEvent)

struct ocl_api {
    struct kept_dl *dl;
#define X(name) cl_api_cl##name name;
    OCL_FUNCTIONS(X)
#undef X
};

/* False when there is no loader, or one too old to have every function; why gets a sentence. */
bool ocl_api_open(struct ocl_api *api, char why[160]);
void ocl_api_close(struct ocl_api *api);

/* The status that an OpenCL error code amounts to, and its name ("CL_OUT_OF_RESOURCES"). */
kept_status ocl_status_of(cl_int code);
const char *ocl_code_name(cl_int code);
/* Fills err with "what: CL_NAME (-5)" and returns the status. */
kept_status ocl_fail(struct kept_error *err, cl_int code, const char *fmt, ...) KEPT_PRINTF(3, 4);

/* ---- ocl_list.c ---- */

struct ocl_ref {
    cl_platform_id platform;
    cl_device_id device;
};

/* All devices of all platforms, in the loader's order; *refs is freed with kept_free. why as in the
 * list slot. */
kept_status ocl_enumerate(const struct ocl_api *api, struct ocl_ref **refs, uint32_t *n,
                          char why[160], struct kept_error *err);
void ocl_describe(const struct ocl_api *api, const struct ocl_ref *ref, uint32_t index,
                  struct kept_device_desc *desc);
uint64_t ocl_free_memory(const struct ocl_api *api, cl_device_id device); /* 0: unknown */
/* Queries of one device; 0, false or "" when the driver does not know the answer. */
uint64_t ocl_info_u64(const struct ocl_api *api, cl_device_id device, cl_device_info what);
void ocl_info_text(const struct ocl_api *api, cl_device_id device, cl_device_info what, char *to,
                   size_t cap_bytes);
void ocl_platform_text(const struct ocl_api *api, cl_platform_id platform, cl_platform_info what,
                       char *to, size_t cap_bytes);

/* ---- devices, kernels, recordings ---- */

struct ocl_device {
    struct kept_device base;
    struct ocl_api api;
    struct ocl_ref ref;
    cl_context context;
    cl_command_queue queue;
    cl_event last;          /* of the last command submitted; NULL when waited for */
    char *cache_dir;        /* NULL: none */
    char platform[256];     /* name and version: part of the cache's key */
    cl_event *events;       /* of the last submission's calls, when profiling */
    uint32_t n_events, events_cap;
};

struct ocl_buf {
    struct kept_buf base;
    cl_mem mem;
};

struct ocl_kernel {
    struct kept_kernel base;
    cl_program program;
};

kept_status ocl_buf_create(struct kept_device *device, uint64_t n_bytes, uint32_t flags,
                           struct kept_buf **out, struct kept_error *err);
void ocl_buf_destroy(struct kept_buf *buf);
kept_status ocl_write(struct kept_buf *buf, uint64_t offset, const void *from, uint64_t n_bytes,
                      struct kept_error *err);
kept_status ocl_read(struct kept_buf *buf, uint64_t offset, void *to, uint64_t n_bytes,
                     struct kept_error *err);

kept_status ocl_kernel_create(struct kept_device *device, const struct kept_kernel_row *row,
                              enum kept_format format, const uint32_t *keys,
                              struct kept_kernel **out, struct kept_error *err);
void ocl_kernel_destroy(struct kept_kernel *kernel);

kept_status ocl_recording_begin(struct kept_device *device, uint32_t max_calls,
                                struct kept_recording **out, struct kept_error *err);
kept_status ocl_call(struct kept_recording *recording, struct kept_kernel *kernel,
                     const struct kept_bind *binds, const void *params, const uint32_t grid[3],
                     struct kept_error *err);
kept_status ocl_copy(struct kept_recording *recording, struct kept_buf *to, uint64_t to_offset,
                     struct kept_buf *from, uint64_t from_offset, uint64_t n_bytes,
                     struct kept_error *err);
kept_status ocl_barrier(struct kept_recording *recording, struct kept_error *err);
kept_status ocl_recording_end(struct kept_recording *recording, struct kept_error *err);
void ocl_recording_destroy(struct kept_recording *recording);

kept_status ocl_submit(struct kept_device *device, struct kept_recording *const *recordings,
                       uint32_t n, struct kept_error *err);
kept_status ocl_wait(struct kept_device *device, uint64_t timeout_ns, struct kept_error *err);
kept_status ocl_timestamps(struct kept_device *device, uint64_t *ns, uint32_t cap, uint32_t *n,
                           struct kept_error *err);
void ocl_events_release(struct ocl_device *device); /* of the last submission */

/* ---- embedded sources (made by tools/dev/embed_cl.py) ---- */

struct ocl_source {
    const char *stem;
    const char *text; /* every include in place, not NUL-terminated */
    size_t n_bytes;
};
extern const struct ocl_source ocl_sources[];
extern const size_t ocl_n_sources;

#endif

/* backend/backend.h: what a backend implements (the vtable) and what everyone above calls (the
 * wrappers).
 *
 * A backend runs "kernel K with these buffers and parameters". Wrappers (kept_device_…, backend.c)
 * validate everything against the device's capabilities and log the failed condition; slots assume
 * valid input and never validate. Recordings are made once and submitted many times; what changes
 * between submissions lives in device memory. The recorder in backend.c tracks hazards by byte
 * range and asks for a barrier only where two calls conflict.
 *
 * After kept_device_seal() no buffer, kernel or recording can be created: the wrapper refuses with
 * KEPT_E_STATE.
 *
 * Thread-safety: a device and everything made from it belongs to one thread at a time; different
 * devices are independent. kept_backend_list may be called from any thread.
 */
#ifndef KEPT_BACKEND_BACKEND_H
#define KEPT_BACKEND_BACKEND_H

#include "kernel/registry.h"
#include "kept/common.h"
#include "kept/log.h"

enum kept_device_type {
    KEPT_DEVICE_DISCRETE,
    KEPT_DEVICE_INTEGRATED,
    KEPT_DEVICE_CPU,
    KEPT_DEVICE_OTHER
};

/* One face of one device, as listed. */
struct kept_device_desc {
    char name[128];
    char driver[128]; /* driver and its version, as people would write it */
    const char *api;  /* "vulkan", "opencl", "cpu" */
    uint32_t index;   /* vulkan:0 … */
    enum kept_device_type type;
    uint32_t vendor_id;                /* PCI */
    char architecture[32];             /* class from queried capabilities, "" when unknown */
    uint64_t memory_bytes, free_bytes; /* free 0: unknown */
    uint8_t uuid[16];                  /* zeros: unknown */
    uint32_t pci[4];                   /* domain, bus, device, function */
    bool has_pci;
    bool usable;
    char why_not[160]; /* a sentence when not usable */
};

/* Filled at open, read-only afterwards; 0 or false means unsupported. Decide from these, never from
 * vendor names. */
struct kept_caps {
    enum kept_device_type type;
    uint64_t max_buffer_bytes;    /* one buffer */
    uint64_t max_binding_bytes;   /* one binding of a call */
    uint32_t binding_align_bytes; /* offsets of bindings; a power of two <= 4096 */
    uint32_t max_group_lanes;     /* of a work-group in x */
    uint32_t max_shared_bytes;    /* of a work-group */
    uint32_t max_grid[3];
    uint32_t subgroup_min, subgroup_max;
    uint32_t compute_units;
    bool host_visible;        /* device memory can be mapped: no staging */
    bool host_buffers_mapped; /* KEPT_BUF_HOST buffers have a host address */
    bool subgroup_ops;        /* arithmetic and shuffles in compute */
    bool int_dot;             /* accelerated signed 4x8 */
    bool timestamps;
    uint32_t loop_turns;   /* the driver leaves loops after so many turns; 0: no such limit */
    enum kept_order order; /* preferred word order of records */
    uint32_t
        vector_width; /* 16: one work-item takes a tile as a vector (CPU-type OpenCL); else 1 */
    /* host memory the backend took at open for write and read; 0 when host_visible */
    uint64_t staging_bytes;
};

struct kept_memory_info {
    uint64_t total_bytes;  /* of the device-local heap(s) */
    uint64_t budget_bytes; /* what this process may use now; 0: unknown */
    uint64_t usage_bytes;  /* what this process uses now as the driver sees it; 0: unknown */
};

enum kept_buf_flags {
    /* Host memory that the device can read and write (staging, read-back). Has a host address where
     * caps.host_buffers_mapped; else (OpenCL) it is reached by kept_buf_write and kept_buf_read. */
    KEPT_BUF_HOST = 1,
    /* A hint: written whole before its first use (weights). The cpu backend takes huge pages for
     * it; others ignore it. */
    KEPT_BUF_FILLED = 2
};

struct kept_device_params {
    const struct kept_log *log;
    const char *cache_dir; /* for pipelines and programs; NULL: no disk cache */
    uint32_t n_threads;    /* cpu backend; 0: all */
    bool validate;         /* Vulkan validation layers, synchronization validation included */
    bool profile;          /* timestamps around every call (caps.timestamps); costs some time */
    uint32_t mask_subgroup_ops; /* tests: 1 hides the capability (a weaker device) */
    uint32_t mask_host_visible; /* tests: 1 hides mappable device memory (a card behind a bus) */
    uint32_t mask_simd;         /* tests: the cpu backend leaves out so many instruction sets */
};

struct kept_backend_ops;

/* Base parts: a backend's own structs begin with them. */
struct kept_device {
    const struct kept_backend_ops *ops;
    struct kept_device_desc desc;
    struct kept_caps caps;
    struct kept_log log;
    /* owned by the wrappers */
    uint64_t allocated_bytes, peak_bytes; /* sum of live buffers, HOST ones included */
    uint64_t n_allocations, n_kernels, n_submits;
    uint64_t fail_allocation_at, fail_submit_at; /* fault tests: the n-th from now fails; 0 never */
    bool sealed, lost;
    uint64_t n_validation_errors; /* backend: errors the validation layers reported since open */
};
struct kept_buf {
    struct kept_device *device;
    uint64_t n_bytes;
    uint32_t flags;
    void *host; /* mapped address for the buffer's whole life, or NULL */
};
struct kept_kernel {
    struct kept_device *device;
    const struct kept_kernel_row *row;
    enum kept_format format;
    uint32_t keys[KEPT_MAX_KEYS];
};
struct kept_recording {
    struct kept_device *device;
    /* owned by the wrappers */
    struct kept_hazards *hazards;
    uint32_t max_calls, n_calls, n_barriers; /* copies count as calls */
    bool ended;
};

struct kept_bind {
    struct kept_buf *buf;
    uint64_t offset_bytes; /* a multiple of caps.binding_align_bytes */
    uint64_t n_bytes;      /* a multiple of 4, not 0 */
};

struct kept_backend_ops {
    const char *name;
    /* All are required unless said. Blocking: only list, device_open, kernel_create, write, read
     * and wait may block. */

    /* Lists devices: up to cap into out, number found in *n (0 with KEPT_OK when there is none).
     * `why` gets one sentence when the API itself is unusable: no loader, or a loader but no
     * driver. */
    kept_status (*list)(const struct kept_log *log, struct kept_device_desc *out, uint32_t cap,
                        uint32_t *n, char why[160], struct kept_error *err);
    kept_status (*device_open)(uint32_t index, const struct kept_device_params *params,
                               struct kept_device **out, struct kept_error *err);
    void (*device_close)(
        struct kept_device
            *device); /* waits for the queue; everything made from it is gone already */
    kept_status (*memory_info)(struct kept_device *device, struct kept_memory_info *out,
                               struct kept_error *err);

    /* Contents are zero after create. host is set with caps.host_visible, for KEPT_BUF_HOST with
     * caps.host_buffers_mapped. */
    kept_status (*buf_create)(struct kept_device *device, uint64_t n_bytes, uint32_t flags,
                              struct kept_buf **out, struct kept_error *err);
    void (*buf_destroy)(struct kept_buf *buf);
    /* Only called for buffers without a host address and when the queue is idle; n_bytes at most 4
     * MiB a call, multiple of 4. */
    kept_status (*write)(struct kept_buf *buf, uint64_t offset, const void *from, uint64_t n_bytes,
                         struct kept_error *err);
    kept_status (*read)(struct kept_buf *buf, uint64_t offset, void *to, uint64_t n_bytes,
                        struct kept_error *err);

    /* May take seconds (compilation). keys has row->n_keys values; format is 0 for kernels without
     * that axis. */
    kept_status (*kernel_create)(struct kept_device *device, const struct kept_kernel_row *row,
                                 enum kept_format format, const uint32_t *keys,
                                 struct kept_kernel **out, struct kept_error *err);
    void (*kernel_destroy)(struct kept_kernel *kernel);

    kept_status (*recording_begin)(struct kept_device *device, uint32_t max_calls,
                                   struct kept_recording **out, struct kept_error *err);
    /* params: row->param_bytes, copied. Records, never blocks. */
    kept_status (*call)(struct kept_recording *recording, struct kept_kernel *kernel,
                        const struct kept_bind *binds, const void *params, const uint32_t grid[3],
                        struct kept_error *err);
    kept_status (*copy)(struct kept_recording *recording, struct kept_buf *to, uint64_t to_offset,
                        struct kept_buf *from, uint64_t from_offset, uint64_t n_bytes,
                        struct kept_error *err);
    kept_status (*barrier)(struct kept_recording *recording, struct kept_error *err);
    kept_status (*recording_end)(struct kept_recording *recording, struct kept_error *err);
    void (*recording_destroy)(struct kept_recording *recording);

    /* Queues recordings in order; host writes made before are visible to them. The same recording
     * is never queued twice without a wait in between. */
    kept_status (*submit)(struct kept_device *device, struct kept_recording *const *recordings,
                          uint32_t n, struct kept_error *err);
    /* Waits until everything submitted is done and its results are visible to the host, or for
     * timeout_ns (KEPT_E_TIMEOUT, not logged). */
    kept_status (*wait)(struct kept_device *device, uint64_t timeout_ns, struct kept_error *err);
    /* Optional (NULL: caps.timestamps is false): device time of the last submission's calls and
     * copies, ns each, in order; after wait. */
    kept_status (*timestamps)(struct kept_device *device, uint64_t *ns, uint32_t cap, uint32_t *n,
                              struct kept_error *err);
};

/* One const table per backend; a backend left out of the build is a stub whose list() says so. */
extern const struct kept_backend_ops kept_backend_cpu, kept_backend_vulkan, kept_backend_opencl;
#define KEPT_BACKENDS 3
const struct kept_backend_ops *kept_backend_at(uint32_t i);         /* vulkan, opencl, cpu */
const struct kept_backend_ops *kept_backend_find(const char *name); /* NULL when unknown */

/* Wrappers: validate, count, call the slot. */
kept_status kept_backend_list(const struct kept_backend_ops *ops, const struct kept_log *log,
                              struct kept_device_desc *out, uint32_t cap, uint32_t *n,
                              char why[160], struct kept_error *err);
kept_status kept_device_open(const struct kept_backend_ops *ops, uint32_t index,
                             const struct kept_device_params *params, struct kept_device **out,
                             struct kept_error *err);
void kept_device_close(struct kept_device **device);
kept_status kept_device_memory(struct kept_device *device, struct kept_memory_info *out,
                               struct kept_error *err);
void kept_device_seal(struct kept_device *device);   /* from here on nothing can be created */
void kept_device_unseal(struct kept_device *device); /* a new plan on the same device begins */

kept_status kept_buf_create(struct kept_device *device, const char *name, uint64_t n_bytes,
                            uint32_t flags, struct kept_buf **out, struct kept_error *err);
void kept_buf_destroy(struct kept_buf **buf);
/* Any size and, for host-visible memory, any alignment; wait first if the queue uses the buffer.
 * Splits into pieces of 4 MiB. */
kept_status kept_buf_write(struct kept_buf *buf, uint64_t offset, const void *from,
                           uint64_t n_bytes, struct kept_error *err);
kept_status kept_buf_read(struct kept_buf *buf, uint64_t offset, void *to, uint64_t n_bytes,
                          struct kept_error *err);

kept_status kept_kernel_create(struct kept_device *device, enum kept_kernel_id id,
                               enum kept_format format, const uint32_t *keys,
                               struct kept_kernel **out, struct kept_error *err);
void kept_kernel_destroy(struct kept_kernel **kernel);

kept_status kept_recording_begin(struct kept_device *device, uint32_t max_calls,
                                 struct kept_recording **out, struct kept_error *err);
kept_status kept_recording_call(struct kept_recording *recording, struct kept_kernel *kernel,
                                const struct kept_bind *binds, const void *params,
                                const uint32_t grid[3], struct kept_error *err);
kept_status kept_recording_copy(struct kept_recording *recording, struct kept_buf *to,
                                uint64_t to_offset, struct kept_buf *from, uint64_t from_offset,
                                uint64_t n_bytes, struct kept_error *err);
kept_status kept_recording_end(struct kept_recording *recording, struct kept_error *err);
void kept_recording_destroy(struct kept_recording **recording);

kept_status kept_submit(struct kept_device *device, struct kept_recording *const *recordings,
                        uint32_t n, struct kept_error *err);
kept_status kept_wait(struct kept_device *device, uint64_t timeout_ns, struct kept_error *err);
/* KEPT_E_UNSUPPORTED without caps.timestamps. */
kept_status kept_timestamps(struct kept_device *device, uint64_t *ns, uint32_t cap, uint32_t *n,
                            struct kept_error *err);

#endif

/* kept/device.h: listing devices, opening one, and profiles: what planning needs to know of a
 * device.
 *
 * A device is one GPU or CPU seen through one API: "vulkan:0", "opencl:1", "cpu". The same card
 * seen through several drivers or APIs is listed once per face; `same_as` names the first face. The
 * library starts on machines that have none of the loaders and says why.
 */
#ifndef KEPT_DEVICE_H
#define KEPT_DEVICE_H

#include "common.h"
#include "log.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What planning needs of a device: plain numbers, so that it can be written to a file and planned
 * for elsewhere. */
struct kept_profile {
    char id[32]; /* "vulkan:0" */
    char name[128];
    char driver[128];      /* driver and version */
    char api[16];          /* "vulkan", "opencl", "cpu" */
    char type[16];         /* "discrete", "integrated", "cpu", "other" */
    char architecture[32]; /* class from queried capabilities; "" when unknown */
    uint32_t vendor_id;    /* PCI */
    uint64_t memory_bytes; /* device-local memory (cpu: RAM) */
    uint64_t free_bytes;   /* what this process may still use; 0: unknown */
    uint64_t max_buffer_bytes, max_binding_bytes;
    uint32_t binding_align_bytes;
    uint64_t
        staging_bytes; /* host memory the backend holds for transfers; 0 where memory is mapped */
    uint32_t max_group_lanes, max_shared_bytes;
    uint32_t subgroup_min, subgroup_max;
    uint32_t compute_units;
    uint32_t vector_width; /* 16: kernels use 16-wide vectors in one work-item */
    uint32_t word_order;   /* 0 lane order, 1 vector order of weight records */
    uint32_t loop_turns;   /* the driver leaves loops after so many turns; 0: no such limit */
    bool host_visible;     /* device memory can be mapped */
    bool
        /* host memory that the device reads has an address: step data is copied by recordings */
        host_buffers_mapped;
    bool subgroup_ops, int_dot, timestamps;
};

struct kept_device_info {
    struct kept_profile profile; /* limits are 0 for devices that were listed but not opened */
    uint8_t uuid[16];            /* zeros: unknown */
    char same_as[32];            /* id of the first face of the same card, or "" */
    bool usable;
    char why_not[160];
};

struct kept_api_info {
    char api[16];
    uint32_t n_devices;
    char why[160]; /* why the API gives no devices: no loader, loader but no driver; "" otherwise */
};

struct kept_device_list {
    struct kept_device_info *devices;
    uint32_t n_devices;
    struct kept_api_info apis[3];
    uint32_t n_apis;
};

/* Lists every face of every device, and per API why there is none. Never fails for lack of a
 * driver. Blocks for the drivers' start-up. Thread-safety: any thread. */
KEPT_API kept_status kept_device_list_create(const struct kept_log *log,
                                             struct kept_device_list **out, struct kept_error *err);
KEPT_API void kept_device_list_destroy(struct kept_device_list **list);

typedef struct kept_device kept_device;

struct kept_device_options {
    const struct kept_log *log;
    const char
        *cache_dir;     /* for compiled kernels; NULL: the user's cache folder; "": no disk cache */
    uint32_t n_threads; /* cpu; 0: all */
    bool validate;      /* Vulkan validation layers */
};

/* Opens "auto", "vulkan", "vulkan:1", "opencl", "opencl:0" or "cpu". auto: a discrete GPU, else an
 * integrated one, else the cpu; devices of CPU type (software Vulkan or OpenCL) only when named.
 * choice (NULL allowed) receives one sentence saying what was taken and why. KEPT_E_NO_DEVICE when
 * nothing of that name is usable, with the reason. Thread-safety: a device belongs to one thread at
 * a time. */
KEPT_API kept_status kept_device_create(const char *spec, const struct kept_device_options *options,
                                        kept_device **out, char choice[256],
                                        struct kept_error *err);
/* Sessions on it must be destroyed first. */
KEPT_API void kept_device_destroy(kept_device **device);
KEPT_API void kept_device_profile(kept_device *device, struct kept_profile *out);

#ifdef __cplusplus
}
#endif
#endif

/* backend/vulkan/vk.h: what the files of the Vulkan backend share.
 *
 *   vk_loader.c     the loader, once per process; names of results; errors
 *   vk_instance.c   one instance per list or open, with the validation layers when asked for
 *   vk_card.c       everything queried from one physical device: listing and capabilities
 *   vk_device.c     opening and closing a device
 *   vk_memory.c     buffers, staging, the memory budget
 *   vk_cache.c      the pipeline cache on disk
 *   vk_kernel.c     layouts and pipelines
 *   vk_recording.c  command buffers and descriptor sets
 *   vk_submit.c     submission, waiting, timestamps
 *
 * Functions of the instance are held per instance, functions of the device in volk's table per
 * device: nothing is called through a global except the loader's own entry points.
 */
#ifndef KEPT_BACKEND_VULKAN_VK_H
#define KEPT_BACKEND_VULKAN_VK_H

#include <volk.h>

#include "backend/backend.h"

#define VK_INSTANCE_FUNCTIONS(X)             \
    X(DestroyInstance)                       \
    X(EnumeratePhysicalDevices)              \
    X(EnumerateDeviceExtensionProperties)    \
    X(GetPhysicalDeviceProperties)           \
    X(GetPhysicalDeviceProperties2)          \
    X(GetPhysicalDeviceFeatures2)            \
    X(GetPhysicalDeviceMemoryProperties2)    \
    X(GetPhysicalDeviceQueueFamilyProperties) \
    X(CreateDevice)
#define VK_DEBUG_FUNCTIONS(X)        \
    X(CreateDebugUtilsMessengerEXT)  \
    X(DestroyDebugUtilsMessengerEXT) \
    X(SetDebugUtilsObjectNameEXT)

struct vk_instance {
    VkInstance handle;
    uint32_t api_version; /* what was asked for: 1.1 to 1.3 */
    bool debug_utils;
    VkDebugUtilsMessengerEXT messenger;
    struct kept_log log;
    uint64_t *n_errors; /* of the validation layers: own_errors until a device takes over */
    uint64_t own_errors;
#define X(name) PFN_vk##name name;
    VK_INSTANCE_FUNCTIONS(X)
    VK_DEBUG_FUNCTIONS(X) /* NULL without VK_EXT_debug_utils */
#undef X
};

/* Extensions that are used when present. X(BIT, "name", Vulkan version that has it in its core;
 * 0: none). */
#define VK_EXTENSION_LIST(X)                                                     \
    X(BUDGET, "VK_EXT_memory_budget", 0)                                         \
    X(PCI, "VK_EXT_pci_bus_info", 0)                                             \
    X(DRIVER, "VK_KHR_driver_properties", VK_API_VERSION_1_2)                    \
    X(SUBGROUP_SIZE, "VK_EXT_subgroup_size_control", VK_API_VERSION_1_3)         \
    X(INT_DOT, "VK_KHR_shader_integer_dot_product", VK_API_VERSION_1_3)          \
    X(MAINTENANCE4, "VK_KHR_maintenance4", VK_API_VERSION_1_3)                   \
    X(AMD_CORE, "VK_AMD_shader_core_properties", 0)                              \
    X(AMD_CORE2, "VK_AMD_shader_core_properties2", 0)                            \
    X(NV_SM, "VK_NV_shader_sm_builtins", 0)                                      \
    X(COOPMAT, "VK_KHR_cooperative_matrix", 0)

enum vk_extension {
#define X(BIT, name, core) VK_EXT_AT_##BIT,
    VK_EXTENSION_LIST(X)
#undef X
    VK_EXT_COUNT
};

/* One physical device as queried. */
struct vk_card {
    VkPhysicalDevice handle;
    VkPhysicalDeviceProperties props;
    VkPhysicalDeviceMemoryProperties memory;
    uint32_t api_version;    /* usable: the smaller of the device's and the instance's */
    uint32_t extensions;     /* bit per vk_extension: usable, by extension or core */
    uint32_t named;          /* bit per vk_extension: listed by name, so that it is to be enabled */
    uint32_t queue_family;   /* UINT32_MAX: none with compute */
    uint32_t timestamp_bits; /* of that family; 0: none */
    uint32_t device_type_index, host_type_index; /* memory types; UINT32_MAX: none */
    bool device_mappable;    /* memory of device_type_index can be mapped */
    struct kept_device_desc desc;
    struct kept_caps caps;
};

/* Layouts of one registry row, shared by its kernels. */
struct vk_row {
    VkDescriptorSetLayout set;
    VkPipelineLayout pipeline;
};

#define VK_STAGING_BYTES (4u << 20)
#define VK_FENCES 8u

struct vk_recording;

struct vk_device {
    struct kept_device base;
    struct vk_instance *instance;
    struct vk_card card;
    struct VolkDeviceTable fn;
    VkDevice handle;
    VkQueue queue;
    bool profile;

    /* Fences of submissions that are not waited for: the first n_fences are in flight. When all
     * were, `uncovered`: submissions came behind them without one. */
    VkFence fences[VK_FENCES];
    uint32_t n_fences;
    bool uncovered;

    /* Fills and staged transfers: one command buffer, one mapped buffer (none when device memory
     * can be mapped). */
    VkCommandPool transfer_pool;
    VkCommandBuffer transfer;
    VkBuffer staging;
    VkDeviceMemory staging_memory;
    void *staging_host;

    VkPipelineCache cache;
    char *cache_path;     /* NULL: no disk cache */
    uint64_t cache_hash;  /* of what was loaded; 0: nothing */
    struct vk_row rows[KEPT_KERNEL_COUNT];

    struct vk_recording *profiled; /* recordings of the last submission, linked by next_profiled */
};

struct vk_buf {
    struct kept_buf base;
    VkBuffer handle;
    VkDeviceMemory memory;
};

struct vk_kernel {
    struct kept_kernel base;
    VkPipeline pipeline;
};

struct vk_recording {
    struct kept_recording base;
    VkCommandPool pool;
    VkCommandBuffer commands;
    VkDescriptorPool sets;
    VkQueryPool queries; /* two per call when the device was opened for profiling */
    uint32_t n_timed;
    VkPipeline bound;    /* while recording */
    struct vk_recording *next_profiled;
};

static inline struct vk_device *vk_device(struct kept_device *device)
{
    return (struct vk_device *)device;
}

static inline bool vk_card_has(const struct vk_card *card, enum vk_extension extension)
{
    return (card->extensions >> extension & 1u) != 0;
}

/* vk_loader.c. False: there is no loader. Thread-safety: any thread. */
bool vk_loader_open(void);
/* Fills the device's table through the loader; the instance belongs to a device that exists. */
void vk_loader_fill(struct VolkDeviceTable *table, const struct vk_instance *instance,
                    VkDevice device);
const char *vk_result_name(VkResult result);
kept_status vk_status(VkResult result); /* KEPT_OK for VK_SUCCESS */
/* "<formatted>: VK_ERROR_…" with the status that goes with the result. */
kept_status vk_fail(struct kept_error *err, VkResult result, const char *fmt, ...)
    KEPT_PRINTF(3, 4);

/* vk_instance.c. When there is no loader or no driver: KEPT_OK, *out NULL and the reason in
 * `why`. */
kept_status vk_instance_create(const struct kept_log *log, bool validate, bool name_objects,
                               struct vk_instance **out, char why[160], struct kept_error *err);
void vk_instance_destroy(struct vk_instance **instance);
/* The physical devices, in the loader's order; *out is freed with kept_free. */
kept_status vk_instance_cards(const struct vk_instance *instance, VkPhysicalDevice **out,
                              uint32_t *n, struct kept_error *err);

/* vk_card.c */
kept_status vk_card_query(const struct vk_instance *instance, VkPhysicalDevice handle,
                          uint32_t index, struct vk_card *out, struct kept_error *err);
/* Budget and usage of the heap that buffers come from; zeros when the driver does not tell. */
void vk_card_memory(const struct vk_instance *instance, const struct vk_card *card,
                    struct kept_memory_info *out);

/* vk_memory.c */
kept_status vk_memory_open(struct vk_device *device, struct kept_error *err);
void vk_memory_close(struct vk_device *device);
kept_status vk_memory_info(struct kept_device *device, struct kept_memory_info *out,
                           struct kept_error *err);
kept_status vk_buf_create(struct kept_device *device, uint64_t n_bytes, uint32_t flags,
                          struct kept_buf **out, struct kept_error *err);
void vk_buf_destroy(struct kept_buf *buf);
kept_status vk_buf_write(struct kept_buf *buf, uint64_t offset, const void *from, uint64_t n_bytes,
                         struct kept_error *err);
kept_status vk_buf_read(struct kept_buf *buf, uint64_t offset, void *to, uint64_t n_bytes,
                        struct kept_error *err);

/* vk_cache.c. A missing or bad file is a miss; only a failing driver or host memory is an error. */
kept_status vk_cache_open(struct vk_device *device, const char *cache_dir, struct kept_error *err);
/* Writes the cache back when it differs from the file; failures are logged. */
void vk_cache_close(struct vk_device *device);

/* vk_kernel.c */
kept_status vk_kernel_create(struct kept_device *device, const struct kept_kernel_row *row,
                             enum kept_format format, const uint32_t *keys,
                             struct kept_kernel **out, struct kept_error *err);
void vk_kernel_destroy(struct kept_kernel *kernel);
void vk_rows_close(struct vk_device *device);

/* vk_recording.c */
kept_status vk_recording_begin(struct kept_device *device, uint32_t max_calls,
                               struct kept_recording **out, struct kept_error *err);
kept_status vk_recording_call(struct kept_recording *recording, struct kept_kernel *kernel,
                              const struct kept_bind *binds, const void *params,
                              const uint32_t grid[3], struct kept_error *err);
kept_status vk_recording_copy(struct kept_recording *recording, struct kept_buf *to,
                              uint64_t to_offset, struct kept_buf *from, uint64_t from_offset,
                              uint64_t n_bytes, struct kept_error *err);
kept_status vk_recording_barrier(struct kept_recording *recording, struct kept_error *err);
kept_status vk_recording_end(struct kept_recording *recording, struct kept_error *err);
void vk_recording_destroy(struct kept_recording *recording);
/* Makes everything before it visible to everything after it, to the host too when `host`. */
void vk_record_barrier(const struct vk_device *device, VkCommandBuffer commands, bool host);

/* vk_submit.c */
kept_status vk_submit(struct kept_device *device, struct kept_recording *const *recordings,
                      uint32_t n, struct kept_error *err);
/* Queues command buffers; the next vk_wait covers them. */
kept_status vk_submit_commands(struct vk_device *device, const VkCommandBuffer *commands,
                               uint32_t n, struct kept_error *err);
kept_status vk_wait(struct kept_device *device, uint64_t timeout_ns, struct kept_error *err);
kept_status vk_timestamps(struct kept_device *device, uint64_t *ns, uint32_t cap, uint32_t *n,
                          struct kept_error *err);

#endif

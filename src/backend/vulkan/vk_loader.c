/* backend/vulkan/vk_loader.c: the Vulkan loader and the words for its results.
 *
 * The loader is opened once per process and stays. volk keeps its entry points in globals; two
 * of them are written here, under a lock, the first time: the functions that need no instance,
 * and vkGetDeviceProcAddr, which volk's per-device tables are filled through (the loader's own
 * entry: the same for every instance). A failed attempt leaves nothing behind, so a later call
 * tries again.
 */
#include "backend/vulkan/vk.h"

#include <stdatomic.h>

#define VOLK_IMPLEMENTATION
#include <volk.h>

#include "base/clock.h"
#include "base/status.h"
#include "base/str.h"

static atomic_flag loader_lock = ATOMIC_FLAG_INIT;

static void lock(void)
{
    while (atomic_flag_test_and_set_explicit(&loader_lock, memory_order_acquire))
        kept_sleep_ns(20000);
}

static void unlock(void)
{
    atomic_flag_clear_explicit(&loader_lock, memory_order_release);
}

bool vk_loader_open(void)
{
    lock();
    bool ok = vkGetInstanceProcAddr != NULL && vkCreateInstance != NULL;
    if (!ok)
        ok = volkInitialize() == VK_SUCCESS && vkCreateInstance != NULL;
    unlock();
    return ok;
}

void vk_loader_fill(struct VolkDeviceTable *table, const struct vk_instance *instance,
                    VkDevice device)
{
    lock();
    if (vkGetDeviceProcAddr == NULL)
        vkGetDeviceProcAddr = (PFN_vkGetDeviceProcAddr)vkGetInstanceProcAddr(
            instance->handle, "vkGetDeviceProcAddr");
    unlock();
    volkLoadDeviceTable(table, device);
}

const char *vk_result_name(VkResult result)
{
    switch (result) {
#define X(name) \
    case name:  \
        return #name;
        X(VK_SUCCESS)
        X(VK_NOT_READY)
        X(VK_TIMEOUT)
        X(VK_INCOMPLETE)
        X(VK_ERROR_OUT_OF_HOST_MEMORY)
        X(VK_ERROR_OUT_OF_DEVICE_MEMORY)
        X(VK_ERROR_INITIALIZATION_FAILED)
        X(VK_ERROR_DEVICE_LOST)
        X(VK_ERROR_MEMORY_MAP_FAILED)
        X(VK_ERROR_LAYER_NOT_PRESENT)
        X(VK_ERROR_EXTENSION_NOT_PRESENT)
        X(VK_ERROR_FEATURE_NOT_PRESENT)
        X(VK_ERROR_INCOMPATIBLE_DRIVER)
        X(VK_ERROR_TOO_MANY_OBJECTS)
        X(VK_ERROR_FRAGMENTED_POOL)
        X(VK_ERROR_OUT_OF_POOL_MEMORY)
        X(VK_ERROR_INVALID_SHADER_NV)
        X(VK_ERROR_UNKNOWN)
#undef X
    default:
        return "an unnamed VkResult";
    }
}

kept_status vk_status(VkResult result)
{
    switch (result) {
    case VK_SUCCESS:
        return KEPT_OK;
    case VK_TIMEOUT:
    case VK_NOT_READY:
        return KEPT_E_TIMEOUT;
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        return KEPT_E_HOST_MEMORY;
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
    case VK_ERROR_TOO_MANY_OBJECTS:
        return KEPT_E_DEVICE_MEMORY;
    case VK_ERROR_DEVICE_LOST:
        return KEPT_E_DEVICE_LOST;
    default:
        return KEPT_E_DRIVER;
    }
}

kept_status vk_fail(struct kept_error *err, VkResult result, const char *fmt, ...)
{
    char what[400];
    va_list args;
    va_start(args, fmt);
    kept_vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return kept_fail(err, vk_status(result), "%s: %s (%d)", what, vk_result_name(result),
                     (int)result);
}

/* backend/vulkan/vk_instance.c: one VkInstance per listing and per open device.
 *
 * An instance of its own costs some milliseconds and keeps devices independent: no reference
 * counts, no shared state, and the validation messages of a device reach that device's log and
 * counter. With `validate` the Khronos layer is required, synchronization validation on;
 * without it nothing but the loader's implicit layers is in the way.
 */
#include "backend/vulkan/vk.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"

#define VALIDATION_LAYER "VK_LAYER_KHRONOS_validation"

static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                 VkDebugUtilsMessageTypeFlagsEXT types,
                                                 const VkDebugUtilsMessengerCallbackDataEXT *data,
                                                 void *user)
{
    struct vk_instance *instance = user;
    bool error = severity >= VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    /* The general type is the loader's own talk, which reaches the log only as a remark. */
    bool ours = (types & (VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT |
                          VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT)) != 0;
    if (error && ours)
        (*instance->n_errors)++;
    enum kept_log_level level = !ours ? KEPT_LOG_DEBUG : error ? KEPT_LOG_ERROR : KEPT_LOG_WARN;
    kept_logf(&instance->log, level, "vulkan validation: %s", data->pMessage);
    return VK_FALSE;
}

static bool layer_present(void)
{
    uint32_t n = 0;
    if (vkEnumerateInstanceLayerProperties(&n, NULL) != VK_SUCCESS || n == 0)
        return false;
    VkLayerProperties *layers = kept_calloc(n, sizeof *layers);
    if (layers == NULL)
        return false;
    VkResult r = vkEnumerateInstanceLayerProperties(&n, layers);
    bool found = false;
    for (uint32_t i = 0; i < n && r >= 0 && !found; i++)
        found = strcmp(layers[i].layerName, VALIDATION_LAYER) == 0;
    kept_free(layers);
    return found;
}

static bool extension_present(const char *name)
{
    uint32_t n = 0;
    if (vkEnumerateInstanceExtensionProperties(NULL, &n, NULL) != VK_SUCCESS || n == 0)
        return false;
    VkExtensionProperties *all = kept_calloc(n, sizeof *all);
    if (all == NULL)
        return false;
    VkResult r = vkEnumerateInstanceExtensionProperties(NULL, &n, all);
    bool found = false;
    for (uint32_t i = 0; i < n && r >= 0 && !found; i++)
        found = strcmp(all[i].extensionName, name) == 0;
    kept_free(all);
    return found;
}

/* vkCreateInstance with what was asked for; the messenger in the chain hears what happens
 * meanwhile. */
static VkResult create(struct vk_instance *instance, bool validate,
                       const VkDebugUtilsMessengerCreateInfoEXT *messenger)
{
    const VkValidationFeatureEnableEXT checks[] = {
        VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
    VkValidationFeaturesEXT features = {
        .sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
        .pNext = messenger,
        .enabledValidationFeatureCount = 1,
        .pEnabledValidationFeatures = checks,
    };
    VkApplicationInfo app = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
        .pApplicationName = "kept",
        .pEngineName = "kept",
        .apiVersion = instance->api_version,
    };
    const char *layers[] = {VALIDATION_LAYER};
    const char *extensions[] = {VK_EXT_DEBUG_UTILS_EXTENSION_NAME};
    VkInstanceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .pNext = validate ? &features : NULL,
        .pApplicationInfo = &app,
        .enabledLayerCount = validate ? 1 : 0,
        .ppEnabledLayerNames = layers,
        .enabledExtensionCount = instance->debug_utils ? 1 : 0,
        .ppEnabledExtensionNames = extensions,
    };
    return vkCreateInstance(&info, NULL, &instance->handle);
}

static bool load_functions(struct vk_instance *instance)
{
    bool complete = true;
#define X(name)                                                                            \
    instance->name = (PFN_vk##name)vkGetInstanceProcAddr(instance->handle, "vk" #name);    \
    complete = complete && instance->name != NULL;
    VK_INSTANCE_FUNCTIONS(X)
    if (instance->debug_utils) {
        VK_DEBUG_FUNCTIONS(X)
    }
#undef X
    return complete;
}

kept_status vk_instance_create(const struct kept_log *log, bool validate, bool name_objects,
                               struct vk_instance **out, char why[160], struct kept_error *err)
{
    *out = NULL;
    why[0] = '\0';
    if (!vk_loader_open()) {
        kept_snprintf(why, 160, "there is no Vulkan loader (libvulkan.so.1) on this machine");
        return KEPT_OK;
    }
    uint32_t version = VK_API_VERSION_1_0;
    if (vkEnumerateInstanceVersion == NULL ||
        vkEnumerateInstanceVersion(&version) != VK_SUCCESS || version < VK_API_VERSION_1_1) {
        kept_snprintf(why, 160, "the Vulkan loader is older than version 1.1");
        return KEPT_OK;
    }
    if (validate && !layer_present())
        return kept_fail(err, KEPT_E_UNSUPPORTED,
                         "the Vulkan validation layers are asked for but not installed");
    struct vk_instance *instance = kept_calloc(1, sizeof *instance);
    if (instance == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for a Vulkan instance");
    instance->n_errors = &instance->own_errors;
    if (log != NULL)
        instance->log = *log;
    instance->api_version = version < VK_API_VERSION_1_3 ? version : VK_API_VERSION_1_3;
    instance->debug_utils =
        validate || (name_objects && extension_present(VK_EXT_DEBUG_UTILS_EXTENSION_NAME));

    VkDebugUtilsMessengerCreateInfoEXT messenger = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT |
                           VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_GENERAL_BIT_EXT |
                       VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT |
                       VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT,
        .pfnUserCallback = on_message,
        .pUserData = instance,
    };
    kept_status status = KEPT_OK;
    VkResult r = create(instance, validate, &messenger);
    if (r == VK_ERROR_INCOMPATIBLE_DRIVER) {
        kept_snprintf(why, 160, "the Vulkan loader finds no driver");
        goto drop;
    }
    if (r != VK_SUCCESS) {
        status = vk_fail(err, r, "a Vulkan instance cannot be made (vkCreateInstance)");
        instance->handle = VK_NULL_HANDLE;
        goto drop;
    }
    if (!load_functions(instance)) {
        status = kept_fail(err, KEPT_E_DRIVER, "the Vulkan loader lacks functions of version 1.1");
        goto drop;
    }
    if (validate) {
        r = instance->CreateDebugUtilsMessengerEXT(instance->handle, &messenger, NULL,
                                                   &instance->messenger);
        if (r != VK_SUCCESS) {
            status = vk_fail(err, r, "vkCreateDebugUtilsMessengerEXT");
            goto drop;
        }
    }
    *out = instance;
    return KEPT_OK;
drop:
    vk_instance_destroy(&instance);
    return status;
}

void vk_instance_destroy(struct vk_instance **pointer)
{
    struct vk_instance *instance = *pointer;
    if (instance == NULL)
        return;
    if (instance->messenger != VK_NULL_HANDLE)
        instance->DestroyDebugUtilsMessengerEXT(instance->handle, instance->messenger, NULL);
    if (instance->handle != VK_NULL_HANDLE && instance->DestroyInstance != NULL)
        instance->DestroyInstance(instance->handle, NULL);
    kept_free(instance);
    *pointer = NULL;
}

kept_status vk_instance_cards(const struct vk_instance *instance, VkPhysicalDevice **out,
                              uint32_t *n, struct kept_error *err)
{
    *out = NULL;
    *n = 0;
    uint32_t count = 0;
    VkResult r = instance->EnumeratePhysicalDevices(instance->handle, &count, NULL);
    /* A loader whose drivers all failed to start says so here. */
    if (r == VK_ERROR_INITIALIZATION_FAILED || (r == VK_SUCCESS && count == 0))
        return KEPT_OK;
    if (r != VK_SUCCESS)
        return vk_fail(err, r, "vkEnumeratePhysicalDevices");
    VkPhysicalDevice *handles = kept_calloc(count, sizeof *handles);
    if (handles == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for %u Vulkan devices",
                         (unsigned)count);
    r = instance->EnumeratePhysicalDevices(instance->handle, &count, handles);
    if (r != VK_SUCCESS && r != VK_INCOMPLETE) {
        kept_free(handles);
        return vk_fail(err, r, "vkEnumeratePhysicalDevices");
    }
    *out = handles;
    *n = count;
    return KEPT_OK;
}

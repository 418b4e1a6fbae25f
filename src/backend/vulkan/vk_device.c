/* backend/vulkan/vk_device.c: listing, opening and closing devices, and the backend's table.
 *
 * A device is an instance, one queue of one family, a transfer command buffer with its staging
 * buffer, the fences of submissions in flight, the pipeline cache and the layouts of the
 * registry rows. Opening builds them in that order; closing takes a half-built device apart in
 * the reverse order.
 */
#include "backend/vulkan/vk.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"

static kept_status list(const struct kept_log *log, struct kept_device_desc *out, uint32_t cap,
                        uint32_t *n, char why[160], struct kept_error *err)
{
    struct vk_instance *instance;
    kept_status status = vk_instance_create(log, false, false, &instance, why, err);
    if (status != KEPT_OK)
        return status;
    if (instance == NULL) {
        *n = 0;
        return KEPT_OK;
    }
    VkPhysicalDevice *handles = NULL;
    uint32_t n_cards = 0;
    status = vk_instance_cards(instance, &handles, &n_cards, err);
    if (status == KEPT_OK && n_cards == 0)
        kept_snprintf(why, 160, "there is a Vulkan loader, but no driver offers a device");
    for (uint32_t i = 0; i < n_cards && i < cap && status == KEPT_OK; i++) {
        struct vk_card card;
        status = vk_card_query(instance, handles[i], i, &card, err);
        if (status == KEPT_OK)
            out[i] = card.desc;
    }
    if (status == KEPT_OK)
        *n = n_cards;
    kept_free(handles);
    vk_instance_destroy(&instance);
    return status;
}

/* Finds the card and refuses what cannot be used. */
static kept_status choose_card(struct vk_device *device, uint32_t index, struct kept_error *err)
{
    VkPhysicalDevice *handles;
    uint32_t n;
    kept_status status = vk_instance_cards(device->instance, &handles, &n, err);
    if (status != KEPT_OK)
        return status;
    if (index >= n)
        status = kept_fail(err, KEPT_E_NO_DEVICE, "there is no device vulkan:%u; %u are listed",
                           (unsigned)index, (unsigned)n);
    else
        status = vk_card_query(device->instance, handles[index], index, &device->card, err);
    kept_free(handles);
    if (status == KEPT_OK && !device->card.desc.usable)
        status = kept_fail(err, KEPT_E_NO_DEVICE, "vulkan:%u (%s) is not usable: %s",
                           (unsigned)index, device->card.desc.name, device->card.desc.why_not);
    return status;
}

static kept_status create_device(struct vk_device *device, struct kept_error *err)
{
    struct vk_card *card = &device->card;
    const float priority = 0.5f;
    VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
        .queueFamilyIndex = card->queue_family,
        .queueCount = 1,
        .pQueuePriorities = &priority,
    };
    /* The only feature that is used, when present; the rest is Vulkan 1.1 without features. */
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2};
    const char *extensions[2];
    uint32_t n_extensions = 0;
    if (vk_card_has(card, VK_EXT_AT_INT_DOT)) {
        features.pNext = &dot;
        device->instance->GetPhysicalDeviceFeatures2(card->handle, &features);
        memset(&features.features, 0, sizeof features.features);
        if (card->named >> VK_EXT_AT_INT_DOT & 1u)
            extensions[n_extensions++] = VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME;
    }
    card->caps.int_dot = card->caps.int_dot && dot.shaderIntegerDotProduct == VK_TRUE;
    if (vk_card_has(card, VK_EXT_AT_BUDGET))
        extensions[n_extensions++] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
    VkDeviceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .pNext = &features,
        .queueCreateInfoCount = 1,
        .pQueueCreateInfos = &queue,
        .enabledExtensionCount = n_extensions,
        .ppEnabledExtensionNames = extensions,
    };
    VkResult r = device->instance->CreateDevice(card->handle, &info, NULL, &device->handle);
    if (r != VK_SUCCESS) {
        device->handle = VK_NULL_HANDLE;
        return vk_fail(err, r, "vulkan:%u (%s) cannot be opened (vkCreateDevice)",
                       (unsigned)card->desc.index, card->desc.name);
    }
    vk_loader_fill(&device->fn, device->instance, device->handle);
    device->fn.vkGetDeviceQueue(device->handle, card->queue_family, 0, &device->queue);
    for (uint32_t i = 0; i < VK_FENCES; i++) {
        VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
        r = device->fn.vkCreateFence(device->handle, &fence, NULL, &device->fences[i]);
        if (r != VK_SUCCESS) {
            device->fences[i] = VK_NULL_HANDLE;
            return vk_fail(err, r, "vkCreateFence");
        }
    }
    return KEPT_OK;
}

static void device_close(struct kept_device *base)
{
    struct vk_device *device = vk_device(base);
    if (device == NULL)
        return;
    if (device->handle != VK_NULL_HANDLE) {
        device->fn.vkDeviceWaitIdle(device->handle); /* a lost device returns at once */
        vk_rows_close(device);
        vk_cache_close(device);
        vk_memory_close(device);
        for (uint32_t i = 0; i < VK_FENCES; i++)
            device->fn.vkDestroyFence(device->handle, device->fences[i], NULL);
        device->fn.vkDestroyDevice(device->handle, NULL);
    }
    vk_instance_destroy(&device->instance); /* its last messages still count in base */
    kept_free(device);
}

static kept_status device_open(uint32_t index, const struct kept_device_params *params,
                               struct kept_device **out, struct kept_error *err)
{
    *out = NULL;
    struct vk_device *device = kept_calloc(1, sizeof *device);
    if (device == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for device vulkan:%u",
                         (unsigned)index);
    char why[160];
    device->base.ops = &kept_backend_vulkan;
    if (params->log != NULL)
        device->base.log = *params->log;
    kept_status status = vk_instance_create(params->log, params->validate,
                                            params->validate || params->profile,
                                            &device->instance, why, err);
    if (status == KEPT_OK && device->instance == NULL)
        status = kept_fail(err, KEPT_E_NO_DEVICE, "there is no device vulkan:%u: %s",
                           (unsigned)index, why);
    if (status != KEPT_OK)
        goto fail;
    device->base.n_validation_errors = device->instance->own_errors;
    device->instance->n_errors = &device->base.n_validation_errors;

    status = choose_card(device, index, err);
    if (status != KEPT_OK)
        goto fail;
    if (params->mask_subgroup_ops != 0)
        device->card.caps.subgroup_ops = false;
    if (params->mask_host_visible != 0)
        device->card.caps.host_visible = false;
    device->profile = params->profile && device->card.caps.timestamps;
    device->card.caps.timestamps = device->profile;
    device->card.caps.staging_bytes = device->card.caps.host_visible ? 0 : VK_STAGING_BYTES;

    status = create_device(device, err);
    if (status == KEPT_OK)
        status = vk_memory_open(device, err);
    if (status == KEPT_OK)
        status = vk_cache_open(device, params->cache_dir, err);
    if (status != KEPT_OK)
        goto fail;
    device->base.desc = device->card.desc;
    device->base.caps = device->card.caps;
    *out = &device->base;
    return KEPT_OK;
fail:
    device_close(&device->base);
    return status;
}

const struct kept_backend_ops kept_backend_vulkan = {
    .name = "vulkan",
    .list = list,
    .device_open = device_open,
    .device_close = device_close,
    .memory_info = vk_memory_info,
    .buf_create = vk_buf_create,
    .buf_destroy = vk_buf_destroy,
    .write = vk_buf_write,
    .read = vk_buf_read,
    .kernel_create = vk_kernel_create,
    .kernel_destroy = vk_kernel_destroy,
    .recording_begin = vk_recording_begin,
    .call = vk_recording_call,
    .copy = vk_recording_copy,
    .barrier = vk_recording_barrier,
    .recording_end = vk_recording_end,
    .recording_destroy = vk_recording_destroy,
    .submit = vk_submit,
    .wait = vk_wait,
    .timestamps = vk_timestamps,
};

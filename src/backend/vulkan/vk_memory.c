/* backend/vulkan/vk_memory.c: buffers, fills and staged transfers.
 *
 * One VkDeviceMemory per buffer: the plan makes few, large buffers, so nothing is sub-allocated
 * here and the bytes that the plan counts are the bytes that are asked for. Memory that can be
 * mapped stays mapped for the buffer's life. Where device memory cannot be mapped, fills run on
 * the device and data goes through one staging buffer of 4 MiB made at open. Every buffer is
 * written once when it is made (contents start at zero), except mapped ones that the caller says
 * it fills: a driver that commits memory at the first touch fails here, not in mid-answer.
 */
#include "backend/vulkan/vk.h"

#include <string.h>

#include "base/alloc.h"
#include "base/pages.h"
#include "base/status.h"
#include "base/str.h"

/* No transfer of 4 MiB and no fill takes this long on a device that works. */
#define TRANSFER_TIMEOUT_NS 30000000000ull

static void free_pair(struct vk_device *device, VkBuffer *buffer, VkDeviceMemory *memory)
{
    device->fn.vkDestroyBuffer(device->handle, *buffer, NULL);
    device->fn.vkFreeMemory(device->handle, *memory, NULL); /* unmaps */
    *buffer = VK_NULL_HANDLE;
    *memory = VK_NULL_HANDLE;
}

static kept_status fail_memory(struct vk_device *device, uint32_t type, VkResult r,
                               uint64_t n_bytes, struct kept_error *err)
{
    uint32_t heap = device->card.memory.memoryTypes[type].heapIndex;
    char want[32], size[32], left[32];
    struct kept_memory_info info;
    vk_card_memory(device->instance, &device->card, &info);
    kept_format_bytes(want, sizeof want, n_bytes);
    kept_format_bytes(size, sizeof size, device->card.memory.memoryHeaps[heap].size);
    if (type == device->card.device_type_index && info.budget_bytes != 0) {
        uint64_t free_bytes =
            info.budget_bytes > info.usage_bytes ? info.budget_bytes - info.usage_bytes : 0;
        kept_format_bytes(left, sizeof left, free_bytes);
    } else {
        kept_snprintf(left, sizeof left, "unknown");
    }
    return vk_fail(err, r, "%s of Vulkan memory cannot be had (heap %u: size %s, free %s)", want,
                   (unsigned)heap, size, left);
}

/* A buffer with memory of its own of the given type; *host gets its address when `map`. */
static kept_status make_pair(struct vk_device *device, uint64_t n_bytes, uint32_t type, bool map,
                             VkBuffer *buffer, VkDeviceMemory *memory, void **host,
                             struct kept_error *err)
{
    *buffer = VK_NULL_HANDLE;
    *memory = VK_NULL_HANDLE;
    VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = n_bytes,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                 VK_BUFFER_USAGE_TRANSFER_DST_BIT,
        .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
    };
    VkResult r = device->fn.vkCreateBuffer(device->handle, &info, NULL, buffer);
    if (r != VK_SUCCESS) {
        *buffer = VK_NULL_HANDLE;
        return fail_memory(device, type, r, n_bytes, err);
    }
    VkMemoryRequirements needs;
    device->fn.vkGetBufferMemoryRequirements(device->handle, *buffer, &needs);
    kept_status status = KEPT_OK;
    if ((needs.memoryTypeBits >> type & 1u) == 0) {
        status = kept_fail(err, KEPT_E_DRIVER, "the driver allows no buffer in its memory type %u",
                           (unsigned)type);
        goto fail;
    }
    VkMemoryAllocateInfo allocate = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
        .allocationSize = needs.size,
        .memoryTypeIndex = type,
    };
    r = device->fn.vkAllocateMemory(device->handle, &allocate, NULL, memory);
    if (r != VK_SUCCESS) {
        *memory = VK_NULL_HANDLE;
        status = fail_memory(device, type, r, needs.size, err);
        goto fail;
    }
    r = device->fn.vkBindBufferMemory(device->handle, *buffer, *memory, 0);
    if (r == VK_SUCCESS && map)
        r = device->fn.vkMapMemory(device->handle, *memory, 0, VK_WHOLE_SIZE, 0, host);
    if (r != VK_SUCCESS) {
        status = fail_memory(device, type, r, needs.size, err);
        goto fail;
    }
    return KEPT_OK;
fail:
    free_pair(device, buffer, memory);
    return status;
}

kept_status vk_memory_open(struct vk_device *device, struct kept_error *err)
{
    VkCommandPoolCreateInfo pool = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
        .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT |
                 VK_COMMAND_POOL_CREATE_TRANSIENT_BIT,
        .queueFamilyIndex = device->card.queue_family,
    };
    VkResult r = device->fn.vkCreateCommandPool(device->handle, &pool, NULL,
                                                &device->transfer_pool);
    if (r != VK_SUCCESS) {
        device->transfer_pool = VK_NULL_HANDLE;
        return vk_fail(err, r, "vkCreateCommandPool");
    }
    VkCommandBufferAllocateInfo commands = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = device->transfer_pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1,
    };
    r = device->fn.vkAllocateCommandBuffers(device->handle, &commands, &device->transfer);
    if (r != VK_SUCCESS)
        return vk_fail(err, r, "vkAllocateCommandBuffers");
    if (device->card.caps.staging_bytes == 0)
        return KEPT_OK;
    return make_pair(device, VK_STAGING_BYTES, device->card.host_type_index, true,
                     &device->staging, &device->staging_memory, &device->staging_host, err);
}

void vk_memory_close(struct vk_device *device)
{
    free_pair(device, &device->staging, &device->staging_memory);
    device->fn.vkDestroyCommandPool(device->handle, device->transfer_pool, NULL);
    device->transfer_pool = VK_NULL_HANDLE;
}

kept_status vk_memory_info(struct kept_device *base, struct kept_memory_info *out,
                           struct kept_error *err)
{
    struct vk_device *device = vk_device(base);
    (void)err;
    vk_card_memory(device->instance, &device->card, out);
    return KEPT_OK;
}

static kept_status transfer_begin(struct vk_device *device, struct kept_error *err)
{
    VkCommandBufferBeginInfo begin = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
        .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT,
    };
    VkResult r = device->fn.vkBeginCommandBuffer(device->transfer, &begin);
    return r == VK_SUCCESS ? KEPT_OK : vk_fail(err, r, "vkBeginCommandBuffer of a transfer");
}

static kept_status transfer_run(struct vk_device *device, struct kept_error *err)
{
    vk_record_barrier(device, device->transfer, true);
    VkResult r = device->fn.vkEndCommandBuffer(device->transfer);
    if (r != VK_SUCCESS)
        return vk_fail(err, r, "vkEndCommandBuffer of a transfer");
    kept_status status = vk_submit_commands(device, &device->transfer, 1, err);
    if (status == KEPT_OK)
        status = vk_wait(&device->base, TRANSFER_TIMEOUT_NS, err);
    if (status == KEPT_E_TIMEOUT)
        return kept_fail(err, KEPT_E_DEVICE_LOST, "a transfer was not done after %u s",
                         (unsigned)(TRANSFER_TIMEOUT_NS / 1000000000u));
    return status;
}

static kept_status clear(struct vk_device *device, struct vk_buf *buf, struct kept_error *err)
{
    if (buf->base.host != NULL) {
        if (device->base.caps.type == KEPT_DEVICE_CPU) /* ordinary memory */
            kept_pages_advise_huge(buf->base.host, (size_t)buf->base.n_bytes);
        if ((buf->base.flags & KEPT_BUF_FILLED) == 0) /* else the caller writes all of it */
            memset(buf->base.host, 0, (size_t)buf->base.n_bytes);
        return KEPT_OK;
    }
    kept_status status = transfer_begin(device, err);
    if (status != KEPT_OK)
        return status;
    device->fn.vkCmdFillBuffer(device->transfer, buf->handle, 0, VK_WHOLE_SIZE, 0);
    return transfer_run(device, err);
}

kept_status vk_buf_create(struct kept_device *base, uint64_t n_bytes, uint32_t flags,
                          struct kept_buf **out, struct kept_error *err)
{
    struct vk_device *device = vk_device(base);
    bool host = (flags & KEPT_BUF_HOST) != 0;
    uint32_t type = host ? device->card.host_type_index : device->card.device_type_index;
    *out = NULL;
    struct vk_buf *buf = kept_calloc(1, sizeof *buf);
    if (buf == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for a Vulkan buffer");
    buf->base.device = base;
    buf->base.n_bytes = n_bytes;
    buf->base.flags = flags;
    /* Fills work on words; the last word of an odd size is allocated whole. */
    kept_status status =
        make_pair(device, (n_bytes + 3) & ~3ull, type, host || device->card.caps.host_visible,
                  &buf->handle, &buf->memory, &buf->base.host, err);
    if (status == KEPT_OK)
        status = clear(device, buf, err);
    if (status != KEPT_OK) {
        vk_buf_destroy(&buf->base);
        return status;
    }
    *out = &buf->base;
    return KEPT_OK;
}

void vk_buf_destroy(struct kept_buf *base)
{
    struct vk_buf *buf = (struct vk_buf *)base;
    if (buf == NULL)
        return;
    free_pair(vk_device(base->device), &buf->handle, &buf->memory);
    kept_free(buf);
}

kept_status vk_buf_write(struct kept_buf *base, uint64_t offset, const void *from, uint64_t n_bytes,
                         struct kept_error *err)
{
    struct vk_device *device = vk_device(base->device);
    VkBufferCopy region = {.srcOffset = 0, .dstOffset = offset, .size = n_bytes};
    memcpy(device->staging_host, from, (size_t)n_bytes);
    kept_status status = transfer_begin(device, err);
    if (status != KEPT_OK)
        return status;
    device->fn.vkCmdCopyBuffer(device->transfer, device->staging, ((struct vk_buf *)base)->handle,
                               1, &region);
    return transfer_run(device, err);
}

kept_status vk_buf_read(struct kept_buf *base, uint64_t offset, void *to, uint64_t n_bytes,
                        struct kept_error *err)
{
    struct vk_device *device = vk_device(base->device);
    VkBufferCopy region = {.srcOffset = offset, .dstOffset = 0, .size = n_bytes};
    kept_status status = transfer_begin(device, err);
    if (status != KEPT_OK)
        return status;
    device->fn.vkCmdCopyBuffer(device->transfer, ((struct vk_buf *)base)->handle, device->staging,
                               1, &region);
    status = transfer_run(device, err);
    if (status == KEPT_OK)
        memcpy(to, device->staging_host, (size_t)n_bytes);
    return status;
}

/* backend/vulkan/vk_recording.c: a recording is one primary command buffer that is submitted
 * again and again.
 *
 * Everything a recording needs from the driver is made at begin, from pools of its own sized by
 * max_calls: a command buffer, one descriptor set a call (written once, when the call is
 * recorded), two timestamps a call when the device was opened for profiling. So submitting does
 * no work on the host beyond vkQueueSubmit, and destroying is three calls.
 *
 * A recording ends with a barrier towards transfers, kernels and the host: recordings queued
 * one after another, and the host after a wait, see its results without anyone having to know
 * what came before.
 */
#include "backend/vulkan/vk.h"

#include "base/alloc.h"
#include "base/status.h"

static struct vk_recording *vk_recording(struct kept_recording *recording)
{
    return (struct vk_recording *)recording;
}

void vk_record_barrier(const struct vk_device *device, VkCommandBuffer commands, bool host)
{
    const VkPipelineStageFlags work =
        VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    VkMemoryBarrier barrier = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
        .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT |
                         VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT |
                         (host ? VK_ACCESS_HOST_READ_BIT | VK_ACCESS_HOST_WRITE_BIT : 0),
    };
    device->fn.vkCmdPipelineBarrier(commands, work,
                                    work | (host ? VK_PIPELINE_STAGE_HOST_BIT : 0), 0, 1, &barrier,
                                    0, NULL, 0, NULL);
}

static VkResult make_pools(struct vk_device *device, struct vk_recording *rec, uint32_t n_sets)
{
    VkCommandPoolCreateInfo pool = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
        .queueFamilyIndex = device->card.queue_family,
    };
    VkResult r = device->fn.vkCreateCommandPool(device->handle, &pool, NULL, &rec->pool);
    if (r != VK_SUCCESS) {
        rec->pool = VK_NULL_HANDLE;
        return r;
    }
    VkCommandBufferAllocateInfo commands = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = rec->pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1,
    };
    r = device->fn.vkAllocateCommandBuffers(device->handle, &commands, &rec->commands);
    if (r != VK_SUCCESS)
        return r;
    VkDescriptorPoolSize size = {VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, n_sets * KEPT_MAX_BINDS};
    VkDescriptorPoolCreateInfo sets = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
        .maxSets = n_sets,
        .poolSizeCount = 1,
        .pPoolSizes = &size,
    };
    r = device->fn.vkCreateDescriptorPool(device->handle, &sets, NULL, &rec->sets);
    if (r != VK_SUCCESS)
        rec->sets = VK_NULL_HANDLE;
    if (r != VK_SUCCESS || !device->profile)
        return r;
    VkQueryPoolCreateInfo queries = {
        .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
        .queryType = VK_QUERY_TYPE_TIMESTAMP,
        .queryCount = 2 * n_sets,
    };
    r = device->fn.vkCreateQueryPool(device->handle, &queries, NULL, &rec->queries);
    if (r != VK_SUCCESS)
        rec->queries = VK_NULL_HANDLE;
    return r;
}

kept_status vk_recording_begin(struct kept_device *base, uint32_t max_calls,
                               struct kept_recording **out, struct kept_error *err)
{
    struct vk_device *device = vk_device(base);
    uint32_t n_sets = max_calls > 0 ? max_calls : 1;
    *out = NULL;
    if (n_sets > UINT32_MAX / KEPT_MAX_BINDS)
        return kept_fail(err, KEPT_E_ARGUMENT, "a recording of %u calls is too long",
                         (unsigned)max_calls);
    struct vk_recording *rec = kept_calloc(1, sizeof *rec);
    if (rec == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for a recording");
    rec->base.device = base;
    VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    VkResult r = make_pools(device, rec, n_sets);
    if (r == VK_SUCCESS)
        r = device->fn.vkBeginCommandBuffer(rec->commands, &begin);
    if (r != VK_SUCCESS) {
        vk_recording_destroy(&rec->base);
        return vk_fail(err, r, "a recording of %u calls cannot be made", (unsigned)max_calls);
    }
    if (rec->queries != VK_NULL_HANDLE)
        device->fn.vkCmdResetQueryPool(rec->commands, rec->queries, 0, 2 * n_sets);
    *out = &rec->base;
    return KEPT_OK;
}

static VkResult make_set(struct vk_device *device, struct vk_recording *rec,
                         const struct kept_kernel_row *row, const struct kept_bind *binds,
                         VkDescriptorSet *out)
{
    VkDescriptorSetAllocateInfo allocate = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
        .descriptorPool = rec->sets,
        .descriptorSetCount = 1,
        .pSetLayouts = &device->rows[row->id].set,
    };
    VkResult r = device->fn.vkAllocateDescriptorSets(device->handle, &allocate, out);
    if (r != VK_SUCCESS)
        return r;
    VkDescriptorBufferInfo ranges[KEPT_MAX_BINDS];
    for (uint32_t i = 0; i < row->n_binds; i++)
        ranges[i] = (VkDescriptorBufferInfo){((struct vk_buf *)binds[i].buf)->handle,
                                             binds[i].offset_bytes, binds[i].n_bytes};
    VkWriteDescriptorSet writes[KEPT_MAX_BINDS];
    for (uint32_t i = 0; i < row->n_binds; i++)
        writes[i] = (VkWriteDescriptorSet){
            .sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
            .dstSet = *out,
            .dstBinding = i,
            .descriptorCount = 1,
            .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
            .pBufferInfo = &ranges[i],
        };
    device->fn.vkUpdateDescriptorSets(device->handle, row->n_binds, writes, 0, NULL);
    return VK_SUCCESS;
}

/* The end of everything so far; the difference around a call is the time the call added. */
static void stamp(struct vk_device *device, struct vk_recording *rec, uint32_t query)
{
    if (rec->queries != VK_NULL_HANDLE)
        device->fn.vkCmdWriteTimestamp(rec->commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT,
                                       rec->queries, query);
}

kept_status vk_recording_call(struct kept_recording *base, struct kept_kernel *kernel,
                              const struct kept_bind *binds, const void *params,
                              const uint32_t grid[3], struct kept_error *err)
{
    struct vk_recording *rec = vk_recording(base);
    struct vk_device *device = vk_device(base->device);
    const struct kept_kernel_row *row = kernel->row;
    VkPipelineLayout layout = device->rows[row->id].pipeline;
    VkPipeline pipeline = ((struct vk_kernel *)kernel)->pipeline;
    VkDescriptorSet set;
    VkResult r = make_set(device, rec, row, binds, &set);
    if (r != VK_SUCCESS)
        return vk_fail(err, r, "call %u of a recording of %u has no descriptor set",
                       (unsigned)base->n_calls + 1, (unsigned)base->max_calls);
    if (pipeline != rec->bound)
        device->fn.vkCmdBindPipeline(rec->commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    rec->bound = pipeline;
    device->fn.vkCmdBindDescriptorSets(rec->commands, VK_PIPELINE_BIND_POINT_COMPUTE, layout, 0, 1,
                                       &set, 0, NULL);
    device->fn.vkCmdPushConstants(rec->commands, layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                                  row->param_bytes, params);
    stamp(device, rec, 2 * rec->n_timed);
    device->fn.vkCmdDispatch(rec->commands, grid[0], grid[1], grid[2]);
    stamp(device, rec, 2 * rec->n_timed + 1);
    rec->n_timed++;
    return KEPT_OK;
}

kept_status vk_recording_copy(struct kept_recording *base, struct kept_buf *to, uint64_t to_offset,
                              struct kept_buf *from, uint64_t from_offset, uint64_t n_bytes,
                              struct kept_error *err)
{
    (void)err;
    VkBufferCopy region = {.srcOffset = from_offset, .dstOffset = to_offset, .size = n_bytes};
    vk_device(base->device)
        ->fn.vkCmdCopyBuffer(vk_recording(base)->commands, ((struct vk_buf *)from)->handle,
                             ((struct vk_buf *)to)->handle, 1, &region);
    return KEPT_OK;
}

kept_status vk_recording_barrier(struct kept_recording *base, struct kept_error *err)
{
    (void)err;
    vk_record_barrier(vk_device(base->device), vk_recording(base)->commands, false);
    return KEPT_OK;
}

kept_status vk_recording_end(struct kept_recording *base, struct kept_error *err)
{
    struct vk_recording *rec = vk_recording(base);
    struct vk_device *device = vk_device(base->device);
    vk_record_barrier(device, rec->commands, true);
    VkResult r = device->fn.vkEndCommandBuffer(rec->commands);
    return r == VK_SUCCESS ? KEPT_OK : vk_fail(err, r, "a recording cannot be ended");
}

void vk_recording_destroy(struct kept_recording *base)
{
    struct vk_recording *rec = vk_recording(base);
    if (rec == NULL)
        return;
    struct vk_device *device = vk_device(base->device);
    for (struct vk_recording **at = &device->profiled; *at != NULL; at = &(*at)->next_profiled)
        if (*at == rec) {
            *at = rec->next_profiled;
            break;
        }
    device->fn.vkDestroyQueryPool(device->handle, rec->queries, NULL);
    device->fn.vkDestroyDescriptorPool(device->handle, rec->sets, NULL);
    device->fn.vkDestroyCommandPool(device->handle, rec->pool, NULL);
    kept_free(rec);
}

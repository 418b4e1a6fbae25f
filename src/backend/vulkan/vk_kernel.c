/* backend/vulkan/vk_kernel.c: layouts and pipelines.
 *
 * A registry row has one descriptor set layout (its bindings, all storage buffers) and one
 * pipeline layout (with push constants of its parameter struct), made with its first kernel and
 * kept until the device closes. A kernel is one pipeline: the row's module of a weight format,
 * with key i as specialisation constant i. Modules live only while a pipeline is compiled; the
 * SPIR-V itself is constant data of the library. Robust buffer access stays off: the wrappers
 * have checked every binding, and kernels stay inside what their parameters say.
 */
#include "backend/vulkan/vk.h"

#include "backend/vulkan/vk_shaders.h"
#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"

/* "matvec Q4_0 WG=64 ORDER=0 …": for error messages and for tools that show pipelines by name. */
static void describe(const struct kept_kernel_row *row, enum kept_format format,
                     const uint32_t *keys, char *to, size_t cap)
{
    size_t n = kept_snprintf(to, cap, "%s%s%s", row->stem, row->has_formats ? " " : "",
                             row->has_formats ? kept_format_name(format) : "");
    for (uint32_t i = 0; i < row->n_keys && n < cap; i++)
        n += kept_snprintf(to + n, cap - n, " %s=%u", row->key_names[i], (unsigned)keys[i]);
}

static kept_status row_layout(struct vk_device *device, const struct kept_kernel_row *row,
                              struct vk_row *out, struct kept_error *err)
{
    VkDescriptorSetLayoutBinding bindings[KEPT_MAX_BINDS];
    for (uint32_t i = 0; i < row->n_binds; i++)
        bindings[i] = (VkDescriptorSetLayoutBinding){
            .binding = i,
            .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
            .descriptorCount = 1,
            .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
        };
    VkDescriptorSetLayoutCreateInfo set = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
        .bindingCount = row->n_binds,
        .pBindings = bindings,
    };
    if (out->set == VK_NULL_HANDLE) {
        VkResult r = device->fn.vkCreateDescriptorSetLayout(device->handle, &set, NULL, &out->set);
        if (r != VK_SUCCESS) {
            out->set = VK_NULL_HANDLE;
            return vk_fail(err, r, "kernel '%s': vkCreateDescriptorSetLayout", row->stem);
        }
    }
    VkPushConstantRange push = {
        .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
        .offset = 0,
        .size = row->param_bytes,
    };
    VkPipelineLayoutCreateInfo pipeline = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
        .setLayoutCount = 1,
        .pSetLayouts = &out->set,
        .pushConstantRangeCount = 1,
        .pPushConstantRanges = &push,
    };
    if (out->pipeline == VK_NULL_HANDLE) {
        VkResult r =
            device->fn.vkCreatePipelineLayout(device->handle, &pipeline, NULL, &out->pipeline);
        if (r != VK_SUCCESS) {
            out->pipeline = VK_NULL_HANDLE;
            return vk_fail(err, r, "kernel '%s': vkCreatePipelineLayout", row->stem);
        }
    }
    return KEPT_OK;
}

void vk_rows_close(struct vk_device *device)
{
    for (uint32_t i = 0; i < KEPT_KERNEL_COUNT; i++) {
        device->fn.vkDestroyPipelineLayout(device->handle, device->rows[i].pipeline, NULL);
        device->fn.vkDestroyDescriptorSetLayout(device->handle, device->rows[i].set, NULL);
        device->rows[i] = (struct vk_row){VK_NULL_HANDLE, VK_NULL_HANDLE};
    }
}

static VkResult compile(struct vk_device *device, const struct kept_kernel_row *row,
                        const uint32_t *keys, VkShaderModule module, VkPipeline *out)
{
    VkSpecializationMapEntry entries[KEPT_MAX_KEYS];
    for (uint32_t i = 0; i < row->n_keys; i++)
        entries[i] = (VkSpecializationMapEntry){
            .constantID = i, .offset = i * (uint32_t)sizeof *keys, .size = sizeof *keys};
    VkSpecializationInfo constants = {
        .mapEntryCount = row->n_keys,
        .pMapEntries = entries,
        .dataSize = row->n_keys * sizeof *keys,
        .pData = keys,
    };
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage =
            {
                .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                .module = module,
                .pName = "main",
                .pSpecializationInfo = &constants,
            },
        .layout = device->rows[row->id].pipeline,
    };
    VkResult r = device->fn.vkCreateComputePipelines(device->handle, device->cache, 1, &info, NULL,
                                                     out);
    if (r != VK_SUCCESS)
        *out = VK_NULL_HANDLE;
    return r;
}

static void name_pipeline(struct vk_device *device, VkPipeline pipeline, const char *name)
{
    if (device->instance->SetDebugUtilsObjectNameEXT == NULL)
        return;
    VkDebugUtilsObjectNameInfoEXT info = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_OBJECT_NAME_INFO_EXT,
        .objectType = VK_OBJECT_TYPE_PIPELINE,
        .objectHandle = (uint64_t)pipeline,
        .pObjectName = name,
    };
    device->instance->SetDebugUtilsObjectNameEXT(device->handle, &info);
}

kept_status vk_kernel_create(struct kept_device *base, const struct kept_kernel_row *row,
                             enum kept_format format, const uint32_t *keys,
                             struct kept_kernel **out, struct kept_error *err)
{
    struct vk_device *device = vk_device(base);
    char name[160];
    *out = NULL;
    describe(row, format, keys, name, sizeof name);
    VkShaderModuleCreateInfo info = {.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO};
    if (!vk_shader_find(row->id, format, &info.pCode, &info.codeSize))
        return kept_fail(err, KEPT_E_UNSUPPORTED, "kernel '%s' has no Vulkan shader", name);
    kept_status status = row_layout(device, row, &device->rows[row->id], err);
    if (status != KEPT_OK)
        return status;
    struct vk_kernel *kernel = kept_calloc(1, sizeof *kernel);
    if (kernel == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for kernel '%s'", name);
    kernel->base.device = base;

    VkShaderModule module;
    VkResult r = device->fn.vkCreateShaderModule(device->handle, &info, NULL, &module);
    if (r == VK_SUCCESS) {
        r = compile(device, row, keys, module, &kernel->pipeline);
        device->fn.vkDestroyShaderModule(device->handle, module, NULL);
    }
    if (r != VK_SUCCESS) {
        vk_kernel_destroy(&kernel->base);
        return vk_fail(err, r, "kernel '%s' cannot be compiled", name);
    }
    name_pipeline(device, kernel->pipeline, name);
    *out = &kernel->base;
    return KEPT_OK;
}

void vk_kernel_destroy(struct kept_kernel *base)
{
    struct vk_kernel *kernel = (struct vk_kernel *)base;
    if (kernel == NULL)
        return;
    struct vk_device *device = vk_device(base->device);
    device->fn.vkDestroyPipeline(device->handle, kernel->pipeline, NULL);
    kept_free(kernel);
}

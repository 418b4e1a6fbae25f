/* backend/vulkan/vk_shaders.h: the SPIR-V that the build embedded. */
#ifndef KEPT_BACKEND_VULKAN_VK_SHADERS_H
#define KEPT_BACKEND_VULKAN_VK_SHADERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernel/registry.h"

/* Finds the module of a kernel; format is ignored by kernels without that axis. False: none. */
bool vk_shader_find(enum kept_kernel_id id, enum kept_format format, const uint32_t **words,
                    size_t *n_bytes);

#endif

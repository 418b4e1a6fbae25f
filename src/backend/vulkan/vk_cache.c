/* backend/vulkan/vk_cache.c: compiled pipelines on disk, one file per device and driver build.
 *
 * File: struct file_header, then the bytes of vkGetPipelineCacheData. The driver checks its own
 * part too, but not all do it well: so the sum over the bytes, the header that Vulkan defines
 * (vendor, device, pipelineCacheUUID, which changes with the driver) and the hash of all our
 * shaders are compared first, and anything that differs is a miss. The file is replaced as a
 * whole at close, only when the bytes changed.
 */
#include "backend/vulkan/vk.h"

#include <string.h>

#include "backend/vulkan/vk_shaders.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"
#include "base/str.h"

#define MAX_CACHE_BYTES ((size_t)256 << 20)
static const char magic[8] = {'K', 'E', 'P', 'T', 'V', 'K', 'C', '1'};

struct file_header {
    char magic[8];
    uint64_t shaders_hash;
    uint64_t data_bytes;
    uint64_t data_hash;
};

static uint64_t hash_shaders(void)
{
    uint64_t hash = 0;
    for (uint32_t id = 0; id < KEPT_KERNEL_COUNT; id++) {
        const struct kept_kernel_row *row = kept_kernel_row((enum kept_kernel_id)id);
        uint32_t n_formats = row->has_formats ? KEPT_FORMAT_COUNT : 1;
        for (uint32_t f = 0; f < n_formats; f++) {
            const uint32_t *words;
            size_t n_bytes;
            if (vk_shader_find((enum kept_kernel_id)id, (enum kept_format)f, &words, &n_bytes))
                hash = kept_hash64(words, n_bytes, hash);
        }
    }
    return hash;
}

/* The part of the file that the driver may see, or NULL when the file is for something else. */
static const char *check(const struct vk_card *card, const char *bytes, size_t n_bytes,
                         struct file_header *header)
{
    VkPipelineCacheHeaderVersionOne own;
    if (n_bytes < sizeof *header + sizeof own)
        return NULL;
    memcpy(header, bytes, sizeof *header);
    const char *data = bytes + sizeof *header;
    size_t n_data = n_bytes - sizeof *header;
    memcpy(&own, data, sizeof own);
    if (memcmp(header->magic, magic, sizeof magic) != 0 || header->data_bytes != n_data ||
        header->shaders_hash != hash_shaders() ||
        header->data_hash != kept_hash64(data, n_data, 0))
        return NULL;
    if (own.headerSize < sizeof own ||
        own.headerVersion != VK_PIPELINE_CACHE_HEADER_VERSION_ONE ||
        own.vendorID != card->props.vendorID || own.deviceID != card->props.deviceID ||
        memcmp(own.pipelineCacheUUID, card->props.pipelineCacheUUID, VK_UUID_SIZE) != 0)
        return NULL;
    return data;
}

static char *make_path(const struct vk_card *card, const char *cache_dir)
{
    struct kept_strbuf path = {0};
    kept_strbuf_printf(&path, "%s/vulkan-", cache_dir);
    for (uint32_t i = 0; i < VK_UUID_SIZE; i++)
        kept_strbuf_printf(&path, "%02x", (unsigned)card->props.pipelineCacheUUID[i]);
    kept_strbuf_printf(&path, "-%04x-%04x.bin", (unsigned)card->props.vendorID,
                       (unsigned)card->props.deviceID);
    char *text = path.failed ? NULL : kept_strdup(path.text);
    kept_strbuf_finish(&path);
    return text;
}

kept_status vk_cache_open(struct vk_device *device, const char *cache_dir, struct kept_error *err)
{
    char *bytes = NULL;
    size_t n_bytes = 0;
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    if (cache_dir != NULL) {
        device->cache_path = make_path(&device->card, cache_dir);
        if (device->cache_path == NULL)
            return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for the path of a cache");
    }
    if (device->cache_path != NULL && kept_file_exists(device->cache_path)) {
        struct kept_error why;
        struct file_header header;
        const char *data = NULL;
        kept_status status =
            kept_file_load(device->cache_path, MAX_CACHE_BYTES, &bytes, &n_bytes, &why);
        if (status == KEPT_OK)
            data = check(&device->card, bytes, n_bytes, &header);
        if (data != NULL) {
            info.initialDataSize = (size_t)header.data_bytes;
            info.pInitialData = data;
            device->cache_hash = header.data_hash;
        } else {
            kept_logf(&device->base.log, KEPT_LOG_INFO, "pipeline cache '%s' is not used: %s",
                      device->cache_path,
                      status == KEPT_OK ? "it is damaged or was made by something else"
                                        : why.message);
        }
    }
    VkResult r = device->fn.vkCreatePipelineCache(device->handle, &info, NULL, &device->cache);
    if (r != VK_SUCCESS && info.initialDataSize != 0) { /* refused after all: begin anew */
        info.initialDataSize = 0;
        info.pInitialData = NULL;
        device->cache_hash = 0;
        r = device->fn.vkCreatePipelineCache(device->handle, &info, NULL, &device->cache);
    }
    kept_free(bytes);
    if (r != VK_SUCCESS) {
        device->cache = VK_NULL_HANDLE;
        return vk_fail(err, r, "vkCreatePipelineCache");
    }
    return KEPT_OK;
}

static kept_status replace(char *path, const char *bytes, size_t n_bytes, struct kept_error *err)
{
    char *slash = strrchr(path, '/'); /* make_path put one there */
    *slash = '\0';
    kept_status status = kept_dir_make(path, err);
    *slash = '/';
    return status == KEPT_OK ? kept_file_replace(path, bytes, n_bytes, err) : status;
}

static kept_status save(struct vk_device *device, struct kept_error *err)
{
    size_t n_data = 0;
    VkResult r = device->fn.vkGetPipelineCacheData(device->handle, device->cache, &n_data, NULL);
    if (r != VK_SUCCESS)
        return vk_fail(err, r, "vkGetPipelineCacheData");
    if (n_data > MAX_CACHE_BYTES - sizeof(struct file_header))
        return kept_fail(err, KEPT_E_UNSUPPORTED, "%zu bytes are too many", n_data);
    char *bytes = kept_alloc(sizeof(struct file_header) + n_data);
    if (bytes == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for %zu bytes", n_data);
    char *data = bytes + sizeof(struct file_header);
    kept_status status = KEPT_OK;
    r = device->fn.vkGetPipelineCacheData(device->handle, device->cache, &n_data, data);
    if (r != VK_SUCCESS) {
        status = vk_fail(err, r, "vkGetPipelineCacheData");
    } else {
        struct file_header header = {.shaders_hash = hash_shaders(),
                                     .data_bytes = n_data,
                                     .data_hash = kept_hash64(data, n_data, 0)};
        memcpy(header.magic, magic, sizeof magic);
        memcpy(bytes, &header, sizeof header);
        if (header.data_hash != device->cache_hash)
            status = replace(device->cache_path, bytes, sizeof header + n_data, err);
    }
    kept_free(bytes);
    return status;
}

void vk_cache_close(struct vk_device *device)
{
    struct kept_error err;
    if (device->cache != VK_NULL_HANDLE && device->cache_path != NULL && !device->base.lost &&
        device->base.n_kernels != 0 && save(device, &err) != KEPT_OK)
        kept_logf(&device->base.log, KEPT_LOG_WARN, "pipeline cache '%s' is not saved: %s",
                  device->cache_path, err.message);
    device->fn.vkDestroyPipelineCache(device->handle, device->cache, NULL);
    device->cache = VK_NULL_HANDLE;
    kept_free(device->cache_path);
    device->cache_path = NULL;
}

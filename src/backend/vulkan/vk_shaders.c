/* backend/vulkan/vk_shaders.c: the table of embedded SPIR-V modules.
 *
 * The build compiles shaders/STEM.comp (once a weight format where the kernel has that axis) and
 * writes the words of all modules into vk_shader_data.h; a module is found by its kernel's stem and
 * its format. Some forty entries, looked up when a kernel is created: a linear search is enough.
 */
#include "backend/vulkan/vk_shaders.h"

#include <string.h>

#include "vk_shader_data.h"

struct shader {
    const char *stem;
    uint32_t format;
    const uint32_t *words;
    size_t n_bytes;
};

static const struct shader shaders[] = {
#define X(stem, format, words) {stem, format, words, sizeof words},
    EMBEDDED_LIST(X)
#undef X
};

bool vk_shader_find(enum kept_kernel_id id, enum kept_format format, const uint32_t **words,
                    size_t *n_bytes)
{
    const struct kept_kernel_row *row = kept_kernel_row(id);
    uint32_t wanted = row->has_formats ? (uint32_t)format : 0;
    for (size_t i = 0; i < sizeof shaders / sizeof shaders[0]; i++) {
        if (shaders[i].format != wanted || strcmp(shaders[i].stem, row->stem) != 0)
            continue;
        *words = shaders[i].words;
        *n_bytes = shaders[i].n_bytes;
        return true;
    }
    return false;
}

/* backend/vulkan/stub_vulkan.c: stands in for the Vulkan backend when the build leaves it out.
 * Lists nothing and says why; since no device can be opened, no other slot is ever reached. */
#include "backend/backend.h"

#include "base/status.h"
#include "base/str.h"

#define REASON "this kept was built without Vulkan"

static kept_status list(const struct kept_log *log, struct kept_device_desc *out, uint32_t cap,
                        uint32_t *n, char why[160], struct kept_error *err)
{
    (void)log;
    (void)out;
    (void)cap;
    (void)err;
    *n = 0;
    kept_snprintf(why, 160, REASON);
    return KEPT_OK;
}

static kept_status device_open(uint32_t index, const struct kept_device_params *params,
                               struct kept_device **out, struct kept_error *err)
{
    (void)params;
    *out = NULL;
    return kept_fail(err, KEPT_E_NO_DEVICE, "there is no device vulkan:%u: " REASON,
                     (unsigned)index);
}

const struct kept_backend_ops kept_backend_vulkan = {
    .name = "vulkan",
    .list = list,
    .device_open = device_open,
};

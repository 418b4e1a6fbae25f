/* backend/opencl/stub_opencl.c: stands for the backend when it was left out of the build. */
#include "backend/backend.h"
#include "base/status.h"
#include "base/str.h"

static kept_status list(const struct kept_log *log, struct kept_device_desc *out, uint32_t cap,
                        uint32_t *n, char why[160], struct kept_error *err)
{
    (void)log;
    (void)out;
    (void)cap;
    (void)err;
    *n = 0;
    kept_snprintf(why, 160, "OpenCL was left out when this library was built");
    return KEPT_OK;
}

static kept_status device_open(uint32_t index, const struct kept_device_params *params,
                               struct kept_device **out, struct kept_error *err)
{
    (void)params;
    *out = NULL;
    return kept_fail(err, KEPT_E_NO_DEVICE,
                     "opencl:%u: OpenCL was left out when this library was built", index);
}

/* No device ever exists, so no other slot is called. */
const struct kept_backend_ops kept_backend_opencl = {
    .name = "opencl", .list = list, .device_open = device_open};

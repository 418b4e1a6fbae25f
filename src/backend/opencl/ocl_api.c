/* backend/opencl/ocl_api.c: the ICD loader, opened at run time into a table of functions; error
 * codes as statuses.
 *
 * The library does not link with libOpenCL: a machine without it runs the other backends. A device
 * keeps its own handle, so that listing, opening and closing need no shared state. */
#include "backend/opencl/ocl.h"

#include <stdarg.h>
#include <string.h>

#include "base/status.h"
#include "base/str.h"

bool ocl_api_open(struct ocl_api *api, char why[160])
{
    static const char *const names[] = {"libOpenCL.so.1", "libOpenCL.so", "OpenCL.dll", NULL};
    memset(api, 0, sizeof *api);
    api->dl = kept_dl_open(names);
    if (api->dl == NULL) {
        kept_snprintf(why, 160, "no OpenCL loader (libOpenCL.so.1) is installed");
        return false;
    }
    const char *missing = NULL;
    void *symbol;
    /* ISO C has no cast from an object to a function pointer; the representations are the same. */
#define X(name)                                   \
    symbol = kept_dl_symbol(api->dl, "cl" #name); \
    memcpy(&api->name, &symbol, sizeof symbol);   \
    missing = symbol == NULL ? "cl" #name : missing;
    OCL_FUNCTIONS(X)
#undef X
    if (missing == NULL)
        return true;
    kept_snprintf(why, 160, "the OpenCL loader is older than OpenCL 1.2: it has no %s", missing);
    ocl_api_close(api);
    return false;
}

void ocl_api_close(struct ocl_api *api)
{
    if (api->dl != NULL)
        kept_dl_close(&api->dl);
    memset(api, 0, sizeof *api);
}

const char *ocl_code_name(cl_int code)
{
#define NAME(code) \
    case code:     \
        return #code;
    switch (code) {
        NAME(CL_DEVICE_NOT_FOUND)
        NAME(CL_DEVICE_NOT_AVAILABLE)
        NAME(CL_COMPILER_NOT_AVAILABLE)
        NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE)
        NAME(CL_OUT_OF_RESOURCES)
        NAME(CL_OUT_OF_HOST_MEMORY)
        NAME(CL_BUILD_PROGRAM_FAILURE)
        NAME(CL_MISALIGNED_SUB_BUFFER_OFFSET)
        NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)
        NAME(CL_INVALID_VALUE)
        NAME(CL_INVALID_DEVICE)
        NAME(CL_INVALID_CONTEXT)
        NAME(CL_INVALID_COMMAND_QUEUE)
        NAME(CL_INVALID_MEM_OBJECT)
        NAME(CL_INVALID_BINARY)
        NAME(CL_INVALID_BUILD_OPTIONS)
        NAME(CL_INVALID_PROGRAM)
        NAME(CL_INVALID_PROGRAM_EXECUTABLE)
        NAME(CL_INVALID_KERNEL_NAME)
        NAME(CL_INVALID_KERNEL)
        NAME(CL_INVALID_ARG_INDEX)
        NAME(CL_INVALID_ARG_SIZE)
        NAME(CL_INVALID_KERNEL_ARGS)
        NAME(CL_INVALID_WORK_GROUP_SIZE)
        NAME(CL_INVALID_WORK_ITEM_SIZE)
        NAME(CL_INVALID_EVENT)
        NAME(CL_INVALID_OPERATION)
        NAME(CL_INVALID_BUFFER_SIZE)
        NAME(CL_INVALID_GLOBAL_WORK_SIZE)
        NAME(CL_PLATFORM_NOT_FOUND_KHR)
    default:
        return "an OpenCL error";
    }
#undef NAME
}

kept_status ocl_status_of(cl_int code)
{
    switch (code) {
    case CL_SUCCESS:
        return KEPT_OK;
    case CL_MEM_OBJECT_ALLOCATION_FAILURE:
    case CL_OUT_OF_RESOURCES:
    case CL_INVALID_BUFFER_SIZE:
        return KEPT_E_DEVICE_MEMORY;
    case CL_OUT_OF_HOST_MEMORY:
        return KEPT_E_HOST_MEMORY;
    case CL_DEVICE_NOT_AVAILABLE:
    case CL_INVALID_COMMAND_QUEUE: /* what a queue answers after its context has died */
    case CL_INVALID_CONTEXT:
        return KEPT_E_DEVICE_LOST;
    default:
        return KEPT_E_DRIVER;
    }
}

kept_status ocl_fail(struct kept_error *err, cl_int code, const char *fmt, ...)
{
    char what[384];
    va_list args;
    va_start(args, fmt);
    kept_vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return kept_fail(err, ocl_status_of(code), "%s: %s (%d)", what, ocl_code_name(code), (int)code);
}

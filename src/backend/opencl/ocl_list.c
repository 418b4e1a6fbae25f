/* backend/opencl/ocl_list.c: platforms and devices as kept lists them.
 *
 * Core OpenCL names a device and its sizes; identity (UUID, PCI address) and architecture come from
 * extensions, each asked for only by a device that has it. Whatever is not known stays zero or
 * empty. */
#include "backend/opencl/ocl.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"

/* Queries of vendor extensions, by their registered numbers. */
#define INFO_UUID_KHR            0x106A
#define INFO_PCI_BUS_INFO_KHR    0x410F
#define INFO_NV_CAPABILITY_MAJOR 0x4000
#define INFO_NV_CAPABILITY_MINOR 0x4001
#define INFO_NV_PCI_BUS          0x4008
#define INFO_NV_PCI_SLOT         0x4009
#define INFO_NV_PCI_DOMAIN       0x400A
#define INFO_AMD_TOPOLOGY        0x4037
#define INFO_AMD_BOARD_NAME      0x4038
#define INFO_AMD_FREE_MEMORY     0x4039
#define INFO_INTEL_IP_VERSION    0x4250

uint64_t ocl_info_u64(const struct ocl_api *api, cl_device_id device, cl_device_info what)
{
    uint64_t value = 0;
    size_t n_bytes = 0;
    /* cl_uint, cl_bool, cl_ulong and size_t alike: what is not written stays zero (little-endian
     * hosts and devices). */
    if (api->GetDeviceInfo(device, what, sizeof value, &value, &n_bytes) != CL_SUCCESS ||
        n_bytes > sizeof value)
        return 0;
    return value;
}

static void tidy(char *text)
{
    size_t n = strlen(text), skip = 0;
    while (n > 0 && (text[n - 1] == ' ' || text[n - 1] == '\n'))
        text[--n] = '\0';
    while (text[skip] == ' ')
        skip++;
    memmove(text, text + skip, n - (skip < n ? skip : n) + 1);
}

void ocl_info_text(const struct ocl_api *api, cl_device_id device, cl_device_info what, char *to,
                   size_t cap_bytes)
{
    size_t n_bytes = 0;
    to[0] = '\0';
    if (api->GetDeviceInfo(device, what, 0, NULL, &n_bytes) != CL_SUCCESS || n_bytes == 0)
        return;
    char *text = kept_calloc(n_bytes + 1, 1);
    if (text == NULL)
        return;
    if (api->GetDeviceInfo(device, what, n_bytes, text, NULL) == CL_SUCCESS) {
        tidy(text);
        kept_snprintf(to, cap_bytes, "%s", text);
    }
    kept_free(text);
}

void ocl_platform_text(const struct ocl_api *api, cl_platform_id platform, cl_platform_info what,
                       char *to, size_t cap_bytes)
{
    size_t n_bytes = 0;
    to[0] = '\0';
    if (api->GetPlatformInfo(platform, what, 0, NULL, &n_bytes) != CL_SUCCESS || n_bytes == 0)
        return;
    char *text = kept_calloc(n_bytes + 1, 1);
    if (text == NULL)
        return;
    if (api->GetPlatformInfo(platform, what, n_bytes, text, NULL) == CL_SUCCESS) {
        tidy(text);
        kept_snprintf(to, cap_bytes, "%s", text);
    }
    kept_free(text);
}

static bool has_extension(const char *extensions, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = extensions; (at = strstr(at, name)) != NULL; at += n)
        if ((at == extensions || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return true;
    return false;
}

/* All extensions of a device; freed with kept_free; NULL when memory ran out. */
static char *extensions_of(const struct ocl_api *api, cl_device_id device)
{
    size_t n_bytes = 0;
    if (api->GetDeviceInfo(device, CL_DEVICE_EXTENSIONS, 0, NULL, &n_bytes) != CL_SUCCESS)
        n_bytes = 0;
    char *text = kept_calloc(n_bytes + 1, 1);
    if (text != NULL && n_bytes != 0 &&
        api->GetDeviceInfo(device, CL_DEVICE_EXTENSIONS, n_bytes, text, NULL) != CL_SUCCESS)
        text[0] = '\0';
    return text;
}

/* ---- identity ---- */

static bool pci_of(const struct ocl_api *api, cl_device_id device, const char *extensions,
                   uint32_t pci[4])
{
    if (has_extension(extensions, "cl_khr_pci_bus_info")) {
        cl_uint bus_info[4]; /* domain, bus, device, function */
        if (api->GetDeviceInfo(device, INFO_PCI_BUS_INFO_KHR, sizeof bus_info, bus_info, NULL) ==
            CL_SUCCESS) {
            memcpy(pci, bus_info, sizeof bus_info);
            return true;
        }
    }
    if (has_extension(extensions, "cl_nv_device_attribute_query")) {
        cl_uint bus, slot;
        if (api->GetDeviceInfo(device, INFO_NV_PCI_BUS, sizeof bus, &bus, NULL) != CL_SUCCESS ||
            api->GetDeviceInfo(device, INFO_NV_PCI_SLOT, sizeof slot, &slot, NULL) != CL_SUCCESS)
            return false;
        pci[0] = (uint32_t)ocl_info_u64(api, device, INFO_NV_PCI_DOMAIN);
        pci[1] = bus;
        pci[2] = slot >> 3;
        pci[3] = slot & 7;
        return true;
    }
    if (has_extension(extensions, "cl_amd_device_attribute_query")) {
        uint8_t topology[24]; /* u32 type (1: PCIe), 17 unused bytes, bus, device, function */
        if (api->GetDeviceInfo(device, INFO_AMD_TOPOLOGY, sizeof topology, topology, NULL) !=
                CL_SUCCESS ||
            topology[0] != 1)
            return false;
        pci[0] = 0;
        pci[1] = topology[21];
        pci[2] = topology[22];
        pci[3] = topology[23];
        return true;
    }
    return false;
}

static void name_of(const struct ocl_api *api, cl_device_id device, const char *extensions,
                    struct kept_device_desc *desc)
{
    ocl_info_text(api, device, CL_DEVICE_NAME, desc->name, sizeof desc->name);
    if (has_extension(extensions, "cl_amd_device_attribute_query")) {
        /* The name is the architecture ("gfx1100:xnack-"); people know the board's. */
        size_t n = strcspn(desc->name, ":");
        kept_snprintf(desc->architecture, sizeof desc->architecture, "%.*s", (int)n, desc->name);
        char board[128];
        ocl_info_text(api, device, INFO_AMD_BOARD_NAME, board, sizeof board);
        if (board[0] != '\0')
            kept_snprintf(desc->name, sizeof desc->name, "%s", board);
    } else if (has_extension(extensions, "cl_nv_device_attribute_query")) {
        kept_snprintf(desc->architecture, sizeof desc->architecture, "sm_%u%u",
                      (unsigned)ocl_info_u64(api, device, INFO_NV_CAPABILITY_MAJOR),
                      (unsigned)ocl_info_u64(api, device, INFO_NV_CAPABILITY_MINOR));
    } else if (has_extension(extensions, "cl_intel_device_attribute_query")) {
        /* major 10, minor 8 bits, … */
        uint64_t ip = ocl_info_u64(api, device, INFO_INTEL_IP_VERSION);
        kept_snprintf(desc->architecture, sizeof desc->architecture, "intel_%u.%u",
                      (unsigned)(ip >> 22), (unsigned)(ip >> 14 & 255));
    }
}

uint64_t ocl_free_memory(const struct ocl_api *api, cl_device_id device)
{
    size_t free_kib[2] = {0, 0}; /* total free, largest free block */
    char *extensions = extensions_of(api, device);
    bool asks = extensions != NULL && has_extension(extensions, "cl_amd_device_attribute_query");
    kept_free(extensions);
    if (!asks || api->GetDeviceInfo(device, INFO_AMD_FREE_MEMORY, sizeof free_kib, free_kib,
                                    NULL) != CL_SUCCESS)
        return 0;
    return (uint64_t)free_kib[0] * 1024;
}

/* ---- one device ---- */

static enum kept_device_type type_of(const struct ocl_api *api, cl_device_id device)
{
    uint64_t type = ocl_info_u64(api, device, CL_DEVICE_TYPE);
    if (type & CL_DEVICE_TYPE_CPU)
        return KEPT_DEVICE_CPU;
    if (type & CL_DEVICE_TYPE_GPU)
        return ocl_info_u64(api, device, CL_DEVICE_HOST_UNIFIED_MEMORY) ? KEPT_DEVICE_INTEGRATED
                                                                        : KEPT_DEVICE_DISCRETE;
    return KEPT_DEVICE_OTHER;
}

/* Fills why_not with the first thing that keeps the device from being used. */
static void judge(const struct ocl_api *api, cl_device_id device, struct kept_device_desc *desc)
{
    char version[64];
    char *why = desc->why_not;
    size_t cap = sizeof desc->why_not;
    uint64_t lanes = ocl_info_u64(api, device, CL_DEVICE_MAX_WORK_GROUP_SIZE);
    uint64_t align_bits = ocl_info_u64(api, device, CL_DEVICE_MEM_BASE_ADDR_ALIGN);
    ocl_info_text(api, device, CL_DEVICE_VERSION, version, sizeof version);
    /* "OpenCL <major>.<minor> …" */
    bool is_1_2 = strncmp(version, "OpenCL ", 7) == 0 && version[7] != '\0' && version[8] == '.' &&
                  (version[7] > '1' || version[9] >= '2');
    if (!ocl_info_u64(api, device, CL_DEVICE_AVAILABLE))
        kept_snprintf(why, cap, "the driver says that the device is not available");
    else if (!is_1_2)
        kept_snprintf(why, cap, "it has '%s'; OpenCL 1.2 is needed", version);
    else if (!ocl_info_u64(api, device, CL_DEVICE_COMPILER_AVAILABLE))
        kept_snprintf(why, cap, "its driver has no compiler");
    else if (!ocl_info_u64(api, device, CL_DEVICE_ENDIAN_LITTLE))
        kept_snprintf(why, cap, "it is big-endian");
    else if (desc->type != KEPT_DEVICE_CPU && lanes < 64)
        kept_snprintf(why, cap, "its work-groups have at most %u work-items; 64 are needed",
                      (unsigned)lanes);
    else if (align_bits > 8 * 4096)
        kept_snprintf(why, cap, "its buffers need an alignment of %u bytes; 4096 is the most",
                      (unsigned)(align_bits / 8));
    desc->usable = why[0] == '\0';
}

void ocl_describe(const struct ocl_api *api, const struct ocl_ref *ref, uint32_t index,
                  struct kept_device_desc *desc)
{
    char platform[80], version[44];
    memset(desc, 0, sizeof *desc);
    desc->api = "opencl";
    desc->index = index;
    desc->type = type_of(api, ref->device);
    desc->vendor_id = (uint32_t)ocl_info_u64(api, ref->device, CL_DEVICE_VENDOR_ID);
    desc->memory_bytes = ocl_info_u64(api, ref->device, CL_DEVICE_GLOBAL_MEM_SIZE);
    desc->free_bytes = ocl_free_memory(api, ref->device);
    ocl_platform_text(api, ref->platform, CL_PLATFORM_NAME, platform, sizeof platform);
    ocl_info_text(api, ref->device, CL_DRIVER_VERSION, version, sizeof version);
    kept_snprintf(desc->driver, sizeof desc->driver, "%s %s", platform, version);
    char *extensions = extensions_of(api, ref->device);
    if (extensions == NULL) {
        kept_snprintf(desc->why_not, sizeof desc->why_not, "host memory ran out");
        return;
    }
    name_of(api, ref->device, extensions, desc);
    desc->has_pci = pci_of(api, ref->device, extensions, desc->pci);
    if (!has_extension(extensions, "cl_khr_device_uuid") ||
        api->GetDeviceInfo(ref->device, INFO_UUID_KHR, sizeof desc->uuid, desc->uuid, NULL) !=
            CL_SUCCESS)
        memset(desc->uuid, 0, sizeof desc->uuid);
    kept_free(extensions);
    judge(api, ref->device, desc);
}

/* ---- all devices ---- */

/* Appends a platform's devices. A platform without devices is not an error. */
static kept_status add_platform(const struct ocl_api *api, cl_platform_id platform,
                                struct ocl_ref **refs, uint32_t *n, struct kept_error *err)
{
    cl_uint count = 0;
    if (api->GetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, NULL, &count) != CL_SUCCESS ||
        count == 0)
        return KEPT_OK;
    cl_device_id *devices = kept_calloc(count, sizeof *devices);
    struct ocl_ref *grown = kept_realloc_array(*refs, *n + count, sizeof **refs);
    if (grown != NULL)
        *refs = grown;
    if (devices == NULL || grown == NULL) {
        kept_free(devices);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to list %u OpenCL devices", count);
    }
    if (api->GetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, count, devices, NULL) == CL_SUCCESS)
        for (cl_uint i = 0; i < count; i++)
            (*refs)[(*n)++] = (struct ocl_ref){platform, devices[i]};
    kept_free(devices);
    return KEPT_OK;
}

kept_status ocl_enumerate(const struct ocl_api *api, struct ocl_ref **refs, uint32_t *n,
                          char why[160], struct kept_error *err)
{
    cl_uint count = 0;
    *refs = NULL;
    *n = 0;
    if (api->GetPlatformIDs(0, NULL, &count) != CL_SUCCESS || count == 0) {
        kept_snprintf(why, 160, "the OpenCL loader found no driver");
        return KEPT_OK;
    }
    cl_platform_id *platforms = kept_calloc(count, sizeof *platforms);
    if (platforms == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to list %u OpenCL platforms", count);
    kept_status status = KEPT_OK;
    if (api->GetPlatformIDs(count, platforms, NULL) != CL_SUCCESS)
        count = 0;
    for (cl_uint i = 0; i < count && status == KEPT_OK; i++)
        status = add_platform(api, platforms[i], refs, n, err);
    kept_free(platforms);
    if (status != KEPT_OK) {
        kept_free(*refs);
        *refs = NULL;
        *n = 0;
    } else if (*n == 0) {
        kept_snprintf(why, 160, "OpenCL drivers are installed (%u), but none has a device", count);
    }
    return status;
}

/* backend/vulkan/vk_card.c: what one physical device is and can do.
 *
 * Everything is asked once, and both the listing and the capabilities of an open device are
 * derived from it. Classes of architecture come from queried properties, never from names, so
 * that a card that did not exist when this was written lands in the class it behaves like:
 *   AMD     gcn: subgroups of 64 only; rdna1: 20 wavefronts per SIMD; rdna2: no accelerated
 *           mixed-sign 4x8 dot product; rdna3: the others
 *   Intel   xe2: subgroups of 16 at least; xe1: of 8 with an accelerated 4x8 dot product
 *   NVIDIA  pre-turing: no cooperative matrix; turing: 32 warps per multiprocessor; ampere: the
 *           others
 *
 * Memory. Buffers come from one memory type: the device-local one that the host can map when
 * its heap is (nearly) all of the device's memory (shared memory, or a card with a resizable
 * BAR), else a device-local one of the largest heap. Only that heap is counted as the device's
 * memory: the 256 MiB window of an old card is not added to it.
 */
#include "backend/vulkan/vk.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"
#include "base/thread.h"

#define VENDOR_AMD 0x1002u
#define VENDOR_NVIDIA 0x10deu
#define VENDOR_INTEL 0x8086u
/* llvmpipe leaves all loops of an invocation, silently, after so many turns together. */
#define LLVMPIPE_TURNS 65535u

/* Properties beyond Vulkan 1.0, zero where the device does not report them. */
struct queried {
    VkPhysicalDeviceIDProperties id;
    VkPhysicalDeviceMaintenance3Properties maintenance3;
    VkPhysicalDeviceSubgroupProperties subgroup;
    VkPhysicalDeviceMaintenance4Properties maintenance4;
    VkPhysicalDeviceDriverProperties driver;
    VkPhysicalDevicePCIBusInfoPropertiesEXT pci;
    VkPhysicalDeviceSubgroupSizeControlProperties size_control;
    VkPhysicalDeviceShaderIntegerDotProductProperties dot;
    VkPhysicalDeviceShaderCorePropertiesAMD amd;
    VkPhysicalDeviceShaderCoreProperties2AMD amd2;
    VkPhysicalDeviceShaderSMBuiltinsPropertiesNV nv;
};

static void chain(VkPhysicalDeviceProperties2 *head, void *item, VkStructureType type)
{
    VkBaseOutStructure *link = item;
    link->sType = type;
    link->pNext = head->pNext;
    head->pNext = link;
}

static kept_status query_extensions(const struct vk_instance *instance, struct vk_card *card,
                                    struct kept_error *err)
{
    static const char *const names[] = {
#define X(BIT, name, core) name,
        VK_EXTENSION_LIST(X)
#undef X
    };
    static const uint32_t core_since[] = {
#define X(BIT, name, core) core,
        VK_EXTENSION_LIST(X)
#undef X
    };
    for (uint32_t e = 0; e < VK_EXT_COUNT; e++)
        if (core_since[e] != 0 && card->api_version >= core_since[e])
            card->extensions |= 1u << e;

    uint32_t n = 0;
    VkResult r = instance->EnumerateDeviceExtensionProperties(card->handle, NULL, &n, NULL);
    if (r != VK_SUCCESS)
        return vk_fail(err, r, "vkEnumerateDeviceExtensionProperties of '%s'",
                       card->props.deviceName);
    VkExtensionProperties *all = kept_calloc(n, sizeof *all);
    if (all == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for %u Vulkan extensions",
                         (unsigned)n);
    r = instance->EnumerateDeviceExtensionProperties(card->handle, NULL, &n, all);
    for (uint32_t i = 0; i < n && (r == VK_SUCCESS || r == VK_INCOMPLETE); i++)
        for (uint32_t e = 0; e < VK_EXT_COUNT; e++)
            if (strcmp(all[i].extensionName, names[e]) == 0)
                card->named |= 1u << e;
    card->extensions |= card->named;
    kept_free(all);
    if (r != VK_SUCCESS && r != VK_INCOMPLETE)
        return vk_fail(err, r, "vkEnumerateDeviceExtensionProperties of '%s'",
                       card->props.deviceName);
    return KEPT_OK;
}

static void query_properties(const struct vk_instance *instance, const struct vk_card *card,
                             struct queried *q)
{
    VkPhysicalDeviceProperties2 head = {VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
    chain(&head, &q->id, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES);
    chain(&head, &q->maintenance3, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES);
    chain(&head, &q->subgroup, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES);
#define WHEN(BIT, member, type)            \
    if (vk_card_has(card, VK_EXT_AT_##BIT)) \
        chain(&head, &q->member, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_##type);
    WHEN(MAINTENANCE4, maintenance4, MAINTENANCE_4_PROPERTIES)
    WHEN(DRIVER, driver, DRIVER_PROPERTIES)
    WHEN(PCI, pci, PCI_BUS_INFO_PROPERTIES_EXT)
    WHEN(SUBGROUP_SIZE, size_control, SUBGROUP_SIZE_CONTROL_PROPERTIES)
    WHEN(INT_DOT, dot, SHADER_INTEGER_DOT_PRODUCT_PROPERTIES)
    WHEN(AMD_CORE, amd, SHADER_CORE_PROPERTIES_AMD)
    WHEN(AMD_CORE2, amd2, SHADER_CORE_PROPERTIES_2_AMD)
    WHEN(NV_SM, nv, SHADER_SM_BUILTINS_PROPERTIES_NV)
#undef WHEN
    instance->GetPhysicalDeviceProperties2(card->handle, &head);
}

/* A family with compute and without graphics keeps out of the display's way; else any with
 * compute. */
static kept_status query_queue(const struct vk_instance *instance, struct vk_card *card,
                               struct kept_error *err)
{
    uint32_t n = 0;
    instance->GetPhysicalDeviceQueueFamilyProperties(card->handle, &n, NULL);
    VkQueueFamilyProperties *families = kept_calloc(n, sizeof *families);
    if (families == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for %u queue families",
                         (unsigned)n);
    instance->GetPhysicalDeviceQueueFamilyProperties(card->handle, &n, families);
    card->queue_family = UINT32_MAX;
    bool best_plain = false;
    for (uint32_t i = 0; i < n; i++) {
        VkQueueFlags flags = families[i].queueFlags;
        bool plain = (flags & VK_QUEUE_GRAPHICS_BIT) == 0;
        if ((flags & VK_QUEUE_COMPUTE_BIT) == 0 || families[i].queueCount == 0)
            continue;
        if (card->queue_family == UINT32_MAX || (plain && !best_plain)) {
            card->queue_family = i;
            card->timestamp_bits = families[i].timestampValidBits;
            best_plain = plain;
        }
    }
    kept_free(families);
    return KEPT_OK;
}

/* The memory type of the largest heap that has all of `need`, none outside the plain flags,
 * most of `like`. */
static uint32_t pick_type(const VkPhysicalDeviceMemoryProperties *memory,
                          VkMemoryPropertyFlags need, VkMemoryPropertyFlags like)
{
    const VkMemoryPropertyFlags plain =
        VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
        VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    uint32_t best = UINT32_MAX;
    uint64_t best_heap = 0;
    bool best_liked = false;
    for (uint32_t i = 0; i < memory->memoryTypeCount; i++) {
        VkMemoryPropertyFlags flags = memory->memoryTypes[i].propertyFlags;
        if ((flags & need) != need || (flags & ~plain) != 0)
            continue;
        uint64_t heap = memory->memoryHeaps[memory->memoryTypes[i].heapIndex].size;
        bool liked = (flags & like) == like;
        if (best == UINT32_MAX || heap > best_heap || (heap == best_heap && liked && !best_liked)) {
            best = i;
            best_heap = heap;
            best_liked = liked;
        }
    }
    return best;
}

static uint64_t heap_bytes(const struct vk_card *card, uint32_t type_index)
{
    return card->memory.memoryHeaps[card->memory.memoryTypes[type_index].heapIndex].size;
}

static void query_memory(const struct vk_instance *instance, struct vk_card *card)
{
    const VkMemoryPropertyFlags local = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    const VkMemoryPropertyFlags mapped =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    const VkMemoryPropertyFlags cached = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    VkPhysicalDeviceMemoryProperties2 properties = {
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2};
    instance->GetPhysicalDeviceMemoryProperties2(card->handle, &properties);
    card->memory = properties.memoryProperties;

    uint32_t largest = pick_type(&card->memory, local, 0);
    uint32_t both = pick_type(&card->memory, local | mapped, cached);
    card->device_mappable = both != UINT32_MAX &&
                            heap_bytes(card, both) / 9 >= heap_bytes(card, largest) / 10;
    card->device_type_index = card->device_mappable ? both : largest;
    /* What the host reads must be cached; a mappable window on the device is the last resort. */
    card->host_type_index = pick_type(&card->memory, mapped | cached, 0);
    if (card->host_type_index == UINT32_MAX)
        card->host_type_index = pick_type(&card->memory, mapped, 0);
}

void vk_card_memory(const struct vk_instance *instance, const struct vk_card *card,
                    struct kept_memory_info *out)
{
    memset(out, 0, sizeof *out);
    if (card->device_type_index == UINT32_MAX)
        return;
    out->total_bytes = heap_bytes(card, card->device_type_index);
    if (!vk_card_has(card, VK_EXT_AT_BUDGET))
        return;
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 properties = {
        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2, &budget};
    instance->GetPhysicalDeviceMemoryProperties2(card->handle, &properties);
    uint32_t heap = card->memory.memoryTypes[card->device_type_index].heapIndex;
    out->budget_bytes = budget.heapBudget[heap];
    out->usage_bytes = budget.heapUsage[heap];
}

static const char *architecture(const struct vk_card *card, const struct queried *q)
{
    uint32_t least = card->caps.subgroup_min, most = card->caps.subgroup_max;
    bool mixed = q->dot.integerDotProduct4x8BitPackedMixedSignednessAccelerated == VK_TRUE;
    bool mine = q->dot.integerDotProduct4x8BitPackedSignedAccelerated == VK_TRUE;
    if (card->props.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU)
        return "cpu";
    switch (card->props.vendorID) {
    case VENDOR_AMD:
        if (least == 64 && most == 64)
            return "gcn";
        if (least != 32 || most != 64)
            return "";
        return q->amd.wavefrontsPerSimd == 20 ? "rdna1" : mixed ? "rdna3" : "rdna2";
    case VENDOR_INTEL:
        return least == 16 ? "xe2" : least == 8 && mine ? "xe1" : "";
    case VENDOR_NVIDIA:
        if (!vk_card_has(card, VK_EXT_AT_COOPMAT))
            return "pre-turing";
        return q->nv.shaderWarpsPerSM == 32 ? "turing" : "ampere";
    default:
        return "";
    }
}

static uint32_t compute_units(const struct vk_card *card, const struct queried *q)
{
    if (q->amd2.activeComputeUnitCount != 0)
        return q->amd2.activeComputeUnitCount;
    if (q->amd.computeUnitsPerShaderArray != 0)
        return q->amd.shaderEngineCount * q->amd.shaderArraysPerEngineCount *
               q->amd.computeUnitsPerShaderArray;
    if (q->nv.shaderSMCount != 0)
        return q->nv.shaderSMCount;
    return card->props.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU ? kept_cpu_count() : 0;
}

static enum kept_device_type device_type(VkPhysicalDeviceType type)
{
    switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
        return KEPT_DEVICE_DISCRETE;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
        return KEPT_DEVICE_INTEGRATED;
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
        return KEPT_DEVICE_CPU;
    default:
        return KEPT_DEVICE_OTHER;
    }
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return b != 0 && b < a ? b : a; /* b 0: not reported */
}

static void fill_caps(struct vk_card *card, const struct queried *q)
{
    const VkPhysicalDeviceLimits *limits = &card->props.limits;
    struct kept_caps *caps = &card->caps;
    const VkSubgroupFeatureFlags wanted = VK_SUBGROUP_FEATURE_BASIC_BIT |
                                          VK_SUBGROUP_FEATURE_ARITHMETIC_BIT |
                                          VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
    caps->type = device_type(card->props.deviceType);
    if (card->device_type_index != UINT32_MAX)
        caps->max_buffer_bytes = heap_bytes(card, card->device_type_index);
    caps->max_buffer_bytes =
        smaller(caps->max_buffer_bytes, q->maintenance3.maxMemoryAllocationSize);
    caps->max_buffer_bytes = smaller(caps->max_buffer_bytes, q->maintenance4.maxBufferSize) & ~3ull;
    caps->max_binding_bytes =
        smaller(caps->max_buffer_bytes, limits->maxStorageBufferRange) & ~3ull;
    caps->binding_align_bytes = limits->minStorageBufferOffsetAlignment > 4
                                    ? (uint32_t)limits->minStorageBufferOffsetAlignment
                                    : 4;
    caps->max_group_lanes = (uint32_t)smaller(limits->maxComputeWorkGroupSize[0],
                                              limits->maxComputeWorkGroupInvocations);
    caps->max_shared_bytes = limits->maxComputeSharedMemorySize;
    memcpy(caps->max_grid, limits->maxComputeWorkGroupCount, sizeof caps->max_grid);
    caps->subgroup_min = q->size_control.minSubgroupSize;
    caps->subgroup_max = q->size_control.maxSubgroupSize;
    if (caps->subgroup_min == 0)
        caps->subgroup_min = caps->subgroup_max = q->subgroup.subgroupSize;
    caps->compute_units = compute_units(card, q);
    caps->host_visible = card->device_mappable;
    caps->host_buffers_mapped = true;
    caps->subgroup_ops = (q->subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0 &&
                         (q->subgroup.supportedOperations & wanted) == wanted;
    caps->int_dot = q->dot.integerDotProduct4x8BitPackedSignedAccelerated == VK_TRUE;
    caps->timestamps = card->timestamp_bits != 0 && limits->timestampPeriod > 0;
    caps->order = KEPT_ORDER_LANE; /* lavapipe too: one load of 4 words costs less than 4 of one */
    caps->vector_width = 1;
    if (q->driver.driverID == VK_DRIVER_ID_MESA_LLVMPIPE)
        caps->loop_turns = LLVMPIPE_TURNS;
}

static void fill_desc(const struct vk_instance *instance, struct vk_card *card,
                      const struct queried *q, uint32_t index)
{
    struct kept_device_desc *desc = &card->desc;
    const VkPhysicalDeviceProperties *props = &card->props;
    uint32_t v = props->driverVersion;
    kept_snprintf(desc->name, sizeof desc->name, "%s", props->deviceName);
    if (q->driver.driverName[0] != '\0')
        kept_snprintf(desc->driver, sizeof desc->driver, "%.60s %.60s", q->driver.driverName,
                      q->driver.driverInfo);
    else
        kept_snprintf(desc->driver, sizeof desc->driver, "version %u.%u.%u",
                      (unsigned)VK_API_VERSION_MAJOR(v), (unsigned)VK_API_VERSION_MINOR(v),
                      (unsigned)VK_API_VERSION_PATCH(v));
    desc->api = "vulkan";
    desc->index = index;
    desc->type = device_type(props->deviceType);
    desc->vendor_id = props->vendorID;
    kept_snprintf(desc->architecture, sizeof desc->architecture, "%s", architecture(card, q));
    struct kept_memory_info memory;
    vk_card_memory(instance, card, &memory);
    desc->memory_bytes = memory.total_bytes;
    if (memory.budget_bytes > memory.usage_bytes)
        desc->free_bytes = memory.budget_bytes - memory.usage_bytes;
    memcpy(desc->uuid, q->id.deviceUUID, sizeof desc->uuid);
    if (vk_card_has(card, VK_EXT_AT_PCI)) {
        desc->has_pci = true;
        desc->pci[0] = q->pci.pciDomain;
        desc->pci[1] = q->pci.pciBus;
        desc->pci[2] = q->pci.pciDevice;
        desc->pci[3] = q->pci.pciFunction;
    }
}

/* Says why the device cannot run the kernels, or nothing. */
static void judge(struct vk_card *card)
{
    const VkPhysicalDeviceLimits *limits = &card->props.limits;
    struct kept_device_desc *desc = &card->desc;
    char *why = desc->why_not;
    const size_t cap = sizeof desc->why_not;
    if (card->queue_family == UINT32_MAX)
        kept_snprintf(why, cap, "the driver offers no queue that computes");
    else if (card->device_type_index == UINT32_MAX || card->host_type_index == UINT32_MAX)
        kept_snprintf(why, cap, "the driver offers no memory that buffers could use");
    else if (limits->maxPerStageDescriptorStorageBuffers < KEPT_MAX_BINDS)
        kept_snprintf(why, cap, "a kernel may bind %u buffers, %u are needed",
                      (unsigned)limits->maxPerStageDescriptorStorageBuffers,
                      (unsigned)KEPT_MAX_BINDS);
    else if (limits->maxPushConstantsSize < KEPT_MAX_PARAM_BYTES)
        kept_snprintf(why, cap, "push constants hold %u bytes, %u are needed",
                      (unsigned)limits->maxPushConstantsSize, (unsigned)KEPT_MAX_PARAM_BYTES);
    desc->usable = why[0] == '\0';
}

kept_status vk_card_query(const struct vk_instance *instance, VkPhysicalDevice handle,
                          uint32_t index, struct vk_card *out, struct kept_error *err)
{
    struct vk_card card = {.handle = handle,
                           .queue_family = UINT32_MAX,
                           .device_type_index = UINT32_MAX,
                           .host_type_index = UINT32_MAX};
    struct queried q;
    memset(&q, 0, sizeof q);
    instance->GetPhysicalDeviceProperties(handle, &card.props);
    card.api_version = card.props.apiVersion < instance->api_version ? card.props.apiVersion
                                                                     : instance->api_version;
    if (card.api_version < VK_API_VERSION_1_1) {
        fill_desc(instance, &card, &q, index);
        kept_snprintf(card.desc.why_not, sizeof card.desc.why_not,
                      "the driver has Vulkan 1.0, 1.1 is needed");
        *out = card;
        return KEPT_OK;
    }
    kept_status status = query_extensions(instance, &card, err);
    if (status == KEPT_OK)
        status = query_queue(instance, &card, err);
    if (status != KEPT_OK)
        return status;
    query_properties(instance, &card, &q);
    query_memory(instance, &card);
    fill_caps(&card, &q);
    fill_desc(instance, &card, &q, index);
    judge(&card);
    *out = card;
    return KEPT_OK;
}

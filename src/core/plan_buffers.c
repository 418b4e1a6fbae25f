/* core/plan_buffers.c: regions into device allocations.
 *
 * Few large allocations: weights, KV, activations, state; each is cut when it would pass the
 * device's largest buffer. Regions begin at the binding alignment (256 bytes at least). Regions of
 * host memory (staging) have an allocation of their own. Activations of all programs overlay each
 * other from offset 0 of theirs.
 */
#include "core/plan_internal.h"

#include "backend/backend.h"
#include "base/status.h"

enum { KIND_WEIGHTS, KIND_KV, KIND_STATE, KIND_HOST, KIND_COUNT };
static const char *const kind_names[KIND_COUNT] = {"weights", "kv", "state", "staging"};
static const uint32_t kind_flags[KIND_COUNT] = {
    [KIND_WEIGHTS] = KEPT_BUF_FILLED, [KIND_HOST] = KEPT_BUF_HOST};

static uint32_t add_buffer(struct kept_plan *plan, const char *name, uint64_t bytes, uint32_t flags)
{
    struct kept_buffer_plan *grown =
        kept_plan_grow(plan, plan->buffers, plan->n_buffers, &plan->cap_buffers, sizeof *grown);
    if (!grown)
        return 0;
    plan->buffers = grown;
    grown[plan->n_buffers] =
        (struct kept_buffer_plan){.name = name, .bytes = bytes, .flags = flags};
    return plan->n_buffers++;
}

static int kind_of(enum kept_category category)
{
    switch (category) {
    case KEPT_CATEGORY_WEIGHTS:
        return KIND_WEIGHTS;
    case KEPT_CATEGORY_KV:
    case KEPT_CATEGORY_ASSOCIATIVE:
    case KEPT_CATEGORY_EPISODIC:
    case KEPT_CATEGORY_SCORER:
        return KIND_KV;
    case KEPT_CATEGORY_STAGING:
        return KIND_HOST;
    default:
        return KIND_STATE;
    }
}

/* A call binds a region whole, if it does not cut it: matrices and slots were made to fit. */
static void check_binding(struct kept_plan *plan, const struct kept_region *region)
{
    if (region->category == KEPT_CATEGORY_STAGING ||
        region->bytes <= plan->profile.max_binding_bytes)
        return;
    const char *less = region->category == KEPT_CATEGORY_ACTIVATIONS ? ": use a smaller --chunk"
                       : region->category == KEPT_CATEGORY_LOGITS    ? ": use fewer rows of logits"
                                                                     : "";
    kept_plan_fail(plan, KEPT_E_UNSUPPORTED,
                   "region '%s' takes %llu bytes; the device binds at most %llu%s", region->name,
                   (unsigned long long)region->bytes,
                   (unsigned long long)plan->profile.max_binding_bytes, less);
}

static void place_kind(struct kept_plan *plan, int kind)
{
    uint32_t buffer = UINT32_MAX;
    for (uint32_t i = 0; i < plan->n_regions && plan->status == KEPT_OK; i++) {
        struct kept_region *region = &plan->regions[i];
        if (region->category == KEPT_CATEGORY_ACTIVATIONS || i == plan->transfer ||
            kind_of(region->category) != kind)
            continue;
        uint64_t bytes = kept_plan_align(plan, region->bytes);
        if (region->bytes > plan->profile.max_buffer_bytes) {
            kept_plan_fail(
                plan, KEPT_E_UNSUPPORTED,
                "region '%s' takes %llu bytes; the device allocates at most %llu at once",
                region->name, (unsigned long long)bytes,
                (unsigned long long)plan->profile.max_buffer_bytes);
            return;
        }
        if (buffer == UINT32_MAX ||
            plan->buffers[buffer].bytes + bytes > plan->profile.max_buffer_bytes)
            buffer = add_buffer(plan, kind_names[kind], 0, kind_flags[kind]);
        if (plan->status != KEPT_OK)
            return;
        region->buffer = buffer;
        region->offset = plan->buffers[buffer].bytes;
        plan->buffers[buffer].bytes += bytes;
    }
}

static void place_activations(struct kept_plan *plan)
{
    uint64_t bytes = 0, lower_bound = 0;
    for (uint32_t i = 0; i < plan->n_programs; i++) {
        uint64_t bound = 0;
        uint64_t packed = kept_pack_activations(plan, (int32_t)i, &bound);
        bytes = packed > bytes ? packed : bytes;
        lower_bound = bound > lower_bound ? bound : lower_bound;
    }
    if (plan->status == KEPT_OK && bytes > plan->profile.max_buffer_bytes)
        kept_plan_fail(
            plan, KEPT_E_UNSUPPORTED,
            "activations take %llu bytes; the device allocates at most %llu at once: use a "
            "smaller --chunk",
            (unsigned long long)bytes, (unsigned long long)plan->profile.max_buffer_bytes);
    uint32_t buffer = add_buffer(plan, "activations", bytes, 0);
    for (uint32_t i = 0; i < plan->n_regions && plan->status == KEPT_OK; i++)
        if (plan->regions[i].category == KEPT_CATEGORY_ACTIVATIONS)
            plan->regions[i].buffer = buffer;
    plan->info.activation_bytes = bytes;
    plan->info.lower_bound_bytes = lower_bound;
}

static void place_transfer(struct kept_plan *plan)
{
    if (plan->status != KEPT_OK || plan->transfer == KEPT_NO_REGION)
        return;
    struct kept_region *region = &plan->regions[plan->transfer];
    region->buffer = add_buffer(plan, "transfer", region->bytes, KEPT_BUF_HOST);
    if (plan->status == KEPT_OK)
        plan->buffers[region->buffer].exists = true;
}

void kept_plan_buffers(struct kept_plan *plan)
{
    if (plan->status != KEPT_OK)
        return;
    for (uint32_t i = 0; i < plan->n_regions; i++)
        check_binding(plan, &plan->regions[i]);
    for (int kind = 0; kind < KIND_COUNT; kind++)
        place_kind(plan, kind);
    place_activations(plan);
    place_transfer(plan);
    for (uint32_t i = 0; i < plan->n_buffers; i++)
        plan->info.planned_bytes += plan->buffers[i].bytes;
}

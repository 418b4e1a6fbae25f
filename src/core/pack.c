/* core/pack.c: offsets for activation regions of one program, so that regions alive at the same time do not overlap.
 *
 * Greedy by size: the largest region first, each into the best-fitting gap between the placed regions whose lifetimes touch its
 * own. Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 4.
 * The lower bound is the largest sum of sizes alive at one call; the plan reports packed size over lower bound.
 */
#include "core/plan_internal.h"

#include "base/alloc.h"
#include "base/status.h"

struct item {
    uint32_t region;
    uint64_t bytes;
};

static bool alive_together(const struct kept_region *a, const struct kept_region *b)
{
    return a->first_use <= b->last_use && b->first_use <= a->last_use;
}

/* Insertion keeps equal sizes in region order, so that the same plan comes out every time. */
static void insert_by_size(struct item *items, uint32_t n, struct item item)
{
    uint32_t at = n;
    while (at > 0 && items[at - 1].bytes < item.bytes) {
        items[at] = items[at - 1];
        at--;
    }
    items[at] = item;
}

/* placed[] is sorted by offset. */
static uint64_t best_gap(const struct kept_plan *plan, const struct item *placed, uint32_t n,
                         const struct item *item)
{
    const struct kept_region *mine = &plan->regions[item->region];
    uint64_t end = 0, best_offset = UINT64_MAX, best_gap_bytes = UINT64_MAX;
    for (uint32_t i = 0; i < n; i++) {
        const struct kept_region *other = &plan->regions[placed[i].region];
        if (!alive_together(mine, other))
            continue;
        if (other->offset > end) {
            uint64_t gap = other->offset - end;
            if (gap >= item->bytes && gap < best_gap_bytes) {
                best_gap_bytes = gap;
                best_offset = end;
            }
        }
        if (other->offset + placed[i].bytes > end)
            end = other->offset + placed[i].bytes;
    }
    return best_offset != UINT64_MAX ? best_offset : end;
}

static void insert_by_offset(const struct kept_plan *plan, struct item *placed, uint32_t n,
                             struct item item)
{
    uint32_t at = n;
    while (at > 0 && plan->regions[placed[at - 1].region].offset > plan->regions[item.region].offset) {
        placed[at] = placed[at - 1];
        at--;
    }
    placed[at] = item;
}

static uint64_t most_alive(const struct kept_plan *plan, const struct item *items, uint32_t n)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        /* The sum can only rise where some region begins. */
        int32_t at = plan->regions[items[i].region].first_use;
        uint64_t sum = 0;
        for (uint32_t j = 0; j < n; j++) {
            const struct kept_region *other = &plan->regions[items[j].region];
            if (other->first_use <= at && at <= other->last_use)
                sum += items[j].bytes;
        }
        most = sum > most ? sum : most;
    }
    return most;
}

uint64_t kept_pack_activations(struct kept_plan *plan, int32_t program, uint64_t *lower_bound)
{
    if (plan->status != KEPT_OK)
        return 0;
    struct item *items = kept_calloc(plan->n_regions + 1, 2 * sizeof *items);
    if (!items) {
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory to pack activations");
        return 0;
    }
    struct item *placed = items + plan->n_regions + 1;
    uint32_t n = 0, n_placed = 0;
    for (uint32_t i = 0; i < plan->n_regions; i++) {
        const struct kept_region *region = &plan->regions[i];
        if (region->category == KEPT_CATEGORY_ACTIVATIONS && region->program == program) {
            insert_by_size(items, n, (struct item){ i, kept_plan_align(plan, region->bytes) });
            n++;
        }
    }
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t offset = best_gap(plan, placed, n_placed, &items[i]);
        plan->regions[items[i].region].offset = offset;
        insert_by_offset(plan, placed, n_placed, items[i]);
        n_placed++;
        if (offset + items[i].bytes > total)
            total = offset + items[i].bytes;
    }
    *lower_bound = most_alive(plan, items, n);
    kept_free(items);
    return total;
}

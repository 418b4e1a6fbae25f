/* core/pack.c: offsets for activation regions of one program, so that regions alive at the same
 * time do not overlap.
 *
 * Greedy by size: the largest region first, each into the best-fitting gap between the placed
 * regions whose lifetimes touch its own. Source: Pisarchyk and Lee, "Efficient Memory Management
 * for Deep Neural Net Inference", 2020, section 4. Where that misses the lower bound, longest
 * lifetime first is tried as well (the residual stream then lies at the bottom), and the smaller
 * result stays. The lower bound is the largest sum of sizes alive at one call; the plan reports
 * packed size over lower bound.
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

enum order { BY_SIZE, BY_LIFETIME };

static bool comes_before(const struct kept_plan *plan, enum order order, const struct item *a,
                         const struct item *b)
{
    const struct kept_region *x = &plan->regions[a->region], *y = &plan->regions[b->region];
    int32_t life_x = x->last_use - x->first_use, life_y = y->last_use - y->first_use;
    if (order == BY_LIFETIME && life_x != life_y)
        return life_x > life_y;
    return a->bytes > b->bytes;
}

/* Insertion keeps equal items in region order, so that the same plan comes out every time. */
static void sort_items(const struct kept_plan *plan, enum order order, struct item *items,
                       uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        struct item item = items[i];
        uint32_t at = i;
        while (at > 0 && comes_before(plan, order, &item, &items[at - 1])) {
            items[at] = items[at - 1];
            at--;
        }
        items[at] = item;
    }
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
    while (at > 0 &&
           plan->regions[placed[at - 1].region].offset > plan->regions[item.region].offset) {
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

static uint64_t place_in_order(struct kept_plan *plan, enum order order, struct item *items,
                               struct item *placed, uint32_t n)
{
    uint64_t total = 0;
    sort_items(plan, order, items, n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t offset = best_gap(plan, placed, i, &items[i]);
        plan->regions[items[i].region].offset = offset;
        insert_by_offset(plan, placed, i, items[i]);
        if (offset + items[i].bytes > total)
            total = offset + items[i].bytes;
    }
    return total;
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
    uint32_t n = 0;
    for (uint32_t i = 0; i < plan->n_regions; i++) {
        const struct kept_region *region = &plan->regions[i];
        if (region->category == KEPT_CATEGORY_ACTIVATIONS && region->program == program)
            items[n++] = (struct item){i, kept_plan_align(plan, region->bytes)};
    }
    *lower_bound = most_alive(plan, items, n);
    uint64_t total = place_in_order(plan, BY_SIZE, items, placed, n);
    if (total > *lower_bound) {
        uint64_t other = place_in_order(plan, BY_LIFETIME, items, placed, n);
        total = other < total ? other : place_in_order(plan, BY_SIZE, items, placed, n);
    }
    kept_free(items);
    return total;
}

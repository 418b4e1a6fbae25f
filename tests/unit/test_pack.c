/* tests/unit/test_pack.c: packing of activation lifetimes: random ones against brute force, and
 * shapes whose best packing is known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "core/plan_internal.h"

#define MOST 40

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void add(struct kept_plan *plan, uint64_t bytes, int32_t first, int32_t last)
{
    plan->regions[plan->n_regions++] = (struct kept_region){.category = KEPT_CATEGORY_ACTIVATIONS,
                                                            .bytes = bytes,
                                                            .first_use = first,
                                                            .last_use = last};
}

static uint64_t rounded(uint64_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static void assert_packed(const struct kept_plan *plan, uint64_t total, uint64_t bound)
{
    uint64_t most = 0, end = 0;
    for (int32_t call = 0; call < 64; call++) {
        uint64_t alive = 0;
        for (uint32_t i = 0; i < plan->n_regions; i++)
            if (plan->regions[i].first_use <= call && call <= plan->regions[i].last_use)
                alive += rounded(plan->regions[i].bytes);
        most = alive > most ? alive : most;
    }
    assert_int_equal(bound, most);
    for (uint32_t i = 0; i < plan->n_regions; i++) {
        const struct kept_region *a = &plan->regions[i];
        assert_int_equal(a->offset % 256, 0);
        end = a->offset + rounded(a->bytes) > end ? a->offset + rounded(a->bytes) : end;
        for (uint32_t j = 0; j < i; j++) {
            const struct kept_region *b = &plan->regions[j];
            bool together = a->first_use <= b->last_use && b->first_use <= a->last_use;
            bool apart = a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset;
            assert_true(!together || apart);
        }
    }
    assert_int_equal(total, end);
    assert_true(total >= bound);
}

static void random_lifetimes(void **state)
{
    (void)state;
    uint64_t seed = 1, packed = 0, bounds = 0;
    for (int round = 0; round < 2000; round++) {
        struct kept_region regions[MOST];
        struct kept_plan plan = {.regions = regions};
        uint32_t n = (uint32_t)next(&seed) % MOST;
        for (uint32_t i = 0; i < n; i++) {
            int32_t first = (int32_t)(next(&seed) % 60), more = (int32_t)(next(&seed) % 20);
            add(&plan, 1 + next(&seed) % 5000, first, first + more > 63 ? 63 : first + more);
        }
        uint64_t bound = 0, total = kept_pack_activations(&plan, 0, &bound);
        assert_packed(&plan, total, bound);
        packed += total;
        bounds += bound;
    }
    assert_true((double)packed <= 1.05 * (double)bounds); /* on the average of random ones */
}

static void known_shapes(void **state)
{
    (void)state;
    struct kept_region regions[MOST];
    uint64_t bound;
    /* A stream that lives through, and one working set after the other. */
    struct kept_plan plan = {.regions = regions};
    add(&plan, 1000, 0, 50);
    for (int32_t i = 0; i < 10; i++)
        add(&plan, 4096, i * 5, i * 5 + 4);
    assert_int_equal(kept_pack_activations(&plan, 0, &bound), 1024 + 4096);
    assert_packed(&plan, 1024 + 4096, bound);
    /* Nothing is alive together: all at 0. */
    plan.n_regions = 0;
    for (int32_t i = 0; i < 10; i++)
        add(&plan, 100 * (uint64_t)(i + 1), i, i);
    assert_int_equal(kept_pack_activations(&plan, 0, &bound), 1024);
    /* Everything is. */
    for (uint32_t i = 0; i < 10; i++)
        plan.regions[i] = (struct kept_region){
            .category = KEPT_CATEGORY_ACTIVATIONS, .bytes = 256, .first_use = 0, .last_use = 9};
    assert_int_equal(kept_pack_activations(&plan, 0, &bound), 2560);
    /* Nothing at all. */
    plan.n_regions = 0;
    assert_int_equal(kept_pack_activations(&plan, 0, &bound), 0);
    assert_int_equal(bound, 0);
}

static void other_programs_and_categories_stay(void **state)
{
    (void)state;
    struct kept_region regions[MOST];
    struct kept_plan plan = {.regions = regions};
    uint64_t bound;
    add(&plan, 256, 0, 9);
    add(&plan, 512, 0, 9);
    plan.regions[1].program = 1;
    add(&plan, 1024, 0, 9);
    plan.regions[2].category = KEPT_CATEGORY_WEIGHTS;
    plan.regions[1].offset = plan.regions[2].offset = 77;
    assert_int_equal(kept_pack_activations(&plan, 0, &bound), 256);
    assert_int_equal(plan.regions[1].offset, 77);
    assert_int_equal(plan.regions[2].offset, 77);
    assert_int_equal(kept_pack_activations(&plan, 1, &bound), 512);
    assert_int_equal(plan.regions[1].offset, 0);
}

static void the_devices_alignment_counts(void **state)
{
    (void)state;
    struct kept_region regions[MOST];
    struct kept_plan plan = {.regions = regions, .profile = {.binding_align_bytes = 4096}};
    uint64_t bound;
    add(&plan, 1, 0, 1);
    add(&plan, 4097, 0, 1);
    assert_int_equal(kept_pack_activations(&plan, 0, &bound), 3 * 4096);
    assert_int_equal(regions[0].offset % 4096, 0);
    assert_int_equal(regions[1].offset % 4096, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_lifetimes),
        cmocka_unit_test(known_shapes),
        cmocka_unit_test(other_programs_and_categories_stay),
        cmocka_unit_test(the_devices_alignment_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

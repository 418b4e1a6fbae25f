/* tests/unit/test_hazards.c: when two calls need a barrier between them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/hazards.h"

static const char a, b; /* two buffers, by address */

static bool add(struct kept_hazards *h, const void *buf, uint64_t first, uint64_t end, bool write)
{
    struct kept_hazard_range range = {buf, first, end, write};
    return kept_hazards_add(h, &range, 1);
}

static void reads_never_conflict(void **state)
{
    (void)state;
    struct kept_hazards h = {0};
    assert_false(add(&h, &a, 0, 100, false));
    assert_false(add(&h, &a, 50, 150, false));
    assert_false(add(&h, &a, 0, 100, false));
    assert_int_equal(h.n, 2); /* the repeated one is known */
}

static void overlap_with_a_write_conflicts(void **state)
{
    (void)state;
    for (int first_writes = 0; first_writes < 2; first_writes++)
        for (int second_writes = 0; second_writes < 2; second_writes++) {
            struct kept_hazards h = {0};
            assert_false(add(&h, &a, 100, 200, first_writes));
            bool expected = first_writes || second_writes;
            assert_int_equal(add(&h, &a, 199, 300, second_writes), expected);
        }
}

static void neighbours_and_other_buffers_do_not(void **state)
{
    (void)state;
    struct kept_hazards h = {0};
    assert_false(add(&h, &a, 100, 200, true));
    assert_false(add(&h, &a, 200, 300, true));
    assert_false(add(&h, &a, 0, 100, true));
    assert_false(add(&h, &b, 100, 200, true));
    assert_int_equal(h.n, 4);
}

static void a_barrier_forgets_what_was_before(void **state)
{
    (void)state;
    struct kept_hazards h = {0};
    assert_false(add(&h, &a, 0, 10, true));
    assert_false(add(&h, &a, 20, 30, true));
    assert_true(add(&h, &a, 0, 10, false)); /* read after write */
    assert_int_equal(h.n, 1);
    assert_false(add(&h, &a, 20, 30, false)); /* its write lies before the barrier */
    assert_true(add(&h, &a, 5, 6, true));     /* write after read */
}

static void the_ranges_of_one_call_do_not_conflict_with_each_other(void **state)
{
    (void)state;
    struct kept_hazards h = {0};
    struct kept_hazard_range in_place[2] = {{&a, 0, 10, false}, {&a, 0, 10, true}};
    assert_false(kept_hazards_add(&h, in_place, 2));
    assert_true(kept_hazards_add(&h, in_place, 2));
    assert_int_equal(h.n, 2);
}

static void a_read_does_not_hide_behind_a_known_write(void **state)
{
    (void)state;
    struct kept_hazards h = {0};
    assert_false(add(&h, &a, 0, 100, false));
    assert_true(add(&h, &a, 0, 100, true)); /* same range, but now written */
    assert_true(add(&h, &a, 0, 100, false));
}

static void a_full_list_asks_for_a_barrier(void **state)
{
    (void)state;
    struct kept_hazards h = {0};
    for (uint64_t i = 0; i < KEPT_HAZARD_CAP; i++)
        assert_false(add(&h, &a, 10 * i, 10 * i + 5, true));
    assert_true(add(&h, &b, 0, 5, true));
    assert_int_equal(h.n, 1);
    assert_false(add(&h, &a, 0, 5, true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_never_conflict),
        cmocka_unit_test(overlap_with_a_write_conflicts),
        cmocka_unit_test(neighbours_and_other_buffers_do_not),
        cmocka_unit_test(a_barrier_forgets_what_was_before),
        cmocka_unit_test(the_ranges_of_one_call_do_not_conflict_with_each_other),
        cmocka_unit_test(a_read_does_not_hide_behind_a_known_write),
        cmocka_unit_test(a_full_list_asks_for_a_barrier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* tests/unit/test_rope.c: the rotation table: fine and coarse halves multiplied give the rotation
 * of every position to f32 precision, far beyond what f32 angles would give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "core/plan_internal.h"
#include "kernel/params.h"

#define N_ROT 64u
#define PAIRS (N_ROT / 2)

/* Rotation of pair i at a position from the table, as params.h says. */
static void from_table(const float *table, uint32_t hi_bias, int64_t position, uint32_t i,
                       double *c, double *s)
{
    int64_t hi = position >= 0 ? position / 256 : -((255 - position) / 256);
    int64_t lo = position - 256 * hi;
    const float *a = table + ((size_t)lo * PAIRS + i) * 2;
    const float *b = table + ((size_t)(256 + (int64_t)hi_bias + hi) * PAIRS + i) * 2;
    *c = (double)a[0] * b[0] - (double)a[1] * b[1];
    *s = (double)a[0] * b[1] + (double)a[1] * b[0];
}

static void check_table(const struct kept_rope *rope, const float *factors, uint32_t hi_rows,
                        uint32_t hi_bias)
{
    float *table = malloc(kept_rope_table_bytes(rope, hi_rows));
    assert_non_null(table);
    kept_rope_table_fill(rope, factors, hi_rows, hi_bias, table);
    int64_t low = -256 * (int64_t)hi_bias, high = 256 * ((int64_t)hi_rows - hi_bias);
    for (int64_t position = low; position < high; position += position < low + 600 ? 1 : 97)
        for (uint32_t i = 0; i < PAIRS; i++) {
            double frequency = pow(rope->base, -2.0 * i / N_ROT) / (factors ? factors[i] : 1.0);
            double angle = (double)position * rope->scale * frequency, c, s;
            from_table(table, hi_bias, position, i, &c, &s);
            assert_true(fabs(c - cos(angle)) < 3e-7);
            assert_true(fabs(s - sin(angle)) < 3e-7);
        }
    free(table);
}

static void every_position(void **state)
{
    (void)state;
    struct kept_rope rope = {.n_rot = N_ROT, .pairs = KEPT_ROPE_HALVES, .base = 1e4, .scale = 1.0};
    check_table(&rope, NULL, 1, 0);
    check_table(&rope, NULL, 512, 0); /* 131072 positions */
    rope.base = 1e6;
    rope.scale = 1.0 / 8;
    check_table(&rope, NULL, 64, 0);
}

static void negative_positions(void **state)
{
    (void)state;
    struct kept_rope rope = {.n_rot = N_ROT, .pairs = KEPT_ROPE_HALVES, .base = 1e4, .scale = 1.0};
    check_table(&rope, NULL, 12, 4);
}

static void factors_divide_frequencies(void **state)
{
    (void)state;
    struct kept_rope rope = {
        .n_rot = N_ROT, .pairs = KEPT_ROPE_ADJACENT, .base = 5e5, .scale = 1.0};
    float factors[PAIRS];
    for (uint32_t i = 0; i < PAIRS; i++)
        factors[i] = i < 10 ? 1.0f : 8.0f;
    check_table(&rope, factors, 32, 0);
}

static void sizes(void **state)
{
    (void)state;
    struct kept_rope rope = {.n_rot = 96};
    assert_int_equal(kept_rope_table_bytes(&rope, 1), 258ull * 48 * 8);
    assert_int_equal(kept_rope_table_bytes(&rope, 1u << 20), (257ull + (1u << 20)) * 48 * 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_position),
        cmocka_unit_test(negative_positions),
        cmocka_unit_test(factors_divide_frequencies),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

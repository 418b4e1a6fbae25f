/* tests/unit/test_address.c: addresses and their least-squares weights, against sums written the
 * plain way: pooling, statistics, weights that solve their equations, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "memory/address.h"

#define K    48u /* not a multiple of what sums are cut into, with one left: */
#define K_1  (K + 1)
#define MOST (KEPT_NEAREST + 1)

static uint64_t seed;

static float next(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(seed >> 40) / (float)(1u << 23) - 1;
}

static void fill(float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = next();
}

static void fill_units(float *out, uint32_t n, uint32_t k)
{
    fill(out, (size_t)n * k);
    for (uint32_t i = 0; i < n; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < k; j++)
            sum += (double)out[i * k + j] * (double)out[i * k + j];
        for (uint32_t j = 0; j < k; j++)
            out[i * k + j] = (float)((double)out[i * k + j] / sqrt(sum));
    }
}

static void pooled(void **state)
{
    (void)state;
    static const float stats[6] = {1, -2, 5, 2, 0.5f, 0}, same[3] = {1, -2, 7};
    static const float hidden[6] = {2, 4, 100, 4, 0, -100};
    float out[3], inf[3] = {INFINITY, 0, 0};
    /* means of (1 * 2, 6 * 0.5) and (3 * 2, 2 * 0.5): 4, 2 */
    assert_true(kept_address_pool(hidden, 2, 3, stats, out));
    assert_true(fabs(out[0] - 2 / sqrt(5)) < 1e-6 && fabs(out[1] - 1 / sqrt(5)) < 1e-6);
    assert_true(out[2] == 0);
    assert_false(kept_address_pool(same, 1, 3, stats, out)); /* the mean itself: no direction */
    assert_false(kept_address_pool(inf, 1, 3, stats, out));
    inf[0] = NAN;
    assert_false(kept_address_pool(inf, 1, 3, stats, out));
}

/* Many states in several parts give the same statistics as one after the other. */
static void statistics(void **state)
{
    (void)state;
    static float hidden[200 * K_1];
    double sums[2 * K_1] = {0}, parts[2 * K_1] = {0};
    float stats[2 * K_1], same[2 * K_1];
    fill(hidden, 200 * K_1);
    for (uint32_t t = 0; t < 200; t++) {
        hidden[t * K_1 + 3] = 0.25f; /* never changes */
        hidden[t * K_1 + 5] = hidden[t * K_1 + 5] * 0.01f + 1000;
    }
    kept_address_add(hidden, 200, K_1, sums);
    for (uint32_t t = 0; t < 200; t += 50)
        kept_address_add(hidden + (size_t)t * K_1, 50, K_1, parts);
    kept_address_stats(sums, 200, K_1, stats);
    kept_address_stats(parts, 200, K_1, same);
    assert_memory_equal(stats, same, sizeof stats);
    assert_true(stats[3] == 0.25f && stats[K_1 + 3] == 0);
    for (uint32_t i = 0; i < K_1; i++) {
        double mean = 0, variance = 0;
        for (uint32_t t = 0; t < 200; t++)
            mean += (double)hidden[t * K_1 + i] / 200;
        for (uint32_t t = 0; t < 200; t++)
            variance += pow((double)hidden[t * K_1 + i] - mean, 2) / 200;
        assert_true(fabs((double)stats[i] - mean) <= 1e-6 * (1 + fabs(mean)));
        if (i != 3) /* sums of squares lose digits where the mean is large */
            assert_true(fabs((double)stats[K_1 + i] * sqrt(variance) - 1) <
                        1e-5 + 1e-9 * mean * mean);
    }
}

/* Weights w of facts and backgrounds solve (E E^T + 0.1) w = E q: what is left over, (q - E^T w).e
 * of each row e, is 0.1 w. Weights of backgrounds are not told: they follow from the residual. */
static void weights_solve_their_equations(void **state)
{
    (void)state;
    static float rows[(MOST + KEPT_BACKGROUNDS) * K_1], none[KEPT_BACKGROUNDS * K_1];
    static const uint32_t counts[] = {0, 1, 2, 31, KEPT_NEAREST};
    float query[K_1];
    const float *facts[MOST];
    struct kept_address_match match, again;
    struct kept_error err = {0};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        uint32_t n = counts[c];
        fill_units(rows, n + KEPT_BACKGROUNDS, K_1);
        fill(query, K_1); /* of any length */
        for (uint32_t i = 0; i < n; i++)
            facts[i] = rows + (size_t)i * K_1;
        memset(&match, 0, sizeof match);
        memset(&again, 0, sizeof again);
        /* backgrounds of nothing explain nothing: the facts' weights alone can be checked */
        assert_int_equal(kept_address_weigh(facts, n, none, query, K_1, &match, &err), KEPT_OK);
        assert_int_equal(kept_address_weigh(facts, n, none, query, K_1, &again, &err), KEPT_OK);
        assert_memory_equal(&match, &again, sizeof match);
        double left[K_1], length = 0, rest = 0;
        for (uint32_t j = 0; j < K_1; j++) {
            left[j] = (double)query[j];
            length += left[j] * left[j];
            for (uint32_t i = 0; i < n; i++)
                left[j] -= (double)match.weights[i] * (double)facts[i][j];
            rest += left[j] * left[j];
        }
        for (uint32_t i = 0; i < n; i++) {
            double dot = 0, cosine = 0;
            for (uint32_t j = 0; j < K_1; j++) {
                dot += left[j] * (double)facts[i][j];
                cosine += (double)query[j] * (double)facts[i][j];
            }
            assert_true(fabs(dot - KEPT_ADDRESS_RIDGE * (double)match.weights[i]) < 2e-5);
            assert_true(fabs(cosine / sqrt(length) - (double)match.cosines[i]) < 1e-6);
        }
        assert_true(fabs(sqrt(rest / length) - (double)match.residual) < 1e-4);
        assert_int_equal(
            kept_address_weigh(facts, n, rows + (size_t)n * K_1, query, K_1, &match, &err),
            KEPT_OK);
        assert_true(n == 0 ? match.residual == 1 : match.residual >= 0);
    }
}

/* The query itself: 1 / 1.1 of it alone; beside its double both have half of 2 / 2.1; and when a
 * background says the same it has as much. */
static void weights_of_a_fact_itself(void **state)
{
    (void)state;
    static float backgrounds[KEPT_BACKGROUNDS * K];
    float q[K] = {0}, other[K] = {0};
    const float *facts[3] = {q, q, other};
    struct kept_address_match match;
    struct kept_error err = {0};
    q[7] = 1;
    other[8] = 1;
    assert_int_equal(kept_address_weigh(facts, 1, backgrounds, q, K, &match, &err), KEPT_OK);
    assert_true(fabs((double)match.weights[0] - 1 / 1.1) < 1e-6);
    assert_true(match.cosines[0] == 1 && fabs((double)match.residual - 0.1 / 1.1) < 1e-6);
    assert_int_equal(kept_address_weigh(facts, 3, backgrounds, q, K, &match, &err), KEPT_OK);
    assert_true(match.weights[0] == match.weights[1] && match.weights[2] == 0);
    assert_true(fabs((double)match.weights[0] - 1 / 2.1) < 1e-6);
    backgrounds[5 * K + 7] = 1;
    assert_int_equal(kept_address_weigh(facts, 1, backgrounds, q, K, &match, &err), KEPT_OK);
    assert_true(fabs((double)match.weights[0] - 1 / 2.1) < 1e-6);
    memset(backgrounds, 0, sizeof backgrounds);
}

static void no_numbers(void **state)
{
    (void)state;
    static float backgrounds[KEPT_BACKGROUNDS * K], q[K], bad[K];
    const float *facts[MOST];
    struct kept_address_match match;
    struct kept_error err = {0};
    static const float wrong[] = {NAN, INFINITY, -INFINITY};
    for (uint32_t i = 0; i < MOST; i++)
        facts[i] = bad;
    assert_int_equal(kept_address_weigh(facts, 1, backgrounds, q, K, &match, &err),
                     KEPT_E_ARGUMENT); /* of length 0 */
    q[0] = 1;
    assert_int_equal(kept_address_weigh(facts, MOST, backgrounds, q, K, &match, &err),
                     KEPT_E_ARGUMENT); /* too many */
    for (int i = 0; i < 3; i++) {
        bad[1] = wrong[i];
        assert_int_equal(kept_address_weigh(facts, 2, backgrounds, q, K, &match, &err),
                         KEPT_E_ARGUMENT);
        bad[1] = 0;
        backgrounds[3] = wrong[i];
        assert_int_equal(kept_address_weigh(facts, 2, backgrounds, q, K, &match, &err),
                         KEPT_E_ARGUMENT);
        backgrounds[3] = 0;
        q[2] = wrong[i];
        assert_int_equal(kept_address_weigh(facts, 2, backgrounds, q, K, &match, &err),
                         KEPT_E_ARGUMENT);
        q[2] = 0;
    }
}

/* The best fact has the most, the others the less the lighter they are. */
static void biases(void **state)
{
    (void)state;
    float most = kept_address_bias(0.5f, 0.5f), before = -30;
    assert_true(isfinite(most) && kept_address_bias(0.6f, 0.5f) == most);
    assert_true(kept_address_bias(NAN, 0.5f) == most);
    for (float weight = 0.01f; weight < 0.495f; weight += 0.01f) {
        float bias = kept_address_bias(weight, 0.5f);
        assert_true(isfinite(bias) && bias > before && bias < most);
        before = bias;
    }
    assert_true(kept_address_bias(0, 0.5f) <= -20 && kept_address_bias(-1, 0.5f) <= -20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pooled),
        cmocka_unit_test(statistics),
        cmocka_unit_test(weights_solve_their_equations),
        cmocka_unit_test(weights_of_a_fact_itself),
        cmocka_unit_test(no_numbers),
        cmocka_unit_test(biases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

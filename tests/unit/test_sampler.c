/* tests/unit/test_sampler.c: the sampler against a plain one that sorts everything, its edge cases,
 * and the distribution of what it draws. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "kept/sampler.h"

#define N 300

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static float between(uint64_t *state, float low, float high)
{
    return low + (high - low) * (float)(next(state) % 100000) / 100000.0f;
}

static kept_sampler *make(const struct kept_sampler_params *params, uint32_t n)
{
    kept_sampler *sampler = NULL;
    struct kept_error err = {0};
    if (kept_sampler_create(params, n, &sampler, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    return sampler;
}

static int32_t choose(kept_sampler *sampler, const float *logits, uint32_t position)
{
    int32_t token = -1;
    struct kept_error err = {0};
    if (kept_sampler_choose(sampler, logits, position, &token, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    return token;
}

/* ---- a plain sampler: the probability of every token ---- */

struct entry {
    double weight;
    float logit;
    uint32_t token;
};

static int by_logit(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

static void plain(const struct kept_sampler_params *params, const float *logits, uint32_t n,
                  double *p)
{
    struct entry entries[N];
    double total = 0.0, sum = 0.0, kept = 0.0;
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        entries[i] = (struct entry){0.0, isnan(logits[i]) ? -INFINITY : logits[i], i};
    qsort(entries, n, sizeof *entries, by_logit);
    uint32_t most = params->top_k && params->top_k < n ? params->top_k : n;
    for (uint32_t i = 0; i < most; i++) {
        entries[i].weight =
            exp(((double)entries[i].logit - entries[0].logit) / params->temperature);
        total += entries[i].weight;
    }
    bool nucleus = params->top_p > 0.0f && params->top_p < 1.0f;
    for (; n_kept < most; n_kept++) {
        if (nucleus && sum >= (double)params->top_p * total)
            break;
        if (n_kept > 0 && entries[n_kept].weight < (double)params->min_p)
            break;
        sum += entries[n_kept].weight;
    }
    for (uint32_t i = 0; i < n_kept; i++)
        kept += entries[i].weight;
    memset(p, 0, n * sizeof *p);
    for (uint32_t i = 0; i < n_kept; i++)
        p[entries[i].token] = entries[i].weight / kept;
}

/* Draws at many positions: only tokens that may be, each as often as it should. */
static void check_distribution(const struct kept_sampler_params *params, const float *logits,
                               uint32_t n, uint32_t n_draws)
{
    double p[N], chi = 0.0, rest_p = 0.0, rest = 0.0;
    uint32_t counts[N] = {0}, freedom = 0;
    kept_sampler *sampler = make(params, n);
    plain(params, logits, n, p);
    for (uint32_t i = 0; i < n_draws; i++)
        counts[choose(sampler, logits, i)]++;
    for (uint32_t i = 0; i < n; i++) {
        double expected = p[i] * n_draws;
        assert_true(counts[i] == 0 || p[i] > 0.0);
        if (expected < 5.0) {
            rest_p += expected;
            rest += counts[i];
            continue;
        }
        chi += (counts[i] - expected) * (counts[i] - expected) / expected;
        freedom++;
    }
    if (rest_p >= 5.0) {
        chi += (rest - rest_p) * (rest - rest_p) / rest_p;
        freedom++;
    }
    /* mean freedom - 1, deviation sqrt(2 freedom): five deviations and a bit */
    assert_true(chi < freedom + 5.0 * sqrt(2.0 * freedom) + 10.0);
    kept_sampler_destroy(&sampler);
}

static void filters_keep_what_a_plain_sampler_keeps(void **state)
{
    (void)state;
    uint64_t seed = 7;
    float logits[N];
    for (int round = 0; round < 60; round++) {
        uint32_t n = 1 + (uint32_t)next(&seed) % (N - 1);
        for (uint32_t i = 0; i < n; i++) {
            logits[i] = between(&seed, -6.0f, 6.0f);
            if (next(&seed) % 8 == 0) /* ties */
                logits[i] = 2.0f;
            if (next(&seed) % 40 == 0)
                logits[i] = i ? NAN : 0.0f;
        }
        struct kept_sampler_params params = {
            .temperature = between(&seed, 0.2f, 2.0f),
            .top_k = next(&seed) % 2 ? (uint32_t)next(&seed) % 40 : 0,
            .top_p = next(&seed) % 2 ? between(&seed, 0.01f, 1.0f) : 0.0f,
            .min_p = next(&seed) % 2 ? between(&seed, 0.0f, 0.5f) : 0.0f,
            .seed = next(&seed),
        };
        check_distribution(&params, logits, n, 2000);
    }
}

static void a_known_distribution(void **state)
{
    (void)state;
    static const float logits[] = {0.0f, 0.6931472f, 1.3862944f, 2.0794415f}; /* 1 : 2 : 4 : 8 */
    struct kept_sampler_params params = {.temperature = 1.0f, .seed = 3};
    uint32_t counts[4] = {0};
    kept_sampler *sampler = make(&params, 4);
    for (uint32_t i = 0; i < 150000; i++)
        counts[choose(sampler, logits, i)]++;
    for (uint32_t i = 0; i < 4; i++) {
        double expected = 10000.0 * (1u << i);
        assert_true(fabs(counts[i] - expected) < 5.0 * sqrt(expected));
    }
    kept_sampler_destroy(&sampler);
    params.top_p = 0.79f; /* 8/15 + 4/15 = 0.8 */
    check_distribution(&params, logits, 4, 20000);
    params.top_p = 0.81f;
    check_distribution(&params, logits, 4, 20000);
    params.top_p = 1.0f;
    params.min_p = 0.25f; /* exactly 2 of 8 stays */
    check_distribution(&params, logits, 4, 20000);
    params.top_k = 2;
    check_distribution(&params, logits, 4, 20000);
}

/* ---- greedy ---- */

static void greedy_takes_the_largest(void **state)
{
    (void)state;
    struct kept_sampler_params params = {0};
    kept_sampler *sampler = make(&params, 6);
    assert_true(kept_sampler_is_greedy(sampler));
    assert_int_equal(choose(sampler, (float[]){1, 5, 2, 5, 5, 0}, 0), 1); /* lowest id of equals */
    assert_int_equal(choose(sampler, (float[]){NAN, -5, NAN, -4, NAN, -6}, 1), 3);
    assert_int_equal(choose(sampler, (float[]){-INFINITY, -INFINITY, -9, NAN, NAN, NAN}, 2), 2);
    assert_int_equal(choose(sampler, (float[]){1, INFINITY, 2, INFINITY, 3, 4}, 3), 1);
    kept_sampler_destroy(&sampler);
}

static void no_number_is_an_error(void **state)
{
    (void)state;
    for (int temperature = 0; temperature < 2; temperature++) {
        struct kept_sampler_params params = {.temperature = (float)temperature};
        kept_sampler *sampler = make(&params, 3);
        struct kept_error err = {0};
        int32_t token = 77;
        assert_int_equal(kept_sampler_choose(sampler, (float[]){NAN, NAN, NAN}, 5, &token, &err),
                         KEPT_E_ARGUMENT);
        assert_int_equal(
            kept_sampler_choose(sampler, (float[]){-INFINITY, NAN, -INFINITY}, 5, &token, &err),
            KEPT_E_ARGUMENT);
        assert_int_equal(token, 77);
        assert_non_null(strstr(err.message, "5"));
        kept_sampler_destroy(&sampler);
    }
}

static void infinite_and_extreme_logits(void **state)
{
    (void)state;
    struct kept_sampler_params params = {.temperature = 1.0f, .top_p = 0.9f, .min_p = 0.1f};
    kept_sampler *sampler = make(&params, 4);
    for (uint32_t i = 0; i < 50; i++) {
        assert_int_equal(choose(sampler, (float[]){0, INFINITY, 1, 2}, i), 1);
        assert_int_equal(choose(sampler, (float[]){-3e38f, 3e38f, 0, -INFINITY}, i), 1);
        assert_int_equal(choose(sampler, (float[]){-3e38f, -INFINITY, NAN, -INFINITY}, i), 0);
    }
    kept_sampler_destroy(&sampler);
    params = (struct kept_sampler_params){.temperature = 1e-40f}; /* not zero, yet greedy */
    sampler = make(&params, 4);
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(choose(sampler, (float[]){1, 2, 4, 3}, i), 2);
    kept_sampler_destroy(&sampler);
}

static void top_k_of_one_is_greedy(void **state)
{
    (void)state;
    struct kept_sampler_params params = {.temperature = 5.0f, .top_k = 1};
    kept_sampler *sampler = make(&params, 5);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(choose(sampler, (float[]){1, 1.5f, 1.5f, 0, 1}, i), 1);
    kept_sampler_destroy(&sampler);
}

/* ---- keys of the random numbers ---- */

static void draws_depend_on_seed_and_position_only(void **state)
{
    (void)state;
    float logits[N];
    uint64_t seed = 1;
    for (uint32_t i = 0; i < N; i++)
        logits[i] = between(&seed, -1.0f, 1.0f);
    struct kept_sampler_params params = {.temperature = 1.0f, .seed = 11};
    kept_sampler *forward = make(&params, N), *backward = make(&params, N);
    int32_t tokens[64];
    for (uint32_t i = 0; i < 64; i++)
        tokens[i] = choose(forward, logits, i);
    for (uint32_t i = 64; i-- > 0;)
        assert_int_equal(choose(backward, logits, i), tokens[i]);
    params.seed = 12;
    kept_sampler *other = make(&params, N);
    uint32_t n_same = 0;
    for (uint32_t i = 0; i < 64; i++)
        n_same += choose(other, logits, i) == tokens[i];
    assert_true(n_same < 16);
    kept_sampler_destroy(&forward);
    kept_sampler_destroy(&backward);
    kept_sampler_destroy(&other);
}

/* ---- penalties ---- */

static void penalties_are_applied_once_a_token(void **state)
{
    (void)state;
    struct kept_sampler_params params = {.repeat_penalty = 2.0f, .repeat_last = 3};
    kept_sampler *sampler = make(&params, 4);
    float logits[] = {4.0f, 2.5f, -1.0f, 0.5f};
    assert_false(kept_sampler_is_greedy(sampler));
    assert_int_equal(choose(sampler, logits, 0), 0);
    kept_sampler_accept(sampler, 0);
    assert_int_equal(choose(sampler, logits, 1), 1); /* 4 / 2 < 2.5 */
    kept_sampler_accept(sampler, 0); /* twice in the window, halved once: 2 > 2.5 / 2 */
    kept_sampler_accept(sampler, 1);
    assert_int_equal(choose(sampler, logits, 2), 0);
    for (int i = 0; i < 3; i++)
        kept_sampler_accept(sampler, 3); /* 0 and 1 leave the window */
    assert_int_equal(choose(sampler, logits, 3), 0);
    kept_sampler_accept(sampler, -1); /* unknown ids count in the window and do nothing */
    kept_sampler_accept(sampler, INT32_MAX);
    assert_int_equal(choose(sampler, logits, 4), 0);
    kept_sampler_accept(sampler, 0);
    kept_sampler_reset(sampler);
    assert_int_equal(choose(sampler, logits, 5), 0);
    float negative[] = {-1.0f, -1.5f, -9.0f, -9.0f};
    kept_sampler_accept(sampler, 0);
    assert_int_equal(choose(sampler, negative, 6), 1); /* -1 * 2 < -1.5 */
    kept_sampler_destroy(&sampler);
}

/* ---- parameters ---- */

static void parameters_out_of_range(void **state)
{
    (void)state;
    static const struct kept_sampler_params bad[] = {
        {.temperature = -0.1f},
        {.temperature = NAN},
        {.temperature = INFINITY},
        {.top_p = -0.5f},
        {.top_p = 1.5f},
        {.top_p = NAN},
        {.min_p = -1.0f},
        {.min_p = 1.01f},
        {.min_p = NAN},
        {.repeat_penalty = -1.0f},
        {.repeat_penalty = NAN},
        {.repeat_penalty = INFINITY},
        {.repeat_last = 5000},
        {.repeat_last = UINT32_MAX},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kept_sampler *sampler = (kept_sampler *)1;
        struct kept_error err = {0};
        assert_int_equal(kept_sampler_create(&bad[i], 10, &sampler, &err), KEPT_E_ARGUMENT);
        assert_null(sampler);
        assert_true(err.message[0] != '\0');
    }
    const struct kept_sampler_params good = {0};
    kept_sampler *sampler = NULL;
    assert_int_equal(kept_sampler_create(&good, 0, &sampler, NULL), KEPT_E_ARGUMENT);
    assert_int_equal(kept_sampler_create(&good, UINT32_MAX, &sampler, NULL), KEPT_E_ARGUMENT);
    assert_int_equal(kept_sampler_create(NULL, 10, &sampler, NULL), KEPT_E_ARGUMENT);
    assert_int_equal(kept_sampler_create(&good, 10, NULL, NULL), KEPT_E_ARGUMENT);
    kept_sampler_destroy(&sampler);
    kept_sampler_destroy(NULL);
}

static void without_host_memory(void **state)
{
    (void)state;
    const struct kept_sampler_params params = {0};
    int64_t live = kept_alloc_live();
    for (uint64_t n = 1; n <= 3; n++) {
        kept_sampler *sampler = NULL;
        kept_alloc_fail_at(n);
        assert_int_equal(kept_sampler_create(&params, 10, &sampler, NULL), KEPT_E_HOST_MEMORY);
        kept_alloc_fail_at(0);
        assert_null(sampler);
        assert_int_equal(kept_alloc_live(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filters_keep_what_a_plain_sampler_keeps),
        cmocka_unit_test(a_known_distribution),
        cmocka_unit_test(greedy_takes_the_largest),
        cmocka_unit_test(no_number_is_an_error),
        cmocka_unit_test(infinite_and_extreme_logits),
        cmocka_unit_test(top_k_of_one_is_greedy),
        cmocka_unit_test(draws_depend_on_seed_and_position_only),
        cmocka_unit_test(penalties_are_applied_once_a_token),
        cmocka_unit_test(parameters_out_of_range),
        cmocka_unit_test(without_host_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

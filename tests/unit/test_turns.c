/* tests/unit/test_turns.c: devices that leave loops after a number of turns: the slots at which
 * lavapipe was measured to do so, plans that are refused, and that what the refusal offers fits. */
#include "core_run.h"

#include <ctype.h>

#define LLAMA "tiny-llama-plain"

static kept_device *device;

static void check_fit(const struct kept_call *call, uint32_t measured)
{
    uint32_t fit = kept_tune_slots_within(call, 65535);
    assert_true(fit <= measured && fit > measured - measured / 20);
    assert_true(kept_tune_turns(call, fit) <= 65535 && kept_tune_turns(call, fit + 64) > 65535);
}

/* The counts of docs/measuring.md: f16 slots, the keys of the class "vulkan on cpu". */
static void as_measured(void **state)
{
    (void)state;
    struct kept_profile profile = {.api = "vulkan", .type = "cpu", .max_shared_bytes = 32768};
    struct kept_tuning tuning;
    kept_tune_device(&profile, &tuning);
    static const struct {
        uint32_t d, group, measured;
        bool decode;
    } cases[] = {{64, 3, 38800, false}, {256, 4, 20500, false}, {64, 3, 48700, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct kept_attn_keys keys =
            kept_tune_attention(&tuning, &profile, cases[i].d, cases[i].group, cases[i].decode);
        struct kept_attn_params params = {.n_splits = 1, .d = cases[i].d};
        struct kept_call call = {.id = cases[i].decode ? KEPT_KERNEL_ATTN_DECODE
                                                       : KEPT_KERNEL_ATTN_PREFILL};
        call.keys[0] = keys.wg;
        call.keys[KEPT_KEY_ATTN_D] = cases[i].d;
        call.keys[KEPT_KEY_ATTN_G] = keys.g;
        call.keys[KEPT_KEY_ATTN_BQ] = keys.bq;
        call.keys[KEPT_KEY_ATTN_KT] = call.keys[KEPT_KEY_ATTN_VT] = KEPT_FMT_F16;
        memcpy(call.params, &params, sizeof params);
        check_fit(&call, cases[i].measured);
        if (cases[i].decode) { /* two splits, twice the slots */
            params.n_splits = 2;
            memcpy(call.params, &params, sizeof params);
            check_fit(&call, 2 * cases[i].measured);
        }
    }
}

static struct kept_profile lavapipe_like(uint32_t turns)
{
    struct kept_profile profile = run_profile(device);
    memcpy(profile.api, "vulkan", 7);
    memcpy(profile.type, "cpu", 4);
    profile.word_order = KEPT_LANE;
    profile.vector_width = 1;
    profile.loop_turns = turns;
    return profile;
}

/* The number after `option` in the message, or 0. */
static uint32_t offered(const char *message, const char *option)
{
    const char *at = strstr(message, option);
    if (!at)
        return 0;
    at += strlen(option);
    assert_true(isdigit((unsigned char)*at));
    return (uint32_t)strtoul(at, NULL, 10);
}

static kept_status plan_status(const kept_model *model, const struct kept_profile *profile,
                               const struct kept_plan_params *params, struct kept_error *err)
{
    kept_plan *plan = NULL;
    kept_status status = kept_plan_create(model, profile, params, &plan, err);
    kept_plan_destroy(&plan);
    return status;
}

static void full_contexts(void **state)
{
    (void)state;
    kept_model *model = run_model(LLAMA);
    struct kept_plan_params params = {.context_tokens = 512, .chunk_tokens = 128};
    struct kept_error err = {0};
    uint32_t n_refused = 0;
    struct kept_profile profile = lavapipe_like(0); /* no limit */
    assert_int_equal(plan_status(model, &profile, &params, &err), KEPT_OK);
    for (uint32_t turns = 500; turns < 4000; turns += 100) {
        profile = lavapipe_like(turns);
        params.context_tokens = 512;
        if (plan_status(model, &profile, &params, &err) == KEPT_OK)
            continue;
        assert_int_equal(err.status, KEPT_E_UNSUPPORTED);
        uint32_t context = offered(err.message, "--context ");
        assert_int_equal(offered(err.message, "--retain-budget "), 0);
        n_refused += context > 0;
        params.context_tokens = context;
        if (context > 0)
            assert_int_equal(plan_status(model, &profile, &params, &err), KEPT_OK);
        params.context_tokens = context + 64;
        assert_int_equal(plan_status(model, &profile, &params, &err), KEPT_E_UNSUPPORTED);
    }
    assert_true(n_refused > 3);
    kept_model_close(&model);
}

static void bounded_pasts(void **state)
{
    (void)state;
    kept_model *model = run_model(LLAMA);
    struct kept_plan_params params = {
        .context_tokens = 512,
        .chunk_tokens = 128,
        .retain = {.mode = KEPT_RETAIN_SCORED, .protect = 32, .sinks = 4, .hold_tokens = 64}};
    struct kept_error err = {0};
    uint32_t n_refused = 0;
    for (uint32_t turns = 4000; turns < 8000; turns += 20) {
        struct kept_profile profile = lavapipe_like(turns);
        params.retain.budget_slots = 400;
        if (plan_status(model, &profile, &params, &err) == KEPT_OK)
            continue;
        assert_int_equal(err.status, KEPT_E_UNSUPPORTED);
        uint32_t budget = offered(err.message, "--retain-budget ");
        if (budget < 64)
            continue;
        n_refused++;
        params.retain.budget_slots = budget;
        assert_int_equal(plan_status(model, &profile, &params, &err), KEPT_OK);
        params.retain.budget_slots = budget + 64;
        assert_int_equal(plan_status(model, &profile, &params, &err), KEPT_E_UNSUPPORTED);
    }
    assert_true(n_refused > 3);
    kept_model_close(&model);
}

static int set_up(void **state)
{
    (void)state;
    device = run_device();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kept_device_destroy(&device);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_measured),
        cmocka_unit_test(full_contexts),
        cmocka_unit_test(bounded_pasts),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

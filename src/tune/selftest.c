/* tune/selftest.c: the public face of the checker (kept/kernel.h): translates parameters and
 * results, and turns wrong results into a status. */
#include "kept/kernel.h"

#include "base/status.h"
#include "tune/check.h"

struct selftest {
    kept_selftest_fn fn;
    void *user;
};

static bool on_result(void *user, const struct kept_check_result *result)
{
    const struct selftest *s = user;
    const struct kept_selftest_row row = {
        .kernel = result->row->stem,
        .purpose = result->row->purpose,
        .format = result->format,
        .keys = result->keys,
        .shape = result->shape != NULL ? result->shape : "",
        .n_cases = result->n_cases,
        .n_failed = result->n_failed,
        .failure = result->failure,
        .ns = result->ns,
        .gbps = result->gbps,
        .gflops = result->gflops,
    };
    return s->fn == NULL || s->fn(s->user, &row);
}

kept_status kept_selftest_run(kept_device *device, const struct kept_selftest_params *params,
                              kept_selftest_fn fn, void *user, struct kept_error *err)
{
    static const struct kept_selftest_params defaults;
    struct selftest s = {fn, user};
    struct kept_check_summary summary = {0};
    if (device == NULL)
        return kept_fail(err, KEPT_E_ARGUMENT, "a self-test needs an open device");
    if (params == NULL)
        params = &defaults;
    const struct kept_check_params check = {
        .seed = params->seed,
        .pattern = params->pattern,
        .format = params->format,
        .n_rounds = params->n_rounds,
        .n_cases = params->n_cases,
        .round_plus_1 = params->round_plus_1,
        .case_plus_1 = params->case_plus_1,
        .max_lanes = params->max_lanes,
        .seconds = params->seconds,
    };
    kept_status status = params->bench
                             ? kept_check_bench(device, &check, on_result, &s, &summary, err)
                             : kept_check_run(device, &check, on_result, &s, &summary, err);
    if (status != KEPT_OK)
        return status;
    if (summary.n_results == 0)
        return kept_fail(err, KEPT_E_ARGUMENT, "no kernel matches '%s' with format '%s'",
                         params->pattern != NULL ? params->pattern : "",
                         params->format != NULL ? params->format : "any");
    if (summary.n_failed != 0)
        return kept_fail(err, KEPT_E_CHECK, "%u of %u kernel checks gave a wrong result",
                         summary.n_failed, summary.n_cases);
    return KEPT_OK;
}

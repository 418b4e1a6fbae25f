/* tune/check_bench.c: times rows with the shapes of three models, decode (1 row) and prefill (256
 * rows), after 1,024 earlier tokens. The same generators and the same call as in the check; enough
 * calls in one recording that the submission does not count. Bytes and operations come from
 * kept_kernel_cost: what must move at least once.
 */
#include "tune/check.h"

#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "base/str.h"
#include "tune/check_run.h"

#define TARGET_NS 1e8 /* per figure */
#define MAX_CALLS 512u
#define N_TRIES   3

static const struct check_model models[] = {
    {"135M decode", 576, 1536, 9, 3, 64, 49152, 1, 1024},
    {"135M prefill", 576, 1536, 9, 3, 64, 49152, 256, 1024},
    {"1B decode", 2048, 8192, 32, 8, 64, 128256, 1, 1024},
    {"1B prefill", 2048, 8192, 32, 8, 64, 128256, 256, 1024},
    {"8B decode", 4096, 14336, 32, 8, 128, 128256, 1, 1024},
    {"8B prefill", 4096, 14336, 32, 8, 128, 128256, 256, 1024},
};

static void (*const generators[KEPT_KERNEL_COUNT])(struct check_case *c) = {
#define KEPT_KERNEL(ID, stem, ...) kept_gen_##stem,
#include "kernel/kernels.def"
#undef KEPT_KERNEL
};

/* Kernels for few rows are not timed with many, nor the other way round. */
static bool sensible(const struct kept_kernel_row *row, const struct check_model *m,
                     enum kept_format format)
{
    if (row->has_formats && m->k % kept_format_block_elems(format) != 0)
        return false;
    if (row->id == KEPT_KERNEL_MATVEC || row->id == KEPT_KERNEL_ATTN_DECODE)
        return m->rows == 1;
    if (row->id == KEPT_KERNEL_MATMAT || row->id == KEPT_KERNEL_ATTN_PREFILL)
        return m->rows > 1;
    return true;
}

static void pick_keys(struct check_case *c, const struct kept_device *device)
{
    uint32_t group = c->model->n_head / c->model->n_kv;
    kept_check_tuned_keys(c, device);
    kept_check_set_key(c, "D", c->model->d);
    if (kept_check_key(c, "G") > group)
        kept_check_set_key(c, "G", group);
    if (kept_check_key(c, "NC") > c->model->rows)
        kept_check_set_key(c, "NC", c->model->rows);
    if (c->row->id == KEPT_KERNEL_ATTN_DECODE || c->row->id == KEPT_KERNEL_ATTN_PREFILL)
        kept_check_fit_attn(c);
}

/* One call to warm up and to estimate; then as many as fill the time, the best of three tries. */
static kept_status measure(struct check_runner *r, const struct check_case *c,
                           struct kept_kernel *kernel, double *ns, struct kept_error *err)
{
    double one = 0;
    kept_status status = KEPT_OK;
    for (int i = 0; status == KEPT_OK && i < 2; i++)
        status = kept_check_execute(r, c, kernel, 1, &one, err);
    uint32_t n = one * MAX_CALLS < TARGET_NS ? MAX_CALLS : 1 + (uint32_t)(TARGET_NS / one);
    *ns = one;
    for (int i = 0; status == KEPT_OK && i < N_TRIES; i++) {
        double total = 0;
        status = kept_check_execute(r, c, kernel, n, &total, err);
        if (status == KEPT_OK && total / n < *ns)
            *ns = total / n;
    }
    return status;
}

static kept_status bench_case(struct check_runner *r, struct check_case *c,
                              struct kept_check_result *result, struct kept_error *err)
{
    struct kept_kernel *kernel = NULL;
    generators[c->row->id](c);
    if (c->failed)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for timing kernel '%s'",
                         c->row->stem);
    kept_status status =
        kept_kernel_create(r->device, c->row->id, c->format, c->keys, &kernel, err);
    if (status == KEPT_OK)
        status = kept_check_upload(r, c, err);
    if (status == KEPT_OK)
        status = measure(r, c, kernel, &result->ns, err);
    kept_kernel_destroy(&kernel);
    if (status != KEPT_OK)
        return status;
    struct kept_cost cost =
        kept_kernel_cost(c->row->id, c->format, &c->params, c->live, c->live_slots);
    result->gbps = (double)cost.bytes / result->ns;
    result->gflops = (double)cost.ops / result->ns;
    result->n_cases = 1;
    return KEPT_OK;
}

static kept_status bench_one(struct check_runner *r, struct check_case *c,
                             const struct kept_check_params *params, kept_check_fn report,
                             void *user, struct kept_error *err)
{
    char keys[160], shape[240];
    struct kept_check_result result = {.row = c->row, .keys = keys, .shape = shape, .failure = ""};
    c->rng = params->seed;
    pick_keys(c, r->device);
    kept_check_keys_text(c, keys, sizeof keys);
    kept_status status = bench_case(r, c, &result, err);
    kept_snprintf(shape, sizeof shape, "%s: %s", c->model->name, c->shape);
    result.format = c->row->has_formats ? kept_format_name(c->format) : "-";
    kept_case_finish(c);
    if (status == KEPT_OK && report != NULL && !report(user, &result))
        return kept_fail(err, KEPT_E_CANCELLED, "the kernel benchmark was cancelled");
    return status;
}

kept_status kept_check_bench(struct kept_device *device, const struct kept_check_params *params,
                             kept_check_fn report, void *user, struct kept_check_summary *summary,
                             struct kept_error *err)
{
    const uint32_t n_models = sizeof models / sizeof *models;
    struct check_runner r = {.device = device};
    struct kept_check_summary done = {0};
    uint64_t begin_ns = kept_clock_ns();
    kept_status status = KEPT_OK;
    for (uint32_t i = 0; status == KEPT_OK && i < KEPT_KERNEL_COUNT * KEPT_FORMAT_COUNT * n_models;
         i++) {
        struct check_case c = {.caps = &device->caps, .max_lanes = device->caps.max_group_lanes};
        uint32_t i_row = i / n_models;
        c.row = kept_kernel_row((enum kept_kernel_id)(i_row / KEPT_FORMAT_COUNT));
        c.format = (enum kept_format)(i_row % KEPT_FORMAT_COUNT);
        c.model = &models[i % n_models];
        bool late =
            params->seconds > 0 && (double)(kept_clock_ns() - begin_ns) * 1e-9 > params->seconds;
        if (late || !kept_check_wanted(params, c.row, c.format) ||
            !sensible(c.row, c.model, c.format))
            continue;
        status = bench_one(&r, &c, params, report, user, err);
        done.n_results++;
        done.n_cases++;
    }
    kept_check_runner_finish(&r);
    if (summary != NULL)
        *summary = done;
    return status;
}

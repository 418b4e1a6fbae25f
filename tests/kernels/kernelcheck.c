/* tests/kernels/kernelcheck.c: the kernel checker from the command line, for the tests and for
 * people who write kernels.
 *
 *   kernelcheck --backend vulkan                         every row against its reference
 *   kernelcheck --backend cpu --pattern matvec --format Q4_K --rounds 20 --cases 50 --seed 7
 *   kernelcheck --backend opencl --pattern attn --round 1 --case 3      a failing case, same --seed
 *   kernelcheck --backend cpu --pattern matvec --bench
 *   kernelcheck --backend cpu --mask simd --mask simd    without the two best instruction sets
 *
 * Exit codes: 0 all agree, 1 some do not, 2 usage, 77 the backend has no device (or lacks one in
 * this build).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "tune/check.h"

#define EXIT_SKIP 77

struct options {
    const char *backend;
    uint64_t device, seed, rounds, cases, round, one_case, lanes, seconds, threads;
    bool has_round, has_case, bench, verbose, validate, no_subgroups;
    uint32_t no_simd; /* instruction sets left out, the best first */
    const char *pattern, *format, *cache_dir;
};

static const char usage[] =
    "kernelcheck --backend cpu|vulkan|opencl [--device N] [--pattern TEXT] [--format NAME]\n"
    "  [--seed N] [--rounds N] [--cases N] [--round N] [--case N] [--seconds N] [--lanes N] "
    "[--threads N]\n"
    "  [--mask subgroup|simd]... [--cache DIR] [--validate] [--bench] [--verbose]\n";

static bool number(struct options *o, const char *name, const char *text)
{
    const struct {
        const char *name;
        uint64_t *to;
        bool *given;
    } list[] = {
        {"--device", &o->device, NULL},        {"--seed", &o->seed, NULL},
        {"--rounds", &o->rounds, NULL},        {"--cases", &o->cases, NULL},
        {"--round", &o->round, &o->has_round}, {"--case", &o->one_case, &o->has_case},
        {"--seconds", &o->seconds, NULL},      {"--lanes", &o->lanes, NULL},
        {"--threads", &o->threads, NULL},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strcmp(name, list[i].name) == 0) {
            if (list[i].given != NULL)
                *list[i].given = true;
            return kept_parse_u64(text, list[i].to) && *list[i].to < UINT32_MAX;
        }
    return false;
}

static bool flag(struct options *o, const char *name)
{
    if (strcmp(name, "--bench") == 0)
        o->bench = true;
    else if (strcmp(name, "--verbose") == 0)
        o->verbose = true;
    else if (strcmp(name, "--validate") == 0)
        o->validate = true;
    else
        return false;
    return true;
}

static bool parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (flag(o, name))
            continue;
        if (++i >= argc)
            return false;
        if (strcmp(name, "--backend") == 0)
            o->backend = argv[i];
        else if (strcmp(name, "--pattern") == 0)
            o->pattern = argv[i];
        else if (strcmp(name, "--format") == 0)
            o->format = argv[i];
        else if (strcmp(name, "--cache") == 0)
            o->cache_dir = argv[i];
        else if (strcmp(name, "--mask") == 0 && strcmp(argv[i], "subgroup") == 0)
            o->no_subgroups = true;
        else if (strcmp(name, "--mask") == 0 && strcmp(argv[i], "simd") == 0)
            o->no_simd++;
        else if (!number(o, name, argv[i]))
            return false;
    }
    return o->backend != NULL;
}

static bool on_result(void *user, const struct kept_check_result *r)
{
    const struct options *o = user;
    if (o->bench)
        printf("%-12s %-5s %10.2f us %8.2f GB/s %9.2f GFLOP/s  %s [%s]\n", r->row->stem, r->format,
               r->ns * 1e-3, r->gbps, r->gflops, r->shape, r->keys);
    else if (r->n_failed != 0)
        printf("FAIL %u of %u: %s\n", r->n_failed, r->n_cases, r->failure);
    else if (o->verbose)
        printf("ok   %u: %s %s [%s]\n", r->n_cases, r->row->stem, r->format, r->keys);
    fflush(stdout);
    return true;
}

static void on_log(void *user, enum kept_log_level level, const char *text)
{
    (void)user;
    fprintf(stderr, "%s: %s\n", level == KEPT_LOG_ERROR ? "error" : "warning", text);
}

static int run(struct kept_device *device, struct options *o)
{
    struct kept_error err = {0};
    struct kept_check_summary summary;
    const struct kept_check_params params = {
        .seed = o->seed,
        .pattern = o->pattern,
        .format = o->format,
        .n_rounds = o->has_round ? (uint32_t)o->round + 1 : (uint32_t)o->rounds,
        .n_cases = (uint32_t)o->cases,
        .round_plus_1 = o->has_round ? (uint32_t)o->round + 1 : 0,
        .case_plus_1 = o->has_case ? (uint32_t)o->one_case + 1 : 0,
        .max_lanes = (uint32_t)o->lanes,
        .seconds = (double)o->seconds,
    };
    printf("%s: %s\n", o->backend, device->desc.name);
    kept_status status = o->bench ? kept_check_bench(device, &params, on_result, o, &summary, &err)
                                  : kept_check_run(device, &params, on_result, o, &summary, &err);
    if (status != KEPT_OK) {
        printf("%s: %s\n", kept_status_name(status), err.message);
        return EXIT_FAILURE;
    }
    printf("%u kernels, formats and keys; %u cases; %u failed\n", summary.n_results,
           summary.n_cases, summary.n_failed);
    if (device->n_validation_errors != 0)
        printf("%" PRIu64 " validation errors\n", device->n_validation_errors);
    bool ok = summary.n_results > 0 && summary.n_failed == 0 && device->n_validation_errors == 0;
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1};
    struct kept_device *device = NULL;
    struct kept_device_desc desc[16];
    struct kept_error err = {0};
    uint32_t n = 0;
    char why[160] = "";
    if (!parse(argc, argv, &o) || kept_backend_find(o.backend) == NULL) {
        fputs(usage, stderr);
        return 2;
    }
    const struct kept_backend_ops *ops = kept_backend_find(o.backend);
    const struct kept_log log = {.write = on_log, .level = KEPT_LOG_WARN};
    if (kept_backend_list(ops, NULL, desc, 16, &n, why, &err) != KEPT_OK || o.device >= n) {
        printf("skipped: %s has %u devices; %s%s\n", o.backend, n, why, err.message);
        return EXIT_SKIP;
    }
    const struct kept_device_params params = {
        .log = &log,
        .cache_dir = o.cache_dir,
        .n_threads = (uint32_t)o.threads,
        .validate = o.validate,
        .mask_subgroup_ops = o.no_subgroups,
        .mask_simd = o.no_simd,
    };
    if (kept_device_open(ops, (uint32_t)o.device, &params, &device, &err) != KEPT_OK) {
        printf("%s: %s\n", o.backend, err.message);
        return EXIT_FAILURE;
    }
    int code = run(device, &o);
    kept_device_close(&device);
    return code;
}

/* cmd_selftest.c: kept selftest: every kernel of a device against the reference, or its speed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "kept/kept.h"
#include "kept/kernel.h"

#include "commands.h"
#include "json_out.h"
#include "profile.h"
#include "terminal.h"

struct job {
    const struct cli_settings *settings;
    kept_device *device;
    struct kept_profile profile;
    uint64_t seed;
    json_t *rows;
    uint64_t n_cases, n_failed;
    uint32_t n_rows;
};

static json_t *row_json(const struct job *job, const struct kept_selftest_row *row)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:s}", "kernel", row->kernel, "purpose",
                               row->purpose, "format", row->format, "keys", row->keys);
    json_t *results = job->settings->bench
                          ? json_pack("{s:s, s:f, s:f, s:f}", "shape", row->shape, "ns", row->ns,
                                      "gbps", row->gbps, "gflops", row->gflops)
                          : json_pack("{s:I, s:I, s:o}", "n_cases", (json_int_t)row->n_cases,
                                      "n_failed", (json_int_t)row->n_failed, "failure",
                                      cli_json_text(row->failure, SIZE_MAX));
    if (object && results)
        json_object_update(object, results);
    json_decref(results);
    return object;
}

static void print_row(const struct job *job, const struct kept_selftest_row *row)
{
    if (job->settings->json)
        return;
    cli_progress_end();
    if (job->settings->bench)
        printf("%-18s %-6s %-28s %10.1f us %8.2f GB/s %8.2f GFLOPS  %s\n", row->kernel, row->format,
               row->shape, row->ns / 1e3, row->gbps, row->gflops, row->keys);
    else
        printf("%-6s %-18s %-6s %4u cases  %s\n", row->n_failed ? "FAILED" : "ok", row->kernel,
               row->format, row->n_cases, row->keys);
    if (row->n_failed)
        printf("       %u of %u: %s\n", row->n_failed, row->n_cases, row->failure);
    fflush(stdout);
}

static bool on_row(void *user, const struct kept_selftest_row *row)
{
    struct job *job = user;
    job->n_rows++;
    job->n_cases += row->n_cases;
    job->n_failed += row->n_failed;
    json_array_append_new(job->rows, row_json(job, row));
    print_row(job, row);
    return !cli_interrupted();
}

/* Everything that someone else needs to see the same failure. */
static json_t *report_json(const struct job *job, kept_status status, const struct kept_error *err)
{
    struct kept_device_info device = {.profile = job->profile, .usable = true};
    struct utsname system = {0};
    char when[32] = "";
    time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc))
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    uname(&system);
    return json_pack(
        "{s:s, s:s, s:{s:s, s:s, s:s}, s:o, s:I, s:b, s:s, s:o, s:I, s:I, s:O}", "kept",
        kept_version(), "time", when, "system", "name", system.sysname, "release", system.release,
        "machine", system.machine, "device", cli_device_json(&device), "seed",
        (json_int_t)job->seed, "ok", status == KEPT_OK, "status", kept_status_name(status),
        "message", cli_json_text(status == KEPT_OK ? "" : err->message, SIZE_MAX), "n_cases",
        (json_int_t)job->n_cases, "n_failed", (json_int_t)job->n_failed, "rows", job->rows);
}

static kept_status write_report(const struct job *job, kept_status result, struct kept_error *err)
{
    json_t *report = report_json(job, result, err);
    kept_status status = KEPT_OK;
    if (!report || json_dump_file(report, job->settings->report,
                                  JSON_INDENT(2) | JSON_REAL_PRECISION(10)) != 0)
        status = cli_fail(err, KEPT_E_IO, "cannot write '%.300s': %s", job->settings->report,
                          strerror(errno));
    json_decref(report);
    return status;
}

static kept_status open_device(struct job *job, struct kept_error *err)
{
    const struct cli_settings *settings = job->settings;
    struct kept_log log = cli_log(settings);
    struct kept_device_options options = {.log = &log, .n_threads = settings->threads};
    char choice[256];
    kept_status status = kept_device_create(settings->device ? settings->device : "auto", &options,
                                            &job->device, choice, err);
    if (status == KEPT_OK) {
        kept_device_profile(job->device, &job->profile);
        cli_note(settings, "device: %s", choice);
    }
    return status;
}

static kept_status test(struct job *job, struct kept_error *err)
{
    const struct cli_settings *settings = job->settings;
    struct kept_selftest_params params = {
        .seed = job->seed,
        .pattern = settings->kernel,
        .format = settings->format,
        .n_rounds = settings->n_rounds,
        .n_cases = settings->n_cases,
        .round_plus_1 = settings->round.given ? (uint32_t)settings->round.value + 1 : 0,
        .case_plus_1 = settings->shape.given ? (uint32_t)settings->shape.value + 1 : 0,
        .max_lanes = settings->max_lanes,
        .seconds = settings->seconds,
        .bench = settings->bench};
    return kept_selftest_run(job->device, &params, on_row, job, err);
}

static void say(const struct job *job, kept_status status, const struct kept_error *err)
{
    cli_progress_end();
    if (job->settings->json)
        cli_json_print(report_json(job, status, err), true);
    else if (!job->settings->bench)
        printf("%s (%s): %u rows, %llu cases, %llu failed\n", job->profile.id, job->profile.name,
               job->n_rows, (unsigned long long)job->n_cases, (unsigned long long)job->n_failed);
}

enum cli_exit cli_selftest(const struct cli_settings *settings)
{
    struct job job = {.settings = settings,
                      .seed = settings->seed.given ? settings->seed.value : 1};
    struct kept_error err = {0};
    enum cli_exit code;
    kept_status status = open_device(&job, &err);
    if (status != KEPT_OK)
        return cli_report(settings, &err);
    job.rows = json_array();
    status = test(&job, &err);
    code = cli_exit_of(status);
    say(&job, status, &err);
    if (settings->report) {
        struct kept_error unwritten = err;
        if (write_report(&job, status, &unwritten) != KEPT_OK) {
            fprintf(stderr, "kept: %s\n", unwritten.message);
            code = code == CLI_OK ? CLI_FAILED : code;
        }
    }
    if (status != KEPT_OK && !settings->json)
        cli_report(settings, &err);
    json_decref(job.rows);
    kept_device_destroy(&job.device);
    return code;
}

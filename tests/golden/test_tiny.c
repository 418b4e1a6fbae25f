/* Tiny models of every family in every weight format, through the whole library on one backend,
 * against logits of an independent implementation (tests/golden/README.md): prefill in several
 * chunkings, decode one by one, rewind, save and load; and the plan's promises: planned = actual,
 * no allocation after commit, activations near their lower bound.
 *
 * test_tiny BACKEND FOLDER; exit code 77 where the backend has no device. vulkan-staging hides that
 * device memory can be mapped, so that everything takes the way it takes on a discrete card.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "kept/kept.h"

#define SKIP 77
/* Rounding K and V to f16 moves log-probabilities of these models by at most 0.02 and their mean KL
 * by 2e-6; a different order of f32 sums can flip such roundings, so the same bounds hold between
 * our own paths. */
#define LOGPROB_BOUND 0.02
#define KL_BOUND      1e-5

struct golden {
    int32_t n_tokens, n_vocab;
    int32_t *ids;
    float *logits;
};

struct run {
    kept_model *model;
    kept_plan *plan;
    kept_session *session;
};

static kept_device *device;
static int n_failed, n_checks;

static void check(bool ok, const char *model, const char *what)
{
    n_checks++;
    if (ok)
        return;
    n_failed++;
    fprintf(stderr, "FAILED %s: %s\n", model, what);
}

static bool must(kept_status status, const struct kept_error *err, const char *model,
                 const char *what)
{
    check(status == KEPT_OK, model, what);
    if (status != KEPT_OK)
        fprintf(stderr, "  %s: %s\n", kept_status_name(status), err->message);
    return status == KEPT_OK;
}

static bool read_golden(const char *path, struct golden *out)
{
    FILE *file = fopen(path, "rb");
    bool ok =
        file && fread(&out->n_tokens, 4, 1, file) == 1 && fread(&out->n_vocab, 4, 1, file) == 1;
    if (ok && out->n_tokens > 0 && out->n_tokens < 4096 && out->n_vocab > 0 &&
        out->n_vocab < 65536) {
        size_t n = (size_t)out->n_tokens * (size_t)out->n_vocab;
        out->ids = malloc((size_t)out->n_tokens * 4);
        out->logits = malloc(n * 4);
        ok = out->ids && out->logits &&
             fread(out->ids, 4, (size_t)out->n_tokens, file) == (size_t)out->n_tokens &&
             fread(out->logits, 4, n, file) == n;
    }
    if (file)
        fclose(file);
    return ok;
}

static double log_sum(const float *row, int n)
{
    double top = row[0], sum = 0.0;
    for (int i = 1; i < n; i++)
        top = row[i] > top ? row[i] : top;
    for (int i = 0; i < n; i++)
        sum += exp(row[i] - top);
    return top + log(sum);
}

/* KL(want || got) and the worst log-probability difference over the row. */
static void compare_row(const float *want, const float *got, int n, double *kl, double *worst)
{
    double norm_want = log_sum(want, n), norm_got = log_sum(got, n);
    for (int i = 0; i < n; i++) {
        double a = want[i] - norm_want, b = got[i] - norm_got;
        *kl += exp(a) * (a - b);
        *worst = fabs(a - b) > *worst || isnan(b) ? fabs(a - b) : *worst;
    }
}

static void compare(const struct golden *golden, const float *got, int first, int n,
                    const char *model, const char *what)
{
    double kl = 0.0, worst = 0.0;
    for (int i = 0; i < n; i++)
        compare_row(golden->logits + (size_t)(first + i) * (size_t)golden->n_vocab,
                    got + (size_t)i * (size_t)golden->n_vocab, golden->n_vocab, &kl, &worst);
    bool ok = kl / n <= KL_BOUND && worst <= LOGPROB_BOUND;
    check(ok, model, what);
    if (!ok)
        fprintf(stderr, "  mean KL %.3g, worst log-probability %.3g over %d rows\n", kl / n, worst,
                n);
}

struct collect {
    float *to;
    int n_vocab;
    uint32_t first; /* position of row 0 of to */
};

static void collect(void *user, uint32_t first, uint32_t n_rows, const float *logits)
{
    struct collect *into = user;
    memcpy(into->to + (size_t)(first - into->first) * (size_t)into->n_vocab, logits,
           (size_t)n_rows * (size_t)into->n_vocab * sizeof *logits);
}

static bool open_run(const char *path, uint32_t context, uint32_t chunk, uint32_t logits_rows,
                     struct run *out)
{
    struct kept_error err = {0};
    struct kept_profile profile;
    struct kept_plan_params params = {
        .context_tokens = context, .chunk_tokens = chunk, .logits_rows = logits_rows};
    *out = (struct run){0};
    kept_device_profile(device, &profile);
    return must(kept_model_open(path, NULL, &out->model, &err), &err, path, "open") &&
           must(kept_plan_create(out->model, &profile, &params, &out->plan, &err), &err, path,
                "plan") &&
           must(kept_session_create(out->plan, device, NULL, NULL, &out->session, &err), &err, path,
                "commit");
}

static void close_run(struct run *run)
{
    kept_session_destroy(&run->session);
    kept_plan_destroy(&run->plan);
    kept_model_close(&run->model);
}

static void check_promises(const struct run *run, const char *path)
{
    struct kept_session_stats stats;
    const struct kept_plan_info *info = kept_plan_info(run->plan);
    kept_session_stats(run->session, &stats);
    check(stats.planned_bytes == stats.actual_bytes, path, "planned = actual");
    check(stats.allocations_after_commit == 0, path, "no allocation after commit");
    check((double)info->activation_bytes <= 1.10 * (double)info->lower_bound_bytes, path,
          "activations within 1.10 of their lower bound");
    check(info->weight_bytes <= kept_model_info(run->model)->tensor_bytes * 101 / 100 + 65536, path,
          "weights take their bytes in the file");
}

/* Everything in one eval, cut into chunks by the plan. */
static void prefill_in_chunks(const char *path, const struct golden *golden, float *got,
                              uint32_t chunk, uint32_t logits_rows)
{
    struct run run;
    struct kept_error err = {0};
    char what[64];
    snprintf(what, sizeof what, "prefill in chunks of %u, %u rows of logits", chunk, logits_rows);
    struct collect into = {got, golden->n_vocab, 0};
    struct kept_eval_params eval = {.tokens = golden->ids,
                                    .n_tokens = (uint32_t)golden->n_tokens,
                                    .on_logits = collect,
                                    .logits_user = &into};
    if (open_run(path, 192, chunk, logits_rows, &run) &&
        must(kept_session_eval(run.session, &eval, &err), &err, path, what)) {
        compare(golden, got, 0, golden->n_tokens, path, what);
        check_promises(&run, path);
    }
    close_run(&run);
}

static bool decode(const struct run *run, const struct golden *golden, int from, int to, float *got,
                   const char *path)
{
    struct kept_error err = {0};
    for (int i = from; i < to; i++) {
        const float *logits;
        struct kept_eval_params eval = {.tokens = &golden->ids[i], .n_tokens = 1};
        if (!must(kept_session_eval(run->session, &eval, &err), &err, path, "decode") ||
            !must(kept_session_logits(run->session, &logits, &err), &err, path, "logits"))
            return false;
        memcpy(got + (size_t)(i - from) * (size_t)golden->n_vocab, logits,
               (size_t)golden->n_vocab * sizeof *logits);
    }
    return true;
}

static bool prefill(const struct run *run, const struct golden *golden, int to, const char *path)
{
    struct kept_error err = {0};
    uint32_t done = kept_session_position(run->session);
    struct kept_eval_params eval = {.tokens = golden->ids + done, .n_tokens = (uint32_t)to - done};
    return must(kept_session_eval(run->session, &eval, &err), &err, path, "prefill");
}

static void check_choice(const struct run *run, const float *last, int n_vocab, const char *path)
{
    struct kept_error err = {0};
    struct kept_sampler_params params = {0};
    kept_sampler *sampler;
    int32_t token = -1;
    int best = 0;
    if (!must(kept_sampler_create(&params, (uint32_t)n_vocab, &sampler, &err), &err, path,
              "sampler"))
        return;
    if (must(kept_session_sample(run->session, sampler, &token, &err), &err, path, "sample")) {
        for (int i = 1; i < n_vocab; i++)
            best = last[i] > last[best] ? i : best;
        check(token == best, path, "the device's greedy choice is the largest logit");
    }
    kept_sampler_destroy(&sampler);
}

/* Decode one by one, rewind and decode again, save, load into a session with other limits, go on.
 * */
static void decode_rewind_save(const char *path, const struct golden *golden, float *got,
                               const char *session_path)
{
    struct run run;
    struct kept_error err = {0};
    int n = golden->n_tokens, half = n / 2;
    if (open_run(path, 192, 32, 1, &run) && prefill(&run, golden, half, path) &&
        decode(&run, golden, half, n, got, path)) {
        compare(golden, got, half, n - half, path, "decode one by one");
        check_choice(&run, got + (size_t)(n - half - 1) * (size_t)golden->n_vocab, golden->n_vocab,
                     path);
        check_promises(&run, path);
        uint32_t back = (uint32_t)n - 20;
        if (must(kept_session_rewind(run.session, back, &err), &err, path, "rewind") &&
            decode(&run, golden, (int)back, n, got, path))
            compare(golden, got, (int)back, 20, path, "decode after a rewind");
        if (kept_session_rewind(run.session, back, &err) == KEPT_OK)
            must(kept_session_save(run.session, session_path, &err), &err, path, "save");
    }
    close_run(&run);
    if (open_run(path, 160, 7, 1, &run) &&
        must(kept_session_load(run.session, session_path, &err), &err, path, "load")) {
        int from = (int)kept_session_position(run.session);
        check(from == n - 20, path, "position after load");
        check(memcmp(kept_session_tokens(run.session), golden->ids, (size_t)from * 4) == 0, path,
              "tokens after load");
        if (decode(&run, golden, from, n, got, path))
            compare(golden, got, from, n - from, path, "decode after save and load");
    }
    close_run(&run);
    remove(session_path);
}

static void check_model(const char *folder, const char *name, const char *session_path)
{
    char path[1024], logits[1024];
    struct golden golden = {0};
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    snprintf(logits, sizeof logits, "%s/%s.logits", folder, name);
    bool ok = read_golden(logits, &golden);
    check(ok, logits, "golden data");
    float *got = ok ? malloc((size_t)golden.n_tokens * (size_t)golden.n_vocab * sizeof *got) : NULL;
    if (got) {
        prefill_in_chunks(path, &golden, got, 128, 16);
        prefill_in_chunks(path, &golden, got, 33, 1);
        prefill_in_chunks(path, &golden, got, 1, 1);
        decode_rewind_save(path, &golden, got, session_path);
    }
    free(got);
    free(golden.ids);
    free(golden.logits);
}

static kept_status open_device(const char *name, struct kept_error *err)
{
    struct kept_device_options options = {.validate = strcmp(name, "vulkan") == 0};
    struct kept_device_params staging = {.validate = true, .mask_host_visible = 1};
    if (strcmp(name, "vulkan-staging") == 0)
        return kept_device_open(kept_backend_find("vulkan"), 0, &staging, &device, err);
    return kept_device_create(name, &options, &device, NULL, err);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"tiny-llama-plain", "tiny-llama-legacy", "tiny-llama-k",
                                        "tiny-gemma3", "tiny-qwen3"};
    struct kept_error err = {0};
    char session_path[128];
    if (argc != 3)
        return 2;
    kept_status status = open_device(argv[1], &err);
    if (status != KEPT_OK) {
        fprintf(stderr, "skipped: %s\n", err.message);
        return status == KEPT_E_NO_DEVICE ? SKIP : 1;
    }
    snprintf(session_path, sizeof session_path, "test_tiny_%.16s.session", argv[1]);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_model(argv[2], names[i], session_path);
    check(device->n_validation_errors == 0, argv[1], "the validation layers are content");
    kept_device_destroy(&device);
    fprintf(stderr, "%d checks, %d failed\n", n_checks, n_failed);
    return n_failed ? 1 : 0;
}

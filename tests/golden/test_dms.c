/* Tiny models that decide themselves what of the past may go (docs/dms.md), through the whole
 * library on one backend, against the published rule in numpy (dms.py): decisions for the token
 * itself and for the one before, made by tensors of their own or by an element of the queries, a
 * budget that never binds and one that does, in several chunkings; and that the wrong shift shows.
 *
 * test_dms BACKEND FOLDER; exit code 77 where the backend has no device.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kept/kept.h"

#define SKIP 77
/* As in test_tiny.c. */
#define LOGPROB_BOUND 0.02
#define KL_BOUND      1e-5
#define BLOCK         64u
#define MOST_TOKENS   4096

/* Ids, and the logits of the last n_rows of them. */
struct golden {
    int32_t n_tokens, n_vocab, n_rows;
    int32_t ids[MOST_TOKENS];
    float *logits;
};

static kept_device *device;
static int n_failed, n_checks;

static void check(bool ok, const char *what, const char *how)
{
    n_checks++;
    n_failed += ok ? 0 : 1;
    if (!ok)
        fprintf(stderr, "FAILED %s: %s\n", what, how);
}

static bool must(kept_status status, const struct kept_error *err, const char *what)
{
    check(status == KEPT_OK, what, status == KEPT_OK ? "" : err->message);
    return status == KEPT_OK;
}

static bool read_golden(const char *path, struct golden *out)
{
    FILE *file = fopen(path, "rb");
    bool ok =
        file && fread(&out->n_tokens, 4, 1, file) == 1 && fread(&out->n_vocab, 4, 1, file) == 1;
    if (ok && out->n_tokens > 0 && out->n_tokens <= MOST_TOKENS && out->n_vocab > 0 &&
        out->n_vocab < 65536) {
        size_t row = (size_t)out->n_vocab * 4, n = (size_t)out->n_tokens;
        out->logits = malloc(n * row);
        ok = out->logits && fread(out->ids, 4, n, file) == n;
        out->n_rows = ok ? (int32_t)fread(out->logits, row, n, file) : 0;
        ok = ok && out->n_rows > 0;
    }
    if (file)
        fclose(file);
    return ok;
}

static double log_sum(const float *row, int n)
{
    double top = row[0], sum = 0;
    for (int i = 1; i < n; i++)
        top = row[i] > top ? row[i] : top;
    for (int i = 0; i < n; i++)
        sum += exp(row[i] - top);
    return top + log(sum);
}

/* What an evaluation differs by. */
struct collect {
    const struct golden *golden;
    double kl, worst;
    int n;
};

static void collect(void *user, uint32_t first, uint32_t n_rows, const float *logits)
{
    struct collect *c = user;
    const struct golden *g = c->golden;
    for (uint32_t r = 0; r < n_rows; r++) {
        int row = (int)(first + r) - (g->n_tokens - g->n_rows);
        if (row < 0)
            continue;
        const float *want = g->logits + (size_t)row * (size_t)g->n_vocab;
        const float *got = logits + (size_t)r * (size_t)g->n_vocab;
        double norm_want = log_sum(want, g->n_vocab), norm_got = log_sum(got, g->n_vocab);
        for (int i = 0; i < g->n_vocab; i++) {
            double a = want[i] - norm_want, b = got[i] - norm_got;
            c->kl += exp(a) * (a - b);
            c->worst = fabs(a - b) > c->worst || isnan(b) ? fabs(a - b) : c->worst;
        }
        c->n++;
    }
}

static void check_plan(const kept_plan *plan, const char *what)
{
    struct kept_choice_info choice;
    bool said = false;
    for (uint32_t i = 0; kept_plan_choice(plan, i, &choice); i++)
        said |= strcmp(choice.what, "scorer") == 0 && strstr(choice.why, "DMS");
    check(said, what, "the plan says whose decisions they are");
}

static void check_slots(kept_session *session, uint32_t budget, const char *what)
{
    struct kept_slot_counts counts;
    struct kept_error err = {0};
    if (!must(kept_session_slots(session, &counts, &err), &err, what))
        return;
    check(counts.most <= budget + BLOCK - 1, what, "no head has more than its budget and a block");
    check(counts.evicted > 0, what, "slots were given back");
}

static void run(const char *path, const struct golden *golden, uint32_t budget, uint32_t chunk,
                bool wrong)
{
    char what[1200];
    struct kept_error err = {0};
    struct kept_profile profile;
    struct kept_plan_params params = {
        .context_tokens = 320,
        .chunk_tokens = chunk,
        .logits_rows = 16,
        .retain = {.mode = KEPT_RETAIN_SCORED, .budget_slots = budget}};
    struct collect into = {.golden = golden};
    struct kept_eval_params eval = {.tokens = golden->ids,
                                    .n_tokens = (uint32_t)golden->n_tokens,
                                    .on_logits = collect,
                                    .logits_user = &into};
    kept_model *model = NULL;
    kept_plan *plan = NULL;
    kept_session *session = NULL;
    snprintf(what, sizeof what, "%s, budget %u, chunks of %u", path, budget, chunk);
    kept_device_profile(device, &profile);
    if (must(kept_model_open(path, NULL, &model, &err), &err, what) &&
        must(kept_plan_create(model, &profile, &params, &plan, &err), &err, what) &&
        must(kept_session_create(plan, device, NULL, NULL, &session, &err), &err, what) &&
        must(kept_session_eval(session, &eval, &err), &err, what)) {
        bool ok =
            into.n == golden->n_rows && into.kl / into.n <= KL_BOUND && into.worst <= LOGPROB_BOUND;
        if (wrong)
            check(into.kl / into.n > 1000 * KL_BOUND, what, "other logits with the other shift");
        else
            check(ok, what, "the logits of the published rule");
        if (!ok && !wrong)
            fprintf(stderr, "  mean KL %.3g, worst log-probability %.3g over %d rows\n",
                    into.kl / into.n, into.worst, into.n);
        check_plan(plan, what);
        check_slots(session, budget, what);
    }
    kept_session_destroy(&session);
    kept_plan_destroy(&plan);
    kept_model_close(&model);
}

static void check_model(const char *folder, const char *name)
{
    static const struct {
        const char *suffix;
        uint32_t budget;
    } budgets[] = {{"", 320}, {"-80", 80}};
    static const uint32_t chunks[] = {128, 33, 1};
    for (int b = 0; b < 2; b++) {
        static struct golden golden;
        char path[1024], logits[1024];
        snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
        snprintf(logits, sizeof logits, "%s/%s%s.logits", folder, name, budgets[b].suffix);
        bool ok = read_golden(logits, &golden);
        check(ok, logits, "golden data");
        for (int c = 0; ok && c < 3; c++)
            run(path, &golden, budgets[b].budget, chunks[c], false);
        free(golden.logits);
        golden.logits = NULL;
    }
}

/* Copies a model with the other shift; false when the file has none. */
static bool copy_shifted(const char *from, const char *to)
{
    static const char key[] = "kept.dms.shift";
    static unsigned char bytes[1 << 20];
    FILE *file = fopen(from, "rb");
    size_t n = file ? fread(bytes, 1, sizeof bytes, file) : 0, at = 0, n_key = sizeof key - 1;
    if (file)
        fclose(file);
    while (at + n_key + 8 < n && memcmp(bytes + at, key, n_key) != 0)
        at++;
    if (at + n_key + 8 >= n)
        return false;
    bytes[at + n_key + 4] ^= 1; /* after the value's type */
    file = fopen(to, "wb");
    bool ok = file && fwrite(bytes, 1, n, file) == n;
    return file && fclose(file) == 0 && ok;
}

/* The wrong shift must show, or whoever does not know a checkpoint's could not find out. */
static void check_wrong_shift(const char *folder, const char *name, const char *backend)
{
    static struct golden golden;
    char path[1024], logits[1024], copy[128];
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    snprintf(logits, sizeof logits, "%s/%s.logits", folder, name);
    snprintf(copy, sizeof copy, "test_dms_%.16s.gguf", backend);
    bool ok = read_golden(logits, &golden) && copy_shifted(path, copy);
    check(ok, path, "a copy with the other shift");
    if (ok)
        run(copy, &golden, 320, 128, true);
    free(golden.logits);
    golden.logits = NULL;
    remove(copy);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"tiny-llama-dms", "tiny-llama-dms-next",
                                        "tiny-llama-dms-query", "tiny-qwen3-dms-query"};
    struct kept_device_options options = {0};
    struct kept_error err = {0};
    if (argc != 3)
        return 2;
    options.validate = strcmp(argv[1], "vulkan") == 0;
    kept_status status = kept_device_create(argv[1], &options, &device, NULL, &err);
    if (status != KEPT_OK) {
        fprintf(stderr, "skipped: %s\n", err.message);
        return status == KEPT_E_NO_DEVICE ? SKIP : 1;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_model(argv[2], names[i]);
        check_wrong_shift(argv[2], names[i], argv[1]);
    }
    kept_device_destroy(&device);
    fprintf(stderr, "%d checks, %d failed\n", n_checks, n_failed);
    return n_failed ? 1 : 0;
}

/* tests/golden/backends_kl.c: a bounded past on two devices: the same text is read, evicting on the
 * way, then tokens are given one by one; logits of every one of them are compared.
 *
 *   backends_kl MODEL SIDECAR IDS DEVICE DEVICE READ GIVEN [PERCENT [LIMIT]]
 *
 * PERCENT of READ + GIVEN slots (25), LIMIT of the mean KL of the first device's choice from the
 * second's, in nats (1e-3). Exit code 77 where a device or a file lacks.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kept/kept.h"

#define SKIP      77
#define MAX_READ  100000u
#define MAX_GIVEN 4096u

struct text {
    int32_t ids[MAX_READ];
    uint32_t n_read, n_given;
};

static int fail(const struct kept_error *err)
{
    fprintf(stderr, "backends_kl: %s\n", err->message);
    return err->status == KEPT_E_NO_DEVICE ? SKIP : 1;
}

static bool read_ids(const char *path, struct text *text)
{
    FILE *file = fopen(path, "r");
    uint32_t n = 0, all = text->n_read + text->n_given;
    while (file && n < all && fscanf(file, "%d", &text->ids[n]) == 1)
        n++;
    if (file)
        fclose(file);
    return n == all;
}

/* Log-probabilities of one row. */
static void normalise(const float *row, uint32_t n, float *out)
{
    double max = row[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        max = row[i] > max ? (double)row[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)row[i] - max);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (float)((double)row[i] - max - log(sum));
}

static kept_status go(kept_session *session, const struct text *text, uint32_t n_vocab, float *rows,
                      struct kept_error *err)
{
    struct kept_eval_params params = {.tokens = text->ids, .n_tokens = text->n_read};
    struct kept_slot_counts counts;
    kept_status status = kept_session_eval(session, &params, err);
    for (uint32_t i = 0; i < text->n_given && status == KEPT_OK; i++) {
        const float *logits;
        params = (struct kept_eval_params){.tokens = text->ids + text->n_read + i, .n_tokens = 1};
        status = kept_session_eval(session, &params, err);
        if (status == KEPT_OK)
            status = kept_session_logits(session, &logits, err);
        if (status == KEPT_OK)
            normalise(logits, n_vocab, rows + (size_t)i * n_vocab);
    }
    if (status == KEPT_OK)
        status = kept_session_slots(session, &counts, err);
    if (status == KEPT_OK && counts.evicted == 0) {
        fprintf(stderr, "backends_kl: nothing was evicted\n");
        err->status = status = KEPT_E_INTERNAL;
    }
    return status;
}

static kept_status run(const kept_model *model, const kept_sidecar *sidecar, const char *spec,
                       float percent, const struct text *text, float *rows, struct kept_error *err)
{
    struct kept_plan_params params = {
        .context_tokens = text->n_read + text->n_given,
        .retain = {.mode = KEPT_RETAIN_SCORED, .budget_percent = percent, .sidecar = sidecar}};
    struct kept_profile profile;
    char choice[256];
    kept_device *device = NULL;
    kept_plan *plan = NULL;
    kept_session *session = NULL;
    kept_status status = kept_device_create(spec, NULL, &device, choice, err);
    if (status == KEPT_OK) {
        kept_device_profile(device, &profile);
        status = kept_plan_create(model, &profile, &params, &plan, err);
    }
    if (status == KEPT_OK)
        status = kept_session_create(plan, device, NULL, NULL, &session, err);
    if (status == KEPT_OK)
        status = go(session, text, kept_model_info(model)->n_vocab, rows, err);
    kept_session_destroy(&session);
    kept_plan_destroy(&plan);
    kept_device_destroy(&device);
    return status;
}

static bool compare(const float *a, const float *b, uint32_t n_rows, uint32_t n, double limit)
{
    double sum = 0, most = 0;
    uint32_t same = 0;
    for (uint32_t r = 0; r < n_rows; r++, a += n, b += n) {
        double kl = 0;
        uint32_t top_a = 0, top_b = 0;
        for (uint32_t i = 0; i < n; i++) {
            kl += exp((double)a[i]) * ((double)a[i] - (double)b[i]);
            top_a = a[i] > a[top_a] ? i : top_a;
            top_b = b[i] > b[top_b] ? i : top_b;
        }
        sum += kl;
        most = kl > most ? kl : most;
        same += top_a == top_b;
    }
    printf("KL mean %.3g, most %.3g; the same first choice %u of %u\n", sum / n_rows, most, same,
           n_rows);
    return sum / n_rows <= limit;
}

int main(int argc, char **argv)
{
    static struct text text;
    struct kept_error err = {0};
    kept_model *model = NULL;
    kept_sidecar *sidecar = NULL;
    if (argc < 8)
        return 2;
    text.n_read = (uint32_t)strtoul(argv[6], NULL, 10);
    text.n_given = (uint32_t)strtoul(argv[7], NULL, 10);
    float percent = argc > 8 ? strtof(argv[8], NULL) : 25;
    double limit = argc > 9 ? strtod(argv[9], NULL) : 1e-3;
    if (text.n_read == 0 || text.n_read > MAX_READ - MAX_GIVEN || text.n_given == 0 ||
        text.n_given > MAX_GIVEN || !read_ids(argv[3], &text)) {
        fprintf(stderr, "backends_kl: no %u + %u ids in %s\n", text.n_read, text.n_given, argv[3]);
        return 2;
    }
    if (kept_model_open(argv[1], NULL, &model, &err) != KEPT_OK) {
        fprintf(stderr, "skipped: %s\n", err.message);
        return SKIP;
    }
    uint32_t n_vocab = kept_model_info(model)->n_vocab;
    size_t n = (size_t)text.n_given * n_vocab;
    float *rows = calloc(2 * n, sizeof *rows);
    kept_status status =
        rows ? kept_sidecar_open(argv[2], model, &sidecar, &err) : KEPT_E_HOST_MEMORY;
    for (int i = 0; i < 2 && status == KEPT_OK; i++)
        status = run(model, sidecar, argv[4 + i], percent, &text, rows + (size_t)i * n, &err);
    bool good = status == KEPT_OK && compare(rows, rows + n, text.n_given, n_vocab, limit);
    free(rows);
    kept_sidecar_close(&sidecar);
    kept_model_close(&model);
    return status != KEPT_OK ? fail(&err) : !good;
}

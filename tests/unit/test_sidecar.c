/* tests/unit/test_sidecar.c: the curve of head budgets against the plain rule, budgets for any
 * context and mean, the file there and back, and every way in which a file can be wrong. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "core/sidecar_internal.h"

#define SHARES KEPT_CURVE_SHARES
#define TOKENS 700u
#define PATH   "test_sidecar.kept"

static kept_model *open_model(const char *name)
{
    char path[1024];
    kept_model *model;
    struct kept_error err;
    snprintf(path, sizeof path, "%s/tests/golden/%s", getenv("KEPT_SOURCE_DIR"), name);
    assert_int_equal(kept_model_open(path, NULL, &model, &err), KEPT_OK);
    return model;
}

struct fixture {
    kept_model *model;
    uint32_t heads, n_layers, n_kv;
    float *scores; /* [heads][TOKENS] */
    float shares[SHARES];
    float *fractions; /* [SHARES][heads] */
};

static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / (float)(1 << 24);
}

/* Heads that differ: their scores lie higher or lower, as logs of attention do. */
static struct fixture begin(const char *name)
{
    struct fixture f = {.model = open_model(name)};
    const struct kept_model_info *info = kept_model_info(f.model);
    struct kept_error err;
    uint32_t state = 7;
    f.n_layers = info->n_layers;
    f.n_kv = info->n_kv_head;
    f.heads = f.n_layers * f.n_kv;
    f.scores = calloc((size_t)f.heads * TOKENS, sizeof *f.scores);
    f.fractions = calloc((size_t)SHARES * f.heads, sizeof *f.fractions);
    for (uint32_t h = 0; h < f.heads; h++)
        for (uint32_t j = 0; j < TOKENS; j++)
            f.scores[h * TOKENS + j] = -8 * noise(&state) - (float)(h * 5 % 7);
    assert_int_equal(kept_sidecar_curve(f.model, f.scores, TOKENS, f.shares, f.fractions, &err),
                     KEPT_OK);
    return f;
}

static void end(struct fixture *f)
{
    free(f->scores);
    free(f->fractions);
    kept_model_close(&f->model);
}

static struct kept_sidecar_params params_of(const struct fixture *f)
{
    return (struct kept_sidecar_params){.model_hash = 12345,
                                        .n_tokens = TOKENS,
                                        .n_shares = SHARES,
                                        .shares = f->shares,
                                        .fractions = f->fractions};
}

static kept_sidecar *write_and_open(const struct fixture *f,
                                    const struct kept_sidecar_params *params)
{
    kept_sidecar *sidecar;
    struct kept_error err;
    assert_int_equal(kept_sidecar_write(PATH, f->model, params, &err), KEPT_OK);
    assert_int_equal(kept_sidecar_open(PATH, f->model, &sidecar, &err), KEPT_OK);
    return sidecar;
}

static void curve_keeps_the_share(void **state)
{
    (void)state;
    struct fixture f = begin("tiny-llama-k.gguf");
    for (uint32_t s = 0; s < SHARES; s++) {
        double sum = 0;
        for (uint32_t h = 0; h < f.heads; h++) {
            sum += f.fractions[s * f.heads + h];
            if (s > 0)
                assert_true(f.fractions[s * f.heads + h] >= f.fractions[(s - 1) * f.heads + h]);
        }
        assert_true(fabs(sum / f.heads - f.shares[s]) < 1e-6);
    }
    assert_true(f.shares[0] > 0.0049f && f.shares[0] < 0.0051f && f.shares[SHARES - 1] == 1);
    end(&f);
}

static void equal_scores_share_alike(void **state)
{
    (void)state;
    struct fixture f = begin("tiny-llama-k.gguf");
    struct kept_error err;
    for (uint32_t i = 0; i < f.heads * TOKENS; i++)
        f.scores[i] = i % 2 ? -INFINITY : 1.0f;
    assert_int_equal(kept_sidecar_curve(f.model, f.scores, TOKENS, f.shares, f.fractions, &err),
                     KEPT_OK);
    for (uint32_t i = 0; i < SHARES * f.heads; i++)
        assert_true(fabsf(f.fractions[i] - f.shares[i / f.heads]) < 1e-6f);
    f.scores[3] = NAN;
    assert_int_equal(kept_sidecar_curve(f.model, f.scores, TOKENS, f.shares, f.fractions, &err),
                     KEPT_E_ARGUMENT);
    assert_non_null(strstr(err.message, "token 3"));
    end(&f);
}

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The rule in plain words: one threshold for the share of all scores, at least 2 % of the share,
 * scaled to it, at most 1. */
static void plain_rule(const struct fixture *f, double share, double *out)
{
    size_t n = (size_t)f->heads * TOKENS;
    float *pool = malloc(n * sizeof *pool);
    double mean = 0;
    memcpy(pool, f->scores, n * sizeof *pool);
    qsort(pool, n, sizeof *pool, falling);
    float threshold = pool[(size_t)((double)n * share) - 1];
    free(pool);
    for (uint32_t h = 0; h < f->heads; h++) {
        uint32_t above = 0;
        for (uint32_t j = 0; j < TOKENS; j++)
            above += f->scores[h * TOKENS + j] >= threshold;
        out[h] = fmax((double)above / TOKENS, 0.02 * share);
        mean += out[h] / f->heads;
    }
    for (uint32_t h = 0; h < f->heads; h++)
        out[h] = fmin(out[h] * share / mean, 1);
}

static void budgets_follow_the_plain_rule(void **state)
{
    (void)state;
    struct fixture f = begin("tiny-llama-k.gguf");
    struct kept_sidecar_params params = params_of(&f);
    kept_sidecar *sidecar = write_and_open(&f, &params);
    struct kept_error err;
    const uint32_t least = 132;
    uint32_t compared = 0;
    uint32_t *budgets = calloc(f.heads, sizeof *budgets);
    double *fractions = calloc(f.heads, sizeof *fractions);
    for (uint32_t context = 2048; context <= 8192; context *= 2) {
        for (uint32_t part = 2; part <= 8; part *= 2) {
            uint32_t mean = context / part;
            double free_slots = context - least;
            assert_int_equal(kept_sidecar_budgets(sidecar, context, mean, least, budgets, &err),
                             KEPT_OK);
            plain_rule(&f, (mean - least) / free_slots, fractions);
            uint64_t sum = 0;
            bool capped = false;
            for (uint32_t h = 0; h < f.heads; h++)
                capped |= fractions[h] >= 1;
            compared += !capped;
            for (uint32_t h = 0; h < f.heads; h++) {
                double want = least + fractions[h] * free_slots;
                assert_true(budgets[h] >= least && budgets[h] <= context);
                /* between two of the curve's shares it is a line; what capped heads leave is
                 * given to the others here */
                assert_true(capped || fabs(budgets[h] - want) <= 2 + 0.02 * want);
                sum += budgets[h];
            }
            assert_true(sum <= (uint64_t)f.heads * mean &&
                        sum + f.heads > (uint64_t)f.heads * mean);
        }
    }
    assert_true(compared >= 6);
    free(budgets);
    free(fractions);
    kept_sidecar_close(&sidecar);
    end(&f);
}

static void budgets_at_the_ends(void **state)
{
    (void)state;
    struct fixture f = begin("tiny-llama-k.gguf");
    struct kept_sidecar_params params = params_of(&f);
    kept_sidecar *sidecar = write_and_open(&f, &params);
    struct kept_error err;
    uint32_t *budgets = calloc(f.heads, sizeof *budgets);
    for (uint32_t mean = 0; mean <= 300; mean++) {
        uint64_t sum = 0;
        bool good = mean >= 10;
        assert_int_equal(kept_sidecar_budgets(sidecar, 300, mean, 10, budgets, &err),
                         good ? KEPT_OK : KEPT_E_ARGUMENT);
        for (uint32_t h = 0; good && h < f.heads; h++) {
            assert_true(budgets[h] >= 10 && budgets[h] <= 300);
            sum += budgets[h];
        }
        assert_true(!good ||
                    (sum <= (uint64_t)f.heads * mean && sum + f.heads > (uint64_t)f.heads * mean));
    }
    assert_int_equal(kept_sidecar_budgets(sidecar, 300, 301, 10, budgets, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_sidecar_budgets(sidecar, 0, 0, 0, budgets, &err), KEPT_OK);
    free(budgets);
    kept_sidecar_close(&sidecar);
    end(&f);
}

static void windows_have_no_budget(void **state)
{
    (void)state;
    struct fixture f = begin("tiny-gemma3.gguf");
    const struct kept_model_info *info = kept_model_info(f.model);
    struct kept_sidecar_params params = params_of(&f);
    kept_sidecar *sidecar = write_and_open(&f, &params);
    struct kept_error err;
    uint32_t n_global = info->n_layers - info->n_window_layers, with = 0;
    uint32_t *budgets = calloc(f.heads, sizeof *budgets);
    assert_true(n_global > 0 && info->n_window_layers > 0);
    assert_int_equal(kept_sidecar_budgets(sidecar, 1000, 250, 132, budgets, &err), KEPT_OK);
    for (uint32_t h = 0; h < f.heads; h++)
        with += budgets[h] > 0;
    assert_int_equal(with, n_global * info->n_kv_head);
    /* a window layer with a fraction, a global one without */
    kept_sidecar_close(&sidecar);
    for (uint32_t h = 0; h < f.heads; h += f.heads - 1) {
        float *last = &f.fractions[(SHARES - 1) * f.heads + h], was = *last;
        *last = 1 - was;
        assert_int_equal(kept_sidecar_write(PATH, f.model, &params, &err), KEPT_E_ARGUMENT);
        *last = was;
    }
    free(budgets);
    end(&f);
}

static void file_holds_everything(void **state)
{
    (void)state;
    struct fixture f = begin("tiny-llama-k.gguf");
    uint32_t n_embd = kept_model_info(f.model)->n_embd;
    size_t n_gate = (size_t)f.heads * n_embd;
    float *gate = calloc(n_gate + f.heads, sizeof *gate);
    struct kept_sidecar_report_info
        report = {2048, 512, 1536, KEPT_SLOT_Q8_0, KEPT_SLOT_Q4_0, 0.0025, 1.0039, 0.978, 0.02},
        got;
    struct kept_sidecar_params params = params_of(&f);
    for (size_t i = 0; i < n_gate + f.heads; i++)
        gate[i] = (float)i - 3;
    params.gate = gate;
    params.gate_bias = gate + n_gate;
    params.n_reports = 1;
    params.reports = &report;
    kept_sidecar *sidecar = write_and_open(&f, &params);
    const struct kept_sidecar_info *info = kept_sidecar_info(sidecar);
    assert_true(info->header_hash == kept_model_info(f.model)->header_hash);
    assert_true(info->model_hash == 12345 && info->n_tokens == TOKENS && info->has_gate);
    assert_int_equal(info->n_layers, f.n_layers);
    assert_int_equal(info->n_kv, f.n_kv);
    assert_int_equal(info->n_shares, SHARES);
    assert_memory_equal(sidecar->shares, f.shares, sizeof f.shares);
    assert_memory_equal(sidecar->fractions, f.fractions, SHARES * f.heads * sizeof(float));
    assert_memory_equal(sidecar->gate, gate, n_gate * sizeof *gate);
    assert_memory_equal(sidecar->gate_bias, gate + n_gate, f.heads * sizeof *gate);
    assert_true(kept_sidecar_report(sidecar, 0, &got) && !kept_sidecar_report(sidecar, 1, &got));
    assert_true(got.context_tokens == 2048 && got.budget_slots == 512 &&
                got.scored_tokens == 1536 && got.k_type == KEPT_SLOT_Q8_0 &&
                got.v_type == KEPT_SLOT_Q4_0 && got.kl_mean == report.kl_mean &&
                got.ppl_ratio == report.ppl_ratio && got.copy_nats == report.copy_nats &&
                got.top1_agreement == report.top1_agreement);
    kept_sidecar_close(&sidecar);
    gate[5] = NAN;
    struct kept_error err;
    assert_int_equal(kept_sidecar_write(PATH, f.model, &params, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_sidecar_open(PATH, f.model, &sidecar, &err), KEPT_OK); /* the old one */
    kept_sidecar_close(&sidecar);
    free(gate);
    end(&f);
}

static void seal(char *bytes, size_t n)
{
    uint64_t hash = kept_hash64(bytes, n - 8, 0);
    memcpy(bytes + n - 8, &hash, 8);
}

static kept_status parse(const char *bytes, size_t n, const kept_model *model,
                         struct kept_error *err)
{
    kept_sidecar *sidecar;
    char *exact = malloc(n ? n : 1); /* the address sanitizer sees a read past the end */
    memcpy(exact, bytes, n);
    kept_status status = kept_sidecar_parse(exact, n, "x.kept", model, &sidecar, err);
    assert_true((status == KEPT_OK) == (sidecar != NULL));
    kept_sidecar_close(&sidecar);
    free(exact);
    return status;
}

/* Puts a value somewhere, with a right checksum; the error names what is wrong. */
static void refuse(const char *bytes, size_t n, size_t at, uint32_t value, kept_status want,
                   const char *words, const kept_model *model)
{
    struct kept_error err = {0};
    char *copy = malloc(n);
    memcpy(copy, bytes, n);
    memcpy(copy + at, &value, 4);
    seal(copy, n);
    assert_int_equal(parse(copy, n, model, &err), want);
    assert_non_null(strstr(err.message, words));
    assert_non_null(strstr(err.message, "x.kept"));
    free(copy);
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void bad_files_are_refused(void **state)
{
    (void)state;
    struct fixture f = begin("tiny-llama-k.gguf");
    struct kept_sidecar_report_info report = {512, 128, 100, 0, 0, 0.01, 1.01, 0.9, 0};
    struct kept_sidecar_params params = params_of(&f);
    struct kept_error err;
    char *bytes = NULL;
    size_t n = 0, heads = f.heads, shares = 56, fractions = shares + 4 * SHARES;
    size_t reports = fractions + 4 * SHARES * heads;
    params.n_reports = 1;
    params.reports = &report;
    assert_int_equal(kept_sidecar_write(PATH, f.model, &params, &err), KEPT_OK);
    assert_int_equal(kept_file_load(PATH, 1 << 24, &bytes, &n, &err), KEPT_OK);
    for (size_t cut = 0; cut < n; cut += cut < 80 ? 1 : 97)
        assert_int_equal(parse(bytes, cut, f.model, &err), KEPT_E_FORMAT);
    bytes[n / 2] ^= 1;
    assert_int_equal(parse(bytes, n, f.model, &err), KEPT_E_FORMAT);
    assert_non_null(strstr(err.message, "checksum"));
    bytes[n / 2] ^= 1;
    refuse(bytes, n, 0, 1, KEPT_E_FORMAT, "magic", f.model);
    refuse(bytes, n, 8, 2, KEPT_E_UNSUPPORTED, "version 2", f.model);
    refuse(bytes, n, 12, 4, KEPT_E_UNSUPPORTED, "flags", f.model);
    refuse(bytes, n, 16, 1, KEPT_E_MISMATCH, "another model", f.model);
    refuse(bytes, n, 32, UINT32_MAX, KEPT_E_FORMAT, "out of range", f.model);
    refuse(bytes, n, 36, 0, KEPT_E_FORMAT, "out of range", f.model);
    refuse(bytes, n, 44, 1024, KEPT_E_FORMAT, "need", f.model);
    refuse(bytes, n, shares, bits_of(NAN), KEPT_E_FORMAT, "shares, nan at byte 56", f.model);
    refuse(bytes, n, shares + 8, bits_of(0.001f), KEPT_E_FORMAT, "not above", f.model);
    refuse(bytes, n, shares + 4 * (SHARES - 1), bits_of(0.99f), KEPT_E_FORMAT, "last share",
           f.model);
    refuse(bytes, n, fractions + 4, bits_of(1.5f), KEPT_E_FORMAT, "fractions, 1.5", f.model);
    refuse(bytes, n, fractions + 4, bits_of(NAN), KEPT_E_FORMAT, "fractions, nan", f.model);
    refuse(bytes, n, fractions + 4 * 5 * heads, bits_of(0), KEPT_E_FORMAT, "larger share", f.model);
    refuse(bytes, n, reports + 12, 3, KEPT_E_FORMAT, "report 0", f.model);
    refuse(bytes, n, reports + 28, 0x7FF80000, KEPT_E_FORMAT, "report 0", f.model);
    kept_model *other = open_model("tiny-gemma3.gguf");
    assert_int_equal(parse(bytes, n, other, &err), KEPT_E_MISMATCH);
    kept_model_close(&other);
    assert_int_equal(parse(bytes, n, NULL, &err), KEPT_OK);
    kept_sidecar *sidecar;
    assert_int_equal(kept_sidecar_open("none.kept", f.model, &sidecar, &err), KEPT_E_IO);
    assert_null(sidecar);
    kept_free(bytes);
    end(&f);
}

static void memory_runs_out(void **state)
{
    (void)state;
    struct fixture f = begin("tiny-llama-k.gguf");
    struct kept_sidecar_params params = params_of(&f);
    struct kept_error err;
    kept_sidecar *sidecar = write_and_open(&f, &params);
    kept_sidecar_close(&sidecar);
    int64_t live = kept_alloc_live();
    kept_status status = KEPT_E_HOST_MEMORY;
    for (uint64_t i = 1; status != KEPT_OK; i++) {
        kept_alloc_fail_at(i);
        status = kept_sidecar_open(PATH, f.model, &sidecar, &err);
        assert_true(status == KEPT_OK || status == KEPT_E_HOST_MEMORY);
        kept_sidecar_close(&sidecar);
        assert_int_equal(kept_alloc_live(), live);
    }
    status = KEPT_E_HOST_MEMORY;
    for (uint64_t i = 1; status != KEPT_OK; i++) {
        kept_alloc_fail_at(i);
        status = kept_sidecar_write(PATH, f.model, &params, &err);
        assert_true(status == KEPT_OK || status == KEPT_E_HOST_MEMORY);
        assert_int_equal(kept_alloc_live(), live);
    }
    kept_alloc_fail_at(0);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(curve_keeps_the_share),         cmocka_unit_test(equal_scores_share_alike),
        cmocka_unit_test(budgets_follow_the_plain_rule), cmocka_unit_test(budgets_at_the_ends),
        cmocka_unit_test(windows_have_no_budget),        cmocka_unit_test(file_holds_everything),
        cmocka_unit_test(bad_files_are_refused),         cmocka_unit_test(memory_runs_out),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove(PATH);
    return failed;
}

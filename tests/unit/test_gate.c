/* tests/unit/test_gate.c: what a gate is fitted on, and the fit: reading back what layers are given
 * and how much attention tokens received, and regressions whose solution is known. */
#include "core_run.h"

#include "base/alloc.h"
#include "base/file.h"
#include "core/model_internal.h"

#define LLAMA "tiny-llama-plain"
#define GEMMA "tiny-gemma3"
#define N     150u
#define AFTER 16u

static kept_device *device;

static struct kept_plan_params calibrating(uint32_t chunk, uint32_t after)
{
    return (struct kept_plan_params){.context_tokens = 2 * N,
                                     .chunk_tokens = chunk,
                                     .calibrate_tokens = N,
                                     .calibrate_after = after};
}

static void open_with(struct run *run, const char *model, const struct kept_plan_params *params)
{
    struct kept_profile profile = run_profile(device);
    struct kept_error err = {0};
    run->model = run_model(model);
    if (kept_plan_create(run->model, &profile, params, &run->plan, &err) != KEPT_OK)
        fail_msg("plan: %s", err.message);
    if (kept_session_create(run->plan, device, NULL, NULL, &run->session, &err) != KEPT_OK)
        fail_msg("commit: %s", err.message);
}

/* The first reading, chunk by chunk: [n_layers][N][n_embd]. */
static float *read_hidden(struct run *run, uint32_t chunk)
{
    const struct kept_model_info *info = kept_model_info(run->model);
    float *hidden = calloc((size_t)info->n_layers * N * info->n_embd, sizeof *hidden);
    struct kept_error err = {0};
    assert_non_null(hidden);
    for (uint32_t at = 0; at < N; at += chunk) {
        uint32_t n = N - at < chunk ? N - at : chunk;
        run_must_eval(run->session, n);
        for (uint32_t l = 0; l < info->n_layers; l++)
            if (kept_session_hidden(run->session, l, hidden + ((size_t)l * N + at) * info->n_embd,
                                    n, &err) != KEPT_OK)
                fail_msg("layer %u: %s", l, err.message);
    }
    return hidden;
}

static void read_row(const kept_model *model, const struct kept_gguf_tensor *tensor, uint64_t row,
                     float *out)
{
    uint8_t bytes[4096];
    uint64_t n = kept_format_row_bytes(tensor->format, tensor->dims[0]);
    struct kept_error err = {0};
    assert_true(n <= sizeof bytes);
    assert_int_equal(kept_file_read_at(kept_gguf_file(model->gguf), tensor->offset_bytes + row * n,
                                       bytes, n, &err),
                     KEPT_OK);
    kept_dequant_row(tensor->format, bytes, (uint32_t)tensor->dims[0], out);
}

static void assert_near(const float *a, const float *b, size_t n, double bound, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)a[i] - b[i]) <= bound * (1 + fabs((double)b[i]))))
            fail_msg("%s: %g and %g at %zu", what, (double)a[i], (double)b[i], i);
}

/* The first layer is given the normed embeddings. */
static void assert_first_layer(const kept_model *model, const float *hidden)
{
    uint32_t k = model->info.n_embd;
    float norm[256], x[256];
    assert_true(k <= 256);
    read_row(model, model->shape.layers[0].attn_norm, 0, norm);
    for (uint32_t t = 0; t < N; t++) {
        double squares = 0;
        read_row(model, model->shape.embedding, (uint64_t)run_token(t), x);
        for (uint32_t i = 0; i < k; i++)
            squares += (double)x[i] * x[i];
        double f = 1 / sqrt(squares / k + (double)model->shape.eps);
        for (uint32_t i = 0; i < k; i++)
            x[i] = (float)(f * x[i] * norm[i]);
        assert_near(hidden + (size_t)t * k, x, k, 1e-5, "embedding");
    }
}

static void hidden_whatever_the_chunks(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {128, 40, 1};
    float *want = NULL;
    for (uint32_t i = 0; i < 3; i++) {
        struct kept_plan_params params = calibrating(chunks[i], AFTER);
        struct run run = {0};
        open_with(&run, LLAMA, &params);
        const struct kept_model_info *info = kept_model_info(run.model);
        float *hidden = read_hidden(&run, chunks[i]);
        assert_first_layer(run.model, hidden);
        if (want)
            assert_near(hidden, want, (size_t)info->n_layers * N * info->n_embd, 5e-3, "chunks");
        free(want);
        want = hidden;
        run_close(&run);
    }
    free(want);
}

/* The last rows of a chunk, and of a chunk that was longer. */
static void last_rows_only(void **state)
{
    (void)state;
    struct kept_plan_params params = calibrating(64, AFTER);
    struct kept_error err = {0};
    struct run run = {0};
    open_with(&run, LLAMA, &params);
    uint32_t k = kept_model_info(run.model)->n_embd;
    float *all = calloc(2 * 64 * (size_t)k, sizeof *all), *some = all + 64 * k;
    assert_non_null(all);
    assert_int_equal(kept_session_hidden(run.session, 1, all, 1, &err), KEPT_E_ARGUMENT);
    run_must_eval(run.session, 100); /* 64 and 36 */
    assert_int_equal(kept_session_hidden(run.session, 1, all, 36, &err), KEPT_OK);
    assert_int_equal(kept_session_hidden(run.session, 1, some, 5, &err), KEPT_OK);
    assert_memory_equal(some, all + 31 * k, 5 * k * sizeof *all);
    assert_int_equal(kept_session_hidden(run.session, 1, all, 37, &err), KEPT_E_ARGUMENT);
    assert_non_null(strstr(err.message, "36"));
    assert_int_equal(kept_session_hidden(run.session, 99, all, 1, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_hidden(run.session, 1, NULL, 1, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_rewind(run.session, 0, &err), KEPT_OK);
    assert_int_equal(kept_session_hidden(run.session, 1, all, 1, &err), KEPT_E_ARGUMENT);
    free(all);
    run_close(&run);
}

static bool has_region(const kept_plan *plan, const char *begin)
{
    struct kept_region_info region;
    for (uint32_t i = 0; kept_plan_region(plan, i, &region); i++)
        if (strncmp(region.name, begin, strlen(begin)) == 0)
            return true;
    return false;
}

/* Nothing of it where it was not asked for, and the same logits where it was. */
static void off_means_off(void **state)
{
    (void)state;
    float want[N_VOCAB_MOST], x[256];
    for (uint32_t after = 0; after <= AFTER; after += AFTER) {
        struct kept_plan_params params = calibrating(64, after);
        struct kept_error err = {0};
        struct run run = {0};
        const float *logits;
        open_with(&run, LLAMA, &params);
        uint32_t n = kept_model_info(run.model)->n_vocab;
        assert_int_equal(has_region(run.plan, "hidden."), after != 0);
        assert_int_equal(has_region(run.plan, "received."), after != 0);
        run_must_eval(run.session, 100);
        assert_int_equal(kept_session_logits(run.session, &logits, &err), KEPT_OK);
        if (after == 0) {
            memcpy(want, logits, n * sizeof *want);
            assert_int_equal(kept_session_hidden(run.session, 0, x, 1, &err), KEPT_E_STATE);
            assert_int_equal(kept_session_received(run.session, 0, x, &err), KEPT_E_STATE);
        }
        assert_memory_equal(logits, want, n * sizeof *want);
        run_close(&run);
    }
    struct kept_plan_params params = {.context_tokens = 100, .calibrate_after = 5};
    struct kept_profile profile = run_profile(device);
    struct kept_error err = {0};
    kept_model *model = run_model(LLAMA);
    kept_plan *plan = NULL;
    assert_int_equal(kept_plan_create(model, &profile, &params, &plan, &err), KEPT_E_ARGUMENT);
    assert_non_null(strstr(err.message, "calibrate_tokens"));
    kept_model_close(&model);
}

/* What the second reading gives is not counted; nor what comes from positions too near. */
static void received_in_the_first_reading(void **state)
{
    (void)state;
    float *want = NULL;
    for (uint32_t chunk = 128; chunk >= 32; chunk /= 4) {
        struct kept_plan_params params = calibrating(chunk, AFTER);
        struct kept_error err = {0};
        struct run run = {0};
        open_with(&run, LLAMA, &params);
        const struct kept_model_info *info = kept_model_info(run.model);
        uint32_t group = info->n_head / info->n_kv_head, n = info->n_kv_head * N;
        float *once = calloc(2 * (size_t)n, sizeof *once), *twice = once + n;
        assert_non_null(once);
        assert_int_equal(kept_session_received(run.session, 1, once, &err), KEPT_E_STATE);
        run_must_eval(run.session, N);
        assert_int_equal(kept_session_received(run.session, 1, once, &err), KEPT_OK);
        run_must_eval(run.session, N);
        assert_int_equal(kept_session_received(run.session, 1, twice, &err), KEPT_OK);
        assert_memory_equal(once, twice, n * sizeof *once);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t t = i % N, later = t + AFTER + 1 < N ? N - 1 - AFTER - t : 0;
            assert_true(later ? once[i] > 0 && once[i] <= (float)(later * group) : once[i] == 0);
        }
        if (want)
            assert_near(once, want, n, 5e-3, "received");
        free(want);
        want = once;
        run_close(&run);
    }
    free(want);
}

static void windows_have_no_gate(void **state)
{
    (void)state;
    struct kept_plan_params params = calibrating(64, AFTER);
    struct kept_error err = {0};
    struct run run = {0};
    uint32_t with = 0, without = 0;
    open_with(&run, GEMMA, &params);
    const struct kept_model_info *info = kept_model_info(run.model);
    float *x = calloc(info->n_embd + (size_t)info->n_kv_head * N, sizeof *x);
    assert_non_null(x);
    run_must_eval(run.session, 60);
    for (uint32_t l = 0; l < info->n_layers; l++) {
        kept_status want = run.plan->shape->layers[l].window ? KEPT_E_STATE : KEPT_OK;
        assert_int_equal(kept_session_hidden(run.session, l, x, 1, &err), want);
        assert_int_equal(kept_session_received(run.session, l, x, &err), want);
        *(want == KEPT_OK ? &with : &without) += 1;
    }
    assert_true(with > 0 && without > 0);
    free(x);
    run_close(&run);
}

/* ---- the regression ---- */

#define IN   37u
#define OUT  3u
#define ROWS 301u

struct problem {
    float x[ROWS * IN], y[ROWS * OUT], w[OUT * IN], b[OUT];
};

static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / (float)(1 << 23) - 1;
}

/* Targets that are exactly linear in inputs of very different size; input 5 never changes. */
static void make_problem(struct problem *p)
{
    uint32_t state = 3;
    for (uint32_t i = 0; i < OUT * IN; i++)
        p->w[i] = noise(&state);
    for (uint32_t o = 0; o < OUT; o++)
        p->b[o] = 10 * noise(&state);
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t i = 0; i < IN; i++)
            p->x[r * IN + i] = i == 5 ? 2 : noise(&state) * (float)(1u << i % 10) + (float)i;
        for (uint32_t o = 0; o < OUT; o++) {
            double sum = p->b[o];
            for (uint32_t i = 0; i < IN; i++)
                sum += (double)p->w[o * IN + i] * p->x[r * IN + i];
            p->y[r * OUT + o] = (float)sum;
        }
    }
}

static kept_ridge *begin_ridge(uint32_t n_in, uint32_t n_out)
{
    struct kept_error err = {0};
    kept_ridge *ridge = NULL;
    assert_int_equal(kept_ridge_create(n_in, n_out, &ridge, &err), KEPT_OK);
    return ridge;
}

static void a_linear_law_is_found(void **state)
{
    (void)state;
    static struct problem p;
    struct kept_error err = {0};
    float w[OUT * IN], b[OUT];
    kept_ridge *ridge = begin_ridge(IN, OUT);
    make_problem(&p);
    for (uint32_t at = 0; at < ROWS; at += 100) /* and a batch that is not full */
        assert_int_equal(kept_ridge_add(ridge, p.x + at * IN, p.y + at * OUT,
                                        ROWS - at < 100 ? ROWS - at : 100, &err),
                         KEPT_OK);
    assert_int_equal(kept_ridge_solve(ridge, 1e-10, w, b, &err), KEPT_OK);
    for (uint32_t o = 0; o < OUT; o++) {
        for (uint32_t i = 0; i < IN; i++)
            assert_true(i == 5 ? w[o * IN + i] == 0
                               : fabsf(w[o * IN + i] - p.w[o * IN + i]) < 1e-4f);
        assert_true(fabsf(b[o] - (p.b[o] + 2 * p.w[o * IN + 5])) < 1e-3f);
    }
    kept_ridge_destroy(&ridge);
    assert_null(ridge);
}

/* One input: the weight is that of least squares, divided by 1 + lambda. */
static void the_ridge_shrinks(void **state)
{
    (void)state;
    const float x[] = {1, 2, 3, 6}, y[] = {3, 5, 7, 13};
    struct kept_error err = {0};
    float w, b;
    kept_ridge *ridge = begin_ridge(1, 1);
    assert_int_equal(kept_ridge_add(ridge, x, y, 4, &err), KEPT_OK);
    assert_int_equal(kept_ridge_solve(ridge, 0.25, &w, &b, &err), KEPT_OK);
    assert_true(fabsf(w - 1.6f) < 1e-6f && fabsf(b - (7 - 3 * 1.6f)) < 1e-5f);
    kept_ridge_destroy(&ridge);
}

static void bad_input(void **state)
{
    (void)state;
    const float x[] = {1, 2, 3, NAN, 5, 6, 7, 8}, y[] = {1, 2, INFINITY, 4};
    struct kept_error err = {0};
    float w[2], b;
    kept_ridge *ridge = NULL;
    assert_int_equal(kept_ridge_create(0, 1, &ridge, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_ridge_create(1u << 30, 1, &ridge, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_ridge_create(1, 0, &ridge, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_ridge_create(1, 1, NULL, &err), KEPT_E_ARGUMENT);
    ridge = begin_ridge(2, 1);
    assert_int_equal(kept_ridge_add(ridge, x, y, 2, &err), KEPT_E_ARGUMENT);         /* NaN */
    assert_int_equal(kept_ridge_add(ridge, x + 4, y + 1, 2, &err), KEPT_E_ARGUMENT); /* Inf */
    assert_int_equal(kept_ridge_add(ridge, NULL, y, 2, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_ridge_solve(ridge, 1, w, &b, &err), KEPT_E_ARGUMENT);
    assert_non_null(strstr(err.message, "0 rows"));
    assert_int_equal(kept_ridge_add(ridge, x, y, 1, &err), KEPT_OK);
    assert_int_equal(kept_ridge_solve(ridge, 1, w, &b, &err), KEPT_E_ARGUMENT);
    assert_non_null(strstr(err.message, "1 rows"));
    assert_int_equal(kept_ridge_add(ridge, x + 4, y, 2, &err), KEPT_OK);
    assert_int_equal(kept_ridge_solve(ridge, 0, w, &b, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_ridge_solve(ridge, (double)NAN, w, &b, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_ridge_solve(ridge, 0.01, w, &b, &err), KEPT_OK);
    assert_true(isfinite(w[0]) && isfinite(w[1]) && isfinite(b));
    kept_ridge_destroy(&ridge);
    kept_ridge_destroy(&ridge);
}

static void memory_runs_out(void **state)
{
    (void)state;
    const float x[] = {1, 2, 3, 4}, y[] = {1, 2, 3, 5};
    struct kept_error err = {0};
    float w, b;
    int64_t live = kept_alloc_live();
    for (uint64_t at = 1; at <= 6; at++) {
        kept_ridge *ridge = NULL;
        kept_alloc_fail_at(at);
        assert_int_equal(kept_ridge_create(1, 1, &ridge, &err), KEPT_E_HOST_MEMORY);
        assert_null(ridge);
        kept_alloc_fail_at(0);
        assert_int_equal(kept_alloc_live(), live);
    }
    kept_ridge *ridge = begin_ridge(1, 1);
    assert_int_equal(kept_ridge_add(ridge, x, y, 4, &err), KEPT_OK);
    for (uint64_t at = 1; at <= 3; at++) {
        kept_alloc_fail_at(at);
        assert_int_equal(kept_ridge_solve(ridge, 1, &w, &b, &err), KEPT_E_HOST_MEMORY);
        kept_alloc_fail_at(0);
    }
    kept_ridge_destroy(&ridge);
    assert_int_equal(kept_alloc_live(), live);
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
        cmocka_unit_test(hidden_whatever_the_chunks),
        cmocka_unit_test(last_rows_only),
        cmocka_unit_test(off_means_off),
        cmocka_unit_test(received_in_the_first_reading),
        cmocka_unit_test(windows_have_no_gate),
        cmocka_unit_test(a_linear_law_is_found),
        cmocka_unit_test(the_ridge_shrinks),
        cmocka_unit_test(bad_input),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

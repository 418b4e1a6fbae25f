/* tests/unit/test_session.c: one session on the cpu backend with tiny models: chunking, cancelling,
 * rewinding (rings included), reuse of prefixes, limits, sampling, order of calls, and what a
 * session promises about memory. */
#include "core_run.h"

#include <pthread.h>

#include "base/alloc.h"

static const char *const models[] = {"tiny-llama-plain", "tiny-llama-legacy", "tiny-llama-k",
                                     "tiny-gemma3"};
#define N_MODELS    (sizeof models / sizeof *models)
#define LLAMA       "tiny-llama-legacy"
#define GEMMA       "tiny-gemma3"
#define GEMMA_RING  128u /* its window of 16 and a block, in whole blocks */
#define GEMMA_REACH 15u  /* positions before a row's own that its window has */

static kept_device *device;

/* ---- chunks ---- */

static void every_chunking_gives_the_same_logits(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 7, 31, 33, 64, 65, 96, 129, 200};
    for (size_t m = 0; m < N_MODELS; m++) {
        struct run run = {0};
        run_open(&run, device, models[m], 200, 50);
        struct run_rows want = run_rows_of(&run, 200);
        run_close(&run);
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            run_open(&run, device, models[m], 200, chunks[i]);
            struct run_rows got = run_rows_of(&run, 200);
            for (uint32_t row = 0; row < 200; row++)
                run_assert_close(want.rows + (size_t)row * want.n_vocab,
                                 got.rows + (size_t)row * got.n_vocab, want.n_vocab, models[m],
                                 row);
            free(got.rows);
            run_close(&run);
        }
        free(want.rows);
    }
}

static void one_by_one_and_in_pieces_of_any_size(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_MODELS; m++) {
        struct run run = {0};
        run_open(&run, device, models[m], 300, 70);
        struct run_rows want = run_rows_of(&run, 300);
        for (uint32_t size = 1; size < 90; size = size * 3 + 1) {
            assert_int_equal(kept_session_rewind(run.session, 0, NULL), KEPT_OK);
            while (kept_session_position(run.session) + size <= 300) {
                run_must_eval(run.session, size);
                run_assert_row(&run, &want, models[m]);
            }
        }
        free(want.rows);
        run_close(&run);
    }
}

struct seen {
    uint32_t next, n;
    const struct run_rows *want;
};

static void see_rows(void *user, uint32_t first, uint32_t n_rows, const float *logits)
{
    struct seen *seen = user;
    assert_int_equal(first, seen->next);
    for (uint32_t i = 0; i < n_rows; i++)
        run_assert_close(seen->want->rows + (size_t)(first + i) * seen->want->n_vocab,
                         logits + (size_t)i * seen->want->n_vocab, seen->want->n_vocab,
                         "rows asked for", first + i);
    seen->next += n_rows;
    seen->n += n_rows;
}

static void logits_from_any_row(void **state)
{
    (void)state;
    struct run run = {0};
    run_open(&run, device, GEMMA, 128, 24);
    struct run_rows want = run_rows_of(&run, 100);
    int32_t tokens[100];
    for (uint32_t i = 0; i < 100; i++)
        tokens[i] = run_token(i);
    for (uint32_t from = 0; from <= 103; from += from < 3 || from > 96 ? 1 : 23) {
        struct seen seen = {.next = from, .want = &want};
        struct kept_eval_params params = {.tokens = tokens,
                                          .n_tokens = 100,
                                          .on_logits = see_rows,
                                          .logits_from = from,
                                          .logits_user = &seen};
        const float *logits = NULL;
        assert_int_equal(kept_session_rewind(run.session, 0, NULL), KEPT_OK);
        assert_int_equal(kept_session_eval(run.session, &params, NULL), KEPT_OK);
        assert_int_equal(seen.n, from < 100 ? 100 - from : 0);
        if (from < 100)
            run_assert_row(&run, &want, "after rows asked for");
        else
            assert_int_equal(kept_session_logits(run.session, &logits, NULL), KEPT_E_STATE);
    }
    free(want.rows);
    run_close(&run);
}

/* ---- limits ---- */

static void a_full_context_changes_nothing(void **state)
{
    (void)state;
    static const uint32_t contexts[] = {1, 63, 64, 65};
    for (size_t i = 0; i < 4; i++) {
        struct run run = {0};
        struct kept_error err = {0};
        uint32_t n = contexts[i];
        run_open(&run, device, GEMMA, n, 32);
        struct run_rows want = run_rows_of(&run, n);
        assert_int_equal(run_eval(run.session, 1, &err), KEPT_E_CONTEXT_FULL);
        assert_int_equal(kept_session_position(run.session), n);
        run_assert_row(&run, &want, "after a refused token");
        if (n > 1) {
            assert_int_equal(kept_session_rewind(run.session, n - 1, &err), KEPT_OK);
            assert_int_equal(run_eval(run.session, 2, &err), KEPT_E_CONTEXT_FULL);
            assert_int_equal(kept_session_position(run.session), n - 1);
            run_must_eval(run.session, 1);
            run_assert_row(&run, &want, "the last token that fits");
        }
        free(want.rows);
        run_close(&run);
    }
}

static void tokens_that_are_none(void **state)
{
    (void)state;
    struct run run = {0};
    struct kept_error err = {0};
    run_open(&run, device, LLAMA, 64, 32);
    int32_t n_vocab = (int32_t)kept_model_info(run.model)->n_vocab;
    struct run_rows want = run_rows_of(&run, 10);
    const int32_t bad[] = {-1, n_vocab, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        int32_t tokens[3] = {5, 6, bad[i]};
        struct kept_eval_params params = {.tokens = tokens, .n_tokens = 3};
        assert_int_equal(kept_session_eval(run.session, &params, &err), KEPT_E_PROMPT);
        assert_int_equal(kept_session_position(run.session), 10);
        run_assert_row(&run, &want, "after a refused id");
    }
    struct kept_eval_params none = {.tokens = NULL, .n_tokens = 3};
    assert_int_equal(kept_session_eval(run.session, &none, &err), KEPT_E_PROMPT);
    none = (struct kept_eval_params){.tokens = bad, .n_tokens = 0};
    assert_int_equal(kept_session_eval(run.session, &none, &err), KEPT_E_PROMPT);
    assert_int_equal(kept_session_eval(run.session, NULL, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_eval(NULL, &none, &err), KEPT_E_ARGUMENT);
    int32_t last = n_vocab - 1;
    struct kept_eval_params good = {.tokens = &last, .n_tokens = 1};
    assert_int_equal(kept_session_eval(run.session, &good, &err), KEPT_OK);
    free(want.rows);
    run_close(&run);
}

/* ---- cancelling ---- */

/* After any cancel: the state goes on to the right logits, from where it is. */
static void assert_goes_on(struct run *run, const struct run_rows *want)
{
    uint32_t position = kept_session_position(run->session);
    const int32_t *tokens = kept_session_tokens(run->session);
    for (uint32_t i = 0; i < position; i++)
        assert_int_equal(tokens[i], run_token(i));
    while (position < want->n) {
        uint32_t n = want->n - position < 50 ? want->n - position : 50;
        run_must_eval(run->session, n);
        run_assert_row(run, want, "after a cancel");
        position += n;
    }
}

struct stopper {
    uint32_t left; /* calls until it says stop */
    uint64_t last;
    kept_session *to_cancel;
};

static void *cancel_from_a_thread(void *user)
{
    kept_session_cancel(user);
    return NULL;
}

static bool stop_after(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct stopper *stopper = user;
    assert_string_equal(what, "prefill");
    assert_true(done >= stopper->last && done <= total);
    stopper->last = done;
    if (stopper->left > 0 && --stopper->left > 0)
        return true;
    if (!stopper->to_cancel)
        return false;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancel_from_a_thread, stopper->to_cancel), 0);
    pthread_join(thread, NULL);
    return true;
}

static kept_status eval_until(struct run *run, uint32_t n, struct stopper *stopper,
                              struct kept_error *err)
{
    int32_t tokens[512];
    uint32_t from = kept_session_position(run->session);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = run_token(from + i);
    struct kept_eval_params params = {
        .tokens = tokens, .n_tokens = n, .progress = stop_after, .progress_user = stopper};
    return kept_session_eval(run->session, &params, err);
}

static void cancel_everywhere(const char *name, bool from_thread)
{
    struct run run = {0};
    struct kept_profile profile = run_profile(device);
    struct kept_plan_params params = {.context_tokens = 400, .chunk_tokens = 150};
    run_open_tuned(&run, device, name, &profile, 0, &params);
    struct run_rows want = run_rows_of(&run, 400);
    uint32_t pieces = run.plan->programs[run.plan->n_programs - 1].n_pieces;
    for (uint32_t start = 0; start <= 100; start += 50)
        for (uint32_t stop = 1; stop < 2 * pieces; stop += 1 + pieces / 5) {
            struct stopper stopper = {.left = stop, .to_cancel = from_thread ? run.session : NULL};
            struct kept_error err = {0};
            assert_int_equal(kept_session_rewind(run.session, 0, NULL), KEPT_OK);
            if (start)
                run_must_eval(run.session, start);
            if (eval_until(&run, 300, &stopper, &err) != KEPT_E_CANCELLED)
                fail_msg("%s was not cancelled at piece %u", name, stop);
            uint32_t at = kept_session_position(run.session);
            assert_true(at == 0 || at == start || at == start + 150);
            assert_true(strcmp(name, LLAMA) != 0 || at >= start); /* no ring: nothing is lost */
            assert_int_equal(kept_session_logits(run.session, &(const float *){NULL}, &err),
                             KEPT_E_STATE);
            assert_goes_on(&run, &want);
        }
    free(want.rows);
    run_close(&run);
}

static void cancelled_by_progress(void **state)
{
    (void)state;
    cancel_everywhere(LLAMA, false);
    cancel_everywhere(GEMMA, false);
}

static void cancelled_by_another_thread(void **state)
{
    (void)state;
    cancel_everywhere(LLAMA, true);
    cancel_everywhere(GEMMA, true);
}

static void a_cancel_between_evaluations(void **state)
{
    (void)state;
    for (uint32_t n = 1; n < 40; n += 19) { /* a single row too */
        struct run run = {0};
        struct kept_error err = {0};
        run_open(&run, device, LLAMA, 128, 32);
        struct run_rows want = run_rows_of(&run, 128);
        assert_int_equal(kept_session_rewind(run.session, 20, NULL), KEPT_OK);
        kept_session_cancel(run.session);
        kept_session_cancel(run.session);
        assert_int_equal(run_eval(run.session, n, &err), KEPT_E_CANCELLED);
        assert_int_equal(kept_session_position(run.session), 20);
        assert_goes_on(&run, &want); /* the flag is cleared */
        free(want.rows);
        run_close(&run);
    }
}

static bool never(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    uint32_t *left = user;
    assert_true(done <= total);
    return (*left)-- > 0;
}

static void cancelled_while_it_is_made(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    struct kept_plan_params params = {.context_tokens = 64};
    kept_model *model = run_model(LLAMA);
    kept_plan *plan = NULL;
    assert_int_equal(kept_plan_create(model, &profile, &params, &plan, NULL), KEPT_OK);
    int64_t live = kept_alloc_live();
    kept_status status = KEPT_E_CANCELLED;
    for (uint32_t n = 0; status != KEPT_OK && n < 1000; n++) {
        kept_session *session = NULL;
        uint32_t left = n;
        status = kept_session_create(plan, device, never, &left, &session, NULL);
        assert_true(status == KEPT_OK || status == KEPT_E_CANCELLED);
        assert_true(n > 10 || status == KEPT_E_CANCELLED);
        kept_session_destroy(&session);
        assert_int_equal(device->allocated_bytes, 0);
        assert_int_equal(kept_alloc_live(), live);
    }
    assert_int_equal(status, KEPT_OK);
    kept_plan_destroy(&plan);
    kept_model_close(&model);
}

/* ---- rewinding ---- */

static void rewind_to_every_position(void **state)
{
    (void)state;
    struct run run = {0};
    run_open(&run, device, LLAMA, 200, 64);
    struct run_rows want = run_rows_of(&run, 200);
    for (uint32_t position = 199; position > 0; position -= position > 8 ? 7 : 1) {
        assert_int_equal(kept_session_rewind(run.session, position, NULL), KEPT_OK);
        assert_int_equal(kept_session_position(run.session), position);
        assert_int_equal(kept_session_logits(run.session, &(const float *){NULL}, NULL),
                         KEPT_E_STATE);
        run_must_eval(run.session, 1);
        run_assert_row(&run, &want, "after a rewind");
    }
    struct kept_error err = {0};
    uint32_t position = kept_session_position(run.session);
    assert_int_equal(kept_session_rewind(run.session, position + 1, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_position(run.session), position);
    free(want.rows);
    run_close(&run);
}

/* Rings keep a window and a block: exactly as far back as that, never a wrong answer. */
static void rewind_to_the_limits_of_rings(void **state)
{
    (void)state;
    struct run run = {0};
    run_open(&run, device, GEMMA, 400, 100);
    assert_true(run.plan->layers[0].ring);
    assert_int_equal(run.plan->layers[0].cap, GEMMA_RING);
    struct run_rows want = run_rows_of(&run, 400);
    for (uint32_t end = 100; end <= 400; end += 50) {
        uint32_t lowest = end > GEMMA_RING ? end - GEMMA_RING + GEMMA_REACH : 0;
        assert_int_equal(kept_session_rewind(run.session, 0, NULL), KEPT_OK);
        run_must_eval(run.session, end);
        for (uint32_t position = end; position-- > 0;) {
            struct kept_error err = {0};
            kept_status status = kept_session_rewind(run.session, position, &err);
            if (position != 0 && position < lowest) {
                assert_int_equal(status, KEPT_E_STATE);
                assert_int_equal(kept_session_position(run.session), lowest + 1);
                break;
            }
            assert_int_equal(status, KEPT_OK);
            run_must_eval(run.session, 1);
            run_assert_row(&run, &want, "after a rewind within the ring");
        }
        assert_goes_on(&run, &want); /* forward from the lowest position, over stale slots */
    }
    free(want.rows);
    run_close(&run);
}

static void reuse_of_prefixes(void **state)
{
    (void)state;
    struct run run = {0};
    struct kept_error err = {0};
    int32_t tokens[300];
    uint32_t n = 77;
    for (uint32_t i = 0; i < 300; i++)
        tokens[i] = run_token(i);
    run_open(&run, device, GEMMA, 400, 100);
    struct run_rows want = run_rows_of(&run, 300);
    assert_int_equal(kept_session_reuse(run.session, tokens, 300, &n, &err), KEPT_OK);
    assert_int_equal(n, 299); /* one is always left */
    run_must_eval(run.session, 1);
    run_assert_row(&run, &want, "after reuse of all but one");
    tokens[290]++;
    assert_int_equal(kept_session_reuse(run.session, tokens, 300, &n, &err), KEPT_OK);
    assert_int_equal(n, 290);
    assert_int_equal(kept_session_position(run.session), 290);
    assert_int_equal(kept_session_reuse(run.session, tokens, 280, &n, &err), KEPT_OK);
    assert_int_equal(n, 279);
    run_must_eval(run.session, 10);
    run_assert_row(&run, &want, "after reuse of a shorter list");
    tokens[100]++; /* the rings have lost position 100 */
    assert_int_equal(kept_session_reuse(run.session, tokens, 300, &n, &err), KEPT_OK);
    assert_int_equal(n, 0);
    assert_int_equal(kept_session_position(run.session), 0);
    run_must_eval(run.session, 60);
    run_assert_row(&run, &want, "after reuse of nothing");
    tokens[0]++;
    assert_int_equal(kept_session_reuse(run.session, tokens, 1, &n, &err), KEPT_OK);
    assert_int_equal(n, 0);
    assert_int_equal(kept_session_reuse(run.session, NULL, 0, &n, &err), KEPT_OK);
    assert_int_equal(n, 0);
    free(want.rows);
    run_close(&run);
}

/* ---- sampling ---- */

static int32_t sample(kept_session *session, const struct kept_sampler_params *params)
{
    struct kept_error err = {0};
    kept_sampler *sampler = NULL;
    int32_t token = -1;
    uint32_t n_vocab = session->plan->shape->n_vocab;
    assert_int_equal(kept_sampler_create(params, n_vocab, &sampler, &err), KEPT_OK);
    if (kept_session_sample(session, sampler, &token, &err) != KEPT_OK)
        fail_msg("sample: %s", err.message);
    kept_sampler_destroy(&sampler);
    return token;
}

static void generate(struct run *run, const struct kept_sampler_params *params, int32_t *tokens,
                     uint32_t n)
{
    assert_int_equal(kept_session_rewind(run->session, 0, NULL), KEPT_OK);
    run_must_eval(run->session, 20);
    for (uint32_t i = 0; i < n; i++) {
        tokens[i] = sample(run->session, params);
        struct kept_eval_params eval = {.tokens = &tokens[i], .n_tokens = 1};
        assert_int_equal(kept_session_eval(run->session, &eval, NULL), KEPT_OK);
    }
}

static void same_seed_same_tokens(void **state)
{
    (void)state;
    struct run run = {0};
    int32_t first[40], second[40];
    struct kept_sampler_params params = {.temperature = 1.5f, .seed = 5};
    run_open(&run, device, LLAMA, 128, 16);
    generate(&run, &params, first, 40);
    generate(&run, &params, second, 40);
    assert_memory_equal(first, second, sizeof first);
    params.seed = 6;
    generate(&run, &params, second, 40);
    assert_memory_not_equal(first, second, sizeof first);
    params = (struct kept_sampler_params){0};
    generate(&run, &params, first, 40);
    run_close(&run);
    run_open(&run, device, LLAMA, 256, 64); /* greedy: another plan, the same tokens */
    generate(&run, &params, second, 40);
    assert_memory_equal(first, second, sizeof first);
    run_close(&run);
}

static void a_draw_is_keyed_by_its_position(void **state)
{
    (void)state;
    struct run run = {0};
    struct kept_sampler_params params = {.temperature = 3.0f, .seed = 9};
    run_open(&run, device, LLAMA, 64, 16);
    run_must_eval(run.session, 30);
    int32_t token = sample(run.session, &params);
    for (int i = 0; i < 5; i++)
        assert_int_equal(sample(run.session, &params), token);
    assert_int_equal(kept_session_rewind(run.session, 10, NULL), KEPT_OK);
    run_must_eval(run.session, 20);
    assert_int_equal(sample(run.session, &params), token);
    run_close(&run);
}

static void calls_in_the_wrong_order(void **state)
{
    (void)state;
    struct run run = {0};
    struct kept_error err = {0};
    struct kept_sampler_params params = {0};
    kept_sampler *sampler = NULL, *other = NULL;
    const float *logits = NULL;
    int32_t token = 77;
    run_open(&run, device, LLAMA, 64, 16);
    uint32_t n_vocab = kept_model_info(run.model)->n_vocab;
    assert_int_equal(kept_sampler_create(&params, n_vocab, &sampler, &err), KEPT_OK);
    assert_int_equal(kept_sampler_create(&params, n_vocab + 1, &other, &err), KEPT_OK);
    assert_int_equal(kept_session_sample(run.session, sampler, &token, &err), KEPT_E_STATE);
    assert_int_equal(kept_session_logits(run.session, &logits, &err), KEPT_E_STATE);
    run_must_eval(run.session, 3);
    assert_int_equal(kept_session_sample(run.session, other, &token, &err), KEPT_E_MISMATCH);
    assert_int_equal(token, 77);
    assert_null(logits);
    assert_int_equal(kept_session_sample(run.session, sampler, &token, &err), KEPT_OK);
    assert_int_equal(kept_session_rewind(run.session, 3, &err), KEPT_OK);
    assert_int_equal(kept_session_sample(run.session, sampler, &token, &err), KEPT_E_STATE);
    kept_sampler_destroy(&sampler);
    kept_sampler_destroy(&other);
    run_close(&run);
}

static void numbers_that_are_none_are_not_chosen(void **state)
{
    (void)state;
    struct run run = {0};
    struct kept_sampler_params params = {0};
    struct kept_error err = {0};
    kept_sampler *sampler = NULL;
    int32_t token = 77;
    run_open(&run, device, LLAMA, 64, 16);
    uint32_t n_vocab = kept_model_info(run.model)->n_vocab;
    assert_int_equal(kept_sampler_create(&params, n_vocab, &sampler, &err), KEPT_OK);
    float *norm = kept_session_host(run.session, run.plan->output_norm);
    assert_non_null(norm);
    norm[0] = NAN; /* a damaged weight */
    run_must_eval(run.session, 3);
    assert_int_equal(kept_session_sample(run.session, sampler, &token, &err), KEPT_E_ARGUMENT);
    assert_int_equal(token, 77);
    kept_sampler_destroy(&sampler);
    run_close(&run);
}

/* ---- memory and devices ---- */

static void nothing_is_allocated_after_commit(void **state)
{
    (void)state;
    for (size_t m = 0; m < N_MODELS; m++) {
        struct run run = {0};
        struct kept_session_stats stats;
        run_open(&run, device, models[m], 256, 64);
        kept_session_stats(run.session, &stats);
        assert_int_equal(stats.planned_bytes, stats.actual_bytes);
        assert_int_equal(stats.planned_bytes, device->allocated_bytes);
        assert_true(stats.n_kernels > 0 && stats.n_recordings > 0 && stats.model_hash != 0);
        uint64_t calls = kept_alloc_calls(), kernels = device->n_kernels;
        const float *logits;
        run_must_eval(run.session, 150);
        for (int i = 0; i < 20; i++) {
            run_must_eval(run.session, 1);
            assert_int_equal(kept_session_logits(run.session, &logits, NULL), KEPT_OK);
        }
        assert_int_equal(kept_alloc_calls(), calls); /* not even host memory */
        assert_int_equal(device->n_kernels, kernels);
        kept_session_stats(run.session, &stats);
        assert_int_equal(stats.allocations_after_commit, 0);
        assert_int_equal(stats.prefill_tokens, 150);
        assert_int_equal(stats.decode_tokens, 20);
        run_close(&run);
        assert_int_equal(device->allocated_bytes, 0);
    }
}

static void one_session_at_a_time(void **state)
{
    (void)state;
    struct run run = {0};
    struct kept_error err = {0};
    kept_session *second = (kept_session *)1;
    run_open(&run, device, LLAMA, 64, 16);
    struct run_rows want = run_rows_of(&run, 64);
    assert_int_equal(kept_session_create(run.plan, device, NULL, NULL, &second, &err),
                     KEPT_E_STATE);
    assert_null(second);
    assert_int_equal(kept_session_rewind(run.session, 0, NULL), KEPT_OK);
    run_must_eval(run.session, 64); /* the first is unharmed */
    run_assert_row(&run, &want, "beside a refused session");
    kept_session_destroy(&run.session);
    assert_int_equal(kept_session_create(run.plan, device, NULL, NULL, &run.session, &err),
                     KEPT_OK);
    run_must_eval(run.session, 64);
    run_assert_row(&run, &want, "a second session of the same plan");
    free(want.rows);
    run_close(&run);
    kept_session_destroy(&run.session);
    kept_session_destroy(NULL);
    assert_int_equal(kept_session_create(NULL, device, NULL, NULL, &second, &err), KEPT_E_ARGUMENT);
}

static int open_device(void **state)
{
    (void)state;
    device = run_device();
    return 0;
}

static int close_device(void **state)
{
    (void)state;
    kept_device_destroy(&device);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunking_gives_the_same_logits),
        cmocka_unit_test(one_by_one_and_in_pieces_of_any_size),
        cmocka_unit_test(logits_from_any_row),
        cmocka_unit_test(a_full_context_changes_nothing),
        cmocka_unit_test(tokens_that_are_none),
        cmocka_unit_test(cancelled_by_progress),
        cmocka_unit_test(cancelled_by_another_thread),
        cmocka_unit_test(a_cancel_between_evaluations),
        cmocka_unit_test(cancelled_while_it_is_made),
        cmocka_unit_test(rewind_to_every_position),
        cmocka_unit_test(rewind_to_the_limits_of_rings),
        cmocka_unit_test(reuse_of_prefixes),
        cmocka_unit_test(same_seed_same_tokens),
        cmocka_unit_test(a_draw_is_keyed_by_its_position),
        cmocka_unit_test(calls_in_the_wrong_order),
        cmocka_unit_test(numbers_that_are_none_are_not_chosen),
        cmocka_unit_test(nothing_is_allocated_after_commit),
        cmocka_unit_test(one_session_at_a_time),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}

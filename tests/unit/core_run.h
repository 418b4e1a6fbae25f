/* tests/unit/core_run.h: the tiny models of tests/golden on the cpu backend, for tests of core. */
#ifndef KEPT_TESTS_CORE_RUN_H
#define KEPT_TESTS_CORE_RUN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/plan_fit.h"
#include "core/plan_internal.h"
#include "core/session_internal.h"
#include "kept/kept.h"

#define N_VOCAB_MOST 320

/* The bounds of tests/golden/test_tiny.c, and for the same reason. */
#define LOGPROB_BOUND 0.02
#define KL_BOUND      1e-5

struct run {
    kept_model *model;
    kept_plan *plan;
    kept_session *session;
};

static inline kept_device *run_device(void)
{
    struct kept_device_options options = {.n_threads = 2, .cache_dir = ""};
    struct kept_error err = {0};
    kept_device *device = NULL;
    char choice[256];
    assert_int_equal(kept_device_create("cpu", &options, &device, choice, &err), KEPT_OK);
    return device;
}

static inline struct kept_profile run_profile(kept_device *device)
{
    struct kept_profile profile;
    kept_device_profile(device, &profile);
    profile.free_bytes = profile.memory_bytes = 1ull << 40; /* tests set caps of their own */
    return profile;
}

static inline kept_model *run_model(const char *name)
{
    char path[1024];
    struct kept_error err = {0};
    kept_model *model = NULL;
    snprintf(path, sizeof path, "%s/tests/golden/%s.gguf", getenv("KEPT_SOURCE_DIR"), name);
    if (kept_model_open(path, NULL, &model, &err) != KEPT_OK)
        fail_msg("%s: %s", path, err.message);
    return model;
}

/* A session on a plan whose tuning and profile the test chose; mops 0: every call is a piece. */
static inline void run_open_tuned(struct run *run, kept_device *device, const char *name,
                                  const struct kept_profile *profile, uint32_t mops,
                                  const struct kept_plan_params *params)
{
    struct kept_error err = {0};
    struct kept_tuning tuning;
    kept_tune_device(profile, &tuning);
    tuning.mops_per_unit = mops;
    run->model = run_model(name);
    if (kept_plan_make(run->model, profile, &tuning, params, &run->plan, &err) != KEPT_OK)
        fail_msg("plan: %s", err.message);
    kept_plan_judge(run->plan);
    run->plan->err = NULL;
    if (kept_session_create(run->plan, device, NULL, NULL, &run->session, &err) != KEPT_OK)
        fail_msg("commit: %s", err.message);
}

static inline void run_open(struct run *run, kept_device *device, const char *name,
                            uint32_t context, uint32_t chunk)
{
    struct kept_profile profile = run_profile(device);
    struct kept_plan_params params = {.context_tokens = context, .chunk_tokens = chunk};
    struct kept_error err = {0};
    run->model = run_model(name);
    if (kept_plan_create(run->model, &profile, &params, &run->plan, &err) != KEPT_OK)
        fail_msg("plan: %s", err.message);
    if (kept_session_create(run->plan, device, NULL, NULL, &run->session, &err) != KEPT_OK)
        fail_msg("commit: %s", err.message);
}

static inline void run_close(struct run *run)
{
    kept_session_destroy(&run->session);
    kept_plan_destroy(&run->plan);
    kept_model_close(&run->model);
}

/* Token i of an endless text, the same for every vocabulary of the tiny models. */
static inline int32_t run_token(uint32_t i)
{
    return (int32_t)(3 + (i * 2654435761u >> 8) % 250u);
}

static inline kept_status run_eval(kept_session *session, uint32_t n, struct kept_error *err)
{
    int32_t tokens[1024];
    uint32_t from = kept_session_position(session);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = run_token(from + i);
    return kept_session_eval(session, &(struct kept_eval_params){.tokens = tokens, .n_tokens = n},
                             err);
}

static inline void run_must_eval(kept_session *session, uint32_t n)
{
    struct kept_error err = {0};
    if (run_eval(session, n, &err) != KEPT_OK)
        fail_msg("eval of %u tokens: %s", n, err.message);
}

static inline double run_log_sum(const float *row, uint32_t n)
{
    double top = row[0], sum = 0.0;
    for (uint32_t i = 1; i < n; i++)
        top = row[i] > top ? row[i] : top;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(row[i] - top);
    return top + log(sum);
}

static inline void run_assert_close(const float *want, const float *got, uint32_t n,
                                    const char *what, uint32_t position)
{
    double want_norm = run_log_sum(want, n), got_norm = run_log_sum(got, n), kl = 0.0, worst = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        double a = want[i] - want_norm, b = got[i] - got_norm;
        kl += exp(a) * (a - b);
        worst = fabs(a - b) > worst || isnan(b) ? fabs(a - b) : worst;
    }
    if (!(kl <= KL_BOUND && worst <= LOGPROB_BOUND))
        fail_msg("%s at position %u: KL %g, worst log-probability %g", what, position, kl, worst);
}

/* Logits [n][n_vocab] of the endless text, as one evaluation from position 0 gives them. */
struct run_rows {
    uint32_t n_vocab, n;
    float *rows;
};

static inline void run_keep_rows(void *user, uint32_t first, uint32_t n_rows, const float *logits)
{
    struct run_rows *rows = user;
    assert_true(first + n_rows <= rows->n);
    memcpy(rows->rows + (size_t)first * rows->n_vocab, logits,
           (size_t)n_rows * rows->n_vocab * sizeof *logits);
}

static inline struct run_rows run_rows_of(struct run *run, uint32_t n)
{
    struct run_rows rows = {kept_model_info(run->model)->n_vocab, n, NULL};
    struct kept_error err = {0};
    int32_t *tokens = malloc(n * sizeof *tokens);
    rows.rows = malloc((size_t)n * rows.n_vocab * sizeof *rows.rows);
    assert_non_null(tokens);
    assert_non_null(rows.rows);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = run_token(i);
    struct kept_eval_params params = {
        .tokens = tokens, .n_tokens = n, .on_logits = run_keep_rows, .logits_user = &rows};
    assert_int_equal(kept_session_position(run->session), 0);
    if (kept_session_eval(run->session, &params, &err) != KEPT_OK)
        fail_msg("eval: %s", err.message);
    free(tokens);
    return rows;
}

static inline void run_assert_row(struct run *run, const struct run_rows *rows, const char *what)
{
    struct kept_error err = {0};
    const float *logits;
    uint32_t position = kept_session_position(run->session) - 1;
    if (kept_session_logits(run->session, &logits, &err) != KEPT_OK)
        fail_msg("%s: %s", what, err.message);
    run_assert_close(rows->rows + (size_t)position * rows->n_vocab, logits, rows->n_vocab, what,
                     position);
}

/* Every KV head of every bounded store: slots are never more than there is room for, what was kept
 * is within the budget; `check` gets its row of the table and the tokens since its edge. */
typedef void (*run_head_fn)(const struct run *run, const struct kept_store *store,
                            const uint32_t *head, uint32_t since);

static inline void run_check_heads(struct run *run, run_head_fn check)
{
    struct kept_error err = {0};
    uint32_t table[64 * KEPT_HEAD_WORDS], position = kept_session_position(run->session);
    for (uint32_t i = 0; i < run->plan->n_maintained; i++) {
        const struct kept_store *store = &run->plan->layers[run->plan->maintained[i]].store;
        const struct kept_arg *arg = &store->heads_table;
        assert_true(arg->n_bytes <= sizeof table);
        assert_int_equal(kept_session_read(run->session, arg->region, arg->offset_bytes, table,
                                           arg->n_bytes, &err),
                         KEPT_OK);
        for (uint32_t h = 0; h < store->n_kv; h++) {
            const uint32_t *head = table + h * KEPT_HEAD_WORDS;
            uint32_t since = position - head[KEPT_HEAD_EDGE];
            assert_true(head[KEPT_HEAD_BASE] + since <= head[KEPT_HEAD_CAP]);
            assert_true(head[KEPT_HEAD_BASE] <= head[KEPT_HEAD_BUDGET]);
            check(run, store, head, since);
        }
    }
}

/* No plan of the model comes of these parameters, and the message says why. */
static inline void run_refused(kept_device *device, const char *name,
                               const struct kept_plan_params *params, kept_status status,
                               const char *says)
{
    struct kept_profile profile = run_profile(device);
    struct kept_error err = {0};
    kept_model *model = run_model(name);
    kept_plan *plan = NULL;
    assert_int_equal(kept_plan_create(model, &profile, params, &plan, &err), status);
    assert_null(plan);
    if (!strstr(err.message, says))
        fail_msg("'%s' does not say '%s'", err.message, says);
    kept_model_close(&model);
}

#endif

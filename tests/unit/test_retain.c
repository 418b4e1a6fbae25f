/* tests/unit/test_retain.c: bounded retention in plans and sessions, with the tiny models on the
 * cpu backend: off means off, results that do not depend on chunks, counts within budgets, going
 * back, saving, held tokens, compact positions, and options that are refused. */
#include "core_run.h"

#include "base/file.h"
#include "core/model_internal.h"

#define LLAMA "tiny-llama-plain"
#define GEMMA "tiny-gemma3"
#define PATH  "test_retain.session"

static kept_device *device;

static struct kept_plan_params bounded(uint32_t context, uint32_t chunk, uint32_t budget)
{
    return (struct kept_plan_params){
        .context_tokens = context,
        .chunk_tokens = chunk,
        .retain = {.mode = KEPT_RETAIN_SCORED, .budget_slots = budget, .protect = 32, .sinks = 4}};
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
    struct kept_session_stats stats;
    kept_session_stats(run->session, &stats);
    assert_int_equal(stats.planned_bytes, stats.actual_bytes);
    assert_int_equal(stats.allocations_after_commit, 0);
}

static const float *last_logits(struct run *run)
{
    struct kept_error err = {0};
    const float *logits = NULL;
    if (kept_session_logits(run->session, &logits, &err) != KEPT_OK)
        fail_msg("logits: %s", err.message);
    return logits;
}

static struct kept_slot_counts counts_of(struct run *run)
{
    struct kept_slot_counts counts;
    struct kept_error err = {0};
    if (kept_session_slots(run->session, &counts, &err) != KEPT_OK)
        fail_msg("slots: %s", err.message);
    return counts;
}

/* Kept positions and biases of every head of the first layer that is budgeted. */
struct set {
    uint32_t n[64];
    int32_t positions[64][1024];
    float biases[64][1024];
};

static void set_of(struct run *run, struct set *set)
{
    struct kept_error err = {0};
    uint32_t i = 0, budget, planned;
    memset(set, 0, sizeof *set);
    for (uint32_t l = 0; kept_plan_head(run->plan, l, 0, &budget, &planned); l++) {
        if (!run->plan->layers[l].budgeted)
            continue;
        for (uint32_t h = 0; i < 64 && kept_plan_head(run->plan, l, h, &budget, &planned); h++, i++)
            assert_int_equal(kept_session_kept(run->session, l, h, set->positions[i],
                                               set->biases[i], 1024, &set->n[i], &err),
                             KEPT_OK);
    }
}

/* Until something is evicted the bits are those of full retention, for every type of slots. */
static void off_means_off(void **state)
{
    (void)state;
    for (int type = KEPT_SLOT_F16; type <= KEPT_SLOT_Q4_0; type++) {
        struct kept_plan_params full = {.context_tokens = 400, .chunk_tokens = 96};
        struct kept_plan_params kept = bounded(400, 96, 200);
        full.k_type = full.v_type = kept.k_type = kept.v_type = (enum kept_slot_type)type;
        struct run a = {0}, b = {0};
        float want[4][N_VOCAB_MOST];
        uint32_t n = 0;
        open_with(&a, LLAMA, &full);
        n = kept_model_info(a.model)->n_vocab;
        for (int i = 0; i < 4; i++) {
            run_must_eval(a.session, i == 0 ? 130 : i == 2 ? 60 : 1);
            memcpy(want[i], last_logits(&a), n * sizeof(float));
        }
        run_close(&a);
        open_with(&b, LLAMA, &kept);
        assert_true(kept_plan_info(b.plan)->retains);
        for (int i = 0; i < 4; i++) {
            run_must_eval(b.session, i == 0 ? 130 : i == 2 ? 60 : 1);
            assert_memory_equal(want[i], last_logits(&b), n * sizeof(float));
        }
        assert_int_equal(counts_of(&b).evicted, 0);
        run_close(&b);
    }
}

/* A budget of the whole context is full retention, and the plan says so. */
static void a_large_budget_is_full_retention(void **state)
{
    (void)state;
    struct kept_plan_params params = bounded(300, 64, 300);
    struct run run = {0};
    struct kept_choice_info choice;
    bool said = false;
    open_with(&run, LLAMA, &params);
    assert_false(kept_plan_info(run.plan)->retains);
    for (uint32_t i = 0; kept_plan_choice(run.plan, i, &choice); i++)
        said |= strcmp(choice.what, "retention") == 0 && strcmp(choice.chosen, "full") == 0;
    assert_true(said);
    run_close(&run);
}

static void assert_within_budget(struct run *run)
{
    struct kept_slot_counts counts = counts_of(run);
    const struct kept_plan_info *info = kept_plan_info(run->plan);
    uint64_t heads = 0;
    for (uint32_t i = 0; i < run->plan->shape->n_layers; i++)
        heads += run->plan->layers[i].budgeted ? run->plan->shape->layers[i].n_kv : 0;
    assert_true(heads > 0);
    assert_true(counts.live <= info->slots + heads * run->plan->retention.block);
}

/* Share of positions that two sets have in common, over all heads. */
static double overlap(const struct set *a, const struct set *b)
{
    uint32_t common = 0, all = 0;
    for (int h = 0; h < 64; h++) {
        for (uint32_t i = 0, j = 0; i < a->n[h] && j < b->n[h];) {
            int32_t x = a->positions[h][i], y = b->positions[h][j];
            common += x == y;
            i += x <= y;
            j += y <= x;
        }
        all += a->n[h] + b->n[h];
    }
    return (double)common / (all - common);
}

static double kl_of(const float *want, const float *got, uint32_t n)
{
    double want_norm = run_log_sum(want, n), got_norm = run_log_sum(got, n), kl = 0;
    for (uint32_t i = 0; i < n; i++) {
        double a = want[i] - want_norm, b = got[i] - got_norm;
        kl += exp(a) * (a - b);
    }
    return kl;
}

/* However the input was cut, the same blocks are maintained at the same positions. One token at a
 * time and many take other product kernels, whose rounding may turn a close decision: the sets
 * overlap nearly wholly, and the predictions hardly differ. A budget of whole pages leaves no room
 * for maintenance that comes later than its block (test_delay.c). */
static void chunks_do_not_matter(void **state)
{
    (void)state;
    static const char *const models[] = {LLAMA, GEMMA};
    static const uint32_t cuts[][3] = {{64, 400, 400}, {128, 100, 7}, {200, 1, 63}, {16, 33, 120}};
    static struct set want, got;
    for (int m = 0; m < 2; m++) {
        struct run_rows rows = {0};
        double kl = 0;
        uint32_t n_rows = 0;
        for (size_t c = 0; c < 4; c++) {
            struct kept_plan_params params = bounded(512, cuts[c][0], 128);
            struct run run = {0};
            open_with(&run, models[m], &params);
            if (c == 0) {
                rows = run_rows_of(&run, 500);
                set_of(&run, &want);
            }
            for (uint32_t i = 0; c > 0 && kept_session_position(run.session) < 500; i++) {
                uint32_t left = 500 - kept_session_position(run.session), n = cuts[c][1 + i % 2];
                run_must_eval(run.session, n < left ? n : left);
                assert_within_budget(&run);
                uint64_t at = (uint64_t)(kept_session_position(run.session) - 1) * rows.n_vocab;
                kl += kl_of(rows.rows + at, last_logits(&run), rows.n_vocab);
                n_rows++;
            }
            set_of(&run, &got);
            assert_memory_equal(want.n, got.n, sizeof want.n);
            if (overlap(&want, &got) < 0.98)
                fail_msg("%s, cut %zu: overlap %g", models[m], c, overlap(&want, &got));
            assert_true(counts_of(&run).evicted > 0);
            run_close(&run);
        }
        if (!(kl / n_rows < 1e-4))
            fail_msg("%s: mean KL %g", models[m], kl / n_rows);
        free(rows.rows);
    }
}

/* First and last tokens stay, whatever ranks the others. */
static void the_window_and_the_sinks_stay(void **state)
{
    (void)state;
    static struct set set;
    for (int mode = KEPT_RETAIN_WINDOW; mode <= KEPT_RETAIN_SCORED; mode++) {
        for (int scorer = 0; scorer <= KEPT_SCORER_BY_KEYDIFF; scorer += 2) {
            struct kept_plan_params params = bounded(512, 128, 70);
            params.retain.mode = (enum kept_retain)mode;
            params.retain.scorer = (enum kept_scorer)scorer;
            struct run run = {0};
            open_with(&run, LLAMA, &params);
            run_must_eval(run.session, 400);
            run_must_eval(run.session, 1);
            set_of(&run, &set);
            for (int h = 0; h < 64 && set.n[h]; h++) {
                uint32_t n = set.n[h];
                assert_int_equal(n, 70 + 401 - 384);
                for (int i = 0; i < 4; i++)
                    assert_int_equal(set.positions[h][i], i);
                for (uint32_t i = 0; i < 32 + 401 - 384; i++)
                    assert_int_equal(set.positions[h][n - 1 - i], 400 - (int32_t)i);
                if (mode == KEPT_RETAIN_WINDOW)
                    assert_int_equal(set.positions[h][4], 401 - (int32_t)n + 4);
            }
            run_close(&run);
        }
    }
}

static void going_back(void **state)
{
    (void)state;
    struct kept_plan_params params = bounded(512, 128, 96);
    struct run run = {0};
    struct kept_error err = {0};
    float want[N_VOCAB_MOST];
    open_with(&run, LLAMA, &params);
    uint32_t n = kept_model_info(run.model)->n_vocab;
    run_must_eval(run.session, 330);
    run_must_eval(run.session, 10);
    memcpy(want, last_logits(&run), n * sizeof(float));
    assert_int_equal(kept_session_rewind(run.session, 330, &err), KEPT_OK);
    run_must_eval(run.session, 10); /* within the block: as if nothing had happened */
    assert_memory_equal(want, last_logits(&run), n * sizeof(float));
    assert_int_equal(kept_session_rewind(run.session, 320, &err), KEPT_OK);
    assert_int_equal(kept_session_rewind(run.session, 319, &err), KEPT_E_STATE);
    assert_int_equal(kept_session_rewind(run.session, 0, &err), KEPT_OK);
    run_must_eval(run.session, 330);
    run_must_eval(run.session, 10); /* a clean state */
    assert_memory_equal(want, last_logits(&run), n * sizeof(float));
    run_close(&run);
}

/* Held tokens leave no trace, and do not fit where no room was planned. */
static void held_tokens(void **state)
{
    (void)state;
    struct kept_plan_params params = bounded(512, 128, 96);
    struct run run = {0};
    struct kept_error err = {0};
    int32_t tokens[200];
    float want[N_VOCAB_MOST];
    params.retain.hold_tokens = 200;
    open_with(&run, LLAMA, &params);
    uint32_t n = kept_model_info(run.model)->n_vocab;
    for (uint32_t i = 0; i < 200; i++)
        tokens[i] = run_token(i + 320);
    struct kept_eval_params held = {.tokens = tokens, .n_tokens = 200, .hold = true};
    run_must_eval(run.session, 320);
    assert_int_equal(kept_session_eval(run.session, &held, &err), KEPT_OK);
    memcpy(want, last_logits(&run), n * sizeof(float));
    assert_int_equal(kept_session_position(run.session), 520);
    uint64_t evicted = counts_of(&run).evicted;
    assert_int_not_equal(run_eval(run.session, 1, &err), KEPT_OK);
    assert_int_equal(kept_session_rewind(run.session, 384, &err), KEPT_OK);
    held.n_tokens = 9; /* from a block's edge that held tokens reached: nothing goes */
    assert_int_equal(kept_session_eval(run.session, &held, &err), KEPT_OK);
    held.n_tokens = 200;
    assert_int_equal(kept_session_rewind(run.session, 320, &err), KEPT_OK);
    assert_int_equal(counts_of(&run).evicted, evicted);
    assert_int_equal(kept_session_eval(run.session, &held, &err), KEPT_OK);
    assert_memory_equal(want, last_logits(&run), n * sizeof(float));
    run_close(&run);

    params.retain.hold_tokens = 0;
    open_with(&run, LLAMA, &params);
    assert_int_equal(kept_session_eval(run.session, &held, &err), KEPT_E_ARGUMENT);
    run_close(&run);
}

/* Held from the middle of a block: the ranking of the next blocks learns nothing of them, and
 * sliding windows are still there. */
static void held_in_a_block(void **state)
{
    (void)state;
    static const char *const models[] = {LLAMA, GEMMA};
    static struct set want_set, got_set;
    for (int m = 0; m < 2; m++) {
        struct kept_plan_params params = bounded(512, 128, 96);
        struct run run = {0};
        struct kept_error err = {0};
        float want[N_VOCAB_MOST];
        int32_t tokens[200];
        params.retain.hold_tokens = 200;
        open_with(&run, models[m], &params);
        uint32_t n = kept_model_info(run.model)->n_vocab;
        for (uint32_t i = 0; i < 200; i++)
            tokens[i] = run_token(i + 7);
        struct kept_eval_params held = {.tokens = tokens, .n_tokens = 150, .hold = true};
        for (int holds = 0; holds <= 1; holds++) {
            assert_int_equal(kept_session_rewind(run.session, 0, &err), KEPT_OK);
            run_must_eval(run.session, 330);
            if (holds) {
                assert_int_equal(kept_session_eval(run.session, &held, &err), KEPT_OK);
                assert_int_equal(kept_session_eval(run.session, &held, &err), KEPT_E_ARGUMENT);
                assert_int_equal(kept_session_save(run.session, PATH, &err), KEPT_E_STATE);
                held.n_tokens = 50;
                assert_int_equal(kept_session_eval(run.session, &held, &err), KEPT_OK);
                if (kept_session_rewind(run.session, 330, &err) != KEPT_OK)
                    fail_msg("%s", err.message);
            }
            run_must_eval(run.session, 130);
            if (!holds)
                memcpy(want, last_logits(&run), n * sizeof(float));
            set_of(&run, holds ? &got_set : &want_set);
        }
        assert_memory_equal(want, last_logits(&run), n * sizeof(float));
        assert_memory_equal(&want_set, &got_set, sizeof want_set);
        run_close(&run);
    }
}

static void saved_and_loaded(void **state)
{
    (void)state;
    for (int type = KEPT_SLOT_F16; type <= KEPT_SLOT_Q4_0; type++) {
        struct kept_plan_params params = bounded(512, 128, 96);
        struct run run = {0};
        struct kept_error err = {0};
        float want[N_VOCAB_MOST];
        params.k_type = params.v_type = (enum kept_slot_type)type;
        open_with(&run, LLAMA, &params);
        uint32_t n = kept_model_info(run.model)->n_vocab;
        run_must_eval(run.session, 333);
        assert_int_equal(kept_session_save(run.session, PATH, &err), KEPT_OK);
        run_must_eval(run.session, 90);
        memcpy(want, last_logits(&run), n * sizeof(float));
        run_close(&run);
        open_with(&run, LLAMA, &params);
        run_must_eval(run.session, 40);
        if (kept_session_load(run.session, PATH, &err) != KEPT_OK)
            fail_msg("load: %s", err.message);
        assert_int_equal(kept_session_position(run.session), 333);
        run_must_eval(run.session, 90);
        assert_memory_equal(want, last_logits(&run), n * sizeof(float));
        run_close(&run);
        params.retain.budget_slots = 97; /* other slots */
        open_with(&run, LLAMA, &params);
        assert_int_equal(kept_session_load(run.session, PATH, &err), KEPT_E_MISMATCH);
        run_close(&run);
    }
    remove(PATH);
}

/* Input far past the trained context, in constant memory. */
static void compact_positions(void **state)
{
    (void)state;
    static struct set set;
    struct kept_plan_params params = bounded(0, 128, 96);
    struct run run = {0};
    struct kept_error err = {0};
    run.model = run_model(LLAMA);
    uint32_t trained = kept_model_info(run.model)->trained_context_tokens;
    kept_model_close(&run.model);
    params.context_tokens = trained * 3;
    params.retain.positions = KEPT_POSITIONS_COMPACT;
    open_with(&run, LLAMA, &params);
    uint32_t n_vocab = kept_model_info(run.model)->n_vocab;
    while (kept_session_position(run.session) < trained * 3) {
        uint32_t left = trained * 3 - kept_session_position(run.session);
        run_must_eval(run.session, left < 500 ? left : 500);
        assert_within_budget(&run);
        const float *logits = last_logits(&run);
        for (uint32_t i = 0; i < n_vocab; i++)
            assert_true(isfinite(logits[i]));
    }
    set_of(&run, &set);
    for (int h = 0; h < 64 && set.n[h]; h++)
        for (uint32_t i = 0; i < set.n[h]; i++) {
            assert_true(set.positions[h][i] >= 0 && set.positions[h][i] < (int32_t)trained);
            if (i > 0 && set.positions[h][i] <= set.positions[h][i - 1])
                fail_msg("head %d: slots at %d and %d, number %u of %u", h, set.positions[h][i - 1],
                         set.positions[h][i], i, set.n[h]);
        }
    assert_int_equal(run_eval(run.session, 1, &err), KEPT_E_CONTEXT_FULL);
    run_close(&run);
}

/* Left to the plan: everything stays within the trained context; past it, what could be asked
 * for. */
static void the_plan_decides(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    struct kept_error err = {0};
    struct run run = {.model = run_model(LLAMA)};
    uint32_t trained = kept_model_info(run.model)->trained_context_tokens;
    for (int i = 0; i < 5; i++) {
        struct kept_plan_params ours = {.context_tokens = i == 0   ? 0
                                                          : i == 1 ? trained
                                                                   : trained * 3,
                                        .retain = {.mode = KEPT_RETAIN_AUTO, .protect = 32}};
        struct kept_plan_params same = ours;
        if (i > 1)
            same.retain.positions = KEPT_POSITIONS_COMPACT;
        same.retain.mode = i > 1 ? KEPT_RETAIN_SCORED : KEPT_RETAIN_FULL;
        same.retain.budget_slots = i < 2 ? 0 : trained / 4;
        if (i == 3)
            ours.retain.budget_slots = same.retain.budget_slots = 96;
        if (i == 4) {
            ours.retain.assoc = same.retain.assoc = KEPT_ASSOC_KEPT;
            ours.retain.assoc_slots = same.retain.assoc_slots = 64;
            same.retain.mode = KEPT_RETAIN_FULL;
            same.retain.budget_slots = 0;
        }
        kept_plan *a = NULL, *b = NULL;
        if (kept_plan_create(run.model, &profile, &ours, &a, &err) != KEPT_OK ||
            kept_plan_create(run.model, &profile, &same, &b, &err) != KEPT_OK)
            fail_msg("case %d: %s", i, err.message);
        const struct kept_plan_info *x = kept_plan_info(a), *y = kept_plan_info(b);
        assert_int_equal(x->retains, i > 1);
        assert_int_equal(x->planned_bytes, y->planned_bytes);
        assert_int_equal(x->slots, y->slots);
        assert_int_equal(x->kv_bytes, y->kv_bytes);
        assert_int_equal(x->scorer_bytes, y->scorer_bytes);
        assert_int_equal(x->memory_slots, y->memory_slots);
        kept_plan_destroy(&a);
        kept_plan_destroy(&b);
    }
    kept_model_close(&run.model);
}

/* ---- a gate ---- */

#define SIDECAR "test_retain.sidecar"
#define N_GATED 450u

/* Weights of a gate, and what its first layer says of the tokens of the endless text. */
struct gate {
    uint32_t n_layers, n_kv, k;
    float *weights, *bias;
    double *scores; /* [n_kv][N_GATED] */
};

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

static void score_by_gate(const kept_model *model, struct gate *g)
{
    float norm[256], x[256];
    read_row(model, model->shape.layers[0].attn_norm, 0, norm);
    for (uint32_t t = 0; t < N_GATED; t++) {
        double squares = 0;
        read_row(model, model->shape.embedding, (uint64_t)run_token(t), x);
        for (uint32_t i = 0; i < g->k; i++)
            squares += (double)x[i] * x[i];
        double f = 1 / sqrt(squares / g->k + (double)model->shape.eps);
        for (uint32_t h = 0; h < g->n_kv; h++) {
            double sum = g->bias[h];
            for (uint32_t i = 0; i < g->k; i++)
                sum += g->weights[h * g->k + i] * f * x[i] * norm[i];
            g->scores[h * N_GATED + t] = sum;
        }
    }
}

static struct gate begin_gate(void)
{
    kept_model *model = run_model(LLAMA);
    const struct kept_model_info *info = kept_model_info(model);
    struct gate g = {info->n_layers, info->n_kv_head, info->n_embd, NULL, NULL, NULL};
    struct kept_error err = {0};
    size_t heads = (size_t)g.n_layers * g.n_kv;
    float all = 1, fractions[64];
    g.weights = malloc(heads * g.k * sizeof *g.weights);
    g.bias = malloc(heads * sizeof *g.bias);
    g.scores = malloc((size_t)g.n_kv * N_GATED * sizeof *g.scores);
    assert_true(g.weights && g.bias && g.scores && heads <= 64 && g.k <= 256);
    for (size_t i = 0; i < heads; i++) {
        fractions[i] = 1;
        g.bias[i] = (float)i - 1;
    }
    for (uint32_t i = 0; i < heads * g.k; i++)
        g.weights[i] = (float)(i * 2654435761u >> 16 & 1023) / 512 - 1;
    struct kept_sidecar_params params = {.n_shares = 1,
                                         .shares = &all,
                                         .fractions = fractions,
                                         .gate = g.weights,
                                         .gate_bias = g.bias};
    if (kept_sidecar_write(SIDECAR, model, &params, &err) != KEPT_OK)
        fail_msg("sidecar: %s", err.message);
    score_by_gate(model, &g);
    kept_model_close(&model);
    return g;
}

/* Positions that a KV head of layer 0 keeps after n tokens, ascending; returns how many. */
static uint32_t kept_by_gate(const struct gate *g, uint32_t head, uint32_t n, uint32_t budget,
                             int32_t *kept)
{
    const double *scores = g->scores + (size_t)head * N_GATED;
    uint32_t count = 0;
    for (uint32_t t = 0; t < n; t++) {
        kept[count++] = (int32_t)t;
        while ((t + 1) % 64 == 0 && t + 1 < n && count > budget) {
            uint32_t worst = 4;
            for (uint32_t i = 4; i < count - 32; i++)
                worst = scores[kept[i]] < scores[kept[worst]] ? i : worst;
            memmove(kept + worst, kept + worst + 1, (count - worst - 1) * sizeof *kept);
            count--;
        }
    }
    return count;
}

/* The same tokens of the text at these positions; which of equal ones is left to the slots. */
static void assert_same_tokens(const int32_t *a, const int32_t *b, uint32_t n)
{
    int32_t count[256] = {0};
    for (uint32_t i = 0; i < n; i++) {
        count[run_token((uint32_t)a[i])]++;
        count[run_token((uint32_t)b[i])]--;
    }
    for (int i = 0; i < 256; i++)
        assert_int_equal(count[i], 0);
}

/* The gate's own decisions, whatever the chunks. */
static void a_gate_ranks(void **state)
{
    (void)state;
    static struct set set;
    struct gate g = begin_gate();
    for (uint32_t cut = 0; cut < 2; cut++) {
        struct kept_plan_params params = bounded(512, cut ? 33 : 128, 96);
        struct run run = {0};
        struct kept_error err = {0};
        kept_sidecar *sidecar = NULL;
        int32_t want[N_GATED];
        kept_model *model = run_model(LLAMA);
        assert_int_equal(kept_sidecar_open(SIDECAR, model, &sidecar, &err), KEPT_OK);
        params.retain.scorer = KEPT_SCORER_BY_GATE;
        params.retain.sidecar = sidecar;
        open_with(&run, LLAMA, &params);
        run_must_eval(run.session, N_GATED - 2);
        run_must_eval(run.session, 1);
        run_must_eval(run.session, 1);
        set_of(&run, &set);
        for (uint32_t h = 0; h < g.n_kv; h++) {
            uint32_t budget, planned;
            assert_true(kept_plan_head(run.plan, 0, h, &budget, &planned));
            assert_int_equal(kept_by_gate(&g, h, N_GATED, budget, want), set.n[h]);
            assert_same_tokens(want, set.positions[h], set.n[h]);
        }
        run_close(&run);
        kept_sidecar_close(&sidecar);
        kept_model_close(&model);
    }
    remove(SIDECAR);
    free(g.weights);
    free(g.bias);
    free(g.scores);
}

static void refused(const struct kept_plan_params *params, kept_status status, const char *says)
{
    run_refused(device, LLAMA, params, status, says);
}

static void options_that_are_refused(void **state)
{
    (void)state;
    struct kept_plan_params p = bounded(400, 64, 0);
    refused(&p, KEPT_E_ARGUMENT, "--retain-budget");
    p = bounded(400, 64, 35); /* 32 + 4 are never evicted */
    refused(&p, KEPT_E_ARGUMENT, "below the 36");
    p = bounded(400, 64, 96);
    p.retain.budget_slots = 0;
    p.retain.budget_percent = -3;
    refused(&p, KEPT_E_ARGUMENT, "more than 0");
    p = bounded(400, 64, 96);
    p.retain.block_tokens = 65;
    refused(&p, KEPT_E_ARGUMENT, "65");
    p = bounded(400, 64, 96);
    p.k_type = (enum kept_slot_type)7;
    refused(&p, KEPT_E_ARGUMENT, "slot types");
    p = bounded(400, 64, 96);
    p.retain.scorer = KEPT_SCORER_BY_GATE;
    refused(&p, KEPT_E_ARGUMENT, "sidecar");
    p.retain.protect = -1;
    refused(&p, KEPT_E_ARGUMENT, "--protect 0");
    p = bounded(1u << 20, 64, 96);
    refused(&p, KEPT_E_ARGUMENT, "--positions compact");
    p.retain.mode = KEPT_RETAIN_FULL;
    p.retain.positions = KEPT_POSITIONS_COMPACT;
    refused(&p, KEPT_E_ARGUMENT, "need retention");
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
        cmocka_unit_test(off_means_off),        cmocka_unit_test(a_large_budget_is_full_retention),
        cmocka_unit_test(chunks_do_not_matter), cmocka_unit_test(the_window_and_the_sinks_stay),
        cmocka_unit_test(going_back),           cmocka_unit_test(held_tokens),
        cmocka_unit_test(held_in_a_block),      cmocka_unit_test(saved_and_loaded),
        cmocka_unit_test(compact_positions),    cmocka_unit_test(the_plan_decides),
        cmocka_unit_test(a_gate_ranks),         cmocka_unit_test(options_that_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

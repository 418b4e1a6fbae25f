/* tests/unit/test_assoc.c: associative memory in plans and sessions, with the tiny models on the
 * cpu backend: options that are refused, constant memory, the two ends of the threshold, tokens
 * that add up, saving and going back, both forms and types of slots. */
#include "core_run.h"

#define LLAMA  "tiny-llama-plain"
#define GEMMA  "tiny-gemma3"
#define PATH   "test_assoc.session"
#define SAFE   36u /* sinks and protected tokens of these plans */
#define MEMORY 1024

static kept_device *device, *beside; /* one carries one session */

static struct kept_plan_params with_memory(uint32_t context, enum kept_assoc form, uint32_t slots,
                                           float threshold)
{
    return (struct kept_plan_params){.context_tokens = context,
                                     .chunk_tokens = 128,
                                     .retain = {.protect = 32,
                                                .sinks = 4,
                                                .assoc = form,
                                                .assoc_slots = slots,
                                                .assoc_threshold = threshold}};
}

static void assert_as_planned(struct run *run)
{
    struct kept_session_stats stats;
    kept_session_stats(run->session, &stats);
    assert_int_equal(stats.planned_bytes, stats.actual_bytes);
    assert_int_equal(stats.planned_bytes, kept_plan_info(run->plan)->planned_bytes);
    assert_int_equal(stats.allocations_after_commit, 0);
}

static void open_on(struct run *run, kept_device *on, const char *model,
                    const struct kept_plan_params *params)
{
    struct kept_profile profile = run_profile(on);
    struct kept_error err = {0};
    run->model = run_model(model);
    if (kept_plan_create(run->model, &profile, params, &run->plan, &err) != KEPT_OK)
        fail_msg("plan: %s", err.message);
    if (kept_session_create(run->plan, on, NULL, NULL, &run->session, &err) != KEPT_OK)
        fail_msg("commit: %s", err.message);
    assert_as_planned(run);
}

static void open_with(struct run *run, const char *model, const struct kept_plan_params *params)
{
    open_on(run, device, model, params);
}

static const float *last_logits(struct run *run)
{
    struct kept_error err = {0};
    const float *logits = NULL;
    if (kept_session_logits(run->session, &logits, &err) != KEPT_OK)
        fail_msg("logits: %s", err.message);
    for (uint32_t i = 0; i < kept_model_info(run->model)->n_vocab; i++)
        assert_true(isfinite(logits[i]));
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

static uint32_t memory_of(struct run *run, uint32_t layer, uint32_t head,
                          struct kept_memory_slot *out)
{
    struct kept_error err = {0};
    uint32_t n = 0;
    if (kept_session_memory(run->session, layer, head, out, MEMORY, &n, &err) != KEPT_OK)
        fail_msg("memory: %s", err.message);
    assert_true(n <= MEMORY);
    return n;
}

static uint32_t live_of(struct run *run, uint32_t layer, uint32_t head)
{
    struct kept_error err = {0};
    uint32_t n = 0;
    assert_int_equal(kept_session_kept(run->session, layer, head, NULL, NULL, 0, &n, &err),
                     KEPT_OK);
    return n;
}

/* Tokens of one head that its slots stand for; checks what is said of each memory slot. */
static double tokens_of(struct run *run, uint32_t layer, uint32_t head)
{
    static struct kept_memory_slot memory[MEMORY];
    uint32_t position = kept_session_position(run->session);
    uint32_t n = memory_of(run, layer, head, memory), live = live_of(run, layer, head);
    uint32_t budget, planned, limit = run->plan->retention.limit;
    double tokens = live - n;
    assert_true(kept_plan_head(run->plan, layer, head, &budget, &planned));
    assert_true(n <= budget && n <= live && live <= planned);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(memory[i].tokens >= 1 && memory[i].tokens <= (float)position);
        assert_true(memory[i].touched > 0 && memory[i].touched <= (int32_t)position);
        assert_true(memory[i].position >= -0.5f && memory[i].position < (float)position);
        assert_true(limit == 0 || memory[i].position < (float)limit);
        tokens += (double)memory[i].tokens;
    }
    return tokens;
}

/* Every token has a slot of its own, is part of one, or is lost; returns how many are lost. */
static double assert_adds_up(struct run *run)
{
    uint32_t position = kept_session_position(run->session), heads = 0;
    struct kept_slot_counts counts = counts_of(run);
    uint64_t plain = 0;
    double lost = 0;
    for (uint32_t i = 0; i < run->plan->shape->n_layers; i++) {
        uint32_t n_kv = run->plan->shape->layers[i].n_kv, cap = run->plan->layers[i].cap;
        uint32_t window = run->plan->shape->layers[i].window;
        cap = window && window < cap ? window : cap;
        if (!run->plan->layers[i].budgeted) {
            plain += (uint64_t)n_kv * (position < cap ? position : cap);
            continue;
        }
        heads += n_kv;
        for (uint32_t h = 0; h < n_kv; h++) {
            double here = position - tokens_of(run, i, h);
            assert_true(here >= 0);
            lost += here;
        }
    }
    assert_true(heads > 0 && counts.consolidated <= counts.evicted);
    assert_int_equal(counts.live - plain + counts.evicted, (uint64_t)heads * position);
    assert_true(lost >= (double)(counts.evicted - counts.consolidated));
    return lost;
}

/* ---- plans ---- */

static void refused(const char *name, const struct kept_plan_params *params, kept_status status,
                    const char *says)
{
    run_refused(device, name, params, status, says);
}

static void options_that_are_refused(void **state)
{
    (void)state;
    static const float thresholds[] = {NAN, -2, 3, INFINITY, -INFINITY};
    static const char *const deciding[] = {"tiny-llama-dms", "tiny-qwen3-dms-query"};
    struct kept_plan_params p;
    for (int form = KEPT_ASSOC_KEPT; form <= KEPT_ASSOC_PUBLISHED; form++) {
        p = with_memory(400, (enum kept_assoc)form, 0, 0);
        refused(LLAMA, &p, KEPT_E_ARGUMENT, "0 slots");
        p.retain.assoc_slots = UINT32_MAX;
        refused(LLAMA, &p, KEPT_E_ARGUMENT, "4294967295 slots");
        for (int i = 0; i < 5; i++) {
            p = with_memory(400, (enum kept_assoc)form, 64, thresholds[i]);
            refused(LLAMA, &p, KEPT_E_ARGUMENT, "threshold");
        }
        p = with_memory(400, (enum kept_assoc)form, 64, 0);
        p.retain.mode = KEPT_RETAIN_WINDOW;
        p.retain.budget_slots = 100;
        refused(LLAMA, &p, KEPT_E_ARGUMENT, "--protect");
        p.retain.mode = KEPT_RETAIN_SCORED;
        p.retain.budget_slots = 0; /* the mode asks for one of its own */
        refused(LLAMA, &p, KEPT_E_ARGUMENT, "--retain-budget");
        for (int i = 0; i < 2; i++) {
            p = with_memory(80, (enum kept_assoc)form, 16, 0);
            refused(deciding[i], &p, KEPT_E_UNSUPPORTED, "DMS");
        }
        p = with_memory(1u << 20, (enum kept_assoc)form, 64, 0);
        refused(LLAMA, &p, KEPT_E_ARGUMENT, "--positions compact");
    }
    p = with_memory(400, (enum kept_assoc)7, 64, 0);
    refused(LLAMA, &p, KEPT_E_ARGUMENT, "form 7");
    p = with_memory(1u << 16, KEPT_ASSOC_PUBLISHED, 64, 0);
    p.retain.positions = KEPT_POSITIONS_COMPACT;
    refused(LLAMA, &p, KEPT_E_ARGUMENT, "published");
}

/* A memory that breaks the cap is planned, judged, and refused when it would be allocated. */
static void a_memory_over_the_cap(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    struct kept_error err = {0};
    struct run run = {0};
    struct kept_plan_params p = with_memory(512, KEPT_ASSOC_KEPT, 64, 0);
    open_with(&run, LLAMA, &p);
    p.memory_bytes = kept_plan_info(run.plan)->total_bytes;
    run_close(&run);
    open_with(&run, LLAMA, &p); /* exactly the cap */
    run_close(&run);
    p.retain.assoc_slots = 256;
    run.model = run_model(LLAMA);
    assert_int_equal(kept_plan_create(run.model, &profile, &p, &run.plan, &err), KEPT_OK);
    assert_false(kept_plan_info(run.plan)->fits);
    assert_int_equal(kept_session_create(run.plan, device, NULL, NULL, &run.session, &err),
                     KEPT_E_BUDGET);
    assert_null(run.session);
    run_close(&run);
}

static void a_memory_of_the_whole_context(void **state)
{
    (void)state;
    static struct kept_memory_slot memory[MEMORY];
    for (int form = KEPT_ASSOC_OFF; form <= KEPT_ASSOC_PUBLISHED; form++) {
        struct kept_plan_params plain = {.context_tokens = 300, .chunk_tokens = 128};
        struct kept_plan_params p = with_memory(300, (enum kept_assoc)form, 300, 0.5f);
        struct run a = {0}, b = {0};
        open_with(&a, LLAMA, &plain);
        open_on(&b, beside, LLAMA, &p);
        assert_false(kept_plan_info(b.plan)->retains);
        assert_int_equal(kept_plan_info(a.plan)->kv_bytes, kept_plan_info(b.plan)->kv_bytes);
        while (kept_session_position(a.session) < 300) {
            uint32_t n = kept_session_position(a.session) % 2 ? 150 : 149;
            n = kept_session_position(a.session) < 290 ? n : 1;
            n = n > 300 - kept_session_position(a.session) ? 1 : n;
            run_must_eval(a.session, n);
            run_must_eval(b.session, n);
            assert_memory_equal(last_logits(&a), last_logits(&b),
                                kept_model_info(a.model)->n_vocab * sizeof(float));
        }
        assert_int_equal(counts_of(&b).evicted, 0);
        assert_int_equal(counts_of(&b).consolidated, 0);
        assert_int_equal(memory_of(&b, 0, 0, memory), 0);
        run_close(&a);
        run_close(&b);
    }
}

/* ---- streams ---- */

static uint32_t trained_context(const char *name)
{
    kept_model *model = run_model(name);
    uint32_t n = kept_model_info(model)->trained_context_tokens;
    kept_model_close(&model);
    return n;
}

/* What a plan takes is a matter of its memory, not of how much will be read. */
static void a_stream_in_constant_memory(void **state)
{
    (void)state;
    static const uint32_t times[] = {1, 3, 64};
    uint32_t trained = trained_context(LLAMA);
    struct kept_plan_info want = {0};
    for (int i = 0; i < 3; i++) {
        struct kept_plan_params p = with_memory(trained * times[i], KEPT_ASSOC_KEPT, 28, 0.7f);
        struct run run = {0};
        p.retain.positions = KEPT_POSITIONS_COMPACT;
        open_with(&run, LLAMA, &p);
        const struct kept_plan_info *info = kept_plan_info(run.plan);
        want = i == 0 ? *info : want;
        assert_true(info->retains);
        assert_int_equal(info->kv_bytes, want.kv_bytes);
        assert_int_equal(info->scorer_bytes, want.scorer_bytes);
        assert_int_equal(info->planned_bytes, want.planned_bytes);
        assert_int_equal(info->slots, want.slots);
        uint32_t end = trained * (times[i] < 3 ? times[i] : 3);
        for (uint32_t n; (n = end - kept_session_position(run.session)) > 0;) {
            run_must_eval(run.session, n < 500 ? n : 500);
            last_logits(&run);
            assert_adds_up(&run);
            assert_true(counts_of(&run).live <= info->slots + 64ull * 3 * 2);
        }
        assert_as_planned(&run);
        assert_true(end > 20 * (SAFE + 28) || i == 0);
        run_close(&run);
    }
}

static void eval_token(struct run *run, int32_t token, uint32_t n)
{
    static int32_t tokens[1024];
    struct kept_error err = {0};
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = token;
    struct kept_eval_params params = {.tokens = tokens, .n_tokens = n};
    if (kept_session_eval(run->session, &params, &err) != KEPT_OK)
        fail_msg("eval: %s", err.message);
}

/* One token over and over: all alike without their positions, so nothing is lost once there is a
 * slot to average into. With them those far apart are not, and slots are replaced. */
static void one_token_repeated(void **state)
{
    (void)state;
    static const uint32_t slots[] = {1, 16, 60};
    for (int i = 0; i < 6; i++) {
        struct kept_plan_params p = with_memory(12000, KEPT_ASSOC_KEPT, slots[i % 3], 0.9f);
        p.retain.assoc_keys = i < 3 ? KEPT_ASSOC_UNROTATED : KEPT_ASSOC_ROTATED;
        struct run run = {0};
        p.retain.positions = KEPT_POSITIONS_COMPACT;
        open_with(&run, LLAMA, &p);
        double lost = 0;
        for (uint32_t n; (n = 12000 - kept_session_position(run.session)) > 0;) {
            eval_token(&run, 77, n < 1000 ? n : 1000);
            last_logits(&run);
            double now = assert_adds_up(&run);
            if (kept_session_position(run.session) > 1000)
                assert_true(i < 3 ? now == lost : now > lost);
            lost = now;
        }
        assert_as_planned(&run);
        run_close(&run);
    }
}

/* ---- the ends of the threshold ---- */

/* Nothing is alike: what stays is what the same scorer keeps in as many slots. Keys' differences
 * rank memory as they rank anything, so there everything is equal, bit for bit; expected attention
 * ranks memory apart from the safe tokens, so there only the numbers are. */
static void nothing_is_alike(void **state)
{
    (void)state;
    static const uint32_t cuts[] = {200, 1, 1, 129, 7, 1, 64, 1};
    for (int scorer = 0; scorer <= KEPT_SCORER_BY_KEYDIFF; scorer += 2) {
        struct kept_plan_params p = with_memory(512, KEPT_ASSOC_KEPT, 64, 2), q = p;
        struct run a = {0}, b = {0};
        p.retain.mode = q.retain.mode = KEPT_RETAIN_SCORED;
        p.retain.scorer = q.retain.scorer = (enum kept_scorer)scorer;
        p.retain.budget_slots = 64;
        q.retain.budget_slots = 128;
        q.retain.assoc = KEPT_ASSOC_OFF;
        open_with(&a, LLAMA, &p);
        open_on(&b, beside, LLAMA, &q);
        for (int i = 0; i < 8; i++) {
            run_must_eval(a.session, cuts[i]);
            run_must_eval(b.session, cuts[i]);
            struct kept_slot_counts x = counts_of(&a), y = counts_of(&b);
            assert_memory_equal(&x, &y, sizeof x);
            assert_true(x.evicted > 0 && x.consolidated == 0);
            assert_true(assert_adds_up(&a) == (double)x.evicted);
            if (scorer == KEPT_SCORER_BY_KEYDIFF)
                assert_memory_equal(last_logits(&a), last_logits(&b),
                                    kept_model_info(a.model)->n_vocab * sizeof(float));
        }
        run_close(&a);
        run_close(&b);
    }
}

/* As published: what left the window last is what is there, in slots of one token. */
static void nothing_is_alike_as_published(void **state)
{
    (void)state;
    static struct kept_memory_slot memory[MEMORY];
    struct kept_plan_params p = with_memory(512, KEPT_ASSOC_PUBLISHED, 100, 2);
    struct run run = {0};
    open_with(&run, LLAMA, &p);
    run_must_eval(run.session, 458); /* the last block ended at 448 */
    for (uint32_t l = 0; l < 3; l++)
        for (uint32_t h = 0; h < 2; h++) {
            uint32_t n = memory_of(&run, l, h, memory), last = 0, before = 0;
            assert_int_equal(n, 100);
            for (uint32_t i = 0; i < n; i++) {
                assert_true(memory[i].tokens == 1);
                assert_true(memory[i].position == 448 - 32 - 1);
                last += memory[i].touched == 448;
                before += memory[i].touched == 384;
            }
            assert_int_equal(last, 64);
            assert_int_equal(before, 36);
        }
    assert_int_equal(counts_of(&run).consolidated, 0);
    assert_true(assert_adds_up(&run) == (double)counts_of(&run).evicted);
    run_close(&run);
}

/* Everything is alike: nothing is lost, whatever arrives is averaged into the slots that there
 * were, and they are as many as had nothing before them to be like. */
static void everything_is_alike(void **state)
{
    (void)state;
    static struct kept_memory_slot memory[MEMORY];
    static const struct {
        enum kept_assoc form;
        uint32_t slots, n;
    } cases[] = {
        /* the first 64 tokens hold 32 that leave: 12 with none before them, one sub-batch more */
        {KEPT_ASSOC_PUBLISHED, 64, 12}, {KEPT_ASSOC_PUBLISHED, 12, 12},
        {KEPT_ASSOC_KEPT, 64, 28}, /* over its budget from 128 on: 28 had left before */
        {KEPT_ASSOC_KEPT, 28, 28},      {KEPT_ASSOC_KEPT, 27, 12}, /* from 64 on */
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct kept_plan_params p = with_memory(512, cases[c].form, cases[c].slots, -1);
        struct run run = {0};
        open_with(&run, LLAMA, &p);
        for (int i = 0; i < 6; i++) {
            run_must_eval(run.session, i % 2 ? 1 : 200 - 30 * (uint32_t)i);
            assert_true(assert_adds_up(&run) == 0);
            assert_int_equal(counts_of(&run).evicted, counts_of(&run).consolidated);
            for (uint32_t l = 0; l < 3; l++)
                for (uint32_t h = 0; h < 2; h++) {
                    uint32_t n = memory_of(&run, l, h, memory);
                    if (n != cases[c].n)
                        fail_msg("case %zu: %u slots", c, n);
                }
        }
        last_logits(&run);
        run_close(&run);
    }
}

static void a_single_slot(void **state)
{
    (void)state;
    static struct kept_memory_slot memory[MEMORY];
    for (int c = 0; c < 12; c++) { /* 8 and on: compact positions */
        enum kept_assoc form = c < 8 && c & 4 ? KEPT_ASSOC_PUBLISHED : KEPT_ASSOC_KEPT;
        struct kept_plan_params p = with_memory(512, form, 1, c & 2 ? -1 : 0.6f);
        struct run run = {0};
        uint32_t safe = c & 1 ? 0 : SAFE, end = c < 8 ? 450 : 3000;
        p.context_tokens = c < 8 ? 512 : 3000;
        p.retain.positions = c < 8 ? KEPT_POSITIONS_ABSOLUTE : KEPT_POSITIONS_COMPACT;
        p.retain.sinks = c & 1 ? -1 : 4;
        p.retain.protect = c & 1 ? -1 : 32;
        open_with(&run, LLAMA, &p);
        while (kept_session_position(run.session) < end) {
            run_must_eval(run.session, 150);
            assert_adds_up(&run);
            assert_int_equal(memory_of(&run, 1, 1, memory), 1);
            uint32_t since = (kept_session_position(run.session) - 1) % 64 + 1;
            assert_int_equal(live_of(&run, 1, 1), safe + 1 + since);
            last_logits(&run);
        }
        run_close(&run);
    }
}

/* ---- saving, going back ---- */

static void saved_and_loaded(void **state)
{
    (void)state;
    for (int c = 0; c < 10; c++) { /* 8 and on: compact positions */
        enum kept_assoc form = c & 1 && c < 8 ? KEPT_ASSOC_PUBLISHED : KEPT_ASSOC_KEPT;
        struct kept_plan_params p = with_memory(512, form, 75, 0.6f), other;
        struct run run = {0};
        struct kept_error err = {0};
        float want[2][N_VOCAB_MOST];
        const char *model = c & 4 ? GEMMA : LLAMA;
        p.k_type = p.v_type = c & 2 ? KEPT_SLOT_Q8_0 : KEPT_SLOT_F16;
        p.retain.assoc_keys = c % 5 < 3 ? KEPT_ASSOC_ROTATED : KEPT_ASSOC_UNROTATED;
        p.context_tokens = c < 8 ? 512 : 2000;
        p.retain.positions = c < 8 ? KEPT_POSITIONS_ABSOLUTE : KEPT_POSITIONS_COMPACT;
        open_with(&run, model, &p);
        uint32_t bytes = kept_model_info(run.model)->n_vocab * (uint32_t)sizeof(float);
        run_must_eval(run.session, c < 8 ? 256 : 768);
        run_must_eval(run.session, 1); /* in the middle of a block's maintenance */
        assert_int_equal(kept_session_save(run.session, PATH, &err), KEPT_OK);
        run_must_eval(run.session, 1);
        memcpy(want[0], last_logits(&run), bytes);
        run_must_eval(run.session, 150);
        memcpy(want[1], last_logits(&run), bytes);
        struct kept_slot_counts counts = counts_of(&run), got;
        run_close(&run);
        open_with(&run, model, &p);
        run_must_eval(run.session, 200);
        if (kept_session_load(run.session, PATH, &err) != KEPT_OK)
            fail_msg("load: %s", err.message);
        assert_adds_up(&run);
        run_must_eval(run.session, 1);
        assert_memory_equal(want[0], last_logits(&run), bytes);
        run_must_eval(run.session, 150);
        assert_memory_equal(want[1], last_logits(&run), bytes);
        got = counts_of(&run);
        assert_memory_equal(&counts, &got, sizeof got);
        assert_true(got.consolidated > 0);
        run_close(&run);
        for (int i = c < 8 ? 0 : 2; i < (form == KEPT_ASSOC_KEPT ? 5 : 4);
             i++) { /* memories of another kind */
            other = p;
            other.retain.assoc_threshold += i == 0 ? 0.01f : 0;
            other.retain.assoc = i == 1   ? (enum kept_assoc)(3 - form)
                                 : i == 2 ? KEPT_ASSOC_OFF
                                          : form;
            other.retain.mode = i == 2 ? KEPT_RETAIN_SCORED : KEPT_RETAIN_FULL;
            other.retain.budget_slots = i == 2 ? SAFE + 75 : 0;
            other.retain.assoc_slots += i == 3;
            other.retain.assoc_keys =
                i == 4 ? (enum kept_assoc_keys)(1 - p.retain.assoc_keys) : p.retain.assoc_keys;
            open_with(&run, model, &other);
            run_must_eval(run.session, 3);
            assert_int_equal(kept_session_load(run.session, PATH, &err), KEPT_E_MISMATCH);
            assert_int_equal(kept_session_position(run.session), 3);
            run_close(&run);
        }
    }
    remove(PATH);
}

static void going_back(void **state)
{
    (void)state;
    static struct kept_memory_slot memory[MEMORY];
    for (int form = KEPT_ASSOC_KEPT; form <= KEPT_ASSOC_PUBLISHED; form++) {
        struct kept_plan_params p = with_memory(512, (enum kept_assoc)form, 60, 0.6f);
        struct run run = {0};
        struct kept_error err = {0};
        float want[3][N_VOCAB_MOST];
        open_with(&run, LLAMA, &p);
        uint32_t bytes = kept_model_info(run.model)->n_vocab * (uint32_t)sizeof(float);
        for (int again = 0; again < 3; again++) {
            assert_int_equal(memory_of(&run, 0, 0, memory), 0);
            for (int i = 0; i < 3; i++) {
                run_must_eval(run.session, i == 1 ? 1 : 180 + 50 * (uint32_t)i);
                if (again == 0)
                    memcpy(want[i], last_logits(&run), bytes);
                assert_memory_equal(want[i], last_logits(&run), bytes);
            }
            assert_true(memory_of(&run, 0, 0, memory) > 0);
            if (again == 1) { /* within the block */
                assert_int_equal(kept_session_rewind(run.session, 450, &err), KEPT_OK);
                run_must_eval(run.session, 11);
                assert_int_equal(kept_session_rewind(run.session, 447, &err), KEPT_E_STATE);
            }
            assert_int_equal(kept_session_rewind(run.session, 0, &err), KEPT_OK);
        }
        assert_int_equal(counts_of(&run).consolidated, 0);
        run_close(&run);
    }
}

/* Tokens held from a block's edge on leave no trace. */
static void held_tokens(void **state)
{
    (void)state;
    static struct kept_memory_slot before[MEMORY], after[MEMORY];
    for (int form = KEPT_ASSOC_KEPT; form <= KEPT_ASSOC_PUBLISHED; form++) {
        struct kept_plan_params p = with_memory(512, (enum kept_assoc)form, 60, 0.6f);
        struct run run = {0};
        struct kept_error err = {0};
        int32_t tokens[150];
        float want[N_VOCAB_MOST];
        p.retain.hold_tokens = 150;
        open_with(&run, LLAMA, &p);
        uint32_t bytes = kept_model_info(run.model)->n_vocab * (uint32_t)sizeof(float);
        for (uint32_t i = 0; i < 150; i++)
            tokens[i] = run_token(i + 7);
        struct kept_eval_params held = {.tokens = tokens, .n_tokens = 150, .hold = true};
        run_must_eval(run.session, 320);
        run_must_eval(run.session, 100);
        memcpy(want, last_logits(&run), bytes);
        assert_int_equal(kept_session_rewind(run.session, 0, &err), KEPT_OK);
        run_must_eval(run.session, 320);
        uint32_t n = 0;
        for (int again = 0; again < 3; again++) { /* the first ends the block's maintenance */
            held.n_tokens = again == 1 ? 9 : 150;
            assert_int_equal(kept_session_eval(run.session, &held, &err), KEPT_OK);
            last_logits(&run);
            assert_int_equal(kept_session_rewind(run.session, 320, &err), KEPT_OK);
            assert_adds_up(&run);
            n = again == 0 ? memory_of(&run, 2, 1, before) : n;
            assert_int_equal(memory_of(&run, 2, 1, after), n);
            assert_true(n > 0);
            assert_memory_equal(before, after, n * sizeof *before);
        }
        run_must_eval(run.session, 100);
        assert_memory_equal(want, last_logits(&run), bytes);
        run_close(&run);
    }
}

/* ---- looking at it ---- */

static void questions_that_are_refused(void **state)
{
    (void)state;
    struct kept_memory_slot slots[3] = {{-7, -7, -7}, {-7, -7, -7}, {-7, -7, -7}};
    struct kept_plan_params p = with_memory(512, KEPT_ASSOC_KEPT, 64, 0.6f);
    struct kept_error err = {0};
    struct run run = {0};
    uint32_t n = 99;
    open_with(&run, GEMMA, &p);
    uint32_t n_layers = run.plan->shape->n_layers, n_kv = run.plan->shape->layers[0].n_kv;
    kept_session *session = run.session;
    assert_int_equal(kept_session_memory(session, 0, 0, NULL, 0, &n, &err), KEPT_OK);
    assert_int_equal(n, 0); /* nothing yet */
    run_must_eval(session, 400);
    assert_int_equal(kept_session_memory(NULL, 0, 0, slots, 3, &n, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_memory(session, 0, 0, NULL, 3, &n, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_memory(session, 0, 0, slots, 3, NULL, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_memory(session, n_layers, 0, slots, 3, &n, &err),
                     KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_memory(session, 0, n_kv, slots, 3, &n, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_memory(session, UINT32_MAX, 0, slots, 3, &n, &err),
                     KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_memory(session, 0, UINT32_MAX, slots, 3, &n, NULL),
                     KEPT_E_ARGUMENT);
    for (uint32_t i = 0; i < n_layers; i++) {
        slots[0] = slots[1] = slots[2];
        assert_int_equal(kept_session_memory(session, i, 0, slots, 2, &n, &err), KEPT_OK);
        assert_true(run.plan->layers[i].budgeted ? n > 2 && slots[1].tokens >= 1 : n == 0);
        assert_true(slots[2].tokens == -7); /* past the room */
    }
    run_close(&run);
    p.retain.mode = KEPT_RETAIN_SCORED; /* without memory none */
    p.retain.budget_slots = 100;
    p.retain.assoc = KEPT_ASSOC_OFF;
    open_with(&run, GEMMA, &p);
    run_must_eval(run.session, 400);
    for (uint32_t i = 0; i < n_layers; i++) {
        assert_int_equal(kept_session_memory(run.session, i, 0, slots, 3, &n, &err), KEPT_OK);
        assert_int_equal(n, 0);
    }
    run_close(&run);
}

/* ---- decoding ---- */

/* What was evicted and what was kept are all tokens before the edge. */
static void check_head(const struct run *run, const struct kept_store *store, const uint32_t *head,
                       uint32_t since)
{
    (void)run;
    (void)store;
    (void)since;
    assert_int_equal(head[KEPT_HEAD_BASE] + head[KEPT_HEAD_EVICTED], head[KEPT_HEAD_EDGE]);
}

/* With pages that are full (no delay) and with room in them. */
static void decoding_after_a_prefill(void **state)
{
    (void)state;
    static const uint32_t slots[] = {28, 75};
    for (int c = 0; c < 16; c++) {
        enum kept_assoc form = c & 1 ? KEPT_ASSOC_PUBLISHED : KEPT_ASSOC_KEPT;
        struct kept_plan_params p = with_memory(512, form, slots[c >> 2 & 1], c & 8 ? 0.95f : 0.5f);
        struct run run = {0};
        p.k_type = p.v_type = c & 2 ? KEPT_SLOT_Q8_0 : KEPT_SLOT_F16;
        open_with(&run, LLAMA, &p);
        run_must_eval(run.session, 250);
        run_check_heads(&run, check_head);
        while (kept_session_position(run.session) < 460) {
            run_must_eval(run.session, 1);
            last_logits(&run);
            run_check_heads(&run, check_head);
            if (kept_session_position(run.session) % 13 == 0)
                assert_adds_up(&run);
        }
        assert_as_planned(&run);
        assert_true(c & 8 || counts_of(&run).consolidated > 0);
        run_close(&run);
    }
}

static int set_up(void **state)
{
    (void)state;
    device = run_device();
    beside = run_device();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kept_device_destroy(&device);
    kept_device_destroy(&beside);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_that_are_refused),
        cmocka_unit_test(a_memory_over_the_cap),
        cmocka_unit_test(a_memory_of_the_whole_context),
        cmocka_unit_test(a_stream_in_constant_memory),
        cmocka_unit_test(one_token_repeated),
        cmocka_unit_test(nothing_is_alike),
        cmocka_unit_test(nothing_is_alike_as_published),
        cmocka_unit_test(everything_is_alike),
        cmocka_unit_test(a_single_slot),
        cmocka_unit_test(saved_and_loaded),
        cmocka_unit_test(going_back),
        cmocka_unit_test(held_tokens),
        cmocka_unit_test(questions_that_are_refused),
        cmocka_unit_test(decoding_after_a_prefill),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

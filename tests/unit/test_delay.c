/* tests/unit/test_delay.c: maintenance that comes some tokens after its block while tokens are
 * decoded one by one: the same decisions, never more slots than planned, and saving, rewinding,
 * holding or evaluating many tokens in the middle of it. */
#include "base/hash.h"
#include "core_run.h"

#define LLAMA "tiny-llama-plain"
#define GEMMA "tiny-gemma3"
#define PATH  "test_delay.session"
#define EDGE  320u
#define HEADS 64

static kept_device *device;

static void open_bounded(struct run *run, const char *model, uint32_t hold)
{
    struct kept_profile profile = run_profile(device);
    struct kept_error err = {0};
    struct kept_plan_params params = {.context_tokens = 512,
                                      .chunk_tokens = 128,
                                      .retain = {.mode = KEPT_RETAIN_SCORED,
                                                 .budget_slots = 96,
                                                 .protect = 32,
                                                 .sinks = 4,
                                                 .hold_tokens = hold}};
    run->model = run_model(model);
    if (kept_plan_create(run->model, &profile, &params, &run->plan, &err) != KEPT_OK)
        fail_msg("plan: %s", err.message);
    if (kept_session_create(run->plan, device, NULL, NULL, &run->session, &err) != KEPT_OK)
        fail_msg("commit: %s", err.message);
    assert_true(run->plan->last_delay > 0 || run->plan->n_maintained == 1);
}

static void decode(struct run *run, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        run_must_eval(run->session, 1);
}

/* Positions and biases of the slots of tokens before EDGE, of every head that is budgeted. */
struct set {
    uint32_t n[HEADS];
    int32_t positions[HEADS][512];
    float biases[HEADS][512];
};

static void set_of(struct run *run, struct set *set)
{
    struct kept_error err = {0};
    uint32_t at = 0, n;
    memset(set, 0, sizeof *set);
    for (uint32_t i = 0; i < run->plan->n_maintained; i++) {
        uint32_t layer = run->plan->maintained[i];
        for (uint32_t h = 0; h < run->plan->layers[layer].store.n_kv; h++, at++) {
            assert_true(at < HEADS);
            assert_int_equal(kept_session_kept(run->session, layer, h, set->positions[at],
                                               set->biases[at], 512, &n, &err),
                             KEPT_OK);
            while (n > 0 && set->positions[at][n - 1] >= (int32_t)EDGE) {
                n--;
                set->positions[at][n] = 0;
                set->biases[at][n] = 0;
            }
            set->n[at] = n;
        }
    }
}

/* Every layer is maintained when its delay is over. */
static void check_head(const struct run *run, const struct kept_store *store, const uint32_t *head,
                       uint32_t since)
{
    (void)head;
    assert_true(since <= run->plan->retention.block + store->delay);
}

/* What goes is what had gone when all layers were maintained at once. */
static void the_same_goes(void **state)
{
    (void)state;
    static const char *const models[] = {LLAMA, GEMMA};
    static struct set want, got;
    for (int m = 0; m < 2; m++) {
        struct run at_once = {0}, delayed = {0};
        open_bounded(&at_once, models[m], 0);
        run_must_eval(at_once.session, EDGE);
        run_must_eval(at_once.session, 40);
        set_of(&at_once, &want);
        run_close(&at_once);
        open_bounded(&delayed, models[m], 0);
        run_must_eval(delayed.session, EDGE);
        for (int i = 0; i < 40; i++) {
            decode(&delayed, 1);
            run_check_heads(&delayed, check_head);
        }
        assert_int_equal(delayed.session->maintained, delayed.plan->last_delay + 1);
        set_of(&delayed, &got);
        assert_memory_equal(&want, &got, sizeof want);
        assert_true(got.n[0] > 0 && got.n[0] <= 96);
        decode(&delayed, 120); /* over two more blocks */
        run_check_heads(&delayed, check_head);
        run_close(&delayed);
    }
}

/* Several tokens, or held ones, find every layer maintained. */
static void the_rest_at_once(void **state)
{
    (void)state;
    static struct set want, got;
    struct run run = {0};
    struct kept_error err = {0};
    for (int held = 0; held <= 1; held++)
        for (uint32_t after = 0; after <= 2; after++) {
            open_bounded(&run, LLAMA, 40);
            run_must_eval(run.session, EDGE);
            decode(&run, after);
            assert_true(run.session->maintained >= after);
            if (held) {
                int32_t token = 5;
                struct kept_eval_params params = {.tokens = &token, .n_tokens = 1, .hold = true};
                assert_int_equal(kept_session_eval(run.session, &params, &err), KEPT_OK);
                assert_int_equal(kept_session_rewind(run.session, EDGE + after, &err), KEPT_OK);
            } else {
                run_must_eval(run.session, 10);
            }
            assert_int_equal(run.session->maintained, run.plan->last_delay + 1);
            run_check_heads(&run, check_head);
            set_of(&run, after == 0 && !held ? &want : &got);
            if (after > 0 || held)
                assert_memory_equal(&want, &got, sizeof want);
            run_close(&run);
        }
}

/* A session that was saved and loaded goes on as if nothing had been. */
static void saved_in_the_middle(void **state)
{
    (void)state;
    struct run run = {0};
    struct kept_error err = {0};
    float want[N_VOCAB_MOST];
    const float *got;
    open_bounded(&run, LLAMA, 0);
    size_t n_bytes = kept_model_info(run.model)->n_vocab * sizeof *want;
    for (uint32_t after = 0; after < 4; after++) {
        assert_int_equal(kept_session_rewind(run.session, 0, &err), KEPT_OK);
        run_must_eval(run.session, EDGE);
        decode(&run, after + 70);
        assert_int_equal(kept_session_logits(run.session, &got, &err), KEPT_OK);
        memcpy(want, got, n_bytes);
        assert_int_equal(kept_session_rewind(run.session, 0, &err), KEPT_OK);
        run_must_eval(run.session, EDGE);
        decode(&run, after);
        assert_int_equal(kept_session_save(run.session, PATH, &err), KEPT_OK);
        run_must_eval(run.session, 50);
        if (kept_session_load(run.session, PATH, &err) != KEPT_OK)
            fail_msg("load: %s", err.message);
        decode(&run, 70);
        assert_int_equal(kept_session_logits(run.session, &got, &err), KEPT_OK);
        assert_memory_equal(want, got, n_bytes);
    }
    run_close(&run);
    remove(PATH);
}

/* Files that say what no session can have: more maintained than there is, or too little for the
 * tokens behind the block. */
static void forged(void **state)
{
    (void)state;
    enum { MAINTAINED_AT = 52, VERSION = 3 };
    struct run run = {0};
    struct kept_error err = {0};
    open_bounded(&run, LLAMA, 0);
    run_must_eval(run.session, EDGE);
    decode(&run, 1);
    uint32_t all = run.plan->last_delay + 1;
    const uint32_t values[] = {0, all + 1, UINT32_MAX, 1};
    assert_int_equal(kept_session_save(run.session, PATH, &err), KEPT_OK);
    FILE *file = fopen(PATH, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size_t n_bytes = (size_t)ftell(file);
    unsigned char *bytes = malloc(n_bytes);
    assert_non_null(bytes);
    rewind(file);
    assert_int_equal(fread(bytes, 1, n_bytes, file), n_bytes);
    for (size_t i = 0; i < 4; i++) {
        memcpy(bytes + MAINTAINED_AT, &values[i], 4);
        uint64_t hash = kept_hash64(bytes, n_bytes - sizeof hash, VERSION);
        memcpy(bytes + n_bytes - sizeof hash, &hash, sizeof hash);
        rewind(file);
        assert_int_equal(fwrite(bytes, 1, n_bytes, file), n_bytes);
        assert_int_equal(fflush(file), 0);
        assert_int_equal(kept_session_load(run.session, PATH, &err),
                         values[i] == 1 ? KEPT_OK : KEPT_E_FORMAT);
    }
    decode(&run, 70); /* what is left was due */
    run_check_heads(&run, check_head);
    fclose(file);
    free(bytes);
    run_close(&run);
    remove(PATH);
}

static void rewound_in_the_middle(void **state)
{
    (void)state;
    static struct set want, got;
    struct run run = {0};
    struct kept_error err = {0};
    open_bounded(&run, LLAMA, 0);
    run_must_eval(run.session, EDGE);
    decode(&run, 40);
    set_of(&run, &want);
    assert_int_equal(kept_session_rewind(run.session, 0, &err), KEPT_OK);
    run_must_eval(run.session, EDGE);
    decode(&run, 2);
    assert_int_equal(kept_session_rewind(run.session, EDGE - 1, &err), KEPT_E_STATE);
    assert_int_equal(kept_session_rewind(run.session, EDGE, &err), KEPT_OK);
    run_check_heads(&run, check_head);
    decode(&run, 1);
    assert_int_equal(kept_session_rewind(run.session, EDGE, &err), KEPT_OK);
    decode(&run, 40);
    run_check_heads(&run, check_head);
    set_of(&run, &got);
    assert_memory_equal(&want, &got, sizeof want);
    run_close(&run);
}

/* Positions that are renumbered while tokens lie behind the block. */
static void compact_positions(void **state)
{
    (void)state;
    struct kept_profile profile = run_profile(device);
    struct kept_error err = {0};
    struct kept_plan_params params = {.chunk_tokens = 128,
                                      .retain = {.mode = KEPT_RETAIN_SCORED,
                                                 .budget_slots = 96,
                                                 .protect = 32,
                                                 .positions = KEPT_POSITIONS_COMPACT}};
    static struct set set;
    struct run run = {0};
    uint32_t n;
    run.model = run_model(LLAMA);
    uint32_t trained = kept_model_info(run.model)->trained_context_tokens;
    params.context_tokens = trained * 2;
    if (kept_plan_create(run.model, &profile, &params, &run.plan, &err) != KEPT_OK)
        fail_msg("plan: %s", err.message);
    if (kept_session_create(run.plan, device, NULL, NULL, &run.session, &err) != KEPT_OK)
        fail_msg("commit: %s", err.message);
    run_must_eval(run.session, trained - 70);
    assert_true(run.plan->last_delay > 0);
    while (kept_session_position(run.session) < trained * 2) {
        decode(&run, 1);
        run_check_heads(&run, check_head);
        for (uint32_t i = 0; i < run.plan->n_maintained; i++) {
            uint32_t layer = run.plan->maintained[i];
            assert_int_equal(kept_session_kept(run.session, layer, 0, set.positions[0],
                                               set.biases[0], 512, &n, &err),
                             KEPT_OK);
            assert_true(set.positions[0][n - 1] < (int32_t)trained);
            for (uint32_t s = 1; s < n; s++)
                assert_true(set.positions[0][s] > set.positions[0][s - 1]);
        }
    }
    run_close(&run);
}

/* Budgets that a sidecar may give: room for the delay in the same pages, hardly a slot lost. */
static void room_in_the_pages(void **state)
{
    (void)state;
    enum { LAYERS = 30, N = LAYERS * 3, MEAN = 512, MOST = 2048 };
    static struct kept_layer layers[LAYERS];
    struct kept_shape shape = {.n_layers = LAYERS, .layers = layers};
    struct kept_plan plan = {.shape = &shape};
    plan.retention = (struct kept_retention){.sinks = 4, .window = 128, .block = 64};
    plan.params.context_tokens = 2048;
    for (uint32_t round = 0; round < 50; round++) {
        uint32_t before[N], after[N], least = UINT32_MAX;
        int64_t sum = 0, moved = 0;
        for (uint32_t i = 0; i < N; i++)
            before[i] = after[i] = i % 7 == 0 ? 132 : 132 + (uint32_t)run_token(i * 31 + round) * 4;
        kept_plan_make_room(&plan, after, N, MOST);
        for (uint32_t i = 0; i < N; i++) {
            uint32_t slack = kept_retain_slack(&plan.retention, after[i], 2048);
            assert_int_equal(kept_retain_extent(&plan.retention, after[i], 2048),
                             kept_retain_extent(&plan.retention, before[i], 2048));
            assert_true(after[i] >= 132 && after[i] <= before[i] + 63);
            least = slack < least ? slack : least;
            sum += before[i];
            moved += (int64_t)after[i] - before[i];
        }
        assert_true(moved <= 0 && -moved * 128 <= sum);
        assert_true(least > 0);
    }
    uint32_t whole[N];
    for (uint32_t i = 0; i < N; i++) /* whole pages: room would cost too much */
        whole[i] = i == 0 ? 128 : 192;
    kept_plan_make_room(&plan, whole, N, MOST);
    for (uint32_t i = 1; i < N; i++)
        assert_true(whole[i] >= 190);
    assert_int_equal(whole[0], 128); /* below what is never evicted: left alone */
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
        cmocka_unit_test(the_same_goes),
        cmocka_unit_test(the_rest_at_once),
        cmocka_unit_test(saved_in_the_middle),
        cmocka_unit_test(rewound_in_the_middle),
        cmocka_unit_test(forged),
        cmocka_unit_test(compact_positions),
        cmocka_unit_test(room_in_the_pages),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* tests/unit/test_not_numbers.c: keys and values in associative memory that are no numbers, in the
 * middle of a run, with a tiny model on the cpu backend: what has nothing to do with them stays as
 * it is, logits are numbers or the choice says that they are not, and a reset leaves no trace. */
#include "core_run.h"

#include "kernel/ref/ref_slots.h"

#define LLAMA    "tiny-llama-plain"
#define N_LAYERS 3u
#define N_KV     2u
#define SLOTS    60u /* of memory, behind 4 first tokens and before 32 last ones */
#define BEFORE   200u

static kept_device *device, *beside; /* one carries one session */

static void open_on(struct run *run, kept_device *on, enum kept_assoc form)
{
    struct kept_profile profile = run_profile(on);
    struct kept_error err = {0};
    struct kept_plan_params params = {.context_tokens = 512,
                                      .chunk_tokens = 128,
                                      .retain = {.protect = 32,
                                                 .sinks = 4,
                                                 .assoc = form,
                                                 .assoc_slots = SLOTS,
                                                 .assoc_threshold = 0.6f}};
    run->model = run_model(LLAMA);
    if (kept_plan_create(run->model, &profile, &params, &run->plan, &err) != KEPT_OK)
        fail_msg("plan: %s", err.message);
    if (kept_session_create(run->plan, on, NULL, NULL, &run->session, &err) != KEPT_OK)
        fail_msg("commit: %s", err.message);
}

/* All elements of a stored key or value (f16) become NaN. */
static void poison(struct run *run, uint32_t layer, uint32_t head, uint32_t slot, bool key)
{
    const struct kept_store *store = &run->plan->layers[layer].store;
    const struct kept_arg *arg = key ? &store->k : &store->v;
    struct ref_slots slots = {.type = KEPT_FMT_F16,
                              .order = key ? run->plan->profile.word_order : REF_ROWS,
                              .d = store->d};
    struct kept_error err = {0};
    uint32_t nan = 0x7E007E00u;
    for (uint32_t i = 0; i < store->d / 2; i++) {
        uint64_t word = ref_slot_word(&slots, (uint64_t)store->heads[head].first + slot, i);
        assert_int_equal(kept_session_write(run->session, arg->region, arg->offset_bytes + 4 * word,
                                            &nan, sizeof nan, &err),
                         KEPT_OK);
    }
}

/* Whether the logits are numbers, all of them or none; the choice says so. */
static bool has_numbers(struct run *run)
{
    struct kept_error err = {0};
    struct kept_sampler_params greedy = {0};
    kept_sampler *sampler = NULL;
    const float *logits = NULL;
    uint32_t n_vocab = kept_model_info(run->model)->n_vocab, n = 0;
    int32_t token = -1;
    assert_int_equal(kept_session_logits(run->session, &logits, &err), KEPT_OK);
    for (uint32_t i = 0; i < n_vocab; i++)
        n += isfinite(logits[i]);
    assert_true(n == 0 || n == n_vocab);
    assert_int_equal(kept_sampler_create(&greedy, n_vocab, &sampler, &err), KEPT_OK);
    kept_status status = kept_session_sample(run->session, sampler, &token, &err);
    kept_sampler_destroy(&sampler);
    assert_int_equal(status, n ? KEPT_OK : KEPT_E_ARGUMENT);
    if (n == 0 && !strstr(err.message, "is a number"))
        fail_msg("'%s' does not say what is wrong", err.message);
    assert_true(n == 0 || (token >= 0 && (uint32_t)token < n_vocab));
    return n != 0;
}

/* What a head keeps: every count, position and age is within bounds, and no token is there twice.
 */
static uint32_t look(struct run *run, uint32_t layer, uint32_t head, struct kept_memory_slot *out)
{
    struct kept_error err = {0};
    uint32_t n = 0, live = 0, position = kept_session_position(run->session);
    assert_int_equal(kept_session_memory(run->session, layer, head, out, SLOTS, &n, &err), KEPT_OK);
    assert_int_equal(kept_session_kept(run->session, layer, head, NULL, NULL, 0, &live, &err),
                     KEPT_OK);
    assert_true(n <= SLOTS && n <= live);
    double tokens = live - n;
    for (uint32_t i = 0; i < n; i++) {
        assert_true(out[i].tokens >= 1 && out[i].tokens <= (float)position);
        assert_true(out[i].position >= -0.5f && out[i].position < (float)position);
        assert_true(out[i].touched > 0 && out[i].touched <= (int32_t)position);
        tokens += (double)out[i].tokens;
    }
    assert_true(tokens <= position);
    return n;
}

/* Heads that the damaged one cannot reach: those of layers below, the other one of its layer. */
static void compare_others(struct run *damaged, struct run *sound, uint32_t layer, uint32_t head)
{
    static struct kept_memory_slot a[SLOTS], b[SLOTS];
    for (uint32_t l = 0; l < N_LAYERS; l++)
        for (uint32_t h = 0; h < N_KV; h++) {
            uint32_t n = look(damaged, l, h, a), n_sound = look(sound, l, h, b);
            if (l > layer || (l == layer && h == head))
                continue;
            assert_int_equal(n, n_sound);
            assert_memory_equal(a, b, n * sizeof *a);
        }
}

/* The last layer loses a key that is no number when slots are chosen next. Of a lower layer, what
 * the layers above have read since is no number either; values that are none are handed on. */
static void in_the_middle_of_a_run(void **state)
{
    (void)state;
    for (int c = 0; c < 16; c++) {
        enum kept_assoc form = c & 1 ? KEPT_ASSOC_PUBLISHED : KEPT_ASSOC_KEPT;
        uint32_t layer = c & 2 ? 0 : N_LAYERS - 1, slot = c & 4 ? 80 : 20; /* the window, memory */
        bool key = (c & 8) == 0;
        struct run damaged = {0}, sound = {0};
        struct kept_error err = {0};
        const float *logits = NULL;
        float want[N_VOCAB_MOST];
        open_on(&damaged, device, form);
        open_on(&sound, beside, form);
        size_t bytes = kept_model_info(sound.model)->n_vocab * sizeof(float);
        run_must_eval(damaged.session, BEFORE);
        run_must_eval(sound.session, BEFORE);
        assert_int_equal(kept_session_logits(sound.session, &logits, &err), KEPT_OK);
        memcpy(want, logits, bytes);
        poison(&damaged, layer, 1, slot, key);
        for (int i = 0; i < 7; i++) {
            run_must_eval(damaged.session, i % 3 ? 64 : 1);
            run_must_eval(sound.session, i % 3 ? 64 : 1);
            compare_others(&damaged, &sound, layer, 1);
            bool numbers = has_numbers(&damaged);
            if (i == 0 || layer == 0)
                assert_false(numbers);
            assert_true(has_numbers(&sound));
        }
        if (key && layer != 0)
            assert_true(has_numbers(&damaged));
        assert_int_equal(kept_session_rewind(damaged.session, 0, &err), KEPT_OK);
        run_must_eval(damaged.session, BEFORE);
        assert_int_equal(kept_session_logits(damaged.session, &logits, &err), KEPT_OK);
        assert_memory_equal(want, logits, bytes);
        run_close(&damaged);
        run_close(&sound);
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
        cmocka_unit_test(in_the_middle_of_a_run),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

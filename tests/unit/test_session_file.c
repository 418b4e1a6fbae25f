/* tests/unit/test_session_file.c: saving and loading between sessions of different sizes, and files
 * that are damaged, too short, of another model, or not there: each is refused and the session
 * stays as it was. */
#include "core_run.h"

#include "base/alloc.h"
#include "base/hash.h"

#define LLAMA       "tiny-llama-legacy"
#define GEMMA       "tiny-gemma3"
#define PATH        "test_session_file.session"
#define OTHER       "test_session_file.damaged"
#define REACH       15u
#define VERSION     3u
#define VERSION_AT  8u
#define POSITION_AT 24u
#define RESTORED_AT 28u

static kept_device *device;

static void must_save(struct run *run)
{
    struct kept_error err = {0};
    if (kept_session_save(run->session, PATH, &err) != KEPT_OK)
        fail_msg("save: %s", err.message);
}

static void must_load(struct run *run, uint32_t position)
{
    struct kept_error err = {0};
    if (kept_session_load(run->session, PATH, &err) != KEPT_OK)
        fail_msg("load: %s", err.message);
    assert_int_equal(kept_session_position(run->session), position);
    for (uint32_t i = 0; i < position; i++)
        assert_int_equal(kept_session_tokens(run->session)[i], run_token(i));
    assert_int_equal(kept_session_logits(run->session, &(const float *){NULL}, NULL), KEPT_E_STATE);
}

/* Goes on token by token, at most n of them. */
static void assert_goes_on(struct run *run, const struct run_rows *want, uint32_t n)
{
    uint32_t context = kept_plan_info(run->plan)->context_tokens;
    for (uint32_t i = 0; i < n && kept_session_position(run->session) < context &&
                         kept_session_position(run->session) < want->n;
         i++) {
        run_must_eval(run->session, 1);
        run_assert_row(run, want, "after load");
    }
}

/* ---- between sizes ---- */

static void between_sessions_of_different_sizes(void **state)
{
    (void)state;
    static const char *const models[] = {"tiny-llama-plain", LLAMA, "tiny-llama-k", GEMMA};
    /* contexts with rings in gemma3 (over 128) and without */
    static const uint32_t sizes[][2] = {{400, 64}, {100, 7}, {128, 128}, {129, 1}, {300, 300}};
    static const uint32_t positions[] = {1, 15, 16, 17, 63, 64, 65, 99};
    for (size_t m = 0; m < 4; m++) {
        struct run run = {0};
        run_open(&run, device, models[m], 400, 64);
        struct run_rows want = run_rows_of(&run, 200);
        run_close(&run);
        for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
            size_t from = p % 5;
            run_open(&run, device, models[m], sizes[from][0], sizes[from][1]);
            run_must_eval(run.session, positions[p]);
            must_save(&run);
            run_close(&run);
            size_t to = (p * 3 + 1 + m) % 5;
            run_open(&run, device, models[m], sizes[to][0], sizes[to][1]);
            run_must_eval(run.session, 30); /* what was there is replaced */
            must_load(&run, positions[p]);
            assert_goes_on(&run, &want, 40);
            run_close(&run);
        }
        free(want.rows);
    }
    remove(PATH);
}

static void limits_of_the_device_do_not_matter(void **state)
{
    (void)state;
    struct run run = {0};
    struct kept_profile profile = run_profile(device);
    struct kept_plan_params params = {.context_tokens = 128, .chunk_tokens = 8};
    run_open(&run, device, "tiny-llama-k", 256, 64);
    struct run_rows want = run_rows_of(&run, 120);
    assert_int_equal(kept_session_rewind(run.session, 90, NULL), KEPT_OK);
    must_save(&run);
    uint64_t hash = run.session->model_hash;
    run_close(&run);
    profile.max_binding_bytes = 40960; /* matrices are cut elsewhere: the same hash of the model */
    profile.max_buffer_bytes = 65536;
    run_open_tuned(&run, device, "tiny-llama-k", &profile, 0, &params);
    assert_int_equal(run.session->model_hash, hash);
    must_load(&run, 90);
    assert_goes_on(&run, &want, 30);
    free(want.rows);
    run_close(&run);
    remove(PATH);
}

static void an_empty_session(void **state)
{
    (void)state;
    struct run run = {0};
    run_open(&run, device, GEMMA, 300, 64);
    must_save(&run);
    struct run_rows want = run_rows_of(&run, 100);
    must_load(&run, 0);
    assert_goes_on(&run, &want, 100);
    free(want.rows);
    run_close(&run);
    remove(PATH);
}

/* A file has the windows of up to a block before its end, and a loaded session knows how far. */
static void rewinding_after_load(void **state)
{
    (void)state;
    static const uint32_t contexts[] = {400, 128}; /* with rings, without */
    struct run run = {0};
    run_open(&run, device, GEMMA, 400, 64);
    struct run_rows want = run_rows_of(&run, 300);
    static const uint32_t positions[] = {10, 80, 120, 128, 250};
    for (size_t i = 0; i < 5; i++)
        for (size_t to = 0; to < 2; to++) {
            uint32_t end = positions[i];
            if (end > contexts[to])
                continue;
            run_close(&run);
            run_open(&run, device, GEMMA, 400, 64);
            run_must_eval(run.session, end);
            must_save(&run);
            run_close(&run);
            run_open(&run, device, GEMMA, contexts[to], 64);
            must_load(&run, end);
            /* Saved again from here, and from lower and lower: the promise stays true. */
            uint32_t lowest = end > 64 ? end - 64 : 0;
            lowest = lowest > REACH ? lowest : 0;
            for (uint32_t position = end; position-- > 0;) {
                kept_status status = kept_session_rewind(run.session, position, NULL);
                if (position < lowest && position != 0) {
                    assert_int_equal(status, KEPT_E_STATE);
                    break;
                }
                assert_int_equal(status, KEPT_OK);
                if (position > 0 && position % 29 == 0) {
                    must_save(&run);
                    must_load(&run, position);
                }
                run_must_eval(run.session, 1);
                run_assert_row(&run, &want, "rewound after load");
            }
            assert_int_equal(kept_session_rewind(run.session, 0, NULL), KEPT_OK);
            assert_goes_on(&run, &want, 20);
        }
    free(want.rows);
    run_close(&run);
    remove(PATH);
}

/* ---- files that are refused ---- */

static unsigned char *read_file(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    unsigned char *bytes = malloc(1 << 20);
    assert_non_null(bytes);
    *n_bytes = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

static void write_file(const char *path, const unsigned char *bytes, size_t n_bytes)
{
    remove(path); /* a file that is truncated and written again is flushed by some file systems */
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n_bytes, file), n_bytes);
    fclose(file);
}

/* The checksum made right again: what is wrong is the content. */
static void seal(unsigned char *bytes, size_t n_bytes)
{
    uint64_t hash = kept_hash64(bytes, n_bytes - sizeof hash, VERSION);
    memcpy(bytes + n_bytes - sizeof hash, &hash, sizeof hash);
}

static kept_status load_other(struct run *run, const char *what, size_t at)
{
    struct kept_error err = {0};
    int64_t live = kept_alloc_live();
    uint32_t position = kept_session_position(run->session);
    kept_status status = kept_session_load(run->session, OTHER, &err);
    if (status == KEPT_OK)
        fail_msg("%s at %zu is accepted", what, at);
    if (!strstr(err.message, OTHER))
        fail_msg("%s at %zu: '%s' does not name the file", what, at, err.message);
    assert_int_equal(kept_session_position(run->session), position);
    assert_int_equal(kept_alloc_live(), live);
    return status;
}

struct damaged {
    struct run run;
    struct run_rows want;
    unsigned char *bytes;
    size_t n_bytes;
};

static void open_damaged(struct damaged *it, const char *model, uint32_t position)
{
    *it = (struct damaged){0};
    run_open(&it->run, device, model, 200, 64);
    it->want = run_rows_of(&it->run, 200);
    assert_int_equal(kept_session_rewind(it->run.session, 0, NULL), KEPT_OK);
    run_must_eval(it->run.session, position);
    must_save(&it->run);
    it->bytes = read_file(PATH, &it->n_bytes);
}

static void finish_damaged(struct damaged *it)
{
    free(it->bytes);
    free(it->want.rows);
    run_close(&it->run);
    remove(PATH);
    remove(OTHER);
}

static void truncated_everywhere(void **state)
{
    (void)state;
    static const char *const models[] = {LLAMA, GEMMA};
    for (size_t m = 0; m < 2; m++) {
        struct damaged it;
        open_damaged(&it, models[m], 60);
        for (size_t n = 0; n < it.n_bytes; n += n < 256 ? 8 : 64) {
            write_file(OTHER, it.bytes, n);
            assert_int_equal(load_other(&it.run, "a truncation", n), KEPT_E_FORMAT);
        }
        write_file(OTHER, it.bytes, it.n_bytes - 1);
        assert_int_equal(load_other(&it.run, "a truncation", it.n_bytes - 1), KEPT_E_FORMAT);
        assert_goes_on(&it.run, &it.want, 20);
        finish_damaged(&it);
    }
}

static void flipped_bits(void **state)
{
    (void)state;
    struct damaged it;
    open_damaged(&it, GEMMA, 60);
    for (size_t at = 0; at < it.n_bytes; at += at < 48 ? 1 : 97) {
        it.bytes[at] ^= (unsigned char)(1u << at % 8);
        write_file(OTHER, it.bytes, it.n_bytes);
        load_other(&it.run, "a flipped bit", at);
        it.bytes[at] ^= (unsigned char)(1u << at % 8);
    }
    assert_goes_on(&it.run, &it.want, 20);
    finish_damaged(&it);
}

static void set_u32(unsigned char *bytes, size_t at, uint32_t value)
{
    memcpy(bytes + at, &value, sizeof value);
}

/* Headers and tokens that someone made, with a checksum that is right. */
static void forged(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint32_t value;
        kept_status want;
    } cases[] = {
        {0, 0, KEPT_E_FORMAT},
        {VERSION_AT, 0, KEPT_E_UNSUPPORTED},
        {VERSION_AT, VERSION + 1, KEPT_E_UNSUPPORTED},
        {12, 1000, KEPT_E_MISMATCH}, /* layers */
        {16, 1, KEPT_E_MISMATCH},    /* hash of the model */
        {POSITION_AT, 61, KEPT_E_FORMAT},
        {POSITION_AT, 201, KEPT_E_CONTEXT_FULL},
        {POSITION_AT, UINT32_MAX, KEPT_E_CONTEXT_FULL},
        {POSITION_AT, 0, KEPT_E_FORMAT},
        {RESTORED_AT, 61, KEPT_E_FORMAT},
        {RESTORED_AT, 59, KEPT_E_FORMAT}, /* fewer slots than the file has */
        {RESTORED_AT, UINT32_MAX, KEPT_E_FORMAT},
        {32, 77, KEPT_E_MISMATCH},              /* KV heads */
        {36, 64, KEPT_E_MISMATCH},              /* elements of a head */
        {40, 1, KEPT_E_MISMATCH},               /* slots of another kind */
        {48, 61, KEPT_E_FORMAT},                /* maintained past the end */
        {56, UINT32_MAX, KEPT_E_FORMAT},        /* token 0 */
        {56 + 59 * 4, 1u << 20, KEPT_E_FORMAT}, /* the last token */
    };
    struct damaged it;
    open_damaged(&it, GEMMA, 60);
    unsigned char *bytes = malloc(it.n_bytes);
    assert_non_null(bytes);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memcpy(bytes, it.bytes, it.n_bytes);
        set_u32(bytes, cases[i].at, cases[i].value);
        seal(bytes, it.n_bytes);
        write_file(OTHER, bytes, it.n_bytes);
        kept_status status = load_other(&it.run, "a forged value", cases[i].at);
        if (status != cases[i].want)
            fail_msg("case %zu: %s", i, kept_status_name(status));
    }
    free(bytes);
    assert_goes_on(&it.run, &it.want, 20);
    finish_damaged(&it);
}

static void other_files(void **state)
{
    (void)state;
    struct damaged it;
    struct kept_error err = {0};
    open_damaged(&it, LLAMA, 60);
    free(it.bytes);
    it.bytes = NULL;
    kept_session *session = it.run.session;
    assert_int_equal(kept_session_load(session, "no-such-file.session", &err), KEPT_E_IO);
    assert_int_equal(kept_session_load(session, ".", &err), KEPT_E_IO);
    assert_int_equal(kept_session_load(session, NULL, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_load(NULL, PATH, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_save(session, "no-such-folder/x.session", &err), KEPT_E_IO);
    assert_non_null(strstr(err.message, "no-such-folder"));
    assert_int_equal(kept_session_save(session, ".", &err), KEPT_E_IO);
    assert_int_equal(kept_session_save(session, "", &err), KEPT_E_IO);
    assert_int_equal(kept_session_save(session, NULL, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_session_position(session), 60);
    assert_goes_on(&it.run, &it.want, 20);
    run_close(&it.run);
    run_open(&it.run, device, "tiny-llama-plain", 200, 64); /* another model's file */
    assert_int_equal(kept_session_load(it.run.session, PATH, &err), KEPT_E_MISMATCH);
    run_close(&it.run);
    run_open(&it.run, device, LLAMA, 59, 64); /* a context that is too short */
    run_must_eval(it.run.session, 20);
    assert_int_equal(kept_session_load(it.run.session, PATH, &err), KEPT_E_CONTEXT_FULL);
    assert_int_equal(kept_session_position(it.run.session), 20);
    assert_goes_on(&it.run, &it.want, 20);
    run_close(&it.run);
    run_open(&it.run, device, LLAMA, 60, 64); /* one that is just long enough */
    must_load(&it.run, 60);
    finish_damaged(&it);
}

static void without_host_memory(void **state)
{
    (void)state;
    struct damaged it;
    open_damaged(&it, GEMMA, 60);
    kept_status status = KEPT_E_HOST_MEMORY;
    for (uint64_t n = 1; status != KEPT_OK && n < 100; n++) {
        int64_t live = kept_alloc_live();
        kept_alloc_fail_at(n);
        status = kept_session_save(it.run.session, PATH, NULL);
        kept_alloc_fail_at(0);
        assert_true(status == KEPT_OK || status == KEPT_E_HOST_MEMORY);
        assert_int_equal(kept_alloc_live(), live);
        assert_int_equal(kept_session_position(it.run.session), 60);
    }
    assert_int_equal(status, KEPT_OK);
    status = KEPT_E_HOST_MEMORY;
    for (uint64_t n = 1; status != KEPT_OK && n < 100; n++) {
        int64_t live = kept_alloc_live();
        kept_alloc_fail_at(n);
        status = kept_session_load(it.run.session, PATH, NULL);
        kept_alloc_fail_at(0);
        assert_true(status == KEPT_OK || status == KEPT_E_HOST_MEMORY);
        assert_int_equal(kept_alloc_live(), live);
        uint32_t position = kept_session_position(it.run.session);
        assert_true(position == 60 || (position == 0 && status != KEPT_OK));
    }
    assert_int_equal(status, KEPT_OK);
    assert_goes_on(&it.run, &it.want, 20);
    finish_damaged(&it);
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
        cmocka_unit_test(between_sessions_of_different_sizes),
        cmocka_unit_test(limits_of_the_device_do_not_matter),
        cmocka_unit_test(an_empty_session),
        cmocka_unit_test(rewinding_after_load),
        cmocka_unit_test(truncated_everywhere),
        cmocka_unit_test(flipped_bits),
        cmocka_unit_test(forged),
        cmocka_unit_test(other_files),
        cmocka_unit_test(without_host_memory),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}

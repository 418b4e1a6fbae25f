/* tests/kernels/test_check.c: the checker must be able to fail.
 *
 * A cpu device runs through an ops table of this test that damages memory after each call in one
 * chosen way. Every case that was damaged must be reported, and none without damage.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "tune/check.h"

enum damage {
    DAMAGE_NONE,
    DAMAGE_OUTPUT, /* the largest word that the call wrote gets another mantissa bit */
    DAMAGE_BEFORE, /* the word before an output */
    DAMAGE_AFTER,
    DAMAGE_INPUT,
    DAMAGE_DEAD /* a word of the output that the call did not write */
};

static struct {
    const struct kept_backend_ops *real;
    struct kept_backend_ops ops;
    enum damage damage;
    const struct kept_kernel_row *row;
    struct kept_bind binds[KEPT_MAX_BINDS];
    uint32_t *before; /* of the output that is damaged */
    uint32_t n_damaged;
} t;

static uint32_t *words_of(const struct kept_bind *bind)
{
    return (uint32_t *)(void *)((uint8_t *)bind->buf->host + bind->offset_bytes);
}

static uint32_t output_of(const struct kept_kernel_row *row)
{
    for (uint32_t i = row->n_binds; i-- > 0;)
        if (row->access[i] & KEPT_ACCESS_W)
            return i;
    return 0;
}

static kept_status damaged_call(struct kept_recording *recording, struct kept_kernel *kernel,
                                const struct kept_bind *binds, const void *params,
                                const uint32_t grid[3], struct kept_error *err)
{
    t.row = kernel->row;
    memcpy(t.binds, binds, kernel->row->n_binds * sizeof *binds);
    return t.real->call(recording, kernel, binds, params, grid, err);
}

static kept_status damaged_submit(struct kept_device *device, struct kept_recording *const *list,
                                  uint32_t n, struct kept_error *err)
{
    const struct kept_bind *out = &t.binds[output_of(t.row)];
    t.before = kept_alloc(out->n_bytes);
    assert_non_null(t.before);
    memcpy(t.before, words_of(out), out->n_bytes);
    return t.real->submit(device, list, n, err);
}

/* Rows that write pairs of a likeness and a slot, of which the best alone counts. */
static bool writes_likenesses(void)
{
    return t.row->id == KEPT_KERNEL_SLOT_NEAREST || t.row->id == KEPT_KERNEL_ASSOC_MATCH;
}

/* The written word of the largest magnitude (written), or any that was left alone. */
static uint32_t *find_word(const struct kept_bind *out, bool written)
{
    uint32_t *found = NULL, *words = words_of(out);
    for (uint64_t i = 0; i < out->n_bytes / 4; i++) {
        if ((words[i] != t.before[i]) != written || (writes_likenesses() && i % 2 == 1) ||
            (words[i] & 0x7F800000) == 0x7F800000)
            continue;
        if (found == NULL || (words[i] & INT32_MAX) > (*found & INT32_MAX))
            found = &words[i];
    }
    return found;
}

static uint32_t *word_to_damage(void)
{
    const struct kept_bind *out = &t.binds[output_of(t.row)];
    switch (t.damage) {
    case DAMAGE_OUTPUT:
        return find_word(out, true);
    case DAMAGE_BEFORE:
        return words_of(out) - 1;
    case DAMAGE_AFTER:
        return words_of(out) + out->n_bytes / 4;
    case DAMAGE_INPUT:
        return words_of(&t.binds[t.row->n_binds - 1]); /* the step buffer */
    case DAMAGE_DEAD:
        return find_word(out, true) == NULL ? words_of(out) : NULL;
    default:
        return NULL;
    }
}

static kept_status damaged_wait(struct kept_device *device, uint64_t timeout_ns,
                                struct kept_error *err)
{
    kept_status status = t.real->wait(device, timeout_ns, err);
    if (t.before == NULL)
        return status;
    uint32_t *word = word_to_damage();
    if (word != NULL && writes_likenesses() && t.damage == DAMAGE_OUTPUT) {
        *word = 0x7E000000u; /* better than all */
        t.n_damaged++;
    } else if (word != NULL) {
        *word ^= (*word & INT32_MAX) == 0 ? 0x20000000u : 0x00400040u; /* not lost as a denormal */
        t.n_damaged++;
    }
    kept_free(t.before);
    t.before = NULL;
    return status;
}

static struct kept_check_summary run_damaged(enum damage damage, const char *pattern)
{
    struct kept_device *device = NULL;
    struct kept_check_summary summary;
    const struct kept_device_params device_params = {.n_threads = 1};
    const struct kept_check_params params = {
        .seed = 5,
        .pattern = pattern,
        .n_rounds = 1,
        .n_cases = 6,
        /* damage among slots that may be anything is nobody's to find */
        .sound_moves = damage != DAMAGE_NONE};
    struct kept_error err = {0};
    assert_int_equal(kept_device_open(&kept_backend_cpu, 0, &device_params, &device, &err),
                     KEPT_OK);
    memset(&t, 0, sizeof t);
    t.damage = damage;
    t.real = device->ops;
    t.ops = *device->ops;
    t.ops.call = damaged_call;
    t.ops.submit = damaged_submit;
    t.ops.wait = damaged_wait;
    device->ops = &t.ops;
    kept_status status = kept_check_run(device, &params, NULL, NULL, &summary, &err);
    device->ops = t.real;
    kept_device_close(&device);
    if (status != KEPT_OK)
        fail_msg("%s", err.message);
    return summary;
}

static void expect_all_found(enum damage damage)
{
    for (uint32_t i = 0; i < KEPT_KERNEL_COUNT; i++) {
        const char *stem = kept_kernel_row((enum kept_kernel_id)i)->stem;
        struct kept_check_summary summary = run_damaged(damage, stem);
        if (summary.n_failed != t.n_damaged || (damage != DAMAGE_DEAD && t.n_damaged == 0))
            fail_msg("%s: %u cases damaged, %u of %u reported", stem, t.n_damaged, summary.n_failed,
                     summary.n_cases);
    }
}

static void test_undamaged(void **state)
{
    (void)state;
    struct kept_check_summary summary = run_damaged(DAMAGE_NONE, NULL);
    assert_int_equal(summary.n_failed, 0);
    assert_true(summary.n_cases > 100);
}

static void test_wrong_output(void **state)
{
    (void)state;
    expect_all_found(DAMAGE_OUTPUT);
}

static void test_before(void **state)
{
    (void)state;
    expect_all_found(DAMAGE_BEFORE);
}

static void test_after(void **state)
{
    (void)state;
    expect_all_found(DAMAGE_AFTER);
}

static void test_input(void **state)
{
    (void)state;
    expect_all_found(DAMAGE_INPUT);
}

static void test_dead_rows(void **state)
{
    (void)state;
    expect_all_found(DAMAGE_DEAD);
}

static bool keep_text(void *user, const struct kept_check_result *result)
{
    if (result->n_failed != 0)
        strncat(user, result->failure, 599);
    return result->n_failed == 0; /* cancel at the first failure */
}

/* The message names what is needed to see the failure again, and cancelling works. */
static void test_report(void **state)
{
    (void)state;
    struct kept_device *device = NULL;
    const struct kept_device_params device_params = {.n_threads = 1};
    const struct kept_check_params params = {
        .seed = 9, .pattern = "glu", .n_rounds = 1, .n_cases = 6};
    struct kept_error err = {0};
    struct kept_check_summary summary;
    char text[600] = "";
    assert_int_equal(kept_device_open(&kept_backend_cpu, 0, &device_params, &device, &err),
                     KEPT_OK);
    memset(&t, 0, sizeof t);
    t.damage = DAMAGE_OUTPUT;
    t.real = device->ops;
    t.ops = *device->ops;
    t.ops.call = damaged_call;
    t.ops.submit = damaged_submit;
    t.ops.wait = damaged_wait;
    device->ops = &t.ops;
    kept_status status = kept_check_run(device, &params, keep_text, text, &summary, &err);
    device->ops = t.real;
    kept_device_close(&device);
    assert_int_equal(status, KEPT_E_CANCELLED);
    const char *const parts[] = {"glu",  "WG",    "rows",   "out", "got",
                                 "want", "bound", "seed 9", "case"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        assert_non_null(strstr(text, parts[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_undamaged), cmocka_unit_test(test_wrong_output),
        cmocka_unit_test(test_before),    cmocka_unit_test(test_after),
        cmocka_unit_test(test_input),     cmocka_unit_test(test_dead_rows),
        cmocka_unit_test(test_report),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

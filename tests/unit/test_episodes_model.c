/* tests/unit/test_episodes_model.c: 10 000 random writes, updates, forgets and reads of the file of
 * episodic memory, against an array: the same answers always, the same contents now and then, the
 * store opened again now and then, and no forgotten byte at the end. In memory: no disk is waited
 * for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fault/cut_vfs.h"
#include "unit/episodes_make.h"

#define NAME "model.facts"
enum { N_NUMBERS = 90, N_TURNS = 10000 };

/* Which version of each number is stored; 0: none. */
struct model {
    uint32_t versions[N_NUMBERS];
};

static struct kept_episodes *store;
static uint64_t seed = 12;

static void ok(kept_status status, const struct kept_error *err)
{
    if (status != KEPT_OK)
        fail_msg("%s", err->message);
}

static void open_store(void)
{
    struct kept_episodes_options options = {
        .create = true, .bind = &made_bind, .stats = made_stats()};
    struct kept_error err = {0};
    ok(kept_episodes_open(NAME, &options, &store, &err), &err);
}

static void put(struct model *model, uint32_t number, uint32_t version)
{
    struct kept_error err = {0};
    struct made made;
    uint32_t n, expected = 0;
    ok(kept_episodes_put(store, make(&made, number, version), NULL, &n, &err), &err);
    for (uint32_t i = 0; i < N_NUMBERS && number % 3 == 0; i++)
        if (i != number && i % 3 == 0 && i % 7 == number % 7 && model->versions[i] != 0) {
            model->versions[i] = 0;
            expected++;
        }
    assert_int_equal(n, expected);
    model->versions[number] = version;
}

static void forget(struct model *model, uint32_t number)
{
    struct kept_error err = {0};
    struct made made;
    struct kept_episode *e = make(&made, number, model->versions[number]);
    enum kept_episodes_key key = made_random(&seed) % 3;
    const char *value = key == KEPT_EPISODES_BY_ID    ? e->id
                        : key == KEPT_EPISODES_BY_TAG ? e->tag
                                                      : e->text;
    uint64_t n, expected = 0;
    ok(kept_episodes_forget(store, key, &value, 1, &n, &err), &err);
    for (uint32_t i = 0; i < N_NUMBERS; i++) {
        bool same_tag = number % 3 == 0 && i % 3 == 0 && i % 7 == number % 7;
        bool same = key == KEPT_EPISODES_BY_TAG ? same_tag : i == number;
        if (same && model->versions[i] != 0) {
            model->versions[i] = 0;
            expected++;
        }
    }
    assert_int_equal(n, expected);
}

static void read_one(const struct model *model, uint32_t number)
{
    static unsigned char payload[MADE_MAX_TOKENS * MADE_TOKEN];
    struct kept_error err = {0};
    struct made made;
    struct kept_episode *e = make(&made, number, model->versions[number]);
    kept_status status = kept_episodes_load(store, e->id, payload, e->payload_bytes, &err);
    if (model->versions[number] == 0) {
        assert_int_equal(status, KEPT_E_ARGUMENT);
        return;
    }
    ok(status, &err);
    assert_memory_equal(payload, e->payload, e->payload_bytes);
}

static int by_id(const void *a, const void *b)
{
    char x[16], y[16];
    snprintf(x, sizeof x, "%u", *(const uint32_t *)a);
    snprintf(y, sizeof y, "%u", *(const uint32_t *)b);
    return strcmp(x, y);
}

static void compare(const struct model *model)
{
    struct made_sum sum;
    struct kept_error err = {0};
    struct made made;
    uint32_t numbers[N_NUMBERS], n = 0;
    uint64_t hash = 1, n_damaged = 0;
    for (uint32_t i = 0; i < N_NUMBERS; i++)
        if (model->versions[i] != 0)
            numbers[n++] = i;
    qsort(numbers, n, sizeof *numbers, by_id);
    for (uint32_t i = 0; i < n; i++)
        hash = made_hash(make(&made, numbers[i], model->versions[numbers[i]]), hash);
    ok(made_sum_of(store, &sum, &err), &err);
    assert_int_equal(sum.n, n);
    assert_int_equal(sum.n_damaged, 0);
    assert_true(sum.hash == hash);
    ok(kept_episodes_verify(store, NULL, &n_damaged, &err), &err);
    assert_int_equal(n_damaged, 0);
}

/* A few changes in one transaction, which is taken back now and then. */
static uint32_t transaction(struct model *model, uint32_t version)
{
    struct kept_error err = {0};
    struct model before = *model;
    uint32_t n = made_random(&seed) % 12 + 1;
    ok(kept_episodes_begin(store, &err), &err);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t number = made_random(&seed) % N_NUMBERS;
        if (made_random(&seed) % 3 == 0)
            forget(model, number);
        else
            put(model, number, version + i);
    }
    if (made_random(&seed) % 4 == 0) {
        kept_episodes_rollback(store);
        *model = before;
    } else {
        ok(kept_episodes_commit(store, &err), &err);
    }
    return n;
}

static void turn(struct model *model, uint32_t *i)
{
    struct kept_error err = {0};
    uint32_t what = made_random(&seed) % 100, number = made_random(&seed) % N_NUMBERS;
    if (what < 35)
        put(model, number, *i + 1);
    else if (what < 60)
        forget(model, number);
    else if (what < 90)
        read_one(model, number);
    else if (what < 98)
        *i += transaction(model, *i + 1);
    else if (what == 98)
        ok(kept_episodes_compact(store, &err), &err);
    else {
        kept_episodes_close(&store);
        open_store();
    }
}

static void no_old_version_is_left(const struct model *model)
{
    uint64_t n_bytes;
    const unsigned char *bytes = cut_vfs_bytes(NAME, &n_bytes);
    for (uint64_t i = 0; i + 7 < n_bytes; i++) {
        unsigned number, version;
        if (memcmp(bytes + i, "SECRET ", 7) != 0)
            continue;
        assert_int_equal(sscanf((const char *)bytes + i, "SECRET %u.%u:", &number, &version), 2);
        assert_true(number < N_NUMBERS && model->versions[number] == version);
    }
}

static void random_turns_have_equal_answers(void **state)
{
    (void)state;
    struct model model = {{0}};
    assert_true(cut_vfs_begin());
    cut_vfs_reset(0, CUT_KEEP, 1);
    open_store();
    for (uint32_t i = 0, next = 0; i < N_TURNS; i++) {
        turn(&model, &i);
        if (i < next)
            continue;
        next = i + 97;
        compare(&model);
    }
    compare(&model);
    no_old_version_is_left(&model);
    kept_episodes_close(&store);
    cut_vfs_reset(0, CUT_KEEP, 1);
    cut_vfs_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_turns_have_equal_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* tests/unit/test_episodes.c: the file of episodic memory: what is written is what is read, in
 * order; tags supersede; what is forgotten is gone from the bytes; stores of others are refused;
 * transactions, two processes, damage and repair. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "unit/episodes_make.h"

#define PATH  "test_episodes.facts"
#define OTHER "test_episodes_2.facts"

static void remove_store(const char *path)
{
    char journal[64];
    snprintf(journal, sizeof journal, "%s-journal", path);
    remove(path);
    remove(journal);
}

static struct kept_episodes *open_new(const char *path)
{
    struct kept_episodes_options options = {
        .create = true, .bind = &made_bind, .stats = made_stats()};
    struct kept_episodes *store;
    struct kept_error err = {0};
    remove_store(path);
    if (kept_episodes_open(path, &options, &store, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    return store;
}

static struct kept_episodes *open_again(const char *path, bool read_only)
{
    struct kept_episodes_options options = {
        .read_only = read_only, .bind = &made_bind, .timeout_ms = 100};
    struct kept_episodes *store;
    struct kept_error err = {0};
    if (kept_episodes_open(path, &options, &store, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    return store;
}

static uint32_t put(struct kept_episodes *store, uint32_t number, uint32_t version)
{
    static struct made made;
    struct kept_error err = {0};
    uint32_t n = 99;
    if (kept_episodes_put(store, make(&made, number, version), NULL, &n, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    return n;
}

static uint64_t forget(struct kept_episodes *store, enum kept_episodes_key key, const char *value)
{
    struct kept_error err = {0};
    uint64_t n = 99;
    if (kept_episodes_forget(store, key, &value, 1, &n, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    return n;
}

static struct made_sum sum_of(struct kept_episodes *store)
{
    struct made_sum sum;
    struct kept_error err = {0};
    uint64_t n = 0;
    if (made_sum_of(store, &sum, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(kept_episodes_count(store, &n, &err), KEPT_OK);
    assert_int_equal(n, sum.n + sum.n_damaged);
    return sum;
}

static uint64_t damage_of(struct kept_episodes *store)
{
    struct kept_error err = {0};
    uint64_t n = 99;
    if (kept_episodes_verify(store, NULL, &n, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    return n;
}

/* ---- writing and reading ---- */

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    struct kept_error err = {0};
    struct made made;
    unsigned char payload[sizeof made.payload];
    uint64_t hash = 1;
    for (uint32_t i = 0; i < 10; i++) /* one digit: by number is by id */
        put(store, i, 5);
    struct made_sum sum = sum_of(store);
    /* 0 and 7 have different tags, 3 and 6 too: nothing was superseded */
    for (uint32_t i = 0; i < 10; i++)
        hash = made_hash(make(&made, i, 5), hash);
    assert_int_equal(sum.n, 10);
    assert_true(sum.hash == hash);
    kept_episodes_close(&store);
    store = open_again(PATH, true);
    assert_true(sum_of(store).hash == hash);
    assert_memory_equal(kept_episodes_stats(store), made_stats(),
                        KEPT_EPISODES_STATS * MADE_EMBD * sizeof(float));
    assert_memory_equal(kept_episodes_bound(store), &made_bind,
                        offsetof(struct kept_episodes_bind, payload_type) + sizeof(uint32_t));
    struct kept_episode *e = make(&made, 4, 5);
    assert_int_equal(kept_episodes_load(store, e->id, payload, e->payload_bytes, &err), KEPT_OK);
    assert_memory_equal(payload, e->payload, e->payload_bytes);
    assert_int_equal(kept_episodes_load(store, e->id, payload, 8, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_episodes_load(store, "nobody", payload, 8, &err), KEPT_E_ARGUMENT);
    assert_non_null(strstr(err.message, "nobody"));
    assert_int_equal(damage_of(store), 0);
    kept_episodes_close(&store);
}

static void names_are_hashes_of_tag_and_text(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    struct kept_error err;
    struct made made;
    char a[KEPT_EPISODE_ID_BYTES], b[KEPT_EPISODE_ID_BYTES], c[KEPT_EPISODE_ID_BYTES];
    struct kept_episode *e = make(&made, 1, 1);
    e->id = NULL;
    e->tag = NULL;
    assert_int_equal(kept_episodes_put(store, e, a, NULL, &err), KEPT_OK);
    e->time_s++;
    assert_int_equal(kept_episodes_put(store, e, b, NULL, &err), KEPT_OK);
    kept_episodes_name("", e->text, c);
    assert_string_equal(a, b);
    assert_string_equal(a, c);
    assert_int_equal(strlen(a), 16);
    assert_int_equal(sum_of(store).n, 1);
    kept_episodes_name("x", e->text, c);
    assert_string_not_equal(a, c);
    /* Somebody else's id that looks like a made one is not overwritten. */
    e->id = c;
    e->tag = "";
    assert_int_equal(kept_episodes_put(store, e, NULL, NULL, &err), KEPT_OK);
    e->id = NULL;
    e->tag = "x";
    assert_int_equal(kept_episodes_put(store, e, NULL, NULL, &err), KEPT_E_ARGUMENT);
    assert_non_null(strstr(err.message, c));
    kept_episodes_close(&store);
}

static void a_tag_has_one_episode(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    struct made made, other;
    assert_int_equal(put(store, 3, 1), 0);
    assert_int_equal(put(store, 4, 1), 0);
    assert_int_equal(put(store, 24, 1), 1); /* the tag of 3 */
    assert_int_equal(put(store, 24, 2), 0); /* the same id is replaced, not superseded */
    struct made_sum sum = sum_of(store);
    assert_int_equal(sum.n, 2);
    uint64_t hash = made_hash(make(&made, 24, 2), 1);
    assert_true(sum.hash == made_hash(make(&other, 4, 1), hash));
    assert_int_equal(forget(store, KEPT_EPISODES_BY_TAG, ""), 0);
    assert_int_equal(forget(store, KEPT_EPISODES_BY_TAG, "tag-3"), 1);
    assert_int_equal(forget(store, KEPT_EPISODES_BY_TAG, "tag-3"), 0);
    assert_int_equal(forget(store, KEPT_EPISODES_BY_TEXT, made.text), 0);
    assert_int_equal(forget(store, KEPT_EPISODES_BY_TEXT, other.text), 1);
    assert_int_equal(sum_of(store).n, 0);
    kept_episodes_close(&store);
}

static void odd_episodes_are_refused(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    struct kept_error err = {0};
    struct made made;
    char longest[KEPT_EPISODE_ID_BYTES + 1];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    for (int i = 0; i < 11; i++) {
        struct kept_episode *e = make(&made, 1, 1);
        e->id = i == 0 ? "" : i == 1 ? longest : e->id;
        e->tag = i == 2 ? longest : e->tag;
        e->text = i == 3 ? NULL : i == 4 ? "" : e->text;
        e->n_tokens = i == 5 ? 0 : i == 6 ? KEPT_EPISODE_MAX_TOKENS + 1 : e->n_tokens;
        e->payload_bytes -= i == 7;
        e->payload = i == 8 ? NULL : e->payload;
        made.address[0] = i == 9 ? NAN : i == 10 ? 2 : made.address[0];
        err.message[0] = '\0';
        assert_int_equal(kept_episodes_put(store, e, NULL, NULL, &err), KEPT_E_ARGUMENT);
        assert_true(err.message[0] != '\0');
    }
    longest[sizeof longest - 2] = '\0'; /* just fits */
    struct kept_episode *e = make(&made, 1, 1);
    e->id = e->tag = longest;
    assert_int_equal(kept_episodes_put(store, e, NULL, NULL, &err), KEPT_OK);
    assert_int_equal(sum_of(store).n, 1);
    kept_episodes_close(&store);
}

/* ---- transactions ---- */

static void transactions_are_whole(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    struct kept_error err;
    struct made made;
    put(store, 1, 1);
    uint64_t before = sum_of(store).hash;
    assert_int_equal(kept_episodes_begin(store, &err), KEPT_OK);
    assert_int_equal(kept_episodes_begin(store, &err), KEPT_E_STATE);
    assert_int_equal(kept_episodes_compact(store, &err), KEPT_E_STATE);
    put(store, 2, 1);
    forget(store, KEPT_EPISODES_BY_ID, "fact-1");
    assert_int_equal(sum_of(store).n, 1);
    kept_episodes_rollback(store);
    assert_true(sum_of(store).hash == before);
    /* A failure takes everything back. */
    assert_int_equal(kept_episodes_begin(store, &err), KEPT_OK);
    put(store, 2, 1);
    struct kept_episode *e = make(&made, 3, 1);
    e->payload_bytes = 1;
    assert_int_equal(kept_episodes_put(store, e, NULL, NULL, &err), KEPT_E_ARGUMENT);
    e = make(&made, 4, 1);
    assert_int_equal(kept_episodes_put(store, e, NULL, NULL, &err), KEPT_E_STATE);
    assert_true(sum_of(store).hash == before);
    assert_int_equal(kept_episodes_commit(store, &err), KEPT_E_STATE);
    assert_int_equal(kept_episodes_commit(store, &err), KEPT_E_STATE);
    assert_true(sum_of(store).hash == before);
    assert_int_equal(kept_episodes_begin(store, &err), KEPT_OK);
    put(store, 2, 1);
    assert_int_equal(kept_episodes_commit(store, &err), KEPT_OK);
    assert_int_equal(sum_of(store).n, 2);
    assert_int_equal(kept_episodes_begin(store, &err), KEPT_OK);
    put(store, 5, 1);
    kept_episodes_close(&store); /* rolls back */
    store = open_again(PATH, false);
    assert_int_equal(sum_of(store).n, 2);
    kept_episodes_close(&store);
}

static kept_status put_while_reading(void *user, const struct kept_episode *episode)
{
    struct made made;
    struct kept_error err;
    (void)episode;
    assert_int_equal(kept_episodes_put(user, make(&made, 1, 1), NULL, NULL, &err), KEPT_E_STATE);
    assert_int_equal(kept_episodes_each(user, false, NULL, &err), KEPT_E_STATE);
    return KEPT_E_CANCELLED;
}

static void reading_can_be_left(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    struct kept_error err;
    struct kept_episodes_reader reader = {put_while_reading, NULL, store};
    put(store, 1, 1);
    put(store, 2, 1);
    assert_int_equal(kept_episodes_each(store, false, &reader, &err), KEPT_E_CANCELLED);
    put(store, 4, 1);
    kept_episodes_close(&store);
}

/* ---- forgetting ---- */

/* No text, no number of the address, no 16 bytes of the payload that stand together. */
static bool holds(const unsigned char *bytes, size_t n_bytes, const struct kept_episode *e)
{
    const unsigned char *payload = e->payload;
    bool found = made_contains(bytes, n_bytes, e->text, 12);
    for (size_t i = 0; i + 20 <= strlen(e->text) && !found; i += 20)
        found = made_contains(bytes, n_bytes, e->text + i, 20);
    for (uint32_t i = 0; i + 2 <= MADE_EMBD && !found; i++)
        found = made_contains(bytes, n_bytes, e->address + i, 2 * sizeof *e->address);
    for (size_t i = 0; i + 16 <= e->payload_bytes && !found; i += 16)
        found = made_contains(bytes, n_bytes, payload + i, 16);
    return found;
}

static void forgotten_bytes_are_gone(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    struct kept_error err;
    struct made made;
    unsigned char *bytes;
    size_t n_bytes, n_before;
    enum { N = 120 };
    for (uint32_t i = 1; i <= N; i++)
        put(store, 3 * i + 1, 1);
    bytes = made_load(PATH, &n_before);
    for (uint32_t i = 1; i <= N; i++)
        assert_true(holds(bytes, n_before, make(&made, 3 * i + 1, 1)));
    free(bytes);
    for (uint32_t i = 1; i <= N; i++) /* by its own hand, by a new version, and kept */
        if (i % 3 == 0)
            assert_int_equal(forget(store, KEPT_EPISODES_BY_ID, make(&made, 3 * i + 1, 1)->id), 1);
        else if (i % 3 == 1)
            put(store, 3 * i + 1, 2);
    for (int compacted = 0; compacted < 2; compacted++) {
        bytes = made_load(PATH, &n_bytes);
        for (uint32_t i = 1; i <= N; i++)
            assert_int_equal(holds(bytes, n_bytes, make(&made, 3 * i + 1, 1)), i % 3 == 2);
        free(bytes);
        assert_false(kept_file_exists(PATH "-journal"));
        uint64_t hash = sum_of(store).hash;
        assert_int_equal(kept_episodes_compact(store, &err), KEPT_OK);
        assert_true(sum_of(store).hash == hash);
    }
    assert_true(n_bytes < n_before);
    kept_episodes_close(&store);
}

/* After compacting, a store that forgot is the file of one that never knew. */
static void forgetting_leaves_no_trace(void **state)
{
    (void)state;
    struct kept_episodes *a = open_new(PATH), *b = open_new(OTHER);
    struct kept_error err;
    struct made made;
    for (uint32_t i = 0; i < 60; i++)
        put(a, 3 * i + 1, 1);
    for (uint32_t i = 0; i < 60; i += 2)
        forget(a, KEPT_EPISODES_BY_TEXT, make(&made, 3 * i + 1, 1)->text);
    for (uint32_t i = 60; i-- > 0;)
        if (i % 2 == 1)
            put(b, 3 * i + 1, 1);
    assert_true(sum_of(a).hash == sum_of(b).hash);
    assert_int_equal(kept_episodes_compact(a, &err), KEPT_OK);
    assert_int_equal(kept_episodes_compact(b, &err), KEPT_OK);
    kept_episodes_close(&a);
    kept_episodes_close(&b);
    size_t n, m;
    unsigned char *x = made_load(PATH, &n), *y = made_load(OTHER, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x + 100, y + 100, n - 100);
    free(x);
    free(y);
}

/* ---- what is refused ---- */

static void others_are_refused(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    struct kept_error err = {0};
    struct kept_episodes_bind bind = made_bind;
    struct kept_episodes_options options = {.bind = &bind};
    put(store, 1, 1);
    kept_episodes_close(&store);
    bind.model_hash++;
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), KEPT_E_MISMATCH);
    assert_null(store);
    assert_non_null(strstr(err.message, "9999aaaabbbbcccc"));
    assert_non_null(strstr(err.message, "9999aaaabbbbcccd"));
    bind.model_hash = 0; /* not known: fits */
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), KEPT_OK);
    kept_episodes_close(&store);
    bind.address_layer = 1;
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), KEPT_E_MISMATCH);
    bind = made_bind;
    options.create = true; /* what is there stays */
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), KEPT_OK);
    assert_int_equal(sum_of(store).n, 1);
    kept_episodes_close(&store);
    options.read_only = true;
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), KEPT_E_ARGUMENT);
    options = (struct kept_episodes_options){0};
    assert_int_equal(kept_episodes_open("nowhere.facts", &options, &store, &err), KEPT_E_IO);
    assert_int_equal(kept_episodes_open(".", &options, &store, &err), KEPT_E_IO);
    assert_int_equal(kept_episodes_open("", &options, &store, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_episodes_open(PATH, NULL, &store, &err), KEPT_OK);
    kept_episodes_close(&store);
}

/* Runs SQL on a sound store of one episode and expects this when it is opened. */
static void expect_after(const char *sql, kept_status status, const char *words)
{
    struct kept_episodes *store = open_new(PATH);
    struct kept_error err = {0};
    struct kept_episodes_options options = {.read_only = true};
    sqlite3 *db;
    put(store, 1, 1);
    kept_episodes_close(&store);
    assert_int_equal(sqlite3_open(PATH, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), status);
    assert_non_null(strstr(err.message, words));
    options.read_only = false;
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), status);
    kept_episodes_close(&store);
}

static void odd_files_are_refused(void **state)
{
    (void)state;
    struct kept_error err = {0};
    struct kept_episodes *store;
    struct kept_episodes_options options = {.create = true, .bind = &made_bind};
    expect_after("PRAGMA user_version=2", KEPT_E_UNSUPPORTED, "version is 2");
    expect_after("PRAGMA user_version=0", KEPT_E_FORMAT, "version is 0");
    expect_after("PRAGMA application_id=7", KEPT_E_FORMAT, "no store of facts");
    expect_after("CREATE TABLE more(x)", KEPT_E_FORMAT, "tables");
    expect_after("CREATE TRIGGER t AFTER DELETE ON episodes BEGIN SELECT 1; END", KEPT_E_FORMAT,
                 "tables");
    expect_after("CREATE VIEW v AS SELECT 1", KEPT_E_FORMAT, "tables");
    expect_after("DROP INDEX by_tag", KEPT_E_FORMAT, "tables");
    expect_after("PRAGMA journal_mode=WAL", KEPT_E_FORMAT, "journal mode");
    expect_after("PRAGMA page_size=8192; VACUUM", KEPT_E_FORMAT, "page size");
    expect_after("DELETE FROM store; DELETE FROM spare", KEPT_E_FORMAT, "both copies");
    expect_after("UPDATE store SET n_embd=17; UPDATE spare SET n_layers=4", KEPT_E_FORMAT,
                 "both copies");
    expect_after("UPDATE store SET stats=zeroblob(128); UPDATE spare SET stats=zeroblob(127)",
                 KEPT_E_FORMAT, "both copies");
    /* Nobody's database is written to, nor a file that is none. */
    remove_store(PATH);
    assert_true(made_save(PATH, "this is a letter to somebody", 28));
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), KEPT_E_FORMAT);
    size_t n;
    unsigned char *bytes = made_load(PATH, &n);
    assert_int_equal(n, 28);
    free(bytes);
    assert_true(made_save(PATH, "", 0));
    options.create = false;
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), KEPT_E_FORMAT);
    options.create = true;
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), KEPT_OK);
    kept_episodes_close(&store);
}

static void statistics_come_once(void **state)
{
    (void)state;
    struct kept_episodes *store;
    struct kept_error err = {0};
    struct kept_episodes_bind bind = made_bind;
    struct kept_episodes_options options = {.create = true, .bind = &bind};
    struct made made;
    float stats[KEPT_EPISODES_STATS * MADE_EMBD];
    memcpy(stats, made_stats(), sizeof stats);
    bind.model_hash = 0;
    remove_store(PATH);
    assert_int_equal(kept_episodes_open(PATH, &options, &store, &err), KEPT_OK);
    assert_null(kept_episodes_stats(store));
    struct kept_episode *e = make(&made, 1, 1);
    assert_int_equal(kept_episodes_put(store, e, NULL, NULL, &err), KEPT_E_ARGUMENT);
    stats[3] = INFINITY;
    assert_int_equal(kept_episodes_set_stats(store, 5, stats, &err), KEPT_E_ARGUMENT);
    stats[3] = 3;
    struct kept_episodes *second = open_again(PATH, false);
    assert_int_equal(kept_episodes_set_stats(store, 5, stats, &err), KEPT_OK);
    assert_int_equal(kept_episodes_bound(store)->model_hash, 5);
    put(store, 1, 1);
    assert_int_equal(sum_of(second).n, 1); /* who was there before sees it */
    stats[3] = 4;
    assert_int_equal(kept_episodes_set_stats(second, 6, stats, &err), KEPT_E_MISMATCH);
    assert_int_equal(kept_episodes_set_stats(second, 5, stats, &err), KEPT_OK);
    assert_true(kept_episodes_stats(second)[3] == 3);
    assert_int_equal(damage_of(second), 0);
    kept_episodes_close(&second);
    kept_episodes_close(&store);
}

/* ---- processes ---- */

static void one_writes_many_read(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    struct kept_error err = {0};
    uint32_t before, after;
    int to_child[2], to_parent[2];
    char c = 0;
    put(store, 1, 1);
    kept_episodes_close(&store);
    assert_int_equal(pipe(to_child) | pipe(to_parent), 0);
    pid_t child = fork();
    if (child == 0) { /* holds a transaction until it is told to commit */
        struct made made;
        struct kept_episodes *own;
        bool ok = kept_episodes_open(PATH, NULL, &own, &err) == KEPT_OK &&
                  kept_episodes_begin(own, &err) == KEPT_OK &&
                  kept_episodes_put(own, make(&made, 2, 1), NULL, NULL, &err) == KEPT_OK;
        ok = write(to_parent[1], &c, 1) == 1 && read(to_child[0], &c, 1) == 1 && ok;
        ok = kept_episodes_commit(own, &err) == KEPT_OK && ok;
        kept_episodes_close(&own);
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(read(to_parent[0], &c, 1), 1);
    struct kept_episodes *reader = open_again(PATH, true);
    store = open_again(PATH, false);
    assert_int_equal(kept_episodes_version(reader, &before, &err), KEPT_OK);
    assert_int_equal(sum_of(reader).n, 1);
    assert_int_equal(kept_episodes_begin(store, &err), KEPT_E_IO);
    assert_non_null(strstr(err.message, "another process"));
    struct kept_episodes_repaired repaired;
    assert_int_equal(kept_episodes_repair(PATH, NULL, &repaired, &err), KEPT_E_IO);
    assert_int_equal(write(to_child[1], &c, 1), 1);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(sum_of(reader).n, 2);
    assert_int_equal(kept_episodes_version(reader, &after, &err), KEPT_OK);
    assert_int_not_equal(before, after);
    put(store, 4, 1);
    struct made made;
    assert_int_equal(kept_episodes_put(reader, make(&made, 1, 1), NULL, NULL, &err), KEPT_E_STATE);
    assert_int_equal(kept_episodes_compact(reader, &err), KEPT_E_STATE);
    /* Whoever has the file open when it is replaced is told so instead of writing into the old. */
    assert_int_equal(kept_episodes_repair(PATH, NULL, &repaired, &err), KEPT_OK);
    assert_int_equal(repaired.n_kept, 3);
    assert_int_equal(kept_episodes_put(store, make(&made, 5, 1), NULL, NULL, &err), KEPT_E_IO);
    assert_non_null(strstr(err.message, "replaced"));
    kept_episodes_close(&reader);
    kept_episodes_close(&store);
    for (int i = 0; i < 2; i++)
        close(to_child[i]), close(to_parent[i]);
}

static void reading_writes_nothing(void **state)
{
    (void)state;
    struct kept_episodes *store = open_new(PATH);
    size_t n, m;
    put(store, 1, 1);
    kept_episodes_close(&store);
    unsigned char *before = made_load(PATH, &n);
    assert_int_equal(chmod(PATH, 0444), 0);
    store = open_again(PATH, true);
    assert_int_equal(sum_of(store).n, 1);
    assert_int_equal(damage_of(store), 0);
    kept_episodes_close(&store);
    if (geteuid() != 0) {
        struct kept_error err;
        assert_int_equal(kept_episodes_open(PATH, NULL, &store, &err), KEPT_E_IO);
    }
    assert_int_equal(chmod(PATH, 0644), 0);
    unsigned char *after = made_load(PATH, &m);
    assert_int_equal(n, m);
    assert_memory_equal(before, after, n);
    free(before);
    free(after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(names_are_hashes_of_tag_and_text),
        cmocka_unit_test(a_tag_has_one_episode),
        cmocka_unit_test(odd_episodes_are_refused),
        cmocka_unit_test(transactions_are_whole),
        cmocka_unit_test(reading_can_be_left),
        cmocka_unit_test(forgotten_bytes_are_gone),
        cmocka_unit_test(forgetting_leaves_no_trace),
        cmocka_unit_test(others_are_refused),
        cmocka_unit_test(odd_files_are_refused),
        cmocka_unit_test(statistics_come_once),
        cmocka_unit_test(one_writes_many_read),
        cmocka_unit_test(reading_writes_nothing),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_store(PATH);
    remove_store(OTHER);
    return failed;
}

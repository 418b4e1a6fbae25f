/* tests/fault/test_episodes_cut.c: the file of episodic memory when the power goes at any write,
 * any write fails, or memory runs out.
 *
 * A scenario of transactions is run once; then again for every call to the file system, with the
 * power cut there in several ways. What is then on the disk is opened by SQLite's own file system:
 * it must be whole, and hold what the last finished transaction left, or what the interrupted one
 * would have: nothing between.
 *
 * test_episodes_cut FOLDER: for the files of the disk after the cut. */
#include <sqlite3.h>

#include <unistd.h>

#include "base/alloc.h"
#include "fault/cut_vfs.h"
#include "unit/episodes_make.h"

#define NAME "cut.facts"

static unsigned n_cases, n_failed, n_undone;

static void check(bool ok, const char *what, uint64_t n, const struct kept_error *err)
{
    n_cases++;
    if (ok)
        return;
    n_failed++;
    fprintf(stderr, "FAILED: %s at %llu: %s\n", what, (unsigned long long)n, err->message);
}

/* ---- the scenario ---- */

static kept_status put(struct kept_episodes *store, uint32_t number, uint32_t version,
                       struct kept_error *err)
{
    struct made made;
    return kept_episodes_put(store, make(&made, number, version), NULL, NULL, err);
}

static kept_status put_batch(struct kept_episodes *store, struct kept_error *err)
{
    kept_status status = kept_episodes_begin(store, err);
    for (uint32_t i = 10; i < 18 && status == KEPT_OK; i++)
        status = put(store, i, 1, err);
    if (status == KEPT_OK)
        return kept_episodes_commit(store, err);
    kept_episodes_rollback(store);
    return status;
}

static kept_status forget(struct kept_episodes *store, struct kept_error *err)
{
    static const char *const ids[] = {"fact-11", "fact-12", "fact-16", "nobody"};
    return kept_episodes_forget(store, KEPT_EPISODES_BY_ID, ids, 4, NULL, err);
}

static kept_status open_store(struct kept_episodes **out, struct kept_error *err)
{
    struct kept_episodes_options options = {
        .create = true, .bind = &made_bind, .stats = made_stats()};
    return kept_episodes_open(NAME, &options, out, err);
}

enum { N_STEPS = 9 };

static kept_status step(struct kept_episodes **store, int i, struct kept_error *err)
{
    const char *text = "tag-3";
    switch (i) {
    case 0:
        return open_store(store, err);
    case 1:
        return put(*store, 1, 1, err);
    case 2:
        return put(*store, 3, 1, err);
    case 3:
        return put_batch(*store, err);
    case 4:
        return put(*store, 24, 1, err); /* supersedes 3 */
    case 5:
        return put(*store, 1, 2, err);
    case 6:
        return forget(*store, err);
    case 7:
        return kept_episodes_compact(*store, err);
    default:
        return kept_episodes_forget(*store, KEPT_EPISODES_BY_TAG, &text, 1, NULL, err);
    }
}

/* Runs until a step fails; returns how many did not. */
static int run(struct kept_episodes **store, struct kept_error *err)
{
    int i = 0;
    *store = NULL;
    while (i < N_STEPS && step(store, i, err) == KEPT_OK)
        i++;
    return i;
}

/* What a store holds after each number of steps; 0 before there is one. */
static uint64_t after[N_STEPS + 2];

static uint64_t hash_of(struct kept_episodes *store, uint64_t n)
{
    struct made_sum sum;
    struct kept_error err = {0};
    check(made_sum_of(store, &sum, &err) == KEPT_OK && sum.n_damaged == 0, "reading", n, &err);
    return sum.hash;
}

static void run_whole(void)
{
    struct kept_episodes *store = NULL;
    struct kept_error err = {0};
    cut_vfs_reset(0, CUT_KEEP, 1);
    for (int i = 0; i < N_STEPS; i++) {
        check(step(&store, i, &err) == KEPT_OK, "a step", (uint64_t)i, &err);
        after[i + 1] = hash_of(store, (uint64_t)i);
    }
    after[N_STEPS + 1] = after[N_STEPS];
    kept_episodes_close(&store);
}

/* ---- cuts ---- */

static long bytes_of(const char *path)
{
    FILE *file = fopen(path, "rb");
    long n_bytes = -1;
    if (file != NULL) {
        fseek(file, 0, SEEK_END);
        n_bytes = ftell(file);
        fclose(file);
    }
    return n_bytes;
}

/* The store as it is found: what it holds, 0 where nothing was ever committed. */
static uint64_t found(const char *path, uint64_t n)
{
    struct kept_episodes_options options = {.bind = &made_bind};
    struct kept_episodes *store;
    struct kept_error err = {0};
    char journal[512];
    uint64_t n_damaged = 0, hash;
    snprintf(journal, sizeof journal, "%s-journal", path);
    long n_bytes = bytes_of(path), n_journal = bytes_of(journal);
    n_undone += n_journal > 0;
    kept_status status = kept_episodes_open(path, &options, &store, &err);
    bool never = (n_bytes <= 0 && status != KEPT_OK) || (status == KEPT_E_FORMAT && n_journal > 0);
    if (never) { /* its first transaction was undone: it can be made */
        options.stats = made_stats();
        options.create = true;
        status = kept_episodes_open(path, &options, &store, &err);
    }
    check(status == KEPT_OK, "opening", n, &err);
    if (status != KEPT_OK)
        return 2;
    status = kept_episodes_verify(store, NULL, &n_damaged, &err);
    check(status == KEPT_OK && n_damaged == 0, "verifying", n, &err);
    hash = never ? 0 : hash_of(store, n);
    /* What a journal that needed no undoing leaves goes with the next write. */
    check(put(store, 50, 1, &err) == KEPT_OK && bytes_of(journal) < 0, "a journal stays", n, &err);
    kept_episodes_close(&store);
    return hash;
}

static bool cut_at(uint64_t n, enum cut_mode mode, uint64_t seed, const char *path)
{
    struct kept_episodes *store;
    struct kept_error err = {0};
    if (!cut_vfs_begin())
        abort();
    cut_vfs_reset(n, mode, seed);
    int done = run(&store, &err);
    bool dead = cut_vfs_calls() >= n;
    check(done == N_STEPS || err.message[0] != '\0', "an error without a sentence", n, &err);
    kept_episodes_close(&store);
    bool dumped = cut_vfs_dump(NAME, path);
    cut_vfs_end();
    check(dumped, "writing the disk", n, &err);
    uint64_t hash = found(path, n);
    /* Before the first commit there is nothing, or an empty store. */
    bool right = hash == after[done] || hash == after[done + 1];
    if (!right)
        fprintf(stderr, "mode %d seed %llu: after %d steps\n", (int)mode, (unsigned long long)seed,
                done);
    check(right, "neither before nor after a transaction", n, &err);
    return dead;
}

static void cut_everywhere(const char *path)
{
    uint64_t n = 1;
    for (; n_failed < 10; n++) {
        bool more = cut_at(n, CUT_KEEP, n, path);
        cut_at(n, CUT_TORN, n, path);
        cut_at(n, CUT_LOST, n, path);
        for (uint64_t seed = 0; seed < 3; seed++)
            cut_at(n, CUT_SOME, n * 3 + seed, path);
        if (!more)
            break;
    }
    fprintf(stderr, "power cut at %llu calls, %u times something was undone\n",
            (unsigned long long)n - 1, n_undone);
}

/* ---- failures with the power on ---- */

/* A call fails once; the steps after it go on, and the store is right at the end. */
static void fail_everywhere(void)
{
    uint64_t n = 1;
    bool more = true;
    for (; more && n_failed < 10; n++) {
        struct kept_episodes *store = NULL;
        struct kept_error err = {0};
        cut_vfs_reset(n, CUT_FAIL, n);
        for (int i = 0; i < N_STEPS; i++) {
            int64_t live = kept_alloc_live();
            kept_status status = step(&store, i, &err);
            if (status == KEPT_OK)
                continue;
            check(err.message[0] != '\0', "an error without a sentence", n, &err);
            check(i == 0 ? kept_alloc_live() == live
                         : hash_of(store, n) == after[i] || hash_of(store, n) == after[i + 1],
                  "a failed write leaves something between", n, &err);
            status = step(&store, i, &err); /* the same again works */
            check(status == KEPT_OK, "the second attempt", n, &err);
            if (status != KEPT_OK)
                break;
        }
        if (store != NULL)
            check(hash_of(store, n) == after[N_STEPS], "the end", n, &err);
        more = cut_vfs_calls() >= n;
        kept_episodes_close(&store);
    }
    fprintf(stderr, "%llu calls failed once\n", (unsigned long long)n - 1);
}

/* ---- memory ---- */

static sqlite3_mem_methods system_memory;
static uint64_t n_memory, fail_memory_at;

static void *memory_new(int n)
{
    return ++n_memory == fail_memory_at ? NULL : system_memory.xMalloc(n);
}

static void *memory_more(void *old, int n)
{
    return ++n_memory == fail_memory_at ? NULL : system_memory.xRealloc(old, n);
}

/* Ours, every one; SQLite's, every one at first and then a sample. */
static void run_out_of_memory(void)
{
    for (int ours = 0; ours < 2; ours++) {
        uint64_t n = 1;
        for (; n_failed < 10; n += ours ? 1 : 1 + n / 20) {
            struct kept_episodes *store;
            struct kept_error err = {0};
            int64_t live = kept_alloc_live();
            uint64_t calls = kept_alloc_calls();
            cut_vfs_reset(0, CUT_KEEP, 1);
            n_memory = 0;
            fail_memory_at = ours ? 0 : n;
            kept_alloc_fail_at(ours ? n : 0);
            int done = run(&store, &err);
            fail_memory_at = 0;
            kept_alloc_fail_at(0);
            check(done == N_STEPS || err.message[0] != '\0', "an error without a sentence", n,
                  &err);
            if (store != NULL) {
                uint64_t hash = hash_of(store, n);
                check(hash == after[done] || hash == after[done + 1],
                      "memory ran out, and left something between", n, &err);
            }
            kept_episodes_close(&store);
            check(kept_alloc_live() == live, "memory is left behind", n, &err);
            if ((ours ? kept_alloc_calls() - calls : n_memory) < n)
                break;
        }
        fprintf(stderr, "%s memory ran out at up to %llu places\n", ours ? "our" : "SQLite's",
                (unsigned long long)n - 1);
    }
}

int main(int argc, char **argv)
{
    char path[400];
    if (argc != 2)
        return 2;
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &system_memory) != SQLITE_OK)
        return 1;
    sqlite3_mem_methods counted = system_memory;
    counted.xMalloc = memory_new;
    counted.xRealloc = memory_more;
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &counted) != SQLITE_OK)
        return 1;
    snprintf(path, sizeof path, "%s/kept-%ld-" NAME, argv[1], (long)getpid());
    if (!cut_vfs_begin())
        return 1;
    run_whole();
    fail_everywhere();
    run_out_of_memory();
    cut_vfs_end();
    cut_everywhere(path);
    remove(path);
    cut_vfs_reset(0, CUT_KEEP, 0);
    fprintf(stderr, "%u checks, %u failed\n", n_cases, n_failed);
    return n_failed ? 1 : 0;
}

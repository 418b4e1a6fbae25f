/* tests/fault/test_episodes_damage.c: a file of episodic memory with bytes flipped, pages zeroed,
 * exchanged and torn off, and pointers that go in circles. Whatever is read must be an episode that
 * was written, word for word; repair must keep everything but what stood on the damaged pages, and
 * leave a sound store.
 *
 * test_episodes_damage FOLDER: for the damaged files. */
#include <unistd.h>

#include "base/alloc.h"
#include "unit/episodes_make.h"

enum { N_EPISODES = 60, PAGE = 4096, A_PAGE = 8 };

static char path[400];
static unsigned n_cases, n_failed, n_refused, n_kept_least = N_EPISODES;
static uint64_t hashes[N_EPISODES], seed = 5;

static void check(bool ok, const char *what, unsigned n, const struct kept_error *err)
{
    n_cases++;
    if (ok)
        return;
    n_failed++;
    fprintf(stderr, "FAILED: %s at %u: %s\n", what, n, err->message);
}

/* Numbers without tags. */
static struct kept_episode *original(struct made *made, uint32_t i)
{
    return make(made, 3 * i + 1, 1);
}

static kept_status is_original(void *user, const struct kept_episode *episode)
{
    struct kept_error none = {0};
    struct made made;
    unsigned number = 0;
    bool known =
        sscanf(episode->id, "fact-%u", &number) == 1 && number % 3 == 1 && number / 3 < N_EPISODES;
    struct kept_episode e = *episode;
    if (known && e.payload == NULL)
        e.payload = original(&made, number / 3)->payload;
    known = known && made_hash(&e, 1) == hashes[number / 3];
    check(known, "an episode that nobody wrote", number, &none);
    ++*(unsigned *)user;
    return KEPT_OK;
}

static void repair(unsigned at, unsigned least)
{
    struct kept_episodes_options options = {.bind = &made_bind};
    struct kept_episodes_repaired repaired = {0};
    struct kept_episodes *store;
    struct kept_error err = {0};
    unsigned n = 0;
    uint64_t n_damaged = 0;
    struct kept_episodes_reader reader = {is_original, NULL, &n};
    kept_status status = kept_episodes_repair(path, NULL, &repaired, &err);
    check(status == KEPT_OK || (least == 0 && err.message[0] != '\0'), "repair", at, &err);
    if (status != KEPT_OK)
        return;
    status = kept_episodes_open(path, &options, &store, &err);
    check(status == KEPT_OK, "opening what was repaired", at, &err);
    if (status != KEPT_OK)
        return;
    status = kept_episodes_each(store, true, &reader, &err);
    check(status == KEPT_OK && n == repaired.n_kept && n >= least, "what repair kept", at, &err);
    status = kept_episodes_verify(store, NULL, &n_damaged, &err);
    check(status == KEPT_OK && n_damaged == 0, "damage after repair", at, &err);
    n_kept_least = least > 0 && n < n_kept_least ? n : n_kept_least;
    kept_episodes_close(&store);
}

/* Everything that can be done with a damaged file. */
static void use(unsigned at, unsigned least)
{
    struct kept_episodes *store;
    struct kept_error err = {0};
    struct made made;
    unsigned n = 0;
    uint64_t count;
    int64_t live = kept_alloc_live();
    struct kept_episodes_reader reader = {is_original, NULL, &n};
    kept_status status = kept_episodes_open(path, NULL, &store, &err);
    check(status == KEPT_OK || err.message[0] != '\0', "an error without a sentence", at, &err);
    n_refused += status != KEPT_OK;
    if (status == KEPT_OK) {
        kept_episodes_each(store, false, &reader, &err);
        kept_episodes_each(store, true, &reader, &err);
        kept_episodes_verify(store, &reader, &count, &err);
        kept_episodes_count(store, &count, &err);
        for (uint32_t i = 0; i < 4; i++) {
            struct kept_episode *e = original(&made, made_random(&seed) % N_EPISODES);
            uint64_t hash = made_hash(e, 1);
            if (kept_episodes_load(store, e->id, made.payload, e->payload_bytes, &err) == KEPT_OK)
                check(made_hash(e, 1) == hash, "another payload", at, &err);
        }
        if (least == 0) { /* changing a damaged file is allowed to fail, not to crash */
            const char *values[] = {original(&made, 3)->id, original(&made, 7)->text};
            kept_episodes_put(store, original(&made, 9), NULL, NULL, &err);
            kept_episodes_forget(store, KEPT_EPISODES_BY_ID, values, 1, NULL, &err);
            kept_episodes_forget(store, KEPT_EPISODES_BY_TEXT, values + 1, 1, NULL, &err);
            kept_episodes_compact(store, &err);
        }
    }
    kept_episodes_close(&store);
    repair(at, least);
    check(kept_alloc_live() == live, "memory is left behind", at, &err);
}

static unsigned char *sound, *bytes;
static size_t n_sound;

static void begin(void)
{
    memcpy(bytes, sound, n_sound);
}

static void try_bytes(size_t n, unsigned at, unsigned least)
{
    struct kept_error none = {0};
    check(made_save(path, bytes, n), "writing", at, &none);
    use(at, least);
}

static size_t any_page(void)
{
    return made_random(&seed) % (n_sound / PAGE) * PAGE;
}

/* One flipped bit costs at most the episodes of one page. */
static void flip(unsigned turns)
{
    for (unsigned i = 0; i < turns; i++) {
        begin();
        bytes[made_random(&seed) % n_sound] ^= (unsigned char)(1u << made_random(&seed) % 8);
        try_bytes(n_sound, i, N_EPISODES - A_PAGE);
    }
    for (unsigned i = 0; i < turns; i++) { /* the first bytes of pages, where the pointers are */
        begin();
        for (unsigned k = 0; k < 1 + i % 6; k++)
            bytes[any_page() + made_random(&seed) % 40] = (unsigned char)made_random(&seed);
        try_bytes(n_sound, i, 0);
    }
    for (unsigned i = 0; i < 100; i++) { /* the header */
        begin();
        bytes[i] ^= (unsigned char)(1u << made_random(&seed) % 8);
        try_bytes(n_sound, i, N_EPISODES);
    }
}

static void lose_pages(unsigned turns)
{
    for (size_t page = 0; page < n_sound; page += PAGE) {
        begin();
        memset(bytes + page, page % 3 ? 0 : 0xAA, PAGE);
        try_bytes(n_sound, (unsigned)(page / PAGE), N_EPISODES - A_PAGE);
    }
    for (unsigned i = 0; i < turns; i++) {
        begin();
        size_t a = any_page(), b = any_page();
        memcpy(bytes + a, sound + b, PAGE);
        memcpy(bytes + b, sound + a, i % 2 ? PAGE : PAGE / 2);
        try_bytes(n_sound, i, 0);
    }
    for (unsigned i = 0; i < turns; i++) {
        begin();
        try_bytes(made_random(&seed) % n_sound, i, 0);
    }
}

/* All children of each inner page are one page, then the page itself, then the root. */
static void go_in_circles(void)
{
    for (unsigned how = 0; how < 4; how++) {
        begin();
        unsigned n_inner = 0;
        for (size_t page = PAGE; page < n_sound; page += PAGE) {
            unsigned char *at = bytes + page;
            if (at[0] != 0x02 && at[0] != 0x05)
                continue;
            n_inner++;
            size_t to = how == 0 ? page / PAGE + 1 : how == 1 ? 3 : how == 2 ? page / PAGE + 2 : 5;
            unsigned n_cells = at[3] * 256u + at[4];
            for (unsigned i = 0; i <= n_cells; i++) {
                size_t cell = i < n_cells ? at[12 + 2 * i] * 256u + at[13 + 2 * i] : 8;
                if (cell + 4 <= PAGE) {
                    memset(at + cell, 0, 2);
                    at[cell + 2] = (unsigned char)(to >> 8);
                    at[cell + 3] = (unsigned char)to;
                }
            }
        }
        struct kept_error none = {0};
        check(n_inner > 0, "there are inner pages", how, &none);
        try_bytes(n_sound, how, 0);
    }
}

static bool make_sound(void)
{
    struct kept_episodes_options options = {
        .create = true, .bind = &made_bind, .stats = made_stats()};
    struct kept_episodes *store;
    struct kept_error err = {0};
    struct made made;
    remove(path);
    if (kept_episodes_open(path, &options, &store, &err) != KEPT_OK ||
        kept_episodes_begin(store, &err) != KEPT_OK)
        return false;
    for (uint32_t i = 0; i < N_EPISODES; i++) {
        struct kept_episode *e = original(&made, i);
        hashes[i] = made_hash(e, 1);
        if (kept_episodes_put(store, e, NULL, NULL, &err) != KEPT_OK)
            return false;
    }
    bool ok = kept_episodes_commit(store, &err) == KEPT_OK;
    kept_episodes_close(&store);
    sound = made_load(path, &n_sound);
    bytes = malloc(n_sound);
    return ok && sound != NULL && bytes != NULL;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    snprintf(path, sizeof path, "%s/kept-damaged-%ld.facts", argv[1], (long)getpid());
    if (!make_sound()) {
        fprintf(stderr, "cannot begin\n");
        return 1;
    }
    begin();
    try_bytes(n_sound, 0, N_EPISODES);
    go_in_circles();
    flip(300);
    lose_pages(100);
    remove(path);
    free(sound);
    free(bytes);
    fprintf(stderr, "%zu bytes, %u checks, %u files refused, at least %u of %u kept, %u failed\n",
            n_sound, n_cases, n_refused, n_kept_least, (unsigned)N_EPISODES, n_failed);
    return n_failed ? 1 : 0;
}

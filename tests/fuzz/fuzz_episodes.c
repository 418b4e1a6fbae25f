/* tests/fuzz/fuzz_episodes.c: any bytes as a file of episodic memory: read, verified, changed,
 * repaired. What is read must be of the bind's sizes; failures must come with a sentence and leave
 * nothing behind. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "memory/episodes.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static kept_status look(void *user, const struct kept_episode *e)
{
    const struct kept_episodes_bind *bind = user;
    if (e->payload_bytes != kept_episodes_payload_bytes(bind, e->n_tokens) || !e->text[0])
        abort();
    volatile uint8_t last = 0;
    if (e->payload != NULL)
        last = ((const uint8_t *)e->payload)[e->payload_bytes - 1];
    (void)last;
    return e->address[bind->n_embd - 1] <= 1.01f ? KEPT_OK : KEPT_E_CHECK;
}

static void use(const char *path, bool read_only)
{
    struct kept_episodes_options options = {.read_only = read_only, .timeout_ms = 1};
    struct kept_episodes *store;
    struct kept_error err = {0};
    const char *names[] = {"fact-1", "a"};
    uint64_t n;
    if (kept_episodes_open(path, &options, &store, &err) != KEPT_OK) {
        if (store != NULL || err.message[0] == '\0')
            abort();
        return;
    }
    struct kept_episodes_bind bind = *kept_episodes_bound(store);
    struct kept_episodes_reader reader = {look, NULL, &bind};
    if (kept_episodes_each(store, false, &reader, &err) == KEPT_E_CHECK ||
        kept_episodes_each(store, true, &reader, &err) == KEPT_E_CHECK)
        abort();
    kept_episodes_verify(store, &reader, &n, &err);
    if (!read_only) {
        kept_episodes_forget(store, KEPT_EPISODES_BY_ID, names, 2, &n, &err);
        kept_episodes_forget(store, KEPT_EPISODES_BY_TAG, names, 2, &n, &err);
        kept_episodes_compact(store, &err);
    }
    kept_episodes_close(&store);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    char path[64], journal[80];
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : ".";
    int64_t live = kept_alloc_live();
    snprintf(path, sizeof path, "%s/fuzz-episodes-%ld", folder, (long)getpid());
    snprintf(journal, sizeof journal, "%s-journal", path);
    FILE *file = fopen(path, "wb");
    if (file == NULL || (n_bytes > 0 && fwrite(bytes, 1, n_bytes, file) != n_bytes))
        abort();
    fclose(file);
    use(path, true);
    use(path, false);
    struct kept_error err = {0};
    if (kept_episodes_repair(path, NULL, NULL, &err) == KEPT_OK)
        use(path, false);
    remove(path);
    remove(journal);
    if (kept_alloc_live() != live)
        abort();
    return 0;
}

/* memory/stub_episodes.c: stands for the file of episodic memory in a build without SQLite. No
 * store ever exists, so only what opens or repairs one says why. */
#include "memory/episodes.h"

#include "base/status.h"

static kept_status without(const char *path, struct kept_error *err)
{
    return kept_fail(err, KEPT_E_UNSUPPORTED,
                     "facts '%s': SQLite was left out when this library was built",
                     path != NULL ? path : "");
}

static kept_status none(struct kept_error *err)
{
    return kept_fail(err, KEPT_E_STATE, "there is no store of facts");
}

uint64_t kept_episodes_payload_bytes(const struct kept_episodes_bind *bind, uint32_t n_tokens)
{
    (void)bind;
    (void)n_tokens;
    return 0;
}

kept_status kept_episodes_open(const char *path, const struct kept_episodes_options *options,
                               struct kept_episodes **out, struct kept_error *err)
{
    (void)options;
    *out = NULL;
    return without(path, err);
}

void kept_episodes_close(struct kept_episodes **store)
{
    (void)store;
}

const struct kept_episodes_bind *kept_episodes_bound(const struct kept_episodes *store)
{
    static const struct kept_episodes_bind nothing = {0};
    (void)store;
    return &nothing;
}

const float *kept_episodes_stats(const struct kept_episodes *store)
{
    (void)store;
    return NULL;
}

kept_status kept_episodes_set_stats(struct kept_episodes *store, uint64_t model_hash,
                                    const float *stats, struct kept_error *err)
{
    (void)store;
    (void)model_hash;
    (void)stats;
    return none(err);
}

kept_status kept_episodes_version(struct kept_episodes *store, uint32_t *out,
                                  struct kept_error *err)
{
    (void)store;
    (void)out;
    return none(err);
}

kept_status kept_episodes_begin(struct kept_episodes *store, struct kept_error *err)
{
    (void)store;
    return none(err);
}

kept_status kept_episodes_commit(struct kept_episodes *store, struct kept_error *err)
{
    (void)store;
    return none(err);
}

void kept_episodes_rollback(struct kept_episodes *store)
{
    (void)store;
}

void kept_episodes_name(const char *tag, const char *text, char id[KEPT_EPISODE_ID_BYTES])
{
    (void)tag;
    (void)text;
    id[0] = '\0';
}

kept_status kept_episodes_put(struct kept_episodes *store, const struct kept_episode *episode,
                              char id[KEPT_EPISODE_ID_BYTES], uint32_t *n_superseded,
                              struct kept_error *err)
{
    (void)store;
    (void)episode;
    (void)id;
    (void)n_superseded;
    return none(err);
}

kept_status kept_episodes_forget(struct kept_episodes *store, enum kept_episodes_key key,
                                 const char *const *values, size_t n_values, uint64_t *n_forgotten,
                                 struct kept_error *err)
{
    (void)store;
    (void)key;
    (void)values;
    (void)n_values;
    (void)n_forgotten;
    return none(err);
}

kept_status kept_episodes_compact(struct kept_episodes *store, struct kept_error *err)
{
    (void)store;
    return none(err);
}

kept_status kept_episodes_each(struct kept_episodes *store, bool with_payload,
                               const struct kept_episodes_reader *reader, struct kept_error *err)
{
    (void)store;
    (void)with_payload;
    (void)reader;
    return none(err);
}

kept_status kept_episodes_load(struct kept_episodes *store, const char *id, void *payload,
                               size_t payload_bytes, struct kept_error *err)
{
    (void)store;
    (void)id;
    (void)payload;
    (void)payload_bytes;
    return none(err);
}

kept_status kept_episodes_count(struct kept_episodes *store, uint64_t *out, struct kept_error *err)
{
    (void)store;
    (void)out;
    return none(err);
}

kept_status kept_episodes_verify(struct kept_episodes *store,
                                 const struct kept_episodes_reader *reader, uint64_t *n_damaged,
                                 struct kept_error *err)
{
    (void)store;
    (void)reader;
    (void)n_damaged;
    return none(err);
}

kept_status kept_episodes_repair(const char *path, const struct kept_episodes_reader *reader,
                                 struct kept_episodes_repaired *out, struct kept_error *err)
{
    (void)reader;
    (void)out;
    return without(path, err);
}

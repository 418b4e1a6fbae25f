/* memory/episodes.h: the file of episodic memory: episodes in SQLite, bound to one model.
 *
 * It knows bytes, not models or devices: whoever calls says what an address and a payload are. What
 * is promised, and its limits, are in docs/facts.md ("The file").
 *
 * An episode's id is text. When the caller gives none it is a hash of tag and text, and nothing in
 * the file counts: a store that held an episode and forgot it is read exactly like one that never
 * held it. The order is that of the ids' bytes everywhere.
 *
 * Every change is a transaction of its own or part of the one that is open; a change that fails
 * rolls back all of it. Without SQLite in the build, opening is KEPT_E_UNSUPPORTED.
 *
 * Thread-safety: a store belongs to one thread at a time. Many processes may read a file at once,
 * one may write; who finds it busy waits for a while, then fails with KEPT_E_IO and says so.
 */
#ifndef KEPT_MEMORY_EPISODES_H
#define KEPT_MEMORY_EPISODES_H

#include "kept/common.h"

#define KEPT_EPISODE_ID_BYTES   128u   /* the longest id or tag, its NUL included */
#define KEPT_EPISODE_TEXT_BYTES 65536u /* the longest text, its NUL included */
/* Rows of n_embd of the statistics: mean, 1 / standard deviation, backgrounds (address.h). */
#define KEPT_EPISODES_STATS 42u
#define KEPT_EPISODE_MAX_TOKENS 4096u

/* Types of payloads, as in GGUF. */
enum kept_episode_payload { KEPT_EPISODE_F16 = 1, KEPT_EPISODE_Q8_0 = 8 };

/* What a store belongs to. */
struct kept_episodes_bind {
    uint64_t header_hash; /* of the model's file header */
    uint64_t model_hash;  /* of its weights; 0: not known (yet), fits any */
    uint32_t n_embd, n_layers;
    uint32_t
        kv_row; /* elements of K, and of V, of one token in one layer; q8_0: a multiple of 32 */
    uint32_t address_layer;
    uint32_t payload_type; /* enum kept_episode_payload */
};

/* K and V of n_tokens in all layers; 0 when the bind makes no sense. */
uint64_t kept_episodes_payload_bytes(const struct kept_episodes_bind *bind, uint32_t n_tokens);

struct kept_episode {
    const char *id;   /* writing: NULL for a hash of tag and text */
    const char *tag;  /* "" (or NULL, writing) for none */
    const char *text; /* at least one byte */
    int64_t time_s;
    uint32_t n_tokens;
    const float *address; /* [n_embd], of length 1 */
    const void *payload;  /* any alignment; NULL when it was not asked for */
    size_t payload_bytes; /* kept_episodes_payload_bytes, also without payload */
};

/* ---- opening ---- */

struct kept_episodes;

struct kept_episodes_options {
    bool create;         /* makes a store where there is no file, or an empty one; needs bind */
    bool read_only;      /* never writes to the file or its folder */
    uint32_t timeout_ms; /* how long to wait for other processes; 0: 2000 */
    /* What the store has to belong to (KEPT_E_MISMATCH else); NULL: to whatever it does. */
    const struct kept_episodes_bind *bind;
    /* Creating: statistics, [KEPT_EPISODES_STATS][n_embd]; NULL: kept_episodes_set_stats. */
    const float *stats;
};

/* KEPT_E_IO (no such file, not writable, busy), KEPT_E_FORMAT (no store, or damaged),
 * KEPT_E_MISMATCH, KEPT_E_UNSUPPORTED (a later version, no SQLite), KEPT_E_ARGUMENT,
 * KEPT_E_HOST_MEMORY. A write that was cut off is undone here; that needs a store that is not
 * opened for reading only. */
kept_status kept_episodes_open(const char *path, const struct kept_episodes_options *options,
                               struct kept_episodes **out, struct kept_error *err);
/* An open transaction is rolled back. */
void kept_episodes_close(struct kept_episodes **store);

const struct kept_episodes_bind *kept_episodes_bound(const struct kept_episodes *store);
/* [KEPT_EPISODES_STATS][n_embd]; NULL while the store has none. */
const float *kept_episodes_stats(const struct kept_episodes *store);
/* Once per store, before its first episode: the statistics, and the hash of the weights. Where
 * another process was faster, its statistics are taken over when the hash is the same. */
kept_status kept_episodes_set_stats(struct kept_episodes *store, uint64_t model_hash,
                                    const float *stats, struct kept_error *err);
/* Differs from the last answer when somebody else has changed the file since. */
kept_status kept_episodes_version(struct kept_episodes *store, uint32_t *out,
                                  struct kept_error *err);

/* ---- writing ---- */

/* What is written between is one transaction. After a failed write or commit nothing of it is
 * there; commit then returns KEPT_E_STATE, rollback always ends it. */
kept_status kept_episodes_begin(struct kept_episodes *store, struct kept_error *err);
kept_status kept_episodes_commit(struct kept_episodes *store, struct kept_error *err);
void kept_episodes_rollback(struct kept_episodes *store);

/* "0123456789abcdef": what an episode without an id is called. */
void kept_episodes_name(const char *tag, const char *text, char id[KEPT_EPISODE_ID_BYTES]);

/* Writes an episode over the one of the same id, and removes others of the same tag if it has one:
 * *n_superseded (may be NULL). id (may be NULL) takes the name it got. */
kept_status kept_episodes_put(struct kept_episodes *store, const struct kept_episode *episode,
                              char id[KEPT_EPISODE_ID_BYTES], uint32_t *n_superseded,
                              struct kept_error *err);

enum kept_episodes_key { KEPT_EPISODES_BY_ID, KEPT_EPISODES_BY_TAG, KEPT_EPISODES_BY_TEXT };
/* Overwrites text, address and payload with zeros and removes the episode. None found is no
 * failure. The tag "" finds nothing. */
kept_status kept_episodes_forget(struct kept_episodes *store, enum kept_episodes_key key,
                                 const char *const *values, size_t n_values, uint64_t *n_forgotten,
                                 struct kept_error *err);

/* Rewrites the file without the room of what was removed. Takes host memory of about the file's
 * size. Afterwards two stores of equal episodes are equal files, but for SQLite's counters in the
 * first 100 bytes. Not inside a transaction. */
kept_status kept_episodes_compact(struct kept_episodes *store, struct kept_error *err);

/* ---- reading ---- */

/* Episodes as they are read. What episode points to is valid during the call, which must not use
 * the store; another status than KEPT_OK ends the reading and is returned. A damaged episode is
 * never given to `episode`; damaged (may be NULL) tells of it ("" for the file as a whole). */
struct kept_episodes_reader {
    kept_status (*episode)(void *user, const struct kept_episode *episode);
    void (*damaged)(void *user, const char *id, const char *why);
    void *user;
};

/* All, by rising id; the checksum of a payload is looked at only when it is read. */
kept_status kept_episodes_each(struct kept_episodes *store, bool with_payload,
                               const struct kept_episodes_reader *reader, struct kept_error *err);
/* One: KEPT_E_ARGUMENT when there is none of this id, KEPT_E_FORMAT when it is damaged. */
kept_status kept_episodes_load(struct kept_episodes *store, const char *id, void *payload,
                               size_t payload_bytes, struct kept_error *err);
/* Damaged ones too. */
kept_status kept_episodes_count(struct kept_episodes *store, uint64_t *out, struct kept_error *err);

/* ---- damage ---- */

/* Looks at the whole file and every checksum. KEPT_OK also when something is damaged: each damage
 * goes to the reader (whose `episode` may be NULL), and is counted. */
kept_status kept_episodes_verify(struct kept_episodes *store,
                                 const struct kept_episodes_reader *reader, uint64_t *n_damaged,
                                 struct kept_error *err);

/* Makes the file anew from every sound episode that its pages hold, also when SQLite refuses it,
 * and reports those that are left out. The old file is replaced at once, at the end; on failure it
 * stays as it is. KEPT_E_FORMAT when both copies of what binds the store are lost. */
struct kept_episodes_repaired {
    uint64_t n_kept, n_removed;
};
kept_status kept_episodes_repair(const char *path, const struct kept_episodes_reader *reader,
                                 struct kept_episodes_repaired *out, struct kept_error *err);

#endif

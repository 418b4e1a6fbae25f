/* memory/episodes_private.h: what the parts of the file of episodic memory share.
 *
 * Three tables and two indices (the statements below, word for word: any other schema is refused).
 * `store` and `spare` have the same row, on different pages, so that one damaged page does not take
 * the binding and the statistics away. `episodes` has no row numbers; its indices are of hashes, so
 * that tags and texts stand in one place each. Fields before `payload` are read without it.
 *
 * SQLite moves what stands on pages of a tree about, and copies of it can stay behind where pages
 * are not full; only the pages on which long records go on are always overwritten when they are
 * freed. At most 1002 bytes of a record stand on the tree's page, so `room`, 1004 zeros, comes
 * before everything that must not stay behind.
 *
 *     sum          XXH3 over everything but the payload's bytes, seeded with what binds the store
 *     payload_sum  XXH3 of the payload
 */
#ifndef KEPT_MEMORY_EPISODES_PRIVATE_H
#define KEPT_MEMORY_EPISODES_PRIVATE_H

#include <sqlite3.h>

#include "memory/episodes.h"

#define EPISODES_APPLICATION 0x6B707466 /* "kptf" */
#define EPISODES_VERSION     1
#define EPISODES_PAGE        4096u
#define EPISODES_ROOM        1004
#define EPISODES_MAX_BYTES   ((size_t)512 << 20) /* of one payload */

#define EPISODES_BIND_COLUMNS                                                             \
    "(copy INTEGER PRIMARY KEY,header_hash INTEGER NOT NULL,model_hash INTEGER NOT NULL," \
    "n_embd INTEGER NOT NULL,n_layers INTEGER NOT NULL,kv_row INTEGER NOT NULL,"          \
    "address_layer INTEGER NOT NULL,payload_type INTEGER NOT NULL,stats BLOB NOT NULL,"   \
    "sum INTEGER NOT NULL)"
#define EPISODES_SQL_STORE "CREATE TABLE store" EPISODES_BIND_COLUMNS
#define EPISODES_SQL_SPARE "CREATE TABLE spare" EPISODES_BIND_COLUMNS
#define EPISODES_SQL_EPISODES                                                                   \
    "CREATE TABLE episodes(id TEXT NOT NULL PRIMARY KEY,room BLOB NOT NULL,"                    \
    "sum INTEGER NOT NULL,payload_sum INTEGER NOT NULL,time INTEGER NOT NULL,n_tokens INTEGER " \
    "NOT NULL,"                                                                                 \
    "tag_hash INTEGER NOT NULL,text_hash INTEGER NOT NULL,address BLOB NOT NULL,"               \
    "tag TEXT NOT NULL,text TEXT NOT NULL,payload BLOB NOT NULL)WITHOUT ROWID"
#define EPISODES_SQL_BY_TAG  "CREATE INDEX by_tag ON episodes(tag_hash)"
#define EPISODES_SQL_BY_TEXT "CREATE INDEX by_text ON episodes(text_hash)"

enum { STORE_COLUMNS = 10, EPISODE_COLUMNS = 12 };

/* The row of `store` or `spare`, from SQLite or from a page. */
struct store_fields {
    int64_t numbers[7]; /* header_hash … payload_type */
    const void *stats;
    size_t stats_bytes; /* 0: none yet */
    int64_t sum;
};

/* A row of `episodes`, likewise. */
struct episode_fields {
    struct {
        const char *text;
        size_t n_bytes;
    } id, tag, text;
    int64_t sum, payload_sum, time_s, n_tokens, tag_hash, text_hash;
    const void *address, *payload; /* payload NULL: not read */
    size_t address_bytes, payload_bytes;
};

struct kept_episodes {
    sqlite3 *db;
    char *path;
    struct kept_episodes_bind bind;
    uint64_t seed;  /* of the sums: a hash of the binding and the statistics */
    float *stats;   /* [KEPT_EPISODES_STATS][n_embd], or NULL */
    float *address; /* [n_embd]: of the episode being read */
    bool read_only, in_transaction, broken, reading;
    uint64_t patience; /* steps of SQLite's machine that are left to the present call */
};

/* ---- episodes_sql.c: SQLite ---- */

/* The error of the last call, with what was being done. */
kept_status kept_episodes_fail(const struct kept_episodes *store, const char *doing,
                               struct kept_error *err);
kept_status kept_episodes_prepare(struct kept_episodes *store, const char *sql, sqlite3_stmt **out,
                                  struct kept_error *err);
/* Runs a statement without results. */
kept_status kept_episodes_run(struct kept_episodes *store, const char *sql, struct kept_error *err);
/* The number that a statement gives; 0 when it gives none. */
kept_status kept_episodes_number(struct kept_episodes *store, const char *sql, int64_t *out,
                                 struct kept_error *err);
/* Renews the patience with a file of this size; every public call begins with it. */
void kept_episodes_patience(struct kept_episodes *store);
/* Opens the database with everything that guards against hostile files; looks at nothing yet. */
kept_status kept_episodes_connect(struct kept_episodes *store, const char *path, int flags,
                                  uint32_t timeout_ms, struct kept_error *err);
/* Makes a connection that is not read_only fit for writing. */
kept_status kept_episodes_make_ready(struct kept_episodes *store, struct kept_error *err);
/* The file below SQLite: its handle (NULL: none), its size, bytes of it (zeros past its end). */
sqlite3_file *kept_episodes_raw(const struct kept_episodes *store);
uint64_t kept_episodes_raw_bytes(const struct kept_episodes *store);
bool kept_episodes_read_raw(const struct kept_episodes *store, uint64_t offset, void *to,
                            int n_bytes);

/* ---- episodes.c ---- */

/* An empty store in an empty database, in one transaction. */
kept_status kept_episodes_create(struct kept_episodes *store, const struct kept_episodes_bind *bind,
                                 const float *stats, struct kept_error *err);
/* Takes over what a row of `store` says; false when it is damaged. */
kept_status kept_episodes_take(struct kept_episodes *store, const struct store_fields *fields,
                               bool *sound, struct kept_error *err);

/* Takes over the first sound row of `store` and `spare`; counts those equal to it. */
kept_status kept_episodes_read_bind(struct kept_episodes *store, uint32_t *n_sound,
                                    struct kept_error *err);
/* The same where there were no statistics yet. */
kept_status kept_episodes_refresh(struct kept_episodes *store, struct kept_error *err);

/* ---- episodes_row.c ---- */

/* NULL for a sound row, else what is wrong with it. Copies the address. */
const char *kept_episodes_check(struct kept_episodes *store, const struct episode_fields *fields);
void kept_episodes_sums(const struct kept_episodes *store, struct episode_fields *fields);
uint64_t kept_episodes_text_hash(const char *text, size_t n_bytes);
kept_status kept_episodes_insert(struct kept_episodes *store, const struct episode_fields *fields,
                                 struct kept_error *err);

/* ---- episodes_salvage.c ---- */

/* Makes `to` a store with what binds `from`, and every sound episode of the pages of `from`. */
kept_status kept_episodes_salvage(struct kept_episodes *from, struct kept_episodes *to,
                                  const struct kept_episodes_reader *reader, uint64_t *n_removed,
                                  struct kept_error *err);

#endif

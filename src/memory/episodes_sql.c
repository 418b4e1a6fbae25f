/* memory/episodes_sql.c: SQLite under the file of episodic memory: connecting, statements, errors.
 *
 * A file may be hostile. Triggers, views, extensions and functions in schemas are off, pages are
 * checked when they are loaded, nothing is mapped into memory. What those leave is a tree whose
 * pages point at each other in a circle: walking it would not end in our time. So each call has
 * patience, steps of SQLite's machine in proportion to the file's size, far more than any sound
 * file needs; a call that runs out of it reports damage.
 *
 * Deleted bytes are overwritten (secure_delete), the journal is a file that is deleted to commit,
 * and its folder is synchronised after that (synchronous EXTRA): a committed change, forgetting
 * included, survives a power cut that follows at once. Nothing temporary is written elsewhere.
 */
#include "memory/episodes_private.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"

#define DEFAULT_TIMEOUT_MS 2000
#define STEPS              10000 /* between two looks at the patience */
#define STEPS_PER_PAGE     10000u
#define STEPS_LEAST        10000000u

static int spend(void *user)
{
    struct kept_episodes *store = user;
    if (store->patience < STEPS)
        return 1;
    store->patience -= STEPS;
    return 0;
}

sqlite3_file *kept_episodes_raw(const struct kept_episodes *store)
{
    sqlite3_file *file = NULL;
    if (sqlite3_file_control(store->db, "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK)
        return NULL;
    return file != NULL && file->pMethods != NULL ? file : NULL;
}

uint64_t kept_episodes_raw_bytes(const struct kept_episodes *store)
{
    sqlite3_file *file = kept_episodes_raw(store);
    sqlite3_int64 n_bytes = 0;
    if (file == NULL || file->pMethods->xFileSize(file, &n_bytes) != SQLITE_OK || n_bytes < 0)
        return 0;
    return (uint64_t)n_bytes;
}

void kept_episodes_patience(struct kept_episodes *store)
{
    store->patience = STEPS_LEAST + kept_episodes_raw_bytes(store) / EPISODES_PAGE * STEPS_PER_PAGE;
}

bool kept_episodes_read_raw(const struct kept_episodes *store, uint64_t offset, void *to,
                            int n_bytes)
{
    sqlite3_file *file = kept_episodes_raw(store);
    if (file == NULL)
        return false;
    int rc = file->pMethods->xRead(file, to, n_bytes, (sqlite3_int64)offset);
    return rc == SQLITE_OK || rc == SQLITE_IOERR_SHORT_READ;
}

/* What an error means for whoever holds the store. */
static kept_status meaning(int extended, const char **why)
{
    switch (extended & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        *why = "it is busy: another process is writing to it, or has been reading for long";
        return KEPT_E_IO;
    case SQLITE_NOMEM:
        *why = "host memory ran out";
        return KEPT_E_HOST_MEMORY;
    case SQLITE_INTERRUPT:
        *why = "its pages point at each other in circles";
        return KEPT_E_FORMAT;
    case SQLITE_READONLY:
        if (extended == SQLITE_READONLY_ROLLBACK || extended == SQLITE_READONLY_RECOVERY)
            *why = "a write to it was cut off: open it once for writing to undo that";
        else if (extended == SQLITE_READONLY_DBMOVED)
            *why = "it was replaced by another file since it was opened: open it again";
        else
            *why = "it may not be written";
        return KEPT_E_IO;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR: /* our statements are right, so its schema is not */
    case SQLITE_SCHEMA:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_TOOBIG:
        return KEPT_E_FORMAT;
    default:
        return KEPT_E_IO;
    }
}

kept_status kept_episodes_fail(const struct kept_episodes *store, const char *doing,
                               struct kept_error *err)
{
    int extended = sqlite3_extended_errcode(store->db);
    const char *why = sqlite3_errmsg(store->db);
    kept_status status = meaning(extended, &why);
    return kept_fail(err, status, "facts '%s': cannot %s: %s (SQLite %d)", store->path, doing, why,
                     extended);
}

kept_status kept_episodes_prepare(struct kept_episodes *store, const char *sql, sqlite3_stmt **out,
                                  struct kept_error *err)
{
    *out = NULL;
    if (sqlite3_prepare_v2(store->db, sql, -1, out, NULL) != SQLITE_OK)
        return kept_episodes_fail(store, "be read", err);
    return KEPT_OK;
}

kept_status kept_episodes_number(struct kept_episodes *store, const char *sql, int64_t *out,
                                 struct kept_error *err)
{
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_prepare(store, sql, &stmt, err);
    if (status != KEPT_OK)
        return status;
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *out = sqlite3_column_int64(stmt, 0);
    else if (rc == SQLITE_DONE)
        *out = 0;
    else
        status = kept_episodes_fail(store, "be read", err);
    sqlite3_finalize(stmt);
    return status;
}

kept_status kept_episodes_run(struct kept_episodes *store, const char *sql, struct kept_error *err)
{
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_prepare(store, sql, &stmt, err);
    if (status != KEPT_OK)
        return status;
    int rc;
    do {
        rc = sqlite3_step(stmt);
    } while (rc == SQLITE_ROW);
    if (rc != SQLITE_DONE)
        status = kept_episodes_fail(store, "be used", err);
    sqlite3_finalize(stmt);
    return status;
}

/* ---- connecting ---- */

static const struct {
    int option, on;
} switches[] = {
    {SQLITE_DBCONFIG_DEFENSIVE, 1},      {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
    {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0}, {SQLITE_DBCONFIG_ENABLE_VIEW, 0},
    {SQLITE_DBCONFIG_DQS_DML, 0},        {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
};

static const struct {
    int limit, most;
} limits[] = {
    {SQLITE_LIMIT_LENGTH, (int)(EPISODES_MAX_BYTES + (16u << 20))},
    {SQLITE_LIMIT_SQL_LENGTH, 10000},
    {SQLITE_LIMIT_COLUMN, 32},
    {SQLITE_LIMIT_ATTACHED, 1}, /* compacting needs it */
    {SQLITE_LIMIT_TRIGGER_DEPTH, 1},
    {SQLITE_LIMIT_WORKER_THREADS, 0},
};

static const char *const pragmas[] = {
    "PRAGMA cell_size_check=ON",     "PRAGMA mmap_size=0",
    "PRAGMA temp_store=MEMORY",      "PRAGMA locking_mode=NORMAL",
    "PRAGMA recursive_triggers=OFF",
};

/* Of a database that does not exist yet, and how it is written. */
static const char *const write_pragmas[] = {
    "PRAGMA page_size=4096",      "PRAGMA encoding='UTF-8'",  "PRAGMA auto_vacuum=NONE",
    "PRAGMA journal_mode=DELETE", "PRAGMA synchronous=EXTRA",
};

static kept_status guard(struct kept_episodes *store, uint32_t timeout_ms, struct kept_error *err)
{
    sqlite3_extended_result_codes(store->db, 1);
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++)
        sqlite3_db_config(store->db, switches[i].option, switches[i].on, NULL);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        sqlite3_limit(store->db, limits[i].limit, limits[i].most);
    sqlite3_busy_timeout(store->db, timeout_ms != 0 ? (int)timeout_ms : DEFAULT_TIMEOUT_MS);
    sqlite3_progress_handler(store->db, STEPS, spend, store);
    kept_episodes_patience(store);
    kept_status status = KEPT_OK;
    for (size_t i = 0; i < sizeof pragmas / sizeof *pragmas && status == KEPT_OK; i++)
        status = kept_episodes_run(store, pragmas[i], err);
    return status;
}

/* In write-ahead mode even a reader writes, so such a file is refused before SQLite looks at it. */
static kept_status refuse_wal(struct kept_episodes *store, struct kept_error *err)
{
    unsigned char modes[2] = {0};
    if (kept_episodes_read_raw(store, 18, modes, 2) && (modes[0] > 1 || modes[1] > 1))
        return kept_fail(err, KEPT_E_FORMAT,
                         "facts '%s': is no store of facts, or damaged: its journal mode is %u, %u",
                         store->path, modes[0], modes[1]);
    return KEPT_OK;
}

static kept_status prepare_writing(struct kept_episodes *store, struct kept_error *err)
{
    int64_t on = 0;
    kept_status status = KEPT_OK;
    if (sqlite3_db_readonly(store->db, "main") != 0)
        return kept_fail(err, KEPT_E_IO, "facts '%s': may not be written; open it for reading only",
                         store->path);
    for (size_t i = 0; i < sizeof write_pragmas / sizeof *write_pragmas && status == KEPT_OK; i++)
        status = kept_episodes_run(store, write_pragmas[i], err);
    if (status == KEPT_OK)
        status = kept_episodes_number(store, "PRAGMA secure_delete=ON", &on, err);
    if (status == KEPT_OK && on != 1)
        return kept_fail(err, KEPT_E_UNSUPPORTED,
                         "facts '%s': this SQLite (%s) does not overwrite what is deleted",
                         store->path, sqlite3_libversion());
    return status;
}

/* Names that SQLite reads otherwise: "file:…" as an address, ":…" as its own. */
static char *plain_name(const char *path)
{
    bool special = path[0] == ':' || strncmp(path, "file:", 5) == 0;
    size_t n = strlen(path);
    char *name = kept_alloc(n + 3);
    if (name != NULL)
        kept_snprintf(name, n + 3, "%s%s", special ? "./" : "", path);
    return name;
}

kept_status kept_episodes_connect(struct kept_episodes *store, const char *path, int flags,
                                  uint32_t timeout_ms, struct kept_error *err)
{
    store->path = plain_name(path);
    if (store->path == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to open facts '%s'", path);
    int rc = sqlite3_open_v2(store->path, &store->db,
                             flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL);
    if (store->db == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to open facts '%s'", path);
    if (rc != SQLITE_OK)
        return kept_episodes_fail(store, "be opened", err);
    return guard(store, timeout_ms, err);
}

kept_status kept_episodes_make_ready(struct kept_episodes *store, struct kept_error *err)
{
    kept_status status = refuse_wal(store, err);
    if (status == KEPT_OK && !store->read_only)
        status = prepare_writing(store, err);
    return status;
}

/* memory/episodes_repair.c: a file of episodic memory is made anew beside the damaged one, and
 * takes its name at the end.
 *
 * The damaged file is locked below SQLite, which may not understand it any more, until it has been
 * replaced: no other process writes to it meanwhile, and one that has it open is told by SQLite
 * that it was replaced. Systems that do not rename over an open file have it closed first.
 */
#include "memory/episodes_private.h"

#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/status.h"
#include "base/str.h"

#define WAIT_MS 2000
#define TURN_MS 20

struct repair {
    struct kept_episodes *from, *to;
    char *path, *new_path, *journal, *new_journal;
};

static char *join(const char *path, const char *end)
{
    size_t n = strlen(path) + strlen(end) + 1;
    char *text = kept_alloc(n);
    if (text != NULL)
        kept_snprintf(text, n, "%s%s", path, end);
    return text;
}

/* A write that was cut off is undone, as far as SQLite understands the file. */
static kept_status undo_cut_write(struct kept_episodes *from, struct kept_error *err)
{
    uint8_t modes[2];
    int64_t any;
    if (!kept_episodes_read_raw(from, 18, modes, 2) || modes[0] != 1 || modes[1] != 1)
        return KEPT_OK;
    kept_status status =
        kept_episodes_number(from, "SELECT 1 FROM sqlite_master LIMIT 1", &any, err);
    return status == KEPT_E_FORMAT ? KEPT_OK : status;
}

static kept_status lock(struct kept_episodes *from, struct kept_error *err)
{
    static const int levels[] = {SQLITE_LOCK_SHARED, SQLITE_LOCK_RESERVED, SQLITE_LOCK_EXCLUSIVE};
    sqlite3_file *file = kept_episodes_raw(from);
    int waited_ms = 0;
    if (file == NULL || sqlite3_db_readonly(from->db, "main") != 0)
        return kept_fail(err, KEPT_E_IO, "facts '%s' may not be written", from->path);
    for (size_t i = 0; i < sizeof levels / sizeof *levels;) {
        int rc = file->pMethods->xLock(file, levels[i]);
        if (rc == SQLITE_OK) {
            i++;
            continue;
        }
        if ((rc & 0xff) != SQLITE_BUSY || waited_ms >= WAIT_MS)
            return kept_fail(err, KEPT_E_IO, "facts '%s' are in use by another process (SQLite %d)",
                             from->path, rc);
        sqlite3_sleep(TURN_MS);
        waited_ms += TURN_MS;
    }
    return KEPT_OK;
}

/* Beside the file itself, wherever a link to it stands. */
static kept_status name_files(struct repair *r, struct kept_error *err)
{
    const char *path = sqlite3_db_filename(r->from->db, "main");
    path = path != NULL && path[0] != '\0' ? path : r->from->path;
    r->path = join(path, "");
    r->journal = join(path, "-journal");
    r->new_path = join(path, ".repair");
    r->new_journal = join(path, ".repair-journal");
    if (r->path == NULL || r->journal == NULL || r->new_path == NULL || r->new_journal == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to repair facts '%s'", path);
    return KEPT_OK;
}

static kept_status open_both(struct repair *r, const char *path, struct kept_error *err)
{
    kept_status status = kept_episodes_connect(r->from, path, SQLITE_OPEN_READWRITE, WAIT_MS, err);
    if (status == KEPT_OK)
        status = name_files(r, err);
    if (status == KEPT_OK)
        status = undo_cut_write(r->from, err);
    if (status == KEPT_OK)
        status = lock(r->from, err);
    if (status != KEPT_OK)
        return status;
    kept_file_remove(r->new_path); /* of a repair that was cut off */
    kept_file_remove(r->new_journal);
    status = kept_file_create_like(r->new_path, r->path, err);
    if (status == KEPT_OK)
        status = kept_episodes_connect(r->to, r->new_path, SQLITE_OPEN_READWRITE, WAIT_MS, err);
    return status == KEPT_OK ? kept_episodes_make_ready(r->to, err) : status;
}

static kept_status replace(struct repair *r, struct kept_error *err)
{
    kept_episodes_close(&r->to);
    /* What is left of a journal belongs to the old file: it must never meet the new one. */
    kept_file_remove(r->journal);
    kept_status status = kept_file_rename(r->new_path, r->path, err);
    kept_episodes_close(&r->from);
    return status == KEPT_OK ? status : kept_file_rename(r->new_path, r->path, err);
}

static kept_status repair(struct repair *r, const char *path,
                          const struct kept_episodes_reader *reader,
                          struct kept_episodes_repaired *out, struct kept_error *err)
{
    struct kept_episodes_repaired counts = {0};
    kept_status status = open_both(r, path, err);
    if (status == KEPT_OK)
        status = kept_episodes_salvage(r->from, r->to, reader, &counts.n_removed, err);
    if (status == KEPT_OK)
        status = kept_episodes_count(r->to, &counts.n_kept, err);
    if (status == KEPT_OK)
        status = replace(r, err);
    if (status == KEPT_OK && out != NULL)
        *out = counts;
    return status;
}

kept_status kept_episodes_repair(const char *path, const struct kept_episodes_reader *reader,
                                 struct kept_episodes_repaired *out, struct kept_error *err)
{
    if (path == NULL || !kept_file_exists(path))
        return kept_fail(err, KEPT_E_IO, "facts '%s': there is no such file",
                         path != NULL ? path : "");
    struct repair r = {.from = kept_calloc(1, sizeof *r.from), .to = kept_calloc(1, sizeof *r.to)};
    kept_status status;
    if (r.from == NULL || r.to == NULL)
        status = kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to repair facts '%s'", path);
    else
        status = repair(&r, path, reader, out, err);
    bool began = r.to != NULL && r.to->db != NULL;
    kept_episodes_close(&r.to);
    if (status != KEPT_OK && began) {
        kept_file_remove(r.new_path);
        kept_file_remove(r.new_journal);
    }
    kept_episodes_close(&r.from);
    kept_free(r.path);
    kept_free(r.new_path);
    kept_free(r.journal);
    kept_free(r.new_journal);
    return status;
}

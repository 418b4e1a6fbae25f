/* memory/episodes_read.c: reading the file of episodic memory, and looking for damage.
 *
 * Rows come by rising id. An id that does not rise means that the tree is damaged, and ends the
 * reading: a hostile file can repeat its pages, but not for ever.
 */
#include "memory/episodes_private.h"

#include <string.h>

#include "base/status.h"
#include "base/str.h"

/* Without the payload only its type and length are looked at, and its pages are not read. */
#define COLUMNS      "id,sum,payload_sum,time,n_tokens,tag_hash,text_hash,address,tag,text,"
#define WITHOUT      "typeof(payload)='blob',length(payload) FROM episodes "
#define WITH         "payload FROM episodes "
#define PAYLOAD_AT   10
#define MAX_MESSAGES 100

static void damage(const struct kept_episodes_reader *reader, const char *id, const char *why,
                   uint64_t *n)
{
    ++*n;
    if (reader != NULL && reader->damaged != NULL)
        reader->damaged(reader->user, id, why);
}

/* Text of a column, or NULL where it is of another type. */
static const char *text_of(sqlite3_stmt *stmt, int column, size_t *n_bytes)
{
    if (sqlite3_column_type(stmt, column) != SQLITE_TEXT)
        return NULL;
    const char *text = (const char *)sqlite3_column_text(stmt, column);
    *n_bytes = text != NULL ? (size_t)sqlite3_column_bytes(stmt, column) : 0;
    return text;
}

static const void *blob_of(sqlite3_stmt *stmt, int column, size_t *n_bytes)
{
    if (sqlite3_column_type(stmt, column) != SQLITE_BLOB)
        return NULL;
    const void *blob = sqlite3_column_blob(stmt, column);
    *n_bytes = blob != NULL ? (size_t)sqlite3_column_bytes(stmt, column) : 0;
    return blob;
}

static void fields_of(sqlite3_stmt *stmt, bool with_payload, struct episode_fields *f)
{
    int64_t *numbers[] = {&f->sum,      &f->payload_sum, &f->time_s,
                          &f->n_tokens, &f->tag_hash,    &f->text_hash};
    *f = (struct episode_fields){.sum = 0};
    f->id.text = text_of(stmt, 0, &f->id.n_bytes);
    for (int i = 0; i < 6; i++)
        *numbers[i] = sqlite3_column_int64(stmt, 1 + i);
    f->address = blob_of(stmt, 7, &f->address_bytes);
    f->tag.text = text_of(stmt, 8, &f->tag.n_bytes);
    f->text.text = text_of(stmt, 9, &f->text.n_bytes);
    if (with_payload)
        f->payload = blob_of(stmt, PAYLOAD_AT, &f->payload_bytes);
    else if (sqlite3_column_int(stmt, PAYLOAD_AT) == 1)
        f->payload_bytes = (size_t)sqlite3_column_int64(stmt, PAYLOAD_AT + 1);
}

static struct kept_episode episode_of(const struct kept_episodes *store,
                                      const struct episode_fields *f)
{
    return (struct kept_episode){.id = f->id.text,
                                 .tag = f->tag.text,
                                 .text = f->text.text,
                                 .time_s = f->time_s,
                                 .n_tokens = (uint32_t)f->n_tokens,
                                 .address = store->address,
                                 .payload = f->payload,
                                 .payload_bytes = f->payload_bytes};
}

/* The id of a row before the next one. */
struct place {
    char id[KEPT_EPISODE_ID_BYTES];
    bool any;
};

/* Whether the tree may go on so; remembers an id as far as it can be an id. */
static bool rises(struct place *place, const struct episode_fields *f)
{
    if (f->id.text == NULL || f->id.n_bytes >= sizeof place->id ||
        strlen(f->id.text) != f->id.n_bytes)
        return false;
    if (place->any && strcmp(f->id.text, place->id) <= 0)
        return false;
    memcpy(place->id, f->id.text, f->id.n_bytes + 1);
    place->any = true;
    return true;
}

static kept_status out_of_memory(const struct kept_episodes *store, struct kept_error *err)
{
    return kept_fail(err, KEPT_E_HOST_MEMORY, "facts '%s': no memory to read a fact", store->path);
}

static kept_status give(struct kept_episodes *store, const struct episode_fields *fields,
                        const struct kept_episodes_reader *reader, uint64_t *n_damaged)
{
    const char *why = kept_episodes_check(store, fields);
    if (why != NULL) {
        damage(reader, fields->id.text, why, n_damaged);
        return KEPT_OK;
    }
    struct kept_episode episode = episode_of(store, fields);
    return reader->episode != NULL ? reader->episode(reader->user, &episode) : KEPT_OK;
}

static kept_status walk(struct kept_episodes *store, sqlite3_stmt *stmt, bool with_payload,
                        const struct kept_episodes_reader *reader, uint64_t *n_damaged,
                        struct kept_error *err)
{
    struct place place = {.any = false};
    kept_status status = KEPT_OK;
    int rc = SQLITE_DONE;
    while (status == KEPT_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct episode_fields fields;
        fields_of(stmt, with_payload, &fields);
        if (sqlite3_errcode(store->db) == SQLITE_NOMEM)
            return out_of_memory(store, err);
        if (!rises(&place, &fields))
            return kept_fail(err, KEPT_E_FORMAT,
                             "facts '%s': ids do not rise: its pages are "
                             "damaged",
                             store->path);
        status = give(store, &fields, reader, n_damaged);
    }
    if (status == KEPT_OK && rc != SQLITE_DONE)
        status = kept_episodes_fail(store, "be read", err);
    return status;
}

static kept_status each(struct kept_episodes *store, bool with_payload,
                        const struct kept_episodes_reader *reader, uint64_t *n_damaged,
                        struct kept_error *err)
{
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_refresh(store, err);
    if (status == KEPT_OK)
        status = kept_episodes_prepare(store,
                                       with_payload ? "SELECT " COLUMNS WITH "ORDER BY id"
                                                    : "SELECT " COLUMNS WITHOUT "ORDER BY id",
                                       &stmt, err);
    if (status != KEPT_OK)
        return status;
    store->reading = true;
    status = walk(store, stmt, with_payload, reader, n_damaged, err);
    store->reading = false;
    sqlite3_finalize(stmt);
    return status;
}

/* The store itself is not used by those who are being told what it holds. */
static kept_status may_read(struct kept_episodes *store, struct kept_error *err)
{
    if (store->reading)
        return kept_fail(err, KEPT_E_STATE, "facts '%s' are being read already", store->path);
    kept_episodes_patience(store);
    return KEPT_OK;
}

kept_status kept_episodes_each(struct kept_episodes *store, bool with_payload,
                               const struct kept_episodes_reader *reader, struct kept_error *err)
{
    uint64_t n_damaged = 0;
    kept_status status = may_read(store, err);
    return status == KEPT_OK ? each(store, with_payload, reader, &n_damaged, err) : status;
}

/* ---- one ---- */

static kept_status copy_payload(struct kept_episodes *store, sqlite3_stmt *stmt, void *payload,
                                size_t payload_bytes, struct kept_error *err)
{
    struct episode_fields fields;
    fields_of(stmt, true, &fields);
    if (sqlite3_errcode(store->db) == SQLITE_NOMEM)
        return out_of_memory(store, err);
    const char *why = kept_episodes_check(store, &fields);
    if (why != NULL)
        return kept_fail(err, KEPT_E_FORMAT, "facts '%s': a fact is damaged: %s", store->path, why);
    if (fields.payload_bytes != payload_bytes)
        return kept_fail(err, KEPT_E_ARGUMENT, "facts '%s': fact '%s' has %zu bytes, not %zu",
                         store->path, fields.id.text, fields.payload_bytes, payload_bytes);
    memcpy(payload, fields.payload, payload_bytes);
    return KEPT_OK;
}

kept_status kept_episodes_load(struct kept_episodes *store, const char *id, void *payload,
                               size_t payload_bytes, struct kept_error *err)
{
    sqlite3_stmt *stmt;
    size_t n_bytes = strlen(id);
    kept_status status = may_read(store, err);
    if (status == KEPT_OK)
        status = kept_episodes_refresh(store, err);
    if (status == KEPT_OK)
        status = kept_episodes_prepare(store, "SELECT " COLUMNS WITH "WHERE id=?1", &stmt, err);
    if (status != KEPT_OK)
        return status;
    int rc = SQLITE_DONE;
    if (n_bytes < KEPT_EPISODE_ID_BYTES)
        rc = sqlite3_bind_text(stmt, 1, id, (int)n_bytes, SQLITE_STATIC) == SQLITE_OK
                 ? sqlite3_step(stmt)
                 : SQLITE_NOMEM;
    if (rc == SQLITE_ROW)
        status = copy_payload(store, stmt, payload, payload_bytes, err);
    else if (rc == SQLITE_DONE)
        status = kept_fail(err, KEPT_E_ARGUMENT, "facts '%s': there is no fact '%.127s'",
                           store->path, id);
    else
        status = kept_episodes_fail(store, "be read", err);
    sqlite3_finalize(stmt);
    return status;
}

/* Not count(*), which walks the tree in one step that no patience ends. */
kept_status kept_episodes_count(struct kept_episodes *store, uint64_t *out, struct kept_error *err)
{
    sqlite3_stmt *stmt;
    uint64_t n = 0;
    kept_status status = may_read(store, err);
    if (status == KEPT_OK)
        status = kept_episodes_prepare(store, "SELECT id FROM episodes ORDER BY id", &stmt, err);
    if (status != KEPT_OK)
        return status;
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
        n++;
    if (rc != SQLITE_DONE)
        status = kept_episodes_fail(store, "be counted", err);
    else
        *out = n;
    sqlite3_finalize(stmt);
    return status;
}

/* ---- verifying ---- */

/* What SQLite finds: pages used twice or not at all, indices that do not fit their table. */
static kept_status check_pages(struct kept_episodes *store,
                               const struct kept_episodes_reader *reader, uint64_t *n_damaged,
                               struct kept_error *err)
{
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_prepare(store, "PRAGMA integrity_check(100)", &stmt, err);
    if (status != KEPT_OK)
        return status;
    int rc = SQLITE_DONE;
    for (int n = 0; n < MAX_MESSAGES && (rc = sqlite3_step(stmt)) == SQLITE_ROW; n++) {
        const char *message = (const char *)sqlite3_column_text(stmt, 0);
        if (message == NULL || strcmp(message, "ok") != 0)
            damage(reader, "", message != NULL ? message : "the file is damaged", n_damaged);
    }
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        status = kept_episodes_fail(store, "be checked", err);
    sqlite3_finalize(stmt);
    return status;
}

/* Damage that ends the reading is damage, other failures are failures. */
static kept_status as_damage(kept_status status, const struct kept_error *found,
                             const struct kept_episodes_reader *reader, uint64_t *n_damaged,
                             struct kept_error *err)
{
    if (status == KEPT_E_FORMAT) {
        damage(reader, "", found->message, n_damaged);
        return KEPT_OK;
    }
    return status != KEPT_OK ? kept_fail(err, status, "%s", found->message) : KEPT_OK;
}

kept_status kept_episodes_verify(struct kept_episodes *store,
                                 const struct kept_episodes_reader *reader, uint64_t *n_damaged,
                                 struct kept_error *err)
{
    static const struct kept_episodes_reader silent = {0};
    struct kept_error found = {.message = ""};
    uint32_t copies = 0;
    uint64_t n = 0;
    kept_status status = may_read(store, err);
    if (status != KEPT_OK)
        return status;
    reader = reader != NULL ? reader : &silent;
    status = as_damage(check_pages(store, reader, &n, &found), &found, reader, &n, err);
    if (status == KEPT_OK)
        status =
            as_damage(kept_episodes_read_bind(store, &copies, &found), &found, reader, &n, err);
    if (status == KEPT_OK && copies == 1)
        damage(reader, "", "a copy of what binds the store to its model is damaged", &n);
    if (status == KEPT_OK)
        status = as_damage(each(store, true, reader, &n, &found), &found, reader, &n, err);
    if (status == KEPT_OK)
        *n_damaged = n;
    return status;
}

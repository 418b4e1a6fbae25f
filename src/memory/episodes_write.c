/* memory/episodes_write.c: transactions on the file of episodic memory: putting, forgetting,
 * compacting.
 *
 * A transaction takes the writer's lock when it begins; readers go on until it commits. Whatever
 * fails inside rolls all of it back, so no caller can commit half of what it meant.
 */
#include "memory/episodes_private.h"

#include <string.h>

#include "base/status.h"

/* ---- transactions ---- */

static void undo(struct kept_episodes *store)
{
    /* SQLite has rolled back by itself after some errors. */
    if (!sqlite3_get_autocommit(store->db))
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
}

static kept_status may_write(const struct kept_episodes *store, struct kept_error *err)
{
    if (store->read_only)
        return kept_fail(err, KEPT_E_STATE, "facts '%s' were opened for reading only", store->path);
    if (store->reading)
        return kept_fail(err, KEPT_E_STATE, "facts '%s' are being read", store->path);
    return KEPT_OK;
}

kept_status kept_episodes_begin(struct kept_episodes *store, struct kept_error *err)
{
    kept_status status = may_write(store, err);
    if (status != KEPT_OK)
        return status;
    if (store->in_transaction)
        return kept_fail(err, KEPT_E_STATE, "facts '%s': a transaction is open already",
                         store->path);
    kept_episodes_patience(store);
    status = kept_episodes_run(store, "BEGIN IMMEDIATE", err);
    store->in_transaction = status == KEPT_OK;
    store->broken = false;
    return status;
}

kept_status kept_episodes_commit(struct kept_episodes *store, struct kept_error *err)
{
    if (!store->in_transaction)
        return kept_fail(err, KEPT_E_STATE, "facts '%s': no transaction is open", store->path);
    store->in_transaction = false;
    if (store->broken)
        return kept_fail(err, KEPT_E_STATE,
                         "facts '%s': a write of this transaction failed, nothing of it is kept",
                         store->path);
    kept_episodes_patience(store);
    kept_status status = kept_episodes_run(store, "COMMIT", err);
    if (status != KEPT_OK)
        undo(store);
    return status;
}

void kept_episodes_rollback(struct kept_episodes *store)
{
    if (!store->in_transaction)
        return;
    undo(store);
    store->in_transaction = store->broken = false;
}

/* A change outside of a transaction is one of its own. */
static kept_status begin_change(struct kept_episodes *store, bool *own, struct kept_error *err)
{
    *own = !store->in_transaction;
    if (*own)
        return kept_episodes_begin(store, err);
    if (store->broken)
        return kept_fail(err, KEPT_E_STATE,
                         "facts '%s': an earlier write of this transaction failed", store->path);
    kept_episodes_patience(store);
    return may_write(store, err);
}

static kept_status end_change(struct kept_episodes *store, bool own, kept_status status,
                              struct kept_error *err)
{
    if (own && status == KEPT_OK)
        return kept_episodes_commit(store, err);
    if (own)
        kept_episodes_rollback(store);
    else if (status != KEPT_OK) {
        undo(store);
        store->broken = true;
    }
    return status;
}

/* ---- putting ---- */

static kept_status fields_of(struct kept_episodes *store, const struct kept_episode *episode,
                             const char *id, struct episode_fields *out, struct kept_error *err)
{
    const char *tag = episode->tag != NULL ? episode->tag : "";
    if (episode->text == NULL || episode->address == NULL || episode->payload == NULL)
        return kept_fail(err, KEPT_E_ARGUMENT, "a fact needs a text, an address and a payload");
    *out = (struct episode_fields){.id = {id, strlen(id)},
                                   .tag = {tag, strlen(tag)},
                                   .text = {episode->text, strlen(episode->text)},
                                   .time_s = episode->time_s,
                                   .n_tokens = episode->n_tokens,
                                   .address = episode->address,
                                   .address_bytes = store->bind.n_embd * sizeof(float),
                                   .payload = episode->payload,
                                   .payload_bytes = episode->payload_bytes};
    /* A payload of a wrong size is not even hashed. */
    if (out->payload_bytes != kept_episodes_payload_bytes(&store->bind, episode->n_tokens))
        return kept_fail(err, KEPT_E_ARGUMENT, "fact '%.60s': %zu bytes of payload for %u tokens",
                         id, out->payload_bytes, episode->n_tokens);
    kept_episodes_sums(store, out);
    const char *why = kept_episodes_check(store, out);
    if (why != NULL)
        return kept_fail(err, KEPT_E_ARGUMENT, "fact '%.60s' cannot be stored: %s", id, why);
    return KEPT_OK;
}

/* Others of the same tag go. */
static kept_status supersede(struct kept_episodes *store, const struct episode_fields *fields,
                             uint32_t *n, struct kept_error *err)
{
    sqlite3_stmt *stmt;
    *n = 0;
    if (fields->tag.n_bytes == 0)
        return KEPT_OK;
    kept_status status = kept_episodes_prepare(
        store, "DELETE FROM episodes WHERE tag_hash=?1 AND tag=?2 AND id<>?3", &stmt, err);
    if (status != KEPT_OK)
        return status;
    int rc = sqlite3_bind_int64(stmt, 1, fields->tag_hash);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 2, fields->tag.text, (int)fields->tag.n_bytes, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 3, fields->id.text, (int)fields->id.n_bytes, SQLITE_STATIC);
    if (rc != SQLITE_OK || sqlite3_step(stmt) != SQLITE_DONE)
        status = kept_episodes_fail(store, "replace facts", err);
    else
        *n = (uint32_t)sqlite3_changes(store->db);
    sqlite3_finalize(stmt);
    return status;
}

/* A made name that already stands for something else would lose that. */
static kept_status refuse_collision(struct kept_episodes *store,
                                    const struct episode_fields *fields, struct kept_error *err)
{
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_prepare(
        store, "SELECT 1 FROM episodes WHERE id=?1 AND NOT(tag=?2 AND text=?3)", &stmt, err);
    if (status != KEPT_OK)
        return status;
    int rc = sqlite3_bind_text(stmt, 1, fields->id.text, (int)fields->id.n_bytes, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 2, fields->tag.text, (int)fields->tag.n_bytes, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc =
            sqlite3_bind_text(stmt, 3, fields->text.text, (int)fields->text.n_bytes, SQLITE_STATIC);
    rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
    if (rc == SQLITE_ROW)
        status =
            kept_fail(err, KEPT_E_ARGUMENT,
                      "another fact has the id '%s' already: give this one an id", fields->id.text);
    else if (rc != SQLITE_DONE)
        status = kept_episodes_fail(store, "be read", err);
    sqlite3_finalize(stmt);
    return status;
}

static kept_status put(struct kept_episodes *store, const struct kept_episode *episode,
                       const char *id, uint32_t *n_superseded, struct kept_error *err)
{
    struct episode_fields fields;
    kept_status status = fields_of(store, episode, id, &fields, err);
    if (status == KEPT_OK && episode->id == NULL)
        status = refuse_collision(store, &fields, err);
    if (status == KEPT_OK)
        status = supersede(store, &fields, n_superseded, err);
    return status == KEPT_OK ? kept_episodes_insert(store, &fields, err) : status;
}

kept_status kept_episodes_put(struct kept_episodes *store, const struct kept_episode *episode,
                              char id[KEPT_EPISODE_ID_BYTES], uint32_t *n_superseded,
                              struct kept_error *err)
{
    char name[KEPT_EPISODE_ID_BYTES];
    uint32_t n = 0;
    bool own;
    const char *given = episode->id;
    if (episode->text == NULL || (given != NULL && strlen(given) >= sizeof name))
        return kept_fail(err, KEPT_E_ARGUMENT, "a fact has no text, or an id of more than %u bytes",
                         KEPT_EPISODE_ID_BYTES - 1);
    if (given != NULL)
        memcpy(name, given, strlen(given) + 1);
    else
        kept_episodes_name(episode->tag, episode->text, name);
    kept_status status = begin_change(store, &own, err);
    if (status != KEPT_OK)
        return status;
    status = end_change(store, own, put(store, episode, name, &n, err), err);
    if (status == KEPT_OK && id != NULL)
        memcpy(id, name, strlen(name) + 1);
    if (status == KEPT_OK && n_superseded != NULL)
        *n_superseded = n;
    return status;
}

/* ---- forgetting ---- */

static kept_status forget(struct kept_episodes *store, sqlite3_stmt *stmt,
                          enum kept_episodes_key key, const char *value, struct kept_error *err)
{
    size_t n_bytes = strlen(value);
    int rc = sqlite3_reset(stmt);
    if (rc == SQLITE_OK && n_bytes < KEPT_EPISODE_TEXT_BYTES)
        rc = sqlite3_bind_text(stmt, 1, value, (int)n_bytes, SQLITE_STATIC);
    if (rc == SQLITE_OK && key != KEPT_EPISODES_BY_ID)
        rc = sqlite3_bind_int64(stmt, 2, (int64_t)kept_episodes_text_hash(value, n_bytes));
    if (rc != SQLITE_OK || sqlite3_step(stmt) != SQLITE_DONE)
        return kept_episodes_fail(store, "forget", err);
    return KEPT_OK;
}

static kept_status forget_all(struct kept_episodes *store, enum kept_episodes_key key,
                              const char *const *values, size_t n_values, uint64_t *n,
                              struct kept_error *err)
{
    static const char *const sql[] = {
        [KEPT_EPISODES_BY_ID] = "DELETE FROM episodes WHERE id=?1",
        [KEPT_EPISODES_BY_TAG] = "DELETE FROM episodes WHERE tag_hash=?2 AND tag=?1",
        [KEPT_EPISODES_BY_TEXT] = "DELETE FROM episodes WHERE text_hash=?2 AND text=?1"};
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_prepare(store, sql[key], &stmt, err);
    for (size_t i = 0; i < n_values && status == KEPT_OK; i++) {
        if (values[i] == NULL)
            status =
                kept_fail(err, KEPT_E_ARGUMENT, "value %zu of what is to be forgotten is NULL", i);
        if (status != KEPT_OK || values[i][0] == '\0' ||
            strlen(values[i]) >= KEPT_EPISODE_TEXT_BYTES)
            continue;
        kept_episodes_patience(store);
        status = forget(store, stmt, key, values[i], err);
        *n += status == KEPT_OK ? (uint64_t)sqlite3_changes(store->db) : 0;
    }
    sqlite3_finalize(stmt);
    return status;
}

kept_status kept_episodes_forget(struct kept_episodes *store, enum kept_episodes_key key,
                                 const char *const *values, size_t n_values, uint64_t *n_forgotten,
                                 struct kept_error *err)
{
    uint64_t n = 0;
    bool own;
    if (key > KEPT_EPISODES_BY_TEXT)
        return kept_fail(err, KEPT_E_ARGUMENT, "facts are forgotten by id, tag or text, not %d",
                         (int)key);
    kept_status status = begin_change(store, &own, err);
    if (status != KEPT_OK)
        return status;
    status = end_change(store, own, forget_all(store, key, values, n_values, &n, err), err);
    if (status == KEPT_OK && n_forgotten != NULL)
        *n_forgotten = n;
    return status;
}

kept_status kept_episodes_compact(struct kept_episodes *store, struct kept_error *err)
{
    kept_status status = may_write(store, err);
    if (status == KEPT_OK && store->in_transaction)
        status = kept_fail(err, KEPT_E_STATE, "facts '%s' cannot be compacted inside a transaction",
                           store->path);
    if (status != KEPT_OK)
        return status;
    kept_episodes_patience(store);
    return kept_episodes_run(store, "VACUUM", err);
}

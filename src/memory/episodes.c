/* memory/episodes.c: opening and making the file of episodic memory, and what it is bound to. */
#include "memory/episodes_private.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"

#define MAX_EMBD 65536u

/* ---- what binds a store ---- */

static bool is_bind(const struct kept_episodes_bind *bind)
{
    return bind->n_embd > 0 && bind->n_embd <= MAX_EMBD && bind->address_layer < bind->n_layers &&
           kept_episodes_payload_bytes(bind, 1) > 0;
}

static bool are_stats(const float *stats, uint32_t n_embd)
{
    for (size_t i = 0; i < KEPT_EPISODES_STATS * (size_t)n_embd; i++)
        if (!isfinite(stats[i]))
            return false;
    return true;
}

static struct store_fields fields_of(const struct kept_episodes_bind *b, const float *stats)
{
    struct store_fields fields = {
        .numbers = {(int64_t)b->header_hash, (int64_t)b->model_hash, b->n_embd, b->n_layers,
                    b->kv_row, b->address_layer, b->payload_type},
        .stats = stats,
        .stats_bytes = stats != NULL ? KEPT_EPISODES_STATS * (size_t)b->n_embd * sizeof *stats : 0};
    uint64_t sum = kept_hash64(fields.numbers, sizeof fields.numbers, EPISODES_VERSION);
    fields.sum = (int64_t)kept_hash64(fields.stats, fields.stats_bytes, sum);
    return fields;
}

static bool to_u32(int64_t from, uint32_t *to)
{
    *to = (uint32_t)from;
    return from >= 0 && from <= UINT32_MAX;
}

/* Whether the row is sound; out is written in any case. */
static bool bind_of(const struct store_fields *fields, struct kept_episodes_bind *out)
{
    uint64_t sum = kept_hash64(fields->numbers, sizeof fields->numbers, EPISODES_VERSION);
    sum = kept_hash64(fields->stats, fields->stats_bytes, sum);
    out->header_hash = (uint64_t)fields->numbers[0];
    out->model_hash = (uint64_t)fields->numbers[1];
    bool in_range = to_u32(fields->numbers[2], &out->n_embd);
    in_range &= to_u32(fields->numbers[3], &out->n_layers);
    in_range &= to_u32(fields->numbers[4], &out->kv_row);
    in_range &= to_u32(fields->numbers[5], &out->address_layer);
    in_range &= to_u32(fields->numbers[6], &out->payload_type);
    size_t stats_bytes = KEPT_EPISODES_STATS * (size_t)out->n_embd * sizeof(float);
    return in_range && is_bind(out) && (uint64_t)fields->sum == sum &&
           (fields->stats_bytes == 0 || fields->stats_bytes == stats_bytes);
}

kept_status kept_episodes_take(struct kept_episodes *store, const struct store_fields *fields,
                               bool *sound, struct kept_error *err)
{
    struct kept_episodes_bind bind;
    *sound = bind_of(fields, &bind);
    if (!*sound)
        return KEPT_OK;
    float *stats = NULL, *address = kept_alloc(bind.n_embd * sizeof *address);
    if (address != NULL && fields->stats_bytes != 0)
        stats = kept_alloc(fields->stats_bytes);
    if (address == NULL || (fields->stats_bytes != 0 && stats == NULL)) {
        kept_free(address);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for the statistics of facts '%s'",
                         store->path);
    }
    if (stats != NULL)
        memcpy(stats, fields->stats, fields->stats_bytes);
    *sound = stats == NULL || are_stats(stats, bind.n_embd);
    if (!*sound) {
        kept_free(stats);
        kept_free(address);
        return KEPT_OK;
    }
    kept_free(store->stats);
    kept_free(store->address);
    store->stats = stats;
    store->address = address;
    store->bind = bind;
    store->seed = (uint64_t)fields->sum;
    return KEPT_OK;
}

static void row_of(sqlite3_stmt *stmt, struct store_fields *out)
{
    *out = (struct store_fields){.sum = sqlite3_column_int64(stmt, 9)};
    for (int i = 0; i < 7; i++)
        out->numbers[i] = sqlite3_column_int64(stmt, 1 + i);
    out->stats = sqlite3_column_blob(stmt, 8);
    out->stats_bytes = out->stats != NULL ? (size_t)sqlite3_column_bytes(stmt, 8) : 0;
}

/* One of the two copies; one that cannot be read is not sound. */
static kept_status read_copy(struct kept_episodes *store, const char *sql, uint32_t *n_sound,
                             struct kept_error *err)
{
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_prepare(store, sql, &stmt, err);
    if (status != KEPT_OK)
        return status;
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        struct store_fields fields;
        struct kept_episodes_bind bind;
        bool sound = false;
        row_of(stmt, &fields);
        if (*n_sound == 0)
            status = kept_episodes_take(store, &fields, &sound, err);
        else
            sound = bind_of(&fields, &bind) && (uint64_t)fields.sum == store->seed;
        *n_sound += sound;
    } else if (rc != SQLITE_DONE) {
        status = kept_episodes_fail(store, "be read", err);
    }
    sqlite3_finalize(stmt);
    return status == KEPT_E_FORMAT ? KEPT_OK : status;
}

kept_status kept_episodes_read_bind(struct kept_episodes *store, uint32_t *n_sound,
                                    struct kept_error *err)
{
    *n_sound = 0;
    kept_status status = read_copy(store, "SELECT * FROM store LIMIT 1", n_sound, err);
    if (status == KEPT_OK)
        status = read_copy(store, "SELECT * FROM spare LIMIT 1", n_sound, err);
    if (status == KEPT_OK && *n_sound == 0)
        status = kept_fail(err, KEPT_E_FORMAT,
                           "facts '%s': both copies of what binds it to a model are damaged",
                           store->path);
    return status;
}

kept_status kept_episodes_refresh(struct kept_episodes *store, struct kept_error *err)
{
    uint32_t n_sound;
    return store->stats == NULL ? kept_episodes_read_bind(store, &n_sound, err) : KEPT_OK;
}

static kept_status expect(const struct kept_episodes *store,
                          const struct kept_episodes_bind *wanted, struct kept_error *err)
{
    const struct kept_episodes_bind *own = &store->bind;
    if (wanted->header_hash != own->header_hash ||
        (wanted->model_hash != own->model_hash && wanted->model_hash != 0 && own->model_hash != 0))
        return kept_fail(
            err, KEPT_E_MISMATCH,
            "facts '%s' belong to another model: header %016llx, weights %016llx, "
            "not %016llx, %016llx",
            store->path, (unsigned long long)own->header_hash, (unsigned long long)own->model_hash,
            (unsigned long long)wanted->header_hash, (unsigned long long)wanted->model_hash);
    if (wanted->n_embd != own->n_embd || wanted->n_layers != own->n_layers ||
        wanted->kv_row != own->kv_row || wanted->address_layer != own->address_layer ||
        wanted->payload_type != own->payload_type)
        return kept_fail(err, KEPT_E_MISMATCH,
                         "facts '%s' have %u elements, %u layers, rows of %u, addresses of layer "
                         "%u, payload type %u, not %u, %u, %u, %u, %u",
                         store->path, own->n_embd, own->n_layers, own->kv_row, own->address_layer,
                         own->payload_type, wanted->n_embd, wanted->n_layers, wanted->kv_row,
                         wanted->address_layer, wanted->payload_type);
    return KEPT_OK;
}

/* ---- the schema ---- */

static const struct {
    const char *name, *sql;
} schema[] = {{"by_tag", EPISODES_SQL_BY_TAG},
              {"by_text", EPISODES_SQL_BY_TEXT},
              {"episodes", EPISODES_SQL_EPISODES},
              {"spare", EPISODES_SQL_SPARE},
              {"store", EPISODES_SQL_STORE}};
enum { N_SCHEMA = sizeof schema / sizeof *schema };

static bool equals(sqlite3_stmt *stmt, int column, const char *text)
{
    const unsigned char *found = sqlite3_column_text(stmt, column);
    return found != NULL && strcmp((const char *)found, text) == 0;
}

/* Exactly our tables and indices, by their text. */
static kept_status check_schema(struct kept_episodes *store, struct kept_error *err)
{
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_prepare(
        store, "SELECT name,sql FROM sqlite_master ORDER BY name", &stmt, err);
    if (status != KEPT_OK)
        return status;
    int n = 0, rc;
    bool same = true;
    while (same && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        same = n < N_SCHEMA && equals(stmt, 0, schema[n].name) && equals(stmt, 1, schema[n].sql);
        n++;
    }
    if (same && rc != SQLITE_DONE)
        status = kept_episodes_fail(store, "be read", err);
    else if (!same || n != N_SCHEMA)
        status = kept_fail(err, KEPT_E_FORMAT, "facts '%s': its tables are not those of a store",
                           store->path);
    sqlite3_finalize(stmt);
    return status;
}

static kept_status check_version(struct kept_episodes *store, struct kept_error *err)
{
    static const struct {
        const char *sql, *what;
        int64_t expected;
    } facts[] = {{"PRAGMA user_version", "version", EPISODES_VERSION},
                 {"PRAGMA page_size", "page size", EPISODES_PAGE},
                 {"PRAGMA auto_vacuum", "auto_vacuum", 0}};
    int64_t found = 0;
    kept_status status = kept_episodes_number(store, "PRAGMA application_id", &found, err);
    if (status == KEPT_OK && found != EPISODES_APPLICATION)
        return kept_fail(err, KEPT_E_FORMAT, "'%s' is no store of facts (application id %lld)",
                         store->path, (long long)found);
    for (size_t i = 0; i < sizeof facts / sizeof *facts && status == KEPT_OK; i++) {
        status = kept_episodes_number(store, facts[i].sql, &found, err);
        if (status != KEPT_OK || found == facts[i].expected)
            continue;
        bool later = i == 0 && found > EPISODES_VERSION;
        return kept_fail(err, later ? KEPT_E_UNSUPPORTED : KEPT_E_FORMAT,
                         "facts '%s': its %s is %lld, this library reads %lld", store->path,
                         facts[i].what, (long long)found, (long long)facts[i].expected);
    }
    return status;
}

/* ---- making one ---- */

static kept_status insert_copy(struct kept_episodes *store, const char *sql,
                               const struct store_fields *fields, struct kept_error *err)
{
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_prepare(store, sql, &stmt, err);
    if (status != KEPT_OK)
        return status;
    int rc = SQLITE_OK;
    for (int i = 0; i < 7 && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_int64(stmt, 1 + i, fields->numbers[i]);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_blob(stmt, 8, fields->stats_bytes != 0 ? fields->stats : "",
                               (int)fields->stats_bytes, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 9, fields->sum);
    if (rc != SQLITE_OK || sqlite3_step(stmt) != SQLITE_DONE)
        status = kept_episodes_fail(store, "be made", err);
    sqlite3_finalize(stmt);
    return status;
}

static kept_status insert_bind(struct kept_episodes *store, const struct store_fields *fields,
                               struct kept_error *err)
{
    static const char *const sql[] = {
        "INSERT OR REPLACE INTO store VALUES(0,?1,?2,?3,?4,?5,?6,?7,?8,?9)",
        "INSERT OR REPLACE INTO spare VALUES(0,?1,?2,?3,?4,?5,?6,?7,?8,?9)"};
    kept_status status = insert_copy(store, sql[0], fields, err);
    return status == KEPT_OK ? insert_copy(store, sql[1], fields, err) : status;
}

/* Inside a transaction that holds the lock: whether nobody was here before. */
static kept_status is_empty(struct kept_episodes *store, bool *out, struct kept_error *err)
{
    int64_t application = 0, objects = 0;
    kept_status status = kept_episodes_number(store, "PRAGMA application_id", &application, err);
    if (status == KEPT_OK)
        status = kept_episodes_number(store, "SELECT 1 FROM sqlite_master LIMIT 1", &objects, err);
    *out = application == 0 && objects == 0;
    return status;
}

static kept_status fill(struct kept_episodes *store, const struct kept_episodes_bind *bind,
                        const float *stats, struct kept_error *err)
{
    struct store_fields fields = fields_of(bind, stats);
    kept_status status = kept_episodes_run(store, "PRAGMA application_id=1802531942", err);
    _Static_assert(EPISODES_APPLICATION == 1802531942 && EPISODES_VERSION == 1, "as written here");
    if (status == KEPT_OK)
        status = kept_episodes_run(store, "PRAGMA user_version=1", err);
    for (int i = N_SCHEMA - 1; i >= 0 && status == KEPT_OK; i--) /* tables come before indices */
        status = kept_episodes_run(store, schema[i].sql, err);
    return status == KEPT_OK ? insert_bind(store, &fields, err) : status;
}

kept_status kept_episodes_create(struct kept_episodes *store, const struct kept_episodes_bind *bind,
                                 const float *stats, struct kept_error *err)
{
    bool empty = false;
    kept_status status = kept_episodes_begin(store, err);
    if (status != KEPT_OK)
        return status;
    status = is_empty(store, &empty, err);
    if (status == KEPT_OK && empty)
        status = fill(store, bind, stats, err);
    if (status == KEPT_OK && empty)
        return kept_episodes_commit(store, err);
    kept_episodes_rollback(store);
    return status;
}

/* ---- opening ---- */

static kept_status check_options(const char *path, const struct kept_episodes_options *o,
                                 struct kept_error *err)
{
    if (path == NULL || path[0] == '\0')
        return kept_fail(err, KEPT_E_ARGUMENT, "facts need the name of a file");
    if (o->create && (o->read_only || o->bind == NULL))
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "facts '%s': a new store must be written, and belong to a model", path);
    if (o->bind != NULL && !is_bind(o->bind))
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "facts '%s': %u elements, %u layers, rows of %u, addresses of layer %u, "
                         "payload type %u do not go together",
                         path, o->bind->n_embd, o->bind->n_layers, o->bind->kv_row,
                         o->bind->address_layer, o->bind->payload_type);
    if (o->stats != NULL && (o->bind == NULL || !are_stats(o->stats, o->bind->n_embd)))
        return kept_fail(err, KEPT_E_ARGUMENT, "facts '%s': the statistics are not finite", path);
    if (!o->create && !kept_file_exists(path))
        return kept_fail(err, KEPT_E_IO, "facts '%s': there is no such file", path);
    return KEPT_OK;
}

static kept_status open_whole(struct kept_episodes *store, const char *path,
                              const struct kept_episodes_options *options, struct kept_error *err)
{
    uint32_t n_sound;
    int flags = options->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
    flags |= options->create ? SQLITE_OPEN_CREATE : 0;
    kept_status status = kept_episodes_connect(store, path, flags, options->timeout_ms, err);
    if (status == KEPT_OK)
        status = kept_episodes_make_ready(store, err);
    if (status == KEPT_OK && options->create)
        status = kept_episodes_create(store, options->bind, options->stats, err);
    if (status == KEPT_OK)
        status = check_version(store, err);
    if (status == KEPT_OK)
        status = check_schema(store, err);
    if (status == KEPT_OK)
        status = kept_episodes_read_bind(store, &n_sound, err);
    if (status == KEPT_OK && options->bind != NULL)
        status = expect(store, options->bind, err);
    return status;
}

kept_status kept_episodes_open(const char *path, const struct kept_episodes_options *options,
                               struct kept_episodes **out, struct kept_error *err)
{
    static const struct kept_episodes_options defaults = {0};
    options = options != NULL ? options : &defaults;
    *out = NULL;
    kept_status status = check_options(path, options, err);
    if (status != KEPT_OK)
        return status;
    struct kept_episodes *store = kept_calloc(1, sizeof *store);
    if (store == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to open facts '%s'", path);
    store->read_only = options->read_only;
    status = open_whole(store, path, options, err);
    if (status != KEPT_OK)
        kept_episodes_close(&store);
    *out = store;
    return status;
}

void kept_episodes_close(struct kept_episodes **store)
{
    if (store == NULL || *store == NULL)
        return;
    struct kept_episodes *s = *store;
    sqlite3_close(s->db);
    kept_free(s->path);
    kept_free(s->stats);
    kept_free(s->address);
    kept_free(s);
    *store = NULL;
}

const struct kept_episodes_bind *kept_episodes_bound(const struct kept_episodes *store)
{
    return &store->bind;
}

const float *kept_episodes_stats(const struct kept_episodes *store)
{
    return store->stats;
}

kept_status kept_episodes_set_stats(struct kept_episodes *store, uint64_t model_hash,
                                    const float *stats, struct kept_error *err)
{
    if (stats == NULL || !are_stats(stats, store->bind.n_embd))
        return kept_fail(err, KEPT_E_ARGUMENT, "facts '%s': the statistics are not finite",
                         store->path);
    uint32_t n_sound;
    kept_status status = kept_episodes_begin(store, err);
    if (status != KEPT_OK)
        return status;
    status = kept_episodes_read_bind(store, &n_sound, err);
    struct kept_episodes_bind bind = store->bind;
    if (status == KEPT_OK && bind.model_hash != 0 && bind.model_hash != model_hash) {
        bind.model_hash = model_hash;
        status = expect(store, &bind, err);
    }
    if (status != KEPT_OK || store->stats != NULL) {
        kept_episodes_rollback(store);
        return status;
    }
    bind.model_hash = model_hash;
    struct store_fields fields = fields_of(&bind, stats);
    status = insert_bind(store, &fields, err);
    if (status != KEPT_OK) {
        kept_episodes_rollback(store);
        return status;
    }
    status = kept_episodes_commit(store, err);
    return status == KEPT_OK ? kept_episodes_read_bind(store, &n_sound, err) : status;
}

kept_status kept_episodes_version(struct kept_episodes *store, uint32_t *out,
                                  struct kept_error *err)
{
    int64_t version = 0;
    kept_episodes_patience(store);
    kept_status status = kept_episodes_number(store, "PRAGMA data_version", &version, err);
    if (status == KEPT_OK)
        *out = (uint32_t)version;
    return status;
}

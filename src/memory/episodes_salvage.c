/* memory/episodes_salvage.c: episodes out of a file that SQLite does not (fully) understand.
 *
 * Every page is looked at by itself, so one damaged page costs only what stands on it. A page that
 * holds cells of a tree says so in its first byte; the pages that long records go on in begin with
 * the number of the next page, and so never do. What is found must pass the checksums, which no
 * damage passes, and pages that the file says are free are not looked at: nothing that was
 * forgotten (it is zeros), and nothing that was never committed, comes back. Layout of pages and
 * records: "Database File Format" in SQLite's documentation.
 */
#include "memory/episodes_private.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"

#define U EPISODES_PAGE

enum { INDEX_INNER = 0x02, INDEX_LEAF = 0x0A, TABLE_LEAF = 0x0D };

struct salvage {
    struct kept_episodes *from, *to;
    const struct kept_episodes_reader *reader;
    uint64_t n_removed;
    uint32_t n_pages;
    uint64_t patience; /* long pages that may still be read: a hostile file shares them */
    uint8_t *is_free;  /* [n_pages + 1] */
    uint8_t *record;
    size_t record_cap;
    uint8_t page[EPISODES_PAGE];
};

/* Bytes that are taken from the front. */
struct cursor {
    const uint8_t *at, *end;
};

static uint32_t be(const uint8_t *at, int n)
{
    uint32_t value = 0;
    for (int i = 0; i < n; i++)
        value = value << 8 | at[i];
    return value;
}

static bool varint(struct cursor *c, uint64_t *out)
{
    uint64_t value = 0;
    for (int i = 0; i < 9; i++) {
        if (c->at >= c->end)
            return false;
        uint8_t byte = *c->at++;
        if (i == 8) {
            *out = value << 8 | byte;
            return true;
        }
        value = value << 7 | (byte & 0x7F);
        if ((byte & 0x80) == 0)
            break;
    }
    *out = value;
    return true;
}

/* ---- a record ---- */

struct column {
    enum { NOTHING, NUMBER, TEXT, BLOB } kind;
    int64_t number;
    const uint8_t *bytes;
    size_t n_bytes;
};

static bool number_of(uint64_t type, struct cursor *body, struct column *out)
{
    static const uint8_t sizes[] = {0, 1, 2, 3, 4, 6, 8, 8, 0, 0};
    size_t n = sizes[type];
    if ((size_t)(body->end - body->at) < n)
        return false;
    uint64_t value = n != 0 && (body->at[0] & 0x80) ? UINT64_MAX : 0;
    for (size_t i = 0; i < n; i++)
        value = value << 8 | *body->at++;
    out->kind = type == 0 || type == 7 ? NOTHING : NUMBER; /* 7: a fraction, which we never have */
    out->number = type == 9 ? 1 : (int64_t)value;
    return true;
}

static bool column_of(uint64_t type, struct cursor *body, struct column *out)
{
    *out = (struct column){.kind = NOTHING};
    if (type < 10)
        return number_of(type, body, out);
    if (type < 12)
        return false;
    uint64_t n = (type - 12) / 2;
    if (n > (uint64_t)(body->end - body->at))
        return false;
    out->kind = type % 2 ? TEXT : BLOB;
    out->bytes = body->at;
    out->n_bytes = (size_t)n;
    body->at += n;
    return true;
}

/* How many columns a record has by its header; 0 when that is no header. */
static int n_columns(const uint8_t *record, size_t n_bytes, uint64_t types[EPISODE_COLUMNS])
{
    struct cursor header = {record, record + n_bytes};
    uint64_t header_bytes, type;
    int n = 0;
    if (!varint(&header, &header_bytes) || header_bytes > n_bytes)
        return 0;
    header.end = record + header_bytes;
    while (header.at < header.end) {
        if (n == EPISODE_COLUMNS || !varint(&header, &type))
            return 0;
        types[n++] = type;
    }
    return n;
}

/* Columns as far as the bytes go; returns how many those are. */
static int columns_of(const uint8_t *record, size_t n_bytes, struct column *out)
{
    uint64_t types[EPISODE_COLUMNS], header_bytes = 0;
    struct cursor at = {record, record + n_bytes};
    int n = n_columns(record, n_bytes, types), i = 0;
    if (n == 0 || !varint(&at, &header_bytes))
        return 0;
    at.at = record + header_bytes;
    while (i < n && column_of(types[i], &at, &out[i]))
        i++;
    return i;
}

/* ---- pages ---- */

static bool read_page(struct salvage *s, uint32_t number, uint8_t *to)
{
    return number >= 1 && number <= s->n_pages &&
           kept_episodes_read_raw(s->from, (uint64_t)(number - 1) * U, to, (int)U);
}

struct cell {
    const uint8_t *local;
    size_t n_local;
    uint64_t n_bytes; /* of the record */
    uint32_t next;    /* where it goes on; 0: nowhere */
};

/* How much of a record stands on the tree's page: SQLite's rule. */
static size_t local_bytes(uint8_t kind, uint64_t n_bytes)
{
    const uint32_t most = kind == TABLE_LEAF ? U - 35 : (U - 12) * 64 / 255 - 23;
    const uint32_t least = (U - 12) * 32 / 255 - 23;
    if (n_bytes <= most)
        return (size_t)n_bytes;
    uint64_t n = least + (n_bytes - least) % (U - 4);
    return (size_t)(n <= most ? n : least);
}

static bool cell_of(const struct salvage *s, uint8_t kind, uint32_t offset, struct cell *out)
{
    struct cursor c = {s->page + offset, s->page + U};
    uint64_t row;
    if (offset + 4 > U)
        return false;
    if (kind == INDEX_INNER)
        c.at += 4;
    if (!varint(&c, &out->n_bytes) || (kind == TABLE_LEAF && !varint(&c, &row)))
        return false;
    if (out->n_bytes > (uint64_t)s->n_pages * U)
        return false;
    out->local = c.at;
    out->n_local = local_bytes(kind, out->n_bytes);
    size_t need = out->n_local + (out->n_local < out->n_bytes ? 4 : 0);
    if ((size_t)(c.end - c.at) < need)
        return false;
    out->next = out->n_local < out->n_bytes ? be(c.at + out->n_local, 4) : 0;
    return true;
}

/* The whole record into s->record: true; its beginning only: *n_bytes says how much. */
static kept_status gather(struct salvage *s, const struct cell *cell, size_t *n_bytes,
                          struct kept_error *err)
{
    uint8_t page[EPISODES_PAGE];
    uint32_t next = cell->next;
    if (cell->n_bytes > s->record_cap) {
        uint8_t *more = kept_realloc(s->record, (size_t)cell->n_bytes);
        if (more == NULL)
            return kept_fail(err, KEPT_E_HOST_MEMORY,
                             "facts '%s': no memory for a record of %llu "
                             "bytes",
                             s->from->path, (unsigned long long)cell->n_bytes);
        s->record = more;
        s->record_cap = (size_t)cell->n_bytes;
    }
    memcpy(s->record, cell->local, cell->n_local);
    *n_bytes = cell->n_local;
    while (*n_bytes < cell->n_bytes && s->patience > 0 && read_page(s, next, page)) {
        size_t left = (size_t)cell->n_bytes - *n_bytes, n = left < U - 4 ? left : U - 4;
        memcpy(s->record + *n_bytes, page + 4, n);
        *n_bytes += n;
        next = be(page, 4);
        s->patience--;
    }
    return KEPT_OK;
}

/* ---- what is looked for ---- */

static bool is_store(const struct column *columns, struct store_fields *out)
{
    for (int i = 0; i < 7; i++) {
        if (columns[1 + i].kind != NUMBER)
            return false;
        out->numbers[i] = columns[1 + i].number;
    }
    out->stats = columns[8].bytes;
    out->stats_bytes = columns[8].n_bytes;
    out->sum = columns[9].number;
    return columns[8].kind == BLOB && columns[9].kind == NUMBER;
}

static bool is_episode(const struct column *c, struct episode_fields *out)
{
    int64_t *numbers[] = {&out->sum,      &out->payload_sum, &out->time_s,
                          &out->n_tokens, &out->tag_hash,    &out->text_hash};
    bool right = c[0].kind == TEXT && c[8].kind == BLOB && c[9].kind == TEXT &&
                 c[10].kind == TEXT && c[11].kind == BLOB;
    *out = (struct episode_fields){.id = {(const char *)c[0].bytes, c[0].n_bytes},
                                   .tag = {(const char *)c[9].bytes, c[9].n_bytes},
                                   .text = {(const char *)c[10].bytes, c[10].n_bytes},
                                   .address = c[8].bytes,
                                   .address_bytes = c[8].n_bytes,
                                   .payload = c[11].bytes,
                                   .payload_bytes = c[11].n_bytes};
    for (int i = 0; i < 6; i++) {
        right = right && c[2 + i].kind == NUMBER;
        *numbers[i] = c[2 + i].number;
    }
    return right;
}

static void report(struct salvage *s, const struct column *id, const char *why)
{
    char text[KEPT_EPISODE_ID_BYTES] = "";
    size_t n = id->kind == TEXT ? id->n_bytes : 0;
    n = n < sizeof text ? n : sizeof text - 1;
    if (n > 0)
        memcpy(text, id->bytes, n);
    text[n] = '\0';
    s->n_removed++;
    if (s->reader != NULL && s->reader->damaged != NULL)
        s->reader->damaged(s->reader->user, text, why);
}

typedef kept_status (*cell_fn)(struct salvage *s, uint8_t kind, const struct cell *cell,
                               struct kept_error *err);

static kept_status find_store(struct salvage *s, uint8_t kind, const struct cell *cell,
                              struct kept_error *err)
{
    struct column columns[EPISODE_COLUMNS];
    uint64_t types[EPISODE_COLUMNS];
    struct store_fields fields;
    size_t n_bytes;
    bool sound;
    if (kind != TABLE_LEAF || s->from->address != NULL || /* found already */
        n_columns(cell->local, cell->n_local, types) != STORE_COLUMNS)
        return KEPT_OK;
    kept_status status = gather(s, cell, &n_bytes, err);
    if (status == KEPT_OK && columns_of(s->record, n_bytes, columns) == STORE_COLUMNS &&
        is_store(columns, &fields))
        status = kept_episodes_take(s->from, &fields, &sound, err);
    return status;
}

static kept_status find_episode(struct salvage *s, uint8_t kind, const struct cell *cell,
                                struct kept_error *err)
{
    struct column columns[EPISODE_COLUMNS];
    uint64_t types[EPISODE_COLUMNS];
    struct episode_fields fields;
    size_t n_bytes;
    if (kind == TABLE_LEAF || n_columns(cell->local, cell->n_local, types) != EPISODE_COLUMNS)
        return KEPT_OK;
    kept_status status = gather(s, cell, &n_bytes, err);
    if (status != KEPT_OK)
        return status;
    columns[0].kind = NOTHING;
    const char *why = NULL;
    if (columns_of(s->record, n_bytes, columns) != EPISODE_COLUMNS)
        why = "its pages are not all there";
    else if (!is_episode(columns, &fields))
        why = "its fields are not of the right types";
    else
        why = kept_episodes_check(s->from, &fields);
    if (why == NULL)
        return kept_episodes_insert(s->to, &fields, err);
    report(s, &columns[0], why);
    return KEPT_OK;
}

static kept_status each_cell(struct salvage *s, cell_fn fn, struct kept_error *err)
{
    kept_status status = KEPT_OK;
    for (uint32_t number = 1; number <= s->n_pages && status == KEPT_OK; number++) {
        uint32_t start = number == 1 ? 100 : 0;
        if (s->is_free[number] || !read_page(s, number, s->page))
            continue;
        uint8_t kind = s->page[start];
        if (kind != INDEX_INNER && kind != INDEX_LEAF && kind != TABLE_LEAF)
            continue;
        uint32_t n_cells = be(s->page + start + 3, 2);
        uint32_t array = start + (kind == INDEX_INNER ? 12 : 8);
        for (uint32_t i = 0; i < n_cells && array + 2 * i + 2 <= U && status == KEPT_OK; i++) {
            struct cell cell;
            if (cell_of(s, kind, be(s->page + array + 2 * i, 2), &cell))
                status = fn(s, kind, &cell, err);
        }
    }
    return status;
}

/* ---- free pages ---- */

/* Marks the pages of the list of free ones; nothing when the list is not sound as a whole. */
static void mark_free(struct salvage *s)
{
    uint8_t header[100];
    uint32_t n = 0;
    if (!kept_episodes_read_raw(s->from, 0, header, sizeof header))
        return;
    uint32_t trunk = be(header + 32, 4), expected = be(header + 36, 4);
    bool sound = true;
    while (trunk != 0 && sound) {
        sound = trunk <= s->n_pages && !s->is_free[trunk] && read_page(s, trunk, s->page);
        if (!sound)
            break;
        s->is_free[trunk] = 1;
        n++;
        uint32_t n_leaves = be(s->page + 4, 4);
        for (uint32_t i = 0; i < n_leaves && sound; i++, n++) {
            uint32_t leaf = i < U / 4 - 2 ? be(s->page + 8 + 4 * i, 4) : 0;
            sound = leaf > 1 && leaf <= s->n_pages && !s->is_free[leaf];
            if (sound)
                s->is_free[leaf] = 1;
        }
        trunk = be(s->page, 4);
    }
    if (!sound || n != expected)
        memset(s->is_free, 0, (size_t)s->n_pages + 1);
}

static kept_status salvage(struct salvage *s, struct kept_error *err)
{
    kept_status status = each_cell(s, find_store, err);
    if (status != KEPT_OK)
        return status;
    if (s->from->address == NULL)
        return kept_fail(err, KEPT_E_FORMAT,
                         "facts '%s': no page says which model they belong to, so none is a fact",
                         s->from->path);
    status = kept_episodes_create(s->to, &s->from->bind, s->from->stats, err);
    if (status == KEPT_OK)
        status = kept_episodes_begin(s->to, err);
    if (status != KEPT_OK)
        return status;
    s->patience = (uint64_t)s->n_pages * 16 + 1024;
    s->to->patience = UINT64_MAX; /* what is inserted is sound, and the file grows */
    status = each_cell(s, find_episode, err);
    if (status == KEPT_OK)
        return kept_episodes_commit(s->to, err);
    kept_episodes_rollback(s->to);
    return status;
}

kept_status kept_episodes_salvage(struct kept_episodes *from, struct kept_episodes *to,
                                  const struct kept_episodes_reader *reader, uint64_t *n_removed,
                                  struct kept_error *err)
{
    uint64_t n_pages = (kept_episodes_raw_bytes(from) + U - 1) / U;
    if (n_pages > UINT32_MAX - 1)
        return kept_fail(err, KEPT_E_FORMAT, "facts '%s': the file is too large", from->path);
    struct salvage *s = kept_calloc(1, sizeof *s);
    if (s != NULL)
        s->is_free = kept_calloc((size_t)n_pages + 1, 1);
    if (s == NULL || s->is_free == NULL) {
        kept_free(s);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to repair facts '%s'", from->path);
    }
    s->from = from;
    s->to = to;
    s->reader = reader;
    s->n_pages = (uint32_t)n_pages;
    s->patience = n_pages * 16 + 1024;
    mark_free(s);
    kept_status status = salvage(s, err);
    *n_removed = s->n_removed;
    kept_free(s->record);
    kept_free(s->is_free);
    kept_free(s);
    return status;
}

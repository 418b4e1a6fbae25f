/* memory/episodes_row.c: one episode: its checksums, and whether a row of the file is sound. */
#include "memory/episodes_private.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/status.h"
#include "base/str.h"

#define LENGTH_SLACK 1e-3 /* of an address, whose length is 1 */

uint64_t kept_episodes_payload_bytes(const struct kept_episodes_bind *bind, uint32_t n_tokens)
{
    const uint32_t most = 65536;
    uint64_t row = 0;
    if (bind->payload_type == KEPT_EPISODE_F16)
        row = (uint64_t)bind->kv_row * 2;
    else if (bind->payload_type == KEPT_EPISODE_Q8_0 && bind->kv_row % 32 == 0)
        row = (uint64_t)bind->kv_row / 32 * 34;
    if (bind->kv_row > most || bind->n_layers > most || n_tokens > KEPT_EPISODE_MAX_TOKENS)
        return 0;
    uint64_t n_bytes = row * 2 * bind->n_layers * n_tokens;
    return n_bytes <= EPISODES_MAX_BYTES ? n_bytes : 0;
}

uint64_t kept_episodes_text_hash(const char *text, size_t n_bytes)
{
    return kept_hash64(text, n_bytes, 0);
}

void kept_episodes_name(const char *tag, const char *text, char id[KEPT_EPISODE_ID_BYTES])
{
    uint64_t hash = kept_hash64(text, strlen(text),
                                tag ? kept_hash64(tag, strlen(tag), 0) : kept_hash64("", 0, 0));
    kept_snprintf(id, KEPT_EPISODE_ID_BYTES, "%016llx", (unsigned long long)hash);
}

/* Every field is hashed with the sum of those before it as the seed, so borders count. */
static int64_t sum_of(const struct kept_episodes *store, const struct episode_fields *f)
{
    const int64_t numbers[] = {f->payload_sum, f->time_s,    f->n_tokens,
                               f->tag_hash,    f->text_hash, (int64_t)f->payload_bytes};
    uint64_t sum = kept_hash64(f->id.text, f->id.n_bytes, store->seed);
    sum = kept_hash64(f->tag.text, f->tag.n_bytes, sum);
    sum = kept_hash64(f->text.text, f->text.n_bytes, sum);
    sum = kept_hash64(numbers, sizeof numbers, sum);
    sum = kept_hash64(f->address, f->address_bytes, sum);
    return (int64_t)sum;
}

void kept_episodes_sums(const struct kept_episodes *store, struct episode_fields *fields)
{
    fields->tag_hash = (int64_t)kept_episodes_text_hash(fields->tag.text, fields->tag.n_bytes);
    fields->text_hash = (int64_t)kept_episodes_text_hash(fields->text.text, fields->text.n_bytes);
    fields->payload_sum = (int64_t)kept_hash64(fields->payload, fields->payload_bytes, 0);
    fields->sum = sum_of(store, fields);
}

/* One text of n_bytes: no NUL inside, and within its limits. */
static bool is_text(const char *text, size_t n_bytes, size_t least, size_t cap_bytes)
{
    return text != NULL && n_bytes >= least && n_bytes < cap_bytes &&
           memchr(text, 0, n_bytes) == NULL;
}

static bool has_length_1(const float *address, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)address[i] * address[i];
    return fabs(sum - 1) <= LENGTH_SLACK; /* false for NaN */
}

const char *kept_episodes_check(struct kept_episodes *store, const struct episode_fields *f)
{
    const struct kept_episodes_bind *bind = &store->bind;
    if (store->stats == NULL)
        return "the store has no statistics";
    if (!is_text(f->id.text, f->id.n_bytes, 1, KEPT_EPISODE_ID_BYTES) ||
        !is_text(f->tag.text, f->tag.n_bytes, 0, KEPT_EPISODE_ID_BYTES) ||
        !is_text(f->text.text, f->text.n_bytes, 1, KEPT_EPISODE_TEXT_BYTES))
        return "its id, tag or text is not text of an allowed length";
    if (f->n_tokens < 1 || f->n_tokens > KEPT_EPISODE_MAX_TOKENS)
        return "its number of tokens is out of range";
    if (f->address == NULL || f->address_bytes != bind->n_embd * sizeof(float))
        return "its address has the wrong size";
    if (f->payload_bytes == 0 ||
        f->payload_bytes != kept_episodes_payload_bytes(bind, (uint32_t)f->n_tokens))
        return "its payload has the wrong size";
    if (f->sum != sum_of(store, f))
        return "the checksum of its text, address and numbers is wrong";
    if ((uint64_t)f->tag_hash != kept_episodes_text_hash(f->tag.text, f->tag.n_bytes) ||
        (uint64_t)f->text_hash != kept_episodes_text_hash(f->text.text, f->text.n_bytes))
        return "the hash of its tag or text is wrong";
    if (f->payload != NULL &&
        (uint64_t)f->payload_sum != kept_hash64(f->payload, f->payload_bytes, 0))
        return "the checksum of its payload is wrong";
    memcpy(store->address, f->address, f->address_bytes);
    return has_length_1(store->address, bind->n_embd) ? NULL : "its address is not of length 1";
}

kept_status kept_episodes_insert(struct kept_episodes *store, const struct episode_fields *f,
                                 struct kept_error *err)
{
    sqlite3_stmt *stmt;
    kept_status status = kept_episodes_prepare(
        store, "INSERT OR REPLACE INTO episodes VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)",
        &stmt, err);
    if (status != KEPT_OK)
        return status;
    const int64_t numbers[] = {f->sum,      f->payload_sum, f->time_s,
                               f->n_tokens, f->tag_hash,    f->text_hash};
    int rc = sqlite3_bind_text(stmt, 1, f->id.text, (int)f->id.n_bytes, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_zeroblob(stmt, 2, EPISODES_ROOM);
    for (int i = 0; i < 6 && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_int64(stmt, 3 + i, numbers[i]);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_blob(stmt, 9, f->address, (int)f->address_bytes, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 10, f->tag.n_bytes != 0 ? f->tag.text : "",
                               (int)f->tag.n_bytes, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 11, f->text.text, (int)f->text.n_bytes, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_blob(stmt, 12, f->payload, (int)f->payload_bytes, SQLITE_STATIC);
    if (rc != SQLITE_OK || sqlite3_step(stmt) != SQLITE_DONE)
        status = kept_episodes_fail(store, "take a fact", err);
    sqlite3_finalize(stmt);
    return status;
}

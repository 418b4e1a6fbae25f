/* core/facts_internal.h: an open store of facts: its file, and what is held of it in host memory.
 * facts.c opens it and keeps the index, facts_write.c writes, facts_read.c searches and reads. */
#ifndef KEPT_CORE_FACTS_INTERNAL_H
#define KEPT_CORE_FACTS_INTERNAL_H

#include "core/model_internal.h"
#include "core/session_internal.h"
#include "kept/facts.h"
#include "memory/address.h"
#include "memory/episodes.h"

struct kept_fact_entry {
    struct kept_fact fact; /* its strings are allocations of the entry's own */
    float *address;        /* [n_embd] */
    uint64_t hash;         /* of text and address */
    uint32_t row;          /* of the device's addresses, while a session is attached */
    bool chosen;           /* to be forgotten */
};

struct kept_facts {
    struct kept_episodes *file;
    const kept_model *model;          /* or NULL */
    kept_session *session;            /* attached, or NULL */
    struct kept_fact_entry **entries; /* by rising id */
    uint32_t n, cap;
    uint64_t n_damaged;
    uint32_t version;                /* of the file that the entries are from */
    struct kept_fact_entry **by_row; /* [facts_max] of the attached session; NULL: free */
    bool *stale;                     /* [tiles]: the device has other addresses than by_row says */
    float *tile;                     /* [16][n_embd]: rows on their way to the device */
    float *scores;                   /* [facts_max] */
    char *path;
    /* What the session reads, best first. */
    struct kept_fact_read {
        char id[KEPT_FACT_ID_BYTES];
        uint64_t hash; /* of the version that is read */
    } read[KEPT_FACTS_MAX_TOP];
    uint32_t n_read;
};

/* ---- facts.c ---- */

/* The entry of this id, or NULL; *at (may be NULL): where it is or belongs. */
struct kept_fact_entry *kept_facts_find(const kept_facts *facts, const char *id, uint32_t *at);
/* A copy of an episode; NULL without memory. */
struct kept_fact_entry *kept_facts_entry(const kept_facts *facts,
                                         const struct kept_episode *episode);
void kept_facts_entry_free(struct kept_fact_entry **entry);
/* Takes the entry over: in the place of one of its id, and of others of its tag. There is room. */
void kept_facts_insert(kept_facts *facts, struct kept_fact_entry *entry);
kept_status kept_facts_make_room(kept_facts *facts, uint32_t n, struct kept_error *err);
/* What the session reads must not outlive its fact: neither a forgotten one nor an old version. */
void kept_facts_stop_reading(kept_facts *facts);
/* Reads everything again when another process has changed the file. */
kept_status kept_facts_refresh(kept_facts *facts, struct kept_error *err);

/* ---- facts_write.c ---- */

/* Entries without a row get one; rows on the device become what the entries say. */
kept_status kept_facts_upload(kept_facts *facts, struct kept_error *err);
/* The address of the first KEPT_FACT_MAX_TOKENS tokens by these statistics; tokens [n]. */
kept_status kept_facts_address(kept_facts *facts, const float *stats, const int32_t *tokens,
                               uint32_t n, float *out, struct kept_error *err);
/* Tokens of a text, with one space before it where it begins with none; freed with
 * kept_tokens_free. */
kept_status kept_facts_tokens(const kept_facts *facts, const char *text, size_t n_bytes,
                              int32_t **out, size_t *n, struct kept_error *err);
kept_status kept_facts_need_session(const kept_facts *facts, struct kept_error *err);
/* There is a session, and no other store was attached to it since. */
bool kept_facts_is_attached(const kept_facts *facts);
/* The text that statistics are made of. */
extern const char kept_facts_plain_text[];

#endif

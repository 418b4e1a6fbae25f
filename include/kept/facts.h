/* kept/facts.h: episodic memory: facts that are written, recalled and forgotten while a model runs.
 *
 * After Larimar (Das et al. 2024, arXiv 2403.11901): its least-squares addressing, exact forgetting
 * and scope test, over the model's own keys and values instead of a trained encoder and decoder
 * (docs/facts.md). A fact is a short text. Writing evaluates it once, after four cached tokens of
 * nothing, and stores
 *     the address   the hidden state entering an early layer, standardised per element, averaged
 *                   over the fact's tokens, of length 1
 *     the payload   keys before RoPE and values of every layer
 * in a file bound to the model. Reading makes an address of a query in the same way, ranks all
 * facts by cosine, solves (E E^T + 0.1) w = E q over the nearest ones, and when the largest weight
 * reaches the scope, puts the payload of the best fact a gap before the prompt. Else nothing is put
 * there, and logits are bit-identical to those of a session without facts.
 *
 * The file never changes a model; closing it leaves nothing behind. Everything is ordered by id, so
 * that a store that has forgotten a fact behaves exactly like one that never held it.
 *
 * Thread-safety: a store belongs to one thread at a time; a file may be opened by many readers and
 * one writer at once. Needs a build with SQLite: else kept_facts_open is KEPT_E_UNSUPPORTED.
 */
#ifndef KEPT_FACTS_H
#define KEPT_FACTS_H

#include "session.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kept_facts kept_facts;

#define KEPT_FACT_MAX_TOKENS 60u /* of one fact */
#define KEPT_FACTS_MAX_TOP   8u  /* facts read at once */
#define KEPT_FACTS_SCOPE     0.25f
#define KEPT_FACTS_GAP       128u /* positions between a fact and the prompt */
#define KEPT_FACT_ID_BYTES   128u /* the longest id or tag, its NUL included */

struct kept_facts_open_params {
    bool create;                 /* makes an empty store where there is no file */
    bool read_only;              /* never writes; several may read while one writes */
    enum kept_slot_type payload; /* of a new store: f16 or q8_0 */
};

/* A fact as it is stored; strings are the store's, valid until it changes. */
struct kept_fact {
    const char *id, *text;
    const char *tag; /* "" for none */
    int64_t time_s;  /* when it was written, seconds since 1970 */
    uint32_t n_tokens;
};

struct kept_facts_info {
    uint64_t n_facts, n_damaged;      /* damaged ones are skipped everywhere; repair removes them */
    uint64_t header_hash, model_hash; /* of the model that it belongs to; 0: not written to yet */
    uint32_t n_embd, n_layers, address_layer;
    enum kept_slot_type payload;
    uint64_t host_bytes;          /* what the open store holds in host memory */
    uint64_t host_bytes_per_fact; /* of that, for each fact; id, tag and text come on top */
};

/* ---- the file ---- */

/* model NULL: to list, forget, verify, repair, export and compact without one. KEPT_E_IO (no such
 * file, not writable, another process is writing), KEPT_E_FORMAT (damaged: kept_facts_repair),
 * KEPT_E_MISMATCH (of another model), KEPT_E_UNSUPPORTED (of a later version, or a build without
 * SQLite), KEPT_E_HOST_MEMORY. model outlives the store. */
KEPT_API kept_status kept_facts_open(const char *path, const kept_model *model,
                                     const struct kept_facts_open_params *params, kept_facts **out,
                                     struct kept_error *err);
KEPT_API void kept_facts_close(kept_facts **facts);
KEPT_API void kept_facts_info(const kept_facts *facts, struct kept_facts_info *out);

/* All facts by rising id (bytes); ends early when fn returns false. */
typedef bool (*kept_fact_fn)(void *user, const struct kept_fact *fact);
KEPT_API kept_status kept_facts_each(kept_facts *facts, kept_fact_fn fn, void *user,
                                     struct kept_error *err);

/* Which facts: those of this id, this tag, or exactly this text; exactly one is not NULL. */
struct kept_fact_choice {
    const char *id, *tag, *text;
};
/* Removes facts: text, address and payload are overwritten before this returns; kept_facts_compact
 * takes their room from the file. All of them in one transaction. *n_forgotten of 0 is no failure.
 */
KEPT_API kept_status kept_facts_forget(kept_facts *facts, const struct kept_fact_choice *choices,
                                       uint32_t n_choices, uint64_t *n_forgotten,
                                       struct kept_error *err);
/* Rewrites the file without the room of forgotten facts. */
KEPT_API kept_status kept_facts_compact(kept_facts *facts, struct kept_error *err);

/* What is wrong with a fact ("" for the file as a whole). */
typedef void (*kept_fact_damage_fn)(void *user, const char *id, const char *why);
/* Checks every fact and the file; KEPT_OK also when there is damage: see *n_damaged. */
KEPT_API kept_status kept_facts_verify(const char *path, kept_fact_damage_fn fn, void *user,
                                       uint64_t *n_facts, uint64_t *n_damaged,
                                       struct kept_error *err);
/* Keeps every sound fact, reports and removes what is damaged, and makes the file anew. */
KEPT_API kept_status kept_facts_repair(const char *path, kept_fact_damage_fn fn, void *user,
                                       uint64_t *n_kept, uint64_t *n_removed,
                                       struct kept_error *err);

/* ---- with a session ---- */

/* Makes ready for writing and reading with this session, whose plan has facts: statistics of the
 * model where the file has none yet (a second of evaluation), addresses to the device.
 * KEPT_E_BUDGET: more facts than the plan has room for. KEPT_E_MISMATCH: other weights. The session
 * outlives the store, or is detached by attaching NULL. A session has one store at a time: of one
 * that another was attached after, writing and reading are KEPT_E_STATE. */
KEPT_API kept_status kept_facts_attach(kept_facts *facts, kept_session *session,
                                       struct kept_error *err);

struct kept_fact_input {
    const char *text;
    const char *tag; /* NULL or "": none; else facts of this tag are superseded */
    const char *id;  /* NULL: made from tag and text */
    int64_t time_s;  /* 0: now */
};
struct kept_facts_written {
    uint64_t n_written, n_superseded;
    uint64_t eval_ns, commit_ns; /* evaluating; encoding and the file */
    char id[KEPT_FACT_ID_BYTES]; /* of the last one */
};
/* Writes facts in one transaction: all or none; what they supersede is no longer read. The
 * session's own past is untouched. KEPT_E_PROMPT: a text that is empty, no UTF-8, or longer than
 * KEPT_FACT_MAX_TOKENS. KEPT_E_BUDGET: no room in the plan. KEPT_E_CANCELLED by progress (may be
 * NULL) or kept_session_cancel: none was written. */
KEPT_API kept_status kept_facts_write(kept_facts *facts, const struct kept_fact_input *inputs,
                                      uint32_t n_inputs, kept_progress_fn progress, void *user,
                                      struct kept_facts_written *out, struct kept_error *err);

/* One fact of a ranking. */
struct kept_fact_match {
    char id[KEPT_FACT_ID_BYTES];
    float cosine, weight;
};
/* What a query is compared with: the best weight, and how much of the query's address the facts do
 * not explain: |q - E^T w| / |q|, 0 to 1. */
struct kept_fact_scope {
    float weight, residual;
};
/* Ranks facts by weight, best first: at most cap of them, only the nearest 64 have weights. Long
 * queries are cut at ends of sentences; the piece with the largest weight decides. */
KEPT_API kept_status kept_facts_search(kept_facts *facts, const char *query,
                                       struct kept_fact_match *out, uint32_t cap, uint32_t *n,
                                       struct kept_fact_scope *scope, struct kept_error *err);

struct kept_facts_read_params {
    const char *query;
    uint32_t top; /* facts at most; 0: the plan's */
    float scope;  /* the least weight of the best one; 0: KEPT_FACTS_SCOPE */
    bool keep;    /* out of scope: what was read before stays (else nothing is read) */
};
/* Searches, and makes the facts found what the session reads from its next evaluation on, before
 * its position. used [top]; *n_used of 0: out of scope. A damaged payload counts as absent. */
KEPT_API kept_status kept_facts_read(kept_facts *facts, const struct kept_facts_read_params *params,
                                     struct kept_fact_match *used, uint32_t *n_used,
                                     struct kept_fact_scope *scope, struct kept_error *err);
/* The session reads no facts from here on; so does kept_session_rewind to 0. */
KEPT_API void kept_session_clear_facts(kept_session *session);
/* Slots of facts that the session reads now, sinks included; 0: none. */
KEPT_API uint32_t kept_session_fact_slots(const kept_session *session);

#ifdef __cplusplus
}
#endif
#endif

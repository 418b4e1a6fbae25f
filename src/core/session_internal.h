/* core/session_internal.h: what a session holds; shared by commit.c (makes it), load.c (weights),
 * session.c (evaluates) and session_file.c (saves it). */
#ifndef KEPT_CORE_SESSION_INTERNAL_H
#define KEPT_CORE_SESSION_INTERNAL_H

#include <stdatomic.h>

#include "backend/backend.h"
#include "core/plan_internal.h"
#include "kept/session.h"

#define KEPT_FILL_BYTES (64u << 10)

struct kept_session {
    const kept_plan *plan;
    struct kept_device *device;
    struct kept_buf **bufs;       /* [plan->n_buffers] */
    struct kept_kernel **kernels; /* [n_kernels], each used by any number of calls */
    uint32_t n_kernels, cap_kernels;
    struct kept_recording **recordings[KEPT_MAX_PROGRAMS]; /* [program.n_pieces] */

    int32_t *tokens; /* [context]: the evaluated ones, then those under evaluation */
    uint32_t position;
    uint32_t written;  /* end of the positions whose slots were ever written since the last reset */
    uint32_t restored; /* the first position whose sliding windows a loaded file had; 0: none was */
    uint32_t edge;     /* retention: the position up to which layers were maintained */
    uint32_t maintained; /* all pieces of that whose delay is below this one ran; the rest is due */
    uint32_t accepted;   /* position without held tokens */
    bool fresh;      /* stores are not as an empty session's: made so before the next evaluation */
    uint32_t *fill;  /* [KEPT_FILL_BYTES / 4] host memory to empty stores with, or NULL */
    uint32_t *step;  /* host copy: header, tokens, positions */
    float *logits;   /* host copy, where the device's cannot be mapped; else NULL */
    bool has_logits; /* the device holds logits and choice of the last evaluated token */
    uint32_t last_choice_row; /* in this row */
    uint32_t last_rows;       /* evaluated together last; 0: not known */
    const float *last_logits; /* fetched already, or NULL */
    atomic_bool cancel;

    struct kept_session_facts *facts; /* episodic memory in the plan; else NULL */

    uint64_t model_hash, driver_bytes;
    uint64_t load_ns, prefill_ns, decode_ns, prefill_tokens, decode_tokens;
    uint64_t allocations_at_commit;
};

/* The first position that a row at `position` attends to in this layer. */
uint32_t kept_session_window_from(const struct kept_session *session, uint32_t layer,
                                  uint32_t position);
/* Whether every sliding-window layer still holds the window of a row at `position`. */
bool kept_session_can_return(const struct kept_session *session, uint32_t position);
/* Forgets the logits; at position 0 also what was written. */
void kept_session_set_position(struct kept_session *session, uint32_t position);

/* Where a region lies. */
struct kept_bind kept_session_bind(const struct kept_session *session, uint32_t region);
/* Bytes the library holds on the device now, the backend's staging memory included. */
uint64_t kept_session_bytes(const struct kept_session *session);
/* Its host address, or NULL when it is not mapped. */
void *kept_session_host(const struct kept_session *session, uint32_t region);
kept_status kept_session_write(struct kept_session *session, uint32_t region, uint64_t offset,
                               const void *from, uint64_t n_bytes, struct kept_error *err);
kept_status kept_session_read(struct kept_session *session, uint32_t region, uint64_t offset,
                              void *to, uint64_t n_bytes, struct kept_error *err);
/* n words of a plane of a bounded layer's meta, from this slot of the store on. */
kept_status kept_session_read_plane(struct kept_session *session, uint32_t layer, uint32_t plane,
                                    uint64_t first_slot, uint32_t n, uint32_t *words,
                                    struct kept_error *err);

/* load.c: every weight region from the file; sets model_hash. */
kept_status kept_session_load_weights(struct kept_session *session, kept_progress_fn progress,
                                      void *user, struct kept_error *err);

/* session.c: the first words of the step buffer go to the device. */
kept_status kept_session_write_step(struct kept_session *session, uint32_t n_words,
                                    struct kept_error *err);

/* session_retain.c: empties the stores of a fresh session. */
kept_status kept_session_begin_stores(struct kept_session *session, struct kept_error *err);
/* Evicts when a block has been completed since: before one token what is due, before several
 * everything. KEPT_E_STATE past held tokens. */
kept_status kept_session_maintain(struct kept_session *session,
                                  const struct kept_eval_params *params, struct kept_error *err);
/* How many of `rows` rows the next chunk may take; how many of a chunk's are maintained by its own
 * program (KEPT_STEP_MAINTAIN). */
uint32_t kept_session_rows_here(const struct kept_session *session, uint32_t rows, bool hold);
uint32_t kept_session_maintained_rows(struct kept_session *session, uint32_t rows, bool last,
                                      bool hold);
/* Slots that a row at `position` needs may be gone. */
bool kept_session_is_behind_edge(const struct kept_session *session, uint32_t position);

/* session_facts.c: what a session does for episodic memory. Nothing of it touches its past. */
struct kept_session_facts {
    const void *owner; /* the store whose addresses the device has */
    bool has_sinks;
    int32_t sinks[KEPT_FACT_SINKS];
    float *sink_rows;  /* their keys and values, as of a kept_fact_rows */
    uint32_t n_tokens; /* whose hidden states were made last; 0: none whose rest can be evaluated */
    uint32_t slots;    /* that are read now, sinks included */
    float *rope[KEPT_MAX_ROPES]; /* the tables' first rows */
    uint32_t *words;             /* room for a region read back or written */
    float *rows;                 /* of an injection, one layer after the other */
};
/* Keys before RoPE and values of tokens: [n_layers][n_tokens][n_kv * d] each. */
struct kept_fact_rows {
    uint32_t n_tokens;
    float *k, *v;
};
kept_status kept_session_facts_create(struct kept_session *session, struct kept_error *err);
void kept_session_facts_destroy(struct kept_session *session);
/* The sinks that facts are evaluated after; once, or again with other tokens. */
kept_status kept_session_fact_sinks(struct kept_session *session,
                                    const int32_t tokens[KEPT_FACT_SINKS], struct kept_error *err);
/* n tokens after the sinks, up to the layer of addresses: out [n][n_embd], what enters it. */
kept_status kept_session_fact_hidden(struct kept_session *session, const int32_t *tokens,
                                     uint32_t n, float *out, struct kept_error *err);
/* The rest of the layers of the same tokens, and their keys and values; room is the caller's. */
kept_status kept_session_fact_rows(struct kept_session *session, struct kept_fact_rows *out,
                                   struct kept_error *err);
/* What the session reads from its next evaluation on: facts, the best first, which stands the
 * plan's gap before the session's position, the others further away; sinks before them all; biases
 * [n]. n 0: nothing. */
kept_status kept_session_fact_inject(struct kept_session *session,
                                     const struct kept_fact_rows *facts, const float *biases,
                                     uint32_t n, struct kept_error *err);
/* Rows [16 tile, 16 tile + 16) of the addresses: f32 [16][n_embd]. */
kept_status kept_session_fact_address(struct kept_session *session, uint32_t tile,
                                      const float *rows, struct kept_error *err);
/* Products of the first n addresses with a query of n_embd elements. */
kept_status kept_session_fact_rank(struct kept_session *session, const float *query, float *out,
                                   uint32_t n, struct kept_error *err);

/* session.c: submits and waits; a device that does not finish in two minutes counts as lost. */
kept_status kept_session_run(struct kept_session *session, struct kept_recording *const *recordings,
                             uint32_t n, struct kept_error *err);

#endif

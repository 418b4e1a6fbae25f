/* kept/session.h: one conversation on one device: the plan's memory, the evaluated tokens, logits.
 *
 * kept_session_create is the only place that allocates device memory: exactly the plan. Afterwards
 * nothing is allocated and no kernel is compiled; the library refuses it.
 *
 * Thread-safety: a session and its device belong to one thread at a time, except
 * kept_session_cancel.
 */
#ifndef KEPT_SESSION_H
#define KEPT_SESSION_H

#include "plan.h"
#include "sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kept_session kept_session;

struct kept_session_stats {
    uint64_t planned_bytes, actual_bytes; /* own allocations; equal, or something is wrong */
    uint64_t driver_bytes; /* measured after commit where the driver can tell, else 0 */
    uint64_t load_ns, prefill_ns, decode_ns;
    uint64_t prefill_tokens, decode_tokens; /* evaluated since creation; decode: one at a time */
    uint64_t allocations_after_commit;      /* 0, or something is wrong */
    uint64_t model_hash;                    /* XXH3 of the tensors */
    uint32_t n_recordings, n_kernels;
};

/* Allocates the plan, loads the weights, makes every kernel and recording. Blocks (seconds);
 * progress may be NULL. KEPT_E_BUDGET when the plan does not fit or the device's measured use
 * breaks the cap; KEPT_E_DEVICE_MEMORY, KEPT_E_IO, KEPT_E_FORMAT (the file changed or ends early),
 * KEPT_E_MISMATCH (another device's plan), KEPT_E_CANCELLED. */
KEPT_API kept_status kept_session_create(const kept_plan *plan, kept_device *device,
                                         kept_progress_fn progress, void *user, kept_session **out,
                                         struct kept_error *err);
KEPT_API void kept_session_destroy(kept_session **session);

/* Receives logits of consecutive rows: logits[n_rows][n_vocab] predict the token after position
 * first + i. */
typedef void (*kept_logits_fn)(void *user, uint32_t first, uint32_t n_rows, const float *logits);

struct kept_eval_params {
    const int32_t *tokens;
    uint32_t n_tokens;
    /* Rows whose logits are wanted. NULL: only the last token's, then read them with
     * kept_session_logits. Else called for tokens logits_from … n_tokens-1, in order. */
    kept_logits_fn on_logits;
    uint32_t logits_from;
    void *logits_user;
    kept_progress_fn progress; /* every submitted piece; NULL: none */
    void *progress_user;
    /* Tokens that go again: nothing is evicted meanwhile and no ranking learns from them. Rewind to
     * where they began, and the session goes on as if they had never been (maintenance that was put
     * off while tokens were decoded one by one runs before them, though). Needs the plan's
     * hold_tokens: at most so many together. */
    bool hold;
};

/* Evaluates tokens at the session's position, which moves on by n_tokens. On failure or cancel the
 * position is what was wholly evaluated before the failing chunk, or 0 where sliding-window layers
 * had already overwritten what that needs. KEPT_E_PROMPT (no tokens, or an id out of range),
 * KEPT_E_CONTEXT_FULL (nothing is evaluated), KEPT_E_CANCELLED, KEPT_E_DEVICE_LOST. */
KEPT_API kept_status kept_session_eval(kept_session *session, const struct kept_eval_params *params,
                                       struct kept_error *err);
/* Logits of the last evaluated token, [n_vocab]; valid until the next call on the session. */
KEPT_API kept_status kept_session_logits(kept_session *session, const float **logits,
                                         struct kept_error *err);
/* Chooses the next token with the sampler (greedy: the device's own argmax). KEPT_E_STATE when
 * nothing was evaluated last, KEPT_E_MISMATCH for a sampler of another vocabulary's size,
 * KEPT_E_ARGUMENT when no logit is a number. */
KEPT_API kept_status kept_session_sample(kept_session *session, kept_sampler *sampler,
                                         int32_t *token, struct kept_error *err);

KEPT_API uint32_t kept_session_position(const kept_session *session);
/* The evaluated tokens, [position]. */
KEPT_API const int32_t *kept_session_tokens(const kept_session *session);
/* Goes back to an earlier position. KEPT_E_STATE where sliding-window layers have already
 * overwritten what is needed; position 0 always works. */
KEPT_API kept_status kept_session_rewind(kept_session *session, uint32_t position,
                                         struct kept_error *err);
/* Rewinds to the longest prefix shared with tokens that can be restored; *n_reused tokens need no
 * evaluation. At least one token of a non-empty list is always left to evaluate. */
KEPT_API kept_status kept_session_reuse(kept_session *session, const int32_t *tokens,
                                        uint32_t n_tokens, uint32_t *n_reused,
                                        struct kept_error *err);

/* A file with tokens and slots, bound to the model by hash, checksummed. Loading replaces the
 * session's state; the file may come from another device or context size as long as it fits. On
 * failure the session is as it was before, or reset when the slots were already being written. */
KEPT_API kept_status kept_session_save(kept_session *session, const char *path,
                                       struct kept_error *err);
KEPT_API kept_status kept_session_load(kept_session *session, const char *path,
                                       struct kept_error *err);

/* What is live now. Reads a small table back from the device. */
struct kept_slot_counts {
    uint64_t live;    /* slots of all KV heads of all layers */
    uint64_t most;    /* of one KV head */
    uint64_t evicted; /* since the session began or was reset */
    uint64_t merged;  /* of those, into a kept slot */
    /* Of those: averaged into a slot of associative memory that is like them. The others that left
     * the window took a slot of their own at first (novelties). */
    uint64_t consolidated;
};
KEPT_API kept_status kept_session_slots(kept_session *session, struct kept_slot_counts *out,
                                        struct kept_error *err);
/* The positions of a KV head's live slots, ascending, and their biases. At most cap of them are
 * written; *n_live says how many there are. Tokens in flight none. Full retention: 0, 1, … */
KEPT_API kept_status kept_session_kept(kept_session *session, uint32_t layer, uint32_t kv_head,
                                       int32_t *positions, float *biases, uint32_t cap,
                                       uint32_t *n_live, struct kept_error *err);
/* What a slot of associative memory stands for. */
struct kept_memory_slot {
    float position;  /* mean position of its tokens (compact positions: as they are now) */
    float tokens;    /* how many */
    int32_t touched; /* position of the session when it last took one in */
};
/* The memory of a KV head, in slot order; none without associative memory. At most cap slots are
 * written; *n_slots says how many there are. */
KEPT_API kept_status kept_session_memory(kept_session *session, uint32_t layer, uint32_t kv_head,
                                         struct kept_memory_slot *out, uint32_t cap,
                                         uint32_t *n_slots, struct kept_error *err);
/* Plans with calibrate_tokens n: out [n_kv][n] of one layer: log of the most attention each of the
 * first n tokens received since the last kept_session_rewind(0), from later positions than n. */
KEPT_API kept_status kept_session_peaks(kept_session *session, uint32_t layer, float *out,
                                        struct kept_error *err);
/* Plans with calibrate_after too: out [n_kv][n] of one layer: the sum, over the query heads of each
 * KV head and the positions p with t + calibrate_after < p < n, of the attention (0 to 1) that p
 * gave to token t. KEPT_E_STATE for layers with a sliding window. */
KEPT_API kept_status kept_session_received(kept_session *session, uint32_t layer, float *out,
                                           struct kept_error *err);
/* The same plans: out [n_rows][n_embd]: what one layer's attention block was given, after its norm,
 * of the last n_rows tokens: exactly what a gate is applied to. Only those that were evaluated
 * together, the last chunk, are still there: evaluate chunk_tokens at a time and read each.
 * KEPT_E_ARGUMENT for more rows than that, KEPT_E_STATE for layers with a sliding window. */
KEPT_API kept_status kept_session_hidden(kept_session *session, uint32_t layer, float *out,
                                         uint32_t n_rows, struct kept_error *err);

/* Stops a running eval at the next submitted piece (<= 50 ms of device work). Thread-safety: any
 * thread, signal handlers too. The flag is cleared when an eval returns KEPT_E_CANCELLED. */
KEPT_API void kept_session_cancel(kept_session *session);
KEPT_API void kept_session_stats(kept_session *session, struct kept_session_stats *out);

#ifdef __cplusplus
}
#endif
#endif

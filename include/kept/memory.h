/* kept/memory.h: what of the past is kept when it outgrows its budget.
 *
 * Retention (design: docs/memory.md). Every KV head of a layer that sees all of the past has a
 * fixed number of slots. A token is safe while it is one of the first `sinks` or among the last
 * `protect`; whenever another block of tokens is complete, each head ranks its other slots and
 * drops the lowest until it is within its budget. Layers with a sliding window are rings and need
 * no retention.
 *
 * Sidecar: a small file fitted once per model (`kept fit`): how much of the past each head needs,
 * at any share of it, and what that was measured to cost. Bound to its model: a sidecar of another
 * one is refused.
 */
#ifndef KEPT_MEMORY_H
#define KEPT_MEMORY_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Types of stored keys and values. Quantised ones are rotated (Hadamard) before they are stored. */
enum kept_slot_type { KEPT_SLOT_F16, KEPT_SLOT_Q8_0, KEPT_SLOT_Q4_0 };

enum kept_retain {
    KEPT_RETAIN_FULL,   /* everything stays */
    KEPT_RETAIN_WINDOW, /* the first and the last tokens stay */
    KEPT_RETAIN_SCORED, /* what is expected to be attended stays */
    /* Full within the trained context. Past it something must go, and the plan decides: scored with
     * compact positions, a quarter of the trained context as budget unless one is given. */
    KEPT_RETAIN_AUTO
};

enum kept_scorer {
    KEPT_SCORER_BY_EXPECTED, /* expected attention of queries to come (Devoto et al. 2025) */
    KEPT_SCORER_BY_GATE,     /* the sidecar's linear gate on the hidden state */
    KEPT_SCORER_BY_KEYDIFF   /* keys unlike the others (Park et al. 2025) */
};

enum kept_positions {
    KEPT_POSITIONS_ABSOLUTE,
    KEPT_POSITIONS_COMPACT /* gaps close: input may be longer than the trained context */
};

/* Associative memory (CAMELoT, He et al. 2024, arXiv 2402.13449): what leaves the window is
 * averaged into the slot with the most similar key when their cosine reaches a threshold.
 * kept: in heads over their budget; at the mean position, with the logarithm of the count as bias;
 * the least expected attention goes. published: in all heads, at one position, without a bias; what
 * was not touched longest goes. */
enum kept_assoc { KEPT_ASSOC_OFF, KEPT_ASSOC_KEPT, KEPT_ASSOC_PUBLISHED };

/* Which keys the kept form compares and averages: those that attention sees, rotated to their
 * positions, so that only what attention cannot tell apart becomes one slot; or un-rotated ones,
 * which say nothing of the position, as published (that form always does). */
enum kept_assoc_keys { KEPT_ASSOC_ROTATED, KEPT_ASSOC_UNROTATED };

#define KEPT_DEFAULT_PROTECT 128u
#define KEPT_DEFAULT_SINKS   4u

typedef struct kept_sidecar kept_sidecar;

/* All zero: full retention. */
struct kept_retain_params {
    enum kept_retain mode;
    /* Mean live slots per KV head, sinks and window counted. One of the two; a budget of the whole
     * context or more is full retention. */
    uint32_t budget_slots;
    float budget_percent; /* of the context (of the trained length, where that is shorter) */
    int32_t protect;      /* last tokens that are safe; 0: the default, negative: none */
    int32_t sinks;        /* first tokens that are safe; 0: the default, negative: none */
    enum kept_scorer scorer;
    bool no_merge; /* dropped values are lost instead of going to their nearest kept slot */
    enum kept_positions positions;
    const kept_sidecar *sidecar; /* head budgets; NULL: every head alike. Outlives the plan */
    uint32_t block_tokens;       /* tokens between evictions: 64 (0), 128 or 256 */
    uint32_t refresh_tokens;     /* stored scores are renewed every so many; 0: 256 */
    uint32_t hold_tokens;        /* room for tokens evaluated with hold (session.h) */
    /* Associative memory, of the scored mode (also what `full` becomes with it): assoc_slots per KV
     * head in the mean, on top of the budget (without one: of the safe tokens). */
    enum kept_assoc assoc;
    uint32_t assoc_slots;
    enum kept_assoc_keys assoc_keys;
    float assoc_threshold; /* cosine, -1 (all are alike) to 2 (above 1: none are); 0: 0.95 */
};

/* ---- sidecar ---- */

struct kept_sidecar_info {
    uint64_t header_hash, model_hash; /* of the model it was fitted on */
    uint32_t n_layers, n_kv, n_shares;
    uint32_t n_tokens; /* of the texts it was fitted on */
    uint32_t n_reports;
    bool has_gate;
};

/* What a setting was measured to cost on a text that was not fitted on. */
struct kept_sidecar_report_info {
    uint32_t context_tokens, budget_slots, scored_tokens;
    enum kept_slot_type k_type, v_type;
    double kl_mean, ppl_ratio, top1_agreement, copy_nats;
};

/* model NULL: to look at a sidecar alone, bound to no model. KEPT_E_IO, KEPT_E_FORMAT (damaged: the
 * object, offset and reason), KEPT_E_UNSUPPORTED (of a later version), KEPT_E_MISMATCH (of another
 * model), KEPT_E_HOST_MEMORY. */
KEPT_API kept_status kept_sidecar_open(const char *path, const kept_model *model,
                                       kept_sidecar **out, struct kept_error *err);
KEPT_API void kept_sidecar_close(kept_sidecar **sidecar);
KEPT_API const struct kept_sidecar_info *kept_sidecar_info(const kept_sidecar *sidecar);
KEPT_API bool kept_sidecar_report(const kept_sidecar *sidecar, uint32_t i,
                                  struct kept_sidecar_report_info *out);
/* Budgets [n_layers][n_kv] for a past of `context` tokens and a mean of `mean` slots per head: each
 * between `least` and context, together at most n_layers * n_kv * mean. Layers without heads in the
 * sidecar (sliding windows) get 0 and do not count. */
KEPT_API kept_status kept_sidecar_budgets(const kept_sidecar *sidecar, uint32_t context,
                                          uint32_t mean, uint32_t least, uint32_t *budgets,
                                          struct kept_error *err);

/* Fitting. How much of its scores each head keeps when one threshold over all heads keeps a share
 * of them. scores [n_layers][n_kv][n_tokens]: any that can be compared between heads, -infinity
 * included (kept_session_peaks); those of layers with a sliding window are not looked at. Out:
 * shares [KEPT_CURVE_SHARES], fractions [KEPT_CURVE_SHARES][n_layers][n_kv]. */
#define KEPT_CURVE_SHARES 48u
KEPT_API kept_status kept_sidecar_curve(const kept_model *model, const float *scores,
                                        uint32_t n_tokens, float *shares, float *fractions,
                                        struct kept_error *err);

/* Fitting a gate: a linear regression with a ridge of n_out targets on n_in inputs, one a layer:
 * inputs as kept_session_hidden gives them, targets what the heads' tokens should be ranked by. All
 * sums in double precision; memory for n_in^2 / 2 of them, whatever the rows. */
typedef struct kept_ridge kept_ridge;
KEPT_API kept_status kept_ridge_create(uint32_t n_in, uint32_t n_out, kept_ridge **out,
                                       struct kept_error *err);
KEPT_API void kept_ridge_destroy(kept_ridge **ridge);
/* x [n_rows][n_in], y [n_rows][n_out]. KEPT_E_ARGUMENT where one is no number: none is added. */
KEPT_API kept_status kept_ridge_add(kept_ridge *ridge, const float *x, const float *y,
                                    uint32_t n_rows, struct kept_error *err);
/* Of all rows so far; more may be added afterwards. lambda > 0: the ridge, for inputs scaled to
 * variance 1. weights [n_out][n_in], bias [n_out]. KEPT_E_ARGUMENT for fewer than two rows or a
 * ridge too small for the inputs, KEPT_E_HOST_MEMORY. */
KEPT_API kept_status kept_ridge_solve(const kept_ridge *ridge, double lambda, float *weights,
                                      float *bias, struct kept_error *err);

struct kept_sidecar_params {
    uint64_t model_hash; /* kept_session_stats.model_hash */
    uint32_t n_tokens;
    uint32_t n_shares;
    const float *shares;    /* [n_shares] ascending, the last one 1 */
    const float *fractions; /* [n_shares][n_layers][n_kv], 0 in layers with a sliding window */
    const float *gate;      /* [n_layers][n_kv][n_embd], or NULL */
    const float *gate_bias; /* [n_layers][n_kv], or NULL */
    uint32_t n_reports;
    const struct kept_sidecar_report_info *reports;
};
/* Replaces the file at path, or leaves it as it was. KEPT_E_ARGUMENT for numbers that could not be
 * read again, KEPT_E_IO, KEPT_E_HOST_MEMORY. */
KEPT_API kept_status kept_sidecar_write(const char *path, const kept_model *model,
                                        const struct kept_sidecar_params *params,
                                        struct kept_error *err);

#ifdef __cplusplus
}
#endif
#endif

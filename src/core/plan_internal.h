/* core/plan_internal.h: what a plan is made of; shared by the files that make it (plan_*.c,
 * build*.c, pack.c) and the ones that carry it out (load.c, commit.c, session*.c).
 *
 *   regions   named byte ranges; a call's arguments name regions (kernel/call.h)
 *   buffers   the device allocations, each a list of regions at fixed offsets
 *   weights   which file rows go where: spans, in region order
 *   programs  lists of calls for 1, few and `chunk` rows, cut into pieces of about 50 ms
 *
 * Activation regions belong to one program each; programs never run at once, so they overlay each
 * other in one buffer. Lifetimes are call indices of their program.
 */
#ifndef KEPT_CORE_PLAN_INTERNAL_H
#define KEPT_CORE_PLAN_INTERNAL_H

#include "base/arena.h"
#include "core/model_internal.h"
#include "core/shape.h"
#include "kept/facts.h"
#include "kept/plan.h"
#include "kernel/call.h"
#include "memory/retain.h"
#include "tune/tune.h"

#define KEPT_NO_REGION UINT32_MAX
/* X(NAME, "name") */
#define KEPT_CATEGORY_LIST(X)     \
    X(WEIGHTS, "weights")         \
    X(KV, "kv")                   \
    X(ASSOCIATIVE, "associative") \
    X(EPISODIC, "episodic")       \
    X(SCORER, "scorer")           \
    X(ACTIVATIONS, "activations") \
    X(LOGITS, "logits")           \
    X(SAMPLER, "sampler")         \
    X(STATE, "state")             \
    X(STAGING, "staging")         \
    X(DRIVER, "driver")

enum kept_category {
#define X(NAME, name) KEPT_CATEGORY_##NAME,
    KEPT_CATEGORY_LIST(X)
#undef X
        KEPT_CATEGORY_COUNT
};

struct kept_region {
    const char *name, *why;
    enum kept_category category;
    uint64_t bytes;
    uint32_t buffer;
    uint64_t offset;
    int32_t program;              /* activations: index of the program; else -1 */
    int32_t first_use, last_use;  /* activations: calls of the program; else -1 */
    uint32_t span_first, n_spans; /* weights */
};

struct kept_buffer_plan {
    const char *name;
    uint64_t bytes;
    uint32_t flags; /* KEPT_BUF_… */
    bool exists;    /* held by the backend since the device was opened: counted, not allocated */
};

/* File rows row_first … +n_rows of a tensor go to offset_bytes of their region: re-laid when it is
 * a matrix, as they are (f32) else. */
struct kept_span {
    const struct kept_gguf_tensor *tensor;
    uint64_t row_first, n_rows;
    uint64_t offset_bytes;
    bool matrix;
};

/* One to three file tensors of one format as one matrix for the kernels, cut into pieces that fit a
 * binding. With `paired` the first half of every piece is gate rows and the second half the same
 * rows of up. */
struct kept_matrix_piece {
    uint32_t region;
    uint32_t row_first, n_rows; /* of the output; paired: of the gate */
};
struct kept_matrix {
    enum kept_format format;
    uint32_t k, n_rows;
    struct kept_record record;
    bool paired;
    struct kept_matrix_piece *pieces;
    uint32_t n_pieces;
};

struct kept_layer_plan {
    struct kept_matrix qkv[3]; /* 1 to 3, one after the other in the output */
    uint32_t n_qkv;
    struct kept_matrix o, down;
    struct kept_matrix gate_up[2]; /* one when paired; two plain ones when the formats differ */
    uint32_t n_gate_up;
    uint32_t attn_norm, attn_post_norm, ffn_norm, ffn_post_norm, q_norm, k_norm,
        qkv_bias;              /* regions */
    uint32_t k_slots, v_slots; /* regions */
    uint32_t cap;              /* slots per KV head; budgeted: of all heads together */
    bool ring;     /* window layer: slots are overwritten, rows go in blocks of KEPT_SLOT_BLOCK */
    bool budgeted; /* a store with heads of different size; slots are evicted */
    struct kept_store store;               /* budgeted: its slots and where they are */
    uint32_t meta, scores, stats, queries; /* regions of a budgeted store, or KEPT_NO_REGION */
    struct kept_matrix alpha;              /* scores given at birth: [n_kv] rows; no pieces: none */
    uint32_t alpha_bias, alpha_norm;       /* regions, or KEPT_NO_REGION */
    bool birth;                            /* tokens get scores from it when they are written */
    uint32_t peaks, received;              /* calibration: regions, or KEPT_NO_REGION */
    uint32_t hidden; /* calibration: the block's operand, kept; or KEPT_NO_REGION */
};

struct kept_piece {
    uint32_t first_call, n_calls;
    bool head;      /* norm, logits and choice of the wanted rows */
    uint32_t delay; /* maintenance: decoded tokens after the block that it comes before */
};
struct kept_program {
    const char *name;
    uint32_t rows;      /* capacity */
    uint32_t head_rows; /* capacity of the head */
    struct kept_call *calls;
    uint32_t n_calls, cap_calls;
    struct kept_piece *pieces;
    uint32_t n_pieces, cap_pieces;
};
#define KEPT_MAX_PROGRAMS 10

/* Slots of facts: an extent of as many slots for every KV head of every layer; regions with the
 * layers one after the other, each where a binding may begin. */
struct kept_fact_store {
    uint32_t extent;            /* slots of a KV head */
    uint32_t k, v, meta, heads; /* regions */
};
#define KEPT_FACT_SINKS 4u
#define KEPT_FACT_ROWS  (KEPT_FACT_SINKS + KEPT_FACT_MAX_TOKENS) /* written at once */

/* Episodic memory (plan_facts.c). Facts are evaluated in slots of their own (encode), what is read
 * lies in others (read): neither touches the session's past. */
struct kept_facts_plan {
    bool on;
    uint32_t max, top, gap;
    uint32_t address_layer;                /* addresses: the hidden state entering it */
    struct kept_fact_store encode;         /* sinks, then the fact */
    struct kept_fact_store read;           /* sinks, then up to `top` facts */
    struct kept_matrix addresses;          /* [max] rows of n_embd */
    uint32_t scores;                       /* region: their products with a query */
    uint32_t encoding, injecting, ranking; /* programs */
    uint32_t reading;           /* the first of those that read facts, as many as without */
    uint32_t n_address_pieces;  /* of encoding: what comes before address_layer */
    uint32_t x, x_stride;       /* region: hidden states of encoding */
    uint32_t rows, rows_stride; /* region of injecting: queries (nothing), keys, values */
    uint64_t rows_layer_bytes;  /* of a layer in it */
    uint32_t query;             /* region of ranking */
};

struct kept_plan {
    struct kept_arena arena;
    const kept_model *model;
    const struct kept_shape *shape;
    struct kept_profile profile;
    struct kept_tuning tuning;
    struct kept_plan_params params; /* resolved: no zeros left, except memory_bytes */
    struct kept_plan_info info;

    struct kept_region *regions;
    uint32_t n_regions, cap_regions;
    struct kept_buffer_plan *buffers;
    uint32_t n_buffers, cap_buffers;
    struct kept_span *spans;
    uint32_t n_spans, cap_spans;
    struct kept_choice_info *choices;
    uint32_t n_choices, cap_choices;
    struct kept_alternative_info *alternatives;
    uint32_t n_alternatives, cap_alternatives;

    struct kept_layer_plan *layers;
    struct kept_matrix head;
    struct kept_matrix embedding; /* shares the head's pieces when tied */
    uint32_t output_norm;
    uint32_t rope_tables[KEPT_MAX_ROPES];
    uint32_t rope_hi_rows; /* rows of the coarse half of a table, the mean rotation's not counted */
    uint32_t rope_hi_bias; /* of them, rows of negative positions: compact keys are turned back */
    struct kept_retention retention;
    bool chose_retention;    /* the plan decided that the past has a budget */
    uint32_t k_type, v_type; /* KEPT_FMT_… of stored keys and values */
    uint32_t *head_budgets;  /* [n_layers][n_kv] of the sidecar, or NULL */
    uint32_t heads;          /* region: heads tables of all budgeted layers, or KEPT_NO_REGION */
    uint32_t transfer;       /* region: the backend's staging memory, or KEPT_NO_REGION */
    uint32_t step;           /* region */
    uint32_t step_host;      /* region, or KEPT_NO_REGION where the host writes step itself */
    uint32_t logits, logits_host, choice, choice_host;
    /* By rising rows; the same again reading facts; encoding, injecting, ranking; maintenance. */
    struct kept_program programs[KEPT_MAX_PROGRAMS];
    uint32_t n_programs;
    uint32_t n_plain; /* programs that evaluate, without those that read facts */
    struct kept_facts_plan facts;
    uint32_t maintenance; /* index of the program that maintains a block; KEPT_MAX_PROGRAMS: none */
    uint32_t *maintained; /* the budgeted layers by rising delay */
    uint32_t n_maintained, last_delay;
    /* Of the calls that pass the device's loop turns, the one that needs the fewest slots. */
    struct {
        const char *stem; /* NULL: none does */
        uint32_t slots, fit;
    } loops;
    kept_status status; /* first failure while building; later steps do nothing */
    struct kept_error *err;
};

/* Every builder below does nothing once plan->status is not KEPT_OK. */
kept_status kept_plan_fail(struct kept_plan *plan, kept_status status, const char *fmt, ...)
    KEPT_PRINTF(3, 4);
/* Appends to an arena-backed array, doubling; NULL on failure. */
void *kept_plan_grow(struct kept_plan *plan, void *array, uint32_t n, uint32_t *cap, size_t size);
uint32_t kept_plan_add_region(struct kept_plan *plan, enum kept_category category, uint64_t bytes,
                              const char *why, const char *name_fmt, ...) KEPT_PRINTF(5, 6);
void kept_plan_choose(struct kept_plan *plan, const char *what, const char *why,
                      const char *chosen_fmt, ...) KEPT_PRINTF(4, 5);
uint64_t kept_plan_align(const struct kept_plan *plan,
                         uint64_t bytes); /* up to the binding alignment, 256 at least */

void kept_plan_weights(struct kept_plan *plan); /* plan_weights.c: matrices, vectors, spans */
void kept_plan_slots(
    struct kept_plan *plan); /* plan_slots.c: K and V of every layer, rope tables, step */
/* plan_retain.c: KEPT_RETAIN_AUTO becomes what it stands for; what was asked for, resolved. */
void kept_plan_auto(struct kept_plan *plan);
void kept_plan_retention(struct kept_plan *plan);
/* plan_retain.c: the extents of a budgeted layer's heads; with all delays known its own regions;
 * then, when its K and V have regions too, what its maintenance calls name. */
void kept_plan_extents(struct kept_plan *plan, uint32_t layer);
void kept_plan_store(struct kept_plan *plan, uint32_t layer);
void kept_plan_store_args(struct kept_plan *plan, uint32_t layer);
/* plan_delay.c: moves budgets within their pages, at most to `most`, so that maintenance may be
 * delayed; how late each layer's comes. */
void kept_plan_make_room(struct kept_plan *plan, uint32_t *budgets, size_t n, uint32_t most);
void kept_plan_delays(struct kept_plan *plan);
/* plan_birth.c: what gives a budgeted layer's tokens their scores when they are written. */
void kept_plan_birth(struct kept_plan *plan, uint32_t layer);
/* plan_facts.c: what was asked for, resolved; the regions of episodic memory. */
uint32_t kept_fact_address_layer(uint32_t n_layers);
void kept_plan_facts_params(struct kept_plan *plan);
void kept_plan_facts(struct kept_plan *plan);
/* A layer's part of a store of facts. */
struct kept_fact_args {
    struct kept_arg k, v, meta, heads;
};
struct kept_fact_args kept_plan_fact_args(const struct kept_plan *plan,
                                          const struct kept_fact_store *store, uint32_t layer);
/* The lowest position that facts may have, below 0. */
uint32_t kept_plan_fact_positions(const struct kept_plan *plan);
void kept_build_programs(struct kept_plan *plan); /* build.c: calls and activation regions */
/* pack.c: offsets of one program's activations; returns the bytes they need together. *lower_bound:
 * alive at once. */
uint64_t kept_pack_activations(struct kept_plan *plan, int32_t program, uint64_t *lower_bound);
void kept_plan_buffers(struct kept_plan *plan); /* plan_buffers.c: regions into allocations */

/* Words of a rope table, and its contents: see params.h, slot_write. The last row is the mean
 * rotation over the next KEPT_FUTURE_TOKENS positions (params.h, score_expected). */
#define KEPT_FUTURE_TOKENS 512u
uint64_t kept_rope_table_bytes(const struct kept_rope *rope, uint32_t hi_rows);
uint32_t kept_rope_mean_row(uint32_t hi_rows);
void kept_rope_table_fill(const struct kept_rope *rope, const float *factors, uint32_t hi_rows,
                          uint32_t hi_bias, float *table);
/* Bytes of the positions and biases of slots, and of their ends where the model decides. */
uint64_t kept_meta_bytes(const struct kept_retention *retention, uint64_t slots);
/* Bytes of `slots` slots of this type, K or V. */
uint64_t kept_slot_bytes(uint32_t type, uint32_t d, uint64_t slots);

#endif

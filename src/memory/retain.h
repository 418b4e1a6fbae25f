/* memory/retain.h: retention: what a bounded store of slots looks like, and the calls that keep it
 * within its budgets.
 *
 * A store is the slots of one layer. Each KV head has an extent of slots (first, cap) and a budget.
 * New tokens are appended; when a block is complete the maintenance calls bring every head back to
 * its budget (kernel/params.h, "maintenance of budgeted slots"). Whoever plans the store says which
 * regions hold it; nothing here knows a model or a device.
 */
#ifndef KEPT_MEMORY_RETAIN_H
#define KEPT_MEMORY_RETAIN_H

#include "kept/memory.h"
#include "kernel/call.h"

#define KEPT_SLOT_BLOCK \
    64u /* slots come in pages of 64; rows of ring layers are evaluated in blocks of 64 */

/* Retention of a whole plan, resolved. */
struct kept_retention {
    bool on;
    enum kept_retain mode;
    enum kept_scorer scorer;
    bool dms; /* the model decides what goes (scorer BY_GATE: scores are given at birth) */
    bool merge;
    bool compact;
    uint32_t past;          /* tokens that the budgets are shares of */
    uint32_t mean;          /* slots per KV head */
    uint32_t sinks, window; /* never evicted: the first, the last */
    uint32_t block, refresh, hold;
    uint32_t limit; /* compact: RoPE positions stay below it; else 0 */
    float keep;     /* what stays of merged weight at a refresh */
    enum kept_assoc assoc;
    bool unrotated;  /* associative: keys are compared and averaged without their positions */
    float threshold; /* associative: the least cosine of tokens that are alike */
};

struct kept_head_slots {
    uint32_t first, cap, budget;
};

/* Slots of one layer, and where they are. */
struct kept_store {
    uint32_t n_head, n_kv, d;
    uint32_t k_type, v_type;       /* KEPT_FMT_… */
    uint32_t total;                /* slots of all KV heads */
    uint32_t most;                 /* the largest extent */
    struct kept_head_slots *heads; /* [n_kv] */
    uint32_t n_rot, rope_pairs, hi_bias, mean_row;
    float q_scale;
    uint32_t delay; /* decoded tokens that its maintenance may come late */
    struct kept_arg k, v, meta, table, heads_table, scores, stats, queries;
};

/* Scratch of the maintenance calls; any store's fits when it is made for the largest. */
struct kept_retain_scratch {
    struct kept_arg z, moves, near, raw;
};

/* Slots that a KV head needs: its budget, a block that grows, tokens held; whole pages. */
uint32_t kept_retain_extent(const struct kept_retention *retention, uint32_t budget,
                            uint32_t context_tokens);
/* Tokens that a head has room for behind a complete block, held ones aside: they come after what
 * was delayed. */
uint32_t kept_retain_slack(const struct kept_retention *retention, uint32_t budget,
                           uint32_t context_tokens);
/* Words of the scratch arrays for this store. */
struct kept_retain_words {
    uint64_t z, moves, near, raw;
};
struct kept_retain_words kept_retain_words(const struct kept_retention *retention,
                                           const struct kept_store *store);

/* How calls are written down: arguments, parameters and the slots they will find live. */
typedef void (*kept_retain_call_fn)(void *user, struct kept_call *call, const void *params,
                                    uint32_t live_slots);
/* What a device wants: lanes of a group, word order, the step buffer. */
struct kept_retain_emit {
    kept_retain_call_fn call;
    void *user;
    uint32_t wg, order;
    struct kept_arg step;
};
/* Emits the maintenance of the block of rows row_first … + block - 1. */
void kept_retain_maintain(const struct kept_retention *retention, const struct kept_store *store,
                          const struct kept_retain_scratch *scratch, uint32_t row_first,
                          const struct kept_retain_emit *emit);

/* Planes of meta: position and bias; the end of a slot of DMS; what associative memory counts. */
uint32_t kept_retain_planes(const struct kept_retention *retention);

/* The heads table of an empty store. */
void kept_retain_table(const struct kept_store *store, uint32_t *table);

#endif

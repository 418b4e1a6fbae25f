/* memory_out.h: associative memory, read back from a session: numbers and a picture. */
#ifndef KEPT_TOOL_MEMORY_OUT_H
#define KEPT_TOOL_MEMORY_OUT_H

#include "engine.h"

struct cli_memory_head {
    uint32_t layer, kv_head, n;
    struct kept_memory_slot *slots; /* [n], by position; what is no number counts as 1 token */
    double tokens, most;            /* that they stand for, and the largest of them */
};

struct cli_memory {
    struct cli_memory_head *heads; /* [n_heads], layer by layer */
    uint32_t n_heads, n_kv;        /* of all layers; of a layer at most */
    uint32_t position;             /* of the session */
    uint64_t slots;
    double tokens, most;
    /* Of the tokens that left the window: those averaged into a slot that is like them, those that
     * took a slot of their own, and slots that went for them. */
    uint64_t consolidated, novelties, replaced;
};

/* The memory of every KV head that may have one. */
kept_status cli_memory_read(struct cli_engine *engine, struct cli_memory *out,
                            struct kept_error *err);
void cli_memory_finish(struct cli_memory *memory);

/* A picture of it, written to `path`; KEPT_E_ARGUMENT without associative memory. */
kept_status cli_memory_svg(struct cli_engine *engine, const char *path, struct kept_error *err);

#endif

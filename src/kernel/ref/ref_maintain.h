/* kernel/ref/ref_maintain.h: what the references of slot maintenance share: the block of a call, a
 * KV head with its count, and which slots expected attention scores.
 */
#ifndef KEPT_KERNEL_REF_REF_MAINTAIN_H
#define KEPT_KERNEL_REF_REF_MAINTAIN_H

#include "kernel/ref/ref_slots.h"
#include "kernel/registry.h"

/* A call's block of tokens, positions end - block … end - 1. */
struct ref_block {
    uint32_t block;
    int64_t end;    /* E */
    uint32_t after; /* tokens stored behind it, as the step buffer says */
};

/* False when not all rows of the block are live: the call does nothing. params begins with rows_at,
 * row_first, row_cap. */
static inline bool ref_block_of(const void *params, const uint32_t *step, struct ref_block *b)
{
    const uint32_t *p = params;
    b->block = p[2];
    b->end = (int64_t)step[KEPT_STEP_BASE] + p[1] + p[2];
    b->after = step[KEPT_STEP_AFTER];
    return p[2] != 0 && p[2] <= KEPT_MAX_BLOCK && kept_live_rows(params, step) == p[2];
}

/* The lower of two counts. */
static inline uint32_t ref_min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* n slots, at most CAP, and those of the tokens after the block. */
static inline uint32_t ref_with_after(const struct ref_block *b, uint32_t n, uint32_t cap)
{
    return n + ref_min(b->after, cap - n);
}

/* Row r of the block in a ring of query rows that begins at position 0. */
static inline uint32_t ref_query_row(const struct ref_block *b, uint32_t r, uint32_t queries_rows)
{
    return (uint32_t)((b->end - b->block + r) % queries_rows);
}

/* First slot that expected attention scores at E: 0 when it scores all. */
static inline uint32_t ref_score_from(const struct ref_block *b, const struct ref_head *head,
                                      uint32_t count, uint32_t window, uint32_t refresh)
{
    uint64_t fresh = (uint64_t)window + b->block;
    if (head->scored == 0 || b->end % refresh == 0 || count <= fresh)
        return 0;
    return (uint32_t)(count - fresh);
}

#endif

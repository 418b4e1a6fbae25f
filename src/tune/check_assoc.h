/* tune/check_assoc.h: what the cases of associative memory share: parameters, meta with all its
 * planes, un-rotated keys, and which slots a sub-batch has. Private to tune. */
#ifndef KEPT_TUNE_CHECK_ASSOC_H
#define KEPT_TUNE_CHECK_ASSOC_H

#include "tune/check_maintain.h"

/* A KV head as assoc_match and assoc_write see it. */
struct check_assoc_head {
    struct ref_head head;
    uint32_t c;          /* where the window begins */
    uint32_t first, end; /* tokens of the sub-batch */
    uint32_t before;     /* T, or 0: sinks … before - 1 are compared with */
    uint32_t entry;      /* of token `first` in near */
};

/* Parameters, the table's included, from the store; the table is bound at i_table (KEPT_MAX_BINDS:
 * none). */
void kept_check_assoc_params(struct check_case *c, uint32_t i_table, const struct check_store *st);
/* All planes; with counts, fractions and positions that no sound store has among them. */
void kept_check_assoc_meta(struct check_case *c, uint32_t i_bind, const struct check_store *st);
/* Un-rotated keys of slots sinks … C-1; tokens that are like others, copies, zeros, no numbers. */
void kept_check_assoc_keys(struct check_case *c, uint32_t i_bind, const struct check_store *st);

struct check_assoc_head kept_check_assoc_head(const struct check_case *c, uint32_t i_heads,
                                              uint32_t i_step, uint32_t kv_head);
/* Element i of a slot in raw. */
uint64_t kept_check_raw_at(const struct check_case *c, uint32_t kv_head, uint32_t slot, uint32_t i);
/* The table as the references take it. */
struct ref_rope kept_check_assoc_rope(const struct check_case *c, uint32_t i_table);
/* The best of all splits of entry e of a KV head, the lower slot of equals: likeness and slot. */
void kept_check_assoc_best(const struct check_case *c, const uint32_t *near, uint32_t kv_head,
                           uint32_t e, uint32_t best[2]);

#endif

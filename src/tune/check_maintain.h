/* tune/check_maintain.h: what the cases of slot maintenance share: the block, KV heads with extents
 * anywhere in a store, slots and their meta, tables of moves. Private to tune.
 *
 * A generator fills a check_store (kept_check_block, kept_check_extents), then makes the bindings
 * from it. Slots behind the count of a head and those of no head keep the canary. Bounds look at
 * the same numbers again through kept_check_head_before.
 */
#ifndef KEPT_TUNE_CHECK_MAINTAIN_H
#define KEPT_TUNE_CHECK_MAINTAIN_H

#include "kernel/ref/ref_maintain.h"
#include "tune/check_case.h"

#define CHECK_MAX_KV 4u

struct check_store {
    uint32_t n_kv, group, d;
    uint32_t sinks, window;
    struct ref_block block;
    uint32_t total, max_cap; /* slots of all heads and gaps; the largest CAP */
    struct ref_head head[8];
    uint32_t count[8];
};

/* Head size among those that kernels have; the device's lanes and word order. */
void kept_check_maintain_keys(struct check_case *c);
/* The same with types of slots. */
void kept_check_type_keys(struct check_case *c);

/* Picks block, live rows and E, makes the step buffer. The live rows are all of the block's, or,
 * sometimes, too few, and then nothing may change. */
void kept_check_block(struct check_case *c, uint32_t i_step, struct check_store *st);
/* Picks the KV heads (or the model's) and where their slots are: over and under budget, shorter
 * than the window, full, extents in any order with gaps between. */
void kept_check_extents(struct check_case *c, struct check_store *st);
/* After slot_select: BASE, EDGE. */
void kept_check_heads_after(struct check_store *st, uint32_t kv_head, uint32_t m);

void kept_check_bind_heads(struct check_case *c, uint32_t i_bind, const struct check_store *st);
/* Slots of a head before the call, those of the tokens behind the block among them. */
uint32_t kept_check_stored(const struct check_store *st, uint32_t kv_head);
/* Slots of the heads, stored from values around 1. */
void kept_check_bind_store(struct check_case *c, uint32_t i_bind, const struct check_store *st,
                           uint32_t type, uint32_t order);
/* Planes of meta: positions in no order below E - SHIFT, biases of 0 and of merged slots. */
void kept_check_bind_meta(struct check_case *c, uint32_t i_bind, const struct check_store *st,
                          uint32_t n_planes);
/* Tables of moves as slot_select makes them, for random sets of evicted slots, marked in meta
 * (i_meta; KEPT_MAX_BINDS: none); the heads of st become those after slot_select. */
void kept_check_bind_moves(struct check_case *c, uint32_t i_bind, struct check_store *st,
                           uint32_t i_meta, bool rotate);
/* Writes into some of the tables what no slot_select writes, slot numbers past every CAP among
 * them; and whether that was done. */
void kept_check_spoil_moves(struct check_case *c, uint32_t i_bind, const struct check_store *st);
bool kept_check_is_spoilt(const struct check_case *c, uint32_t i_bind, uint32_t kv_head);
/* The best of all splits of entry e of a KV head's part of near ([n_splits][block] likeness and
 * slot), the lower slot of equals. */
void kept_check_best_of_splits(const uint32_t *near, uint32_t n_splits, uint32_t block, uint32_t e,
                               uint32_t best[2]);
/* A permutation of 0 … n-1 (n <= 4096). */
void kept_check_shuffle(struct check_case *c, uint32_t *list, uint32_t n);
/* The rotation table of slot_write, `n_coarse` rows for lower and `n_hi` for higher positions, then
 * the mean rotation of 512 positions. */
void kept_check_bind_table(struct check_case *c, uint32_t i_bind, uint32_t n_rot, uint32_t hi_bias,
                           uint32_t n_hi);

/* All live: the call does something. */
bool kept_check_maintains(const struct check_case *c);
/* A head as it was before the call. */
struct ref_head kept_check_head_before(const struct check_case *c, uint32_t i_heads,
                                       uint32_t kv_head, uint32_t total);
/* The block and E. */
struct ref_block kept_check_block_of(const struct check_case *c, uint32_t i_step);
/* Everything of these elements may be anything. */
void kept_check_loose(struct check_case *c, uint32_t i_bind, uint64_t first, uint64_t n);

#endif

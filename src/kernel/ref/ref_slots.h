/* kernel/ref/ref_slots.h: what the references of slots share: one slot's K or V of any type as
 * double[d] from and to its tile, the rotations of a head (Hadamard, RoPE), the heads table, meta.
 *
 * params.h, section "slots", has the layouts. Slot numbers here count from the start of the
 * binding: h * cap + s in a plain store, FIRST + s in a budgeted one.
 */
#ifndef KEPT_KERNEL_REF_REF_SLOTS_H
#define KEPT_KERNEL_REF_REF_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A third "order": the plain rows of V tiles, beside KEPT_LANE and KEPT_VECTOR of K tiles. */
#define REF_ROWS 2u

struct ref_slots {
    uint32_t *words; /* the binding */
    uint32_t type;   /* KEPT_FMT_F16, Q8_0, Q4_0 */
    uint32_t order;  /* KEPT_LANE, KEPT_VECTOR; V: REF_ROWS */
    uint32_t d;      /* a multiple of 32 */
};

/* A slot has ref_slot_words words: elements, then scales. ref_slot_word says where word i is in the
 * binding: what slot_move copies. */
uint32_t ref_slot_words(const struct ref_slots *s);
uint64_t ref_slot_word(const struct ref_slots *s, uint64_t slot, uint32_t i);

/* Value i as stored, and its bits: the f16, or the byte or nibble with the scale's f16 above it. */
double ref_slot_value(const struct ref_slots *s, uint64_t slot, uint32_t i, uint32_t *bits);
/* The d values as stored: still rotated by Hadamard where the type is quantised. */
void ref_slot_load(const struct ref_slots *s, uint64_t slot, double *v);
void ref_slot_store(const struct ref_slots *s, uint64_t slot, const double *v);

/* One block of 32 by the rules of params.h: q8_0 bytes are i8, q4_0 one nibble a byte. Returns d
 * before rounding. */
double ref_quantise(uint32_t type, const double *x, uint8_t *q);

/* Each block of the head by the normalised Hadamard matrix, in place; its own inverse. */
void ref_hadamard(double *v, uint32_t d);
uint32_t ref_hadamard_block(uint32_t d); /* the largest power of two that divides d */

/* ---- RoPE ---- */

struct ref_rope {
    const float *table; /* f32 [256 + hi_bias + …][n_rot/2][2] */
    uint64_t table_bytes;
    uint32_t n_rot, pairs, hi_bias;
};

/* Whether both rows of the position are in the table; true where nothing is rotated. */
bool ref_rope_has(const struct ref_rope *r, int64_t position);
/* Cosine and sine of pair i at a position that the table has. */
void ref_rope_angle(const struct ref_rope *r, int64_t position, uint32_t i, double *c, double *s);
/* The elements of pair i. */
void ref_rope_pair(const struct ref_rope *r, uint32_t i, uint32_t *a, uint32_t *b);
/* Rotates a head by the position, which the table has. */
void ref_rope_turn(const struct ref_rope *r, int64_t position, double *v);

/* ---- budgeted slots ---- */

/* A row of the heads table; first + cap never exceeds total, whatever the table says. */
struct ref_head {
    uint32_t first, cap, budget, base;
    int32_t edge, shift;
    uint32_t scored, evicted;
};
struct ref_head ref_head_at(const uint32_t *heads, uint32_t kv_head, uint32_t total);
/* Slots before position `end`: min(CAP, BASE + max(0, end - EDGE)). A query at p sees those of end
 * = p + 1, maintenance at E those of end = E. */
uint32_t ref_head_count(const struct ref_head *h, int64_t end);

/* Places in meta of slot first + s. */
#define REF_POS(total, slot)   (slot)
#define REF_BIAS(total, slot)  ((uint64_t)(total) + (slot))
#define REF_UNTIL(total, slot) (2 * (uint64_t)(total) + (slot))

#endif

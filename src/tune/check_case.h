/* tune/check_case.h: one case of the checker: what a generator fills in and what the runner
 * executes. Private to tune.
 *
 * A row of the registry has two functions in check_<family>.c: kept_gen_<stem> picks parameters
 * (unless c->model says which) and fills the bindings; kept_bound_<stem> derives, after the
 * reference ran, how far each output element may be from the reference's. Elements without a bound
 * must be equal bit for bit: that covers dead rows, the gaps between rows, and everything else the
 * contract leaves alone.
 */
#ifndef KEPT_TUNE_CHECK_CASE_H
#define KEPT_TUNE_CHECK_CASE_H

#include "backend/backend.h"
#include "kernel/ref/ref_slots.h"

/* NaN as f32 and as either f16 half, and a large integer: what is read from outside a binding or
 * from a dead row spoils the result visibly. */
#define CHECK_CANARY 0x7FD5FEEDu
#define CHECK_ANY    (-1.0f) /* a bound: padding that may or may not be written */
/* What one rounding to f32 may change, relative (a result rounded on both sides differs by two of
 * them); and what a device that flushes denormals may lose. */
#define CHECK_U    5.9604645e-8
#define CHECK_TINY 1.1754944e-38

struct check_bind {
    uint32_t *before; /* [n_words] what device and reference start from */
    uint32_t *want;   /* after the reference; outputs only */
    float *bound;     /* [n_elems]; outputs only */
    uint64_t n_words;
    struct ref_slots slots; /* d not 0: elements are the values of slots, number slot * d + i */
};

/* The shape of a model for benchmarks. */
struct check_model {
    const char *name;
    uint32_t k, n_ff, n_head, n_kv, d, n_vocab;
    uint32_t rows, n_past; /* rows of the evaluation; positions before them */
};

struct check_case {
    const struct kept_kernel_row *row;
    const struct kept_caps *caps;
    const struct check_model *model; /* benchmarks; NULL: random shapes */
    uint32_t max_lanes;
    bool sound_moves; /* of kept_check_params */
    enum kept_format format;
    uint32_t keys[KEPT_MAX_KEYS];
    union {
        uint32_t words[KEPT_MAX_PARAM_BYTES / 4];
        struct kept_embed_params embed;
        struct kept_matmul_params matmul;
        struct kept_norm_params norm;
        struct kept_slot_write_params slot_write;
        struct kept_birth_params birth;
        struct kept_attn_params attn;
        struct kept_merge_params merge;
        struct kept_peak_params peak;
        struct kept_glu_params glu;
        struct kept_argmax_params argmax;
        struct kept_stats_params stats;
        struct kept_score_params score;
        struct kept_select_params select;
        struct kept_merge_slots_params merge_slots;
        struct kept_move_params move;
        struct kept_rotate_params rotate;
        struct kept_assoc_params assoc;
    } params;
    struct check_bind bind[KEPT_MAX_BINDS];
    uint64_t rng;
    uint32_t live;       /* live rows of the call */
    uint32_t live_slots; /* for the cost of attention */
    float *amp;          /* weights: [n_tiles * 16][k / 32], see kept_check_weights */
    bool failed;         /* host memory ran out */
    char shape[200];
};

/* Keys are chosen first (kept_keys_<stem>, not for benchmarks), then the case, then its bounds. */
#define KEPT_KERNEL(ID, stem, ...)               \
    void kept_keys_##stem(struct check_case *c); \
    void kept_gen_##stem(struct check_case *c);  \
    void kept_bound_##stem(struct check_case *c);
#include "kernel/kernels.def"
#undef KEPT_KERNEL

/* Rows whose outputs may differ in form bring them to one form; runs on the reference's outputs and
 * on the device's. */
void kept_canon_attn(const struct check_case *c, uint32_t *const *bind);
void kept_canon_argmax(const struct check_case *c, uint32_t *const *bind);
void kept_canon_slot_nearest(const struct check_case *c, uint32_t *const *bind);
void kept_canon_assoc_match(const struct check_case *c, uint32_t *const *bind);

void kept_case_finish(struct check_case *c);

/* Random numbers; ranges include both ends. */
uint64_t kept_check_mix(uint64_t a, uint64_t b);
uint32_t kept_check_u32(struct check_case *c);
uint32_t kept_check_range(struct check_case *c, uint32_t lo, uint32_t hi);
bool kept_check_chance(struct check_case *c, uint32_t percent);
uint32_t kept_check_pick(struct check_case *c, const uint32_t *list, uint32_t n);
float kept_check_unit(struct check_case *c); /* uniform in [-1, 1) */
/* Around `scale`, with zeros, denormals, repeated values and outliers of 30 x scale among them. */
float kept_check_value(struct check_case *c, float scale);

/* Keys by name. A work-group's lanes: a power of two from lo to hi that the device has; 1 on
 * devices that take a tile of 16 rows as a vector (there also others, which must work as well). The
 * word order: mostly the device's own. */
void kept_check_set_key(struct check_case *c, const char *name, uint32_t value);
uint32_t kept_check_key(const struct check_case *c, const char *name);
void kept_check_group(struct check_case *c, uint32_t lo, uint32_t hi);
void kept_check_fit_attn(struct check_case *c); /* attention keys that fit the shared memory */

/* Makes the binding, filled with the canary; NULL when memory ran out (c->failed). */
uint32_t *kept_check_bind(struct check_case *c, uint32_t i_bind, uint64_t n_words);
float *kept_check_bind_f32(struct check_case *c, uint32_t i_bind, uint64_t n_words);

/* Chooses rows_at, row_first and row_cap (at most max_rows) and the live count; makes the step
 * buffer with positions from `position` on (consecutive) and tokens 0. Returns the step buffer.
 * `chunk` may be NULL. */
uint32_t *kept_check_step(struct check_case *c, uint32_t i_bind, uint32_t max_rows,
                          int32_t position, uint32_t *chunk);
/* Rows that a buffer of the call needs: row_first + row_cap. */
uint32_t kept_check_planned_rows(const struct check_case *c);
bool kept_check_is_live(const struct check_case *c, uint32_t row);

/* K that the format accepts, at most about 1,300 (benchmarks pass through). */
uint32_t kept_check_k(struct check_case *c, enum kept_format format);
/* k values and their sums into an activation row. */
void kept_check_act_row(struct check_case *c, float *row, uint32_t k, float scale);

/* Random weights of every bit pattern: n_tiles records. The tensor is a sequence of parts of
 * tiles_in_part tiles (gate and up of a GLU are two), of which the first rows_in_part rows are
 * weights and the rest is zero, as re-laying leaves it. c->amp gets, per row and 32 elements, the
 * largest magnitude that any unpacking of the format adds up. */
void kept_check_weights(struct check_case *c, uint32_t i_bind, uint32_t n_tiles,
                        uint32_t rows_in_part, uint32_t tiles_in_part, uint32_t k);

/* ---- slots (check_store.c) ---- */

/* A binding of n_slots slots (a multiple of 16) full of canaries; `form` says all but the words. */
void kept_check_bind_slots(struct check_case *c, uint32_t i_bind, struct ref_slots form,
                           uint64_t n_slots);
/* Finite values around `scale` in all slots, quants of every bit pattern; NaN and Inf in one. */
void kept_check_fill_slots(struct check_case *c, uint32_t i_bind, float scale);
void kept_check_spoil_slot(struct check_case *c, uint32_t i_bind, uint64_t slot);
/* Makes a heads table with extents of up to max_cap slots anywhere and in any order, BASE, EDGE and
 * SHIFT 0, anything in the rest. Returns the slots of all heads together. */
uint32_t kept_check_heads(struct check_case *c, uint32_t i_bind, uint32_t n_kv, uint32_t max_cap);
/* The values of a slot before the call, and the largest magnitude that any unpacking adds up. */
void kept_check_slot(const struct check_case *c, uint32_t i_bind, uint64_t slot, double *v,
                     double *amp);
/* Hadamard of values of which f32 ones may be off by `error`. */
void kept_check_hadamard(double *v, double *error, uint32_t d);
/* Bounds of a stored slot whose exact values are v. */
void kept_check_bound_slot(struct check_case *c, uint32_t i_bind, uint64_t slot, const double *v,
                           const double *error);

/* ---- bounds ---- */

/* Of one element; of the sums of 16 of an activation row whose values have bounds already.
 * */
void kept_check_bound(struct check_case *c, uint32_t i_bind, uint64_t i_elem, double bound);
void kept_check_bound_sums(struct check_case *c, uint32_t i_bind, uint64_t i_first, uint64_t i_sums,
                           uint32_t n_elems);
double kept_check_act_bound(double gate, bool gelu); /* absolute error of silu or gelu */
double kept_check_act(double gate, bool gelu);
double kept_check_tanh_bound(double v, double softcap); /* of softcap * tanh(v / softcap) */
double kept_check_exp_bound(double v);                  /* relative error of exp(v), v <= 0 */
uint64_t kept_check_elems(const struct check_bind *b);
double kept_check_want(const struct check_case *c, uint32_t i_bind, uint64_t i_elem);

#endif

/* kernel/registry.h: what kernels.def says, as data: ids, bindings, keys, grids, costs, reference
 * functions. */
#ifndef KEPT_KERNEL_REGISTRY_H
#define KEPT_KERNEL_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "kernel/blocks.h"
#include "kernel/params.h"

#define KEPT_MAX_BINDS       12
#define KEPT_MAX_KEYS        9
#define KEPT_MAX_PARAM_BYTES 128
#define KEPT_MAX_HEAD_DIM    512u

enum kept_kernel_id {
#define KEPT_KERNEL(ID, ...) KEPT_KERNEL_##ID,
#include "kernel/kernels.def"
#undef KEPT_KERNEL
    KEPT_KERNEL_COUNT
};

enum kept_access { KEPT_ACCESS_NONE, KEPT_ACCESS_R = 1, KEPT_ACCESS_W = 2, KEPT_ACCESS_M = 3 };

enum kept_tolerance { /* how an output may differ from the reference; tune/check.c derives the
                         bounds */
                      KEPT_TOL_EXACT, /* bit for bit (embed: one multiplication) */
                      KEPT_TOL_DOT,   /* a dot product of k terms, f32 accumulation in any order */
                      KEPT_TOL_SUM,   /* a norm */
                      KEPT_TOL_HALF,  /* f32 work stored as f16 */
                      KEPT_TOL_SOFTMAX, /* attention */
                      KEPT_TOL_ACT      /* a transcendental of one value */
};

/* Places of the keys in kernels.def; tests/unit/test_registry.c compares them with the names. */
enum {
    KEPT_KEY_ORDER = 1, /* of embed, the matrix kernels, slot_write and attention */
    KEPT_KEY_NORM_MODE = 1,
    KEPT_KEY_GLU_ACT = 1,
    KEPT_KEY_MATVEC_EPI = 4,
    KEPT_KEY_MATMAT_EPI = 4,
    KEPT_KEY_SLOT_QKNORM = 2,
    KEPT_KEY_SLOT_BIAS = 3,
    KEPT_KEY_SLOT_KT = 4,
    KEPT_KEY_SLOT_VT = 5,
    KEPT_KEY_SLOT_STORE = 6,
    KEPT_KEY_BIRTH_BIAS = 1,
    KEPT_KEY_BIRTH_DMS = 2,
    KEPT_KEY_ATTN_D = 2, /* of attn_peak too */
    KEPT_KEY_ATTN_G = 3,
    KEPT_KEY_PEAK_SUM = 3,
    KEPT_KEY_ATTN_GENERAL = 4,
    KEPT_KEY_ATTN_KT = 5,
    KEPT_KEY_ATTN_VT = 6,
    KEPT_KEY_ATTN_BQ = 7,
    KEPT_KEY_ATTN_OUT = 8, /* of attn_prefill */
    KEPT_KEY_MERGE_VROT = 1,
    KEPT_KEY_STATS_D = 1,
    KEPT_KEY_SCORE_D = 2, /* of both scores, slot_nearest, slot_rotate, assoc_raw, assoc_write */
    KEPT_KEY_SCORE_KT = 3,
    KEPT_KEY_SCORE_VT = 4,
    KEPT_KEY_SELECT_SCORER = 1,
    KEPT_KEY_SLOT_MERGE_D = 1,
    KEPT_KEY_SLOT_MERGE_VT = 2,
    KEPT_KEY_MOVE_KT = 2,
    KEPT_KEY_MOVE_VT = 3,
    KEPT_KEY_RENUMBER_ALWAYS = 1,
    KEPT_KEY_ROTATE_ALWAYS = 4,
    KEPT_KEY_MATCH_D = 1,
    KEPT_KEY_ASSOC_FORM = 5
};

/* Host pointers and sizes of a call's bindings, for reference functions and the cpu backend. */
struct kept_host_call {
    enum kept_format format;
    const uint32_t *keys;
    const void *params; /* the row's struct */
    uint8_t *bind[KEPT_MAX_BINDS];
    uint64_t bind_bytes[KEPT_MAX_BINDS];
};
typedef void (*kept_reference_fn)(const struct kept_host_call *call);

struct kept_kernel_row {
    enum kept_kernel_id id;
    const char *stem;
    const char *purpose;
    bool has_formats;
    uint32_t param_bytes;
    uint32_t n_binds;
    enum kept_access access[KEPT_MAX_BINDS];
    const char *bind_names[KEPT_MAX_BINDS];
    uint32_t n_keys;
    const char *key_names[KEPT_MAX_KEYS];
    uint32_t key_defaults[KEPT_MAX_KEYS];
    enum kept_tolerance tolerance;
    kept_reference_fn reference;
};

const struct kept_kernel_row *kept_kernel_row(enum kept_kernel_id id);

/* Index of a key by name; KEPT_MAX_KEYS when the row has none of that name. */
uint32_t kept_kernel_key(enum kept_kernel_id id, const char *name);

/* Groups to launch for these keys and parameters (rows: the params' row_cap). Never 0 in a
 * dimension.
 *
 *   embed, norm, argmax  row_cap                1                                 1
 *   matvec               ceil(tiles / TR)       ceil(row_cap / NC)                1
 *   matmat               ceil(n_rows / BM)      ceil(row_cap / BN)                1
 *   slot_write           row_cap                n_head + n_kv                     1
 *   slot_birth           ceil(row_cap / 64)     n_kv                              1
 *   attn_decode          n_splits               n_kv * ceil(group / G)            row_cap
 *   attn_prefill         ceil(row_cap / BQ)     n_kv * ceil(group / G)            1
 *   attn_merge           row_cap                n_head                            1
 *   glu                  ceil(n / 256)          row_cap                           1
 *   attn_peak            ceil(n_slots / 64)     n_kv                              1
 *   q_stats              n_head                 d / 16                            1
 *   score_expected       ceil(z_stride / 64)    n_kv                              1
 *   score_keydiff        n_kv                   1                                 1
 *   slot_select          n_kv                   1                                 1
 *   slot_nearest         n_splits               n_kv                              1
 *   slot_merge           row_cap                n_kv                              1
 *   slot_move            columns                n_kv                              1
 *   slot_renumber        ceil(z_stride / 64)    n_kv                              1
 *   slot_rotate          ceil(z_stride / 16)    n_kv                              1
 *   assoc_raw            raw_stride / 16        n_kv                              1
 *   assoc_match          n_splits               n_kv                              1
 *   assoc_write          16                     n_kv                              1
 *
 * tiles = ceil(n_rows / 16). For GLU epilogues tiles and n_rows are those of the gate, and a group
 * computes gate and up; q_stats group (x, y) does rows 16y … of query head x; columns are the words
 * of a slot: K, V, meta and score planes. group = n_head / n_kv; y counts the passes of KV head 0
 * first. A slot_write group of a k head also writes the v of that head. The assoc_write group of
 * the first of the tokens that share a target does the work for all of them. */
void kept_kernel_grid(enum kept_kernel_id id, const uint32_t *keys, const void *params,
                      uint32_t grid[3]);

/* What a call with `rows` live rows at `live_slots` slots costs at least: bytes that must move
 * once, and operations. A matrix kernel is taken for a GLU when up_tiles is not 0. */
struct kept_cost {
    uint64_t bytes;
    uint64_t ops;
};
struct kept_cost kept_kernel_cost(enum kept_kernel_id id, enum kept_format format,
                                  const void *params, uint32_t rows, uint32_t live_slots);

/* Rows of step[] that are live in this call: see params.h. params begins with rows_at, row_first,
 * row_cap. */
uint32_t kept_live_rows(const void *params, const uint32_t *step);

#endif

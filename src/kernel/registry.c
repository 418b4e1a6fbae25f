/* kernel/registry.c: the rows of kernels.def as one const table, and what follows from a row and
 * its parameters: the grid, the smallest bindings, the cost.
 *
 * A row's KEPT_BINDS and KEPT_KEYS lists are padded to twelve and nine entries and split into the
 * two arrays of struct kept_kernel_row; padding has the name "" and is not counted. Everything else
 * here is a switch over the kernels, so that a grid or a size stands in exactly one place for every
 * backend.
 */
#include "kernel/registry.h"

#include <assert.h>

#include "kernel/ref/ref.h"

/* ---- params.h and blocks.h agree ---- */

#define X(NAME, name, ggml, elems, bytes)                \
    static_assert(KEPT_FMT_##NAME == KEPT_FORMAT_##NAME, \
                  "params.h and blocks.h number formats alike");
KEPT_FORMAT_LIST(X)
#undef X
static_assert(KEPT_LANE == KEPT_ORDER_LANE && KEPT_VECTOR == KEPT_ORDER_VECTOR,
              "params.h and blocks.h number orders alike");

#define KEPT_KERNEL(ID, stem, formats, tag, ...)                                \
    static_assert(sizeof(struct kept_##tag##_params) <= KEPT_MAX_PARAM_BYTES && \
                      sizeof(struct kept_##tag##_params) % 4 == 0,              \
                  "parameters of " #stem " are words, at most 128 bytes");
#include "kernel/kernels.def"
#undef KEPT_KERNEL

/* All parameter structs begin with these. */
struct row_params {
    uint32_t rows_at, row_first, row_cap;
};

/* ---- the table ---- */

#define BINDS_12(a0, n0, a1, n1, a2, n2, a3, n3, a4, n4, a5, n5, a6, n6, a7, n7, a8, n8, a9, n9, \
                 a10, n10, a11, n11, ...)                                                        \
    .access = {KEPT_ACCESS_##a0, KEPT_ACCESS_##a1, KEPT_ACCESS_##a2,  KEPT_ACCESS_##a3,          \
               KEPT_ACCESS_##a4, KEPT_ACCESS_##a5, KEPT_ACCESS_##a6,  KEPT_ACCESS_##a7,          \
               KEPT_ACCESS_##a8, KEPT_ACCESS_##a9, KEPT_ACCESS_##a10, KEPT_ACCESS_##a11},        \
    .bind_names = {n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11},                            \
    .n_binds = COUNT_8(n0, n1, n2, n3, n4, n5, n6, n7) + (sizeof(n8) > 1) + (sizeof(n9) > 1) +   \
               (sizeof(n10) > 1) + (sizeof(n11) > 1)
#define KEYS_9(n0, d0, n1, d1, n2, d2, n3, d3, n4, d4, n5, d5, n6, d6, n7, d7, n8, d8, ...) \
    .key_names = {n0, n1, n2, n3, n4, n5, n6, n7, n8},                                      \
    .key_defaults = {d0, d1, d2, d3, d4, d5, d6, d7, d8},                                   \
    .n_keys = COUNT_8(n0, n1, n2, n3, n4, n5, n6, n7) + (sizeof(n8) > 1)
#define COUNT_8(n0, n1, n2, n3, n4, n5, n6, n7)                                                    \
    (sizeof(n0) > 1) + (sizeof(n1) > 1) + (sizeof(n2) > 1) + (sizeof(n3) > 1) + (sizeof(n4) > 1) + \
        (sizeof(n5) > 1) + (sizeof(n6) > 1) + (sizeof(n7) > 1)
#define KEPT_BINDS(...)                                                                         \
    BINDS_12(__VA_ARGS__, NONE, "", NONE, "", NONE, "", NONE, "", NONE, "", NONE, "", NONE, "", \
             NONE, "", NONE, "", NONE, "", NONE, "", NONE, "")
#define KEPT_KEYS(...) \
    KEYS_9(__VA_ARGS__, "", 0, "", 0, "", 0, "", 0, "", 0, "", 0, "", 0, "", 0, "", 0, "", 0)
#define FORMATS_ALL  true
#define FORMATS_NONE false

static const struct kept_kernel_row table[KEPT_KERNEL_COUNT] = {
#define KEPT_KERNEL(ID, stem_, formats, tag, binds, keys, tolerance_, purpose_) \
    [KEPT_KERNEL_##ID] = {                                                      \
        .id = KEPT_KERNEL_##ID,                                                 \
        .stem = #stem_,                                                         \
        .purpose = purpose_,                                                    \
        .has_formats = FORMATS_##formats,                                       \
        .param_bytes = sizeof(struct kept_##tag##_params),                      \
        binds,                                                                  \
        keys,                                                                   \
        .tolerance = KEPT_TOL_##tolerance_,                                     \
        .reference = ref_##stem_,                                               \
    },
#include "kernel/kernels.def"
#undef KEPT_KERNEL
};

const struct kept_kernel_row *kept_kernel_row(enum kept_kernel_id id)
{
    assert((unsigned)id < KEPT_KERNEL_COUNT);
    return &table[id];
}

uint32_t kept_kernel_key(enum kept_kernel_id id, const char *name)
{
    const struct kept_kernel_row *row = kept_kernel_row(id);
    for (uint32_t i = 0; i < row->n_keys; i++) {
        const char *a = row->key_names[i], *b = name;
        while (*a != '\0' && *a == *b)
            a++, b++;
        if (*a == *b)
            return i;
    }
    return KEPT_MAX_KEYS;
}

uint32_t kept_live_rows(const void *params, const uint32_t *step)
{
    const struct row_params *p = params;
    uint32_t n = step[p->rows_at];
    if (n <= p->row_first)
        return 0;
    n -= p->row_first;
    return n < p->row_cap ? n : p->row_cap;
}

/* ---- grids ---- */

static uint32_t div_up(uint32_t n, uint32_t by)
{
    return by == 0 ? n : n / by + (n % by != 0);
}

static uint32_t tiles_of(uint32_t n_rows)
{
    return div_up(n_rows, KEPT_TILE_ROWS);
}

static uint32_t key_value(enum kept_kernel_id id, const uint32_t *keys, const char *name)
{
    return keys[kept_kernel_key(id, name)];
}

static void attn_grid(enum kept_kernel_id id, const uint32_t *keys, const void *params,
                      uint32_t grid[3])
{
    const struct kept_attn_params *p = params;
    uint32_t per_kv = p->n_kv == 0 ? 0 : p->n_head / p->n_kv;
    uint32_t heads = p->n_kv * div_up(per_kv, key_value(id, keys, "G"));
    if (id == KEPT_KERNEL_ATTN_DECODE) {
        grid[0] = p->n_splits;
        grid[1] = heads;
        grid[2] = p->row_cap;
    } else {
        grid[0] = div_up(p->row_cap, key_value(id, keys, "BQ"));
        grid[1] = heads;
    }
}

/* Words of one slot's K or V. */
static uint32_t slot_words(uint32_t type, uint32_t d)
{
    return KEPT_SLOT_Q(type, d) + KEPT_SLOT_S(type, d);
}

static void matmul_grid(enum kept_kernel_id id, const uint32_t *keys, const void *params,
                        uint32_t grid[3])
{
    const struct kept_matmul_params *p = params;
    if (id == KEPT_KERNEL_MATVEC) {
        grid[0] = div_up(tiles_of(p->n_rows), key_value(id, keys, "TR"));
        grid[1] = div_up(p->row_cap, key_value(id, keys, "NC"));
    } else {
        grid[0] = div_up(p->n_rows, key_value(id, keys, "BM"));
        grid[1] = div_up(p->row_cap, key_value(id, keys, "BN"));
    }
}

void kept_kernel_grid(enum kept_kernel_id id, const uint32_t *keys, const void *params,
                      uint32_t grid[3])
{
    const struct row_params *r = params;
    grid[0] = r->row_cap;
    grid[1] = 1;
    grid[2] = 1;
    switch (id) {
    case KEPT_KERNEL_MATVEC:
    case KEPT_KERNEL_MATMAT:
        matmul_grid(id, keys, params, grid);
        break;
    case KEPT_KERNEL_SLOT_WRITE: {
        const struct kept_slot_write_params *p = params;
        grid[1] = p->n_head + p->n_kv;
        break;
    }
    case KEPT_KERNEL_SLOT_BIRTH:
        grid[0] = div_up(r->row_cap, 64);
        grid[1] = ((const struct kept_birth_params *)params)->n_kv;
        break;
    case KEPT_KERNEL_ATTN_DECODE:
    case KEPT_KERNEL_ATTN_PREFILL:
        attn_grid(id, keys, params, grid);
        break;
    case KEPT_KERNEL_ATTN_MERGE:
        grid[1] = ((const struct kept_merge_params *)params)->n_head;
        break;
    case KEPT_KERNEL_GLU:
        grid[0] = div_up(((const struct kept_glu_params *)params)->n, 256);
        grid[1] = r->row_cap;
        break;
    case KEPT_KERNEL_ATTN_PEAK:
        grid[0] = div_up(((const struct kept_peak_params *)params)->n_slots, 64);
        grid[1] = ((const struct kept_peak_params *)params)->n_kv;
        break;
    case KEPT_KERNEL_Q_STATS:
        grid[0] = ((const struct kept_stats_params *)params)->n_head;
        grid[1] = ((const struct kept_stats_params *)params)->d / 16;
        break;
    case KEPT_KERNEL_SCORE_EXPECTED:
        grid[0] = div_up(((const struct kept_score_params *)params)->z_stride, 64);
        grid[1] = ((const struct kept_score_params *)params)->n_kv;
        break;
    case KEPT_KERNEL_SCORE_KEYDIFF:
        grid[0] = ((const struct kept_score_params *)params)->n_kv;
        break;
    case KEPT_KERNEL_SLOT_SELECT:
        grid[0] = ((const struct kept_select_params *)params)->n_kv;
        break;
    case KEPT_KERNEL_SLOT_NEAREST:
        grid[0] = ((const struct kept_merge_slots_params *)params)->n_splits;
        grid[1] = ((const struct kept_merge_slots_params *)params)->n_kv;
        break;
    case KEPT_KERNEL_SLOT_MERGE:
        grid[1] = ((const struct kept_merge_slots_params *)params)->n_kv;
        break;
    case KEPT_KERNEL_SLOT_MOVE: {
        const struct kept_move_params *p = params;
        grid[0] = slot_words(keys[KEPT_KEY_MOVE_KT], p->d) +
                  slot_words(keys[KEPT_KEY_MOVE_VT], p->d) + p->meta_planes + 2;
        grid[1] = p->n_kv;
        break;
    }
    case KEPT_KERNEL_SLOT_RENUMBER:
    case KEPT_KERNEL_SLOT_ROTATE: {
        const struct kept_rotate_params *p = params;
        grid[0] = div_up(p->z_stride, id == KEPT_KERNEL_SLOT_ROTATE ? 16 : 64);
        grid[1] = p->n_kv;
        break;
    }
    case KEPT_KERNEL_ASSOC_RAW:
    case KEPT_KERNEL_ASSOC_MATCH:
    case KEPT_KERNEL_ASSOC_WRITE: {
        const struct kept_assoc_params *p = params;
        grid[0] = id == KEPT_KERNEL_ASSOC_RAW     ? p->raw_stride / 16
                  : id == KEPT_KERNEL_ASSOC_MATCH ? p->n_splits
                                                  : KEPT_ASSOC_SUB;
        grid[1] = p->n_kv;
        break;
    }
    default: /* embed, norm, argmax: a group a row */
        break;
    }
    for (int i = 0; i < 3; i++)
        if (grid[i] == 0)
            grid[i] = 1;
}

/* ---- costs ---- */

static struct kept_cost attn_cost(const struct kept_attn_params *p, bool decode, uint64_t rows,
                                  uint64_t slots)
{
    uint64_t width = (uint64_t)p->n_head * p->d;
    uint64_t out = decode ? (uint64_t)p->n_splits * p->n_head * (p->d + 4) : width;
    return (struct kept_cost){
        .bytes = slots * p->n_kv * p->d * 4 + rows * (width + out) * 4,
        .ops = rows * slots * width * 4,
    };
}

static struct kept_cost matmul_cost(const struct kept_matmul_params *p, uint64_t rows)
{
    uint64_t matrices = p->up_tiles != 0 ? 2 : 1;
    uint64_t record_bytes = (uint64_t)p->record_words * 4;
    return (struct kept_cost){
        .bytes =
            tiles_of(p->n_rows) * record_bytes * matrices + rows * 4 * ((uint64_t)p->k + p->n_rows),
        .ops = rows * 2 * p->k * p->n_rows * matrices,
    };
}

struct kept_cost kept_kernel_cost(enum kept_kernel_id id, enum kept_format format,
                                  const void *params, uint32_t rows_live, uint32_t live_slots)
{
    uint64_t n = rows_live;
    switch (id) {
    case KEPT_KERNEL_EMBED: {
        const struct kept_embed_params *p = params;
        return (struct kept_cost){n * (kept_format_row_bytes(format, p->k) + 4ull * p->k),
                                  n * p->k};
    }
    case KEPT_KERNEL_NORM: {
        const struct kept_norm_params *p = params;
        return (struct kept_cost){n * p->k * 8 + p->k * 4ull, n * p->k * 4};
    }
    case KEPT_KERNEL_MATVEC:
    case KEPT_KERNEL_MATMAT:
        return matmul_cost(params, n);
    case KEPT_KERNEL_SLOT_WRITE: {
        const struct kept_slot_write_params *p = params;
        uint64_t q = n * p->n_head * p->d, kv = n * 2 * p->n_kv * p->d;
        return (struct kept_cost){q * 8 + kv * 6, (q + kv) * 8};
    }
    case KEPT_KERNEL_ATTN_DECODE:
        return attn_cost(params, true, n, live_slots);
    case KEPT_KERNEL_ATTN_PREFILL:
        return attn_cost(params, false, n, live_slots);
    case KEPT_KERNEL_ATTN_MERGE: {
        const struct kept_merge_params *p = params;
        uint64_t o = n * p->n_head * p->d;
        return (struct kept_cost){o * 4 * (p->parts + 1ull), o * 2 * p->parts};
    }
    case KEPT_KERNEL_GLU: {
        const struct kept_glu_params *p = params;
        return (struct kept_cost){n * p->n * 12, n * p->n * 8};
    }
    case KEPT_KERNEL_ARGMAX: {
        const struct kept_argmax_params *p = params;
        return (struct kept_cost){n * p->n * 4, n * p->n};
    }
    case KEPT_KERNEL_ATTN_PEAK: {
        const struct kept_peak_params *p = params;
        uint64_t k = (uint64_t)p->n_kv * p->n_slots * p->d;
        return (struct kept_cost){k * 2 + n * p->n_head * p->d * 4,
                                  n * p->n_head * p->n_slots * p->d * 2};
    }
    case KEPT_KERNEL_Q_STATS: {
        const struct kept_stats_params *p = params;
        uint64_t sums = (uint64_t)p->n_head * p->d * (p->d + 1ull);
        return (struct kept_cost){sums * 8 + n * p->n_head * p->d * 4, n * sums * 2};
    }
    case KEPT_KERNEL_SCORE_EXPECTED: {
        const struct kept_score_params *p = params;
        uint64_t d = p->d;
        return (struct kept_cost){live_slots * p->n_kv * d * 4 + p->n_head * d * d * 4,
                                  live_slots * p->n_head * d * (d + 1) * 2};
    }
    case KEPT_KERNEL_SCORE_KEYDIFF: {
        const struct kept_score_params *p = params;
        uint64_t elems = (uint64_t)live_slots * p->n_kv * p->d;
        return (struct kept_cost){elems * 2, elems * 6};
    }
    case KEPT_KERNEL_SLOT_SELECT: {
        const struct kept_select_params *p = params;
        return (struct kept_cost){(uint64_t)live_slots * (p->n_head + p->n_kv * 4ull) * 4,
                                  (uint64_t)live_slots * (p->n_head * 8ull + p->n_kv * 64ull)};
    }
    case KEPT_KERNEL_SLOT_NEAREST: {
        const struct kept_merge_slots_params *p = params;
        uint64_t elems = (uint64_t)live_slots * p->n_kv * p->d;
        return (struct kept_cost){elems * 2, elems * n * 2};
    }
    case KEPT_KERNEL_ASSOC_RAW: {
        const struct kept_assoc_params *p = params;
        uint64_t elems = (uint64_t)live_slots * p->n_kv * p->d;
        return (struct kept_cost){elems * 6, elems * 4};
    }
    case KEPT_KERNEL_ASSOC_MATCH: {
        const struct kept_assoc_params *p = params;
        uint64_t elems = (uint64_t)live_slots * p->n_kv * p->d;
        return (struct kept_cost){elems * 4, elems * KEPT_ASSOC_SUB * 2};
    }
    case KEPT_KERNEL_ASSOC_WRITE:
    case KEPT_KERNEL_SLOT_BIRTH:
    case KEPT_KERNEL_SLOT_MERGE:
    case KEPT_KERNEL_SLOT_MOVE:
    case KEPT_KERNEL_SLOT_RENUMBER:
    case KEPT_KERNEL_SLOT_ROTATE:
    default:
        return (struct kept_cost){0, 0};
    }
}

/* backend/cpu/fast_matmul.c: matvec and matmat. One inner loop for both: a tile of 16 rows against
 * up to 12 columns (fast_unpack.h), which at 12 columns is bound by the multipliers and at 1 by
 * memory.
 *
 * Work is cut into items of (some tiles) x (some columns). An item takes its columns a register
 * block at a time and passes over its tiles for each, so that weights are read from memory once and
 * from the nearest cache afterwards, and a block of activations stays in the first-level cache
 * while the tiles pass by.
 */
#include "backend/cpu/cpu.h"
#include "backend/cpu/fast.h"
#include "backend/cpu/fast_unpack.h"

#define AHEAD_BYTES  (8u << 10)  /* how far weights are asked for ahead of their use */
#define ITEM_BYTES   (64u << 10) /* of weights */
#define ITEM_TILES   4u          /* many columns: tiles of an item, */
#define ITEM_COLUMNS 120u        /* and columns */

typedef void (*dot_fn)(const struct tile *tile, float (*out)[16]);

#define DEFINE_DOT(fmt, nc)                                                \
    static void dot_##fmt##_##nc(const struct tile *tile, float(*out)[16]) \
    {                                                                      \
        vf acc[nc];                                                        \
        tile_dot(KEPT_FMT_##fmt, nc, tile, acc);                           \
        for (int c = 0; c < nc; c++)                                       \
            vf_store(out[c], acc[c]);                                      \
    }
#define NAME_DOT(fmt, nc) dot_##fmt##_##nc,

/* Register blocks: with 16 registers of eight floats four columns are what fits. */
#if CPU_SIMD == 512
#define N_WIDTHS 5
static const uint32_t widths[N_WIDTHS] = {12, 8, 4, 2, 1};
#define EACH_WIDTH(M, fmt) M(fmt, 12) M(fmt, 8) M(fmt, 4) M(fmt, 2) M(fmt, 1)
#else
#define N_WIDTHS           3
static const uint32_t widths[N_WIDTHS] = {4, 2, 1};
#define EACH_WIDTH(M, fmt) M(fmt, 4) M(fmt, 2) M(fmt, 1)
#endif

#define X(NAME, name, ggml, elems, bytes) EACH_WIDTH(DEFINE_DOT, NAME)
KEPT_FORMAT_LIST(X)
#undef X

static const dot_fn dots[KEPT_FORMAT_COUNT][N_WIDTHS] = {
#define X(NAME, name, ggml, elems, bytes) {EACH_WIDTH(NAME_DOT, NAME)},
    KEPT_FORMAT_LIST(X)
#undef X
};

struct job {
    const struct kept_matmul_params *p;
    const uint32_t *weights;
    enum kept_format format;
    uint32_t epi;
    const float *x; /* column 0 */
    float *y;
    uint32_t n_columns, n_tiles;
    uint32_t item_tiles, item_columns, tile_items; /* items along the tiles */
};

static void dot(const struct job *j, uint32_t tile, uint32_t column, uint32_t i_width,
                float (*out)[16])
{
    const struct kept_matmul_params *p = j->p;
    const uint32_t *record = j->weights + (size_t)tile * p->record_words;
    struct tile t = {
        .q = record,
        .h = record + p->h_words,
        .s = record + p->s_words,
        .d = record + p->d_words,
        .k = p->k,
        .x = j->x + (size_t)column * p->x_stride,
        .x_stride = p->x_stride,
        .ahead = (uintptr_t)record + AHEAD_BYTES,
        .ahead_lines = (p->record_words / 16 + p->k / 32 - 1) / (p->k / 32),
    };
    dots[j->format][i_width](&t, out);
}

static void store(float *y, const float *v, uint32_t n, bool add)
{
    if (n == 16) {
        vf value = vf_load(v);
        vf_store(y, add ? vf_add(vf_load(y), value) : value);
        return;
    }
    for (uint32_t r = 0; r < n; r++)
        y[r] = add ? y[r] + v[r] : v[r];
}

/* One tile times one register block of columns, with the epilogue. */
static void block(const struct job *j, uint32_t tile, uint32_t column, uint32_t i_width)
{
    const struct kept_matmul_params *p = j->p;
    uint32_t first = tile * KEPT_TILE_ROWS;
    uint32_t n = p->n_rows - first < KEPT_TILE_ROWS ? p->n_rows - first : KEPT_TILE_ROWS;
    bool glu = j->epi == KEPT_EPI_GLU_SILU || j->epi == KEPT_EPI_GLU_GELU;
    float a[MAX_NC][16], up[MAX_NC][16];
    dot(j, tile, column, i_width, a);
    if (glu)
        dot(j, tile + p->up_tiles, column, i_width, up);
    for (uint32_t c = 0; c < widths[i_width]; c++) {
        float *y = j->y + (size_t)(column + c) * p->y_stride;
        if (glu) {
            vf gate = vf_load(a[c]);
            gate = j->epi == KEPT_EPI_GLU_SILU ? vf_silu(gate) : vf_gelu(gate);
            vf_store(a[c], vf_mul(gate, vf_load(up[c])));
            for (uint32_t r = n; r < 16; r++)
                a[c][r] = 0;
            y[p->sums_offset + p->y_offset / 16 + tile] = vf_hsum(vf_load(a[c]));
        }
        store(y + p->y_offset + first, a[c], n, j->epi == KEPT_EPI_ADD);
    }
}

static void run_item(void *user, uint32_t item, uint32_t i_thread)
{
    (void)i_thread;
    const struct job *j = user;
    uint32_t tile_first = item % j->tile_items * j->item_tiles;
    uint32_t column = item / j->tile_items * j->item_columns;
    uint32_t tile_end = tile_first + j->item_tiles, column_end = column + j->item_columns;
    tile_end = tile_end < j->n_tiles ? tile_end : j->n_tiles;
    column_end = column_end < j->n_columns ? column_end : j->n_columns;
    uint32_t i_width = 0;
    while (column < column_end) {
        while (widths[i_width] > column_end - column)
            i_width++;
        for (uint32_t tile = tile_first; tile < tile_end; tile++)
            block(j, tile, column, i_width);
        column += widths[i_width];
    }
}

/* Few columns: items of ITEM_BYTES, but at least four a thread. Many: fixed, less where tiles are
 * few. */
static void cut(struct job *j, uint32_t n_threads)
{
    uint32_t most = j->n_tiles / (4 * n_threads);
    j->item_columns = ITEM_COLUMNS;
    j->item_tiles = ITEM_TILES;
    if (j->n_columns <= widths[0]) {
        j->item_tiles = ITEM_BYTES / (j->p->record_words * 4);
        j->item_tiles = j->item_tiles < most ? j->item_tiles : most;
    }
    if (j->item_tiles == 0)
        j->item_tiles = 1;
    j->tile_items = (j->n_tiles + j->item_tiles - 1) / j->item_tiles;
}

static void matmul(const struct kept_host_call *call, uint32_t epi, struct kept_pool *pool)
{
    const struct kept_matmul_params *p = call->params;
    const uint32_t *step = (const uint32_t *)call->bind[3];
    struct job j = {.p = p, .weights = (const uint32_t *)call->bind[0], .format = call->format};
    uint64_t x_row = (uint64_t)step[p->x_first_at] + p->row_first;
    j.epi = epi;
    j.n_columns = kept_live_rows(p, step);
    j.n_tiles = (p->n_rows + KEPT_TILE_ROWS - 1) / KEPT_TILE_ROWS;
    if (j.n_columns == 0 || j.n_tiles == 0 ||
        ((x_row + j.n_columns - 1) * p->x_stride + p->k + p->k / 16) * 4 > call->bind_bytes[1])
        return;
    j.x = (const float *)call->bind[1] + x_row * p->x_stride;
    j.y = (float *)call->bind[2] + (size_t)p->row_first * p->y_stride;
    cut(&j, kept_pool_threads(pool));
    uint32_t column_items = (j.n_columns + j.item_columns - 1) / j.item_columns;
    kept_pool_run(pool, j.tile_items * column_items, run_item, &j);
}

void CPU_NAME(matvec)(const struct kept_host_call *call, struct kept_pool *pool)
{
    matmul(call, call->keys[KEPT_KEY_MATVEC_EPI], pool);
}

void CPU_NAME(matmat)(const struct kept_host_call *call, struct kept_pool *pool)
{
    matmul(call, call->keys[KEPT_KEY_MATMAT_EPI], pool);
}

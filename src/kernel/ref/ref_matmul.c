/* kernel/ref/ref_matmul.c: references of embed, matvec and matmat: whole rows of records are
 * dequantised to f32, and every product is one double sum over k. The sums of 16 that x carries are
 * not used here: they are a means of the faster forms. */
#include "kernel/ref/ref.h"

#include <math.h>

#include "base/alloc.h"
#include "kernel/ref/ref_rows.h"

void ref_embed(const struct kept_host_call *call)
{
    const struct kept_embed_params *p = call->params;
    const uint32_t *weights = (const uint32_t *)call->bind[0];
    float *x = (float *)call->bind[1];
    const uint32_t *step = (const uint32_t *)call->bind[2];
    enum kept_order order = (enum kept_order)call->keys[KEPT_KEY_ORDER];
    uint32_t live = kept_live_rows(p, step);
    for (uint32_t i = 0; i < live; i++) {
        uint32_t row = p->row_first + i;
        uint32_t token = step[KEPT_STEP_TOKENS + row];
        if (token < p->token_first || token - p->token_first >= p->n_tokens)
            continue;
        uint32_t at = token - p->token_first;
        const uint32_t *record = weights + (size_t)(at / KEPT_TILE_ROWS) * p->record_words;
        float *out = x + (size_t)row * p->x_stride;
        kept_record_row(call->format, order, record, p->k, at % KEPT_TILE_ROWS, out);
        for (uint32_t k = 0; k < p->k; k++)
            out[k] *= p->scale;
    }
}

static double dot(const float *a, const float *b, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

struct matmul {
    const struct kept_host_call *call;
    const struct kept_matmul_params *p;
    const float *x; /* column 0 of this call */
    float *y;       /* its row of the output */
    uint32_t live, epi;
    enum kept_order order;
    float
        *w; /* one dequantised row; NULL when there was no memory for it: element by element then */
};

static const uint32_t *record_at(const struct matmul *m, uint32_t tile)
{
    return (const uint32_t *)m->call->bind[0] + (size_t)tile * m->p->record_words;
}

static void load_row(const struct matmul *m, uint32_t tile, uint32_t r)
{
    if (m->w != NULL)
        kept_record_row(m->call->format, m->order, record_at(m, tile), m->p->k, r, m->w);
}

/* The row loaded last, row r of the tile, times column c. */
static double product(const struct matmul *m, uint32_t tile, uint32_t r, uint32_t c)
{
    const float *x = m->x + (size_t)c * m->p->x_stride;
    if (m->w != NULL)
        return dot(m->w, x, m->p->k);
    double sum = 0;
    for (uint32_t i = 0; i < m->p->k; i++)
        sum += (double)x[i] *
               kept_record_value(m->call->format, m->order, record_at(m, tile), m->p->k, r, i);
    return sum;
}

static void store_row(const struct matmul *m, uint32_t row)
{
    uint32_t tile = row / KEPT_TILE_ROWS, r = row % KEPT_TILE_ROWS;
    load_row(m, tile, r);
    for (uint32_t c = 0; c < m->live; c++) {
        double a = product(m, tile, r, c);
        float *y = m->y + (size_t)c * m->p->y_stride + m->p->y_offset + row;
        *y = m->epi == KEPT_EPI_ADD ? (float)(*y + a) : (float)a;
    }
}

static void glu_tile(const struct matmul *m, uint32_t tile)
{
    const struct kept_matmul_params *p = m->p;
    uint32_t first = tile * KEPT_TILE_ROWS;
    uint32_t n = p->n_rows - first < KEPT_TILE_ROWS ? p->n_rows - first : KEPT_TILE_ROWS;
    for (uint32_t r = 0; r < n; r++) {
        load_row(m, tile, r);
        for (uint32_t c = 0; c < m->live; c++) {
            double gate = product(m, tile, r, c);
            double act = m->epi == KEPT_EPI_GLU_SILU ? ref_silu(gate) : ref_gelu(gate);
            m->y[(size_t)c * p->y_stride + p->y_offset + first + r] = (float)act;
        }
        load_row(m, tile + p->up_tiles, r);
        for (uint32_t c = 0; c < m->live; c++) {
            float *y = &m->y[(size_t)c * p->y_stride + p->y_offset + first + r];
            *y = (float)(*y * product(m, tile + p->up_tiles, r, c));
        }
    }
    for (uint32_t c = 0; c < m->live; c++) {
        float *y = m->y + (size_t)c * p->y_stride;
        double sum = 0;
        for (uint32_t r = 0; r < n; r++)
            sum += y[p->y_offset + first + r];
        y[p->sums_offset + p->y_offset / 16 + tile] = (float)sum;
    }
}

static void matmul(const struct kept_host_call *call, uint32_t epi)
{
    const struct kept_matmul_params *p = call->params;
    const uint32_t *step = (const uint32_t *)call->bind[3];
    struct matmul m = {.call = call, .p = p, .epi = epi, .live = kept_live_rows(p, step)};
    uint64_t x_row = (uint64_t)step[p->x_first_at] + p->row_first;
    if (m.live == 0 || ((x_row + m.live - 1) * p->x_stride + p->k) * 4 > call->bind_bytes[1])
        return;
    m.x = (const float *)call->bind[1] + x_row * p->x_stride;
    m.y = (float *)call->bind[2] + (size_t)p->row_first * p->y_stride;
    m.order = (enum kept_order)call->keys[KEPT_KEY_ORDER];
    m.w = kept_alloc((size_t)p->k * 4);
    if (epi == KEPT_EPI_GLU_SILU || epi == KEPT_EPI_GLU_GELU) {
        for (uint32_t tile = 0; tile * KEPT_TILE_ROWS < p->n_rows; tile++)
            glu_tile(&m, tile);
    } else {
        for (uint32_t row = 0; row < p->n_rows; row++)
            store_row(&m, row);
    }
    kept_free(m.w);
}

void ref_matvec(const struct kept_host_call *call)
{
    matmul(call, call->keys[KEPT_KEY_MATVEC_EPI]);
}

void ref_matmat(const struct kept_host_call *call)
{
    matmul(call, call->keys[KEPT_KEY_MATMAT_EPI]);
}

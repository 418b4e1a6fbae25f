/* tune/check_matmul.c: cases and bounds of embed, matvec and matmat.
 *
 * embed is exact: the product of an f16 scale, a packed scale and a quant fits 24 bits in every
 * format, the offset costs one rounding and the embedding's scale another, in this order on every
 * device. Only denormals may be flushed.
 *
 * A product of k terms accumulated in f32 in any order: the references accumulate in double, so the
 * whole difference is the device's. The worst case k * u * sum |w x| is useless as a test (at k =
 * 4096 a missing element would pass). Rounding errors behave like independent ones: |err| <= lambda
 * * sqrt(k) * u * sum |w x| holds with lambda = 4 but for a probability of 2 exp(-8) that is itself
 * pessimistic (Higham and Mary 2019). sum |w x| is taken with the amplitude of what a format's
 * unpacking adds up (check_gen.c), several times the weights themselves, and 16 more units cover
 * the sums of 16 and the scales. An element lost or taken twice exceeds this bound by an order of
 * magnitude.
 */
#include "tune/check_case.h"

#include <math.h>

#include "base/alloc.h"
#include "base/str.h"

/* ---- embed ---- */

void kept_keys_embed(struct check_case *c)
{
    kept_check_group(c, 16, 256);
}

static void embed_params(struct check_case *c)
{
    struct kept_embed_params *p = &c->params.embed;
    struct kept_record record = kept_record_of(c->format, p->k);
    p->record_words = record.n_words;
    p->h_words = record.h.offset_words;
    p->s_words = record.s.offset_words;
    p->d_words = record.d.offset_words;
}

void kept_gen_embed(struct check_case *c)
{
    struct kept_embed_params *p = &c->params.embed;
    const struct check_model *m = c->model;
    p->k = m != NULL ? m->k : kept_check_k(c, c->format);
    p->x_stride = m != NULL ? p->k : p->k + 4 * kept_check_range(c, 0, 2);
    p->token_first = m != NULL ? 0 : 16 * kept_check_range(c, 0, 3);
    p->n_tokens = m != NULL ? 1024 : kept_check_range(c, 1, 50);
    p->scale = m != NULL || kept_check_chance(c, 40) ? 1.0f : 25.3f;
    embed_params(c);
    uint32_t *step = kept_check_step(c, 2, m != NULL ? m->rows : 20, 0, NULL);
    uint32_t planned = kept_check_planned_rows(c);
    kept_check_bind(c, 1, (uint64_t)planned * p->x_stride);
    uint32_t tiles = (p->n_tokens + 15) / 16;
    kept_check_weights(c, 0, tiles, p->n_tokens, tiles, p->k);
    if (step == NULL)
        return;
    for (uint32_t i = 0; i < planned; i++) {
        uint32_t *token = &step[KEPT_STEP_TOKENS + i];
        *token = p->token_first + kept_check_range(c, 0, p->n_tokens - 1);
        if (m == NULL && kept_check_chance(c, 15)) { /* just outside, far outside */
            const uint32_t outside[] = {p->token_first - 1, p->token_first + p->n_tokens,
                                        UINT32_MAX, 0x80000000u, 1u << 24};
            *token = kept_check_pick(c, outside, 5);
        }
    }
    kept_snprintf(c->shape, sizeof c->shape, "k %u, tokens %u from %u", p->k, p->n_tokens,
                  p->token_first);
}

void kept_bound_embed(struct check_case *c)
{
    const struct kept_embed_params *p = &c->params.embed;
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        uint32_t token = c->bind[2].before[KEPT_STEP_TOKENS + row];
        bool inside = token >= p->token_first && token - p->token_first < p->n_tokens;
        for (uint32_t i = 0; inside && i < p->k; i++)
            kept_check_bound(c, 1, (uint64_t)row * p->x_stride + i, CHECK_TINY * fmax(1, p->scale));
    }
}

/* ---- matvec, matmat ---- */

static uint32_t epilogue(const struct check_case *c)
{
    return c->keys[KEPT_KEY_MATVEC_EPI];
}

static bool is_glu(const struct check_case *c)
{
    return epilogue(c) >= KEPT_EPI_GLU_SILU;
}

void kept_keys_matvec(struct check_case *c)
{
    static const uint32_t columns[] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const uint32_t tiles[] = {1, 1, 2, 4};
    kept_check_group(c, 16, 256);
    kept_check_set_key(c, "NC", kept_check_pick(c, columns, 8));
    kept_check_set_key(c, "TR", kept_check_pick(c, tiles, 4));
    kept_check_set_key(c, "EPI", kept_check_range(c, 0, 3));
}

void kept_keys_matmat(struct check_case *c)
{
    static const uint32_t rows[] = {16, 32, 64}, columns[] = {32, 64};
    kept_check_group(c, 16, 128);
    kept_check_set_key(c, "BM", kept_check_pick(c, rows, 3));
    kept_check_set_key(c, "BN", kept_check_pick(c, columns, 2));
    kept_check_set_key(c, "EPI", kept_check_range(c, 0, 3));
}

static void pick_matmul(struct check_case *c)
{
    struct kept_matmul_params *p = &c->params.matmul;
    const struct check_model *m = c->model;
    bool glu = is_glu(c);
    p->k = m != NULL ? m->k : kept_check_k(c, c->format);
    p->n_rows = m != NULL ? m->n_ff : kept_check_range(c, 1, 150);
    if (m == NULL && kept_check_chance(c, 30))
        p->n_rows = (p->n_rows + 15) / 16 * 16;
    uint32_t tiles = (p->n_rows + 15) / 16;
    uint32_t spare = m != NULL ? 0 : kept_check_range(c, 0, 3);
    p->x_stride = KEPT_ACT_STRIDE(p->k) + (m != NULL ? 0 : 4 * kept_check_range(c, 0, 2));
    p->y_offset = m != NULL ? 0 : 16 * kept_check_range(c, 0, 2);
    p->sums_offset = glu ? 16 * (tiles + p->y_offset / 16 + spare) : 0;
    p->y_stride = p->y_offset + p->n_rows + spare;
    if (glu)
        p->y_stride = p->sums_offset + (p->sums_offset / 16 + 3) / 4 * 4;
    p->up_tiles = glu ? tiles + spare : 0;
    struct kept_record record = kept_record_of(c->format, p->k);
    p->record_words = record.n_words;
    p->h_words = record.h.offset_words;
    p->s_words = record.s.offset_words;
    p->d_words = record.d.offset_words;
    p->x_first_at = m == NULL && kept_check_chance(c, 25) ? KEPT_STEP_OUT_FIRST : KEPT_STEP_ZERO;
}

static void gen_matmul(struct check_case *c, uint32_t max_columns)
{
    struct kept_matmul_params *p = &c->params.matmul;
    pick_matmul(c);
    uint32_t *step =
        kept_check_step(c, 3, c->model != NULL ? c->model->rows : max_columns, 0, NULL);
    uint32_t planned = kept_check_planned_rows(c);
    uint32_t first = p->x_first_at == KEPT_STEP_ZERO ? 0 : kept_check_range(c, 0, 4);
    if (step != NULL && p->x_first_at != KEPT_STEP_ZERO)
        step[p->x_first_at] = first;
    float *x = kept_check_bind_f32(c, 1, (uint64_t)(first + planned) * p->x_stride);
    float *y = kept_check_bind_f32(c, 2, (uint64_t)planned * p->y_stride);
    uint32_t tiles = (p->n_rows + 15) / 16;
    kept_check_weights(c, 0, p->up_tiles + tiles, p->n_rows, p->up_tiles != 0 ? p->up_tiles : tiles,
                       p->k);
    if (c->failed)
        return;
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        kept_check_act_row(c, x + (uint64_t)(first + row) * p->x_stride, p->k, 1);
        for (uint32_t i = 0; epilogue(c) == KEPT_EPI_ADD && i < p->n_rows; i++)
            y[(uint64_t)row * p->y_stride + p->y_offset + i] = kept_check_value(c, 4);
    }
    kept_snprintf(c->shape, sizeof c->shape, "k %u, %u weight rows, x from %u, y at %u", p->k,
                  p->n_rows, first, p->y_offset);
}

void kept_gen_matvec(struct check_case *c)
{
    gen_matmul(c, c->keys[2] + kept_check_range(c, 0, 4));
}

void kept_gen_matmat(struct check_case *c)
{
    gen_matmul(c, kept_check_chance(c, 20) ? 150 : 70);
}

static const float *x_row(const struct check_case *c, uint32_t row)
{
    const struct kept_matmul_params *p = &c->params.matmul;
    uint32_t first = c->bind[3].before[p->x_first_at];
    return (const float *)(const void *)c->bind[1].before + (uint64_t)(first + row) * p->x_stride;
}

/* The bound of weight row r (of all tiles) times a column. */
static double dot_bound(const struct check_case *c, uint32_t r, const float *x)
{
    uint32_t k = c->params.matmul.k;
    const float *amp = c->amp + (uint64_t)r * (k / 32);
    double total = 0, flushed = 0;
    for (uint32_t b = 0; b < k / 32; b++) {
        double sum = 0;
        for (uint32_t i = 0; i < 32; i++)
            sum += fabs(x[32 * b + i]);
        total += amp[b] * sum;
        flushed += 32 * (amp[b] + 1) * CHECK_TINY;
    }
    return (4 * sqrt(k) + 16) * CHECK_U * total + flushed;
}

static double dot(const float *w, const float *x, uint32_t k)
{
    double sum = 0;
    for (uint32_t i = 0; i < k; i++)
        sum += (double)w[i] * x[i];
    return sum;
}

/* y = act(g) * u with errors eg and eu: |act'| is at most 1.13. */
static double glu_bound(const struct check_case *c, double g, double u, double eg, double eu)
{
    bool gelu = epilogue(c) == KEPT_EPI_GLU_GELU;
    double act = fabs(kept_check_act(g, gelu)),
           act_error = 1.13 * eg + kept_check_act_bound(g, gelu);
    return act_error * fabs(u) + act * eu + act_error * eu + 4 * CHECK_U * act * fabs(u) +
           CHECK_TINY;
}

static void glu_row_bounds(struct check_case *c, uint32_t r, float *w_gate, float *w_up)
{
    const struct kept_matmul_params *p = &c->params.matmul;
    enum kept_order order = (enum kept_order)c->keys[KEPT_KEY_ORDER];
    const uint32_t *gate = c->bind[0].before + (uint64_t)(r / 16) * p->record_words;
    const uint32_t *up = gate + (uint64_t)p->up_tiles * p->record_words;
    kept_record_row(c->format, order, gate, p->k, r % 16, w_gate);
    kept_record_row(c->format, order, up, p->k, r % 16, w_up);
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++) {
        const float *x = x_row(c, row);
        double bound = glu_bound(c, dot(w_gate, x, p->k), dot(w_up, x, p->k), dot_bound(c, r, x),
                                 dot_bound(c, r + 16 * p->up_tiles, x));
        kept_check_bound(c, 2, (uint64_t)row * p->y_stride + p->y_offset + r, bound);
    }
}

static void glu_sum_bounds(struct check_case *c, uint32_t row)
{
    const struct kept_matmul_params *p = &c->params.matmul;
    uint64_t y = (uint64_t)row * p->y_stride;
    for (uint32_t t = 0; 16 * t < p->n_rows; t++) {
        double bound = CHECK_TINY;
        for (uint32_t r = 16 * t; r < 16 * t + 16 && r < p->n_rows; r++)
            bound += c->bind[2].bound[y + p->y_offset + r] +
                     16 * CHECK_U * fabs(kept_check_want(c, 2, y + p->y_offset + r));
        kept_check_bound(c, 2, y + p->sums_offset + p->y_offset / 16 + t, bound);
    }
}

static void glu_bounds(struct check_case *c)
{
    const struct kept_matmul_params *p = &c->params.matmul;
    float *w = kept_alloc((size_t)p->k * 2 * sizeof *w);
    if (w == NULL) {
        c->failed = true;
        return;
    }
    for (uint32_t r = 0; r < p->n_rows; r++)
        glu_row_bounds(c, r, w, w + p->k);
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++)
        glu_sum_bounds(c, row);
    kept_free(w);
}

void kept_bound_matmat(struct check_case *c)
{
    const struct kept_matmul_params *p = &c->params.matmul;
    if (is_glu(c)) {
        glu_bounds(c);
        return;
    }
    for (uint32_t row = p->row_first; row < p->row_first + c->live; row++)
        for (uint32_t r = 0; r < p->n_rows; r++) {
            uint64_t at = (uint64_t)row * p->y_stride + p->y_offset + r;
            double bound =
                dot_bound(c, r, x_row(c, row)) + 2 * CHECK_U * fabs(kept_check_want(c, 2, at));
            kept_check_bound(c, 2, at, bound);
        }
}

void kept_bound_matvec(struct check_case *c)
{
    kept_bound_matmat(c);
}

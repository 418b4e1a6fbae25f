/* tune/check_gen.c: what all generators of the checker share: random numbers, bindings, step
 * buffers, activation rows, weights.
 *
 * Everything comes from c->rng (splitmix64), so that a case is its seed. Numbers are biased to
 * where kernels go wrong: zeros, denormals, equal values, outliers. Weights are random bytes in the
 * file's blocks, so that every bit pattern of quants and packed scales occurs; only the f16 scales
 * of a block are chosen, because random ones would be NaN or overflow. They are then re-laid by the
 * same function that the loader uses.
 */
#include "tune/check_case.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/half.h"

/* ---- random numbers ---- */

static uint64_t scramble(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t kept_check_mix(uint64_t a, uint64_t b)
{
    return scramble(a * 0x9E3779B97F4A7C15u + scramble(b + 0x9E3779B97F4A7C15u));
}

uint32_t kept_check_u32(struct check_case *c)
{
    c->rng += 0x9E3779B97F4A7C15u;
    return (uint32_t)(scramble(c->rng) >> 32);
}

uint32_t kept_check_range(struct check_case *c, uint32_t lo, uint32_t hi)
{
    return lo + (uint32_t)(((uint64_t)kept_check_u32(c) * ((uint64_t)hi - lo + 1)) >> 32);
}

bool kept_check_chance(struct check_case *c, uint32_t percent)
{
    return kept_check_range(c, 0, 99) < percent;
}

uint32_t kept_check_pick(struct check_case *c, const uint32_t *list, uint32_t n)
{
    return list[kept_check_range(c, 0, n - 1)];
}

float kept_check_unit(struct check_case *c)
{
    return (float)(int32_t)kept_check_u32(c) * (1.0f / 2147483648.0f);
}

float kept_check_value(struct check_case *c, float scale)
{
    switch (kept_check_range(c, 0, 63)) {
    case 0:
        return 0.0f;
    case 1:
        return -0.0f;
    case 2: /* denormal */
        return kept_check_unit(c) * 1e-38f;
    case 3:
        return kept_check_unit(c) * scale * 30;
    case 4:
        return scale;
    default:
        return kept_check_unit(c) * scale;
    }
}

/* ---- keys ---- */

void kept_check_set_key(struct check_case *c, const char *name, uint32_t value)
{
    uint32_t i = kept_kernel_key(c->row->id, name);
    if (i < c->row->n_keys)
        c->keys[i] = value;
}

uint32_t kept_check_key(const struct check_case *c, const char *name)
{
    uint32_t i = kept_kernel_key(c->row->id, name);
    return i < c->row->n_keys ? c->keys[i] : 0;
}

void kept_check_group(struct check_case *c, uint32_t lo, uint32_t hi)
{
    bool vector = c->caps->vector_width == KEPT_TILE_ROWS && kept_check_chance(c, 70);
    uint32_t lanes = lo;
    while (lanes * 2 <= hi && lanes * 2 <= c->max_lanes && kept_check_chance(c, 60))
        lanes *= 2;
    uint32_t order = (uint32_t)c->caps->order;
    if (kept_check_chance(c, 30))
        order = order == KEPT_LANE ? KEPT_VECTOR : KEPT_LANE;
    kept_check_set_key(c, "WG", vector ? 1 : lanes);
    kept_check_set_key(c, "ORDER", vector ? KEPT_VECTOR : order);
}

/* ---- bindings ---- */

uint32_t *kept_check_bind(struct check_case *c, uint32_t i_bind, uint64_t n_words)
{
    struct check_bind *b = &c->bind[i_bind];
    if (n_words == 0)
        n_words = 1;
    b->n_words = n_words;
    b->before = kept_alloc((size_t)n_words * 4);
    if (b->before == NULL) {
        c->failed = true;
        return NULL;
    }
    for (uint64_t i = 0; i < n_words; i++)
        b->before[i] = CHECK_CANARY;
    return b->before;
}

float *kept_check_bind_f32(struct check_case *c, uint32_t i_bind, uint64_t n_words)
{
    return (float *)(void *)kept_check_bind(c, i_bind, n_words);
}

void kept_case_finish(struct check_case *c)
{
    for (uint32_t i = 0; i < KEPT_MAX_BINDS; i++) {
        kept_free(c->bind[i].before);
        kept_free(c->bind[i].want);
        kept_free(c->bind[i].bound);
        memset(&c->bind[i], 0, sizeof c->bind[i]);
    }
    kept_free(c->amp);
    c->amp = NULL;
}

/* ---- rows ---- */

/* A window of rows: mostly all rows live; sometimes some, none, or more in the step than the call
 * covers. */
static uint32_t pick_window(struct check_case *c, uint32_t max_rows)
{
    uint32_t *p = c->params.words;
    p[0] = KEPT_STEP_ROWS;
    p[1] = 0;
    p[2] = max_rows;
    if (c->model != NULL)
        return max_rows;
    p[0] = kept_check_chance(c, 25) ? KEPT_STEP_OUT_ROWS : KEPT_STEP_ROWS;
    p[1] = kept_check_chance(c, 30) ? kept_check_range(c, 1, 5) : 0;
    p[2] = kept_check_chance(c, 25) ? 1 : kept_check_range(c, 1, max_rows);
    if (kept_check_chance(c, 10))
        return kept_check_range(c, 0, p[1]);
    if (kept_check_chance(c, 30))
        return p[1] + kept_check_range(c, 1, p[2]);
    return p[1] + p[2] + (kept_check_chance(c, 20) ? kept_check_range(c, 1, 40) : 0);
}

uint32_t *kept_check_step(struct check_case *c, uint32_t i_bind, uint32_t max_rows,
                          int32_t position, uint32_t *chunk)
{
    uint32_t rows = pick_window(c, max_rows);
    uint32_t planned = kept_check_planned_rows(c);
    uint32_t n = planned + (c->model != NULL ? 0 : kept_check_range(c, 0, 3));
    uint32_t *step = kept_check_bind(c, i_bind, KEPT_STEP_TOKENS + 2 * (uint64_t)n);
    if (step == NULL)
        return NULL;
    memset(step, 0, KEPT_STEP_TOKENS * 4);
    step[KEPT_STEP_ROWS] = step[KEPT_STEP_OUT_ROWS] = rows;
    if (c->model == NULL) /* the count that the call does not name must not matter */
        step[c->params.words[0] == KEPT_STEP_ROWS ? KEPT_STEP_OUT_ROWS : KEPT_STEP_ROWS] =
            kept_check_range(c, 0, 64);
    for (uint32_t i = 0; i < n; i++) {
        step[KEPT_STEP_TOKENS + i] = 0;
        step[KEPT_STEP_TOKENS + n + i] = (uint32_t)(position + (int32_t)i);
    }
    if (chunk != NULL)
        *chunk = n;
    c->live = kept_live_rows(&c->params, step);
    return step;
}

uint32_t kept_check_planned_rows(const struct check_case *c)
{
    return c->params.words[1] + c->params.words[2];
}

bool kept_check_is_live(const struct check_case *c, uint32_t row)
{
    return row >= c->params.words[1] && row - c->params.words[1] < c->live;
}

/* ---- activations and weights ---- */

uint32_t kept_check_k(struct check_case *c, enum kept_format format)
{
    static const uint32_t blocks_of_32[] = {1, 2, 3, 5, 8, 13, 16, 18, 25, 32, 41};
    static const uint32_t blocks_of_256[] = {1, 1, 2, 3, 4, 5};
    if (kept_format_block_elems(format) == 256)
        return 256 * kept_check_pick(c, blocks_of_256, 6);
    return 32 * kept_check_pick(c, blocks_of_32, 11);
}

void kept_check_act_row(struct check_case *c, float *row, uint32_t k, float scale)
{
    bool flat = kept_check_chance(c, 5), zero = kept_check_chance(c, 3);
    for (uint32_t i = 0; i < k; i++)
        row[i] = zero ? 0 : flat ? scale : kept_check_value(c, scale);
    for (uint32_t g = 0; g < k / 16; g++) {
        double sum = 0;
        for (uint32_t i = 0; i < 16; i++)
            sum += row[16 * g + i];
        row[k + g] = (float)sum;
    }
}

/* Where a block has its f16 scales, and the amplitude of an element in them: |d| * of_d + |m| *
 * of_m. An unpacking may add up an offset form and take the offset off by the sum of x: a quant q
 * of n bits then weighs at most (2^n + q) and its offset again (2^n + zero point), packed scales of
 * a K-quant at most 63 or 128. */
static const struct amplitude {
    uint8_t d_at, m_at; /* m_at 0: no second one */
    float of_d, of_m;
} amplitudes[KEPT_FORMAT_COUNT] = {
    [KEPT_FORMAT_Q4_0] = {0, 0, 31 + 24, 0},
    [KEPT_FORMAT_Q4_1] = {0, 2, 31 + 16, 1},
    [KEPT_FORMAT_Q5_0] = {0, 0, 63 + 48, 0},
    [KEPT_FORMAT_Q5_1] = {0, 2, 63 + 32, 1},
    [KEPT_FORMAT_Q8_0] = {0, 0, 255 + 128, 0},
    [KEPT_FORMAT_Q4_K] = {0, 2, 63 * (31 + 16), 63},
    [KEPT_FORMAT_Q5_K] = {0, 2, 63 * (63 + 32), 63},
    [KEPT_FORMAT_Q6_K] = {208, 0, 128 * (127 + 96), 0},
};

/* A scale so that elements are about 1: mostly ordinary, sometimes 0, denormal or of the other
 * sign. */
static uint16_t random_scale(struct check_case *c, float of_d)
{
    switch (kept_check_range(c, 0, 31)) {
    case 0:
        return 0;
    case 1:
        return (uint16_t)kept_check_range(c, 1, 0x3FF);
    case 2:
        return kept_f32_to_f16(-2.0f / of_d);
    default:
        return kept_f32_to_f16((1.0f + 0.9f * kept_check_unit(c)) * 2.0f / of_d);
    }
}

static void put_u16(uint8_t *at, uint16_t v)
{
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

static void quant_block(struct check_case *c, uint8_t *block, float *amp)
{
    const struct amplitude *a = &amplitudes[c->format];
    uint32_t n_bytes = kept_format_block_bytes(c->format);
    for (uint32_t i = 0; i < n_bytes; i++)
        block[i] = (uint8_t)kept_check_u32(c);
    uint16_t d = random_scale(c, a->of_d), m = 0;
    put_u16(block + a->d_at, d);
    if (a->m_at != 0) {
        m = random_scale(c, 2 * a->of_m);
        put_u16(block + a->m_at, m);
    }
    float amplitude = fabsf(kept_f16_to_f32(d)) * a->of_d + fabsf(kept_f16_to_f32(m)) * a->of_m;
    for (uint32_t i = 0; i < kept_format_block_elems(c->format) / 32; i++)
        amp[i] = amplitude;
}

/* 32 elements of a format without blocks. */
static void plain_elems(struct check_case *c, uint8_t *to, float *amp)
{
    *amp = 0;
    for (uint32_t i = 0; i < 32; i++) {
        float v = kept_check_value(c, 1);
        *amp = fmaxf(*amp, fabsf(v));
        if (c->format == KEPT_FORMAT_F32)
            memcpy(to + 4 * i, &v, 4);
        else
            put_u16(to + 2 * i,
                    c->format == KEPT_FORMAT_F16 ? kept_f32_to_f16(v) : kept_f32_to_bf16(v));
    }
}

static void random_row(struct check_case *c, uint8_t *row, uint32_t k, float *amp)
{
    uint32_t elems = kept_format_block_elems(c->format);
    uint32_t step = elems == 1 ? 32 : elems;
    uint64_t step_bytes = kept_format_row_bytes(c->format, step);
    for (uint32_t i = 0; i < k / step; i++) {
        uint8_t *block = row + i * step_bytes;
        if (elems == 1)
            plain_elems(c, block, amp + i);
        else
            quant_block(c, block, amp + (size_t)i * (step / 32));
    }
}

void kept_check_weights(struct check_case *c, uint32_t i_bind, uint32_t n_tiles,
                        uint32_t rows_in_part, uint32_t tiles_in_part, uint32_t k)
{
    uint32_t record_words = kept_record_of(c->format, k).n_words;
    uint64_t row_bytes = kept_format_row_bytes(c->format, k);
    enum kept_order order = (enum kept_order)c->keys[KEPT_KEY_ORDER];
    uint32_t *weights = kept_check_bind(c, i_bind, (uint64_t)n_tiles * record_words);
    uint8_t *rows = kept_alloc((size_t)row_bytes * KEPT_TILE_ROWS);
    c->amp = kept_calloc((size_t)n_tiles * KEPT_TILE_ROWS, (size_t)(k / 32) * sizeof *c->amp);
    if (weights == NULL || rows == NULL || c->amp == NULL) {
        c->failed = true;
        kept_free(rows);
        return;
    }
    for (uint32_t t = 0; t < n_tiles; t++) {
        uint32_t first = t % tiles_in_part * KEPT_TILE_ROWS;
        uint32_t n = rows_in_part <= first ? 0 : rows_in_part - first;
        n = n < KEPT_TILE_ROWS ? n : KEPT_TILE_ROWS;
        if (c->model != NULL && t > 0) { /* speed does not depend on the values */
            memcpy(weights + (size_t)t * record_words, weights, (size_t)record_words * 4);
            continue;
        }
        for (uint32_t r = 0; r < n; r++)
            random_row(c, rows + r * row_bytes, k,
                       c->amp + ((size_t)t * KEPT_TILE_ROWS + r) * (k / 32));
        kept_relay_tile(c->format, order, rows, n, k, weights + (size_t)t * record_words);
    }
    kept_free(rows);
}

/* ---- bounds ---- */

void kept_check_bound(struct check_case *c, uint32_t i_bind, uint64_t i_elem, double bound)
{
    c->bind[i_bind].bound[i_elem] = (float)bound;
}

double kept_check_want(const struct check_case *c, uint32_t i_bind, uint64_t i_elem)
{
    float v;
    memcpy(&v, c->bind[i_bind].want + i_elem, 4);
    return v;
}

/* Sixteen additions of f32 beside the errors of the elements; the padding after the sums is free.
 * */
void kept_check_bound_sums(struct check_case *c, uint32_t i_bind, uint64_t i_first, uint64_t i_sums,
                           uint32_t n_elems)
{
    uint32_t n_sums = n_elems / 16;
    for (uint32_t g = 0; g < n_sums; g++) {
        double bound = CHECK_TINY;
        for (uint32_t i = 0; i < 16; i++) {
            uint64_t at = i_first + 16 * g + i;
            bound +=
                c->bind[i_bind].bound[at] + 16 * CHECK_U * fabs(kept_check_want(c, i_bind, at));
        }
        kept_check_bound(c, i_bind, i_sums + g, bound);
    }
    for (uint32_t g = n_sums; g % 4 != 0; g++)
        kept_check_bound(c, i_bind, i_sums + g, CHECK_ANY);
}

double kept_check_act(double v, bool gelu)
{
    if (gelu)
        return 0.5 * v * (1 + tanh(0.79788456080286536 * (v + 0.044715 * v * v * v)));
    return v / (1 + exp(-v));
}

/* silu = v / (1 + exp(-v)): APIs allow exp an error of 3 + 2 |v| units (Vulkan; OpenCL 3), which
 * enters the quotient times exp / (1 + exp) <= 1; division and addition 4 more. Below -88 exp may
 * overflow: 0 for what is at most 3e-37. gelu: tanh from exponentials is exact to some 8 units of
 * its own size or of 1 / 4, whichever is larger, its argument z to 4 units of z (slope of tanh at
 * z: at most 4 exp(-2 |z|)), and 1 + tanh cancels for negative v. */
double kept_check_act_bound(double v, bool gelu)
{
    if (!gelu)
        return fabs(kept_check_act(v, false)) * (8 + 2 * fmin(fabs(v), 100)) * CHECK_U +
               CHECK_TINY * 32;
    double z = 0.79788456080286536 * (v + 0.044715 * v * v * v);
    double slope = 4 * fabs(z) * fmin(1, 4 * exp(-2 * fabs(z)));
    return 0.5 * fabs(v) * (16 + slope) * CHECK_U + fabs(kept_check_act(v, true)) * 4 * CHECK_U +
           CHECK_TINY;
}

/* tanh from two exponentials: 8 units of max(|z|, 1 / 4) near 0 (cancellation), the error of exp
 * damped by the slope elsewhere; division and product 4 more. */
double kept_check_tanh_bound(double v, double softcap)
{
    double z = fabs(v / softcap), t = tanh(z);
    double slope = 4 * exp(-2 * z) < 1 ? 4 * exp(-2 * z) : 1;
    return softcap * CHECK_U * (8 * fmax(t, 0.25) + slope * (4 * z + 2 * z * z)) +
           CHECK_TINY * (1 + softcap);
}

/* Vulkan allows 3 + 2 |v| units, OpenCL 3; the argument's own rounding adds |v|. */
double kept_check_exp_bound(double v)
{
    return (4 + 3 * fmin(fabs(v), 100)) * CHECK_U;
}

/* tune/check_store.c: slots of any type in the checker: contents, the heads table, and bounds of
 * values that a kernel stores.
 *
 * Bounds of a stored slot. Let x be the exact values of a block of 32, e how far the f32 values of
 * another implementation may be from them. f16: the stored half may fall to the other side, one
 * unit of it more than e. Quantised: slots are compared value by value (scale times quant), and a
 * value may be whatever these ranges allow:
 *   d  the largest magnitude lies between max(|x| - e) and max(|x| + e); dividing by 127 or 8 in
 *      f32, by way of a reciprocal at worst, adds 8 units. q4_0 takes the sign of d from the
 *      element of largest magnitude: both signs are allowed where elements of both can be it.
 *   q  every integer that (x ± e) / d rounds to, for d in its range; quotient and offset add 12
 *      units of the quotient and 16 of 1.
 *   s  the f16 of every d in its range.
 * The bound is the largest distance of any s * q from the reference's value. Where no boundary is
 * near, each range holds one number and the bound is 0.
 */
#include "tune/check_case.h"

#include <math.h>

#include "base/half.h"

#define MAX_D 256

/* ---- contents ---- */

void kept_check_bind_slots(struct check_case *c, uint32_t i_bind, struct ref_slots form,
                           uint64_t n_slots)
{
    form.words =
        kept_check_bind(c, i_bind, n_slots / 16 * KEPT_TILE_WORDS((uint64_t)form.type, form.d));
    c->bind[i_bind].slots = form;
}

uint64_t kept_check_elems(const struct check_bind *b)
{
    const struct ref_slots *s = &b->slots;
    return s->d == 0 ? b->n_words : b->n_words / KEPT_TILE_WORDS(s->type, s->d) * 16 * s->d;
}

/* The f16 scale of a block with values up to about `scale`: mostly ordinary, sometimes 0, denormal
 * or of the other sign. */
static uint16_t random_scale(struct check_case *c, uint32_t type, float scale)
{
    float d = scale / (type == KEPT_FMT_Q8_0 ? 127.0f : 8.0f);
    switch (kept_check_range(c, 0, 31)) {
    case 0:
        return 0;
    case 1:
        return (uint16_t)kept_check_range(c, 1, 0x3FF);
    case 2:
        return kept_f32_to_f16(-d);
    default:
        return kept_f32_to_f16((1.0f + 0.9f * kept_check_unit(c)) * d);
    }
}

static void fill_slot(struct check_case *c, const struct ref_slots *s, uint64_t slot, float scale)
{
    uint32_t n_q = KEPT_SLOT_Q(s->type, s->d), n_blocks = s->d / 32;
    for (uint32_t i = 0; i < ref_slot_words(s); i++) {
        uint32_t lo = 0, hi = 0;
        if (s->type == KEPT_FMT_F16) {
            lo = kept_f32_to_f16(kept_check_value(c, scale));
            hi = kept_f32_to_f16(kept_check_value(c, scale));
        } else if (i < n_q) {
            lo = kept_check_range(c, 0, 0xFFFF);
            hi = kept_check_range(c, 0, 0xFFFF);
        } else {
            lo = random_scale(c, s->type, scale);
            hi = 2 * (i - n_q) + 1 < n_blocks ? random_scale(c, s->type, scale) : 0;
        }
        s->words[ref_slot_word(s, slot, i)] = lo | hi << 16;
    }
}

void kept_check_fill_slots(struct check_case *c, uint32_t i_bind, float scale)
{
    const struct check_bind *b = &c->bind[i_bind];
    for (uint64_t slot = 0; !c->failed && slot < kept_check_elems(b) / b->slots.d; slot++)
        fill_slot(c, &b->slots, slot, scale);
}

/* Quants cannot be NaN or Inf, their scales can. */
void kept_check_spoil_slot(struct check_case *c, uint32_t i_bind, uint64_t slot)
{
    static const uint32_t halves[] = {0x7C00, 0xFC00, 0x7E00, 0xFE01};
    const struct ref_slots *s = &c->bind[i_bind].slots;
    uint32_t first = s->type == KEPT_FMT_F16 ? 0 : KEPT_SLOT_Q(s->type, s->d);
    for (uint32_t i = first; i < ref_slot_words(s); i++)
        s->words[ref_slot_word(s, slot, i)] =
            kept_check_pick(c, halves, 4) | kept_check_pick(c, halves, 4) << 16;
}

void kept_check_slot(const struct check_case *c, uint32_t i_bind, uint64_t slot, double *v,
                     double *amp)
{
    const struct ref_slots *s = &c->bind[i_bind].slots;
    for (uint32_t i = 0; i < s->d; i++) {
        uint32_t bits;
        v[i] = ref_slot_value(s, slot, i, &bits);
        amp[i] = fabs(v[i]);
        /* an offset form of n bits may add up 2^n + q and take off 2^n + zero point */
        if (s->type != KEPT_FMT_F16)
            amp[i] = fabs((double)kept_f16_to_f32((uint16_t)(bits >> 8))) *
                     (s->type == KEPT_FMT_Q8_0 ? 255 + 128 : 31 + 24);
    }
}

uint32_t kept_check_heads(struct check_case *c, uint32_t i_bind, uint32_t n_kv, uint32_t max_cap)
{
    uint32_t *heads = kept_check_bind(c, i_bind, (uint64_t)n_kv * KEPT_HEAD_WORDS), total = 0;
    uint32_t start = kept_check_range(c, 0, n_kv - 1);
    bool backwards = kept_check_chance(c, 50), gaps = kept_check_chance(c, 30);
    if (c->model != NULL) {
        start = 0;
        backwards = gaps = false;
    }
    for (uint32_t i = 0; heads != NULL && i < n_kv; i++) {
        uint32_t at = (start + i) % n_kv;
        uint32_t *h = heads + (uint64_t)(backwards ? n_kv - 1 - at : at) * KEPT_HEAD_WORDS;
        total += gaps ? 64 * kept_check_range(c, 0, 2) : 0;
        h[KEPT_HEAD_FIRST] = total;
        h[KEPT_HEAD_CAP] = c->model != NULL ? max_cap : 64 * kept_check_range(c, 1, max_cap / 64);
        h[KEPT_HEAD_BUDGET] = kept_check_range(c, 1, h[KEPT_HEAD_CAP]);
        h[KEPT_HEAD_BASE] = h[KEPT_HEAD_EDGE] = h[KEPT_HEAD_SHIFT] = 0;
        h[KEPT_HEAD_SCORED] = kept_check_range(c, 0, 1);
        h[KEPT_HEAD_EVICTED] = kept_check_range(c, 0, 100000);
        total += h[KEPT_HEAD_CAP];
    }
    return total + (gaps ? 64 : 0);
}

/* ---- bounds ---- */

/* Sums of HB terms in any order: as a dot product (check_matmul.c). */
void kept_check_hadamard(double *v, double *error, uint32_t d)
{
    uint32_t n = ref_hadamard_block(d);
    for (uint32_t first = 0; first < d; first += n) {
        double size = 0, errors = 0;
        for (uint32_t i = first; i < first + n; i++) {
            size += fabs(v[i]);
            errors += error[i];
        }
        double bound = (errors + (4 * sqrt(n) + 8) * CHECK_U * size) / sqrt(n) + CHECK_TINY * n;
        for (uint32_t i = first; i < first + n; i++)
            error[i] = bound;
    }
    ref_hadamard(v, d);
}

static double f16_unit(double v)
{
    v = fabs(v);
    return v < 6.103515625e-5 ? 5.9604645e-8 : ldexp(1, (int)floor(log2(v)) - 10);
}

/* A value that could round past the largest f16 may be infinite. */
static double half_bound(double want, double error)
{
    if (error == 0) /* exact but for the sign of zero: below the smallest f16 */
        return 1e-9;
    bool edge = isinf(want) || fabs(want) + error > 65488;
    return edge ? (double)CHECK_ANY : error + f16_unit(fabs(want) + error);
}

/* The range of |d| of a block, and of quants and scales that follow. */
struct block {
    uint32_t type;
    double d_lo, d_hi, s_lo, s_hi;
    bool positive, negative; /* signs that d can have */
};

static struct block block_of(uint32_t type, const double *x, const double *error)
{
    struct block b = {.type = type, .positive = type == KEPT_FMT_Q8_0};
    double lo = 0, hi = 0, levels = type == KEPT_FMT_Q8_0 ? 127 : 8;
    for (int i = 0; i < 32; i++) {
        lo = fmax(lo, fabs(x[i]) - error[i]);
        hi = fmax(hi, fabs(x[i]) + error[i]);
    }
    for (int i = 0; type != KEPT_FMT_Q8_0 && i < 32; i++) {
        b.positive = b.positive || x[i] - error[i] <= -lo;
        b.negative = b.negative || x[i] + error[i] >= lo;
    }
    b.d_lo = lo / levels * (1 - 8 * CHECK_U);
    b.d_hi = hi / levels * (1 + 8 * CHECK_U);
    b.s_lo = kept_f16_to_f32(kept_f32_to_f16((float)b.d_lo));
    b.s_hi = kept_f16_to_f32(kept_f32_to_f16((float)b.d_hi));
    return b;
}

/* The largest distance from `want` of what x may become under d of this sign. */
static double farthest(const struct block *b, double sign, double x, double error, double want)
{
    bool bytes = b->type == KEPT_FMT_Q8_0;
    double q_lo = bytes ? -127 : -8, q_hi = bytes ? 127 : 7, far = 0;
    if (b->d_lo > 0) {
        double lo = sign * x - error, hi = sign * x + error;
        lo /= lo < 0 ? b->d_lo : b->d_hi;
        hi /= hi < 0 ? b->d_hi : b->d_lo;
        lo = floor(lo - 12 * CHECK_U * fabs(lo) - 16 * CHECK_U + 0.5);
        hi = floor(hi + 12 * CHECK_U * fabs(hi) + 16 * CHECK_U + 0.5);
        q_hi = fmax(q_lo, fmin(q_hi, hi));
        q_lo = fmin(q_hi, fmax(q_lo, lo));
    }
    const double corners[] = {b->s_lo * q_lo, b->s_lo * q_hi, b->s_hi * q_lo, b->s_hi * q_hi};
    for (int i = 0; i < 4; i++)
        far = fmax(far, fabs(sign * corners[i] - want));
    return far * (1 + 1e-6) + 1e-30;
}

void kept_check_bound_slot(struct check_case *c, uint32_t i_bind, uint64_t slot, const double *v,
                           const double *error)
{
    struct ref_slots s = c->bind[i_bind].slots;
    struct block b = {0};
    s.words = c->bind[i_bind].want;
    for (uint32_t i = 0; i < s.d; i++) {
        uint32_t bits;
        double want = ref_slot_value(&s, slot, i, &bits), bound = 0;
        if (s.type != KEPT_FMT_F16 && i % 32 == 0)
            b = block_of(s.type, v + i, error + i);
        if (s.type == KEPT_FMT_F16)
            bound = half_bound(want, error[i]);
        else if (isinf(b.s_hi))
            bound = CHECK_ANY;
        if (b.positive && bound == 0)
            bound = farthest(&b, 1, v[i], error[i], want);
        if (b.negative && bound >= 0)
            bound = fmax(bound, farthest(&b, -1, v[i], error[i], want));
        kept_check_bound(c, i_bind, slot * s.d + i, bound);
    }
}

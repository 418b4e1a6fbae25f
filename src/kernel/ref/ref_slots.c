/* kernel/ref/ref_slots.c: slots of any type as double, the rotations of a head, the heads table.
 *
 * All types have the same words in K and V tiles (params.h); only their places differ: a K tile has
 * them in the order of weight records, a V tile row by row.
 */
#include "kernel/ref/ref_slots.h"

#include <math.h>

#include "base/half.h"
#include "kernel/params.h"

/* ---- tiles ---- */

uint32_t ref_slot_words(const struct ref_slots *s)
{
    return KEPT_SLOT_Q(s->type, s->d) + KEPT_SLOT_S(s->type, s->d);
}

uint64_t ref_slot_word(const struct ref_slots *s, uint64_t slot, uint32_t i)
{
    uint32_t n_q = KEPT_SLOT_Q(s->type, s->d), n_s = KEPT_SLOT_S(s->type, s->d);
    uint64_t tile = slot / 16 * KEPT_TILE_WORDS(s->type, s->d);
    uint32_t row = (uint32_t)(slot % 16);
    bool scale = i >= n_q;
    if (s->order == REF_ROWS)
        return tile + (scale ? 16 * n_q + row * n_s + (i - n_q) : row * n_q + i);
    if (scale)
        return tile + 16 * n_q + (i - n_q) * 16 + row;
    return tile + i / 4 * 64 + (s->order == KEPT_LANE ? row * 4 + i % 4 : i % 4 * 16 + row);
}

static uint32_t get(const struct ref_slots *s, uint64_t slot, uint32_t i)
{
    return s->words[ref_slot_word(s, slot, i)];
}

/* Replaces the bits of `mask` in word i. */
static void put(const struct ref_slots *s, uint64_t slot, uint32_t i, uint32_t mask, uint32_t bits)
{
    uint32_t *word = &s->words[ref_slot_word(s, slot, i)];
    *word = (*word & ~mask) | bits;
}

/* Word and shift of a quantised element: the nibbles of q4_0 are 16 elements apart. */
static uint32_t place(const struct ref_slots *s, uint32_t i, uint32_t *shift)
{
    if (s->type == KEPT_FMT_Q8_0) {
        *shift = 8 * (i % 4);
        return i / 4;
    }
    *shift = 8 * (i % 4) + (i % 32 < 16 ? 0 : 4);
    return i / 32 * 4 + i % 16 / 4;
}

double ref_slot_value(const struct ref_slots *s, uint64_t slot, uint32_t i, uint32_t *bits)
{
    if (s->type == KEPT_FMT_F16) {
        *bits = get(s, slot, i / 2) >> 16 * (i % 2) & 0xFFFFu;
        return kept_f16_to_f32((uint16_t)*bits);
    }
    bool bytes = s->type == KEPT_FMT_Q8_0;
    uint32_t shift, word = get(s, slot, place(s, i, &shift));
    uint32_t scales = get(s, slot, KEPT_SLOT_Q(s->type, s->d) + i / 64);
    uint32_t q = word >> shift & (bytes ? 0xFFu : 15u), d = scales >> 16 * (i / 32 % 2) & 0xFFFFu;
    *bits = d << 8 | q;
    return (double)kept_f16_to_f32((uint16_t)d) * (bytes ? (int8_t)(uint8_t)q : (int)q - 8);
}

void ref_slot_load(const struct ref_slots *s, uint64_t slot, double *v)
{
    uint32_t bits;
    for (uint32_t i = 0; i < s->d; i++)
        v[i] = ref_slot_value(s, slot, i, &bits);
}

/* v as an integer of lo … hi; what is no number becomes `none`. */
static int to_int(double v, int lo, int hi, int none)
{
    if (isnan(v))
        return none;
    return v < lo ? lo : v > hi ? hi : (int)v;
}

double ref_quantise(uint32_t type, const double *x, uint8_t *q)
{
    double top = 0;
    for (uint32_t i = 0; i < 32; i++)
        if (fabs(x[i]) > fabs(top))
            top = x[i];
    double d = type == KEPT_FMT_Q8_0 ? fabs(top) / 127 : top / -8;
    for (uint32_t i = 0; i < 32; i++) {
        double y = d != 0 ? x[i] / d : 0;
        if (type == KEPT_FMT_Q8_0)
            q[i] = (uint8_t)to_int(round(y), -127, 127, 0);
        else
            q[i] = (uint8_t)to_int(floor(y + 8.5), 0, 15, 8);
    }
    return d;
}

static void store_block(const struct ref_slots *s, uint64_t slot, uint32_t block, const double *x)
{
    uint32_t shift, bits = s->type == KEPT_FMT_Q8_0 ? 0xFFu : 15u;
    uint8_t q[32];
    uint32_t scale = kept_f32_to_f16((float)ref_quantise(s->type, x, q));
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t word = place(s, 32 * block + i, &shift);
        put(s, slot, word, bits << shift, (uint32_t)q[i] << shift);
    }
    /* an odd last block clears the half behind it */
    put(s, slot, KEPT_SLOT_Q(s->type, s->d) + block / 2, block % 2 != 0 ? 0xFFFF0000u : ~0u,
        scale << 16 * (block % 2));
}

void ref_slot_store(const struct ref_slots *s, uint64_t slot, const double *v)
{
    if (s->type != KEPT_FMT_F16) {
        for (uint32_t block = 0; block < s->d / 32; block++)
            store_block(s, slot, block, v + (size_t)32 * block);
        return;
    }
    for (uint32_t i = 0; i < s->d; i++)
        put(s, slot, i / 2, 0xFFFFu << 16 * (i % 2),
            (uint32_t)kept_f32_to_f16((float)v[i]) << 16 * (i % 2));
}

/* ---- Hadamard ---- */

uint32_t ref_hadamard_block(uint32_t d)
{
    return d & (~d + 1u);
}

void ref_hadamard(double *v, uint32_t d)
{
    uint32_t n = ref_hadamard_block(d);
    double f = 1 / sqrt(n);
    for (uint32_t step = 1; step < n; step *= 2)
        for (uint32_t i = 0; i < d; i++)
            if ((i & step) == 0) {
                double a = v[i], b = v[i + step];
                v[i] = a + b;
                v[i + step] = a - b;
            }
    for (uint32_t i = 0; i < d; i++)
        v[i] *= f;
}

/* ---- RoPE ---- */

static int64_t coarse_row(const struct ref_rope *r, int64_t position)
{
    int64_t lo = position & 255;
    return 256 + (int64_t)r->hi_bias + (position - lo) / 256;
}

bool ref_rope_has(const struct ref_rope *r, int64_t position)
{
    int64_t row = coarse_row(r, position);
    if (r->pairs == KEPT_ROPE_NONE)
        return true;
    return row >= 256 && ((uint64_t)row + 1) * r->n_rot * 4 <= r->table_bytes;
}

void ref_rope_angle(const struct ref_rope *r, int64_t position, uint32_t i, double *c, double *s)
{
    size_t half = r->n_rot / 2;
    const float *a = r->table + ((size_t)(position & 255) * half + i) * 2;
    const float *b = r->table + ((size_t)coarse_row(r, position) * half + i) * 2;
    *c = (double)a[0] * b[0] - (double)a[1] * b[1];
    *s = (double)a[0] * b[1] + (double)a[1] * b[0];
}

void ref_rope_pair(const struct ref_rope *r, uint32_t i, uint32_t *a, uint32_t *b)
{
    bool adjacent = r->pairs == KEPT_ROPE_ADJACENT;
    *a = adjacent ? 2 * i : i;
    *b = adjacent ? 2 * i + 1 : i + r->n_rot / 2;
}

void ref_rope_turn(const struct ref_rope *r, int64_t position, double *v)
{
    for (uint32_t i = 0; r->pairs != KEPT_ROPE_NONE && i < r->n_rot / 2; i++) {
        uint32_t at_a, at_b;
        double c, s;
        ref_rope_pair(r, i, &at_a, &at_b);
        ref_rope_angle(r, position, i, &c, &s);
        double a = v[at_a], b = v[at_b];
        v[at_a] = a * c - b * s;
        v[at_b] = a * s + b * c;
    }
}

/* ---- budgeted slots ---- */

struct ref_head ref_head_at(const uint32_t *heads, uint32_t kv_head, uint32_t total)
{
    const uint32_t *h = heads + (size_t)kv_head * KEPT_HEAD_WORDS;
    struct ref_head head = {
        .first = h[KEPT_HEAD_FIRST] < total ? h[KEPT_HEAD_FIRST] : total,
        .cap = h[KEPT_HEAD_CAP],
        .budget = h[KEPT_HEAD_BUDGET],
        .base = h[KEPT_HEAD_BASE],
        .edge = (int32_t)h[KEPT_HEAD_EDGE],
        .shift = (int32_t)h[KEPT_HEAD_SHIFT],
        .scored = h[KEPT_HEAD_SCORED],
        .evicted = h[KEPT_HEAD_EVICTED],
    };
    if (head.cap > total - head.first)
        head.cap = total - head.first;
    return head;
}

uint32_t ref_head_count(const struct ref_head *h, int64_t end)
{
    int64_t since = end > h->edge ? end - h->edge : 0;
    int64_t count = (int64_t)h->base + since;
    return count < h->cap ? (uint32_t)count : h->cap;
}

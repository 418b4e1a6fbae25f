/* tests/unit/test_ref_slots.c: the references' slots against what they must agree with: records of
 * blocks.h, file blocks, the definition of Hadamard, and plain attention. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "kernel/ref/ref.h"
#include "kernel/ref/ref_slots.h"

#define MAX_D 256

static const uint32_t types[] = {KEPT_FMT_F16, KEPT_FMT_Q8_0, KEPT_FMT_Q4_0};
static const uint32_t ds[] = {32, 64, 96, 128, 256};

static double next(uint32_t *rng)
{
    *rng = *rng * 1664525u + 1013904223u;
    return (double)(int32_t)*rng / 2147483648.0;
}

static void fill(uint32_t *rng, double *v, uint32_t d)
{
    for (uint32_t i = 0; i < d; i++)
        v[i] = 3 * next(rng);
}

static void k_tiles_are_records(void **state)
{
    (void)state;
    uint32_t words[2 * 16 * (MAX_D / 2)], rng = 1;
    for (uint32_t t = 0; t < 3; t++)
        for (uint32_t i_d = 0; i_d < 5; i_d++)
            for (uint32_t order = KEPT_LANE; order <= KEPT_VECTOR; order++) {
                uint32_t d = ds[i_d], tile = KEPT_TILE_WORDS(types[t], d);
                struct ref_slots s = {words, types[t], order, d};
                enum kept_format format = (enum kept_format)types[t];
                double v[MAX_D];
                memset(words, 0, sizeof words);
                assert_int_equal(kept_record_of(format, d).n_words, tile);
                for (uint32_t slot = 0; slot < 32; slot++) {
                    fill(&rng, v, d);
                    ref_slot_store(&s, slot, v);
                }
                for (uint32_t slot = 0; slot < 32; slot++) {
                    ref_slot_load(&s, slot, v);
                    for (uint32_t i = 0; i < d; i++)
                        assert_true(v[i] == (double)kept_record_value(
                                                format, (enum kept_order)order,
                                                words + slot / 16 * tile, d, slot % 16, i));
                }
            }
}

/* Element i of slot `slot` of a V store, written from params.h alone. */
static double v_value(const uint32_t *words, uint32_t type, uint32_t d, uint32_t slot, uint32_t i)
{
    uint32_t n_q = KEPT_SLOT_Q(type, d), n_s = KEPT_SLOT_S(type, d), b = i / 32;
    const uint32_t *tile = words + (size_t)(slot / 16) * KEPT_TILE_WORDS(type, d);
    const uint32_t *q = tile + (size_t)(slot % 16) * n_q;
    if (type == KEPT_FMT_F16)
        return kept_f16_to_f32((uint16_t)(q[i / 2] >> 16 * (i % 2)));
    uint32_t scales = tile[16 * n_q + slot % 16 * n_s + b / 2];
    double scale = kept_f16_to_f32((uint16_t)(scales >> 16 * (b % 2)));
    if (type == KEPT_FMT_Q8_0)
        return scale * (int8_t)(uint8_t)(q[i / 4] >> 8 * (i % 4));
    uint32_t word = q[4 * b + i % 16 / 4] >> 8 * (i % 4);
    return scale * ((int)(i % 32 < 16 ? word & 15 : word >> 4 & 15) - 8);
}

static void v_tiles_are_rows(void **state)
{
    (void)state;
    uint32_t words[2 * 16 * (MAX_D / 2)], rng = 2;
    for (uint32_t t = 0; t < 3; t++)
        for (uint32_t i_d = 0; i_d < 5; i_d++) {
            struct ref_slots s = {words, types[t], REF_ROWS, ds[i_d]};
            double v[MAX_D];
            for (uint32_t slot = 0; slot < 32; slot++) {
                fill(&rng, v, s.d);
                ref_slot_store(&s, slot, v);
                for (uint32_t i = 0; i < s.d; i++) { /* near what was stored */
                    double step = s.type == KEPT_FMT_F16    ? 2e-3
                                  : s.type == KEPT_FMT_Q8_0 ? 3.0 / 127
                                                            : 3.0 / 8;
                    assert_true(fabs(v_value(words, s.type, s.d, slot, i) - v[i]) <= step);
                }
            }
            for (uint32_t slot = 0; slot < 32; slot++) {
                ref_slot_load(&s, slot, v);
                for (uint32_t i = 0; i < s.d; i++)
                    assert_true(v[i] == v_value(words, s.type, s.d, slot, i));
            }
        }
}

/* Where the scale is exact in f16 both ways of quantising are the same. */
static void blocks_are_those_of_files(void **state)
{
    (void)state;
    uint32_t rng = 3;
    for (uint32_t round = 0; round < 200; round++) {
        enum kept_format format = round % 2 != 0 ? KEPT_FORMAT_Q8_0 : KEPT_FORMAT_Q4_0;
        double x[32], top = format == KEPT_FORMAT_Q8_0 ? 127.0 / 32 : 8.0 / 2;
        uint32_t words[16 * (8 + 1)] = {0};
        struct ref_slots s = {words, (uint32_t)format, REF_ROWS, 32};
        float f[32], back[32];
        uint8_t block[34], q[32];
        fill(&rng, x, 32);
        x[round % 32] = round % 3 != 0 ? top : -top;
        for (uint32_t i = 0; i < 32; i++)
            x[i] = f[i] = (float)x[i];
        kept_quant_row(format, f, 32, block);
        kept_dequant_row(format, block, 32, back);
        assert_int_equal(kept_f32_to_f16((float)ref_quantise(s.type, x, q)),
                         block[0] | block[1] << 8);
        ref_slot_store(&s, 5, x);
        ref_slot_load(&s, 5, x);
        for (uint32_t i = 0; i < 32; i++)
            assert_true(x[i] == (double)back[i]);
    }
}

static void quantising_takes_anything(void **state)
{
    (void)state;
    double x[32] = {0};
    uint8_t q[32];
    assert_true(ref_quantise(KEPT_FMT_Q8_0, x, q) == 0);
    assert_int_equal(q[0], 0);
    assert_true(ref_quantise(KEPT_FMT_Q4_0, x, q) == 0);
    assert_int_equal(q[31], 8);
    x[3] = 5; /* the first of equals decides the sign */
    x[9] = -5;
    assert_true(ref_quantise(KEPT_FMT_Q4_0, x, q) == -5.0 / 8);
    assert_int_equal(q[3], 0);
    assert_int_equal(q[9], 15);
    x[4] = NAN;
    x[5] = INFINITY;
    for (uint32_t t = 1; t < 3; t++)
        ref_quantise(types[t], x, q);
}

/* v times the matrix of params.h. */
static void by_definition(const double *v, uint32_t d, double *out)
{
    uint32_t n = 1;
    while (d % (2 * n) == 0)
        n *= 2;
    for (uint32_t i = 0; i < d; i++) {
        out[i] = 0;
        for (uint32_t j = 0; j < n; j++) {
            int ones = 0;
            for (uint32_t bits = i % n & j; bits != 0; bits >>= 1)
                ones += bits & 1;
            out[i] += (ones % 2 != 0 ? -1 : 1) * v[i / n * n + j] / sqrt(n);
        }
    }
}

static void hadamard_is_its_own_inverse(void **state)
{
    (void)state;
    uint32_t rng = 4;
    for (uint32_t i_d = 0; i_d < 5; i_d++) {
        double v[MAX_D], turned[MAX_D], want[MAX_D];
        fill(&rng, v, ds[i_d]);
        memcpy(turned, v, sizeof v);
        by_definition(v, ds[i_d], want);
        ref_hadamard(turned, ds[i_d]);
        for (uint32_t i = 0; i < ds[i_d]; i++)
            assert_true(fabs(turned[i] - want[i]) < 1e-12);
        ref_hadamard(turned, ds[i_d]);
        for (uint32_t i = 0; i < ds[i_d]; i++)
            assert_true(fabs(turned[i] - v[i]) < 1e-12);
    }
    assert_int_equal(ref_hadamard_block(96), 32);
}

static void heads_stay_in_their_store(void **state)
{
    (void)state;
    const uint32_t table[2][KEPT_HEAD_WORDS] = {{64, 128, 100, 90, 1000, 7, 1, 5},
                                                {9999, 0xFFFFFFFFu, 0, 3, 0x80000000u, 0, 0, 0}};
    struct ref_head h = ref_head_at(table[0], 0, 192);
    assert_int_equal(h.first, 64);
    assert_int_equal(h.cap, 128);
    assert_int_equal(ref_head_count(&h, 500), 90); /* before EDGE */
    assert_int_equal(ref_head_count(&h, 1000), 90);
    assert_int_equal(ref_head_count(&h, 1020), 110);
    assert_int_equal(ref_head_count(&h, 5000), 128);
    h = ref_head_at(table[0], 1, 192);
    assert_int_equal(h.first, 192);
    assert_int_equal(h.cap, 0);
    assert_int_equal(ref_head_count(&h, 5000), 0);
}

/* ---- writing and attending ---- */

#define N_TOKENS 20u
#define N_HEAD   2u
#define D        64u
#define TOTAL    192u
#define WIDTH    ((N_HEAD + 2) * D)

struct store {
    float qkv[N_TOKENS][WIDTH], original[N_TOKENS][WIDTH], out[N_TOKENS][KEPT_ACT_STRIDE(128u)];
    uint32_t k[TOTAL * D / 2], v[TOTAL * D / 2], meta[3 * TOTAL], heads[KEPT_HEAD_WORDS];
    uint32_t step[KEPT_STEP_TOKENS + 2 * N_TOKENS];
};

/* One KV head in slots 64 … 191: three kept slots without weight, then tokens from position 5. */
static void prepare(struct store *s, uint32_t seed)
{
    memset(s, 0, sizeof *s);
    const uint32_t head[KEPT_HEAD_WORDS] = {64, 128, 100, 3, 5};
    memcpy(s->heads, head, sizeof head);
    for (uint32_t t = 0; t < N_TOKENS; t++) {
        for (uint32_t i = 0; i < WIDTH; i++)
            s->qkv[t][i] = (float)(2 * next(&seed));
        s->step[KEPT_STEP_TOKENS + N_TOKENS + t] = 5 + t;
    }
    memcpy(s->original, s->qkv, sizeof s->qkv);
    s->step[KEPT_STEP_ROWS] = N_TOKENS;
    for (uint32_t i = 0; i < 3; i++) {
        float bias = -1e30f;
        memcpy(&s->meta[REF_BIAS(TOTAL, 64 + i)], &bias, 4);
        s->meta[REF_UNTIL(TOTAL, 64 + i)] = INT32_MAX;
    }
}

static void write_rows(struct store *s, uint32_t type, uint32_t store)
{
    const struct kept_slot_write_params w = {.row_cap = N_TOKENS,
                                             .chunk = N_TOKENS,
                                             .n_head = N_HEAD,
                                             .n_kv = 1,
                                             .d = D,
                                             .qkv_stride = WIDTH,
                                             .cap = TOTAL,
                                             .q_scale = 0.125f};
    const uint32_t w_keys[KEPT_MAX_KEYS] = {32, KEPT_LANE, 0, 0, type, type, store};
    struct kept_host_call call = {.keys = w_keys, .params = &w};
    void *w_bind[] = {s->qkv, s->qkv,   s->qkv,  s->qkv, s->qkv, s->k,
                      s->v,   s->heads, s->meta, s->qkv, s->step};
    for (int i = 0; i < 11; i++)
        call.bind[i] = w_bind[i];
    ref_slot_write(&call);
}

/* The queries of `from` attend the slots of s. */
static void attend(kept_reference_fn kernel, struct store *from, struct store *s,
                   const uint32_t *keys, uint32_t part_first, void *out)
{
    const struct kept_attn_params a = {.row_cap = N_TOKENS,
                                       .chunk = N_TOKENS,
                                       .n_head = N_HEAD,
                                       .n_kv = 1,
                                       .d = D,
                                       .q_stride = WIDTH,
                                       .cap = TOTAL,
                                       .n_splits = 1,
                                       .parts = 2,
                                       .part_first = part_first,
                                       .out_stride = KEPT_ACT_STRIDE(128u)};
    struct kept_host_call call = {.keys = keys, .params = &a};
    void *bind[] = {from->qkv, s->k, s->v, s->meta, s->heads, out, from->step};
    for (int i = 0; i < 7; i++)
        call.bind[i] = bind[i];
    kernel(&call);
}

static void run(struct store *s, uint32_t type, uint32_t store)
{
    const uint32_t keys[KEPT_MAX_KEYS] = {64, KEPT_LANE, D, 1, store, type, type, 8};
    write_rows(s, type, store);
    attend(ref_attn_prefill, s, s, keys, 0, s->out);
}

/* Causal attention of the original q, k and v. */
static void plain(const struct store *s, uint32_t row, uint32_t head, double *out)
{
    double w[N_TOKENS], l = 0;
    memset(out, 0, D * sizeof *out);
    for (uint32_t t = 0; t <= row; t++) {
        double score = 0;
        for (uint32_t i = 0; i < D; i++)
            score += 0.125 * s->original[row][head * D + i] * s->original[t][N_HEAD * D + i];
        w[t] = exp(score);
        l += w[t];
    }
    for (uint32_t t = 0; t <= row; t++)
        for (uint32_t i = 0; i < D; i++)
            out[i] += w[t] / l * s->original[t][(N_HEAD + 1) * D + i];
}

static void written_slots_attend_as_plain_ones(void **state)
{
    (void)state;
    static struct store s;
    const double tolerance[] = {4e-3, 4e-2, 0.6}; /* a few steps of each type */
    for (uint32_t t = 0; t < 3; t++)
        for (uint32_t store = KEPT_SLOTS_PLAIN; store <= KEPT_SLOTS_RULE; store++) {
            double worst = 0, out[D];
            prepare(&s, 11);
            if (store == KEPT_SLOTS_PLAIN) /* positions from 0 on */
                for (uint32_t i = 0; i < N_TOKENS; i++)
                    s.step[KEPT_STEP_TOKENS + N_TOKENS + i] = i;
            run(&s, types[t], store);
            for (uint32_t row = 0; row < N_TOKENS; row++)
                for (uint32_t head = 0; head < N_HEAD; head++) {
                    plain(&s, row, head, out);
                    for (uint32_t i = 0; i < D; i++)
                        worst = fmax(worst, fabs(out[i] - s.out[row][head * D + i]));
                }
            assert_true(worst < tolerance[t]);
            if (store != KEPT_SLOTS_PLAIN) {
                assert_int_equal(s.meta[REF_POS(TOTAL, 64 + 3)], 5);
                assert_int_equal(s.meta[REF_POS(TOTAL, 64 + 22)], 24);
            }
        }
}

/* ---- two segments ---- */

struct facts {
    struct store s;
    float part[N_TOKENS][N_HEAD][2][D + 4], merged[N_TOKENS][KEPT_ACT_STRIDE(128u)];
};

/* n slots that every query sees, written at positions -n … -1 of an empty head. */
static void prepare_facts(struct facts *f, uint32_t type, uint32_t n)
{
    const uint32_t head[KEPT_HEAD_WORDS] = {64, 128, 100, 0, 0u - n};
    prepare(&f->s, 12);
    memcpy(f->s.heads, head, sizeof head);
    f->s.step[KEPT_STEP_ROWS] = n;
    for (uint32_t i = 0; i < n; i++)
        f->s.step[KEPT_STEP_TOKENS + N_TOKENS + i] = i - n;
    write_rows(&f->s, type, KEPT_SLOTS_BUDGETED);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(f->s.meta[REF_POS(TOTAL, 64 + i)], i - n);
    f->s.heads[KEPT_HEAD_BASE] = n;
    f->s.heads[KEPT_HEAD_EDGE] = INT32_MAX;
}

/* The queries of s over its own slots (prefill) and over the facts, then merged. */
static void run_both(struct store *s, struct facts *f, uint32_t type, kept_reference_fn second)
{
    const uint32_t keys[KEPT_MAX_KEYS] = {64,   KEPT_LANE, D, 1, KEPT_SLOTS_BUDGETED,
                                          type, type,      8, 1};
    const uint32_t m_keys[] = {64, type != KEPT_FMT_F16};
    const struct kept_merge_params m = {.row_cap = N_TOKENS,
                                        .n_head = N_HEAD,
                                        .d = D,
                                        .parts = 2,
                                        .out_stride = KEPT_ACT_STRIDE(128u)};
    struct kept_host_call call = {.keys = m_keys, .params = &m};
    void *bind[] = {f->part, f->merged, s->step};
    attend(ref_attn_prefill, s, s, keys, 0, f->part);
    attend(second, s, &f->s, keys, 1, f->part);
    for (int i = 0; i < 3; i++)
        call.bind[i] = bind[i];
    ref_attn_merge(&call);
}

/* Attention of the original q, k and v, the n facts before the tokens. */
static void plain_both(const struct store *s, const struct store *facts, uint32_t n, uint32_t row,
                       uint32_t head, double *out)
{
    double l = 0;
    memset(out, 0, D * sizeof *out);
    for (uint32_t t = 0; t < n + row + 1; t++) {
        const float *from = t < n ? facts->original[t] : s->original[t - n];
        double score = 0;
        for (uint32_t i = 0; i < D; i++)
            score += 0.125 * s->original[row][head * D + i] * from[N_HEAD * D + i];
        l += exp(score);
        for (uint32_t i = 0; i < D; i++)
            out[i] += exp(score) * from[(N_HEAD + 1) * D + i];
    }
    for (uint32_t i = 0; i < D; i++)
        out[i] /= l;
}

static void parts_of_two_segments_merge(void **state)
{
    (void)state;
    static struct store s;
    static struct facts f;
    const double tolerance[] = {4e-3, 4e-2, 0.6}; /* as above */
    const kept_reference_fn second[] = {ref_attn_decode, ref_attn_prefill};
    for (uint32_t t = 0; t < 3; t++)
        for (uint32_t n = 0; n <= 17; n += 17) {
            double worst = 0, alone = 0, out[D];
            prepare(&s, 11);
            run(&s, types[t], KEPT_SLOTS_BUDGETED);
            prepare_facts(&f, types[t], n);
            run_both(&s, &f, types[t], second[t % 2]);
            for (uint32_t i = 0; i < N_TOKENS * N_HEAD * D; i++) {
                uint32_t row = i / (N_HEAD * D), at = i % (N_HEAD * D);
                if (at % D == 0)
                    plain_both(&s, &f.s, n, row, at / D, out);
                worst = fmax(worst, fabs(out[at % D] - f.merged[row][at]));
                alone = fmax(alone, fabs(s.out[row][at] - f.merged[row][at]));
            }
            assert_true(worst < tolerance[t]);
            assert_true(n != 0 || alone < 1e-6);
            if (n == 0)
                assert_true(f.part[3][1][1][0] == -INFINITY && f.part[3][1][1][1] == 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(k_tiles_are_records),
        cmocka_unit_test(v_tiles_are_rows),
        cmocka_unit_test(blocks_are_those_of_files),
        cmocka_unit_test(quantising_takes_anything),
        cmocka_unit_test(hadamard_is_its_own_inverse),
        cmocka_unit_test(heads_stay_in_their_store),
        cmocka_unit_test(written_slots_attend_as_plain_ones),
        cmocka_unit_test(parts_of_two_segments_merge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

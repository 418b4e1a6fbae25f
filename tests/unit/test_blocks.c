/* tests/unit/test_blocks.c: formats, file blocks to f32, and records.
 *
 * Dequantisation is compared with values of the gguf Python package (data/blocks.bin, made by
 * tests/golden/blocks.py), bit by bit. Records are compared element by element through two
 * implementations that share no code, over random block bytes, so every bit of every field takes
 * both values.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/alloc.h"
#include "base/half.h"
#include "kernel/blocks.h"

static uint64_t random_state = 88172645463325252u;

static uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static uint32_t smallest_k(enum kept_format format)
{
    uint32_t elems = kept_format_block_elems(format);
    return elems > 32 ? elems : 32;
}

static void test_format_table(void **state)
{
    (void)state;
    assert_string_equal(kept_format_name(KEPT_FORMAT_Q4_K), "Q4_K");
    assert_string_equal(kept_format_name(KEPT_FORMAT_COUNT), "unknown");
    assert_int_equal(kept_format_from_ggml(14), KEPT_FORMAT_Q6_K);
    assert_int_equal(kept_format_from_ggml(30), KEPT_FORMAT_BF16);
    assert_int_equal(kept_format_from_ggml(9999), KEPT_FORMAT_COUNT);
    assert_int_equal(kept_format_row_bytes(KEPT_FORMAT_Q4_1, 576), 576 / 32 * 20);
    assert_true(kept_format_k_valid(KEPT_FORMAT_F32, 32));
    assert_false(kept_format_k_valid(KEPT_FORMAT_F32, 0));
    assert_false(kept_format_k_valid(KEPT_FORMAT_F16, 33));
    assert_false(kept_format_k_valid(KEPT_FORMAT_Q4_K, 128));
    assert_true(kept_format_k_valid(KEPT_FORMAT_Q8_0, 1u << 24));
    assert_false(kept_format_k_valid(KEPT_FORMAT_Q8_0, ((uint64_t)1 << 32) + 32));
}

/* Planes follow each other without gaps; the bytes are the file's, but for one half per odd row of
 * halves. */
static void test_record_sizes(void **state)
{
    (void)state;
    for (int f = 0; f < KEPT_FORMAT_COUNT; f++) {
        for (uint32_t n = 1; n <= 5; n++) {
            uint32_t k = n * smallest_k(f);
            struct kept_record rec = kept_record_of(f, k);
            const struct kept_plane *planes[] = {&rec.q, &rec.h, &rec.s, &rec.d};
            uint32_t n_words = 0;
            for (int i = 0; i < 4; i++) {
                assert_int_equal(planes[i]->offset_words, n_words);
                n_words += planes[i]->n_groups * planes[i]->group_words * KEPT_TILE_ROWS;
            }
            assert_int_equal(rec.n_words, n_words);
            assert_int_equal(rec.n_words * 4 % KEPT_RECORD_ALIGN_BYTES, 0);
            uint64_t file_bytes = kept_format_row_bytes(f, k) * KEPT_TILE_ROWS;
            uint64_t extra = n_words * 4 - file_bytes;
            assert_true(extra == 0 || (extra == 2 * KEPT_TILE_ROWS && n % 2 == 1));
            assert_int_equal(kept_relaid_bytes(f, 0, k), 0);
            assert_int_equal(kept_relaid_bytes(f, 17, k), 2 * 4 * (uint64_t)n_words);
        }
    }
}

static void check_relay(enum kept_format format, enum kept_order order, uint32_t n_rows, uint32_t k)
{
    size_t row_bytes = (size_t)kept_format_row_bytes(format, k);
    uint32_t n_words = kept_record_of(format, k).n_words;
    uint8_t *rows = malloc(row_bytes * n_rows + 1); /* exact: the sanitizer sees a read past it */
    uint32_t *record = malloc((n_words + 1) * sizeof *record);
    float *want = malloc(k * sizeof *want), *got = malloc(k * sizeof *got);
    for (size_t i = 0; i < row_bytes * n_rows; i++)
        rows[i] = (uint8_t)random_u32();
    memset(record, 0xA5, (n_words + 1) * sizeof *record);
    record[n_words] = 0xDEADBEEF;
    kept_relay_tile(format, order, rows, n_rows, k, record);
    assert_int_equal(record[n_words], 0xDEADBEEF);
    for (uint32_t r = 0; r < KEPT_TILE_ROWS; r++) {
        if (r < n_rows)
            kept_dequant_row(format, rows + r * row_bytes, k, want);
        kept_record_row(format, order, record, k, r, got);
        for (uint32_t i = 0; i < k; i++) {
            float value = kept_record_value(format, order, record, k, r, i);
            if (!same_bits(value, got[i]) || (r < n_rows && !same_bits(value, want[i])))
                fail_msg("%s order %d K %u row %u element %u: file %.9g, row %.9g, value %.9g",
                         kept_format_name(format), (int)order, k, r, i,
                         r < n_rows ? (double)want[i] : 0.0, (double)got[i], (double)value);
            if (r >= n_rows)
                assert_true(value == 0.0f);
        }
    }
    free(rows);
    free(record);
    free(want);
    free(got);
}

static void test_relay(void **state)
{
    (void)state;
    static const uint32_t n_rows[] = {16, 1, 7, 15};
    for (int f = 0; f < KEPT_FORMAT_COUNT; f++)
        for (int order = 0; order < 2; order++)
            for (uint32_t n = 1; n <= 4; n++)
                check_relay(f, order, n_rows[n - 1], n * smallest_k(f));
}

/* One element set in an otherwise zero row appears at its own place only: catches permutations
 * that the comparison of two decoders cannot, because here the expected index is known. */
static void test_dequant_places(void **state)
{
    (void)state;
    for (int f = 0; f < KEPT_FORMAT_COUNT; f++) {
        uint32_t k = smallest_k(f);
        uint8_t row[256 * 4];
        float x[256], y[256];
        for (uint32_t i = 0; i < k; i++) {
            memset(x, 0, sizeof x);
            x[i] = 1.0f;
            kept_quant_row(f, x, k, row);
            kept_dequant_row(f, row, k, y);
            for (uint32_t j = 0; j < k; j++)
                assert_true(fabsf(y[j] - x[j]) < 0.05f);
        }
    }
}

/* The error of a random row stays within the step of the format; steps are what the block's range
 * divided by its levels gives, doubled for the rounding of stored scales. */
static void test_quant_error(void **state)
{
    (void)state;
    static const float limits[KEPT_FORMAT_COUNT] = {
        [KEPT_FORMAT_F32] = 0.0f,    [KEPT_FORMAT_F16] = 0.0005f, [KEPT_FORMAT_BF16] = 0.004f,
        [KEPT_FORMAT_Q4_0] = 0.13f,  [KEPT_FORMAT_Q4_1] = 0.07f,  [KEPT_FORMAT_Q5_0] = 0.065f,
        [KEPT_FORMAT_Q5_1] = 0.035f, [KEPT_FORMAT_Q8_0] = 0.005f, [KEPT_FORMAT_Q4_K] = 0.1f,
        [KEPT_FORMAT_Q5_K] = 0.07f,  [KEPT_FORMAT_Q6_K] = 0.036f,
    };
    for (int f = 0; f < KEPT_FORMAT_COUNT; f++) {
        uint8_t row[256 * 4];
        float x[256], y[256];
        for (int round = 0; round < 20; round++) {
            for (int i = 0; i < 256; i++)
                x[i] = (float)(random_u32() & 0xFFFF) / 32768.0f - 1.0f;
            kept_quant_row(f, x, 256, row);
            kept_dequant_row(f, row, 256, y);
            for (int i = 0; i < 256; i++)
                if (!(fabsf(x[i] - y[i]) <= limits[f]))
                    fail_msg("%s: %g became %g", kept_format_name(f), (double)x[i], (double)y[i]);
        }
    }
}

/* Any input gives a block; the sanitizers watch. */
static void test_quant_hostile(void **state)
{
    (void)state;
    static const float values[] = {INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f, 0.0f};
    for (int f = 0; f < KEPT_FORMAT_COUNT; f++) {
        uint8_t row[256 * 4 + 1];
        float x[256], y[256];
        uint32_t used = (uint32_t)kept_format_row_bytes(f, 256);
        for (int i = 0; i < 256; i++)
            x[i] = values[random_u32() % 7];
        row[used] = 0x5A;
        kept_quant_row(f, x, 256, row);
        assert_int_equal(row[used], 0x5A);
        kept_dequant_row(f, row, 256, y);
    }
}

/* data/blocks.bin: per format u32 ggml_type, u32 n_elems, the block bytes, n_elems f32. */
static void test_dequant_golden(void **state)
{
    (void)state;
    char path[1024];
    char *bytes;
    size_t n_bytes;
    struct kept_error err;
    snprintf(path, sizeof path, "%s/tests/unit/data/blocks.bin", getenv("KEPT_SOURCE_DIR"));
    if (kept_file_load(path, 1 << 20, &bytes, &n_bytes, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    size_t at = 0;
    int n_formats = 0;
    while (at < n_bytes) {
        uint32_t head[2];
        memcpy(head, bytes + at, sizeof head);
        at += sizeof head;
        enum kept_format format = kept_format_from_ggml(head[0]);
        assert_int_not_equal(format, KEPT_FORMAT_COUNT);
        size_t row_bytes = (size_t)kept_format_row_bytes(format, head[1]);
        assert_true(at + row_bytes + head[1] * sizeof(float) <= n_bytes);
        float *got = malloc(head[1] * sizeof *got);
        kept_dequant_row(format, (const uint8_t *)bytes + at, head[1], got);
        at += row_bytes;
        for (uint32_t i = 0; i < head[1]; i++, at += sizeof(float)) {
            float want;
            memcpy(&want, bytes + at, sizeof want);
            if (!same_bits(want, got[i]))
                fail_msg("%s element %u: gguf has %.9g, got %.9g", kept_format_name(format), i,
                         (double)want, (double)got[i]);
        }
        free(got);
        n_formats++;
    }
    assert_int_equal(n_formats, KEPT_FORMAT_COUNT);
    kept_free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_table),   cmocka_unit_test(test_record_sizes),
        cmocka_unit_test(test_relay),          cmocka_unit_test(test_dequant_places),
        cmocka_unit_test(test_quant_error),    cmocka_unit_test(test_quant_hostile),
        cmocka_unit_test(test_dequant_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

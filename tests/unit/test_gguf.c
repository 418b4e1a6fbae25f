/* tests/unit/test_gguf.c: the GGUF reader over headers made here, good and hostile.
 *
 * A small builder writes headers field by field, so that each test damages exactly one of them.
 * Inputs are handed over in blocks of their exact size: under the address sanitizer a read of
 * one byte too many is a failure.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"
#include "formats/gguf.h"

/* ---- the builder ---- */

static void put_u32(struct kept_strbuf *b, uint32_t v)
{
    kept_strbuf_add(b, &v, sizeof v);
}

static void put_u64(struct kept_strbuf *b, uint64_t v)
{
    kept_strbuf_add(b, &v, sizeof v);
}

static void put_text(struct kept_strbuf *b, const char *text)
{
    put_u64(b, strlen(text));
    kept_strbuf_puts(b, text);
}

static void put_head(struct kept_strbuf *b, uint64_t n_tensors, uint64_t n_values)
{
    kept_strbuf_puts(b, "GGUF");
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, n_values);
}

static void put_value_u32(struct kept_strbuf *b, const char *key, uint32_t value)
{
    put_text(b, key);
    put_u32(b, KEPT_GGUF_U32);
    put_u32(b, value);
}

static void put_tensor(struct kept_strbuf *b, const char *name, uint64_t k, uint64_t rows,
                       uint32_t ggml_type, uint64_t offset)
{
    put_text(b, name);
    put_u32(b, 2);
    put_u64(b, k);
    put_u64(b, rows);
    put_u32(b, ggml_type);
    put_u64(b, offset);
}

static void pad(struct kept_strbuf *b, size_t alignment)
{
    while (b->n_bytes % alignment != 0)
        kept_strbuf_add(b, "", 1);
}

/* One value of every kind and two tensors of 32 x 2: Q8_0 (68 bytes) at 0 and F32 (256 bytes)
 * at 96. */
static void put_sample(struct kept_strbuf *b)
{
    static const int16_t shorts[] = {-1, 300, -32768};
    double pi = 3.25;
    float half = 0.5f;
    int64_t minus = -5;
    put_head(b, 2, 8);
    put_text(b, "general.architecture");
    put_u32(b, KEPT_GGUF_STRING);
    put_text(b, "llama");
    put_value_u32(b, "llama.block_count", 30);
    put_text(b, "a.f64");
    put_u32(b, KEPT_GGUF_F64);
    kept_strbuf_add(b, &pi, sizeof pi);
    put_text(b, "a.f32");
    put_u32(b, KEPT_GGUF_F32);
    kept_strbuf_add(b, &half, sizeof half);
    put_text(b, "a.i64");
    put_u32(b, KEPT_GGUF_I64);
    kept_strbuf_add(b, &minus, sizeof minus);
    put_text(b, "a.bool");
    put_u32(b, KEPT_GGUF_BOOL);
    kept_strbuf_add(b, "\1", 1);
    put_text(b, "a.shorts");
    put_u32(b, KEPT_GGUF_ARRAY);
    put_u32(b, KEPT_GGUF_I16);
    put_u64(b, 3);
    kept_strbuf_add(b, shorts, sizeof shorts);
    put_text(b, "a.texts");
    put_u32(b, KEPT_GGUF_ARRAY);
    put_u32(b, KEPT_GGUF_STRING);
    put_u64(b, 3);
    put_text(b, "one");
    put_text(b, "");
    put_text(b, "three");
    put_tensor(b, "first.weight", 32, 2, 8, 0);
    put_tensor(b, "second.weight", 32, 2, 0, 96);
    pad(b, 32);
    for (int i = 0; i < 96 + 256; i++)
        kept_strbuf_add(b, "x", 1);
}

/* ---- checks ---- */

/* Parses the first n_bytes of a file of file_bytes; whatever comes back is walked and freed. */
static kept_status parse(const char *bytes, size_t n_bytes, uint64_t file_bytes,
                         struct kept_error *err)
{
    struct kept_gguf *gguf;
    uint8_t *exact = malloc(n_bytes + 1);
    uint8_t *at = exact + 1; /* unaligned on purpose */
    memcpy(at, bytes, n_bytes);
    kept_status status = kept_gguf_parse(at, n_bytes, file_bytes, &gguf, err);
    free(exact);
    if (status == KEPT_OK) {
        for (uint64_t i = 0; i < kept_gguf_n_values(gguf); i++) {
            const struct kept_gguf_value *value = kept_gguf_value_at(gguf, i);
            assert_true(value->key.n_bytes != 0);
            if (value->type == KEPT_GGUF_ARRAY) {
                double x;
                uint64_t n = value->as.array.n;
                bool number = value->as.array.texts == NULL;
                assert_int_equal(n != 0 && kept_gguf_array_f64(&value->as.array, n - 1, &x),
                                 n != 0 && number);
            }
        }
        for (uint64_t i = 0; i < kept_gguf_n_tensors(gguf); i++) {
            const struct kept_gguf_tensor *tensor = kept_gguf_tensor_at(gguf, i);
            assert_ptr_equal(kept_gguf_find_tensor(gguf, tensor->name), tensor);
            assert_true(tensor->offset_bytes + tensor->n_bytes <= file_bytes);
        }
    } else {
        assert_null(gguf);
    }
    kept_gguf_close(&gguf);
    return status;
}

/* The whole buffer is the file; it is refused with this text in the message. */
static void refused_as(struct kept_strbuf *b, kept_status want, const char *text)
{
    struct kept_error err = {0};
    kept_status status = parse(b->text, b->n_bytes, b->n_bytes, &err);
    if (status != want || strstr(err.message, text) == NULL)
        fail_msg("wanted %s with '%s', got %s: %s", kept_status_name(want), text,
                 kept_status_name(status), err.message);
    kept_strbuf_finish(b);
}

static void refused(struct kept_strbuf *b, const char *text)
{
    refused_as(b, KEPT_E_FORMAT, text);
}

static void test_sample(void **state)
{
    (void)state;
    struct kept_strbuf b = {0};
    struct kept_gguf *gguf;
    struct kept_error err;
    uint64_t u;
    double f;
    int64_t i;
    bool yes = false;
    struct kept_text text;
    put_sample(&b);
    assert_int_equal(kept_gguf_parse(b.text, b.n_bytes, b.n_bytes, &gguf, &err), KEPT_OK);
    assert_int_equal(kept_gguf_version(gguf), 3);
    assert_null(kept_gguf_file(gguf));
    assert_int_equal(kept_gguf_n_values(gguf), 8);
    assert_null(kept_gguf_value_at(gguf, 8));
    assert_true(kept_gguf_text(gguf, "general.architecture", &text));
    assert_int_equal(text.n_bytes, 5);
    assert_memory_equal(text.bytes, "llama", 5);
    assert_true(kept_gguf_u64(gguf, "llama.block_count", &u) && u == 30);
    assert_true(kept_gguf_f64(gguf, "llama.block_count", &f) && f == 30.0);
    assert_true(kept_gguf_f64(gguf, "a.f64", &f) && f == 3.25);
    assert_true(kept_gguf_f64(gguf, "a.f32", &f) && f == 0.5);
    assert_true(kept_gguf_f64(gguf, "a.i64", &f) && f == -5.0);
    assert_false(kept_gguf_u64(gguf, "a.i64", &u));
    assert_false(kept_gguf_u64(gguf, "a.f32", &u));
    assert_false(kept_gguf_u64(gguf, "absent", &u));
    assert_false(kept_gguf_text(gguf, "a.f32", &text));
    assert_true(kept_gguf_bool(gguf, "a.bool", &yes) && yes);
    assert_false(kept_gguf_u64(gguf, "a.bool", &u));
    const struct kept_gguf_array *array = &kept_gguf_find(gguf, "a.shorts")->as.array;
    assert_true(kept_gguf_array_i64(array, 2, &i) && i == -32768);
    assert_true(kept_gguf_array_f64(array, 1, &f) && f == 300.0);
    assert_false(kept_gguf_array_i64(array, 3, &i));
    array = &kept_gguf_find(gguf, "a.texts")->as.array;
    assert_int_equal(array->n, 3);
    assert_int_equal(array->texts[1].n_bytes, 0);
    assert_memory_equal(array->texts[2].bytes, "three", 5);
    assert_false(kept_gguf_array_i64(array, 0, &i));
    const struct kept_gguf_tensor *tensor = kept_gguf_find_tensor(gguf, "second.weight");
    assert_int_equal(tensor->format, KEPT_FORMAT_F32);
    assert_int_equal(tensor->n_bytes, 256);
    assert_int_equal(tensor->offset_bytes + tensor->n_bytes, b.n_bytes);
    assert_int_equal(tensor->dims[2], 1);
    assert_null(kept_gguf_find_tensor(gguf, "third.weight"));
    uint64_t hash = kept_gguf_header_hash(gguf), header = kept_gguf_header_bytes(gguf);
    kept_gguf_close(&gguf);
    /* The header alone, of a larger file: the same tables, another identity. */
    assert_int_equal(kept_gguf_parse(b.text, (size_t)header, b.n_bytes + 1, &gguf, &err), KEPT_OK);
    assert_true(kept_gguf_header_hash(gguf) != hash);
    kept_gguf_close(&gguf);
    kept_strbuf_finish(&b);
}

/* Every shorter file and every shorter prefix is refused. */
static void test_truncated(void **state)
{
    (void)state;
    struct kept_strbuf b = {0};
    struct kept_error err;
    put_sample(&b);
    size_t header = b.n_bytes - 96 - 256;
    for (size_t n = 0; n < b.n_bytes; n++) {
        assert_int_equal(parse(b.text, n, n, &err), KEPT_E_FORMAT);
        assert_non_null(strstr(err.message, "byte"));
    }
    for (size_t n = 0; n < header - 32; n++)
        assert_int_equal(parse(b.text, n, b.n_bytes, &err), KEPT_E_FORMAT);
    assert_int_equal(parse(b.text, b.n_bytes, b.n_bytes, &err), KEPT_OK);
    kept_strbuf_finish(&b);
}

/* Every bit flipped, and every byte set to its extremes: refused or read, never a fault. */
static void test_flips(void **state)
{
    (void)state;
    struct kept_strbuf b = {0};
    struct kept_error err;
    int n_refused = 0;
    put_sample(&b);
    size_t header = b.n_bytes - 96 - 256;
    for (size_t at = 0; at < header; at++) {
        char before = b.text[at];
        for (int bit = 0; bit < 10; bit++) {
            b.text[at] = bit < 8 ? (char)(before ^ 1 << bit) : bit == 8 ? 0 : (char)0xFF;
            n_refused += parse(b.text, b.n_bytes, b.n_bytes, &err) != KEPT_OK;
        }
        b.text[at] = before;
    }
    assert_true(n_refused > 1000);
    kept_strbuf_finish(&b);
}

static void test_bad_counts(void **state)
{
    (void)state;
    struct kept_strbuf b = {0};
    kept_strbuf_puts(&b, "GGML0123456789");
    refused(&b, "47 47 4d 4c");
    kept_strbuf_puts(&b, "GGUF");
    put_u32(&b, 1);
    refused_as(&b, KEPT_E_UNSUPPORTED, "version 1");
    kept_strbuf_puts(&b, "GGUF");
    put_u32(&b, 0x03000000);
    refused_as(&b, KEPT_E_UNSUPPORTED, "big-endian");
    put_head(&b, UINT64_MAX, 0);
    refused(&b, "18446744073709551615 tensors");
    put_head(&b, 0, UINT64_MAX);
    refused(&b, "18446744073709551615 metadata values");
    put_head(&b, 0, 1000000);
    refused(&b, "the metadata has 1000000 elements");
    put_head(&b, 1000000, 0);
    refused(&b, "the tensor directory has 1000000 elements");
}

static void test_bad_values(void **state)
{
    (void)state;
    struct kept_strbuf b = {0};
    put_head(&b, 0, 1);
    put_text(&b, "");
    put_u64(&b, 0);
    refused(&b, "the key has 0 bytes");
    put_head(&b, 0, 1);
    put_u64(&b, UINT64_MAX - 3);
    put_u64(&b, 0);
    refused(&b, "the key has 18446744073709551612 bytes");
    put_head(&b, 0, 1);
    put_text(&b, "key");
    put_u32(&b, 13);
    put_u64(&b, 0);
    refused(&b, "value 0 'key', byte 39: the value type is 13");
    put_head(&b, 0, 1);
    put_text(&b, "key");
    put_u32(&b, KEPT_GGUF_STRING);
    put_u64(&b, UINT64_MAX);
    refused(&b, "the string needs 18446744073709551615 bytes");
    put_head(&b, 0, 1);
    put_text(&b, "key");
    put_u32(&b, KEPT_GGUF_BOOL);
    kept_strbuf_add(&b, "\2", 1);
    refused(&b, "the boolean is 2");
    put_head(&b, 0, 2);
    put_value_u32(&b, "twice", 1);
    put_value_u32(&b, "twice", 2);
    refused(&b, "value 0 has the same key");
    put_head(&b, 0, 1);
    put_text(&b, "a\x1b[2J\xff");
    put_u32(&b, 99);
    put_u64(&b, 0);
    refused(&b, "'a?[2J?'");
}

static void test_bad_arrays(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        uint64_t n;
        const char *text;
    } cases[] = {
        {KEPT_GGUF_ARRAY, 1, "arrays of arrays"},
        {KEPT_GGUF_U64, UINT64_MAX / 8 + 2, "the array has 2305843009213693953 elements"},
        {KEPT_GGUF_U8, UINT64_MAX, "the array needs 18446744073709551615 bytes"},
        {KEPT_GGUF_STRING, UINT64_MAX / 8 + 2, "of at least 8 bytes"},
        {KEPT_GGUF_STRING, 3, "a string in the array needs 8 bytes"},
        {77, 0, "the element type is 77"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct kept_strbuf b = {0};
        put_head(&b, 0, 1);
        put_text(&b, "list");
        put_u32(&b, KEPT_GGUF_ARRAY);
        put_u32(&b, cases[i].type);
        put_u64(&b, cases[i].n);
        put_text(&b, "a text of some length");
        refused(&b, cases[i].text);
    }
}

static void test_bad_alignment(void **state)
{
    (void)state;
    static const uint32_t alignments[] = {0, 3, 48, 131072, UINT32_MAX};
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
        struct kept_strbuf b = {0};
        put_head(&b, 0, 1);
        put_value_u32(&b, "general.alignment", alignments[i]);
        refused(&b, "powers of two up to 65536");
    }
    struct kept_strbuf b = {0};
    struct kept_error err;
    put_head(&b, 1, 1);
    put_value_u32(&b, "general.alignment", 4096);
    put_tensor(&b, "t", 32, 1, 8, 0);
    pad(&b, 4096);
    for (int i = 0; i < 34; i++)
        kept_strbuf_add(&b, "x", 1);
    assert_int_equal(parse(b.text, b.n_bytes, b.n_bytes, &err), KEPT_OK);
    kept_strbuf_finish(&b);
}

static void test_bad_tensors(void **state)
{
    (void)state;
    static const struct {
        uint64_t k, rows;
        uint32_t type;
        uint64_t offset;
        const char *text;
    } cases[] = {
        {32, 2, 8, 64, "tensor 'blk.0.x' ends at byte 228, the file has 224"},
        {32, 1, 8, 5, "not aligned"},
        {33, 1, 8, 0, "not whole blocks (row, block): 33, 32"},
        {0, 1, 8, 0, "dimension 0 is 0"},
        {32, 0, 0, 0, "dimension 1 is 0"},
        {(uint64_t)1 << 62, 4, 0, 0, "2^63 elements"},
        {(uint64_t)1 << 61, 2, 0, 0, "larger than any file"},
        {(uint64_t)1 << 40, 1, 0, 0, "ends at byte 4398046511200, the file has 224"},
        {32, 1, 8, UINT64_MAX - 31, "begins past the end"},
        {32, 1, 4711, (uint64_t)1 << 40, "begins past the end"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct kept_strbuf b = {0};
        put_head(&b, 1, 0);
        put_tensor(&b, "blk.0.x", cases[i].k, cases[i].rows, cases[i].type, cases[i].offset);
        pad(&b, 32);
        for (int j = 0; j < 128; j++)
            kept_strbuf_add(&b, "x", 1);
        refused(&b, cases[i].text);
    }
}

static void test_bad_directory(void **state)
{
    (void)state;
    struct kept_strbuf b = {0};
    put_head(&b, 2, 0);
    put_tensor(&b, "twin", 32, 1, 8, 0);
    put_tensor(&b, "twin", 32, 1, 8, 0);
    refused(&b, "tensor 0 has the same name");
    static const uint32_t n_dims[] = {0, 5, UINT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        put_head(&b, 1, 0);
        put_text(&b, "t");
        put_u32(&b, n_dims[i]);
        for (int j = 0; j < 8; j++)
            put_u64(&b, 32);
        refused(&b, "1 to 4 are allowed");
    }
    put_head(&b, 1, 0);
    put_u64(&b, 3);
    kept_strbuf_add(&b, "a\0b", 3);
    for (int j = 0; j < 8; j++)
        put_u64(&b, 1);
    refused(&b, "zero byte");
    put_head(&b, 1, 0);
    put_u64(&b, 256);
    for (int j = 0; j < 60; j++)
        put_u64(&b, 1);
    refused(&b, "the name has 256 bytes");
}

/* A type that is not ours is listed, not refused: inspect shows it. */
static void test_unknown_type(void **state)
{
    (void)state;
    struct kept_strbuf b = {0};
    struct kept_gguf *gguf;
    struct kept_error err;
    put_head(&b, 1, 0);
    put_tensor(&b, "t", 7, 1, 4711, 0);
    pad(&b, 32);
    assert_int_equal(kept_gguf_parse(b.text, b.n_bytes, b.n_bytes, &gguf, &err), KEPT_OK);
    const struct kept_gguf_tensor *tensor = kept_gguf_tensor_at(gguf, 0);
    assert_int_equal(tensor->format, KEPT_FORMAT_COUNT);
    assert_int_equal(tensor->ggml_type, 4711);
    assert_int_equal(tensor->n_bytes, 0);
    kept_gguf_close(&gguf);
    kept_strbuf_finish(&b);
}

/* A file whose header is longer than the first read, cut at every 4 KiB. */
static void test_files(void **state)
{
    (void)state;
    const char *path = "test_gguf.tmp.gguf";
    struct kept_strbuf b = {0};
    struct kept_gguf *gguf;
    struct kept_error err;
    enum { N_TEXTS = 200000 };
    put_head(&b, 1, 1);
    put_text(&b, "tokens");
    put_u32(&b, KEPT_GGUF_ARRAY);
    put_u32(&b, KEPT_GGUF_STRING);
    put_u64(&b, N_TEXTS);
    for (uint32_t i = 0; i < N_TEXTS; i++) {
        char text[16];
        snprintf(text, sizeof text, "t%u", i);
        put_text(&b, text);
    }
    put_tensor(&b, "t", 32, 1, 8, 0);
    pad(&b, 32);
    for (int i = 0; i < 34; i++)
        kept_strbuf_add(&b, "x", 1);
    assert_int_equal(kept_file_replace(path, b.text, b.n_bytes, &err), KEPT_OK);
    if (kept_gguf_open(path, &gguf, &err) != KEPT_OK)
        fail_msg("%s", err.message);
    const struct kept_gguf_array *array = &kept_gguf_find(gguf, "tokens")->as.array;
    assert_memory_equal(array->texts[N_TEXTS - 1].bytes, "t199999", 7);
    assert_int_equal(kept_file_size(kept_gguf_file(gguf)), b.n_bytes);
    kept_gguf_close(&gguf);
    for (size_t n = 0; n < b.n_bytes; n += 64 * 4096) {
        assert_int_equal(kept_file_replace(path, b.text, n, &err), KEPT_OK);
        assert_int_equal(kept_gguf_open(path, &gguf, &err), KEPT_E_FORMAT);
        assert_non_null(strstr(err.message, path));
        assert_null(gguf);
    }
    for (size_t n = 0; n < b.n_bytes; n += 4096)
        assert_int_equal(kept_gguf_parse(b.text, n, n, &gguf, &err), KEPT_E_FORMAT);
    remove(path);
    assert_int_equal(kept_gguf_open(path, &gguf, &err), KEPT_E_IO);
    assert_int_equal(kept_gguf_open(".", &gguf, &err), KEPT_E_IO);
    assert_non_null(strstr(err.message, "directory"));
    kept_strbuf_finish(&b);
}

/* Every allocation fails once: a clear status, nothing left behind. */
static void test_out_of_memory(void **state)
{
    (void)state;
    struct kept_strbuf b = {0};
    put_sample(&b);
    int64_t live = kept_alloc_live();
    uint64_t n = 0;
    kept_status status;
    do {
        struct kept_gguf *gguf;
        struct kept_error err;
        kept_alloc_fail_at(++n);
        status = kept_gguf_parse(b.text, b.n_bytes, b.n_bytes, &gguf, &err);
        kept_alloc_fail_at(0);
        assert_true(status == KEPT_OK || status == KEPT_E_HOST_MEMORY);
        kept_gguf_close(&gguf);
        assert_int_equal(kept_alloc_live(), live);
    } while (status != KEPT_OK);
    assert_true(n > 3);
    kept_strbuf_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample),        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flips),         cmocka_unit_test(test_bad_counts),
        cmocka_unit_test(test_bad_values),    cmocka_unit_test(test_bad_arrays),
        cmocka_unit_test(test_bad_alignment), cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_bad_directory), cmocka_unit_test(test_unknown_type),
        cmocka_unit_test(test_files),         cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

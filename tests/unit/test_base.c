/* tests/unit/test_base.c: status, allocation, strings, files, hashing, halves, threads. */
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/clock.h"
#include "base/dl.h"
#include "base/env.h"
#include "base/file.h"
#include "base/half.h"
#include "base/hash.h"
#include "base/pages.h"
#include "base/status.h"
#include "base/str.h"
#include "base/thread.h"

/* ---- status and log ---- */

static void test_status(void **state)
{
    (void)state;
    struct kept_error err = {0};
    assert_string_equal(kept_version(), "0.1.0");
    assert_string_equal(kept_status_name(KEPT_E_BUDGET), "KEPT_E_BUDGET");
    assert_string_equal(kept_status_name((kept_status)77), "KEPT_E_UNKNOWN");
    assert_string_equal(kept_status_text(KEPT_OK), "done");
    assert_non_null(kept_status_text((kept_status)-999));
    assert_int_equal(kept_fail(NULL, KEPT_E_IO, "no one reads %d", 1), KEPT_E_IO);
    assert_int_equal(kept_fail(&err, KEPT_E_IO, "part %d", 7), KEPT_E_IO);
    assert_int_equal(err.status, KEPT_E_IO);
    assert_string_equal(err.message, "part 7");
    kept_fail_in(&err, KEPT_E_FORMAT, "file '%s'", "x");
    assert_string_equal(err.message, "file 'x': part 7");
    assert_int_equal(err.status, KEPT_E_FORMAT);
    kept_fail(&err, KEPT_E_IO, "again: %s", err.message);
    assert_string_equal(err.message, "again: file 'x': part 7");
}

static void test_status_hostile_text(void **state)
{
    (void)state;
    struct kept_error err;
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"a\x1b[2Jb\n\x7f", "a?[2Jb??"},
        {"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xc3", "?"},
        {"\xc0\xaf", "??"},
        {"\xed\xa0\x80", "???"},
        {"\xf4\x90\x80\x80", "????"},
        {"\xe2\x82", "??"},
        {"\x80z", "?z"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kept_fail(&err, KEPT_E_IO, "%s", cases[i].text);
        assert_string_equal(err.message, cases[i].shown);
    }
    char longer[2000];
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    memcpy(longer + sizeof err.message - 2, "\xe2\x82\xac", 3);
    kept_fail(&err, KEPT_E_IO, "%s", longer);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_string_equal(err.message + sizeof err.message - 3, "a?");
}

static void keep_line(void *user, enum kept_log_level level, const char *text)
{
    snprintf(user, 64, "%d %s", (int)level, text);
}

static void test_log(void **state)
{
    (void)state;
    char line[64] = "";
    struct kept_log log = {.write = keep_line, .user = line};
    kept_logf(NULL, KEPT_LOG_ERROR, "nobody");
    kept_logf(&log, KEPT_LOG_INFO, "hidden");
    assert_string_equal(line, "");
    kept_logf(&log, KEPT_LOG_WARN, "shown %d", 3);
    assert_string_equal(line, "2 shown 3");
    log.level = KEPT_LOG_DEBUG;
    kept_logf(&log, KEPT_LOG_DEBUG, "more");
    assert_string_equal(line, "4 more");
}

/* ---- memory ---- */

static void test_alloc(void **state)
{
    (void)state;
    int64_t live = kept_alloc_live();
    uint64_t calls = kept_alloc_calls();
    void *p = kept_alloc(0), *q = kept_calloc(0, 8);
    assert_non_null(p);
    assert_non_null(q);
    assert_int_equal(kept_alloc_live(), live + 2);
    assert_int_equal(kept_alloc_calls(), calls + 2);
    p = kept_realloc(p, 100);
    assert_non_null(p);
    assert_int_equal(kept_alloc_live(), live + 2);
    assert_null(kept_realloc_array(p, SIZE_MAX / 2, 3));
    assert_null(kept_calloc(SIZE_MAX / 2, 3));
    kept_free(p);
    kept_free(q);
    kept_free(NULL);
    kept_free_aligned(NULL);
    for (size_t align = 1; align <= 65536; align *= 2) {
        char *a = kept_alloc_aligned(align, 33);
        assert_int_equal((uintptr_t)a % align, 0);
        memset(a, 1, 33);
        kept_free_aligned(a);
    }
    assert_null(kept_alloc_aligned(48, 1));
    assert_null(kept_alloc_aligned(64, SIZE_MAX - 10));
    char *text = kept_strndup("abcdef", 3);
    assert_string_equal(text, "abc");
    kept_free(text);
    assert_int_equal(kept_alloc_live(), live);
}

static void test_alloc_failure(void **state)
{
    (void)state;
    kept_alloc_fail_at(2);
    void *p = kept_alloc(8), *q = kept_alloc(8), *r = kept_alloc(8);
    assert_non_null(p);
    assert_null(q);
    assert_non_null(r);
    kept_alloc_fail_at(1);
    assert_null(kept_realloc(p, 16)); /* p stays valid */
    kept_alloc_fail_at(0);
    kept_free(p);
    kept_free(r);
    struct kept_strbuf buf = {0};
    kept_strbuf_puts(&buf, "kept");
    kept_alloc_fail_at(1);
    kept_strbuf_printf(&buf, "%1000d", 1);
    kept_alloc_fail_at(0);
    assert_true(buf.failed);
    assert_string_equal(buf.text, "kept");
    kept_strbuf_puts(&buf, "more");
    assert_string_equal(buf.text, "kept");
    kept_strbuf_clear(&buf);
    kept_strbuf_puts(&buf, "again");
    assert_string_equal(buf.text, "again");
    kept_strbuf_finish(&buf);
}

static void test_arena(void **state)
{
    (void)state;
    int64_t live = kept_alloc_live();
    struct kept_arena arena = {0};
    for (size_t n = 0; n < 3000; n += 7) {
        unsigned char *p = kept_arena_alloc(&arena, n);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xFF, n);
    }
    assert_non_null(kept_arena_alloc(&arena, 100000));
    assert_null(kept_arena_alloc(&arena, SIZE_MAX));
    assert_null(kept_arena_array(&arena, SIZE_MAX / 4, 8));
    assert_string_equal(kept_arena_printf(&arena, "%s.%d", "kv", 3), "kv.3");
    assert_string_equal(kept_arena_printf(&arena, "%s", ""), "");
    assert_string_equal(kept_arena_strndup(&arena, "abc", 2), "ab");
    kept_arena_finish(&arena);
    kept_arena_finish(&arena);
    assert_int_equal(kept_alloc_live(), live);
}

/* ---- strings and numbers ---- */

static void test_str(void **state)
{
    (void)state;
    struct kept_strbuf buf = {0};
    for (int i = 0; i < 100; i++)
        kept_strbuf_printf(&buf, "%d,", i);
    assert_int_equal(buf.n_bytes, 290);
    assert_memory_equal(buf.text + 284, "98,99,", 7);
    kept_strbuf_clear(&buf);
    kept_strbuf_add(&buf, "a\0b", 3);
    assert_int_equal(buf.n_bytes, 3);
    assert_memory_equal(buf.text, "a\0b", 4);
    kept_strbuf_finish(&buf);
    char small[4];
    assert_int_equal(kept_snprintf(small, sizeof small, "%s", "abcdef"), 3);
    assert_string_equal(small, "abc");
    assert_int_equal(kept_snprintf(NULL, 0, "x"), 0);
}

/* With a decimal comma in the host's locale, ours stays a point. Needs such a locale installed
 * to bite. */
static void test_locale(void **state)
{
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR"};
    bool set = false;
    for (size_t i = 0; i < 4 && !set; i++)
        set = setlocale(LC_ALL, names[i]) != NULL;
    char text[16];
    double value = 0;
    kept_snprintf(text, sizeof text, "%.2f", 1.25);
    bool parsed = kept_parse_f64("2.5", &value);
    setlocale(LC_ALL, "C");
    if (!set)
        skip();
    assert_string_equal(text, "1.25");
    assert_true(parsed && value == 2.5);
}

static void test_parse(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      " 1",
                                      "1 ",
                                      "+1",
                                      "0x1",
                                      "1e3",
                                      "a",
                                      "1a",
                                      "--1",
                                      "18446744073709551616",
                                      "99999999999999999999"};
    uint64_t u = 5;
    int64_t i = 5;
    double f = 5;
    for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++) {
        assert_false(kept_parse_u64(bad[n], &u));
        assert_false(kept_parse_i64(bad[n], &i));
    }
    assert_int_equal(u, 5);
    assert_true(kept_parse_u64("18446744073709551615", &u) && u == UINT64_MAX);
    assert_false(kept_parse_i64("9223372036854775808", &i));
    assert_true(kept_parse_i64("-9223372036854775808", &i) && i == INT64_MIN);
    assert_false(kept_parse_i64("-9223372036854775809", &i));
    assert_true(kept_parse_i64("-0", &i) && i == 0);
    static const char *const bad_f[] = {"",    " 1",    "1 ", "inf", "nan",   "0x10", "1e",
                                        "1,5", "1e999", ".",  "-",   "1.2.3", "e5"};
    for (size_t n = 0; n < sizeof bad_f / sizeof bad_f[0]; n++)
        assert_false(kept_parse_f64(bad_f[n], &f));
    assert_true(kept_parse_f64("-.5e-1", &f) && f == -0.05);
    assert_true(kept_parse_f64("+10", &f) && f == 10.0);
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"1073741824", 1073741824},
        {"600MiB", 600u << 20},
        {"2.5 GiB", 2684354560u},
        {"512k", 512000},
        {"512K", 512000},
        {"1KiB", 1024},
        {"1Ki", 1024},
        {"3B", 3},
        {"1.5GB", 1500000000u},
        {"16777215Ti", 16777215ull << 40},
    };
    static const char *const bad[] = {"",    "MiB",   "-1",   "1X",   "1MiBB",      "1 Mi B",
                                      "1iB", "1..5k", "1.5.", "0x10", "16777216Ti", "nan"};
    char text[32];
    uint64_t bytes;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_true(kept_parse_size(good[i].text, &bytes) && bytes == good[i].bytes);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(kept_parse_size(bad[i], &bytes));
    assert_string_equal(kept_format_bytes(text, sizeof text, 0), "0 B");
    assert_string_equal(kept_format_bytes(text, sizeof text, 1023), "1023 B");
    assert_string_equal(kept_format_bytes(text, sizeof text, 300311347), "286.4 MiB");
    assert_string_equal(kept_format_bytes(text, sizeof text, (1u << 20) - 1), "1.0 MiB");
    assert_string_equal(kept_format_bytes(text, sizeof text, UINT64_MAX), "16.0 EiB");
}

/* ---- halves ---- */

/* The definition, in double arithmetic. */
static double f16_value(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double sign = (h & 0x8000) != 0 ? -1.0 : 1.0;
    if (exponent == 31)
        return fraction == 0 ? sign * HUGE_VAL : NAN;
    if (exponent == 0)
        return sign * ldexp(fraction, -24);
    return sign * ldexp(1024 + fraction, exponent - 25);
}

static void test_f16_all(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        double want = f16_value((uint16_t)h);
        float got = kept_f16_to_f32((uint16_t)h);
        uint16_t back = kept_f32_to_f16(got);
        if (isnan(want)) {
            assert_true(isnan(got));
            assert_int_equal(back & 0x7C00, 0x7C00);
            assert_int_not_equal(back & 0x3FF, 0);
        } else {
            assert_true((double)got == want && (signbit(got) != 0) == (h >> 15 != 0));
            assert_int_equal(back, h);
        }
    }
}

/* Between every two neighbours: the midpoint goes to the even one, a little to either side to
 * the nearer. */
static void test_f16_rounding(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7C00; h++) {
        double low = f16_value((uint16_t)h);
        double high = h == 0x7BFF ? 65536.0 : f16_value((uint16_t)(h + 1));
        float middle = (float)((low + high) / 2);
        assert_int_equal(kept_f32_to_f16(middle), h % 2 == 0 ? h : h + 1);
        assert_int_equal(kept_f32_to_f16(nextafterf(middle, 0.0f)), h);
        assert_int_equal(kept_f32_to_f16(nextafterf(middle, HUGE_VALF)), h + 1);
        assert_int_equal(kept_f32_to_f16(-middle), 0x8000 | (h % 2 == 0 ? h : h + 1));
    }
    assert_int_equal(kept_f32_to_f16(3e38f), 0x7C00);
    assert_int_equal(kept_f32_to_f16(1e-45f), 0);
    assert_int_equal(kept_f32_to_f16(-HUGE_VALF), 0xFC00);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = kept_bf16_to_f32((uint16_t)h);
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        assert_int_equal(bits, h << 16);
        if (isnan(f)) {
            assert_true(isnan(kept_bf16_to_f32(kept_f32_to_bf16(f))));
            continue;
        }
        assert_int_equal(kept_f32_to_bf16(f), h);
        if ((h & 0x7F80) == 0x7F80)
            continue;
        bits = h << 16 | 0x8000; /* the midpoint to the next */
        memcpy(&f, &bits, sizeof f);
        assert_int_equal(kept_f32_to_bf16(f), h % 2 == 0 ? h : h + 1);
        bits--;
        memcpy(&f, &bits, sizeof f);
        assert_int_equal(kept_f32_to_bf16(f), h);
    }
}

/* ---- hash ---- */

static void test_hash(void **state)
{
    (void)state;
    /* The published value of XXH3_64bits over no bytes. */
    assert_true(kept_hash64(NULL, 0, 0) == 0x2D06800538D394C2ull);
    char bytes[5000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 31);
    struct kept_hash *hash = kept_hash_create();
    for (size_t at = 0; at < sizeof bytes;) {
        size_t n = at % 97 < sizeof bytes - at ? at % 97 + 1 : sizeof bytes - at;
        n = n < sizeof bytes - at ? n : sizeof bytes - at;
        kept_hash_add(hash, bytes + at, n);
        at += n;
    }
    assert_true(kept_hash_value(hash) == kept_hash64(bytes, sizeof bytes, 0));
    assert_true(kept_hash64(bytes, sizeof bytes, 1) != kept_hash64(bytes, sizeof bytes, 0));
    kept_hash_destroy(&hash);
    assert_null(hash);
    kept_hash_destroy(&hash);
}

/* ---- files ---- */

static void test_files(void **state)
{
    (void)state;
    const char *path = "test_base.tmp.bin";
    struct kept_error err;
    struct kept_file *file;
    char *bytes, part[4];
    size_t n_bytes;
    int64_t live = kept_alloc_live();
    assert_int_equal(kept_file_replace(path, "first", 5, &err), KEPT_OK);
    assert_int_equal(kept_file_replace(path, "second", 6, &err), KEPT_OK);
    assert_true(kept_file_exists(path));
    assert_int_equal(kept_file_load(path, 6, &bytes, &n_bytes, &err), KEPT_OK);
    assert_int_equal(n_bytes, 6);
    assert_string_equal(bytes, "second");
    kept_free(bytes);
    assert_int_equal(kept_file_load(path, 5, &bytes, &n_bytes, &err), KEPT_E_IO);
    assert_null(bytes);
    assert_non_null(strstr(err.message, "6 bytes, at most 5"));
    assert_int_equal(kept_file_open(path, &file, &err), KEPT_OK);
    assert_int_equal(kept_file_size(file), 6);
    assert_string_equal(kept_file_path(file), path);
    assert_int_equal(kept_file_read_at(file, 2, part, 4, &err), KEPT_OK);
    assert_memory_equal(part, "cond", 4);
    assert_int_equal(kept_file_read_at(file, 3, part, 4, &err), KEPT_E_IO);
    assert_non_null(strstr(err.message, "ends at byte 6"));
    assert_int_equal(kept_file_read_at(file, UINT64_MAX, part, 4, &err), KEPT_E_IO);
    kept_file_close(&file);
    assert_null(file);
    /* A writer that is given up leaves the old file and nothing beside it. */
    struct kept_file_writer *writer;
    assert_int_equal(kept_file_writer_create(path, &writer, &err), KEPT_OK);
    assert_int_equal(kept_file_writer_add(writer, "third", 5, &err), KEPT_OK);
    kept_file_writer_destroy(&writer);
    assert_int_equal(kept_file_load(path, 99, &bytes, &n_bytes, &err), KEPT_OK);
    assert_string_equal(bytes, "second");
    kept_free(bytes);
    remove(path);
    assert_false(kept_file_exists(path));
    assert_int_equal(kept_file_open(path, &file, &err), KEPT_E_IO);
    assert_int_equal(kept_file_open(".", &file, &err), KEPT_E_IO);
    assert_non_null(strstr(err.message, "directory"));
    assert_null(file);
    assert_int_equal(kept_file_replace("no/such/folder/x", "a", 1, &err), KEPT_E_IO);
    assert_int_equal(kept_alloc_live(), live);
}

static void test_directories(void **state)
{
    (void)state;
    struct kept_error err;
    char path[512];
    assert_int_equal(kept_dir_make("test_base.tmp.dir/a/b/", &err), KEPT_OK);
    assert_int_equal(kept_dir_make("test_base.tmp.dir/a/b", &err), KEPT_OK);
    assert_int_equal(kept_file_replace("test_base.tmp.dir/a/b/f", "", 0, &err), KEPT_OK);
    assert_int_equal(kept_dir_make("test_base.tmp.dir/a/b/f", &err), KEPT_E_IO);
    assert_int_equal(kept_dir_make("test_base.tmp.dir/a/b/f/g", &err), KEPT_E_IO);
    assert_int_equal(kept_dir_make("", &err), KEPT_E_IO);
    remove("test_base.tmp.dir/a/b/f");
    remove("test_base.tmp.dir/a/b");
    remove("test_base.tmp.dir/a");
    remove("test_base.tmp.dir");
    setenv("KEPT_CACHE_DIR", "/x/y", 1);
    assert_true(kept_cache_dir(path, sizeof path));
    assert_string_equal(path, "/x/y");
    assert_false(kept_cache_dir(path, 4));
    setenv("KEPT_CACHE_DIR", "", 1);
    assert_null(kept_env("KEPT_CACHE_DIR"));
    setenv("XDG_CACHE_HOME", "/c", 1);
    assert_true(kept_cache_dir(path, sizeof path));
    assert_string_equal(path, "/c/kept");
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/h", 1);
    assert_true(kept_cache_dir(path, sizeof path));
    assert_string_equal(path, "/h/.cache/kept");
    unsetenv("HOME");
    assert_false(kept_cache_dir(path, sizeof path));
}

static void test_dl(void **state)
{
    (void)state;
    static const char *const none[] = {"libkept-absent.so.1", NULL};
    static const char *const some[] = {"libkept-absent.so.1", "libm.so.6", NULL};
    assert_null(kept_dl_open(none));
    struct kept_dl *dl = kept_dl_open(some);
    assert_non_null(dl);
    assert_non_null(kept_dl_symbol(dl, "cos"));
    assert_null(kept_dl_symbol(dl, "kept_no_such_symbol"));
    kept_dl_close(&dl);
    assert_null(dl);
    kept_dl_close(&dl);
}

/* ---- threads ---- */

struct sums {
    _Atomic uint32_t hits[64];
    _Atomic uint64_t total;
    _Atomic uint32_t max_thread;
    uint64_t slow_ns;
};

static void add_item(void *user, uint32_t item, uint32_t i_thread)
{
    struct sums *sums = user;
    atomic_fetch_add(&sums->hits[item % 64], 1);
    atomic_fetch_add(&sums->total, item);
    if (i_thread > atomic_load(&sums->max_thread))
        atomic_store(&sums->max_thread, i_thread);
    if (sums->slow_ns != 0 && item == 1)
        kept_sleep_ns(sums->slow_ns);
}

/* Every item runs once, for jobs of any size, back to back (spinning) and after pauses (asleep). */
static void test_pool(void **state)
{
    (void)state;
    static const uint32_t n_threads[] = {1, 2, 3, 8};
    struct kept_error err;
    for (size_t t = 0; t < 4; t++) {
        struct kept_pool *pool;
        assert_int_equal(kept_pool_create(n_threads[t], &pool, &err), KEPT_OK);
        assert_int_equal(kept_pool_threads(pool), n_threads[t]);
        for (uint32_t round = 0; round < 3000; round++) {
            struct sums sums = {.total = 0};
            uint32_t n = round % 67;
            kept_pool_run(pool, n, add_item, &sums);
            assert_int_equal(sums.total, (uint64_t)n * (n > 0 ? n - 1 : 0) / 2);
            for (uint32_t i = 0; i < 64; i++)
                assert_int_equal(sums.hits[i], (i < n) + (i + 64 < n));
            assert_true(sums.max_thread < n_threads[t]);
            if (round % 1000 == 0)
                kept_sleep_ns(2000000);
        }
        /* One slow item: the caller sleeps until it is done. */
        struct sums sums = {.slow_ns = 5000000};
        kept_pool_run(pool, 2, add_item, &sums);
        assert_int_equal(sums.total, 1);
        kept_pool_destroy(&pool);
        assert_null(pool);
    }
    struct kept_pool *pool;
    assert_int_equal(kept_pool_create(100000, &pool, &err), KEPT_E_ARGUMENT);
    assert_null(pool);
    kept_pool_destroy(&pool);
    assert_int_equal(kept_pool_create(0, &pool, &err), KEPT_OK);
    assert_int_equal(kept_pool_threads(pool), kept_cpu_count());
    kept_pool_destroy(&pool);
}

struct guarded {
    struct kept_mutex *mutex;
    uint64_t count; /* not atomic: the mutex guards it */
};

static void count_guarded(void *user, uint32_t item, uint32_t i_thread)
{
    (void)item;
    (void)i_thread;
    struct guarded *guarded = user;
    kept_mutex_lock(guarded->mutex);
    guarded->count++;
    kept_mutex_unlock(guarded->mutex);
}

static void test_mutex(void **state)
{
    (void)state;
    struct guarded guarded = {.mutex = kept_mutex_create()};
    struct kept_pool *pool;
    struct kept_error err;
    assert_non_null(guarded.mutex);
    assert_int_equal(kept_pool_create(4, &pool, &err), KEPT_OK);
    kept_pool_run(pool, 20000, count_guarded, &guarded);
    assert_int_equal(guarded.count, 20000);
    kept_pool_destroy(&pool);
    kept_mutex_destroy(&guarded.mutex);
    assert_null(guarded.mutex);
}

static void test_clock(void **state)
{
    (void)state;
    uint64_t before = kept_clock_ns();
    kept_sleep_ns(2000000);
    assert_true(kept_clock_ns() - before >= 2000000);
}

static void pages_are_zero_and_take_advice(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 4096, 4097, ((size_t)2 << 20) - 1, ((size_t)5 << 20) + 3};
    assert_null(kept_pages_alloc(0, false));
    assert_null(kept_pages_alloc(SIZE_MAX, true));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int huge = 0; huge < 2; huge++) {
            unsigned char *p = kept_pages_alloc(sizes[i], huge != 0);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % 4096, 0);
            for (size_t at = 0; at < sizes[i]; at += 1021)
                assert_int_equal(p[at], 0);
            p[sizes[i] - 1] = 7;
            kept_pages_advise_huge(p + sizes[i] / 3, sizes[i] - sizes[i] / 3); /* any place */
            assert_int_equal(p[sizes[i] - 1], 7);
            kept_pages_free(p, sizes[i]);
        }
    }
    kept_pages_advise_huge(NULL, (size_t)8 << 20);
    kept_pages_free(NULL, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_status_hostile_text),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_alloc_failure),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_str),
        cmocka_unit_test(test_locale),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_f16_all),
        cmocka_unit_test(test_f16_rounding),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_dl),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_mutex),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(pages_are_zero_and_take_advice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

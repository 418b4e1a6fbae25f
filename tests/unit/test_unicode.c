/* tests/unit/test_unicode.c: UTF-8 by exhaustion, and the character properties by example. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "formats/unicode.h"

static void test_every_rune(void **state)
{
    (void)state;
    for (uint32_t rune = 0; rune <= 0x10FFFF; rune++) {
        char text[4];
        uint32_t back;
        size_t n = kept_utf8_put(rune, text);
        bool surrogate = rune >= 0xD800 && rune <= 0xDFFF;
        size_t n_read = kept_utf8_next(text, n, &back);
        if (n_read != (surrogate ? 1 : n) || back != (surrogate ? KEPT_RUNE_NONE : rune))
            fail_msg("U+%04X: length %zu read as %zu, U+%04X", rune, n, n_read, back);
        for (size_t cut = 1; cut < n && !surrogate; cut++)
            if (kept_utf8_next(text, cut, &back) != 1 || back != KEPT_RUNE_NONE ||
                kept_utf8_partial_tail(text, cut) != cut)
                fail_msg("U+%04X cut to %zu bytes", rune, cut);
        if (!surrogate && kept_utf8_partial_tail(text, n) != 0)
            fail_msg("U+%04X is whole", rune);
    }
}

/* All pairs of bytes: exactly the well-formed ones are taken (Unicode 15, table 3-7). */
static void test_every_pair(void **state)
{
    (void)state;
    for (uint32_t a = 0; a < 256; a++)
        for (uint32_t b = 0; b < 256; b++) {
            char text[2] = {(char)a, (char)b};
            bool valid =
                (a < 0x80 && b < 0x80) || (a >= 0xC2 && a <= 0xDF && b >= 0x80 && b <= 0xBF);
            size_t expected = valid ? 2 : a < 0x80 ? 1 : 0;
            assert_int_equal(kept_utf8_valid_prefix(text, 2), expected);
        }
}

static void test_invalid_forms(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t valid, tail;
    } cases[] = {
        {"ab\xFF", 2, 0},
        {"\xC0\x80", 0, 0},
        {"\xE0\x80\x80", 0, 0},
        {"\xED\xA0\x80", 0, 0},
        {"\xF4\x90\x80\x80", 0, 0},
        {"\xF5\x80", 0, 0},
        {"a\xE2\x96", 1, 2},
        {"a\xF0\x9F\x98", 1, 3},
        {"\xED\xA0", 0, 0},
        {"\xE0\x80", 0, 0},
        {"\x80", 0, 0},
        {"\xC3", 0, 1},
        {"", 0, 0},
        {"x\xF0\x9F\x98\x80", 5, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].text);
        assert_int_equal(kept_utf8_valid_prefix(cases[i].text, n), cases[i].valid);
        assert_int_equal(kept_utf8_partial_tail(cases[i].text, n), cases[i].tail);
    }
    assert_int_equal(kept_utf8_count("a\xC3\xA9\xFF\xE2\x96\x81", 7), 4);
}

static void test_properties(void **state)
{
    (void)state;
    static const uint32_t spaces[] = {9,    10,   13,     0x1C,   0x1F,   0x20,
                                      0x85, 0xA0, 0x1680, 0x2003, 0x2028, 0x3000};
    static const uint32_t others[] = {0,      8,      0x0E,   'a',           0x180E,
                                      0x200B, 0xFEFF, 0x2581, KEPT_RUNE_NONE};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
        assert_true(kept_rune_is_space(spaces[i]));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(kept_rune_is_space(others[i]));
    assert_int_equal(kept_rune_upper(0xE9), 0xC9);
    assert_int_equal(kept_rune_lower(0x416), 0x436);
    assert_int_equal(kept_rune_upper(0x4E2D), 0x4E2D);
    assert_true(kept_rune_is_cased('a') && kept_rune_is_cased('A') && !kept_rune_is_cased('1'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_rune),
        cmocka_unit_test(test_every_pair),
        cmocka_unit_test(test_invalid_forms),
        cmocka_unit_test(test_properties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

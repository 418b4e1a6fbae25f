/* formats/unicode.c: strict UTF-8 decoding (no surrogates, no overlong forms), and properties from
 * utf8proc. */
#include "formats/unicode.h"

#include <string.h>

#include <utf8proc.h>

static bool is_tail(unsigned char c)
{
    return (c & 0xC0u) == 0x80u;
}

/* Length that a lead byte announces, 0 when it cannot begin a character. */
static size_t lead_length(unsigned char c)
{
    if (c < 0x80)
        return 1;
    if (c >= 0xC2 && c <= 0xDF)
        return 2;
    if (c >= 0xE0 && c <= 0xEF)
        return 3;
    return c >= 0xF0 && c <= 0xF4 ? 4 : 0;
}

/* The second byte excludes overlong forms, surrogates and what lies past U+10FFFF. */
static bool second_fits(unsigned char lead, unsigned char second)
{
    switch (lead) {
    case 0xE0:
        return second >= 0xA0 && second <= 0xBF;
    case 0xED:
        return second >= 0x80 && second <= 0x9F;
    case 0xF0:
        return second >= 0x90 && second <= 0xBF;
    case 0xF4:
        return second >= 0x80 && second <= 0x8F;
    default:
        return is_tail(second);
    }
}

size_t kept_utf8_next(const char *text, size_t n_bytes, uint32_t *out)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t n = lead_length(s[0]);
    *out = KEPT_RUNE_NONE;
    if (n == 1) {
        *out = s[0];
        return 1;
    }
    if (n == 0 || n > n_bytes || !second_fits(s[0], s[1]))
        return 1;
    uint32_t rune = s[0] & (0xFFu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if (!is_tail(s[i]))
            return 1;
        rune = rune << 6 | (s[i] & 0x3Fu);
    }
    *out = rune;
    return n;
}

size_t kept_utf8_put(uint32_t rune, char to[4])
{
    if (rune < 0x80) {
        to[0] = (char)rune;
        return 1;
    }
    size_t n = rune < 0x800 ? 2 : rune < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; rune >>= 6)
        to[i] = (char)(0x80u | (rune & 0x3Fu));
    to[0] = (char)((0xF00u >> n & 0xF0u) | rune);
    return n;
}

size_t kept_utf8_valid_prefix(const char *text, size_t n_bytes)
{
    size_t at = 0;
    while (at < n_bytes) {
        if ((unsigned char)text[at] < 0x80) {
            at++;
            continue;
        }
        uint32_t rune;
        size_t n = kept_utf8_next(text + at, n_bytes - at, &rune);
        if (rune == KEPT_RUNE_NONE)
            return at;
        at += n;
    }
    return n_bytes;
}

size_t kept_utf8_count(const char *text, size_t n_bytes)
{
    size_t n_runes = 0;
    for (size_t at = 0; at < n_bytes; n_runes++) {
        uint32_t rune;
        at += kept_utf8_next(text + at, n_bytes - at, &rune);
    }
    return n_runes;
}

size_t kept_utf8_partial_tail(const char *text, size_t n_bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t back = 1; back <= 3 && back <= n_bytes; back++) {
        const unsigned char *lead = s + n_bytes - back;
        if (is_tail(*lead))
            continue;
        bool may_grow = lead_length(*lead) > back && (back == 1 || second_fits(lead[0], lead[1]));
        return may_grow ? back : 0;
    }
    return 0;
}

bool kept_rune_is_space(uint32_t rune)
{
    return (rune >= 0x09 && rune <= 0x0D) || (rune >= 0x1C && rune <= 0x20) || rune == 0x85 ||
           rune == 0xA0 || rune == 0x1680 || (rune >= 0x2000 && rune <= 0x200A) || rune == 0x2028 ||
           rune == 0x2029 || rune == 0x202F || rune == 0x205F || rune == 0x3000;
}

uint32_t kept_rune_upper(uint32_t rune)
{
    return rune > 0x10FFFF ? rune : (uint32_t)utf8proc_toupper((utf8proc_int32_t)rune);
}

uint32_t kept_rune_lower(uint32_t rune)
{
    return rune > 0x10FFFF ? rune : (uint32_t)utf8proc_tolower((utf8proc_int32_t)rune);
}

bool kept_rune_is_cased(uint32_t rune)
{
    return kept_rune_upper(rune) != rune || kept_rune_lower(rune) != rune;
}

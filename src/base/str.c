/* base/str.c: strings that grow, bounded formatting, strict number parsing.
 *
 * Formatting and parsing are those of the C locale whatever the host application set: a desktop
 * program with a decimal comma must not change a compiler option or a number in JSON. On POSIX
 * the calling thread's locale is switched for the call (glibc hands out its C locale without
 * allocating); on Windows the C runtime's locale is per process and starts as "C". Parsing
 * accepts the whole text or nothing: no leading space, no trailing bytes, no silent overflow.
 */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "base/str.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if !defined(_WIN32)
#include <locale.h>
#endif

#include "base/alloc.h"

/* ---- locale ---- */

#if defined(_WIN32)
struct c_locale {
    int unused;
};
static struct c_locale c_locale_enter(void)
{
    return (struct c_locale){0};
}
static void c_locale_leave(struct c_locale saved)
{
    (void)saved;
}
#else
struct c_locale {
    locale_t c, before;
};
static struct c_locale c_locale_enter(void)
{
    struct c_locale saved = {newlocale(LC_ALL_MASK, "C", (locale_t)0), (locale_t)0};
    if (saved.c != (locale_t)0)
        saved.before = uselocale(saved.c);
    return saved;
}
static void c_locale_leave(struct c_locale saved)
{
    if (saved.c == (locale_t)0)
        return;
    uselocale(saved.before);
    freelocale(saved.c);
}
#endif

/* ---- formatting ---- */

/* As vsnprintf: the length the whole text would have, or negative. */
static int format(char *to, size_t cap_bytes, const char *fmt, va_list args)
{
    struct c_locale saved = c_locale_enter();
    int n = vsnprintf(to, cap_bytes, fmt, args);
    c_locale_leave(saved);
    return n;
}

size_t kept_vsnprintf(char *to, size_t cap_bytes, const char *fmt, va_list args)
{
    if (cap_bytes == 0)
        return 0;
    int n = format(to, cap_bytes, fmt, args);
    if (n < 0) {
        to[0] = '\0';
        return 0;
    }
    return (size_t)n < cap_bytes ? (size_t)n : cap_bytes - 1;
}

size_t kept_snprintf(char *to, size_t cap_bytes, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    size_t n = kept_vsnprintf(to, cap_bytes, fmt, args);
    va_end(args);
    return n;
}

/* ---- the growing string ---- */

/* Makes room for n_bytes more and a NUL. */
static bool reserve(struct kept_strbuf *buf, size_t n_bytes)
{
    if (buf->failed)
        return false;
    if (n_bytes >= SIZE_MAX / 2 - buf->n_bytes) {
        buf->failed = true;
        return false;
    }
    size_t need = buf->n_bytes + n_bytes + 1;
    if (need <= buf->cap_bytes)
        return true;
    size_t cap = buf->cap_bytes != 0 ? buf->cap_bytes * 2 : 64;
    if (cap < need)
        cap = need;
    char *text = kept_realloc(buf->text, cap);
    if (text == NULL) {
        buf->failed = true;
        return false;
    }
    buf->text = text;
    buf->cap_bytes = cap;
    return true;
}

void kept_strbuf_add(struct kept_strbuf *buf, const void *bytes, size_t n_bytes)
{
    if (!reserve(buf, n_bytes))
        return;
    if (n_bytes != 0)
        memcpy(buf->text + buf->n_bytes, bytes, n_bytes);
    buf->n_bytes += n_bytes;
    buf->text[buf->n_bytes] = '\0';
}

void kept_strbuf_puts(struct kept_strbuf *buf, const char *text)
{
    kept_strbuf_add(buf, text, strlen(text));
}

void kept_strbuf_vprintf(struct kept_strbuf *buf, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = format(NULL, 0, fmt, args);
    if (n < 0) {
        buf->failed = true;
    } else if (reserve(buf, (size_t)n)) {
        format(buf->text + buf->n_bytes, (size_t)n + 1, fmt, again);
        buf->n_bytes += (size_t)n;
    }
    va_end(again);
}

void kept_strbuf_printf(struct kept_strbuf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    kept_strbuf_vprintf(buf, fmt, args);
    va_end(args);
}

void kept_strbuf_clear(struct kept_strbuf *buf)
{
    buf->n_bytes = 0;
    buf->failed = false;
    if (buf->text != NULL)
        buf->text[0] = '\0';
}

void kept_strbuf_finish(struct kept_strbuf *buf)
{
    kept_free(buf->text);
    *buf = (struct kept_strbuf){0};
}

/* ---- numbers ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool kept_parse_u64(const char *text, uint64_t *out)
{
    if (!is_digit(text[0]))
        return false;
    uint64_t value = 0;
    for (; is_digit(*text); text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    if (*text != '\0')
        return false;
    *out = value;
    return true;
}

bool kept_parse_i64(const char *text, int64_t *out)
{
    bool negative = text[0] == '-';
    uint64_t value;
    if (!kept_parse_u64(text + (negative ? 1 : 0), &value))
        return false;
    if (value > (uint64_t)INT64_MAX + (negative ? 1 : 0))
        return false;
    if (negative)
        *out = value == 0 ? 0 : -(int64_t)(value - 1) - 1;
    else
        *out = (int64_t)value;
    return true;
}

bool kept_parse_f64(const char *text, double *out)
{
    /* strtod also takes spaces, hexadecimal, "inf" and "nan"; here a number is digits. */
    const char *digits = text[0] == '-' || text[0] == '+' ? text + 1 : text;
    if (!is_digit(digits[0]) && !(digits[0] == '.' && is_digit(digits[1])))
        return false;
    if (strspn(digits, "0123456789.eE+-") != strlen(digits))
        return false;
    char *end = NULL;
    struct c_locale saved = c_locale_enter();
    double value = strtod(text, &end);
    c_locale_leave(saved);
    if (*end != '\0' || !isfinite(value))
        return false;
    *out = value;
    return true;
}

/* ---- sizes ---- */

/* The factor of a unit such as "", "k", "MiB" or "GB"; 0 when it is none. */
static uint64_t unit_factor(const char *unit)
{
    static const char prefixes[] = "kmgt";
    uint64_t factor = 1;
    char first = unit[0] >= 'A' && unit[0] <= 'Z' ? (char)(unit[0] - 'A' + 'a') : unit[0];
    const char *at = first != '\0' ? strchr(prefixes, first) : NULL;
    if (at != NULL) {
        bool binary = unit[1] == 'i';
        for (const char *p = prefixes; p <= at; p++)
            factor *= binary ? 1024 : 1000;
        unit += binary ? 2 : 1;
    }
    if (unit[0] == 'B' || unit[0] == 'b')
        unit++;
    return unit[0] == '\0' ? factor : 0;
}

bool kept_parse_size(const char *text, uint64_t *out_bytes)
{
    char number[32];
    size_t n = strspn(text, "0123456789.");
    if (n == 0 || n >= sizeof number)
        return false;
    memcpy(number, text, n);
    number[n] = '\0';
    const char *unit = text + n;
    while (*unit == ' ')
        unit++;
    uint64_t factor = unit_factor(unit);
    if (factor == 0)
        return false;
    uint64_t whole;
    if (kept_parse_u64(number, &whole)) {
        if (whole > UINT64_MAX / factor)
            return false;
        *out_bytes = whole * factor;
        return true;
    }
    double value;
    if (!kept_parse_f64(number, &value) || value * (double)factor >= 18446744073709551616.0)
        return false;
    *out_bytes = (uint64_t)(value * (double)factor);
    return true;
}

char *kept_format_bytes(char *to, size_t cap_bytes, uint64_t n_bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t i_unit = 0;
    double value = (double)n_bytes;
    while (value >= 1024.0 && i_unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024.0;
        i_unit++;
    }
    if (i_unit > 0 && value >= 1023.95 && i_unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024.0; /* would be rounded up to "1024.0" */
        i_unit++;
    }
    kept_snprintf(to, cap_bytes, i_unit == 0 ? "%.0f %s" : "%.1f %s", value, units[i_unit]);
    return to;
}

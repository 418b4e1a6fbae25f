/* json_out.c: JSON output. Text of models may hold any bytes, JSON only UTF-8. */
#include "json_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the valid character at `at`, or 0. */
static size_t character(const unsigned char *at, size_t left)
{
    static const unsigned char low[] = {0x80, 0xA0, 0x80, 0x90, 0x80};
    static const unsigned char high[] = {0xBF, 0xBF, 0x9F, 0xBF, 0x8F};
    unsigned char c = at[0];
    if (c < 0x80)
        return 1;
    size_t n = c >= 0xC2 && c < 0xE0   ? 2
               : c >= 0xE0 && c < 0xF0 ? 3
               : c >= 0xF0 && c < 0xF5 ? 4
                                       : 0;
    int k = c == 0xE0 ? 1 : c == 0xED ? 2 : c == 0xF0 ? 3 : c == 0xF4 ? 4 : 0;
    if (n == 0 || n > left || at[1] < low[k] || at[1] > high[k])
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

size_t cli_utf8_clean(const char *bytes, size_t n, char *to, bool *exact)
{
    size_t out = 0;
    *exact = true;
    for (size_t at = 0; at < n;) {
        size_t length = character((const unsigned char *)bytes + at, n - at);
        memcpy(to + out, length ? bytes + at : "\xEF\xBF\xBD", length ? length : 3);
        out += length ? length : 3;
        at += length ? length : 1;
        *exact &= length > 0;
    }
    return out;
}

json_t *cli_json_text(const char *bytes, size_t n)
{
    bool exact;
    if (n == SIZE_MAX)
        n = strlen(bytes);
    char *clean = malloc(3 * n + 1);
    if (!clean)
        return NULL;
    json_t *text = json_stringn(clean, cli_utf8_clean(bytes, n, clean, &exact));
    free(clean);
    return text;
}

void cli_json_print(json_t *object, bool readable)
{
    size_t flags = JSON_REAL_PRECISION(10) | (readable ? JSON_INDENT(2) : 0);
    if (!object || json_dumpf(object, stdout, flags) != 0)
        fputs(
            "{\"error\": {\"code\": \"KEPT_E_HOST_MEMORY\", \"message\": \"no memory for JSON\"}}",
            stdout);
    putchar('\n');
    fflush(stdout);
    json_decref(object);
}

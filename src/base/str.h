/* base/str.h: a growing string, bounded formatting, strict number parsing, sizes as people write
 * them. */
#ifndef KEPT_BASE_STR_H
#define KEPT_BASE_STR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kept/common.h"

/* Zero-initialised is empty. After a failed growth `failed` is set, further appends do nothing,
 * text stays valid. */
struct kept_strbuf {
    char *text; /* NULL when empty, else NUL-terminated; may contain NULs of its own */
    size_t n_bytes;
    size_t cap_bytes;
    bool failed;
};

void kept_strbuf_add(struct kept_strbuf *buf, const void *bytes, size_t n_bytes);
void kept_strbuf_puts(struct kept_strbuf *buf, const char *text);
void kept_strbuf_printf(struct kept_strbuf *buf, const char *fmt, ...) KEPT_PRINTF(2, 3);
void kept_strbuf_vprintf(struct kept_strbuf *buf, const char *fmt, va_list args);
void kept_strbuf_clear(struct kept_strbuf *buf);
void kept_strbuf_finish(struct kept_strbuf *buf);

/* snprintf that always terminates and always writes a decimal point, whatever the host's locale;
 * returns the number of bytes written without the NUL. */
size_t kept_snprintf(char *to, size_t cap_bytes, const char *fmt, ...) KEPT_PRINTF(3, 4);
size_t kept_vsnprintf(char *to, size_t cap_bytes, const char *fmt, va_list args);

/* "600MiB", "2.5 GiB", "1073741824", "512k" (k, M, G decimal; Ki, Mi, Gi binary; a final B
 * optional). */
bool kept_parse_size(const char *text, uint64_t *out_bytes);
bool kept_parse_u64(const char *text, uint64_t *out);
bool kept_parse_i64(const char *text, int64_t *out);
bool kept_parse_f64(const char *text, double *out);

/* "286.4 MiB"; returns to. */
char *kept_format_bytes(char *to, size_t cap_bytes, uint64_t n_bytes);

#endif

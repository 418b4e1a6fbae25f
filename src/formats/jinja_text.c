/* formats/jinja_text.c: strings: building, printing as Python does, JSON, and what methods and
 * filters share. Every function keeps the mask of bytes from outside. */
#include "formats/jinja.h"

#include <math.h>
#include <string.h>

#include "formats/unicode.h"

static bool buf_grow(struct kept_jinja *j, struct jinja_buf *buf, size_t n_more, bool needs_mask)
{
    if (buf->n + n_more > buf->cap) {
        size_t cap = 2 * (buf->n + n_more) + 16;
        char *bytes = kept_jinja_alloc(j, cap, 1);
        uint8_t *mask = buf->mask ? kept_jinja_alloc(j, cap, 1) : NULL;
        if (!bytes || (buf->mask && !mask))
            return false;
        if (buf->n)
            memcpy(bytes, buf->bytes, buf->n);
        if (buf->n && mask)
            memcpy(mask, buf->mask, buf->n);
        buf->bytes = bytes;
        buf->mask = mask;
        buf->cap = cap;
    }
    if (needs_mask && !buf->mask)
        buf->mask = kept_jinja_alloc(j, buf->cap, 1); /* zeroed */
    return !j->status;
}

bool kept_jinja_buf_add(struct kept_jinja *j, struct jinja_buf *buf, struct jinja_string s)
{
    if (!kept_jinja_steps(j, s.n_bytes / 64) || !buf_grow(j, buf, s.n_bytes, s.mask != NULL))
        return false;
    if (s.n_bytes) {
        memcpy(buf->bytes + buf->n, s.bytes, s.n_bytes);
        if (s.mask)
            memcpy(buf->mask + buf->n, s.mask, s.n_bytes);
        else if (buf->mask)
            memset(buf->mask + buf->n, 0, s.n_bytes);
    }
    buf->n += s.n_bytes;
    return true;
}

bool kept_jinja_buf_fill(struct kept_jinja *j, struct jinja_buf *buf, const char *bytes,
                         size_t n_bytes, bool from_outside)
{
    if (!kept_jinja_buf_add(j, buf, (struct jinja_string){.bytes = bytes, .n_bytes = n_bytes}) ||
        !buf_grow(j, buf, 0, from_outside))
        return false;
    if (from_outside)
        memset(buf->mask + buf->n - n_bytes, 1, n_bytes);
    return true;
}

bool kept_jinja_buf_puts(struct kept_jinja *j, struct jinja_buf *buf, const char *text)
{
    return kept_jinja_buf_add(j, buf, kept_jinja_text(text));
}

struct jinja_value kept_jinja_buf_value(const struct jinja_buf *buf)
{
    return kept_jinja_str((struct jinja_string){buf->n ? buf->bytes : "", buf->mask, buf->n});
}

struct jinja_string kept_jinja_sub(struct jinja_string s, size_t begin, size_t end)
{
    return (struct jinja_string){s.bytes + begin, s.mask ? s.mask + begin : NULL, end - begin};
}

/* ---- printing ---- */

static bool print_float(struct kept_jinja *j, struct jinja_buf *buf, double f, bool json)
{
    char text[40];
    double back;
    if (isnan(f) || isinf(f)) {
        const char *name = isnan(f) ? (json ? "NaN" : "nan")
                           : f < 0  ? (json ? "-Infinity" : "-inf")
                                    : (json ? "Infinity" : "inf");
        return kept_jinja_buf_puts(j, buf, name);
    }
    for (int digits = 15; digits <= 17; digits++) {
        kept_snprintf(text, sizeof text, "%.*g", digits, f);
        if (kept_parse_f64(text, &back) && back == f)
            break;
    }
    if (fabs(f) < 1e16 && fabs(f) >= 1e15) /* Python writes exponents from 1e16 on */
        kept_snprintf(text, sizeof text, "%.0f", f);
    bool whole = !strpbrk(text, ".e");
    return kept_jinja_buf_puts(j, buf, text) && (!whole || kept_jinja_buf_puts(j, buf, ".0"));
}

/* A string in quotes with its escapes, as JSON or as Python's repr. */
static bool print_quoted(struct kept_jinja *j, struct jinja_buf *buf, struct jinja_string s,
                         bool json)
{
    static const char plain[] = "\n\r\t\b\f", escaped[] = "nrtbf";
    bool has_single = s.n_bytes && memchr(s.bytes, '\'', s.n_bytes),
         has_double = s.n_bytes && memchr(s.bytes, '"', s.n_bytes);
    char quote = json || (has_single && !has_double) ? '"' : '\'';
    bool ok = kept_jinja_buf_fill(j, buf, &quote, 1, false);
    for (size_t i = 0; ok && i < s.n_bytes; i++) {
        unsigned char c = (unsigned char)s.bytes[i];
        const char *known = c ? strchr(plain, c) : NULL;
        char text[8] = {(char)c};
        size_t n = 1;
        if (known && (json || known - plain < 3))
            n = kept_snprintf(text, sizeof text, "\\%c", escaped[known - plain]);
        else if (c == (unsigned char)quote || c == '\\')
            n = kept_snprintf(text, sizeof text, "\\%c", c);
        else if (c < 0x20 || (c == 0x7F && !json))
            n = kept_snprintf(text, sizeof text, json ? "\\u%04x" : "\\x%02x", c);
        ok = kept_jinja_buf_fill(j, buf, text, n, s.mask && s.mask[i]);
    }
    return ok && kept_jinja_buf_fill(j, buf, &quote, 1, false);
}

static bool print_repr(struct kept_jinja *j, struct jinja_buf *buf, const struct jinja_value *value)
{
    if (value->kind == JINJA_STRING)
        return print_quoted(j, buf, value->as.s, false);
    if (value->kind == JINJA_UNDEFINED)
        return kept_jinja_buf_puts(j, buf, "Undefined");
    return kept_jinja_print(j, buf, value);
}

static bool print_list(struct kept_jinja *j, struct jinja_buf *buf, const struct jinja_list *list)
{
    bool ok = kept_jinja_buf_puts(j, buf, list->is_tuple ? "(" : "[");
    for (size_t i = 0; ok && i < list->n; i++)
        ok = (!i || kept_jinja_buf_puts(j, buf, ", ")) && print_repr(j, buf, &list->items[i]);
    if (ok && list->is_tuple && list->n == 1)
        ok = kept_jinja_buf_puts(j, buf, ",");
    return ok && kept_jinja_buf_puts(j, buf, list->is_tuple ? ")" : "]");
}

static bool print_dict(struct kept_jinja *j, struct jinja_buf *buf, const struct jinja_dict *dict)
{
    bool ok = kept_jinja_buf_puts(j, buf, "{");
    for (size_t i = 0; ok && i < dict->n; i++)
        ok = (!i || kept_jinja_buf_puts(j, buf, ", ")) &&
             print_repr(j, buf, &dict->entries[i].key) && kept_jinja_buf_puts(j, buf, ": ") &&
             print_repr(j, buf, &dict->entries[i].value);
    return ok && kept_jinja_buf_puts(j, buf, "}");
}

bool kept_jinja_print(struct kept_jinja *j, struct jinja_buf *buf, const struct jinja_value *value)
{
    char text[32];
    bool ok;
    if (!kept_jinja_steps(j, 1))
        return false;
    switch (value->kind) {
    case JINJA_UNDEFINED:
        return true;
    case JINJA_NONE:
        return kept_jinja_buf_puts(j, buf, "None");
    case JINJA_BOOL:
        return kept_jinja_buf_puts(j, buf, value->as.b ? "True" : "False");
    case JINJA_INT:
        kept_snprintf(text, sizeof text, "%lld", (long long)value->as.i);
        return kept_jinja_buf_puts(j, buf, text);
    case JINJA_FLOAT:
        return print_float(j, buf, value->as.f, false);
    case JINJA_STRING:
        return kept_jinja_buf_add(j, buf, value->as.s);
    case JINJA_LIST:
    case JINJA_DICT:
        if (!kept_jinja_enter(j))
            return false;
        ok = value->kind == JINJA_LIST ? print_list(j, buf, value->as.list)
                                       : print_dict(j, buf, value->as.dict);
        j->depth--;
        return ok;
    default:
        return kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "%s cannot be printed",
                               kept_jinja_kind_name(value));
    }
}

bool kept_jinja_to_text(struct kept_jinja *j, const struct jinja_value *value,
                        struct jinja_string *out)
{
    if (value->kind == JINJA_STRING) {
        *out = value->as.s;
        return true;
    }
    struct jinja_buf buf = {0};
    if (!kept_jinja_print(j, &buf, value))
        return false;
    *out = kept_jinja_buf_value(&buf).as.s;
    return true;
}

/* ---- JSON: as Python's json.dumps(ensure_ascii=False), indent < 0 being none ---- */

static bool json_break(struct kept_jinja *j, struct jinja_buf *buf, int indent, int level)
{
    if (indent < 0)
        return true;
    bool ok = kept_jinja_buf_puts(j, buf, "\n");
    for (int i = 0; ok && i < indent * level; i++)
        ok = kept_jinja_buf_puts(j, buf, " ");
    return ok;
}

static bool json_key(struct kept_jinja *j, struct jinja_buf *buf, const struct jinja_value *key,
                     int indent)
{
    if (key->kind == JINJA_STRING)
        return kept_jinja_json(j, buf, key, indent, 0);
    return kept_jinja_buf_puts(j, buf, "\"") && kept_jinja_json(j, buf, key, indent, 0) &&
           kept_jinja_buf_puts(j, buf, "\"");
}

static bool json_items(struct kept_jinja *j, struct jinja_buf *buf, const struct jinja_value *value,
                       int indent, int level)
{
    bool is_list = value->kind == JINJA_LIST;
    size_t n = is_list ? value->as.list->n : value->as.dict->n;
    bool ok = kept_jinja_buf_puts(j, buf, is_list ? "[" : "{");
    for (size_t i = 0; ok && i < n; i++) {
        ok = (!i || kept_jinja_buf_puts(j, buf, indent < 0 ? ", " : ",")) &&
             json_break(j, buf, indent, level + 1);
        if (ok && !is_list)
            ok = json_key(j, buf, &value->as.dict->entries[i].key, indent) &&
                 kept_jinja_buf_puts(j, buf, ": ");
        ok = ok && kept_jinja_json(j, buf,
                                   is_list ? &value->as.list->items[i]
                                           : &value->as.dict->entries[i].value,
                                   indent, level + 1);
    }
    return ok && (!n || json_break(j, buf, indent, level)) &&
           kept_jinja_buf_puts(j, buf, is_list ? "]" : "}");
}

bool kept_jinja_json(struct kept_jinja *j, struct jinja_buf *buf, const struct jinja_value *value,
                     int indent, int level)
{
    if (!kept_jinja_enter(j) || !kept_jinja_steps(j, 1))
        return false;
    bool ok;
    switch (value->kind) {
    case JINJA_NONE:
        ok = kept_jinja_buf_puts(j, buf, "null");
        break;
    case JINJA_BOOL:
        ok = kept_jinja_buf_puts(j, buf, value->as.b ? "true" : "false");
        break;
    case JINJA_FLOAT:
        ok = print_float(j, buf, value->as.f, true);
        break;
    case JINJA_STRING:
        ok = print_quoted(j, buf, value->as.s, true);
        break;
    case JINJA_LIST:
    case JINJA_DICT:
        ok = json_items(j, buf, value, indent, level);
        break;
    case JINJA_INT:
        ok = kept_jinja_print(j, buf, value);
        break;
    default:
        ok = kept_jinja_fail(j, KEPT_E_FORMAT, "%s has no JSON form", kept_jinja_kind_name(value));
    }
    j->depth--;
    return ok;
}

/* ---- searching and changing ---- */

size_t kept_jinja_find(struct jinja_string s, struct jinja_string part, size_t from)
{
    if (!part.n_bytes)
        return from;
    for (size_t at = from; at < s.n_bytes && s.n_bytes - at >= part.n_bytes; at++) {
        const char *first = memchr(s.bytes + at, part.bytes[0], s.n_bytes - at - part.n_bytes + 1);
        if (!first)
            return SIZE_MAX;
        at = (size_t)(first - s.bytes);
        if (memcmp(first, part.bytes, part.n_bytes) == 0)
            return at;
    }
    return SIZE_MAX;
}

static bool strips(struct jinja_string one, uint32_t rune, const struct jinja_string *chars)
{
    return chars ? kept_jinja_find(*chars, one, 0) != SIZE_MAX : kept_rune_is_space(rune);
}

struct jinja_string kept_jinja_strip(struct jinja_string s, const struct jinja_string *chars,
                                     bool left, bool right)
{
    uint32_t rune;
    while (left && s.n_bytes) {
        size_t n = kept_utf8_next(s.bytes, s.n_bytes, &rune);
        if (!strips(kept_jinja_sub(s, 0, n), rune, chars))
            break;
        s = kept_jinja_sub(s, n, s.n_bytes);
    }
    while (right && s.n_bytes) {
        size_t at = s.n_bytes - 1;
        while (at > 0 && s.n_bytes - at < 4 && ((unsigned char)s.bytes[at] & 0xC0u) == 0x80u)
            at--;
        (void)kept_utf8_next(s.bytes + at, s.n_bytes - at, &rune);
        if (!strips(kept_jinja_sub(s, at, s.n_bytes), rune, chars))
            break;
        s = kept_jinja_sub(s, 0, at);
    }
    return s;
}

bool kept_jinja_recase(struct kept_jinja *j, struct jinja_string s, enum jinja_case how,
                       struct jinja_value *out)
{
    struct jinja_buf buf = {0};
    bool in_word = false, first = true;
    for (size_t at = 0; at < s.n_bytes; first = false) {
        uint32_t rune;
        size_t n = kept_utf8_next(s.bytes + at, s.n_bytes - at, &rune);
        bool outside = s.mask && s.mask[at];
        bool upper = how == JINJA_UPPER || (how == JINJA_CAPITALIZE && first) ||
                     (how == JINJA_TITLE && !in_word);
        char text[4] = {s.bytes[at]};
        in_word = rune != KEPT_RUNE_NONE && kept_rune_is_cased(rune);
        size_t n_new =
            rune == KEPT_RUNE_NONE
                ? 1
                : kept_utf8_put(upper ? kept_rune_upper(rune) : kept_rune_lower(rune), text);
        if (!kept_jinja_steps(j, 1) || !kept_jinja_buf_fill(j, &buf, text, n_new, outside))
            return false;
        at += n;
    }
    *out = kept_jinja_buf_value(&buf);
    return true;
}

bool kept_jinja_replace(struct kept_jinja *j, struct jinja_string s, struct jinja_string from,
                        struct jinja_string to, int64_t max, struct jinja_value *out)
{
    struct jinja_buf buf = {0};
    size_t at = 0;
    if (!from.n_bytes)
        return kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "replacing an empty string is not supported");
    for (int64_t i = 0; max < 0 || i < max; i++) {
        size_t hit = kept_jinja_find(s, from, at);
        if (hit == SIZE_MAX)
            break;
        if (!kept_jinja_steps(j, 1 + (hit - at) / 8) ||
            !kept_jinja_buf_add(j, &buf, kept_jinja_sub(s, at, hit)) ||
            !kept_jinja_buf_add(j, &buf, to))
            return false;
        at = hit + from.n_bytes;
    }
    bool ok = kept_jinja_buf_add(j, &buf, kept_jinja_sub(s, at, s.n_bytes));
    *out = kept_jinja_buf_value(&buf);
    return ok;
}

static bool split_at_space(struct kept_jinja *j, struct jinja_string s, int64_t max,
                           struct jinja_value *out)
{
    for (;;) {
        s = kept_jinja_strip(s, NULL, true, false);
        if (!s.n_bytes)
            return true;
        size_t end = 0, n;
        uint32_t rune;
        for (; end < s.n_bytes; end += n) {
            n = kept_utf8_next(s.bytes + end, s.n_bytes - end, &rune);
            if (kept_rune_is_space(rune))
                break;
        }
        if (max >= 0 && (int64_t)out->as.list->n >= max)
            return kept_jinja_list_add(j, out,
                                       kept_jinja_str(kept_jinja_strip(s, NULL, false, true)));
        if (!kept_jinja_list_add(j, out, kept_jinja_str(kept_jinja_sub(s, 0, end))))
            return false;
        s = kept_jinja_sub(s, end, s.n_bytes);
    }
}

bool kept_jinja_split(struct kept_jinja *j, struct jinja_string s,
                      const struct jinja_string *separator, int64_t max, struct jinja_value *out)
{
    if (!kept_jinja_steps(j, 1 + s.n_bytes / 8) || !kept_jinja_list_new(j, out))
        return false;
    if (!separator)
        return split_at_space(j, s, max, out);
    if (!separator->n_bytes)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "split() by an empty string");
    size_t at = 0;
    while (max < 0 || (int64_t)out->as.list->n < max) {
        size_t hit = kept_jinja_find(s, *separator, at);
        if (hit == SIZE_MAX)
            break;
        if (!kept_jinja_list_add(j, out, kept_jinja_str(kept_jinja_sub(s, at, hit))))
            return false;
        at = hit + separator->n_bytes;
    }
    return kept_jinja_list_add(j, out, kept_jinja_str(kept_jinja_sub(s, at, s.n_bytes)));
}

/* formats/jinja_access.c: reaching into values: attributes, subscripts, slices, iteration, length.
 */
#include "formats/jinja.h"

#include "formats/unicode.h"

bool kept_jinja_length(struct kept_jinja *j, const struct jinja_value *value, int64_t *out)
{
    switch (value->kind) {
    case JINJA_UNDEFINED:
        *out = 0;
        return true;
    case JINJA_STRING:
        *out = (int64_t)kept_utf8_count(value->as.s.bytes, value->as.s.n_bytes);
        return kept_jinja_steps(j, 1 + value->as.s.n_bytes / 8);
    case JINJA_LIST:
        *out = (int64_t)value->as.list->n;
        return true;
    case JINJA_DICT:
        *out = (int64_t)value->as.dict->n;
        return true;
    default:
        return kept_jinja_fail(j, KEPT_E_FORMAT, "%s has no length", kept_jinja_kind_name(value));
    }
}

bool kept_jinja_iterate(struct kept_jinja *j, const struct jinja_value *value,
                        struct jinja_list **out)
{
    struct jinja_value list;
    if (value->kind == JINJA_LIST) {
        *out = value->as.list;
        return true;
    }
    if (!kept_jinja_list_new(j, &list))
        return false;
    *out = list.as.list;
    if (value->kind == JINJA_DICT) {
        for (size_t i = 0; i < value->as.dict->n; i++)
            if (!kept_jinja_list_add(j, &list, value->as.dict->entries[i].key))
                return false;
        return true;
    }
    if (value->kind == JINJA_STRING) {
        struct jinja_string s = value->as.s;
        for (size_t at = 0; at < s.n_bytes;) {
            uint32_t rune;
            size_t n = kept_utf8_next(s.bytes + at, s.n_bytes - at, &rune);
            if (!kept_jinja_list_add(j, &list, kept_jinja_str(kept_jinja_sub(s, at, at + n))))
                return false;
            at += n;
        }
        return true;
    }
    return value->kind == JINJA_UNDEFINED ||
           kept_jinja_fail(j, KEPT_E_FORMAT, "cannot loop over %s", kept_jinja_kind_name(value));
}

static bool refuse_undefined(struct kept_jinja *j, const struct jinja_value *value,
                             struct jinja_string name)
{
    if (value->kind != JINJA_UNDEFINED)
        return true;
    struct jinja_string what = value->as.s;
    return kept_jinja_fail(j, KEPT_E_FORMAT, "\"%.*s\" is undefined and has no \"%.*s\"",
                           (int)(what.n_bytes < 60 ? what.n_bytes : 60), what.bytes,
                           (int)(name.n_bytes < 60 ? name.n_bytes : 60), name.bytes);
}

bool kept_jinja_get_attr(struct kept_jinja *j, const struct jinja_value *value,
                         struct jinja_string name, struct jinja_value *out)
{
    if (!refuse_undefined(j, value, name))
        return false;
    const struct jinja_value *found =
        value->kind == JINJA_DICT ? kept_jinja_dict_get(value->as.dict, name) : NULL;
    *out = found ? *found : kept_jinja_undefined(name);
    return kept_jinja_steps(j, 1 + (value->kind == JINJA_DICT ? value->as.dict->n : 0));
}

/* Byte offset of character i of s. */
static size_t rune_offset(struct jinja_string s, int64_t i)
{
    size_t at = 0;
    for (uint32_t rune; i > 0 && at < s.n_bytes; i--)
        at += kept_utf8_next(s.bytes + at, s.n_bytes - at, &rune);
    return at;
}

bool kept_jinja_get_item(struct kept_jinja *j, const struct jinja_value *value,
                         const struct jinja_value *key, struct jinja_value *out)
{
    if (key->kind == JINJA_STRING)
        return kept_jinja_get_attr(j, value, key->as.s, out);
    int64_t i, n;
    if (!refuse_undefined(j, value, kept_jinja_text("item")))
        return false;
    *out = kept_jinja_undefined(kept_jinja_text("item"));
    if (value->kind == JINJA_DICT) {
        for (size_t e = 0; e < value->as.dict->n; e++) {
            bool same;
            if (!kept_jinja_equal(j, &value->as.dict->entries[e].key, key, &same))
                return false;
            if (same)
                *out = value->as.dict->entries[e].value;
        }
        return true;
    }
    if (!kept_jinja_integer(key, &i) || (value->kind != JINJA_LIST && value->kind != JINJA_STRING))
        return true;
    if (!kept_jinja_length(j, value, &n))
        return false;
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return true;
    if (value->kind == JINJA_LIST) {
        *out = value->as.list->items[i];
        return true;
    }
    size_t at = rune_offset(value->as.s, i);
    uint32_t rune;
    size_t n_bytes = kept_utf8_next(value->as.s.bytes + at, value->as.s.n_bytes - at, &rune);
    *out = kept_jinja_str(kept_jinja_sub(value->as.s, at, at + n_bytes));
    return true;
}

/* A slice's bound as Python reads it: from the end when negative, then clipped to [low, high]. */
static bool slice_bound(struct kept_jinja *j, const struct jinja_value *value, int64_t otherwise,
                        int64_t n, int64_t low, int64_t high, int64_t *out)
{
    if (value->kind == JINJA_NONE) {
        *out = otherwise;
        return true;
    }
    int64_t i;
    if (!kept_jinja_integer(value, &i))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "a slice's bound is %s, not an integer",
                               kept_jinja_kind_name(value));
    i = i < 0 ? (i < -n ? -1 : i + n) : i;
    *out = i < low ? low : i > high ? high : i;
    return true;
}

bool kept_jinja_slice(struct kept_jinja *j, const struct jinja_value *value,
                      const struct jinja_value bounds[3], struct jinja_value *out)
{
    int64_t n, begin = 0, end = 0, step = 1;
    if (value->kind != JINJA_LIST && value->kind != JINJA_STRING)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "cannot slice %s", kept_jinja_kind_name(value));
    if (bounds[2].kind != JINJA_NONE &&
        (!kept_jinja_integer(&bounds[2], &step) || step == 0 || step == INT64_MIN))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "a slice's step is not an integer other than 0");
    if (!kept_jinja_length(j, value, &n))
        return false;
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    if (!slice_bound(j, &bounds[0], step > 0 ? 0 : n - 1, n, low, high, &begin) ||
        !slice_bound(j, &bounds[1], step > 0 ? n : -1, n, low, high, &end))
        return false;
    if (value->kind == JINJA_STRING && step == 1) {
        size_t from = rune_offset(value->as.s, begin), to = rune_offset(value->as.s, end);
        *out = kept_jinja_str(kept_jinja_sub(value->as.s, from, to > from ? to : from));
        return true;
    }
    struct jinja_list *items;
    struct jinja_buf buf = {0};
    if (!kept_jinja_iterate(j, value, &items) || !kept_jinja_list_new(j, out))
        return false;
    out->as.list->is_tuple = value->kind == JINJA_LIST && value->as.list->is_tuple;
    for (int64_t i = begin; step > 0 ? i < end : i > end;) {
        bool ok = value->kind == JINJA_LIST ? kept_jinja_list_add(j, out, items->items[i])
                                            : kept_jinja_buf_add(j, &buf, items->items[i].as.s);
        if (!ok)
            return false;
        if (step > 0 ? step >= end - i : step <= end - i)
            break;
        i += step;
    }
    if (value->kind == JINJA_STRING)
        *out = kept_jinja_buf_value(&buf);
    return true;
}

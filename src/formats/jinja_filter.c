/* formats/jinja_filter.c: filters and tests by name, one function and one row each. */
#include "formats/jinja.h"

typedef bool (*filter_fn)(struct kept_jinja *j, const struct jinja_value *value,
                          const struct jinja_args *args, struct jinja_value *out);

const struct jinja_value *kept_jinja_arg(const struct jinja_args *args, size_t i, const char *name)
{
    if (i < args->n && !args->names[i].bytes)
        return &args->values[i];
    for (size_t k = 0; k < args->n; k++)
        if (args->names[k].bytes && kept_jinja_name_is(args->names[k], name))
            return &args->values[k];
    return NULL;
}

/* ---- of text ---- */

static bool recase(struct kept_jinja *j, const struct jinja_value *value, enum jinja_case how,
                   struct jinja_value *out)
{
    struct jinja_string s;
    return kept_jinja_to_text(j, value, &s) && kept_jinja_recase(j, s, how, out);
}

static bool filter_upper(struct kept_jinja *j, const struct jinja_value *value,
                         const struct jinja_args *args, struct jinja_value *out)
{
    (void)args;
    return recase(j, value, JINJA_UPPER, out);
}

static bool filter_lower(struct kept_jinja *j, const struct jinja_value *value,
                         const struct jinja_args *args, struct jinja_value *out)
{
    (void)args;
    return recase(j, value, JINJA_LOWER, out);
}

static bool filter_capitalize(struct kept_jinja *j, const struct jinja_value *value,
                              const struct jinja_args *args, struct jinja_value *out)
{
    (void)args;
    return recase(j, value, JINJA_CAPITALIZE, out);
}

static bool filter_title(struct kept_jinja *j, const struct jinja_value *value,
                         const struct jinja_args *args, struct jinja_value *out)
{
    (void)args;
    return recase(j, value, JINJA_TITLE, out);
}

static bool filter_trim(struct kept_jinja *j, const struct jinja_value *value,
                        const struct jinja_args *args, struct jinja_value *out)
{
    struct jinja_string s;
    const struct jinja_value *chars = kept_jinja_arg(args, 0, "chars");
    if (!kept_jinja_to_text(j, value, &s))
        return false;
    *out = kept_jinja_str(kept_jinja_strip(
        s, chars && chars->kind == JINJA_STRING ? &chars->as.s : NULL, true, true));
    return kept_jinja_steps(j, 1 + s.n_bytes / 8);
}

static bool filter_string(struct kept_jinja *j, const struct jinja_value *value,
                          const struct jinja_args *args, struct jinja_value *out)
{
    struct jinja_string s;
    (void)args;
    if (!kept_jinja_to_text(j, value, &s))
        return false;
    *out = kept_jinja_str(s);
    return true;
}

static bool filter_replace(struct kept_jinja *j, const struct jinja_value *value,
                           const struct jinja_args *args, struct jinja_value *out)
{
    const struct jinja_value *from = kept_jinja_arg(args, 0, "old"),
                             *to = kept_jinja_arg(args, 1, "new");
    const struct jinja_value *count = kept_jinja_arg(args, 2, "count");
    struct jinja_string s, old, fresh;
    int64_t max = -1;
    if (!from || !to || (count && !kept_jinja_integer(count, &max)))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "replace takes two strings and a count");
    return kept_jinja_to_text(j, value, &s) && kept_jinja_to_text(j, from, &old) &&
           kept_jinja_to_text(j, to, &fresh) && kept_jinja_replace(j, s, old, fresh, max, out);
}

static bool filter_indent(struct kept_jinja *j, const struct jinja_value *value,
                          const struct jinja_args *args, struct jinja_value *out)
{
    const struct jinja_value *width = kept_jinja_arg(args, 0, "width"),
                             *first = kept_jinja_arg(args, 1, "first");
    const struct jinja_value *blank = kept_jinja_arg(args, 2, "blank");
    int64_t n = 4;
    struct jinja_value lines, space;
    struct jinja_string s, newline = kept_jinja_text("\n");
    struct jinja_buf buf = {0};
    if (width && width->kind != JINJA_STRING && !kept_jinja_integer(width, &n))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "indent's width is %s",
                               kept_jinja_kind_name(width));
    struct jinja_value one = kept_jinja_str(kept_jinja_text(" ")), count = kept_jinja_int(n);
    if (width && width->kind == JINJA_STRING)
        space = *width;
    else if (!kept_jinja_binary(j, JINJA_OP_MUL, &one, &count, &space))
        return false;
    if (!kept_jinja_to_text(j, value, &s) || !kept_jinja_split(j, s, &newline, -1, &lines))
        return false;
    for (size_t i = 0; i < lines.as.list->n; i++) {
        struct jinja_string line = lines.as.list->items[i].as.s;
        bool indents = i ? line.n_bytes || (blank && kept_jinja_truth(blank))
                         : first && kept_jinja_truth(first);
        if ((i && !kept_jinja_buf_puts(j, &buf, "\n")) ||
            (indents && !kept_jinja_buf_add(j, &buf, space.as.s)) ||
            !kept_jinja_buf_add(j, &buf, line))
            return false;
    }
    *out = kept_jinja_buf_value(&buf);
    return true;
}

static bool filter_tojson(struct kept_jinja *j, const struct jinja_value *value,
                          const struct jinja_args *args, struct jinja_value *out)
{
    const struct jinja_value *given = kept_jinja_arg(args, 1, "indent");
    int64_t indent = -1;
    struct jinja_buf buf = {0};
    if (given && given->kind != JINJA_NONE &&
        (!kept_jinja_integer(given, &indent) || indent < 0 || indent > 64))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "tojson's indent is not an integer 0…64");
    if (!kept_jinja_json(j, &buf, value, (int)indent, 0))
        return false;
    *out = kept_jinja_buf_value(&buf);
    return true;
}

/* ---- of lists ---- */

static bool filter_length(struct kept_jinja *j, const struct jinja_value *value,
                          const struct jinja_args *args, struct jinja_value *out)
{
    (void)args;
    *out = kept_jinja_int(0);
    return kept_jinja_length(j, value, &out->as.i);
}

static bool item_at_end(struct kept_jinja *j, const struct jinja_value *value, bool last,
                        struct jinja_value *out)
{
    struct jinja_list *list;
    if (!kept_jinja_iterate(j, value, &list))
        return false;
    *out = list->n ? list->items[last ? list->n - 1 : 0]
                   : kept_jinja_undefined(kept_jinja_text("item"));
    return true;
}

static bool filter_first(struct kept_jinja *j, const struct jinja_value *value,
                         const struct jinja_args *args, struct jinja_value *out)
{
    (void)args;
    return item_at_end(j, value, false, out);
}

static bool filter_last(struct kept_jinja *j, const struct jinja_value *value,
                        const struct jinja_args *args, struct jinja_value *out)
{
    (void)args;
    return item_at_end(j, value, true, out);
}

static bool filter_list(struct kept_jinja *j, const struct jinja_value *value,
                        const struct jinja_args *args, struct jinja_value *out)
{
    struct jinja_list *list;
    (void)args;
    if (!kept_jinja_iterate(j, value, &list) || !kept_jinja_list_new(j, out))
        return false;
    for (size_t i = 0; i < list->n; i++)
        if (!kept_jinja_list_add(j, out, list->items[i]))
            return false;
    return true;
}

static bool filter_reverse(struct kept_jinja *j, const struct jinja_value *value,
                           const struct jinja_args *args, struct jinja_value *out)
{
    struct jinja_value none = {.kind = JINJA_NONE}, bounds[3] = {none, none, kept_jinja_int(-1)};
    (void)args;
    return kept_jinja_slice(j, value, bounds, out);
}

static bool filter_join(struct kept_jinja *j, const struct jinja_value *value,
                        const struct jinja_args *args, struct jinja_value *out)
{
    const struct jinja_value *between = kept_jinja_arg(args, 0, "d"),
                             *attr = kept_jinja_arg(args, 1, "attribute");
    struct jinja_string separator = kept_jinja_text("");
    struct jinja_list *list;
    struct jinja_buf buf = {0};
    if (!kept_jinja_iterate(j, value, &list) ||
        (between && !kept_jinja_to_text(j, between, &separator)))
        return false;
    for (size_t i = 0; i < list->n; i++) {
        struct jinja_value item = list->items[i];
        if ((attr && !kept_jinja_get_item(j, &list->items[i], attr, &item)) ||
            (i && !kept_jinja_buf_add(j, &buf, separator)) || !kept_jinja_print(j, &buf, &item))
            return false;
    }
    *out = kept_jinja_buf_value(&buf);
    return true;
}

static bool filter_items(struct kept_jinja *j, const struct jinja_value *value,
                         const struct jinja_args *args, struct jinja_value *out)
{
    struct jinja_args none = {0};
    bool known;
    (void)args;
    if (value->kind == JINJA_UNDEFINED)
        return kept_jinja_list_new(j, out);
    if (value->kind != JINJA_DICT)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "%s has no items", kept_jinja_kind_name(value));
    return kept_jinja_method(j, value, kept_jinja_text("items"), &none, &known, out);
}

/* Arguments from i on, as the arguments of a filter or test named by an argument. */
static struct jinja_args args_from(const struct jinja_args *args, size_t i)
{
    struct jinja_args rest = {0};
    for (; i < args->n; i++) {
        rest.values[rest.n] = args->values[i];
        rest.names[rest.n++] = args->names[i];
    }
    return rest;
}

static bool filter_map(struct kept_jinja *j, const struct jinja_value *value,
                       const struct jinja_args *args, struct jinja_value *out)
{
    const struct jinja_value *attr = kept_jinja_arg(args, KEPT_JINJA_MAX_ARGS, "attribute");
    const struct jinja_value *otherwise = kept_jinja_arg(args, KEPT_JINJA_MAX_ARGS, "default");
    const struct jinja_value *name = kept_jinja_arg(args, 0, "filter");
    struct jinja_args rest = args_from(args, 1);
    struct jinja_list *list;
    if (!attr && (!name || name->kind != JINJA_STRING))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "map takes a filter's name or attribute=");
    if (!kept_jinja_iterate(j, value, &list) || !kept_jinja_list_new(j, out))
        return false;
    for (size_t i = 0; i < list->n; i++) {
        struct jinja_value item;
        bool ok = attr ? kept_jinja_get_item(j, &list->items[i], attr, &item)
                       : kept_jinja_filter(j, name->as.s, &list->items[i], &rest, &item);
        if (ok && otherwise && item.kind == JINJA_UNDEFINED)
            item = *otherwise;
        if (!ok || !kept_jinja_list_add(j, out, item))
            return false;
    }
    return true;
}

/* select, reject (test, args…) and selectattr, rejectattr (attribute, test, args…). */
static bool select_items(struct kept_jinja *j, const struct jinja_value *value,
                         const struct jinja_args *args, bool by_attr, bool wanted,
                         struct jinja_value *out)
{
    const struct jinja_value *attr = by_attr ? kept_jinja_arg(args, 0, "attr") : NULL;
    const struct jinja_value *test = kept_jinja_arg(args, by_attr, "test");
    struct jinja_args rest = args_from(args, 1 + (size_t)by_attr);
    struct jinja_list *list;
    if ((by_attr && !attr) || (test && test->kind != JINJA_STRING))
        return kept_jinja_fail(j, KEPT_E_FORMAT,
                               "select and reject take an attribute and a test's name");
    if (!kept_jinja_iterate(j, value, &list) || !kept_jinja_list_new(j, out))
        return false;
    for (size_t i = 0; i < list->n; i++) {
        struct jinja_value item = list->items[i];
        bool holds;
        if (attr && !kept_jinja_get_item(j, &list->items[i], attr, &item))
            return false;
        if (!test)
            holds = kept_jinja_truth(&item);
        else if (!kept_jinja_test(j, test->as.s, &item, &rest, &holds))
            return false;
        if (holds == wanted && !kept_jinja_list_add(j, out, list->items[i]))
            return false;
    }
    return true;
}

static bool filter_select(struct kept_jinja *j, const struct jinja_value *value,
                          const struct jinja_args *args, struct jinja_value *out)
{
    return select_items(j, value, args, false, true, out);
}

static bool filter_reject(struct kept_jinja *j, const struct jinja_value *value,
                          const struct jinja_args *args, struct jinja_value *out)
{
    return select_items(j, value, args, false, false, out);
}

static bool filter_selectattr(struct kept_jinja *j, const struct jinja_value *value,
                              const struct jinja_args *args, struct jinja_value *out)
{
    return select_items(j, value, args, true, true, out);
}

static bool filter_rejectattr(struct kept_jinja *j, const struct jinja_value *value,
                              const struct jinja_args *args, struct jinja_value *out)
{
    return select_items(j, value, args, true, false, out);
}

/* ---- of anything ---- */

static bool filter_default(struct kept_jinja *j, const struct jinja_value *value,
                           const struct jinja_args *args, struct jinja_value *out)
{
    const struct jinja_value *otherwise = kept_jinja_arg(args, 0, "default_value");
    const struct jinja_value *by_truth = kept_jinja_arg(args, 1, "boolean");
    bool replaces = value->kind == JINJA_UNDEFINED ||
                    (by_truth && kept_jinja_truth(by_truth) && !kept_jinja_truth(value));
    *out = !replaces ? *value : otherwise ? *otherwise : kept_jinja_str(kept_jinja_text(""));
    return kept_jinja_steps(j, 1);
}

static bool filter_int(struct kept_jinja *j, const struct jinja_value *value,
                       const struct jinja_args *args, struct jinja_value *out)
{
    const struct jinja_value *otherwise = kept_jinja_arg(args, 0, "default");
    char text[64];
    int64_t i;
    double f;
    if (value->kind == JINJA_STRING && value->as.s.n_bytes < sizeof text) {
        struct jinja_string s = kept_jinja_strip(value->as.s, NULL, true, true);
        kept_snprintf(text, sizeof text, "%.*s", (int)s.n_bytes, s.bytes);
        if (kept_parse_i64(text, &i)) {
            *out = kept_jinja_int(i);
            return true;
        }
        if (!kept_parse_f64(text, &f))
            f = 1e300;
    } else if (!kept_jinja_number(value, &f)) {
        f = 1e300;
    } else if (kept_jinja_integer(value, &i)) {
        *out = kept_jinja_int(i);
        return true;
    }
    if (f > -9e18 && f < 9e18)
        *out = kept_jinja_int((int64_t)f);
    else
        *out = otherwise ? *otherwise : kept_jinja_int(0);
    return kept_jinja_steps(j, 1);
}

static bool filter_abs(struct kept_jinja *j, const struct jinja_value *value,
                       const struct jinja_args *args, struct jinja_value *out)
{
    double f;
    struct jinja_value zero = kept_jinja_int(0);
    (void)args;
    *out = *value;
    if (!kept_jinja_number(value, &f))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "%s has no absolute value",
                               kept_jinja_kind_name(value));
    return f >= 0 || kept_jinja_binary(j, JINJA_OP_SUB, &zero, value, out);
}

static bool filter_safe(struct kept_jinja *j, const struct jinja_value *value,
                        const struct jinja_args *args, struct jinja_value *out)
{
    (void)args;
    *out = *value; /* nothing is escaped here */
    return kept_jinja_steps(j, 1);
}

bool kept_jinja_filter(struct kept_jinja *j, struct jinja_string name,
                       const struct jinja_value *value, const struct jinja_args *args,
                       struct jinja_value *out)
{
    static const struct {
        const char *name;
        filter_fn fn;
    } filters[] = {
        {"trim", filter_trim},
        {"upper", filter_upper},
        {"lower", filter_lower},
        {"length", filter_length},
        {"count", filter_length},
        {"tojson", filter_tojson},
        {"default", filter_default},
        {"d", filter_default},
        {"join", filter_join},
        {"first", filter_first},
        {"last", filter_last},
        {"replace", filter_replace},
        {"string", filter_string},
        {"list", filter_list},
        {"items", filter_items},
        {"map", filter_map},
        {"select", filter_select},
        {"reject", filter_reject},
        {"selectattr", filter_selectattr},
        {"rejectattr", filter_rejectattr},
        {"reverse", filter_reverse},
        {"indent", filter_indent},
        {"capitalize", filter_capitalize},
        {"title", filter_title},
        {"int", filter_int},
        {"abs", filter_abs},
        {"safe", filter_safe},
    };
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (kept_jinja_name_is(name, filters[i].name)) {
            bool ok = kept_jinja_enter(j) && filters[i].fn(j, value, args, out);
            j->depth -= ok;
            return ok;
        }
    return kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "the filter \"%.*s\" is not supported",
                           (int)(name.n_bytes < 60 ? name.n_bytes : 60), name.bytes);
}

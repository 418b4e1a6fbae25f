/* formats/jinja_call.c: tests, the functions a chat template may call, and methods of strings and
 * dicts. */
#include "formats/jinja.h"

#include <string.h>

/* ---- tests ---- */

/* Tests of the value's kind alone. Returns false when the name is none of these. */
static bool kind_test(struct jinja_string name, const struct jinja_value *value, bool *out)
{
    enum {
        UNDEFINED = 1 << JINJA_UNDEFINED,
        NONE = 1 << JINJA_NONE,
        BOOL = 1 << JINJA_BOOL,
        INT = 1 << JINJA_INT,
        FLOAT = 1 << JINJA_FLOAT,
        STRING = 1 << JINJA_STRING,
        LIST = 1 << JINJA_LIST,
        DICT = 1 << JINJA_DICT,
        MACRO = 1 << JINJA_MACRO
    };
    static const struct {
        const char *name;
        int kinds;
    } tests[] = {
        {"undefined", UNDEFINED},
        {"none", NONE},
        {"boolean", BOOL},
        {"integer", INT},
        {"float", FLOAT},
        {"number", BOOL | INT | FLOAT},
        {"string", STRING},
        {"mapping", DICT},
        {"callable", MACRO},
        {"defined", NONE | BOOL | INT | FLOAT | STRING | LIST | DICT | MACRO},
        {"sequence", STRING | LIST | DICT | UNDEFINED},
        {"iterable", STRING | LIST | DICT | UNDEFINED},
    };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (kept_jinja_name_is(name, tests[i].name)) {
            *out = (tests[i].kinds >> value->kind & 1) != 0;
            return true;
        }
    return false;
}

static enum jinja_op comparison_test(struct jinja_string name)
{
    static const struct {
        const char *name;
        enum jinja_op op;
    } tests[] = {
        {"eq", JINJA_OP_EQ},          {"equalto", JINJA_OP_EQ},  {"==", JINJA_OP_EQ},
        {"ne", JINJA_OP_NE},          {"!=", JINJA_OP_NE},       {"lt", JINJA_OP_LT},
        {"<", JINJA_OP_LT},           {"lessthan", JINJA_OP_LT}, {"le", JINJA_OP_LE},
        {"<=", JINJA_OP_LE},          {"gt", JINJA_OP_GT},       {">", JINJA_OP_GT},
        {"greaterthan", JINJA_OP_GT}, {"ge", JINJA_OP_GE},       {">=", JINJA_OP_GE},
        {"in", JINJA_OP_IN},
    };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (kept_jinja_name_is(name, tests[i].name))
            return tests[i].op;
    return JINJA_OP_NONE;
}

static bool number_test(struct kept_jinja *j, struct jinja_string name,
                        const struct jinja_value *value, const struct jinja_value *arg, bool *known,
                        bool *out)
{
    int64_t i, by = 2;
    bool odd = kept_jinja_name_is(name, "odd"), divisible = kept_jinja_name_is(name, "divisibleby");
    *known = odd || divisible || kept_jinja_name_is(name, "even");
    if (!*known)
        return true;
    if (!kept_jinja_integer(value, &i) ||
        (divisible && (!arg || !kept_jinja_integer(arg, &by) || !by)))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "the test needs integers, this is %s",
                               kept_jinja_kind_name(value));
    *out = (by == -1 || i % by == 0) != odd;
    return true;
}

/* "is lower", "is upper": there are cased characters and all are of that case. */
static bool case_test(struct kept_jinja *j, const struct jinja_value *value, enum jinja_case how,
                      bool *out)
{
    struct jinja_string s;
    struct jinja_value same, other;
    if (!kept_jinja_to_text(j, value, &s) || !kept_jinja_recase(j, s, how, &same) ||
        !kept_jinja_recase(j, s, how == JINJA_UPPER ? JINJA_LOWER : JINJA_UPPER, &other))
        return false;
    *out = kept_jinja_same(s, same.as.s) && !kept_jinja_same(s, other.as.s);
    return true;
}

bool kept_jinja_test(struct kept_jinja *j, struct jinja_string name,
                     const struct jinja_value *value, const struct jinja_args *args, bool *out)
{
    const struct jinja_value *arg = kept_jinja_arg(args, 0, "other");
    bool known;
    if (kind_test(name, value, out))
        return true;
    enum jinja_op op = comparison_test(name);
    if (op != JINJA_OP_NONE) {
        struct jinja_value holds;
        if (!arg)
            return kept_jinja_fail(j, KEPT_E_FORMAT, "the test \"%.*s\" needs an argument",
                                   (int)name.n_bytes, name.bytes);
        bool ok = kept_jinja_binary(j, op, value, arg, &holds);
        *out = ok && holds.as.b;
        return ok;
    }
    if (!number_test(j, name, value, arg, &known, out) || known)
        return known && !j->status;
    if (kept_jinja_name_is(name, "true") || kept_jinja_name_is(name, "false")) {
        *out = value->kind == JINJA_BOOL && value->as.b == kept_jinja_name_is(name, "true");
        return true;
    }
    if (kept_jinja_name_is(name, "lower") || kept_jinja_name_is(name, "upper"))
        return case_test(j, value, kept_jinja_name_is(name, "upper") ? JINJA_UPPER : JINJA_LOWER,
                         out);
    if (kept_jinja_name_is(name, "sameas"))
        return !arg ? kept_jinja_fail(j, KEPT_E_FORMAT, "the test \"sameas\" needs an argument")
                    : kept_jinja_equal(j, value, arg, out) &&
                          ((*out = *out && value->kind == arg->kind), true);
    return kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "the test \"%.*s\" is not supported",
                           (int)(name.n_bytes < 60 ? name.n_bytes : 60), name.bytes);
}

/* ---- functions ---- */

static bool call_range(struct kept_jinja *j, const struct jinja_args *args, struct jinja_value *out)
{
    int64_t bounds[3] = {0, 0, 1};
    bool ok = args->n >= 1 && args->n <= 3;
    for (size_t i = 0; ok && i < args->n; i++)
        ok = kept_jinja_integer(&args->values[i], &bounds[args->n == 1 ? 1 : i]);
    if (!ok || !bounds[2])
        return kept_jinja_fail(j, KEPT_E_FORMAT,
                               "range() takes one to three integers, the step not 0");
    if (!kept_jinja_list_new(j, out))
        return false;
    for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1];) {
        if (!kept_jinja_list_add(j, out, kept_jinja_int(i)))
            return false;
        if (bounds[2] > 0 ? i > INT64_MAX - bounds[2] : i < INT64_MIN - bounds[2])
            break;
        i += bounds[2];
    }
    return true;
}

bool kept_jinja_function(struct kept_jinja *j, struct jinja_string name,
                         const struct jinja_args *args, bool *known, struct jinja_value *out)
{
    *known = true;
    if (kept_jinja_name_is(name, "range"))
        return call_range(j, args, out);
    if (kept_jinja_name_is(name, "raise_exception")) {
        struct jinja_string message = kept_jinja_text("(no message)");
        if (args->n && !kept_jinja_to_text(j, &args->values[0], &message))
            return false;
        return kept_jinja_fail(j, KEPT_E_PROMPT, "the template refuses these messages: %.*s",
                               (int)(message.n_bytes < 300 ? message.n_bytes : 300), message.bytes);
    }
    *known = false;
    return true;
}

/* ---- methods ---- */

static bool text_arg(struct kept_jinja *j, const struct jinja_args *args, size_t i,
                     struct jinja_string *out)
{
    if (i >= args->n || args->values[i].kind != JINJA_STRING)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "argument %zu of a method is not a string", i + 1);
    *out = args->values[i].as.s;
    return true;
}

static bool call_strip(struct kept_jinja *j, struct jinja_string s, const struct jinja_args *args,
                       bool left, bool right, struct jinja_value *out)
{
    struct jinja_string chars;
    bool given = args->n && args->values[0].kind != JINJA_NONE;
    if (given && !text_arg(j, args, 0, &chars))
        return false;
    *out = kept_jinja_str(kept_jinja_strip(s, given ? &chars : NULL, left, right));
    return kept_jinja_steps(j, 1 + s.n_bytes / 8);
}

/* startswith, endswith; a tuple means any of them. */
static bool call_affix(struct kept_jinja *j, struct jinja_string s, const struct jinja_args *args,
                       bool at_end, struct jinja_value *out)
{
    struct jinja_value one =
        args->n ? args->values[0] : kept_jinja_undefined(kept_jinja_text("argument"));
    struct jinja_list single = {.items = &one, .n = 1},
                      *all = one.kind == JINJA_LIST ? one.as.list : &single;
    *out = kept_jinja_bool(false);
    for (size_t i = 0; i < all->n && !out->as.b; i++) {
        if (all->items[i].kind != JINJA_STRING)
            return kept_jinja_fail(j, KEPT_E_FORMAT,
                                   "startswith and endswith take strings, this is %s",
                                   kept_jinja_kind_name(&all->items[i]));
        struct jinja_string part = all->items[i].as.s;
        if (part.n_bytes <= s.n_bytes) {
            size_t at = at_end ? s.n_bytes - part.n_bytes : 0;
            out->as.b = kept_jinja_same(kept_jinja_sub(s, at, at + part.n_bytes), part);
        }
    }
    return kept_jinja_steps(j, 1 + all->n);
}

static bool call_split(struct kept_jinja *j, struct jinja_string s, const struct jinja_args *args,
                       struct jinja_value *out)
{
    const struct jinja_value *separator = kept_jinja_arg(args, 0, "sep"),
                             *most = kept_jinja_arg(args, 1, "maxsplit");
    int64_t max = -1;
    if (separator && separator->kind == JINJA_NONE)
        separator = NULL;
    if ((separator && separator->kind != JINJA_STRING) || (most && !kept_jinja_integer(most, &max)))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "split() takes a string and a count");
    return kept_jinja_split(j, s, separator ? &separator->as.s : NULL, max, out);
}

static bool call_replace(struct kept_jinja *j, struct jinja_string s, const struct jinja_args *args,
                         struct jinja_value *out)
{
    struct jinja_string from, to;
    int64_t max = -1;
    if (args->n > 2 && !kept_jinja_integer(&args->values[2], &max))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "replace() takes two strings and a count");
    return text_arg(j, args, 0, &from) && text_arg(j, args, 1, &to) &&
           kept_jinja_replace(j, s, from, to, max, out);
}

static bool call_find(struct kept_jinja *j, struct jinja_string s, const struct jinja_args *args,
                      bool counts, struct jinja_value *out)
{
    struct jinja_string part;
    if (!text_arg(j, args, 0, &part) || !kept_jinja_steps(j, 1 + s.n_bytes / 8))
        return false;
    if (!part.n_bytes)
        return kept_jinja_fail(j, KEPT_E_UNSUPPORTED,
                               "looking for an empty string is not supported");
    size_t at = kept_jinja_find(s, part, 0);
    struct jinja_value before = kept_jinja_str(kept_jinja_sub(s, 0, at == SIZE_MAX ? 0 : at));
    *out = kept_jinja_int(counts ? 0 : -1);
    if (!counts)
        return at == SIZE_MAX || kept_jinja_length(j, &before, &out->as.i);
    for (; at != SIZE_MAX; at = kept_jinja_find(s, part, at + part.n_bytes))
        out->as.i++;
    return true;
}

static bool call_join(struct kept_jinja *j, struct jinja_string s, const struct jinja_args *args,
                      struct jinja_value *out)
{
    struct jinja_args between = {.values = {kept_jinja_str(s)}, .n = 1};
    if (!args->n)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "join() takes a list");
    return kept_jinja_filter(j, kept_jinja_text("join"), &args->values[0], &between, out);
}

static bool string_method(struct kept_jinja *j, struct jinja_string s, struct jinja_string name,
                          const struct jinja_args *args, bool *known, struct jinja_value *out)
{
    static const char *const names[] = {"strip", "lstrip",  "rstrip", "startswith", "endswith",
                                        "split", "replace", "upper",  "lower",      "capitalize",
                                        "title", "find",    "count",  "join"};
    size_t i = 0;
    while (i < sizeof names / sizeof *names && !kept_jinja_name_is(name, names[i]))
        i++;
    *known = true;
    switch (i) {
    case 0:
        return call_strip(j, s, args, true, true, out);
    case 1:
        return call_strip(j, s, args, true, false, out);
    case 2:
        return call_strip(j, s, args, false, true, out);
    case 3:
        return call_affix(j, s, args, false, out);
    case 4:
        return call_affix(j, s, args, true, out);
    case 5:
        return call_split(j, s, args, out);
    case 6:
        return call_replace(j, s, args, out);
    case 7:
        return kept_jinja_recase(j, s, JINJA_UPPER, out);
    case 8:
        return kept_jinja_recase(j, s, JINJA_LOWER, out);
    case 9:
        return kept_jinja_recase(j, s, JINJA_CAPITALIZE, out);
    case 10:
        return kept_jinja_recase(j, s, JINJA_TITLE, out);
    case 11:
        return call_find(j, s, args, false, out);
    case 12:
        return call_find(j, s, args, true, out);
    case 13:
        return call_join(j, s, args, out);
    default:
        *known = false;
        return true;
    }
}

/* keys, values, items: part 0, 1, 2. */
static bool dict_parts(struct kept_jinja *j, const struct jinja_dict *dict, int part,
                       struct jinja_value *out)
{
    if (!kept_jinja_list_new(j, out))
        return false;
    for (size_t i = 0; i < dict->n; i++) {
        struct jinja_value item = part ? dict->entries[i].value : dict->entries[i].key;
        if (part == 2) {
            if (!kept_jinja_list_new(j, &item) ||
                !kept_jinja_list_add(j, &item, dict->entries[i].key) ||
                !kept_jinja_list_add(j, &item, dict->entries[i].value))
                return false;
            item.as.list->is_tuple = true;
        }
        if (!kept_jinja_list_add(j, out, item))
            return false;
    }
    return true;
}

static bool dict_method(struct kept_jinja *j, const struct jinja_value *value,
                        struct jinja_string name, const struct jinja_args *args, bool *known,
                        struct jinja_value *out)
{
    static const char *const parts[] = {"keys", "values", "items"};
    const struct jinja_dict *dict = value->as.dict;
    *known = true;
    for (int part = 0; part < 3; part++)
        if (kept_jinja_name_is(name, parts[part]))
            return dict_parts(j, dict, part, out);
    if (kept_jinja_name_is(name, "get") && args->n) {
        struct jinja_value otherwise =
            args->n > 1 ? args->values[1] : (struct jinja_value){.kind = JINJA_NONE};
        if (!kept_jinja_get_item(j, value, &args->values[0], out))
            return false;
        if (out->kind == JINJA_UNDEFINED)
            *out = otherwise;
        return true;
    }
    const struct jinja_value *turn = kept_jinja_dict_get(dict, kept_jinja_text("index0"));
    if (kept_jinja_name_is(name, "cycle") && turn && turn->kind == JINJA_INT && args->n) {
        *out = args->values[(uint64_t)turn->as.i % args->n];
        return true;
    }
    *known = false;
    return true;
}

bool kept_jinja_method(struct kept_jinja *j, const struct jinja_value *value,
                       struct jinja_string name, const struct jinja_args *args, bool *known,
                       struct jinja_value *out)
{
    *known = false;
    if (value->kind == JINJA_STRING)
        return string_method(j, value->as.s, name, args, known, out);
    if (value->kind == JINJA_DICT)
        return dict_method(j, value, name, args, known, out);
    return true;
}

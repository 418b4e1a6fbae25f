/* formats/jinja_value.c: values: truth, comparison, arithmetic, containers. Python's rules, with
 * 64-bit integers: what would be larger is an error. */
#include "formats/jinja.h"

#include <math.h>
#include <string.h>

#include "formats/unicode.h"

struct jinja_string kept_jinja_text(const char *literal)
{
    return (struct jinja_string){.bytes = literal, .n_bytes = strlen(literal)};
}

struct jinja_value kept_jinja_bool(bool b)
{
    return (struct jinja_value){.kind = JINJA_BOOL, .as.b = b};
}

struct jinja_value kept_jinja_int(int64_t i)
{
    return (struct jinja_value){.kind = JINJA_INT, .as.i = i};
}

struct jinja_value kept_jinja_str(struct jinja_string s)
{
    return (struct jinja_value){.kind = JINJA_STRING, .as.s = s};
}

struct jinja_value kept_jinja_undefined(struct jinja_string name)
{
    return (struct jinja_value){.kind = JINJA_UNDEFINED, .as.s = name};
}

bool kept_jinja_same(struct jinja_string a, struct jinja_string b)
{
    return a.n_bytes == b.n_bytes && (!a.n_bytes || memcmp(a.bytes, b.bytes, a.n_bytes) == 0);
}

bool kept_jinja_name_is(struct jinja_string s, const char *literal)
{
    return kept_jinja_same(s, kept_jinja_text(literal));
}

const char *kept_jinja_kind_name(const struct jinja_value *value)
{
    static const char *const names[] = {"undefined",  "none",     "a boolean",
                                        "an integer", "a number", "a string",
                                        "a list",     "a dict",   "a macro"};
    return names[value->kind];
}

bool kept_jinja_truth(const struct jinja_value *value)
{
    switch (value->kind) {
    case JINJA_BOOL:
        return value->as.b;
    case JINJA_INT:
        return value->as.i != 0;
    case JINJA_FLOAT:
        return value->as.f != 0;
    case JINJA_STRING:
        return value->as.s.n_bytes != 0;
    case JINJA_LIST:
        return value->as.list->n != 0;
    case JINJA_DICT:
        return value->as.dict->n != 0 || value->as.dict->is_namespace;
    case JINJA_MACRO:
        return true;
    default:
        return false;
    }
}

bool kept_jinja_integer(const struct jinja_value *value, int64_t *out)
{
    if (value->kind != JINJA_INT && value->kind != JINJA_BOOL)
        return false;
    *out = value->kind == JINJA_INT ? value->as.i : value->as.b;
    return true;
}

bool kept_jinja_number(const struct jinja_value *value, double *out)
{
    int64_t i;
    if (kept_jinja_integer(value, &i))
        *out = (double)i;
    else if (value->kind == JINJA_FLOAT)
        *out = value->as.f;
    else
        return false;
    return true;
}

/* ---- comparison ---- */

static bool equal_lists(struct kept_jinja *j, const struct jinja_list *a,
                        const struct jinja_list *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++)
        if (!kept_jinja_equal(j, &a->items[i], &b->items[i], out))
            return false;
    return true;
}

static bool find_key(struct kept_jinja *j, const struct jinja_dict *dict,
                     const struct jinja_value *key, struct jinja_entry **out)
{
    *out = NULL;
    for (size_t i = 0; i < dict->n; i++) {
        bool same;
        if (!kept_jinja_equal(j, &dict->entries[i].key, key, &same))
            return false;
        if (same) {
            *out = &dict->entries[i];
            return true;
        }
    }
    return true;
}

static bool equal_dicts(struct kept_jinja *j, const struct jinja_dict *a,
                        const struct jinja_dict *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        struct jinja_entry *other;
        if (!find_key(j, b, &a->entries[i].key, &other))
            return false;
        *out = other != NULL;
        if (other && !kept_jinja_equal(j, &a->entries[i].value, &other->value, out))
            return false;
    }
    return true;
}

bool kept_jinja_equal(struct kept_jinja *j, const struct jinja_value *a,
                      const struct jinja_value *b, bool *out)
{
    double x, y;
    int64_t m, n;
    if (kept_jinja_integer(a, &m) && kept_jinja_integer(b, &n)) {
        *out = m == n;
        return kept_jinja_steps(j, 1);
    }
    if (kept_jinja_number(a, &x) && kept_jinja_number(b, &y)) {
        *out = x == y;
        return kept_jinja_steps(j, 1);
    }
    *out = false;
    if (a->kind != b->kind)
        return kept_jinja_steps(j, 1);
    bool ok = true;
    switch (a->kind) {
    case JINJA_STRING:
        *out = kept_jinja_same(a->as.s, b->as.s);
        return kept_jinja_steps(j, 1 + (*out ? a->as.s.n_bytes / 64 : 0));
    case JINJA_LIST:
    case JINJA_DICT:
        if (!kept_jinja_enter(j) || !kept_jinja_steps(j, 1))
            return false;
        ok = a->kind == JINJA_LIST ? equal_lists(j, a->as.list, b->as.list, out)
                                   : equal_dicts(j, a->as.dict, b->as.dict, out);
        j->depth--;
        return ok;
    case JINJA_MACRO:
        *out = a->as.macro == b->as.macro;
        return true;
    default:
        *out = true;
        return true;
    }
}

bool kept_jinja_contains(struct kept_jinja *j, const struct jinja_value *all,
                         const struct jinja_value *one, bool *out)
{
    struct jinja_entry *found = NULL;
    *out = false;
    switch (all->kind) {
    case JINJA_UNDEFINED:
        return true;
    case JINJA_STRING:
        if (one->kind != JINJA_STRING)
            break;
        *out = kept_jinja_find(all->as.s, one->as.s, 0) != SIZE_MAX;
        return kept_jinja_steps(j, 1 + all->as.s.n_bytes / 8);
    case JINJA_DICT:
        if (!find_key(j, all->as.dict, one, &found))
            return false;
        *out = found != NULL;
        return true;
    case JINJA_LIST:
        for (size_t i = 0; i < all->as.list->n && !*out; i++)
            if (!kept_jinja_equal(j, &all->as.list->items[i], one, out))
                return false;
        return true;
    default:
        break;
    }
    return kept_jinja_fail(j, KEPT_E_FORMAT, "cannot look for %s in %s", kept_jinja_kind_name(one),
                           kept_jinja_kind_name(all));
}

static bool order(struct kept_jinja *j, enum jinja_op op, const struct jinja_value *a,
                  const struct jinja_value *b, struct jinja_value *out)
{
    double x, y;
    int64_t m, n;
    int less, greater;
    if (kept_jinja_integer(a, &m) && kept_jinja_integer(b, &n)) {
        less = m<n, greater = m> n;
    } else if (kept_jinja_number(a, &x) && kept_jinja_number(b, &y)) {
        less = x<y, greater = x> y;
    } else if (a->kind == JINJA_STRING && b->kind == JINJA_STRING) {
        size_t n_min = a->as.s.n_bytes < b->as.s.n_bytes ? a->as.s.n_bytes : b->as.s.n_bytes;
        int c = n_min ? memcmp(a->as.s.bytes, b->as.s.bytes, n_min) : 0;
        less = c < 0 || (c == 0 && a->as.s.n_bytes < b->as.s.n_bytes);
        greater = c > 0 || (c == 0 && a->as.s.n_bytes > b->as.s.n_bytes);
    } else {
        return kept_jinja_fail(j, KEPT_E_FORMAT, "cannot order %s and %s", kept_jinja_kind_name(a),
                               kept_jinja_kind_name(b));
    }
    *out = kept_jinja_bool(op == JINJA_OP_LT   ? less
                           : op == JINJA_OP_GT ? greater
                           : op == JINJA_OP_LE ? !greater
                                               : !less);
    return true;
}

/* ---- arithmetic ---- */

static bool integer_result(enum jinja_op op, int64_t a, int64_t b, int64_t *out)
{
    switch (op) {
    case JINJA_OP_ADD:
        if (b > 0 ? a > INT64_MAX - b : a < INT64_MIN - b)
            return false;
        *out = a + b;
        return true;
    case JINJA_OP_SUB:
        if (b > 0 ? a < INT64_MIN + b : a > INT64_MAX + b)
            return false;
        *out = a - b;
        return true;
    case JINJA_OP_MUL:
        if (a && b &&
            (a == INT64_MIN || b == INT64_MIN || (a < 0 ? -a : a) > INT64_MAX / (b < 0 ? -b : b)))
            return false;
        *out = a * b;
        return true;
    default: /* division rounds down, the remainder has the divisor's sign */
        if (a == INT64_MIN && b == -1)
            return false;
        *out = op == JINJA_OP_FLOOR_DIV ? a / b : a % b;
        if (a % b && (a < 0) != (b < 0))
            *out += op == JINJA_OP_FLOOR_DIV ? -1 : b;
        return true;
    }
}

static double float_result(enum jinja_op op, double a, double b)
{
    switch (op) {
    case JINJA_OP_ADD:
        return a + b;
    case JINJA_OP_SUB:
        return a - b;
    case JINJA_OP_MUL:
        return a * b;
    case JINJA_OP_DIV:
        return a / b;
    case JINJA_OP_FLOOR_DIV:
        return floor(a / b);
    default:
        return a - b * floor(a / b);
    }
}

static bool repeat(struct kept_jinja *j, struct jinja_string s, int64_t times,
                   struct jinja_value *out)
{
    struct jinja_buf buf = {0};
    for (int64_t i = 0; i < times && s.n_bytes; i++)
        if (!kept_jinja_steps(j, 1) || !kept_jinja_buf_add(j, &buf, s))
            return false;
    *out = kept_jinja_buf_value(&buf);
    return true;
}

static bool join_lists(struct kept_jinja *j, const struct jinja_list *a, const struct jinja_list *b,
                       struct jinja_value *out)
{
    if (!kept_jinja_list_new(j, out))
        return false;
    for (size_t i = 0; i < a->n + b->n; i++)
        if (!kept_jinja_list_add(j, out, i < a->n ? a->items[i] : b->items[i - a->n]))
            return false;
    return true;
}

static bool join_texts(struct kept_jinja *j, const struct jinja_value *a,
                       const struct jinja_value *b, struct jinja_value *out)
{
    struct jinja_buf buf = {0};
    if (!kept_jinja_print(j, &buf, a) || !kept_jinja_print(j, &buf, b))
        return false;
    *out = kept_jinja_buf_value(&buf);
    return true;
}

static bool arithmetic(struct kept_jinja *j, enum jinja_op op, const struct jinja_value *a,
                       const struct jinja_value *b, struct jinja_value *out)
{
    static const char *const signs[] = {"", "+", "-", "*", "/", "//", "%"};
    int64_t m, n;
    double x, y;
    if (op == JINJA_OP_ADD && a->kind == JINJA_STRING && b->kind == JINJA_STRING)
        return join_texts(j, a, b, out);
    if (op == JINJA_OP_ADD && a->kind == JINJA_LIST && b->kind == JINJA_LIST)
        return join_lists(j, a->as.list, b->as.list, out);
    if (op == JINJA_OP_MUL && a->kind == JINJA_STRING && kept_jinja_integer(b, &n))
        return repeat(j, a->as.s, n, out);
    if (op == JINJA_OP_MUL && b->kind == JINJA_STRING && kept_jinja_integer(a, &m))
        return repeat(j, b->as.s, m, out);
    if (!kept_jinja_number(a, &x) || !kept_jinja_number(b, &y))
        return kept_jinja_fail(j, KEPT_E_FORMAT, "%s %s %s is not possible",
                               kept_jinja_kind_name(a), signs[op], kept_jinja_kind_name(b));
    if (op >= JINJA_OP_DIV && y == 0)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "division by zero");
    if (op != JINJA_OP_DIV && kept_jinja_integer(a, &m) && kept_jinja_integer(b, &n)) {
        *out = kept_jinja_int(0);
        return integer_result(op, m, n, &out->as.i) ||
               kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "an integer does not fit in 64 bits");
    }
    *out = (struct jinja_value){.kind = JINJA_FLOAT, .as.f = float_result(op, x, y)};
    return true;
}

bool kept_jinja_binary(struct kept_jinja *j, enum jinja_op op, const struct jinja_value *a,
                       const struct jinja_value *b, struct jinja_value *out)
{
    bool holds;
    switch (op) {
    case JINJA_OP_CONCAT:
        return join_texts(j, a, b, out);
    case JINJA_OP_EQ:
    case JINJA_OP_NE:
        if (!kept_jinja_equal(j, a, b, &holds))
            return false;
        *out = kept_jinja_bool(holds == (op == JINJA_OP_EQ));
        return true;
    case JINJA_OP_IN:
    case JINJA_OP_NOT_IN:
        if (!kept_jinja_contains(j, b, a, &holds))
            return false;
        *out = kept_jinja_bool(holds == (op == JINJA_OP_IN));
        return true;
    case JINJA_OP_LT:
    case JINJA_OP_LE:
    case JINJA_OP_GT:
    case JINJA_OP_GE:
        return order(j, op, a, b, out);
    default:
        return arithmetic(j, op, a, b, out);
    }
}

/* ---- containers ---- */

bool kept_jinja_list_new(struct kept_jinja *j, struct jinja_value *out)
{
    *out = (struct jinja_value){.kind = JINJA_LIST};
    out->as.list = kept_jinja_alloc(j, 1, sizeof *out->as.list);
    return out->as.list != NULL;
}

bool kept_jinja_list_add(struct kept_jinja *j, struct jinja_value *value, struct jinja_value item)
{
    struct jinja_list *list = value->as.list;
    if (!kept_jinja_steps(j, 1))
        return false;
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 8;
        struct jinja_value *grown = kept_jinja_alloc(j, cap, sizeof *grown);
        if (!grown)
            return false;
        if (list->n)
            memcpy(grown, list->items, list->n * sizeof *grown);
        list->items = grown;
        list->cap = cap;
    }
    list->items[list->n++] = item;
    return true;
}

bool kept_jinja_dict_new(struct kept_jinja *j, struct jinja_value *out)
{
    *out = (struct jinja_value){.kind = JINJA_DICT};
    out->as.dict = kept_jinja_alloc(j, 1, sizeof *out->as.dict);
    return out->as.dict != NULL;
}

bool kept_jinja_dict_set(struct kept_jinja *j, struct jinja_dict *dict, struct jinja_value key,
                         struct jinja_value value)
{
    struct jinja_entry *old;
    if (key.kind == JINJA_LIST || key.kind == JINJA_DICT || key.kind == JINJA_UNDEFINED)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "%s cannot be a key", kept_jinja_kind_name(&key));
    if (!find_key(j, dict, &key, &old))
        return false;
    if (old) {
        old->value = value;
        return true;
    }
    if (dict->n == dict->cap) {
        size_t cap = dict->cap ? 2 * dict->cap : 8;
        struct jinja_entry *grown = kept_jinja_alloc(j, cap, sizeof *grown);
        if (!grown)
            return false;
        if (dict->n)
            memcpy(grown, dict->entries, dict->n * sizeof *grown);
        dict->entries = grown;
        dict->cap = cap;
    }
    dict->entries[dict->n++] = (struct jinja_entry){key, value};
    return true;
}

const struct jinja_value *kept_jinja_dict_get(const struct jinja_dict *dict,
                                              struct jinja_string key)
{
    for (size_t i = 0; i < dict->n; i++)
        if (dict->entries[i].key.kind == JINJA_STRING &&
            kept_jinja_same(dict->entries[i].key.as.s, key))
            return &dict->entries[i].value;
    return NULL;
}

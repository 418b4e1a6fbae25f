/* formats/jinja_expr.c: parses expressions, in Jinja's order of binding: inline if, or, and, not,
 * comparisons, + -,
 * ~, * / // %, unary signs, then attributes, subscripts, calls, filters and tests. */
#include "formats/jinja.h"

#include <string.h>

#include "formats/unicode.h"

static bool parse_unary(struct kept_jinja *j, bool with_filters, struct jinja_node **out);

const struct jinja_token *kept_jinja_peek(const struct kept_jinja *j)
{
    return &j->tokens[j->i_token];
}

bool kept_jinja_is(const struct kept_jinja *j, enum jinja_token_kind kind, const char *text)
{
    const struct jinja_token *token = kept_jinja_peek(j);
    return token->kind == kind && (!text || (strlen(text) == token->n_bytes &&
                                             memcmp(token->text, text, token->n_bytes) == 0));
}

bool kept_jinja_take(struct kept_jinja *j, enum jinja_token_kind kind, const char *text)
{
    if (!kept_jinja_is(j, kind, text))
        return false;
    j->i_token += kept_jinja_peek(j)->kind != JINJA_T_END;
    j->line = kept_jinja_peek(j)->line;
    return true;
}

bool kept_jinja_expect(struct kept_jinja *j, enum jinja_token_kind kind, const char *text)
{
    if (kept_jinja_take(j, kind, text))
        return true;
    static const char *const kinds[] = {"the end",    "text",     "{{",         "}}",
                                        "{%",         "%}",       "a name",     "a string",
                                        "an integer", "a number", "an operator"};
    const struct jinja_token *token = kept_jinja_peek(j);
    size_t n = token->n_bytes < 40 ? kept_utf8_valid_prefix(token->text, token->n_bytes) : 0;
    return kept_jinja_fail(j, KEPT_E_FORMAT, "expected %s, found %s \"%.*s\"",
                           text ? text : kinds[kind], kinds[token->kind], (int)n, token->text);
}

struct jinja_node *kept_jinja_node(struct kept_jinja *j, enum jinja_node_kind kind)
{
    struct jinja_node *node = kept_jinja_steps(j, 1) ? kept_jinja_alloc(j, 1, sizeof *node) : NULL;
    if (node) {
        node->kind = kind;
        node->line = kept_jinja_peek(j)->line;
    }
    return node;
}

static bool take_op(struct kept_jinja *j, const char *text)
{
    return kept_jinja_take(j, JINJA_T_OP, text);
}

static bool take_word(struct kept_jinja *j, const char *text)
{
    return kept_jinja_take(j, JINJA_T_NAME, text);
}

static bool const_node(struct kept_jinja *j, struct jinja_value value, struct jinja_node **out)
{
    *out = kept_jinja_node(j, JINJA_N_CONST);
    if (*out)
        (*out)->value = value;
    return *out != NULL;
}

static struct jinja_string token_text(const struct jinja_token *token)
{
    return (struct jinja_string){.bytes = token->text, .n_bytes = token->n_bytes};
}

/* ---- what an expression begins with ---- */

static bool parse_number(struct kept_jinja *j, struct jinja_node **out)
{
    const struct jinja_token *token = kept_jinja_peek(j);
    char digits[64];
    size_t n = 0;
    for (size_t i = 0; i < token->n_bytes && n + 1 < sizeof digits; i++)
        if (token->text[i] != '_')
            digits[n++] = token->text[i];
    digits[n] = '\0';
    struct jinja_value value = {0};
    bool ok;
    if (token->kind == JINJA_T_INT) {
        value.kind = JINJA_INT;
        ok = n < 20 && kept_parse_i64(digits, &value.as.i);
    } else {
        value.kind = JINJA_FLOAT;
        ok = kept_parse_f64(digits, &value.as.f);
    }
    if (!ok)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "the number %s is out of range", digits);
    j->i_token++;
    return const_node(j, value, out);
}

/* Strings that follow one another are one. */
static bool parse_strings(struct kept_jinja *j, struct jinja_node **out)
{
    struct jinja_string first = token_text(kept_jinja_peek(j));
    j->i_token++;
    if (!kept_jinja_is(j, JINJA_T_STRING, NULL))
        return const_node(j, kept_jinja_str(first), out);
    struct jinja_buf buf = {0};
    bool ok = kept_jinja_buf_add(j, &buf, first);
    for (; ok && kept_jinja_is(j, JINJA_T_STRING, NULL); j->i_token++)
        ok = kept_jinja_buf_add(j, &buf, token_text(kept_jinja_peek(j)));
    return ok && const_node(j, kept_jinja_buf_value(&buf), out);
}

static bool parse_name(struct kept_jinja *j, struct jinja_node **out)
{
    struct jinja_string name = token_text(kept_jinja_peek(j));
    j->i_token++;
    if (kept_jinja_name_is(name, "true") || kept_jinja_name_is(name, "True"))
        return const_node(j, kept_jinja_bool(true), out);
    if (kept_jinja_name_is(name, "false") || kept_jinja_name_is(name, "False"))
        return const_node(j, kept_jinja_bool(false), out);
    if (kept_jinja_name_is(name, "none") || kept_jinja_name_is(name, "None"))
        return const_node(j, (struct jinja_value){.kind = JINJA_NONE}, out);
    *out = kept_jinja_node(j, JINJA_N_NAME);
    if (*out)
        (*out)->name = name;
    return *out != NULL;
}

/* Items up to `close`, the opening bracket having been read; pairs with ":" between for a dict. */
static bool parse_items(struct kept_jinja *j, const char *close, bool pairs, struct jinja_node *to)
{
    struct jinja_node **tail = &to->items;
    while (!take_op(j, close)) {
        if (tail != &to->items && !kept_jinja_expect(j, JINJA_T_OP, ","))
            return false;
        if (take_op(j, close))
            break;
        for (int i = 0; i < 1 + pairs; i++, tail = &(*tail)->next)
            if ((i && !kept_jinja_expect(j, JINJA_T_OP, ":")) || !kept_jinja_parse_expr(j, tail))
                return false;
    }
    return true;
}

/* "(a)" is a; "(a, b)", "(a,)" and "()" are tuples. */
static bool parse_parens(struct kept_jinja *j, struct jinja_node **out)
{
    struct jinja_node *tuple = kept_jinja_node(j, JINJA_N_LIST);
    if (!tuple)
        return false;
    tuple->is_tuple = true;
    *out = tuple;
    if (take_op(j, ")"))
        return true;
    if (!kept_jinja_parse_expr(j, &tuple->items))
        return false;
    if (take_op(j, ")")) {
        *out = tuple->items;
        return true;
    }
    struct jinja_node *first = tuple->items, rest = {0};
    if (!kept_jinja_expect(j, JINJA_T_OP, ",") || !parse_items(j, ")", false, &rest))
        return false;
    first->next = rest.items;
    return true;
}

static bool parse_primary(struct kept_jinja *j, struct jinja_node **out)
{
    switch (kept_jinja_peek(j)->kind) {
    case JINJA_T_NAME:
        return parse_name(j, out);
    case JINJA_T_STRING:
        return parse_strings(j, out);
    case JINJA_T_INT:
    case JINJA_T_FLOAT:
        return parse_number(j, out);
    default:
        break;
    }
    if (take_op(j, "("))
        return parse_parens(j, out);
    bool is_dict = take_op(j, "{");
    if (is_dict || take_op(j, "[")) {
        *out = kept_jinja_node(j, is_dict ? JINJA_N_DICT : JINJA_N_LIST);
        return *out && parse_items(j, is_dict ? "}" : "]", is_dict, *out);
    }
    return kept_jinja_expect(j, JINJA_T_NAME, "an expression");
}

/* ---- what may follow it ---- */

bool kept_jinja_parse_args(struct kept_jinja *j, struct jinja_node **out)
{
    if (!kept_jinja_expect(j, JINJA_T_OP, "("))
        return false;
    struct jinja_node **tail = out;
    while (!take_op(j, ")")) {
        if (tail != out && !kept_jinja_expect(j, JINJA_T_OP, ","))
            return false;
        if (take_op(j, ")"))
            break;
        struct jinja_node *keyword = NULL;
        const struct jinja_token *next = kept_jinja_peek(j) + 1;
        if (kept_jinja_is(j, JINJA_T_NAME, NULL) && next->kind == JINJA_T_OP &&
            next->n_bytes == 1 && next->text[0] == '=') {
            keyword = kept_jinja_node(j, JINJA_N_KEYWORD);
            if (!keyword)
                return false;
            keyword->name = token_text(kept_jinja_peek(j));
            j->i_token += 2;
        }
        if (!kept_jinja_parse_expr(j, keyword ? &keyword->a : tail))
            return false;
        if (keyword)
            *tail = keyword;
        tail = &(*tail)->next;
    }
    return true;
}

static bool wrap(struct kept_jinja *j, enum jinja_node_kind kind, struct jinja_node **node)
{
    struct jinja_node *outer = kept_jinja_node(j, kind);
    if (!outer)
        return false;
    outer->a = *node;
    *node = outer;
    return true;
}

/* "[i]" or "[begin:end:step]", the bracket having been read. */
static bool parse_subscript(struct kept_jinja *j, struct jinja_node **node)
{
    struct jinja_node *bounds[3] = {0};
    int i = 0;
    bool is_slice = false;
    while (!take_op(j, "]")) {
        if (take_op(j, ":")) {
            is_slice = true;
            if (++i > 2)
                return kept_jinja_fail(j, KEPT_E_FORMAT, "a slice has more than three parts");
        } else if (bounds[i] || !kept_jinja_parse_expr(j, &bounds[i])) {
            return kept_jinja_expect(j, JINJA_T_OP, "]");
        }
    }
    if (!is_slice && !bounds[0])
        return kept_jinja_fail(j, KEPT_E_FORMAT, "a subscript is empty");
    if (!wrap(j, is_slice ? JINJA_N_SLICE : JINJA_N_INDEX, node))
        return false;
    if (!is_slice) {
        (*node)->b = bounds[0];
        return true;
    }
    struct jinja_node **tail = &(*node)->items;
    for (i = 0; i < 3; i++, tail = &(*tail)->next)
        if (bounds[i])
            *tail = bounds[i];
        else if (!const_node(j, (struct jinja_value){.kind = JINJA_NONE}, tail))
            return false;
    return true;
}

static bool parse_postfix(struct kept_jinja *j, struct jinja_node **node)
{
    for (;;) {
        if (take_op(j, ".")) {
            const struct jinja_token *token = kept_jinja_peek(j);
            bool is_index = token->kind == JINJA_T_INT;
            if (!wrap(j, is_index ? JINJA_N_INDEX : JINJA_N_ATTR, node))
                return false;
            (*node)->name = token_text(token);
            if (is_index ? !parse_number(j, &(*node)->b)
                         : !kept_jinja_expect(j, JINJA_T_NAME, NULL))
                return false;
        } else if (take_op(j, "[")) {
            if (!parse_subscript(j, node))
                return false;
        } else if (kept_jinja_is(j, JINJA_T_OP, "(")) {
            if (!wrap(j, JINJA_N_CALL, node) || !kept_jinja_parse_args(j, &(*node)->items))
                return false;
        } else {
            return true;
        }
    }
}

/* The one argument that a test may have without parentheses: "is divisibleby 3". */
static bool parse_test_arg(struct kept_jinja *j, struct jinja_node **out)
{
    static const char *const not_args[] = {"else", "or", "and", "is", "if", "not", "in", "for"};
    if (kept_jinja_is(j, JINJA_T_OP, "("))
        return kept_jinja_parse_args(j, out);
    enum jinja_token_kind kind = kept_jinja_peek(j)->kind;
    bool begins = kind == JINJA_T_NAME || kind == JINJA_T_STRING || kind == JINJA_T_INT ||
                  kind == JINJA_T_FLOAT || kept_jinja_is(j, JINJA_T_OP, "[") ||
                  kept_jinja_is(j, JINJA_T_OP, "{");
    for (size_t i = 0; i < sizeof not_args / sizeof *not_args; i++)
        begins = begins && !kept_jinja_is(j, JINJA_T_NAME, not_args[i]);
    return !begins || (parse_primary(j, out) && parse_postfix(j, out));
}

static bool parse_filters(struct kept_jinja *j, struct jinja_node **node)
{
    for (;;) {
        bool is_filter = take_op(j, "|"), negated = false;
        if (!is_filter) {
            if (!take_word(j, "is"))
                return true;
            negated = take_word(j, "not");
        }
        struct jinja_string name = token_text(kept_jinja_peek(j));
        if (!wrap(j, is_filter ? JINJA_N_FILTER : JINJA_N_TEST, node))
            return false;
        (*node)->name = name;
        bool ok = (!is_filter && take_word(j, "in")) || kept_jinja_expect(j, JINJA_T_NAME, NULL);
        if (ok && is_filter)
            ok = !kept_jinja_is(j, JINJA_T_OP, "(") || kept_jinja_parse_args(j, &(*node)->items);
        else if (ok)
            ok = parse_test_arg(j, &(*node)->items);
        if (!ok || (negated && !wrap(j, JINJA_N_NOT, node)))
            return false;
    }
}

/* ---- operators ---- */

static bool parse_unary(struct kept_jinja *j, bool with_filters, struct jinja_node **out)
{
    if (!kept_jinja_enter(j))
        return false;
    bool ok;
    if (take_op(j, "-"))
        ok = parse_unary(j, false, out) && wrap(j, JINJA_N_NEGATIVE, out);
    else if (take_op(j, "+"))
        ok = parse_unary(j, false, out);
    else
        ok = parse_primary(j, out);
    ok = ok && parse_postfix(j, out) && (!with_filters || parse_filters(j, out));
    j->depth--;
    return ok;
}

struct level {
    const char *text;
    enum jinja_op op;
};

static const struct level LEVELS[3][5] = {
    {{"+", JINJA_OP_ADD}, {"-", JINJA_OP_SUB}},
    {{"~", JINJA_OP_CONCAT}},
    {{"*", JINJA_OP_MUL}, {"//", JINJA_OP_FLOOR_DIV}, {"/", JINJA_OP_DIV}, {"%", JINJA_OP_MOD}},
};

static bool parse_level(struct kept_jinja *j, int level, struct jinja_node **out)
{
    if (level == 3)
        return parse_unary(j, true, out);
    if (!parse_level(j, level + 1, out))
        return false;
    for (const struct level *l = LEVELS[level]; l->text;) {
        if (!take_op(j, l->text)) {
            l++;
            continue;
        }
        if (!wrap(j, JINJA_N_BINARY, out) || !parse_level(j, level + 1, &(*out)->b))
            return false;
        (*out)->op = l->op;
        l = LEVELS[level];
    }
    if (kept_jinja_is(j, JINJA_T_OP, "**"))
        return kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "the operator ** is not supported");
    return true;
}

static enum jinja_op take_comparison(struct kept_jinja *j)
{
    static const struct level comparisons[] = {{"==", JINJA_OP_EQ}, {"!=", JINJA_OP_NE},
                                               {"<=", JINJA_OP_LE}, {"<", JINJA_OP_LT},
                                               {">=", JINJA_OP_GE}, {">", JINJA_OP_GT}};
    for (size_t i = 0; i < sizeof comparisons / sizeof *comparisons; i++)
        if (take_op(j, comparisons[i].text))
            return comparisons[i].op;
    if (take_word(j, "in"))
        return JINJA_OP_IN;
    const struct jinja_token *next = kept_jinja_peek(j);
    if (kept_jinja_is(j, JINJA_T_NAME, "not") && next[1].kind == JINJA_T_NAME &&
        next[1].n_bytes == 2 && memcmp(next[1].text, "in", 2) == 0) {
        j->i_token += 2;
        return JINJA_OP_NOT_IN;
    }
    return JINJA_OP_NONE;
}

static bool parse_compare(struct kept_jinja *j, struct jinja_node **out)
{
    if (!parse_level(j, 0, out))
        return false;
    enum jinja_op op = take_comparison(j);
    if (op == JINJA_OP_NONE)
        return true;
    if (!wrap(j, JINJA_N_COMPARE, out))
        return false;
    struct jinja_node **tail = &(*out)->items;
    for (; op != JINJA_OP_NONE; op = take_comparison(j), tail = &(*tail)->next) {
        *tail = kept_jinja_node(j, JINJA_N_BINARY);
        if (!*tail || !parse_level(j, 0, &(*tail)->b))
            return false;
        (*tail)->op = op;
    }
    return true;
}

static bool parse_not(struct kept_jinja *j, struct jinja_node **out)
{
    bool negated = false;
    while (take_word(j, "not"))
        negated = !negated;
    if (!parse_compare(j, out))
        return false;
    return !negated || wrap(j, JINJA_N_NOT, out);
}

static bool parse_and(struct kept_jinja *j, struct jinja_node **out)
{
    if (!parse_not(j, out))
        return false;
    while (take_word(j, "and"))
        if (!wrap(j, JINJA_N_AND, out) || !parse_not(j, &(*out)->b))
            return false;
    return true;
}

static bool parse_or(struct kept_jinja *j, struct jinja_node **out)
{
    if (!parse_and(j, out))
        return false;
    while (take_word(j, "or"))
        if (!wrap(j, JINJA_N_OR, out) || !parse_and(j, &(*out)->b))
            return false;
    return true;
}

bool kept_jinja_parse_expr(struct kept_jinja *j, struct jinja_node **out)
{
    if (!kept_jinja_enter(j))
        return false;
    bool ok = parse_or(j, out);
    while (ok && take_word(j, "if")) {
        ok = wrap(j, JINJA_N_COND, out) && parse_or(j, &(*out)->b);
        if (ok && take_word(j, "else"))
            ok = kept_jinja_parse_expr(j, &(*out)->c);
    }
    j->depth--;
    return ok;
}

/* ---- targets of set and for ---- */

static bool parse_one_target(struct kept_jinja *j, struct jinja_node **out)
{
    struct jinja_node *node = kept_jinja_node(j, JINJA_N_NAME);
    *out = node;
    if (!node)
        return false;
    node->name = token_text(kept_jinja_peek(j));
    if (!kept_jinja_expect(j, JINJA_T_NAME, NULL))
        return false;
    if (!take_op(j, "."))
        return true;
    if (!wrap(j, JINJA_N_ATTR, out))
        return false;
    (*out)->name = token_text(kept_jinja_peek(j));
    return kept_jinja_expect(j, JINJA_T_NAME, NULL);
}

bool kept_jinja_parse_target(struct kept_jinja *j, struct jinja_node **out)
{
    bool parens = take_op(j, "(");
    if (!parse_one_target(j, out))
        return false;
    if (kept_jinja_is(j, JINJA_T_OP, ",")) {
        struct jinja_node *tuple = kept_jinja_node(j, JINJA_N_LIST);
        if (!tuple)
            return false;
        tuple->items = *out;
        *out = tuple;
        for (struct jinja_node **tail = &tuple->items->next; take_op(j, ","); tail = &(*tail)->next)
            if (!parse_one_target(j, tail))
                return false;
    }
    return !parens || kept_jinja_expect(j, JINJA_T_OP, ")");
}

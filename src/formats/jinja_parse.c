/* formats/jinja_parse.c: parses statements: for, if, set, macro, break, continue, and the text
 * between them. Statements that chat templates have no use for (include, extends, block, call,
 * filter …) are refused by name. */
#include "formats/jinja.h"

#include <string.h>

#include "formats/unicode.h"

static bool parse_body(struct kept_jinja *j, const char *const *ends, struct jinja_node **out);

static bool block_end(struct kept_jinja *j)
{
    return kept_jinja_expect(j, JINJA_T_BLOCK_END, NULL);
}

static bool take_word(struct kept_jinja *j, const char *text)
{
    return kept_jinja_take(j, JINJA_T_NAME, text);
}

/* An expression, or several with commas between, which are a tuple. */
static bool parse_tuple(struct kept_jinja *j, struct jinja_node **out)
{
    if (!kept_jinja_parse_expr(j, out))
        return false;
    if (!kept_jinja_is(j, JINJA_T_OP, ","))
        return true;
    struct jinja_node *tuple = kept_jinja_node(j, JINJA_N_LIST);
    if (!tuple)
        return false;
    tuple->is_tuple = true;
    tuple->items = *out;
    *out = tuple;
    for (struct jinja_node **tail = &tuple->items->next; kept_jinja_take(j, JINJA_T_OP, ",");
         tail = &(*tail)->next)
        if (!kept_jinja_parse_expr(j, tail))
            return false;
    return true;
}

/* An expression of a for: "x for y in list if c" must not read "list if c" as an inline if without
 * else. */
static bool parse_for_list(struct kept_jinja *j, struct jinja_node *node)
{
    if (!parse_tuple(j, &node->b))
        return false;
    struct jinja_node *list = node->b;
    if (list->kind == JINJA_N_COND && !list->c) {
        node->b = list->a;
        node->c = list->b;
    }
    return true;
}

static bool parse_for(struct kept_jinja *j, struct jinja_node *node)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    if (!kept_jinja_parse_target(j, &node->a) || !kept_jinja_expect(j, JINJA_T_NAME, "in") ||
        !parse_for_list(j, node))
        return false;
    if (kept_jinja_is(j, JINJA_T_NAME, "recursive"))
        return kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "recursive loops are not supported");
    j->n_loops++;
    bool ok = block_end(j) && parse_body(j, ends, &node->items);
    j->n_loops--;
    if (ok && take_word(j, "else"))
        ok = block_end(j) && parse_body(j, last, &node->rest);
    return ok && kept_jinja_expect(j, JINJA_T_NAME, "endfor") && block_end(j);
}

static bool parse_if(struct kept_jinja *j, struct jinja_node *node)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif",
                                                                                        NULL};
    for (;;) {
        if (!kept_jinja_parse_expr(j, &node->a) || !block_end(j) ||
            !parse_body(j, ends, &node->items))
            return false;
        if (!take_word(j, "elif"))
            break;
        node->rest = kept_jinja_node(j, JINJA_N_IF);
        if (!node->rest)
            return false;
        node = node->rest;
    }
    if (take_word(j, "else") && (!block_end(j) || !parse_body(j, last, &node->rest)))
        return false;
    return kept_jinja_expect(j, JINJA_T_NAME, "endif") && block_end(j);
}

static bool parse_set(struct kept_jinja *j, struct jinja_node *node)
{
    static const char *const ends[] = {"endset", NULL};
    if (!kept_jinja_parse_target(j, &node->a))
        return false;
    if (kept_jinja_take(j, JINJA_T_OP, "="))
        return parse_tuple(j, &node->b) && block_end(j);
    if (kept_jinja_is(j, JINJA_T_OP, "|"))
        return kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "filters on a set block are not supported");
    return block_end(j) && parse_body(j, ends, &node->items) &&
           kept_jinja_expect(j, JINJA_T_NAME, "endset") && block_end(j);
}

static bool parse_macro(struct kept_jinja *j, struct jinja_node *node)
{
    static const char *const ends[] = {"endmacro", NULL};
    const struct jinja_token *name = kept_jinja_peek(j);
    node->name = (struct jinja_string){.bytes = name->text, .n_bytes = name->n_bytes};
    node->a = kept_jinja_node(j, JINJA_N_LIST);
    if (!node->a || !kept_jinja_expect(j, JINJA_T_NAME, NULL) ||
        !kept_jinja_parse_args(j, &node->a->items))
        return false;
    for (const struct jinja_node *p = node->a->items; p; p = p->next)
        if (p->kind != JINJA_N_NAME && p->kind != JINJA_N_KEYWORD)
            return kept_jinja_fail(j, KEPT_E_FORMAT, "a parameter of macro %.*s is not a name",
                                   (int)node->name.n_bytes, node->name.bytes);
    uint32_t n_loops = j->n_loops;
    j->n_loops = 0;
    bool ok = block_end(j) && parse_body(j, ends, &node->items) &&
              kept_jinja_expect(j, JINJA_T_NAME, "endmacro") && block_end(j);
    j->n_loops = n_loops;
    return ok;
}

static bool parse_jump(struct kept_jinja *j, struct jinja_node *node)
{
    if (!j->n_loops)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "break or continue outside a loop");
    (void)node;
    return block_end(j);
}

static bool parse_statement(struct kept_jinja *j, struct jinja_node **out)
{
    static const struct {
        const char *word;
        enum jinja_node_kind kind;
        bool (*parse)(struct kept_jinja *, struct jinja_node *);
    } statements[] = {
        {"for", JINJA_N_FOR, parse_for},      {"if", JINJA_N_IF, parse_if},
        {"set", JINJA_N_SET, parse_set},      {"macro", JINJA_N_MACRO, parse_macro},
        {"break", JINJA_N_BREAK, parse_jump}, {"continue", JINJA_N_CONTINUE, parse_jump},
    };
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!kept_jinja_is(j, JINJA_T_NAME, statements[i].word))
            continue;
        *out = kept_jinja_node(j, statements[i].kind);
        j->i_token++;
        return *out && statements[i].parse(j, *out);
    }
    const struct jinja_token *token = kept_jinja_peek(j);
    bool shown = token->kind == JINJA_T_NAME && token->n_bytes < 40;
    return kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "the statement \"%.*s\" is not supported here",
                           shown ? (int)token->n_bytes : 0, token->text);
}

static bool at_end_word(const struct kept_jinja *j, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (kept_jinja_is(j, JINJA_T_NAME, *ends))
            return true;
    return false;
}

/* Nodes up to a block that begins with one of `ends` (its "{%" is read, the word is next), or the
 * end if NULL. */
static bool parse_nodes(struct kept_jinja *j, const char *const *ends, struct jinja_node **tail)
{
    for (;;) {
        const struct jinja_token *token = kept_jinja_peek(j);
        j->line = token->line;
        if (token->kind == JINJA_T_DATA) {
            *tail = kept_jinja_node(j, JINJA_N_DATA);
            if (!*tail)
                return false;
            (*tail)->name = (struct jinja_string){.bytes = token->text, .n_bytes = token->n_bytes};
            j->i_token++;
        } else if (kept_jinja_take(j, JINJA_T_VAR_BEGIN, NULL)) {
            *tail = kept_jinja_node(j, JINJA_N_OUTPUT);
            if (!*tail || !parse_tuple(j, &(*tail)->a) ||
                !kept_jinja_expect(j, JINJA_T_VAR_END, NULL))
                return false;
        } else if (kept_jinja_take(j, JINJA_T_BLOCK_BEGIN, NULL)) {
            if (at_end_word(j, ends))
                return true;
            if (!parse_statement(j, tail))
                return false;
        } else if (!ends) {
            return kept_jinja_expect(j, JINJA_T_END, NULL);
        } else {
            return kept_jinja_fail(j, KEPT_E_FORMAT, "the template ends where %s is missing",
                                   ends[0]);
        }
        tail = &(*tail)->next;
    }
}

static bool parse_body(struct kept_jinja *j, const char *const *ends, struct jinja_node **out)
{
    if (!kept_jinja_enter(j))
        return false;
    bool ok = parse_nodes(j, ends, out);
    j->depth--;
    return ok;
}

bool kept_jinja_parse(struct kept_jinja *j, struct jinja_node **out)
{
    *out = NULL;
    return parse_nodes(j, NULL, out);
}

/* formats/jinja_eval.c: evaluates expressions by walking the tree. */
#include "formats/jinja.h"

static bool find_name(struct kept_jinja *j, struct jinja_string name, struct jinja_value *out)
{
    uint64_t n_steps = 0;
    *out = kept_jinja_undefined(name);
    for (const struct jinja_scope *scope = j->scope; scope; scope = scope->parent)
        for (const struct jinja_var *var = scope->vars; var; var = var->next, n_steps++)
            if (kept_jinja_same(var->name, name)) {
                *out = var->value;
                return kept_jinja_steps(j, n_steps);
            }
    return kept_jinja_steps(j, n_steps);
}

static bool eval_list(struct kept_jinja *j, const struct jinja_node *node, struct jinja_value *out)
{
    if (!kept_jinja_list_new(j, out))
        return false;
    out->as.list->is_tuple = node->is_tuple;
    for (const struct jinja_node *item = node->items; item; item = item->next) {
        struct jinja_value value;
        if (!kept_jinja_eval(j, item, &value) || !kept_jinja_list_add(j, out, value))
            return false;
    }
    return true;
}

static bool eval_dict(struct kept_jinja *j, const struct jinja_node *node, struct jinja_value *out)
{
    if (!kept_jinja_dict_new(j, out))
        return false;
    for (const struct jinja_node *item = node->items; item; item = item->next->next) {
        struct jinja_value key, value;
        if (!kept_jinja_eval(j, item, &key) || !kept_jinja_eval(j, item->next, &value) ||
            !kept_jinja_dict_set(j, out->as.dict, key, value))
            return false;
    }
    return true;
}

static bool eval_cond(struct kept_jinja *j, const struct jinja_node *node, struct jinja_value *out)
{
    struct jinja_value condition;
    if (!kept_jinja_eval(j, node->b, &condition))
        return false;
    if (kept_jinja_truth(&condition))
        return kept_jinja_eval(j, node->a, out);
    if (node->c)
        return kept_jinja_eval(j, node->c, out);
    *out = kept_jinja_undefined(kept_jinja_text("inline if without else"));
    return true;
}

/* "a < b < c" holds when every step does; later operands are not evaluated after one that does not.
 */
static bool eval_compare(struct kept_jinja *j, const struct jinja_node *node,
                         struct jinja_value *out)
{
    struct jinja_value left, right;
    if (!kept_jinja_eval(j, node->a, &left))
        return false;
    for (const struct jinja_node *step = node->items; step; step = step->next, left = right)
        if (!kept_jinja_eval(j, step->b, &right) ||
            !kept_jinja_binary(j, step->op, &left, &right, out))
            return false;
        else if (!out->as.b)
            return true;
    return true;
}

static bool eval_binary(struct kept_jinja *j, const struct jinja_node *node,
                        struct jinja_value *out)
{
    struct jinja_value a, b;
    return kept_jinja_eval(j, node->a, &a) && kept_jinja_eval(j, node->b, &b) &&
           kept_jinja_binary(j, node->op, &a, &b, out);
}

static bool eval_logic(struct kept_jinja *j, const struct jinja_node *node, struct jinja_value *out)
{
    if (!kept_jinja_eval(j, node->a, out))
        return false;
    if (node->kind == JINJA_N_NOT) {
        *out = kept_jinja_bool(!kept_jinja_truth(out));
        return true;
    }
    bool decided = kept_jinja_truth(out) == (node->kind == JINJA_N_OR);
    return decided || kept_jinja_eval(j, node->b, out);
}

static bool eval_negative(struct kept_jinja *j, const struct jinja_node *node,
                          struct jinja_value *out)
{
    struct jinja_value zero = kept_jinja_int(0), value;
    if (!kept_jinja_eval(j, node->a, &value))
        return false;
    if (value.kind == JINJA_FLOAT) {
        *out = (struct jinja_value){.kind = JINJA_FLOAT, .as.f = -value.as.f};
        return true;
    }
    return kept_jinja_binary(j, JINJA_OP_SUB, &zero, &value, out);
}

static bool eval_access(struct kept_jinja *j, const struct jinja_node *node,
                        struct jinja_value *out)
{
    struct jinja_value object, key, bounds[3];
    if (!kept_jinja_eval(j, node->a, &object))
        return false;
    if (node->kind == JINJA_N_ATTR)
        return kept_jinja_get_attr(j, &object, node->name, out);
    if (node->kind == JINJA_N_INDEX)
        return kept_jinja_eval(j, node->b, &key) && kept_jinja_get_item(j, &object, &key, out);
    const struct jinja_node *bound = node->items;
    for (int i = 0; i < 3; i++, bound = bound->next)
        if (!kept_jinja_eval(j, bound, &bounds[i]))
            return false;
    return kept_jinja_slice(j, &object, bounds, out);
}

bool kept_jinja_eval_args(struct kept_jinja *j, const struct jinja_node *first,
                          struct jinja_args *out)
{
    *out = (struct jinja_args){0};
    for (const struct jinja_node *arg = first; arg; arg = arg->next) {
        if (out->n == KEPT_JINJA_MAX_ARGS)
            return kept_jinja_fail(j, KEPT_E_UNSUPPORTED, "a call has more than %d arguments",
                                   KEPT_JINJA_MAX_ARGS);
        bool keyword = arg->kind == JINJA_N_KEYWORD;
        if (keyword)
            out->names[out->n] = arg->name;
        if (!kept_jinja_eval(j, keyword ? arg->a : arg, &out->values[out->n]))
            return false;
        out->n++;
    }
    return true;
}

/* namespace(a=1) and dict(a=1) take any number of keywords, so they are not functions of
 * jinja_args. */
static bool make_dict(struct kept_jinja *j, const struct jinja_node *first, bool is_namespace,
                      struct jinja_value *out)
{
    if (!kept_jinja_dict_new(j, out))
        return false;
    out->as.dict->is_namespace = is_namespace;
    for (const struct jinja_node *arg = first; arg; arg = arg->next) {
        struct jinja_value value;
        bool keyword = arg->kind == JINJA_N_KEYWORD;
        if (!kept_jinja_eval(j, keyword ? arg->a : arg, &value))
            return false;
        if (keyword) {
            if (!kept_jinja_dict_set(j, out->as.dict, kept_jinja_str(arg->name), value))
                return false;
            continue;
        }
        if (value.kind != JINJA_DICT)
            return kept_jinja_fail(j, KEPT_E_FORMAT,
                                   "namespace() and dict() take a dict, this is %s",
                                   kept_jinja_kind_name(&value));
        for (size_t i = 0; i < value.as.dict->n; i++)
            if (!kept_jinja_dict_set(j, out->as.dict, value.as.dict->entries[i].key,
                                     value.as.dict->entries[i].value))
                return false;
    }
    return true;
}

static bool call_value(struct kept_jinja *j, const struct jinja_value *callee,
                       struct jinja_string name, const struct jinja_args *args,
                       struct jinja_value *out)
{
    if (callee->kind == JINJA_MACRO)
        return kept_jinja_call_macro(j, callee->as.macro, args, out);
    return kept_jinja_fail(j, callee->kind == JINJA_UNDEFINED ? KEPT_E_UNSUPPORTED : KEPT_E_FORMAT,
                           "\"%.*s\" is %s and cannot be called",
                           (int)(name.n_bytes < 60 ? name.n_bytes : 60), name.bytes,
                           kept_jinja_kind_name(callee));
}

static bool eval_call(struct kept_jinja *j, const struct jinja_node *node, struct jinja_value *out)
{
    const struct jinja_node *target = node->a;
    struct jinja_value callee;
    struct jinja_args args;
    bool known = false;
    if (target->kind == JINJA_N_NAME) {
        if (!find_name(j, target->name, &callee))
            return false;
        bool is_namespace = kept_jinja_name_is(target->name, "namespace");
        if (callee.kind == JINJA_UNDEFINED &&
            (is_namespace || kept_jinja_name_is(target->name, "dict")))
            return make_dict(j, node->items, is_namespace, out);
        if (!kept_jinja_eval_args(j, node->items, &args))
            return false;
        if (callee.kind == JINJA_UNDEFINED &&
            (!kept_jinja_function(j, target->name, &args, &known, out) || known))
            return known && !j->status;
        return call_value(j, &callee, target->name, &args, out);
    }
    if (target->kind != JINJA_N_ATTR)
        return kept_jinja_eval(j, target, &callee) && kept_jinja_eval_args(j, node->items, &args) &&
               call_value(j, &callee, kept_jinja_text("the expression"), &args, out);
    struct jinja_value object;
    if (!kept_jinja_eval(j, target->a, &object) || !kept_jinja_eval_args(j, node->items, &args) ||
        !kept_jinja_method(j, &object, target->name, &args, &known, out))
        return false;
    return known || (kept_jinja_get_attr(j, &object, target->name, &callee) &&
                     call_value(j, &callee, target->name, &args, out));
}

static bool eval_filter(struct kept_jinja *j, const struct jinja_node *node,
                        struct jinja_value *out)
{
    struct jinja_value value;
    struct jinja_args args;
    bool holds = false;
    if (!kept_jinja_eval(j, node->a, &value) || !kept_jinja_eval_args(j, node->items, &args))
        return false;
    if (node->kind == JINJA_N_FILTER)
        return kept_jinja_filter(j, node->name, &value, &args, out);
    bool ok = kept_jinja_test(j, node->name, &value, &args, &holds);
    *out = kept_jinja_bool(holds);
    return ok;
}

static bool eval_node(struct kept_jinja *j, const struct jinja_node *node, struct jinja_value *out)
{
    switch (node->kind) {
    case JINJA_N_CONST:
        *out = node->value;
        return true;
    case JINJA_N_NAME:
        return find_name(j, node->name, out);
    case JINJA_N_LIST:
        return eval_list(j, node, out);
    case JINJA_N_DICT:
        return eval_dict(j, node, out);
    case JINJA_N_COND:
        return eval_cond(j, node, out);
    case JINJA_N_OR:
    case JINJA_N_AND:
    case JINJA_N_NOT:
        return eval_logic(j, node, out);
    case JINJA_N_COMPARE:
        return eval_compare(j, node, out);
    case JINJA_N_BINARY:
        return eval_binary(j, node, out);
    case JINJA_N_NEGATIVE:
        return eval_negative(j, node, out);
    case JINJA_N_ATTR:
    case JINJA_N_INDEX:
    case JINJA_N_SLICE:
        return eval_access(j, node, out);
    case JINJA_N_CALL:
        return eval_call(j, node, out);
    case JINJA_N_FILTER:
    case JINJA_N_TEST:
        return eval_filter(j, node, out);
    default:
        return kept_jinja_fail(j, KEPT_E_INTERNAL, "node %d is not an expression", (int)node->kind);
    }
}

bool kept_jinja_eval(struct kept_jinja *j, const struct jinja_node *node, struct jinja_value *out)
{
    j->line = node->line;
    if (!kept_jinja_enter(j) || !kept_jinja_steps(j, 1))
        return false;
    bool ok = eval_node(j, node, out);
    j->depth--;
    return ok;
}

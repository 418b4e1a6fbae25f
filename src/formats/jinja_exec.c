/* formats/jinja_exec.c: a run's bounds, its scopes, and statements.
 *
 * A loop's body and a macro's have their own scope, made anew for each turn; what they set is gone
 * behind them, as in Jinja (a namespace is the way out). Macros see the template's own variables,
 * not their caller's.
 */
#include "formats/jinja.h"

#include <stdarg.h>
#include <string.h>

#include "base/status.h"

#define MEMORY_BASE     (64u << 20)
#define MEMORY_PER_BYTE 64u
#define STEPS_BASE      4000000u
#define STEPS_PER_BYTE  8u

void kept_jinja_init(struct kept_jinja *j, size_t n_bytes, struct kept_error *err)
{
    size_t n =
        n_bytes < SIZE_MAX / (2 * MEMORY_PER_BYTE) ? n_bytes : SIZE_MAX / (2 * MEMORY_PER_BYTE);
    *j = (struct kept_jinja){.err = err,
                             .max_bytes = MEMORY_BASE + MEMORY_PER_BYTE * n,
                             .max_steps = STEPS_BASE + (uint64_t)STEPS_PER_BYTE * n};
    j->globals = j->scope = kept_jinja_alloc(j, 1, sizeof *j->globals);
}

void kept_jinja_finish(struct kept_jinja *j)
{
    kept_arena_finish(&j->arena);
}

bool kept_jinja_fail(struct kept_jinja *j, kept_status status, const char *fmt, ...)
{
    if (j->status)
        return false; /* the first failure is the one to tell */
    char text[400];
    va_list args;
    va_start(args, fmt);
    kept_vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    j->status = kept_fail(j->err, status, "chat template, line %u: %s", j->line, text);
    return false;
}

bool kept_jinja_steps(struct kept_jinja *j, uint64_t n)
{
    j->n_steps += n;
    return j->n_steps <= j->max_steps ||
           kept_jinja_fail(j, KEPT_E_FORMAT, "it takes more than %llu steps",
                           (unsigned long long)j->max_steps);
}

bool kept_jinja_enter(struct kept_jinja *j)
{
    if (j->depth >= KEPT_JINJA_MAX_DEPTH)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "it nests deeper than %u", KEPT_JINJA_MAX_DEPTH);
    j->depth++;
    return true;
}

void *kept_jinja_alloc(struct kept_jinja *j, size_t n, size_t size_bytes)
{
    if (j->status)
        return NULL;
    if (n > (j->max_bytes - j->n_used_bytes) / size_bytes) {
        kept_jinja_fail(j, KEPT_E_FORMAT, "it takes more than %zu bytes of memory", j->max_bytes);
        return NULL;
    }
    size_t n_bytes = n * size_bytes;
    void *p = kept_arena_alloc(&j->arena, n_bytes);
    if (!p)
        kept_jinja_fail(j, KEPT_E_HOST_MEMORY, "no memory for %zu bytes", n_bytes);
    size_t counted = n_bytes + 16;
    j->n_used_bytes =
        counted < j->max_bytes - j->n_used_bytes ? j->n_used_bytes + counted : j->max_bytes;
    return p;
}

/* ---- scopes ---- */

bool kept_jinja_set(struct kept_jinja *j, struct jinja_string name, struct jinja_value value)
{
    if (!j->scope)
        return false;
    for (struct jinja_var *var = j->scope->vars; var; var = var->next) {
        if (!kept_jinja_steps(j, 1))
            return false;
        if (kept_jinja_same(var->name, name)) {
            var->value = value;
            return true;
        }
    }
    struct jinja_var *var = kept_jinja_alloc(j, 1, sizeof *var);
    if (!var)
        return false;
    *var = (struct jinja_var){name, value, j->scope->vars};
    j->scope->vars = var;
    return true;
}

static bool push_scope(struct kept_jinja *j, struct jinja_scope *parent)
{
    struct jinja_scope *scope = kept_jinja_alloc(j, 1, sizeof *scope);
    if (!scope)
        return false;
    scope->parent = parent;
    j->scope = scope;
    return true;
}

static bool set_attr(struct kept_jinja *j, const struct jinja_node *target,
                     const struct jinja_value *value)
{
    struct jinja_value object;
    if (!kept_jinja_eval(j, target->a, &object))
        return false;
    if (object.kind != JINJA_DICT || !object.as.dict->is_namespace)
        return kept_jinja_fail(j, KEPT_E_FORMAT,
                               "only a namespace's attributes can be set, this is %s",
                               kept_jinja_kind_name(&object));
    return kept_jinja_dict_set(j, object.as.dict, kept_jinja_str(target->name), *value);
}

static bool assign(struct kept_jinja *j, const struct jinja_node *target,
                   const struct jinja_value *value)
{
    if (target->kind == JINJA_N_NAME)
        return kept_jinja_set(j, target->name, *value);
    if (target->kind == JINJA_N_ATTR)
        return set_attr(j, target, value);
    struct jinja_list *list;
    size_t n = 0;
    if (!kept_jinja_iterate(j, value, &list))
        return false;
    for (const struct jinja_node *t = target->items; t; t = t->next)
        n++;
    if (n != list->n)
        return kept_jinja_fail(j, KEPT_E_FORMAT, "%zu values for %zu names", list->n, n);
    n = 0;
    for (const struct jinja_node *t = target->items; t; t = t->next, n++)
        if (t->kind == JINJA_N_ATTR ? !set_attr(j, t, &list->items[n])
                                    : !kept_jinja_set(j, t->name, list->items[n]))
            return false;
    return true;
}

/* ---- loops ---- */

/* Sets `loop` for turn i; one dict serves all turns of a loop. */
static bool set_loop(struct kept_jinja *j, struct jinja_value *loop, const struct jinja_list *list,
                     size_t i)
{
    int64_t at = (int64_t)i, n = (int64_t)list->n;
    struct jinja_value none = kept_jinja_undefined(kept_jinja_text("loop item"));
    const struct {
        const char *name;
        struct jinja_value value;
    } fields[] = {
        {"index", kept_jinja_int(at + 1)},
        {"index0", kept_jinja_int(at)},
        {"revindex", kept_jinja_int(n - at)},
        {"revindex0", kept_jinja_int(n - at - 1)},
        {"first", kept_jinja_bool(i == 0)},
        {"last", kept_jinja_bool(i + 1 == list->n)},
        {"length", kept_jinja_int(n)},
        {"previtem", i ? list->items[i - 1] : none},
        {"nextitem", i + 1 < list->n ? list->items[i + 1] : none},
    };
    if (i == 0 && !kept_jinja_dict_new(j, loop))
        return false;
    struct jinja_dict *dict = loop->as.dict;
    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++) {
        if (i != 0)
            dict->entries[f].value = fields[f].value;
        else if (!kept_jinja_dict_set(j, dict, kept_jinja_str(kept_jinja_text(fields[f].name)),
                                      fields[f].value))
            return false;
    }
    return kept_jinja_set(j, kept_jinja_text("loop"), *loop);
}

/* The items for which the loop's condition holds; loop counters count only those. */
static bool filter_items(struct kept_jinja *j, const struct jinja_node *node,
                         struct jinja_list **list)
{
    struct jinja_value kept;
    struct jinja_scope *outer = j->scope;
    bool ok = kept_jinja_list_new(j, &kept);
    for (size_t i = 0; ok && i < (*list)->n; i++) {
        struct jinja_value holds;
        ok = push_scope(j, outer) && assign(j, node->a, &(*list)->items[i]) &&
             kept_jinja_eval(j, node->c, &holds);
        if (ok && kept_jinja_truth(&holds))
            ok = kept_jinja_list_add(j, &kept, (*list)->items[i]);
    }
    j->scope = outer;
    if (ok)
        *list = kept.as.list;
    return ok;
}

static bool exec_for(struct kept_jinja *j, const struct jinja_node *node)
{
    struct jinja_value value, loop;
    struct jinja_list *list;
    if (!kept_jinja_eval(j, node->b, &value) || !kept_jinja_iterate(j, &value, &list))
        return false;
    if (node->c && !filter_items(j, node, &list))
        return false;
    struct jinja_scope *outer = j->scope;
    bool ok = true;
    for (size_t i = 0; ok && i < list->n && j->flow != JINJA_BREAKS; i++) {
        j->flow = JINJA_GOES_ON;
        ok = push_scope(j, outer) && set_loop(j, &loop, list, i) &&
             assign(j, node->a, &list->items[i]) && kept_jinja_exec(j, node->items);
    }
    j->flow = JINJA_GOES_ON;
    if (ok && !list->n && node->rest)
        ok = push_scope(j, outer) && kept_jinja_exec(j, node->rest);
    j->scope = outer;
    return ok;
}

/* ---- other statements ---- */

static bool exec_if(struct kept_jinja *j, const struct jinja_node *node)
{
    for (;;) {
        struct jinja_value condition;
        if (!kept_jinja_eval(j, node->a, &condition))
            return false;
        if (kept_jinja_truth(&condition))
            return kept_jinja_exec(j, node->items);
        if (!node->rest || node->rest->kind != JINJA_N_IF || node->rest->next)
            return kept_jinja_exec(j, node->rest);
        node = node->rest;
    }
}

static bool exec_set(struct kept_jinja *j, const struct jinja_node *node)
{
    struct jinja_value value;
    if (node->b)
        return kept_jinja_eval(j, node->b, &value) && assign(j, node->a, &value);
    struct jinja_buf captured = {0}, *outer = j->out;
    struct jinja_scope *scope = j->scope;
    j->out = &captured;
    bool ok = push_scope(j, scope) && kept_jinja_exec(j, node->items);
    j->out = outer;
    j->scope = scope;
    value = kept_jinja_buf_value(&captured);
    return ok && assign(j, node->a, &value);
}

bool kept_jinja_call_macro(struct kept_jinja *j, const struct jinja_node *macro,
                           const struct jinja_args *args, struct jinja_value *out)
{
    struct jinja_buf captured = {0}, *outer = j->out;
    struct jinja_scope *scope = j->scope;
    enum jinja_flow flow = j->flow;
    if (!kept_jinja_enter(j))
        return false;
    j->out = &captured;
    j->flow = JINJA_GOES_ON;
    bool ok = push_scope(j, j->globals);
    size_t i = 0;
    for (const struct jinja_node *p = macro->a->items; ok && p; p = p->next, i++) {
        struct jinja_value value = kept_jinja_undefined(p->name);
        bool given = i < args->n && !args->names[i].bytes;
        if (given)
            value = args->values[i];
        for (size_t k = 0; k < args->n; k++)
            if (args->names[k].bytes && kept_jinja_same(args->names[k], p->name))
                value = args->values[k], given = true;
        if (!given && p->kind == JINJA_N_KEYWORD)
            ok = kept_jinja_eval(j, p->a, &value);
        ok = ok && kept_jinja_set(j, p->name, value);
    }
    ok = ok && kept_jinja_exec(j, macro->items);
    j->depth--;
    j->flow = flow;
    j->out = outer;
    j->scope = scope;
    *out = kept_jinja_buf_value(&captured);
    return ok;
}

static bool exec_one(struct kept_jinja *j, const struct jinja_node *node)
{
    struct jinja_value value;
    switch (node->kind) {
    case JINJA_N_DATA:
        return kept_jinja_buf_add(j, j->out, node->name);
    case JINJA_N_OUTPUT:
        return kept_jinja_eval(j, node->a, &value) && kept_jinja_print(j, j->out, &value);
    case JINJA_N_FOR:
        return exec_for(j, node);
    case JINJA_N_IF:
        return exec_if(j, node);
    case JINJA_N_SET:
        return exec_set(j, node);
    case JINJA_N_MACRO:
        value = (struct jinja_value){.kind = JINJA_MACRO, .as.macro = node};
        return kept_jinja_set(j, node->name, value);
    case JINJA_N_BREAK:
        j->flow = JINJA_BREAKS;
        return true;
    case JINJA_N_CONTINUE:
        j->flow = JINJA_CONTINUES;
        return true;
    default:
        return kept_jinja_fail(j, KEPT_E_INTERNAL, "node %d is not a statement", (int)node->kind);
    }
}

bool kept_jinja_exec(struct kept_jinja *j, const struct jinja_node *first)
{
    if (!kept_jinja_enter(j))
        return false;
    bool ok = true;
    for (const struct jinja_node *node = first; ok && node && j->flow == JINJA_GOES_ON;
         node = node->next) {
        j->line = node->line;
        ok = kept_jinja_steps(j, 1) && exec_one(j, node);
    }
    j->depth--;
    return ok;
}

bool kept_jinja_render(struct kept_jinja *j, const char *text, size_t n_bytes,
                       struct jinja_buf *out)
{
    struct jinja_node *first;
    *out = (struct jinja_buf){0};
    j->out = out;
    return !j->status && kept_jinja_lex(j, text, n_bytes) && kept_jinja_parse(j, &first) &&
           kept_jinja_exec(j, first);
}

/* formats/jinja.h: a small interpreter of the template language Jinja, for the chat templates in
 * model files.
 *
 * jinja_lex.c cuts a template into tokens, jinja_parse.c (statements) and jinja_expr.c
 * (expressions) make a tree, jinja_exec.c and jinja_eval.c walk it, jinja_value.c, jinja_text.c,
 * jinja_filter.c and jinja_call.c hold what values can do. White space is as Hugging Face sets it:
 * trim_blocks and lstrip_blocks.
 *
 * Every string knows, byte by byte, whether it came from outside the template (`mask`):
 * concatenation, slicing, filters keep it, so that the result says which bytes a message wrote
 * (kept/tokenizer.h, struct kept_chat_text).
 *
 * A run is bounded: steps, memory (all of it in one arena), depth and output; a template that
 * passes a bound fails with a sentence like any other error. Functions that can fail return false
 * after kept_jinja_fail.
 */
#ifndef KEPT_FORMATS_JINJA_H
#define KEPT_FORMATS_JINJA_H

#include "base/arena.h"
#include "base/str.h"
#include "kept/common.h"

#define KEPT_JINJA_MAX_DEPTH 200u

struct jinja_string {
    const char *bytes;
    const uint8_t *mask; /* 1: from outside the template; NULL: none is */
    size_t n_bytes;
};

enum jinja_kind {
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_DICT,
    JINJA_MACRO
};

struct jinja_node;
struct jinja_list;
struct jinja_dict;

struct jinja_value {
    enum jinja_kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        struct jinja_string s; /* of JINJA_UNDEFINED: the name that was not found */
        struct jinja_list *list;
        struct jinja_dict *dict;
        const struct jinja_node *macro;
    } as;
};

struct jinja_list {
    struct jinja_value *items;
    size_t n, cap;
    bool is_tuple; /* printed with parentheses */
};

struct jinja_entry {
    struct jinja_value key, value;
};

struct jinja_dict {
    struct jinja_entry *entries; /* in the order of insertion */
    size_t n, cap;
    bool is_namespace; /* its attributes can be set */
};

/* A string that grows. */
struct jinja_buf {
    char *bytes;
    uint8_t *mask; /* NULL until the first byte from outside */
    size_t n, cap;
};

/* ---- tokens ---- */

enum jinja_token_kind {
    JINJA_T_END,
    JINJA_T_DATA,
    JINJA_T_VAR_BEGIN,
    JINJA_T_VAR_END,
    JINJA_T_BLOCK_BEGIN,
    JINJA_T_BLOCK_END,
    JINJA_T_NAME,
    JINJA_T_STRING, /* text is already unescaped */
    JINJA_T_INT,
    JINJA_T_FLOAT,
    JINJA_T_OP
};

struct jinja_token {
    enum jinja_token_kind kind;
    uint32_t line;
    const char *text;
    size_t n_bytes;
};

/* ---- the tree ---- */

enum jinja_node_kind {
    JINJA_N_CONST,
    JINJA_N_NAME,
    JINJA_N_LIST,
    JINJA_N_DICT, /* items: key and value in turn */
    JINJA_N_COND, /* a if b else c */
    JINJA_N_OR,
    JINJA_N_AND,
    JINJA_N_NOT,
    JINJA_N_COMPARE, /* a, then items: JINJA_N_BINARY with op and b */
    JINJA_N_BINARY,
    JINJA_N_NEGATIVE,
    JINJA_N_ATTR,    /* a.name */
    JINJA_N_INDEX,   /* a[b] */
    JINJA_N_SLICE,   /* a[items: begin, end, step; a NULL constant where left out] */
    JINJA_N_CALL,    /* a(items) */
    JINJA_N_FILTER,  /* a|name(items) */
    JINJA_N_TEST,    /* a is name(items) */
    JINJA_N_KEYWORD, /* name=a, among arguments */
    JINJA_N_DATA,
    JINJA_N_OUTPUT, /* a */
    JINJA_N_FOR,    /* for target(a) in b if c: items, otherwise: rest */
    JINJA_N_IF,     /* if a: items, otherwise: rest, which may be one JINJA_N_IF */
    JINJA_N_SET,    /* target(a) = b, or target(a) = captured items where b is NULL */
    JINJA_N_MACRO,  /* name, parameters: a's items (NAME or KEYWORD), body: items */
    JINJA_N_BREAK,
    JINJA_N_CONTINUE
};

enum jinja_op {
    JINJA_OP_NONE,
    JINJA_OP_ADD,
    JINJA_OP_SUB,
    JINJA_OP_MUL,
    JINJA_OP_DIV,
    JINJA_OP_FLOOR_DIV,
    JINJA_OP_MOD,
    JINJA_OP_CONCAT,
    JINJA_OP_EQ,
    JINJA_OP_NE,
    JINJA_OP_LT,
    JINJA_OP_LE,
    JINJA_OP_GT,
    JINJA_OP_GE,
    JINJA_OP_IN,
    JINJA_OP_NOT_IN
};

struct jinja_node {
    enum jinja_node_kind kind;
    enum jinja_op op;
    bool is_tuple; /* of JINJA_N_LIST */
    uint32_t line;
    struct jinja_node *a, *b, *c;
    struct jinja_node *items; /* a list through next */
    struct jinja_node *rest;
    struct jinja_node *next;
    struct jinja_string name; /* names, data */
    struct jinja_value value; /* constants */
};

/* ---- a run ---- */

struct jinja_var {
    struct jinja_string name;
    struct jinja_value value;
    struct jinja_var *next;
};

struct jinja_scope {
    struct jinja_scope *parent;
    struct jinja_var *vars;
};

enum jinja_flow { JINJA_GOES_ON, JINJA_BREAKS, JINJA_CONTINUES };

struct kept_jinja {
    struct kept_arena arena;
    size_t n_used_bytes, max_bytes;
    uint64_t n_steps, max_steps;
    uint32_t depth;
    uint32_t line;
    struct kept_error *err;
    kept_status status;

    struct jinja_token *tokens;
    size_t n_tokens, cap_tokens, i_token;
    uint32_t n_loops; /* loops around the statement being parsed */

    struct jinja_scope *globals, *scope;
    struct jinja_buf *out;
    enum jinja_flow flow;
};

/* Arguments of a call, filter or test, evaluated. */
#define KEPT_JINJA_MAX_ARGS 8
struct jinja_args {
    struct jinja_value values[KEPT_JINJA_MAX_ARGS];
    struct jinja_string names[KEPT_JINJA_MAX_ARGS]; /* bytes NULL: positional */
    size_t n;
};

/* Bounds of a run over an input of n_bytes. */
void kept_jinja_init(struct kept_jinja *j, size_t n_bytes, struct kept_error *err);
void kept_jinja_finish(struct kept_jinja *j);
/* Parses and runs `text`; variables were set in j->globals before. The result is in *out, which
 * lives in j. */
bool kept_jinja_render(struct kept_jinja *j, const char *text, size_t n_bytes,
                       struct jinja_buf *out);

bool kept_jinja_fail(struct kept_jinja *j, kept_status status, const char *fmt, ...)
    KEPT_PRINTF(3, 4);
bool kept_jinja_steps(struct kept_jinja *j, uint64_t n); /* counts n steps */
/* Counts a level of nesting; pair with j->depth--. */
bool kept_jinja_enter(struct kept_jinja *j);
void *kept_jinja_alloc(struct kept_jinja *j, size_t n,
                       size_t size_bytes); /* zeroed; NULL after kept_jinja_fail */

bool kept_jinja_lex(struct kept_jinja *j, const char *text, size_t n_bytes);
bool kept_jinja_parse(struct kept_jinja *j, struct jinja_node **out);
bool kept_jinja_parse_expr(struct kept_jinja *j, struct jinja_node **out);
/* "a" or "a, b" or "(a, b)": what set and for assign to. */
bool kept_jinja_parse_target(struct kept_jinja *j, struct jinja_node **out);
/* "(…)" of a macro or call, the opening parenthesis being the current token. */
bool kept_jinja_parse_args(struct kept_jinja *j, struct jinja_node **out);
struct jinja_node *kept_jinja_node(struct kept_jinja *j, enum jinja_node_kind kind);
const struct jinja_token *kept_jinja_peek(const struct kept_jinja *j);
bool kept_jinja_is(const struct kept_jinja *j, enum jinja_token_kind kind, const char *text);
bool kept_jinja_take(struct kept_jinja *j, enum jinja_token_kind kind,
                     const char *text); /* if it is next */
bool kept_jinja_expect(struct kept_jinja *j, enum jinja_token_kind kind, const char *text);

bool kept_jinja_exec(struct kept_jinja *j, const struct jinja_node *first);
bool kept_jinja_eval(struct kept_jinja *j, const struct jinja_node *node, struct jinja_value *out);
bool kept_jinja_eval_args(struct kept_jinja *j, const struct jinja_node *first,
                          struct jinja_args *out);
bool kept_jinja_set(struct kept_jinja *j, struct jinja_string name, struct jinja_value value);
bool kept_jinja_call_macro(struct kept_jinja *j, const struct jinja_node *macro,
                           const struct jinja_args *args, struct jinja_value *out);

/* Values. */
struct jinja_string kept_jinja_text(const char *literal);
struct jinja_value kept_jinja_bool(bool b);
struct jinja_value kept_jinja_int(int64_t i);
struct jinja_value kept_jinja_str(struct jinja_string s);
struct jinja_value kept_jinja_undefined(struct jinja_string name);
bool kept_jinja_same(struct jinja_string a, struct jinja_string b);
bool kept_jinja_name_is(struct jinja_string s, const char *literal);
const char *kept_jinja_kind_name(const struct jinja_value *value);
bool kept_jinja_truth(const struct jinja_value *value);
bool kept_jinja_number(const struct jinja_value *value, double *out); /* bools included */
bool kept_jinja_integer(const struct jinja_value *value, int64_t *out);
bool kept_jinja_equal(struct kept_jinja *j, const struct jinja_value *a,
                      const struct jinja_value *b, bool *out);
bool kept_jinja_contains(struct kept_jinja *j, const struct jinja_value *all,
                         const struct jinja_value *one, bool *out);
bool kept_jinja_binary(struct kept_jinja *j, enum jinja_op op, const struct jinja_value *a,
                       const struct jinja_value *b, struct jinja_value *out);
bool kept_jinja_list_new(struct kept_jinja *j, struct jinja_value *out);
bool kept_jinja_list_add(struct kept_jinja *j, struct jinja_value *list, struct jinja_value item);
bool kept_jinja_dict_new(struct kept_jinja *j, struct jinja_value *out);
bool kept_jinja_dict_set(struct kept_jinja *j, struct jinja_dict *dict, struct jinja_value key,
                         struct jinja_value value);
const struct jinja_value *kept_jinja_dict_get(const struct jinja_dict *dict,
                                              struct jinja_string key);
/* What a loop sees: the items of a list, keys of a dict, characters of a string, nothing of
 * undefined. */
bool kept_jinja_iterate(struct kept_jinja *j, const struct jinja_value *value,
                        struct jinja_list **out);
bool kept_jinja_length(struct kept_jinja *j, const struct jinja_value *value, int64_t *out);
bool kept_jinja_get_attr(struct kept_jinja *j, const struct jinja_value *value,
                         struct jinja_string name, struct jinja_value *out);
bool kept_jinja_get_item(struct kept_jinja *j, const struct jinja_value *value,
                         const struct jinja_value *key, struct jinja_value *out);
bool kept_jinja_slice(struct kept_jinja *j, const struct jinja_value *value,
                      const struct jinja_value bounds[3], struct jinja_value *out);

/* Text. */
bool kept_jinja_buf_add(struct kept_jinja *j, struct jinja_buf *buf, struct jinja_string s);
bool kept_jinja_buf_fill(struct kept_jinja *j, struct jinja_buf *buf, const char *bytes,
                         size_t n_bytes, bool from_outside);
bool kept_jinja_buf_puts(struct kept_jinja *j, struct jinja_buf *buf, const char *text);
struct jinja_value kept_jinja_buf_value(const struct jinja_buf *buf);
struct jinja_string kept_jinja_sub(struct jinja_string s, size_t begin, size_t end);
bool kept_jinja_print(struct kept_jinja *j, struct jinja_buf *buf,
                      const struct jinja_value *value); /* str() */
bool kept_jinja_to_text(struct kept_jinja *j, const struct jinja_value *value,
                        struct jinja_string *out);
bool kept_jinja_json(struct kept_jinja *j, struct jinja_buf *buf, const struct jinja_value *value,
                     int indent, int level);
struct jinja_string kept_jinja_strip(struct jinja_string s, const struct jinja_string *chars,
                                     bool left, bool right);
enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_CAPITALIZE, JINJA_TITLE };
bool kept_jinja_recase(struct kept_jinja *j, struct jinja_string s, enum jinja_case how,
                       struct jinja_value *out);
bool kept_jinja_replace(struct kept_jinja *j, struct jinja_string s, struct jinja_string from,
                        struct jinja_string to, int64_t max, struct jinja_value *out);
/* separator NULL: runs of white space. */
bool kept_jinja_split(struct kept_jinja *j, struct jinja_string s,
                      const struct jinja_string *separator, int64_t max, struct jinja_value *out);
/* Offset of part in s, or SIZE_MAX. */
size_t kept_jinja_find(struct jinja_string s, struct jinja_string part, size_t from);

/* Filters, tests, functions, methods by name. */
bool kept_jinja_filter(struct kept_jinja *j, struct jinja_string name,
                       const struct jinja_value *value, const struct jinja_args *args,
                       struct jinja_value *out);
bool kept_jinja_test(struct kept_jinja *j, struct jinja_string name,
                     const struct jinja_value *value, const struct jinja_args *args, bool *out);
bool kept_jinja_function(struct kept_jinja *j, struct jinja_string name,
                         const struct jinja_args *args, bool *known, struct jinja_value *out);
bool kept_jinja_method(struct kept_jinja *j, const struct jinja_value *value,
                       struct jinja_string name, const struct jinja_args *args, bool *known,
                       struct jinja_value *out);
/* Argument i, or of that name; NULL when not given. */
const struct jinja_value *kept_jinja_arg(const struct jinja_args *args, size_t i, const char *name);

#endif

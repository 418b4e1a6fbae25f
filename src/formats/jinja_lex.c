/* formats/jinja_lex.c: a template's text to tokens, and Jinja's rules for white space around tags.
 *
 * With lstrip_blocks, blanks before a block or comment tag go when only they stand between it and
 * the start of its line; with trim_blocks, one newline after a block or comment tag goes. "-"
 * inside a tag takes all white space on its side, "+" keeps it. One newline at the very end of the
 * template goes. Within brackets a closing tag is not looked for, so that {{ {'a': {}} }} reads as
 * people mean it.
 */
#include "formats/jinja.h"

#include <string.h>

#include "formats/unicode.h"

struct lexer {
    struct kept_jinja *j;
    const char *text;
    size_t n_bytes, at;
    uint32_t line;
    bool at_line_start; /* what was read last ended a line */
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static bool is_white(char c)
{
    return is_blank(c) || c == '\n';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool add_token(struct lexer *lex, enum jinja_token_kind kind, const char *text,
                      size_t n_bytes)
{
    struct kept_jinja *j = lex->j;
    if (j->n_tokens == j->cap_tokens) {
        size_t cap = j->cap_tokens ? 2 * j->cap_tokens : 256;
        struct jinja_token *grown = kept_jinja_alloc(j, cap, sizeof *grown);
        if (!grown)
            return false;
        if (j->n_tokens)
            memcpy(grown, j->tokens, j->n_tokens * sizeof *grown);
        j->tokens = grown;
        j->cap_tokens = cap;
    }
    j->tokens[j->n_tokens++] = (struct jinja_token){kind, lex->line, text, n_bytes};
    return true;
}

static void advance(struct lexer *lex, size_t to)
{
    for (; lex->at < to; lex->at++)
        lex->line += lex->text[lex->at] == '\n';
}

static bool looking_at(const struct lexer *lex, size_t at, const char *what)
{
    size_t n = strlen(what);
    return lex->n_bytes - at >= n && memcmp(lex->text + at, what, n) == 0;
}

/* After a closing tag, whose last byte but the sign was read: trims what follows by its sign. */
static void after_tag(struct lexer *lex, char sign, bool trims_newline)
{
    size_t to = lex->at;
    if (sign == '-')
        while (to < lex->n_bytes && is_white(lex->text[to]))
            to++;
    else if (sign != '+' && trims_newline && to < lex->n_bytes && lex->text[to] == '\n')
        to++;
    lex->at_line_start = to > lex->at && lex->text[to - 1] == '\n';
    advance(lex, to);
}

/* ---- inside tags ---- */

static uint32_t hex_value(const char *text, size_t n)
{
    uint32_t value = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        uint32_t digit = is_digit(c)            ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A') + 10
                                                : 16;
        if (digit == 16)
            return KEPT_RUNE_NONE;
        value = value << 4 | digit;
    }
    return value;
}

/* Reads the escape after a backslash, at text[*at] before text[end]; writes what it stands for. */
static size_t unescape(const char *text, size_t end, size_t *at, char to[4])
{
    static const char letters[] = "ntrbfav0", stands_for[] = "\n\t\r\b\f\a\v\0";
    char c = text[*at];
    size_t n_hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    const char *letter = memchr(letters, c, sizeof letters - 1);
    if (n_hex && end - *at > n_hex) {
        uint32_t rune = hex_value(text + *at + 1, n_hex);
        if (rune <= 0x10FFFF && (rune < 0xD800 || rune > 0xDFFF)) {
            *at += 1 + n_hex;
            return kept_utf8_put(rune, to);
        }
    }
    ++*at;
    if (c == '\n')
        return 0;
    if (letter || c == '\\' || c == '\'' || c == '"') {
        to[0] = letter ? stands_for[letter - letters] : c;
        return 1;
    }
    to[0] = '\\'; /* an unknown escape stays as it is */
    to[1] = c;
    return 2;
}

static bool lex_string(struct lexer *lex)
{
    const char *text = lex->text;
    char quote = text[lex->at];
    size_t end = lex->at + 1;
    while (end < lex->n_bytes && text[end] != quote)
        end += text[end] == '\\' && end + 1 < lex->n_bytes ? 2 : 1;
    if (end >= lex->n_bytes)
        return kept_jinja_fail(lex->j, KEPT_E_FORMAT, "a string is not closed");
    char *to = kept_jinja_alloc(lex->j, 2 * (end - lex->at) + 4,
                                1); /* "\q" may stay two bytes, "\u1234" shrinks */
    if (!to)
        return false;
    size_t n = 0;
    for (size_t at = lex->at + 1; at < end;) {
        if (text[at] != '\\') {
            to[n++] = text[at++];
            continue;
        }
        at++;
        n += unescape(text, end, &at, to + n);
    }
    bool ok = add_token(lex, JINJA_T_STRING, to, n);
    advance(lex, end + 1);
    return ok;
}

static size_t skip_digits(const struct lexer *lex, size_t at)
{
    while (at < lex->n_bytes && (is_digit(lex->text[at]) || lex->text[at] == '_'))
        at++;
    return at;
}

static bool digit_at(const struct lexer *lex, size_t at)
{
    return at < lex->n_bytes && is_digit(lex->text[at]);
}

static bool lex_number(struct lexer *lex)
{
    const char *text = lex->text;
    size_t end = skip_digits(lex, lex->at);
    bool is_float = false;
    if (digit_at(lex, end + 1) && text[end] == '.') {
        is_float = true;
        end = skip_digits(lex, end + 1);
    }
    if (end < lex->n_bytes && (text[end] == 'e' || text[end] == 'E')) {
        size_t sign = end + 1 < lex->n_bytes && (text[end + 1] == '-' || text[end + 1] == '+');
        if (digit_at(lex, end + 1 + sign)) {
            is_float = true;
            end = skip_digits(lex, end + 1 + sign);
        }
    }
    bool ok = add_token(lex, is_float ? JINJA_T_FLOAT : JINJA_T_INT, text + lex->at, end - lex->at);
    lex->at = end;
    return ok;
}

static bool lex_operator(struct lexer *lex, uint32_t *n_open)
{
    static const char *const operators[] = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*",
                                            "/",  "%",  "~",  "<",  ">",  "=",  ".", ",", ":",
                                            "|",  "(",  ")",  "[",  "]",  "{",  "}"};
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (!looking_at(lex, lex->at, operators[i]))
            continue;
        size_t n = strlen(operators[i]);
        if (n == 1 && strchr("([{", operators[i][0]))
            ++*n_open;
        if (n == 1 && strchr(")]}", operators[i][0]) && *n_open)
            --*n_open;
        lex->at += n;
        return add_token(lex, JINJA_T_OP, operators[i], n);
    }
    return kept_jinja_fail(lex->j, KEPT_E_FORMAT, "unexpected byte 0x%02X in a tag",
                           (unsigned)(unsigned char)lex->text[lex->at]);
}

/* Whether the tag closes here with `close`, a sign before it allowed. */
static bool closes(const struct lexer *lex, const char *close, char *sign)
{
    char c = lex->text[lex->at];
    *sign = c == '-' || c == '+' ? c : 0;
    return looking_at(lex, lex->at + (*sign != 0), close);
}

/* From behind "{{" or "{%" to behind the closing tag. */
static bool lex_tag(struct lexer *lex, bool is_block)
{
    const char *close = is_block ? "%}" : "}}";
    uint32_t n_open = 0;
    while (lex->at < lex->n_bytes) {
        char c = lex->text[lex->at], sign;
        bool ok = true;
        lex->j->line = lex->line;
        if (!n_open && closes(lex, close, &sign)) {
            ok = add_token(lex, is_block ? JINJA_T_BLOCK_END : JINJA_T_VAR_END, close, 2);
            lex->at += sign ? 3 : 2;
            after_tag(lex, sign, is_block);
            return ok;
        }
        if (is_white(c)) {
            advance(lex, lex->at + 1);
        } else if (is_name_start(c)) {
            size_t end = lex->at;
            while (end < lex->n_bytes &&
                   (is_name_start(lex->text[end]) || is_digit(lex->text[end])))
                end++;
            ok = add_token(lex, JINJA_T_NAME, lex->text + lex->at, end - lex->at);
            lex->at = end;
        } else if (c == '"' || c == '\'') {
            ok = lex_string(lex);
        } else if (is_digit(c)) {
            ok = lex_number(lex);
        } else {
            ok = lex_operator(lex, &n_open);
        }
        if (!ok)
            return false;
    }
    return kept_jinja_fail(lex->j, KEPT_E_FORMAT, "a tag is not closed with %s", close);
}

/* ---- between tags ---- */

/* Adds text[lex->at … end) as data, trimmed for the tag that begins at end. */
static bool add_data(struct lexer *lex, size_t end, char sign, bool strips_blanks)
{
    size_t begin = lex->at, keep = end;
    if (sign == '-') {
        while (keep > begin && is_white(lex->text[keep - 1]))
            keep--;
    } else if (sign != '+' && strips_blanks) {
        size_t line = end;
        while (line > begin && is_blank(lex->text[line - 1]))
            line--;
        bool alone = line > begin ? lex->text[line - 1] == '\n' : lex->at_line_start;
        if (alone)
            keep = line;
    }
    bool ok = keep == begin || add_token(lex, JINJA_T_DATA, lex->text + begin, keep - begin);
    advance(lex, end);
    return ok;
}

static bool lex_comment(struct lexer *lex)
{
    for (size_t at = lex->at; at < lex->n_bytes; at++) {
        if (!looking_at(lex, at, "#}"))
            continue;
        char sign = at > lex->at ? lex->text[at - 1] : 0;
        advance(lex, at + 2);
        after_tag(lex, sign, true);
        return true;
    }
    return kept_jinja_fail(lex->j, KEPT_E_FORMAT, "a comment is not closed with #}");
}

/* Reads "{% word %}" at `at`; returns the offset behind it, 0 if it is not that. */
static size_t block_word(const struct lexer *lex, size_t at, const char *word, char *open_sign,
                         char *close_sign)
{
    if (!looking_at(lex, at, "{%"))
        return 0;
    at += 2;
    *open_sign =
        at < lex->n_bytes && (lex->text[at] == '-' || lex->text[at] == '+') ? lex->text[at] : 0;
    at += *open_sign != 0;
    while (at < lex->n_bytes && is_white(lex->text[at]))
        at++;
    if (!looking_at(lex, at, word))
        return 0;
    at += strlen(word);
    while (at < lex->n_bytes && is_white(lex->text[at]))
        at++;
    *close_sign =
        at < lex->n_bytes && (lex->text[at] == '-' || lex->text[at] == '+') ? lex->text[at] : 0;
    at += *close_sign != 0;
    return looking_at(lex, at, "%}") ? at + 2 : 0;
}

/* From behind {% raw %} to behind {% endraw %}. */
static bool lex_raw(struct lexer *lex)
{
    for (size_t at = lex->at; at < lex->n_bytes; at++) {
        char open_sign, close_sign;
        size_t behind = block_word(lex, at, "endraw", &open_sign, &close_sign);
        if (!behind)
            continue;
        if (!add_data(lex, at, open_sign, true))
            return false;
        advance(lex, behind);
        after_tag(lex, close_sign, true);
        return true;
    }
    return kept_jinja_fail(lex->j, KEPT_E_FORMAT, "{%% raw %%} is not closed");
}

static bool lex_next(struct lexer *lex)
{
    size_t at = lex->at;
    while (at < lex->n_bytes &&
           !(looking_at(lex, at, "{{") || looking_at(lex, at, "{%") || looking_at(lex, at, "{#")))
        at++;
    if (at == lex->n_bytes)
        return add_data(lex, at, 0, false);
    char kind = lex->text[at + 1], open_sign, close_sign;
    char sign = at + 2 < lex->n_bytes ? lex->text[at + 2] : 0;
    size_t behind_raw = block_word(lex, at, "raw", &open_sign, &close_sign);
    if (!add_data(lex, at, sign, kind != '{'))
        return false;
    lex->j->line = lex->line;
    if (behind_raw) {
        advance(lex, behind_raw);
        after_tag(lex, close_sign, true);
        return lex_raw(lex);
    }
    lex->at += 2;
    if (kind == '#')
        return lex_comment(lex);
    lex->at += sign == '-' || sign == '+';
    return add_token(lex, kind == '{' ? JINJA_T_VAR_BEGIN : JINJA_T_BLOCK_BEGIN, "", 0) &&
           lex_tag(lex, kind == '%');
}

bool kept_jinja_lex(struct kept_jinja *j, const char *text, size_t n_bytes)
{
    /* Newlines are "\n" from here on, whatever the file had. */
    char *normal = kept_jinja_alloc(j, n_bytes + 1, 1);
    if (!normal)
        return false;
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++)
        if (text[i] == '\r')
            normal[n++] = '\n', i += i + 1 < n_bytes && text[i + 1] == '\n';
        else
            normal[n++] = text[i];
    if (n && normal[n - 1] == '\n')
        n--;
    struct lexer lex = {.j = j, .text = normal, .n_bytes = n, .line = 1, .at_line_start = true};
    j->line = 1;
    while (lex.at < lex.n_bytes)
        if (!kept_jinja_steps(j, 1) || !lex_next(&lex))
            return false;
    return add_token(&lex, JINJA_T_END, "the end", 7);
}

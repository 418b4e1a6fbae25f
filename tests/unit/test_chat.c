/* tests/unit/test_chat.c: the template interpreter against Jinja's own results
 * (tests/golden/chat.json), its bounds, and that what messages write never counts as the
 * template's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "formats/chat.h"

static json_t *load_golden(void)
{
    const char *dir = getenv("KEPT_SOURCE_DIR");
    char path[4096];
    json_error_t why;
    snprintf(path, sizeof path, "%s/tests/golden/chat.json", dir ? dir : ".");
    json_t *golden = json_load_file(path, 0, &why);
    if (!golden)
        fail_msg("%s: %s", path, why.text);
    return golden;
}

#define MAX_MESSAGES 8

static size_t read_messages(const json_t *conversation, struct kept_chat_message *to)
{
    size_t i;
    json_t *message;
    assert_true(json_array_size(conversation) <= MAX_MESSAGES);
    json_array_foreach(conversation, i, message)
    {
        to[i].role = json_string_value(json_object_get(message, "role"));
        to[i].content = json_string_value(json_object_get(message, "content"));
    }
    return json_array_size(conversation);
}

/* One render against the expected text (NULL: it must fail with a sentence). Returns 1 when wrong.
 */
static int check_one(const char *name, const char *template_text,
                     const struct kept_chat_message *messages, size_t n_messages, uint32_t flags,
                     const char *expected)
{
    struct kept_chat_input input = {messages, n_messages, flags, "<bos>", "<eos>"};
    struct kept_chat_text text;
    struct kept_error err = {0};
    kept_status status = kept_chat_render(template_text, &input, &text, &err);
    int wrong = expected ? status != KEPT_OK || strcmp(text.text, expected) != 0
                         : status == KEPT_OK || err.message[0] == '\0';
    if (wrong)
        print_error("%s\n  template: %s\n  expected: %s\n  got:      %s\n", name, template_text,
                    expected ? expected : "(an error)", status ? err.message : text.text);
    kept_chat_text_finish(&text);
    return wrong;
}

static void test_conversations(void **state)
{
    (void)state;
    json_t *golden = load_golden(), *cases = json_object_get(golden, "cases"), *row;
    size_t i;
    int n_wrong = 0;
    assert_true(json_array_size(cases) >= 80);
    json_array_foreach(cases, i, row)
    {
        struct kept_chat_message messages[MAX_MESSAGES];
        const char *name = json_string_value(json_object_get(row, "template"));
        json_t *conversation =
            json_array_get(json_object_get(golden, "conversations"),
                           (size_t)json_integer_value(json_object_get(row, "conversation")));
        size_t n = read_messages(conversation, messages);
        bool adds = json_is_true(json_object_get(row, "add_generation_prompt"));
        n_wrong += check_one(
            name, json_string_value(json_object_get(json_object_get(golden, "templates"), name)),
            messages, n, adds ? KEPT_CHAT_ADD_GENERATION_PROMPT : 0,
            json_string_value(json_object_get(row, "text")));
    }
    json_decref(golden);
    assert_int_equal(n_wrong, 0);
}

static void test_small_templates(void **state)
{
    (void)state;
    json_t *golden = load_golden(), *small = json_object_get(golden, "small"), *row;
    struct kept_chat_message messages[MAX_MESSAGES];
    size_t i,
        n = read_messages(json_array_get(json_object_get(golden, "conversations"), 2), messages);
    int n_wrong = 0;
    assert_true(json_array_size(small) >= 50);
    json_array_foreach(small, i, row) n_wrong +=
        check_one("small", json_string_value(json_object_get(row, "template")), messages, n, 0,
                  json_string_value(json_object_get(row, "text")));
    json_decref(golden);
    assert_int_equal(n_wrong, 0);
}

/* ---- what messages wrote ---- */

static void expect_content(const char *template_text, const char *content,
                           const char *const *expected)
{
    struct kept_chat_message message = {"user", content};
    struct kept_chat_input input = {&message, 1, 0, "<bos>", "<eos>"};
    struct kept_chat_text text;
    struct kept_error err = {0};
    if (kept_chat_render(template_text, &input, &text, &err))
        fail_msg("%s", err.message);
    size_t n = 0;
    for (; expected[n]; n++) {
        assert_true(n < text.n_content);
        const struct kept_text_span *span = &text.content[n];
        assert_int_equal(span->end - span->begin, strlen(expected[n]));
        assert_memory_equal(text.text + span->begin, expected[n], strlen(expected[n]));
    }
    assert_int_equal(text.n_content, n);
    kept_chat_text_finish(&text);
}

static void test_content_is_marked(void **state)
{
    (void)state;
    static const struct {
        const char *template_text, *content;
        const char *expected[4];
    } cases[] = {
        {"<s>{{ messages[0].content }}</s>", "<x>", {"<x>"}},
        {"<s>{{ '[' + messages[0]['content'] ~ ']' }}", "a", {"a"}},
        {"{{ messages[0].content | trim | upper }}!", "  ab ", {"AB"}},
        {"{{ messages[0].content.split('|') | join('<s>') }}", "a|b", {"a", "b"}},
        {"{{ messages[0].content.replace('-', '<s>') }}", "a-b", {"a", "b"}},
        {"{{ 'x-y'.replace('-', messages[0].content) }}", "<s>", {"<s>"}},
        {"{{ messages[0].content[1:3] * 2 }}", "abcd", {"bcbc"}},
        {"{{ messages[0].content | tojson }}", "a\"b", {"a\\\"b"}},
        {"{{ messages }}", "c", {"user", "c"}},
        {"{% set x %}<{{ messages[0].content }}>{% endset %}{{ x }}", "c", {"c"}},
        {"{% macro m(t) %}<{{ t }}>{% endmacro %}{{ m(messages[0].content) | lower }}", "C", {"c"}},
        {"{% for c in messages[0].content %}{{ c }}-{% endfor %}", "ab", {"a", "b"}},
        {"{{ messages[0].content | length }}{{ messages[0].content == 'ab' }}", "ab", {NULL}},
        {"{{ messages[0].content | indent(1) }}", "a\nb", {"a", "b"}},
        {"{{ messages[0].content | capitalize }}{{ messages[0].content | reverse }}",
         "ab",
         {"Abba"}},
        {"{{ messages | map(attribute='content') | first }}", "ab", {"ab"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_content(cases[i].template_text, cases[i].content, cases[i].expected);
}

/* ---- bounds and errors ---- */

static kept_status render_status(const char *template_text, struct kept_error *err)
{
    struct kept_chat_message message = {"user", "hello"};
    struct kept_chat_input input = {&message, 1, 0, NULL, NULL};
    struct kept_chat_text text;
    *err = (struct kept_error){0};
    kept_status status = kept_chat_render(template_text, &input, &text, err);
    kept_chat_text_finish(&text);
    return status;
}

static void expect_error(const char *template_text, kept_status expected, const char *part)
{
    struct kept_error err;
    kept_status status = render_status(template_text, &err);
    if (status != expected || !strstr(err.message, part))
        fail_msg("%s: expected %s with \"%s\", got %s: %s", template_text,
                 kept_status_name(expected), part, kept_status_name(status), err.message);
}

static void test_errors(void **state)
{
    (void)state;
    expect_error("a\nb\n{{ raise_exception('no tools here') }}", KEPT_E_PROMPT, "no tools here");
    expect_error("{{ 1 }}\n\n{{ x.y }}", KEPT_E_FORMAT, "line 3");
    expect_error("{{ x | sort }}", KEPT_E_UNSUPPORTED, "\"sort\"");
    expect_error("{% include 'x' %}", KEPT_E_UNSUPPORTED, "\"include\"");
    expect_error("{{ strftime_now('%d') }}", KEPT_E_UNSUPPORTED, "strftime_now");
    expect_error("{{ 9223372036854775807 + 1 }}", KEPT_E_UNSUPPORTED, "64 bits");
    expect_error("{{ (-9223372036854775807 - 1) // -1 }}", KEPT_E_UNSUPPORTED, "64 bits");
    expect_error("{{ 99999999999999999999 }}", KEPT_E_FORMAT, "out of range");
    expect_error("{% for x in y", KEPT_E_FORMAT, "not closed");
    expect_error("{% for x in y %}", KEPT_E_FORMAT, "ends where");
    expect_error("{# open", KEPT_E_FORMAT, "not closed");
    expect_error("{% raw %}", KEPT_E_FORMAT, "not closed");
    expect_error("{% break %}", KEPT_E_FORMAT, "outside a loop");
    expect_error("{{ 'a'[::0] }}", KEPT_E_FORMAT, "step");
    expect_error("{% set messages.x = 1 %}", KEPT_E_FORMAT, "namespace");
    expect_error("{{ `x` }}", KEPT_E_FORMAT, "0x60");
}

static void test_bounds(void **state)
{
    (void)state;
    enum { LEVELS = 1000 };
    char nested[2 * LEVELS + 16] = "{{ ";
    memset(nested + 3, '(', LEVELS);
    nested[3 + LEVELS] = '1';
    memset(nested + 4 + LEVELS, ')', LEVELS);
    memcpy(nested + 4 + 2 * LEVELS, " }}", 4);
    expect_error(nested, KEPT_E_FORMAT, "nests deeper");
    expect_error("{% for i in range(100000000) %}{% endfor %}", KEPT_E_FORMAT, "more than");
    expect_error("{% for i in range(3000) %}{% for j in range(3000) %}{% endfor %}{% endfor %}",
                 KEPT_E_FORMAT, "more than");
    expect_error("{% set s = 'x' * 1000000 %}"
                 "{% for i in range(3000) %}{{ 'y' in s }}{% endfor %}",
                 KEPT_E_FORMAT, "steps");
    expect_error("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", KEPT_E_FORMAT, "nests deeper");
    expect_error("{{ 'x' * 10000000000 }}", KEPT_E_FORMAT, "more than");
    expect_error("{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s "
                 "%}{% endfor %}",
                 KEPT_E_FORMAT, "memory");
    expect_error("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", KEPT_E_FORMAT,
                 "nests deeper");
    expect_error("{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, "
                 "ns.l] %}{% endfor %}"
                 "{{ ns.l == ns.l }}{{ ns.l }}",
                 KEPT_E_FORMAT, "more than");
}

static void test_long_conversation(void **state)
{
    (void)state;
    json_t *golden = load_golden();
    const char *text =
        json_string_value(json_object_get(json_object_get(golden, "templates"), "gemma3"));
    enum { N = 2001, BYTES = 2000 };
    struct kept_chat_message *messages = calloc(N, sizeof *messages);
    char *content = malloc(BYTES + 1);
    memset(content, 'x', BYTES);
    content[BYTES] = '\0';
    for (int i = 0; i < N; i++)
        messages[i] = (struct kept_chat_message){i % 2 ? "assistant" : "user", content};
    struct kept_chat_input input = {messages, N, KEPT_CHAT_ADD_GENERATION_PROMPT, "<bos>", "<eos>"};
    struct kept_chat_text out;
    struct kept_error err = {0};
    kept_status status = kept_chat_render(text, &input, &out, &err);
    if (status)
        fail_msg("%s", err.message);
    assert_true(out.n_bytes > (size_t)N * BYTES);
    kept_chat_text_finish(&out);
    free(content);
    free(messages);
    json_decref(golden);
}

static void test_messages_are_checked(void **state)
{
    (void)state;
    struct kept_chat_message message = {"user", "bad \xFF byte"};
    struct kept_chat_input input = {&message, 1, 0, NULL, NULL};
    struct kept_chat_text text;
    struct kept_error err = {0};
    assert_int_equal(kept_chat_render("x", &input, &text, &err), KEPT_E_PROMPT);
    assert_non_null(strstr(err.message, "offset 4 of 10"));
    message.content = NULL;
    assert_int_equal(kept_chat_render("x", &input, &text, &err), KEPT_E_ARGUMENT);
}

/* Every allocation may fail: a status, no crash, nothing left behind. */
static void test_out_of_memory(void **state)
{
    (void)state;
    struct kept_chat_message message = {"user", "hello"};
    struct kept_chat_input input = {&message, 1, 0, "<bos>", "<eos>"};
    int64_t live = kept_alloc_live();
    kept_status status = KEPT_E_HOST_MEMORY;
    for (uint64_t n = 1; status == KEPT_E_HOST_MEMORY; n++) {
        struct kept_chat_text text;
        struct kept_error err = {0};
        assert_true(n < 1000);
        kept_alloc_fail_at(n);
        status = kept_chat_render("{% for m in messages %}{{ m.content * 20000 }}{% endfor %}",
                                  &input, &text, &err);
        kept_alloc_fail_at(0);
        kept_chat_text_finish(&text);
        assert_int_equal(kept_alloc_live(), live);
    }
    assert_int_equal(status, KEPT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversations),
        cmocka_unit_test(test_small_templates),
        cmocka_unit_test(test_content_is_marked),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_long_conversation),
        cmocka_unit_test(test_messages_are_checked),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

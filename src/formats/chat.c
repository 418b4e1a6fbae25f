/* formats/chat.c: a conversation to text through jinja.h. Roles and contents are marked as from
 * outside; runs of marked bytes in the result become the content spans of kept_chat_text. */
#include "formats/chat.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "formats/jinja.h"
#include "formats/tok.h"
#include "formats/unicode.h"

static bool set_global(struct kept_jinja *j, const char *name, struct jinja_value value)
{
    return kept_jinja_set(j, kept_jinja_text(name), value);
}

static bool outside_text(struct kept_jinja *j, const char *text, struct jinja_value *out)
{
    struct jinja_buf buf = {0};
    bool ok = kept_jinja_buf_fill(j, &buf, text, strlen(text), true);
    *out = kept_jinja_buf_value(&buf);
    return ok;
}

static bool add_message(struct kept_jinja *j, const struct kept_chat_message *message,
                        struct jinja_value *list)
{
    struct jinja_value dict, role, content;
    return kept_jinja_dict_new(j, &dict) && outside_text(j, message->role, &role) &&
           outside_text(j, message->content, &content) &&
           kept_jinja_dict_set(j, dict.as.dict, kept_jinja_str(kept_jinja_text("role")), role) &&
           kept_jinja_dict_set(j, dict.as.dict, kept_jinja_str(kept_jinja_text("content")),
                               content) &&
           kept_jinja_list_add(j, list, dict);
}

static bool set_globals(struct kept_jinja *j, const struct kept_chat_input *input)
{
    struct jinja_value messages, none = {.kind = JINJA_NONE};
    bool ok = kept_jinja_list_new(j, &messages);
    for (size_t i = 0; ok && i < input->n_messages; i++)
        ok = add_message(j, &input->messages[i], &messages);
    return ok && set_global(j, "messages", messages) && set_global(j, "tools", none) &&
           set_global(j, "documents", none) &&
           set_global(j, "bos_token",
                      kept_jinja_str(kept_jinja_text(input->bos ? input->bos : ""))) &&
           set_global(j, "eos_token",
                      kept_jinja_str(kept_jinja_text(input->eos ? input->eos : ""))) &&
           set_global(j, "add_generation_prompt",
                      kept_jinja_bool((input->flags & KEPT_CHAT_ADD_GENERATION_PROMPT) != 0));
}

/* Counts and, where `to` is not NULL, writes the runs of marked bytes. */
static size_t find_spans(const struct jinja_buf *buf, struct kept_text_span *to)
{
    size_t n = 0;
    for (size_t at = 0; buf->mask && at < buf->n;) {
        const uint8_t *begin = memchr(buf->mask + at, 1, buf->n - at);
        if (!begin)
            break;
        size_t from = (size_t)(begin - buf->mask);
        const uint8_t *end = memchr(begin, 0, buf->n - from);
        at = end ? (size_t)(end - buf->mask) : buf->n;
        if (to)
            to[n] = (struct kept_text_span){from, at};
        n++;
    }
    return n;
}

static kept_status copy_out(const struct jinja_buf *buf, struct kept_chat_text *out,
                            struct kept_error *err)
{
    size_t n_content = find_spans(buf, NULL);
    char *text = kept_strndup(buf->n ? buf->bytes : "", buf->n);
    struct kept_text_span *content = kept_calloc(n_content, sizeof *content);
    if (!text || !content) {
        kept_free(text);
        kept_free(content);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "chat template: no memory for %zu bytes of text",
                         buf->n);
    }
    find_spans(buf, content);
    *out = (struct kept_chat_text){text, buf->n, content, n_content};
    return KEPT_OK;
}

static kept_status check_messages(const struct kept_chat_input *input, size_t *n_bytes,
                                  struct kept_error *err)
{
    for (size_t i = 0; i < input->n_messages; i++) {
        const char *const texts[] = {input->messages[i].role, input->messages[i].content};
        for (size_t k = 0; k < 2; k++) {
            const char *what = k ? "content" : "role";
            if (!texts[k])
                return kept_fail(err, KEPT_E_ARGUMENT, "message %zu has no %s", i, what);
            size_t n = strlen(texts[k]), valid = kept_utf8_valid_prefix(texts[k], n);
            if (valid < n)
                return kept_fail(
                    err, KEPT_E_PROMPT,
                    "the %s of message %zu is not UTF-8: byte 0x%02X at offset %zu of %zu", what, i,
                    (unsigned)(unsigned char)texts[k][valid], valid, n);
            *n_bytes += n;
        }
    }
    return KEPT_OK;
}

kept_status kept_chat_render(const char *template_text, const struct kept_chat_input *input,
                             struct kept_chat_text *out, struct kept_error *err)
{
    size_t n_template = strlen(template_text), n_bytes = n_template;
    *out = (struct kept_chat_text){0};
    kept_status status = check_messages(input, &n_bytes, err);
    if (status)
        return status;
    struct kept_jinja j;
    struct jinja_buf text;
    kept_jinja_init(&j, n_bytes, err);
    if (set_globals(&j, input) && kept_jinja_render(&j, template_text, n_template, &text))
        status = copy_out(&text, out, err);
    else
        status = j.status ? j.status : KEPT_E_INTERNAL;
    kept_jinja_finish(&j);
    return status;
}

kept_status kept_chat_format(const kept_tokenizer *tok, const struct kept_chat_message *messages,
                             size_t n_messages, uint32_t chat_flags, struct kept_chat_text *out,
                             struct kept_error *err)
{
    *out = (struct kept_chat_text){0};
    if (!tok->chat_template)
        return kept_fail(err, KEPT_E_STATE, "the model has no chat template");
    struct kept_chat_input input = {
        .messages = messages, .n_messages = n_messages, .flags = chat_flags};
    const int32_t ids[2] = {tok->bos, tok->eos};
    char *names[2] = {0};
    kept_status status = KEPT_OK;
    for (int i = 0; i < 2 && !status; i++) {
        uint32_t n = 0;
        const char *text =
            ids[i] != KEPT_TOKEN_NONE ? kept_tok_string(&tok->texts, ids[i], &n) : "";
        names[i] = kept_strndup(text, n);
        if (!names[i])
            status = kept_fail(err, KEPT_E_HOST_MEMORY, "chat template: no memory");
    }
    input.bos = names[0];
    input.eos = names[1];
    if (!status)
        status = kept_chat_render(tok->chat_template, &input, out, err);
    kept_free(names[0]);
    kept_free(names[1]);
    return status;
}

void kept_chat_text_finish(struct kept_chat_text *text)
{
    if (!text)
        return;
    kept_free(text->text);
    kept_free(text->content);
    *text = (struct kept_chat_text){0};
}

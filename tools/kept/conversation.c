/* conversation.c: plain text and chat turns to tokens. */
#include "conversation.h"

#include <stdlib.h>
#include <string.h>

#include "fail.h"

/* Stands for an answer whose text is in the session already. */
#define STAND_IN "(an answer, in the session)"

bool cli_uses_template(const struct cli_engine *engine)
{
    return !engine->settings->raw && kept_tokenizer_chat_template(engine->tokenizer);
}

static kept_status add_ids(struct cli_tokens *tokens, const int32_t *ids, size_t n,
                           struct kept_error *err)
{
    return cli_tokens_add(tokens, ids, n)
               ? KEPT_OK
               : cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu tokens", n);
}

static kept_status add_plain(const struct cli_engine *engine, const struct cli_buffer *text,
                             struct cli_tokens *tokens, struct kept_error *err)
{
    uint32_t flags = (tokens->n == 0 ? KEPT_ENCODE_ADD_SPECIAL : 0) |
                     (engine->settings->special ? KEPT_ENCODE_PARSE_SPECIAL : 0);
    int32_t *ids = NULL;
    size_t n = 0;
    kept_status status =
        kept_tokenizer_encode(engine->tokenizer, text->bytes, text->n, flags, &ids, &n, err);
    if (status == KEPT_OK && kept_tokenizer_adds_eos(engine->tokenizer) && n > 0 &&
        tokens->n == 0 && ids[n - 1] == kept_tokenizer_eos(engine->tokenizer))
        n--; /* the text goes on */
    if (status == KEPT_OK)
        status = add_ids(tokens, ids, n, err);
    kept_tokens_free(&ids);
    return status;
}

static kept_status add_first(const struct cli_engine *engine, const char *system,
                             const struct cli_buffer *text, struct cli_tokens *tokens,
                             struct kept_error *err)
{
    struct kept_chat_message messages[2] = {{"system", system}, {"user", text->bytes}};
    struct kept_chat_text rendered = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    kept_status status =
        kept_chat_format(engine->tokenizer, system ? messages : messages + 1, system ? 2 : 1,
                         KEPT_CHAT_ADD_GENERATION_PROMPT, &rendered, err);
    if (status == KEPT_OK)
        status = kept_chat_encode(engine->tokenizer, &rendered, &ids, &n, err);
    if (status == KEPT_OK)
        status = add_ids(tokens, ids, n, err);
    kept_tokens_free(&ids);
    kept_chat_text_finish(&rendered);
    return status;
}

/* The part of a rendered conversation from `from` on, with its spans. It points into `whole`. */
static void tail_of(const struct kept_chat_text *whole, size_t from, struct kept_chat_text *tail)
{
    size_t first = 0;
    while (first < whole->n_content && whole->content[first].end <= from)
        first++;
    *tail = (struct kept_chat_text){.text = whole->text + from,
                                    .n_bytes = whole->n_bytes - from,
                                    .content = whole->content + first,
                                    .n_content = whole->n_content - first};
    for (size_t i = 0; i < tail->n_content; i++) {
        struct kept_text_span *span = &tail->content[i];
        span->begin = span->begin > from ? span->begin - from : 0;
        span->end -= from;
    }
}

static kept_status add_next(const struct cli_engine *engine, const struct cli_buffer *text,
                            struct cli_tokens *tokens, struct kept_error *err)
{
    const struct kept_chat_message messages[] = {
        {"user", "(a question)"}, {"assistant", STAND_IN}, {"user", text->bytes}};
    struct kept_chat_text whole = {0}, tail;
    int32_t *ids = NULL, bos = kept_tokenizer_bos(engine->tokenizer);
    size_t n = 0, skipped;
    kept_status status = kept_chat_format(engine->tokenizer, messages, 3,
                                          KEPT_CHAT_ADD_GENERATION_PROMPT, &whole, err);
    if (status != KEPT_OK)
        return status;
    const char *answer = strstr(whole.text, STAND_IN);
    if (!answer) {
        status = cli_fail(err, KEPT_E_UNSUPPORTED,
                          "this model's chat template leaves answers out: a session cannot go on");
    } else {
        tail_of(&whole, (size_t)(answer - whole.text) + strlen(STAND_IN), &tail);
        status = kept_chat_encode(engine->tokenizer, &tail, &ids, &n, err);
    }
    if (status == KEPT_OK) {
        skipped = n > 0 && ids[0] == bos && kept_tokenizer_adds_bos(engine->tokenizer);
        status = add_ids(tokens, ids + skipped, n - skipped, err);
    }
    kept_tokens_free(&ids);
    kept_chat_text_finish(&whole);
    return status;
}

kept_status cli_add_turn(const struct cli_engine *engine, const char *system,
                         const struct cli_buffer *text, struct cli_tokens *tokens,
                         struct kept_error *err)
{
    if (text->n == 0)
        return cli_fail(err, KEPT_E_PROMPT, "the prompt is empty");
    if (!cli_uses_template(engine)) {
        if (system)
            return cli_fail(err, KEPT_E_ARGUMENT, "--system needs a chat template, %s",
                            engine->settings->raw ? "--raw goes without" : "this model has none");
        return add_plain(engine, text, tokens, err);
    }
    if (strlen(text->bytes) != text->n)
        return cli_fail(err, KEPT_E_PROMPT, "the prompt has a NUL at byte %zu of %zu",
                        strlen(text->bytes), text->n);
    return tokens->n == 0 ? add_first(engine, system, text, tokens, err)
                          : add_next(engine, text, tokens, err);
}

kept_status cli_check_room(const struct cli_engine *engine, size_t n_before, size_t n_tokens,
                           struct kept_error *err)
{
    uint32_t context = kept_plan_info(engine->plan)->context_tokens;
    if (n_tokens == 0)
        return cli_fail(err, KEPT_E_PROMPT, "the prompt has no tokens");
    if (n_tokens <= context)
        return KEPT_OK;
    if (n_before > 0)
        return cli_fail(
            err, KEPT_E_PROMPT,
            "%zu tokens so far and %zu of the prompt pass the context of %u: start afresh, "
            "or with a larger --context",
            n_before, n_tokens - n_before, context);
    return cli_fail(
        err, KEPT_E_PROMPT,
        "the prompt has %zu tokens, the context %u: shorten it, or give --context %zu or more",
        n_tokens, context, n_tokens + 1);
}

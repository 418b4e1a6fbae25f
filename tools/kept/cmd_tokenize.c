/* cmd_tokenize.c: kept tokenize: text to ids and back. */
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "engine.h"
#include "json_out.h"

static kept_status encode(const struct cli_engine *engine, const struct cli_buffer *text,
                          struct cli_tokens *tokens, struct kept_error *err)
{
    uint32_t flags =
        KEPT_ENCODE_ADD_SPECIAL | (engine->settings->special ? KEPT_ENCODE_PARSE_SPECIAL : 0);
    int32_t *ids = NULL;
    size_t n = 0;
    kept_status status =
        kept_tokenizer_encode(engine->tokenizer, text->bytes, text->n, flags, &ids, &n, err);
    if (status == KEPT_OK && !cli_tokens_add(tokens, ids, n))
        status = cli_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu tokens", n);
    kept_tokens_free(&ids);
    return status;
}

/* Bytes that are not whole characters are shown as <0xE2>, so that pieces stay apart. */
static json_t *piece_json(const char *bytes, size_t n)
{
    struct cli_buffer shown = {0};
    json_t *text = json_stringn(bytes, n);
    for (size_t i = 0; !text && i < n; i++) {
        char byte[8];
        int length = (unsigned char)bytes[i] < 0x80
                         ? snprintf(byte, sizeof byte, "%c", bytes[i])
                         : snprintf(byte, sizeof byte, "<0x%02X>", (unsigned char)bytes[i]);
        if (!cli_buffer_add(&shown, byte, (size_t)length))
            break;
    }
    if (!text && shown.bytes)
        text = json_stringn(shown.bytes, shown.n);
    cli_buffer_finish(&shown);
    return text;
}

static void say_tokens(const struct cli_engine *engine, const struct cli_tokens *tokens)
{
    json_t *ids = json_array(), *pieces = json_array();
    for (size_t i = 0; i < tokens->n; i++) {
        size_t n;
        const char *piece =
            kept_tokenizer_piece(engine->tokenizer, tokens->ids[i], KEPT_DECODE_SPECIAL, &n);
        json_t *shown = piece_json(piece, n);
        if (!engine->settings->json) {
            char *quoted = json_dumps(shown, JSON_ENCODE_ANY);
            printf("%7d  %s\n", (int)tokens->ids[i], quoted ? quoted : "");
            free(quoted);
        }
        json_array_append_new(ids, json_integer(tokens->ids[i]));
        json_array_append_new(pieces, shown);
    }
    if (engine->settings->json)
        cli_json_print(json_pack("{s:o, s:o}", "ids", ids, "pieces", pieces), false);
    if (engine->settings->json)
        return;
    json_decref(ids);
    json_decref(pieces);
}

static kept_status decode(const struct cli_engine *engine, const struct cli_buffer *text,
                          struct cli_tokens *tokens, struct kept_error *err)
{
    char *out = NULL;
    size_t n = 0;
    uint32_t flags = engine->settings->special ? KEPT_DECODE_SPECIAL : 0;
    kept_status status = cli_parse_ids(text, tokens, err);
    if (status == KEPT_OK)
        status =
            kept_tokenizer_decode(engine->tokenizer, tokens->ids, tokens->n, flags, &out, &n, err);
    if (status == KEPT_OK && engine->settings->json)
        cli_json_print(json_pack("{s:o}", "text", cli_json_text(out, n)), false);
    else if (status == KEPT_OK)
        fwrite(out, 1, n, stdout);
    kept_text_free(&out);
    return status;
}

enum cli_exit cli_tokenize(const struct cli_settings *settings)
{
    struct cli_engine engine = {.settings = settings};
    struct cli_buffer text = {0};
    struct cli_tokens tokens = {0};
    struct kept_error err = {0};
    kept_status status = cli_engine_model(&engine, settings, &err);
    if (status == KEPT_OK)
        status = cli_read_prompt(settings, &text, &err);
    if (status == KEPT_OK && settings->decode)
        status = decode(&engine, &text, &tokens, &err);
    else if (status == KEPT_OK)
        status = encode(&engine, &text, &tokens, &err);
    if (status == KEPT_OK && !settings->decode)
        say_tokens(&engine, &tokens);
    enum cli_exit code = status == KEPT_OK ? CLI_OK : cli_engine_fail(&engine, &err);
    cli_buffer_finish(&text);
    cli_tokens_finish(&tokens);
    cli_engine_finish(&engine);
    return code;
}

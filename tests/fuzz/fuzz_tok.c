/* tests/fuzz/fuzz_tok.c: tokenizers of any vocabulary on any text.
 *
 * The input is a GGUF header, then 0xFF 0x00 0xFF, then a text (also used as the only message of a
 * conversation); without the mark all of it is header. What is accepted must encode, decode and
 * stream without loss of memory, and a conversation's message must never become a control token.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "formats/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void check_stream(const struct kept_tokenizer *tok, const int32_t *ids, size_t n_ids,
                         const char *text, size_t n_text)
{
    size_t cap = kept_tokenizer_max_piece(tok) + 4, n_out = 0, n;
    struct kept_text_stream stream = {0};
    char *piece = malloc(cap);
    for (size_t i = 0; i <= n_ids; i++) {
        if (i == n_ids)
            n = kept_text_stream_flush(&stream, piece);
        else if (kept_text_stream_push(tok, &stream, ids[i], 0, piece, cap, &n, NULL))
            abort();
        if (n > n_text - n_out || (n && memcmp(piece, text + n_out, n) != 0))
            abort();
        n_out += n;
    }
    if (n_out != n_text)
        abort();
    free(piece);
}

static void check_encode(const struct kept_tokenizer *tok, const char *text, size_t n_text,
                         uint32_t flags)
{
    int32_t *ids;
    size_t n_ids, n_back;
    char *back;
    struct kept_error err;
    kept_status status = kept_tokenizer_encode(tok, text, n_text, flags, &ids, &n_ids, &err);
    if (status) {
        if (ids)
            abort();
        return;
    }
    for (size_t i = 0; i < n_ids; i++)
        if (!flags && kept_tokenizer_type(tok, ids[i]) == KEPT_TOKEN_CONTROL)
            abort();
    if (kept_tokenizer_decode(tok, ids, n_ids, 0, &back, &n_back, &err))
        abort();
    check_stream(tok, ids, n_ids, back, n_back);
    kept_text_free(&back);
    kept_tokens_free(&ids);
}

static void check_chat(const struct kept_tokenizer *tok, const char *text)
{
    const struct kept_chat_message message = {"user", text};
    struct kept_chat_text chat;
    struct kept_error err;
    int32_t *ids;
    size_t n_ids;
    if (kept_chat_format(tok, &message, 1, KEPT_CHAT_ADD_GENERATION_PROMPT, &chat, &err))
        return;
    if (!kept_chat_encode(tok, &chat, &ids, &n_ids, &err))
        kept_tokens_free(&ids);
    kept_chat_text_finish(&chat);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    static const uint8_t mark[] = {0xFF, 0x00, 0xFF};
    size_t n_header = n_bytes;
    for (size_t i = 0; i + sizeof mark <= n_bytes && n_header == n_bytes; i++)
        if (memcmp(bytes + i, mark, sizeof mark) == 0)
            n_header = i;
    size_t n_text = n_header < n_bytes ? n_bytes - n_header - sizeof mark : 0;
    char *text = malloc(n_text + 1);
    if (n_text)
        memcpy(text, bytes + n_header + sizeof mark, n_text);
    text[n_text] = '\0';

    int64_t live = kept_alloc_live();
    struct kept_gguf *gguf;
    struct kept_tokenizer *tok = NULL;
    struct kept_error err = {0};
    if (!kept_gguf_parse(bytes, n_header, n_header, &gguf, NULL)) {
        kept_status status = kept_tokenizer_create(gguf, &tok, &err);
        if ((status != KEPT_OK) != (tok == NULL) || (status && !err.message[0]))
            abort();
    }
    kept_gguf_close(&gguf);
    if (tok) {
        check_encode(tok, text, n_text, 0);
        check_encode(tok, text, n_text, KEPT_ENCODE_ADD_SPECIAL | KEPT_ENCODE_PARSE_SPECIAL);
        check_chat(tok, text);
    }
    kept_tokenizer_destroy(&tok);
    if (kept_alloc_live() != live)
        abort();
    free(text);
    return 0;
}

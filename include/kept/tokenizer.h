/* kept/tokenizer.h: text to token ids and back, and conversations to prompts.
 *
 * A tokenizer belongs to the model it came from (kept/model.h hands it out) and lives as long. It
 * never changes after it was made. Thread-safety: any number of threads may use one tokenizer at
 * once; a kept_text_stream belongs to one thread at a time.
 *
 * Text is UTF-8 and may contain NULs, which is why lengths are given. Ids are 0 …
 * kept_tokenizer_count - 1.
 *
 * Usage:
 *     int32_t *ids;
 *     size_t n_ids;
 *     if (kept_tokenizer_encode(tokenizer, text, strlen(text), KEPT_ENCODE_ADD_SPECIAL,
 *                               &ids, &n_ids, &err) == KEPT_OK) {
 *         use(ids, n_ids);
 *         kept_tokens_free(&ids);
 *     }
 */
#ifndef KEPT_TOKENIZER_H
#define KEPT_TOKENIZER_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kept_tokenizer kept_tokenizer;

#define KEPT_TOKEN_NONE (-1) /* "this vocabulary has no such token" */

/* What a vocabulary says of a token; the values are those of GGUF files. */
enum kept_token_type {
    KEPT_TOKEN_NORMAL = 1,
    KEPT_TOKEN_UNKNOWN,
    KEPT_TOKEN_CONTROL,      /* start and end marks; see KEPT_ENCODE_PARSE_SPECIAL */
    KEPT_TOKEN_USER_DEFINED, /* always taken whole, before the text around them is split */
    KEPT_TOKEN_UNUSED,
    KEPT_TOKEN_BYTE /* one byte that no other token covers */
};

enum kept_encode_flags {
    /* begin and end with the tokens the model asks for (often a BOS, or none) */
    KEPT_ENCODE_ADD_SPECIAL = 1 << 0,
    /* "<|im_end|>" in the text becomes that token; not for text from strangers */
    KEPT_ENCODE_PARSE_SPECIAL = 1 << 1
};

enum kept_decode_flags {
    KEPT_DECODE_SPECIAL = 1 << 0 /* control tokens give their text instead of nothing */
};

/* ---- text to ids ---- */

/* Encodes n_bytes of UTF-8. *out_ids holds *out_n ids, is never NULL on success and is freed with
 * kept_tokens_free. An empty text is valid and gives only what ADD_SPECIAL adds. Where two special
 * tokens overlap in the text, the leftmost and then the longest is taken. Bytes that a vocabulary
 * has no token for are dropped, as its authors' own tokenizer does (SmolLM2's lacks six control
 * characters and the lead bytes of unassigned planes); vocabularies with byte tokens or an unknown
 * token lose none silently. KEPT_E_PROMPT: invalid UTF-8 (with its offset), or text over 1 GiB.
 * KEPT_E_HOST_MEMORY. */
KEPT_API kept_status kept_tokenizer_encode(const kept_tokenizer *tokenizer, const char *text,
                                           size_t n_bytes, uint32_t flags, int32_t **out_ids,
                                           size_t *out_n, struct kept_error *err);
KEPT_API void kept_tokens_free(int32_t **ids);

/* ---- ids to text ---- */

/* The bytes that a token stands for; not NUL-terminated, not always whole characters. Empty for
 * control and unknown tokens unless flags has KEPT_DECODE_SPECIAL, and for ids out of range. *out_n
 * is always written; never NULL. */
KEPT_API const char *kept_tokenizer_piece(const kept_tokenizer *tokenizer, int32_t id,
                                          uint32_t flags, size_t *out_n);

/* Decodes n_ids ids into *out_text, NUL-terminated, freed with kept_text_free; *out_bytes without
 * the NUL may be NULL. The space that some vocabularies put before a text is taken off again.
 * KEPT_E_ARGUMENT: an id out of range. */
KEPT_API kept_status kept_tokenizer_decode(const kept_tokenizer *tokenizer, const int32_t *ids,
                                           size_t n_ids, uint32_t flags, char **out_text,
                                           size_t *out_bytes, struct kept_error *err);
KEPT_API void kept_text_free(char **text);

/* Decodes one token at a time without ever cutting a character: bytes that may begin a character
 * which is not complete yet are held back. All bytes come out in the end, invalid ones included, so
 * the pieces and the last flush joined are exactly the decoded bytes. Zero-initialised is the start
 * of a text. */
struct kept_text_stream {
    unsigned char held[4];
    uint32_t n_held;
    bool begun; /* something was pushed: no leading space is taken off any more */
};

/* Pushes one token; writes what can be shown to `to` and its size to *out_bytes (may be 0).
 * cap_bytes must be at least kept_tokenizer_max_piece + 4, else KEPT_E_ARGUMENT and nothing
 * changes; also for an id out of range. */
KEPT_API kept_status kept_text_stream_push(const kept_tokenizer *tokenizer,
                                           struct kept_text_stream *stream, int32_t id,
                                           uint32_t flags, char *to, size_t cap_bytes,
                                           size_t *out_bytes, struct kept_error *err);
/* Writes the bytes still held (at most 3) to `to` and returns their number; the stream is at its
 * start again. */
KEPT_API size_t kept_text_stream_flush(struct kept_text_stream *stream, char to[4]);

/* ---- about the vocabulary ---- */

KEPT_API uint32_t kept_tokenizer_count(const kept_tokenizer *tokenizer);
/* The longest piece, in bytes. */
KEPT_API size_t kept_tokenizer_max_piece(const kept_tokenizer *tokenizer);
/* "bpe/smollm", "spm": the method, and the splitting pattern where there is one. */
KEPT_API const char *kept_tokenizer_kind(const kept_tokenizer *tokenizer);
/* The token's text as the vocabulary spells it, for display; not NUL-terminated; empty for ids out
 * of range. */
KEPT_API const char *kept_tokenizer_text(const kept_tokenizer *tokenizer, int32_t id,
                                         size_t *out_n);
KEPT_API enum kept_token_type kept_tokenizer_type(const kept_tokenizer *tokenizer, int32_t id);
/* The lowest id whose text is exactly this (any type), or KEPT_TOKEN_NONE. Looks through all
 * tokens. */
KEPT_API int32_t kept_tokenizer_find(const kept_tokenizer *tokenizer, const char *text,
                                     size_t n_bytes);
KEPT_API int32_t kept_tokenizer_bos(const kept_tokenizer *tokenizer); /* or KEPT_TOKEN_NONE */
KEPT_API int32_t kept_tokenizer_eos(const kept_tokenizer *tokenizer);
KEPT_API bool kept_tokenizer_adds_bos(const kept_tokenizer *tokenizer);
KEPT_API bool kept_tokenizer_adds_eos(const kept_tokenizer *tokenizer);
/* Whether generation ends at this token: end of text, of turn or of message. */
KEPT_API bool kept_tokenizer_is_end(const kept_tokenizer *tokenizer, int32_t id);

/* ---- conversations ---- */

struct kept_chat_message {
    const char *role; /* "system", "user", "assistant", or what the template knows */
    const char *content;
};

enum kept_chat_flags {
    KEPT_CHAT_ADD_GENERATION_PROMPT = 1 << 0 /* end with the opening of the assistant's turn */
};

/* Bytes [begin, end) of a rendered conversation. */
struct kept_text_span {
    size_t begin, end;
};

/* A conversation as text. `content` lists, ascending and disjoint, the bytes that came from
 * messages: what the model's template wrote may spell control tokens, what a message wrote may not.
 */
struct kept_chat_text {
    char *text; /* NUL-terminated */
    size_t n_bytes;
    struct kept_text_span *content;
    size_t n_content;
};

/* The model's own template text (Jinja), NUL-terminated, or NULL when the file has none. */
KEPT_API const char *kept_tokenizer_chat_template(const kept_tokenizer *tokenizer);

/* Renders messages by the model's template, as Hugging Face does. Release with
 * kept_chat_text_finish. KEPT_E_STATE: the model has no template. KEPT_E_PROMPT: the template
 * refused the messages (its own words are in the error), or a message is not UTF-8.
 * KEPT_E_UNSUPPORTED: the template uses what this interpreter lacks. KEPT_E_FORMAT: the template is
 * wrong, or ran past its budget of steps, depth or memory. KEPT_E_HOST_MEMORY. */
KEPT_API kept_status kept_chat_format(const kept_tokenizer *tokenizer,
                                      const struct kept_chat_message *messages, size_t n_messages,
                                      uint32_t chat_flags, struct kept_chat_text *out,
                                      struct kept_error *err);
KEPT_API void kept_chat_text_finish(struct kept_chat_text *text);

/* Encodes a rendered conversation: control tokens are recognised only where no byte of them came
 * from a message, so that "<|im_end|>" inside a message stays plain text; elsewhere the text is
 * split as one piece, so harmless messages give the same ids as encoding the whole text. BOS is
 * added when the model asks for it and the template did not write it. Statuses and ownership of
 * kept_tokenizer_encode. */
KEPT_API kept_status kept_chat_encode(const kept_tokenizer *tokenizer,
                                      const struct kept_chat_text *text, int32_t **out_ids,
                                      size_t *out_n, struct kept_error *err);

#ifdef __cplusplus
}
#endif
#endif

/* formats/tok_vocab.c: a tokenizer's tables from a file's metadata.
 *
 * Order matters: texts and types first, then the ends of generation (which corrects types that
 * conversions got wrong), then pieces and look-ups, which depend on types, then what the method
 * needs. Nothing of the file is kept: texts are copied into one block, so that the tokenizer may
 * outlive the header it came from.
 */
#include "formats/tok.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "formats/unicode.h"

/* Tokens that end a turn or a text under any name, for files whose metadata names only some of
 * them. */
static const char *const END_TEXTS[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "<end_of_utterance>",
    "<|eom_id|>",
    "[EOT]",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>", /* DeepSeek, with U+FF5C and U+2581 */
};

static kept_status no_memory(const struct kept_tokenizer *tok, struct kept_error *err)
{
    return kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for %u tokens", tok->n_tokens);
}

static kept_status load_texts(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                              struct kept_error *err)
{
    const struct kept_gguf_value *value = kept_gguf_find(gguf, "tokenizer.ggml.tokens");
    if (!value || value->type != KEPT_GGUF_ARRAY || !value->as.array.texts || !value->as.array.n)
        return kept_fail(err, KEPT_E_FORMAT,
                         "tokenizer.ggml.tokens is missing, empty or not an array of strings");
    const struct kept_gguf_array *array = &value->as.array;
    if (array->n > KEPT_TOK_MAX_TOKENS)
        return kept_fail(err, KEPT_E_FORMAT,
                         "tokenizer.ggml.tokens has %llu entries, at most %u are read",
                         (unsigned long long)array->n, KEPT_TOK_MAX_TOKENS);
    tok->n_tokens = (uint32_t)array->n;
    uint64_t n_bytes = 0;
    for (uint32_t i = 0; i < tok->n_tokens; i++) {
        if (array->texts[i].n_bytes > KEPT_TOK_MAX_TOKEN_BYTES)
            return kept_fail(err, KEPT_E_FORMAT, "token %u has %zu bytes, at most %u are read", i,
                             array->texts[i].n_bytes, KEPT_TOK_MAX_TOKEN_BYTES);
        n_bytes += array->texts[i].n_bytes;
    }
    if (n_bytes > UINT32_MAX)
        return kept_fail(err, KEPT_E_FORMAT,
                         "the vocabulary's texts have %llu bytes, at most 4 GiB are read",
                         (unsigned long long)n_bytes);
    tok->texts.bytes = kept_alloc((size_t)n_bytes);
    tok->texts.at = kept_calloc((size_t)tok->n_tokens + 1, sizeof *tok->texts.at);
    if (!tok->texts.bytes || !tok->texts.at)
        return no_memory(tok, err);
    for (uint32_t i = 0; i < tok->n_tokens; i++) {
        uint32_t at = tok->texts.at[i], n = (uint32_t)array->texts[i].n_bytes;
        if (n)
            memcpy(tok->texts.bytes + at, array->texts[i].bytes, n);
        tok->texts.at[i + 1] = at + n;
    }
    return KEPT_OK;
}

static kept_status load_types(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                              struct kept_error *err)
{
    tok->types = kept_alloc(tok->n_tokens);
    tok->ends = kept_calloc(tok->n_tokens, 1);
    if (!tok->types || !tok->ends)
        return no_memory(tok, err);
    memset(tok->types, KEPT_TOKEN_NORMAL, tok->n_tokens);
    const struct kept_gguf_value *value = kept_gguf_find(gguf, "tokenizer.ggml.token_type");
    if (!value)
        return KEPT_OK;
    if (value->type != KEPT_GGUF_ARRAY || value->as.array.n != tok->n_tokens)
        return kept_fail(err, KEPT_E_FORMAT,
                         "tokenizer.ggml.token_type is not an array of %u entries", tok->n_tokens);
    for (uint32_t i = 0; i < tok->n_tokens; i++) {
        int64_t type;
        if (!kept_gguf_array_i64(&value->as.array, i, &type) || type < 0 || type > KEPT_TOKEN_BYTE)
            return kept_fail(err, KEPT_E_FORMAT,
                             "tokenizer.ggml.token_type: entry %u is not a type 0…6", i);
        if (type != 0) /* "undefined" reads as normal */
            tok->types[i] = (uint8_t)type;
    }
    return KEPT_OK;
}

/* Reads an id; absent: otherwise. */
static kept_status load_id(const struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                           const char *key, int32_t otherwise, int32_t *out, struct kept_error *err)
{
    uint64_t id;
    *out = otherwise;
    if (!kept_gguf_u64(gguf, key, &id))
        return KEPT_OK;
    if (id >= tok->n_tokens)
        return kept_fail(err, KEPT_E_FORMAT, "%s is %llu, the vocabulary has %u tokens", key,
                         (unsigned long long)id, tok->n_tokens);
    *out = (int32_t)id;
    return KEPT_OK;
}

/* SentencePiece files may leave out the ids that its trainer gives by default. */
static int32_t default_id(const struct kept_tokenizer *tok, int32_t id, enum kept_token_type type)
{
    bool fits =
        tok->model == KEPT_TOK_SPM && (uint32_t)id < tok->n_tokens && tok->types[id] == type;
    return fits ? id : KEPT_TOKEN_NONE;
}

static kept_status load_ids(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                            struct kept_error *err)
{
    static const char *const end_keys[] = {"tokenizer.ggml.eot_token_id",
                                           "tokenizer.ggml.eom_token_id"};
    kept_status status = load_id(tok, gguf, "tokenizer.ggml.bos_token_id",
                                 default_id(tok, 1, KEPT_TOKEN_CONTROL), &tok->bos, err);
    if (!status)
        status = load_id(tok, gguf, "tokenizer.ggml.eos_token_id",
                         default_id(tok, 2, KEPT_TOKEN_CONTROL), &tok->eos, err);
    if (!status)
        status = load_id(tok, gguf, "tokenizer.ggml.unknown_token_id",
                         default_id(tok, 0, KEPT_TOKEN_UNKNOWN), &tok->unknown, err);
    for (size_t i = 0; i < sizeof end_keys / sizeof *end_keys && !status; i++) {
        int32_t id;
        status = load_id(tok, gguf, end_keys[i], KEPT_TOKEN_NONE, &id, err);
        if (!status && id != KEPT_TOKEN_NONE)
            tok->ends[id] = 1;
    }
    if (!status && tok->eos != KEPT_TOKEN_NONE)
        tok->ends[tok->eos] = 1;
    return status;
}

static bool is_end_text(const char *text, uint32_t n_bytes)
{
    if (!n_bytes || !strchr("<[_", text[0]))
        return false;
    for (size_t i = 0; i < sizeof END_TEXTS / sizeof *END_TEXTS; i++)
        if (strlen(END_TEXTS[i]) == n_bytes && memcmp(END_TEXTS[i], text, n_bytes) == 0)
            return true;
    return false;
}

static void load_ends(struct kept_tokenizer *tok)
{
    for (int32_t id = 0; id < (int32_t)tok->n_tokens; id++) {
        uint32_t n_bytes;
        const char *text = kept_tok_string(&tok->texts, id, &n_bytes);
        if (!is_end_text(text, n_bytes))
            continue;
        tok->ends[id] = 1;
        tok->types[id] = KEPT_TOKEN_CONTROL; /* some conversions call them normal or user-defined */
    }
}

static size_t decode_piece(const struct kept_tokenizer *tok, int32_t id, char *to)
{
    uint32_t n;
    const char *text = kept_tok_string(&tok->texts, id, &n);
    int byte[2];
    switch (tok->types[id]) {
    case KEPT_TOKEN_CONTROL:
    case KEPT_TOKEN_UNKNOWN:
    case KEPT_TOKEN_USER_DEFINED:
        if (n)
            memcpy(to, text, n);
        return n;
    case KEPT_TOKEN_BYTE:
        if (n == 6 && memcmp(text, "<0x", 3) == 0) {
            for (int i = 0; i < 2; i++)
                byte[i] = text[3 + i] <= '9' ? text[3 + i] - '0' : text[3 + i] - 'A' + 10;
            to[0] = (char)(byte[0] * 16 + byte[1]);
            return 1;
        }
        break;
    default:
        break;
    }
    return tok->model == KEPT_TOK_BPE ? kept_tok_bpe_decode(text, n, to)
                                      : kept_tok_spm_decode(text, n, to);
}

/* Pieces are never longer than texts. */
static kept_status load_pieces(struct kept_tokenizer *tok, struct kept_error *err)
{
    tok->pieces.bytes = kept_alloc(tok->texts.at[tok->n_tokens]);
    tok->pieces.at = kept_calloc((size_t)tok->n_tokens + 1, sizeof *tok->pieces.at);
    if (!tok->pieces.bytes || !tok->pieces.at)
        return no_memory(tok, err);
    for (int32_t id = 0; id < (int32_t)tok->n_tokens; id++) {
        uint32_t at = tok->pieces.at[id];
        size_t n = decode_piece(tok, id, tok->pieces.bytes + at);
        tok->pieces.at[id + 1] = at + (uint32_t)n;
        if (n > tok->max_piece_bytes)
            tok->max_piece_bytes = n;
    }
    return KEPT_OK;
}

static kept_status load_lookups(struct kept_tokenizer *tok, struct kept_error *err)
{
    const struct kept_tok_strings *keys = tok->model == KEPT_TOK_BPE ? &tok->pieces : &tok->texts;
    kept_status status = kept_tok_map_create(&tok->plain, tok->n_tokens, err);
    for (int32_t id = 0; id < (int32_t)tok->n_tokens && !status; id++) {
        uint32_t n_text, n_key;
        const char *text = kept_tok_string(&tok->texts, id, &n_text);
        (void)kept_tok_string(keys, id, &n_key);
        uint8_t type = tok->types[id];
        bool special = type == KEPT_TOKEN_CONTROL || type == KEPT_TOKEN_UNKNOWN;
        if (!n_text)
            continue;
        if (special || type == KEPT_TOKEN_USER_DEFINED)
            status = kept_tok_trie_add(&tok->specials, text, n_text, id, err);
        if (special || (type == KEPT_TOKEN_BYTE && tok->model == KEPT_TOK_SPM))
            continue;
        kept_tok_map_add(&tok->plain, keys, id);
        if (n_key > tok->max_plain_bytes)
            tok->max_plain_bytes = n_key;
    }
    return status;
}

static kept_status load_flags(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                              struct kept_error *err)
{
    tok->add_bos = tok->model == KEPT_TOK_SPM || kept_tok_bpe_default_bos(tok);
    tok->add_space_prefix = tok->model == KEPT_TOK_SPM;
    bool bos_asked = kept_gguf_bool(gguf, "tokenizer.ggml.add_bos_token", &tok->add_bos);
    (void)kept_gguf_bool(gguf, "tokenizer.ggml.add_eos_token", &tok->add_eos);
    (void)kept_gguf_bool(gguf, "tokenizer.ggml.add_space_prefix", &tok->add_space_prefix);
    if (tok->add_bos && tok->bos == KEPT_TOKEN_NONE) {
        if (bos_asked)
            return kept_fail(err, KEPT_E_FORMAT,
                             "tokenizer.ggml.add_bos_token is true, but no BOS id is given");
        tok->add_bos = false;
    }
    if (tok->add_eos && tok->eos == KEPT_TOKEN_NONE)
        return kept_fail(err, KEPT_E_FORMAT,
                         "tokenizer.ggml.add_eos_token is true, but no EOS id is given");
    struct kept_text chat;
    if (!kept_gguf_text(gguf, "tokenizer.chat_template", &chat))
        return KEPT_OK;
    size_t valid = kept_utf8_valid_prefix(chat.bytes, chat.n_bytes);
    if (valid < chat.n_bytes || (chat.n_bytes && memchr(chat.bytes, '\0', chat.n_bytes)))
        return kept_fail(err, KEPT_E_FORMAT,
                         "tokenizer.chat_template is not UTF-8 text without NULs (%zu bytes)",
                         chat.n_bytes);
    tok->chat_template = kept_strndup(chat.bytes, chat.n_bytes);
    return tok->chat_template ? KEPT_OK : no_memory(tok, err);
}

static kept_status load_model(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                              struct kept_error *err)
{
    struct kept_text model;
    if (!kept_gguf_text(gguf, "tokenizer.ggml.model", &model))
        return kept_fail(err, KEPT_E_FORMAT, "tokenizer.ggml.model is missing or not a string");
    if (model.n_bytes == 4 && memcmp(model.bytes, "gpt2", 4) == 0) {
        tok->model = KEPT_TOK_BPE;
    } else if (model.n_bytes == 5 && memcmp(model.bytes, "llama", 5) == 0) {
        tok->model = KEPT_TOK_SPM;
        kept_snprintf(tok->kind, sizeof tok->kind, "spm");
    } else {
        return kept_fail(err, KEPT_E_UNSUPPORTED,
                         "tokenizer.ggml.model \"%.*s\" is not one of gpt2, llama",
                         (int)(model.n_bytes < 64 ? model.n_bytes : 64), model.bytes);
    }
    return KEPT_OK;
}

kept_status kept_tokenizer_create(const struct kept_gguf *gguf, struct kept_tokenizer **out,
                                  struct kept_error *err)
{
    static kept_status (*const steps[])(struct kept_tokenizer *, const struct kept_gguf *,
                                        struct kept_error *) = {load_model, load_texts, load_types,
                                                                load_ids};
    *out = NULL;
    struct kept_tokenizer *tok = kept_calloc(1, sizeof *tok);
    if (!tok)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory");
    kept_status status = KEPT_OK;
    for (size_t i = 0; i < sizeof steps / sizeof *steps && !status; i++)
        status = steps[i](tok, gguf, err);
    if (!status) {
        load_ends(tok);
        status = load_pieces(tok, err);
    }
    if (!status)
        status = load_lookups(tok, err);
    if (!status)
        status = tok->model == KEPT_TOK_BPE ? kept_tok_bpe_load(tok, gguf, err)
                                            : kept_tok_spm_load(tok, gguf, err);
    if (!status)
        status = load_flags(tok, gguf, err);
    if (status)
        kept_tokenizer_destroy(&tok);
    else
        *out = tok;
    return status;
}

void kept_tokenizer_destroy(struct kept_tokenizer **address)
{
    struct kept_tokenizer *tok = address ? *address : NULL;
    if (!tok)
        return;
    kept_tok_bpe_finish(tok);
    kept_free(tok->texts.bytes);
    kept_free(tok->texts.at);
    kept_free(tok->pieces.bytes);
    kept_free(tok->pieces.at);
    kept_free(tok->types);
    kept_free(tok->ends);
    kept_free(tok->scores);
    kept_free(tok->plain.slots);
    kept_free(tok->specials.nodes);
    kept_free(tok->chat_template);
    kept_free(tok);
    *address = NULL;
}

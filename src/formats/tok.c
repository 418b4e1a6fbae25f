/* formats/tok.c: the public interface of kept/tokenizer.h except conversations (chat.c): encoding
 * and decoding.
 *
 * Encoding walks the text once for special tokens; the text between two of them is a fragment,
 * which the method of the vocabulary cuts and merges. Bytes that came from messages of a
 * conversation (`content` spans) can be part of a fragment and of user-defined tokens, but of no
 * control token.
 */
#include "formats/tok.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "formats/unicode.h"

/* ---- encoding ---- */

/* What is added, and what may be recognised where. */
struct encode_rule {
    bool add_bos, add_eos;
    bool parse_control;
    const struct kept_text_span *content;
    size_t n_content,
        i_content; /* i_content: the first span that ends after the current position */
};

static bool touches_content(const struct encode_rule *rule, size_t begin, size_t end)
{
    return rule->i_content < rule->n_content && rule->content[rule->i_content].begin < end &&
           rule->content[rule->i_content].end > begin;
}

/* The longest special token that begins at text[at] and is allowed there; its length in *n_bytes.
 */
static int32_t special_at(const struct kept_tokenizer *tok, const struct encode_rule *rule,
                          const char *text, size_t n_text, size_t at, size_t *n_bytes)
{
    const struct kept_tok_node *nodes = tok->specials.nodes;
    int32_t found = KEPT_TOKEN_NONE;
    uint32_t node = tok->specials.root[(uint8_t)text[at]];
    for (size_t i = at; node;) {
        int32_t id = nodes[node].id;
        i++;
        if (id != KEPT_TOKEN_NONE && (tok->types[id] == KEPT_TOKEN_USER_DEFINED ||
                                      (rule->parse_control && !touches_content(rule, at, i)))) {
            found = id;
            *n_bytes = i - at;
        }
        node = i < n_text ? nodes[node].child : 0;
        while (node && nodes[node].byte != (uint8_t)text[i])
            node = nodes[node].sibling;
    }
    return found;
}

static kept_status encode_fragment(struct kept_tok_work *work, const char *text, size_t n_bytes,
                                   bool first)
{
    if (n_bytes == 0)
        return KEPT_OK;
    return work->tok->model == KEPT_TOK_BPE ? kept_tok_bpe_fragment(work, text, n_bytes)
                                            : kept_tok_spm_fragment(work, text, n_bytes, first);
}

static kept_status encode_all(struct kept_tok_work *work, const char *text, size_t n_text,
                              struct encode_rule *rule)
{
    const struct kept_tokenizer *tok = work->tok;
    size_t from = 0; /* where the fragment under way began */
    kept_status status = KEPT_OK;
    for (size_t at = 0; at < n_text && !status;) {
        while (rule->i_content < rule->n_content && rule->content[rule->i_content].end <= at)
            rule->i_content++;
        size_t n_bytes = 0;
        int32_t id = special_at(tok, rule, text, n_text, at, &n_bytes);
        if (id == KEPT_TOKEN_NONE) {
            at++;
            continue;
        }
        status = encode_fragment(work, text + from, at - from, true);
        if (!status)
            status = kept_tok_ids_add(&work->out, id, work->err);
        at += n_bytes;
        from = at;
    }
    return status ? status : encode_fragment(work, text + from, n_text - from, true);
}

static void work_finish(struct kept_tok_work *work)
{
    if (work->tok->model == KEPT_TOK_BPE)
        kept_tok_bpe_work_finish(work);
    kept_free(work->symbols);
    kept_free(work->heap);
    kept_strbuf_finish(&work->normal);
    kept_free(work->out.ids);
}

static kept_status check_text(const char *text, size_t n_bytes, struct kept_error *err)
{
    if (!text && n_bytes)
        return kept_fail(err, KEPT_E_ARGUMENT, "tokenizer: a text of %zu bytes is NULL", n_bytes);
    if (n_bytes > KEPT_TOK_MAX_TEXT_BYTES)
        return kept_fail(err, KEPT_E_PROMPT,
                         "the text has %zu bytes, at most %u can be encoded at once", n_bytes,
                         KEPT_TOK_MAX_TEXT_BYTES);
    size_t valid = n_bytes ? kept_utf8_valid_prefix(text, n_bytes) : 0;
    if (valid < n_bytes)
        return kept_fail(err, KEPT_E_PROMPT,
                         "the text is not UTF-8: byte 0x%02X at offset %zu of %zu",
                         (unsigned)(unsigned char)text[valid], valid, n_bytes);
    return KEPT_OK;
}

static kept_status encode(const struct kept_tokenizer *tok, const char *text, size_t n_bytes,
                          struct encode_rule *rule, int32_t **out_ids, size_t *out_n,
                          struct kept_error *err)
{
    *out_ids = NULL;
    kept_status status = check_text(text, n_bytes, err);
    if (status)
        return status;
    struct kept_tok_work work = {.tok = tok, .err = err};
    work.out.ids = kept_alloc((work.out.cap = 16) * sizeof *work.out.ids);
    if (!work.out.ids)
        status = kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for ids");
    if (!status && tok->model == KEPT_TOK_BPE)
        status = kept_tok_bpe_work(&work);
    if (!status && rule->add_bos)
        status = kept_tok_ids_add(&work.out, tok->bos, err);
    if (!status)
        status = encode_all(&work, text, n_bytes, rule);
    if (!status && rule->add_eos)
        status = kept_tok_ids_add(&work.out, tok->eos, err);
    if (!status) {
        *out_ids = work.out.ids;
        *out_n = work.out.n;
        work.out.ids = NULL;
    }
    work_finish(&work);
    return status;
}

kept_status kept_tokenizer_encode(const kept_tokenizer *tok, const char *text, size_t n_bytes,
                                  uint32_t flags, int32_t **out_ids, size_t *out_n,
                                  struct kept_error *err)
{
    bool adds = (flags & KEPT_ENCODE_ADD_SPECIAL) != 0;
    struct encode_rule rule = {.add_bos = adds && tok->add_bos,
                               .add_eos = adds && tok->add_eos,
                               .parse_control = (flags & KEPT_ENCODE_PARSE_SPECIAL) != 0};
    return encode(tok, text, n_bytes, &rule, out_ids, out_n, err);
}

static bool begins_with_bos(const struct kept_tokenizer *tok, const struct kept_chat_text *chat)
{
    if (tok->bos == KEPT_TOKEN_NONE)
        return false;
    uint32_t n;
    const char *bos = kept_tok_string(&tok->texts, tok->bos, &n);
    return n && chat->n_bytes >= n && memcmp(chat->text, bos, n) == 0 &&
           (!chat->n_content || chat->content[0].begin >= n);
}

kept_status kept_chat_encode(const kept_tokenizer *tok, const struct kept_chat_text *chat,
                             int32_t **out_ids, size_t *out_n, struct kept_error *err)
{
    struct encode_rule rule = {.add_bos = tok->add_bos && !begins_with_bos(tok, chat),
                               .parse_control = true,
                               .content = chat->content,
                               .n_content = chat->n_content};
    *out_ids = NULL;
    for (size_t i = 0; i < chat->n_content; i++) {
        size_t from = i ? chat->content[i - 1].end : 0;
        if (chat->content[i].begin < from || chat->content[i].end < chat->content[i].begin ||
            chat->content[i].end > chat->n_bytes)
            return kept_fail(err, KEPT_E_ARGUMENT,
                             "content span %zu is [%zu, %zu) in a text of %zu bytes", i,
                             chat->content[i].begin, chat->content[i].end, chat->n_bytes);
    }
    return encode(tok, chat->text, chat->n_bytes, &rule, out_ids, out_n, err);
}

void kept_tokens_free(int32_t **ids)
{
    if (!ids)
        return;
    kept_free(*ids);
    *ids = NULL;
}

/* ---- decoding ---- */

static bool in_range(const struct kept_tokenizer *tok, int32_t id)
{
    return id >= 0 && (uint32_t)id < tok->n_tokens;
}

static kept_status check_id(const struct kept_tokenizer *tok, int32_t id, struct kept_error *err)
{
    if (in_range(tok, id))
        return KEPT_OK;
    return kept_fail(err, KEPT_E_ARGUMENT, "token id %d is not one of 0 to %u", id,
                     tok->n_tokens - 1);
}

const char *kept_tokenizer_piece(const kept_tokenizer *tok, int32_t id, uint32_t flags,
                                 size_t *out_n)
{
    *out_n = 0;
    if (!in_range(tok, id))
        return "";
    bool special = tok->types[id] == KEPT_TOKEN_CONTROL || tok->types[id] == KEPT_TOKEN_UNKNOWN;
    if (special && !(flags & KEPT_DECODE_SPECIAL))
        return "";
    uint32_t n;
    const char *piece = kept_tok_string(&tok->pieces, id, &n);
    *out_n = n;
    return piece;
}

/* The piece within a text: its very first space is the one that encoding put there. */
static const char *piece_in_text(const struct kept_tokenizer *tok, int32_t id, uint32_t flags,
                                 bool *begun, size_t *out_n)
{
    const char *piece = kept_tokenizer_piece(tok, id, flags, out_n);
    if (*out_n && !*begun) {
        *begun = true;
        if (tok->add_space_prefix && tok->types[id] == KEPT_TOKEN_NORMAL && piece[0] == ' ') {
            piece++;
            --*out_n;
        }
    }
    return piece;
}

kept_status kept_tokenizer_decode(const kept_tokenizer *tok, const int32_t *ids, size_t n_ids,
                                  uint32_t flags, char **out_text, size_t *out_bytes,
                                  struct kept_error *err)
{
    struct kept_strbuf text = {0};
    bool begun = false;
    *out_text = NULL;
    for (size_t i = 0; i < n_ids; i++) {
        kept_status status = check_id(tok, ids[i], err);
        if (status) {
            kept_strbuf_finish(&text);
            return status;
        }
        size_t n;
        const char *piece = piece_in_text(tok, ids[i], flags, &begun, &n);
        kept_strbuf_add(&text, piece, n);
    }
    kept_strbuf_add(&text, "", 1);
    if (text.failed) {
        kept_strbuf_finish(&text);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for the text of %zu tokens",
                         n_ids);
    }
    *out_text = text.text;
    if (out_bytes)
        *out_bytes = text.n_bytes - 1;
    return KEPT_OK;
}

void kept_text_free(char **text)
{
    if (!text)
        return;
    kept_free(*text);
    *text = NULL;
}

kept_status kept_text_stream_push(const kept_tokenizer *tok, struct kept_text_stream *stream,
                                  int32_t id, uint32_t flags, char *to, size_t cap_bytes,
                                  size_t *out_bytes, struct kept_error *err)
{
    kept_status status = check_id(tok, id, err);
    if (status)
        return status;
    if (cap_bytes < tok->max_piece_bytes + 4)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "a buffer of %zu bytes is too small for a piece, %zu are needed",
                         cap_bytes, tok->max_piece_bytes + 4);
    size_t n;
    const char *piece = piece_in_text(tok, id, flags, &stream->begun, &n);
    size_t n_held = stream->n_held < sizeof stream->held ? stream->n_held : 0;
    memcpy(to, stream->held, n_held);
    memcpy(to + n_held, piece, n);
    n += n_held;
    stream->n_held = (uint32_t)kept_utf8_partial_tail(to, n);
    memcpy(stream->held, to + n - stream->n_held, stream->n_held);
    *out_bytes = n - stream->n_held;
    return KEPT_OK;
}

size_t kept_text_stream_flush(struct kept_text_stream *stream, char to[4])
{
    size_t n = stream->n_held < sizeof stream->held ? stream->n_held : 0;
    memcpy(to, stream->held, n);
    *stream = (struct kept_text_stream){0};
    return n;
}

/* ---- about the vocabulary ---- */

uint32_t kept_tokenizer_count(const kept_tokenizer *tok)
{
    return tok->n_tokens;
}

size_t kept_tokenizer_max_piece(const kept_tokenizer *tok)
{
    return tok->max_piece_bytes;
}

const char *kept_tokenizer_kind(const kept_tokenizer *tok)
{
    return tok->kind;
}

const char *kept_tokenizer_text(const kept_tokenizer *tok, int32_t id, size_t *out_n)
{
    uint32_t n = 0;
    const char *text = in_range(tok, id) ? kept_tok_string(&tok->texts, id, &n) : "";
    *out_n = n;
    return text;
}

enum kept_token_type kept_tokenizer_type(const kept_tokenizer *tok, int32_t id)
{
    return in_range(tok, id) ? (enum kept_token_type)tok->types[id] : KEPT_TOKEN_UNKNOWN;
}

int32_t kept_tokenizer_find(const kept_tokenizer *tok, const char *text, size_t n_bytes)
{
    for (int32_t id = 0; id < (int32_t)tok->n_tokens; id++) {
        uint32_t n;
        const char *other = kept_tok_string(&tok->texts, id, &n);
        if (n == n_bytes && memcmp(other, text, n) == 0)
            return id;
    }
    return KEPT_TOKEN_NONE;
}

int32_t kept_tokenizer_bos(const kept_tokenizer *tok)
{
    return tok->bos;
}

int32_t kept_tokenizer_eos(const kept_tokenizer *tok)
{
    return tok->eos;
}

bool kept_tokenizer_adds_bos(const kept_tokenizer *tok)
{
    return tok->add_bos;
}

bool kept_tokenizer_adds_eos(const kept_tokenizer *tok)
{
    return tok->add_eos;
}

bool kept_tokenizer_is_end(const kept_tokenizer *tok, int32_t id)
{
    return in_range(tok, id) && tok->ends[id];
}

const char *kept_tokenizer_chat_template(const kept_tokenizer *tok)
{
    return tok->chat_template;
}

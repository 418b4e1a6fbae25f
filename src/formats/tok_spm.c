/* formats/tok_spm.c: SentencePiece-style vocabularies (tokenizer.ggml.model "llama": Llama 2,
 * Gemma).
 *
 * The text's spaces become U+2581, its characters become symbols, and neighbours whose joined text
 * is a token are joined by score, highest first (tok_merge.c): the way of SentencePiece's BPE
 * model, not the Viterbi of its unigram model. Characters that end up without a token are written
 * as byte tokens <0x00> … <0xFF>. Text never becomes a control, unknown or byte token by its
 * spelling: `plain` does not hold them.
 */
#include "formats/tok.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "formats/unicode.h"

static const char SPACE_MARK[] = "\xE2\x96\x81"; /* U+2581 */
#define SPACE_MARK_BYTES 3u

size_t kept_tok_spm_decode(const char *text, size_t n_bytes, char *to)
{
    size_t n = 0;
    if (!memchr(text, SPACE_MARK[0], n_bytes)) {
        memcpy(to, text, n_bytes);
        return n_bytes;
    }
    for (size_t i = 0; i < n_bytes;) {
        if (n_bytes - i >= SPACE_MARK_BYTES &&
            memcmp(text + i, SPACE_MARK, SPACE_MARK_BYTES) == 0) {
            to[n++] = ' ';
            i += SPACE_MARK_BYTES;
        } else {
            to[n++] = text[i++];
        }
    }
    return n;
}

/* Scores as an order that rises as scores fall: IEEE bits, made monotonic, inverted. */
static uint32_t score_order(float score)
{
    uint32_t bits;
    score += 0.0f; /* -0 and 0 are equal */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? bits : 0x7FFFFFFFu - bits;
}

static bool join(const struct kept_tok_work *work, const struct kept_tok_symbol *left,
                 const struct kept_tok_symbol *right, struct kept_tok_pair *out)
{
    (void)right;
    const struct kept_tokenizer *tok = work->tok;
    if (out->n_bytes > tok->max_plain_bytes)
        return false;
    out->id = kept_tok_map_find(&tok->plain, &tok->texts, work->text + left->at, out->n_bytes);
    if (out->id == KEPT_TOKEN_NONE)
        return false;
    out->order = score_order(tok->scores[out->id]);
    return true;
}

/* Merges work->normal. No token has U+2581 behind a byte that `before_space` does not name, so the
 * text falls apart there into words whose merges cannot touch each other: the result is the same,
 * and the heap of a word stays in the cache. */
static kept_status merge_normal(struct kept_tok_work *work)
{
    const struct kept_tokenizer *tok = work->tok;
    const char *text = work->normal.text;
    size_t n_text = work->normal.n_bytes;
    kept_status status = KEPT_OK;
    for (size_t at = 0; at < n_text && !status;) {
        uint32_t rune;
        size_t n = kept_utf8_next(text + at, n_text - at, &rune);
        if (rune == 0x2581 && at > 0 && !tok->before_space[(uint8_t)text[at - 1]])
            status = kept_tok_merge(work, join);
        int32_t id = kept_tok_map_find(&tok->plain, &tok->texts, text + at, n);
        if (!status)
            status = kept_tok_symbol_add(work, at, n, id);
        at += n;
    }
    return status ? status : kept_tok_merge(work, join);
}

kept_status kept_tok_spm_fragment(struct kept_tok_work *work, const char *text, size_t n_bytes,
                                  bool first)
{
    const struct kept_tokenizer *tok = work->tok;
    struct kept_strbuf *normal = &work->normal;
    if (n_bytes == 0)
        return KEPT_OK;
    kept_strbuf_clear(normal);
    if (first && tok->add_space_prefix)
        kept_strbuf_add(normal, SPACE_MARK, SPACE_MARK_BYTES);
    for (size_t i = 0; i < n_bytes;) {
        const char *space = memchr(text + i, ' ', n_bytes - i);
        size_t n_run = space ? (size_t)(space - (text + i)) : n_bytes - i;
        kept_strbuf_add(normal, text + i, n_run);
        if (space)
            kept_strbuf_add(normal, SPACE_MARK, SPACE_MARK_BYTES);
        i += n_run + (space != NULL);
    }
    if (normal->failed)
        return kept_fail(work->err, KEPT_E_HOST_MEMORY,
                         "tokenizer: no memory for a text of %zu bytes", n_bytes);
    work->text = normal->text;
    return merge_normal(work);
}

static int32_t parse_byte_token(const char *text, uint32_t n_bytes)
{
    static const char digits[] = "0123456789ABCDEF";
    if (n_bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    const char *high = memchr(digits, text[3], 16), *low = memchr(digits, text[4], 16);
    return high && low ? (int32_t)(high - digits) * 16 + (int32_t)(low - digits) : -1;
}

/* Which bytes stand directly before U+2581 inside some token that text can become. */
static void load_before_space(struct kept_tokenizer *tok)
{
    for (uint32_t i = 0; i <= tok->plain.mask; i++) {
        uint32_t n_bytes;
        int32_t id = tok->plain.slots[i].id;
        if (id == KEPT_TOKEN_NONE)
            continue;
        const char *text = kept_tok_string(&tok->texts, id, &n_bytes);
        for (uint32_t at = 1; at + SPACE_MARK_BYTES <= n_bytes; at++)
            if (memcmp(text + at, SPACE_MARK, SPACE_MARK_BYTES) == 0)
                tok->before_space[(uint8_t)text[at - 1]] = true;
    }
}

static kept_status load_bytes(struct kept_tokenizer *tok, struct kept_error *err)
{
    for (int i = 0; i < 256; i++)
        tok->bytes[i] = tok->unknown;
    uint32_t n_found = 0;
    for (int32_t id = 0; id < (int32_t)tok->n_tokens; id++) {
        if (tok->types[id] != KEPT_TOKEN_BYTE)
            continue;
        uint32_t n_bytes;
        const char *text = kept_tok_string(&tok->texts, id, &n_bytes);
        int32_t byte = parse_byte_token(text, n_bytes);
        if (byte < 0)
            return kept_fail(
                err, KEPT_E_FORMAT,
                "token %d is a byte token, but its text \"%.*s\" is not of the form <0x00>", id,
                (int)n_bytes, text);
        tok->bytes[byte] = id;
        n_found++;
    }
    if (n_found < 256 && tok->unknown == KEPT_TOKEN_NONE)
        return kept_fail(err, KEPT_E_FORMAT,
                         "the vocabulary has %u of 256 byte tokens and no unknown token", n_found);
    return KEPT_OK;
}

kept_status kept_tok_spm_load(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                              struct kept_error *err)
{
    const struct kept_gguf_value *value = kept_gguf_find(gguf, "tokenizer.ggml.scores");
    if (!value || value->type != KEPT_GGUF_ARRAY || value->as.array.n != tok->n_tokens)
        return kept_fail(
            err, KEPT_E_FORMAT, "tokenizer.ggml.scores has %llu entries, the vocabulary %u",
            value && value->type == KEPT_GGUF_ARRAY ? (unsigned long long)value->as.array.n : 0,
            tok->n_tokens);
    tok->scores = kept_calloc(tok->n_tokens, sizeof *tok->scores);
    if (!tok->scores)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for %u scores",
                         tok->n_tokens);
    for (uint32_t i = 0; i < tok->n_tokens; i++) {
        double score;
        if (!kept_gguf_array_f64(&value->as.array, i, &score) || isnan(score))
            return kept_fail(err, KEPT_E_FORMAT, "tokenizer.ggml.scores: entry %u is not a number",
                             i);
        tok->scores[i] = (float)score;
    }
    load_before_space(tok);
    return load_bytes(tok, err);
}

/* formats/tok_bpe.c: byte-level BPE (tokenizer.ggml.model "gpt2": SmolLM2, Llama 3, Qwen, …).
 *
 * Text is cut into words by the patterns that tokenizer.ggml.pre names, one after the other: each
 * cuts every piece into its matches and the gaps between them. The bytes of a word are the first
 * symbols; merges join them by rank (tok_merge.c). Merges are looked up by the two ids, so that no
 * text is hashed while merging.
 *
 * Vocabularies spell bytes as printable characters (GPT-2's alphabet); pieces are stored decoded,
 * so words are looked up as they are. White space is spelled out, because PCRE2's \s has U+180E,
 * which the authors' engines do not have.
 */
#include "formats/tok.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/alloc.h"
#include "base/status.h"
#include "formats/unicode.h"

#define MATCH_LIMIT \
    50000000u /* backtracking steps of one match; the patterns need about one a byte */
#define MATCH_HEAP_KIB 65536u

#define S           "\\p{Z}\\t-\\r\\x{85}" /* white space, inside brackets */
#define CONTRACTION "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
#define GPT2_WORDS \
    "'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^" S "\\p{L}\\p{N}]+|[" S "]+(?![^" S "])"
#define LLAMA3_WORDS(digits)                                                                     \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" S "\\p{L}\\p{N}]+[\\r\\n]*|[" S \
                "]*[\\r\\n]+|[" S "]+(?![^" S "])|[" S "]+"

struct kept_tok_pre {
    const char *names; /* values of tokenizer.ggml.pre, between spaces */
    const char *patterns[KEPT_TOK_MAX_SPLITS];
    bool whole_words; /* a word that is a token is not merged */
    bool add_bos;     /* unless the file says otherwise */
};

/* One row for each way of cutting; a new one needs nothing else. The first is for files that name
 * none. */
static const struct kept_tok_pre PRES[] = {
    {" default ", {"[\\p{P}$+<=>^~|]+", GPT2_WORDS, "\\p{N}+", "[0-9][0-9][0-9]"}, false, false},
    {" smollm starcoder refact command-r codeshell exaone ", {"\\p{N}", GPT2_WORDS}, false, false},
    {" gpt-2 mpt olmo phi-2 ", {GPT2_WORDS}, false, false},
    {" llama-bpe llama3 llama-v3 ", {LLAMA3_WORDS("\\p{N}{1,3}")}, true, true},
    {" qwen2 deepseek-r1-qwen ", {LLAMA3_WORDS("\\p{N}")}, false, false},
};

/* ---- the byte alphabet ---- */

/* The byte that a character of the alphabet stands for, or -1: printable Latin-1 is itself, the
 * other 68 bytes are U+0100 and up in their order. */
static int alphabet_byte(uint32_t rune)
{
    static const uint8_t others[68] = {
        0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,  15,  16,
        17,  18,  19,  20,  21,  22,  23,  24,  25,  26,  27,  28,  29,  30,  31,  32,  127,
        128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 140, 141, 142, 143, 144,
        145, 146, 147, 148, 149, 150, 151, 152, 153, 154, 155, 156, 157, 158, 159, 160, 173};
    if ((rune >= 33 && rune <= 126) || (rune >= 161 && rune <= 255 && rune != 173))
        return (int)rune;
    return rune >= 256 && rune < 256 + sizeof others ? others[rune - 256] : -1;
}

size_t kept_tok_bpe_decode(const char *text, size_t n_bytes, char *to)
{
    size_t n = 0;
    for (size_t at = 0; at < n_bytes;) {
        uint32_t rune;
        at += kept_utf8_next(text + at, n_bytes - at, &rune);
        int byte = alphabet_byte(rune);
        if (byte < 0) {
            memcpy(to, text, n_bytes);
            return n_bytes;
        }
        to[n++] = (char)byte;
    }
    return n;
}

/* ---- merges ---- */

static uint32_t pair_hash(int32_t left, int32_t right)
{
    uint64_t x = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(x >> 32) ^ (uint32_t)x;
}

static struct kept_tok_merge *merge_slot(const struct kept_tok_merges *merges, int32_t left,
                                         int32_t right)
{
    uint32_t i = pair_hash(left, right);
    for (;; i++) {
        struct kept_tok_merge *slot = &merges->slots[i & merges->mask];
        if (slot->id == KEPT_TOKEN_NONE || (slot->left == left && slot->right == right))
            return slot;
    }
}

static bool join(const struct kept_tok_work *work, const struct kept_tok_symbol *left,
                 const struct kept_tok_symbol *right, struct kept_tok_pair *out)
{
    const struct kept_tok_merge *slot = merge_slot(&work->tok->merges, left->id, right->id);
    if (slot->id == KEPT_TOKEN_NONE)
        return false;
    out->order = slot->rank;
    out->id = slot->id;
    return true;
}

static int32_t find_part(const struct kept_tokenizer *tok, const char *text, size_t n_bytes)
{
    char piece[KEPT_TOK_MAX_TOKEN_BYTES];
    piece[0] = '\0';
    return kept_tok_map_find(&tok->plain, &tok->pieces, piece,
                             kept_tok_bpe_decode(text, n_bytes, piece));
}

/* A merge is "left right". Merges of tokens that the vocabulary lacks can never happen and are left
 * out. */
static kept_status load_merge(struct kept_tokenizer *tok, struct kept_text line, uint32_t rank,
                              struct kept_error *err)
{
    const char *space = line.n_bytes > 2 ? memchr(line.bytes + 1, ' ', line.n_bytes - 2) : NULL;
    if (!space)
        return kept_fail(err, KEPT_E_FORMAT,
                         "tokenizer.ggml.merges: entry %u is not two tokens and a space", rank);
    size_t n_left = (size_t)(space - line.bytes), n_right = line.n_bytes - n_left - 1;
    if (line.n_bytes > KEPT_TOK_MAX_TOKEN_BYTES)
        return kept_fail(err, KEPT_E_FORMAT,
                         "tokenizer.ggml.merges: entry %u has %zu bytes, at most %u are read", rank,
                         line.n_bytes, KEPT_TOK_MAX_TOKEN_BYTES);
    char joined[KEPT_TOK_MAX_TOKEN_BYTES];
    memcpy(joined, line.bytes, n_left);
    memcpy(joined + n_left, space + 1, n_right);
    int32_t left = find_part(tok, line.bytes, n_left), right = find_part(tok, space + 1, n_right);
    int32_t id = find_part(tok, joined, n_left + n_right);
    if (left == KEPT_TOKEN_NONE || right == KEPT_TOKEN_NONE || id == KEPT_TOKEN_NONE)
        return KEPT_OK;
    struct kept_tok_merge *slot = merge_slot(&tok->merges, left, right);
    if (slot->id == KEPT_TOKEN_NONE)
        *slot = (struct kept_tok_merge){left, right, rank, id};
    return KEPT_OK;
}

static kept_status load_merges(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                               struct kept_error *err)
{
    const struct kept_gguf_value *value = kept_gguf_find(gguf, "tokenizer.ggml.merges");
    if (!value || value->type != KEPT_GGUF_ARRAY || !value->as.array.texts)
        return kept_fail(err, KEPT_E_FORMAT,
                         "tokenizer.ggml.merges is missing or not an array of strings");
    const struct kept_gguf_array *lines = &value->as.array;
    if (lines->n > KEPT_TOK_MAX_TOKENS)
        return kept_fail(err, KEPT_E_FORMAT,
                         "tokenizer.ggml.merges has %llu entries, at most %u are read",
                         (unsigned long long)lines->n, KEPT_TOK_MAX_TOKENS);
    uint32_t n_slots = 16;
    while (n_slots < 2 * lines->n)
        n_slots *= 2;
    tok->merges.mask = n_slots - 1;
    tok->merges.slots = kept_calloc(n_slots, sizeof *tok->merges.slots);
    if (!tok->merges.slots)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for %llu merges",
                         (unsigned long long)lines->n);
    for (uint32_t i = 0; i < n_slots; i++)
        tok->merges.slots[i].id = KEPT_TOKEN_NONE;
    for (uint32_t i = 0; i < lines->n; i++) {
        kept_status status = load_merge(tok, lines->texts[i], i, err);
        if (status)
            return status;
    }
    return KEPT_OK;
}

/* ---- patterns ---- */

static void *split_alloc(size_t n_bytes, void *user)
{
    (void)user;
    return kept_alloc(n_bytes);
}

static void split_free(void *p, void *user)
{
    (void)user;
    kept_free(p);
}

static const struct kept_tok_pre *find_pre(struct kept_text name)
{
    char wanted[48];
    if (name.n_bytes + 3 > sizeof wanted || memchr(name.bytes, ' ', name.n_bytes) ||
        memchr(name.bytes, '\0', name.n_bytes))
        return NULL;
    kept_snprintf(wanted, sizeof wanted, " %.*s ", (int)name.n_bytes, name.bytes);
    for (size_t i = 0; i < sizeof PRES / sizeof *PRES; i++)
        if (strstr(PRES[i].names, wanted))
            return &PRES[i];
    return NULL;
}

static kept_status load_patterns(struct kept_tokenizer *tok, struct kept_error *err)
{
    pcre2_general_context *memory = pcre2_general_context_create(split_alloc, split_free, NULL);
    pcre2_compile_context *compile = memory ? pcre2_compile_context_create(memory) : NULL;
    kept_status status = KEPT_OK;
    tok->split_memory = memory;
    if (!compile)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "tokenizer: no memory for its patterns");
    for (size_t i = 0; i < KEPT_TOK_MAX_SPLITS && tok->pre->patterns[i] && !status; i++) {
        int code = 0;
        PCRE2_SIZE at = 0;
        pcre2_code *split = pcre2_compile((PCRE2_SPTR)tok->pre->patterns[i], PCRE2_ZERO_TERMINATED,
                                          PCRE2_UTF | PCRE2_UCP, &code, &at, compile);
        tok->splits[i] = split;
        if (!split)
            status = kept_fail(
                err, code == PCRE2_ERROR_HEAP_FAILED ? KEPT_E_HOST_MEMORY : KEPT_E_INTERNAL,
                "tokenizer: pattern %zu of%sdoes not compile (PCRE2 error %d at %zu)", i,
                tok->pre->names, code, (size_t)at);
        else
            (void)pcre2_jit_compile(
                split, PCRE2_JIT_COMPLETE); /* without it matching is slower, not wrong */
    }
    pcre2_compile_context_free(compile);
    return status;
}

kept_status kept_tok_bpe_load(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                              struct kept_error *err)
{
    struct kept_text name = {"default", 7};
    (void)kept_gguf_text(gguf, "tokenizer.ggml.pre", &name);
    tok->pre = find_pre(name);
    if (!tok->pre)
        return kept_fail(err, KEPT_E_UNSUPPORTED,
                         "tokenizer.ggml.pre \"%.*s\" is not one of those known",
                         (int)(name.n_bytes < 64 ? name.n_bytes : 64), name.bytes);
    kept_snprintf(tok->kind, sizeof tok->kind, "bpe/%.*s", (int)name.n_bytes, name.bytes);
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        tok->bytes[i] = kept_tok_map_find(&tok->plain, &tok->pieces, &byte, 1);
    }
    kept_status status = load_merges(tok, gguf, err);
    return status ? status : load_patterns(tok, err);
}

void kept_tok_bpe_finish(struct kept_tokenizer *tok)
{
    for (size_t i = 0; i < KEPT_TOK_MAX_SPLITS; i++)
        pcre2_code_free(tok->splits[i]);
    pcre2_general_context_free(tok->split_memory);
    kept_free(tok->merges.slots);
}

bool kept_tok_bpe_default_bos(const struct kept_tokenizer *tok)
{
    return tok->pre->add_bos;
}

/* ---- encoding ---- */

kept_status kept_tok_bpe_work(struct kept_tok_work *work)
{
    work->match = pcre2_match_data_create(1, work->tok->split_memory);
    work->match_limits = pcre2_match_context_create(work->tok->split_memory);
    if (!work->match || !work->match_limits)
        return kept_fail(work->err, KEPT_E_HOST_MEMORY, "tokenizer: no memory to match patterns");
    pcre2_set_match_limit(work->match_limits, MATCH_LIMIT);
    pcre2_set_heap_limit(work->match_limits, MATCH_HEAP_KIB);
    return KEPT_OK;
}

void kept_tok_bpe_work_finish(struct kept_tok_work *work)
{
    pcre2_match_data_free(work->match);
    pcre2_match_context_free(work->match_limits);
}

static kept_status encode_word(struct kept_tok_work *work, const char *word, size_t n_bytes)
{
    const struct kept_tokenizer *tok = work->tok;
    if (tok->pre->whole_words && n_bytes <= tok->max_plain_bytes) {
        int32_t id = kept_tok_map_find(&tok->plain, &tok->pieces, word, n_bytes);
        if (id != KEPT_TOKEN_NONE)
            return kept_tok_ids_add(&work->out, id, work->err);
    }
    work->text = word;
    for (size_t i = 0; i < n_bytes; i++) {
        int32_t id = tok->bytes[(unsigned char)word[i]];
        kept_status status = id == KEPT_TOKEN_NONE ? KEPT_OK : kept_tok_symbol_add(work, i, 1, id);
        if (status)
            return status;
    }
    return kept_tok_merge(work, join);
}

/* Finds the next match of pattern i from there on; *begin = *end = n_bytes when there is none. */
static kept_status next_match(struct kept_tok_work *work, size_t i, const char *text,
                              size_t n_bytes, size_t from, size_t *begin, size_t *end)
{
    const pcre2_code *split = work->tok->splits[i];
    uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int rc = pcre2_match(split, (PCRE2_SPTR)text, n_bytes, from, options, work->match,
                         work->match_limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(split, (PCRE2_SPTR)text, n_bytes, from, options | PCRE2_NO_JIT,
                         work->match, work->match_limits);
    *begin = *end = n_bytes;
    if (rc == PCRE2_ERROR_NOMATCH)
        return KEPT_OK;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return kept_fail(work->err, KEPT_E_HOST_MEMORY, "tokenizer: no memory to match patterns");
    if (rc < 0)
        return kept_fail(
            work->err, KEPT_E_PROMPT,
            "the text cannot be split into words within the limits (PCRE2 error %d, %zu bytes)", rc,
            n_bytes);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(work->match);
    *begin = at[0];
    *end = at[1];
    return KEPT_OK;
}

/* Cuts text by pattern i and hands matches and gaps to pattern i + 1; the last hands them to
 * encode_word. */
static kept_status split_text(struct kept_tok_work *work, size_t i, const char *text,
                              size_t n_bytes)
{
    if (i == KEPT_TOK_MAX_SPLITS || !work->tok->splits[i])
        return encode_word(work, text, n_bytes);
    for (size_t at = 0; at < n_bytes;) {
        size_t begin, end;
        kept_status status = next_match(work, i, text, n_bytes, at, &begin, &end);
        if (!status && begin > at)
            status = split_text(work, i + 1, text + at, begin - at);
        if (!status && end > begin)
            status = split_text(work, i + 1, text + begin, end - begin);
        if (status)
            return status;
        at = end;
    }
    return KEPT_OK;
}

kept_status kept_tok_bpe_fragment(struct kept_tok_work *work, const char *text, size_t n_bytes)
{
    return split_text(work, 0, text, n_bytes);
}

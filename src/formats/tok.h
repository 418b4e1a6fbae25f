/* formats/tok.h: the tokenizer behind kept/tokenizer.h: its tables, and the seam between splitting
 * and merging.
 *
 * tok_vocab.c builds the tables from a file's metadata, tok_special.c finds special tokens in text,
 * tok_bpe.c and tok_spm.c turn the text between them into symbols, tok_merge.c joins symbols, tok.c
 * is the public interface.
 */
#ifndef KEPT_FORMATS_TOK_H
#define KEPT_FORMATS_TOK_H

#include "base/str.h"
#include "formats/gguf.h"
#include "kept/tokenizer.h"

#define KEPT_TOK_MAX_TOKENS (1u << 24)
#define KEPT_TOK_MAX_TOKEN_BYTES \
    4096u /* bounds what a hostile vocabulary can cost per byte of text */
#define KEPT_TOK_MAX_TEXT_BYTES (1u << 30)
#define KEPT_TOK_MAX_SPLITS     4

enum kept_tok_model { KEPT_TOK_BPE, KEPT_TOK_SPM };

/* Strings one after the other; string i is bytes[at[i]] … bytes[at[i + 1]]. */
struct kept_tok_strings {
    char *bytes;
    uint32_t *at; /* [n_tokens + 1] */
};

/* Open addressing, a power of two of slots, at most half full. Empty slots have id KEPT_TOKEN_NONE.
 */
struct kept_tok_map {
    struct kept_tok_map_slot {
        uint32_t hash;
        int32_t id;
    } * slots;
    uint32_t mask;
};

/* (left id, right id) -> (rank, joined id), the same way. */
struct kept_tok_merges {
    struct kept_tok_merge {
        int32_t left, right;
        uint32_t rank;
        int32_t id; /* KEPT_TOKEN_NONE: empty slot */
    } * slots;
    uint32_t mask;
};

/* Byte trie of special tokens: children are sibling lists; node 0 means none. */
struct kept_tok_trie {
    struct kept_tok_node {
        uint32_t child, sibling;
        int32_t id;
        uint8_t byte;
    } * nodes;
    uint32_t n_nodes, cap_nodes;
    uint32_t root[256];
};

struct kept_tok_pre; /* a row of the splitting patterns, tok_bpe.c */

struct kept_tokenizer {
    enum kept_tok_model model;
    uint32_t n_tokens;
    struct kept_tok_strings texts;  /* as the file spells them */
    struct kept_tok_strings pieces; /* the bytes they stand for */
    uint8_t *types;                 /* enum kept_token_type */
    uint8_t *ends;                  /* 1: generation ends here */
    float *scores;                  /* SPM; else NULL */
    struct kept_tok_map plain;      /* what ordinary text can become: BPE by piece, SPM by text */
    struct kept_tok_merges merges;  /* BPE */
    struct kept_tok_trie specials;
    size_t max_piece_bytes;
    size_t max_plain_bytes; /* longest key in `plain` */

    int32_t bytes[256]; /* the token of one byte; unknown, or KEPT_TOKEN_NONE */
    int32_t bos, eos, unknown;
    bool add_bos, add_eos, add_space_prefix;
    bool before_space[256]; /* SPM: a plain token has this byte directly before U+2581 */

    const struct kept_tok_pre *pre;
    void *splits[KEPT_TOK_MAX_SPLITS]; /* pcre2_code, in the order of pre's patterns */
    void *split_memory;                /* pcre2_general_context */
    char *chat_template;
    char kind[48];
};

/* Ids that grow. */
struct kept_tok_ids {
    int32_t *ids;
    size_t n, cap;
};

/* A symbol of the text being merged. */
struct kept_tok_symbol {
    uint32_t at, n_bytes; /* n_bytes 0: absorbed by the one before */
    int32_t id;           /* KEPT_TOKEN_NONE: no token of its own */
    uint32_t prev, next;  /* UINT32_MAX: none */
};

/* A symbol and the one after it. */
struct kept_tok_pair {
    uint32_t order; /* the lowest goes first, equal ones from left to right */
    uint32_t left;
    uint32_t n_bytes; /* of both */
    int32_t id;       /* what they become */
};

/* What one encode call needs, reused from word to word. */
struct kept_tok_work {
    const struct kept_tokenizer *tok;
    const char *text; /* what the symbols point into */
    struct kept_tok_symbol *symbols;
    size_t n_symbols, cap_symbols;
    struct kept_tok_pair *heap;
    size_t n_heap, cap_heap;
    struct kept_strbuf normal; /* SPM: the fragment with its spaces written as U+2581 */
    void *match;               /* pcre2_match_data */
    void *match_limits;        /* pcre2_match_context */
    struct kept_tok_ids out;
    struct kept_error *err;
};

/* Builds a tokenizer from a file's metadata; it keeps nothing of the file. KEPT_E_FORMAT,
 * KEPT_E_UNSUPPORTED, KEPT_E_HOST_MEMORY. kept_tokenizer_destroy accepts half-built ones. */
kept_status kept_tokenizer_create(const struct kept_gguf *gguf, struct kept_tokenizer **out,
                                  struct kept_error *err);
void kept_tokenizer_destroy(struct kept_tokenizer **tok);

const char *kept_tok_string(const struct kept_tok_strings *strings, int32_t id, uint32_t *n_bytes);

kept_status kept_tok_map_create(struct kept_tok_map *map, uint32_t n_keys, struct kept_error *err);
/* Adds id under its string unless an equal string is there; `strings` holds the keys of all ids in
 * the map. */
void kept_tok_map_add(struct kept_tok_map *map, const struct kept_tok_strings *strings, int32_t id);
int32_t kept_tok_map_find(const struct kept_tok_map *map, const struct kept_tok_strings *strings,
                          const char *key, size_t n_bytes);

/* Adds the id's text, 1 byte or more. */
kept_status kept_tok_trie_add(struct kept_tok_trie *trie, const char *text, uint32_t n_bytes,
                              int32_t id, struct kept_error *err);

kept_status kept_tok_ids_add(struct kept_tok_ids *ids, int32_t id, struct kept_error *err);

/* Joins work->symbols until no pair is left, always the lowest order first, and appends the ids of
 * what remains; `join` says whether two neighbours form a token, `rest` appends a symbol that has
 * none. */
typedef bool (*kept_tok_join_fn)(const struct kept_tok_work *work,
                                 const struct kept_tok_symbol *left,
                                 const struct kept_tok_symbol *right, struct kept_tok_pair *out);
kept_status kept_tok_merge(struct kept_tok_work *work, kept_tok_join_fn join);
kept_status kept_tok_symbol_add(struct kept_tok_work *work, size_t at, size_t n_bytes, int32_t id);
/* Appends the tokens of single bytes; bytes without one are dropped. */
kept_status kept_tok_bytes_add(struct kept_tok_work *work, const char *bytes, size_t n_bytes);

/* Byte-level BPE: what it needs beyond the common tables, and a fragment of text without special
 * tokens. */
kept_status kept_tok_bpe_load(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                              struct kept_error *err);
void kept_tok_bpe_finish(struct kept_tokenizer *tok);
kept_status kept_tok_bpe_work(
    struct kept_tok_work *work); /* makes match data, released by kept_tok_bpe_work_finish */
void kept_tok_bpe_work_finish(struct kept_tok_work *work);
kept_status kept_tok_bpe_fragment(struct kept_tok_work *work, const char *text, size_t n_bytes);
/* The bytes a byte-level token text stands for, to `to` (n_bytes are enough); returns their number.
 * Text with a character that is not of the byte alphabet stands for itself. */
size_t kept_tok_bpe_decode(const char *text, size_t n_bytes, char *to);
/* What the splitting pattern's row says when the file does not. */
bool kept_tok_bpe_default_bos(const struct kept_tokenizer *tok);

/* SentencePiece-style: the same. `first`: the fragment begins the text or follows a special token.
 */
kept_status kept_tok_spm_load(struct kept_tokenizer *tok, const struct kept_gguf *gguf,
                              struct kept_error *err);
kept_status kept_tok_spm_fragment(struct kept_tok_work *work, const char *text, size_t n_bytes,
                                  bool first);
size_t kept_tok_spm_decode(const char *text, size_t n_bytes, char *to);

#endif

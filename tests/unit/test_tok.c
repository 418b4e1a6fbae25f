/* tests/unit/test_tok.c: tokenizers of small vocabularies made here, sound and hostile. The real
 * ones are tests/unit/test_tok_real.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "formats/tok.h"
#include "tok_vocab.h"

#define MARK         "\xE2\x96\x81"
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- the vocabularies ---- */

/* Byte-level: a few letters and their merges; "Ġ" (C4 A0) is the space. */
static const char *const BPE_TOKENS[] = {"a",
                                         "b",
                                         "c",
                                         "\xC4\xA0",
                                         "ab",
                                         "abc",
                                         "\xC4\xA0"
                                         "a",
                                         "1",
                                         "bc",
                                         "!",
                                         "<|im_end|>",
                                         "<user>",
                                         "\xC3\x83\xC2\xA9"
                                         "x",
                                         "\xC3\x83",
                                         "\xC2\xA9"};
static const int32_t BPE_TYPES[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4, 1, 1, 1};
static const char *const BPE_MERGES[] = {"b c", "a b", "\xC4\xA0 a", "ab c", "a zz", "zz a", "a b"};

static void put_bpe(struct vocab *v)
{
    vocab_put_text(v, "ggml.model", "gpt2");
    vocab_put_text(v, "ggml.pre", "smollm");
    vocab_put_texts(v, "ggml.tokens", BPE_TOKENS, COUNT(BPE_TOKENS));
    vocab_put_i32s(v, "ggml.token_type", BPE_TYPES, COUNT(BPE_TYPES));
    vocab_put_texts(v, "ggml.merges", BPE_MERGES, COUNT(BPE_MERGES));
}

/* SentencePiece-style: unknown, BOS, EOS, 256 byte tokens, letters, a control token and a
 * user-defined one. */
enum { SPM_BYTES = 3, SPM_LETTERS = 259, SPM_N = SPM_LETTERS + 8 };
static const char *const SPM_WORDS[] = {MARK, "a", "b", "ab", MARK "a", "ba", "[ctl]", "\n\n"};
static const float SPM_SCORES[] = {-1, -2, -3, -5, -4, -5, 0, 0};

static void put_spm(struct vocab *v, bool with_bytes, bool with_scores)
{
    static char texts[256][8];
    const char *tokens[SPM_N] = {"<unk>", "<s>", "</s>"};
    int32_t types[SPM_N] = {2, 3, 3};
    float scores[SPM_N] = {0};
    for (int i = 0; i < 256; i++) {
        snprintf(texts[i], sizeof texts[i], "<0x%02X>", i);
        tokens[SPM_BYTES + i] = with_bytes ? texts[i] : "filler";
        types[SPM_BYTES + i] = with_bytes ? 6 : 5;
    }
    for (size_t i = 0; i < COUNT(SPM_WORDS); i++) {
        tokens[SPM_LETTERS + i] = SPM_WORDS[i];
        types[SPM_LETTERS + i] = i == 6 ? 3 : i == 7 ? 4 : 1;
        scores[SPM_LETTERS + i] = SPM_SCORES[i];
    }
    vocab_put_text(v, "ggml.model", "llama");
    vocab_put_texts(v, "ggml.tokens", tokens, SPM_N);
    vocab_put_i32s(v, "ggml.token_type", types, SPM_N);
    vocab_put_f32s(v, "ggml.scores", scores, with_scores ? SPM_N : 7);
}

static struct kept_tokenizer *create(struct vocab *v)
{
    struct kept_gguf *gguf = vocab_finish(v);
    struct kept_tokenizer *tok;
    struct kept_error err = {0};
    assert_non_null(gguf);
    if (kept_tokenizer_create(gguf, &tok, &err))
        fail_msg("%s", err.message);
    kept_gguf_close(&gguf); /* the tokenizer keeps nothing of it */
    return tok;
}

static struct kept_tokenizer *create_bpe(void)
{
    struct vocab v = {0};
    put_bpe(&v);
    return create(&v);
}

static struct kept_tokenizer *create_spm(bool space_prefix)
{
    struct vocab v = {0};
    put_spm(&v, true, true);
    vocab_put_bool(&v, "ggml.add_space_prefix", space_prefix);
    return create(&v);
}

static void expect_ids(const struct kept_tokenizer *tok, const char *text, uint32_t flags,
                       const int32_t *expected, size_t n_expected)
{
    int32_t *ids;
    size_t n;
    struct kept_error err = {0};
    if (kept_tokenizer_encode(tok, text, strlen(text), flags, &ids, &n, &err))
        fail_msg("\"%s\": %s", text, err.message);
    bool same = n == n_expected && memcmp(ids, expected, n * sizeof *ids) == 0;
    for (size_t i = 0; !same && i < n; i++)
        print_error("%zu: %d\n", i, ids[i]);
    if (!same)
        fail_msg("\"%s\" gave other ids", text);
    kept_tokens_free(&ids);
    assert_null(ids);
}

#define EXPECT(tok, text, flags, ...)                            \
    expect_ids(tok, text, flags, (const int32_t[]){__VA_ARGS__}, \
               sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

/* ---- encoding ---- */

static void test_bpe(void **state)
{
    (void)state;
    struct kept_tokenizer *tok = create_bpe();
    assert_string_equal(kept_tokenizer_kind(tok), "bpe/smollm");
    EXPECT(tok, "abc", 0, 0, 8);                    /* "b c" has the better rank than "a b" */
    EXPECT(tok, "ab a", 0, 4, 6);                   /* words are cut at spaces */
    EXPECT(tok, "a1a", 0, 0, 7, 0);                 /* and at digits */
    EXPECT(tok, "aaa\xC3\xA9", 0, 0, 0, 0, 13, 14); /* bytes; "éx" has no merge */
    EXPECT(tok, "z", 0);                            /* a byte without a token is dropped */
    EXPECT(tok, "", KEPT_ENCODE_ADD_SPECIAL);
    EXPECT(tok, "a<|im_end|>", KEPT_ENCODE_PARSE_SPECIAL, 0, 10);
    EXPECT(tok, "a<|im_end|>", 0, 0);            /* "<" and the like have no tokens here */
    EXPECT(tok, "a<user>b", 0, 0, 11, 1);        /* user-defined tokens always count */
    assert_true(kept_tokenizer_is_end(tok, 10)); /* by its name, the file names no EOS */
    assert_false(kept_tokenizer_is_end(tok, 0));
    assert_int_equal(kept_tokenizer_eos(tok), KEPT_TOKEN_NONE);
    assert_int_equal(kept_tokenizer_find(tok, "abc", 3), 5);
    assert_int_equal(kept_tokenizer_find(tok, "abcd", 4), KEPT_TOKEN_NONE);
    assert_int_equal(kept_tokenizer_type(tok, 11), KEPT_TOKEN_USER_DEFINED);
    kept_tokenizer_destroy(&tok);
    assert_null(tok);
}

static void test_whole_words(void **state)
{
    (void)state;
    struct vocab v = {0};
    vocab_put_text(&v, "ggml.model", "gpt2");
    vocab_put_text(&v, "ggml.pre", "llama-bpe"); /* a word that is a token is not merged */
    vocab_put_texts(&v, "ggml.tokens", BPE_TOKENS, COUNT(BPE_TOKENS));
    vocab_put_texts(&v, "ggml.merges", BPE_MERGES, COUNT(BPE_MERGES));
    struct kept_tokenizer *tok = create(&v);
    EXPECT(tok, "abc", 0, 5);
    EXPECT(tok, "111", 0, 7, 7, 7);
    kept_tokenizer_destroy(&tok);
}

static void test_spm(void **state)
{
    (void)state;
    enum { SPACE = SPM_LETTERS, A, B, AB, SPACE_A, BA, CONTROL, NEWLINES };
    struct kept_tokenizer *tok = create_spm(false);
    EXPECT(tok, "ab", 0, AB);
    EXPECT(tok, "aba", 0, AB, A);      /* equal scores: the leftmost */
    EXPECT(tok, " ab", 0, SPACE_A, B); /* the better score first */
    EXPECT(tok, "a b", 0, A, SPACE, B);
    EXPECT(tok, "\xC3\xA9", 0, SPM_BYTES + 0xC3, SPM_BYTES + 0xA9);
    EXPECT(tok, "a", KEPT_ENCODE_ADD_SPECIAL, 1, A); /* BOS by default */
    EXPECT(tok, "a\n\n\nb", 0, A, NEWLINES, SPM_BYTES + '\n', B);
    EXPECT(tok, "[ctl]<s>", KEPT_ENCODE_PARSE_SPECIAL, CONTROL, 1);
    EXPECT(tok, "<0x41>", 0, SPM_BYTES + '<', SPM_BYTES + '0', SPM_BYTES + 'x', SPM_BYTES + '4',
           SPM_BYTES + '1', SPM_BYTES + '>'); /* text never becomes a byte token by its spelling */
    kept_tokenizer_destroy(&tok);
    tok = create_spm(true);
    EXPECT(tok, "ab", 0, SPACE_A, B);
    EXPECT(tok, "[ctl]b", KEPT_ENCODE_PARSE_SPECIAL, CONTROL, SPACE, B);
    char *text;
    struct kept_error err = {0};
    assert_int_equal(
        kept_tokenizer_decode(tok, (const int32_t[]){1, SPACE_A, B}, 3, 0, &text, NULL, &err),
        KEPT_OK);
    assert_string_equal(text, "ab"); /* the added space is taken off again */
    kept_text_free(&text);
    kept_tokenizer_destroy(&tok);
}

static void test_invalid_text(void **state)
{
    (void)state;
    struct kept_tokenizer *tok = create_bpe();
    int32_t *ids;
    size_t n;
    struct kept_error err = {0};
    assert_int_equal(kept_tokenizer_encode(tok, "ab\xC3(", 4, 0, &ids, &n, &err), KEPT_E_PROMPT);
    assert_null(ids);
    assert_non_null(strstr(err.message, "0xC3 at offset 2 of 4"));
    assert_int_equal(kept_tokenizer_encode(tok, NULL, 1, 0, &ids, &n, &err), KEPT_E_ARGUMENT);
    assert_int_equal(kept_tokenizer_encode(tok, "a\0b", 3, 0, &ids, &n, &err), KEPT_OK);
    assert_int_equal(n, 2);
    kept_tokens_free(&ids);
    kept_tokenizer_destroy(&tok);
}

/* ---- decoding ---- */

static void test_stream(void **state)
{
    (void)state;
    struct kept_tokenizer *tok = create_spm(false);
    static const int32_t ids[] = {SPM_BYTES + 0xF0, SPM_BYTES + 0x9F, SPM_BYTES + 0x98,
                                  SPM_BYTES + 0x80, SPM_LETTERS + 1,  SPM_BYTES + 0xFF,
                                  SPM_BYTES + 0xE2, SPM_LETTERS + 2,  1,
                                  SPM_BYTES + 0xE2, SPM_BYTES + 0x96};
    static const char *const expected[] = {"",
                                           "",
                                           "",
                                           "\xF0\x9F\x98\x80",
                                           "a",
                                           "\xFF",
                                           "",
                                           "\xE2"
                                           "b",
                                           "",
                                           "",
                                           ""};
    struct kept_text_stream stream = {0};
    struct kept_error err = {0};
    char piece[64];
    size_t n;
    for (size_t i = 0; i < COUNT(ids); i++) {
        assert_int_equal(
            kept_text_stream_push(tok, &stream, ids[i], 0, piece, sizeof piece, &n, &err), KEPT_OK);
        assert_int_equal(n, strlen(expected[i]));
        assert_memory_equal(piece, expected[i], n);
    }
    assert_int_equal(kept_text_stream_push(tok, &stream, SPM_N, 0, piece, sizeof piece, &n, &err),
                     KEPT_E_ARGUMENT);
    assert_int_equal(kept_text_stream_push(tok, &stream, 5, 0, piece, 4, &n, &err),
                     KEPT_E_ARGUMENT);
    assert_int_equal(kept_text_stream_flush(&stream, piece), 2);
    assert_memory_equal(piece, "\xE2\x96", 2);
    assert_int_equal(kept_text_stream_flush(&stream, piece), 0);
    kept_tokenizer_destroy(&tok);
}

static void test_pieces(void **state)
{
    (void)state;
    struct kept_tokenizer *tok = create_bpe();
    size_t n;
    assert_memory_equal(kept_tokenizer_piece(tok, 6, 0, &n), " a", 2);
    assert_int_equal(n, 2);
    assert_memory_equal(kept_tokenizer_piece(tok, 12, 0, &n), "\xC3\xA9x", 3);
    assert_memory_equal(kept_tokenizer_text(tok, 6, &n),
                        "\xC4\xA0"
                        "a",
                        3);
    assert_int_equal(n, 3);
    (void)kept_tokenizer_piece(tok, 10, 0, &n);
    assert_int_equal(n, 0);
    (void)kept_tokenizer_piece(tok, 10, KEPT_DECODE_SPECIAL, &n);
    assert_int_equal(n, 10);
    assert_non_null(kept_tokenizer_piece(tok, -1, 0, &n));
    assert_int_equal(n, 0);
    char *text;
    struct kept_error err = {0};
    assert_int_equal(kept_tokenizer_decode(tok, (const int32_t[]){0, 99}, 2, 0, &text, NULL, &err),
                     KEPT_E_ARGUMENT);
    assert_null(text);
    assert_non_null(strstr(err.message, "99"));
    kept_tokenizer_destroy(&tok);
}

/* ---- conversations ---- */

static void test_chat(void **state)
{
    (void)state;
    struct vocab v = {0};
    put_bpe(&v);
    vocab_put_text(&v, "chat_template",
                   "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}");
    struct kept_tokenizer *tok = create(&v);
    const struct kept_chat_message messages[] = {
        {"user", "ab<|im_end|>a"}, {"user", "<|im_end"}, {"user", "<user>"}};
    static const int32_t expected[] = {4, 0, 10, 10, 11, 10}; /* the message's own mark is text */
    struct kept_chat_text text;
    struct kept_error err = {0};
    int32_t *ids;
    size_t n;
    assert_int_equal(kept_chat_format(tok, messages, 3, 0, &text, &err), KEPT_OK);
    assert_string_equal(text.text, "ab<|im_end|>a<|im_end|><|im_end<|im_end|><user><|im_end|>");
    assert_int_equal(text.n_content, 3);
    assert_int_equal(kept_chat_encode(tok, &text, &ids, &n, &err), KEPT_OK);
    assert_int_equal(n, COUNT(expected));
    assert_memory_equal(ids, expected, sizeof expected);
    kept_tokens_free(&ids);
    text.content[0].end = 1000;
    assert_int_equal(kept_chat_encode(tok, &text, &ids, &n, &err), KEPT_E_ARGUMENT);
    kept_chat_text_finish(&text);
    kept_tokenizer_destroy(&tok);
    tok = create_bpe();
    assert_int_equal(kept_chat_format(tok, messages, 3, 0, &text, &err), KEPT_E_STATE);
    kept_tokenizer_destroy(&tok);
}

/* A mark that begins in the template and ends in a message is no mark. */
static void test_chat_straddling(void **state)
{
    (void)state;
    struct vocab v = {0};
    put_bpe(&v);
    vocab_put_text(&v, "chat_template", "<|im_{{ messages[0].content }}a");
    struct kept_tokenizer *tok = create(&v);
    const struct kept_chat_message message = {"user", "end|>"};
    struct kept_chat_text text;
    struct kept_error err = {0};
    int32_t *ids;
    size_t n;
    assert_int_equal(kept_chat_format(tok, &message, 1, 0, &text, &err), KEPT_OK);
    assert_int_equal(kept_chat_encode(tok, &text, &ids, &n, &err), KEPT_OK);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 0);
    kept_tokens_free(&ids);
    kept_chat_text_finish(&text);
    kept_tokenizer_destroy(&tok);
}

/* ---- hostile vocabularies ---- */

static void refuse(struct vocab *v, kept_status expected, const char *part)
{
    struct kept_gguf *gguf = vocab_finish(v);
    struct kept_tokenizer *tok = NULL;
    struct kept_error err = {0};
    assert_non_null(gguf);
    kept_status status = kept_tokenizer_create(gguf, &tok, &err);
    if (status != expected || tok || !strstr(err.message, part))
        fail_msg("expected %s with \"%s\", got %s: %s", kept_status_name(expected), part,
                 kept_status_name(status), err.message);
    kept_gguf_close(&gguf);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const merges[] = {"ab"};
    struct vocab v = {0};
    refuse(&v, KEPT_E_FORMAT, "tokenizer.ggml.model");
    vocab_put_text(&v, "ggml.model", "wordpiece");
    refuse(&v, KEPT_E_UNSUPPORTED, "wordpiece");
    vocab_put_text(&v, "ggml.model", "gpt2");
    refuse(&v, KEPT_E_FORMAT, "tokenizer.ggml.tokens");
    vocab_put_text(&v, "ggml.model", "gpt2");
    vocab_put_texts(&v, "ggml.tokens", BPE_TOKENS, COUNT(BPE_TOKENS));
    refuse(&v, KEPT_E_FORMAT, "tokenizer.ggml.merges");
    vocab_put_text(&v, "ggml.model", "gpt2");
    vocab_put_texts(&v, "ggml.tokens", BPE_TOKENS, COUNT(BPE_TOKENS));
    vocab_put_texts(&v, "ggml.merges", merges, 1);
    refuse(&v, KEPT_E_FORMAT, "entry 0");
    put_bpe(&v);
    vocab_put_u32(&v, "ggml.bos_token_id", 4000000000u);
    refuse(&v, KEPT_E_FORMAT, "4000000000");
    put_bpe(&v);
    vocab_put_bool(&v, "ggml.add_bos_token", true);
    refuse(&v, KEPT_E_FORMAT, "no BOS id");
    put_spm(&v, true, false);
    refuse(&v, KEPT_E_FORMAT, "7 entries");
    vocab_put_text(&v, "ggml.model", "gpt2");
    vocab_put_text(&v, "ggml.pre", "smollm x");
    vocab_put_texts(&v, "ggml.tokens", BPE_TOKENS, COUNT(BPE_TOKENS));
    vocab_put_texts(&v, "ggml.merges", BPE_MERGES, COUNT(BPE_MERGES));
    refuse(&v, KEPT_E_UNSUPPORTED, "smollm x");
    put_bpe(&v);
    vocab_put_text(&v, "chat_template", "\xFF");
    refuse(&v, KEPT_E_FORMAT, "chat_template");
}

static void test_long_token(void **state)
{
    (void)state;
    char *text = malloc(5001);
    const char *tokens[] = {"a", text};
    memset(text, 'a', 5000);
    text[5000] = '\0';
    struct vocab v = {0};
    vocab_put_text(&v, "ggml.model", "gpt2");
    vocab_put_texts(&v, "ggml.tokens", tokens, 2);
    refuse(&v, KEPT_E_FORMAT, "5000 bytes");
    free(text);
}

/* Empty and doubled tokens, missing byte tokens, and a cycle of merges: odd, but not wrong. */
static void test_odd_vocabularies(void **state)
{
    (void)state;
    static const char *const tokens[] = {"", "a", "a", "aa", "", "aaa"};
    static const char *const merges[] = {"a a", "aa a", "a aa", "aa aa"};
    struct vocab v = {0};
    vocab_put_text(&v, "ggml.model", "gpt2");
    vocab_put_texts(&v, "ggml.tokens", tokens, COUNT(tokens));
    vocab_put_texts(&v, "ggml.merges", merges, COUNT(merges));
    struct kept_tokenizer *tok = create(&v);
    EXPECT(tok, "aaaa", 0, 3, 3);
    EXPECT(tok, "aaa", 0, 5);
    kept_tokenizer_destroy(&tok);
    put_spm(&v, false, true); /* no byte tokens: the unknown token stands in */
    vocab_put_bool(&v, "ggml.add_space_prefix", false);
    tok = create(&v);
    EXPECT(tok, "a\xC3\xA9", 0, SPM_LETTERS + 1, 0, 0);
    kept_tokenizer_destroy(&tok);
}

/* Every allocation may fail, at load and at encoding: a status, nothing left behind. */
static void test_out_of_memory(void **state)
{
    (void)state;
    struct vocab v = {0};
    put_bpe(&v);
    vocab_put_text(&v, "chat_template", "x");
    struct kept_gguf *gguf = vocab_finish(&v);
    int64_t live = kept_alloc_live();
    kept_status status = KEPT_E_HOST_MEMORY;
    for (uint64_t n = 1; status == KEPT_E_HOST_MEMORY; n++) {
        struct kept_tokenizer *tok;
        struct kept_error err;
        int32_t *ids = NULL;
        size_t n_ids;
        assert_true(n < 1000);
        kept_alloc_fail_at(n);
        status = kept_tokenizer_create(gguf, &tok, &err);
        if (!status)
            status = kept_tokenizer_encode(tok, "abc a<user>", 11, 0, &ids, &n_ids, &err);
        kept_alloc_fail_at(0);
        kept_tokens_free(&ids);
        kept_tokenizer_destroy(&tok);
        assert_int_equal(kept_alloc_live(), live);
    }
    assert_int_equal(status, KEPT_OK);
    kept_gguf_close(&gguf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bpe),
        cmocka_unit_test(test_whole_words),
        cmocka_unit_test(test_spm),
        cmocka_unit_test(test_invalid_text),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_chat_straddling),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_long_token),
        cmocka_unit_test(test_odd_vocabularies),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

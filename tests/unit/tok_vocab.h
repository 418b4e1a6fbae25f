/* tests/unit/tok_vocab.h: small vocabularies as GGUF headers in memory, for the tests of
 * tokenizers. */
#ifndef KEPT_TESTS_TOK_VOCAB_H
#define KEPT_TESTS_TOK_VOCAB_H

#include <string.h>

#include "base/str.h"
#include "formats/gguf.h"

struct vocab {
    struct kept_strbuf values;
    uint64_t n_values;
};

static inline void vocab_u32(struct kept_strbuf *b, uint32_t v)
{
    kept_strbuf_add(b, &v, sizeof v);
}

static inline void vocab_u64(struct kept_strbuf *b, uint64_t v)
{
    kept_strbuf_add(b, &v, sizeof v);
}

static inline void vocab_text(struct kept_strbuf *b, const char *text)
{
    vocab_u64(b, strlen(text));
    kept_strbuf_puts(b, text);
}

static inline void vocab_key(struct vocab *v, const char *key, enum kept_gguf_type type)
{
    char name[64];
    kept_snprintf(name, sizeof name, "tokenizer.%s", key);
    vocab_text(&v->values, name);
    vocab_u32(&v->values, type);
    v->n_values++;
}

static inline void vocab_put_text(struct vocab *v, const char *key, const char *text)
{
    vocab_key(v, key, KEPT_GGUF_STRING);
    vocab_text(&v->values, text);
}

static inline void vocab_put_u32(struct vocab *v, const char *key, uint32_t value)
{
    vocab_key(v, key, KEPT_GGUF_U32);
    vocab_u32(&v->values, value);
}

static inline void vocab_put_bool(struct vocab *v, const char *key, bool value)
{
    vocab_key(v, key, KEPT_GGUF_BOOL);
    kept_strbuf_add(&v->values, &(char){value}, 1);
}

static inline void vocab_put_texts(struct vocab *v, const char *key, const char *const *texts,
                                   size_t n)
{
    vocab_key(v, key, KEPT_GGUF_ARRAY);
    vocab_u32(&v->values, KEPT_GGUF_STRING);
    vocab_u64(&v->values, n);
    for (size_t i = 0; i < n; i++)
        vocab_text(&v->values, texts[i]);
}

static inline void vocab_put_i32s(struct vocab *v, const char *key, const int32_t *numbers,
                                  size_t n)
{
    vocab_key(v, key, KEPT_GGUF_ARRAY);
    vocab_u32(&v->values, KEPT_GGUF_I32);
    vocab_u64(&v->values, n);
    kept_strbuf_add(&v->values, numbers, n * sizeof *numbers);
}

static inline void vocab_put_f32s(struct vocab *v, const char *key, const float *numbers, size_t n)
{
    vocab_key(v, key, KEPT_GGUF_ARRAY);
    vocab_u32(&v->values, KEPT_GGUF_F32);
    vocab_u64(&v->values, n);
    kept_strbuf_add(&v->values, numbers, n * sizeof *numbers);
}

/* Parses what was put; empties v. NULL when the header is refused. */
static inline struct kept_gguf *vocab_finish(struct vocab *v)
{
    struct kept_strbuf file = {0};
    struct kept_gguf *gguf = NULL;
    kept_strbuf_puts(&file, "GGUF");
    vocab_u32(&file, 3);
    vocab_u64(&file, 0);
    vocab_u64(&file, v->n_values);
    kept_strbuf_add(&file, v->values.text, v->values.n_bytes);
    (void)kept_gguf_parse(file.text, file.n_bytes, file.n_bytes, &gguf, NULL);
    kept_strbuf_finish(&file);
    kept_strbuf_finish(&v->values);
    v->n_values = 0;
    return gguf;
}

#endif

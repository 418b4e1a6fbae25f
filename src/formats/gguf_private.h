/* formats/gguf_private.h: what gguf.c (files, look-ups) and gguf_parse.c share. Private to formats.
 * */
#ifndef KEPT_FORMATS_GGUF_PRIVATE_H
#define KEPT_FORMATS_GGUF_PRIVATE_H

#include "base/arena.h"
#include "formats/gguf.h"

/* Open addressing, at most half full; 0 is empty, else index + 1. The hash is seeded at run time: a
 * file cannot be made to collide. */
struct names {
    uint32_t *slots;
    uint64_t mask, seed;
};

struct kept_gguf {
    struct kept_file *file;
    uint8_t *bytes; /* the header and whatever was read after it */
    uint64_t header_bytes, file_bytes, header_hash;
    uint32_t version;
    uint64_t n_values, n_tensors;
    struct kept_gguf_value *values;
    struct kept_gguf_tensor *tensors;
    struct names value_names, tensor_names;
    struct kept_arena arena;
};

enum gguf_number_kind { GGUF_UNSIGNED, GGUF_SIGNED, GGUF_FLOAT, GGUF_OTHER };

/* How wide a value is and how its bytes are read. */
struct gguf_number {
    uint8_t size_bytes;
    enum gguf_number_kind kind;
};
extern const struct gguf_number kept_gguf_numbers[KEPT_GGUF_TYPE_COUNT];

/* Little-endian bytes of an integer type, sign-extended when it is signed; of a float type. */
uint64_t kept_gguf_integer_at(enum kept_gguf_type type, const uint8_t *bytes);
double kept_gguf_float_at(enum kept_gguf_type type, const uint8_t *bytes);

/* The slot of the entry with this name, or the empty one where it belongs. */
uint32_t *kept_gguf_value_slot(const struct kept_gguf *gguf, const char *key, size_t n_bytes);
uint32_t *kept_gguf_tensor_slot(const struct kept_gguf *gguf, const char *name);

/* Parses the n_bytes at gguf->bytes. When that fails for want of bytes which the file has,
 * *wanted_bytes says how long a prefix is needed at least; else it is 0. */
kept_status kept_gguf_parse_header(struct kept_gguf *gguf, uint64_t n_bytes, uint64_t *wanted_bytes,
                                   struct kept_error *err);

#endif

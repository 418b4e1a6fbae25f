/* formats/gguf.h: bounded reader of GGUF v2/v3 headers: metadata and the tensor directory, never
 * tensor data.
 *
 * The header is read once into memory owned by the kept_gguf; everything it hands out points into
 * that memory and lives as long. Tensor data is read by the loader through kept_file_read_at at
 * tensor offsets, never mapped. Every count, length and offset is checked against the file's size
 * before it is used. Source: the GGUF specification (ggml repository, docs/gguf.md).
 */
#ifndef KEPT_FORMATS_GGUF_H
#define KEPT_FORMATS_GGUF_H

#include "base/file.h"
#include "kernel/blocks.h"

enum kept_gguf_type {
    KEPT_GGUF_U8,
    KEPT_GGUF_I8,
    KEPT_GGUF_U16,
    KEPT_GGUF_I16,
    KEPT_GGUF_U32,
    KEPT_GGUF_I32,
    KEPT_GGUF_F32,
    KEPT_GGUF_BOOL,
    KEPT_GGUF_STRING,
    KEPT_GGUF_ARRAY,
    KEPT_GGUF_U64,
    KEPT_GGUF_I64,
    KEPT_GGUF_F64,
    KEPT_GGUF_TYPE_COUNT
};

/* Bytes inside the header; not NUL-terminated. */
struct kept_text {
    const char *bytes;
    size_t n_bytes;
};

struct kept_gguf_array {
    enum kept_gguf_type type; /* never ARRAY: nested arrays are refused */
    uint64_t n;
    const uint8_t *bytes;          /* numbers: n little-endian values, unaligned; strings: NULL */
    const struct kept_text *texts; /* strings: n of them; else NULL */
};

struct kept_gguf_value {
    struct kept_text key;
    enum kept_gguf_type type;
    union {
        uint64_t u; /* U8…U64, BOOL */
        int64_t i;  /* I8…I64 */
        double f;   /* F32, F64 */
        struct kept_text text;
        struct kept_gguf_array array;
    } as;
};

#define KEPT_GGUF_MAX_DIMS 4

struct kept_gguf_tensor {
    const char *name;                  /* NUL-terminated copy, 1 to 255 bytes */
    uint32_t n_dims;                   /* 1…4 */
    uint64_t dims[KEPT_GGUF_MAX_DIMS]; /* dims[0] is the contiguous one (K); unused are 1 */
    enum kept_format format;           /* KEPT_FORMAT_COUNT when ggml_type is not one of ours */
    uint32_t ggml_type;                /* as in the file */
    uint64_t offset_bytes;             /* from the start of the file */
    uint64_t n_bytes;                  /* 0 when the format is unknown */
};

struct kept_gguf;

/* Reads and checks the whole header. KEPT_E_IO, KEPT_E_FORMAT (with offset and reason),
 * KEPT_E_HOST_MEMORY. Unknown tensor types are accepted here (inspect shows them); known ones
 * must lie inside the file, aligned. */
kept_status kept_gguf_open(const char *path, struct kept_gguf **out, struct kept_error *err);
/* The same from memory (fuzzing and tests): bytes are copied; file_bytes is the size the file
 * claims to have. */
kept_status kept_gguf_parse(const void *bytes, size_t n_bytes, uint64_t file_bytes,
                            struct kept_gguf **out, struct kept_error *err);
void kept_gguf_close(struct kept_gguf **gguf);

struct kept_file *kept_gguf_file(const struct kept_gguf *gguf); /* NULL after kept_gguf_parse */
uint32_t kept_gguf_version(const struct kept_gguf *gguf);
uint64_t kept_gguf_header_bytes(const struct kept_gguf *gguf);
/* XXH3 of the header's bytes and the file's size. */
uint64_t kept_gguf_header_hash(const struct kept_gguf *gguf);
uint64_t kept_gguf_n_values(const struct kept_gguf *gguf);
const struct kept_gguf_value *kept_gguf_value_at(const struct kept_gguf *gguf, uint64_t i);
uint64_t kept_gguf_n_tensors(const struct kept_gguf *gguf);
const struct kept_gguf_tensor *kept_gguf_tensor_at(const struct kept_gguf *gguf, uint64_t i);

/* Look-ups by name (hashed). NULL when absent. */
const struct kept_gguf_value *kept_gguf_find(const struct kept_gguf *gguf, const char *key);
const struct kept_gguf_tensor *kept_gguf_find_tensor(const struct kept_gguf *gguf,
                                                     const char *name);

/* Typed look-ups: false when absent or of another kind (any integer type fits u64 when not
 * negative; f32, f64 and integers fit f64). *out is untouched then. */
bool kept_gguf_u64(const struct kept_gguf *gguf, const char *key, uint64_t *out);
bool kept_gguf_f64(const struct kept_gguf *gguf, const char *key, double *out);
bool kept_gguf_bool(const struct kept_gguf *gguf, const char *key, bool *out);
bool kept_gguf_text(const struct kept_gguf *gguf, const char *key, struct kept_text *out);
/* Element i of a numeric array, widened; false when out of range or not numeric. */
bool kept_gguf_array_f64(const struct kept_gguf_array *array, uint64_t i, double *out);
bool kept_gguf_array_i64(const struct kept_gguf_array *array, uint64_t i, int64_t *out);

#endif

/* formats/gguf.c: opening GGUF files and looking things up in them.
 *
 * Nothing in the file says how long its header is (1.7 MB in SmolLM2, 6.5 MB in Gemma, most of it
 * token texts). So a growing prefix is read, 1 MiB first, and parsed from its start (gguf_parse.c)
 * until it holds all. The sizes at least double, so all attempts cost at most twice the last.
 */
#include "formats/gguf.h"

#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/status.h"
#include "formats/gguf_private.h"

#define FIRST_READ_BYTES ((uint64_t)1 << 20)
#define MAX_HEADER_BYTES ((uint64_t)512 << 20)

/* ---- opening ---- */

/* Reads ever longer prefixes of the open file until one holds the whole header. */
static kept_status read_header(struct kept_gguf *gguf, struct kept_error *err)
{
    uint64_t n_bytes = 0, wanted_bytes = FIRST_READ_BYTES;
    for (;;) {
        if (wanted_bytes > MAX_HEADER_BYTES)
            return kept_fail(
                err, KEPT_E_FORMAT, "the header needs %llu bytes, at most %llu are read",
                (unsigned long long)wanted_bytes, (unsigned long long)MAX_HEADER_BYTES);
        uint64_t next = wanted_bytes > 2 * n_bytes ? wanted_bytes : 2 * n_bytes;
        next = next < MAX_HEADER_BYTES ? next : MAX_HEADER_BYTES;
        next = next < gguf->file_bytes ? next : gguf->file_bytes;
        uint8_t *bytes = kept_realloc(gguf->bytes, (size_t)next);
        if (bytes == NULL)
            return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %llu bytes of header",
                             (unsigned long long)next);
        gguf->bytes = bytes;
        kept_status status =
            kept_file_read_at(gguf->file, n_bytes, bytes + n_bytes, (size_t)(next - n_bytes), err);
        if (status != KEPT_OK)
            return status;
        n_bytes = next;
        kept_arena_finish(&gguf->arena); /* of the attempt before */
        struct kept_error attempt = {0}; /* err stays untouched when a longer prefix parses */
        status = kept_gguf_parse_header(gguf, n_bytes, &wanted_bytes, &attempt);
        if (wanted_bytes != 0)
            continue;
        if (status != KEPT_OK && err != NULL)
            *err = attempt;
        return status;
    }
}

kept_status kept_gguf_open(const char *path, struct kept_gguf **out, struct kept_error *err)
{
    *out = NULL;
    struct kept_gguf *gguf = kept_calloc(1, sizeof *gguf);
    if (gguf == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to open file '%s'", path);
    kept_status status = kept_file_open(path, &gguf->file, err);
    if (status == KEPT_OK) {
        gguf->file_bytes = kept_file_size(gguf->file);
        status = read_header(gguf, err);
        if (status != KEPT_OK && status != KEPT_E_IO)
            kept_fail_in(err, status, "file '%s'", path);
    }
    if (status != KEPT_OK) {
        kept_gguf_close(&gguf);
        return status;
    }
    *out = gguf;
    return KEPT_OK;
}

kept_status kept_gguf_parse(const void *bytes, size_t n_bytes, uint64_t file_bytes,
                            struct kept_gguf **out, struct kept_error *err)
{
    *out = NULL;
    if (file_bytes < n_bytes)
        return kept_fail(err, KEPT_E_ARGUMENT, "a file of %llu bytes cannot begin with %zu",
                         (unsigned long long)file_bytes, n_bytes);
    struct kept_gguf *gguf = kept_calloc(1, sizeof *gguf);
    if (gguf != NULL)
        gguf->bytes = kept_alloc(n_bytes);
    if (gguf == NULL || gguf->bytes == NULL) {
        kept_gguf_close(&gguf);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu bytes of header", n_bytes);
    }
    if (n_bytes != 0)
        memcpy(gguf->bytes, bytes, n_bytes);
    gguf->file_bytes = file_bytes;
    uint64_t wanted_bytes;
    kept_status status = kept_gguf_parse_header(gguf, n_bytes, &wanted_bytes, err);
    if (status != KEPT_OK) {
        kept_gguf_close(&gguf);
        return status;
    }
    *out = gguf;
    return KEPT_OK;
}

void kept_gguf_close(struct kept_gguf **gguf)
{
    if (gguf == NULL || *gguf == NULL)
        return;
    kept_file_close(&(*gguf)->file);
    kept_arena_finish(&(*gguf)->arena);
    kept_free((*gguf)->bytes);
    kept_free(*gguf);
    *gguf = NULL;
}

struct kept_file *kept_gguf_file(const struct kept_gguf *gguf)
{
    return gguf->file;
}

uint32_t kept_gguf_version(const struct kept_gguf *gguf)
{
    return gguf->version;
}

uint64_t kept_gguf_header_bytes(const struct kept_gguf *gguf)
{
    return gguf->header_bytes;
}

uint64_t kept_gguf_header_hash(const struct kept_gguf *gguf)
{
    return gguf->header_hash;
}

uint64_t kept_gguf_n_values(const struct kept_gguf *gguf)
{
    return gguf->n_values;
}

const struct kept_gguf_value *kept_gguf_value_at(const struct kept_gguf *gguf, uint64_t i)
{
    return i < gguf->n_values ? &gguf->values[i] : NULL;
}

uint64_t kept_gguf_n_tensors(const struct kept_gguf *gguf)
{
    return gguf->n_tensors;
}

const struct kept_gguf_tensor *kept_gguf_tensor_at(const struct kept_gguf *gguf, uint64_t i)
{
    return i < gguf->n_tensors ? &gguf->tensors[i] : NULL;
}

/* ---- look-ups by name ---- */

/* The slot where the search for a name begins. */
static uint64_t names_start(const struct names *names, const char *bytes, size_t n_bytes)
{
    return kept_hash64(bytes, n_bytes, names->seed) & names->mask;
}

static bool text_is(struct kept_text text, const char *bytes, size_t n_bytes)
{
    return text.n_bytes == n_bytes && (n_bytes == 0 || memcmp(text.bytes, bytes, n_bytes) == 0);
}

uint32_t *kept_gguf_value_slot(const struct kept_gguf *gguf, const char *key, size_t n_bytes)
{
    const struct names *names = &gguf->value_names;
    uint64_t i = names_start(names, key, n_bytes);
    while (names->slots[i] != 0 && !text_is(gguf->values[names->slots[i] - 1].key, key, n_bytes))
        i = (i + 1) & names->mask;
    return &names->slots[i];
}

uint32_t *kept_gguf_tensor_slot(const struct kept_gguf *gguf, const char *name)
{
    const struct names *names = &gguf->tensor_names;
    uint64_t i = names_start(names, name, strlen(name));
    while (names->slots[i] != 0 && strcmp(gguf->tensors[names->slots[i] - 1].name, name) != 0)
        i = (i + 1) & names->mask;
    return &names->slots[i];
}

const struct kept_gguf_value *kept_gguf_find(const struct kept_gguf *gguf, const char *key)
{
    uint32_t slot = *kept_gguf_value_slot(gguf, key, strlen(key));
    return slot != 0 ? &gguf->values[slot - 1] : NULL;
}

const struct kept_gguf_tensor *kept_gguf_find_tensor(const struct kept_gguf *gguf, const char *name)
{
    uint32_t slot = *kept_gguf_tensor_slot(gguf, name);
    return slot != 0 ? &gguf->tensors[slot - 1] : NULL;
}

bool kept_gguf_u64(const struct kept_gguf *gguf, const char *key, uint64_t *out)
{
    const struct kept_gguf_value *value = kept_gguf_find(gguf, key);
    if (value == NULL || value->type == KEPT_GGUF_BOOL)
        return false;
    int kind = kept_gguf_numbers[value->type].kind;
    if (kind != GGUF_UNSIGNED && !(kind == GGUF_SIGNED && value->as.i >= 0))
        return false;
    *out = value->as.u;
    return true;
}

bool kept_gguf_f64(const struct kept_gguf *gguf, const char *key, double *out)
{
    const struct kept_gguf_value *value = kept_gguf_find(gguf, key);
    if (value == NULL || value->type == KEPT_GGUF_BOOL ||
        kept_gguf_numbers[value->type].kind == GGUF_OTHER)
        return false;
    switch (kept_gguf_numbers[value->type].kind) {
    case GGUF_FLOAT:
        *out = value->as.f;
        break;
    case GGUF_SIGNED:
        *out = (double)value->as.i;
        break;
    default:
        *out = (double)value->as.u;
        break;
    }
    return true;
}

bool kept_gguf_bool(const struct kept_gguf *gguf, const char *key, bool *out)
{
    const struct kept_gguf_value *value = kept_gguf_find(gguf, key);
    if (value == NULL || value->type != KEPT_GGUF_BOOL)
        return false;
    *out = value->as.u != 0;
    return true;
}

bool kept_gguf_text(const struct kept_gguf *gguf, const char *key, struct kept_text *out)
{
    const struct kept_gguf_value *value = kept_gguf_find(gguf, key);
    if (value == NULL || value->type != KEPT_GGUF_STRING)
        return false;
    *out = value->as.text;
    return true;
}

/* ---- numbers ---- */

const struct gguf_number kept_gguf_numbers[KEPT_GGUF_TYPE_COUNT] = {
    [KEPT_GGUF_U8] = {1, GGUF_UNSIGNED},   [KEPT_GGUF_I8] = {1, GGUF_SIGNED},
    [KEPT_GGUF_U16] = {2, GGUF_UNSIGNED},  [KEPT_GGUF_I16] = {2, GGUF_SIGNED},
    [KEPT_GGUF_U32] = {4, GGUF_UNSIGNED},  [KEPT_GGUF_I32] = {4, GGUF_SIGNED},
    [KEPT_GGUF_U64] = {8, GGUF_UNSIGNED},  [KEPT_GGUF_I64] = {8, GGUF_SIGNED},
    [KEPT_GGUF_F32] = {4, GGUF_FLOAT},     [KEPT_GGUF_F64] = {8, GGUF_FLOAT},
    [KEPT_GGUF_BOOL] = {1, GGUF_UNSIGNED}, [KEPT_GGUF_STRING] = {0, GGUF_OTHER},
    [KEPT_GGUF_ARRAY] = {0, GGUF_OTHER},
};

uint64_t kept_gguf_integer_at(enum kept_gguf_type type, const uint8_t *bytes)
{
    uint64_t u = 0;
    unsigned n_bits = 8u * kept_gguf_numbers[type].size_bytes;
    memcpy(&u, bytes, kept_gguf_numbers[type].size_bytes);
    if (kept_gguf_numbers[type].kind == GGUF_SIGNED && n_bits < 64 && (u >> (n_bits - 1)) != 0)
        u |= UINT64_MAX << n_bits;
    return u;
}

double kept_gguf_float_at(enum kept_gguf_type type, const uint8_t *bytes)
{
    float f;
    double d;
    if (type == KEPT_GGUF_F32) {
        memcpy(&f, bytes, sizeof f);
        return (double)f;
    }
    memcpy(&d, bytes, sizeof d);
    return d;
}

bool kept_gguf_array_f64(const struct kept_gguf_array *array, uint64_t i, double *out)
{
    const struct gguf_number *number = &kept_gguf_numbers[array->type];
    if (i >= array->n || number->kind == GGUF_OTHER)
        return false;
    const uint8_t *at = array->bytes + i * number->size_bytes;
    if (number->kind == GGUF_FLOAT)
        *out = kept_gguf_float_at(array->type, at);
    else if (number->kind == GGUF_SIGNED)
        *out = (double)(int64_t)kept_gguf_integer_at(array->type, at);
    else
        *out = (double)kept_gguf_integer_at(array->type, at);
    return true;
}

bool kept_gguf_array_i64(const struct kept_gguf_array *array, uint64_t i, int64_t *out)
{
    const struct gguf_number *number = &kept_gguf_numbers[array->type];
    if (i >= array->n || (number->kind != GGUF_SIGNED && number->kind != GGUF_UNSIGNED))
        return false;
    uint64_t u = kept_gguf_integer_at(array->type, array->bytes + i * number->size_bytes);
    if (number->kind == GGUF_UNSIGNED && u > (uint64_t)INT64_MAX)
        return false;
    *out = (int64_t)u;
    return true;
}

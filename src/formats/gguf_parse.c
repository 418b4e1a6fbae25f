/* formats/gguf_parse.c: from the header's bytes to tables of values and tensors.
 *
 *   magic "GGUF" | version u32 | n_tensors u64 | n_values u64
 *   n_values  x  key text | type u32 | value
 *   n_tensors x  name text | n_dims u32 | dims u64 each | ggml type u32 | offset u64
 *   padding to general.alignment (32) | tensor data, offsets counted from here
 *
 * A text is a u64 length and bytes; an array is an element type u32, a u64 length and the elements.
 *
 * Every read goes through one bounded cursor. Tables are allocated after their smallest possible
 * encoding was found to lie inside the bytes at hand, so memory is bounded by a small multiple of
 * what was really read. A parse that runs out of bytes which the file still has says how many it
 * wants; gguf.c then reads more and parses again.
 */
#include "formats/gguf_private.h"

#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/status.h"
#include "base/str.h"

#define MAX_VALUES        ((uint64_t)1000000)
#define MAX_TENSORS       ((uint64_t)1000000)
#define MAX_KEY_BYTES     ((uint64_t)65536)
#define MAX_NAME_BYTES    ((uint64_t)255)
#define DEFAULT_ALIGNMENT ((uint64_t)32)
#define MAX_ALIGNMENT     ((uint64_t)65536)

/* The fewest bytes an entry can take. */
#define MIN_VALUE_BYTES  (8 + 1 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 1 + 4 + 8 + 4 + 8)
#define MIN_TEXT_BYTES   8

/* ---- the cursor ---- */

struct cursor {
    const uint8_t *bytes;
    uint64_t at, n_bytes;  /* of the prefix at hand */
    uint64_t file_bytes;   /* of the whole file */
    uint64_t wanted_bytes; /* a longer prefix that the file has and the parse needs; 0: none */
    /* What is being read, for messages: "value 3 'general.name'". */
    const char *kind;
    uint64_t index;
    struct kept_text name;
    struct kept_error *err;
};

static void begin_object(struct cursor *c, const char *kind, uint64_t index)
{
    c->kind = kind;
    c->index = index;
    c->name = (struct kept_text){NULL, 0};
}

/* Fails with "value 3 'general.name', byte 812: …". */
static kept_status bad(const struct cursor *c, const char *fmt, ...) KEPT_PRINTF(2, 3);

static kept_status bad(const struct cursor *c, const char *fmt, ...)
{
    char text[256];
    va_list args;
    va_start(args, fmt);
    kept_vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    unsigned long long at = c->at, index = c->index;
    if (c->kind == NULL)
        return kept_fail(c->err, KEPT_E_FORMAT, "byte %llu: %s", at, text);
    if (c->name.n_bytes == 0)
        return kept_fail(c->err, KEPT_E_FORMAT, "%s %llu, byte %llu: %s", c->kind, index, at, text);
    int shown = c->name.n_bytes < 100 ? (int)c->name.n_bytes : 100;
    return kept_fail(c->err, KEPT_E_FORMAT, "%s %llu '%.*s', byte %llu: %s", c->kind, index, shown,
                     c->name.bytes, at, text);
}

/* Checks that n elements of at least size_bytes each lie ahead; says why not otherwise. */
static kept_status ahead(struct cursor *c, const char *what, uint64_t n, uint64_t size_bytes)
{
    if (n <= (c->n_bytes - c->at) / size_bytes)
        return KEPT_OK;
    uint64_t file_left = c->file_bytes > c->at ? c->file_bytes - c->at : 0;
    bool in_file = n <= file_left / size_bytes;
    if (in_file)
        c->wanted_bytes = c->at + n * size_bytes;
    unsigned long long end = in_file ? c->n_bytes : c->file_bytes;
    const char *ends = in_file ? "the header given" : "the file";
    if (size_bytes == 1)
        return bad(c, "%s needs %llu bytes, %s ends at byte %llu", what, (unsigned long long)n,
                   ends, end);
    return bad(c, "%s has %llu elements of at least %llu bytes, %s ends at byte %llu", what,
               (unsigned long long)n, (unsigned long long)size_bytes, ends, end);
}

static kept_status take(struct cursor *c, const char *what, void *to, size_t n_bytes)
{
    kept_status status = ahead(c, what, n_bytes, 1);
    if (status != KEPT_OK)
        return status;
    memcpy(to, c->bytes + c->at, n_bytes);
    c->at += n_bytes;
    return KEPT_OK;
}

/* A length and as many bytes, min_bytes to max_bytes of them. */
static kept_status take_text(struct cursor *c, const char *what, uint64_t min_bytes,
                             uint64_t max_bytes, struct kept_text *text)
{
    uint64_t n_bytes;
    kept_status status = take(c, what, &n_bytes, sizeof n_bytes);
    if (status != KEPT_OK)
        return status;
    if (n_bytes < min_bytes || n_bytes > max_bytes)
        return bad(c, "%s has %llu bytes, %llu to %llu are allowed", what,
                   (unsigned long long)n_bytes, (unsigned long long)min_bytes,
                   (unsigned long long)max_bytes);
    status = ahead(c, what, n_bytes, 1);
    if (status != KEPT_OK)
        return status;
    *text = (struct kept_text){(const char *)c->bytes + c->at, (size_t)n_bytes};
    c->at += n_bytes;
    return KEPT_OK;
}

static kept_status no_memory(const struct cursor *c, uint64_t n, const char *what)
{
    return kept_fail(c->err, KEPT_E_HOST_MEMORY, "no memory for %llu %s", (unsigned long long)n,
                     what);
}

/* ---- tables of names ---- */

static bool names_create(struct names *names, struct kept_arena *arena, uint64_t n)
{
    uint64_t n_slots = 4;
    while (n_slots < 2 * n)
        n_slots *= 2;
    names->slots = kept_arena_array(arena, (size_t)n_slots, sizeof *names->slots);
    names->mask = n_slots - 1;
    names->seed = kept_clock_ns() ^ (uint64_t)(uintptr_t)names->slots;
    return names->slots != NULL;
}

/* ---- values ---- */

static kept_status take_type(struct cursor *c, const char *what, enum kept_gguf_type *type)
{
    uint32_t number;
    kept_status status = take(c, what, &number, sizeof number);
    if (status != KEPT_OK)
        return status;
    if (number >= KEPT_GGUF_TYPE_COUNT)
        return bad(c, "%s is %u, 0 to %d are known", what, number, KEPT_GGUF_TYPE_COUNT - 1);
    *type = (enum kept_gguf_type)number;
    return KEPT_OK;
}

static kept_status take_array(struct kept_gguf *gguf, struct cursor *c,
                              struct kept_gguf_array *array)
{
    kept_status status = take_type(c, "the element type", &array->type);
    if (status == KEPT_OK)
        status = take(c, "the array length", &array->n, sizeof array->n);
    if (status != KEPT_OK)
        return status;
    if (array->type == KEPT_GGUF_ARRAY)
        return bad(c, "arrays of arrays are not supported");
    if (array->type != KEPT_GGUF_STRING) {
        uint64_t size_bytes = kept_gguf_numbers[array->type].size_bytes;
        status = ahead(c, "the array", array->n, size_bytes);
        if (status != KEPT_OK)
            return status;
        array->bytes = c->bytes + c->at;
        c->at += array->n * size_bytes;
        return KEPT_OK;
    }
    status = ahead(c, "the array", array->n, MIN_TEXT_BYTES);
    if (status != KEPT_OK)
        return status;
    struct kept_text *texts =
        kept_arena_array(&gguf->arena, (size_t)array->n, sizeof *array->texts);
    if (texts == NULL)
        return no_memory(c, array->n, "strings");
    array->texts = texts;
    for (uint64_t i = 0; i < array->n && status == KEPT_OK; i++)
        status = take_text(c, "a string in the array", 0, UINT64_MAX, &texts[i]);
    return status;
}

static kept_status take_value(struct kept_gguf *gguf, struct cursor *c,
                              struct kept_gguf_value *value)
{
    kept_status status = take_text(c, "the key", 1, MAX_KEY_BYTES, &value->key);
    if (status != KEPT_OK)
        return status;
    c->name = value->key;
    status = take_type(c, "the value type", &value->type);
    if (status != KEPT_OK)
        return status;
    if (value->type == KEPT_GGUF_ARRAY)
        return take_array(gguf, c, &value->as.array);
    if (value->type == KEPT_GGUF_STRING)
        return take_text(c, "the string", 0, UINT64_MAX, &value->as.text);
    uint8_t bytes[8];
    status = take(c, "the value", bytes, kept_gguf_numbers[value->type].size_bytes);
    if (status != KEPT_OK)
        return status;
    if (kept_gguf_numbers[value->type].kind == GGUF_FLOAT)
        value->as.f = kept_gguf_float_at(value->type, bytes);
    else
        value->as.u = kept_gguf_integer_at(value->type, bytes);
    if (value->type == KEPT_GGUF_BOOL && value->as.u > 1)
        return bad(c, "the boolean is %u, 0 and 1 are allowed", (unsigned)value->as.u);
    return KEPT_OK;
}

static kept_status take_values(struct kept_gguf *gguf, struct cursor *c)
{
    if (gguf->n_values > MAX_VALUES)
        return bad(c, "%llu metadata values, at most %llu are read",
                   (unsigned long long)gguf->n_values, (unsigned long long)MAX_VALUES);
    kept_status status = ahead(c, "the metadata", gguf->n_values, MIN_VALUE_BYTES);
    if (status != KEPT_OK)
        return status;
    gguf->values = kept_arena_array(&gguf->arena, (size_t)gguf->n_values, sizeof *gguf->values);
    if (gguf->values == NULL || !names_create(&gguf->value_names, &gguf->arena, gguf->n_values))
        return no_memory(c, gguf->n_values, "metadata values");
    for (uint64_t i = 0; i < gguf->n_values; i++) {
        struct kept_gguf_value *value = &gguf->values[i];
        begin_object(c, "value", i);
        status = take_value(gguf, c, value);
        if (status != KEPT_OK)
            return status;
        uint32_t *slot = kept_gguf_value_slot(gguf, value->key.bytes, value->key.n_bytes);
        if (*slot != 0)
            return bad(c, "value %u has the same key", *slot - 1);
        *slot = (uint32_t)i + 1;
    }
    return KEPT_OK;
}

/* ---- tensors ---- */

static kept_status take_tensor(struct kept_gguf *gguf, struct cursor *c,
                               struct kept_gguf_tensor *tensor)
{
    struct kept_text name;
    kept_status status = take_text(c, "the name", 1, MAX_NAME_BYTES, &name);
    if (status != KEPT_OK)
        return status;
    c->name = name;
    if (memchr(name.bytes, '\0', name.n_bytes) != NULL)
        return bad(c, "the name contains a zero byte");
    tensor->name = kept_arena_strndup(&gguf->arena, name.bytes, name.n_bytes);
    if (tensor->name == NULL)
        return no_memory(c, name.n_bytes, "bytes of a tensor's name");
    status = take(c, "the number of dimensions", &tensor->n_dims, sizeof tensor->n_dims);
    if (status != KEPT_OK)
        return status;
    if (tensor->n_dims == 0 || tensor->n_dims > KEPT_GGUF_MAX_DIMS)
        return bad(c, "%u dimensions, 1 to %d are allowed", tensor->n_dims, KEPT_GGUF_MAX_DIMS);
    for (uint32_t i = 0; i < KEPT_GGUF_MAX_DIMS; i++)
        tensor->dims[i] = 1;
    status = take(c, "the dimensions", tensor->dims, tensor->n_dims * sizeof tensor->dims[0]);
    if (status == KEPT_OK)
        status = take(c, "the type", &tensor->ggml_type, sizeof tensor->ggml_type);
    if (status == KEPT_OK)
        status = take(c, "the offset", &tensor->offset_bytes, sizeof tensor->offset_bytes);
    tensor->format = kept_format_from_ggml(tensor->ggml_type);
    return status;
}

static kept_status take_tensors(struct kept_gguf *gguf, struct cursor *c)
{
    begin_object(c, NULL, 0);
    kept_status status = ahead(c, "the tensor directory", gguf->n_tensors, MIN_TENSOR_BYTES);
    if (status != KEPT_OK)
        return status;
    gguf->tensors = kept_arena_array(&gguf->arena, (size_t)gguf->n_tensors, sizeof *gguf->tensors);
    if (gguf->tensors == NULL || !names_create(&gguf->tensor_names, &gguf->arena, gguf->n_tensors))
        return no_memory(c, gguf->n_tensors, "tensors");
    for (uint64_t i = 0; i < gguf->n_tensors; i++) {
        begin_object(c, "tensor", i);
        status = take_tensor(gguf, c, &gguf->tensors[i]);
        if (status != KEPT_OK)
            return status;
        uint32_t *slot = kept_gguf_tensor_slot(gguf, gguf->tensors[i].name);
        if (*slot != 0)
            return bad(c, "tensor %u has the same name", *slot - 1);
        *slot = (uint32_t)i + 1;
    }
    return KEPT_OK;
}

/* Fails about a tensor whose entry was read. */
static kept_status bad_tensor(struct kept_error *err, const struct kept_gguf_tensor *tensor,
                              const char *what, uint64_t is, uint64_t limit)
{
    return kept_fail(err, KEPT_E_FORMAT, "tensor '%s' %s: %llu, %llu", tensor->name, what,
                     (unsigned long long)is, (unsigned long long)limit);
}

/* Turns the offset in the file's data into one in the file, and checks that the tensor lies inside
 * it. */
static kept_status place_tensor(const struct kept_gguf *gguf, struct kept_gguf_tensor *tensor,
                                uint64_t data_at, uint64_t alignment, struct kept_error *err)
{
    uint64_t n_elems = 1;
    for (uint32_t i = 0; i < KEPT_GGUF_MAX_DIMS; i++) {
        if (tensor->dims[i] == 0)
            return kept_fail(err, KEPT_E_FORMAT, "tensor '%s': dimension %u is 0", tensor->name, i);
        if (n_elems > (uint64_t)INT64_MAX / tensor->dims[i])
            return kept_fail(err, KEPT_E_FORMAT, "tensor '%s' has 2^63 elements or more",
                             tensor->name);
        n_elems *= tensor->dims[i];
    }
    if (tensor->offset_bytes % alignment != 0)
        return bad_tensor(err, tensor, "is not aligned (offset, alignment)", tensor->offset_bytes,
                          alignment);
    uint64_t file_left = gguf->file_bytes > data_at ? gguf->file_bytes - data_at : 0;
    if (data_at > gguf->file_bytes || tensor->offset_bytes > file_left)
        return bad_tensor(err, tensor, "begins past the end of the file (offset, bytes of data)",
                          tensor->offset_bytes, file_left);
    tensor->offset_bytes += data_at;
    if (tensor->format == KEPT_FORMAT_COUNT)
        return KEPT_OK;
    uint64_t block_elems = kept_format_block_elems(tensor->format);
    uint64_t block_bytes = kept_format_block_bytes(tensor->format);
    if (tensor->dims[0] % block_elems != 0)
        return bad_tensor(err, tensor, "has rows that are not whole blocks (row, block)",
                          tensor->dims[0], block_elems);
    uint64_t n_blocks = n_elems / block_elems;
    if (n_blocks > (UINT64_MAX - tensor->offset_bytes) / block_bytes)
        return bad_tensor(err, tensor, "is larger than any file (blocks, bytes in a block)",
                          n_blocks, block_bytes);
    tensor->n_bytes = n_blocks * block_bytes;
    uint64_t end = tensor->offset_bytes + tensor->n_bytes;
    if (end > gguf->file_bytes)
        return kept_fail(err, KEPT_E_FORMAT, "tensor '%s' ends at byte %llu, the file has %llu",
                         tensor->name, (unsigned long long)end,
                         (unsigned long long)gguf->file_bytes);
    return KEPT_OK;
}

static kept_status place_tensors(struct kept_gguf *gguf, struct kept_error *err)
{
    uint64_t alignment = DEFAULT_ALIGNMENT;
    const struct kept_gguf_value *value = kept_gguf_find(gguf, "general.alignment");
    if (value != NULL && !kept_gguf_u64(gguf, "general.alignment", &alignment))
        return kept_fail(err, KEPT_E_FORMAT, "general.alignment is not an unsigned number");
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > MAX_ALIGNMENT)
        return kept_fail(err, KEPT_E_FORMAT,
                         "general.alignment is %llu, powers of two up to %llu are allowed",
                         (unsigned long long)alignment, (unsigned long long)MAX_ALIGNMENT);
    uint64_t data_at = (gguf->header_bytes + alignment - 1) & ~(alignment - 1);
    for (uint64_t i = 0; i < gguf->n_tensors; i++) {
        kept_status status = place_tensor(gguf, &gguf->tensors[i], data_at, alignment, err);
        if (status != KEPT_OK)
            return status;
    }
    return KEPT_OK;
}

/* ---- the header ---- */

static kept_status take_preamble(struct kept_gguf *gguf, struct cursor *c)
{
    char magic[4];
    kept_status status = take(c, "the magic number", magic, sizeof magic);
    if (status != KEPT_OK)
        return status;
    if (memcmp(magic, "GGUF", sizeof magic) != 0)
        return kept_fail(c->err, KEPT_E_FORMAT,
                         "it begins with bytes %02x %02x %02x %02x, a GGUF file with 47 47 55 46",
                         (uint8_t)magic[0], (uint8_t)magic[1], (uint8_t)magic[2],
                         (uint8_t)magic[3]);
    status = take(c, "the version", &gguf->version, sizeof gguf->version);
    if (status != KEPT_OK)
        return status;
    if (gguf->version != 2 && gguf->version != 3) {
        bool swapped = (gguf->version & 0xFFFFu) == 0;
        return kept_fail(c->err, KEPT_E_UNSUPPORTED, "GGUF version %u%s, 2 and 3 are supported",
                         swapped ? gguf->version >> 24 : gguf->version,
                         swapped ? " in big-endian order" : "");
    }
    status = take(c, "the number of tensors", &gguf->n_tensors, sizeof gguf->n_tensors);
    if (status == KEPT_OK)
        status = take(c, "the number of values", &gguf->n_values, sizeof gguf->n_values);
    if (status == KEPT_OK && gguf->n_tensors > MAX_TENSORS)
        status = bad(c, "%llu tensors, at most %llu are read", (unsigned long long)gguf->n_tensors,
                     (unsigned long long)MAX_TENSORS);
    return status;
}

kept_status kept_gguf_parse_header(struct kept_gguf *gguf, uint64_t n_bytes, uint64_t *wanted_bytes,
                                   struct kept_error *err)
{
    struct cursor c = {
        .bytes = gguf->bytes, .n_bytes = n_bytes, .file_bytes = gguf->file_bytes, .err = err};
    kept_status status = take_preamble(gguf, &c);
    if (status == KEPT_OK)
        status = take_values(gguf, &c);
    if (status == KEPT_OK)
        status = take_tensors(gguf, &c);
    *wanted_bytes = c.wanted_bytes;
    if (status != KEPT_OK)
        return status;
    gguf->header_bytes = c.at;
    gguf->header_hash = kept_hash64(gguf->bytes, (size_t)c.at, gguf->file_bytes);
    return place_tensors(gguf, err);
}

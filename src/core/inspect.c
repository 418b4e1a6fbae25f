/* core/inspect.c: what is in a model file, for people; also for files that kept cannot run. */
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"
#include "formats/gguf.h"
#include "kept/model.h"

#define SHOWN_NUMBERS 6

struct kept_inspection {
    struct kept_gguf *gguf;
};

static const char *const type_names[KEPT_GGUF_TYPE_COUNT] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

kept_status kept_inspection_create(const char *path, kept_inspection **out, struct kept_error *err)
{
    if (out)
        *out = NULL;
    if (!path || !out)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_inspection_create needs a path and out");
    kept_inspection *inspection = kept_calloc(1, sizeof *inspection);
    if (!inspection)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to inspect '%s'", path);
    kept_status status = kept_gguf_open(path, &inspection->gguf, err);
    if (status == KEPT_OK)
        *out = inspection;
    else
        kept_inspection_destroy(&inspection);
    return status;
}

void kept_inspection_destroy(kept_inspection **inspection)
{
    if (!inspection || !*inspection)
        return;
    kept_gguf_close(&(*inspection)->gguf);
    kept_free(*inspection);
    *inspection = NULL;
}

uint64_t kept_inspection_n_values(const kept_inspection *inspection)
{
    return kept_gguf_n_values(inspection->gguf);
}

static void show_array(const struct kept_gguf_array *array, char *to, size_t cap)
{
    if (array->texts || array->n > SHOWN_NUMBERS) {
        kept_snprintf(to, cap, "[%llu %s%s]", (unsigned long long)array->n, type_names[array->type],
                      array->n == 1 ? "" : "s");
        return;
    }
    size_t at = kept_snprintf(to, cap, "[");
    for (uint64_t i = 0; i < array->n && at < cap; i++) {
        double value = 0;
        kept_gguf_array_f64(array, i, &value);
        at += kept_snprintf(to + at, cap - at, "%s%g", i ? ", " : "", value);
    }
    if (at < cap)
        kept_snprintf(to + at, cap - at, "]");
}

/* Text on one line: control characters as spaces. */
static void show_text(struct kept_text text, char *to, size_t cap)
{
    size_t n = text.n_bytes < cap - 1 ? text.n_bytes : cap - 1;
    for (size_t i = 0; i < n; i++)
        to[i] = (unsigned char)text.bytes[i] < 0x20 ? ' ' : text.bytes[i];
    while (n > 0 && n < text.n_bytes && ((unsigned char)text.bytes[n] & 0xC0) == 0x80)
        n--; /* never cut a character */
    to[n] = '\0';
}

bool kept_inspection_value(const kept_inspection *inspection, uint64_t i, char *key, size_t key_cap,
                           char *to, size_t to_cap)
{
    if (i >= kept_gguf_n_values(inspection->gguf) || key_cap == 0 || to_cap == 0)
        return false;
    const struct kept_gguf_value *value = kept_gguf_value_at(inspection->gguf, i);
    show_text(value->key, key, key_cap);
    switch (value->type) {
    case KEPT_GGUF_STRING:
        show_text(value->as.text, to, to_cap);
        break;
    case KEPT_GGUF_ARRAY:
        show_array(&value->as.array, to, to_cap);
        break;
    case KEPT_GGUF_F32:
    case KEPT_GGUF_F64:
        kept_snprintf(to, to_cap, "%g", value->as.f);
        break;
    case KEPT_GGUF_BOOL:
        kept_snprintf(to, to_cap, "%s", value->as.u ? "true" : "false");
        break;
    case KEPT_GGUF_I8:
    case KEPT_GGUF_I16:
    case KEPT_GGUF_I32:
    case KEPT_GGUF_I64:
        kept_snprintf(to, to_cap, "%lld", (long long)value->as.i);
        break;
    default:
        kept_snprintf(to, to_cap, "%llu", (unsigned long long)value->as.u);
        break;
    }
    return true;
}

uint64_t kept_inspection_n_tensors(const kept_inspection *inspection)
{
    return kept_gguf_n_tensors(inspection->gguf);
}

bool kept_inspection_tensor(const kept_inspection *inspection, uint64_t i,
                            struct kept_tensor_info *out)
{
    if (i >= kept_gguf_n_tensors(inspection->gguf))
        return false;
    const struct kept_gguf_tensor *tensor = kept_gguf_tensor_at(inspection->gguf, i);
    *out = (struct kept_tensor_info){.name = tensor->name,
                                     .n_dims = tensor->n_dims,
                                     .offset_bytes = tensor->offset_bytes,
                                     .n_bytes = tensor->n_bytes};
    out->format = tensor->format < KEPT_FORMAT_COUNT ? kept_format_name(tensor->format) : "unknown";
    memcpy(out->dims, tensor->dims, sizeof out->dims);
    return true;
}

uint32_t kept_inspection_version(const kept_inspection *inspection)
{
    return kept_gguf_version(inspection->gguf);
}

uint64_t kept_inspection_header_bytes(const kept_inspection *inspection)
{
    return kept_gguf_header_bytes(inspection->gguf);
}

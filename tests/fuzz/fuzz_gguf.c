/* tests/fuzz/fuzz_gguf.c: the GGUF reader on any bytes.
 *
 * The input is the beginning of a file. It is read as a whole file and as the header of a much
 * larger one (tensor data then lies outside the input); what is accepted is walked to the last
 * byte, as inspect and the loader do.
 */
#include <stdint.h>
#include <stdlib.h>

#include "formats/gguf.h"

static volatile uint64_t sink; /* keeps the reads */

static void walk_array(const struct kept_gguf_array *array)
{
    for (uint64_t i = 0; i < array->n; i++) {
        double f;
        int64_t n;
        if (array->texts != NULL) {
            if (array->texts[i].n_bytes != 0)
                sink += (uint8_t)array->texts[i].bytes[array->texts[i].n_bytes - 1];
            continue;
        }
        if (kept_gguf_array_i64(array, i, &n))
            sink += (uint64_t)n;
        if (!kept_gguf_array_f64(array, i, &f))
            abort(); /* every number of a numeric array is readable */
    }
}

static void walk(const struct kept_gguf *gguf, uint64_t file_bytes)
{
    for (uint64_t i = 0; i < kept_gguf_n_values(gguf); i++) {
        const struct kept_gguf_value *value = kept_gguf_value_at(gguf, i);
        for (size_t j = 0; j < value->key.n_bytes; j++)
            sink += (uint8_t)value->key.bytes[j];
        if (value->type == KEPT_GGUF_ARRAY)
            walk_array(&value->as.array);
        else if (value->type == KEPT_GGUF_STRING && value->as.text.n_bytes != 0)
            sink += (uint8_t)value->as.text.bytes[value->as.text.n_bytes - 1];
    }
    for (uint64_t i = 0; i < kept_gguf_n_tensors(gguf); i++) {
        const struct kept_gguf_tensor *tensor = kept_gguf_tensor_at(gguf, i);
        if (kept_gguf_find_tensor(gguf, tensor->name) != tensor)
            abort();
        if (tensor->offset_bytes > file_bytes ||
            tensor->n_bytes > file_bytes - tensor->offset_bytes)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    const uint64_t sizes[] = {n_bytes, n_bytes + ((uint64_t)1 << 40)};
    for (int i = 0; i < 2; i++) {
        struct kept_gguf *gguf;
        struct kept_error err;
        if (kept_gguf_parse(bytes, n_bytes, sizes[i], &gguf, &err) == KEPT_OK)
            walk(gguf, sizes[i]);
        else if (gguf != NULL || err.message[0] == '\0')
            abort();
        kept_gguf_close(&gguf);
    }
    return 0;
}

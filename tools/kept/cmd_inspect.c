/* cmd_inspect.c: kept inspect: metadata and tensors of a file, also of one that kept cannot
 * run; or what a sidecar says. */
#include <stdio.h>
#include <string.h>

#include "kept/kept.h"

#include "commands.h"
#include "json_out.h"
#include "sidecar_out.h"
#include "terminal.h"

#define KEY_BYTES     256u
#define VALUE_BYTES   65536u /* chat templates are long */
#define SIDECAR_MAGIC "\xB4KEPTSC\n"

static const char *shape_text(const struct kept_tensor_info *tensor, char to[96])
{
    size_t at = 0;
    to[0] = '\0';
    for (uint32_t d = 0; d < tensor->n_dims && d < 4; d++)
        at += (size_t)snprintf(to + at, 96 - at, "%s%llu", d ? " x " : "",
                               (unsigned long long)tensor->dims[d]);
    return to;
}

static json_t *tensors_json(const kept_inspection *inspection)
{
    json_t *list = json_array();
    struct kept_tensor_info tensor;
    for (uint64_t i = 0; kept_inspection_tensor(inspection, i, &tensor); i++) {
        json_t *dims = json_array();
        for (uint32_t d = 0; d < tensor.n_dims && d < 4; d++)
            json_array_append_new(dims, json_integer((json_int_t)tensor.dims[d]));
        json_array_append_new(list, json_pack("{s:o, s:s, s:o, s:I, s:I}", "name",
                                              cli_json_text(tensor.name, SIZE_MAX), "format",
                                              tensor.format, "dims", dims, "offset",
                                              (json_int_t)tensor.offset_bytes, "bytes",
                                              (json_int_t)tensor.n_bytes));
    }
    return list;
}

static void print_json(const char *path, const kept_inspection *inspection, bool tensors,
                       const struct kept_error *unusable)
{
    static char value[VALUE_BYTES];
    char key[KEY_BYTES];
    json_t *metadata = json_object();
    for (uint64_t i = 0; kept_inspection_value(inspection, i, key, sizeof key, value, sizeof value);
         i++)
        json_object_set_new(metadata, key, cli_json_text(value, SIZE_MAX));
    json_t *object =
        json_pack("{s:o, s:I, s:I, s:I, s:o, s:b}", "model", cli_json_text(path, SIZE_MAX),
                  "version", (json_int_t)kept_inspection_version(inspection), "header_bytes",
                  (json_int_t)kept_inspection_header_bytes(inspection), "n_tensors",
                  (json_int_t)kept_inspection_n_tensors(inspection), "metadata", metadata, "usable",
                  unusable->status == KEPT_OK);
    if (object)
        json_object_set_new(object, "why_not", cli_json_text(unusable->message, SIZE_MAX));
    if (object && tensors)
        json_object_set_new(object, "tensors", tensors_json(inspection));
    cli_json_print(object, true);
}

static void print_text(const char *path, const kept_inspection *inspection, bool tensors,
                       const struct kept_error *unusable)
{
    char key[KEY_BYTES], value[100], bytes[32], shape[96];
    struct kept_tensor_info tensor;
    printf("%s: GGUF version %u, header %s, %llu tensors\n", path,
           kept_inspection_version(inspection),
           cli_bytes(bytes, kept_inspection_header_bytes(inspection)),
           (unsigned long long)kept_inspection_n_tensors(inspection));
    if (unusable->status != KEPT_OK)
        printf("kept cannot run it: %s\n", unusable->message);
    putchar('\n');
    for (uint64_t i = 0; kept_inspection_value(inspection, i, key, sizeof key, value, sizeof value);
         i++)
        printf("  %-44s %s\n", key, value);
    if (!tensors)
        return;
    printf("\n  %-32s %-8s %-24s %12s %11s\n", "tensor", "format", "shape", "offset", "size");
    for (uint64_t i = 0; kept_inspection_tensor(inspection, i, &tensor); i++)
        printf("  %-32s %-8s %-24s %12llu %11s\n", tensor.name, tensor.format,
               shape_text(&tensor, shape), (unsigned long long)tensor.offset_bytes,
               cli_bytes(bytes, tensor.n_bytes));
}

/* By its first bytes. */
static bool is_sidecar(const char *path)
{
    char magic[8];
    FILE *file = fopen(path, "rb");
    bool is = file && fread(magic, 1, sizeof magic, file) == sizeof magic &&
              memcmp(magic, SIDECAR_MAGIC, sizeof magic) == 0;
    if (file)
        fclose(file);
    return is;
}

static enum cli_exit inspect_sidecar(const struct cli_settings *settings, const char *path)
{
    kept_sidecar *sidecar = NULL;
    struct kept_error err = {0};
    if (kept_sidecar_open(path, NULL, &sidecar, &err) != KEPT_OK)
        return cli_report(settings, &err);
    if (settings->json)
        cli_json_print(cli_sidecar_json(path, sidecar), true);
    else
        cli_sidecar_print(path, sidecar);
    kept_sidecar_close(&sidecar);
    return CLI_OK;
}

enum cli_exit cli_inspect(const struct cli_settings *settings)
{
    const char *path = settings->args[0];
    kept_inspection *inspection = NULL;
    kept_model *model = NULL;
    struct kept_error err = {0}, unusable = {0};
    if (is_sidecar(path))
        return inspect_sidecar(settings, path);
    if (kept_inspection_create(path, &inspection, &err) != KEPT_OK)
        return cli_report(settings, &err);
    if (kept_model_open(path, NULL, &model, &unusable) == KEPT_OK)
        unusable = (struct kept_error){0};
    if (settings->json)
        print_json(path, inspection, settings->tensors, &unusable);
    else
        print_text(path, inspection, settings->tensors, &unusable);
    kept_model_close(&model);
    kept_inspection_destroy(&inspection);
    return CLI_OK;
}

/* core/model.c: opening a model file: header, shape, tokenizer. Tensor data stays in the file. */
#include "core/model_internal.h"

#include "base/alloc.h"
#include "base/status.h"
#include "formats/tok.h"

static const char *text_value(struct kept_model *model, const char *key, const char *fallback)
{
    struct kept_text text;
    if (!kept_gguf_text(model->gguf, key, &text))
        return kept_arena_strdup(&model->arena, fallback);
    return kept_arena_strndup(&model->arena, text.bytes, text.n_bytes);
}

static kept_status describe(struct kept_model *model, const char *path, struct kept_error *err)
{
    const struct kept_shape *shape = &model->shape;
    struct kept_model_info *info = &model->info;
    info->path = kept_arena_strdup(&model->arena, path);
    info->name = text_value(model, "general.name", "unnamed");
    info->architecture = shape->family;
    if (!info->path || !info->name)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for the description of '%s'", path);
    info->n_layers = shape->n_layers;
    info->n_head = shape->layers[0].n_head;
    info->n_kv_head = shape->layers[0].n_kv;
    info->head_dim = shape->layers[0].d;
    info->n_embd = shape->n_embd;
    info->n_ff = shape->layers[0].n_ff;
    info->n_vocab = shape->n_vocab;
    info->trained_context_tokens = shape->trained_context;
    for (uint32_t i = 0; i < shape->n_layers; i++) {
        if (shape->layers[i].window == 0)
            continue;
        info->window_tokens = shape->layers[i].window;
        info->n_window_layers++;
    }
    for (uint64_t i = 0; i < kept_gguf_n_tensors(model->gguf); i++) {
        const struct kept_gguf_tensor *tensor = kept_gguf_tensor_at(model->gguf, i);
        info->n_params += tensor->dims[0] * tensor->dims[1] * tensor->dims[2] * tensor->dims[3];
        info->tensor_bytes += tensor->n_bytes;
    }
    info->file_bytes = kept_file_size(kept_gguf_file(model->gguf));
    info->tied_embedding = shape->head == shape->embedding;
    info->header_hash = kept_gguf_header_hash(model->gguf);
    return KEPT_OK;
}

kept_status kept_model_open(const char *path, const struct kept_log *log, kept_model **out,
                            struct kept_error *err)
{
    if (out)
        *out = NULL;
    if (!path || !out)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_model_open needs a path and out");
    kept_model *model = kept_calloc(1, sizeof *model);
    if (!model)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a model");
    if (log)
        model->log = *log;
    kept_status status = kept_gguf_open(path, &model->gguf, err);
    if (status == KEPT_OK)
        status = kept_shape_read(model->gguf, &model->arena, &model->shape, err);
    if (status == KEPT_OK)
        status = describe(model, path, err);
    if (status == KEPT_OK)
        status = kept_tokenizer_create(model->gguf, &model->tokenizer, err);
    if (status == KEPT_OK)
        *out = model;
    else
        kept_model_close(&model);
    return status;
}

void kept_model_close(kept_model **model)
{
    if (!model || !*model)
        return;
    kept_tokenizer_destroy(&(*model)->tokenizer);
    kept_gguf_close(&(*model)->gguf);
    kept_arena_finish(&(*model)->arena);
    kept_free(*model);
    *model = NULL;
}

const struct kept_model_info *kept_model_info(const kept_model *model)
{
    return &model->info;
}

const kept_tokenizer *kept_model_tokenizer(const kept_model *model)
{
    return model->tokenizer;
}

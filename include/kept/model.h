/* kept/model.h: a model file: its header, its description, its tokenizer. Tensor data is read only
 * when a session is created. A model may be shared by any number of threads; it must outlive its
 * plans and sessions. */
#ifndef KEPT_MODEL_H
#define KEPT_MODEL_H

#include "common.h"
#include "log.h"
#include "tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kept_model kept_model;

struct kept_model_info {
    const char *path, *name, *architecture; /* owned by the model */
    uint32_t n_layers, n_head, n_kv_head, head_dim, n_embd, n_ff, n_vocab;
    uint32_t trained_context_tokens;
    uint32_t window_tokens; /* of its sliding-window layers; 0: none */
    uint32_t n_window_layers;
    uint64_t n_params;
    uint64_t tensor_bytes, file_bytes;
    bool tied_embedding;
    uint64_t header_hash; /* XXH3 of header and sizes */
};

/* Reads and checks the header. KEPT_E_IO (unreadable, a directory), KEPT_E_FORMAT (damaged: offset
 * and reason), KEPT_E_UNSUPPORTED (unknown architecture, tensor type or shape), KEPT_E_HOST_MEMORY.
 * */
KEPT_API kept_status kept_model_open(const char *path, const struct kept_log *log, kept_model **out,
                                     struct kept_error *err);
KEPT_API void kept_model_close(kept_model **model);
KEPT_API const struct kept_model_info *kept_model_info(const kept_model *model);
/* Owned by the model. */
KEPT_API const kept_tokenizer *kept_model_tokenizer(const kept_model *model);

/* What is in the file, for people: also works on files whose architecture kept cannot run. */
typedef struct kept_inspection kept_inspection;
struct kept_tensor_info {
    const char *name;
    const char *format; /* "Q4_1"; "unknown" for types without kernels */
    uint32_t n_dims;
    uint64_t dims[4]; /* dims[0] is contiguous */
    uint64_t offset_bytes, n_bytes;
};
KEPT_API kept_status kept_inspection_create(const char *path, kept_inspection **out,
                                            struct kept_error *err);
KEPT_API void kept_inspection_destroy(kept_inspection **inspection);
KEPT_API uint64_t kept_inspection_n_values(const kept_inspection *inspection);
/* Value i as text ("[49152 strings]" for long arrays); to is always terminated. false when i is out
 * of range. */
KEPT_API bool kept_inspection_value(const kept_inspection *inspection, uint64_t i, char *key,
                                    size_t key_cap, char *to, size_t to_cap);
KEPT_API uint64_t kept_inspection_n_tensors(const kept_inspection *inspection);
KEPT_API bool kept_inspection_tensor(const kept_inspection *inspection, uint64_t i,
                                     struct kept_tensor_info *out);
KEPT_API uint32_t kept_inspection_version(const kept_inspection *inspection);
KEPT_API uint64_t kept_inspection_header_bytes(const kept_inspection *inspection);

#ifdef __cplusplus
}
#endif
#endif

/* core/model_internal.h: what a kept_model holds. */
#ifndef KEPT_CORE_MODEL_INTERNAL_H
#define KEPT_CORE_MODEL_INTERNAL_H

#include "base/arena.h"
#include "core/shape.h"
#include "kept/model.h"

struct kept_model {
    struct kept_arena arena;
    struct kept_gguf *gguf;
    struct kept_shape shape;
    struct kept_model_info info;
    struct kept_tokenizer *tokenizer;
    struct kept_log log;
};

#endif

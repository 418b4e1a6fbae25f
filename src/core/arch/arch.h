/* core/arch/arch.h: what a family file implements, and the readers it uses. docs/add-a-model.md
 * walks through one. */
#ifndef KEPT_CORE_ARCH_ARCH_H
#define KEPT_CORE_ARCH_ARCH_H

#include "core/shape.h"

/* Reads one model file for a family: keys "<family>.<key>", tensors by name, errors that name them.
 * After the first failure every call does nothing, so a family file reads straight down and checks
 * once at its end. */
struct kept_arch_reader {
    const struct kept_gguf *gguf;
    const char *family;
    struct kept_arena *arena;
    struct kept_error *err;
    kept_status status;
};

/* Keys. _need fails when the key is absent or out of [low, high]; _or gives the fallback when it is
 * absent. */
uint32_t kept_arch_need_u32(struct kept_arch_reader *in, const char *key, uint32_t low,
                            uint32_t high);
uint32_t kept_arch_u32_or(struct kept_arch_reader *in, const char *key, uint32_t fallback);
double kept_arch_f64_or(struct kept_arch_reader *in, const char *key, double fallback);
/* What positions are multiplied by: of rope.scaling.*; fails unless its type is linear or none. */
double kept_arch_rope_scale(struct kept_arch_reader *in);

bool kept_arch_is(const struct kept_text *text, const char *word);

/* Tensors: "blk.<layer>.<part>" (layer < 0: "<part>"), with dims [k] or [k][rows]; rows 0: one
 * dimension. _need fails when it is absent, both fail when the shape differs or the format is not
 * known. Vectors must be F32. */
const struct kept_gguf_tensor *kept_arch_need(struct kept_arch_reader *in, int layer,
                                              const char *part, uint64_t k, uint64_t rows);
const struct kept_gguf_tensor *kept_arch_find(struct kept_arch_reader *in, int layer,
                                              const char *part, uint64_t k, uint64_t rows);

kept_status kept_arch_fail(struct kept_arch_reader *in, kept_status status, const char *fmt, ...)
    KEPT_PRINTF(3, 4);

/* The shared beginning of decoder families: sizes, embedding, output norm, head, layers allocated
 * with n_head, n_kv, d, n_ff, q_scale set, standard tensors (attn_norm, q, k, v, o, ffn_norm, gate,
 * up, down) found, biases where present. */
void kept_arch_read_decoder(struct kept_arch_reader *in, struct kept_shape *out);

/* Metadata kept.dms.* and its tensors, where the file has them (docs/dms.md). */
void kept_arch_read_dms(struct kept_arch_reader *in, struct kept_shape *out);

struct kept_arch {
    const char *name; /* general.architecture */
    void (*read)(struct kept_arch_reader *in, struct kept_shape *out);
};

/* One file each; the table is in arch.c. */
void kept_arch_llama(struct kept_arch_reader *in, struct kept_shape *out);
void kept_arch_gemma3(struct kept_arch_reader *in, struct kept_shape *out);
void kept_arch_qwen3(struct kept_arch_reader *in, struct kept_shape *out);

#endif

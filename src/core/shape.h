/* core/shape.h: a model as its family describes it: sizes, RoPE, and one descriptor per layer.
 * Filled by core/arch/<family>.c from the file's metadata and tensor directory; read by plan,
 * build, load. No tensor names and no families after this. */
#ifndef KEPT_CORE_SHAPE_H
#define KEPT_CORE_SHAPE_H

#include "base/arena.h"
#include "formats/gguf.h"

enum kept_activation { KEPT_ACT_SILU, KEPT_ACT_GELU };

/* One rotation; up to two in a model (gemma3: local and global layers). */
struct kept_rope {
    uint32_t n_rot;                         /* rotated elements of a head */
    uint32_t pairs;                         /* KEPT_ROPE_… */
    double base;                            /* theta */
    double scale;                           /* positions are multiplied by it (1 / linear factor) */
    const struct kept_gguf_tensor *factors; /* [n_rot/2] f32 divisors of the frequencies, or NULL */
};
#define KEPT_MAX_ROPES 2

/* Dynamic Memory Sparsification: where the decisions of a model trained for it come from. */
enum kept_dms_form {
    KEPT_DMS_NONE,
    KEPT_DMS_SEPARATE, /* tensors of their own */
    KEPT_DMS_BORROWED  /* the last element of the first query head of every KV head */
};
struct kept_dms {
    enum kept_dms_form form;
    uint32_t window, shift; /* params.h, slot_birth */
    float scale, offset;    /* a = scale * alpha - offset; a > 0 evicts */
};

struct kept_layer {
    /* [k = n_embd] -> rows; NULL where a family has none */
    const struct kept_gguf_tensor *attn_norm, *q, *k, *v, *q_bias, *k_bias, *v_bias, *q_norm,
        *k_norm;
    const struct kept_gguf_tensor *o, *attn_post_norm, *ffn_norm, *gate, *up, *down, *ffn_post_norm;
    const struct kept_gguf_tensor *dms, *dms_norm; /* [n_embd] -> [n_kv]; norm before it */
    uint32_t n_head, n_kv, d;                      /* d: head size, of K and V alike */
    uint32_t n_ff;
    uint32_t window; /* sliding window in tokens; 0: all of the past */
    uint32_t rope;   /* index into kept_shape.ropes */
    float q_scale;   /* of the scores, 1/sqrt(d) as a rule */
    float softcap;   /* of the scores; 0: none */
    enum kept_activation activation;
};

struct kept_shape {
    const char *family;
    uint32_t n_layers, n_embd, n_vocab, trained_context;
    float eps;
    float embed_scale;
    float logit_softcap; /* 0: none */
    struct kept_rope ropes[KEPT_MAX_ROPES];
    uint32_t n_ropes;
    struct kept_dms dms;
    const struct kept_gguf_tensor *embedding; /* [n_vocab][n_embd] */
    const struct kept_gguf_tensor *output_norm;
    const struct kept_gguf_tensor *head; /* == embedding when tied */
    struct kept_layer *layers;
};

/* Finds the family of the file and lets it fill *out; memory from arena. Every tensor that out
 * points to has a known format and the right shape afterwards. KEPT_E_UNSUPPORTED (unknown family,
 * format, sizes the kernels cannot take), KEPT_E_FORMAT (missing tensor or key, wrong shape,
 * vocabulary and embedding that differ). */
kept_status kept_shape_read(const struct kept_gguf *gguf, struct kept_arena *arena,
                            struct kept_shape *out, struct kept_error *err);

#endif

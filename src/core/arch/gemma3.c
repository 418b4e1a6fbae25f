/* core/arch/gemma3.c: Gemma 3 (text).
 *
 * Pre- and post-norms around both blocks, RMS-normalised q and k heads, gated GELU (tanh form),
 * embedding scaled by sqrt(n_embd), five sliding-window layers to each global one with a RoPE base
 * of their own. Source: Gemma 3 technical report, 2025, section 2.
 */
#include "core/arch/arch.h"

#include <math.h>

#include "kernel/params.h"

#define GLOBAL_EVERY 6u /* layers 5, 11, 17 … attend to everything */
#define LOCAL_BASE   10000.0
enum { ROPE_GLOBAL, ROPE_LOCAL };

void kept_arch_gemma3(struct kept_arch_reader *in, struct kept_shape *out)
{
    kept_arch_read_decoder(in, out);
    if (in->status != KEPT_OK)
        return;
    uint32_t window = kept_arch_need_u32(in, "attention.sliding_window", 1, 1u << 24);
    out->embed_scale = (float)sqrt((double)out->n_embd);
    out->logit_softcap = (float)kept_arch_f64_or(in, "final_logit_softcapping", 0.0);
    out->n_ropes = 2;
    out->ropes[ROPE_GLOBAL] = (struct kept_rope){
        .n_rot = out->layers[0].d,
        .pairs = KEPT_ROPE_HALVES,
        .base = kept_arch_f64_or(in, "rope.freq_base", 1000000.0),
        .scale = kept_arch_rope_scale(in),
    };
    out->ropes[ROPE_LOCAL] = (struct kept_rope){
        .n_rot = out->layers[0].d,
        .pairs = KEPT_ROPE_HALVES,
        .base = kept_arch_f64_or(in, "rope.local.freq_base", LOCAL_BASE),
        .scale = 1.0,
    };
    for (uint32_t i = 0; i < out->n_layers && in->status == KEPT_OK; i++) {
        struct kept_layer *layer = &out->layers[i];
        bool global = i % GLOBAL_EVERY == GLOBAL_EVERY - 1;
        layer->window = global ? 0 : window;
        layer->rope = global ? ROPE_GLOBAL : ROPE_LOCAL;
        layer->activation = KEPT_ACT_GELU;
        layer->q_norm = kept_arch_need(in, (int)i, "attn_q_norm.weight", layer->d, 0);
        layer->k_norm = kept_arch_need(in, (int)i, "attn_k_norm.weight", layer->d, 0);
        layer->attn_post_norm =
            kept_arch_need(in, (int)i, "post_attention_norm.weight", out->n_embd, 0);
        layer->ffn_post_norm = kept_arch_need(in, (int)i, "post_ffw_norm.weight", out->n_embd, 0);
    }
}

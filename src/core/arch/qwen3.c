/* core/arch/qwen3.c: Qwen3 (dense).
 *
 * Pre-norm decoder, grouped-query attention with RMS-normalised q and k heads, gated SiLU
 * feed-forward, heads of a size of their own, rotated in halves. Source: Qwen3 technical report,
 * 2025 (arXiv 2505.09388), section 2.
 */
#include "core/arch/arch.h"
#include "kernel/params.h"

void kept_arch_qwen3(struct kept_arch_reader *in, struct kept_shape *out)
{
    kept_arch_read_decoder(in, out);
    if (in->status != KEPT_OK)
        return;
    out->n_ropes = 1;
    out->ropes[0] = (struct kept_rope){
        .n_rot = out->layers[0].d,
        .pairs = KEPT_ROPE_HALVES,
        .base = kept_arch_f64_or(in, "rope.freq_base", 1000000.0),
        .scale = kept_arch_rope_scale(in),
    };
    for (uint32_t i = 0; i < out->n_layers && in->status == KEPT_OK; i++) {
        struct kept_layer *layer = &out->layers[i];
        layer->q_norm = kept_arch_need(in, (int)i, "attn_q_norm.weight", layer->d, 0);
        layer->k_norm = kept_arch_need(in, (int)i, "attn_k_norm.weight", layer->d, 0);
    }
    kept_arch_read_dms(in, out);
}

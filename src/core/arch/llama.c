/* core/arch/llama.c: Llama and the models that share its shape (SmolLM2, TinyLlama, Mistral).
 *
 * Pre-norm decoder, grouped-query attention, gated SiLU feed-forward. The file's q and k rows are
 * permuted so that rotated pairs are adjacent. Source: Touvron et al. 2023; the scaling of Llama
 * 3.1 arrives as the tensor rope_freqs.
 */
#include "core/arch/arch.h"
#include "kernel/params.h"

void kept_arch_llama(struct kept_arch_reader *in, struct kept_shape *out)
{
    kept_arch_read_decoder(in, out);
    if (in->status != KEPT_OK)
        return;
    struct kept_rope *rope = &out->ropes[0];
    out->n_ropes = 1;
    rope->pairs = KEPT_ROPE_ADJACENT;
    rope->n_rot = kept_arch_u32_or(in, "rope.dimension_count", out->layers[0].d);
    rope->base = kept_arch_f64_or(in, "rope.freq_base", 10000.0);
    rope->scale = kept_arch_rope_scale(in);
    kept_arch_read_dms(in, out);
    rope->factors = kept_arch_find(in, -1, "rope_freqs.weight", rope->n_rot / 2, 0);
}

/* core/arch/dms.c: models that were trained to decide what of the past may go (Dynamic Memory
 * Sparsification, Lancucki et al. 2025).
 *
 * Keys, apart from the family's own: kept.dms.form, .window, .scale, .offset, .shift. Form
 * "separate": alpha = attn_dms.weight * RMSNorm(x; attn_dms_norm.weight), x the residual stream
 * that enters the attention block. Form "borrowed": alpha = the last element of the first query
 * head of each KV head, with bias and norm, before RoPE; that element takes no part in attention
 * (docs/dms.md).
 */
#include <math.h>
#include <string.h>

#include "core/arch/arch.h"

#define MAX_WINDOW (1u << 20)

static enum kept_dms_form form_of(struct kept_arch_reader *in)
{
    struct kept_text text;
    if (!kept_gguf_find(in->gguf, "kept.dms.form"))
        return KEPT_DMS_NONE;
    if (!kept_gguf_text(in->gguf, "kept.dms.form", &text))
        kept_arch_fail(in, KEPT_E_FORMAT, "'kept.dms.form' is not a string");
    else if (kept_arch_is(&text, "separate"))
        return KEPT_DMS_SEPARATE;
    else if (kept_arch_is(&text, "borrowed"))
        return KEPT_DMS_BORROWED;
    else
        kept_arch_fail(in, KEPT_E_UNSUPPORTED,
                       "'kept.dms.form' is '%.*s'; 'separate' and 'borrowed' are supported",
                       (int)(text.n_bytes < 64 ? text.n_bytes : 64), text.bytes);
    return KEPT_DMS_NONE;
}

static uint32_t whole(struct kept_arch_reader *in, const char *key, uint32_t low, uint32_t high)
{
    uint64_t value = 0;
    if (!kept_gguf_u64(in->gguf, key, &value))
        kept_arch_fail(in, KEPT_E_FORMAT, "the file has no whole number '%s'", key);
    else if (value < low || value > high)
        kept_arch_fail(in, KEPT_E_UNSUPPORTED, "'%s' is %llu; %u to %u are supported", key,
                       (unsigned long long)value, low, high);
    return (uint32_t)value;
}

static float real_or(struct kept_arch_reader *in, const char *key, double fallback)
{
    double value = fallback;
    if (kept_gguf_f64(in->gguf, key, &value) && !(fabs(value) <= 1e6))
        kept_arch_fail(in, KEPT_E_FORMAT, "'%s' is %g; up to 1e6 is possible", key, value);
    return (float)value;
}

void kept_arch_read_dms(struct kept_arch_reader *in, struct kept_shape *out)
{
    struct kept_dms *dms = &out->dms;
    dms->form = form_of(in);
    if (in->status != KEPT_OK || dms->form == KEPT_DMS_NONE)
        return;
    dms->window = whole(in, "kept.dms.window", 1, MAX_WINDOW);
    dms->shift = whole(in, "kept.dms.shift", 0, 1);
    dms->scale = real_or(in, "kept.dms.scale", 100);
    dms->offset = real_or(in, "kept.dms.offset", 5);
    bool separate = dms->form == KEPT_DMS_SEPARATE;
    for (uint32_t i = 0; separate && i < out->n_layers && in->status == KEPT_OK; i++) {
        struct kept_layer *layer = &out->layers[i];
        layer->dms = kept_arch_need(in, (int)i, "attn_dms.weight", out->n_embd, layer->n_kv);
        layer->dms_norm = kept_arch_need(in, (int)i, "attn_dms_norm.weight", out->n_embd, 0);
    }
}

/* core/arch/arch.c: the table of model families, and the readers that family files are written
 * with.
 *
 * A family file only says what differs: where its keys deviate, which norms it has, how it rotates.
 * Everything that a damaged or hostile file could get wrong is checked here: missing keys, numbers
 * out of range, missing tensors, wrong shapes, formats without kernels, sizes that the kernels
 * cannot take. */
#include "core/arch/arch.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "base/str.h"

static const struct kept_arch families[] = {
    {"llama", kept_arch_llama},
    {"gemma3", kept_arch_gemma3},
    {"qwen3", kept_arch_qwen3},
};
#define N_FAMILIES (sizeof families / sizeof *families)

#define MAX_NAME 128

kept_status kept_arch_fail(struct kept_arch_reader *in, kept_status status, const char *fmt, ...)
{
    if (in->status != KEPT_OK)
        return in->status;
    va_list args;
    va_start(args, fmt);
    in->status = kept_vfail(in->err, status, fmt, args);
    va_end(args);
    return in->status;
}

static void family_key(const struct kept_arch_reader *in, const char *key, char out[MAX_NAME])
{
    kept_snprintf(out, MAX_NAME, "%s.%s", in->family, key);
}

uint32_t kept_arch_need_u32(struct kept_arch_reader *in, const char *key, uint32_t low,
                            uint32_t high)
{
    if (in->status != KEPT_OK)
        return low;
    char name[MAX_NAME];
    uint64_t value = 0;
    family_key(in, key, name);
    if (!kept_gguf_u64(in->gguf, name, &value)) {
        kept_arch_fail(in, KEPT_E_FORMAT, "the file has no whole number '%s'", name);
        return low;
    }
    if (value < low || value > high) {
        kept_arch_fail(in, KEPT_E_UNSUPPORTED, "'%s' is %llu; %u to %u are supported", name,
                       (unsigned long long)value, low, high);
        return low;
    }
    return (uint32_t)value;
}

uint32_t kept_arch_u32_or(struct kept_arch_reader *in, const char *key, uint32_t fallback)
{
    char name[MAX_NAME];
    uint64_t value = fallback;
    family_key(in, key, name);
    if (in->status == KEPT_OK && kept_gguf_u64(in->gguf, name, &value) && value > UINT32_MAX)
        kept_arch_fail(in, KEPT_E_UNSUPPORTED, "'%s' is %llu, over 32 bits", name,
                       (unsigned long long)value);
    return in->status == KEPT_OK ? (uint32_t)value : fallback;
}

double kept_arch_f64_or(struct kept_arch_reader *in, const char *key, double fallback)
{
    char name[MAX_NAME];
    double value = fallback;
    family_key(in, key, name);
    if (in->status == KEPT_OK && kept_gguf_f64(in->gguf, name, &value) && !isfinite(value))
        kept_arch_fail(in, KEPT_E_FORMAT, "'%s' is not a finite number", name);
    return in->status == KEPT_OK ? value : fallback;
}

bool kept_arch_is(const struct kept_text *text, const char *word)
{
    return text->n_bytes == strlen(word) && memcmp(text->bytes, word, text->n_bytes) == 0;
}

double kept_arch_rope_scale(struct kept_arch_reader *in)
{
    char name[MAX_NAME];
    struct kept_text type;
    double factor = kept_arch_f64_or(in, "rope.scaling.factor", 0.0);
    family_key(in, "rope.scaling.type", name);
    if (kept_gguf_text(in->gguf, name, &type)) {
        if (kept_arch_is(&type, "none"))
            return 1.0;
        if (!kept_arch_is(&type, "linear"))
            kept_arch_fail(in, KEPT_E_UNSUPPORTED,
                           "'%s' is '%.*s'; 'linear' and 'none' are supported", name,
                           (int)(type.n_bytes < 64 ? type.n_bytes : 64), type.bytes);
    }
    return factor > 0.0 ? 1.0 / factor : 1.0;
}

static void check_tensor(struct kept_arch_reader *in, const struct kept_gguf_tensor *tensor,
                         uint64_t k, uint64_t rows)
{
    uint32_t want_dims = rows == 0 ? 1 : 2;
    bool shaped = tensor->dims[0] == k && tensor->dims[1] == (rows == 0 ? 1 : rows) &&
                  tensor->dims[2] == 1 && tensor->dims[3] == 1;
    if (!shaped)
        kept_arch_fail(in, KEPT_E_FORMAT,
                       "tensor '%s' is %llu x %llu x %llu, the metadata asks for %llu x %llu",
                       tensor->name, (unsigned long long)tensor->dims[0],
                       (unsigned long long)tensor->dims[1], (unsigned long long)tensor->dims[2],
                       (unsigned long long)k, (unsigned long long)(rows == 0 ? 1 : rows));
    else if (tensor->format == KEPT_FORMAT_COUNT)
        kept_arch_fail(in, KEPT_E_UNSUPPORTED, "tensor '%s' has type %u, which has no kernels",
                       tensor->name, tensor->ggml_type);
    else if (want_dims == 1 && tensor->format != KEPT_FORMAT_F32)
        kept_arch_fail(in, KEPT_E_UNSUPPORTED, "tensor '%s' is %s; norms and biases must be F32",
                       tensor->name, kept_format_name(tensor->format));
    else if (want_dims == 2 && !kept_format_k_valid(tensor->format, k))
        kept_arch_fail(in, KEPT_E_UNSUPPORTED,
                       "tensor '%s' has rows of %llu elements, %s takes whole blocks of %u",
                       tensor->name, (unsigned long long)k, kept_format_name(tensor->format),
                       kept_format_block_elems(tensor->format));
}

static const struct kept_gguf_tensor *look_up(struct kept_arch_reader *in, int layer,
                                              const char *part, char name[MAX_NAME])
{
    if (layer < 0)
        kept_snprintf(name, MAX_NAME, "%s", part);
    else
        kept_snprintf(name, MAX_NAME, "blk.%d.%s", layer, part);
    return in->status == KEPT_OK ? kept_gguf_find_tensor(in->gguf, name) : NULL;
}

const struct kept_gguf_tensor *kept_arch_find(struct kept_arch_reader *in, int layer,
                                              const char *part, uint64_t k, uint64_t rows)
{
    char name[MAX_NAME];
    const struct kept_gguf_tensor *tensor = look_up(in, layer, part, name);
    if (tensor)
        check_tensor(in, tensor, k, rows);
    return tensor;
}

const struct kept_gguf_tensor *kept_arch_need(struct kept_arch_reader *in, int layer,
                                              const char *part, uint64_t k, uint64_t rows)
{
    char name[MAX_NAME];
    const struct kept_gguf_tensor *tensor = look_up(in, layer, part, name);
    if (tensor)
        check_tensor(in, tensor, k, rows);
    else if (in->status == KEPT_OK)
        kept_arch_fail(in, KEPT_E_FORMAT, "the file has no tensor '%s'", name);
    return tensor;
}

static void read_vocabulary(struct kept_arch_reader *in, struct kept_shape *out)
{
    const struct kept_gguf_value *tokens = kept_gguf_find(in->gguf, "tokenizer.ggml.tokens");
    const struct kept_gguf_tensor *embedding = kept_gguf_find_tensor(in->gguf, "token_embd.weight");
    if (in->status != KEPT_OK)
        return;
    if (!embedding) {
        kept_arch_fail(in, KEPT_E_FORMAT, "the file has no tensor 'token_embd.weight'");
        return;
    }
    if (embedding->dims[1] == 0 || embedding->dims[1] > 1u << 24) {
        kept_arch_fail(in, KEPT_E_UNSUPPORTED, "the embedding has %llu rows",
                       (unsigned long long)embedding->dims[1]);
        return;
    }
    out->n_vocab = (uint32_t)embedding->dims[1];
    if (tokens && tokens->type == KEPT_GGUF_ARRAY && tokens->as.array.n != out->n_vocab)
        kept_arch_fail(in, KEPT_E_FORMAT, "the vocabulary has %llu tokens, the embedding %u rows",
                       (unsigned long long)tokens->as.array.n, out->n_vocab);
    out->embedding = kept_arch_need(in, -1, "token_embd.weight", out->n_embd, out->n_vocab);
    out->head = kept_arch_find(in, -1, "output.weight", out->n_embd, out->n_vocab);
    if (!out->head)
        out->head = out->embedding;
    out->output_norm = kept_arch_need(in, -1, "output_norm.weight", out->n_embd, 0);
}

static void read_layer(struct kept_arch_reader *in, struct kept_shape *out, uint32_t i)
{
    struct kept_layer *layer = &out->layers[i];
    int l = (int)i;
    uint64_t n = out->n_embd, q_rows = (uint64_t)layer->n_head * layer->d;
    uint64_t kv_rows = (uint64_t)layer->n_kv * layer->d;

    layer->attn_norm = kept_arch_need(in, l, "attn_norm.weight", n, 0);
    layer->q = kept_arch_need(in, l, "attn_q.weight", n, q_rows);
    layer->k = kept_arch_need(in, l, "attn_k.weight", n, kv_rows);
    layer->v = kept_arch_need(in, l, "attn_v.weight", n, kv_rows);
    layer->q_bias = kept_arch_find(in, l, "attn_q.bias", q_rows, 0);
    layer->k_bias = kept_arch_find(in, l, "attn_k.bias", kv_rows, 0);
    layer->v_bias = kept_arch_find(in, l, "attn_v.bias", kv_rows, 0);
    if (!layer->q_bias != !layer->k_bias || !layer->q_bias != !layer->v_bias)
        kept_arch_fail(in, KEPT_E_FORMAT, "layer %d has some of the q, k and v biases, not all", l);
    layer->o = kept_arch_need(in, l, "attn_output.weight", q_rows, n);
    layer->ffn_norm = kept_arch_need(in, l, "ffn_norm.weight", n, 0);
    layer->gate = kept_arch_need(in, l, "ffn_gate.weight", n, layer->n_ff);
    layer->up = kept_arch_need(in, l, "ffn_up.weight", n, layer->n_ff);
    layer->down = kept_arch_need(in, l, "ffn_down.weight", layer->n_ff, n);
}

static bool head_size_supported(uint32_t d)
{
    return d == 32 || d == 64 || d == 96 || d == 128 || d == 192 || d == 256;
}

void kept_arch_read_decoder(struct kept_arch_reader *in, struct kept_shape *out)
{
    out->n_layers = kept_arch_need_u32(in, "block_count", 1, 4096);
    out->n_embd = kept_arch_need_u32(in, "embedding_length", 32, 1u << 20);
    out->trained_context = kept_arch_need_u32(in, "context_length", 1, 1u << 28);
    uint32_t n_ff = kept_arch_need_u32(in, "feed_forward_length", 32, 1u << 22);
    uint32_t n_head = kept_arch_need_u32(in, "attention.head_count", 1, 4096);
    uint32_t n_kv = kept_arch_u32_or(in, "attention.head_count_kv", n_head);
    uint32_t d = kept_arch_u32_or(in, "attention.key_length", out->n_embd / (n_head ? n_head : 1));
    out->eps = (float)kept_arch_f64_or(in, "attention.layer_norm_rms_epsilon", 1e-5);
    out->embed_scale = 1.0f;
    if (in->status != KEPT_OK)
        return;
    if (n_kv == 0 || n_head % n_kv != 0)
        kept_arch_fail(in, KEPT_E_FORMAT, "%u query heads do not divide among %u KV heads", n_head,
                       n_kv);
    else if (!head_size_supported(d) || kept_arch_u32_or(in, "attention.value_length", d) != d)
        kept_arch_fail(in, KEPT_E_UNSUPPORTED,
                       "heads of %u (keys) and %u (values) elements; 32, 64, 96, 128, 192 and 256 "
                       "are supported, alike for both",
                       d, kept_arch_u32_or(in, "attention.value_length", d));
    else if (out->n_embd % 32 != 0 || n_ff % 32 != 0)
        kept_arch_fail(in, KEPT_E_UNSUPPORTED,
                       "embedding of %u and feed-forward of %u elements; multiples of 32 are "
                       "supported",
                       out->n_embd, n_ff);
    out->layers = kept_arena_array(in->arena, out->n_layers, sizeof *out->layers);
    if (!out->layers)
        kept_arch_fail(in, KEPT_E_HOST_MEMORY, "no memory for %u layers", out->n_layers);
    read_vocabulary(in, out);
    for (uint32_t i = 0; i < out->n_layers && in->status == KEPT_OK; i++) {
        struct kept_layer *layer = &out->layers[i];
        layer->n_head = n_head;
        layer->n_kv = n_kv;
        layer->d = d;
        layer->n_ff = n_ff;
        layer->q_scale = (float)(1.0 / sqrt((double)d));
        read_layer(in, out, i);
    }
}

/* What the kernels divide by, take roots of, or use as a width. */
static void check_numbers(struct kept_arch_reader *in, const struct kept_shape *shape)
{
    if (!(shape->eps >= 0.0f && shape->eps < 1.0f))
        kept_arch_fail(in, KEPT_E_FORMAT, "the norms' epsilon is %g; 0 to 1 is possible",
                       (double)shape->eps);
    for (uint32_t i = 0; i < shape->n_ropes; i++) {
        const struct kept_rope *rope = &shape->ropes[i];
        if (!(rope->base > 0.0) || !(rope->scale > 0.0) || !isfinite(rope->scale))
            kept_arch_fail(in, KEPT_E_FORMAT, "the rotation has base %g and scale %g", rope->base,
                           rope->scale);
        if (rope->n_rot == 0 || rope->n_rot % 2 != 0 || rope->n_rot > shape->layers[0].d)
            kept_arch_fail(in, KEPT_E_FORMAT, "%u elements of a head of %u are rotated",
                           rope->n_rot, shape->layers[0].d);
    }
}

kept_status kept_shape_read(const struct kept_gguf *gguf, struct kept_arena *arena,
                            struct kept_shape *out, struct kept_error *err)
{
    struct kept_text name;
    struct kept_shape shape = {0};

    if (!kept_gguf_text(gguf, "general.architecture", &name))
        return kept_fail(err, KEPT_E_FORMAT, "the file has no string 'general.architecture'");
    for (size_t i = 0; i < N_FAMILIES; i++) {
        if (!kept_arch_is(&name, families[i].name))
            continue;
        struct kept_arch_reader in = {gguf, families[i].name, arena, err, KEPT_OK};
        shape.family = families[i].name;
        families[i].read(&in, &shape);
        if (in.status == KEPT_OK)
            check_numbers(&in, &shape);
        if (in.status == KEPT_OK)
            *out = shape;
        return in.status;
    }
    struct kept_strbuf known = {0};
    for (size_t i = 0; i < N_FAMILIES; i++)
        kept_strbuf_printf(&known, "%s%s", i ? ", " : "", families[i].name);
    kept_fail(err, KEPT_E_UNSUPPORTED, "model family '%.*s' is not supported; these are: %s",
              (int)(name.n_bytes < 64 ? name.n_bytes : 64), name.bytes,
              known.text ? known.text : "");
    kept_strbuf_finish(&known);
    return KEPT_E_UNSUPPORTED;
}

/* core/sidecar.c: the file of head budgets that belongs to a model: reading and writing it.
 *
 * Little-endian, nothing between the parts:
 *   magic u64, version u32, flags u32 (1: a gate follows), header_hash u64, model_hash u64,
 *   n_layers u32, n_kv u32, n_embd u32, n_shares u32, n_tokens u32, n_reports u32
 *   shares     f32 [n_shares]                     ascending, the last one 1
 *   fractions  f32 [n_shares][n_layers][n_kv]     of the unprotected past that a head keeps when
 *                                                 all heads together keep that share of it; in
 *                                                 layers with a sliding window 0
 *   gate       f32 [n_layers][n_kv][n_embd], bias f32 [n_layers][n_kv]
 *   reports    [n_reports]: context u32, budget u32, scored u32, K type u32, V type u32, 0 u32,
 *              KL f64, ratio of perplexities f64, top-1 agreement f64, copy f64 (nats)
 *   XXH3 of all of it, u64
 * The sizes say how long the file is: one that is longer or shorter is refused before anything is
 * read by them. Numbers that are not finite or out of range are refused with their offset.
 */
#include "core/sidecar_internal.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/status.h"
#include "core/model_internal.h"

#define MAGIC        0x0A43535450454BB4u /* "\xB4KEPTSC\n" */
#define VERSION      1u
#define FLAG_GATE    1u
#define HEADER_BYTES 56u
#define REPORT_BYTES 56u
#define HASH_BYTES   8u
#define MAX_BYTES    ((size_t)1 << 28)
#define MAX_LAYERS   4096u
#define MAX_KV       4096u
#define MAX_EMBD     (1u << 20)
#define MAX_SHARES   1024u
#define MAX_REPORTS  4096u
#define MAX_GATE     1e6f

/* Both directions of the file. Reading never passes n: the size is checked before. */
struct cursor {
    uint8_t *bytes;
    size_t at, n;
    const char *name;
};

static uint32_t get_u32(struct cursor *c)
{
    const uint8_t *b = c->bytes + c->at;
    c->at += 4;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint64_t get_u64(struct cursor *c)
{
    uint64_t low = get_u32(c);
    return low | (uint64_t)get_u32(c) << 32;
}

static float get_f32(struct cursor *c)
{
    uint32_t bits = get_u32(c);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double get_f64(struct cursor *c)
{
    uint64_t bits = get_u64(c);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void put_u32(struct cursor *c, uint32_t value)
{
    for (uint32_t i = 0; i < 4; i++)
        c->bytes[c->at++] = (uint8_t)(value >> 8 * i);
}

static void put_u64(struct cursor *c, uint64_t value)
{
    put_u32(c, (uint32_t)value);
    put_u32(c, (uint32_t)(value >> 32));
}

static void put_f32s(struct cursor *c, const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        put_u32(c, bits);
    }
}

static void put_f64(struct cursor *c, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_u64(c, bits);
}

static size_t heads_of(const struct kept_sidecar_info *info)
{
    return (size_t)info->n_layers * info->n_kv;
}

/* Of the whole file; the limits above keep it within 64 bits. */
static uint64_t file_bytes(const struct kept_sidecar_info *info, uint32_t n_embd)
{
    uint64_t heads = heads_of(info);
    return HEADER_BYTES + 4 * (uint64_t)info->n_shares * (1 + heads) +
           (info->has_gate ? 4 * heads * ((uint64_t)n_embd + 1) : 0) +
           REPORT_BYTES * (uint64_t)info->n_reports + HASH_BYTES;
}

/* ---- reading ---- */

static kept_status read_sizes(struct kept_sidecar *s, struct cursor *c, struct kept_error *err)
{
    struct kept_sidecar_info *info = &s->info;
    uint32_t flags = get_u32(c);
    info->header_hash = get_u64(c);
    info->model_hash = get_u64(c);
    info->n_layers = get_u32(c);
    info->n_kv = get_u32(c);
    s->n_embd = get_u32(c);
    info->n_shares = get_u32(c);
    info->n_tokens = get_u32(c);
    info->n_reports = get_u32(c);
    info->has_gate = flags & FLAG_GATE;
    if (flags & ~FLAG_GATE)
        return kept_fail(err, KEPT_E_UNSUPPORTED, "sidecar '%.200s': unknown flags %#x at byte 12",
                         c->name, flags);
    if (!info->n_layers || info->n_layers > MAX_LAYERS || !info->n_kv || info->n_kv > MAX_KV ||
        !s->n_embd || s->n_embd > MAX_EMBD || !info->n_shares || info->n_shares > MAX_SHARES ||
        info->n_reports > MAX_REPORTS)
        return kept_fail(err, KEPT_E_FORMAT,
                         "sidecar '%.200s': sizes out of range at byte 32: %u layers, %u KV heads, "
                         "%u elements, %u shares, %u reports",
                         c->name, info->n_layers, info->n_kv, s->n_embd, info->n_shares,
                         info->n_reports);
    return KEPT_OK;
}

static kept_status read_header(struct kept_sidecar *s, struct cursor *c, struct kept_error *err)
{
    if (c->n < HEADER_BYTES + HASH_BYTES)
        return kept_fail(err, KEPT_E_FORMAT,
                         "sidecar '%.200s' has %zu bytes, its header alone needs %u", c->name, c->n,
                         HEADER_BYTES + HASH_BYTES);
    if (get_u64(c) != MAGIC)
        return kept_fail(err, KEPT_E_FORMAT, "'%.200s' is not a sidecar: wrong magic at byte 0",
                         c->name);
    uint32_t version = get_u32(c);
    if (version != VERSION)
        return kept_fail(err, KEPT_E_UNSUPPORTED,
                         "sidecar '%.200s' has version %u at byte 8, this library reads %u",
                         c->name, version, VERSION);
    kept_status status = read_sizes(s, c, err);
    if (status != KEPT_OK)
        return status;
    uint64_t wanted = file_bytes(&s->info, s->n_embd);
    if (c->n != wanted)
        return kept_fail(err, KEPT_E_FORMAT,
                         "sidecar '%.200s' has %zu bytes, its sizes (%u layers, %u KV heads, %u "
                         "shares) need %llu",
                         c->name, c->n, s->info.n_layers, s->info.n_kv, s->info.n_shares,
                         (unsigned long long)wanted);
    struct cursor end = {c->bytes, c->n - HASH_BYTES, c->n, c->name};
    if (get_u64(&end) != kept_hash64(c->bytes, c->n - HASH_BYTES, 0))
        return kept_fail(err, KEPT_E_FORMAT,
                         "sidecar '%.200s' is damaged: the checksum at byte %zu is another",
                         c->name, c->n - HASH_BYTES);
    return KEPT_OK;
}

/* What of the file must be as the model is. */
static kept_status check_model(const struct kept_sidecar *s, const char *name,
                               const struct kept_model_info *model, struct kept_error *err)
{
    const struct kept_sidecar_info *info = &s->info;
    if (info->n_layers != model->n_layers || info->n_kv != model->n_kv_head ||
        s->n_embd != model->n_embd)
        return kept_fail(err, KEPT_E_MISMATCH,
                         "sidecar '%.150s' is of a model with %u layers, %u KV heads and %u "
                         "elements; '%.150s' has %u, %u and %u",
                         name, info->n_layers, info->n_kv, s->n_embd, model->path, model->n_layers,
                         model->n_kv_head, model->n_embd);
    if (info->header_hash != model->header_hash)
        return kept_fail(err, KEPT_E_MISMATCH,
                         "sidecar '%.150s' was fitted on another model than '%.150s' (hash "
                         "%016llx, not %016llx): make one with 'kept fit'",
                         name, model->path, (unsigned long long)info->header_hash,
                         (unsigned long long)model->header_hash);
    return KEPT_OK;
}

/* n numbers, between 0 and 1 or (of a gate) of any sensible size. */
static kept_status read_f32s(struct cursor *c, size_t n, bool gate, const char *what, float **out,
                             struct kept_error *err)
{
    float low = gate ? -MAX_GATE : 0, high = gate ? MAX_GATE : 1;
    float *values = kept_alloc(n * sizeof *values);
    *out = values;
    if (!values)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %zu %s of sidecar '%.200s'", n,
                         what, c->name);
    for (size_t i = 0; i < n; i++) {
        values[i] = get_f32(c);
        if (!(values[i] >= low && values[i] <= high))
            return kept_fail(err, KEPT_E_FORMAT,
                             "sidecar '%.200s': one of its %s, %g at byte %zu, is not within %g "
                             "and %g",
                             c->name, what, (double)values[i], c->at - 4, (double)low,
                             (double)high);
    }
    return KEPT_OK;
}

static kept_status check_shares(const struct kept_sidecar *s, const char *name,
                                struct kept_error *err)
{
    uint32_t n = s->info.n_shares;
    for (uint32_t i = 0; i < n; i++)
        if (!(s->shares[i] > (i ? s->shares[i - 1] : 0)))
            return kept_fail(err, KEPT_E_FORMAT,
                             "sidecar '%.200s': share %u, %g at byte %u, is not above the one "
                             "before",
                             name, i, (double)s->shares[i], HEADER_BYTES + 4 * i);
    if (s->shares[n - 1] != 1)
        return kept_fail(err, KEPT_E_FORMAT, "sidecar '%.200s': its last share is %g, not 1", name,
                         (double)s->shares[n - 1]);
    return KEPT_OK;
}

/* A head keeps no less of a larger share, and all of all; heads without retention keep 0. model
 * NULL: which ones those are is not known. */
static kept_status check_head(const struct kept_sidecar *s, size_t head, const char *name,
                              const kept_model *model, struct kept_error *err)
{
    size_t heads = heads_of(&s->info);
    uint32_t n = s->info.n_shares, layer = (uint32_t)(head / s->info.n_kv);
    uint32_t in_layer = (uint32_t)(head % s->info.n_kv);
    float last = s->fractions[(n - 1) * heads + head];
    bool window = model ? model->shape.layers[layer].window != 0 : last == 0;
    size_t at = HEADER_BYTES + 4 * (size_t)n;
    if (last != (window ? 0 : 1))
        return kept_fail(err, KEPT_E_FORMAT,
                         "sidecar '%.200s': layer %u, head %u keeps %g of everything (byte %zu), "
                         "not %d: a layer %s a sliding window",
                         name, layer, in_layer, (double)last, at + 4 * ((n - 1) * heads + head),
                         !window, window ? "with" : "without");
    for (uint32_t i = 1; i < n; i++)
        if (s->fractions[i * heads + head] < s->fractions[(i - 1) * heads + head])
            return kept_fail(err, KEPT_E_FORMAT,
                             "sidecar '%.200s': layer %u, head %u keeps less at a larger share "
                             "(byte %zu)",
                             name, layer, in_layer, at + 4 * (i * heads + head));
    return KEPT_OK;
}

static kept_status check_fractions(const struct kept_sidecar *s, const char *name,
                                   const kept_model *model, struct kept_error *err)
{
    size_t heads = heads_of(&s->info);
    float kept_by_all = 0;
    kept_status status = KEPT_OK;
    for (size_t head = 0; head < heads && status == KEPT_OK; head++) {
        kept_by_all += s->fractions[(s->info.n_shares - 1) * heads + head];
        status = check_head(s, head, name, model, err);
    }
    if (status == KEPT_OK && kept_by_all == 0 && !model)
        status = kept_fail(err, KEPT_E_FORMAT, "sidecar '%.200s' has budgets for no head", name);
    return status;
}

static kept_status read_reports(struct kept_sidecar *s, struct cursor *c, struct kept_error *err)
{
    s->reports = kept_calloc(s->info.n_reports, sizeof *s->reports);
    if (!s->reports)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u reports of sidecar '%.200s'",
                         s->info.n_reports, c->name);
    for (uint32_t i = 0; i < s->info.n_reports; i++) {
        struct kept_sidecar_report_info *r = &s->reports[i];
        size_t begin = c->at;
        r->context_tokens = get_u32(c);
        r->budget_slots = get_u32(c);
        r->scored_tokens = get_u32(c);
        uint32_t k = get_u32(c), v = get_u32(c), zero = get_u32(c);
        r->kl_mean = get_f64(c);
        r->ppl_ratio = get_f64(c);
        r->top1_agreement = get_f64(c);
        r->copy_nats = get_f64(c);
        if (k > KEPT_SLOT_Q4_0 || v > KEPT_SLOT_Q4_0 || zero || !isfinite(r->kl_mean) ||
            !isfinite(r->ppl_ratio) || !(r->ppl_ratio > 0) || !isfinite(r->copy_nats) ||
            !(r->top1_agreement >= 0 && r->top1_agreement <= 1))
            return kept_fail(err, KEPT_E_FORMAT,
                             "sidecar '%.200s': report %u at byte %zu has a type or number out of "
                             "range",
                             c->name, i, begin);
        r->k_type = (enum kept_slot_type)k;
        r->v_type = (enum kept_slot_type)v;
    }
    return KEPT_OK;
}

static kept_status read_parts(struct kept_sidecar *s, struct cursor *c, const kept_model *model,
                              struct kept_error *err)
{
    size_t heads = heads_of(&s->info);
    kept_status status = read_f32s(c, s->info.n_shares, false, "shares", &s->shares, err);
    if (status == KEPT_OK)
        status = check_shares(s, c->name, err);
    if (status == KEPT_OK)
        status = read_f32s(c, s->info.n_shares * heads, false, "fractions", &s->fractions, err);
    if (status == KEPT_OK)
        status = check_fractions(s, c->name, model, err);
    if (status == KEPT_OK && s->info.has_gate)
        status = read_f32s(c, heads * s->n_embd, true, "gate weights", &s->gate, err);
    if (status == KEPT_OK && s->info.has_gate)
        status = read_f32s(c, heads, true, "gate biases", &s->gate_bias, err);
    return status == KEPT_OK ? read_reports(s, c, err) : status;
}

kept_status kept_sidecar_parse(const void *bytes, size_t n_bytes, const char *name,
                               const kept_model *model, kept_sidecar **out, struct kept_error *err)
{
    struct cursor c = {(uint8_t *)bytes, 0, n_bytes, name};
    struct kept_sidecar *s = kept_calloc(1, sizeof *s);
    *out = NULL;
    if (!s)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for sidecar '%.200s'", name);
    kept_status status = read_header(s, &c, err);
    if (status == KEPT_OK && model)
        status = check_model(s, name, &model->info, err);
    if (status == KEPT_OK)
        status = read_parts(s, &c, model, err);
    if (status == KEPT_OK)
        *out = s;
    else
        kept_sidecar_close(&s);
    return status;
}

kept_status kept_sidecar_open(const char *path, const kept_model *model, kept_sidecar **out,
                              struct kept_error *err)
{
    char *bytes = NULL;
    size_t n_bytes = 0;
    if (out)
        *out = NULL;
    if (!path || !out)
        return kept_fail(err, KEPT_E_ARGUMENT, "kept_sidecar_open needs a path and out");
    kept_status status = kept_file_load(path, MAX_BYTES, &bytes, &n_bytes, err);
    if (status == KEPT_OK)
        status = kept_sidecar_parse(bytes, n_bytes, path, model, out, err);
    kept_free(bytes);
    return status;
}

void kept_sidecar_close(kept_sidecar **sidecar)
{
    if (!sidecar || !*sidecar)
        return;
    kept_free((*sidecar)->shares);
    kept_free((*sidecar)->fractions);
    kept_free((*sidecar)->gate);
    kept_free((*sidecar)->gate_bias);
    kept_free((*sidecar)->reports);
    kept_free(*sidecar);
    *sidecar = NULL;
}

const struct kept_sidecar_info *kept_sidecar_info(const kept_sidecar *sidecar)
{
    return &sidecar->info;
}

bool kept_sidecar_report(const kept_sidecar *sidecar, uint32_t i,
                         struct kept_sidecar_report_info *out)
{
    if (i >= sidecar->info.n_reports)
        return false;
    *out = sidecar->reports[i];
    return true;
}

/* ---- writing ---- */

static void put_header(struct cursor *c, const struct kept_sidecar_info *info, uint32_t n_embd)
{
    put_u64(c, MAGIC);
    put_u32(c, VERSION);
    put_u32(c, info->has_gate ? FLAG_GATE : 0);
    put_u64(c, info->header_hash);
    put_u64(c, info->model_hash);
    put_u32(c, info->n_layers);
    put_u32(c, info->n_kv);
    put_u32(c, n_embd);
    put_u32(c, info->n_shares);
    put_u32(c, info->n_tokens);
    put_u32(c, info->n_reports);
}

static void put_report(struct cursor *c, const struct kept_sidecar_report_info *r)
{
    put_u32(c, r->context_tokens);
    put_u32(c, r->budget_slots);
    put_u32(c, r->scored_tokens);
    put_u32(c, r->k_type);
    put_u32(c, r->v_type);
    put_u32(c, 0);
    put_f64(c, r->kl_mean);
    put_f64(c, r->ppl_ratio);
    put_f64(c, r->top1_agreement);
    put_f64(c, r->copy_nats);
}

kept_status kept_sidecar_write(const char *path, const kept_model *model,
                               const struct kept_sidecar_params *params, struct kept_error *err)
{
    if (!path || !model || !params || !params->shares || !params->fractions || !params->n_shares ||
        params->n_shares > MAX_SHARES || params->n_reports > MAX_REPORTS ||
        (params->n_reports && !params->reports) || !params->gate != !params->gate_bias)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "kept_sidecar_write needs a path, a model, 1 to %u shares and their "
                         "fractions, reports (up to %u) where counted, a gate with biases",
                         MAX_SHARES, MAX_REPORTS);
    struct kept_sidecar_info info = {.header_hash = model->info.header_hash,
                                     .model_hash = params->model_hash,
                                     .n_layers = model->info.n_layers,
                                     .n_kv = model->info.n_kv_head,
                                     .n_shares = params->n_shares,
                                     .n_tokens = params->n_tokens,
                                     .n_reports = params->n_reports,
                                     .has_gate = params->gate != NULL};
    uint64_t n_bytes = file_bytes(&info, model->info.n_embd);
    struct cursor c = {n_bytes <= MAX_BYTES ? kept_alloc((size_t)n_bytes) : NULL, 0,
                       (size_t)n_bytes, path};
    kept_sidecar *check = NULL;
    if (!c.bytes)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a sidecar of %llu bytes",
                         (unsigned long long)n_bytes);
    put_header(&c, &info, model->info.n_embd);
    put_f32s(&c, params->shares, info.n_shares);
    put_f32s(&c, params->fractions, info.n_shares * heads_of(&info));
    if (info.has_gate) {
        put_f32s(&c, params->gate, heads_of(&info) * model->info.n_embd);
        put_f32s(&c, params->gate_bias, heads_of(&info));
    }
    for (uint32_t i = 0; i < info.n_reports; i++)
        put_report(&c, &params->reports[i]);
    put_u64(&c, kept_hash64(c.bytes, c.at, 0));
    /* What would not be read again is not written. */
    kept_status status = kept_sidecar_parse(c.bytes, c.n, path, model, &check, err);
    kept_sidecar_close(&check);
    if (status == KEPT_OK)
        status = kept_file_replace(path, c.bytes, c.n, err);
    else if (status == KEPT_E_FORMAT && err)
        status = err->status = KEPT_E_ARGUMENT; /* the caller's numbers, not a file's */
    kept_free(c.bytes);
    return status;
}

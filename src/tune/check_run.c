/* tune/check_run.c: one case on a device: layout between guards, upload, call.
 *
 *   | guard | binding 0 | guard | binding 1 | guard | …      all canary words but the bindings
 *
 * Bindings begin where the device's alignment allows, at varying distances, so that a kernel that
 * relies on more alignment than promised, or writes a little beside its range, is seen.
 */
#include "tune/check_run.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/str.h"
#include "tune/tune.h"

#define GUARD_BYTES 512u
#define WAIT_NS     60000000000u

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

static uint64_t lay_out(struct check_runner *r, struct check_case *c)
{
    uint64_t align = c->caps->binding_align_bytes < 4 ? 4 : c->caps->binding_align_bytes;
    uint64_t at = 0;
    for (uint32_t i = 0; i < c->row->n_binds; i++) {
        at = round_up(at + GUARD_BYTES, align);
        if (align < 256)
            at += align * kept_check_range(c, 0, 15);
        r->binds[i].offset_bytes = at;
        r->binds[i].n_bytes = c->bind[i].n_words * 4;
        at += r->binds[i].n_bytes;
    }
    return round_up(at + GUARD_BYTES, 4096);
}

static kept_status reserve(struct check_runner *r, uint64_t n_bytes, struct kept_error *err)
{
    if (n_bytes <= r->cap_bytes)
        return KEPT_OK;
    kept_check_runner_finish(r);
    uint64_t cap = n_bytes + n_bytes / 2;
    if (cap > r->device->caps.max_buffer_bytes)
        cap = n_bytes;
    r->image = kept_alloc((size_t)cap);
    if (r->image == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no host memory for a case of %llu bytes",
                         (unsigned long long)cap);
    kept_status status = kept_buf_create(r->device, "kernel check", cap, 0, &r->buf, err);
    if (status == KEPT_OK)
        r->cap_bytes = cap;
    return status;
}

kept_status kept_check_upload(struct check_runner *r, struct check_case *c, struct kept_error *err)
{
    uint64_t n_bytes = lay_out(r, c);
    kept_status status = reserve(r, n_bytes, err);
    if (status != KEPT_OK)
        return status;
    const uint32_t canary = CHECK_CANARY;
    for (uint64_t i = 0; i < n_bytes; i += 4)
        memcpy(r->image + i, &canary, 4);
    for (uint32_t i = 0; i < c->row->n_binds; i++) {
        r->binds[i].buf = r->buf;
        memcpy(r->image + r->binds[i].offset_bytes, c->bind[i].before, r->binds[i].n_bytes);
    }
    r->n_bytes = n_bytes;
    return kept_buf_write(r->buf, 0, r->image, n_bytes, err);
}

kept_status kept_check_execute(struct check_runner *r, const struct check_case *c,
                               struct kept_kernel *kernel, uint32_t n_calls, double *ns,
                               struct kept_error *err)
{
    struct kept_recording *recording = NULL;
    uint32_t grid[3];
    kept_kernel_grid(c->row->id, c->keys, &c->params, grid);
    kept_status status = kept_recording_begin(r->device, n_calls, &recording, err);
    for (uint32_t i = 0; status == KEPT_OK && i < n_calls; i++)
        status = kept_recording_call(recording, kernel, r->binds, &c->params, grid, err);
    if (status == KEPT_OK)
        status = kept_recording_end(recording, err);
    uint64_t begin = kept_clock_ns();
    if (status == KEPT_OK)
        status = kept_submit(r->device, &recording, 1, err);
    if (status == KEPT_OK)
        status = kept_wait(r->device, WAIT_NS, err);
    if (status == KEPT_OK && ns != NULL)
        *ns = (double)(kept_clock_ns() - begin);
    kept_recording_destroy(&recording);
    return status;
}

void kept_check_runner_finish(struct check_runner *r)
{
    kept_buf_destroy(&r->buf);
    kept_free(r->image);
    r->image = NULL;
    r->cap_bytes = 0;
}

void kept_check_keys_text(const struct check_case *c, char *to, size_t cap_bytes)
{
    size_t at = 0;
    to[0] = '\0';
    for (uint32_t i = 0; i < c->row->n_keys && at < cap_bytes; i++)
        at += kept_snprintf(to + at, cap_bytes - at, "%s%s %u", i == 0 ? "" : " ",
                            c->row->key_names[i], c->keys[i]);
}

bool kept_check_wanted(const struct kept_check_params *params, const struct kept_kernel_row *row,
                       enum kept_format format)
{
    if (params->pattern != NULL && strstr(row->stem, params->pattern) == NULL)
        return false;
    if (!row->has_formats)
        return format == 0 && params->format == NULL;
    return params->format == NULL || strcmp(params->format, kept_format_name(format)) == 0;
}

/* The part of the device's profile that the tables look at. */
static struct kept_profile profile_of(const struct kept_device *device)
{
    static const char *const types[] = {"discrete", "integrated", "cpu", "other"};
    struct kept_profile profile = {0};
    kept_snprintf(profile.api, sizeof profile.api, "%s", device->ops->name);
    kept_snprintf(profile.type, sizeof profile.type, "%s", types[device->caps.type]);
    profile.max_group_lanes = device->caps.max_group_lanes;
    profile.compute_units = device->caps.compute_units;
    return profile;
}

void kept_check_tuned_keys(struct check_case *c, const struct kept_device *device)
{
    struct kept_tuning t;
    struct kept_profile profile = profile_of(device);
    kept_tune_device(&profile, &t);
    memcpy(c->keys, c->row->key_defaults, sizeof c->keys);
    const uint32_t groups[KEPT_KERNEL_COUNT] = {
        [KEPT_KERNEL_EMBED] = t.embed_wg,
        [KEPT_KERNEL_NORM] = t.norm_wg,
        [KEPT_KERNEL_MATVEC] = t.matvec_wg,
        [KEPT_KERNEL_MATMAT] = t.matmat_wg,
        [KEPT_KERNEL_SLOT_WRITE] = t.slot_wg,
        [KEPT_KERNEL_ATTN_DECODE] = t.decode_wg,
        [KEPT_KERNEL_ATTN_PREFILL] = t.prefill_wg,
        [KEPT_KERNEL_ATTN_MERGE] = t.merge_wg,
        [KEPT_KERNEL_GLU] = t.glu_wg,
        [KEPT_KERNEL_ARGMAX] = t.argmax_wg,
    };
    struct kept_attn_keys attn =
        kept_tune_attention(&t, &profile, c->row->id == KEPT_KERNEL_ATTN_DECODE ? 64 : 128,
                            t.prefill_g, c->row->id == KEPT_KERNEL_ATTN_DECODE);
    kept_check_set_key(c, "WG", groups[c->row->id] != 0 ? groups[c->row->id] : t.retain_wg);
    kept_check_set_key(c, "ORDER", (uint32_t)c->caps->order);
    kept_check_set_key(c, "NC", t.matvec_nc);
    kept_check_set_key(c, "TR", t.matvec_tr);
    kept_check_set_key(c, "BM", t.matmat_bm);
    kept_check_set_key(c, "BN", t.matmat_bn);
    kept_check_set_key(c, "G", attn.g);
    kept_check_set_key(c, "BQ", attn.bq);
}

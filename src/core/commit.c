/* core/commit.c: carries a plan out: allocates exactly its buffers, loads the weights, makes every
 * kernel and recording, submits each recording once with no live rows (so that whatever a driver
 * makes late is made now), measures what the driver took, and seals the device. The only place that
 * allocates device memory.
 *
 * On any failure everything is undone in reverse order; kept_session_destroy accepts half-built
 * sessions.
 */
#include "core/session_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/str.h"
#include "core/sidecar_internal.h"

struct kept_bind kept_session_bind(const struct kept_session *session, uint32_t region)
{
    const struct kept_region *planned = &session->plan->regions[region];
    return (struct kept_bind){session->bufs[planned->buffer], planned->offset,
                              (planned->bytes + 3) / 4 * 4};
}

uint64_t kept_session_bytes(const struct kept_session *session)
{
    return session->device->allocated_bytes + session->device->caps.staging_bytes;
}

void *kept_session_host(const struct kept_session *session, uint32_t region)
{
    const struct kept_region *planned = &session->plan->regions[region];
    uint8_t *host = session->bufs[planned->buffer]->host;
    return host ? host + planned->offset : NULL;
}

kept_status kept_session_write(struct kept_session *session, uint32_t region, uint64_t offset,
                               const void *from, uint64_t n_bytes, struct kept_error *err)
{
    const struct kept_region *planned = &session->plan->regions[region];
    return kept_buf_write(session->bufs[planned->buffer], planned->offset + offset, from, n_bytes,
                          err);
}

kept_status kept_session_read(struct kept_session *session, uint32_t region, uint64_t offset,
                              void *to, uint64_t n_bytes, struct kept_error *err)
{
    const struct kept_region *planned = &session->plan->regions[region];
    return kept_buf_read(session->bufs[planned->buffer], planned->offset + offset, to, n_bytes,
                         err);
}

static kept_status allocate(struct kept_session *session, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    session->bufs = kept_calloc(plan->n_buffers, sizeof *session->bufs);
    session->tokens = kept_calloc((size_t)plan->params.context_tokens + plan->retention.hold,
                                  sizeof *session->tokens);
    session->step = kept_calloc(KEPT_STEP_TOKENS + 2 * (size_t)plan->params.chunk_tokens,
                                sizeof *session->step);
    bool fills = plan->retention.on || plan->params.calibrate_tokens;
    if (fills)
        session->fill = kept_alloc(KEPT_FILL_BYTES);
    if (!session->bufs || !session->tokens || !session->step || (fills && !session->fill))
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a session");
    for (uint32_t i = 0; i < plan->n_buffers; i++) {
        const struct kept_buffer_plan *planned = &plan->buffers[i];
        if (planned->exists)
            continue;
        kept_status status = kept_buf_create(session->device, planned->name, planned->bytes,
                                             planned->flags, &session->bufs[i], err);
        if (status != KEPT_OK)
            return status;
    }
    uint32_t host_logits = plan->logits_host != KEPT_NO_REGION ? plan->logits_host : plan->logits;
    if (!kept_session_host(session, host_logits)) {
        session->logits = kept_alloc(plan->regions[plan->logits].bytes);
        if (!session->logits)
            return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to read logits back");
    }
    return KEPT_OK;
}

static kept_status write_rope_tables(struct kept_session *session, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    kept_status status = KEPT_OK;
    for (uint32_t i = 0; i < plan->shape->n_ropes && status == KEPT_OK; i++) {
        const struct kept_rope *rope = &plan->shape->ropes[i];
        const struct kept_gguf_tensor *tensor = rope->factors;
        uint64_t n_bytes = plan->regions[plan->rope_tables[i]].bytes;
        float *table = kept_alloc(n_bytes);
        float *factors = tensor ? kept_alloc(tensor->n_bytes) : NULL;
        if (!table || (tensor && !factors))
            status = kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a rope table");
        if (status == KEPT_OK && tensor)
            status = kept_file_read_at(kept_gguf_file(plan->model->gguf), tensor->offset_bytes,
                                       factors, tensor->n_bytes, err);
        if (status == KEPT_OK) {
            kept_rope_table_fill(rope, factors, plan->rope_hi_rows, plan->rope_hi_bias, table);
            status = kept_session_write(session, plan->rope_tables[i], 0, table, n_bytes, err);
        }
        kept_free(factors);
        kept_free(table);
    }
    return status;
}

/* The gate of a layer: rows of the sidecar, re-laid, and its biases. */
static kept_status write_gate(struct kept_session *session, uint32_t i, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    const struct kept_sidecar *sidecar = plan->params.retain.sidecar;
    const struct kept_layer_plan *layer = &plan->layers[i];
    const struct kept_matrix *alpha = &layer->alpha;
    uint32_t record_words = alpha->record.n_words;
    const float *rows = sidecar->gate + (size_t)i * alpha->n_rows * alpha->k;
    uint32_t *record = kept_alloc(record_words * sizeof *record);
    kept_status status =
        record ? KEPT_OK : kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for the gate");
    for (uint32_t row = 0; row < alpha->n_rows && status == KEPT_OK; row += KEPT_TILE_ROWS) {
        uint32_t left = alpha->n_rows - row;
        kept_relay_tile(KEPT_FORMAT_F32, (enum kept_order)plan->profile.word_order,
                        (const uint8_t *)(rows + (size_t)row * alpha->k),
                        left < KEPT_TILE_ROWS ? left : KEPT_TILE_ROWS, alpha->k, record);
        status = kept_session_write(session, alpha->pieces[0].region,
                                    (uint64_t)row / KEPT_TILE_ROWS * record_words * 4, record,
                                    record_words * 4ull, err);
    }
    if (status == KEPT_OK)
        status = kept_session_write(session, layer->alpha_bias, 0,
                                    sidecar->gate_bias + (size_t)i * alpha->n_rows,
                                    alpha->n_rows * sizeof(float), err);
    kept_free(record);
    return status;
}

static kept_status write_gates(struct kept_session *session, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    kept_status status = KEPT_OK;
    for (uint32_t i = 0; i < plan->shape->n_layers && status == KEPT_OK; i++)
        if (plan->layers[i].birth && !plan->retention.dms)
            status = write_gate(session, i, err);
    return status;
}

static bool same_kernel(const struct kept_kernel *kernel, const struct kept_call *call)
{
    const struct kept_kernel_row *row = kernel->row;
    return row->id == call->id && (!row->has_formats || kernel->format == call->format) &&
           memcmp(kernel->keys, call->keys, row->n_keys * sizeof *call->keys) == 0;
}

static kept_status find_kernel(struct kept_session *session, const struct kept_call *call,
                               struct kept_kernel **out, struct kept_error *err)
{
    for (uint32_t i = 0; i < session->n_kernels; i++) {
        if (same_kernel(session->kernels[i], call)) {
            *out = session->kernels[i];
            return KEPT_OK;
        }
    }
    if (session->n_kernels == session->cap_kernels) {
        uint32_t cap = session->cap_kernels ? session->cap_kernels * 2 : 32;
        struct kept_kernel **grown =
            kept_realloc_array(session->kernels, cap, sizeof *session->kernels);
        if (!grown)
            return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u kernels", cap);
        session->kernels = grown;
        session->cap_kernels = cap;
    }
    struct kept_kernel *kernel;
    kept_status status =
        kept_kernel_create(session->device, call->id, call->format, call->keys, &kernel, err);
    if (status == KEPT_OK)
        *out = session->kernels[session->n_kernels++] = kernel;
    return status;
}

static kept_status record_call(struct kept_session *session, struct kept_recording *recording,
                               const struct kept_call *call, struct kept_error *err)
{
    const struct kept_kernel_row *row = kept_kernel_row(call->id);
    struct kept_bind binds[KEPT_MAX_BINDS];
    struct kept_kernel *kernel = NULL;
    for (uint32_t i = 0; i < row->n_binds; i++) {
        binds[i] = kept_session_bind(session, call->args[i].region);
        binds[i].offset_bytes += call->args[i].offset_bytes;
        binds[i].n_bytes = (call->args[i].n_bytes + 3) / 4 * 4;
    }
    kept_status status = find_kernel(session, call, &kernel, err);
    if (status == KEPT_OK)
        status = kept_recording_call(recording, kernel, binds, call->params, call->grid, err);
    return status;
}

/* Between a device region and its host side; nothing where there is none. */
static kept_status record_copy(struct kept_session *session, struct kept_recording *recording,
                               uint32_t to, uint32_t from, struct kept_error *err)
{
    if (to == KEPT_NO_REGION || from == KEPT_NO_REGION)
        return KEPT_OK;
    struct kept_bind target = kept_session_bind(session, to);
    struct kept_bind source = kept_session_bind(session, from);
    return kept_recording_copy(recording, target.buf, target.offset_bytes, source.buf,
                               source.offset_bytes, source.n_bytes, err);
}

static kept_status record_piece(struct kept_session *session, const struct kept_program *program,
                                uint32_t i_piece, struct kept_recording **out,
                                struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    const struct kept_piece *piece = &program->pieces[i_piece];
    bool first_head = piece->head && !program->pieces[i_piece - 1].head;
    bool last = piece->head && i_piece + 1 == program->n_pieces;
    kept_status status = kept_recording_begin(session->device, piece->n_calls + 3, out, err);
    bool begins = i_piece == 0 || program == &plan->programs[plan->maintenance];
    if (status == KEPT_OK && (begins || first_head))
        status = record_copy(session, *out, plan->step, plan->step_host, err);
    for (uint32_t i = 0; i < piece->n_calls && status == KEPT_OK; i++)
        status = record_call(session, *out, &program->calls[piece->first_call + i], err);
    if (status == KEPT_OK && last)
        status = record_copy(session, *out, plan->logits_host, plan->logits, err);
    if (status == KEPT_OK && last)
        status = record_copy(session, *out, plan->choice_host, plan->choice, err);
    if (status == KEPT_OK)
        status = kept_recording_end(*out, err);
    return status;
}

/* Each piece is submitted once when it is recorded. The step buffer is zero: no row is live, every
 * group returns at once. That is free on a GPU; on devices of CPU type an idle group costs about
 * half a microsecond and a chunk has a million of them, so there a piece of a larger program is
 * left out when all its kernels have run already. */
static kept_status record_programs(struct kept_session *session, kept_progress_fn progress,
                                   void *user, struct kept_error *err)
{
    const kept_plan *plan = session->plan;
    bool on_cpu = strcmp(plan->profile.type, "cpu") == 0;
    kept_status status = KEPT_OK;
    for (uint32_t p = 0; p < plan->n_programs && status == KEPT_OK; p++) {
        const struct kept_program *program = &plan->programs[p];
        session->recordings[p] = kept_calloc(program->n_pieces, sizeof **session->recordings);
        if (!session->recordings[p])
            return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for %u recordings",
                             program->n_pieces);
        for (uint32_t i = 0; i < program->n_pieces && status == KEPT_OK; i++) {
            uint32_t n_before = session->n_kernels;
            struct kept_recording **recording = &session->recordings[p][i];
            status = record_piece(session, program, i, recording, err);
            if (status == KEPT_OK && (p == 0 || !on_cpu || session->n_kernels > n_before))
                status = kept_session_run(session, recording, 1, err);
        }
        if (status == KEPT_OK && progress && !progress(user, "kernels", p + 1, plan->n_programs))
            status = kept_fail(err, KEPT_E_CANCELLED, "preparing the kernels was cancelled");
    }
    return status;
}

static kept_status measure_driver(struct kept_session *session, struct kept_error *err)
{
    struct kept_memory_info memory;
    uint64_t own = kept_session_bytes(session), cap = session->plan->params.memory_bytes;
    char used[32], allowed[32];
    if (kept_device_memory(session->device, &memory, NULL) != KEPT_OK || memory.usage_bytes == 0)
        return KEPT_OK;
    session->driver_bytes = memory.usage_bytes > own ? memory.usage_bytes - own : 0;
    if (cap == 0 || own + session->driver_bytes <= cap)
        return KEPT_OK;
    return kept_fail(err, KEPT_E_BUDGET,
                     "the driver takes more than was estimated: %s in use, the cap is %s",
                     kept_format_bytes(used, sizeof used, own + session->driver_bytes),
                     kept_format_bytes(allowed, sizeof allowed, cap));
}

static kept_status check_plan(const kept_plan *plan, kept_device *device, struct kept_error *err)
{
    struct kept_profile now;
    char total[32], budget[32];
    if (!plan->info.fits)
        return kept_fail(err, KEPT_E_BUDGET, "the plan needs %s, the budget is %s",
                         kept_format_bytes(total, sizeof total, plan->info.total_bytes),
                         kept_format_bytes(budget, sizeof budget, plan->info.budget_bytes));
    kept_device_profile(device, &now);
    if (strcmp(now.api, plan->profile.api) != 0 || now.word_order != plan->profile.word_order ||
        now.host_visible != plan->profile.host_visible ||
        now.host_buffers_mapped != plan->profile.host_buffers_mapped ||
        now.max_buffer_bytes < plan->profile.max_buffer_bytes ||
        now.max_binding_bytes < plan->profile.max_binding_bytes ||
        now.max_group_lanes < plan->profile.max_group_lanes ||
        now.binding_align_bytes > plan->profile.binding_align_bytes)
        return kept_fail(err, KEPT_E_MISMATCH,
                         "the plan was made for %s (%s), the device is %s (%s)", plan->profile.id,
                         plan->profile.name, now.id, now.name);
    return KEPT_OK;
}

static kept_status build_session(struct kept_session *session, kept_progress_fn progress,
                                 void *user, struct kept_error *err)
{
    kept_status status = allocate(session, err);
    if (status == KEPT_OK)
        status = kept_session_load_weights(session, progress, user, err);
    if (status == KEPT_OK)
        status = write_rope_tables(session, err);
    if (status == KEPT_OK)
        status = write_gates(session, err);
    if (status == KEPT_OK && session->plan->facts.on)
        status = kept_session_facts_create(session, err);
    if (status == KEPT_OK)
        status = record_programs(session, progress, user, err);
    if (status == KEPT_OK)
        status = measure_driver(session, err);
    return status;
}

kept_status kept_session_create(const kept_plan *plan, kept_device *device,
                                kept_progress_fn progress, void *user, kept_session **out,
                                struct kept_error *err)
{
    if (out)
        *out = NULL;
    if (!plan || !device || !out)
        return kept_fail(err, KEPT_E_ARGUMENT,
                         "kept_session_create needs a plan, a device and out");
    kept_status status = check_plan(plan, device, err);
    if (status != KEPT_OK)
        return status;
    if (device->sealed)
        return kept_fail(err, KEPT_E_STATE, "device '%s' already carries a session",
                         device->desc.name);
    struct kept_session *session = kept_calloc(1, sizeof *session);
    if (!session)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a session");
    session->plan = plan;
    session->device = device;
    session->fresh = true;
    status = build_session(session, progress, user, err);
    if (status != KEPT_OK) {
        kept_session_destroy(&session);
        return status;
    }
    kept_device_seal(device);
    session->allocations_at_commit = device->n_allocations;
    *out = session;
    return KEPT_OK;
}

void kept_session_destroy(kept_session **out)
{
    if (!out || !*out)
        return;
    struct kept_session *session = *out;
    for (uint32_t p = 0; p < session->plan->n_programs; p++) {
        for (uint32_t i = 0; session->recordings[p] && i < session->plan->programs[p].n_pieces; i++)
            kept_recording_destroy(&session->recordings[p][i]);
        kept_free(session->recordings[p]);
    }
    for (uint32_t i = 0; i < session->n_kernels; i++)
        kept_kernel_destroy(&session->kernels[i]);
    for (uint32_t i = 0; session->bufs && i < session->plan->n_buffers; i++)
        kept_buf_destroy(&session->bufs[i]);
    kept_device_unseal(session->device);
    kept_session_facts_destroy(session);
    kept_free(session->kernels);
    kept_free(session->bufs);
    kept_free(session->tokens);
    kept_free(session->step);
    kept_free(session->fill);
    kept_free(session->logits);
    kept_free(session);
    *out = NULL;
}

/* core/emit_retain.c: calls of bounded retention (memory/retain.c says which) and of calibration.
 * */
#include "core/build.h"

#include <string.h>

#include "base/status.h"

/* Regions for the largest layer; every layer's maintenance uses them in turn. */
struct kept_emit_scratch kept_emit_make_scratch(struct kept_emitter *e)
{
    const struct kept_plan *plan = e->plan;
    struct kept_retain_words most = {1, 1, 1, 1};
    for (uint32_t i = 0; i < plan->shape->n_layers && plan->status == KEPT_OK; i++) {
        if (!plan->layers[i].budgeted)
            continue;
        struct kept_retain_words words =
            kept_retain_words(&plan->retention, &plan->layers[i].store);
        most.z = words.z > most.z ? words.z : most.z;
        most.moves = words.moves > most.moves ? words.moves : most.moves;
        most.near = words.near > most.near ? words.near : most.near;
        most.raw = words.raw > most.raw ? words.raw : most.raw;
    }
    if (most.z > UINT32_MAX || most.near > UINT32_MAX || most.raw > UINT32_MAX)
        kept_plan_fail(e->plan, KEPT_E_UNSUPPORTED, "scores of %llu slots are too many",
                       (unsigned long long)most.z);
    struct kept_emit_scratch scratch = {
        .z = kept_emit_rows(e, "z", 1, (uint32_t)most.z),
        .moves = kept_emit_rows(e, "moves", 1, (uint32_t)most.moves),
    };
    bool assoc = plan->retention.assoc != KEPT_ASSOC_OFF;
    scratch.near = scratch.raw = scratch.moves;
    if (plan->retention.merge || assoc)
        scratch.near = kept_emit_rows(e, "near", 1, (uint32_t)most.near);
    if (assoc)
        scratch.raw = kept_emit_rows(e, "raw", 1, (uint32_t)most.raw);
    return scratch;
}

static void add_call(void *user, struct kept_call *call, const void *params, uint32_t live_slots)
{
    kept_emit_call(user, call, params, live_slots);
}

static struct kept_arg whole(const struct kept_emitter *e, uint32_t region)
{
    return (struct kept_arg){region, 0, e->plan->regions[region].bytes};
}

void kept_emit_birth(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of alpha,
                     struct kept_emit_span rows)
{
    if (e->plan->status != KEPT_OK)
        return;
    const struct kept_layer_plan *layer = &e->plan->layers[i_layer];
    struct kept_call call = {.id = KEPT_KERNEL_SLOT_BIRTH};
    struct kept_birth_params params = {.rows_at = KEPT_STEP_ROWS,
                                       .row_first = rows.first,
                                       .row_cap = rows.cap,
                                       .chunk = e->plan->params.chunk_tokens,
                                       .n_kv = layer->store.n_kv,
                                       .total = layer->store.total,
                                       .alpha_stride = alpha.stride,
                                       .alpha_step = 1,
                                       .scale = 1};
    const struct kept_dms *dms = &e->plan->shape->dms;
    if (e->plan->retention.dms) {
        params.shift = dms->shift;
        params.window = dms->window;
        params.scale = dms->scale;
        params.offset = -dms->offset;
    }
    if (dms->form == KEPT_DMS_BORROWED) {
        params.alpha_rows = kept_emit_query_rows(e);
        params.alpha_first = layer->store.d - 1;
        params.alpha_step = layer->store.n_head / layer->store.n_kv * layer->store.d;
    }
    bool biased = layer->alpha_bias != KEPT_NO_REGION;
    memcpy(call.keys, kept_kernel_row(call.id)->key_defaults, sizeof call.keys);
    call.keys[0] = e->plan->tuning.retain_wg;
    call.keys[KEPT_KEY_BIRTH_BIAS] = biased;
    call.keys[KEPT_KEY_BIRTH_DMS] = e->plan->retention.dms;
    call.args[0] = whole(e, alpha.region);
    call.args[1] = biased ? whole(e, layer->alpha_bias) : layer->store.heads_table;
    call.args[2] = layer->store.scores;
    call.args[3] = layer->store.meta;
    call.args[4] = layer->store.heads_table;
    call.args[5] = whole(e, e->plan->step);
    kept_emit_call(e, &call, &params, 0);
}

void kept_emit_maintain(struct kept_emitter *e, uint32_t i_layer,
                        const struct kept_emit_scratch *scratch, uint32_t row_first)
{
    if (e->plan->status != KEPT_OK)
        return;
    const struct kept_retain_scratch args = {.z = whole(e, scratch->z.region),
                                             .moves = whole(e, scratch->moves.region),
                                             .near = whole(e, scratch->near.region),
                                             .raw = whole(e, scratch->raw.region)};
    const struct kept_retain_emit emit = {.call = add_call,
                                          .user = e,
                                          .wg = e->plan->tuning.retain_wg,
                                          .order = e->plan->profile.word_order,
                                          .step = whole(e, e->plan->step)};
    kept_retain_maintain(&e->plan->retention, &e->plan->layers[i_layer].store, &args, row_first,
                         &emit);
}

void kept_emit_peaks(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of qkv,
                     struct kept_rows_of part)
{
    if (e->plan->status != KEPT_OK)
        return;
    const struct kept_layer *shape = &e->plan->shape->layers[i_layer];
    const struct kept_layer_plan *layer = &e->plan->layers[i_layer];
    struct kept_call call = {.id = KEPT_KERNEL_ATTN_PEAK};
    struct kept_peak_params params = {.rows_at = KEPT_STEP_MAINTAIN,
                                      .row_cap = e->program->rows,
                                      .n_head = shape->n_head,
                                      .n_kv = shape->n_kv,
                                      .d = shape->d,
                                      .q_stride = qkv.stride,
                                      .cap = layer->cap,
                                      .n_slots = e->plan->params.calibrate_tokens};
    memcpy(call.keys, kept_kernel_row(call.id)->key_defaults, sizeof call.keys);
    call.keys[0] = e->plan->tuning.retain_wg;
    call.keys[KEPT_KEY_ORDER] = e->plan->profile.word_order;
    call.keys[KEPT_KEY_ATTN_D] = shape->d;
    call.args[0] = whole(e, qkv.region);
    call.args[1] = whole(e, layer->k_slots);
    call.args[2] = whole(e, part.region);
    call.args[3] = whole(e, layer->peaks);
    call.args[4] = whole(e, e->plan->step);
    kept_emit_call(e, &call, &params, params.n_slots);
    if (layer->received == KEPT_NO_REGION)
        return;
    params.rows_at = KEPT_STEP_ROWS; /* both readings; the kernel counts the first */
    params.chunk = e->plan->params.chunk_tokens;
    params.after = e->plan->params.calibrate_after;
    call.keys[KEPT_KEY_PEAK_SUM] = 1;
    call.args[3] = whole(e, layer->received);
    kept_emit_call(e, &call, &params, params.n_slots);
}

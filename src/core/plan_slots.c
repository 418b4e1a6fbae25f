/* core/plan_slots.c: the slot store of every layer, the rope tables and the step buffer.
 *
 * Full retention: capacity = the context, slot = position. A sliding-window layer is a ring of
 * window + one block of 64, because its rows are written and attended to in blocks of 64: nothing
 * needs `window + chunk` slots.
 */
#include "core/plan_internal.h"

#include <math.h>

#include "backend/backend.h"
#include "base/status.h"

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

static uint32_t slots_of_layer(const struct kept_plan *plan, const struct kept_layer *layer,
                               bool *ring)
{
    uint64_t all = round_up(plan->params.context_tokens, KEPT_SLOT_BLOCK);
    uint64_t windowed = round_up((uint64_t)layer->window + KEPT_SLOT_BLOCK, KEPT_SLOT_BLOCK);
    *ring = layer->window != 0 && windowed < all;
    return (uint32_t)(*ring ? windowed : all);
}

static void plan_layer_slots(struct kept_plan *plan, uint32_t i)
{
    const struct kept_layer *layer = &plan->shape->layers[i];
    struct kept_layer_plan *out = &plan->layers[i];
    out->cap = slots_of_layer(plan, layer, &out->ring);
    uint64_t bytes = (uint64_t)out->cap * layer->n_kv * layer->d * 2;
    const char *why =
        out->ring ? "f16, ring of the sliding window and one block" : "f16, one slot a position";
    if (bytes > plan->profile.max_binding_bytes || bytes > plan->profile.max_buffer_bytes) {
        uint64_t most = plan->profile.max_binding_bytes < plan->profile.max_buffer_bytes
                            ? plan->profile.max_binding_bytes
                            : plan->profile.max_buffer_bytes;
        kept_plan_fail(
            plan, KEPT_E_UNSUPPORTED,
            "the keys of layer %u take %llu bytes at context %u; the device binds at most %llu: "
            "use --context %llu or less",
            i, (unsigned long long)bytes, plan->params.context_tokens, (unsigned long long)most,
            (unsigned long long)(most / (layer->n_kv * layer->d * 2ull) / KEPT_SLOT_BLOCK *
                                 KEPT_SLOT_BLOCK));
        return;
    }
    out->k_slots = kept_plan_add_region(plan, KEPT_CATEGORY_KV, bytes, why, "k.%u", i);
    out->v_slots = kept_plan_add_region(plan, KEPT_CATEGORY_KV, bytes, why, "v.%u", i);
}

#define ROPE_LO_ROWS 256u

uint64_t kept_rope_table_bytes(const struct kept_rope *rope, uint32_t hi_rows)
{
    uint64_t pairs = rope->n_rot / 2;
    return ((uint64_t)ROPE_LO_ROWS + hi_rows) * (pairs ? pairs : 1) * 2 * sizeof(float);
}

static void fill_row(const struct kept_rope *rope, const float *factors, double position,
                     float *row)
{
    for (uint32_t i = 0; i < rope->n_rot / 2; i++) {
        double frequency = pow(rope->base, -2.0 * i / rope->n_rot);
        if (factors)
            frequency /= (double)factors[i];
        double angle = position * rope->scale * frequency;
        row[2 * i] = (float)cos(angle);
        row[2 * i + 1] = (float)sin(angle);
    }
}

void kept_rope_table_fill(const struct kept_rope *rope, const float *factors, uint32_t hi_rows,
                          uint32_t hi_bias, float *table)
{
    uint32_t width = rope->n_rot / 2 * 2;
    for (uint32_t lo = 0; lo < ROPE_LO_ROWS; lo++)
        fill_row(rope, factors, lo, table + (size_t)lo * width);
    for (uint32_t hi = 0; hi < hi_rows; hi++)
        fill_row(rope, factors, 256.0 * ((double)hi - hi_bias),
                 table + (size_t)(ROPE_LO_ROWS + hi) * width);
}

void kept_plan_slots(struct kept_plan *plan)
{
    const struct kept_shape *shape = plan->shape;
    for (uint32_t i = 0; i < shape->n_layers && plan->status == KEPT_OK; i++)
        plan_layer_slots(plan, i);

    plan->rope_hi_rows = (plan->params.context_tokens + ROPE_LO_ROWS - 1) / ROPE_LO_ROWS;
    for (uint32_t i = 0; i < shape->n_ropes && plan->status == KEPT_OK; i++)
        plan->rope_tables[i] = kept_plan_add_region(
            plan, KEPT_CATEGORY_STATE, kept_rope_table_bytes(&shape->ropes[i], plan->rope_hi_rows),
            "cosines and sines; fine and coarse half of the position", "rope.%u", i);

    uint64_t step_bytes = (KEPT_STEP_TOKENS + 2ull * plan->params.chunk_tokens) * 4;
    plan->step = kept_plan_add_region(plan, KEPT_CATEGORY_STATE, step_bytes,
                                      "row counts, tokens and positions of an evaluation", "step");
    uint64_t rows = plan->params.logits_rows;
    plan->logits = kept_plan_add_region(plan, KEPT_CATEGORY_LOGITS, rows * shape->n_vocab * 4,
                                        "rows asked for only", "logits");
    plan->choice = kept_plan_add_region(plan, KEPT_CATEGORY_SAMPLER, rows * 8,
                                        "greedy choice and its logit", "choice");
    plan->transfer = KEPT_NO_REGION;
    if (plan->profile.staging_bytes)
        plan->transfer =
            kept_plan_add_region(plan, KEPT_CATEGORY_STAGING, plan->profile.staging_bytes,
                                 "the backend's, for transfers", "transfer.host");
    plan->step_host = plan->logits_host = plan->choice_host = KEPT_NO_REGION;
    if (plan->profile.host_visible || !plan->profile.host_buffers_mapped)
        return;
    plan->step_host =
        kept_plan_add_region(plan, KEPT_CATEGORY_STAGING, step_bytes,
                             "host side of step, copied by the recording", "step.host");
    plan->logits_host = kept_plan_add_region(plan, KEPT_CATEGORY_STAGING, rows * shape->n_vocab * 4,
                                             "host side of logits", "logits.host");
    plan->choice_host = kept_plan_add_region(plan, KEPT_CATEGORY_STAGING, rows * 8,
                                             "host side of choice", "choice.host");
}

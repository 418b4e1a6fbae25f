/* core/plan_slots.c: the slot store of every layer, the rope tables and the step buffer. Stores
 * with budgets are plan_retain.c's.
 *
 * Full retention: capacity = the context, slot = position. A sliding-window layer is a ring of
 * window + one block of 64, because its rows are written and attended to in blocks of 64: nothing
 * needs `window + chunk` slots. Held tokens have room of their own in both.
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
    uint64_t hold = plan->retention.hold;
    uint64_t all = round_up(plan->params.context_tokens + hold, KEPT_SLOT_BLOCK);
    uint64_t windowed = round_up(layer->window + KEPT_SLOT_BLOCK + hold, KEPT_SLOT_BLOCK);
    *ring = layer->window != 0 && windowed < all;
    return (uint32_t)(*ring ? windowed : all);
}

uint64_t kept_slot_bytes(uint32_t type, uint32_t d, uint64_t slots)
{
    return slots / KEPT_TILE_ROWS * KEPT_TILE_WORDS(type, d) * 4;
}

static const char *why_of(const struct kept_plan *plan, const struct kept_layer_plan *layer)
{
    bool f16 = plan->k_type == KEPT_FMT_F16 && plan->v_type == KEPT_FMT_F16;
    if (layer->budgeted)
        return f16 ? "f16, slots of all KV heads within their budgets"
                   : "quantised, slots of all KV heads within their budgets";
    if (layer->ring)
        return f16 ? "f16, ring of the sliding window and one block"
                   : "quantised, ring of the sliding window and one block";
    return f16 ? "f16, one slot a position" : "quantised, one slot a position";
}

static void check_binding(struct kept_plan *plan, uint32_t i, uint64_t bytes)
{
    const struct kept_layer *layer = &plan->shape->layers[i];
    uint64_t most = plan->profile.max_binding_bytes < plan->profile.max_buffer_bytes
                        ? plan->profile.max_binding_bytes
                        : plan->profile.max_buffer_bytes;
    if (bytes <= most)
        return;
    uint64_t slot = kept_slot_bytes(plan->k_type, layer->d, KEPT_SLOT_BLOCK) * layer->n_kv;
    kept_plan_fail(
        plan, KEPT_E_UNSUPPORTED,
        "the keys of layer %u take %llu bytes at context %u; the device binds at most %llu: "
        "use --context %llu or less",
        i, (unsigned long long)bytes, plan->params.context_tokens, (unsigned long long)most,
        (unsigned long long)(most / slot * KEPT_SLOT_BLOCK));
}

static void plan_calibration(struct kept_plan *plan, uint32_t i)
{
    struct kept_layer_plan *out = &plan->layers[i];
    uint64_t bytes = 4ull * plan->shape->layers[i].n_kv * plan->params.calibrate_tokens;
    uint64_t row_bytes = 4ull * KEPT_ACT_STRIDE(plan->shape->n_embd);
    out->peaks = kept_plan_add_region(plan, KEPT_CATEGORY_SCORER, bytes,
                                      "the most attention each slot received", "peaks.%u", i);
    if (!plan->params.calibrate_after)
        return;
    out->received = kept_plan_add_region(plan, KEPT_CATEGORY_SCORER, bytes,
                                         "how much attention each slot received", "received.%u", i);
    out->hidden =
        kept_plan_add_region(plan, KEPT_CATEGORY_SCORER, plan->params.chunk_tokens * row_bytes,
                             "what the layer was given, read back", "hidden.%u", i);
}

static void plan_layer_slots(struct kept_plan *plan, uint32_t i)
{
    const struct kept_layer *layer = &plan->shape->layers[i];
    struct kept_layer_plan *out = &plan->layers[i];
    uint64_t slots;
    out->meta = out->scores = out->stats = out->queries = out->peaks = out->alpha_bias =
        out->received = out->hidden = KEPT_NO_REGION;
    if (out->budgeted) {
        kept_plan_store(plan, i);
        kept_plan_birth(plan, i);
        slots = out->cap = out->store.total;
    } else {
        out->cap = slots_of_layer(plan, layer, &out->ring);
        slots = (uint64_t)out->cap * layer->n_kv;
    }
    uint64_t k_bytes = kept_slot_bytes(plan->k_type, layer->d, slots);
    uint64_t v_bytes = kept_slot_bytes(plan->v_type, layer->d, slots);
    const char *why = why_of(plan, out);
    check_binding(plan, i, k_bytes > v_bytes ? k_bytes : v_bytes);
    out->k_slots = kept_plan_add_region(plan, KEPT_CATEGORY_KV, k_bytes, why, "k.%u", i);
    out->v_slots = kept_plan_add_region(plan, KEPT_CATEGORY_KV, v_bytes, why, "v.%u", i);
    if (out->budgeted)
        kept_plan_store_args(plan, i);
    if (plan->params.calibrate_tokens && layer->window == 0)
        plan_calibration(plan, i);
}

#define ROPE_LO_ROWS 256u

uint64_t kept_rope_table_bytes(const struct kept_rope *rope, uint32_t hi_rows)
{
    uint64_t pairs = rope->n_rot / 2;
    return ((uint64_t)ROPE_LO_ROWS + hi_rows + 1) * (pairs ? pairs : 1) * 2 * sizeof(float);
}

uint32_t kept_rope_mean_row(uint32_t hi_rows)
{
    return ROPE_LO_ROWS + hi_rows;
}

static double frequency_of(const struct kept_rope *rope, const float *factors, uint32_t i)
{
    double frequency = pow(rope->base, -2.0 * i / rope->n_rot) * rope->scale;
    return factors ? frequency / (double)factors[i] : frequency;
}

static void fill_row(const struct kept_rope *rope, const float *factors, double position,
                     float *row)
{
    for (uint32_t i = 0; i < rope->n_rot / 2; i++) {
        double angle = position * frequency_of(rope, factors, i);
        row[2 * i] = (float)cos(angle);
        row[2 * i + 1] = (float)sin(angle);
    }
}

/* The mean of the rotations by 0, 1, … KEPT_FUTURE_TOKENS - 1. */
static void fill_mean_row(const struct kept_rope *rope, const float *factors, float *row)
{
    for (uint32_t i = 0; i < rope->n_rot / 2; i++) {
        double frequency = frequency_of(rope, factors, i), c = 0, s = 0;
        for (uint32_t t = 0; t < KEPT_FUTURE_TOKENS; t++) {
            c += cos(t * frequency);
            s += sin(t * frequency);
        }
        row[2 * i] = (float)(c / KEPT_FUTURE_TOKENS);
        row[2 * i + 1] = (float)(s / KEPT_FUTURE_TOKENS);
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
    fill_mean_row(rope, factors, table + (size_t)kept_rope_mean_row(hi_rows) * width);
}

/* One region for the tables of all layers, each where a binding may begin. */
static void plan_heads(struct kept_plan *plan)
{
    uint64_t bytes = 0;
    plan->heads = KEPT_NO_REGION;
    if (!plan->retention.on)
        return;
    for (uint32_t i = 0; i < plan->shape->n_layers; i++)
        bytes += kept_plan_align(plan, plan->shape->layers[i].n_kv * KEPT_HEAD_WORDS * 4ull);
    plan->heads = kept_plan_add_region(plan, KEPT_CATEGORY_STATE, bytes,
                                       "extent, budget and count of every KV head", "heads");
}

void kept_plan_slots(struct kept_plan *plan)
{
    const struct kept_shape *shape = plan->shape;
    uint64_t positions =
        plan->retention.limit ? plan->retention.limit : plan->params.context_tokens;
    uint32_t below = kept_plan_fact_positions(plan);
    below = below > plan->retention.limit ? below : plan->retention.limit;
    plan->rope_hi_bias = (below + ROPE_LO_ROWS - 1) / ROPE_LO_ROWS;
    plan->rope_hi_rows =
        plan->rope_hi_bias +
        (uint32_t)((positions + plan->retention.hold + ROPE_LO_ROWS - 1) / ROPE_LO_ROWS);
    for (uint32_t i = 0; i < shape->n_ropes && plan->status == KEPT_OK; i++)
        plan->rope_tables[i] = kept_plan_add_region(
            plan, KEPT_CATEGORY_STATE, kept_rope_table_bytes(&shape->ropes[i], plan->rope_hi_rows),
            "cosines and sines; fine and coarse half of the position", "rope.%u", i);
    plan_heads(plan);
    for (uint32_t i = 0; i < shape->n_layers && plan->status == KEPT_OK; i++) {
        plan->layers[i].budgeted = plan->retention.on && shape->layers[i].window == 0;
        if (plan->layers[i].budgeted)
            kept_plan_extents(plan, i);
    }
    kept_plan_delays(plan);
    for (uint32_t i = 0; i < shape->n_layers && plan->status == KEPT_OK; i++)
        plan_layer_slots(plan, i);
    kept_plan_facts(plan);

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

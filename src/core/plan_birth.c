/* core/plan_birth.c: scores that tokens get when they are written: where their weights are.
 *
 * A gate is a row of n_embd weights and a bias for every KV head of a layer, applied to the normed
 * operand of the attention block. It comes from the sidecar as f32 and becomes a matrix like those
 * of the model; commit writes it. Models that decide for themselves (DMS) have tensors of their
 * own, loaded with the others (plan_weights.c).
 */
#include "core/plan_internal.h"

#include "base/status.h"
#include "core/sidecar_internal.h"

static void plan_gate(struct kept_plan *plan, uint32_t i)
{
    uint32_t n_kv = plan->shape->layers[i].n_kv, k = plan->shape->n_embd;
    struct kept_layer_plan *out = &plan->layers[i];
    struct kept_matrix *alpha = &out->alpha;
    *alpha = (struct kept_matrix){.format = KEPT_FORMAT_F32,
                                  .k = k,
                                  .n_rows = n_kv,
                                  .record = kept_record_of(KEPT_FORMAT_F32, k)};
    alpha->pieces = kept_arena_array(&plan->arena, 1, sizeof *alpha->pieces);
    if (!alpha->pieces) {
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for the gate of layer %u", i);
        return;
    }
    alpha->n_pieces = 1;
    alpha->pieces[0].n_rows = n_kv;
    alpha->pieces[0].region = kept_plan_add_region(plan, KEPT_CATEGORY_SCORER,
                                                   kept_relaid_bytes(KEPT_FORMAT_F32, n_kv, k),
                                                   "the sidecar's weights, re-laid", "gate.%u", i);
    out->alpha_bias = kept_plan_add_region(plan, KEPT_CATEGORY_SCORER, 4ull * n_kv,
                                           "the sidecar's biases", "gate.%u.bias", i);
}

void kept_plan_birth(struct kept_plan *plan, uint32_t i)
{
    const struct kept_retention *r = &plan->retention;
    plan->layers[i].birth = r->mode == KEPT_RETAIN_SCORED && r->scorer == KEPT_SCORER_BY_GATE;
    if (plan->status == KEPT_OK && plan->layers[i].birth && !r->dms)
        plan_gate(plan, i);
}

/* core/emit_facts.c: calls of episodic memory: keys and values into the slots that are read, and
 * addresses times a query. */
#include "core/build.h"

#include <string.h>

#include "base/status.h"

static struct kept_arg whole(const struct kept_emitter *e, uint32_t region)
{
    return (struct kept_arg){region, 0, e->plan->regions[region].bytes};
}

/* slot_write with as many query heads as KV heads: nobody reads the queries. Keys come without
 * RoPE, but with bias and norm already: they are stored that way. */
void kept_emit_inject(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of rows)
{
    if (e->plan->status != KEPT_OK)
        return;
    const struct kept_facts_plan *facts = &e->plan->facts;
    const struct kept_layer *shape = &e->plan->shape->layers[i_layer];
    const struct kept_rope *rope = &e->plan->shape->ropes[shape->rope];
    struct kept_fact_args slots = kept_plan_fact_args(e->plan, &facts->read, i_layer);
    struct kept_arg table = whole(e, e->plan->rope_tables[shape->rope]);
    struct kept_call call = {.id = KEPT_KERNEL_SLOT_WRITE};
    struct kept_slot_write_params params = {
        .rows_at = KEPT_STEP_ROWS,
        .row_cap = e->program->rows,
        .chunk = e->plan->params.chunk_tokens,
        .n_head = shape->n_kv,
        .n_kv = shape->n_kv,
        .d = shape->d,
        .n_rot = rope->n_rot,
        .rope_pairs = rope->pairs,
        .qkv_stride = facts->rows_stride,
        .cap = facts->read.extent * shape->n_kv,
        .hi_bias = e->plan->rope_hi_bias,
        .q_scale = 1,
        .eps = e->plan->shape->eps,
    };
    memcpy(call.keys, kept_kernel_row(call.id)->key_defaults, sizeof call.keys);
    call.keys[0] = e->plan->tuning.slot_wg;
    call.keys[KEPT_KEY_ORDER] = e->plan->profile.word_order;
    call.keys[KEPT_KEY_SLOT_KT] = e->plan->k_type;
    call.keys[KEPT_KEY_SLOT_VT] = e->plan->v_type;
    call.keys[KEPT_KEY_SLOT_STORE] = KEPT_SLOTS_BUDGETED;
    call.args[0] =
        (struct kept_arg){rows.region, i_layer * facts->rows_layer_bytes, facts->rows_layer_bytes};
    call.args[1] = call.args[2] = call.args[3] = call.args[4] = table;
    call.args[5] = slots.k;
    call.args[6] = slots.v;
    call.args[7] = slots.heads;
    call.args[8] = slots.meta;
    call.args[9] = slots.v;
    call.args[10] = whole(e, e->plan->step);
    kept_emit_call(e, &call, &params, 0);
}

void kept_emit_rank(struct kept_emitter *e)
{
    struct kept_facts_plan *facts = &e->plan->facts;
    struct kept_rows_of q = kept_emit_operand(e, "query", 1, facts->addresses.k);
    facts->query = q.region;
    kept_emit_product(e, &(struct kept_emit_product){.matrix = &facts->addresses,
                                                     .x = q,
                                                     .y = {facts->scores, facts->max},
                                                     .epilogue = KEPT_EPI_STORE});
}

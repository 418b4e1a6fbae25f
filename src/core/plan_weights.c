/* core/plan_weights.c: which file rows go into which region.
 *
 * A matrix is one region per piece that fits a binding. Tensors that one call multiplies with are
 * stacked when they share format and k: q, k and v; gate and up in pairs (a group of the kernel
 * computes both). Pieces are cut at tiles of 16 rows. A tied embedding and head are the same
 * pieces. Vectors (norms, biases) are regions of plain f32.
 */
#include "core/plan_internal.h"

#include "base/status.h"

static void add_span(struct kept_plan *plan, uint32_t region, struct kept_span span)
{
    if (plan->status != KEPT_OK)
        return;
    struct kept_span *grown =
        kept_plan_grow(plan, plan->spans, plan->n_spans, &plan->cap_spans, sizeof *grown);
    if (!grown)
        return;
    plan->spans = grown;
    if (plan->regions[region].n_spans == 0)
        plan->regions[region].span_first = plan->n_spans;
    plan->regions[region].n_spans++;
    plan->spans[plan->n_spans++] = span;
}

/* Rows [first, first + n) of the stacked tensors go to the region at offset. */
static void add_stacked(struct kept_plan *plan, uint32_t region, const struct kept_matrix *matrix,
                        const struct kept_gguf_tensor *const *tensors, uint32_t n_tensors,
                        uint64_t first, uint64_t n, uint64_t offset)
{
    uint64_t tile_bytes = (uint64_t)matrix->record.n_words * 4;
    uint64_t begin = 0;
    for (uint32_t i = 0; i < n_tensors; i++) {
        uint64_t end = begin + tensors[i]->dims[1];
        uint64_t from = first > begin ? first : begin;
        uint64_t to = first + n < end ? first + n : end;
        if (from < to)
            add_span(plan, region,
                     (struct kept_span){tensors[i], from - begin, to - from,
                                        offset + (from - first) / KEPT_TILE_ROWS * tile_bytes,
                                        true});
        begin = end;
    }
}

/* Most rows of a piece, a multiple of 16, whatever the binding and the allocation allow. */
static uint64_t rows_of_piece(struct kept_plan *plan, const struct kept_matrix *matrix,
                              const char *name)
{
    const struct kept_profile *device = &plan->profile;
    uint64_t most = device->max_binding_bytes < device->max_buffer_bytes ? device->max_binding_bytes
                                                                         : device->max_buffer_bytes;
    uint64_t tile_bytes = (uint64_t)matrix->record.n_words * 4 * (matrix->paired ? 2 : 1);
    uint64_t rows = most / tile_bytes * KEPT_TILE_ROWS;
    if (rows == 0)
        kept_plan_fail(plan, KEPT_E_UNSUPPORTED,
                       "16 rows of '%s' take %llu bytes; the device binds at most %llu", name,
                       (unsigned long long)tile_bytes, (unsigned long long)most);
    return rows;
}

static void make_matrix(struct kept_plan *plan, const struct kept_gguf_tensor *const *tensors,
                        uint32_t n_tensors, bool paired, struct kept_matrix *out)
{
    if (plan->status != KEPT_OK)
        return;
    out->format = tensors[0]->format;
    out->k = (uint32_t)tensors[0]->dims[0];
    out->record = kept_record_of(out->format, out->k);
    out->paired = paired;
    out->n_rows = 0;
    for (uint32_t i = 0; i < (paired ? 1 : n_tensors); i++)
        out->n_rows += (uint32_t)tensors[i]->dims[1];
    uint64_t rows = rows_of_piece(plan, out, tensors[0]->name);
    if (plan->status != KEPT_OK)
        return;
    out->n_pieces = (uint32_t)((out->n_rows + rows - 1) / rows);
    out->pieces = kept_arena_array(&plan->arena, out->n_pieces, sizeof *out->pieces);
    if (!out->pieces) {
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for the pieces of '%s'",
                       tensors[0]->name);
        return;
    }
    for (uint32_t i = 0; i < out->n_pieces && plan->status == KEPT_OK; i++) {
        struct kept_matrix_piece *piece = &out->pieces[i];
        uint64_t first = i * rows, left = out->n_rows - first;
        uint64_t n = left < rows ? left : rows;
        uint64_t bytes = kept_relaid_bytes(out->format, n, out->k);
        piece->row_first = (uint32_t)first;
        piece->n_rows = (uint32_t)n;
        piece->region = kept_plan_add_region(
            plan, KEPT_CATEGORY_WEIGHTS, paired ? 2 * bytes : bytes,
            out->n_pieces > 1 ? "file bytes, re-laid; cut to what a binding may cover"
                              : "file bytes, re-laid",
            "%s%s%s", tensors[0]->name,
            n_tensors > 1 ? (paired ? " + up" : " and its neighbours") : "",
            i > 0 ? " (continued)" : "");
        if (!paired) {
            add_stacked(plan, piece->region, out, tensors, n_tensors, first, n, 0);
            continue;
        }
        add_stacked(plan, piece->region, out, &tensors[0], 1, first, n, 0);
        add_stacked(plan, piece->region, out, &tensors[1], 1, first, n, bytes);
    }
}

/* Neighbours of one format whose rows fill whole tiles become one matrix. */
static void make_qkv(struct kept_plan *plan, const struct kept_layer *layer,
                     struct kept_layer_plan *out)
{
    const struct kept_gguf_tensor *tensors[3] = {layer->q, layer->k, layer->v};
    for (uint32_t i = 0; i < 3 && plan->status == KEPT_OK;) {
        uint32_t n = 1;
        while (i + n < 3 && tensors[i + n]->format == tensors[i]->format &&
               tensors[i + n - 1]->dims[1] % KEPT_TILE_ROWS == 0)
            n++;
        make_matrix(plan, tensors + i, n, false, &out->qkv[out->n_qkv++]);
        i += n;
    }
}

static void make_gate_up(struct kept_plan *plan, const struct kept_layer *layer,
                         struct kept_layer_plan *out)
{
    const struct kept_gguf_tensor *tensors[2] = {layer->gate, layer->up};
    bool paired = layer->gate->format == layer->up->format;
    out->n_gate_up = paired ? 1 : 2;
    make_matrix(plan, tensors, paired ? 2 : 1, paired, &out->gate_up[0]);
    if (!paired)
        make_matrix(plan, tensors + 1, 1, false, &out->gate_up[1]);
}

static uint32_t make_vector(struct kept_plan *plan, const struct kept_gguf_tensor *const *tensors,
                            uint32_t n_tensors)
{
    if (plan->status != KEPT_OK || !tensors[0])
        return KEPT_NO_REGION;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n_tensors; i++)
        bytes += tensors[i]->dims[0] * sizeof(float);
    uint32_t region = kept_plan_add_region(plan, KEPT_CATEGORY_WEIGHTS, bytes, "f32 as in the file",
                                           "%s", tensors[0]->name);
    uint64_t offset = 0;
    for (uint32_t i = 0; i < n_tensors && plan->status == KEPT_OK; i++) {
        add_span(plan, region, (struct kept_span){tensors[i], 0, 1, offset, false});
        offset += tensors[i]->dims[0] * sizeof(float);
    }
    return region;
}

static void plan_layer(struct kept_plan *plan, const struct kept_layer *layer,
                       struct kept_layer_plan *out)
{
    const struct kept_gguf_tensor *biases[3] = {layer->q_bias, layer->k_bias, layer->v_bias};
    out->attn_norm = make_vector(plan, &layer->attn_norm, 1);
    make_qkv(plan, layer, out);
    out->qkv_bias = make_vector(plan, biases, 3);
    out->q_norm = make_vector(plan, &layer->q_norm, 1);
    out->k_norm = make_vector(plan, &layer->k_norm, 1);
    make_matrix(plan, &layer->o, 1, false, &out->o);
    out->attn_post_norm = make_vector(plan, &layer->attn_post_norm, 1);
    out->ffn_norm = make_vector(plan, &layer->ffn_norm, 1);
    make_gate_up(plan, layer, out);
    make_matrix(plan, &layer->down, 1, false, &out->down);
    out->ffn_post_norm = make_vector(plan, &layer->ffn_post_norm, 1);
    out->alpha_norm = make_vector(plan, &layer->dms_norm, 1);
    if (layer->dms)
        make_matrix(plan, &layer->dms, 1, false, &out->alpha);
}

void kept_plan_weights(struct kept_plan *plan)
{
    const struct kept_shape *shape = plan->shape;
    if (plan->status != KEPT_OK)
        return;
    plan->layers = kept_arena_array(&plan->arena, shape->n_layers, sizeof *plan->layers);
    if (!plan->layers) {
        kept_plan_fail(plan, KEPT_E_HOST_MEMORY, "no memory for %u layers", shape->n_layers);
        return;
    }
    make_matrix(plan, &shape->embedding, 1, false, &plan->embedding);
    for (uint32_t i = 0; i < shape->n_layers; i++)
        plan_layer(plan, &shape->layers[i], &plan->layers[i]);
    plan->output_norm = make_vector(plan, &shape->output_norm, 1);
    if (shape->head == shape->embedding)
        plan->head = plan->embedding;
    else
        make_matrix(plan, &shape->head, 1, false, &plan->head);
}

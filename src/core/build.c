/* core/build.c: layer descriptors to programs: the one builder for every dense decoder family.
 *
 *   x    residual stream             [rows][n_embd]
 *   xn   normed operand              [rows][n_embd + sums]
 *   qkv  projections                 [rows][(n_head + 2 n_kv) d]
 *   part partial attention (decode)  [rows][n_head][splits][d + 4]
 *   ao   attention output, operand   [rows][n_head d + sums]
 *   y    block output before its post-norm (families with post-norms)
 *   h    gated feed-forward, operand [rows][n_ff + sums]
 *   gu   gate and up apart            [rows][2 n_ff], when their formats differ
 *   alpha scores of the rows' own tokens, where they are given at birth [rows][n_kv]
 *   hn   normed rows whose logits are wanted
 *
 * A layer is: QKV, rotate + write slots, attention (+ merge in decode), output + residual, norm,
 * gate and up with gating, down + residual, norm: 8 calls in prefill, 9 in decode. Post-norm
 * families store the block's output and let the norm kernel add it. Rows of ring layers are written
 * and attended in blocks of 64 (plan_slots.c).
 */
#include "core/build.h"

#include "base/status.h"

struct layer_rows {
    struct kept_rows_of x, xn, qkv, part, ao, y, h, gu, alpha;
    struct kept_emit_scratch scratch; /* of maintenance; regions only where a block fits */
};

static uint32_t qkv_width(const struct kept_layer *layer)
{
    return (layer->n_head + 2 * layer->n_kv) * layer->d;
}

/* What the layer's attention block is given: a region of its own where it is read back. */
static struct kept_rows_of input_of(const struct kept_layer_plan *layer,
                                    const struct layer_rows *rows)
{
    return layer->hidden == KEPT_NO_REGION ? rows->xn
                                           : (struct kept_rows_of){layer->hidden, rows->xn.stride};
}

static void emit_qkv(struct kept_emitter *e, const struct kept_layer_plan *layer,
                     const struct layer_rows *rows)
{
    uint32_t offset = 0;
    for (uint32_t i = 0; i < layer->n_qkv; i++) {
        kept_emit_product(e, &(struct kept_emit_product){.matrix = &layer->qkv[i],
                                                         .x = input_of(layer, rows),
                                                         .y = rows->qkv,
                                                         .y_offset = offset,
                                                         .epilogue = KEPT_EPI_STORE});
        offset += layer->qkv[i].n_rows;
    }
}

/* Layers whose slots are overwritten take their rows in blocks: the slots that a block frees are
 * needed by the next one. */
static uint32_t rows_of_block(const struct kept_emitter *e, const struct kept_layer_plan *layer)
{
    uint32_t n = e->program->rows;
    if (e->encodes)
        return n;
    uint32_t block = layer->budgeted ? e->plan->retention.block : layer->ring ? KEPT_SLOT_BLOCK : n;
    return block < n ? block : n;
}

static void emit_attention(struct kept_emitter *e, uint32_t i_layer, const struct layer_rows *rows)
{
    const struct kept_layer_plan *layer = &e->plan->layers[i_layer];
    uint32_t n = e->program->rows, block = rows_of_block(e, layer);
    bool peaks = layer->peaks != KEPT_NO_REGION && n > 1, merged = n == 1 || peaks || e->facts;
    struct kept_rows_of none = {KEPT_NO_REGION, 0};
    for (uint32_t first = 0; first < n; first += block) {
        struct kept_emit_span span = {first, n - first < block ? n - first : block};
        kept_emit_slot_write(e, i_layer, rows->qkv, rows->alpha, span);
        if (layer->birth && !e->encodes)
            kept_emit_birth(e, i_layer, rows->alpha, span);
        kept_emit_attention(e, i_layer, rows->qkv, rows->ao, merged ? rows->part : none, span);
        if (layer->budgeted && !e->encodes && span.cap == e->plan->retention.block)
            kept_emit_maintain(e, i_layer, &rows->scratch, first);
    }
    if (peaks)
        kept_emit_peaks(e, i_layer, rows->qkv, rows->part);
}

/* The products that scores given at birth are made of. */
static void emit_alpha(struct kept_emitter *e, const struct kept_layer_plan *layer,
                       const struct layer_rows *rows)
{
    if (!layer->birth || layer->alpha.n_pieces == 0 || e->encodes)
        return;                              /* nothing to do, or decisions are made of queries */
    if (layer->alpha_norm != KEPT_NO_REGION) /* xn was needed for q, k and v only */
        kept_emit_norm(e, &(struct kept_emit_norm){.x = rows->x,
                                                   .out = rows->xn,
                                                   .post = KEPT_NO_REGION,
                                                   .w = layer->alpha_norm,
                                                   .k = e->plan->shape->n_embd});
    kept_emit_product(e, &(struct kept_emit_product){.matrix = &layer->alpha,
                                                     .x = rows->xn,
                                                     .y = rows->alpha,
                                                     .epilogue = KEPT_EPI_STORE});
}

static void emit_gated(struct kept_emitter *e, const struct kept_layer *shape,
                       const struct kept_layer_plan *layer, const struct layer_rows *rows)
{
    bool gelu = shape->activation == KEPT_ACT_GELU;
    if (layer->n_gate_up == 1) {
        kept_emit_product(e, &(struct kept_emit_product){.matrix = &layer->gate_up[0],
                                                         .x = rows->xn,
                                                         .y = rows->h,
                                                         .epilogue = gelu ? KEPT_EPI_GLU_GELU
                                                                          : KEPT_EPI_GLU_SILU});
        return;
    }
    for (uint32_t i = 0; i < 2; i++)
        kept_emit_product(e, &(struct kept_emit_product){.matrix = &layer->gate_up[i],
                                                         .x = rows->xn,
                                                         .y = rows->gu,
                                                         .y_offset = i * shape->n_ff,
                                                         .epilogue = KEPT_EPI_STORE});
    kept_emit_glu(e, rows->gu, rows->h, shape->n_ff, shape->activation);
}

/* A block's output goes onto the residual stream, and the next norm makes the next operand (w: none
 * after the last layer). */
struct block_end {
    uint32_t post, w;
    struct kept_rows_of next;
};

static void emit_block_end(struct kept_emitter *e, const struct kept_emit_product *out,
                           const struct layer_rows *rows, struct block_end end)
{
    struct kept_emit_product product = *out;
    bool has_post = end.post != KEPT_NO_REGION;
    product.y = has_post ? rows->y : rows->x;
    product.epilogue = has_post ? KEPT_EPI_STORE : KEPT_EPI_ADD;
    kept_emit_product(e, &product);
    if (has_post || end.w != KEPT_NO_REGION)
        kept_emit_norm(e, &(struct kept_emit_norm){.x = rows->x,
                                                   .y = rows->y,
                                                   .out = end.next,
                                                   .post = end.post,
                                                   .w = end.w,
                                                   .k = e->plan->shape->n_embd});
}

static void emit_layer(struct kept_emitter *e, uint32_t i, const struct layer_rows *rows)
{
    const struct kept_plan *plan = e->plan;
    const struct kept_layer_plan *layer = &plan->layers[i];
    bool last = i + 1 == plan->shape->n_layers;
    struct block_end middle = {layer->attn_post_norm, layer->ffn_norm, rows->xn};
    struct block_end end = {layer->ffn_post_norm, KEPT_NO_REGION, rows->xn};
    if (!last)
        end =
            (struct block_end){layer->ffn_post_norm, layer[1].attn_norm, input_of(&layer[1], rows)};
    emit_qkv(e, layer, rows);
    emit_alpha(e, layer, rows);
    emit_attention(e, i, rows);
    emit_block_end(e, &(struct kept_emit_product){.matrix = &layer->o, .x = rows->ao}, rows,
                   middle);
    emit_gated(e, &plan->shape->layers[i], layer, rows);
    emit_block_end(e, &(struct kept_emit_product){.matrix = &layer->down, .x = rows->h}, rows, end);
}

static void emit_head(struct kept_emitter *e, const struct layer_rows *rows)
{
    const struct kept_plan *plan = e->plan;
    uint32_t k = plan->shape->n_embd;
    struct kept_rows_of hn = kept_emit_operand(e, "hn", e->program->head_rows, k);
    kept_emit_norm(e, &(struct kept_emit_norm){.x = rows->x,
                                               .out = hn,
                                               .post = KEPT_NO_REGION,
                                               .w = plan->output_norm,
                                               .k = k,
                                               .wanted_rows = true});
    kept_emit_product(e, &(struct kept_emit_product){.matrix = &plan->head,
                                                     .x = hn,
                                                     .y = {plan->logits, plan->shape->n_vocab},
                                                     .epilogue = KEPT_EPI_STORE,
                                                     .wanted_rows = true});
    kept_emit_choice(e);
}

static struct layer_rows make_rows(struct kept_emitter *e, uint32_t n)
{
    const struct kept_plan *plan = e->plan;
    const struct kept_layer *layer = &plan->shape->layers[0];
    uint32_t k = plan->shape->n_embd, heads = layer->n_head * layer->d;
    struct layer_rows rows = {.part = {KEPT_NO_REGION, 0},
                              .y = {KEPT_NO_REGION, 0},
                              .gu = {KEPT_NO_REGION, 0},
                              .alpha = {KEPT_NO_REGION, 0}};
    bool post = false, apart = false, alpha = false;
    for (uint32_t i = 0; i < plan->shape->n_layers; i++) {
        post |= plan->layers[i].attn_post_norm != KEPT_NO_REGION;
        apart |= plan->layers[i].n_gate_up == 2;
        alpha |= plan->layers[i].birth;
    }
    rows.x = kept_emit_rows(e, "x", n, k);
    rows.xn = kept_emit_operand(e, "xn", n, k);
    rows.qkv = kept_emit_rows(e, "qkv", n, qkv_width(layer));
    if (n == 1)
        rows.part = kept_emit_rows(e, "part", layer->n_head * (32 + e->facts), layer->d + 4);
    else if (e->facts)
        rows.part = kept_emit_rows(e, "part", n * layer->n_head * 2, layer->d + 4);
    else if (plan->params.calibrate_tokens)
        rows.part = kept_emit_rows(e, "part", n * layer->n_head, layer->d + 4);
    rows.ao = kept_emit_operand(e, "ao", n, heads);
    if (post)
        rows.y = kept_emit_rows(e, "y", n, k);
    rows.h = kept_emit_operand(e, "h", n, layer->n_ff);
    if (apart)
        rows.gu = kept_emit_rows(e, "gu", n, 2 * layer->n_ff);
    if (e->encodes)
        return rows;
    if (alpha && plan->shape->dms.form == KEPT_DMS_BORROWED && plan->retention.dms)
        rows.alpha = kept_emit_rows(e, "alpha", kept_emit_query_rows(e), heads);
    else if (alpha)
        rows.alpha = kept_emit_rows(e, "alpha", n, (layer->n_kv + 3) / 4 * 4);
    if (plan->retention.on && n >= plan->retention.block)
        rows.scratch = kept_emit_make_scratch(e);
    return rows;
}

static struct kept_emitter begin_program(struct kept_plan *plan, const char *name, uint32_t n_rows)
{
    struct kept_program *program = &plan->programs[plan->n_programs];
    struct kept_emitter e = {.plan = plan,
                             .program = program,
                             .i_program = (int32_t)plan->n_programs,
                             .begin_piece = true,
                             .piece_ops = kept_tune_piece_ops(&plan->tuning, &plan->profile)};
    plan->n_programs++;
    program->name = name;
    program->rows = n_rows;
    return e;
}

/* What decode does when its tokens have completed a block: a piece or more for every delay. */
static void build_maintenance(struct kept_plan *plan)
{
    plan->maintenance = plan->n_programs;
    struct kept_emitter e = begin_program(plan, "maintain", plan->retention.block);
    struct kept_emit_scratch scratch = kept_emit_make_scratch(&e);
    for (uint32_t i = 0; i < plan->n_maintained && plan->status == KEPT_OK; i++) {
        uint32_t layer = plan->maintained[i], delay = plan->layers[layer].store.delay;
        e.begin_piece |= delay != e.delay;
        e.delay = delay;
        kept_emit_maintain(&e, layer, &scratch, 0);
    }
}

/* Tokens to the residual stream and the first layer's operand. */
static struct layer_rows emit_inputs(struct kept_emitter *e)
{
    const struct kept_plan *plan = e->plan;
    struct layer_rows rows = make_rows(e, e->program->rows);
    kept_emit_embed(e, rows.x);
    kept_emit_norm(e, &(struct kept_emit_norm){.x = rows.x,
                                               .out = input_of(&plan->layers[0], &rows),
                                               .post = KEPT_NO_REGION,
                                               .w = plan->layers[0].attn_norm,
                                               .k = plan->shape->n_embd});
    return rows;
}

static void build_program(struct kept_plan *plan, const char *name, uint32_t n_rows, bool facts)
{
    struct kept_emitter e = begin_program(plan, name, n_rows);
    struct kept_program *program = e.program;
    program->head_rows = n_rows < plan->params.logits_rows ? n_rows : plan->params.logits_rows;
    e.facts = facts;
    struct layer_rows rows = emit_inputs(&e);
    for (uint32_t i = 0; i < plan->shape->n_layers && plan->status == KEPT_OK; i++)
        emit_layer(&e, i, &rows);
    e.begin_piece = e.head = true;
    emit_head(&e, &rows);
}

#define FEW_ROWS \
    32u /* short prompts and the ends of long ones: fewer idle groups than a whole chunk */

/* A fact's tokens, or a query's: the pieces up to the layer of addresses, then the others. */
static void build_encoding(struct kept_plan *plan)
{
    struct kept_facts_plan *facts = &plan->facts;
    facts->encoding = plan->n_programs;
    struct kept_emitter e = begin_program(plan, "encode", KEPT_FACT_MAX_TOKENS);
    e.encodes = true;
    struct layer_rows rows = emit_inputs(&e);
    facts->x = rows.x.region;
    facts->x_stride = rows.x.stride;
    for (uint32_t i = 0; i < plan->shape->n_layers && plan->status == KEPT_OK; i++) {
        if (i == facts->address_layer) {
            facts->n_address_pieces = e.program->n_pieces;
            e.begin_piece = true;
        }
        emit_layer(&e, i, &rows);
    }
}

static void build_injecting(struct kept_plan *plan)
{
    const struct kept_layer *layer = &plan->shape->layers[0];
    struct kept_facts_plan *facts = &plan->facts;
    facts->injecting = plan->n_programs;
    struct kept_emitter e = begin_program(plan, "inject", KEPT_FACT_ROWS);
    facts->rows_stride = 3 * layer->n_kv * layer->d;
    facts->rows_layer_bytes = kept_plan_align(plan, 4ull * KEPT_FACT_ROWS * facts->rows_stride);
    struct kept_rows_of rows =
        kept_emit_rows(&e, "rows", plan->shape->n_layers, (uint32_t)(facts->rows_layer_bytes / 4));
    facts->rows = rows.region;
    for (uint32_t i = 0; i < plan->shape->n_layers && plan->status == KEPT_OK; i++)
        kept_emit_inject(&e, i, rows);
}

static void build_ranking(struct kept_plan *plan)
{
    plan->facts.ranking = plan->n_programs;
    struct kept_emitter e = begin_program(plan, "rank", 1);
    kept_emit_rank(&e);
}

static void build_evaluation(struct kept_plan *plan, bool facts)
{
    build_program(plan, facts ? "decode-facts" : "decode", 1, facts);
    if (plan->params.chunk_tokens > 2 * FEW_ROWS)
        build_program(plan, facts ? "short-facts" : "short", FEW_ROWS, facts);
    if (plan->params.chunk_tokens > 1)
        build_program(plan, facts ? "prefill-facts" : "prefill", plan->params.chunk_tokens, facts);
}

void kept_build_programs(struct kept_plan *plan)
{
    if (plan->status != KEPT_OK)
        return;
    build_evaluation(plan, false);
    plan->n_plain = plan->n_programs;
    plan->info.n_calls_decode = plan->programs[0].n_calls;
    plan->info.n_calls_prefill = plan->programs[plan->n_programs - 1].n_calls;
    if (plan->facts.on) {
        plan->facts.reading = plan->n_programs;
        build_evaluation(plan, true);
        build_encoding(plan);
        build_injecting(plan);
        build_ranking(plan);
    }
    plan->maintenance = KEPT_MAX_PROGRAMS;
    if (plan->retention.on)
        build_maintenance(plan);
}

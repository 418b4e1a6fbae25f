/* core/emit.c: how a call is written down: kernel, keys from the tuning, arguments as regions,
 * parameters, grid; regions' lifetimes; and the cutting of a program into pieces of about 50 ms, so
 * that a cancel takes effect and no watchdog bites. */
#include "core/build.h"

#include <string.h>

#include "base/status.h"

static const uint32_t max_few_columns = 8;

static struct kept_rows_of add_rows(struct kept_emitter *e, const char *name, uint64_t rows,
                                    uint32_t stride)
{
    uint32_t region = kept_plan_add_region(e->plan, KEPT_CATEGORY_ACTIVATIONS, rows * stride * 4,
                                           "alive between its first and last call", "%s.%s",
                                           e->program->name, name);
    if (e->plan->status == KEPT_OK) {
        e->plan->regions[region].program = e->i_program;
        e->plan->regions[region].first_use = INT32_MAX;
        e->plan->regions[region].last_use = -1;
    }
    return (struct kept_rows_of){region, stride};
}

struct kept_rows_of kept_emit_rows(struct kept_emitter *e, const char *name, uint32_t rows,
                                   uint32_t stride)
{
    return add_rows(e, name, rows, stride);
}

struct kept_rows_of kept_emit_operand(struct kept_emitter *e, const char *name, uint32_t rows,
                                      uint32_t k)
{
    return add_rows(e, name, rows, KEPT_ACT_STRIDE(k));
}

static void add_piece(struct kept_emitter *e)
{
    struct kept_program *program = e->program;
    struct kept_piece *grown = kept_plan_grow(e->plan, program->pieces, program->n_pieces,
                                              &program->cap_pieces, sizeof *grown);
    if (!grown)
        return;
    program->pieces = grown;
    grown[program->n_pieces++] =
        (struct kept_piece){.first_call = program->n_calls, .head = e->head, .delay = e->delay};
    e->ops = 0;
    e->begin_piece = false;
}

static void touch(struct kept_emitter *e, const struct kept_call *call, uint32_t n_binds)
{
    int32_t now = (int32_t)e->program->n_calls;
    for (uint32_t i = 0; i < n_binds; i++) {
        struct kept_region *region = &e->plan->regions[call->args[i].region];
        if (region->category != KEPT_CATEGORY_ACTIVATIONS)
            continue;
        region->first_use = now < region->first_use ? now : region->first_use;
        region->last_use = now;
    }
}

/* A call under construction. */
static struct kept_call begin_call(enum kept_kernel_id id)
{
    struct kept_call call = {.id = id};
    const struct kept_kernel_row *row = kept_kernel_row(id);
    memcpy(call.keys, row->key_defaults, sizeof call.keys);
    return call;
}

static struct kept_arg whole(const struct kept_emitter *e, uint32_t region)
{
    if (e->plan->status != KEPT_OK)
        return (struct kept_arg){0};
    return (struct kept_arg){region, 0, e->plan->regions[region].bytes};
}

/* Notes a call whose loops the driver would leave too early. */
static void check_turns(struct kept_plan *plan, const struct kept_call *call, uint32_t slots)
{
    uint32_t turns = plan->profile.loop_turns;
    if (turns == 0 || kept_tune_turns(call, slots) <= turns)
        return;
    uint32_t fit = kept_tune_slots_within(call, turns);
    if (plan->loops.stem && plan->loops.fit <= fit)
        return;
    plan->loops.stem = kept_kernel_row(call->id)->stem;
    plan->loops.slots = slots;
    plan->loops.fit = fit;
}

void kept_emit_call(struct kept_emitter *e, struct kept_call *call, const void *params,
                    uint32_t live_slots)
{
    if (e->plan->status != KEPT_OK)
        return;
    const struct kept_kernel_row *row = kept_kernel_row(call->id);
    struct kept_program *program = e->program;
    memcpy(call->params, params, row->param_bytes);
    kept_kernel_grid(call->id, call->keys, params, call->grid);
    check_turns(e->plan, call, live_slots);
    if (e->begin_piece || e->ops >= e->piece_ops)
        add_piece(e);
    struct kept_call *grown = kept_plan_grow(e->plan, program->calls, program->n_calls,
                                             &program->cap_calls, sizeof *grown);
    if (!grown || e->plan->status != KEPT_OK)
        return;
    program->calls = grown;
    touch(e, call, row->n_binds);
    grown[program->n_calls++] = *call;
    program->pieces[program->n_pieces - 1].n_calls++;
    e->ops += kept_kernel_cost(call->id, call->format, params, program->rows, live_slots).ops;
}

void kept_emit_embed(struct kept_emitter *e, struct kept_rows_of x)
{
    const struct kept_matrix *matrix = &e->plan->embedding;
    for (uint32_t i = 0; i < matrix->n_pieces && e->plan->status == KEPT_OK; i++) {
        const struct kept_matrix_piece *piece = &matrix->pieces[i];
        struct kept_call call = begin_call(KEPT_KERNEL_EMBED);
        struct kept_embed_params params = {
            .rows_at = KEPT_STEP_ROWS,
            .row_cap = e->program->rows,
            .k = matrix->k,
            .x_stride = x.stride,
            .token_first = piece->row_first,
            .n_tokens = piece->n_rows,
            .record_words = matrix->record.n_words,
            .h_words = matrix->record.h.offset_words,
            .s_words = matrix->record.s.offset_words,
            .d_words = matrix->record.d.offset_words,
            .scale = e->plan->shape->embed_scale,
        };
        call.format = matrix->format;
        call.keys[0] = e->plan->tuning.embed_wg;
        call.keys[1] = e->plan->profile.word_order;
        call.args[0] = whole(e, piece->region);
        call.args[1] = whole(e, x.region);
        call.args[2] = whole(e, e->plan->step);
        kept_emit_call(e, &call, &params, 0);
    }
}

void kept_emit_norm(struct kept_emitter *e, const struct kept_emit_norm *norm)
{
    bool has_post = norm->post != KEPT_NO_REGION, has_w = norm->w != KEPT_NO_REGION;
    struct kept_call call = begin_call(KEPT_KERNEL_NORM);
    struct kept_norm_params params = {
        .rows_at = norm->wanted_rows ? KEPT_STEP_OUT_ROWS : KEPT_STEP_ROWS,
        .row_cap = norm->wanted_rows ? e->program->head_rows : e->program->rows,
        .first_at = norm->wanted_rows ? KEPT_STEP_OUT_FIRST : KEPT_STEP_ZERO,
        .k = norm->k,
        .x_stride = norm->x.stride,
        .y_stride = norm->y.stride,
        .out_stride = norm->out.stride,
        .eps = e->plan->shape->eps,
    };
    call.keys[0] = e->plan->tuning.norm_wg;
    call.keys[1] = has_post ? (has_w ? 1 : 2) : 0;
    /* Bindings that a mode does not touch name x, which it does. */
    call.args[0] = whole(e, norm->x.region);
    call.args[1] = whole(e, has_post ? norm->y.region : norm->x.region);
    call.args[2] = whole(e, has_post ? norm->post : norm->x.region);
    call.args[3] = whole(e, has_w ? norm->w : norm->x.region);
    call.args[4] = whole(e, has_w ? norm->out.region : norm->x.region);
    call.args[5] = whole(e, e->plan->step);
    kept_emit_call(e, &call, &params, 0);
}

static uint32_t tiles(uint64_t rows)
{
    return (uint32_t)((rows + KEPT_TILE_ROWS - 1) / KEPT_TILE_ROWS);
}

/* Tiles of a piece that one call takes: all, or as many as stay within a submitted piece, in steps
 * at which a binding may begin. */
static uint32_t tiles_of_call(const struct kept_emitter *e, const struct kept_matrix *matrix,
                              uint32_t n_tiles, uint32_t columns)
{
    uint64_t ops_of_tile = 2ull * KEPT_TILE_ROWS * matrix->k * columns * (matrix->paired ? 2 : 1);
    uint64_t most = e->piece_ops / ops_of_tile;
    uint64_t align = kept_plan_align(e->plan, 1), step = 1;
    uint64_t tile_bytes = (uint64_t)matrix->record.n_words * 4;
    while (step * tile_bytes % align != 0)
        step *= 2;
    if (step < 8)
        step = 8; /* whole row blocks of the matrix kernels */
    most = most / step * step;
    if (most == 0)
        most = step;
    return most < n_tiles ? (uint32_t)most : n_tiles;
}

static void set_product_keys(const struct kept_emitter *e, struct kept_call *call, uint32_t columns,
                             uint32_t epilogue)
{
    const struct kept_tuning *tuning = &e->plan->tuning;
    call->keys[1] = e->plan->profile.word_order;
    call->keys[4] = epilogue;
    if (call->id == KEPT_KERNEL_MATVEC) {
        uint32_t nc = columns <= max_few_columns ? columns : tuning->matvec_nc;
        call->keys[0] = tuning->matvec_wg;
        call->keys[2] = nc;
        call->keys[3] = tuning->matvec_tr;
    } else {
        call->keys[0] = tuning->matmat_wg;
        call->keys[2] =
            kept_tune_matmat_rows(tuning, &e->plan->profile, epilogue >= KEPT_EPI_GLU_SILU);
        call->keys[3] = tuning->matmat_bn;
    }
}

static void emit_product_tiles(struct kept_emitter *e, const struct kept_emit_product *product,
                               const struct kept_matrix_piece *piece, uint32_t first, uint32_t n)
{
    const struct kept_matrix *matrix = product->matrix;
    uint32_t columns = product->wanted_rows ? e->program->head_rows : e->program->rows;
    bool few = columns <= max_few_columns || e->plan->tuning.many_by_matvec;
    uint64_t tile_bytes = (uint64_t)matrix->record.n_words * 4;
    uint32_t up_tiles = matrix->paired ? tiles(piece->n_rows) : 0;
    uint32_t left = piece->n_rows - first * KEPT_TILE_ROWS;
    struct kept_call call = begin_call(few ? KEPT_KERNEL_MATVEC : KEPT_KERNEL_MATMAT);
    struct kept_matmul_params params = {
        .rows_at = product->wanted_rows ? KEPT_STEP_OUT_ROWS : KEPT_STEP_ROWS,
        .row_cap = columns,
        .x_first_at = KEPT_STEP_ZERO,
        .k = matrix->k,
        .n_rows = left < n * KEPT_TILE_ROWS ? left : n * KEPT_TILE_ROWS,
        .x_stride = product->x.stride,
        .y_stride = product->y.stride,
        .y_offset = product->y_offset + piece->row_first + first * KEPT_TILE_ROWS,
        .sums_offset = matrix->paired ? matrix->n_rows : 0,
        .up_tiles = up_tiles,
        .record_words = matrix->record.n_words,
        .h_words = matrix->record.h.offset_words,
        .s_words = matrix->record.s.offset_words,
        .d_words = matrix->record.d.offset_words,
    };
    call.format = matrix->format;
    set_product_keys(e, &call, columns, product->epilogue);
    call.args[0] =
        (struct kept_arg){piece->region, first * tile_bytes, (up_tiles + n) * tile_bytes};
    call.args[1] = whole(e, product->x.region);
    call.args[2] = whole(e, product->y.region);
    call.args[3] = whole(e, e->plan->step);
    kept_emit_call(e, &call, &params, 0);
}

void kept_emit_product(struct kept_emitter *e, const struct kept_emit_product *product)
{
    const struct kept_matrix *matrix = product->matrix;
    uint32_t columns = product->wanted_rows ? e->program->head_rows : e->program->rows;
    for (uint32_t i = 0; i < matrix->n_pieces && e->plan->status == KEPT_OK; i++) {
        uint32_t all = tiles(matrix->pieces[i].n_rows);
        uint32_t most = tiles_of_call(e, matrix, all, columns);
        for (uint32_t first = 0; first < all && e->plan->status == KEPT_OK; first += most)
            emit_product_tiles(e, product, &matrix->pieces[i], first,
                               all - first < most ? all - first : most);
    }
}

/* Slots that a call writes or attends to. */
struct slots {
    struct kept_arg k, v, meta, heads; /* plain slots have neither meta nor heads */
    uint32_t cap;                      /* plain: of a KV head; else of all together */
    uint32_t addressing;               /* KEPT_SLOTS_… */
    uint32_t window;
    uint32_t live; /* that a KV head has at most */
};

static uint32_t attended_slots(const struct kept_plan *plan, uint32_t i_layer)
{
    const struct kept_layer *shape = &plan->shape->layers[i_layer];
    const struct kept_layer_plan *layer = &plan->layers[i_layer];
    uint32_t most = layer->budgeted ? layer->store.most : layer->cap;
    return shape->window && shape->window < most ? shape->window : most;
}

/* The layer's own. */
static struct slots own_slots(const struct kept_emitter *e, uint32_t i_layer)
{
    const struct kept_layer_plan *layer = &e->plan->layers[i_layer];
    struct slots slots = {.k = whole(e, layer->k_slots),
                          .v = whole(e, layer->v_slots),
                          .meta = whole(e, e->plan->step), /* not read by the plain form */
                          .heads = whole(e, e->plan->step),
                          .cap = layer->cap,
                          .addressing = KEPT_SLOTS_PLAIN,
                          .window = e->plan->shape->layers[i_layer].window,
                          .live = attended_slots(e->plan, i_layer)};
    if (layer->budgeted) {
        slots.meta = layer->store.meta;
        slots.heads = layer->store.heads_table;
        slots.addressing = e->plan->retention.dms ? KEPT_SLOTS_RULE : KEPT_SLOTS_BUDGETED;
    }
    return slots;
}

/* Those of facts: no window, whatever the layer's. */
static struct slots fact_slots(const struct kept_emitter *e, const struct kept_fact_store *store,
                               uint32_t i_layer)
{
    struct kept_fact_args args = kept_plan_fact_args(e->plan, store, i_layer);
    return (struct slots){.k = args.k,
                          .v = args.v,
                          .meta = args.meta,
                          .heads = args.heads,
                          .cap = store->extent * e->plan->shape->layers[i_layer].n_kv,
                          .addressing = KEPT_SLOTS_BUDGETED,
                          .live = store->extent};
}

static struct slots written_slots(const struct kept_emitter *e, uint32_t i_layer)
{
    return e->encodes ? fact_slots(e, &e->plan->facts.encode, i_layer) : own_slots(e, i_layer);
}

uint32_t kept_emit_query_rows(const struct kept_emitter *e)
{
    uint32_t n = e->program->rows, block = e->plan->retention.block;
    return n < block ? n : block;
}

void kept_emit_slot_write(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of qkv,
                          struct kept_rows_of alpha, struct kept_emit_span rows)
{
    if (e->plan->status != KEPT_OK)
        return;
    const struct kept_layer *shape = &e->plan->shape->layers[i_layer];
    const struct kept_layer_plan *layer = &e->plan->layers[i_layer];
    const struct kept_rope *rope = &e->plan->shape->ropes[shape->rope];
    struct slots slots = written_slots(e, i_layer);
    struct kept_arg table = whole(e, e->plan->rope_tables[shape->rope]);
    struct kept_call call = begin_call(KEPT_KERNEL_SLOT_WRITE);
    bool borrows = e->plan->shape->dms.form == KEPT_DMS_BORROWED;
    bool decides = borrows && layer->birth && !e->encodes;
    bool keeps = layer->queries != KEPT_NO_REGION && !e->encodes;
    struct kept_slot_write_params params = {
        .rows_at = KEPT_STEP_ROWS,
        .row_first = rows.first,
        .row_cap = rows.cap,
        .chunk = e->plan->params.chunk_tokens,
        .n_head = shape->n_head,
        .n_kv = shape->n_kv,
        .d = shape->d,
        .n_rot = rope->n_rot,
        .rope_pairs = rope->pairs,
        .qkv_stride = qkv.stride,
        .cap = slots.cap,
        .hi_bias = e->plan->rope_hi_bias,
        .queries_rows = keeps     ? e->plan->retention.block + layer->store.delay
                        : decides ? kept_emit_query_rows(e)
                                  : 0,
        .queries_at = keeps ? KEPT_STEP_ACCEPTED : KEPT_STEP_ROWS,
        .borrowed = borrows,
        .q_scale = shape->q_scale,
        .eps = e->plan->shape->eps,
    };
    call.keys[0] = e->plan->tuning.slot_wg;
    call.keys[KEPT_KEY_ORDER] = e->plan->profile.word_order;
    call.keys[KEPT_KEY_SLOT_QKNORM] = layer->q_norm != KEPT_NO_REGION;
    call.keys[KEPT_KEY_SLOT_BIAS] = layer->qkv_bias != KEPT_NO_REGION;
    call.keys[KEPT_KEY_SLOT_KT] = e->plan->k_type;
    call.keys[KEPT_KEY_SLOT_VT] = e->plan->v_type;
    call.keys[KEPT_KEY_SLOT_STORE] = slots.addressing;
    call.args[0] = whole(e, qkv.region);
    call.args[1] = table; /* it also stands for what a variant does not read */
    call.args[2] = layer->qkv_bias != KEPT_NO_REGION ? whole(e, layer->qkv_bias) : table;
    call.args[3] = layer->q_norm != KEPT_NO_REGION ? whole(e, layer->q_norm) : table;
    call.args[4] = layer->q_norm != KEPT_NO_REGION ? whole(e, layer->k_norm) : table;
    call.args[5] = slots.k;
    call.args[6] = slots.v;
    call.args[7] = slots.addressing != KEPT_SLOTS_PLAIN ? slots.heads : table;
    call.args[8] = slots.addressing != KEPT_SLOTS_PLAIN ? slots.meta : slots.v;
    call.args[9] = keeps ? layer->store.queries : decides ? whole(e, alpha.region) : slots.v;
    call.args[10] = whole(e, e->plan->step);
    kept_emit_call(e, &call, &params, 0);
}

static void emit_merge(struct kept_emitter *e, const struct kept_layer *shape,
                       struct kept_rows_of part, struct kept_rows_of out,
                       struct kept_emit_span rows, uint32_t parts)
{
    struct kept_call call = begin_call(KEPT_KERNEL_ATTN_MERGE);
    struct kept_merge_params params = {
        .rows_at = KEPT_STEP_ROWS,
        .row_first = rows.first,
        .row_cap = rows.cap,
        .n_head = shape->n_head,
        .d = shape->d,
        .parts = parts,
        .out_stride = out.stride,
    };
    call.keys[0] = e->plan->tuning.merge_wg;
    call.keys[KEPT_KEY_MERGE_VROT] = e->plan->v_type != KEPT_FMT_F16;
    call.args[0] = whole(e, part.region);
    call.args[1] = whole(e, out.region);
    call.args[2] = whole(e, e->plan->step);
    kept_emit_call(e, &call, &params, 0);
}

/* Rows that one prefill call takes: all, or as many as stay within a submitted piece, in whole
 * blocks. */
static uint32_t rows_of_call(const struct kept_emitter *e, const struct kept_layer *shape,
                             uint32_t slots, uint32_t rows, uint32_t block)
{
    uint64_t ops_of_row = 4ull * shape->n_head * shape->d * slots;
    uint64_t most = e->piece_ops / ops_of_row / block * block;
    if (most == 0)
        most = block;
    return most < rows ? (uint32_t)most : rows;
}

/* Slots that a query attends at most. */
/* A budgeted layer takes as many splits as full retention would: until something is evicted the two
 * give the same bits. Calibration wants one part, which holds the sum of all. */
static uint32_t decode_splits(const struct kept_emitter *e, uint32_t i_layer)
{
    const struct kept_plan *plan = e->plan;
    uint32_t slots = attended_slots(plan, i_layer);
    if (plan->layers[i_layer].peaks != KEPT_NO_REGION)
        return 1;
    if (plan->layers[i_layer].budgeted)
        slots =
            (plan->params.context_tokens + KEPT_SLOT_BLOCK - 1) / KEPT_SLOT_BLOCK * KEPT_SLOT_BLOCK;
    return kept_tune_splits(&plan->tuning, &plan->profile, plan->shape->layers[i_layer].n_kv,
                            slots);
}

/* One segment of slots that rows attend to. */
struct segment {
    struct slots slots;
    bool decode;       /* by which kernel */
    bool whole_result; /* finished rows go to out; else parts, to be merged */
    uint32_t splits, parts, part_first;
};

static void emit_segment(struct kept_emitter *e, uint32_t i_layer, const struct segment *segment,
                         struct kept_rows_of qkv, struct kept_rows_of to,
                         struct kept_emit_span rows)
{
    const struct kept_layer *shape = &e->plan->shape->layers[i_layer];
    const struct slots *slots = &segment->slots;
    bool decode = segment->decode;
    struct kept_call call = begin_call(decode ? KEPT_KERNEL_ATTN_DECODE : KEPT_KERNEL_ATTN_PREFILL);
    struct kept_attn_params params = {
        .rows_at = KEPT_STEP_ROWS,
        .chunk = e->plan->params.chunk_tokens,
        .n_head = shape->n_head,
        .n_kv = shape->n_kv,
        .d = shape->d,
        .q_stride = qkv.stride,
        .cap = slots->cap,
        .window = slots->window,
        .n_splits = segment->splits,
        .parts = segment->parts,
        .part_first = segment->part_first,
        .out_stride = segment->whole_result ? to.stride : 0,
        .softcap = shape->softcap,
    };
    struct kept_attn_keys keys = kept_tune_attention(&e->plan->tuning, &e->plan->profile, shape->d,
                                                     shape->n_head / shape->n_kv, decode);
    call.keys[0] = keys.wg;
    call.keys[KEPT_KEY_ORDER] = e->plan->profile.word_order;
    call.keys[KEPT_KEY_ATTN_D] = shape->d;
    call.keys[KEPT_KEY_ATTN_G] = keys.g;
    call.keys[KEPT_KEY_ATTN_GENERAL] = slots->addressing;
    call.keys[KEPT_KEY_ATTN_KT] = e->plan->k_type;
    call.keys[KEPT_KEY_ATTN_VT] = e->plan->v_type;
    if (!decode) {
        call.keys[KEPT_KEY_ATTN_BQ] = keys.bq;
        call.keys[KEPT_KEY_ATTN_OUT] = !segment->whole_result;
    }
    call.args[0] = whole(e, qkv.region);
    call.args[1] = slots->k;
    call.args[2] = slots->v;
    call.args[3] = slots->meta;
    call.args[4] = slots->heads;
    call.args[5] = whole(e, to.region);
    call.args[6] = whole(e, e->plan->step);
    uint32_t most = decode ? rows.cap : rows_of_call(e, shape, slots->live, rows.cap, keys.bq);
    for (uint32_t first = 0; first < rows.cap; first += most) {
        params.row_first = rows.first + first;
        params.row_cap = rows.cap - first < most ? rows.cap - first : most;
        kept_emit_call(e, &call, &params, slots->live);
    }
}

void kept_emit_attention(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of qkv,
                         struct kept_rows_of out, struct kept_rows_of part,
                         struct kept_emit_span rows)
{
    if (e->plan->status != KEPT_OK)
        return;
    bool merged = part.region != KEPT_NO_REGION;
    bool decode = merged && (e->program->rows == 1 || !e->facts);
    uint32_t splits = decode ? decode_splits(e, i_layer) : 1, parts = splits + e->facts;
    struct segment own = {.slots = written_slots(e, i_layer),
                          .decode = decode,
                          .whole_result = !merged,
                          .splits = splits,
                          .parts = parts};
    emit_segment(e, i_layer, &own, qkv, merged ? part : out, rows);
    if (e->facts) {
        struct segment facts = {.slots = fact_slots(e, &e->plan->facts.read, i_layer),
                                .decode = e->program->rows == 1,
                                .splits = 1,
                                .parts = parts,
                                .part_first = splits};
        emit_segment(e, i_layer, &facts, qkv, part, rows);
    }
    if (merged)
        emit_merge(e, &e->plan->shape->layers[i_layer], part, out, rows, parts);
}

void kept_emit_glu(struct kept_emitter *e, struct kept_rows_of x, struct kept_rows_of out,
                   uint32_t n, enum kept_activation activation)
{
    struct kept_call call = begin_call(KEPT_KERNEL_GLU);
    struct kept_glu_params params = {
        .rows_at = KEPT_STEP_ROWS,
        .row_cap = e->program->rows,
        .n = n,
        .x_stride = x.stride,
        .out_stride = out.stride,
    };
    call.keys[0] = e->plan->tuning.glu_wg;
    call.keys[1] = activation == KEPT_ACT_GELU;
    call.args[0] = whole(e, x.region);
    call.args[1] = whole(e, out.region);
    call.args[2] = whole(e, e->plan->step);
    kept_emit_call(e, &call, &params, 0);
}

void kept_emit_choice(struct kept_emitter *e)
{
    struct kept_call call = begin_call(KEPT_KERNEL_ARGMAX);
    struct kept_argmax_params params = {
        .rows_at = KEPT_STEP_OUT_ROWS,
        .row_cap = e->program->head_rows,
        .n = e->plan->shape->n_vocab,
        .stride = e->plan->shape->n_vocab,
        .softcap = e->plan->shape->logit_softcap,
    };
    call.keys[0] = e->plan->tuning.argmax_wg;
    call.args[0] = whole(e, e->plan->logits);
    call.args[1] = whole(e, e->plan->choice);
    call.args[2] = whole(e, e->plan->step);
    kept_emit_call(e, &call, &params, 0);
}

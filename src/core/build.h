/* core/build.h: emitting calls: shared by build.c (what a decoder layer is) and emit.c (how a call
 * is written down). */
#ifndef KEPT_CORE_BUILD_H
#define KEPT_CORE_BUILD_H

#include "core/plan_internal.h"

/* A matrix operand or result: a region with rows of `stride` f32 elements. */
struct kept_rows_of {
    uint32_t region;
    uint32_t stride;
};

struct kept_emitter {
    struct kept_plan *plan;
    struct kept_program *program;
    int32_t i_program;
    uint64_t piece_ops; /* operations of a submitted piece */
    uint64_t ops;       /* of the piece that is open */
    bool begin_piece;   /* the next call begins a piece */
    bool facts;         /* rows read facts beside the layer's own slots */
    bool encodes;       /* rows are a fact's: their slots are those of encoding */
    bool head;          /* pieces begun from now on belong to the head */
    uint32_t delay;     /* of maintenance: pieces begun from now on may come so many tokens late */
};

/* Activation regions: bytes are rows * stride * 4; the lifetime grows with every call that names
 * them. */
struct kept_rows_of kept_emit_rows(struct kept_emitter *e, const char *name, uint32_t rows,
                                   uint32_t stride);
/* The same with room for the sums of an activation operand of k elements. */
struct kept_rows_of kept_emit_operand(struct kept_emitter *e, const char *name, uint32_t rows,
                                      uint32_t k);

/* A finished call: parameters, grid, lifetimes of its regions, and its place in a piece. */
void kept_emit_call(struct kept_emitter *e, struct kept_call *call, const void *params,
                    uint32_t live_slots);

void kept_emit_embed(struct kept_emitter *e, struct kept_rows_of x);

/* MODE 0 when post is KEPT_NO_REGION; MODE 2 when w is KEPT_NO_REGION; else MODE 1 (params.h,
 * norm). */
struct kept_emit_norm {
    struct kept_rows_of x, y, out;
    uint32_t post, w;
    uint32_t k;
    bool wanted_rows; /* only the rows whose logits are wanted */
};
void kept_emit_norm(struct kept_emitter *e, const struct kept_emit_norm *norm);

/* y[.., y_offset + r] (EPI) = matrix * x, cut into pieces of tiles where one call would take too
 * long. */
struct kept_emit_product {
    const struct kept_matrix *matrix;
    struct kept_rows_of x, y;
    uint32_t y_offset;
    uint32_t epilogue;
    bool wanted_rows;
};
void kept_emit_product(struct kept_emitter *e, const struct kept_emit_product *product);

/* Rows [first, first + cap) of the evaluation. */
struct kept_emit_span {
    uint32_t first, cap;
};
/* alpha: where decisions go that are made of queries, else with region KEPT_NO_REGION. */
void kept_emit_slot_write(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of qkv,
                          struct kept_rows_of alpha, struct kept_emit_span rows);
/* Rows of such an alpha: a block, or fewer where the program has fewer. */
uint32_t kept_emit_query_rows(const struct kept_emitter *e);
/* Attention of one layer from qkv to out; part is scratch for what is merged: splits (decode), the
 * layer's own slots and facts; or has region KEPT_NO_REGION. */
void kept_emit_attention(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of qkv,
                         struct kept_rows_of out, struct kept_rows_of part,
                         struct kept_emit_span rows);
/* Calibration: the most attention of each slot (params.h, attn_peak), and the sum of it where a
 * gate is fitted, after the attention of all rows; part holds its sums. */
void kept_emit_peaks(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of qkv,
                     struct kept_rows_of part);
/* Scores of rows whose slots were written, from alpha (params.h, slot_birth). */
void kept_emit_birth(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of alpha,
                     struct kept_emit_span rows);
/* The maintenance of a budgeted layer's block of rows. */
struct kept_emit_scratch {
    struct kept_rows_of z, moves, near, raw;
};
struct kept_emit_scratch kept_emit_make_scratch(struct kept_emitter *e);
void kept_emit_maintain(struct kept_emitter *e, uint32_t i_layer,
                        const struct kept_emit_scratch *scratch, uint32_t row_first);
/* emit_facts.c: rows of one layer into the slots that are read; addresses times a query. */
void kept_emit_inject(struct kept_emitter *e, uint32_t i_layer, struct kept_rows_of rows);
void kept_emit_rank(struct kept_emitter *e);
void kept_emit_glu(struct kept_emitter *e, struct kept_rows_of x, struct kept_rows_of out,
                   uint32_t n, enum kept_activation activation);
void kept_emit_choice(struct kept_emitter *e);

#endif

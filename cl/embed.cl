/* embed: token rows of the embedding, dequantised (kept_embed_params).
 *
 * A group has one row of x; a lane takes runs of 16 elements. Both shapes are the same here: only
 * one row of a tile is wanted, so there is nothing to vectorise over.
 */
#define KEPT_V 1
#include "common/kept.clh"
#include "common/weights.clh"

__kernel KEPT_GROUP void embed(__global const uint *weights, __global float *x,
                               __global const uint *step, const struct kept_embed_params p)
{
    if (get_group_id(0) >= LIVE_ROWS(step, p))
        return;
    uint row = p.row_first + get_group_id(0);
    uint token = step[KEPT_STEP_TOKENS + row];
    if (token < p.token_first || token - p.token_first >= p.n_tokens)
        return;
    uint at = token - p.token_first;
    struct weights w = weights_of(weights + (ulong)(at / 16) * p.record_words, p.h_words, p.s_words,
                                  p.d_words, at % 16);
    __global float *to = x + (ulong)row * p.x_stride;
    for (uint run = LID; run < p.k / 16; run += WG) {
        F s, o, v[4];
        run_scale(&w, run, &s, &o);
        __global float *out = to + run_at(run);
        for (uint i = 0; i < 4; i++) {
            run_values(&w, run, i, s, o, v);
            for (uint j = 0; j < 4; j++)
                out[4 * i + j] = v[j] * p.scale;
        }
    }
}

/* score_expected: expected attention of slots (kept_score_params).
 *
 * Group: 64 slots (x) of one KV head (y), a tile of 16 at a time: y, the keys turned back, serves
 * all query heads of the group. The products y^T S y take the lower triangle of S, which is
 * symmetric: BAND rows at once, the bands dealt out to the sets of lanes.
 */
#include "common/kept.clh"
#include "common/retain.clh"

#define BAND (WG == 1 ? 8 : 4)

/* Turns the keys back by the mean rotation of positions `position` … + 511. All lanes; ends with
 * SYNC. */
MEETING void turn_back(TILE y, __global const float *table, int position,
                       const struct kept_score_params *p)
{
    __global const float *mean = table + (ulong)p->mean_row * p->n_rot;
    for (uint i = SET; i < p->n_rot / 2; i += SETS) {
        float2 angle = rope_angle(table, p->n_rot, p->hi_bias, position, i);
        angle = complex_product(angle, vload2(i, mean));
        tile_turn_back(y, rope_pair(p->rope_pairs, p->n_rot, i), (F)(angle.x), (F)(angle.y));
    }
    SYNC();
}

/* y^T S y over the bands of this set. */
static F quadratic(__global const float *s, TILE y)
{
    F sum = (F)(0.0f);
    for (uint i = SET * BAND; i < D; i += SETS * BAND) {
        __global const float *rows = s + i * D;
        F left[BAND];
#pragma unroll
        for (uint r = 0; r < BAND; r++)
            left[r] = (F)(0.0f);
        for (uint j = 0; j < i; j++) {
            F v = OWN(y, j);
#pragma unroll
            for (uint r = 0; r < BAND; r++)
                left[r] = MAC(v, (F)(rows[r * D + j]), left[r]);
        }
#pragma unroll
        for (uint r = 0; r < BAND; r++) {
            F row = 2.0f * left[r];
#pragma unroll
            for (uint j = 0; j < BAND; j++)
                row = MAC(OWN(y, i + j), (F)(rows[r * D + i + j]), row);
            sum = MAC(OWN(y, i + r), row, sum);
        }
    }
    return sum;
}

/* The sum of queries times y, over the elements of this set. */
static F along_mean(__global const float *sums, TILE y)
{
    F sum = (F)(0.0f);
    for (uint i = SET; i < D; i += SETS)
        sum = MAC(OWN(y, i), (F)(sums[i]), sum);
    return sum;
}

/* |v|^2 of the tile's slots, over the runs of this set; of the n first slots only. */
static F value_squares(__global const uint *tile, uint n)
{
#if WG == 1
    float squares[16];
    for (uint row = 0; row < 16; row++) {
        float16 sum = (float16)(0.0f);
        for (uint run = 0; row < n && run < D / 16; run++) {
            float16 v = value_run(tile, D, row, run);
            sum = MAC(v, v, sum);
        }
        squares[row] = sum16(sum);
    }
    return vload16(0, squares);
#else
    float sum = 0.0f;
    for (uint run = SET; OWN_SLOT < n && run < D / 16; run += SETS) {
        float16 v = value_run(tile, D, OWN_SLOT, run);
        sum += sum16(v * v);
    }
    return sum;
#endif
}

__kernel KEPT_GROUP void score_expected(__global const uint *k_slots, __global const uint *v_slots,
                                        __global const float *stats, __global const float *table,
                                        __global const uint *heads, __global float *z,
                                        __global const uint *step, const struct kept_score_params p)
{
    TILE_OF(y, D);
#if WG > 1
    __local float scratch[WG];
#endif
    if (!BLOCK_IS_LIVE(step, p))
        return;
    uint kv = get_group_id(1), group = p.n_head / p.n_kv, end = BLOCK_END(step, p);
    struct extent e = extent_of(heads, kv, p.total);
    uint count = min(count_before(&e, end), p.z_stride);
    int position = (int)end - e.shift;
    bool turns = p.rope_pairs != KEPT_ROPE_NONE && p.n_rot > 0;
    int row_hi = 256 + (int)p.hi_bias + (position >> 8);
    bool in_table = row_hi >= 256 && row_hi <= (int)p.mean_row; /* the mean comes after them */
    if (count <= head_word(heads, kv, KEPT_HEAD_BUDGET) || (turns && !in_table))
        return;
    uint from = scored_from(heads, kv, end, count, add_sat(p.window, p.row_cap), p.refresh);
    uint first = max(from / 16, (uint)get_group_id(0) * 4);
    uint last = min((count + 15) / 16, (uint)get_group_id(0) * 4 + 4);
    float per_n = 1.0f / (float)(end > p.sinks ? end - p.sinks : 1);
    z += (ulong)kv * (group + 1) * p.z_stride;
    stats += (ulong)kv * group * KEPT_STATS_STRIDE(D);
    for (uint t = first; t < last; t++) {
        uint n = min(count - t * 16, 16u), skip = from > t * 16 ? from - t * 16 : 0;
        ulong tile = e.first / 16 + t;
        SYNC(); /* the last tile is done with */
        tile_load(k_slots + tile * KEPT_TILE_WORDS(KT, D), (I)(-1), y);
        if (ROTATED(KT))
            tile_hadamard(y);
        if (turns)
            turn_back(y, table, position, &p);
        for (uint g = 0; g < group; g++) {
            __global const float *s = stats + (ulong)g * KEPT_STATS_STRIDE(D);
            F along = SET_SUM(along_mean(s + D * D, y), scratch) * (p.q_scale * per_n);
            F square = SET_SUM(quadratic(s, y), scratch) * (p.q_scale * p.q_scale * per_n);
            if (SET == 0)
                tile_store(z + (ulong)g * p.z_stride + t * 16, skip, n,
                           along + 0.5f * (square - along * along));
        }
        F squares = value_squares(v_slots + tile * KEPT_TILE_WORDS(VT, D), n);
        squares = SET_SUM(squares, scratch);
        if (SET == 0)
            tile_store(z + (ulong)group * p.z_stride + t * 16, skip, n, sqrt(squares));
    }
}

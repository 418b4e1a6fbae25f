#version 450
// matvec: weights times 1 to 8 activation rows (params.h: kept_matmul_params).
//
//   group x: TR tiles of 16 rows          lane = row of a tile, slice = part of K
//   group y: NC columns                   thread = slice * 16 + lane   (WG / 16 slices)
//
//   K: step 0 1 2 3 4 5 …     a step is 32 to 128 elements, loaded raw (common/weights.glsl);
//   row 0  [s0 s1 s2 s3 s0 …  slice s takes steps s, s + slices, …: a group reads one run of memory
//   row 1  [s0 s1 s2 s3 s0 …
//
// x is the same for all lanes of a slice; a block of it is loaded once for all tiles and rows of
// the lane. With one column the quants are multiplied as they are: scale and bias are applied to a
// block's sum, the bias through the sums of x; with more columns a quad is dequantised once for
// all.
// WG < 16 (8: CPU-type devices): a lane has 16 / WG rows of a tile, one slice, no reduction.
//
// Keys: WG lanes, 8 or a multiple of 16; ORDER of the records; NC columns (1…8); TR tiles a group;
// EPI epilogue.
// Shared memory: WG * TR * NC floats (GLU: twice), none used with one slice but for the sums of
// GLU.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint NC = 1;
layout(constant_id = 3) const uint TR = 1;
layout(constant_id = 4) const uint EPI = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_matmul_params p; };

#include "weights.glsl"
#include "matmul.glsl"

const uint LANES = WG < 16u ? WG : 16u;      // threads of a slice
const uint SLICES = WG < 16u ? 1u : WG / 16u;
const uint RL = 16u / LANES;                 // rows of a tile a lane has
const uint PARTS = KEPT_PARTS;
const uint NT = TR * PARTS * RL;             // (tile, part, row) a thread works on
const uint SHARED_STEPS = WG < 16u || ORDER == KEPT_VECTOR ? KEPT_STEPS_SHARED : 1u;

shared float reduce[SLICES > 1u ? WG * NT * NC : (PARTS == 2u ? 16u * TR * NC : 1u)];

float acc[NT * NC];
uint record[NT], row_of[NT];

// Thread's (tile, part, row) number t.
void place(uint t, uint lane)
{
    uint part = (t / RL) % PARTS;
    uint tile = min(gl_WorkGroupID.x * TR + t / (RL * PARTS), n_tiles() - 1u);
    record[t] = (tile + part * p.up_tiles) * p.record_words;
    row_of[t] = lane + (t % RL) * LANES;
}

// Sum over 4 quads in a fixed order.
float sum4(vec4 v)
{
    return (v.x + v.y) + (v.z + v.w);
}

// Column c of this group in x, in vec4; columns that are not live repeat the last live one.
uint column4(uint c, uint live)
{
    uint at = p.row_first + min(gl_WorkGroupID.y * NC + c, live - 1u);
    return x_first4() + at * (p.x_stride >> 2);
}

// One column: blocks b of a loaded step, products of the raw quants.
void block_one(uint q[NT][KEPT_STEP_Q], uint hb[NT][KEPT_STEP_H], uint s[NT][KEPT_SCALE_WORDS],
               uint i, uint part, uint x_at, uint sums_at)
{
    uint b = i * KEPT_STEP + part;
    vec4 x[8];
    [[unroll]] for (uint j = 0u; j < 8u; j++) {
        x[j] = x4[x_at + 8u * b + j];
    }
#if !KEPT_IS_FLOAT
    vec2 sums = x2[sums_at + b];
#endif
    [[unroll]] for (uint t = 0u; t < NT; t++) {
        vec4 lo = vec4(0.0), hi = vec4(0.0);
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            lo = fma(kept_step_quad(q[t], hb[t], i, part, j), x[j], lo);
            hi = fma(kept_step_quad(q[t], hb[t], i, part, j + 4u), x[j + 4u], hi);
        }
#if KEPT_IS_FLOAT
        acc[t] += sum4(lo + hi);
#elif KEPT_FMT == KEPT_FMT_Q6_K
        float a = kept_scale_of(s[t], b, 0u).x * fma(-KEPT_BIAS, sums.x, sum4(lo));
        acc[t] += a + kept_scale_of(s[t], b, 1u).x * fma(-KEPT_BIAS, sums.y, sum4(hi));
#elif KEPT_HAS_MIN
        vec2 so = kept_scale_of(s[t], b, 0u);
        acc[t] = fma(so.x, sum4(lo + hi), fma(so.y, sums.x + sums.y, acc[t]));
#else
        float a = sum4(lo + hi);
        a = KEPT_BIAS > 0.0 ? fma(-KEPT_BIAS, sums.x + sums.y, a) : a;
        acc[t] = fma(kept_scale_of(s[t], b, 0u).x, a, acc[t]);
#endif
    }
}

void run_one(uint slice, uint x_at)
{
    uint n_blocks = p.k >> 5, n_steps = (n_blocks + KEPT_STEP - 1u) / KEPT_STEP;
    uint sums_at = 2u * x_at + (p.k >> 1); // in pairs
    uint s[NT][KEPT_SCALE_WORDS], q[NT][KEPT_STEP_Q], hb[NT][KEPT_STEP_H];
    for (uint first = slice * SHARED_STEPS; first < n_steps; first += SLICES * SHARED_STEPS) {
        [[unroll]] for (uint t = 0u; t < NT; t++) {
            kept_scales_load(record[t], row_of[t], first * KEPT_STEP, s[t]);
        }
        for (uint i = first; i < first + SHARED_STEPS; i++) {
            [[unroll]] for (uint t = 0u; t < NT; t++) {
                kept_step_load(record[t], row_of[t], i, n_blocks, q[t], hb[t]);
            }
            [[unroll]] for (uint part = 0u; part < KEPT_STEP; part++) {
                if (KEPT_IS_K || i * KEPT_STEP + part < n_blocks) {
                    block_one(q, hb, s, i, part, x_at, sums_at);
                }
            }
        }
    }
}

// Several columns: half blocks, dequantised once.
void run_many(uint slice, uint live)
{
    uint x_at[NC];
    [[unroll]] for (uint c = 0u; c < NC; c++) {
        x_at[c] = column4(c, live);
    }
    uint n_halves = p.k >> 4;
    for (uint i = slice; i < n_halves; i += SLICES) {
        vec4 w[NT][4];
        [[unroll]] for (uint t = 0u; t < NT; t++) {
            kept_half16(record[t], row_of[t], i >> 1, i & 1u, w[t]);
        }
        [[unroll]] for (uint c = 0u; c < NC; c++) {
            vec4 x[4];
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                x[j] = x4[x_at[c] + 4u * i + j];
            }
            [[unroll]] for (uint t = 0u; t < NT; t++) {
                vec4 a = w[t][0] * x[0];
                a = fma(w[t][1], x[1], a);
                a = fma(w[t][2], x[2], a);
                acc[t * NC + c] += sum4(fma(w[t][3], x[3], a));
            }
        }
    }
}

// Output (tile of the group, column, row of the tile) from the values of its parts; what is outside
// is 0.
float finish(uint tile, uint c, uint row, float gate, float up, uint live)
{
    uint column = gl_WorkGroupID.y * NC + c, r = (gl_WorkGroupID.x * TR + tile) * 16u + row;
    if (column >= live || r >= p.n_rows) {
        return 0.0;
    }
    float a = PARTS == 2u ? gated(gate, up) : gate;
    store(p.row_first + column, r, a);
    return a;
}

// Where the 16 outputs of (tile, column) n are kept for their sum: over partial sums that are read
// already.
uint sums_at(uint n)
{
    return SLICES > 1u ? (n / NC * PARTS * NC + n % NC) * WG : n * 16u;
}

// GLU: sums of 16 outputs.
void finish_sums(uint live)
{
    barrier();
    for (uint n = gl_LocalInvocationID.x; n < TR * NC; n += WG) {
        uint tile = gl_WorkGroupID.x * TR + n / NC, column = gl_WorkGroupID.y * NC + n % NC;
        if (tile < n_tiles() && column < live) {
            float sum = 0.0;
            for (uint i = 0u; i < 16u; i++) {
                sum += reduce[sums_at(n) + i];
            }
            store_sum(p.row_first + column, tile, sum);
        }
    }
}

void finish_slices(uint thread, uint live)
{
    [[unroll]] for (uint a = 0u; a < NT * NC; a++) {
        reduce[a * WG + thread] = acc[a];
    }
    barrier();
    for (uint u = thread; u < TR * NC * 16u; u += WG) {
        uint row = u & 15u, c = (u >> 4) % NC, tile = (u >> 4) / NC;
        float v[2] = float[2](0.0, 0.0);
        [[unroll]] for (uint part = 0u; part < PARTS; part++) {
            for (uint i = row; i < WG; i += 16u) {
                v[part] += reduce[((tile * PARTS + part) * NC + c) * WG + i];
            }
        }
        float a = finish(tile, c, row, v[0], v[1], live);
        if (PARTS == 2u) {
            reduce[sums_at(tile * NC + c) + row] = a; // read above by this thread only
        }
    }
}

void finish_lanes(uint lane, uint live)
{
    [[unroll]] for (uint tile = 0u; tile < TR; tile++) {
        [[unroll]] for (uint rl = 0u; rl < RL; rl++) {
            [[unroll]] for (uint c = 0u; c < NC; c++) {
                uint t = tile * PARTS * RL + rl, row = lane + rl * LANES;
                float up = PARTS == 2u ? acc[(t + RL * (PARTS - 1u)) * NC + c] : 0.0;
                float a = finish(tile, c, row, acc[t * NC + c], up, live);
                if (PARTS == 2u) {
                    reduce[sums_at(tile * NC + c) + row] = a;
                }
            }
        }
    }
}

void main()
{
    uint thread = gl_LocalInvocationID.x, live = KEPT_LIVE_ROWS(p);
    uint lane = thread % LANES, slice = thread / LANES;
    if (gl_WorkGroupID.x * TR >= n_tiles() || gl_WorkGroupID.y * NC >= live ||
        (column4(NC - 1u, live) + (p.k >> 2)) * 2u + (p.k >> 5) > uint(x2.length())) {
        return;
    }
    kept_planes_load();
    [[unroll]] for (uint t = 0u; t < NT; t++) {
        place(t, lane);
    }
    [[unroll]] for (uint a = 0u; a < NT * NC; a++) {
        acc[a] = 0.0;
    }
    if (NC == 1u) {
        run_one(slice, column4(0u, live));
    } else {
        run_many(slice, live);
    }
    if (SLICES > 1u) {
        finish_slices(thread, live);
    } else {
        finish_lanes(lane, live);
    }
    if (PARTS == 2u) {
        finish_sums(live);
    }
}

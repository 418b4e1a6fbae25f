#version 450
// matmat: weights times many activation rows (params.h: kept_matmul_params), tiles in shared
// memory.
//
//            BN columns of x       A  BM rows (GLU: BM of gate and BM of up) x 32 of K
//          +----------------+         B  32 of K x BN columns
//   BM     | thread: 4 rows |         thread (row quad, column lane): 4 rows x CT columns
//   rows   |  x CT columns  |         a_tile[k][row quad], b_tile[column][k quad ^ column % 8]:
//          +----------------+         no bank conflicts; weights are dequantised once a group
//
// Keys: WG lanes, a multiple of BM / 4; ORDER of the records; BM rows (a multiple of 16) and BN
// columns a group (a multiple of 4 * WG / BM; passes of at most 32 * WG / BM columns bound the
// registers); EPI epilogue. Shared memory: (BM * (GLU: 2) + columns of a pass) * 128 bytes.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint BM = 64;
layout(constant_id = 3) const uint BN = 64;
layout(constant_id = 4) const uint EPI = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_matmul_params p; };

#include "weights.glsl"
#include "matmul.glsl"

const uint PARTS = KEPT_PARTS;
const uint QUADS = BM / 4u;          // threads along the rows
const uint LANES = WG / QUADS;       // threads along the columns
const uint BP = BN < 8u * LANES ? BN : 8u * LANES; // columns of a pass
const uint CT = BP / LANES;          // columns of a thread in a pass: at most 8, for registers
const uint A_QUADS = QUADS * PARTS;

shared vec4 a_tile[32u * A_QUADS];
shared vec4 b_tile[8u * BP];

vec4 acc[PARTS * CT];

void load_a(uint b)
{
    for (uint u = gl_LocalInvocationID.x; u < 8u * A_QUADS; u += WG) {
        uint row = u % (4u * A_QUADS), h = u / (4u * A_QUADS), part = row / BM;
        uint tile = gl_WorkGroupID.x * (BM / 16u) + (row % BM) / 16u;
        vec4 v[4] = vec4[4](vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
        if (tile < n_tiles()) {
            kept_half16((tile + part * p.up_tiles) * p.record_words, row & 15u, b, h, v);
        }
        [[unroll]] for (uint j = 0u; j < 16u; j++) {
            a_tile[(16u * h + j) * A_QUADS + (row >> 2)][row & 3u] = v[j >> 2][j & 3u];
        }
    }
}

void load_b(uint b, uint first, uint live)
{
    for (uint u = gl_LocalInvocationID.x; u < 8u * BP; u += WG) {
        uint c = u >> 3, j = u & 7u, column = first + c;
        vec4 v = vec4(0.0);
        if (column < live) {
            v = x4[x_first4() + (p.row_first + column) * (p.x_stride >> 2) + 8u * b + j];
        }
        b_tile[8u * c + (j ^ (c & 7u))] = v;
    }
}

void multiply(uint quad, uint lane)
{
    for (uint j = 0u; j < 8u; j++) {
        vec4 a[PARTS * 4u];
        [[unroll]] for (uint i = 0u; i < PARTS * 4u; i++) {
            a[i] = a_tile[(4u * j + (i & 3u)) * A_QUADS + (i >> 2) * QUADS + quad];
        }
        [[unroll]] for (uint n = 0u; n < CT; n++) {
            uint c = n * LANES + lane;
            vec4 x = b_tile[8u * c + (j ^ (c & 7u))];
            [[unroll]] for (uint part = 0u; part < PARTS; part++) {
                vec4 s = acc[part * CT + n];
                s = fma(a[4u * part], vec4(x.x), s);
                s = fma(a[4u * part + 1u], vec4(x.y), s);
                s = fma(a[4u * part + 2u], vec4(x.z), s);
                acc[part * CT + n] = fma(a[4u * part + 3u], vec4(x.w), s);
            }
        }
    }
}

// Outputs of a column, rows r … r + 3; what is outside counts as 0. Returns their sum.
float finish(uint column, uint r, vec4 gate, vec4 up, uint live)
{
    float sum = 0.0;
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        if (column < live && r + i < p.n_rows) {
            float a = PARTS == 2u ? gated(gate[i], up[i]) : gate[i];
            store(p.row_first + column, r + i, a);
            sum += a;
        }
    }
    return sum;
}

// GLU: sums of 16 from the sums of 4 in a_tile[column * QUADS + quad] (four to a word of a_tile).
void finish_sums(uint first, uint live)
{
    barrier();
    for (uint n = gl_LocalInvocationID.x; n < BP * (BM / 16u); n += WG) {
        uint c = n / (BM / 16u), t = n % (BM / 16u);
        uint column = first + c, tile = gl_WorkGroupID.x * (BM / 16u) + t;
        if (column < live && tile < n_tiles()) {
            vec4 s = a_tile[c * (QUADS / 4u) + t];
            store_sum(p.row_first + column, tile, (s.x + s.y) + (s.z + s.w));
        }
    }
}

// Columns first … first + BP - 1.
void run_pass(uint first, uint quad, uint lane, uint live)
{
    [[unroll]] for (uint i = 0u; i < PARTS * CT; i++) {
        acc[i] = vec4(0.0);
    }
    uint n_blocks = p.k >> 5;
    for (uint b = 0u; b < n_blocks; b++) {
        load_a(b);
        load_b(b, first, live);
        barrier();
        multiply(quad, lane);
        barrier();
    }
    [[unroll]] for (uint n = 0u; n < CT; n++) {
        uint c = n * LANES + lane;
        vec4 gate = acc[n], up = acc[(PARTS - 1u) * CT + n];
        float sum = finish(first + c, gl_WorkGroupID.x * BM + 4u * quad, gate, up, live);
        if (PARTS == 2u) {
            a_tile[c * (QUADS / 4u) + (quad >> 2)][quad & 3u] = sum;
        }
    }
    if (PARTS == 2u) {
        finish_sums(first, live);
        barrier();
    }
}

void main()
{
    uint thread = gl_LocalInvocationID.x, live = KEPT_LIVE_ROWS(p);
    uint first = gl_WorkGroupID.y * BN;
    if (gl_WorkGroupID.x * BM >= p.n_rows || first >= live ||
        x_first4() + (p.row_first + live - 1u) * (p.x_stride >> 2) + (p.k >> 2) >
            uint(x4.length())) {
        return;
    }
    kept_planes_load();
    uint end = min(first + BN, live);
    for (; first < end; first += BP) {
        run_pass(first, thread % QUADS, thread / QUADS, live);
    }
}

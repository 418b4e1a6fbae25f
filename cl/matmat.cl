/* matmat: a matrix times many activation rows (kept_matmul_params).
 *
 *   WG >= 16: a group computes BM rows x BN columns. Per step of one unit (32 elements of K),
 *       weights are unpacked into local A [32][BM] and x goes to B [32][BN]; a lane holds TM = 4
 *       rows x TN columns.
 *   WG 1: a work-item unpacks 128 elements of a tile of 16 rows once, as 16-wide vectors in private
 *       memory, and multiplies them with BN columns, eight at a time; BM/16 tiles in turn.
 * Tunables: BM (a multiple of 16), BN, EPI; BM * BN must be a multiple of 4 * WG, WG of BM / 4.
 */
#ifndef BM
#define BM 64
#endif
#ifndef BN
#define BN 64
#endif
#ifndef EPI
#define EPI 0
#endif
#include "common/kept.clh"
#if WG == 1
#define KEPT_V 16
#else
#define KEPT_V 1
#endif
#include "common/weights.clh"

#define GLU (EPI >= KEPT_EPI_GLU_SILU)
#define MATRICES (GLU ? 2 : 1)

#if WG == 1

#define STEP 128 /* elements unpacked at a time: the span of every format's units */
#define COLS 8   /* columns whose accumulators stay in registers */
#define BLOCKS ((BN + COLS - 1) / COLS)

/* acc[c] += w[0…n-1] times x of column c. */
static void step_product(const float16 *w, uint n, __global const float *const x[COLS], uint at,
                         float16 *acc)
{
    float16 a[COLS];
#pragma unroll
    for (uint c = 0; c < COLS; c++)
        a[c] = acc[c];
    for (uint i = 0; i < n; i++) {
        float16 v = w[i];
#pragma unroll
        for (uint c = 0; c < COLS; c++)
            a[c] = MAC(v, (float16)(x[c][at + i]), a[c]);
    }
#pragma unroll
    for (uint c = 0; c < COLS; c++)
        acc[c] = a[c];
}

static void tile_product(__global const uint *record, const struct kept_matmul_params *p,
                         __global const float *x, uint columns, float16 acc[BLOCKS * COLS])
{
    struct weights w = weights_of(record, p->h_words, p->s_words, p->d_words, 0);
    float16 unpacked[STEP];
    for (uint c = 0; c < BLOCKS * COLS; c++)
        acc[c] = (float16)(0.0f);
    for (uint at = 0; at < p->k; at += STEP) {
        uint n = min((uint)STEP, p->k - at);
        for (uint u = at / 32; u < (at + n) / 32; u++) {
            for (uint run = 2 * u; run < 2 * u + 2; run++) {
                float16 s, o, v[4];
                run_scale(&w, run, &s, &o);
                for (uint i = 0; i < 4; i++) {
                    run_values(&w, run, i, s, o, v);
                    for (uint j = 0; j < 4; j++)
                        unpacked[run_at(run) - at + 4 * i + j] = v[j];
                }
            }
        }
        for (uint c0 = 0; c0 < columns; c0 += COLS) {
            __global const float *xs[COLS];
            for (uint c = 0; c < COLS; c++)
                xs[c] = x + (ulong)min(c0 + c, columns - 1) * p->x_stride;
            step_product(unpacked, n, xs, at, acc + c0);
        }
    }
}

#include "common/epilogue.clh"

__kernel KEPT_GROUP void matmat(__global const uint *weights, __global const float *x,
                                __global float *y, __global const uint *step,
                                const struct kept_matmul_params p)
{
    uint live = LIVE_ROWS(step, p), c0 = get_group_id(1) * BN;
    if (c0 >= live)
        return;
    uint columns = min(live - c0, (uint)BN);
    __global const float *xs = x + ((ulong)step[p.x_first_at] + p.row_first + c0) * p.x_stride;
    __global float *ys = y + (ulong)(p.row_first + c0) * p.y_stride;
    uint tiles = (p.n_rows + 15) / 16, first = get_group_id(0) * (BM / 16);
    for (uint tile = first; tile < min(first + BM / 16, tiles); tile++) {
        uint n = p.n_rows - tile * 16;
        float16 acc[MATRICES][BLOCKS * COLS];
        for (uint m = 0; m < MATRICES; m++)
            tile_product(weights + (ulong)(tile + m * p.up_tiles) * p.record_words, &p, xs, columns,
                         acc[m]);
        for (uint c = 0; c < columns; c++) {
            __global float *to = ys + (ulong)c * p.y_stride;
#if GLU
            float16 a = gated(acc[0][c], acc[1][c], n);
            to[p.sums_offset + p.y_offset / 16 + tile] = sum16(a);
#else
            float16 a = acc[0][c];
#endif
            store_tile(to + p.y_offset + tile * 16, n, a);
        }
    }
}

#else

#define TM 4
#define TN (BM * BN / (WG * TM))
#if TN < 1 || TN * TM * WG != BM * BN || BM % 16 != 0
#error matmat: BM * BN must be a multiple of 4 * WG, and BM of 16
#endif

/* A step's weights: a task is half a unit of a row. Neighbouring lanes take neighbouring rows. */
static void load_a(__local float *a, __global const uint *weights,
                   const struct kept_matmul_params *p, uint row0, uint u)
{
    uint tiles = (p->n_rows + 15) / 16;
    for (uint t = LID; t < MATRICES * BM * 2; t += WG) {
        uint r = t % BM, h = t / BM % 2, m = t / BM / 2, tile = (row0 + r) / 16;
        __local float *to = a + (m * 32 + h * 16) * BM + r;
        if (tile >= tiles) {
            for (uint i = 0; i < 16; i++)
                to[i * BM] = 0.0f;
            continue;
        }
        struct weights w = weights_of(weights + (ulong)(tile + m * p->up_tiles) * p->record_words,
                                      p->h_words, p->s_words, p->d_words, r % 16);
        float s, o, v[4];
        run_scale(&w, 2 * u + h, &s, &o);
#pragma unroll
        for (uint i = 0; i < 4; i++) {
            run_values(&w, 2 * u + h, i, s, o, v);
            for (uint j = 0; j < 4; j++)
                to[(4 * i + j) * BM] = v[j];
        }
    }
}

/* One step's x, at the elements that the unit's two runs have. */
static void load_b(__local float *b, __global const float *x, uint x_stride, uint columns, uint u)
{
    for (uint t = LID; t < BN * 8; t += WG) {
        uint c = t / 8, h = t % 8 / 4, q = t % 4;
        float4 v = (float4)(0.0f);
        if (c < columns)
            v = vload4(q, x + (ulong)c * x_stride + run_at(2 * u + h));
        __local float *to = b + (h * 16 + q * 4) * (BN + 1) + c;
        to[0] = v.x;
        to[BN + 1] = v.y;
        to[2 * (BN + 1)] = v.z;
        to[3 * (BN + 1)] = v.w;
    }
}

__kernel KEPT_GROUP void matmat(__global const uint *weights, __global const float *x,
                                __global float *y, __global const uint *step,
                                const struct kept_matmul_params p)
{
    __local float a[MATRICES * 32 * BM] __attribute__((aligned(16)));
    __local float b[32 * (BN + 1)];
    uint live = LIVE_ROWS(step, p), c0 = get_group_id(1) * BN, row0 = get_group_id(0) * BM;
    if (c0 >= live)
        return;
    uint columns = min(live - c0, (uint)BN), rl = LID % (BM / TM), cl = LID / (BM / TM) * TN;
    __global const float *xs = x + ((ulong)step[p.x_first_at] + p.row_first + c0) * p.x_stride;
    float4 acc[MATRICES][TN];
    for (uint m = 0; m < MATRICES; m++)
        for (uint c = 0; c < TN; c++)
            acc[m][c] = (float4)(0.0f);
    for (uint u = 0; u < p.k / 32; u++) {
        load_a(a, weights, &p, row0, u);
        load_b(b, xs, p.x_stride, columns, u);
        SYNC();
        for (uint i = 0; i < 32; i++) {
            for (uint m = 0; m < MATRICES; m++) {
                float4 av = vload4(0, a + (m * 32 + i) * BM + rl * TM);
#pragma unroll
                for (uint c = 0; c < TN; c++)
                    acc[m][c] = MAC(av, (float4)(b[i * (BN + 1) + cl + c]), acc[m][c]);
            }
        }
        SYNC();
    }
    uint r0 = row0 + rl * TM;
    for (uint c = 0; c < TN; c++) {
        float v[TM];
        float4 g = acc[0][c];
#if GLU
        g = (EPI == KEPT_EPI_GLU_SILU ? silu4(g) : gelu4(g)) * acc[1][c];
#endif
        vstore4(g, 0, v);
        __global float *to = y + (ulong)(p.row_first + c0 + cl + c) * p.y_stride + p.y_offset;
        for (uint j = 0; j < TM && r0 + j < p.n_rows && cl + c < columns; j++)
            to[r0 + j] = EPI == KEPT_EPI_ADD ? to[r0 + j] + v[j] : v[j];
#if GLU
        float sum = 0.0f;
        for (uint j = 0; j < TM && r0 + j < p.n_rows; j++)
            sum += v[j];
        a[(cl + c) * (BM / TM) + rl] = sum; /* A is free: BN * BM / 4 of its 64 * BM floats */
#endif
    }
#if GLU
    SYNC();
    for (uint t = LID; t < columns * (BM / 16); t += WG) {
        uint c = t / (BM / 16), tile = row0 / 16 + t % (BM / 16);
        __local const float *sums = a + c * (BM / TM) + t % (BM / 16) * 4;
        if (tile < (p.n_rows + 15) / 16)
            y[(ulong)(p.row_first + c0 + c) * p.y_stride + p.sums_offset + p.y_offset / 16 + tile] =
                sums[0] + sums[1] + sums[2] + sums[3];
    }
#endif
}

#endif

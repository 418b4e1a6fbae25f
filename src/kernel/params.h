/* kernel/params.h: parameter structs and constants of every kernel, included by C, GLSL and OpenCL
 * C alike.
 *
 * GLSL: #define KEPT_GLSL first (struct members become uint/int/float of GLSL); used as a push
 * constant block. OpenCL: the struct is passed by value as the kernel's last argument. Every struct
 * is at most 128 bytes, members are 4 bytes each, so all three languages agree on the layout;
 * kernel/registry.c asserts the sizes.
 *
 * Rows. An evaluation has n rows (tokens). n is not known when a recording is made; it lives in the
 * step buffer, at word `rows_at`. A call covers rows row_first … row_first + live - 1 with
 *     live = clamp(step[rows_at] - row_first, 0, row_cap);
 * work-groups of rows that are not live return at once, and nothing of theirs is read or written.
 *
 * Activation rows. A matrix operand x is f32 [rows][stride] with stride = KEPT_ACT_STRIDE(k): first
 * the k elements, then the k/16 sums of 16 consecutive elements each (used for the formats with
 * offsets), then padding to 4. Whoever writes an operand writes its sums.
 */
#ifndef KEPT_KERNEL_PARAMS_H
#define KEPT_KERNEL_PARAMS_H

#if defined(KEPT_GLSL)
#define KEPT_U32 uint
#define KEPT_I32 int
#define KEPT_F32 float
#elif defined(__OPENCL_C_VERSION__)
#define KEPT_U32 uint
#define KEPT_I32 int
#define KEPT_F32 float
#else
#include <stdint.h>
#define KEPT_U32 uint32_t
#define KEPT_I32 int32_t
#define KEPT_F32 float
#endif

/* Weight formats; the same numbers as enum kept_format (kernel/blocks.h). */
#define KEPT_FMT_F32 0
#define KEPT_FMT_F16 1
#define KEPT_FMT_BF16 2
#define KEPT_FMT_Q4_0 3
#define KEPT_FMT_Q4_1 4
#define KEPT_FMT_Q5_0 5
#define KEPT_FMT_Q5_1 6
#define KEPT_FMT_Q8_0 7
#define KEPT_FMT_Q4_K 8
#define KEPT_FMT_Q5_K 9
#define KEPT_FMT_Q6_K 10

/* Word order of weight and K records (kernel/blocks.h). */
#define KEPT_LANE 0
#define KEPT_VECTOR 1

#define KEPT_ACT_STRIDE(k) ((k) + ((((k) / 16u) + 3u) & ~3u))

/* The step buffer: 16 header words, then token[chunk], then position[chunk] (i32), chunk = planned
 * rows. */
#define KEPT_STEP_ROWS 0u      /* rows of this evaluation */
#define KEPT_STEP_OUT_FIRST 1u /* first row whose logits are wanted */
#define KEPT_STEP_OUT_ROWS 2u  /* how many */
#define KEPT_STEP_ZERO 3u      /* always 0: a row offset of none */
#define KEPT_STEP_TOKENS 16u   /* word where the tokens begin; positions begin at 16 + chunk */

/* Epilogue of a matrix kernel (key EPI). a = the product. */
#define KEPT_EPI_STORE 0     /* y = a */
#define KEPT_EPI_ADD 1       /* y += a (the residual stream) */
#define KEPT_EPI_GLU_SILU 2  /* y = silu(gate) * up, written as an activation row with sums */
#define KEPT_EPI_GLU_GELU 3  /* y = gelu_tanh(gate) * up, likewise */

/* Pairing of rotated elements (rope_pairs). */
#define KEPT_ROPE_NONE 0u
#define KEPT_ROPE_ADJACENT 1u /* (2i, 2i+1) */
#define KEPT_ROPE_HALVES 2u   /* (i, i + n_rot/2) */

/* embed: x[row][i] = scale * W[token[row]][i]. Tokens outside [token_first, token_first + n_tokens)
 * leave their row alone, so a table cut into several buffers takes one call a piece. */
struct kept_embed_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 k;            /* elements of a row */
    KEPT_U32 x_stride;     /* elements between rows of x */
    KEPT_U32 token_first;  /* token of the first row in the binding; a multiple of 16 */
    KEPT_U32 n_tokens;     /* rows in the binding */
    KEPT_U32 record_words; /* of one tile of 16 rows */
    KEPT_U32 h_words, s_words, d_words; /* plane offsets in the record; Q is at 0 */
    KEPT_F32 scale;
};

/* matvec, matmat: for column c (a live row of x) and weight row r:
 *     a[c][r] = sum over i of W[r][i] * x[c][i],   r in [0, n_rows)
 * STORE, ADD: y[c * y_stride + y_offset + r].
 * GLU_*: tile t of the gate is followed by the up projection at tile t + up_tiles of the same
 * binding; the activation
 *     goes to y[c * y_stride + y_offset + r] and the sum over the 16 rows of tile t (missing rows
 *     count as 0) to y[c * y_stride + sums_offset + (y_offset / 16) + t].
 * x column c is x + (first + c) * x_stride with first = step[x_first_at] (KEPT_STEP_ZERO for none);
 * y is not shifted. */
struct kept_matmul_params {
    KEPT_U32 rows_at, row_first, row_cap; /* rows here are columns of the product */
    KEPT_U32 x_first_at;
    KEPT_U32 k;
    KEPT_U32 n_rows;       /* weight rows in the binding that count; the last tile may be partial */
    KEPT_U32 x_stride, y_stride, y_offset;
    KEPT_U32 sums_offset;  /* GLU: where the sums begin in a row of y, in elements */
    KEPT_U32 up_tiles;     /* GLU: tiles between gate and up */
    KEPT_U32 record_words, h_words, s_words, d_words;
};

/* norm, RMS: n(v, w)[i] = v[i] / sqrt(mean(v^2) + eps) * w[i]; f32, one group a row.
 *   MODE 0  out = n(x, w)
 *   MODE 1  x += n(y, w_post), then out = n(x, w)
 *   MODE 2  x += n(y, w_post)
 * Row r reads x and y at row (step[first_at] + r) and writes out at row r (with sums, stride
 * out_stride). */
struct kept_norm_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 first_at;     /* a step word: KEPT_STEP_ZERO or KEPT_STEP_OUT_FIRST */
    KEPT_U32 k;
    KEPT_U32 x_stride, y_stride, out_stride;
    KEPT_F32 eps;
};

/* slot_write: takes q | k | v of each row (f32, [rows][qkv_stride]: n_head*d, n_kv*d, n_kv*d):
 *  - with BIAS 1 adds bias[(n_head + 2*n_kv) * d] first;
 *  - with QKNORM 1 RMS-normalises each q head with wq[d] and each k head with wk[d];
 *  - rotates the first n_rot elements of q and k heads at the row's position;
 *  - multiplies q by q_scale and writes it back in place;
 *  - writes k and v as f16 (round to nearest even) into slot = position % cap of their KV head.
 * K slots: per KV head cap/16 records of the F16 weight layout with row = slot, K = d (order key
 * ORDER), i.e. head h begins at word h * cap * d/2. V slots: words [h][slot][d/2], two elements
 * each, low half first. Rotation at position p = 256*hi + lo (lo in 0…255, hi may be negative:
 * floor) for pair i in 0…n_rot/2-1:
 *   (c, s) = table[lo][i] (x) table[256 + hi_bias + hi][i] as complex numbers (cos, sin); f32
 *   [row][n_rot/2][2]. (a, b) -> (a*c - b*s, a*s + b*c). */
struct kept_slot_write_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 chunk;        /* positions are at step word KEPT_STEP_TOKENS + chunk */
    KEPT_U32 n_head, n_kv, d, n_rot;
    KEPT_U32 rope_pairs;
    KEPT_U32 qkv_stride;
    KEPT_U32 cap;          /* slots per KV head, a multiple of 64 */
    KEPT_U32 hi_bias;
    KEPT_F32 q_scale;
    KEPT_F32 eps;
};

/* attn_decode, attn_prefill. Query row r (q as slot_write left it: rotated and scaled) at position
 * p attends slots of its KV head (head h uses KV head h / (n_head / n_kv)):
 *   GENERAL 0: positions lo … p, lo = window ? max(0, p - window + 1) : 0, position t in slot t %
 *   cap; score = q.k. GENERAL 1: slots s < live[kv_head] with pos[s] <= p < until[s] and (window ==
 *   0 or pos[s] > p - window or pos[s] < 0);
 *              score = q.k + bias[s]. meta: per KV head i32 pos[cap], i32 until[cap], f32 bias[cap]
 *              (words kv_head*3*cap + {0, cap, 2*cap} + s); live: u32 [n_kv].
 * softcap > 0: score of q.k becomes softcap * tanh(q.k / softcap) before the bias.
 * decode writes partial results, split i of n_splits covering about an equal share of the tiles of
 * 16 slots:
 *   part[(((row * n_head) + head) * parts + part_first + i) * (d + 4)]: m (maximum score, -inf when
 *   empty), l (sum of exp(score - m)), 2 words of padding, then o[d] = sum of exp(score - m) * v
 *   (not divided). Rows are counted from 0 (row_first included).
 * prefill writes the finished output: out[row * out_stride + head * d + i] = o / l and its sums (0
 * when no slot). */
struct kept_attn_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 chunk;        /* as in slot_write */
    KEPT_U32 n_head, n_kv, d;
    KEPT_U32 q_stride;     /* of the qkv rows */
    KEPT_U32 cap, window;
    KEPT_U32 n_splits;     /* decode: of this segment */
    /* decode: parts of all segments together, and where this one's begin */
    KEPT_U32 parts, part_first;
    KEPT_U32 out_stride;   /* prefill */
    KEPT_F32 softcap;
};

/* attn_merge: out[row][head*d + i] = sum_p exp(m_p - M) o_p[i] / sum_p exp(m_p - M) l_p over the
 * parts, M = max m_p; 0 when every part is empty. Writes the sums of 16. */
struct kept_merge_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n_head, d, parts;
    KEPT_U32 out_stride;
};

/* glu: out[row][i] = act(x[row * x_stride + i]) * x[row * x_stride + n + i], with sums; key ACT: 0
 * silu, 1 gelu (tanh form). Used where gate and up have different weight formats. */
struct kept_glu_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n;            /* a multiple of 16 */
    KEPT_U32 x_stride, out_stride;
};

/* argmax: per row of logits f32 [rows][stride], n of them: out[row*2] = index of the largest (the
 * lowest index wins a tie; NaN never wins; all NaN gives 0), out[row*2+1] = its value's bits.
 * softcap > 0 first rewrites every logit in place as softcap * tanh(v / softcap). */
struct kept_argmax_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n, stride;
    KEPT_F32 softcap;
};

#endif

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
#define KEPT_STEP_BASE 4u      /* position of row 0; of maintenance: of its block's first token */
#define KEPT_STEP_MAINTAIN 5u  /* rows whose full blocks are maintained: 0, or as KEPT_STEP_ROWS */
#define KEPT_STEP_AFTER 6u     /* of maintenance: tokens stored behind its block already */
#define KEPT_STEP_ACCEPTED 7u  /* KEPT_STEP_ROWS, or 0 where the rows are held */
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

/* ---- slots ----
 *
 * A slot is one (K, V) pair of one KV head. Slots come in tiles of 16, a head's extent is a
 * multiple of 64. Types: KEPT_FMT_F16, KEPT_FMT_Q8_0, KEPT_FMT_Q4_0 (keys KT of K, VT of V). A tile
 * has KEPT_TILE_WORDS words: 16 rows of KEPT_SLOT_Q words of elements, then 16 rows of
 * KEPT_SLOT_S words of scales.
 *   K tile: the weight record of blocks.h with row = slot, K = d, in the order of key ORDER.
 *   V tile: plain rows: elements [16][KEPT_SLOT_Q], then scales [16][KEPT_SLOT_S]; the words of a
 *     row are those of the format: f16 two elements a word; q8_0 byte i of word w is element 4w+i;
 *     q4_0 word w of block b (4 words a block of 32), byte i: element 32b+4w+i in the low nibble,
 *     32b+16+4w+i in the high one. Scale word j: the f16 scales of blocks 2j and 2j+1.
 * Quantised values: q8_0 d = max|x| / 127, q = round(x / d); q4_0 d = (the x of largest magnitude,
 * the first of equals) / -8, q = floor(x / d + 8.5) within 0…15, value d * (q - 8); d = 0 gives
 * q = 0 (q4_0: 8). Stored d is f16, x / d uses d before rounding. Values that are no numbers may
 * become anything.
 *
 * Rotation of quantised types. A head's vector of d elements is cut into blocks of HB elements, HB
 * = the largest power of two that divides d, and each is multiplied by the normalised Hadamard
 * matrix H[i][j] = (-1)^popcount(i & j) / sqrt(HB) (its own inverse). K: after RoPE, and q
 * likewise, so scores do not change. V: before it is stored; the attention output is rotated back.
 *
 * Where the slots of a KV head are:
 *   plain     head h has slots h * cap … + cap - 1; position t is in slot t % cap of them
 *   budgeted  the heads table says: FIRST, CAP. Slots 0 … BASE-1 hold what was kept when the
 *             position was EDGE; the token at position t >= EDGE is in slot BASE + t - EDGE.
 *             A query at p sees slots 0 … KEPT_COUNT - 1, KEPT_COUNT = min(CAP, BASE + max(0, p + 1
 *             - EDGE)). Going back to a position >= EDGE needs no work at all.
 * The heads table, u32 (POSITIONS i32) [n_kv][12]. EVICTED and CONSOLIDATED count; SCORED: 1 after
 * the first scoring; RoPE turns the token at position t by t - SHIFT.
 * meta: planes of `total` words (total = slots of all heads), slot s of head h at FIRST + s: pos
 * i32 (the position RoPE used), bias f32, until i32 (that plane only where KEPT_SLOTS_RULE needs
 * it). */
#define KEPT_SLOT_Q(fmt, d) \
    ((fmt) == KEPT_FMT_Q8_0 ? (d) / 4u : (fmt) == KEPT_FMT_Q4_0 ? (d) / 8u : (d) / 2u)
#define KEPT_SLOT_S(fmt, d) ((fmt) == KEPT_FMT_F16 ? 0u : ((d) + 63u) / 64u)
#define KEPT_TILE_WORDS(fmt, d) (16u * (KEPT_SLOT_Q(fmt, d) + KEPT_SLOT_S(fmt, d)))
#define KEPT_HEAD_WORDS 12u
#define KEPT_HEAD_FIRST 0u
#define KEPT_HEAD_CAP 1u
#define KEPT_HEAD_BUDGET 2u
#define KEPT_HEAD_BASE 3u
#define KEPT_HEAD_EDGE 4u
#define KEPT_HEAD_SHIFT 5u
#define KEPT_HEAD_SCORED 6u
#define KEPT_HEAD_EVICTED 7u
#define KEPT_HEAD_CONSOLIDATED 8u /* the words after it are 0 */

/* Key GENERAL of attention, STORE of slot_write. */
#define KEPT_SLOTS_PLAIN 0u    /* no table, no meta */
#define KEPT_SLOTS_BUDGETED 1u /* heads table; bias */
#define KEPT_SLOTS_RULE 2u     /* heads table; pos, until, bias and the window */

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
 *  - queries_rows > 0: copies the q heads as they are now to queries[(position % queries_rows) *
 *    n_head * d + …] (position as u32), of rows below step[queries_at];
 *  - borrowed 1: the last element of the first q head of every KV head is 0 from here on, rotation
 *    or not (its value is a decision, slot_birth);
 *  - rotates the first n_rot elements of q and k heads at the row's position (less SHIFT of the KV
 *    head where STORE is not 0); where KT is quantised, Hadamard of q and k;
 *  - multiplies q by q_scale and writes it back in place;
 *  - writes k and v (Hadamard where VT is quantised) into the token's slot, and with STORE 1 and 2
 *    its meta: pos = position - SHIFT, bias = 0, with STORE 2 until = 2^31 - 1. A token before
 *    EDGE, or whose slot is past CAP, is not stored. Positions and EDGE may be negative there.
 * cap: plain: slots per KV head; STORE 1, 2: `total`. Rotation at position p = 256*hi + lo (lo in
 * 0…255, hi may be negative: floor) for pair i in 0…n_rot/2-1: (c, s) = table[lo][i] (x) table[256
 * + hi_bias + hi][i] as complex numbers (cos, sin); f32 [row][n_rot/2][2]. (a, b) -> (a*c - b*s,
 * a*s + b*c). Where a rotation has hi < -hi_bias, nothing is written for the row and KV head. */
struct kept_slot_write_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 chunk;        /* positions are at step word KEPT_STEP_TOKENS + chunk */
    KEPT_U32 n_head, n_kv, d, n_rot;
    KEPT_U32 rope_pairs;
    KEPT_U32 qkv_stride;
    KEPT_U32 cap;          /* a multiple of 64 */
    KEPT_U32 hi_bias;
    KEPT_U32 queries_rows, queries_at; /* 0 rows: not copied; at: a step word */
    KEPT_U32 borrowed;     /* 0 or 1 */
    KEPT_F32 q_scale, eps;
};

/* slot_birth: scores that a token's own row decides. After slot_write, for every live row and KV
 * head h, p the row's position, x the row (alpha_rows > 0: p % alpha_rows):
 *     a = (alpha[x * alpha_stride + alpha_first + h * alpha_step] + bias[h]) * scale + offset
 * without bias[h] where BIAS is 0. It belongs to the token at p - shift (shift 1: the next row
 * decides for a token), in slot BASE + p - EDGE - shift; nothing is written when p < EDGE or the
 * slot is not one of 0 … CAP-1. BASE counts as at most CAP.
 *   DMS 0  a gate: the stored score becomes a
 *   DMS 1  Dynamic Memory Sparsification (Lancucki et al. 2025, arXiv 2506.05345): a > 0 evicts:
 *          the score becomes -a, and until p - shift + window + 1 where a > 0, else 2^31 - 1
 * total: slots of all heads. */
struct kept_birth_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 chunk;        /* as in slot_write */
    KEPT_U32 n_kv, total;
    KEPT_U32 alpha_stride, alpha_first, alpha_step;
    KEPT_U32 alpha_rows;   /* 0: alpha has a row a row */
    KEPT_U32 shift;        /* 0 or 1 */
    KEPT_U32 window;
    KEPT_F32 scale, offset;
};

/* attn_decode, attn_prefill. Query row r (q as slot_write left it: rotated and scaled) at position
 * p attends slots of its KV head (head h uses KV head h / (n_head / n_kv)):
 *   GENERAL 0: positions lo … p, lo = window ? max(0, p - window + 1) : 0, position t in slot t %
 *   cap; score = q.k. GENERAL 1: slots s < KEPT_COUNT (see above); score = q.k + bias[s]. GENERAL
 *   2: of those the ones with pos[s] <= p < until[s] and (window == 0 or pos[s] > p - window or
 *   pos[s] < 0). cap: plain: slots per KV head; GENERAL 1, 2: `total`.
 * softcap > 0: score of q.k becomes softcap * tanh(q.k / softcap) before the bias.
 * decode writes partial results, split i of n_splits covering about an equal share of the tiles of
 * 16 slots:
 *   part[(((row * n_head) + head) * parts + part_first + i) * (d + 4)]: m (maximum score, -inf when
 *   empty), l (sum of exp(score - m)), 2 words of padding, then o[d] = sum of exp(score - m) * v
 *   (not divided; not rotated back). Rows are counted from 0 (row_first included).
 * prefill with OUT 0 writes the finished output: out[row * out_stride + head * d + i] = o / l,
 * rotated back where VT is quantised, and its sums (0 when no slot); with OUT 1 the part of decode
 * with n_splits = 1. A part of no slots has m = -inf; l, o = 0. EDGE = 2^31 - 1: queries before it
 * see the BASE slots and no others. */
struct kept_attn_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 chunk;        /* as in slot_write */
    KEPT_U32 n_head, n_kv, d;
    KEPT_U32 q_stride;     /* of the qkv rows */
    KEPT_U32 cap, window;
    KEPT_U32 n_splits;     /* decode: of this segment; OUT 1: 1 */
    KEPT_U32 parts, part_first; /* not OUT 0: of all segments together; where this one's begin */
    KEPT_U32 out_stride;   /* OUT 0 */
    KEPT_F32 softcap;
};

/* attn_merge: out[row][head*d + i] = sum_p exp(m_p - M) o_p[i] / sum_p exp(m_p - M) l_p over the
 * parts, M = max m_p; 0 when all are empty; with VROT 1 rotated back. Writes the sums of 16. */
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

/* ---- maintenance of budgeted slots ----
 *
 * Runs when a block of `block` tokens is complete: rows row_first … + block - 1 of the evaluation,
 * row_cap = block, rows_at = KEPT_STEP_MAINTAIN. Every kernel does nothing unless all of them are
 * live. E = step[KEPT_STEP_BASE] + row_first + block is the position after the block; count =
 * min(CAP, BASE + max(0, E - EDGE)) the head's slots before maintenance, at most z_stride where z
 * is used. AFTER = min(step[KEPT_STEP_AFTER], CAP - count) slots of tokens at E and later may lie
 * behind them, decoded before this maintenance ran: nothing is decided by them or about them, they
 * go down with the window and follow a new SHIFT. Order: q_stats, a score kernel, [assoc_raw,
 * (assoc_match, assoc_write) for each 16 tokens of the block,] slot_select, [slot_nearest,
 * slot_merge,] slot_move, [slot_renumber, slot_rotate]. Counts read from moves are at most `block`
 * (M, FILLS, LOST) and CAP (COUNT, C); slot numbers of moves and near not below CAP are skipped.
 *
 *   slots   0 … sinks-1 never go; sinks … C-1 may, C = count - window; C … count-1 are the window
 *   stats   per query head KEPT_STATS_STRIDE(d) f32: sum of q q^T [d][d], sum of q [d], then lse
 *           and top (slot_select)
 *   z       per KV head (group + 1) rows of z_stride f32: a row per query head of the group, then
 *           one of |v|; score_keydiff writes row 0 only
 *   scores  two planes of `total` f32: the score by which slots are ranked, and the weight's log
 *   moves   per KV head moves_stride u32: M evicted, COUNT before, FILLS, C, ROTATE, LOST; from
 *           word 8: lost[block] ascending, from[block], to[block]; words without a use are 0
 *   near    per KV head and split [block] (f32, u32): likeness of the nearest kept slot, its number
 */
#define KEPT_STATS_STRIDE(d) ((d) * (d) + (d) + 16u)
#define KEPT_STATS_LSE(d) ((d) * (d) + (d))
#define KEPT_STATS_TOP(d) ((d) * (d) + (d) + 1u)
#define KEPT_MOVES_STRIDE(block) (8u + 3u * (block))
#define KEPT_MOVES_M 0u
#define KEPT_MOVES_COUNT 1u
#define KEPT_MOVES_FILLS 2u
#define KEPT_MOVES_C 3u
#define KEPT_MOVES_ROTATE 4u
#define KEPT_MOVES_LOST 5u
#define KEPT_MOVES_LISTS 8u
#define KEPT_POS_GONE (-2147483647 - 1) /* meta.pos of a slot that goes (chosen, consolidated) */
#define KEPT_MAX_BLOCK 256u

/* Key SCORER of slot_select. */
#define KEPT_SCORER_EXPECTED 0u /* z of score_expected, where needed; else the stored score */
#define KEPT_SCORER_DIRECT 1u   /* row 0 of z, every time */
#define KEPT_SCORER_STORED 2u   /* the stored score, given at birth */
#define KEPT_SCORER_RECENT 3u   /* the position: the oldest goes */
#define KEPT_SCORER_DMS 4u      /* the stored score; below 0 goes whatever the budget */

/* q_stats: adds the block's queries (those of the token at t: queries[t % queries_rows][n_head *
 * d], rotated by nothing, not scaled) to the sums of their query head; tokens at positions below
 * `sinks` are left out. */
struct kept_stats_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n_head, d, sinks;
    KEPT_U32 queries_rows; /* at least the block's */
};

/* score_expected: expected attention (Devoto et al. 2025, arXiv 2510.00636; epsilon 0). For heads
 * with count > BUDGET, slots s in [from, count): from = 0 when SCORED is 0 or E is a multiple of
 * `refresh`, else max(0, count - window - block). With n = max(E - sinks, 1), mu = sum q / n, Sigma
 * = sum q q^T / n - mu mu^T of the query head, and y = the slot's key (Hadamard undone), turned
 * back by the mean rotation of positions E - SHIFT … + 511: pair i is multiplied by the conjugate
 * of R(E - SHIFT)_i * M_i, M_i = row `mean_row` of the table (its first n_rot/2 pairs):
 *     z = q_scale * mu.y + q_scale^2 / 2 * y^T Sigma y      -> row g of z
 *     |v|                                                   -> row `group`
 * Elements past n_rot are not turned; rope_pairs NONE turns nothing. */
struct kept_score_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n_head, n_kv, d, n_rot, rope_pairs;
    KEPT_U32 total, z_stride; /* total: slots of all heads */
    KEPT_U32 hi_bias, mean_row;
    KEPT_U32 sinks, window, refresh;
    KEPT_F32 q_scale;
};

/* score_keydiff: KeyDiff (Park et al. 2025, arXiv 2504.15364) on rotated keys. For heads with count
 * > BUDGET, all slots: row 0 of z = -cos(k, mean over the slots of k / |k|); a key of length 0 adds
 * nothing to the mean, and a cosine with a vector of length 0 is 0. Uses n_head, n_kv, d, total,
 * z_stride of kept_score_params. */

/* slot_select: one group per KV head. m = max(0, count - BUDGET), at most C - sinks (C = 0
 *     when count < window) and at most block. DMS: m = max(count - BUDGET, how many of slots
 *     sinks … C-1 have a stored score below 0 or one that is no number), within the same limits.
 *   EXPECTED, m > 0 and count > BUDGET (else z was not made): when everything was scored (from = 0,
 *     see above), first, where keep is below 1, what slots sinks … C-1 stand for besides themselves
 *     fades: bias = log(1 + (exp(bias) - 1) keep); then for each query head of the group top = max
 *     of z over the count slots, lse = log of the sum of exp(z + bias) (see apart). For every slot
 *     in [from, count): score = mean over the group of exp(z + bias - lse) * |v|, weight = log(sum
 *     over the group of exp(z - top)) + bias; both into their planes. SCORED becomes 1.
 *   RECENT: score = pos. DIRECT and RECENT leave the score planes alone.
 *   Consolidated slots, whose pos is KEPT_POS_GONE when the kernel begins (only slots sinks … C-1
 *   are looked at), count as follows: m is at least their number, they go before all others, top
 *   and lse leave them out, and their scores and weights are not written. CONSOLIDATED grows by
 *   their number.
 * The m lowest of slots sinks … C-1 go; of equals the lower slot; what is no number goes first.
 * Their pos becomes KEPT_POS_GONE. lost: LOST of them, those not consolidated. fills: of the m
 * those below C - m, ascending, receive the kept ones of C-m … C-1, ascending. Then the head:
 * BASE = count - m, EDGE = E, EVICTED += m. limit > 0 (compact positions): when E + block - SHIFT >
 * limit, SHIFT += ROTATE = min(E - SHIFT - BASE, limit / 2) (u32), else ROTATE = 0. All of moves is
 * written, m = 0 included. */
struct kept_select_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n_head, n_kv, d;
    KEPT_U32 total, z_stride;
    KEPT_U32 sinks, window, refresh;
    KEPT_U32 limit;       /* 0: absolute positions */
    KEPT_F32 keep;        /* what stays of merged weight at a refresh, above 0 to 1 */
    KEPT_U32 apart;       /* 1: lse is of slots sinks … C-1 alone and without their biases */
};

/* slot_nearest: for lost slot number i of a KV head, over the kept slots (pos is not
 * KEPT_POS_GONE) of split x (an equal share of the tiles of 16 of count): the largest k_i.k_s /
 * |k_s| and its slot, the lower of equals; -inf and 0 when there is none. k as stored; a key of
 * length 0 or one that is no number counts as -3e38. */
/* slot_merge: value transfer (weights: expected attention). For every kept slot r that is nearest
 * to some lost slots e (the best of all splits, the lower slot of equals), in their order:
 *     w_e = min(exp(weight_e - weight_r), 1e4); W = sum of w_e
 *     v_r = (v_r + sum of w_e v_e) / (1 + W), re-quantised; bias_r += log(1 + W), weight_r
 *     likewise; score_r *= 1 + W. A w_e that is no number counts as 0. */
struct kept_merge_slots_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n_kv, d;
    KEPT_U32 total;
    KEPT_U32 n_splits;
};

/* slot_move: m > 0: copies slots from[i] -> to[i] (K, V, planes of meta, scores), then the window C
 * … count-1 and the AFTER slots behind it down by m. Groups take columns: words of a slot (K
 * elements, K scales, V elements, V scales, meta planes, score planes), so that none waits for
 * another. */
struct kept_move_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n_kv, d;
    KEPT_U32 total;
    KEPT_U32 meta_planes; /* 2, 3 or KEPT_ASSOC_PLANES */
};

/* slot_renumber, slot_rotate: where ROTATE is not 0, or everywhere with key ALWAYS 1, of the slots
 * s < min(CAP, BASE + AFTER), z_stride at most. renumber: row 0 of z (as u32) of slot s = max(r,
 * pos - min(ROTATE, 2^30)), r: how many of them have a smaller pos; ALWAYS 1: E - window - 1 for
 * slots sinks … BASE-window-1 (none when BASE <= sinks + window), else pos; ALWAYS alone uses sinks
 * and window. rotate: turns the key (un-Hadamard, RoPE by new - old, Hadamard, stored again) and
 * sets pos; a slot that does not move, or with new - old outside -256 * hi_bias … 255, stays. */
struct kept_rotate_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n_kv, d, n_rot, rope_pairs;
    KEPT_U32 total, z_stride, z_head_stride; /* z_head_stride: words between KV heads of z */
    KEPT_U32 hi_bias;
    KEPT_U32 sinks, window;
};

/* ---- associative memory (consolidation) ----
 *
 * CAMELoT (He et al. 2024, arXiv 2402.13449) in the slots of a budgeted store: what leaves the
 * window is compared with the slots that are kept, by the cosine of un-rotated keys; the like ones
 * are averaged into one slot that stands for all of them, the others stay and compete for the
 * budget. `block` is a multiple of 16.
 *
 * Three planes of meta more, at KEPT_ASSOC_COUNT … (so the store has KEPT_ASSOC_PLANES and no
 * `until`): count f32 (tokens that the slot stands for), frac f32 (mean position less pos), stamp
 * i32 (position when it last changed). They are valid for slots that have left the window.
 *
 * C as above (0 when count < window). Tokens that leave: slots max(sinks, C - block) … C-1;
 * sub-batch `sub` of them: slots max(sinks, T) … T+15, T = C - block + 16 sub (may be negative:
 * i32). The slots before T, from `sinks` on, whose pos is not KEPT_POS_GONE are what they are
 * compared with.
 *
 * raw: f32 scratch, un-rotated keys: element i of slot s of KV head h at
 *     h * raw_stride * d + (s / 16 * d + i) * 16 + s % 16;  raw_stride: a multiple of 16. count is
 *     at most raw_stride.
 *
 * assoc_raw: for slots sinks … C-1: raw = the key, Hadamard undone where KT is quantised, turned
 *     back from pos (by the conjugate of R(pos) of the table: KEPT_ROPE as in slot_write; a pos
 *     outside -256 * hi_bias … 256 * (mean_row - 256 - hi_bias) - 1 is not turned). For slots that
 *     leave also: count = 1, frac = 0, stamp = E.
 * assoc_match: for every slot t of the sub-batch, over the slots s of split x (an equal share of
 *     the tiles of 16 below T, as in slot_nearest: tiles from n*x/n_splits with n = ceil(T / 16))
 *     that it is compared with: the largest cosine of raw t and raw s and its slot, the lower of
 *     equals; a length of 0 or a cosine that is no number counts as -3e38; -inf and 0 when there is
 *     no slot. near as above: entry (16 sub + t - T) of (KV head, split), block entries each.
 * assoc_write: t is a hit when the best likeness of all splits (the lower slot of equals) is >=
 *     threshold and its slot r is one of sinks … T-1. For every r that has hits, n of them, in
 *     their order, with c = count_r, at least 1 (also where it is no number) and at most 2^24, and
 *     f = frac_r, 0 where it is not within -1 … 1:
 *         raw_r = (c raw_r + sum of raw_t) / (c + n), in scratch too; v_r likewise, re-quantised
 *         FORM 0: delta = (c f + sum of (pos_t - pos_r)) / (c + n); pos_r += floor(delta + 0.5),
 *             frac_r = delta - floor(delta + 0.5); bias_r += log((c + n) / c), weight_r likewise;
 *             score_r *= (c + n) / c
 *         FORM 1 (as published): pos_r, frac_r, bias_r, weight_r stay; score_r = E as a number
 *         count_r = c + n, stamp_r = E; k_r = raw_r turned to pos_r (not turned where pos is
 *             outside the table, as above), Hadamard where KT is quantised, stored
 *     Hits: pos = KEPT_POS_GONE, weight = -inf. Others: with FORM 1 score = E. Where pos_t or pos_r
 *     is not within ±(2^24 - 1), or outside the table when rope_pairs is not NONE, pos_t - pos_r
 *     counts as 0. */
#define KEPT_ASSOC_COUNT 2u
#define KEPT_ASSOC_FRAC 3u
#define KEPT_ASSOC_STAMP 4u
#define KEPT_ASSOC_PLANES 5u
#define KEPT_ASSOC_SUB 16u /* tokens of a sub-batch */
struct kept_assoc_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n_kv, d, n_rot, rope_pairs;
    KEPT_U32 total, raw_stride;
    KEPT_U32 hi_bias, mean_row;
    KEPT_U32 sinks, window;
    KEPT_U32 n_splits;
    KEPT_U32 sub;         /* assoc_match, assoc_write: which sub-batch, below block / 16 */
    KEPT_F32 threshold;   /* not below -1; what is no number has no hits */
    KEPT_U32 only_over;   /* 1: heads with count <= BUDGET have no sub-batches */
};

/* attn_peak: calibration. Plain f16 slots. For every KV head and slot s < n_slots (position s), lse
 * = m + log(l) of the row's part (attn_decode with n_splits = parts = 1, all rows):
 *   SUM 0  peak[kv * n_slots + s] = max(itself, max over live rows and the group of q.k_s - lse)
 *   SUM 1  peak[kv * n_slots + s] += sum over the group and live rows at positions p, s + after < p
 *          < n_slots, of exp(min(0, q.k_s - lse)): what later ones attended to it */
struct kept_peak_params {
    KEPT_U32 rows_at, row_first, row_cap;
    KEPT_U32 n_head, n_kv, d;
    KEPT_U32 q_stride, cap, n_slots;
    KEPT_U32 chunk, after; /* SUM 1; chunk as in slot_write */
};

#endif

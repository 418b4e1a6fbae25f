/* kernel/blocks.h: weight formats: their blocks in files, and the re-laid form in device memory.
 *
 * Device layout (the same bytes for every kernel and backend):
 *   tensor = array of records; record = 16 rows (a tile) over all of K, planes Q | H | S | D,
 *   padded to 64 bytes.
 *   A plane is an array of groups; a group is 16 rows x W words (W = 1 or 4), in one of two orders:
 *     KEPT_ORDER_LANE   [group][row 16][W words]   one uvec4 per lane (GPUs)
 *     KEPT_ORDER_VECTOR [group][W words][row 16]   one 16-wide vector per word (CPU-type devices)
 *   So word w of row r in group g is at plane + g*16*W + (LANE: r*W + w, VECTOR: w*16 + r).
 *   Missing rows of the last tile are zero; K is a multiple of the format's block.
 *
 * Planes of one row, with n = K / 32 blocks (K-quants: n = K / 256); "n x 4" means n groups of 4
 * words; byte i of a word is its bits 8i to 8i+7; "two halves" are f16, the first in the low half:
 *
 *   F32   Q  K/4 x 4: one element a word.
 *   F16   Q  K/8 x 4: two halves a word; word w of group g holds elements 8g+2w and 8g+2w+1.
 *   BF16  Q  as F16.
 *   Q8_0  Q  2n x 4: byte i of word w of group 2b+h is element 32b+16h+4w+i, i8.
 *         S  ceil(n/2) x 1: two halves: d of blocks 2g and 2g+1 (0 when there is none).
 *         value = d * q
 *   Q4_0  Q  n x 4: byte i of word w: element 4w+i in the low nibble, 16+4w+i in the high one.
 *         S  as Q8_0.
 *         value = d * (q - 8)
 *   Q4_1  Q  as Q4_0.
 *         S  n x 1: two halves: d and m.
 *         value = d * q + m
 *   Q5_0  Q, S as Q4_0, with the low 4 bits of q.
 *         H  n x 1: bit 8i+w is bit 4 of element 4w+i, bit 8i+4+w that of element 16+4w+i, so that
 *            ((h >> w) & 0x01010101) << 4 fits the low nibbles of word w, h >> (4+w) the high ones.
 *         value = d * (q - 16)
 *   Q5_1  Q, H as Q5_0, S as Q4_1.
 *         value = d * q + m
 *   Q4_K  Q  8n x 4: byte i of word w of group 8b+p: element l = 16*(p%2)+4w+i of sub-block
 *            2*(p/2) in the low nibble, the same of sub-block 2*(p/2)+1 in the high one (a block
 *            has 8 sub-blocks of 32).
 *         S  n x 4: two halves: d and dmin; the low 4 bits of s_k at bit 4k; those of m_k at bit
 *            4k; the high 2 bits of s_k at bit 2k and of m_k at bit 16+2k.
 *         value = (d * s_k) * q - (dmin * m_k), s_k and m_k unsigned
 *   Q5_K  Q, S as Q4_K, with the low 4 bits of q.
 *         H  2n x 4: bit k of byte i of word w of group 2b+p: bit 4 of element 16p+4w+i of
 *            sub-block k.
 *         value = as Q4_K
 *   Q6_K  Q  8n x 4, the low 4 bits of q: byte i of word w of group 8b+p: element
 *            e = 128*(p/4) + 32*(p/2%2) + 16*(p%2)+4w+i in the low nibble, e+64 in the high one.
 *         H  4n x 4, the high 2 bits of q: bits 2t and 2t+1 (t = 0…3) of byte i of word w of group
 *            4b+p: element 128*(p/2) + 32t + 16*(p%2)+4w+i.
 *         S  n x 4: byte i of word w: sc of elements 16*(4w+i) to 16*(4w+i)+15, i8.
 *         D  as S of Q8_0.
 *         value = (d * sc) * (q - 32)
 *
 * In the K-quants the words of Q and H are those of the file (ql, qs, qh) in the file's order.
 * Sources: ggml's block definitions (MIT); values are bit-equal to the gguf Python package's.
 */
#ifndef KEPT_KERNEL_BLOCKS_H
#define KEPT_KERNEL_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kept/common.h"

/* X(NAME, "name", ggml_type, elements per block, file bytes per block); the numbers of the
 * enum are shared with the kernels (params.h has the same as KEPT_FMT_… macros; a static assertion
 * compares). */
#define KEPT_FORMAT_LIST(X)       \
    X(F32, "F32", 0, 1, 4)        \
    X(F16, "F16", 1, 1, 2)        \
    X(BF16, "BF16", 30, 1, 2)     \
    X(Q4_0, "Q4_0", 2, 32, 18)    \
    X(Q4_1, "Q4_1", 3, 32, 20)    \
    X(Q5_0, "Q5_0", 6, 32, 22)    \
    X(Q5_1, "Q5_1", 7, 32, 24)    \
    X(Q8_0, "Q8_0", 8, 32, 34)    \
    X(Q4_K, "Q4_K", 12, 256, 144) \
    X(Q5_K, "Q5_K", 13, 256, 176) \
    X(Q6_K, "Q6_K", 14, 256, 210)

enum kept_format {
#define X(NAME, name, ggml, elems, bytes) KEPT_FORMAT_##NAME,
    KEPT_FORMAT_LIST(X)
#undef X
        KEPT_FORMAT_COUNT
};

enum kept_order { KEPT_ORDER_LANE, KEPT_ORDER_VECTOR };

#define KEPT_TILE_ROWS          16u
#define KEPT_RECORD_ALIGN_BYTES 64u

/* Offsets in words inside one record, and sizes; all zero planes have n_groups 0. */
struct kept_plane {
    uint32_t offset_words, n_groups;
    uint32_t group_words; /* W: words per row and group, 1 or 4 */
};
struct kept_record {
    struct kept_plane q, h, s, d;
    uint32_t n_words; /* of the whole record, padding included */
};

const char *kept_format_name(enum kept_format format);
enum kept_format kept_format_from_ggml(uint32_t ggml_type); /* KEPT_FORMAT_COUNT when unknown */
uint32_t kept_format_block_elems(enum kept_format format);
uint32_t kept_format_block_bytes(enum kept_format format);
/* K the kernels accept for this format: a multiple of 32, and of the block, from 32 to 2^24. */
bool kept_format_k_valid(enum kept_format format, uint64_t k);
uint64_t kept_format_row_bytes(enum kept_format format, uint64_t k); /* in the file */
/* The record of a tile for this K (k valid, k <= 2^24). */
struct kept_record kept_record_of(enum kept_format format, uint32_t k);
uint64_t kept_relaid_bytes(enum kept_format format, uint64_t n_rows, uint32_t k);

/* Re-lays up to 16 file rows (rows[i] at i * row_bytes) into one record; rows past n_rows become
 * zero. */
void kept_relay_tile(enum kept_format format, enum kept_order order, const uint8_t *rows,
                     uint32_t n_rows, uint32_t k, uint32_t *record);

/* One row of file blocks to f32. */
void kept_dequant_row(enum kept_format format, const uint8_t *row, uint32_t k, float *out);
/* Element (row in tile, i_k) of a record: the definition the kernels are tested against. Slow. */
float kept_record_value(enum kept_format format, enum kept_order order, const uint32_t *record,
                        uint32_t k, uint32_t row, uint32_t i_k);
/* A whole row of a record to f32 (faster; same values). */
void kept_record_row(enum kept_format format, enum kept_order order, const uint32_t *record,
                     uint32_t k, uint32_t row, float *out);
/* f32 rows to file blocks, for tests and for making small models: every format, simple
 * round-to-nearest. */
void kept_quant_row(enum kept_format format, const float *values, uint32_t k, uint8_t *row);

#endif

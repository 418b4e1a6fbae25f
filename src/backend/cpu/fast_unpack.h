/* backend/cpu/fast_unpack.h: the dot product of one tile of 16 rows with nc columns, for every
 * format.
 *
 * In ORDER VECTOR word W of a plane is one vector of 16 rows at plane + 16*W. K is walked in
 * sub-blocks of 32; in each, word_of() gives eight words of four quants (element 4j + byte),
 * whatever the format's packing. Each quant is converted once and multiplied with nc broadcast
 * activations; the sub-block's sum is then scaled:
 *
 *     acc += scale * sum(q * x) + offset * sum(x)       sum(x): ready-made behind the activations
 *
 * so that offsets (-8, -16, -32, the minima) cost nothing per weight. fmt and nc are constants at
 * every call, and everything inlines.
 */
#ifndef KEPT_BACKEND_CPU_FAST_UNPACK_H
#define KEPT_BACKEND_CPU_FAST_UNPACK_H

#include <stdbool.h>

#include "backend/cpu/simd.h"
#include "kernel/params.h"

/* One tile and the columns it meets. */
struct tile {
    const uint32_t *q, *h, *s, *d;
    uint32_t k;
    const float *x; /* [nc][x_stride], sums at k */
    size_t x_stride;
    uintptr_t ahead;      /* few columns: what to ask for while this tile is worked on, */
    uint32_t ahead_lines; /* so many lines of 64 bytes a sub-block */
};

SIMD_INLINE vi plane_word(const uint32_t *plane, uint32_t word)
{
    return vi_load(plane + (size_t)word * 16);
}

/* Four unsigned quants (signed for Q8_0) of elements 4j … 4j+3 of sub-block sb. */
SIMD_INLINE vi word_of(const int fmt, const struct tile *t, uint32_t sb, uint32_t j)
{
    uint32_t b = sb / 8, n = sb % 8; /* K-quants: block, sub-block */
    vi low = vi_set(0x0F0F0F0F), word;
    switch (fmt) {
    case KEPT_FMT_Q8_0:
        return plane_word(t->q, 8 * sb + j);
    case KEPT_FMT_Q4_0:
    case KEPT_FMT_Q4_1:
        return vi_and(vi_shr(plane_word(t->q, 4 * sb + j % 4), 4 * (j / 4)), low);
    case KEPT_FMT_Q5_0:
    case KEPT_FMT_Q5_1:
        word = vi_and(vi_shr(plane_word(t->q, 4 * sb + j % 4), 4 * (j / 4)), low);
        return vi_or(word, vi_shl(vi_and(vi_shr(plane_word(t->h, sb), j), vi_set(0x01010101)), 4));
    case KEPT_FMT_Q4_K:
        return vi_and(vi_shr(plane_word(t->q, 32 * b + 8 * (n / 2) + j), 4 * (n % 2)), low);
    case KEPT_FMT_Q5_K:
        word = vi_and(vi_shr(plane_word(t->q, 32 * b + 8 * (n / 2) + j), 4 * (n % 2)), low);
        return vi_or(word,
                     vi_shl(vi_and(vi_shr(plane_word(t->h, 8 * b + j), n), vi_set(0x01010101)), 4));
    default: /* Q6_K: n % 4 is the quarter of a half block */
        word = plane_word(t->q, 32 * b + 16 * (n / 4) + 8 * (n % 2) + j);
        word = vi_and(vi_shr(word, 4 * (n % 4 / 2)), low);
        return vi_or(word,
                     vi_shl(vi_and(vi_shr(plane_word(t->h, 16 * b + 8 * (n / 4) + j), 2 * (n % 4)),
                                   vi_set(0x03030303)),
                            4));
    }
}

/* Q6_K has a scale every 16 elements, given by part; the others one a sub-block. */
SIMD_INLINE void scale_of(const int fmt, const struct tile *t, uint32_t sb, uint32_t part,
                          vf *scale, vf *offset)
{
    uint32_t b = sb / 8, n = sb % 8;
    vi word;
    switch (fmt) {
    case KEPT_FMT_Q4_0:
    case KEPT_FMT_Q5_0:
    case KEPT_FMT_Q8_0:
        *scale = vf_half(vi_shr(plane_word(t->s, sb / 2), 16 * (sb % 2)));
        *offset = vf_mul(*scale, vf_set(fmt == KEPT_FMT_Q4_0 ? -8 : -16));
        break;
    case KEPT_FMT_Q4_1:
    case KEPT_FMT_Q5_1:
        word = plane_word(t->s, sb);
        *scale = vf_half(word);
        *offset = vf_half(VI_SHR(word, 16));
        break;
    case KEPT_FMT_Q4_K:
    case KEPT_FMT_Q5_K: {
        vi high = plane_word(t->s, 4 * b + 3);
        vi sc = vi_and(vi_shr(plane_word(t->s, 4 * b + 1), 4 * n), vi_set(15));
        vi mn = vi_and(vi_shr(plane_word(t->s, 4 * b + 2), 4 * n), vi_set(15));
        sc = vi_or(sc, vi_shl(vi_and(vi_shr(high, 2 * n), vi_set(3)), 4));
        mn = vi_or(mn, vi_shl(vi_and(vi_shr(high, 16 + 2 * n), vi_set(3)), 4));
        word = plane_word(t->s, 4 * b);
        *scale = vf_mul(vf_half(word), vf_from_int(sc));
        *offset = vf_sub(vf_set(0), vf_mul(vf_half(VI_SHR(word, 16)), vf_from_int(mn)));
        break;
    }
    default: { /* Q6_K */
        uint32_t at = 2 * n + part;
        vi sc = vi_top_byte(vi_shl(plane_word(t->s, 4 * b + at / 4), 24 - 8 * (at % 4)));
        vf d = vf_half(vi_shr(plane_word(t->d, b / 2), 16 * (b % 2)));
        *scale = vf_mul(d, vf_from_int(sc));
        *offset = vf_mul(*scale, vf_set(-32));
        break;
    }
    }
}

/* Independent sums, so that few columns do not wait for the multiplier's latency. */
#define CHAINS(nc) ((nc) == 1 ? 4 : (nc) <= 3 ? 2 : 1)
#define MAX_NC     12

SIMD_INLINE void add_product(const int nc, vf w, const struct tile *t, uint32_t i_k, int chain,
                             vf sum[4][MAX_NC])
{
    for (int c = 0; c < nc; c++)
        sum[chain % CHAINS(nc)][c] =
            vf_fma(w, vf_set(t->x[c * t->x_stride + i_k]), sum[chain % CHAINS(nc)][c]);
}

SIMD_INLINE void add_bytes(const int fmt, const int nc, vi word, const struct tile *t, uint32_t i_k,
                           vf sum[4][MAX_NC])
{
    vi bytes[4];
    if (fmt == KEPT_FMT_Q8_0) {
        bytes[0] = vi_top_byte(vi_shl(word, 24));
        bytes[1] = vi_top_byte(vi_shl(word, 16));
        bytes[2] = vi_top_byte(vi_shl(word, 8));
        bytes[3] = vi_top_byte(word);
    } else {
        bytes[0] = vi_and(word, vi_set(0xFF));
        bytes[1] = vi_and(VI_SHR(word, 8), vi_set(0xFF));
        bytes[2] = vi_and(VI_SHR(word, 16), vi_set(0xFF));
        bytes[3] = VI_SHR(word, 24);
    }
    for (int i = 0; i < 4; i++)
        add_product(nc, vf_from_int(bytes[i]), t, i_k + (uint32_t)i, i, sum);
}

SIMD_INLINE void clear_sums(const int nc, vf sum[4][MAX_NC])
{
    for (int i = 0; i < CHAINS(nc); i++)
        for (int c = 0; c < nc; c++)
            sum[i][c] = vf_set(0);
}

SIMD_INLINE vf total(const int nc, vf sum[4][MAX_NC], int c)
{
    vf all = sum[0][c];
    for (int i = 1; i < CHAINS(nc); i++)
        all = vf_add(all, sum[i][c]);
    return all;
}

/* Weights come from memory only once, and the processor's own prefetching stops at each small page
 * and cannot know the next record: without this a core reads at half its rate. With more columns
 * the work hides it. The addresses may lie past the tensor: nothing is read. */
SIMD_INLINE void ask_ahead(const int nc, const struct tile *t, uint32_t sb)
{
    for (uint32_t i = 0; nc <= 2 && i < t->ahead_lines; i++)
        SIMD_PREFETCH((const void *)(t->ahead + ((size_t)sb * t->ahead_lines + i) * 64));
}

/* F32, F16, BF16: the words hold the elements themselves. */
SIMD_INLINE void plain_dot(const int fmt, const int nc, const struct tile *t, vf *acc)
{
    vf sum[4][MAX_NC];
    clear_sums(nc, sum);
    for (uint32_t i = 0; i < t->k; i += 4) {
        if (i % 32 == 0)
            ask_ahead(nc, t, i / 32);
        for (uint32_t j = 0; j < 4; j += 2) {
            vf a, b;
            if (fmt == KEPT_FMT_F32) {
                a = vf_bits(plane_word(t->q, i + j));
                b = vf_bits(plane_word(t->q, i + j + 1));
            } else {
                vi word = plane_word(t->q, (i + j) / 2);
                bool half = fmt == KEPT_FMT_F16;
                a = half ? vf_half(word) : vf_bits(vi_shl(word, 16));
                b = half ? vf_half(VI_SHR(word, 16)) : vf_bits(vi_and(word, vi_set(0xFFFF0000)));
            }
            add_product(nc, a, t, i + j, (int)j, sum);
            add_product(nc, b, t, i + j + 1, (int)j + 1, sum);
        }
    }
    for (int c = 0; c < nc; c++)
        acc[c] = total(nc, sum, c);
}

/* acc[c] = the 16 rows of the tile times column c. */
SIMD_INLINE void tile_dot(const int fmt, const int nc, const struct tile *t, vf *acc)
{
    const uint32_t parts = fmt == KEPT_FMT_Q6_K ? 2 : 1, words = 8 / parts;
    vf sum[4][MAX_NC], scale, offset;
    if (fmt <= KEPT_FMT_BF16) {
        plain_dot(fmt, nc, t, acc);
        return;
    }
    for (int c = 0; c < nc; c++)
        acc[c] = vf_set(0);
    for (uint32_t sb = 0; sb < t->k / 32; sb++) {
        ask_ahead(nc, t, sb);
        for (uint32_t part = 0; part < parts; part++) {
            clear_sums(nc, sum);
            for (uint32_t j = part * words; j < (part + 1) * words; j++)
                add_bytes(fmt, nc, word_of(fmt, t, sb, j), t, 32 * sb + 4 * j, sum);
            scale_of(fmt, t, sb, part, &scale, &offset);
            for (int c = 0; c < nc; c++) {
                acc[c] = vf_fma(scale, total(nc, sum, c), acc[c]);
                if (fmt == KEPT_FMT_Q8_0)
                    continue;
                const float *sums = t->x + c * t->x_stride + t->k + 2 * sb + part;
                acc[c] = vf_fma(offset, vf_set(parts == 2 ? sums[0] : sums[0] + sums[1]), acc[c]);
            }
        }
    }
}

#endif

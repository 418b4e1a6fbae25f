/* backend/cpu/simd_avx512.h: simd.h for AVX-512 (F, BW, DQ, VL): one register a vector. */
#ifndef KEPT_BACKEND_CPU_SIMD_AVX512_H
#define KEPT_BACKEND_CPU_SIMD_AVX512_H

#include "backend/cpu/simd_base.h"

#if CPU_SIMD == 512 /* else empty: the compiler lacks the flags */

#include <immintrin.h>

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

#define VI_SHR(v, n) _mm512_srli_epi32(v, n)

SIMD_INLINE vf vf_set(float a)
{
    return _mm512_set1_ps(a);
}
SIMD_INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
SIMD_INLINE void vf_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
SIMD_INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
SIMD_INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
SIMD_INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
SIMD_INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
SIMD_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/* b where either is NaN */
SIMD_INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
SIMD_INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
SIMD_INLINE vf vf_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
SIMD_INLINE float vf_hsum(vf a)
{
    return _mm512_reduce_add_ps(a);
}
SIMD_INLINE float vf_hmax(vf a)
{
    return _mm512_reduce_max_ps(a);
}
SIMD_INLINE vi vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
SIMD_INLINE vi vi_set(uint32_t a)
{
    return _mm512_set1_epi32((int)a);
}
SIMD_INLINE vi vi_iota(void)
{
    return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}
SIMD_INLINE vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
SIMD_INLINE vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
SIMD_INLINE vi vi_xor(vi a, vi b)
{
    return _mm512_xor_si512(a, b);
}
SIMD_INLINE vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
SIMD_INLINE vi vi_shr(vi a, uint32_t n)
{
    return _mm512_srl_epi32(a, _mm_cvtsi32_si128((int)n));
}
SIMD_INLINE vi vi_shl(vi a, uint32_t n)
{
    return _mm512_sll_epi32(a, _mm_cvtsi32_si128((int)n));
}
/* The sign-extended highest byte. */
SIMD_INLINE vi vi_top_byte(vi a)
{
    return _mm512_srai_epi32(a, 24);
}
SIMD_INLINE vf vf_from_int(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
SIMD_INLINE vi vi_round(vf a)
{
    return _mm512_cvtps_epi32(a);
}
SIMD_INLINE vf vf_bits(vi a)
{
    return _mm512_castsi512_ps(a);
}
SIMD_INLINE vi vi_bits(vf a)
{
    return _mm512_castps_si512(a);
}
/* a * 2^n, gradually to 0 */
SIMD_INLINE vf vf_scale(vf a, vi n)
{
    return _mm512_scalef_ps(a, _mm512_cvtepi32_ps(n));
}
/* One f16. */
SIMD_INLINE float simd_from_half(uint16_t a)
{
    return _cvtsh_ss(a);
}
SIMD_INLINE uint16_t simd_to_half(float a)
{
    return _cvtss_sh(a, 0);
}
/* The low f16 of each word. */
SIMD_INLINE vf vf_half(vi a)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}
SIMD_INLINE vf vf_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
SIMD_INLINE void vf_store_half(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, 0));
}
/* 16 bytes, zero-extended. */
SIMD_INLINE vi vi_load_bytes(const void *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
}
/* 16 i8. */
SIMD_INLINE vf vf_load_i8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
/* The low byte of each word. */
SIMD_INLINE void vi_store_bytes(void *p, vi a)
{
    _mm_storeu_si128(p, _mm512_cvtepi32_epi8(a));
}
/* Towards 0. */
SIMD_INLINE vi vi_trunc(vf a)
{
    return _mm512_cvttps_epi32(a);
}
/* Byte i (a constant) of each word as i8, times 2^24. */
SIMD_INLINE vf vf_byte(vi a, const int i)
{
    const int at = i << 24 | 0x808080;
    const __m512i move = _mm512_set4_epi32(at + (12 << 24), at + (8 << 24), at + (4 << 24), at);
    return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(a, move));
}
/* The low 4 bits of each word, less 8. */
SIMD_INLINE vf vf_nibble(vi a)
{
    return _mm512_permutexvar_ps(
        a, _mm512_set_ps(7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -7, -8));
}
/* Lane i and its partner i ^ step (1, 2, 4, 8, a constant) become their sum and difference. */
SIMD_INLINE vf vf_butterfly(vf a, const int step)
{
    __m512 other = step == 1   ? _mm512_permute_ps(a, 0xB1)
                   : step == 2 ? _mm512_permute_ps(a, 0x4E)
                   : step == 4 ? _mm512_shuffle_f32x4(a, a, 0xB1)
                               : _mm512_shuffle_f32x4(a, a, 0x4E);
    const __mmask16 high = step == 1 ? 0xAAAA : step == 2 ? 0xCCCC : step == 4 ? 0xF0F0 : 0xFF00;
    return _mm512_mask_sub_ps(_mm512_add_ps(a, other), high, other, a);
}
/* Rows become columns. */
SIMD_INLINE void vf_transpose(vf r[16])
{
    for (int i = 0; i < 16; i += 4) {
        vf a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        vf c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        __m512d ad = _mm512_castps_pd(a), bd = _mm512_castps_pd(b);
        __m512d cd = _mm512_castps_pd(c), dd = _mm512_castps_pd(d);
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(ad, cd));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ad, cd));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(bd, dd));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(bd, dd));
    }
    for (int i = 0; i < 4; i++) { /* quarter q of r[4 g + i]: rows 4 g … of column 4 q + i */
        vf a = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x44);
        vf b = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xEE);
        vf c = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x44);
        vf d = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xEE);
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[4 + i] = _mm512_shuffle_f32x4(a, c, 0xDD);
        r[8 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(b, d, 0xDD);
    }
}
SIMD_INLINE vm vm_le(vi a, vi b)
{
    return _mm512_cmple_epi32_mask(a, b);
}
SIMD_INLINE vm vm_lt(vi a, vi b)
{
    return _mm512_cmplt_epi32_mask(a, b);
}
/* False where either is NaN. */
SIMD_INLINE vm vm_less(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
SIMD_INLINE vm vm_and(vm a, vm b)
{
    return (vm)(a & b);
}
SIMD_INLINE vm vm_or(vm a, vm b)
{
    return (vm)(a | b);
}
SIMD_INLINE uint32_t vm_bits(vm a)
{
    return a;
}
SIMD_INLINE vf vf_select(vm m, vf yes, vf no)
{
    return _mm512_mask_blend_ps(m, no, yes);
}

#endif

#endif

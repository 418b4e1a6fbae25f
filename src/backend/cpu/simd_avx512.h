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
SIMD_INLINE vm vm_le(vi a, vi b)
{
    return _mm512_cmple_epi32_mask(a, b);
}
SIMD_INLINE vm vm_lt(vi a, vi b)
{
    return _mm512_cmplt_epi32_mask(a, b);
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

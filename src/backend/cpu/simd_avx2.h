/* backend/cpu/simd_avx2.h: simd.h for AVX2, FMA and F16C: a pair of registers a vector. */
#ifndef KEPT_BACKEND_CPU_SIMD_AVX2_H
#define KEPT_BACKEND_CPU_SIMD_AVX2_H

#include "backend/cpu/simd_base.h"

#if CPU_SIMD == 256 /* else empty: the compiler lacks the flags */

#include <immintrin.h>

typedef struct {
    __m256 a, b;
} vf;
typedef struct {
    __m256i a, b;
} vi, vm;

#define SIMD_PAIR(type, fn, x, y) ((type){fn((x).a, (y).a), fn((x).b, (y).b)})
#define VI_SHR(v, n)              ((vi){_mm256_srli_epi32((v).a, n), _mm256_srli_epi32((v).b, n)})

SIMD_INLINE vf vf_set(float a)
{
    return (vf){_mm256_set1_ps(a), _mm256_set1_ps(a)};
}
SIMD_INLINE vf vf_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
SIMD_INLINE void vf_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a.a);
    _mm256_storeu_ps(p + 8, a.b);
}
SIMD_INLINE vf vf_add(vf a, vf b)
{
    return SIMD_PAIR(vf, _mm256_add_ps, a, b);
}
SIMD_INLINE vf vf_sub(vf a, vf b)
{
    return SIMD_PAIR(vf, _mm256_sub_ps, a, b);
}
SIMD_INLINE vf vf_mul(vf a, vf b)
{
    return SIMD_PAIR(vf, _mm256_mul_ps, a, b);
}
SIMD_INLINE vf vf_div(vf a, vf b)
{
    return SIMD_PAIR(vf, _mm256_div_ps, a, b);
}
SIMD_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return (vf){_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)};
}
SIMD_INLINE vf vf_max(vf a, vf b)
{
    return SIMD_PAIR(vf, _mm256_max_ps, a, b);
}
SIMD_INLINE vf vf_min(vf a, vf b)
{
    return SIMD_PAIR(vf, _mm256_min_ps, a, b);
}
SIMD_INLINE vf vf_sqrt(vf a)
{
    return (vf){_mm256_sqrt_ps(a.a), _mm256_sqrt_ps(a.b)};
}
SIMD_INLINE float vf_hsum(vf v)
{
    __m256 s = _mm256_add_ps(v.a, v.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
SIMD_INLINE float vf_hmax(vf v)
{
    __m256 s = _mm256_max_ps(v.a, v.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
SIMD_INLINE vi vi_load(const void *p)
{
    const __m256i *at = p;
    return (vi){_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
SIMD_INLINE vi vi_set(uint32_t a)
{
    return (vi){_mm256_set1_epi32((int)a), _mm256_set1_epi32((int)a)};
}
SIMD_INLINE vi vi_iota(void)
{
    return (vi){_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0),
                _mm256_set_epi32(15, 14, 13, 12, 11, 10, 9, 8)};
}
SIMD_INLINE vi vi_and(vi a, vi b)
{
    return SIMD_PAIR(vi, _mm256_and_si256, a, b);
}
SIMD_INLINE vi vi_or(vi a, vi b)
{
    return SIMD_PAIR(vi, _mm256_or_si256, a, b);
}
SIMD_INLINE vi vi_xor(vi a, vi b)
{
    return SIMD_PAIR(vi, _mm256_xor_si256, a, b);
}
SIMD_INLINE vi vi_add(vi a, vi b)
{
    return SIMD_PAIR(vi, _mm256_add_epi32, a, b);
}
SIMD_INLINE vi vi_shr(vi a, uint32_t n)
{
    __m128i count = _mm_cvtsi32_si128((int)n);
    return (vi){_mm256_srl_epi32(a.a, count), _mm256_srl_epi32(a.b, count)};
}
SIMD_INLINE vi vi_shl(vi a, uint32_t n)
{
    __m128i count = _mm_cvtsi32_si128((int)n);
    return (vi){_mm256_sll_epi32(a.a, count), _mm256_sll_epi32(a.b, count)};
}
SIMD_INLINE vi vi_top_byte(vi a)
{
    return (vi){_mm256_srai_epi32(a.a, 24), _mm256_srai_epi32(a.b, 24)};
}
SIMD_INLINE vf vf_from_int(vi a)
{
    return (vf){_mm256_cvtepi32_ps(a.a), _mm256_cvtepi32_ps(a.b)};
}
SIMD_INLINE vi vi_round(vf a)
{
    return (vi){_mm256_cvtps_epi32(a.a), _mm256_cvtps_epi32(a.b)};
}
SIMD_INLINE vf vf_bits(vi a)
{
    return (vf){_mm256_castsi256_ps(a.a), _mm256_castsi256_ps(a.b)};
}
SIMD_INLINE vi vi_bits(vf a)
{
    return (vi){_mm256_castps_si256(a.a), _mm256_castps_si256(a.b)};
}
/* In two steps, so that each power of two is a normal number. */
SIMD_INLINE __m256 simd_scale8(__m256 a, __m256i n)
{
    __m256i half = _mm256_srai_epi32(n, 1), bias = _mm256_set1_epi32(127);
    __m256i rest = _mm256_sub_epi32(n, half);
    __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, first), second);
}
SIMD_INLINE vf vf_scale(vf a, vi n)
{
    return (vf){simd_scale8(a.a, n.a), simd_scale8(a.b, n.b)};
}
SIMD_INLINE float simd_from_half(uint16_t a)
{
    return _cvtsh_ss(a);
}
SIMD_INLINE uint16_t simd_to_half(float a)
{
    return _cvtss_sh(a, 0);
}
SIMD_INLINE __m256 simd_half8(__m256i a)
{
    __m256i low = _mm256_and_si256(a, _mm256_set1_epi32(0xFFFF));
    __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    return _mm256_cvtph_ps(packed);
}
SIMD_INLINE vf vf_half(vi a)
{
    return (vf){simd_half8(a.a), simd_half8(a.b)};
}
SIMD_INLINE vf vf_load_half(const uint16_t *p)
{
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
SIMD_INLINE void vf_store_half(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.a, 0));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.b, 0));
}
SIMD_INLINE vi vi_load_bytes(const void *p)
{
    __m128i bytes = _mm_loadu_si128(p);
    return (vi){_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
SIMD_INLINE vf vf_load_i8(const void *p)
{
    __m128i bytes = _mm_loadu_si128(p);
    return (vf){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
SIMD_INLINE __m128i simd_low_bytes8(__m256i a)
{
    a = _mm256_and_si256(a, _mm256_set1_epi32(0xFF));
    return _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
SIMD_INLINE void vi_store_bytes(void *p, vi a)
{
    _mm_storeu_si128(p, _mm_packus_epi16(simd_low_bytes8(a.a), simd_low_bytes8(a.b)));
}
SIMD_INLINE vi vi_trunc(vf a)
{
    return (vi){_mm256_cvttps_epi32(a.a), _mm256_cvttps_epi32(a.b)};
}
SIMD_INLINE vf vf_byte(vi a, const int i)
{
    const int at = i << 24 | 0x808080, to[] = {at, at + (4 << 24), at + (8 << 24), at + (12 << 24)};
    const __m256i move = _mm256_setr_epi32(to[0], to[1], to[2], to[3], to[0], to[1], to[2], to[3]);
    return (vf){_mm256_cvtepi32_ps(_mm256_shuffle_epi8(a.a, move)),
                _mm256_cvtepi32_ps(_mm256_shuffle_epi8(a.b, move))};
}
/* As bits of 2^23 + q, less 2^23 + 8. */
SIMD_INLINE __m256 simd_nibble8(__m256i a)
{
    __m256i bits =
        _mm256_or_si256(_mm256_and_si256(a, _mm256_set1_epi32(15)), _mm256_set1_epi32(0x4B000000));
    return _mm256_sub_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(8388616));
}
SIMD_INLINE vf vf_nibble(vi a)
{
    return (vf){simd_nibble8(a.a), simd_nibble8(a.b)};
}
SIMD_INLINE __m256 simd_butterfly8(__m256 a, __m256 other, const int high)
{
    return _mm256_blend_ps(_mm256_add_ps(a, other), _mm256_sub_ps(other, a), high);
}
SIMD_INLINE vf vf_butterfly(vf a, const int step)
{
    if (step == 1)
        return (vf){simd_butterfly8(a.a, _mm256_permute_ps(a.a, 0xB1), 0xAA),
                    simd_butterfly8(a.b, _mm256_permute_ps(a.b, 0xB1), 0xAA)};
    if (step == 2)
        return (vf){simd_butterfly8(a.a, _mm256_permute_ps(a.a, 0x4E), 0xCC),
                    simd_butterfly8(a.b, _mm256_permute_ps(a.b, 0x4E), 0xCC)};
    if (step == 4)
        return (vf){simd_butterfly8(a.a, _mm256_permute2f128_ps(a.a, a.a, 1), 0xF0),
                    simd_butterfly8(a.b, _mm256_permute2f128_ps(a.b, a.b, 1), 0xF0)};
    return (vf){_mm256_add_ps(a.a, a.b), _mm256_sub_ps(a.a, a.b)};
}
SIMD_INLINE vm vm_lt(vi a, vi b)
{
    return SIMD_PAIR(vm, _mm256_cmpgt_epi32, b, a);
}
SIMD_INLINE void simd_transpose4(__m256 *a, __m256 *b, __m256 *c, __m256 *d)
{
    __m256d e = _mm256_castps_pd(_mm256_unpacklo_ps(*a, *b));
    __m256d f = _mm256_castps_pd(_mm256_unpackhi_ps(*a, *b));
    __m256d g = _mm256_castps_pd(_mm256_unpacklo_ps(*c, *d));
    __m256d h = _mm256_castps_pd(_mm256_unpackhi_ps(*c, *d));
    *a = _mm256_castpd_ps(_mm256_unpacklo_pd(e, g));
    *b = _mm256_castpd_ps(_mm256_unpackhi_pd(e, g));
    *c = _mm256_castpd_ps(_mm256_unpacklo_pd(f, h));
    *d = _mm256_castpd_ps(_mm256_unpackhi_pd(f, h));
}
/* Rows become columns. */
SIMD_INLINE void vf_transpose(vf r[16])
{
    for (int i = 0; i < 16; i += 4) {
        simd_transpose4(&r[i].a, &r[i + 1].a, &r[i + 2].a, &r[i + 3].a);
        simd_transpose4(&r[i].b, &r[i + 1].b, &r[i + 2].b, &r[i + 3].b);
    }
    for (int i = 0; i < 4; i++) { /* quarter q of r[4 g + i]: rows 4 g … of column 4 q + i */
        vf a = r[i], b = r[4 + i], c = r[8 + i], d = r[12 + i];
        r[i] = (vf){_mm256_permute2f128_ps(a.a, b.a, 0x20), _mm256_permute2f128_ps(c.a, d.a, 0x20)};
        r[4 + i] =
            (vf){_mm256_permute2f128_ps(a.a, b.a, 0x31), _mm256_permute2f128_ps(c.a, d.a, 0x31)};
        r[8 + i] =
            (vf){_mm256_permute2f128_ps(a.b, b.b, 0x20), _mm256_permute2f128_ps(c.b, d.b, 0x20)};
        r[12 + i] =
            (vf){_mm256_permute2f128_ps(a.b, b.b, 0x31), _mm256_permute2f128_ps(c.b, d.b, 0x31)};
    }
}
SIMD_INLINE vm vm_le(vi a, vi b)
{
    __m256i ones = _mm256_set1_epi32(-1);
    return (vm){_mm256_xor_si256(_mm256_cmpgt_epi32(a.a, b.a), ones),
                _mm256_xor_si256(_mm256_cmpgt_epi32(a.b, b.b), ones)};
}
SIMD_INLINE vm vm_less(vf a, vf b)
{
    return (vm){_mm256_castps_si256(_mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
                _mm256_castps_si256(_mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
}
SIMD_INLINE vm vm_and(vm a, vm b)
{
    return SIMD_PAIR(vm, _mm256_and_si256, a, b);
}
SIMD_INLINE vm vm_or(vm a, vm b)
{
    return SIMD_PAIR(vm, _mm256_or_si256, a, b);
}
SIMD_INLINE uint32_t vm_bits(vm a)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(a.a)) |
           (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(a.b)) << 8;
}
SIMD_INLINE vf vf_select(vm m, vf yes, vf no)
{
    return (vf){_mm256_blendv_ps(no.a, yes.a, _mm256_castsi256_ps(m.a)),
                _mm256_blendv_ps(no.b, yes.b, _mm256_castsi256_ps(m.b))};
}

#endif

#endif

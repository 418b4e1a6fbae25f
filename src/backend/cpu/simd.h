/* backend/cpu/simd.h: vectors of 16 rows, three times.
 *
 * vf holds 16 floats, vi 16 words, vm 16 truth values: one register with AVX-512, two with AVX2, an
 * array in portable C (which compilers turn into what the target has). The fast forms are written
 * once against this header and compiled per instruction set: CPU_SIMD is 512, 256 or 0, and
 * CPU_NAME(x) makes the names of one set.
 *
 * VI_SHR takes a literal count, vi_shr and vi_shl any count.
 */
#ifndef KEPT_BACKEND_CPU_SIMD_H
#define KEPT_BACKEND_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define SIMD_INLINE      static inline __attribute__((always_inline))
#define SIMD_PREFETCH(p) __builtin_prefetch(p)
#else
#define SIMD_INLINE      static inline
#define SIMD_PREFETCH(p) ((void)(p))
#endif

#if CPU_SIMD == 512
#define CPU_NAME(x) cpu_avx512_##x
#elif CPU_SIMD == 256
#define CPU_NAME(x) cpu_avx2_##x
#else
#define CPU_NAME(x) cpu_portable_##x
#endif

#if CPU_SIMD == 512

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

#elif CPU_SIMD == 256

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
SIMD_INLINE vm vm_lt(vi a, vi b)
{
    return SIMD_PAIR(vm, _mm256_cmpgt_epi32, b, a);
}
SIMD_INLINE vm vm_le(vi a, vi b)
{
    __m256i ones = _mm256_set1_epi32(-1);
    return (vm){_mm256_xor_si256(_mm256_cmpgt_epi32(a.a, b.a), ones),
                _mm256_xor_si256(_mm256_cmpgt_epi32(a.b, b.b), ones)};
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

#else

#include "base/half.h"

/* A sanitizer would take minutes over the thousands of arrays that inlining makes. */
#if defined(__SANITIZE_ADDRESS__)
#define SIMD_STEP __attribute__((noinline, unused)) static
#else
#define SIMD_STEP SIMD_INLINE
#endif

typedef struct {
    float v[16];
} vf;
typedef struct {
    uint32_t v[16];
} vi, vm;

#define SIMD_EACH(type, expression) \
    type r;                         \
    for (int i = 0; i < 16; i++)    \
        r.v[i] = expression;        \
    return r
#define VI_SHR(v, n) vi_shr(v, n)

SIMD_STEP vf vf_set(float a)
{
    SIMD_EACH(vf, a);
}
SIMD_STEP vf vf_load(const float *p)
{
    SIMD_EACH(vf, p[i]);
}
SIMD_STEP void vf_store(float *p, vf a)
{
    for (int i = 0; i < 16; i++)
        p[i] = a.v[i];
}
SIMD_STEP vf vf_add(vf a, vf b)
{
    SIMD_EACH(vf, a.v[i] + b.v[i]);
}
SIMD_STEP vf vf_sub(vf a, vf b)
{
    SIMD_EACH(vf, a.v[i] - b.v[i]);
}
SIMD_STEP vf vf_mul(vf a, vf b)
{
    SIMD_EACH(vf, a.v[i] * b.v[i]);
}
SIMD_STEP vf vf_div(vf a, vf b)
{
    SIMD_EACH(vf, a.v[i] / b.v[i]);
}
SIMD_STEP vf vf_fma(vf a, vf b, vf c)
{
    SIMD_EACH(vf, a.v[i] * b.v[i] + c.v[i]);
}
SIMD_STEP vf vf_max(vf a, vf b)
{
    SIMD_EACH(vf, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
SIMD_STEP vf vf_min(vf a, vf b)
{
    SIMD_EACH(vf, a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}
SIMD_STEP float vf_hsum(vf a)
{
    float sum = 0;
    for (int i = 0; i < 16; i++)
        sum += a.v[i];
    return sum;
}
SIMD_STEP float vf_hmax(vf a)
{
    float max = a.v[0];
    for (int i = 1; i < 16; i++)
        max = a.v[i] > max ? a.v[i] : max;
    return max;
}
SIMD_STEP vi vi_load(const void *p)
{
    vi r;
    memcpy(&r, p, sizeof r);
    return r;
}
SIMD_STEP vi vi_set(uint32_t a)
{
    SIMD_EACH(vi, a);
}
SIMD_STEP vi vi_iota(void)
{
    SIMD_EACH(vi, (uint32_t)i);
}
SIMD_STEP vi vi_and(vi a, vi b)
{
    SIMD_EACH(vi, a.v[i] & b.v[i]);
}
SIMD_STEP vi vi_or(vi a, vi b)
{
    SIMD_EACH(vi, a.v[i] | b.v[i]);
}
SIMD_STEP vi vi_add(vi a, vi b)
{
    SIMD_EACH(vi, a.v[i] + b.v[i]);
}
SIMD_STEP vi vi_shr(vi a, uint32_t n)
{
    SIMD_EACH(vi, a.v[i] >> n);
}
SIMD_STEP vi vi_shl(vi a, uint32_t n)
{
    SIMD_EACH(vi, a.v[i] << n);
}
SIMD_STEP vi vi_top_byte(vi a)
{
    SIMD_EACH(vi, (uint32_t)(int32_t)(int8_t)(a.v[i] >> 24));
}
SIMD_STEP vf vf_from_int(vi a)
{
    SIMD_EACH(vf, (float)(int32_t)a.v[i]);
}
SIMD_STEP vi vi_round(vf a)
{
    SIMD_EACH(vi, a.v[i] == a.v[i] ? (uint32_t)(int32_t)rintf(a.v[i]) : 0);
}
SIMD_STEP vf vf_bits(vi a)
{
    vf r;
    memcpy(&r, &a, sizeof r);
    return r;
}
SIMD_STEP vi vi_bits(vf a)
{
    vi r;
    memcpy(&r, &a, sizeof r);
    return r;
}
SIMD_STEP vf vf_scale(vf a, vi n)
{
    SIMD_EACH(vf, ldexpf(a.v[i], (int32_t)n.v[i]));
}
SIMD_STEP vf vf_half(vi a)
{
    SIMD_EACH(vf, kept_f16_to_f32((uint16_t)a.v[i]));
}
SIMD_STEP vf vf_load_half(const uint16_t *p)
{
    SIMD_EACH(vf, kept_f16_to_f32(p[i]));
}
SIMD_STEP void vf_store_half(uint16_t *p, vf a)
{
    for (int i = 0; i < 16; i++)
        p[i] = kept_f32_to_f16(a.v[i]);
}
SIMD_STEP vm vm_le(vi a, vi b)
{
    SIMD_EACH(vm, (int32_t)a.v[i] <= (int32_t)b.v[i]);
}
SIMD_STEP vm vm_lt(vi a, vi b)
{
    SIMD_EACH(vm, (int32_t)a.v[i] < (int32_t)b.v[i]);
}
SIMD_STEP vm vm_and(vm a, vm b)
{
    SIMD_EACH(vm, a.v[i] & b.v[i]);
}
SIMD_STEP vm vm_or(vm a, vm b)
{
    SIMD_EACH(vm, a.v[i] | b.v[i]);
}
SIMD_STEP uint32_t vm_bits(vm a)
{
    uint32_t bits = 0;
    for (int i = 0; i < 16; i++)
        bits |= a.v[i] << i;
    return bits;
}
SIMD_STEP vf vf_select(vm m, vf yes, vf no)
{
    SIMD_EACH(vf, m.v[i] ? yes.v[i] : no.v[i]);
}

#endif

/* e^x to about 1.5 ulp, gradually to 0 below -87 and infinite above 88.7: x = n ln 2 + r, |r| <= ln
 * 2 / 2, e^r by a polynomial of degree 6 (Cephes' expf). NaN stays NaN. */
SIMD_INLINE vf vf_exp(vf x)
{
    x = vf_max(vf_set(-110), vf_min(vf_set(89), x));
    vi n = vi_round(vf_mul(x, vf_set(1.44269504088896341f)));
    vf fn = vf_from_int(n);
    vf r = vf_fma(fn, vf_set(-0.693359375f), x);
    r = vf_fma(fn, vf_set(2.12194440e-4f), r);
    vf p = vf_set(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set(1)));
    return vf_scale(p, n);
}

/* v / (1 + e^(-z)), by e^(-|z|), which never overflows. */
SIMD_INLINE vf vf_gate(vf v, vf z)
{
    vf e = vf_exp(vf_bits(vi_or(vi_bits(z), vi_set(0x80000000))));
    vf top = vf_select(vm_lt(vi_bits(z), vi_set(0)), e, vf_set(1));
    return vf_div(vf_mul(v, top), vf_add(vf_set(1), e));
}

SIMD_INLINE vf vf_silu(vf v)
{
    return vf_gate(v, v);
}

/* The tanh form: 0.5 v (1 + tanh(z / 2)) = v / (1 + e^(-z)). */
SIMD_INLINE vf vf_gelu(vf v)
{
    vf cube = vf_mul(v, vf_mul(v, v));
    return vf_gate(v, vf_mul(vf_set(1.5957691216057308f), vf_fma(cube, vf_set(0.044715f), v)));
}

#endif

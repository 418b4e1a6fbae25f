/* backend/cpu/simd_portable.h: simd.h in plain C: an array a vector. */
#ifndef KEPT_BACKEND_CPU_SIMD_PORTABLE_H
#define KEPT_BACKEND_CPU_SIMD_PORTABLE_H

#include "backend/cpu/simd_base.h"

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
SIMD_STEP vf vf_sqrt(vf a)
{
    SIMD_EACH(vf, sqrtf(a.v[i]));
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
SIMD_STEP vi vi_xor(vi a, vi b)
{
    SIMD_EACH(vi, a.v[i] ^ b.v[i]);
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
    SIMD_EACH(vi, fabsf(a.v[i]) < 2147483520.0f ? (uint32_t)(int32_t)rintf(a.v[i]) : 0);
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
SIMD_INLINE float simd_from_half(uint16_t a)
{
    return kept_f16_to_f32(a);
}
SIMD_INLINE uint16_t simd_to_half(float a)
{
    return kept_f32_to_f16(a);
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
SIMD_STEP vi vi_load_bytes(const void *p)
{
    SIMD_EACH(vi, ((const uint8_t *)p)[i]);
}
SIMD_STEP vf vf_load_i8(const void *p)
{
    SIMD_EACH(vf, ((const int8_t *)p)[i]);
}
SIMD_STEP void vi_store_bytes(void *p, vi a)
{
    for (int i = 0; i < 16; i++)
        ((uint8_t *)p)[i] = (uint8_t)a.v[i];
}
/* 0 for what no word holds. */
SIMD_STEP vi vi_trunc(vf a)
{
    SIMD_EACH(vi, fabsf(a.v[i]) < 2147483648.0f ? (uint32_t)(int32_t)a.v[i] : 0);
}
SIMD_STEP vf vf_byte(vi a, const int byte)
{
    SIMD_EACH(vf, (float)(int8_t)(uint8_t)(a.v[i] >> 8 * byte) * 16777216);
}
SIMD_STEP vf vf_nibble(vi a)
{
    SIMD_EACH(vf, (float)((int)(a.v[i] & 15) - 8));
}
SIMD_STEP vf vf_butterfly(vf a, const int step)
{
    SIMD_EACH(vf, (i & step) == 0 ? a.v[i] + a.v[i ^ step] : a.v[i ^ step] - a.v[i]);
}
/* Rows become columns. */
SIMD_STEP void vf_transpose(vf r[16])
{
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < i; j++) {
            float a = r[i].v[j];
            r[i].v[j] = r[j].v[i];
            r[j].v[i] = a;
        }
}
SIMD_STEP vm vm_le(vi a, vi b)
{
    SIMD_EACH(vm, (int32_t)a.v[i] <= (int32_t)b.v[i]);
}
SIMD_STEP vm vm_lt(vi a, vi b)
{
    SIMD_EACH(vm, (int32_t)a.v[i] < (int32_t)b.v[i]);
}
SIMD_STEP vm vm_less(vf a, vf b)
{
    SIMD_EACH(vm, a.v[i] < b.v[i]);
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

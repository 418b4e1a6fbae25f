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

#include "backend/cpu/simd_base.h"

#if CPU_SIMD == 512
#include "backend/cpu/simd_avx512.h"
#elif CPU_SIMD == 256
#include "backend/cpu/simd_avx2.h"
#else
#include "backend/cpu/simd_portable.h"
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

/* ln x of x >= 0 to about 2 ulp: x = 2^n m, sqrt(1/2) <= m < sqrt(2), by a polynomial of degree 8
 * (Cephes' logf). 0 and denormals become -infinity; NaN and infinity stay. */
SIMD_INLINE vf vf_log(vf x)
{
    const vi bits = vi_and(vi_bits(x), vi_set(0x7FFFFFFF));
    vi n = vi_add(vi_shr(vi_add(bits, vi_set(0x3F800000 - 0x3F3504F3)), 23), vi_set(0u - 127));
    vi one = vi_add(bits, vi_shl(vi_add(vi_xor(n, vi_set(~0u)), vi_set(1)), 23));
    vf m = vf_sub(vf_bits(one), vf_set(1)), fn = vf_from_int(n), square = vf_mul(m, m);
    vf p = vf_set(7.0376836292e-2f);
    p = vf_fma(p, m, vf_set(-1.1514610310e-1f));
    p = vf_fma(p, m, vf_set(1.1676998740e-1f));
    p = vf_fma(p, m, vf_set(-1.2420140846e-1f));
    p = vf_fma(p, m, vf_set(1.4249322787e-1f));
    p = vf_fma(p, m, vf_set(-1.6668057665e-1f));
    p = vf_fma(p, m, vf_set(2.0000714765e-1f));
    p = vf_fma(p, m, vf_set(-2.4999993993e-1f));
    p = vf_fma(p, m, vf_set(3.3333331174e-1f));
    p = vf_mul(p, vf_mul(m, square));
    p = vf_fma(fn, vf_set(-2.12194440e-4f), p);
    p = vf_fma(square, vf_set(-0.5f), p);
    p = vf_fma(fn, vf_set(0.693359375f), vf_add(m, p));
    p = vf_select(vm_lt(bits, vi_set(0x7F800000)), p, x);
    return vf_select(vm_lt(bits, vi_set(0x00800000)), vf_set(-INFINITY), p);
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

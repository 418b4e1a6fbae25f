/* backend/cpu/simd_base.h: what every instruction set shares: inlining, prefetching, names. */
#ifndef KEPT_BACKEND_CPU_SIMD_BASE_H
#define KEPT_BACKEND_CPU_SIMD_BASE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define SIMD_INLINE      static inline __attribute__((always_inline))
#define SIMD_APART       __attribute__((noinline)) static
#define SIMD_PREFETCH(p) __builtin_prefetch(p)
#else
#define SIMD_INLINE      static inline
#define SIMD_APART       static
#define SIMD_PREFETCH(p) ((void)(p))
#endif

#if CPU_SIMD == 512
#define CPU_NAME(x) cpu_avx512_##x
#elif CPU_SIMD == 256
#define CPU_NAME(x) cpu_avx2_##x
#else
#define CPU_NAME(x) cpu_portable_##x
#endif

#endif

/* backend/cpu/cpu_dispatch.c: which fast forms this machine can run, asked of the processor and the
 * system (saved registers), best first. Other processors than x86-64 take the portable form. */
#include <stdbool.h>
#include <stddef.h>

#include "backend/cpu/cpu.h"

extern const struct cpu_fast cpu_portable_table;

#if defined(CPU_HAVE_X86)

extern const struct cpu_fast cpu_avx512_table, cpu_avx2_table;

/* The compiler's runtime looks at cpuid and xgetbv. */
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const struct cpu_fast *cpu_fast_at(uint32_t i)
{
    if (has_avx512() && i-- == 0)
        return &cpu_avx512_table;
    if (has_avx2() && i-- == 0)
        return &cpu_avx2_table;
    return i == 0 ? &cpu_portable_table : NULL;
}

#else

const struct cpu_fast *cpu_fast_at(uint32_t i)
{
    return i == 0 ? &cpu_portable_table : NULL;
}

#endif

const struct cpu_fast *cpu_fast_best(void)
{
    return cpu_fast_at(0);
}

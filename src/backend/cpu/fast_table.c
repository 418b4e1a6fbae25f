/* backend/cpu/fast_table.c: the table of one instruction set. embed has no fast form: it copies one
 * row a token. */
#include "backend/cpu/fast.h"

#if CPU_SIMD == 512
#define SET_NAME "AVX-512"
#elif CPU_SIMD == 256
#define SET_NAME "AVX2"
#else
#define SET_NAME "portable C"
#endif

const struct cpu_fast CPU_NAME(table) = {
    .name = SET_NAME,
    .kernels =
        {
            [KEPT_KERNEL_NORM] = CPU_NAME(norm),
            [KEPT_KERNEL_MATVEC] = CPU_NAME(matvec),
            [KEPT_KERNEL_MATMAT] = CPU_NAME(matmat),
            [KEPT_KERNEL_SLOT_WRITE] = CPU_NAME(slot_write),
            [KEPT_KERNEL_ATTN_DECODE] = CPU_NAME(attn_decode),
            [KEPT_KERNEL_ATTN_PREFILL] = CPU_NAME(attn_prefill),
            [KEPT_KERNEL_ATTN_MERGE] = CPU_NAME(attn_merge),
            [KEPT_KERNEL_GLU] = CPU_NAME(glu),
            [KEPT_KERNEL_ARGMAX] = CPU_NAME(argmax),
        },
};

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
            [KEPT_KERNEL_ATTN_PEAK] = CPU_NAME(attn_peak),
            [KEPT_KERNEL_Q_STATS] = CPU_NAME(q_stats),
            [KEPT_KERNEL_SCORE_EXPECTED] = CPU_NAME(score_expected),
            [KEPT_KERNEL_SCORE_KEYDIFF] = CPU_NAME(score_keydiff),
            [KEPT_KERNEL_ASSOC_RAW] = CPU_NAME(assoc_raw),
            [KEPT_KERNEL_ASSOC_MATCH] = CPU_NAME(assoc_match),
            [KEPT_KERNEL_ASSOC_WRITE] = CPU_NAME(assoc_write),
            [KEPT_KERNEL_SLOT_SELECT] = CPU_NAME(slot_select),
            [KEPT_KERNEL_SLOT_NEAREST] = CPU_NAME(slot_nearest),
            [KEPT_KERNEL_SLOT_MERGE] = CPU_NAME(slot_merge),
            [KEPT_KERNEL_SLOT_MOVE] = CPU_NAME(slot_move),
            [KEPT_KERNEL_SLOT_RENUMBER] = CPU_NAME(slot_renumber),
            [KEPT_KERNEL_SLOT_ROTATE] = CPU_NAME(slot_rotate),
        },
};

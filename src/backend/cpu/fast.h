/* backend/cpu/fast.h: the fast forms of the instruction set this file is compiled for (simd.h). */
#ifndef KEPT_BACKEND_CPU_FAST_H
#define KEPT_BACKEND_CPU_FAST_H

#include "backend/cpu/cpu.h"
#include "backend/cpu/simd.h"

void CPU_NAME(matvec)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(matmat)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(attn_decode)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(attn_prefill)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(attn_merge)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(norm)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(glu)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(slot_write)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(argmax)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(attn_peak)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(q_stats)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(score_expected)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(score_keydiff)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(assoc_raw)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(assoc_match)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(assoc_write)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(slot_select)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(slot_nearest)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(slot_merge)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(slot_move)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(slot_renumber)(const struct kept_host_call *call, struct kept_pool *pool);
void CPU_NAME(slot_rotate)(const struct kept_host_call *call, struct kept_pool *pool);

extern const struct cpu_fast CPU_NAME(table);

/* Sums of 16 consecutive elements behind the k elements of an activation row. */
SIMD_INLINE void fast_sums(float *row, uint32_t k)
{
    for (uint32_t g = 0; g < k / 16; g++)
        row[k + g] = vf_hsum(vf_load(row + 16 * g));
}

#endif

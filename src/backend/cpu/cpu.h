/* backend/cpu/cpu.h: the inside of the cpu backend: fast forms and how they are chosen. */
#ifndef KEPT_BACKEND_CPU_CPU_H
#define KEPT_BACKEND_CPU_CPU_H

#include "base/thread.h"
#include "kernel/registry.h"

/* A fast form does all live rows of a call, sharing the work over the pool. It assumes ORDER VECTOR
 * and trusts what the call's contract checks; what it reads from buffers (rows, tokens, positions)
 * it clamps as the reference does. */
typedef void (*cpu_fast_fn)(const struct kept_host_call *call, struct kept_pool *pool);

/* The forms one instruction set offers, by kernel; NULL: none, the reference runs. */
struct cpu_fast {
    const char *name; /* "AVX-512" */
    cpu_fast_fn kernels[KEPT_KERNEL_COUNT];
};

/* The best table this machine can run; never NULL. */
const struct cpu_fast *cpu_fast_best(void);
/* All tables this machine can run, best first, NULL after the last: tests compare each with the
 * reference. */
const struct cpu_fast *cpu_fast_at(uint32_t i);

#endif

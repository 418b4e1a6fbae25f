/* backend/cpu/cpu_dispatch.c: which fast forms this machine can run. */
#include "backend/cpu/cpu.h"

#include <stddef.h>

static const struct cpu_fast reference_only = {.name = "portable C"};

const struct cpu_fast *cpu_fast_at(uint32_t i)
{
    return i == 0 ? &reference_only : NULL;
}

const struct cpu_fast *cpu_fast_best(void)
{
    return cpu_fast_at(0);
}

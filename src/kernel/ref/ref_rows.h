/* kernel/ref/ref_rows.h: what several references share: activation functions and sums of 16. */
#ifndef KEPT_KERNEL_REF_REF_ROWS_H
#define KEPT_KERNEL_REF_REF_ROWS_H

#include <math.h>
#include <stdint.h>

static inline double ref_silu(double v)
{
    return v / (1 + exp(-v));
}

static inline double ref_gelu(double v)
{
    return 0.5 * v * (1 + tanh(0.79788456080286536 * (v + 0.044715 * v * v * v)));
}

/* Sums of 16 consecutive elements, as they follow the k elements of an activation row. */
static inline void ref_sums(float *row, uint32_t k)
{
    for (uint32_t g = 0; g < k / 16; g++) {
        double sum = 0;
        for (uint32_t i = 0; i < 16; i++)
            sum += row[16 * g + i];
        row[k + g] = (float)sum;
    }
}

#endif

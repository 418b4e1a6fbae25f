/* base/half.c: f16 and bf16 without hardware support: integer work and one float operation for
 * subnormals.
 *
 * A half's exponent and fraction, shifted into place, differ from a float by the exponent bias
 * alone; subnormals are normalised by subtracting (or rounded by adding) a power of two and
 * letting the float unit do it. All results that pass through the float unit are normal floats,
 * so flush-to-zero modes of the calling thread change nothing.
 */
#include "base/half.h"

#include <string.h>

static float as_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t as_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

float kept_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t bits = (uint32_t)(h & 0x7FFFu) << 13;
    uint32_t exponent = bits & 0x0F800000u;
    bits += (127u - 15u) << 23;
    if (exponent == 0x0F800000u) { /* infinity, NaN */
        bits += (128u - 16u) << 23;
    } else if (exponent == 0) { /* zero, subnormal */
        bits = as_bits(as_float(bits + (1u << 23)) - as_float(113u << 23));
    }
    return as_float(sign | bits);
}

uint16_t kept_f32_to_f16(float f)
{
    uint32_t bits = as_bits(f);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t half;
    bits &= 0x7FFFFFFFu;
    if (bits > 0x7F800000u) {
        half = 0x7E00u | ((bits >> 13) & 0x1FFu); /* quiet NaN with what fits of its payload */
    } else if (bits >= 0x47800000u) {
        half = 0x7C00u; /* infinity, and 65536 or more */
    } else if (bits < 0x38800000u) {
        /* A subnormal half, or zero: adding 0.5 leaves the rounded fraction in the low bits. */
        half = as_bits(as_float(bits) + as_float(126u << 23)) - (126u << 23);
    } else {
        uint32_t odd = (bits >> 13) & 1u;
        half = (bits - (112u << 23) + 0xFFFu + odd) >> 13; /* 65520 and more carry into infinity */
    }
    return (uint16_t)(sign | half);
}

float kept_bf16_to_f32(uint16_t h)
{
    return as_float((uint32_t)h << 16);
}

uint16_t kept_f32_to_bf16(float f)
{
    uint32_t bits = as_bits(f);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

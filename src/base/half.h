/* base/half.h: f16 and bf16 as 16-bit words; conversions round to nearest even, keep infinities and
 * NaN. */
#ifndef KEPT_BASE_HALF_H
#define KEPT_BASE_HALF_H

#include <stdint.h>

float kept_f16_to_f32(uint16_t h);
uint16_t kept_f32_to_f16(float f);
float kept_bf16_to_f32(uint16_t h);
uint16_t kept_f32_to_bf16(float f);

#endif

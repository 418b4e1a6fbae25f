// common/kept.glsl: what every kernel begins with: parameter structs, key 0, live rows,
// conversions.
//
// A kernel file declares its keys, then `layout(push_constant) uniform Push { kept_…_params p; };`,
// its bindings (the step buffer among them, as `uint step_words[]`), and its main. Base: Vulkan 1.1
// without optional features.

#extension GL_EXT_control_flow_attributes : require

#define KEPT_GLSL
#include "kernel/params.h"

layout(local_size_x_id = 0) in;
#define WG gl_WorkGroupSize.x
#define KEPT_MAX_HEAD_DIM 512u // kernel/registry.h

// Live rows of a call, params.h: clamp(step[rows_at] - row_first, 0, row_cap).
#define KEPT_LIVE_ROWS(p) \
    min(step_words[(p).rows_at] - min(step_words[(p).rows_at], (p).row_first), (p).row_cap)

#define KEPT_MINUS_INFINITY uintBitsToFloat(0xff800000u)

// f32 to f16 bits, round to nearest even, denormals kept, overflow to infinity. By hand: the
// rounding of packHalf2x16 is the driver's choice.
uint kept_half_bits(float v)
{
    uint bits = floatBitsToUint(v);
    uint sign = (bits >> 16) & 0x8000u;
    uint a = bits & 0x7fffffffu;
    if (a >= 0x47800000u) {
        return sign | (a > 0x7f800000u ? 0x7e00u : 0x7c00u);
    }
    if (a >= 0x38800000u) {
        return sign | ((a + 0x0fffu + ((a >> 13) & 1u) - 0x38000000u) >> 13);
    }
    uint shift = min(126u - (a >> 23), 31u);
    uint m = (a & 0x007fffffu) | 0x00800000u;
    uint q = m >> shift;
    uint rest = m & ((1u << shift) - 1u), half_unit = 1u << (shift - 1u);
    q += (rest > half_unit || (rest == half_unit && (q & 1u) != 0u)) ? 1u : 0u;
    return sign | q;
}

uint kept_pack_half2(float lo, float hi)
{
    return kept_half_bits(lo) | (kept_half_bits(hi) << 16);
}

// tanh from exp only: some drivers' own overflows to NaN for large |v| or has 11 bits.
float kept_tanh(float v)
{
    float a = abs(v), s = v * v;
    float t = exp(-2.0 * a);
    float large = (1.0 - t) / (1.0 + t);
    float small = a * (1.0 - s * (1.0 / 3.0 - s * (2.0 / 15.0 - s * (17.0 / 315.0))));
    float r = a < 0.15 ? small : large;
    return v < 0.0 ? -r : r;
}

// v / (1 + exp(-v)) without overflow; the halved exponent keeps small results that exp(v) alone
// would flush.
float kept_silu(float v)
{
    float t = exp(-0.5 * abs(v));
    return (v < 0.0 ? v * t * t : v) / (1.0 + t * t);
}

float kept_gelu(float v)
{
    return 0.5 * v * (1.0 + kept_tanh(0.7978845608028654 * fma(0.044715 * v * v, v, v)));
}

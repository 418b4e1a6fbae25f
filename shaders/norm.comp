#version 450
// norm: RMS norm of rows, with the residual add of post-norm models (params.h: kept_norm_params).
//
// Group: one row. A lane takes pieces of 16 elements (lane, lane + WG, …), so it writes their sum
// itself; what a lane reads after it wrote is its own. The sum of squares goes through shared
// memory in a fixed order.
// Keys: WG lanes (a power of two is not needed); MODE 0 norm, 1 add normed y then norm, 2 add
// normed y.
// Strides are multiples of 4.

layout(constant_id = 1) const uint MODE = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_norm_params p; };

layout(std430, binding = 0) restrict buffer X { vec4 x4[]; };
layout(std430, binding = 1) readonly restrict buffer Y { vec4 y4[]; };
layout(std430, binding = 2) readonly restrict buffer WPost { vec4 w_post4[]; };
layout(std430, binding = 3) readonly restrict buffer W { vec4 w4[]; };
layout(std430, binding = 4) writeonly restrict buffer Out { vec4 out4[]; };
layout(std430, binding = 4) writeonly restrict buffer OutSums { float out1[]; };
layout(std430, binding = 5) readonly restrict buffer Step { uint step_words[]; };

shared float partial[WG];

float group_sum(float v)
{
    partial[gl_LocalInvocationID.x] = v;
    barrier();
    float sum = 0.0;
    for (uint i = 0u; i < WG; i++) {
        sum += partial[i];
    }
    barrier();
    return sum;
}

float factor(float squares)
{
    return 1.0 / sqrt(group_sum(squares) / float(p.k) + p.eps);
}

void main()
{
    uint lane = gl_LocalInvocationID.x, pieces = p.k >> 4;
    uint row = p.row_first + gl_WorkGroupID.x;
    uint from = step_words[p.first_at] + row;
    uint x_at = from * (p.x_stride >> 2), y_at = from * (p.y_stride >> 2);
    if (gl_WorkGroupID.x >= KEPT_LIVE_ROWS(p) || x_at + (p.k >> 2) > uint(x4.length())) {
        return;
    }
    float squares = 0.0;
    if (MODE != 0u) {
        for (uint i = lane; i < pieces; i += WG) {
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                vec4 v = y4[y_at + 4u * i + j];
                squares += dot(v, v);
            }
        }
        float f = factor(squares);
        squares = 0.0;
        for (uint i = lane; i < pieces; i += WG) {
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                uint at = 4u * i + j;
                vec4 v = x4[x_at + at] + y4[y_at + at] * f * w_post4[at];
                x4[x_at + at] = v;
                squares += dot(v, v);
            }
        }
    } else {
        for (uint i = lane; i < pieces; i += WG) {
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                vec4 v = x4[x_at + 4u * i + j];
                squares += dot(v, v);
            }
        }
    }
    if (MODE == 2u) {
        return;
    }
    float f = factor(squares);
    uint out_at = row * (p.out_stride >> 2);
    for (uint i = lane; i < pieces; i += WG) {
        vec4 sum = vec4(0.0);
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            vec4 v = x4[x_at + 4u * i + j] * f * w4[4u * i + j];
            out4[out_at + 4u * i + j] = v;
            sum += v;
        }
        out1[row * p.out_stride + p.k + i] = (sum.x + sum.y) + (sum.z + sum.w);
    }
}

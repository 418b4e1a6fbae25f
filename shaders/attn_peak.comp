#version 450
// attn_peak: calibration: the largest log weight that each slot received, or the sum of the weights
// (params.h: kept_peak_params).
//
// Group: 64 slots (x) of one KV head (y). A lane takes slots lane, lane + WG, … Columns (a query
// head of the KV head, of a live row) pass through shared memory COLS at a time.
// Keys: WG lanes; ORDER of the K records; D head size; SUM.

layout(constant_id = 1) const uint ORDER = 0;
layout(constant_id = 2) const uint D = 64;
layout(constant_id = 3) const uint SUM = 0;

#include "kept.glsl"

layout(push_constant) uniform Push { kept_peak_params p; };

layout(std430, binding = 0) readonly restrict buffer Qkv { float qkv[]; };
layout(std430, binding = 1) readonly restrict buffer KSlots { uint k1[]; };
layout(std430, binding = 1) readonly restrict buffer KSlots4 { uvec4 k4[]; };
layout(std430, binding = 2) readonly restrict buffer Part { float part[]; };
layout(std430, binding = 3) restrict buffer Peak { float peak[]; };
layout(std430, binding = 4) readonly restrict buffer Step { uint step_words[]; };

const uint KT = KEPT_FMT_F16;
#define KEPT_D D
#define KEPT_LOADS_K
#include "slots.glsl"

const uint COLS = D > 256u ? 4u : 8u;
const uint SLOTS = 64u; // of a group

shared vec4 q4[COLS * D / 4u];
shared float lse[COLS]; // +inf: the column attends nothing
shared uint end[COLS]; // SUM: slots below count; those of other columns are 0
shared float best[SLOTS];

// Columns first … first + COLS - 1 of n; missing ones weigh nothing.
void load_columns(uint first, uint n, uint group, uint kv_head)
{
    for (uint e = gl_LocalInvocationID.x; e < COLS * (D / 4u); e += WG) {
        uint c = min(first + e / (D / 4u), n - 1u), row = p.row_first + c / group;
        uint at = row * p.q_stride + (kv_head * group + c % group) * D + e % (D / 4u) * 4u;
        q4[e] = vec4(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]);
    }
    for (uint i = gl_LocalInvocationID.x; i < COLS; i += WG) {
        uint c = min(first + i, n - 1u), row = p.row_first + c / group;
        uint at = (row * p.n_head + kv_head * group + c % group) * (D + 4u);
        float l = part[at + 1u];
        lse[i] = l > 0.0 && first + i < n ? part[at] + log(l) : -KEPT_MINUS_INFINITY;
        if (SUM != 0u) {
            uint position = step_words[KEPT_STEP_TOKENS + p.chunk + row];
            bool counts = position > p.after && position < p.n_slots;
            end[i] = counts ? position - p.after : 0u;
        }
    }
}

// The most of the loaded columns at a slot (number s of its head), or their sum.
float peak_of(uint slot, uint s)
{
    float a[COLS];
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        a[c] = 0.0;
    }
    for (uint g = 0u; g < D / 8u; g++) {
        vec4 lo, hi;
        kept_k8(slot, g, lo, hi);
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            uint at = c * (D / 4u) + 2u * g;
            vec4 v = fma(q4[at + 1u], hi, q4[at] * lo);
            a[c] += (v.x + v.y) + (v.z + v.w);
        }
    }
    float sum = 0.0;
    if (SUM != 0u) {
        [[unroll]] for (uint c = 0u; c < COLS; c++) {
            sum += s < end[c] ? exp(min(0.0, a[c] - lse[c])) : 0.0;
        }
        return sum;
    }
    float most = KEPT_MINUS_INFINITY;
    [[unroll]] for (uint c = 0u; c < COLS; c++) {
        most = max(most, a[c] - lse[c]);
    }
    return most;
}

void main()
{
    uint first = gl_WorkGroupID.x * SLOTS, kv_head = gl_WorkGroupID.y;
    uint group = p.n_head / p.n_kv, n = KEPT_LIVE_ROWS(p) * group;
    uint n_slots = min(SLOTS, p.n_slots - min(p.n_slots, first));
    uint k_from = kv_head * p.cap + first, to = kv_head * p.n_slots + first;
    for (uint s = gl_LocalInvocationID.x; s < n_slots; s += WG) {
        best[s] = peak[to + s];
    }
    for (uint c = 0u; c < n; c += COLS) {
        barrier();
        load_columns(c, n, group, kv_head);
        barrier();
        for (uint s = gl_LocalInvocationID.x; s < n_slots; s += WG) {
            float value = peak_of(k_from + s, first + s);
            best[s] = SUM != 0u ? best[s] + value : max(best[s], value);
        }
    }
    for (uint s = gl_LocalInvocationID.x; s < n_slots && n != 0u; s += WG) {
        peak[to + s] = best[s];
    }
}

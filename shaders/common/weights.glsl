// common/weights.glsl: reading weight records (layouts: kernel/blocks.h), one lane = one row of a
// tile.
//
// Needs KEPT_FMT (compile time), ORDER (key 1), the push block p with h_words, s_words, d_words,
// and binding 0.
//
// Two ways to read, both per row:
//   kept_half16   16 dequantised elements: half h of block b (32 elements). One load of 4 words,
//                 plus scales. For loaders (matmat, embed) and for many columns.
//   kept_step_…   a step of KEPT_STEP blocks is loaded raw, then unpacked block by block: every
//                 word is read once. For one column (matvec).
// Elements are value = (q - KEPT_BIAS) * scale + offset, with q = four bytes of a word as floats (a
// quad).

layout(std430, binding = 0) readonly restrict buffer Weights { uint w1[]; };
layout(std430, binding = 0) readonly restrict buffer Weights4 { uvec4 w4[]; };

// Plane offsets, set by kept_planes_load() before anything else: lavapipe reads a push constant
// lane by lane, so not inside a loop.
uint h_words, s_words, d_words;

void kept_planes_load()
{
    h_words = p.h_words;
    s_words = p.s_words;
    d_words = p.d_words;
}

#if KEPT_FMT == KEPT_FMT_Q4_0
#define KEPT_BIAS 8.0
#elif KEPT_FMT == KEPT_FMT_Q5_0
#define KEPT_BIAS 16.0
#elif KEPT_FMT == KEPT_FMT_Q6_K
#define KEPT_BIAS 32.0
#else
#define KEPT_BIAS 0.0
#endif

#if KEPT_FMT <= KEPT_FMT_BF16
#define KEPT_IS_FLOAT 1
#else
#define KEPT_IS_FLOAT 0
#endif
// value has an offset of its own (a minimum)
#define KEPT_HAS_MIN (KEPT_FMT == KEPT_FMT_Q4_1 || KEPT_FMT == KEPT_FMT_Q5_1 || \
                      KEPT_FMT == KEPT_FMT_Q4_K || KEPT_FMT == KEPT_FMT_Q5_K)
#define KEPT_IS_K (KEPT_FMT >= KEPT_FMT_Q4_K)

// Group of 4 words, group of 1 word; `at` = word of record + plane.
uvec4 kept_load4(uint at, uint group, uint row)
{
    if (ORDER == KEPT_LANE) {
        return w4[(at >> 2) + group * 16u + row];
    }
    uint i = at + group * 64u + row;
    return uvec4(w1[i], w1[i + 16u], w1[i + 32u], w1[i + 48u]);
}

uint kept_load1(uint at, uint group, uint row)
{
    return w1[at + group * 16u + row];
}

// Four bytes as floats. CPU-type devices have no unsigned conversion, GPUs convert a byte of a
// register at once.
vec4 kept_bytes(uint w)
{
#if KEPT_FMT == KEPT_FMT_Q8_0
    int i = int(w);
    return vec4(float((i << 24) >> 24), float((i << 16) >> 24), float((i << 8) >> 24),
                float(i >> 24));
#else
    if (WG < 16u || ORDER == KEPT_VECTOR) {
        return vec4(float(int(w & 0xffu)), float(int((w >> 8) & 0xffu)),
                    float(int((w >> 16) & 0xffu)), float(int(w >> 24)));
    }
    return vec4(float(w & 0xffu), float((w >> 8) & 0xffu), float((w >> 16) & 0xffu),
                float(w >> 24));
#endif
}

vec4 kept_quad_f16(uint lo, uint hi)
{
    return vec4(unpackHalf2x16(lo), unpackHalf2x16(hi));
}

vec4 kept_quad_bf16(uint lo, uint hi)
{
    return uintBitsToFloat(uvec4(lo << 16, lo & 0xffff0000u, hi << 16, hi & 0xffff0000u));
}

uint kept_nibbles(uint w, uint high)
{
    return (w >> (4u * high)) & 0x0f0f0f0fu;
}

// ---- scales: words as loaded, and what they say about one half of one block ---------------------

#if KEPT_FMT == KEPT_FMT_Q6_K
#define KEPT_SCALE_WORDS 5
#elif KEPT_IS_K
#define KEPT_SCALE_WORDS 4
#elif KEPT_IS_FLOAT
#define KEPT_SCALE_WORDS 1
#else
#define KEPT_SCALE_WORDS 1
#endif

// Scale words of block b: those of its super-block (K formats), of its pair of blocks, or its own.
void kept_scales_load(uint record, uint row, uint b, out uint s[KEPT_SCALE_WORDS])
{
#if KEPT_IS_FLOAT
    s[0] = 0u;
#elif KEPT_IS_K
    uvec4 v = kept_load4(record + s_words, b >> 3, row);
    s[0] = v.x;
    s[1] = v.y;
    s[2] = v.z;
    s[3] = v.w;
#if KEPT_FMT == KEPT_FMT_Q6_K
    s[4] = kept_load1(record + d_words, b >> 4, row);
#endif
#elif KEPT_HAS_MIN
    s[0] = kept_load1(record + s_words, b, row);
#else
    s[0] = kept_load1(record + s_words, b >> 1, row);
#endif
}

// (scale, offset) of half h of block b.
vec2 kept_scale_of(uint s[KEPT_SCALE_WORDS], uint b, uint h)
{
#if KEPT_IS_FLOAT
    return vec2(1.0, 0.0);
#elif KEPT_FMT == KEPT_FMT_Q6_K
    uint k = b & 7u, d16 = (b >> 3) & 1u;
    uint w = (k & 4u) != 0u ? ((k & 2u) != 0u ? s[3] : s[2]) : ((k & 2u) != 0u ? s[1] : s[0]);
    int scale = int(w << (24u - 8u * (2u * (k & 1u) + h))) >> 24;
    return vec2(unpackHalf2x16(s[4] >> (16u * d16)).x * float(scale), 0.0);
#elif KEPT_IS_K
    uint k = b & 7u;
    vec2 d = unpackHalf2x16(s[0]);
    uint scale = ((s[1] >> (4u * k)) & 15u) | (((s[3] >> (2u * k)) & 3u) << 4);
    uint least = ((s[2] >> (4u * k)) & 15u) | (((s[3] >> (16u + 2u * k)) & 3u) << 4);
    return vec2(d.x * float(int(scale)), -d.y * float(int(least)));
#elif KEPT_HAS_MIN
    return unpackHalf2x16(s[0]);
#else
    return vec2(unpackHalf2x16(s[0] >> (16u * (b & 1u))).x, 0.0);
#endif
}

// ---- half a block, dequantised ------------------------------------------------------------------

void kept_half16(uint record, uint row, uint b, uint h, out vec4 v[4])
{
#if KEPT_FMT == KEPT_FMT_F32
    [[unroll]] for (uint j = 0u; j < 4u; j++) {
        v[j] = uintBitsToFloat(kept_load4(record, 8u * b + 4u * h + j, row));
    }
#elif KEPT_IS_FLOAT
    [[unroll]] for (uint j = 0u; j < 2u; j++) {
        uvec4 u = kept_load4(record, 4u * b + 2u * h + j, row);
#if KEPT_FMT == KEPT_FMT_F16
        v[2u * j] = kept_quad_f16(u.x, u.y);
        v[2u * j + 1u] = kept_quad_f16(u.z, u.w);
#else
        v[2u * j] = kept_quad_bf16(u.x, u.y);
        v[2u * j + 1u] = kept_quad_bf16(u.z, u.w);
#endif
    }
#else
    uint s[KEPT_SCALE_WORDS];
    kept_scales_load(record, row, b, s);
    vec2 so = kept_scale_of(s, b, h);
#if KEPT_FMT == KEPT_FMT_Q8_0
    uvec4 q = kept_load4(record, 2u * b + h, row);
#elif KEPT_FMT == KEPT_FMT_Q6_K
    uint k = b & 7u;
    uvec4 q = kept_load4(record, (b & ~7u) + (k & 4u) + 2u * (k & 1u) + h, row);
    uvec4 qh = kept_load4(record + h_words, ((b & ~7u) >> 1) + ((k & 4u) >> 1) + h, row);
    q = (q >> (4u * ((k >> 1) & 1u))) & 0x0f0f0f0fu;
    q |= ((qh >> (2u * (k & 3u))) & 0x03030303u) << 4;
#elif KEPT_IS_K
    uint k = b & 7u;
    uvec4 q = (kept_load4(record, (b & ~1u) + h, row) >> (4u * (k & 1u))) & 0x0f0f0f0fu;
#if KEPT_FMT == KEPT_FMT_Q5_K
    q |= ((kept_load4(record + h_words, ((b & ~7u) >> 2) + h, row) >> k) & 0x01010101u) << 4;
#endif
#else
    uvec4 q = (kept_load4(record, b, row) >> (4u * h)) & 0x0f0f0f0fu;
#if KEPT_FMT == KEPT_FMT_Q5_0 || KEPT_FMT == KEPT_FMT_Q5_1
    uint high = kept_load1(record + h_words, b, row) >> (4u * h);
    q |= ((uvec4(high, high >> 1, high >> 2, high >> 3)) & 0x01010101u) << 4;
#endif
#endif
    [[unroll]] for (uint j = 0u; j < 4u; j++) {
        vec4 f = kept_bytes(q[j]) - KEPT_BIAS;
#if KEPT_HAS_MIN
        v[j] = fma(f, vec4(so.x), vec4(so.y));
#else
        v[j] = f * so.x;
#endif
    }
#endif
}

// ---- steps --------------------------------------------------------------------------------------

#if KEPT_FMT == KEPT_FMT_F32
#define KEPT_STEP 1u
#define KEPT_STEP_Q 32
#define KEPT_STEP_H 1
#elif KEPT_IS_FLOAT
#define KEPT_STEP 1u
#define KEPT_STEP_Q 16
#define KEPT_STEP_H 1
#elif KEPT_FMT == KEPT_FMT_Q8_0
#define KEPT_STEP 1u
#define KEPT_STEP_Q 8
#define KEPT_STEP_H 1
#elif KEPT_FMT == KEPT_FMT_Q6_K
#define KEPT_STEP 4u
#define KEPT_STEP_Q 16
#define KEPT_STEP_H 8
#elif KEPT_FMT == KEPT_FMT_Q5_K
#define KEPT_STEP 2u
#define KEPT_STEP_Q 8
#define KEPT_STEP_H 8
#elif KEPT_FMT == KEPT_FMT_Q5_0 || KEPT_FMT == KEPT_FMT_Q4_0
#define KEPT_STEP 2u
#define KEPT_STEP_Q 8
#define KEPT_STEP_H 2
#elif KEPT_FMT == KEPT_FMT_Q4_K
#define KEPT_STEP 2u
#define KEPT_STEP_Q 8
#define KEPT_STEP_H 1
#else
#define KEPT_STEP 1u
#define KEPT_STEP_Q 4
#define KEPT_STEP_H 1
#endif
// steps that share scale words
#define KEPT_STEPS_SHARED (KEPT_IS_K ? 8u / KEPT_STEP : 1u)

// Loads step i; n_blocks clamps a last step that is not full.
void kept_step_load(uint record, uint row, uint i, uint n_blocks, out uint q[KEPT_STEP_Q],
                    out uint hb[KEPT_STEP_H])
{
    hb[0] = 0u;
#if KEPT_FMT == KEPT_FMT_Q4_0 || KEPT_FMT == KEPT_FMT_Q5_0
    [[unroll]] for (uint j = 0u; j < 2u; j++) {
        uint b = min(2u * i + j, n_blocks - 1u);
        uvec4 u = kept_load4(record, b, row);
        [[unroll]] for (uint w = 0u; w < 4u; w++) {
            q[4u * j + w] = u[w];
        }
#if KEPT_FMT == KEPT_FMT_Q5_0
        hb[j] = kept_load1(record + h_words, b, row);
#endif
    }
#else
    [[unroll]] for (uint j = 0u; j < KEPT_STEP_Q / 4u; j++) {
        uvec4 u = kept_load4(record, i * (KEPT_STEP_Q / 4u) + j, row);
        [[unroll]] for (uint w = 0u; w < 4u; w++) {
            q[4u * j + w] = u[w];
        }
    }
#if KEPT_FMT == KEPT_FMT_Q5_1
    hb[0] = kept_load1(record + h_words, i, row);
#elif KEPT_FMT == KEPT_FMT_Q5_K || KEPT_FMT == KEPT_FMT_Q6_K
    [[unroll]] for (uint j = 0u; j < 2u; j++) {
#if KEPT_FMT == KEPT_FMT_Q5_K
        uvec4 u = kept_load4(record + h_words, 2u * (i >> 2) + j, row);
#else
        uvec4 u = kept_load4(record + h_words, 2u * i + j, row);
#endif
        [[unroll]] for (uint w = 0u; w < 4u; w++) {
            hb[4u * j + w] = u[w];
        }
    }
#endif
#endif
}

// Quad j (elements 4j … 4j+3) of block c of a loaded step i, quants as floats, not biased, not
// scaled.
vec4 kept_step_quad(uint q[KEPT_STEP_Q], uint hb[KEPT_STEP_H], uint i, uint c, uint j)
{
#if KEPT_FMT == KEPT_FMT_F32
    return uintBitsToFloat(uvec4(q[4u * j], q[4u * j + 1u], q[4u * j + 2u], q[4u * j + 3u]));
#elif KEPT_FMT == KEPT_FMT_F16
    return kept_quad_f16(q[2u * j], q[2u * j + 1u]);
#elif KEPT_FMT == KEPT_FMT_BF16
    return kept_quad_bf16(q[2u * j], q[2u * j + 1u]);
#elif KEPT_FMT == KEPT_FMT_Q8_0
    return kept_bytes(q[j]);
#elif KEPT_FMT == KEPT_FMT_Q4_K
    return kept_bytes(kept_nibbles(q[j], c));
#elif KEPT_FMT == KEPT_FMT_Q5_K
    return kept_bytes(kept_nibbles(q[j], c) |
                      (((hb[j] >> (2u * (i & 3u) + c)) & 0x01010101u) << 4));
#elif KEPT_FMT == KEPT_FMT_Q6_K
    return kept_bytes(kept_nibbles(q[8u * (c & 1u) + j], c >> 1) |
                      (((hb[j] >> (2u * c)) & 0x03030303u) << 4));
#elif KEPT_FMT == KEPT_FMT_Q5_0 || KEPT_FMT == KEPT_FMT_Q5_1
    return kept_bytes(kept_nibbles(q[4u * c + (j & 3u)], j >> 2) |
                      (((hb[c] >> j) & 0x01010101u) << 4));
#else
    return kept_bytes(kept_nibbles(q[4u * c + (j & 3u)], j >> 2));
#endif
}

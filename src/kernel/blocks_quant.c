/* kernel/blocks_quant.c: f32 to file blocks, for tests and for making small models.
 *
 * Plain round-to-nearest with one scale per block: no search for better scales and no importance
 * weights. Scales are rounded to what the block stores before the elements are, so that rounding
 * a scale costs no accuracy twice. Infinities and NaN in the input give blocks without meaning,
 * never undefined behaviour.
 */
#include "kernel/blocks.h"

#include <math.h>
#include <string.h>

#include "base/half.h"

/* x rounded to nearest and held in [low, high]; NaN becomes low. */
static int round_to(float x, int low, int high)
{
    if (!(x > (float)low))
        return low;
    return x >= (float)high ? high : (int)floorf(x + 0.5f);
}

static float inverse(float x)
{
    return x != 0.0f ? 1.0f / x : 0.0f;
}

/* Stores f as f16 and returns what was stored. */
static float put_f16(uint8_t *to, float f)
{
    uint16_t half = kept_f32_to_f16(f);
    memcpy(to, &half, sizeof half);
    return kept_f16_to_f32(half);
}

/* The element of largest magnitude, with its sign. */
static float extreme(const float *x, int n)
{
    float best = 0.0f;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(best))
            best = x[i];
    return best;
}

static void range(const float *x, int n, float *min, float *max)
{
    *min = *max = x[0];
    for (int i = 1; i < n; i++) {
        *min = x[i] < *min ? x[i] : *min;
        *max = x[i] > *max ? x[i] : *max;
    }
}

/* ---- blocks of 32 ---- */

/* Q4_0 and Q5_0 (with_min false: the extreme maps to -levels/2), Q4_1 and Q5_1: d [m] [qh] qs. */
static void quant_nibbles(const float *x, int levels, bool with_min, uint8_t *block)
{
    float d, shift;
    if (with_min) {
        float min, max;
        range(x, 32, &min, &max);
        d = put_f16(block, (max - min) / (float)(levels - 1));
        shift = -put_f16(block + 2, min) * inverse(d);
    } else {
        d = put_f16(block, extreme(x, 32) / (float)(-levels / 2));
        shift = (float)(levels / 2);
    }
    uint8_t *qh_at = block + (with_min ? 4 : 2), *qs = qh_at + (levels == 32 ? 4 : 0);
    uint32_t qh = 0;
    for (int i = 0; i < 16; i++) {
        int low = round_to(x[i] * inverse(d) + shift, 0, levels - 1);
        int high = round_to(x[16 + i] * inverse(d) + shift, 0, levels - 1);
        qs[i] = (uint8_t)((low & 15) | (high & 15) << 4);
        qh |= (uint32_t)(low >> 4) << i | (uint32_t)(high >> 4) << (16 + i);
    }
    if (levels == 32)
        memcpy(qh_at, &qh, sizeof qh);
}

static void quant_q8_0(const float *x, uint8_t *block)
{
    float d = put_f16(block, fabsf(extreme(x, 32)) / 127.0f);
    for (int i = 0; i < 32; i++)
        block[2 + i] = (uint8_t)(int8_t)round_to(x[i] * inverse(d), -127, 127);
}

/* ---- blocks of 256 ---- */

/* Packs scale and minimum of sub-block k; the twelve bytes start as zero. */
static void put_scale_min(uint8_t *b, int k, int scale, int min)
{
    if (k < 4) {
        b[k] |= (uint8_t)scale;
        b[4 + k] |= (uint8_t)min;
    } else {
        b[4 + k] = (uint8_t)((scale & 15) | (min & 15) << 4);
        b[k - 4] |= (uint8_t)(scale >> 4 << 6);
        b[k] |= (uint8_t)(min >> 4 << 6);
    }
}

/* Q4_K (qh NULL) and Q5_K. */
static void quant_q45_k(const float *x, uint8_t *block, uint8_t *qh, uint8_t *qs)
{
    int levels = qh != NULL ? 31 : 15;
    float scales[8], mins[8], max_scale = 0.0f, max_min = 0.0f;
    for (int k = 0; k < 8; k++) {
        float min, max;
        range(x + 32 * k, 32, &min, &max);
        mins[k] = min < 0.0f ? -min : 0.0f;
        scales[k] = (max + mins[k]) / (float)levels;
        max_scale = scales[k] > max_scale ? scales[k] : max_scale;
        max_min = mins[k] > max_min ? mins[k] : max_min;
    }
    float d = put_f16(block, max_scale / 63.0f), dmin = put_f16(block + 2, max_min / 63.0f);
    memset(block + 4, 0, 12);
    for (int k = 0; k < 8; k++) {
        int scale = round_to(scales[k] * inverse(d), 0, 63);
        int min = round_to(mins[k] * inverse(dmin), 0, 63);
        put_scale_min(block + 4, k, scale, min);
        float to_q = inverse(d * (float)scale), shift = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            int q = round_to((x[32 * k + i] + shift) * to_q, 0, levels);
            uint8_t *at = &qs[32 * (k / 2) + i];
            *at = (uint8_t)(k % 2 == 0 ? q & 15 : *at | (q & 15) << 4);
            if (qh != NULL)
                qh[i] = (uint8_t)((k == 0 ? 0 : qh[i]) | (q >> 4) << k);
        }
    }
}

static void quant_q6_k(const float *x, uint8_t *block)
{
    uint8_t *ql = block, *qh = block + 128, *scales = block + 192;
    float wanted[16];
    for (int j = 0; j < 16; j++)
        wanted[j] = extreme(x + 16 * j, 16) / -32.0f;
    float d = put_f16(block + 208, fabsf(extreme(wanted, 16)) / 127.0f);
    memset(block, 0, 192);
    for (int j = 0; j < 16; j++) {
        int scale = round_to(wanted[j] * inverse(d), -127, 127);
        float to_q = inverse(d * (float)scale);
        scales[j] = (uint8_t)(int8_t)scale;
        int half = j / 8, t = j / 2 % 4, l0 = j % 2 * 16;
        for (int i = 0; i < 16; i++) {
            int q = round_to(x[16 * j + i] * to_q, -32, 31) + 32;
            ql[64 * half + 32 * (t % 2) + l0 + i] |= (uint8_t)((q & 15) << 4 * (t / 2));
            qh[32 * half + l0 + i] |= (uint8_t)((q >> 4) << 2 * t);
        }
    }
}

/* ---- rows ---- */

static void quant_block(enum kept_format format, const float *x, uint8_t *block)
{
    uint16_t half;
    switch (format) {
    case KEPT_FORMAT_F32:
        memcpy(block, x, sizeof *x);
        break;
    case KEPT_FORMAT_F16:
    case KEPT_FORMAT_BF16:
        half = format == KEPT_FORMAT_F16 ? kept_f32_to_f16(*x) : kept_f32_to_bf16(*x);
        memcpy(block, &half, sizeof half);
        break;
    case KEPT_FORMAT_Q4_0:
    case KEPT_FORMAT_Q4_1:
        quant_nibbles(x, 16, format == KEPT_FORMAT_Q4_1, block);
        break;
    case KEPT_FORMAT_Q5_0:
    case KEPT_FORMAT_Q5_1:
        quant_nibbles(x, 32, format == KEPT_FORMAT_Q5_1, block);
        break;
    case KEPT_FORMAT_Q8_0:
        quant_q8_0(x, block);
        break;
    case KEPT_FORMAT_Q4_K:
        quant_q45_k(x, block, NULL, block + 16);
        break;
    case KEPT_FORMAT_Q5_K:
        quant_q45_k(x, block, block + 16, block + 48);
        break;
    case KEPT_FORMAT_Q6_K:
        quant_q6_k(x, block);
        break;
    case KEPT_FORMAT_COUNT:
        break;
    }
}

void kept_quant_row(enum kept_format format, const float *values, uint32_t k, uint8_t *row)
{
    uint32_t elems = kept_format_block_elems(format), bytes = kept_format_block_bytes(format);
    for (uint32_t i = 0; i < k / elems; i++)
        quant_block(format, values + (size_t)i * elems, row + (size_t)i * bytes);
}

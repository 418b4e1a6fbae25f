/* kernel/blocks.c: the formats' table, file blocks to f32, and the value of one element of a
 * re-laid record.
 *
 * Every value is computed in f32 with the operations and the order of the gguf Python package,
 * products before sums and no fused multiply-add (the build passes -ffp-contract=off), so results
 * are equal to the last bit.
 *
 * kept_record_value is written straight from the layout in blocks.h and shares nothing with the
 * code that makes records (blocks_relay.c): the unit test compares the two ways over every
 * element.
 */
#include "kernel/blocks.h"

#include <string.h>

#include "base/half.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files and records are little-endian words; this host is not"
#endif

#define MAX_K ((uint64_t)1 << 24)

static const struct format {
    const char *name;
    uint32_t ggml_type, block_elems, block_bytes;
} formats[KEPT_FORMAT_COUNT] = {
#define X(NAME, name, ggml, elems, bytes) {name, ggml, elems, bytes},
    KEPT_FORMAT_LIST(X)
#undef X
};

const char *kept_format_name(enum kept_format format)
{
    return (unsigned)format < KEPT_FORMAT_COUNT ? formats[format].name : "unknown";
}

enum kept_format kept_format_from_ggml(uint32_t ggml_type)
{
    for (unsigned i = 0; i < KEPT_FORMAT_COUNT; i++)
        if (formats[i].ggml_type == ggml_type)
            return (enum kept_format)i;
    return KEPT_FORMAT_COUNT;
}

uint32_t kept_format_block_elems(enum kept_format format)
{
    return formats[format].block_elems;
}

uint32_t kept_format_block_bytes(enum kept_format format)
{
    return formats[format].block_bytes;
}

bool kept_format_k_valid(enum kept_format format, uint64_t k)
{
    return k != 0 && k <= MAX_K && k % 32 == 0 && k % formats[format].block_elems == 0;
}

uint64_t kept_format_row_bytes(enum kept_format format, uint64_t k)
{
    return k / formats[format].block_elems * formats[format].block_bytes;
}

/* ---- file blocks to f32 ---- */

static float f16_at(const uint8_t *bytes)
{
    uint16_t h;
    memcpy(&h, bytes, sizeof h);
    return kept_f16_to_f32(h);
}

static uint32_t u32_at(const uint8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static void dequant_q4_0(const uint8_t *block, float *out)
{
    float d = f16_at(block);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((block[2 + i] & 15) - 8);
        out[16 + i] = d * (float)((block[2 + i] >> 4) - 8);
    }
}

static void dequant_q4_1(const uint8_t *block, float *out)
{
    float d = f16_at(block), m = f16_at(block + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(block[4 + i] & 15) + m;
        out[16 + i] = d * (float)(block[4 + i] >> 4) + m;
    }
}

/* The 5-bit number of elements i and 16 + i of a Q5_0 or Q5_1 block. */
static int q5_low(const uint8_t *qs, uint32_t qh, int i)
{
    return (int)((qs[i] & 15u) | (qh >> i & 1u) << 4);
}

static int q5_high(const uint8_t *qs, uint32_t qh, int i)
{
    return (int)((qs[i] >> 4) | (qh >> (16 + i) & 1u) << 4);
}

static void dequant_q5_0(const uint8_t *block, float *out)
{
    float d = f16_at(block);
    uint32_t qh = u32_at(block + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(q5_low(block + 6, qh, i) - 16);
        out[16 + i] = d * (float)(q5_high(block + 6, qh, i) - 16);
    }
}

static void dequant_q5_1(const uint8_t *block, float *out)
{
    float d = f16_at(block), m = f16_at(block + 2);
    uint32_t qh = u32_at(block + 4);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)q5_low(block + 8, qh, i) + m;
        out[16 + i] = d * (float)q5_high(block + 8, qh, i) + m;
    }
}

static void dequant_q8_0(const uint8_t *block, float *out)
{
    float d = f16_at(block);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(int8_t)block[2 + i];
}

/* The 6-bit scale and minimum of sub-block k of a Q4_K or Q5_K block. */
static void scale_min(const uint8_t *scales, int k, int *scale, int *min)
{
    if (k < 4) {
        *scale = scales[k] & 63;
        *min = scales[k + 4] & 63;
    } else {
        *scale = (scales[k + 4] & 15) | (scales[k - 4] >> 6) << 4;
        *min = (scales[k + 4] >> 4) | (scales[k] >> 6) << 4;
    }
}

/* Q4_K (qh NULL) and Q5_K: they differ by the bit from qh alone. */
static void dequant_q45_k(const uint8_t *block, const uint8_t *qh, const uint8_t *qs, float *out)
{
    float d = f16_at(block), dmin = f16_at(block + 2);
    for (int k = 0; k < 8; k++) {
        int scale, min;
        scale_min(block + 4, k, &scale, &min);
        float ds = d * (float)scale, dm = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            int q = qs[32 * (k / 2) + i] >> 4 * (k % 2) & 15;
            if (qh != NULL)
                q |= (qh[i] >> k & 1) << 4;
            out[32 * k + i] = ds * (float)q - dm;
        }
    }
}

static void dequant_q4_k(const uint8_t *block, float *out)
{
    dequant_q45_k(block, NULL, block + 16, out);
}

static void dequant_q5_k(const uint8_t *block, float *out)
{
    dequant_q45_k(block, block + 16, block + 48, out);
}

static void dequant_q6_k(const uint8_t *block, float *out)
{
    const uint8_t *ql = block, *qh = block + 128, *scales = block + 192;
    float d = f16_at(block + 208);
    for (int j = 0; j < 16; j++) {
        /* Sixteen elements share a scale: half of the block, quarter t of the half, l from l0 on.
         * */
        int half = j / 8, t = j / 2 % 4, l0 = j % 2 * 16;
        float ds = d * (float)(int8_t)scales[j];
        for (int i = 0; i < 16; i++) {
            int low = ql[64 * half + 32 * (t % 2) + l0 + i] >> 4 * (t / 2) & 15;
            int high = qh[32 * half + l0 + i] >> 2 * t & 3;
            out[16 * j + i] = ds * (float)((low | high << 4) - 32);
        }
    }
}

static void dequant_f32(const uint8_t *row, uint32_t k, float *out)
{
    memcpy(out, row, (size_t)k * sizeof *out);
}

static void dequant_f16(const uint8_t *row, uint32_t k, float *out)
{
    for (uint32_t i = 0; i < k; i++)
        out[i] = f16_at(row + 2 * (size_t)i);
}

static void dequant_bf16(const uint8_t *row, uint32_t k, float *out)
{
    for (uint32_t i = 0; i < k; i++) {
        uint16_t h;
        memcpy(&h, row + 2 * (size_t)i, sizeof h);
        out[i] = kept_bf16_to_f32(h);
    }
}

void kept_dequant_row(enum kept_format format, const uint8_t *row, uint32_t k, float *out)
{
    static void (*const blocks[KEPT_FORMAT_COUNT])(const uint8_t *, float *) = {
        [KEPT_FORMAT_Q4_0] = dequant_q4_0, [KEPT_FORMAT_Q4_1] = dequant_q4_1,
        [KEPT_FORMAT_Q5_0] = dequant_q5_0, [KEPT_FORMAT_Q5_1] = dequant_q5_1,
        [KEPT_FORMAT_Q8_0] = dequant_q8_0, [KEPT_FORMAT_Q4_K] = dequant_q4_k,
        [KEPT_FORMAT_Q5_K] = dequant_q5_k, [KEPT_FORMAT_Q6_K] = dequant_q6_k,
    };
    if (format == KEPT_FORMAT_F32) {
        dequant_f32(row, k, out);
    } else if (format == KEPT_FORMAT_F16) {
        dequant_f16(row, k, out);
    } else if (format == KEPT_FORMAT_BF16) {
        dequant_bf16(row, k, out);
    } else {
        uint32_t elems = formats[format].block_elems, bytes = formats[format].block_bytes;
        for (uint32_t i = 0; i < k / elems; i++)
            blocks[format](row + (size_t)i * bytes, out + (size_t)i * elems);
    }
}

/* ---- one element of a record ---- */

/* Where a row's words lie. */
struct view {
    const uint32_t *record;
    enum kept_order order;
    uint32_t row;
};

static uint32_t word_at(const struct view *v, const struct kept_plane *plane, uint32_t group,
                        uint32_t w)
{
    size_t at = plane->offset_words + (size_t)group * KEPT_TILE_ROWS * plane->group_words;
    if (v->order == KEPT_ORDER_LANE)
        at += v->row * plane->group_words + w;
    else
        at += w * KEPT_TILE_ROWS + v->row;
    return v->record[at];
}

/* Half i of a plane of halves, two to a word. */
static float half_at(const struct view *v, const struct kept_plane *plane, uint32_t i)
{
    uint32_t word = word_at(v, plane, i / 2, 0);
    return kept_f16_to_f32((uint16_t)(word >> 16 * (i % 2)));
}

static float value_plain(enum kept_format format, const struct view *v,
                         const struct kept_record *rec, uint32_t e)
{
    if (format == KEPT_FORMAT_F32) {
        uint32_t word = word_at(v, &rec->q, e / 4, e % 4);
        float f;
        memcpy(&f, &word, sizeof f);
        return f;
    }
    uint32_t word = word_at(v, &rec->q, e / 8, e % 8 / 2);
    uint16_t half = (uint16_t)(word >> 16 * (e % 2));
    return format == KEPT_FORMAT_F16 ? kept_f16_to_f32(half) : kept_bf16_to_f32(half);
}

static float value_32(enum kept_format format, const struct view *v, const struct kept_record *rec,
                      uint32_t e)
{
    uint32_t block = e / 32, high = e % 32 / 16, w = e % 16 / 4, i = e % 4;
    if (format == KEPT_FORMAT_Q8_0) {
        uint32_t word = word_at(v, &rec->q, 2 * block + high, w);
        return half_at(v, &rec->s, block) * (float)(int8_t)(word >> 8 * i);
    }
    int q = (int)(word_at(v, &rec->q, block, w) >> (8 * i + 4 * high) & 15u);
    if (rec->h.n_groups != 0)
        q |= (int)(word_at(v, &rec->h, block, 0) >> (8 * i + 4 * high + w) & 1u) << 4;
    if (format == KEPT_FORMAT_Q4_0)
        return half_at(v, &rec->s, block) * (float)(q - 8);
    if (format == KEPT_FORMAT_Q5_0)
        return half_at(v, &rec->s, block) * (float)(q - 16);
    uint32_t dm = word_at(v, &rec->s, block, 0);
    return kept_f16_to_f32((uint16_t)dm) * (float)q + kept_f16_to_f32((uint16_t)(dm >> 16));
}

static float value_q45_k(const struct view *v, const struct kept_record *rec, uint32_t e)
{
    uint32_t block = e / 256, k = e % 256 / 32, l = e % 32;
    uint32_t p = k / 2 * 2 + l / 16, w = l % 16 / 4, i = l % 4;
    int q = (int)(word_at(v, &rec->q, 8 * block + p, w) >> (8 * i + 4 * (k % 2)) & 15u);
    if (rec->h.n_groups != 0)
        q |= (int)(word_at(v, &rec->h, 2 * block + l / 16, w) >> (8 * i + k) & 1u) << 4;
    uint32_t dm = word_at(v, &rec->s, block, 0), top = word_at(v, &rec->s, block, 3);
    uint32_t scale = word_at(v, &rec->s, block, 1) >> 4 * k & 15u;
    uint32_t min = word_at(v, &rec->s, block, 2) >> 4 * k & 15u;
    scale |= (top >> 2 * k & 3u) << 4;
    min |= (top >> (16 + 2 * k) & 3u) << 4;
    float ds = kept_f16_to_f32((uint16_t)dm) * (float)scale;
    return ds * (float)q - kept_f16_to_f32((uint16_t)(dm >> 16)) * (float)min;
}

static float value_q6_k(const struct view *v, const struct kept_record *rec, uint32_t e)
{
    uint32_t block = e / 256, half = e % 256 / 128, t = e % 128 / 32, l = e % 32;
    uint32_t w = l % 16 / 4, i = l % 4, j = e % 256 / 16;
    uint32_t low = word_at(v, &rec->q, 8 * block + 4 * half + 2 * (t % 2) + l / 16, w);
    uint32_t high = word_at(v, &rec->h, 4 * block + 2 * half + l / 16, w);
    int q = (int)((low >> (8 * i + 4 * (t / 2)) & 15u) | (high >> (8 * i + 2 * t) & 3u) << 4);
    int scale = (int8_t)(word_at(v, &rec->s, block, j / 4) >> 8 * (j % 4));
    return half_at(v, &rec->d, block) * (float)scale * (float)(q - 32);
}

float kept_record_value(enum kept_format format, enum kept_order order, const uint32_t *record,
                        uint32_t k, uint32_t row, uint32_t i_k)
{
    struct kept_record rec = kept_record_of(format, k);
    struct view v = {record, order, row};
    switch (format) {
    case KEPT_FORMAT_F32:
    case KEPT_FORMAT_F16:
    case KEPT_FORMAT_BF16:
        return value_plain(format, &v, &rec, i_k);
    case KEPT_FORMAT_Q4_K:
    case KEPT_FORMAT_Q5_K:
        return value_q45_k(&v, &rec, i_k);
    case KEPT_FORMAT_Q6_K:
        return value_q6_k(&v, &rec, i_k);
    default:
        return value_32(format, &v, &rec, i_k);
    }
}

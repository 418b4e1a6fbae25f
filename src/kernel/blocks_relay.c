/* kernel/blocks_relay.c: file rows to records and back.
 *
 * Each plane of each format takes its words from the file's blocks in one of five ways, so one
 * table describes all formats, gives the sizes of records and drives both directions:
 *
 *   QUADS   per_block groups of 4 words: 16 file bytes each, from offset on
 *   WORD    one word: 4 file bytes
 *   HALVES  one word for two neighbouring blocks: 2 file bytes of each
 *   BITS    one word: the 32 fifth bits of a Q5_0 or Q5_1 block, 16h+4w+i to 8i+4h+w
 *   SCALES  4 words: d, dmin and the packed 6-bit scales of a Q4_K or Q5_K block, nibbles and pairs
 *
 * Plain floats are "blocks" of 32 elements here. A tile is read plane by plane, 16 rows side by
 * side: its file bytes (15 to 40 KiB in small models) stay in the cache between planes, and the
 * record is written once, in order.
 */
#include "kernel/blocks.h"

#include <string.h>

enum source_kind { NONE, QUADS, WORD, HALVES, BITS, SCALES };

struct source {
    uint8_t kind, offset_bytes, per_block;
};

static const struct layout {
    uint16_t elems, bytes; /* of a block */
    struct source q, h, s, d;
} layouts[KEPT_FORMAT_COUNT] = {
    [KEPT_FORMAT_F32] = {32, 128, .q = {QUADS, 0, 8}},
    [KEPT_FORMAT_F16] = {32, 64, .q = {QUADS, 0, 4}},
    [KEPT_FORMAT_BF16] = {32, 64, .q = {QUADS, 0, 4}},
    [KEPT_FORMAT_Q4_0] = {32, 18, .q = {QUADS, 2, 1}, .s = {HALVES, 0, 1}},
    [KEPT_FORMAT_Q4_1] = {32, 20, .q = {QUADS, 4, 1}, .s = {WORD, 0, 1}},
    [KEPT_FORMAT_Q5_0] = {32, 22, .q = {QUADS, 6, 1}, .h = {BITS, 2, 1}, .s = {HALVES, 0, 1}},
    [KEPT_FORMAT_Q5_1] = {32, 24, .q = {QUADS, 8, 1}, .h = {BITS, 4, 1}, .s = {WORD, 0, 1}},
    [KEPT_FORMAT_Q8_0] = {32, 34, .q = {QUADS, 2, 2}, .s = {HALVES, 0, 1}},
    [KEPT_FORMAT_Q4_K] = {256, 144, .q = {QUADS, 16, 8}, .s = {SCALES, 0, 1}},
    [KEPT_FORMAT_Q5_K] = {256, 176, .q = {QUADS, 48, 8}, .h = {QUADS, 16, 2}, .s = {SCALES, 0, 1}},
    [KEPT_FORMAT_Q6_K] = {256, 210, .q = {QUADS, 0, 8}, .h = {QUADS, 128, 4}, .s = {QUADS, 192, 1},
                          .d = {HALVES, 208, 1}},
};

#define MAX_BLOCK_BYTES 210

/* ---- sizes ---- */

static struct kept_plane plane_of(struct source source, uint32_t n_blocks, uint32_t *n_words)
{
    struct kept_plane plane = {.offset_words = *n_words};
    if (source.kind == NONE)
        return plane;
    plane.group_words = source.kind == QUADS || source.kind == SCALES ? 4 : 1;
    plane.n_groups = source.kind == HALVES ? (n_blocks + 1) / 2 : n_blocks * source.per_block;
    *n_words += plane.n_groups * plane.group_words * KEPT_TILE_ROWS;
    return plane;
}

struct kept_record kept_record_of(enum kept_format format, uint32_t k)
{
    const struct layout *layout = &layouts[format];
    uint32_t n_blocks = k / layout->elems;
    struct kept_record rec = {.n_words = 0};
    rec.q = plane_of(layout->q, n_blocks, &rec.n_words);
    rec.h = plane_of(layout->h, n_blocks, &rec.n_words);
    rec.s = plane_of(layout->s, n_blocks, &rec.n_words);
    rec.d = plane_of(layout->d, n_blocks, &rec.n_words);
    /* A group is 16 or 64 words, so records are whole multiples of KEPT_RECORD_ALIGN_BYTES without
     * padding. */
    return rec;
}

uint64_t kept_relaid_bytes(enum kept_format format, uint64_t n_rows, uint32_t k)
{
    uint64_t n_tiles = n_rows / KEPT_TILE_ROWS + (n_rows % KEPT_TILE_ROWS != 0);
    return n_tiles * kept_record_of(format, k).n_words * sizeof(uint32_t);
}

/* ---- words of one block ---- */

static uint32_t word_from(const uint8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static uint32_t half_from(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return half;
}

/* Bits 0, 4, 8 … 28 of x, moved together. */
static uint32_t every_fourth(uint32_t x)
{
    x &= 0x11111111u;
    x = (x | x >> 3) & 0x03030303u;
    x = (x | x >> 6) & 0x000F000Fu;
    return (x | x >> 12) & 0xFFu;
}

static uint32_t bits_from(const uint8_t *bytes)
{
    uint32_t qh = word_from(bytes), h = 0;
    for (uint32_t i = 0; i < 4; i++)
        h |= every_fourth(qh >> i) << 8 * i;
    return h;
}

static void bits_to(uint32_t h, uint8_t *bytes)
{
    uint32_t qh = 0;
    for (uint32_t e = 0; e < 32; e++)
        qh |= (h >> (e % 4 * 8 + e / 4) & 1u) << e;
    memcpy(bytes, &qh, sizeof qh);
}

/* The twelve bytes hold s0…s3 and m0…m3 in the low 6 bits of bytes 0…7, s4…s7 and m4…m7 as the
 * low and high nibbles of bytes 8…11 with their upper 2 bits on top of bytes 0…3 and 4…7. */
static void scales_from(const uint8_t *block, uint32_t words[4])
{
    const uint8_t *b = block + 4;
    uint32_t s = 0, m = 0, top = 0;
    for (uint32_t k = 0; k < 4; k++) {
        s |= (b[k] & 15u) << 4 * k | (b[8 + k] & 15u) << (16 + 4 * k);
        m |= (b[4 + k] & 15u) << 4 * k | (uint32_t)(b[8 + k] >> 4) << (16 + 4 * k);
        top |= (b[k] >> 4 & 3u) << 2 * k | (uint32_t)(b[k] >> 6) << (8 + 2 * k);
        top |= (b[4 + k] >> 4 & 3u) << (16 + 2 * k) | (uint32_t)(b[4 + k] >> 6) << (24 + 2 * k);
    }
    words[0] = word_from(block);
    words[1] = s;
    words[2] = m;
    words[3] = top;
}

static void scales_to(const uint32_t words[4], uint8_t *block)
{
    uint32_t s = words[1], m = words[2], top = words[3];
    uint8_t *b = block + 4;
    memcpy(block, &words[0], sizeof words[0]);
    for (uint32_t k = 0; k < 4; k++) {
        b[k] = (uint8_t)((s >> 4 * k & 15u) | (top >> 2 * k & 3u) << 4 |
                         (top >> (8 + 2 * k) & 3u) << 6);
        b[4 + k] = (uint8_t)((m >> 4 * k & 15u) | (top >> (16 + 2 * k) & 3u) << 4 |
                             (top >> (24 + 2 * k) & 3u) << 6);
        b[8 + k] = (uint8_t)((s >> (16 + 4 * k) & 15u) | (m >> (16 + 4 * k) & 15u) << 4);
    }
}

/* ---- file rows to records ---- */

/* What every plane of a tile is made from. */
struct tile {
    const uint8_t *rows;
    size_t row_bytes;
    uint32_t n_rows, n_blocks, block_bytes;
    enum kept_order order;
};

/* Puts a group of 16 rows x 4 words. */
static void put_quads(enum kept_order order, const uint32_t (*quads)[4], uint32_t *to)
{
    if (order == KEPT_ORDER_LANE) {
        memcpy(to, quads, KEPT_TILE_ROWS * sizeof *quads);
        return;
    }
    for (uint32_t w = 0; w < 4; w++)
        for (uint32_t r = 0; r < KEPT_TILE_ROWS; r++)
            to[w * KEPT_TILE_ROWS + r] = quads[r][w];
}

static void relay_quads(const struct tile *tile, struct source source, uint32_t *to)
{
    uint32_t quads[KEPT_TILE_ROWS][4] = {{0}};
    for (uint32_t b = 0; b < tile->n_blocks; b++) {
        const uint8_t *from = tile->rows + (size_t)b * tile->block_bytes + source.offset_bytes;
        for (uint32_t p = 0; p < source.per_block; p++) {
            for (uint32_t r = 0; r < tile->n_rows; r++)
                memcpy(quads[r], from + r * tile->row_bytes, sizeof quads[r]);
            put_quads(tile->order, (const uint32_t(*)[4])quads, to);
            to += KEPT_TILE_ROWS * 4;
            from += sizeof quads[0];
        }
    }
}

static void relay_scales(const struct tile *tile, uint32_t *to)
{
    uint32_t quads[KEPT_TILE_ROWS][4] = {{0}};
    for (uint32_t b = 0; b < tile->n_blocks; b++) {
        const uint8_t *from = tile->rows + (size_t)b * tile->block_bytes;
        for (uint32_t r = 0; r < tile->n_rows; r++)
            scales_from(from + r * tile->row_bytes, quads[r]);
        put_quads(tile->order, (const uint32_t(*)[4])quads, to);
        to += KEPT_TILE_ROWS * 4;
    }
}

/* Planes of one word per row and group: both orders are the same. */
static void relay_words(const struct tile *tile, struct source source, uint32_t *to)
{
    uint32_t step = source.kind == HALVES ? 2 : 1;
    for (uint32_t b = 0; b < tile->n_blocks; b += step) {
        const uint8_t *from = tile->rows + (size_t)b * tile->block_bytes + source.offset_bytes;
        bool pair = b + 1 < tile->n_blocks;
        for (uint32_t r = 0; r < tile->n_rows; r++, from += tile->row_bytes) {
            if (source.kind == WORD)
                to[r] = word_from(from);
            else if (source.kind == BITS)
                to[r] = bits_from(from);
            else
                to[r] = half_from(from) | (pair ? half_from(from + tile->block_bytes) << 16 : 0);
        }
        for (uint32_t r = tile->n_rows; r < KEPT_TILE_ROWS; r++)
            to[r] = 0;
        to += KEPT_TILE_ROWS;
    }
}

static void relay_plane(const struct tile *tile, struct source source, uint32_t *to)
{
    if (source.kind == QUADS)
        relay_quads(tile, source, to);
    else if (source.kind == SCALES)
        relay_scales(tile, to);
    else if (source.kind != NONE)
        relay_words(tile, source, to);
}

void kept_relay_tile(enum kept_format format, enum kept_order order, const uint8_t *rows,
                     uint32_t n_rows, uint32_t k, uint32_t *record)
{
    const struct layout *layout = &layouts[format];
    struct kept_record rec = kept_record_of(format, k);
    struct tile tile = {
        .rows = rows,
        .row_bytes = (size_t)kept_format_row_bytes(format, k),
        .n_rows = n_rows < KEPT_TILE_ROWS ? n_rows : KEPT_TILE_ROWS,
        .n_blocks = k / layout->elems,
        .block_bytes = layout->bytes,
        .order = order,
    };
    relay_plane(&tile, layout->q, record + rec.q.offset_words);
    relay_plane(&tile, layout->h, record + rec.h.offset_words);
    relay_plane(&tile, layout->s, record + rec.s.offset_words);
    relay_plane(&tile, layout->d, record + rec.d.offset_words);
}

/* ---- a record's row to f32, by way of the file's blocks ---- */

static void restore_plane(enum kept_order order, struct source source, const uint32_t *plane,
                          uint32_t i_block, uint32_t row, uint8_t *block)
{
    uint8_t *to = block + source.offset_bytes;
    if (source.kind == QUADS || source.kind == SCALES) {
        const uint32_t *group = plane + (size_t)i_block * source.per_block * KEPT_TILE_ROWS * 4;
        for (uint32_t p = 0; p < source.per_block; p++, group += KEPT_TILE_ROWS * 4) {
            uint32_t words[4];
            for (uint32_t w = 0; w < 4; w++)
                words[w] =
                    order == KEPT_ORDER_LANE ? group[row * 4 + w] : group[w * KEPT_TILE_ROWS + row];
            if (source.kind == QUADS)
                memcpy(to + p * sizeof words, words, sizeof words);
            else
                scales_to(words, to);
        }
    } else if (source.kind == HALVES) {
        uint32_t word = plane[(size_t)(i_block / 2) * KEPT_TILE_ROWS + row];
        uint16_t half = (uint16_t)(word >> 16 * (i_block % 2));
        memcpy(to, &half, sizeof half);
    } else if (source.kind != NONE) {
        uint32_t word = plane[(size_t)i_block * KEPT_TILE_ROWS + row];
        if (source.kind == WORD)
            memcpy(to, &word, sizeof word);
        else
            bits_to(word, to);
    }
}

void kept_record_row(enum kept_format format, enum kept_order order, const uint32_t *record,
                     uint32_t k, uint32_t row, float *out)
{
    const struct layout *layout = &layouts[format];
    struct kept_record rec = kept_record_of(format, k);
    uint8_t block[MAX_BLOCK_BYTES];
    for (uint32_t b = 0; b < k / layout->elems; b++) {
        restore_plane(order, layout->q, record + rec.q.offset_words, b, row, block);
        restore_plane(order, layout->h, record + rec.h.offset_words, b, row, block);
        restore_plane(order, layout->s, record + rec.s.offset_words, b, row, block);
        restore_plane(order, layout->d, record + rec.d.offset_words, b, row, block);
        kept_dequant_row(format, block, layout->elems, out + (size_t)b * layout->elems);
    }
}

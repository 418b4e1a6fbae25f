/* backend/cpu/fast_slots.h: slots of every type (params.h, section "slots") in vectors.
 *
 * K tiles are in ORDER VECTOR: word w of the 16 slots is one vector at tile + 16 w, elements and
 * scales alike, so a lane is a slot. V tiles are rows: 16 elements of one slot are one vector, so a
 * lane is an element. fast_pack makes the words of one slot, which are the same in both.
 */
#ifndef KEPT_BACKEND_CPU_FAST_SLOTS_H
#define KEPT_BACKEND_CPU_FAST_SLOTS_H

#include "backend/cpu/simd.h"
#include "kernel/ref/ref_slots.h"
#include "kernel/params.h"
#include "kernel/registry.h"

#define FAST_SLOT_WORDS (KEPT_MAX_HEAD_DIM / 2) /* at most, of any type */
#define FAST_BYTE_SCALE (1.0f / 16777216)       /* of vf_byte */

/* A row of the heads table whose first slot begins a tile, whatever the table says. */
SIMD_INLINE struct ref_head fast_head_at(const uint32_t *heads, uint32_t kv_head, uint32_t total)
{
    struct ref_head head = ref_head_at(heads, kv_head, total);
    head.first = head.first / 16 * 16;
    return head;
}

/* The largest of 16 likenesses and its slot, of equals the lowest. */
SIMD_INLINE float fast_best(const float *like, const uint32_t *slot, uint32_t *at)
{
    vf likes = vf_load(like);
    float most = vf_hmax(likes);
    uint32_t slots[16];
    vm less = vm_less(likes, vf_set(most));
    vf_store((float *)slots, vf_select(less, vf_bits(vi_set(UINT32_MAX)), vf_bits(vi_load(slot))));
    *at = slots[0];
    for (uint32_t i = 1; i < 16; i++)
        *at = slots[i] < *at ? slots[i] : *at;
    return most;
}

/* ---- rotations ---- */

/* cos and sin of each pair at a position that the table has. */
SIMD_INLINE void fast_turn_at(const struct ref_rope *r, int64_t position, float *turn)
{
    uint32_t lo = (uint32_t)(position & 255), half = r->n_rot / 2;
    const float *a = r->table + (size_t)lo * r->n_rot;
    const float *b =
        r->table + (size_t)(256 + (int64_t)r->hi_bias + (position - lo) / 256) * r->n_rot;
    for (uint32_t i = 0; i < half; i++) {
        turn[2 * i] = a[2 * i] * b[2 * i] - a[2 * i + 1] * b[2 * i + 1];
        turn[2 * i + 1] = a[2 * i] * b[2 * i + 1] + a[2 * i + 1] * b[2 * i];
    }
}

SIMD_INLINE void fast_turn(const struct ref_rope *r, const float *turn, float *v)
{
    uint32_t half = r->n_rot / 2;
    bool adjacent = r->pairs == KEPT_ROPE_ADJACENT;
    for (uint32_t i = 0; r->pairs != KEPT_ROPE_NONE && i < half; i++) {
        float *a = adjacent ? v + 2 * i : v + i, *b = adjacent ? v + 2 * i + 1 : v + i + half;
        float c = turn[2 * i], sn = turn[2 * i + 1], old = *a;
        *a = old * c - *b * sn;
        *b = old * sn + *b * c;
    }
}

/* Each block of the head by the normalised Hadamard matrix. */
SIMD_INLINE void fast_hadamard(float *v, uint32_t d)
{
    uint32_t block = d & (~d + 1u);
    vf f = vf_set(1 / sqrtf((float)block));
    for (uint32_t i = 0; i < d; i += 16) {
        vf x = vf_butterfly(vf_butterfly(vf_mul(vf_load(v + i), f), 1), 2);
        vf_store(v + i, vf_butterfly(vf_butterfly(x, 4), 8));
    }
    for (uint32_t step = 16; step < block; step *= 2)
        for (uint32_t i = 0; i < d; i += 16)
            if ((i & step) == 0) {
                vf a = vf_load(v + i), b = vf_load(v + i + step);
                vf_store(v + i, vf_add(a, b));
                vf_store(v + i + step, vf_sub(a, b));
            }
}

/* ---- one slot ---- */

/* A block of 32 quantised to bytes of their own; returns d. What is no number becomes anything. */
SIMD_INLINE float fast_quantise(uint32_t type, const float *x, uint8_t *q)
{
    vf a = vf_load(x), b = vf_load(x + 16);
    vi sign = vi_set(0x7FFFFFFF);
    float top =
        vf_hmax(vf_max(vf_bits(vi_and(vi_bits(a), sign)), vf_bits(vi_and(vi_bits(b), sign))));
    float d = top / 127;
    uint32_t i = 0;
    if (type == KEPT_FMT_Q4_0) {
        while (i < 31 && fabsf(x[i]) < top)
            i++;
        d = x[i] / -8;
    }
    vf by = vf_set(d != 0 ? d : 1);
    a = vf_div(a, by);
    b = vf_div(b, by);
    if (type == KEPT_FMT_Q4_0) {
        vf half = vf_set(8.5f), most = vf_set(15);
        vi_store_bytes(q, vi_trunc(vf_min(most, vf_add(a, half))));
        vi_store_bytes(q + 16, vi_trunc(vf_min(most, vf_add(b, half))));
    } else {
        vi_store_bytes(q, vi_round(a));
        vi_store_bytes(q + 16, vi_round(b));
    }
    return d;
}

/* The words of one slot: KEPT_SLOT_Q of elements, KEPT_SLOT_S of scales. */
SIMD_INLINE void fast_pack(uint32_t type, const float *v, uint32_t d, uint32_t *words)
{
    uint8_t q[32];
    if (type == KEPT_FMT_F16) {
        uint16_t half[KEPT_MAX_HEAD_DIM];
        for (uint32_t i = 0; i < d; i += 16)
            vf_store_half(half + i, vf_load(v + i));
        memcpy(words, half, d * sizeof *half);
        return;
    }
    uint32_t *scales = words + KEPT_SLOT_Q(type, d);
    for (uint32_t b = 0; b < d / 32; b++) {
        uint32_t scale = simd_to_half(fast_quantise(type, v + (size_t)32 * b, q));
        scales[b / 2] = b % 2 == 0 ? scale : scales[b / 2] | scale << 16;
        if (type == KEPT_FMT_Q8_0) {
            memcpy(words + (size_t)8 * b, q, 32);
            continue;
        }
        for (uint32_t i = 0; i < 16; i++)
            q[i] = (uint8_t)((q[i] & 15) | q[i + 16] << 4);
        memcpy(words + (size_t)4 * b, q, 16);
    }
}

/* The words of a slot into its K tile or V tile. */
SIMD_INLINE void fast_store_k(uint32_t type, uint32_t d, uint32_t *store, size_t slot,
                              const uint32_t *words)
{
    uint32_t *to = store + slot / 16 * KEPT_TILE_WORDS(type, d) + slot % 16;
    for (uint32_t w = 0; w < KEPT_SLOT_Q(type, d) + KEPT_SLOT_S(type, d); w++)
        to[(size_t)16 * w] = words[w];
}

SIMD_INLINE void fast_store_v(uint32_t type, uint32_t d, uint32_t *store, size_t slot,
                              const uint32_t *words)
{
    uint32_t n_q = KEPT_SLOT_Q(type, d), n_s = KEPT_SLOT_S(type, d);
    uint32_t *tile = store + slot / 16 * KEPT_TILE_WORDS(type, d);
    memcpy(tile + slot % 16 * n_q, words, n_q * sizeof *words);
    memcpy(tile + 16 * n_q + slot % 16 * n_s, words + n_q, n_s * sizeof *words);
}

/* The words of a slot of a K tile. */
SIMD_INLINE void fast_load_k(uint32_t type, uint32_t d, const uint32_t *store, size_t slot,
                             uint32_t *words)
{
    const uint32_t *from = store + slot / 16 * KEPT_TILE_WORDS(type, d) + slot % 16;
    for (uint32_t w = 0; w < KEPT_SLOT_Q(type, d) + KEPT_SLOT_S(type, d); w++)
        words[w] = from[(size_t)16 * w];
}

/* ---- K tiles ---- */

/* q . k of the 16 slots of an f16 tile, for n vectors q. */
SIMD_INLINE void fast_dots_half(const int n, const float *const *q, const uint32_t *tile,
                                uint32_t d, vf *s)
{
    vf even[8], odd[8];
    for (int i = 0; i < n; i++) {
        even[i] = vf_set(0);
        odd[i] = vf_set(0);
    }
    for (uint32_t w = 0; w < d / 2; w++) {
        vi word = vi_load(tile + 16 * (size_t)w);
        vf a = vf_half(word), b = vf_half(VI_SHR(word, 16));
        for (int i = 0; i < n; i++) {
            even[i] = vf_fma(a, vf_set(q[i][2 * w]), even[i]);
            odd[i] = vf_fma(b, vf_set(q[i][2 * w + 1]), odd[i]);
        }
    }
    for (int i = 0; i < n; i++)
        s[i] = vf_add(even[i], odd[i]);
}

/* Few columns take two sums each, so that they do not wait for the multiplier's latency. */
#define FAST_CHAINS(n) ((n) <= 4 ? 2 : 1)

/* sum[i] += four elements from element `at`. */
SIMD_INLINE void fast_add_four(const int n, const float *const *q, uint32_t at, const vf *e,
                               vf (*sum)[2])
{
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < n; i++)
            sum[i][j % FAST_CHAINS(n)] =
                vf_fma(e[j], vf_set(q[i][at + (uint32_t)j]), sum[i][j % FAST_CHAINS(n)]);
}

/* The same of a quantised tile: a block of 32 is summed before its scale is applied. */
SIMD_INLINE void fast_dots_quant(const int type, const int n, const float *const *q,
                                 const uint32_t *tile, uint32_t d, vf *s)
{
    const uint32_t *scales = tile + 16 * (size_t)KEPT_SLOT_Q((uint32_t)type, d);
    for (int i = 0; i < n; i++)
        s[i] = vf_set(0);
    for (uint32_t b = 0; b < d / 32; b++) {
        vf sum[8][2];
        for (int i = 0; i < n; i++)
            sum[i][0] = sum[i][1] = vf_set(0);
        for (uint32_t w = 0; w < (type == KEPT_FMT_Q8_0 ? 8 : 4); w++) {
            vi word = vi_load(tile + 16 * (size_t)((type == KEPT_FMT_Q8_0 ? 8 : 4) * b + w));
            if (type == KEPT_FMT_Q8_0) {
                const vf e[4] = {vf_byte(word, 0), vf_byte(word, 1), vf_byte(word, 2),
                                 vf_byte(word, 3)};
                fast_add_four(n, q, 32 * b + 4 * w, e, sum);
                continue;
            }
            const vf low[4] = {vf_nibble(word), vf_nibble(VI_SHR(word, 8)),
                               vf_nibble(VI_SHR(word, 16)), vf_nibble(VI_SHR(word, 24))};
            const vf high[4] = {vf_nibble(VI_SHR(word, 4)), vf_nibble(VI_SHR(word, 12)),
                                vf_nibble(VI_SHR(word, 20)), vf_nibble(VI_SHR(word, 28))};
            fast_add_four(n, q, 32 * b + 4 * w, low, sum);
            fast_add_four(n, q, 32 * b + 16 + 4 * w, high, sum);
        }
        vi pair = vi_load(scales + 16 * (size_t)(b / 2));
        vf scale = vf_half(b % 2 == 0 ? pair : VI_SHR(pair, 16));
        if (type == KEPT_FMT_Q8_0)
            scale = vf_mul(scale, vf_set(FAST_BYTE_SCALE));
        for (int i = 0; i < n; i++)
            s[i] = vf_fma(scale, n <= 4 ? vf_add(sum[i][0], sum[i][1]) : sum[i][0], s[i]);
    }
}

/* q . k of the 16 slots of a tile, for n <= 8 vectors q[d]; type and n are constants. */
SIMD_INLINE void fast_dots(const int type, const int n, const float *const *q, const uint32_t *tile,
                           uint32_t d, vf *s)
{
    if (type == KEPT_FMT_F16)
        fast_dots_half(n, q, tile, d, s);
    else
        fast_dots_quant(type, n, q, tile, d, s);
}

/* A K tile as f32: element i of the 16 slots at y + i * stride. */
SIMD_INLINE void fast_keys(uint32_t type, const uint32_t *tile, uint32_t d, float *y, size_t stride)
{
    const uint32_t *scales = tile + 16 * (size_t)KEPT_SLOT_Q(type, d);
    for (uint32_t w = 0; type == KEPT_FMT_F16 && w < d / 2; w++) {
        vi word = vi_load(tile + 16 * (size_t)w);
        vf_store(y + 2 * w * stride, vf_half(word));
        vf_store(y + (2 * w + 1) * stride, vf_half(VI_SHR(word, 16)));
    }
    for (uint32_t i = 0; type != KEPT_FMT_F16 && i < d; i += 4) {
        vi pair = vi_load(scales + 16 * (size_t)(i / 64));
        vf scale = vf_half(i / 32 % 2 == 0 ? pair : VI_SHR(pair, 16)), e[4];
        if (type == KEPT_FMT_Q8_0) {
            vi word = vi_load(tile + 16 * (size_t)(i / 4));
            scale = vf_mul(scale, vf_set(FAST_BYTE_SCALE));
            e[0] = vf_byte(word, 0);
            e[1] = vf_byte(word, 1);
            e[2] = vf_byte(word, 2);
            e[3] = vf_byte(word, 3);
        } else {
            vi word = vi_load(tile + 16 * (size_t)(i / 32 * 4 + i % 16 / 4));
            word = i % 32 < 16 ? word : VI_SHR(word, 4);
            e[0] = vf_nibble(word);
            e[1] = vf_nibble(VI_SHR(word, 8));
            e[2] = vf_nibble(VI_SHR(word, 16));
            e[3] = vf_nibble(VI_SHR(word, 24));
        }
        for (uint32_t j = 0; j < 4; j++)
            vf_store(y + (i + j) * stride, vf_mul(scale, e[j]));
    }
}

/* ---- V tiles ---- */

/* The scales of blocks 2j and 2j + 1 of the 16 slots of a V tile. */
SIMD_INLINE vi fast_scale_words(uint32_t type, const uint32_t *tile, uint32_t d, uint32_t j)
{
    uint32_t n_s = KEPT_SLOT_S(type, d), words[16];
    const uint32_t *scales = tile + 16 * (size_t)KEPT_SLOT_Q(type, d);
    if (n_s == 1)
        return vi_load(scales);
    for (uint32_t r = 0; r < 16; r++)
        words[r] = scales[r * n_s + j];
    return vi_load(words);
}

/* Elements k … k + 15 of a row, not scaled; type is a constant. */
SIMD_INLINE vf fast_v_elements(const int type, const uint32_t *row, uint32_t k)
{
    const uint8_t *bytes = (const uint8_t *)row;
    if (type == KEPT_FMT_F16)
        return vf_load_half((const uint16_t *)row + k);
    if (type == KEPT_FMT_Q8_0)
        return vf_load_i8(bytes + k);
    vi pairs = vi_load_bytes(bytes + k / 32 * 16);
    return vf_nibble(k % 32 == 0 ? pairs : VI_SHR(pairs, 4));
}

/* The values of a slot whose elements and scales are given. */
SIMD_INLINE void fast_unpack_of(const int type, const uint32_t *row, const uint32_t *scales,
                                uint32_t d, float *v)
{
    vf scale = vf_set(1);
    for (uint32_t k = 0; k < d; k += 16) {
        vf x = fast_v_elements(type, row, k);
        if (type != KEPT_FMT_F16 && k % 32 == 0)
            scale = vf_set(simd_from_half((uint16_t)(scales[k / 64] >> (k / 32 % 2 * 16))));
        vf_store(v + k, type == KEPT_FMT_F16 ? x : vf_mul(x, scale));
    }
}

SIMD_INLINE void fast_unpack(uint32_t type, const uint32_t *row, const uint32_t *scales, uint32_t d,
                             float *v)
{
    if (type == KEPT_FMT_F16)
        fast_unpack_of(KEPT_FMT_F16, row, scales, d, v);
    else if (type == KEPT_FMT_Q8_0)
        fast_unpack_of(KEPT_FMT_Q8_0, row, scales, d, v);
    else
        fast_unpack_of(KEPT_FMT_Q4_0, row, scales, d, v);
}

/* One slot's values, as stored. */
SIMD_INLINE void fast_values_k(uint32_t type, uint32_t d, const uint32_t *store, size_t slot,
                               float *v)
{
    uint32_t words[FAST_SLOT_WORDS];
    fast_load_k(type, d, store, slot, words);
    fast_unpack(type, words, words + KEPT_SLOT_Q(type, d), d, v);
}

SIMD_INLINE void fast_values_v(uint32_t type, uint32_t d, const uint32_t *store, size_t slot,
                               float *v)
{
    uint32_t n_q = KEPT_SLOT_Q(type, d), n_s = KEPT_SLOT_S(type, d);
    const uint32_t *tile = store + slot / 16 * KEPT_TILE_WORDS(type, d);
    fast_unpack(type, tile + slot % 16 * n_q, tile + 16 * n_q + slot % 16 * n_s, d, v);
}

#endif

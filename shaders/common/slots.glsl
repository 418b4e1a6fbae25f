// common/slots.glsl: K and V slots of every type: load, store, rotation (params.h: slots).
//
// A slot is addressed by its number in the store (first slot of the head + slot of the head) and
// lies in tile slot / 16, row slot % 16. Branches on KT, VT and ORDER are on specialisation
// constants: a pipeline keeps one of each.
//
// The includer declares keys (KT with ORDER, VT), kept.glsl, its bindings, and first defines
//   KEPT_D            elements of a head (key D or p.d), a multiple of 32
//   KEPT_LOADS_K      to load keys: bindings `uint k1[]` and `uvec4 k4[]` of the same buffer
//   KEPT_LOADS_V      to load values: `uint v1[]`
//   KEPT_STORES_K     to store keys: `uint k1[]`
//   KEPT_STORES_V     to store values: `uint v1[]`
//   KEPT_SHARED(i)    element i of the shared f32 array that is stored or rotated; leave it out to
//                     load only
// Buffers that are stored to and have two bindings must not be `restrict`.
//
// Loads are per lane. kept_hadamard and the stores are done by the whole group: all lanes call them
// with the same arguments; they begin after a barrier of the caller. kept_hadamard ends with a
// barrier, a store has none at its end.

const uint KEPT_F16 = KEPT_FMT_F16, KEPT_Q8 = KEPT_FMT_Q8_0;

// Byte i of the word, signed, as element i.
vec4 kept_signed_bytes(uint w)
{
    int i = int(w);
    return vec4(float((i << 24) >> 24), float((i << 16) >> 24), float((i << 8) >> 24),
                float(i >> 24));
}

// Nibbles of the four bytes, low (high 0) or high (1), less 8.
vec4 kept_nibble_quad(uint w, uint high)
{
    int i = int((w >> (4u * high)) & 0x0f0f0f0fu);
    return vec4(float(i & 15), float((i >> 8) & 15), float((i >> 16) & 15), float(i >> 24)) - 8.0;
}

vec4 kept_half_quad(uint lo, uint hi)
{
    return vec4(unpackHalf2x16(lo), unpackHalf2x16(hi));
}

// The scale of block b from its scale word.
float kept_block_scale(uint w, uint b)
{
    vec2 d = unpackHalf2x16(w);
    return (b & 1u) == 0u ? d.x : d.y;
}

// ---- keys ----

#if defined(KEPT_LOADS_K) || defined(KEPT_STORES_K)

uint kept_k_tile(uint slot)
{
    return (slot >> 4) * KEPT_TILE_WORDS(KT, KEPT_D);
}

// Where word w of group g of a row is; `tile` = kept_k_tile.
uint kept_k_at(uint tile, uint g, uint w, uint row)
{
    return tile + g * 64u + (ORDER == KEPT_LANE ? row * 4u + w : w * 16u + row);
}

// Where the scale word of blocks 2j and 2j + 1 of a row is.
uint kept_k_scale_at(uint tile, uint j, uint row)
{
    return tile + 16u * KEPT_SLOT_Q(KT, KEPT_D) + j * 16u + row;
}

#endif

#ifdef KEPT_LOADS_K

// Group g of a row: 8 elements (f16), 16 (q8_0) or 32 (q4_0).
uvec4 kept_k_words(uint tile, uint g, uint row)
{
    if (ORDER == KEPT_LANE) {
        return k4[(tile >> 2) + g * 16u + row];
    }
    uint at = tile + g * 64u + row;
    return uvec4(k1[at], k1[at + 16u], k1[at + 32u], k1[at + 48u]);
}

// The scale of block b of a row; types with scales only.
float kept_k_scale(uint tile, uint b, uint row)
{
    return kept_block_scale(k1[kept_k_scale_at(tile, b >> 1, row)], b);
}

// Quad j (0…3) of half h of a block of 32, not scaled, from the words of its group: 2b + h (q8_0)
// or b (q4_0).
vec4 kept_k_quad(uvec4 words, uint h, uint j)
{
    return KT == KEPT_Q8 ? kept_signed_bytes(words[j]) : kept_nibble_quad(words[j], h);
}

// Elements 8g … 8g + 7 of a slot's key, of any type.
void kept_k8(uint slot, uint g, out vec4 lo, out vec4 hi)
{
    uint tile = kept_k_tile(slot), row = slot & 15u;
    if (KT == KEPT_F16) {
        uvec4 k = kept_k_words(tile, g, row);
        lo = kept_half_quad(k.x, k.y);
        hi = kept_half_quad(k.z, k.w);
    } else {
        uvec4 k = kept_k_words(tile, KT == KEPT_Q8 ? g >> 1 : g >> 2, row);
        uvec2 w = (g & 1u) == 0u ? k.xy : k.zw;
        uint high = (g >> 1) & 1u;
        float d = kept_k_scale(tile, g >> 2, row);
        lo = d * (KT == KEPT_Q8 ? kept_signed_bytes(w.x) : kept_nibble_quad(w.x, high));
        hi = d * (KT == KEPT_Q8 ? kept_signed_bytes(w.y) : kept_nibble_quad(w.y, high));
    }
}

#endif

// ---- values ----

#if defined(KEPT_LOADS_V) || defined(KEPT_STORES_V)

// First element word, first scale word of a slot's value.
uint kept_v_at(uint slot)
{
    return (slot >> 4) * KEPT_TILE_WORDS(VT, KEPT_D) + (slot & 15u) * KEPT_SLOT_Q(VT, KEPT_D);
}

uint kept_v_scale_at(uint slot)
{
    return (slot >> 4) * KEPT_TILE_WORDS(VT, KEPT_D) + 16u * KEPT_SLOT_Q(VT, KEPT_D) +
           (slot & 15u) * KEPT_SLOT_S(VT, KEPT_D);
}

#endif

#ifdef KEPT_LOADS_V

// Elements 4i … 4i + 3 of a value, from kept_v_at and kept_v_scale_at of its slot.
vec4 kept_v_quad(uint at, uint scale_at, uint i)
{
    if (VT == KEPT_F16) {
        return kept_half_quad(v1[at + 2u * i], v1[at + 2u * i + 1u]);
    }
    uint b = i >> 3;
    float d = kept_block_scale(v1[scale_at + (b >> 1)], b);
    if (VT == KEPT_Q8) {
        return d * kept_signed_bytes(v1[at + i]);
    }
    return d * kept_nibble_quad(v1[at + 4u * b + (i & 3u)], (i >> 2) & 1u);
}

// Elements 4i … 4i + 3 of a slot's value.
vec4 kept_v4(uint slot, uint i)
{
    return kept_v_quad(kept_v_at(slot), kept_v_scale_at(slot), i);
}

#endif

// ---- rotation, stores ----

#ifdef KEPT_SHARED

// Elements 0 … n - 1 of KEPT_SHARED, n a multiple of d, by blocks of the largest power of two that
// divides d: the normalised Hadamard transform, its own inverse.
void kept_hadamard(uint n, uint d)
{
    uint log2_block = uint(findLSB(d));
    for (uint s = 0u; s < log2_block; s++) {
        for (uint i = gl_LocalInvocationID.x; i < n >> 1; i += WG) {
            uint a = ((i >> s) << (s + 1u)) + (i & ((1u << s) - 1u)), b = a + (1u << s);
            float u = KEPT_SHARED(a), v = KEPT_SHARED(b);
            KEPT_SHARED(a) = u + v;
            KEPT_SHARED(b) = u - v;
        }
        barrier();
    }
    float f = uintBitsToFloat((127u - (log2_block >> 1)) << 23);
    f *= (log2_block & 1u) != 0u ? 0.70710678118654752 : 1.0;
    for (uint i = gl_LocalInvocationID.x; i < n; i += WG) {
        KEPT_SHARED(i) *= f;
    }
    barrier();
}

#if defined(KEPT_STORES_K) || defined(KEPT_STORES_V)

shared float block_d[KEPT_MAX_HEAD_DIM / 32u]; // not rounded

// block_d of all blocks of KEPT_SHARED(0 … KEPT_D - 1), for type `type`; ends with a barrier.
void kept_find_scales(uint type)
{
    for (uint b = gl_LocalInvocationID.x; b < KEPT_D / 32u; b += WG) {
        float best = 0.0;
        for (uint i = 0u; i < 32u; i++) {
            float v = KEPT_SHARED(32u * b + i);
            best = abs(v) > abs(best) ? v : best;
        }
        block_d[b] = type == KEPT_Q8 ? abs(best) / 127.0 : best / -8.0;
    }
    barrier();
}

// Four elements from i on as bytes of a word: q8_0; as nibbles in the low halves: q4_0.
uint kept_quantise(uint type, uint i)
{
    float d = block_d[i >> 5];
    uint w = 0u;
    for (uint k = 0u; k < 4u; k++) {
        float x = d != 0.0 ? KEPT_SHARED(i + k) / d : 0.0;
        int q = type == KEPT_Q8 ? int(clamp(floor(abs(x) + 0.5), 0.0, 127.0))
                                : int(clamp(floor(x + 8.5), 0.0, 15.0));
        q = type == KEPT_Q8 && x < 0.0 ? -q : q;
        w |= (uint(q) & 255u) << (8u * k);
    }
    return w;
}

// Element word w of a row of KEPT_SHARED, in the order of plain rows: 2, 4 or 8 elements.
uint kept_element_word(uint type, uint w)
{
    if (type == KEPT_F16) {
        return kept_pack_half2(KEPT_SHARED(2u * w), KEPT_SHARED(2u * w + 1u));
    }
    if (type == KEPT_Q8) {
        return kept_quantise(type, 4u * w);
    }
    uint i = 32u * (w >> 2) + 4u * (w & 3u);
    return (kept_quantise(type, i) & 0x0f0f0f0fu) |
           ((kept_quantise(type, i + 16u) & 0x0f0f0f0fu) << 4);
}

// The scale word of blocks 2j and 2j + 1; 0 for a block that is not there.
uint kept_scale_word(uint j)
{
    return kept_pack_half2(block_d[2u * j], 64u * j + 32u < KEPT_D ? block_d[2u * j + 1u] : 0.0);
}

#endif

#ifdef KEPT_STORES_K
// KEPT_SHARED(0 … KEPT_D - 1) into the key of a slot.
void kept_store_k(uint slot)
{
    uint tile = kept_k_tile(slot), row = slot & 15u, n = KEPT_SLOT_Q(KT, KEPT_D);
    if (KT != KEPT_F16) {
        kept_find_scales(KT);
        for (uint j = gl_LocalInvocationID.x; j < KEPT_SLOT_S(KT, KEPT_D); j += WG) {
            k1[kept_k_scale_at(tile, j, row)] = kept_scale_word(j);
        }
    }
    for (uint i = gl_LocalInvocationID.x; i < n; i += WG) {
        k1[kept_k_at(tile, i >> 2, i & 3u, row)] = kept_element_word(KT, i);
    }
}
#endif

#ifdef KEPT_STORES_V
// KEPT_SHARED(0 … KEPT_D - 1) into the value of a slot.
void kept_store_v(uint slot)
{
    uint at = kept_v_at(slot), scale_at = kept_v_scale_at(slot), n = KEPT_SLOT_Q(VT, KEPT_D);
    if (VT != KEPT_F16) {
        kept_find_scales(VT);
        for (uint j = gl_LocalInvocationID.x; j < KEPT_SLOT_S(VT, KEPT_D); j += WG) {
            v1[scale_at + j] = kept_scale_word(j);
        }
    }
    for (uint i = gl_LocalInvocationID.x; i < n; i += WG) {
        v1[at + i] = kept_element_word(VT, i);
    }
}
#endif

#endif

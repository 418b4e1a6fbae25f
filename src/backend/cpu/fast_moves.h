/* backend/cpu/fast_moves.h: what slot_select said of a KV head, for the forms that act on it. */
#ifndef KEPT_BACKEND_CPU_FAST_MOVES_H
#define KEPT_BACKEND_CPU_FAST_MOVES_H

#include "backend/cpu/fast_slots.h"
#include "kernel/ref/ref_maintain.h"

/* A KV head's slots and the lists of `moves`; counts within bounds, slot numbers as read. */
struct fast_moves {
    struct ref_head head;
    uint32_t m, count, fills, c, lost;
    const uint32_t *evicted, *from, *to;
    bool rotate;
};

SIMD_INLINE struct fast_moves fast_moves_of(const uint8_t *heads, const uint8_t *tables,
                                            uint32_t kv_head, uint32_t total, uint32_t block)
{
    const uint32_t *t = (const uint32_t *)tables + (size_t)kv_head * KEPT_MOVES_STRIDE(block);
    struct fast_moves m = {.head = fast_head_at((const uint32_t *)heads, kv_head, total)};
    m.m = ref_min(t[KEPT_MOVES_M], block);
    m.count = ref_min(t[KEPT_MOVES_COUNT], m.head.cap);
    m.fills = ref_min(t[KEPT_MOVES_FILLS], block);
    m.c = ref_min(t[KEPT_MOVES_C], m.head.cap);
    m.lost = ref_min(t[KEPT_MOVES_LOST], block);
    m.rotate = t[KEPT_MOVES_ROTATE] != 0;
    m.evicted = t + KEPT_MOVES_LISTS;
    m.from = m.evicted + block;
    m.to = m.from + block;
    return m;
}

#endif

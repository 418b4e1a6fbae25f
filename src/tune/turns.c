/* tune/turns.c: turns of loops that one invocation of a Vulkan kernel takes, for drivers that count
 * them. Mesa's llvmpipe and lavapipe leave all loops of an invocation, silently, after 65 535 turns
 * together; a loop of n turns counts n + 1. Only kernels whose turns grow with the slots of a head
 * are here, as the shaders have their loops; what does not grow is bounded from above.
 */
#include "tune/tune.h"

static uint64_t part(uint64_t n, uint64_t of)
{
    return (n + of - 1) / of;
}

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* common/attention.glsl: tiles of slots against columns; per tile a loop over the elements of a key
 * and one over the values. */
static uint64_t attention(const struct kept_call *call, const struct kept_attn_params *p,
                          uint64_t slots)
{
    bool decode = call->id == KEPT_KERNEL_ATTN_DECODE;
    const uint32_t *keys = call->keys;
    uint64_t wg = keys[0], d = keys[KEPT_KEY_ATTN_D];
    uint64_t columns = (uint64_t)keys[KEPT_KEY_ATTN_G] * (decode ? 1 : keys[KEPT_KEY_ATTN_BQ]);
    uint64_t small = columns > 16 ? 0 : columns > 4 ? 16 : 32;
    uint64_t tile = most(wg, small) < 64 ? most(wg, small) : 64;
    uint64_t units = keys[KEPT_KEY_ATTN_VT] == KEPT_FMT_F16 ? d / 2 : d / 4;
    uint64_t shares = units <= wg ? wg / units : 1;
    uint64_t of_keys = (keys[KEPT_KEY_ATTN_KT] == KEPT_FMT_F16 ? d / 8 : d / 32) + 1;
    uint64_t of_tile = 1 + of_keys + part(tile, shares) + 1;
    uint64_t own = decode ? part(part(slots, 16), p->n_splits) * 16 : slots;
    return (part(own, tile) + 1) * of_tile + columns * part(3 * d, wg) + 256;
}

/* Every scan of the slots by the group's lanes, at most: counting, fading, three for every query
 * head, eight digits, gathering. */
static uint64_t choice(const struct kept_call *call, const struct kept_select_params *p,
                       uint64_t slots)
{
    uint64_t wg = call->keys[0], group = p->n_head / p->n_kv, block = p->row_cap;
    bool scores = call->keys[KEPT_KEY_SELECT_SCORER] == KEPT_SCORER_EXPECTED;
    uint64_t scans = 11 + (scores ? 3 * group : 0);
    uint64_t digits = 8 * (part(256, wg) + 256), lists = 3 * part(block, wg) * (block + 2);
    return scans * (part(slots, wg) + 2) + digits + lists + 4 * group * (wg + 1) + 256;
}

/* common/nearest.glsl: a few keys at a time against all slots of a split. */
static uint64_t nearest(const struct kept_call *call, uint64_t d, uint64_t n_splits,
                        uint64_t n_keys, uint64_t slots)
{
    uint64_t wg = call->keys[0], slots_of_lane = wg < 16 ? 8 : wg < 32 ? 2 : 1;
    uint64_t at_once = wg < 16 ? (d > 256 ? 4 : d > 128 ? 8 : 16) : d > 128 || wg > 128 ? 4 : 8;
    uint64_t own = part(part(slots, 16), n_splits) * 16;
    uint64_t scan = (part(own, wg * slots_of_lane) + 1) * (d / 8 + 2);
    return part(n_keys, at_once) * (scan + part(at_once * d / 8, wg) + 10 * (at_once + 2)) + 64;
}

/* Means by groups of 32 elements, then twice all elements of the lane's slots. */
static uint64_t keydiff(const struct kept_call *call, const struct kept_score_params *p,
                        uint64_t slots)
{
    uint64_t wg = call->keys[0], groups = p->d / 32;
    return (part(slots, wg) + 1) * (groups + 2 * (groups + 2)) + groups * 8 * (wg + 2) + 256;
}

uint64_t kept_tune_turns(const struct kept_call *call, uint32_t slots)
{
    const void *params = call->params;
    const struct kept_merge_slots_params *near = params;
    const struct kept_assoc_params *assoc = params;
    switch (call->id) {
    case KEPT_KERNEL_ATTN_DECODE:
    case KEPT_KERNEL_ATTN_PREFILL:
        return attention(call, params, slots);
    case KEPT_KERNEL_SLOT_SELECT:
        return choice(call, params, slots);
    case KEPT_KERNEL_SLOT_NEAREST:
        return nearest(call, near->d, near->n_splits, near->row_cap, slots);
    case KEPT_KERNEL_ASSOC_MATCH:
        return nearest(call, assoc->d, assoc->n_splits, KEPT_ASSOC_SUB, slots);
    case KEPT_KERNEL_SCORE_KEYDIFF:
        return keydiff(call, params, slots);
    case KEPT_KERNEL_SLOT_MOVE: /* the window, which is at most all */
        return part(slots, call->keys[0]) + 256;
    case KEPT_KERNEL_SLOT_RENUMBER: /* batches of 256 positions, four at a time */
        return part(slots, 256) * (part(256, call->keys[0]) + 67) + 256;
    default:
        return 0;
    }
}

uint32_t kept_tune_slots_within(const struct kept_call *call, uint64_t turns)
{
    uint32_t fit = 0;
    for (uint32_t step = 1u << 25; step >= 64; step /= 2)
        if (kept_tune_turns(call, fit + step) <= turns)
            fit += step;
    return fit;
}

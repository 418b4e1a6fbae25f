/* tune/tune.h: which kernel variant and which key values a device gets. Resolved once per device
 * from its profile; backends receive plain key values and never see these tables. */
#ifndef KEPT_TUNE_TUNE_H
#define KEPT_TUNE_TUNE_H

#include "kernel/call.h"
#include "kernel/registry.h"
#include "kept/device.h"

struct kept_tuning {
    const char *name;    /* of the table row, for reports */
    bool many_by_matvec; /* products of many columns by matvec, not by matmat */
    uint32_t matvec_wg, matvec_tr, matvec_nc;
    uint32_t matmat_wg, matmat_bm, matmat_bn;
    uint32_t norm_wg, slot_wg, glu_wg, argmax_wg, embed_wg, merge_wg;
    uint32_t decode_wg, decode_g; /* g: most query heads a pass */
    uint32_t prefill_wg, prefill_g;
    uint32_t prefill_columns;    /* query heads x rows of a group */
    uint32_t retain_wg;          /* maintenance of slots */
    uint32_t splits_per_unit_x4; /* decode splits = units * this / (4 * KV heads), 1 to 32 */
    uint32_t mops_per_unit;      /* million operations of a compute unit in a millisecond */
    uint32_t driver_mib;         /* estimate of what the driver takes for itself */
};

/* Keys of an attention kernel for one layer. */
struct kept_attn_keys {
    uint32_t wg, g, bq;
};

void kept_tune_device(const struct kept_profile *profile, struct kept_tuning *out);

/* Splits of decode attention for n_kv KV heads and at most `slots` slots each. */
uint32_t kept_tune_splits(const struct kept_tuning *tuning, const struct kept_profile *profile,
                          uint32_t n_kv, uint32_t slots);
/* Attention keys for heads of d elements, `group` query heads to a KV head: passes of equal size,
 * and no more columns than the device's shared memory holds. */
struct kept_attn_keys kept_tune_attention(const struct kept_tuning *tuning,
                                          const struct kept_profile *profile, uint32_t d,
                                          uint32_t group, bool decode);
/* Rows a matmat group takes; a gated product needs shared memory for twice as many. */
uint32_t kept_tune_matmat_rows(const struct kept_tuning *tuning, const struct kept_profile *profile,
                               bool gated);
/* Operations that one submitted piece may take: about 50 ms at the device's rate. */
uint64_t kept_tune_piece_ops(const struct kept_tuning *tuning, const struct kept_profile *profile);

/* turns.c: loop turns of one invocation of the call at most, where a head has so many slots; 0 for
 * kernels whose turns do not grow with them. How many slots, a multiple of 64, stay within them. */
uint64_t kept_tune_turns(const struct kept_call *call, uint32_t slots);
uint32_t kept_tune_slots_within(const struct kept_call *call, uint64_t turns);

#endif

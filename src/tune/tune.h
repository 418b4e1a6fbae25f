/* tune/tune.h: which kernel variant and which key values a device gets. Resolved once per device
 * from its profile; backends receive plain key values and never see these tables. */
#ifndef KEPT_TUNE_TUNE_H
#define KEPT_TUNE_TUNE_H

#include "kernel/registry.h"
#include "kept/device.h"

struct kept_tuning {
    const char *name; /* of the table row, for reports */
    bool
        /* products of many columns by matvec with NC columns a group, not by matmat */
        many_by_matvec;
    uint32_t matvec_wg, matvec_tr, matvec_nc;
    uint32_t matmat_wg, matmat_bm, matmat_bn;
    uint32_t norm_wg, slot_wg, glu_wg, argmax_wg, embed_wg, merge_wg;
    uint32_t decode_wg, decode_g; /* g: most query heads a pass */
    uint32_t prefill_wg, prefill_g, prefill_bq;
    uint32_t splits_per_unit_x4; /* decode splits = units * this / (4 * KV heads), within 1…32 */
    uint32_t
        /* million operations a compute unit does in a millisecond, for cutting long work */
        mops_per_unit;
    uint32_t driver_mib; /* estimate of what the driver takes for itself */
};

void kept_tune_device(const struct kept_profile *profile, struct kept_tuning *out);

/* Splits of decode attention for n_kv KV heads and at most `slots` slots each. */
uint32_t kept_tune_splits(const struct kept_tuning *tuning, const struct kept_profile *profile,
                          uint32_t n_kv, uint32_t slots);
/* Operations that one submitted piece may take: about 50 ms at the device's rate. */
uint64_t kept_tune_piece_ops(const struct kept_tuning *tuning, const struct kept_profile *profile);

#endif

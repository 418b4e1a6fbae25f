/* core/sidecar_internal.h: what a sidecar holds, and reading one from memory. */
#ifndef KEPT_CORE_SIDECAR_INTERNAL_H
#define KEPT_CORE_SIDECAR_INTERNAL_H

#include "kept/memory.h"

struct kept_sidecar {
    struct kept_sidecar_info info;
    uint32_t n_embd;
    float *shares;    /* [n_shares], ascending, the last one 1 */
    float *fractions; /* [n_shares][n_layers][n_kv] */
    float *gate;      /* [n_layers][n_kv][n_embd], or NULL */
    float *gate_bias; /* [n_layers][n_kv], or NULL */
    struct kept_sidecar_report_info *reports;
};

/* `name` stands in errors. model NULL: bound to none. */
kept_status kept_sidecar_parse(const void *bytes, size_t n_bytes, const char *name,
                               const kept_model *model, kept_sidecar **out, struct kept_error *err);

#endif

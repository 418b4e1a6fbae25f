/* kernel/contract.h: what keys, parameters and bindings of a call must satisfy, so that no kernel
 * reads or writes outside its bindings whatever the live rows are. Checked once, when a call is
 * recorded. */
#ifndef KEPT_KERNEL_CONTRACT_H
#define KEPT_KERNEL_CONTRACT_H

#include "kernel/registry.h"

/* bind_bytes: the row's n_binds sizes. KEPT_E_ARGUMENT names the kernel, the parameter or binding,
 * and the numbers. Bindings that the keys switch off (bias without BIAS, meta without GENERAL, …)
 * may be of any size. */
kept_status kept_kernel_check(enum kept_kernel_id id, enum kept_format format, const uint32_t *keys,
                              const void *params, const uint64_t *bind_bytes,
                              struct kept_error *err);

#endif

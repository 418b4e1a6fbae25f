/* kernel/ref/ref.h: the reference functions, one per row of kernels.def: ref_<stem>.
 *
 * They say what a kernel means, as plainly as C can, and are the oracle every faster form is
 * compared with. Sums are accumulated in double, so that a reference is nearer to the exact value
 * than anything compared with it. They trust parameters and grids (the wrappers validated those)
 * but not the contents of buffers: a token, position or row offset read from the step buffer that
 * points outside a binding is skipped.
 */
#ifndef KEPT_KERNEL_REF_REF_H
#define KEPT_KERNEL_REF_REF_H

#include "kernel/registry.h"

#define KEPT_KERNEL(ID, stem, ...) void ref_##stem(const struct kept_host_call *call);
#include "kernel/kernels.def"
#undef KEPT_KERNEL

#endif

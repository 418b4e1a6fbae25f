/* kept/kernel.h: testing and timing single kernels on a device. Experimental: may change between
 * any two versions.
 *
 * Every kernel is run over random and hostile inputs and compared with a plain reference on the
 * host; bytes around and between its buffers must stay as they were. What fails here is a bug of a
 * kernel or of a driver: a report with the seed is enough to see it again.
 */
#ifndef KEPT_KERNEL_H
#define KEPT_KERNEL_H

#include "common.h"
#include "device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Zero-initialised: every kernel and weight format, 2 choices of key values, 8 shapes each, no time
 * limit. */
struct kept_selftest_params {
    uint64_t seed;
    const char *pattern; /* only kernels whose name contains this; NULL: all */
    const char *format;  /* only this weight format, "Q4_K"; NULL: all */
    uint32_t n_rounds;   /* choices of key values per kernel and format; each is compiled once */
    uint32_t n_cases;    /* shapes for each of them */
    /* a failure again: the round and case it names, plus 1; 0: all */
    uint32_t round_plus_1, case_plus_1;
    uint32_t max_lanes; /* pretends that work-groups cannot be larger; 0: the device's limit */
    /* stop beginning new rounds (bench: figures) after this; the first round completes. 0: no limit
     * */
    double seconds;
    bool bench; /* time the shapes of real models instead of comparing */
};

/* One kernel, weight format and choice of keys. Strings are valid during the callback. */
struct kept_selftest_row {
    const char *kernel;
    const char *purpose;
    const char *format; /* "-" for kernels without weights */
    const char *keys;   /* "WG 64 ORDER 0 …" */
    const char *shape;  /* bench; else "" */
    uint32_t n_cases, n_failed;
    /* the first wrong element: shape, place, values, bound, seed; "" when all agree */
    const char *failure;
    double ns;           /* bench: of one call */
    double gbps, gflops; /* bench: least bytes moved and operations, by time */
};

/* Called after each row; returning false ends the run with KEPT_E_CANCELLED. */
typedef bool (*kept_selftest_fn)(void *user, const struct kept_selftest_row *row);

/* Runs the test (or the benchmark) on an open device, which must hold no committed plan. Takes some
 * device memory and seconds to minutes, most of it compilation.
 *   KEPT_OK           every case agreed
 *   KEPT_E_CHECK      some did not; the error says how many, the rows which
 *   KEPT_E_CANCELLED  the callback returned false
 *   others            the device or the host's memory failed
 * Blocks. Thread-safety: the device belongs to the calling thread. */
KEPT_API_EXPERIMENTAL kept_status kept_selftest_run(kept_device *device,
                                                    const struct kept_selftest_params *params,
                                                    kept_selftest_fn fn, void *user,
                                                    struct kept_error *err);

#ifdef __cplusplus
}
#endif
#endif

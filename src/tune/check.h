/* tune/check.h: runs registry rows on an open device and compares every byte with the rows'
 * references.
 *
 * A case is a row, a weight format, key values, parameters and the bytes of every binding, all from
 * one seed. A round chooses other key values for every row and format (one compilation each); a
 * round has n_cases shapes. A failing case can be run again alone: same seed, pattern and format,
 * and the round and case that were printed.
 */
#ifndef KEPT_TUNE_CHECK_H
#define KEPT_TUNE_CHECK_H

#include "backend/backend.h"

#define KEPT_CHECK_ALL UINT32_MAX

/* Zero-initialised means the defaults. */
struct kept_check_params {
    uint64_t seed;
    const char *pattern;   /* only rows whose stem contains it; NULL: all */
    const char *format;    /* only this weight format (and no row without formats); NULL: all */
    uint32_t n_rounds;     /* key values per row and format; 0: 2 */
    uint32_t n_cases;      /* shapes per round, row and format; 0: 8 */
    uint32_t round_plus_1; /* only this round, counted from 1; 0: all */
    uint32_t case_plus_1;  /* only this case, counted from 1; 0: all */
    /* pretends that work-groups are limited to this; 0: the device's limit */
    uint32_t max_lanes;
    /* no spoilt tables of moves: with one, all slots of its head may become anything */
    bool sound_moves;
    /* no new round after this time (the first always completes); 0: no limit */
    double seconds;
};

/* One row, format and choice of keys. Strings live during the callback only. */
struct kept_check_result {
    const struct kept_kernel_row *row;
    const char *format; /* "-" without a format axis */
    const char *keys;   /* "WG 64 ORDER 0 …" */
    const char *shape;  /* bench only: "135M decode 576 x 576" */
    uint32_t n_cases;
    uint32_t n_failed;
    const char *failure; /* the first, one sentence; "" when there is none */
    double ns;           /* bench only: of one call */
    double gbps, gflops; /* bench only: from kept_kernel_cost */
};

/* Returning false cancels the run (KEPT_E_CANCELLED). */
typedef bool (*kept_check_fn)(void *user, const struct kept_check_result *result);

struct kept_check_summary {
    uint32_t n_results, n_cases, n_failed;
};

/* Compares. A wrong result is not an error of the run: look at summary->n_failed. Errors are those
 * of the device (lost, out of memory). The device must not be sealed; everything made is destroyed
 * again. Blocks for seconds. */
kept_status kept_check_run(struct kept_device *device, const struct kept_check_params *params,
                           kept_check_fn report, void *user, struct kept_check_summary *summary,
                           struct kept_error *err);

/* Times the rows with the shapes of a 135M, a 1B and an 8B model, decode and prefill. Results are
 * not compared. */
kept_status kept_check_bench(struct kept_device *device, const struct kept_check_params *params,
                             kept_check_fn report, void *user, struct kept_check_summary *summary,
                             struct kept_error *err);

#endif

/* backend/hazards.h: which calls of a recording may run side by side.
 *
 * The recorder hands over the byte ranges a call reads and writes. Two calls conflict when their
 * ranges overlap in one buffer and at least one of them writes there; then a barrier must stand
 * between. Packed activations alias, so ranges are compared and not buffers. */
#ifndef KEPT_BACKEND_HAZARDS_H
#define KEPT_BACKEND_HAZARDS_H

#include <stdbool.h>
#include <stdint.h>

#define KEPT_HAZARD_CAP 96

struct kept_hazard_range {
    const void *buf;     /* identity only */
    uint64_t first, end; /* bytes [first, end) */
    bool write;
};

struct kept_hazards {
    uint32_t n;
    struct kept_hazard_range ranges[KEPT_HAZARD_CAP]; /* since the last barrier */
};

/* Adds the ranges of the next call (at most KEPT_HAZARD_CAP). True when a barrier must come before
 * it; then only its ranges are remembered. A full list also asks for a barrier: one too many is
 * slow, one too few is wrong. */
bool kept_hazards_add(struct kept_hazards *hazards, const struct kept_hazard_range *ranges,
                      uint32_t n);

#endif

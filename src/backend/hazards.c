/* backend/hazards.c: a flat list searched linearly. A decode recording has a barrier every call or
 * two, a prefill one a few dozen ranges between barriers: nothing cleverer would be faster, and
 * recording happens once. Reads that repeat (the step buffer is in every call) are kept once. */
#include "backend/hazards.h"

#include <assert.h>

static bool conflicts(const struct kept_hazard_range *a, const struct kept_hazard_range *b)
{
    return a->buf == b->buf && (a->write || b->write) && a->first < b->end && b->first < a->end;
}

static bool covers(const struct kept_hazard_range *a, const struct kept_hazard_range *b)
{
    return a->buf == b->buf && a->write == b->write && a->first <= b->first && b->end <= a->end;
}

static bool known(const struct kept_hazards *hazards, const struct kept_hazard_range *range)
{
    for (uint32_t i = 0; i < hazards->n; i++)
        if (covers(&hazards->ranges[i], range))
            return true;
    return false;
}

bool kept_hazards_add(struct kept_hazards *hazards, const struct kept_hazard_range *ranges,
                      uint32_t n)
{
    assert(n <= KEPT_HAZARD_CAP);
    bool barrier = n > KEPT_HAZARD_CAP - hazards->n;
    for (uint32_t i = 0; i < hazards->n && !barrier; i++)
        for (uint32_t j = 0; j < n && !barrier; j++)
            barrier = conflicts(&hazards->ranges[i], &ranges[j]);
    if (barrier)
        hazards->n = 0;
    for (uint32_t j = 0; j < n; j++)
        if (!known(hazards, &ranges[j]))
            hazards->ranges[hazards->n++] = ranges[j];
    return barrier;
}

/* base/clock.h: monotonic time. */
#ifndef KEPT_BASE_CLOCK_H
#define KEPT_BASE_CLOCK_H

#include <stdint.h>

uint64_t kept_clock_ns(void);
/* Seconds since 1970. */
int64_t kept_clock_unix_s(void);
void kept_sleep_ns(uint64_t ns);

#endif

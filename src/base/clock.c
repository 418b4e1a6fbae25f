/* base/clock.c: monotonic nanoseconds and sleeping. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "base/clock.h"

#include <time.h>

#if defined(_WIN32)

#include <windows.h>

uint64_t kept_clock_ns(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    uint64_t t = (uint64_t)ticks.QuadPart, f = (uint64_t)per_second.QuadPart;
    return t / f * 1000000000u + t % f * 1000000000u / f;
}

void kept_sleep_ns(uint64_t ns)
{
    uint64_t ms = ns / 1000000u + (ns % 1000000u != 0);
    Sleep(ms < 0x7FFFFFFFu ? (DWORD)ms : 0x7FFFFFFFu);
}

#else

#include <errno.h>
#include <time.h>

uint64_t kept_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void kept_sleep_ns(uint64_t ns)
{
    struct timespec left = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

#endif

int64_t kept_clock_unix_s(void)
{
    return (int64_t)time(NULL);
}

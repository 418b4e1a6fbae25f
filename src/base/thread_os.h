/* base/thread_os.h: the few system primitives under thread.c. Private to base; include before
 * anything else. */
#ifndef KEPT_BASE_THREAD_OS_H
#define KEPT_BASE_THREAD_OS_H

#include <stdbool.h>
#include <stdint.h>

#if defined(_WIN32)

#include <windows.h>

struct os_mutex {
    SRWLOCK lock;
};
struct os_cond {
    CONDITION_VARIABLE variable;
};
struct os_thread {
    HANDLE handle;
};
#define OS_THREAD_RESULT DWORD WINAPI
#define OS_THREAD_RETURN 0

static inline bool os_mutex_init(struct os_mutex *m)
{
    InitializeSRWLock(&m->lock);
    return true;
}
static inline void os_mutex_finish(struct os_mutex *m)
{
    (void)m;
}
static inline void os_mutex_lock(struct os_mutex *m)
{
    AcquireSRWLockExclusive(&m->lock);
}
static inline void os_mutex_unlock(struct os_mutex *m)
{
    ReleaseSRWLockExclusive(&m->lock);
}
static inline bool os_cond_init(struct os_cond *c)
{
    InitializeConditionVariable(&c->variable);
    return true;
}
static inline void os_cond_finish(struct os_cond *c)
{
    (void)c;
}
static inline void os_cond_wait(struct os_cond *c, struct os_mutex *m)
{
    SleepConditionVariableSRW(&c->variable, &m->lock, INFINITE, 0);
}
static inline void os_cond_wake_all(struct os_cond *c)
{
    WakeAllConditionVariable(&c->variable);
}
static inline bool os_thread_start(struct os_thread *t, DWORD(WINAPI *fn)(void *), void *user)
{
    t->handle = CreateThread(NULL, 0, fn, user, 0, NULL);
    return t->handle != NULL;
}
static inline void os_thread_join(struct os_thread *t)
{
    WaitForSingleObject(t->handle, INFINITE);
    CloseHandle(t->handle);
}
static inline uint32_t os_cpu_count(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwNumberOfProcessors;
}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

struct os_mutex {
    pthread_mutex_t lock;
};
struct os_cond {
    pthread_cond_t variable;
};
struct os_thread {
    pthread_t id;
};
#define OS_THREAD_RESULT void *
#define OS_THREAD_RETURN NULL

static inline bool os_mutex_init(struct os_mutex *m)
{
    return pthread_mutex_init(&m->lock, NULL) == 0;
}
static inline void os_mutex_finish(struct os_mutex *m)
{
    pthread_mutex_destroy(&m->lock);
}
static inline void os_mutex_lock(struct os_mutex *m)
{
    pthread_mutex_lock(&m->lock);
}
static inline void os_mutex_unlock(struct os_mutex *m)
{
    pthread_mutex_unlock(&m->lock);
}
static inline bool os_cond_init(struct os_cond *c)
{
    return pthread_cond_init(&c->variable, NULL) == 0;
}
static inline void os_cond_finish(struct os_cond *c)
{
    pthread_cond_destroy(&c->variable);
}
static inline void os_cond_wait(struct os_cond *c, struct os_mutex *m)
{
    pthread_cond_wait(&c->variable, &m->lock);
}
static inline void os_cond_wake_all(struct os_cond *c)
{
    pthread_cond_broadcast(&c->variable);
}
/* Signals are left to the host's threads: ours block them all. */
static inline bool os_thread_start(struct os_thread *t, void *(*fn)(void *), void *user)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = pthread_create(&t->id, NULL, fn, user) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}
static inline void os_thread_join(struct os_thread *t)
{
    pthread_join(t->id, NULL);
}
/* The processors this process may run on, and no more than a container's quota pays for. */
static inline uint32_t os_cpu_count(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    long long quota, period;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (file != NULL) {
        if (fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0) {
            long long paid = (quota + period - 1) / period;
            if (paid < n)
                n = (long)paid;
        }
        fclose(file);
    }
#endif
    return n > 0 ? (uint32_t)n : 1;
}

#endif
#endif

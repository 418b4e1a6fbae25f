/* base/thread.c: mutexes and the pool.
 *
 * A job is a count of items. `waiting` holds how many of them nobody has taken, `unfinished` how
 * many are not done:
 *
 *   run           job = …; unfinished = n; waiting = n
 *   every thread  while waiting > 0: waiting -= 1; call; unfinished -= 1
 *   run           returns when unfinished is 0
 *
 * A thread reads the job only while it holds an item of it, and the job cannot end before that
 * item is done, so run waits for the work and never for a worker: one that is late finds nothing
 * to take and has delayed nobody. Taking is a compare-and-swap that never goes below 0, which is
 * what lets a late worker meet the next job safely.
 *
 * Both sides spin for at most SPIN_NS with a pause instruction and then sleep on a condition
 * variable. Sleeping pairs a sequentially consistent announcement ("asleep", "caller_asleep")
 * with a second look at the counter, and the waker writes the counter before it reads the
 * announcement, so one of the two always sees the other.
 */
#define _GNU_SOURCE /* sched_getaffinity */

#include "base/thread_os.h"

#include "base/thread.h"

#include <stdatomic.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/status.h"

#define SPIN_NS          20000u
#define SPIN_ROUNDS      32 /* pauses between two looks at the clock */
#define MAX_THREADS      512u
#define CACHE_LINE_BYTES 64

/* ---- mutex ---- */

struct kept_mutex {
    struct os_mutex os;
};

struct kept_mutex *kept_mutex_create(void)
{
    struct kept_mutex *mutex = kept_calloc(1, sizeof *mutex);
    if (mutex != NULL && !os_mutex_init(&mutex->os)) {
        kept_free(mutex);
        mutex = NULL;
    }
    return mutex;
}

void kept_mutex_lock(struct kept_mutex *mutex)
{
    os_mutex_lock(&mutex->os);
}

void kept_mutex_unlock(struct kept_mutex *mutex)
{
    os_mutex_unlock(&mutex->os);
}

void kept_mutex_destroy(struct kept_mutex **mutex)
{
    if (mutex == NULL || *mutex == NULL)
        return;
    os_mutex_finish(&(*mutex)->os);
    kept_free(*mutex);
    *mutex = NULL;
}

uint32_t kept_cpu_count(void)
{
    return os_cpu_count();
}

/* ---- pool ---- */

struct worker {
    struct kept_pool *pool;
    struct os_thread thread;
    uint32_t i_thread;
};

struct kept_pool {
    /* Counters that all threads write are kept off each other's cache lines. */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t waiting;
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t unfinished;
    _Alignas(CACHE_LINE_BYTES) uint32_t n_items; /* the job; written while unfinished is 0 */
    void (*fn)(void *user, uint32_t item, uint32_t i_thread);
    void *user;
    _Atomic uint32_t asleep; /* workers on `work` */
    _Atomic bool caller_asleep, stop;
    uint32_t n_workers; /* started; the caller is one thread more */
    struct os_mutex mutex;
    struct os_cond work, done;
    struct worker workers[];
};

static void pause_once(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Spins until the counter is (want_zero ? zero : not zero), for a bounded time. */
static bool spin(const _Atomic uint32_t *counter, bool want_zero)
{
    uint64_t end = 0;
    for (;;) {
        for (int i = 0; i < SPIN_ROUNDS; i++) {
            if ((atomic_load_explicit(counter, memory_order_acquire) == 0) == want_zero)
                return true;
            pause_once();
        }
        uint64_t now = kept_clock_ns();
        if (end == 0)
            end = now + SPIN_NS;
        else if (now >= end)
            return false;
    }
}

/* Takes and runs items until none is left. */
static void work_off(struct kept_pool *pool, uint32_t i_thread)
{
    uint32_t left = atomic_load_explicit(&pool->waiting, memory_order_relaxed);
    while (left != 0) {
        if (!atomic_compare_exchange_weak_explicit(&pool->waiting, &left, left - 1,
                                                   memory_order_acquire, memory_order_relaxed))
            continue;
        pool->fn(pool->user, pool->n_items - left, i_thread);
        if (atomic_fetch_sub(&pool->unfinished, 1) == 1 && atomic_load(&pool->caller_asleep)) {
            os_mutex_lock(&pool->mutex);
            os_cond_wake_all(&pool->done);
            os_mutex_unlock(&pool->mutex);
        }
        left = atomic_load_explicit(&pool->waiting, memory_order_relaxed);
    }
}

static OS_THREAD_RESULT worker_main(void *user)
{
    struct worker *worker = user;
    struct kept_pool *pool = worker->pool;
    while (!atomic_load(&pool->stop)) {
        work_off(pool, worker->i_thread);
        if (spin(&pool->waiting, false))
            continue;
        os_mutex_lock(&pool->mutex);
        atomic_fetch_add(&pool->asleep, 1);
        while (atomic_load(&pool->waiting) == 0 && !atomic_load(&pool->stop))
            os_cond_wait(&pool->work, &pool->mutex);
        atomic_fetch_sub(&pool->asleep, 1);
        os_mutex_unlock(&pool->mutex);
    }
    return OS_THREAD_RETURN;
}

static void wake_workers(struct kept_pool *pool)
{
    if (atomic_load(&pool->asleep) == 0)
        return;
    os_mutex_lock(&pool->mutex);
    os_cond_wake_all(&pool->work);
    os_mutex_unlock(&pool->mutex);
}

kept_status kept_pool_create(uint32_t n_threads, struct kept_pool **out, struct kept_error *err)
{
    *out = NULL;
    if (n_threads == 0)
        n_threads = kept_cpu_count();
    if (n_threads > MAX_THREADS)
        return kept_fail(err, KEPT_E_ARGUMENT, "%u threads asked for, at most %u are possible",
                         n_threads, MAX_THREADS);
    size_t n_bytes = sizeof(struct kept_pool) + (n_threads - 1) * sizeof(struct worker);
    struct kept_pool *pool = kept_alloc_aligned(_Alignof(struct kept_pool), n_bytes);
    if (pool == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for a pool of %u threads", n_threads);
    *pool = (struct kept_pool){0};
    if (!os_mutex_init(&pool->mutex))
        goto no_mutex;
    if (!os_cond_init(&pool->work))
        goto no_work;
    if (!os_cond_init(&pool->done))
        goto no_done;
    for (uint32_t i = 0; i + 1 < n_threads; i++) {
        struct worker *worker = &pool->workers[i];
        *worker = (struct worker){.pool = pool, .i_thread = i + 1};
        if (!os_thread_start(&worker->thread, worker_main, worker)) {
            kept_pool_destroy(&pool);
            return kept_fail(err, KEPT_E_HOST_MEMORY, "thread %u of %u could not be started", i + 2,
                             n_threads);
        }
        pool->n_workers++;
    }
    *out = pool;
    return KEPT_OK;
no_done:
    os_cond_finish(&pool->work);
no_work:
    os_mutex_finish(&pool->mutex);
no_mutex:
    kept_free_aligned(pool);
    return kept_fail(err, KEPT_E_HOST_MEMORY, "the system has no mutex left for a pool of threads");
}

void kept_pool_destroy(struct kept_pool **pool)
{
    if (pool == NULL || *pool == NULL)
        return;
    struct kept_pool *p = *pool;
    atomic_store(&p->stop, true);
    wake_workers(p);
    for (uint32_t i = 0; i < p->n_workers; i++)
        os_thread_join(&p->workers[i].thread);
    os_cond_finish(&p->done);
    os_cond_finish(&p->work);
    os_mutex_finish(&p->mutex);
    kept_free_aligned(p);
    *pool = NULL;
}

uint32_t kept_pool_threads(const struct kept_pool *pool)
{
    return pool->n_workers + 1;
}

void kept_pool_run(struct kept_pool *pool, uint32_t n_items,
                   void (*fn)(void *user, uint32_t item, uint32_t i_thread), void *user)
{
    if (pool->n_workers == 0 || n_items <= 1) {
        for (uint32_t i = 0; i < n_items; i++)
            fn(user, i, 0);
        return;
    }
    pool->fn = fn;
    pool->user = user;
    pool->n_items = n_items;
    atomic_store_explicit(&pool->unfinished, n_items, memory_order_relaxed);
    atomic_store(&pool->waiting, n_items); /* publishes the job */
    wake_workers(pool);
    work_off(pool, 0);
    if (spin(&pool->unfinished, true))
        return;
    os_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_asleep, true);
    while (atomic_load(&pool->unfinished) != 0)
        os_cond_wait(&pool->done, &pool->mutex);
    atomic_store(&pool->caller_asleep, false);
    os_mutex_unlock(&pool->mutex);
}

/* base/thread.h: mutexes, threads, and the pool that the cpu backend and the loader share the work
 * with.
 *
 * The pool's workers spin for a bounded time (about 20 us) for the next job and then sleep, so
 * that two threads beside a busy neighbour degrade instead of collapsing. Work is handed out in
 * items through one atomic counter: whoever is free takes the next, so a preempted thread delays
 * only its own item.
 */
#ifndef KEPT_BASE_THREAD_H
#define KEPT_BASE_THREAD_H

#include <stdbool.h>
#include <stdint.h>

#include "kept/common.h"

struct kept_mutex;
struct kept_mutex *kept_mutex_create(void); /* NULL when memory ran out */
void kept_mutex_lock(struct kept_mutex *mutex);
void kept_mutex_unlock(struct kept_mutex *mutex);
void kept_mutex_destroy(struct kept_mutex **mutex);

uint32_t kept_cpu_count(void); /* usable by this process; at least 1 */

struct kept_pool;
/* n_threads counts the caller; 0 means kept_cpu_count(). */
kept_status kept_pool_create(uint32_t n_threads, struct kept_pool **out, struct kept_error *err);
void kept_pool_destroy(struct kept_pool **pool);
uint32_t kept_pool_threads(const struct kept_pool *pool);
/* Runs fn(user, item, i_thread) for item = 0…n_items-1 on all threads and returns when all are
 * done.
 * i_thread < kept_pool_threads(). Not to be called from within fn, nor by two threads at once. */
void kept_pool_run(struct kept_pool *pool, uint32_t n_items,
                   void (*fn)(void *user, uint32_t item, uint32_t i_thread), void *user);

#endif

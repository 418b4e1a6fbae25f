/* base/alloc.h: the only allocator of the library: counts, and can be made to fail at the n-th call
 * (tests).
 * The counters are the one piece of process-wide mutable state; they are atomics. */
#ifndef KEPT_BASE_ALLOC_H
#define KEPT_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

/* All return NULL when memory ran out or n * size overflows; size 0 gives a valid unique pointer.
 * */
void *kept_alloc(size_t n_bytes);
void *kept_calloc(size_t n, size_t size_bytes);
void *kept_realloc(void *old, size_t n_bytes); /* old stays valid on failure */
void *kept_realloc_array(void *old, size_t n, size_t size_bytes);
void *kept_alloc_aligned(size_t align_bytes, size_t n_bytes); /* freed by kept_free_aligned */
void kept_free(void *p);
void kept_free_aligned(void *p);
char *kept_strdup(const char *text);
char *kept_strndup(const char *text, size_t n_bytes);

/* Calls so far, and live blocks (aligned ones included). */
uint64_t kept_alloc_calls(void);
int64_t kept_alloc_live(void);

/* Tests: the n-th allocation from now (1 = the next) fails once; 0 switches it off. */
void kept_alloc_fail_at(uint64_t n);

#endif

/* base/alloc.c: the library's only calls of malloc and free.
 *
 * Every allocation passes through account(): it counts the call and, when a test asked for it,
 * makes the n-th one fail.
 * The counters are relaxed atomics: they order nothing, and an allocation is far more expensive
 * than they are.
 * Aligned blocks carry the pointer that malloc gave in the word before them, so no system call for
 * alignment is needed.
 */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint_fast64_t g_calls;
static atomic_int_fast64_t g_live;
static atomic_uint_fast64_t g_fail_at; /* the value of g_calls whose allocation fails; 0: none */

static bool account(void)
{
    uint64_t call = atomic_fetch_add_explicit(&g_calls, 1, memory_order_relaxed) + 1;
    return call != atomic_load_explicit(&g_fail_at, memory_order_relaxed);
}

static void *count_live(void *p)
{
    if (p != NULL)
        atomic_fetch_add_explicit(&g_live, 1, memory_order_relaxed);
    return p;
}

void *kept_alloc(size_t n_bytes)
{
    return account() ? count_live(malloc(n_bytes != 0 ? n_bytes : 1)) : NULL;
}

void *kept_calloc(size_t n, size_t size_bytes)
{
    if (n == 0 || size_bytes == 0)
        n = size_bytes = 1;
    if (n > SIZE_MAX / size_bytes)
        return NULL;
    return account() ? count_live(calloc(n, size_bytes)) : NULL;
}

void *kept_realloc(void *old, size_t n_bytes)
{
    if (old == NULL)
        return kept_alloc(n_bytes);
    return account() ? realloc(old, n_bytes != 0 ? n_bytes : 1) : NULL;
}

void *kept_realloc_array(void *old, size_t n, size_t size_bytes)
{
    if (size_bytes != 0 && n > SIZE_MAX / size_bytes)
        return NULL;
    return kept_realloc(old, n * size_bytes);
}

void *kept_alloc_aligned(size_t align_bytes, size_t n_bytes)
{
    size_t align = align_bytes > sizeof(void *) ? align_bytes : sizeof(void *);
    if ((align & (align - 1)) != 0 || n_bytes > SIZE_MAX - align - sizeof(void *))
        return NULL;
    char *base = kept_alloc(n_bytes + align + sizeof(void *));
    if (base == NULL)
        return NULL;
    uintptr_t after = (uintptr_t)base + sizeof(void *);
    char *p = base + sizeof(void *) + ((0 - after) & (align - 1));
    memcpy(p - sizeof(void *), &base, sizeof(void *));
    return p;
}

void kept_free(void *p)
{
    if (p == NULL)
        return;
    atomic_fetch_sub_explicit(&g_live, 1, memory_order_relaxed);
    free(p);
}

void kept_free_aligned(void *p)
{
    if (p == NULL)
        return;
    void *base;
    memcpy(&base, (char *)p - sizeof(void *), sizeof(void *));
    kept_free(base);
}

char *kept_strdup(const char *text)
{
    return kept_strndup(text, strlen(text));
}

char *kept_strndup(const char *text, size_t n_bytes)
{
    if (n_bytes == SIZE_MAX)
        return NULL;
    char *copy = kept_alloc(n_bytes + 1);
    if (copy == NULL)
        return NULL;
    if (n_bytes != 0)
        memcpy(copy, text, n_bytes);
    copy[n_bytes] = '\0';
    return copy;
}

uint64_t kept_alloc_calls(void)
{
    return atomic_load_explicit(&g_calls, memory_order_relaxed);
}

int64_t kept_alloc_live(void)
{
    return atomic_load_explicit(&g_live, memory_order_relaxed);
}

void kept_alloc_fail_at(uint64_t n)
{
    uint64_t at = n != 0 ? kept_alloc_calls() + n : 0;
    atomic_store_explicit(&g_fail_at, at, memory_order_relaxed);
}

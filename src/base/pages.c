/* base/pages.c: mmap or VirtualAlloc. A large block is mapped with room to spare and cut down to
 * one that begins at a multiple of the huge page, since the kernel only uses huge pages at such
 * places. */
#include "base/pages.h"

#include <stdint.h>

#define HUGE_BYTES ((size_t)2 << 20)

#if defined(_WIN32)

#include <windows.h>

void *kept_pages_alloc(size_t n_bytes, bool huge)
{
    (void)huge; /* needs a privilege there */
    return n_bytes == 0 ? NULL
                        : VirtualAlloc(NULL, n_bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void kept_pages_advise_huge(void *p, size_t n_bytes)
{
    (void)p;
    (void)n_bytes;
}

void kept_pages_free(void *p, size_t n_bytes)
{
    (void)n_bytes;
    if (p != NULL)
        VirtualFree(p, 0, MEM_RELEASE);
}

#else

#include <sys/mman.h>
#include <unistd.h>

/* What the system counts in; munmap takes whole pages. */
static size_t whole_pages(size_t n_bytes)
{
    long page = sysconf(_SC_PAGESIZE);
    size_t page_bytes = page > 0 ? (size_t)page : 4096;
    return (n_bytes + page_bytes - 1) / page_bytes * page_bytes;
}

void *kept_pages_alloc(size_t n_bytes, bool huge)
{
    if (n_bytes == 0 || n_bytes > SIZE_MAX - 2 * HUGE_BYTES)
        return NULL;
    size_t size = whole_pages(n_bytes), spare = huge && size >= HUGE_BYTES ? HUGE_BYTES : 0;
    char *map =
        mmap(NULL, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    if (spare == 0)
        return map;
    size_t head = (HUGE_BYTES - (uintptr_t)map % HUGE_BYTES) % HUGE_BYTES;
    if (head != 0)
        munmap(map, head);
    if (head != spare)
        munmap(map + head + size, spare - head);
#if defined(MADV_HUGEPAGE)
    madvise(map + head, size, MADV_HUGEPAGE); /* a wish: small pages serve as well */
#endif
    return map + head;
}

void kept_pages_advise_huge(void *p, size_t n_bytes)
{
    size_t head = (HUGE_BYTES - (uintptr_t)p % HUGE_BYTES) % HUGE_BYTES;
    if (p == NULL || n_bytes < head + HUGE_BYTES)
        return;
#if defined(MADV_HUGEPAGE)
    madvise((char *)p + head, (n_bytes - head) / HUGE_BYTES * HUGE_BYTES, MADV_HUGEPAGE);
#endif
}

void kept_pages_free(void *p, size_t n_bytes)
{
    if (p != NULL)
        munmap(p, whole_pages(n_bytes));
}

#endif

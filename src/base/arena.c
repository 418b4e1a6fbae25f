/* base/arena.c: a list of zeroed blocks; the newest is filled first, a request larger than its rest
 * opens another.
 *
 * Blocks are 16 KiB or as large as the request, so a tree of a few hundred nodes costs a handful
 * of allocations and is freed in one walk. Nothing is returned before kept_arena_finish.
 */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/str.h"

#define BLOCK_BYTES ((size_t)16 * 1024)
#define ALIGN_BYTES ((size_t)16)

struct kept_arena_block {
    struct kept_arena_block *next;
    size_t used_bytes, cap_bytes; /* of what follows the header */
};

/* The header, rounded up so that what follows it is aligned as calloc aligns the block. */
#define HEADER_BYTES ((sizeof(struct kept_arena_block) + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1))

void *kept_arena_alloc(struct kept_arena *arena, size_t n_bytes)
{
    if (n_bytes > SIZE_MAX - HEADER_BYTES - ALIGN_BYTES)
        return NULL;
    size_t need = (n_bytes + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
    if (need == 0)
        need = ALIGN_BYTES;
    struct kept_arena_block *block = arena->head;
    if (block == NULL || block->cap_bytes - block->used_bytes < need) {
        size_t cap = need > BLOCK_BYTES ? need : BLOCK_BYTES;
        block = kept_calloc(1, HEADER_BYTES + cap);
        if (block == NULL)
            return NULL;
        block->cap_bytes = cap;
        block->next = arena->head;
        arena->head = block;
    }
    void *p = (char *)block + HEADER_BYTES + block->used_bytes;
    block->used_bytes += need;
    return p;
}

void *kept_arena_array(struct kept_arena *arena, size_t n, size_t size_bytes)
{
    if (size_bytes != 0 && n > SIZE_MAX / size_bytes)
        return NULL;
    return kept_arena_alloc(arena, n * size_bytes);
}

char *kept_arena_strdup(struct kept_arena *arena, const char *text)
{
    return kept_arena_strndup(arena, text, strlen(text));
}

char *kept_arena_strndup(struct kept_arena *arena, const char *text, size_t n_bytes)
{
    if (n_bytes == SIZE_MAX)
        return NULL;
    char *copy = kept_arena_alloc(arena, n_bytes + 1);
    if (copy != NULL && n_bytes != 0)
        memcpy(copy, text, n_bytes);
    return copy;
}

char *kept_arena_printf(struct kept_arena *arena, const char *fmt, ...)
{
    struct kept_strbuf buf = {0};
    va_list args;
    va_start(args, fmt);
    kept_strbuf_vprintf(&buf, fmt, args);
    va_end(args);
    char *copy = buf.failed ? NULL : kept_arena_strndup(arena, buf.text, buf.n_bytes);
    kept_strbuf_finish(&buf);
    return copy;
}

void kept_arena_finish(struct kept_arena *arena)
{
    struct kept_arena_block *block = arena->head;
    while (block != NULL) {
        struct kept_arena_block *next = block->next;
        kept_free(block);
        block = next;
    }
    arena->head = NULL;
}

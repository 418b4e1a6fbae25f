/* base/arena.h: a bump allocator for host trees that are freed in one call (model description,
 * plan). */
#ifndef KEPT_BASE_ARENA_H
#define KEPT_BASE_ARENA_H

#include <stddef.h>

#include "kept/common.h"

struct kept_arena_block;
struct kept_arena {
    struct kept_arena_block *head;
};

/* Zero-initialised is empty and valid. All return NULL when memory ran out; memory is zeroed and
 * aligned to 16. */
void *kept_arena_alloc(struct kept_arena *arena, size_t n_bytes);
void *kept_arena_array(struct kept_arena *arena, size_t n, size_t size_bytes);
char *kept_arena_strdup(struct kept_arena *arena, const char *text);
char *kept_arena_strndup(struct kept_arena *arena, const char *text, size_t n_bytes);
char *kept_arena_printf(struct kept_arena *arena, const char *fmt, ...) KEPT_PRINTF(2, 3);
void kept_arena_finish(struct kept_arena *arena);

#endif

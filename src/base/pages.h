/* base/pages.h: large blocks of zeroed memory straight from the system. Pages never touched take no
 * memory.
 *
 * With `huge` a block of 2 MiB and more asks for huge pages: a matrix of 30 MiB is 7,680 small
 * pages, and looking those up costs as much as reading them. A page is zeroed whole when it is
 * first touched, so huge pages are for memory that is filled anyway, not for memory that is touched
 * here and there.
 */
#ifndef KEPT_BASE_PAGES_H
#define KEPT_BASE_PAGES_H

#include <stdbool.h>
#include <stddef.h>

/* NULL when the system refuses, or for 0 bytes. Aligned to at least 4 KiB. */
void *kept_pages_alloc(size_t n_bytes, bool huge);
void kept_pages_free(void *p, size_t n_bytes); /* the same n_bytes; NULL is fine */

/* The wish for huge pages for memory that somebody else allocated, such as a software driver; the
 * parts of it that are whole huge pages. Always allowed, never fails. */
void kept_pages_advise_huge(void *p, size_t n_bytes);

#endif

/* base/dl.h: opening a shared library at run time. */
#ifndef KEPT_BASE_DL_H
#define KEPT_BASE_DL_H

struct kept_dl;
/* Opens the first of a NULL-terminated list of names that opens; NULL if none does. */
struct kept_dl *kept_dl_open(const char *const *names);
void *kept_dl_symbol(struct kept_dl *dl, const char *name);
void kept_dl_close(struct kept_dl **dl);

#endif

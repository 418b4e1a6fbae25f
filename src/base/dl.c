/* base/dl.c: shared libraries at run time. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "base/dl.h"

#include <stddef.h>

#include "base/alloc.h"

#if defined(_WIN32)

#include <string.h>
#include <windows.h>

static void *open_library(const char *name)
{
    return (void *)LoadLibraryExA(name, NULL, LOAD_LIBRARY_SEARCH_DEFAULT_DIRS);
}

static void *find_symbol(void *library, const char *name)
{
    FARPROC symbol = GetProcAddress((HMODULE)library, name);
    void *p;
    memcpy(&p, &symbol, sizeof p); /* ISO C has no cast from function to object pointer */
    return p;
}

static void close_library(void *library)
{
    FreeLibrary((HMODULE)library);
}

#else

#include <dlfcn.h>

/* Stays loaded after close: GPU drivers start threads and exit handlers, which must not lose their
 * code. */
static void *open_library(const char *name)
{
    return dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

static void *find_symbol(void *library, const char *name)
{
    return dlsym(library, name);
}

static void close_library(void *library)
{
    dlclose(library);
}

#endif

struct kept_dl {
    void *library;
};

struct kept_dl *kept_dl_open(const char *const *names)
{
    struct kept_dl *dl = kept_calloc(1, sizeof *dl);
    if (dl == NULL)
        return NULL;
    for (; *names != NULL; names++) {
        dl->library = open_library(*names);
        if (dl->library != NULL)
            return dl;
    }
    kept_free(dl);
    return NULL;
}

void *kept_dl_symbol(struct kept_dl *dl, const char *name)
{
    return find_symbol(dl->library, name);
}

void kept_dl_close(struct kept_dl **dl)
{
    if (dl == NULL || *dl == NULL)
        return;
    close_library((*dl)->library);
    kept_free(*dl);
    *dl = NULL;
}

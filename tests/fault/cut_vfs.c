/* tests/fault/cut_vfs.c: see cut_vfs.h. One connection at a time, so locks are granted. */
#include "fault/cut_vfs.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct change {
    struct change *next;
    uint64_t offset, n_bytes;
    bool truncates; /* to offset */
    unsigned char bytes[];
};

struct bytes {
    unsigned char *at;
    uint64_t n, cap;
};

struct image {
    char name[128];
    bool exists, was; /* now; on the disk for certain */
    struct bytes now, synced;
    struct change *first, **last; /* since it was synchronised */
};

struct handle {
    sqlite3_file base;
    struct image *image;
};

enum { N_IMAGES = 6 };

static struct disk {
    struct image images[N_IMAGES];
    uint64_t calls, cut_at, seed;
    enum cut_mode mode;
    bool dead;
} disk;

static uint32_t chance(void)
{
    disk.seed = disk.seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(disk.seed >> 33);
}

/* ---- bytes ---- */

static void put_bytes(struct bytes *to, uint64_t offset, const void *from, uint64_t n)
{
    if (offset + n > to->cap) {
        to->cap = (offset + n) * 2;
        to->at = realloc(to->at, to->cap);
        if (to->at == NULL)
            abort();
    }
    if (offset > to->n)
        memset(to->at + to->n, 0, offset - to->n);
    if (n > 0)
        memcpy(to->at + offset, from, n);
    to->n = offset + n > to->n ? offset + n : to->n;
}

static void apply(struct bytes *to, const struct change *c, uint64_t n)
{
    if (!c->truncates)
        put_bytes(to, c->offset, c->bytes, n);
    else if (c->offset < to->n)
        to->n = c->offset;
}

static void drop_changes(struct image *image)
{
    while (image->first != NULL) {
        struct change *c = image->first;
        image->first = c->next;
        free(c);
    }
    image->last = &image->first;
}

static void change(struct image *image, bool truncates, uint64_t offset, const void *bytes,
                   uint64_t n)
{
    struct change *c = malloc(sizeof *c + n);
    if (c == NULL)
        abort();
    *c = (struct change){.offset = offset, .n_bytes = n, .truncates = truncates};
    if (n > 0)
        memcpy(c->bytes, bytes, n);
    *image->last = c;
    image->last = &c->next;
    apply(&image->now, c, n);
}

/* ---- calls ---- */

/* Whether this call is the last one, or comes too late. */
static bool cut(void)
{
    if (disk.dead)
        return true;
    disk.calls++;
    if (disk.calls != disk.cut_at)
        return false;
    disk.dead = disk.mode != CUT_FAIL;
    return true;
}

static int vfs_close(sqlite3_file *file)
{
    file->pMethods = NULL;
    return SQLITE_OK;
}

static int vfs_read(sqlite3_file *file, void *to, int n, sqlite3_int64 offset)
{
    const struct bytes *now = &((struct handle *)file)->image->now;
    uint64_t at = (uint64_t)offset, left = at < now->n ? now->n - at : 0;
    uint64_t got = left < (uint64_t)n ? left : (uint64_t)n;
    if (disk.dead)
        return SQLITE_IOERR_READ;
    if (got > 0)
        memcpy(to, now->at + at, got);
    memset((char *)to + got, 0, (uint64_t)n - got);
    return got == (uint64_t)n ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int vfs_write(sqlite3_file *file, const void *from, int n, sqlite3_int64 offset)
{
    struct image *image = ((struct handle *)file)->image;
    bool was_dead = disk.dead;
    if (cut()) {
        if (!was_dead && disk.mode == CUT_TORN)
            change(image, false, (uint64_t)offset, from, chance() % ((uint64_t)n + 1));
        return SQLITE_IOERR_WRITE;
    }
    change(image, false, (uint64_t)offset, from, (uint64_t)n);
    return SQLITE_OK;
}

static int vfs_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    if (cut())
        return SQLITE_IOERR_TRUNCATE;
    change(((struct handle *)file)->image, true, (uint64_t)size, NULL, 0);
    return SQLITE_OK;
}

static void sync_names(void)
{
    for (int i = 0; i < N_IMAGES; i++)
        disk.images[i].was = disk.images[i].exists;
}

static int vfs_sync(sqlite3_file *file, int flags)
{
    struct image *image = ((struct handle *)file)->image;
    (void)flags;
    if (cut())
        return SQLITE_IOERR_FSYNC;
    image->synced.n = 0;
    put_bytes(&image->synced, 0, image->now.at, image->now.n);
    drop_changes(image);
    if (!image->was) /* SQLite synchronises the folder with a new file */
        sync_names();
    return SQLITE_OK;
}

static int vfs_size(sqlite3_file *file, sqlite3_int64 *out)
{
    *out = (sqlite3_int64)((struct handle *)file)->image->now.n;
    return disk.dead ? SQLITE_IOERR_FSTAT : SQLITE_OK;
}

static int vfs_lock(sqlite3_file *file, int level)
{
    (void)file;
    (void)level;
    return disk.dead ? SQLITE_IOERR_LOCK : SQLITE_OK;
}

static int vfs_reserved(sqlite3_file *file, int *out)
{
    (void)file;
    *out = 0;
    return SQLITE_OK;
}

static int vfs_control(sqlite3_file *file, int op, void *argument)
{
    (void)file;
    (void)op;
    (void)argument;
    return SQLITE_NOTFOUND;
}

static int vfs_sector(sqlite3_file *file)
{
    (void)file;
    return 4096;
}

static int vfs_character(sqlite3_file *file)
{
    (void)file;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE; /* a torn write harms only itself */
}

static const sqlite3_io_methods methods = {.iVersion = 1,
                                           .xClose = vfs_close,
                                           .xRead = vfs_read,
                                           .xWrite = vfs_write,
                                           .xTruncate = vfs_truncate,
                                           .xSync = vfs_sync,
                                           .xFileSize = vfs_size,
                                           .xLock = vfs_lock,
                                           .xUnlock = vfs_lock,
                                           .xCheckReservedLock = vfs_reserved,
                                           .xFileControl = vfs_control,
                                           .xSectorSize = vfs_sector,
                                           .xDeviceCharacteristics = vfs_character};

/* ---- files ---- */

static struct image *find(const char *name, bool create)
{
    for (int i = 0; i < N_IMAGES; i++)
        if (strcmp(disk.images[i].name, name) == 0)
            return &disk.images[i];
    for (int i = 0; i < N_IMAGES && create; i++)
        if (disk.images[i].name[0] == '\0') {
            snprintf(disk.images[i].name, sizeof disk.images[i].name, "%s", name);
            return &disk.images[i];
        }
    return NULL;
}

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    struct image *image = find(name != NULL ? name : "nameless", flags & SQLITE_OPEN_CREATE);
    (void)vfs;
    file->pMethods = NULL;
    if (disk.dead || image == NULL || (!image->exists && !(flags & SQLITE_OPEN_CREATE)))
        return SQLITE_CANTOPEN;
    if (!image->exists) {
        image->exists = true;
        image->now.n = 0;
        image->synced.n = image->was ? image->synced.n : 0; /* else it is another file */
        drop_changes(image);
        change(image, true, 0, NULL, 0);
    }
    ((struct handle *)file)->image = image;
    file->pMethods = &methods;
    if (out != NULL)
        *out = flags;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_folder)
{
    struct image *image = find(name, false);
    (void)vfs;
    if (cut())
        return SQLITE_IOERR_DELETE;
    if (image == NULL || !image->exists)
        return SQLITE_IOERR_DELETE_NOENT;
    image->exists = false;
    if (sync_folder)
        sync_names();
    return SQLITE_OK;
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *out)
{
    const struct image *image = find(name, false);
    (void)vfs;
    (void)flags;
    *out = image != NULL && image->exists;
    return disk.dead ? SQLITE_IOERR_ACCESS : SQLITE_OK;
}

static int vfs_full(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
    (void)vfs;
    snprintf(out, (size_t)n, "%s", name);
    return SQLITE_OK;
}

static int vfs_random(sqlite3_vfs *vfs, int n, char *out)
{
    (void)vfs;
    memset(out, 7, (size_t)n);
    return n;
}

static int vfs_sleep(sqlite3_vfs *vfs, int us)
{
    (void)vfs;
    return us;
}

static int vfs_time(sqlite3_vfs *vfs, double *out)
{
    (void)vfs;
    *out = 2460000.5;
    return SQLITE_OK;
}

static int vfs_error(sqlite3_vfs *vfs, int n, char *out)
{
    (void)vfs;
    (void)n;
    (void)out;
    return 0;
}

static sqlite3_vfs vfs = {.iVersion = 1,
                          .szOsFile = sizeof(struct handle),
                          .mxPathname = 100,
                          .zName = "cut",
                          .xOpen = vfs_open,
                          .xDelete = vfs_delete,
                          .xAccess = vfs_access,
                          .xFullPathname = vfs_full,
                          .xRandomness = vfs_random,
                          .xSleep = vfs_sleep,
                          .xCurrentTime = vfs_time,
                          .xGetLastError = vfs_error};

bool cut_vfs_begin(void)
{
    return sqlite3_vfs_register(&vfs, 1) == SQLITE_OK;
}

void cut_vfs_end(void)
{
    sqlite3_vfs_unregister(&vfs);
}

void cut_vfs_reset(uint64_t n, enum cut_mode mode, uint64_t seed)
{
    for (int i = 0; i < N_IMAGES; i++) {
        struct image *image = &disk.images[i];
        if (image->last != NULL)
            drop_changes(image);
        free(image->now.at);
        free(image->synced.at);
        memset(image, 0, sizeof *image);
        image->last = &image->first;
    }
    disk.calls = 0;
    disk.cut_at = n;
    disk.mode = mode;
    disk.seed = seed;
    disk.dead = false;
}

uint64_t cut_vfs_calls(void)
{
    return disk.calls;
}

const unsigned char *cut_vfs_bytes(const char *path, uint64_t *n_bytes)
{
    struct image *image = find(path, false);
    *n_bytes = image != NULL && image->exists ? image->now.n : 0;
    return image != NULL ? image->now.at : NULL;
}

static bool dump(struct image *image, const char *to)
{
    struct bytes out = {0};
    bool exists = disk.mode == CUT_LOST   ? image->was
                  : disk.mode == CUT_SOME ? (chance() % 2 ? image->was : image->exists)
                                          : image->exists;
    remove(to);
    if (!exists)
        return true;
    put_bytes(&out, 0, image->synced.at, image->synced.n);
    for (struct change *c = image->first; c != NULL && disk.mode != CUT_LOST; c = c->next)
        if (disk.mode != CUT_SOME || chance() % 2)
            apply(&out, c,
                  disk.mode == CUT_SOME && chance() % 4 == 0 ? chance() % (c->n_bytes + 1)
                                                             : c->n_bytes);
    FILE *file = fopen(to, "wb");
    bool ok = file != NULL && (out.n == 0 || fwrite(out.at, 1, out.n, file) == out.n);
    if (file != NULL && fclose(file) != 0)
        ok = false;
    free(out.at);
    return ok;
}

bool cut_vfs_dump(const char *path, const char *to)
{
    char name[256], other[256];
    struct image none = {.last = NULL}, *db = find(path, false);
    snprintf(name, sizeof name, "%s-journal", path);
    snprintf(other, sizeof other, "%s-journal", to);
    struct image *journal = find(name, false);
    return dump(db != NULL ? db : &none, to) && dump(journal != NULL ? journal : &none, other);
}

/* base/file_posix.c: files through POSIX calls. strerror is thread-safe in every C library we build
 * against. */
#define _POSIX_C_SOURCE   200809L
#define _FILE_OFFSET_BITS 64

#include "base/file_os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Some systems refuse or shorten larger transfers. */
#define MAX_TRANSFER_BYTES ((size_t)1 << 30)

const char *file_os_open_read(const char *path, struct file_os *out, uint64_t *size_bytes)
{
    /* O_NONBLOCK: opening a FIFO must not wait for a writer; it has no effect on regular files. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return strerror(errno);
    struct stat st;
    const char *why = NULL;
    if (fstat(fd, &st) != 0)
        why = strerror(errno);
    else if (S_ISDIR(st.st_mode))
        why = "it is a directory";
    else if (!S_ISREG(st.st_mode))
        why = "it is not a regular file";
    if (why != NULL) {
        close(fd);
        return why;
    }
    out->handle = fd;
    *size_bytes = (uint64_t)st.st_size;
    return NULL;
}

const char *file_os_create(const char *path, struct file_os *out, bool *exists)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    *exists = fd < 0 && errno == EEXIST;
    if (fd < 0)
        return strerror(errno);
    out->handle = fd;
    return NULL;
}

void file_os_close(struct file_os file)
{
    close((int)file.handle);
}

const char *file_os_read_at(struct file_os file, uint64_t offset, void *to, size_t n_bytes,
                            size_t *n_done)
{
    size_t n = n_bytes < MAX_TRANSFER_BYTES ? n_bytes : MAX_TRANSFER_BYTES;
    ssize_t got;
    do {
        got = pread((int)file.handle, to, n, (off_t)offset);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return strerror(errno);
    *n_done = (size_t)got;
    return NULL;
}

const char *file_os_write(struct file_os file, const void *bytes, size_t n_bytes, size_t *n_done)
{
    size_t n = n_bytes < MAX_TRANSFER_BYTES ? n_bytes : MAX_TRANSFER_BYTES;
    ssize_t put;
    do {
        put = write((int)file.handle, bytes, n);
    } while (put < 0 && errno == EINTR);
    if (put < 0)
        return strerror(errno);
    *n_done = (size_t)put;
    return NULL;
}

const char *file_os_sync(struct file_os file)
{
    return fsync((int)file.handle) == 0 ? NULL : strerror(errno);
}

const char *file_os_copy_rights(const char *from, struct file_os to)
{
    struct stat st;
    if (stat(from, &st) != 0)
        return strerror(errno);
    /* Only root may give a file away; whoever else owns it now has the same mode. */
    int given = fchown((int)to.handle, st.st_uid, st.st_gid);
    (void)given;
    return fchmod((int)to.handle, st.st_mode & 0777) == 0 ? NULL : strerror(errno);
}

const char *file_os_rename(const char *from, const char *to)
{
    return rename(from, to) == 0 ? NULL : strerror(errno);
}

void file_os_remove(const char *path)
{
    unlink(path);
}

bool file_os_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

const char *file_os_make_dir(const char *path)
{
    if (mkdir(path, 0777) == 0)
        return NULL;
    int code = errno;
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return NULL;
    return strerror(code);
}

bool file_os_is_separator(char c)
{
    return c == '/';
}

uint64_t file_os_process_id(void)
{
    return (uint64_t)getpid();
}

/* base/file_os.h: the system calls under file.c; file_posix.c and file_win32.c implement them.
 * Private to base.
 *
 * Functions that fail return a sentence of the system's (never NULL), those that succeed return
 * NULL.
 */
#ifndef KEPT_BASE_FILE_OS_H
#define KEPT_BASE_FILE_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A descriptor or a HANDLE. */
struct file_os {
    intptr_t handle;
};

const char *file_os_open_read(const char *path, struct file_os *out, uint64_t *size_bytes);
/* Fails when the file exists; *exists tells that reason from others. */
const char *file_os_create(const char *path, struct file_os *out, bool *exists);
void file_os_close(struct file_os file);
/* One call; *n_done may be less than asked, 0 at the end of the file. */
const char *file_os_read_at(struct file_os file, uint64_t offset, void *to, size_t n_bytes,
                            size_t *n_done);
const char *file_os_write(struct file_os file, const void *bytes, size_t n_bytes, size_t *n_done);
const char *file_os_sync(struct file_os file);
/* Owner and mode of the file named are those of `to` afterwards, as far as this process may. */
const char *file_os_copy_rights(const char *from, struct file_os to);
const char *file_os_rename(const char *from, const char *to); /* replaces to */
void file_os_remove(const char *path);
bool file_os_is_file(const char *path);
/* Succeeds when the directory exists already. */
const char *file_os_make_dir(const char *path);
bool file_os_is_separator(char c);
uint64_t file_os_process_id(void);

#endif

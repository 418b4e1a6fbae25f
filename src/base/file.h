/* base/file.h: reading at offsets, whole small files, atomic replacement, directories. */
#ifndef KEPT_BASE_FILE_H
#define KEPT_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kept/common.h"

struct kept_file;

/* Opens a regular file for reading. Directories, devices and unreadable files are KEPT_E_IO with
 * the reason. */
kept_status kept_file_open(const char *path, struct kept_file **out, struct kept_error *err);
void kept_file_close(struct kept_file **file);
uint64_t kept_file_size(const struct kept_file *file); /* at open */
const char *kept_file_path(const struct kept_file *file);
/* Reads exactly n_bytes at offset or fails (a file that became shorter included). Thread-safety:
 * any number at once. */
kept_status kept_file_read_at(struct kept_file *file, uint64_t offset, void *to, size_t n_bytes,
                              struct kept_error *err);

/* Reads a whole file of at most max_bytes; *out is freed with kept_free and has a NUL after its
 * end. */
kept_status kept_file_load(const char *path, size_t max_bytes, char **out, size_t *out_bytes,
                           struct kept_error *err);
/* Writes to a temporary file beside path, then renames: readers see the old or the new file, never
 * half. */
kept_status kept_file_replace(const char *path, const void *bytes, size_t n_bytes,
                              struct kept_error *err);

/* The same in pieces, for large files. The new file appears at commit; destroy without commit
 * leaves nothing behind. */
struct kept_file_writer;
kept_status kept_file_writer_create(const char *path, struct kept_file_writer **out,
                                    struct kept_error *err);
kept_status kept_file_writer_add(struct kept_file_writer *writer, const void *bytes, size_t n_bytes,
                                 struct kept_error *err);
kept_status kept_file_writer_commit(struct kept_file_writer *writer, struct kept_error *err);
void kept_file_writer_destroy(struct kept_file_writer **writer);

bool kept_file_exists(const char *path);
/* An empty file that did not exist, which the same people may read and write as `like`. */
kept_status kept_file_create_like(const char *path, const char *like, struct kept_error *err);
/* Replaces `to` at once. */
kept_status kept_file_rename(const char *from, const char *to, struct kept_error *err);
void kept_file_remove(const char *path); /* nothing where there is none */
kept_status kept_dir_make(const char *path, struct kept_error *err); /* with parents */
/* The cache folder of this user, e.g. ~/.cache/kept, not made yet; false when none is known.
 * KEPT_CACHE_DIR wins. */
bool kept_cache_dir(char *to, size_t cap_bytes);

#endif

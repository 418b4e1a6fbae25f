/* base/file.c: reading at offsets, whole small files, atomic replacement, directories.
 *
 * A file is read through positioned reads, never mapped: a file that is cut while it is open
 * gives an error here, and would end the process there. Replacement writes beside the target and
 * renames, after the bytes have reached the disk, so that a crash leaves the old file.
 */
#include "base/file.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/file_os.h"
#include "base/status.h"
#include "base/str.h"

/* ---- reading ---- */

struct kept_file {
    struct file_os os;
    uint64_t size_bytes;
    char *path;
};

kept_status kept_file_open(const char *path, struct kept_file **out, struct kept_error *err)
{
    *out = NULL;
    struct kept_file *file = kept_calloc(1, sizeof *file);
    char *copy = kept_strdup(path);
    if (file == NULL || copy == NULL) {
        kept_free(file);
        kept_free(copy);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to open file '%s'", path);
    }
    const char *why = file_os_open_read(path, &file->os, &file->size_bytes);
    if (why != NULL) {
        kept_free(file);
        kept_free(copy);
        return kept_fail(err, KEPT_E_IO, "cannot open file '%s': %s", path, why);
    }
    file->path = copy;
    *out = file;
    return KEPT_OK;
}

void kept_file_close(struct kept_file **file)
{
    if (file == NULL || *file == NULL)
        return;
    file_os_close((*file)->os);
    kept_free((*file)->path);
    kept_free(*file);
    *file = NULL;
}

uint64_t kept_file_size(const struct kept_file *file)
{
    return file->size_bytes;
}

const char *kept_file_path(const struct kept_file *file)
{
    return file->path;
}

kept_status kept_file_read_at(struct kept_file *file, uint64_t offset, void *to, size_t n_bytes,
                              struct kept_error *err)
{
    if (offset > INT64_MAX || n_bytes > INT64_MAX - offset)
        return kept_fail(err, KEPT_E_IO, "file '%s': bytes from %llu on are out of range",
                         file->path, (unsigned long long)offset);
    char *at = to;
    while (n_bytes != 0) {
        size_t n = 0;
        const char *why = file_os_read_at(file->os, offset, at, n_bytes, &n);
        if (why != NULL)
            return kept_fail(err, KEPT_E_IO, "cannot read file '%s' at byte %llu: %s", file->path,
                             (unsigned long long)offset, why);
        if (n == 0)
            return kept_fail(err, KEPT_E_IO, "file '%s' ends at byte %llu, %zu bytes too early",
                             file->path, (unsigned long long)offset, n_bytes);
        at += n;
        offset += n;
        n_bytes -= n;
    }
    return KEPT_OK;
}

kept_status kept_file_load(const char *path, size_t max_bytes, char **out, size_t *out_bytes,
                           struct kept_error *err)
{
    *out = NULL;
    struct kept_file *file;
    kept_status status = kept_file_open(path, &file, err);
    if (status != KEPT_OK)
        return status;
    char *bytes = NULL;
    if (file->size_bytes > max_bytes || file->size_bytes >= SIZE_MAX) {
        status = kept_fail(err, KEPT_E_IO, "file '%s' has %llu bytes, at most %zu are read", path,
                           (unsigned long long)file->size_bytes, max_bytes);
        goto done;
    }
    size_t n_bytes = (size_t)file->size_bytes;
    bytes = kept_alloc(n_bytes + 1);
    if (bytes == NULL) {
        status = kept_fail(err, KEPT_E_HOST_MEMORY, "no memory for the %zu bytes of file '%s'",
                           n_bytes, path);
        goto done;
    }
    status = kept_file_read_at(file, 0, bytes, n_bytes, err);
    if (status != KEPT_OK)
        goto done;
    bytes[n_bytes] = '\0';
    *out = bytes;
    *out_bytes = n_bytes;
    bytes = NULL;
done:
    kept_free(bytes);
    kept_file_close(&file);
    return status;
}

/* ---- writing ---- */

struct kept_file_writer {
    struct file_os os;
    bool open;    /* the temporary file is open */
    bool pending; /* the temporary file exists */
    char *path, *temporary;
};

kept_status kept_file_writer_create(const char *path, struct kept_file_writer **out,
                                    struct kept_error *err)
{
    *out = NULL;
    struct kept_file_writer *writer = kept_calloc(1, sizeof *writer);
    size_t cap = strlen(path) + 48;
    if (writer != NULL) {
        writer->path = kept_strdup(path);
        writer->temporary = kept_alloc(cap);
    }
    if (writer == NULL || writer->path == NULL || writer->temporary == NULL) {
        kept_file_writer_destroy(&writer);
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to write file '%s'", path);
    }
    const char *why = NULL;
    for (int attempt = 0; attempt < 16; attempt++) {
        bool exists = false;
        kept_snprintf(writer->temporary, cap, "%s.%llx-%llx.tmp", path,
                      (unsigned long long)file_os_process_id(),
                      (unsigned long long)kept_clock_ns());
        why = file_os_create(writer->temporary, &writer->os, &exists);
        if (why == NULL || !exists)
            break;
    }
    if (why != NULL) {
        kept_file_writer_destroy(&writer);
        return kept_fail(err, KEPT_E_IO, "cannot write file '%s': %s", path, why);
    }
    writer->open = writer->pending = true;
    *out = writer;
    return KEPT_OK;
}

kept_status kept_file_writer_add(struct kept_file_writer *writer, const void *bytes, size_t n_bytes,
                                 struct kept_error *err)
{
    const char *at = bytes;
    while (n_bytes != 0) {
        size_t n = 0;
        const char *why = file_os_write(writer->os, at, n_bytes, &n);
        if (why != NULL || n == 0)
            return kept_fail(err, KEPT_E_IO, "cannot write file '%s': %s", writer->path,
                             why != NULL ? why : "nothing was written");
        at += n;
        n_bytes -= n;
    }
    return KEPT_OK;
}

kept_status kept_file_writer_commit(struct kept_file_writer *writer, struct kept_error *err)
{
    const char *why = file_os_sync(writer->os);
    file_os_close(writer->os);
    writer->open = false;
    if (why == NULL)
        why = file_os_rename(writer->temporary, writer->path);
    if (why != NULL)
        return kept_fail(err, KEPT_E_IO, "cannot write file '%s': %s", writer->path, why);
    writer->pending = false;
    return KEPT_OK;
}

void kept_file_writer_destroy(struct kept_file_writer **writer)
{
    if (writer == NULL || *writer == NULL)
        return;
    struct kept_file_writer *w = *writer;
    if (w->open)
        file_os_close(w->os);
    if (w->pending)
        file_os_remove(w->temporary);
    kept_free(w->path);
    kept_free(w->temporary);
    kept_free(w);
    *writer = NULL;
}

kept_status kept_file_replace(const char *path, const void *bytes, size_t n_bytes,
                              struct kept_error *err)
{
    struct kept_file_writer *writer;
    kept_status status = kept_file_writer_create(path, &writer, err);
    if (status == KEPT_OK)
        status = kept_file_writer_add(writer, bytes, n_bytes, err);
    if (status == KEPT_OK)
        status = kept_file_writer_commit(writer, err);
    kept_file_writer_destroy(&writer);
    return status;
}

kept_status kept_file_create_like(const char *path, const char *like, struct kept_error *err)
{
    struct file_os file;
    bool exists;
    const char *why = file_os_create(path, &file, &exists);
    if (why == NULL) {
        why = file_os_copy_rights(like, file);
        file_os_close(file);
        if (why != NULL)
            file_os_remove(path);
    }
    if (why != NULL)
        return kept_fail(err, KEPT_E_IO, "cannot make file '%s': %s", path, why);
    return KEPT_OK;
}

kept_status kept_file_rename(const char *from, const char *to, struct kept_error *err)
{
    const char *why = file_os_rename(from, to);
    if (why != NULL)
        return kept_fail(err, KEPT_E_IO, "cannot rename file '%s' to '%s': %s", from, to, why);
    return KEPT_OK;
}

void kept_file_remove(const char *path)
{
    file_os_remove(path);
}

/* ---- directories ---- */

bool kept_file_exists(const char *path)
{
    return file_os_is_file(path);
}

kept_status kept_dir_make(const char *path, struct kept_error *err)
{
    char *part = kept_strdup(path);
    if (part == NULL)
        return kept_fail(err, KEPT_E_HOST_MEMORY, "no memory to make directory '%s'", path);
    const char *why = NULL;
    size_t n = strlen(part);
    for (size_t i = 1; i <= n; i++) {
        char c = part[i];
        if (!(file_os_is_separator(c) || i == n) || file_os_is_separator(part[i - 1]))
            continue;
        part[i] = '\0';
        why = file_os_make_dir(part); /* only the last one's answer counts: C: cannot be made */
        part[i] = c;
    }
    kept_free(part);
    if (n == 0)
        why = "its name is empty";
    if (why != NULL)
        return kept_fail(err, KEPT_E_IO, "cannot make directory '%s': %s", path, why);
    return KEPT_OK;
}

bool kept_cache_dir(char *to, size_t cap_bytes)
{
    static const struct {
        const char *variable, *below;
    } places[] = {
        {"KEPT_CACHE_DIR", ""},
#if defined(_WIN32)
        {"LOCALAPPDATA", "\\kept"},
#else
        {"XDG_CACHE_HOME", "/kept"},
        {"HOME", "/.cache/kept"},
#endif
    };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *root = kept_env(places[i].variable);
        if (root == NULL)
            continue;
        size_t need = strlen(root) + strlen(places[i].below);
        return kept_snprintf(to, cap_bytes, "%s%s", root, places[i].below) == need;
    }
    return false;
}

/* base/file_win32.c: files through Win32 calls; paths are UTF-8 outside and UTF-16 inside. */
#include "base/file_os.h"

#include <windows.h>

#include "base/alloc.h"

#define MAX_TRANSFER_BYTES ((size_t)1 << 30)

/* A UTF-16 copy of a path, freed with kept_free; NULL when it is not UTF-8 or memory ran out. */
static wchar_t *wide(const char *path)
{
    int n = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    wchar_t *copy = n > 0 ? kept_alloc((size_t)n * sizeof *copy) : NULL;
    if (copy != NULL)
        MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, copy, n);
    return copy;
}

static const char *reason(DWORD code)
{
    switch (code) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
        return "no such file or directory";
    case ERROR_ACCESS_DENIED:
        return "access denied";
    case ERROR_SHARING_VIOLATION:
        return "another program uses it";
    case ERROR_DISK_FULL:
        return "no space left";
    case ERROR_FILE_EXISTS:
    case ERROR_ALREADY_EXISTS:
        return "it exists already";
    default:
        return "the system refused";
    }
}

/* Opens with CreateFileW; *code holds the reason on failure. */
static HANDLE open_file(const char *path, DWORD access, DWORD disposition, DWORD *code)
{
    wchar_t *name = wide(path);
    if (name == NULL) {
        *code = ERROR_PATH_NOT_FOUND;
        return INVALID_HANDLE_VALUE;
    }
    DWORD share = FILE_SHARE_READ | (access == GENERIC_READ ? FILE_SHARE_DELETE : 0);
    HANDLE handle =
        CreateFileW(name, access, share, NULL, disposition, FILE_ATTRIBUTE_NORMAL, NULL);
    *code = handle == INVALID_HANDLE_VALUE ? GetLastError() : 0;
    kept_free(name);
    return handle;
}

static DWORD attributes(const char *path)
{
    wchar_t *name = wide(path);
    DWORD flags = name != NULL ? GetFileAttributesW(name) : INVALID_FILE_ATTRIBUTES;
    kept_free(name);
    return flags;
}

static bool is_dir(const char *path)
{
    DWORD flags = attributes(path);
    return flags != INVALID_FILE_ATTRIBUTES && (flags & FILE_ATTRIBUTE_DIRECTORY) != 0;
}

const char *file_os_open_read(const char *path, struct file_os *out, uint64_t *size_bytes)
{
    DWORD code;
    HANDLE handle = open_file(path, GENERIC_READ, OPEN_EXISTING, &code);
    if (handle == INVALID_HANDLE_VALUE)
        return is_dir(path) ? "it is a directory" : reason(code);
    LARGE_INTEGER size;
    const char *why = NULL;
    if (GetFileType(handle) != FILE_TYPE_DISK)
        why = "it is not a regular file";
    else if (!GetFileSizeEx(handle, &size))
        why = reason(GetLastError());
    if (why != NULL) {
        CloseHandle(handle);
        return why;
    }
    out->handle = (intptr_t)handle;
    *size_bytes = (uint64_t)size.QuadPart;
    return NULL;
}

const char *file_os_create(const char *path, struct file_os *out, bool *exists)
{
    DWORD code;
    HANDLE handle = open_file(path, GENERIC_WRITE, CREATE_NEW, &code);
    *exists = code == ERROR_FILE_EXISTS || code == ERROR_ALREADY_EXISTS;
    if (handle == INVALID_HANDLE_VALUE)
        return reason(code);
    out->handle = (intptr_t)handle;
    return NULL;
}

void file_os_close(struct file_os file)
{
    CloseHandle((HANDLE)file.handle);
}

const char *file_os_read_at(struct file_os file, uint64_t offset, void *to, size_t n_bytes,
                            size_t *n_done)
{
    OVERLAPPED at = {0};
    at.Offset = (DWORD)offset;
    at.OffsetHigh = (DWORD)(offset >> 32);
    DWORD got = 0;
    DWORD n = (DWORD)(n_bytes < MAX_TRANSFER_BYTES ? n_bytes : MAX_TRANSFER_BYTES);
    if (!ReadFile((HANDLE)file.handle, to, n, &got, &at)) {
        DWORD code = GetLastError();
        if (code != ERROR_HANDLE_EOF)
            return reason(code);
    }
    *n_done = got;
    return NULL;
}

const char *file_os_write(struct file_os file, const void *bytes, size_t n_bytes, size_t *n_done)
{
    DWORD put = 0;
    DWORD n = (DWORD)(n_bytes < MAX_TRANSFER_BYTES ? n_bytes : MAX_TRANSFER_BYTES);
    if (!WriteFile((HANDLE)file.handle, bytes, n, &put, NULL))
        return reason(GetLastError());
    *n_done = put;
    return NULL;
}

const char *file_os_sync(struct file_os file)
{
    return FlushFileBuffers((HANDLE)file.handle) ? NULL : reason(GetLastError());
}

/* A new file inherits its folder's rights here. */
const char *file_os_copy_rights(const char *from, struct file_os to)
{
    (void)from;
    (void)to;
    return NULL;
}

const char *file_os_rename(const char *from, const char *to)
{
    wchar_t *wide_from = wide(from), *wide_to = wide(to);
    const char *why = NULL;
    if (wide_from == NULL || wide_to == NULL)
        why = "its name is not UTF-8";
    else if (!MoveFileExW(wide_from, wide_to, MOVEFILE_REPLACE_EXISTING))
        why = reason(GetLastError());
    kept_free(wide_from);
    kept_free(wide_to);
    return why;
}

void file_os_remove(const char *path)
{
    wchar_t *name = wide(path);
    if (name != NULL)
        DeleteFileW(name);
    kept_free(name);
}

bool file_os_is_file(const char *path)
{
    DWORD flags = attributes(path);
    return flags != INVALID_FILE_ATTRIBUTES && (flags & FILE_ATTRIBUTE_DIRECTORY) == 0;
}

const char *file_os_make_dir(const char *path)
{
    wchar_t *name = wide(path);
    if (name == NULL)
        return "its name is not UTF-8";
    const char *why = CreateDirectoryW(name, NULL) ? NULL : reason(GetLastError());
    kept_free(name);
    return why == NULL || is_dir(path) ? NULL : why;
}

bool file_os_is_separator(char c)
{
    return c == '/' || c == '\\';
}

uint64_t file_os_process_id(void)
{
    return GetCurrentProcessId();
}

/* tests/fuzz/replay.c: calls a fuzz target once for every file of the folders (or files) given.
 *
 * Each input stands in a block of exactly its size, so that the address sanitizer sees a read
 * past its end. Fails when there is no input at all: an empty corpus must not pass as a test.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    if (file == NULL || stat(path, &st) != 0) {
        fprintf(stderr, "cannot open %s\n", path);
        if (file != NULL)
            fclose(file);
        return -1;
    }
    size_t n_bytes = (size_t)st.st_size;
    uint8_t *bytes = malloc(n_bytes != 0 ? n_bytes : 1);
    int ok = bytes != NULL && fread(bytes, 1, n_bytes, file) == n_bytes;
    fclose(file);
    if (ok)
        LLVMFuzzerTestOneInput(bytes, n_bytes);
    else
        fprintf(stderr, "cannot read %s\n", path);
    free(bytes);
    return ok ? 1 : -1;
}

/* Returns how many inputs ran, or -1. */
static int replay(const char *path)
{
    DIR *dir = opendir(path);
    if (dir == NULL)
        return replay_file(path);
    int n = 0;
    for (struct dirent *entry; n >= 0 && (entry = readdir(dir)) != NULL;) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        n = replay_file(name) < 0 ? -1 : n + 1;
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int n = replay(argv[i]);
        if (n < 0)
            return 1;
        total += n;
    }
    printf("%d inputs replayed\n", total);
    return total > 0 ? 0 : 1;
}

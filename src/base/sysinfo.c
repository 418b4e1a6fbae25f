/* base/sysinfo.c: memory and processor of the machine, from /proc on Linux, from the API on
 * Windows, and from sysconf elsewhere. A container's limit counts when it is lower than the
 * machine's memory. */
#include "base/sysinfo.h"

#include "base/str.h"

#if defined(_WIN32)

#include <windows.h>

struct kept_host_memory kept_host_memory(void)
{
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    if (!GlobalMemoryStatusEx(&status))
        return (struct kept_host_memory){0, 0};
    return (struct kept_host_memory){status.ullTotalPhys, status.ullAvailPhys};
}

void kept_host_cpu_name(char *to, size_t cap_bytes)
{
    kept_snprintf(to, cap_bytes, "CPU");
}

#else

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The number of a one-number file; UINT64_MAX when there is none ("max" in a control group). */
static uint64_t read_number(const char *path)
{
    unsigned long long value;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return UINT64_MAX;
    int n = fscanf(file, "%llu", &value);
    fclose(file);
    return n == 1 ? value : UINT64_MAX;
}

static uint64_t meminfo_available(void)
{
    char line[128];
    unsigned long long kib, available = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            available = kib * 1024;
    fclose(file);
    return available;
}

struct kept_host_memory kept_host_memory(void)
{
    struct kept_host_memory memory = {0, meminfo_available()};
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page_bytes > 0)
        memory.total_bytes = (uint64_t)pages * (uint64_t)page_bytes;
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max");
    if (limit < memory.total_bytes) {
        uint64_t used = read_number("/sys/fs/cgroup/memory.current");
        uint64_t left = used < limit ? limit - used : 0;
        memory.total_bytes = limit;
        if (left < memory.available_bytes)
            memory.available_bytes = left;
    }
    return memory;
}

void kept_host_cpu_name(char *to, size_t cap_bytes)
{
    char line[256];
    kept_snprintf(to, cap_bytes, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (file == NULL)
        return;
    while (fgets(line, sizeof line, file) != NULL) {
        char *name = strchr(line, ':');
        if (name == NULL || strncmp(line, "model name", 10) != 0)
            continue;
        for (name++; isspace((unsigned char)*name);)
            name++;
        name[strcspn(name, "\n")] = '\0';
        if (*name != '\0')
            kept_snprintf(to, cap_bytes, "%s", name);
        break;
    }
    fclose(file);
}

#endif

/* base/sysinfo.h: what the machine is and how much memory it has left. */
#ifndef KEPT_BASE_SYSINFO_H
#define KEPT_BASE_SYSINFO_H

#include <stddef.h>
#include <stdint.h>

struct kept_host_memory {
    uint64_t total_bytes; /* of the machine, or of the container when that is less; 0: unknown */
    uint64_t available_bytes; /* without pushing others out; 0: unknown */
};
struct kept_host_memory kept_host_memory(void);

/* "AMD EPYC 9354 …"; "CPU" when the system does not say. */
void kept_host_cpu_name(char *to, size_t cap_bytes);

#endif

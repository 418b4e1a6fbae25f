/* tests/fault/cut_vfs.h: a file system in memory for SQLite, whose power can be cut at any write.
 *
 * It keeps for each file what was synchronised and, in order, what was written since. What a disk
 * holds after the cut is what was synchronised and, by mode, all, none or some of the rest. */
#ifndef CUT_VFS_H
#define CUT_VFS_H

#include <stdbool.h>
#include <stdint.h>

enum cut_mode {
    CUT_KEEP, /* everything before the call is on the disk */
    CUT_TORN, /* and the beginning of what the call writes */
    CUT_LOST, /* nothing that was not synchronised */
    CUT_SOME, /* any part of it, writes torn anywhere */
    CUT_FAIL  /* the call fails, and the power stays */
};

/* Becomes SQLite's default file system, or goes. */
bool cut_vfs_begin(void);
void cut_vfs_end(void);

/* An empty disk, and a cut at the call n (1 is the next; 0: never). */
void cut_vfs_reset(uint64_t n, enum cut_mode mode, uint64_t seed);
uint64_t cut_vfs_calls(void); /* since the reset: writes, truncations, syncs, deletions */

/* Writes what the disk holds, `path` and `path`-journal, into files of those names elsewhere. */
bool cut_vfs_dump(const char *path, const char *to);
/* The bytes of a file as a reader sees them. */
const unsigned char *cut_vfs_bytes(const char *path, uint64_t *n_bytes);

#endif

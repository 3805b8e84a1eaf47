/*
 * disk: SQLite on a disk that fails. A VFS in front of the usual one, through which every call of every file
 * goes: the n-th call can fail, and the power can go at the n-th call, which loses what was written and not
 * synced.
 */
#ifndef SUPPORT_DISK_H
#define SUPPORT_DISK_H

#include <stdbool.h>
#include <stdint.h>

/* Before SQLite is used for the first time. Until more is asked for, it does nothing but count. */
void disk_install(void);
/* Calls since disk_whole(). */
uint64_t disk_calls(void);
/* No more faults; counts from 0. */
void disk_whole(void);

/* Calls [at, at + count) fail, counted from now; a write that fails may have written a half. full: with "disk
 * full". */
void disk_fail(uint64_t at, uint64_t count, bool full);

/*
 * The power goes at that call: files are left as they were at their last sync, plus a subset of the later
 * writes chosen by seed (0: none of them), and the process ends with DISK_EXIT. log_syncs_lost: the disk lies
 * about syncs of the write-ahead log, which is as if synchronous were NORMAL.
 */
enum { DISK_EXIT = 42 };
void disk_lose_power(uint64_t at, uint64_t seed, bool log_syncs_lost);

/* The n-th allocation from now fails, SQLite's and (with the linker's --wrap) the program's own; 0: none. */
void memory_fail(uint64_t at);
uint64_t memory_calls(void); /* since memory_fail() */

#endif

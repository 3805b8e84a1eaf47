/*
 * sqlite_log: a VFS for SQLite that gathers what is written to a write-ahead log and writes it in one piece
 * at the sync.
 *
 * SQLite writes each page of a commit in two calls, 24 bytes of header and the page, and syncs after the
 * last. A commit of 24 pages takes 48 calls, and more than half of its CPU is their cost in the kernel.
 * Nothing reads those bytes before the sync but the connection that wrote them, and a read flushes. What is
 * durable, and when, is as it was: the sync is not answered before all is written and synced.
 *
 * Only logs, and only where SQLite counts on a write not to harm its neighbours (it then writes nothing after
 * the sync of a commit); every other file is the default VFS's own. Internal to the SQLite backend.
 */
#ifndef STORE_SQLITE_LOG_H
#define STORE_SQLITE_LOG_H

/* Past it they are written before the sync: 30 pages of 4 KiB with their headers. SQLite's own VFS writes no
 * 128 KiB in one call: it cuts the count's upper bits off. */
enum { SQLITE_LOG_GATHERED_BYTES_MAX = 30 * (24 + 4096) };

/* The VFS's name for sqlite3_open_v2(); NULL, the default, where it could not be registered. Any thread. */
const char *sqlite_log_vfs(void);

#endif

#include "store/sqlite_log.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static sqlite3_vfs *real; /* the default VFS as it was found */
static sqlite3_vfs vfs;

struct wal_file {
    sqlite3_file base; /* first: SQLite's view */
    sqlite3_file *real;
    char *bytes; /* gathered, NULL until the first write; contiguous, to be written at offset */
    sqlite3_int64 offset;
    size_t count;
};

static struct wal_file *wal_of(sqlite3_file *file)
{
    return (struct wal_file *)file;
}

/* What could not be written is forgotten: the transaction fails with it, and the next one writes its own. */
static int flush(struct wal_file *file)
{
    size_t count = file->count;
    file->count = 0;
    return count ? file->real->pMethods->xWrite(file->real, file->bytes, (int)count, file->offset)
                 : SQLITE_OK;
}

static int wal_close(sqlite3_file *own)
{
    struct wal_file *file = wal_of(own);
    int flushed = flush(file);
    int closed = file->real->pMethods->xClose(file->real);
    free(file->bytes);
    return closed == SQLITE_OK ? flushed : closed;
}

static int wal_read(sqlite3_file *own, void *into, int count, sqlite3_int64 offset)
{
    struct wal_file *file = wal_of(own);
    int code = flush(file);
    return code == SQLITE_OK ? file->real->pMethods->xRead(file->real, into, count, offset) : code;
}

static int wal_write(sqlite3_file *own, const void *from, int count, sqlite3_int64 offset)
{
    struct wal_file *file = wal_of(own);
    size_t bytes = (size_t)count;
    bool goes_on = file->count && offset == file->offset + (sqlite3_int64)file->count;
    if (!goes_on || file->count + bytes > SQLITE_LOG_GATHERED_BYTES_MAX) {
        int code = flush(file);
        if (code != SQLITE_OK)
            return code;
    }
    if (!file->bytes)
        file->bytes = malloc(SQLITE_LOG_GATHERED_BYTES_MAX);
    if (!file->bytes || bytes > SQLITE_LOG_GATHERED_BYTES_MAX)
        return file->real->pMethods->xWrite(file->real, from, count, offset);
    if (file->count == 0)
        file->offset = offset;
    memcpy(file->bytes + file->count, from, bytes);
    file->count += bytes;
    return SQLITE_OK;
}

static int wal_truncate(sqlite3_file *own, sqlite3_int64 size)
{
    struct wal_file *file = wal_of(own);
    int code = flush(file);
    return code == SQLITE_OK ? file->real->pMethods->xTruncate(file->real, size) : code;
}

static int wal_sync(sqlite3_file *own, int flags)
{
    struct wal_file *file = wal_of(own);
    int code = flush(file);
    return code == SQLITE_OK ? file->real->pMethods->xSync(file->real, flags) : code;
}

static int wal_size(sqlite3_file *own, sqlite3_int64 *ret)
{
    struct wal_file *file = wal_of(own);
    int code = flush(file);
    return code == SQLITE_OK ? file->real->pMethods->xFileSize(file->real, ret) : code;
}

static int wal_lock(sqlite3_file *own, int level)
{
    return wal_of(own)->real->pMethods->xLock(wal_of(own)->real, level);
}

static int wal_unlock(sqlite3_file *own, int level)
{
    return wal_of(own)->real->pMethods->xUnlock(wal_of(own)->real, level);
}

static int wal_check_reserved(sqlite3_file *own, int *ret)
{
    return wal_of(own)->real->pMethods->xCheckReservedLock(wal_of(own)->real, ret);
}

static int wal_control(sqlite3_file *own, int operation, void *argument)
{
    return wal_of(own)->real->pMethods->xFileControl(wal_of(own)->real, operation, argument);
}

static int wal_sector(sqlite3_file *own)
{
    return wal_of(own)->real->pMethods->xSectorSize(wal_of(own)->real);
}

static int wal_traits(sqlite3_file *own)
{
    return wal_of(own)->real->pMethods->xDeviceCharacteristics(wal_of(own)->real);
}

/* A log is never mapped nor has it shared memory: that is the database file's. */
static const sqlite3_io_methods METHODS = {
    .iVersion = 1,
    .xClose = wal_close,
    .xRead = wal_read,
    .xWrite = wal_write,
    .xTruncate = wal_truncate,
    .xSync = wal_sync,
    .xFileSize = wal_size,
    .xLock = wal_lock,
    .xUnlock = wal_unlock,
    .xCheckReservedLock = wal_check_reserved,
    .xFileControl = wal_control,
    .xSectorSize = wal_sector,
    .xDeviceCharacteristics = wal_traits,
};

static int wal_open(sqlite3_vfs *own, const char *path, sqlite3_file *into, int flags, int *ret_flags)
{
    (void)own;
    if (!(flags & SQLITE_OPEN_WAL))
        return real->xOpen(real, path, into, flags, ret_flags);
    struct wal_file *file = wal_of(into);
    *file = (struct wal_file){.real = (sqlite3_file *)(void *)(file + 1)};
    int code = real->xOpen(real, path, file->real, flags, ret_flags);
    if (code != SQLITE_OK)
        return code;
    if (file->real->pMethods->xDeviceCharacteristics(file->real) & SQLITE_IOCAP_POWERSAFE_OVERWRITE) {
        file->base.pMethods = &METHODS;
        return code;
    }
    /* It may write on after a commit's sync: as it is, in the real file's own place. */
    file->real->pMethods->xClose(file->real);
    return real->xOpen(real, path, into, flags, ret_flags);
}

static void register_once(void)
{
    real = sqlite3_vfs_find(NULL);
    if (!real)
        return;
    vfs = *real;
    vfs.zName = "weir-log";
    vfs.pNext = NULL;
    vfs.szOsFile = (int)sizeof(struct wal_file) + real->szOsFile;
    vfs.xOpen = wal_open;
    if (sqlite3_vfs_register(&vfs, 0) != SQLITE_OK)
        vfs.zName = NULL;
}

const char *sqlite_log_vfs(void)
{
    static pthread_once_t registered = PTHREAD_ONCE_INIT;
    pthread_once(&registered, register_once);
    return real ? vfs.zName : NULL;
}

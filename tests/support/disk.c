#include "support/disk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what is on the platter ---- */

enum { IMAGES_MAX = 16, PATH_BYTES_MAX = 256 };

struct pending {
    struct pending *next;
    int64_t offset;
    int64_t truncate_to; /* -1: a write */
    int count;
    unsigned char bytes[];
};

struct image {
    char path[PATH_BYTES_MAX]; /* empty: the place is free */
    unsigned char *durable;
    int64_t size;
    struct pending *first, **last;
};

static struct image images[IMAGES_MAX];
static sqlite3_vfs *real;

static enum { WHOLE, FAILING, LOSING_POWER } mode;
static uint64_t calls, fault_at, fault_count, seed;
static bool full, log_syncs_lost;

static void resize(struct image *image, int64_t size)
{
    if (size > image->size) {
        image->durable = realloc(image->durable, (size_t)size);
        assert(image->durable);
        memset(image->durable + image->size, 0, (size_t)(size - image->size));
    }
    image->size = size;
}

static void apply(struct image *image, const struct pending *pending)
{
    if (pending->truncate_to >= 0) {
        resize(image, pending->truncate_to);
        return;
    }
    if (pending->offset + pending->count > image->size)
        resize(image, pending->offset + pending->count);
    memcpy(image->durable + pending->offset, pending->bytes, (size_t)pending->count);
}

static void image_settle(struct image *image, bool keep)
{
    while (image->first) {
        struct pending *pending = image->first;
        image->first = pending->next;
        if (keep)
            apply(image, pending);
        free(pending);
    }
    image->last = &image->first;
}

static void image_forget(struct image *image)
{
    image_settle(image, false);
    free(image->durable);
    *image = (struct image){.path = ""};
}

static struct image *image_of(const char *path)
{
    struct image *place = NULL;
    for (int i = 0; i < IMAGES_MAX; i++) {
        if (strcmp(images[i].path, path) == 0)
            return &images[i];
        if (!place && !images[i].path[0])
            place = &images[i];
    }
    assert(place && strlen(path) < PATH_BYTES_MAX);
    snprintf(place->path, sizeof(place->path), "%s", path);
    place->last = &place->first;
    int fd = open(path, O_RDONLY); /* before SQLite has it open: closing it costs no lock */
    if (fd >= 0) {
        off_t size = lseek(fd, 0, SEEK_END);
        resize(place, size);
        ssize_t got = pread(fd, place->durable, (size_t)size, 0);
        assert(got == size);
        close(fd);
    }
    return place;
}

static void image_add(struct image *image, int64_t offset, const void *bytes, int count, int64_t truncate_to)
{
    struct pending *pending = malloc(sizeof(*pending) + (size_t)count);
    assert(pending);
    *pending = (struct pending){.offset = offset, .truncate_to = truncate_to, .count = count};
    if (count)
        memcpy(pending->bytes, bytes, (size_t)count);
    *image->last = pending;
    image->last = &pending->next;
}

static uint64_t random_next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static _Noreturn void power_goes(void)
{
    for (int i = 0; i < IMAGES_MAX; i++) {
        struct image *image = &images[i];
        if (!image->path[0])
            continue;
        for (const struct pending *pending = image->first; pending; pending = pending->next)
            if (seed && random_next() % 2)
                apply(image, pending);
        int fd = open(image->path, O_WRONLY | O_CREAT, 0644);
        ssize_t put = pwrite(fd, image->durable, (size_t)image->size, 0);
        assert(put == image->size);
        int cut = ftruncate(fd, image->size);
        assert(cut == 0);
        close(fd);
        char shared[PATH_BYTES_MAX + 8];
        snprintf(shared, sizeof(shared), "%.*s-shm", PATH_BYTES_MAX - 1, image->path);
        unlink(shared);
    }
    _exit(DISK_EXIT);
}

/* Every call comes by here. */
static bool fails(void)
{
    calls++;
    if (mode == LOSING_POWER && calls == fault_at)
        power_goes();
    return mode == FAILING && calls >= fault_at && calls - fault_at < fault_count;
}

void disk_whole(void)
{
    mode = WHOLE;
    calls = 0;
}

uint64_t disk_calls(void)
{
    return calls;
}

void disk_fail(uint64_t at, uint64_t count, bool with_disk_full)
{
    mode = FAILING;
    calls = 0;
    fault_at = at;
    fault_count = count;
    full = with_disk_full;
}

void disk_lose_power(uint64_t at, uint64_t chosen_by, bool lie)
{
    for (int i = 0; i < IMAGES_MAX; i++)
        image_forget(&images[i]);
    mode = LOSING_POWER;
    calls = 0;
    fault_at = at;
    seed = chosen_by;
    log_syncs_lost = lie;
}

/* ---- the files ---- */

struct disk_file {
    sqlite3_file base;
    struct image *image; /* NULL: not followed */
    bool is_log;
    sqlite3_file *real;
};

static sqlite3_file *real_of(sqlite3_file *file)
{
    return ((struct disk_file *)file)->real;
}

#define FORWARD(call, code, ...)                                                                             \
    {                                                                                                        \
        if (fails())                                                                                         \
            return code;                                                                                     \
        return real_of(file)->pMethods->call(real_of(file), __VA_ARGS__);                                    \
    }

static int file_close(sqlite3_file *file)
{
    return real_of(file)->pMethods->xClose(real_of(file));
}
static int file_read(sqlite3_file *file, void *into, int count, sqlite3_int64 offset)
    FORWARD(xRead, SQLITE_IOERR_READ, into, count, offset)

        static int file_write(sqlite3_file *file, const void *from, int count, sqlite3_int64 offset)
{
    struct disk_file *own = (struct disk_file *)file;
    if (fails()) {
        if (count > 1 && calls % 2)
            (void)own->real->pMethods->xWrite(own->real, from, count / 2, offset);
        return full ? SQLITE_FULL : SQLITE_IOERR_WRITE;
    }
    if (mode == LOSING_POWER && own->image)
        image_add(own->image, offset, from, count, -1);
    return own->real->pMethods->xWrite(own->real, from, count, offset);
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    struct disk_file *own = (struct disk_file *)file;
    if (fails())
        return SQLITE_IOERR_TRUNCATE;
    if (mode == LOSING_POWER && own->image)
        image_add(own->image, 0, NULL, 0, size);
    return own->real->pMethods->xTruncate(own->real, size);
}

static int file_sync(sqlite3_file *file, int flags)
{
    struct disk_file *own = (struct disk_file *)file;
    if (fails())
        return SQLITE_IOERR_FSYNC;
    if (mode == LOSING_POWER && own->image && !(own->is_log && log_syncs_lost))
        image_settle(own->image, true);
    return own->real->pMethods->xSync(own->real, flags);
}

static int file_size(sqlite3_file *file, sqlite3_int64 *ret)
    FORWARD(xFileSize, SQLITE_IOERR_FSTAT, ret) static int file_lock(sqlite3_file *file, int level)
        FORWARD(xLock, SQLITE_IOERR_LOCK, level) static int file_unlock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xUnlock(real_of(file), level);
}
static int file_check_reserved(sqlite3_file *file, int *ret)
    FORWARD(xCheckReservedLock, SQLITE_IOERR_CHECKRESERVEDLOCK,
            ret) static int file_control(sqlite3_file *file, int operation, void *argument)
{
    return real_of(file)->pMethods->xFileControl(real_of(file), operation, argument);
}
static int file_sector(sqlite3_file *file)
{
    return real_of(file)->pMethods->xSectorSize(real_of(file));
}
static int file_traits(sqlite3_file *file)
{
    return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}
static int file_shm_map(sqlite3_file *file, int region, int bytes, int extend, void volatile **ret)
    FORWARD(xShmMap, SQLITE_IOERR_SHMMAP, region, bytes, extend,
            ret) static int file_shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
    if (fails() && !(flags & SQLITE_SHM_UNLOCK)) /* giving one back does not fail */
        return SQLITE_IOERR_SHMLOCK;
    return real_of(file)->pMethods->xShmLock(real_of(file), offset, count, flags);
}
static void file_shm_barrier(sqlite3_file *file)
{
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}
static int file_shm_unmap(sqlite3_file *file, int delete)
{
    return real_of(file)->pMethods->xShmUnmap(real_of(file), delete);
}

static const sqlite3_io_methods METHODS = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector,
    .xDeviceCharacteristics = file_traits,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
};

static int disk_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *ret_flags)
{
    (void)vfs;
    struct disk_file *own = (struct disk_file *)file;
    *own = (struct disk_file){.real = (sqlite3_file *)(void *)(own + 1)};
    if (fails())
        return SQLITE_CANTOPEN;
    if (mode == LOSING_POWER && path)
        own->image = image_of(path);
    own->is_log = flags & SQLITE_OPEN_WAL;
    int code = real->xOpen(real, path, own->real, flags, ret_flags);
    if (code == SQLITE_OK)
        own->base.pMethods = &METHODS;
    return code;
}

static int disk_delete(sqlite3_vfs *vfs, const char *path, int sync)
{
    (void)vfs;
    if (fails())
        return SQLITE_IOERR_DELETE;
    if (mode == LOSING_POWER)
        image_forget(image_of(path));
    return real->xDelete(real, path, sync);
}

/* ---- memory ---- */

static uint64_t memory_at, memory_count;

void memory_fail(uint64_t at)
{
    memory_at = at;
    memory_count = 0;
}

uint64_t memory_calls(void)
{
    return memory_count;
}

static bool memory_fails(void)
{
    memory_count++;
    return memory_at && memory_count == memory_at;
}

static sqlite3_mem_methods memory_real;

static void *memory_malloc(int bytes)
{
    return memory_fails() ? NULL : memory_real.xMalloc(bytes);
}
static void *memory_realloc(void *at, int bytes)
{
    return memory_fails() ? NULL : memory_real.xRealloc(at, bytes);
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *at, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *at, size_t bytes);
#pragma weak __real_malloc
#pragma weak __real_calloc
#pragma weak __real_realloc

void *__wrap_malloc(size_t bytes)
{
    return memory_fails() ? NULL : __real_malloc(bytes);
}
void *__wrap_calloc(size_t count, size_t bytes)
{
    return memory_fails() ? NULL : __real_calloc(count, bytes);
}
void *__wrap_realloc(void *at, size_t bytes)
{
    return memory_fails() ? NULL : __real_realloc(at, bytes);
}

void disk_install(void)
{
    static sqlite3_vfs vfs;
    int code = sqlite3_config(SQLITE_CONFIG_GETMALLOC, &memory_real);
    assert(code == SQLITE_OK);
    static sqlite3_mem_methods own;
    own = memory_real;
    own.xMalloc = memory_malloc;
    own.xRealloc = memory_realloc;
    code = sqlite3_config(SQLITE_CONFIG_MALLOC, &own);
    assert(code == SQLITE_OK);
    code = sqlite3_initialize();
    assert(code == SQLITE_OK);
    real = sqlite3_vfs_find(NULL);
    vfs = *real;
    vfs.zName = "disk";
    vfs.szOsFile = (int)sizeof(struct disk_file) + real->szOsFile;
    vfs.xOpen = disk_open;
    vfs.xDelete = disk_delete;
    code = sqlite3_vfs_register(&vfs, 1);
    assert(code == SQLITE_OK);
}

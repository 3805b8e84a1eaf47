#include "flow/crash.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The file, whole. Read by a later process of the same build's layout on the same machine only. */
struct crash_note {
    char magic[16];
    /* 1: what is below is in hand. Written after it and taken away before it is changed, so that a process
     * that dies in between leaves none rather than a wrong one. */
    _Atomic uint32_t in_hand;
    int32_t partition;
    int64_t offset;
    uint32_t topic_bytes;
    char topic[sizeof((struct crash_place){0}.topic)];
};
static const char note_magic[16] = "weir crash note";

/* A row of the table, by its key: where the record stands. */
struct suspect {
    struct text topic;
    int64_t partition, offset;
    int64_t crashes;
    int64_t crashed_us;
};
static const struct rows_column suspects_columns[] = {
    ROWS_COLUMN(suspect, topic, ROWS_TEXT),     ROWS_COLUMN(suspect, partition, ROWS_INT),
    ROWS_COLUMN(suspect, offset, ROWS_INT),     ROWS_COLUMN(suspect, crashes, ROWS_INT),
    ROWS_COLUMN(suspect, crashed_us, ROWS_INT),
};
const struct rows_table suspects_table = {
    .name = "suspects",
    .columns = suspects_columns,
    .column_count = sizeof(suspects_columns) / sizeof(*suspects_columns),
    .key_count = 3,
    .row_bytes = sizeof(struct suspect),
    .indexes = {"crashed_us"},
};

/* One of the table's rows in memory. */
struct known {
    struct crash_place place;
    int crashes;
    bool settled; /* in the open unit of work */
};

struct crash {
    int fd;                  /* -1: no note is kept */
    struct crash_note *note; /* NULL: likewise */
    bool found;
    bool counting, counted; /* the found one: in the open unit of work; for good */
    struct crash_place place;
    struct known *known; /* in the order of known_compare() */
    size_t known_count;
};

/* ---- the note */

static enum outcome note_config(struct error *error, const char *path, const char *what)
{
    error_set(error, FATAL, "crash-note", "crash note %s: %s", path, what);
    if (error)
        error->exit_code = EXIT_CONFIG;
    return FATAL;
}

static enum outcome note_failed(struct error *error, const char *path, int code)
{
    switch (code) {
    case ENOSPC:
    case EDQUOT:
    case EIO:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EINTR:
        return error_outage(error, "crash-note", "crash note %s: %s", path, strerror(code));
    default:
        return note_config(error, path, strerror(code));
    }
}

/* A file that was made and not yet written to, by a process that died at once, is as good as new. */
static bool is_blank(const struct crash_note *note)
{
    static const char nothing[sizeof(note->magic)];
    return memcmp(note->magic, nothing, sizeof(nothing)) == 0;
}

static enum outcome note_open(struct crash *crash, const char *path, struct error *error)
{
    crash->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
    if (crash->fd < 0)
        return note_failed(error, path, errno);
    struct stat is;
    if (fstat(crash->fd, &is) != 0)
        return note_failed(error, path, errno);
    if (!S_ISREG(is.st_mode))
        return note_config(error, path, "is not a file");
    if (flock(crash->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return note_failed(error, path, errno);
        error_set(error, FATAL, "crash-note-in-use", "crash note %s: in use by another process", path);
        if (error)
            error->exit_code = EXIT_TRY_AGAIN;
        return FATAL;
    }
    /* Another may have made it between stat and lock. */
    if (fstat(crash->fd, &is) != 0)
        return note_failed(error, path, errno);
    if (is.st_size != 0 && is.st_size != (off_t)sizeof(struct crash_note))
        return note_config(error, path, "is not one of Weir's; put it away or name another file");
    /* Blocks of its own: a store into a hole on a full disk would be SIGBUS. */
    int code = posix_fallocate(crash->fd, 0, sizeof(struct crash_note));
    if (code != 0)
        return note_failed(error, path, code);
    void *note = mmap(NULL, sizeof(struct crash_note), PROT_READ | PROT_WRITE, MAP_SHARED, crash->fd, 0);
    if (note == MAP_FAILED)
        return note_failed(error, path, errno);
    crash->note = note;
    if (is_blank(crash->note)) {
        atomic_store(&crash->note->in_hand, 0);
        memcpy(crash->note->magic, note_magic, sizeof(note_magic));
    } else if (memcmp(crash->note->magic, note_magic, sizeof(note_magic)) != 0) {
        return note_config(error, path, "is not one of Weir's; put it away or name another file");
    }
    return OK;
}

static void note_read(struct crash *crash)
{
    const struct crash_note *note = crash->note;
    if (atomic_load(&note->in_hand) != 1)
        return;
    if (note->topic_bytes == 0 || note->topic_bytes >= sizeof(note->topic) || note->partition < 0 ||
        note->offset < 0)
        return;
    crash->found = true;
    memcpy(crash->place.topic, note->topic, note->topic_bytes);
    crash->place.partition = note->partition;
    crash->place.offset = note->offset;
}

enum outcome crash_open(const char *path, struct crash **ret, struct error *error)
{
    struct crash *crash = calloc(1, sizeof(*crash));
    if (!crash)
        return error_outage(error, "memory", "crash note: out of memory");
    crash->fd = -1;
    if (path) {
        enum outcome outcome = note_open(crash, path, error);
        if (outcome != OK) {
            if (crash->note)
                munmap(crash->note, sizeof(*crash->note));
            if (crash->fd >= 0)
                close(crash->fd);
            free(crash);
            return outcome;
        }
        note_read(crash);
    }
    *ret = crash;
    return OK;
}

void crash_close(struct crash *crash)
{
    if (!crash)
        return;
    if (crash->note) {
        if (!crash->found || crash->counted) /* else it is still to be counted */
            crash_leave(crash);
        munmap(crash->note, sizeof(*crash->note));
    }
    if (crash->fd >= 0)
        close(crash->fd);
    free(crash->known);
    free(crash);
}

bool crash_found(const struct crash *crash, struct crash_place *ret)
{
    if (crash->found)
        *ret = crash->place;
    return crash->found;
}

void crash_enter(struct crash *crash, const struct record *record)
{
    struct crash_note *note = crash->note;
    if (!note)
        return;
    atomic_store_explicit(&note->in_hand, 0, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (record->topic.length == 0 || record->topic.length >= sizeof(note->topic))
        return; /* Kafka has no such topic */
    note->partition = record->partition;
    note->offset = record->offset;
    note->topic_bytes = (uint32_t)record->topic.length;
    memcpy(note->topic, record->topic.at, record->topic.length);
    atomic_store_explicit(&note->in_hand, 1, memory_order_release);
    /* The handler's own stores come after it, whatever the compiler knows of them. */
    atomic_signal_fence(memory_order_seq_cst);
}

void crash_leave(struct crash *crash)
{
    if (!crash->note)
        return;
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&crash->note->in_hand, 0, memory_order_release);
}

/* ---- the suspects */

static int place_compare(const struct crash_place *place, struct text topic, int64_t partition,
                         int64_t offset)
{
    if (place->offset != offset)
        return place->offset < offset ? -1 : 1;
    if (place->partition != partition)
        return place->partition < partition ? -1 : 1;
    return text_compare(text_of(place->topic), topic);
}

static int known_compare(const void *a, const void *b)
{
    const struct crash_place *other = &((const struct known *)b)->place;
    return place_compare(&((const struct known *)a)->place, text_of(other->topic), other->partition,
                         other->offset);
}

static struct known *known_find(const struct crash *crash, const struct record *record)
{
    size_t from = 0, to = crash->known_count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        int order =
            place_compare(&crash->known[middle].place, record->topic, record->partition, record->offset);
        if (order == 0)
            return &crash->known[middle];
        if (order < 0)
            from = middle + 1;
        else
            to = middle;
    }
    return NULL;
}

static void known_add(struct crash *crash, const struct suspect *suspect)
{
    struct known *known = &crash->known[crash->known_count];
    if (suspect->topic.length >= sizeof(known->place.topic))
        return; /* not written by us */
    *known = (struct known){
        .place.partition = (int32_t)suspect->partition,
        .place.offset = suspect->offset,
        .crashes = suspect->crashes > CRASH_ATTEMPTS_MAX ? CRASH_ATTEMPTS_MAX : (int)suspect->crashes,
    };
    memcpy(known->place.topic, suspect->topic.at, suspect->topic.length);
    crash->known_count++;
}

void crash_load(struct crash *crash, struct work *work, int64_t now_us, int *ret_crashes)
{
    *ret_crashes = 0;
    crash->known_count = 0;
    crash->counting = false;
    void **rows;
    const struct store_value since = STORE_INT(INT64_MIN);
    size_t count = rows_find(work, &suspects_table, "crashed_us >= $1 ORDER BY crashed_us", &since, 1,
                             CRASH_SUSPECTS_MAX + 1, &rows);
    if (work_failed(work, NULL) != OK)
        return;
    struct known *known = realloc(crash->known, (count + 1) * sizeof(*known));
    if (!known) {
        struct error error;
        error_set(&error, OUTAGE, "memory", "suspects: out of memory");
        work_fail(work, &error);
        return;
    }
    crash->known = known;

    struct suspect *found = NULL;
    bool is_new = false;
    if (crash->found && !crash->counted) {
        struct suspect row = {
            .topic = text_copy(work_arena(work), text_of(crash->place.topic)),
            .partition = crash->place.partition,
            .offset = crash->place.offset,
        };
        found = rows_get(work, &suspects_table, &row);
        is_new = !found;
        if (is_new)
            found = rows_add(work, &suspects_table, &row);
        if (work_failed(work, NULL) != OK)
            return;
        found->crashes++;
        found->crashed_us = now_us;
        *ret_crashes = (int)found->crashes;
        if (is_new)
            known_add(crash, found);
    }
    size_t room = CRASH_SUSPECTS_MAX - is_new, forget = count > room ? count - room : 0;
    for (size_t i = 0; i < count; i++) {
        if (forget && rows[i] != found) {
            rows_delete(work, &suspects_table, rows[i]);
            forget--;
            continue;
        }
        known_add(crash, rows[i]);
    }
    qsort(crash->known, crash->known_count, sizeof(*crash->known), known_compare);
    crash->counting = found != NULL;
}

int crash_count(const struct crash *crash, const struct record *record)
{
    if (crash->known_count == 0)
        return 0;
    const struct known *known = known_find(crash, record);
    return known ? known->crashes : 0;
}

void crash_settled(struct crash *crash, struct work *work, const struct record *record)
{
    struct known *known = crash->known_count ? known_find(crash, record) : NULL;
    if (!known)
        return;
    const struct suspect key = {
        .topic = text_of(known->place.topic),
        .partition = known->place.partition,
        .offset = known->place.offset,
    };
    struct suspect *row = rows_get(work, &suspects_table, &key);
    if (row)
        rows_delete(work, &suspects_table, row);
    known->settled = true;
}

void crash_committed(struct crash *crash)
{
    if (crash->counting) { /* nor again by the next start, where this process dies before its first record */
        crash->counting = false;
        crash->counted = true;
        crash_leave(crash);
    }
    if (crash->known_count == 0)
        return;
    size_t left = 0;
    for (size_t i = 0; i < crash->known_count; i++)
        if (!crash->known[i].settled)
            crash->known[left++] = crash->known[i];
    crash->known_count = left;
}

void crash_rolled_back(struct crash *crash)
{
    crash->counting = false;
    for (size_t i = 0; i < crash->known_count; i++)
        crash->known[i].settled = false;
}

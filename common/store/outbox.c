#include "store/outbox.h"

#include "store/header_blob.h"
#include "store/work.h"

#include <assert.h>
#include <stdlib.h>

/* ---- in a unit of work ---- */

void outbox_add(struct work *work, const struct outbox_row *row)
{
    assert(work->open);
    if (work->failure.outcome != OK)
        return;
    struct outbox_row *place = work_list_add(work, &work->added, sizeof(*place));
    if (!place)
        return;
    *place = *row;
    place->seq = 0;
    place->part = 0;
    place->elsewhere = false;
    if (place->created_us == 0)
        place->created_us = work->begun_us;
}

size_t outbox_added(const struct work *work, const struct outbox_row **ret_rows)
{
    *ret_rows = work->added.at;
    return work->added.count;
}

void outbox_done(struct work *work, const int64_t *seqs, size_t count)
{
    assert(work->open);
    for (size_t i = 0; i < count && work->failure.outcome == OK; i++) {
        int64_t *place = work_list_add(work, &work->done, sizeof(*place));
        if (place)
            *place = seqs[i];
    }
}

void outbox_refused(struct work *work, int64_t seq, struct text reason)
{
    assert(work->open);
    if (work->failure.outcome != OK)
        return;
    struct text copy = text_copy(work->arena, reason);
    if (!copy.at) {
        work_fail_memory(work);
        return;
    }
    struct backend_refusal *place = work_list_add(work, &work->refused, sizeof(*place));
    if (place)
        *place = (struct backend_refusal){seq, copy};
}

static int seq_compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static bool ranges_prepare(struct work *work, struct backend_apply *apply)
{
    int64_t *seqs = work->done.at;
    size_t count = work->done.count;
    if (count == 0)
        return true;
    bool ascending = true;
    for (size_t i = 1; i < count && ascending; i++)
        ascending = seqs[i - 1] <= seqs[i];
    if (!ascending)
        qsort(seqs, count, sizeof(*seqs), seq_compare);
    struct backend_range *ranges = arena_take(work->arena, count * sizeof(*ranges));
    if (!ranges) {
        work_fail_memory(work);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (apply->done_count && seqs[i] <= ranges[apply->done_count - 1].last + 1)
            ranges[apply->done_count - 1].last = seqs[i];
        else
            ranges[apply->done_count++] = (struct backend_range){seqs[i], seqs[i]};
    }
    apply->done = ranges;
    return true;
}

bool outbox_prepare(struct work *work, struct backend_apply *apply)
{
    apply->added = work->added.at;
    apply->added_count = work->added.count;
    apply->refused = work->refused.at;
    apply->refused_count = work->refused.count;
#ifdef WEIR_MUTANT_RETRY_WITHOUT_OUTBOX
    /* Copies for retry topics are sent from memory, and stand nowhere. */
    struct outbox_row *rows = work->added.at;
    apply->added_count = 0;
    for (size_t i = 0; i < work->added.count; i++)
        if (rows[i].topic.length < 6 || memcmp(rows[i].topic.at, "retry.", 6) != 0) {
            struct outbox_row row = rows[apply->added_count];
            rows[apply->added_count++] = rows[i];
            rows[i] = row;
        }
#endif
    if (!ranges_prepare(work, apply))
        return false;
    if (apply->added_count == 0)
        return true;
    struct text *headers = arena_take(work->arena, apply->added_count * sizeof(*headers));
    apply->added_headers = headers;
    for (size_t i = 0; headers && i < apply->added_count; i++)
        if (!header_blob_encode(work->arena, apply->added[i].headers, apply->added[i].header_count,
                                &headers[i]))
            headers = NULL;
    if (!headers)
        work_fail_memory(work);
    return headers;
}

struct reading {
    struct work *work;
    struct outbox_row *rows;
    size_t count;
    size_t capacity;
};

/* Copies: what the database gave is valid during the call. */
static bool text_keep(struct arena *arena, struct text *text)
{
    *text = text_copy(arena, *text);
    return text->at;
}

static bool reading_row(void *owner, const struct outbox_row *row, struct text headers)
{
    struct reading *reading = owner;
    struct arena *arena = reading->work->arena;
    if (reading->count == reading->capacity) {
        size_t capacity = reading->capacity ? reading->capacity * 2 : 64;
        struct outbox_row *rows = arena_take(arena, capacity * sizeof(*rows));
        if (!rows)
            goto full;
        if (reading->count)
            memcpy(rows, reading->rows, reading->count * sizeof(*rows));
        reading->rows = rows;
        reading->capacity = capacity;
    }
    struct outbox_row *place = &reading->rows[reading->count];
    *place = *row;
    if (!text_keep(arena, &place->topic) || !text_keep(arena, &place->key) ||
        !text_keep(arena, &place->value) || !text_keep(arena, &headers))
        goto full;
    bool damaged;
    if (!header_blob_decode(arena, headers, &place->headers, &place->header_count, &damaged)) {
        if (damaged)
            goto damaged;
        goto full;
    }
    reading->count++;
    return true;

    struct error error;
full:
    work_fail_memory(reading->work);
    return false;
damaged:
    error_set(&error, FATAL, "store-damaged", "outbox: headers of row %lld are damaged", (long long)row->seq);
    work_fail(reading->work, &error);
    return false;
}

static size_t read_rows(struct work *work, bool elsewhere, int64_t after_seq, size_t limit,
                        const struct outbox_row **ret_rows)
{
    assert(work->open);
    *ret_rows = NULL;
    if (work->failure.outcome != OK || limit == 0)
        return 0;
    struct reading reading = {.work = work};
    struct backend *backend = work->store->backend;
    struct error error;
    if (backend->ops->outbox_read(backend, elsewhere, after_seq, limit, reading_row, &reading, &error) != OK)
        work_fail(work, &error);
    if (work->failure.outcome != OK)
        return 0;
    *ret_rows = reading.rows;
    return reading.count;
}

size_t outbox_read(struct work *work, int64_t after_seq, size_t limit, const struct outbox_row **ret_rows)
{
    return read_rows(work, false, after_seq, limit, ret_rows);
}

size_t outbox_read_elsewhere(struct work *work, size_t limit, const struct outbox_row **ret_rows)
{
    return read_rows(work, true, 0, limit, ret_rows);
}

/* ---- with the commit ---- */

void outbox_want_elsewhere(struct work *work, size_t limit)
{
    assert(work->open);
    work->elsewhere_limit = limit;
}

bool outbox_elsewhere(const struct work *work, const struct outbox_row **ret_rows, size_t *ret_count,
                      bool *ret_more)
{
    *ret_rows = work->elsewhere;
    *ret_count = work->elsewhere_count;
    *ret_more = work->elsewhere_more;
    return work->elsewhere_read;
}

static void elsewhere_start(void *owner)
{
    struct work *work = owner;
    work->elsewhere_read = true;
    work->elsewhere_more = false;
    work->elsewhere_count = 0;
}

/* The commit is on its way: what cannot be taken now is left where it is, and read again. */
static bool elsewhere_row(void *owner, const struct outbox_row *row, struct text headers)
{
    struct work *work = owner;
    struct arena *arena = work->arena;
    bool damaged;
    if (!work->elsewhere)
        work->elsewhere = arena_take(arena, work->elsewhere_limit * sizeof(*work->elsewhere));
    struct outbox_row *place = work->elsewhere ? &work->elsewhere[work->elsewhere_count] : NULL;
    if (!place)
        goto more;
    *place = *row;
    if (!text_keep(arena, &place->topic) || !text_keep(arena, &place->key) ||
        !text_keep(arena, &place->value) || !text_keep(arena, &headers) ||
        !header_blob_decode(arena, headers, &place->headers, &place->header_count, &damaged))
        goto more;
    work->elsewhere_more = ++work->elsewhere_count == work->elsewhere_limit;
    return !work->elsewhere_more;

more:
    work->elsewhere_more = true;
    return false;
}

void outbox_elsewhere_prepare(struct work *work, struct backend_apply *apply)
{
    apply->elsewhere_limit = work->elsewhere_limit;
    apply->elsewhere_start = elsewhere_start;
    apply->elsewhere_each = elsewhere_row;
    apply->elsewhere_owner = work;
}

int64_t outbox_rows(const struct store *store)
{
    return atomic_load(&store->outbox_rows);
}

int64_t outbox_oldest_us(const struct store *store)
{
    return atomic_load(&store->outbox_oldest_us);
}

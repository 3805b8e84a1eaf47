/* work: the unit of work, from its beginning to its commit. */
#include "store/work.h"

#include "base/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_CAPACITY_MIN = 64 };

/* ---- failure ---- */

void work_fail(struct work *work, const struct error *error)
{
    if (work->failure.outcome == OK)
        work->failure = *error;
}

void work_fail_memory(struct work *work)
{
    struct error error;
    error_set(&error, RETRY, "memory", "out of memory for this batch (%zu bytes of rows taken)",
              arena_used_bytes(work->arena));
    work_fail(work, &error);
}

enum outcome work_failed(const struct work *work, struct error *error)
{
    if (work->failure.outcome != OK && error)
        *error = work->failure;
    return work->failure.outcome;
}

void *work_list_add(struct work *work, struct work_list *list, size_t item_bytes)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : LIST_CAPACITY_MIN;
        void *at = capacity > WORK_LIST_COUNT_MAX ? NULL : realloc(list->at, capacity * item_bytes);
        if (!at) {
            work_fail_memory(work);
            return NULL;
        }
        list->at = at;
        list->capacity = capacity;
    }
    return (char *)list->at + item_bytes * list->count++;
}

/* ---- its life ---- */

enum outcome work_new(struct store *store, size_t bytes_max, struct work **ret, struct error *error)
{
    struct work *work = calloc(1, sizeof(*work));
    if (!work)
        return error_retry(error, "memory", "out of memory");
    work->store = store;
    work->arena = arena_new(bytes_max);
    work->nowhere = calloc(1, sizeof(struct rows_entry) + WORK_ROW_BYTES_MAX);
    if (!work->arena || !work->nowhere) {
        work_destroy(work);
        return error_retry(error, "memory", "out of memory");
    }
    *ret = work;
    return OK;
}

void work_destroy(struct work *work)
{
    if (!work)
        return;
    if (work->open)
        work_rollback(work);
    for (size_t i = 0; i < work->map_count; i++) {
        free(work->maps[i].slots);
        free(work->maps[i].entries.at);
    }
    struct work_list *lists[] = {&work->after,       &work->saved, &work->saved_bytes,
                                 &work->saved_notes, &work->notes, &work->note_ranges,
                                 &work->added,       &work->done,  &work->refused};
    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++)
        free(lists[i]->at);
    free(work->nowhere);
    arena_destroy(work->arena);
    free(work);
}

struct arena *work_arena(struct work *work)
{
    return work->arena;
}

void work_set_owner(struct work *work, void *owner)
{
    work->owner = owner;
}

void *work_owner(const struct work *work)
{
    return work->owner;
}

enum outcome work_begin(struct work *work, struct error *error)
{
    assert(!work->open);
    for (size_t i = 0; i < work->map_count; i++)
        work_map_clear(&work->maps[i]);
    work->saved.count = work->saved_bytes.count = work->saved_notes.count = 0;
    work->notes.count = work->note_ranges.count = 0;
    work->added.count = work->done.count = work->refused.count = 0;
    work->item_added = work->item_done = work->item_refused = work->item_after = 0;
    work->after.count = 0;
    work->item = 0;
    work->read = false;
    work->pruned = false;
    work->failure.outcome = OK;
    work->elsewhere_limit = work->elsewhere_count = 0;
    work->elsewhere_read = work->elsewhere_more = false;
    work->elsewhere = NULL;
    work->asked = NULL;
    work->any = false;
    work->newcomers = false;
    arena_reset(work->arena);
    work->begun_us = clock_wall_us();
    struct backend *backend = work->store->backend;
    enum outcome outcome = backend->ops->begin(backend, error);
    work->open = outcome == OK;
    return outcome;
}

enum outcome work_read(struct work *work, struct error *error)
{
    assert(work->open);
    bool first = !work->read;
    work->read = true;
    struct backend_wanted wanted[ROWS_TABLES_MAX];
    size_t wanted_count = 0;
    for (size_t i = 0; i < work->map_count && !work_has_failed(work); i++) {
        struct work_map *map = &work->maps[i];
        size_t count_max = map->entries.count - map->unread;
        if (count_max == 0)
            continue;
        struct rows_entry **entries = arena_take(work->arena, count_max * sizeof(struct rows_entry *));
        bool *found = arena_take_zeroed(work->arena, count_max * sizeof(bool));
        if (!entries || !found) {
            work_fail_memory(work);
            break;
        }
        size_t count = 0;
        for (size_t at = map->unread; at < map->entries.count; at++)
            if (!work_map_entries(map)[at]->known && !work_map_entries(map)[at]->present)
                entries[count++] = work_map_entries(map)[at];
        map->unread = map->entries.count;
        if (count)
            wanted[wanted_count++] = (struct backend_wanted){map->table, entries, found, count};
    }
    if (work_has_failed(work))
        return work_failed(work, error);
    struct backend_fetch fetch = {
        .arena = work->arena,
        .notes = work->notes.at,
        .note_count = first ? work->notes.count : 0,
        .asked = first ? work->asked : NULL,
        .noted_us = work->begun_us,
        .wanted = wanted,
        .wanted_count = wanted_count,
    };
    struct backend *backend = work->store->backend;
    struct error cause;
    if ((wanted_count || fetch.note_count || fetch.asked) &&
        backend->ops->fetch(backend, &fetch, &cause) != OK)
        work_fail(work, &cause);
    work->any = work->any || fetch.any;
    for (size_t i = 0; i < wanted_count && !work_has_failed(work); i++)
        for (size_t at = 0; at < wanted[i].count; at++) {
            struct rows_entry *entry = wanted[i].entries[at];
            entry->known = true;
            if (wanted[i].found[at] && !work_entry_loaded(work, entry))
                break;
        }
    return work_failed(work, error);
}

/* ---- items ---- */

void work_item_begin(struct work *work)
{
    work->item++;
    work->saved.count = work->saved_bytes.count = work->saved_notes.count = 0;
    work->item_added = work->added.count;
    work->item_after = work->after.count;
    work->item_done = work->done.count;
    work->item_refused = work->refused.count;
}

void work_item_undo(struct work *work)
{
    assert(work->item > 0);
    const struct work_saved *saved = work->saved.at;
    for (size_t i = 0; i < work->saved.count; i++) {
        struct rows_entry *entry = saved[i].entry;
        entry->present = saved[i].present;
        if (entry->present)
            memcpy(entry->row, (const char *)work->saved_bytes.at + saved[i].offset, entry->table->row_bytes);
        entry->item = 0;
    }
    const struct work_saved_note *notes = work->saved_notes.at;
    for (size_t i = work->saved_notes.count; i-- > 0;)
        notes[i].note->now = notes[i].now;
    work->added.count = work->item_added;
    work->after.count = work->item_after;
    work->done.count = work->item_done;
    work->refused.count = work->item_refused;
    /* What the handler does with the item from here on is journalled anew. */
    work->saved.count = work->saved_bytes.count = work->saved_notes.count = 0;
}

/* ---- the commit ---- */

bool work_changed(const struct work *work)
{
    if (work->added.count || work->done.count || work->refused.count || work->pruned || inbox_changed(work))
        return true;
    for (size_t i = 0; i < work->map_count; i++)
        if (work_map_changed(&work->maps[i]))
            return true;
    return false;
}

void work_after_commit(struct work *work, void (*call)(void *what), void *what)
{
    struct work_after *after = work_list_add(work, &work->after, sizeof(*after));
    if (after)
        *after = (struct work_after){call, what};
}

static void call_after(struct work *work)
{
    const struct work_after *after = work->after.at;
    for (size_t i = 0; i < work->after.count; i++)
        after[i].call(after[i].what);
    work->after.count = 0;
}

enum outcome work_commit(struct work *work, struct error *error)
{
    assert(work->open);
    struct store *store = work->store;
    struct backend *backend = store->backend;
    struct backend_table_writes tables[ROWS_TABLES_MAX];
    struct backend_apply apply = {.tables = tables};
    for (size_t i = 0; i < work->map_count && !work_has_failed(work); i++) {
        if (work->maps[i].entries.count == 0)
            continue;
        struct backend_table_writes *writes = &tables[apply.table_count];
        if (work_map_prepare(work, &work->maps[i], writes) &&
            writes->delete_count + writes->update_count + writes->insert_count > 0)
            apply.table_count++;
    }
    bool ready = !work_has_failed(work) && inbox_prepare(work, &apply) && outbox_prepare(work, &apply);
    outbox_elsewhere_prepare(work, &apply);
    bool outbox = apply.pack_count || apply.done_count || apply.refused_count;
    bool inbox = inbox_changed(work);
    if (ready && (apply.table_count || inbox || outbox || work->pruned)) {
        struct error cause;
        if (backend->ops->apply(backend, &apply, &cause) == OK) {
            work->open = false;
            if (work->newcomers)
                newcomers_right(&store->newcomers);
        } else {
            work_fail(work, &cause);
            if (work->newcomers && store_raced(&cause))
                newcomers_wrong(&store->newcomers);
        }
    }
    if (work->open) { /* failed, or nothing to write */
        work_rollback(work);
        enum outcome outcome = work_failed(work, error);
        if (outcome == OK) {
            outbox_committed(work, &apply);
            call_after(work);
        }
        return outcome;
    }
    outbox_committed(work, &apply);
    call_after(work);
    return OK;
}

void work_rollback(struct work *work)
{
    struct backend *backend = work->store->backend;
    backend->ops->rollback(backend);
    work->open = false;
}

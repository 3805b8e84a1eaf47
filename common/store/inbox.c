#include "store/inbox.h"

#include "store/work.h"

#include <assert.h>

void inbox_note(struct work *work, struct inbox_note *notes, size_t count)
{
    assert(work->open && !work->read);
    if (count == 0)
        return;
    struct work_notes *range = work_list_add(work, &work->note_ranges, sizeof(*range));
    if (!range)
        return;
    *range = (struct work_notes){notes, count, work->notes.count};
    for (size_t i = 0; i < count; i++) {
        notes[i].seen = false;
        struct backend_note *place = work_list_add(work, &work->notes, sizeof(*place));
        if (!place) {
            range->count = i;
            return;
        }
        *place = (struct backend_note){.note = &notes[i], .prior = INBOX_ABSENT};
    }
}

static void note_set(struct work *work, const struct inbox_note *note, int32_t now_if_moved)
{
    assert(work->open && work->read);
    if (work->failure.outcome != OK)
        return;
    const struct work_notes *ranges = work->note_ranges.at;
    struct backend_note *place = NULL;
    for (size_t i = 0; i < work->note_ranges.count && !place; i++)
        if (note >= ranges[i].first && note < ranges[i].first + ranges[i].count)
            place = (struct backend_note *)work->notes.at + ranges[i].index + (note - ranges[i].first);
    assert(place && place->note == note);
    if (place->note->seen) /* the row is another's */
        return;
    struct work_saved_note *saved = work_list_add(work, &work->saved_notes, sizeof(*saved));
    if (!saved)
        return;
    *saved = (struct work_saved_note){place, place->now};
    place->now = now_if_moved ? now_if_moved : place->prior;
}

void inbox_moved(struct work *work, const struct inbox_note *note)
{
    assert(note->attempt > 0);
    note_set(work, note, note->attempt);
}

void inbox_forget(struct work *work, const struct inbox_note *note)
{
    note_set(work, note, 0);
}

bool inbox_changed(const struct work *work)
{
    if (!work->read)
        return false;
    const struct backend_note *notes = work->notes.at;
    for (size_t i = 0; i < work->notes.count; i++)
        if (!notes[i].note->seen && notes[i].now != notes[i].prior)
            return true;
    return false;
}

bool inbox_prepare(struct work *work, struct backend_apply *apply)
{
    const struct backend_note *notes = work->notes.at;
    size_t count = 0;
    for (size_t i = 0; i < work->notes.count; i++)
        count += !notes[i].note->seen && notes[i].now != notes[i].left;
    if (count == 0)
        return true;
    struct backend_note_write *writes = arena_take(work->arena, count * sizeof(*writes));
    if (!writes) {
        work_fail_memory(work);
        return false;
    }
    apply->notes = writes;
    apply->noted_us = work->begun_us;
    for (size_t i = 0; i < work->notes.count; i++)
        if (!notes[i].note->seen && notes[i].now != notes[i].left)
            writes[apply->note_count++] = (struct backend_note_write){notes[i].note->id, notes[i].now};
    return true;
}

size_t inbox_prune(struct work *work, int64_t before_us, size_t limit)
{
    assert(work->open);
    if (work->failure.outcome != OK || limit == 0)
        return 0;
    struct backend *backend = work->store->backend;
    struct error error;
    size_t count = 0;
    if (backend->ops->inbox_prune(backend, before_us, limit, &count, &error) != OK) {
        work_fail(work, &error);
        return 0;
    }
    work->pruned = work->pruned || count > 0;
    return count;
}

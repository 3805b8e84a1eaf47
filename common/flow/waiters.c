/* waiters: what waited behind a head that is settled is handled in its order, key by key, before anything
 * that came later. */
#include "flow/loop.h"

#include "base/clock.h"
#include "store/header_blob.h"

static struct record record_of(const struct dispatch *dispatch, const struct waiting_record *row)
{
    struct record record = {
        .topic = row->topic,
        .topic_index = -1,
        .partition = (int32_t)row->partition,
        .offset = row->offset,
        .timestamp_ms = row->timestamp_ms,
        .key = row->key,
        .value = row->value,
        .value_null = row->value_null != 0,
    };
    for (size_t i = 0; i < dispatch->topic_count; i++)
        if (text_is(row->topic, dispatch->topics[i]))
            record.topic_index = (int)i;
    return record;
}

static void headers_of(struct dispatch *dispatch, struct item *item, const struct waiting_record *row)
{
    bool damaged;
    if (header_blob_decode(work_arena(dispatch->work), row->headers, &item->headers, &item->header_count,
                           &damaged))
        return;
    struct error error;
    if (damaged)
        error_set(&error, FATAL, "store-damaged", "waiting: headers of %.*s %lld are damaged",
                  TEXT_ARG(row->key), (long long)row->seq);
    else
        error_set(&error, RETRY, "memory", "the batch is too large for its memory");
    work_fail(dispatch->work, &error);
}

/* One that has killed the process goes alone. False: not in this batch. */
static bool suspect(struct dispatch *dispatch, struct item *item, size_t before)
{
    int crashes = crash_count(dispatch->crash, &item->record);
    if (!crashes)
        return true;
    item_suspect(item, crashes);
    return before == 0;
}

size_t waiters_find(struct dispatch *dispatch, size_t limit)
{
    struct work *work = dispatch->work;
    struct held_key **keys;
    size_t count = 0, key_count = waiting_draining(work, WAITERS_KEYS_MAX, &keys);
    if (key_count == 0 && dispatch->room.shared)
        dispatch->room.draining = 0; /* another has them, until they are counted again */
    for (size_t i = 0; i < key_count && count < limit; i++) {
        struct waiting_record **rows;
        size_t row_count = waiting_next(work, keys[i]->topic, keys[i]->key, limit - count, &rows);
        for (size_t j = 0; j < row_count; j++) {
            struct item *item = &dispatch->waiters[count];
            item_clear(item, DOOR_WAITING);
            item->record = record_of(dispatch, rows[j]);
            item->waiting = rows[j];
            headers_of(dispatch, item, rows[j]);
            if (dispatch->waiters_refused) {
                item->refused = true;
                item->class = FAILED_REJECT;
                item->error = dispatch->waiters_error;
            }
            if (!suspect(dispatch, item, count))
                return count;
            count++;
            if (item->crashes)
                return count;
        }
    }
    return count;
}

bool waiters_paused(const struct dispatch *dispatch)
{
    unsigned reasons = PAUSE_FLOOD | PAUSE_OPERATOR | PAUSE_BACKLOG;
    return dispatch->fatal || dispatch->outage_until_us || atomic_load(&dispatch->stopping) ||
           (consumer_paused(dispatch->consumer) & reasons) || dispatch->flood.state == FLOOD_OPEN;
}

void waiters_count(struct dispatch *dispatch)
{
    enum { COUNT_MS = 1000 };
    struct error error;
    int64_t now_us = clock_monotonic_us();
    bool others = dispatch->instances.others > 0;
    if (!dispatch->room.shared || (!others && !dispatch->counted_beside) || now_us < dispatch->count_at_us)
        return;
    if (waiting_count(&dispatch->room, dispatch->settings.store, &error) != OK)
        return; /* a batch will find out why, and what to do about it */
    dispatch->counted_beside = others; /* once more after the last of the others has gone */
    dispatch->count_at_us = now_us + (dispatch->room.keys ? COUNT_MS : INSTANCE_BEAT_MS) * INT64_C(1000);
}

void waiters_look(struct dispatch *dispatch)
{
    enum { LOOK_MS = 5000 };
    struct work *work = dispatch->work;
    struct error error;
    int64_t since_us = 0, now_us = clock_monotonic_us();
    if (dispatch->room.keys == 0) {
        atomic_store(&dispatch->held_since_us, 0);
        return;
    }
    if (now_us < dispatch->held_look_us)
        return;
    dispatch->held_look_us = now_us + LOOK_MS * INT64_C(1000);
    enum outcome outcome = work_begin(work, &error);
    if (outcome == OK)
        outcome = work_read(work, &error);
    if (outcome == OK) {
        since_us = waiting_oldest_us(work);
        outcome = work_commit(work, &error);
    }
    if (outcome == OK)
        atomic_store(&dispatch->held_since_us, since_us);
    else
        batch_rolled_back(dispatch); /* a batch will find out why, and what to do about it */
}

/* batch: from the doors to the commit, and what follows from it. */
#include "flow/loop.h"

#include "base/clock.h"
#include "base/fault.h"
#include "store/outbox.h"

#include <stdio.h>

/* The delay before a record is tried again, growing while the same one fails. */
static struct hold *hold_of(struct dispatch *dispatch, const struct record *record)
{
    struct hold *oldest = &dispatch->holds[0];
    for (size_t i = 0; i < dispatch->hold_count; i++) {
        struct hold *hold = &dispatch->holds[i];
        if (hold->topic_index == record->topic_index && hold->partition == record->partition)
            return hold;
    }
    struct hold *hold = dispatch->hold_count < HOLDS_MAX ? &dispatch->holds[dispatch->hold_count++] : oldest;
    *hold = (struct hold){.topic_index = record->topic_index, .partition = record->partition, .offset = -1};
    return hold;
}

void batch_hold(struct dispatch *dispatch, struct item *item)
{
    dispatch->held[dispatch->held_count++] = (struct held){item->record.topic_index, item->record.partition};
    item->state = ITEM_HELD;
}

bool batch_holds(const struct dispatch *dispatch, const struct record *record)
{
    for (size_t i = 0; i < dispatch->held_count; i++)
        if (dispatch->held[i].topic_index == record->topic_index &&
            dispatch->held[i].partition == record->partition)
            return true;
    return false;
}

/* After the commit: the partition comes again from this record on, later each time. */
static void hold(struct dispatch *dispatch, struct item *item)
{
    struct hold *hold = hold_of(dispatch, &item->record);
    if (hold->offset != item->record.offset)
        *hold = (struct hold){
            .topic_index = item->record.topic_index,
            .partition = item->record.partition,
            .offset = item->record.offset,
        };
    hold->attempts++;
    hold->delay_ms = hold->delay_ms ? hold->delay_ms * 2 : DISPATCH_HOLD_MS_MIN;
    if (hold->delay_ms > DISPATCH_HOLD_MS_MAX)
        hold->delay_ms = DISPATCH_HOLD_MS_MAX;
    log_warn("retry", "a record failed; its partition waits and tries it again",
             LOG_TEXT("topic", item->record.topic), LOG_INT("partition", item->record.partition),
             LOG_INT("offset", item->record.offset), LOG_TEXT("key", item->record.key),
             LOG_INT("attempt", hold->attempts), LOG_INT("delay_ms", hold->delay_ms),
             LOG_STRING("error", item->error.text));
    metric_add(dispatch->meters.retry, 1);
    consumer_hold(dispatch->consumer, &item->record, hold->delay_ms);
}

static enum outcome batch_try(struct dispatch *dispatch, struct item *items, size_t count,
                              struct error *error)
{
    struct work *work = dispatch->work;
    enum outcome outcome = work_begin(work, error);
    if (outcome != OK)
        return outcome;
    dispatch->context.now_us = clock_wall_us();
    dispatch->held_count = 0;
    if (lanes_wants_load(dispatch->lanes))
        lanes_load(dispatch->lanes, work, dispatch->context.now_us);
    relay_turn(dispatch->relay, work);

    for (size_t i = 0; i < count; i++) {
        items[i].state = ITEM_OPEN;
        if (items[i].door == DOOR_RECORD) {
            bool refused = items[i].reject;
            struct error why;
            if (refused)
                why = items[i].error;
            outcome = item_decode(dispatch, &items[i], error);
            if (outcome != OK)
                goto failed;
            if (refused) {
                items[i].reject = true;
                items[i].error = why;
            }
        }
    }
    FAULT(dispatch_before_handle);
    for (size_t i = 0; i < count; i++)
        item_keys(dispatch, &items[i]);
    outcome = work_read(work, error);
    if (outcome != OK)
        goto failed;

    for (size_t i = 0; i < count; i++) {
        outcome = item_handle(dispatch, &items[i], error);
        if (outcome != OK)
            goto failed;
    }
    lanes_begin(dispatch->lanes, work, dispatch->context.now_us);
    FAULT(dispatch_before_commit);
    outcome = work_commit(work, error);
    if (outcome == OK)
        return OK;
failed:
    work_rollback(work);
    relay_rolled_back(dispatch->relay);
    lanes_rolled_back(dispatch->lanes);
    return outcome;
}

static void log_dead(const struct item *item)
{
    log_warn("dlq", "a record that cannot succeed is now a dead letter",
             LOG_TEXT("topic", item->record.topic), LOG_INT("partition", item->record.partition),
             LOG_INT("offset", item->record.offset), LOG_TEXT("key", item->record.key),
             LOG_STRING("error", item->error.text));
}

/* After the commit: a record goes to where its state says. True: its offset may go. */
static bool record_let_go(struct dispatch *dispatch, struct item *item, double seconds)
{
    struct meters *meters = &dispatch->meters;
    enum topic_id topic = dispatch->topic_ids[item->record.topic_index];
    switch (item->state) {
    case ITEM_STALE:
        consumer_drop(dispatch->consumer, &item->record, 1);
        return false;
    case ITEM_HELD:
        metric_add(meters->events[topic][METER_RETRY], 1);
        hold(dispatch, item);
        return false;
    case ITEM_REJECTED:
        FAULT(dlq_after_commit);
        log_dead(item);
        metric_add(meters->dlq_reject, 1);
        break;
    case ITEM_OPEN:
    case ITEM_DONE:
        if (item->meter == METER_DUPLICATE)
            metric_add(meters->duplicates, 1);
        break;
    }
    metric_add(meters->events[topic][item->meter], 1);
    metric_observe(meters->handle_seconds, seconds);
    return true;
}

/* After the commit: each to where it goes. */
void batch_let_go(struct dispatch *dispatch, struct item *items, size_t count, int64_t since_us)
{
    const struct outbox_row *rows;
    size_t row_count = outbox_added(dispatch->work, &rows), done_count = 0;
    double seconds = (double)(clock_monotonic_us() - since_us) / 1e6;

    FAULT(dispatch_after_commit);
    relay_committed(dispatch->relay, rows, row_count);
    lanes_committed(dispatch->lanes);
    for (size_t i = 0; i < count; i++) {
        struct item *item = &items[i];
        switch (item->door) {
        case DOOR_REQUEST:
            FAULT(accept_after_commit);
            dispatch->settings.answer(item->request.exchange, &item->answer);
            break;
        case DOOR_ANSWER:
            lane_answer_free(item->lane_answer);
            break;
        case DOOR_RECORD:
            if (record_let_go(dispatch, item, seconds))
                dispatch->records[done_count++] = item->record;
            break;
        }
    }
    if (done_count)
        consumer_done(dispatch->consumer, dispatch->records, done_count);
    if (count)
        metric_observe(dispatch->meters.batch_items, (double)count);
}

/* The store or a dependency is away: nothing is let go. Records come again after a hold, answers too,
 * requests get 503. */
void batch_put_back(struct dispatch *dispatch, struct item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct item *item = &items[i];
        switch (item->door) {
        case DOOR_RECORD:
            if (consumer_owns(dispatch->consumer, &item->record))
                consumer_hold(dispatch->consumer, &item->record, dispatch->outage_ms);
            else
                consumer_drop(dispatch->consumer, &item->record, 1);
            break;
        case DOOR_REQUEST: {
            char body[ERROR_TEXT_BYTES_MAX + 128];
            struct answer answer = {.status = 503, .retry_after_s = 1};
            snprintf(body, sizeof(body),
                     "{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,"
                     "\"detail\":\"the service's database or another part is away; nothing was changed\"}");
            answer.body = text_of(body);
            dispatch->settings.answer(item->request.exchange, &answer);
            break;
        }
        case DOOR_ANSWER:
            lanes_return(dispatch->lanes, item->lane_answer);
            break;
        }
    }
}

void batch_run(struct dispatch *dispatch, struct item *items, size_t count)
{
    struct error error;
    int64_t since_us = clock_monotonic_us();
    enum outcome outcome = batch_try(dispatch, items, count, &error);
    if (outcome == OK) {
        outage_end(dispatch);
        batch_let_go(dispatch, items, count, since_us);
        return;
    }
    if ((outcome == REJECT || outcome == RETRY) && count > 1) {
        /* One of them does not fit the data, or all together do not fit the memory: each for itself. */
        for (size_t i = 0; i < count; i++)
            batch_run(dispatch, &items[i], 1);
        return;
    }
    if (outcome == REJECT && count == 1 && !items[0].reject) {
        items[0].reject = true;
        items[0].error = error;
        batch_run(dispatch, items, 1);
        return;
    }
    if (outcome == FATAL)
        give_up(dispatch, &error);
    outage_begin(dispatch, &error);
    batch_put_back(dispatch, items, count);
}

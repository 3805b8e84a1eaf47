/* batch: from the doors to the commit, and what follows from it. */
#include "flow/loop.h"

#include "base/clock.h"
#include "base/fault.h"
#include "store/outbox.h"

#include <stdio.h>

void batch_hold(struct dispatch *dispatch, struct item *item, enum hold_reason reason)
{
    dispatch->held[dispatch->held_count++] = (struct held){item->record.topic_index, item->record.partition};
    item->state = ITEM_HELD;
    item->hold = reason;
}

bool batch_holds(const struct dispatch *dispatch, const struct record *record)
{
    for (size_t i = 0; i < dispatch->held_count; i++)
        if (dispatch->held[i].topic_index == record->topic_index &&
            dispatch->held[i].partition == record->partition)
            return true;
    return false;
}

/* Said once a while: what waits comes here again and again. */
static void hold_say(struct dispatch *dispatch, const struct item *item, const char *station, const char *why)
{
    int64_t now_us = clock_monotonic_us(), *said_us = &dispatch->hold_said_us[item->hold];
    if (*said_us && now_us < *said_us + HOLD_SAID_MS * INT64_C(1000))
        return;
    *said_us = now_us;
    log_warn(station, why, LOG_TEXT("topic", item->record.topic),
             LOG_INT("partition", item->record.partition), LOG_INT("offset", item->record.offset),
             LOG_TEXT("key", item->record.key), LOG_INT("held_keys", dispatch->room.keys),
             LOG_INT("waiting", dispatch->room.records), LOG_STRING("error", item->error.text));
}

/* After the commit: the partition comes again from this record on. */
static void hold(struct dispatch *dispatch, struct item *item)
{
    int64_t delay_ms = 0;
    switch (item->hold) {
    case HOLD_NOT_DUE:
        delay_ms = (item->due_us - clock_wall_us() + 999) / 1000;
        break;
    case HOLD_ROOM_FULL:
        delay_ms = HOLD_FULL_MS;
        room_full_begin(dispatch);
        hold_say(dispatch, item, "waiting",
                 "the waiting room is full (WAITING_MAX): partitions with records of held keys wait");
        break;
    case HOLD_KEYS_FULL:
        delay_ms = HOLD_FULL_MS;
        room_full_begin(dispatch);
        hold_say(dispatch, item, "waiting",
                 "too many keys wait (WAITING_KEYS_MAX): a record failed, and its partition waits with it");
        break;
    case HOLD_SCHEMA:
        delay_ms = HOLD_SCHEMA_MS;
        schema_wait_begin(dispatch, &item->error);
        hold_say(dispatch, item, "decode", "a record's schema cannot be had now: its partition waits");
        break;
    case HOLD_FLOOD: /* all partitions are paused */
    case HOLD_REASONS:
        break;
    }
    consumer_hold(dispatch->consumer, &item->record, delay_ms > 0 ? delay_ms : 0);
}

/* *ret_count: with dispatch->waiters, how many to look for in the waiting room, and then how many there were;
 * else how many items there are. */
static enum outcome batch_try(struct dispatch *dispatch, struct item *items, size_t *ret_count,
                              struct error *error)
{
    struct work *work = dispatch->work;
    enum outcome outcome = work_begin(work, error);
    if (outcome != OK)
        return outcome;
    dispatch->context.now_us = clock_wall_us();
    dispatch->held_count = 0;
    dispatch->trip = false;
    dispatch->batch_handled = dispatch->batch_rejected = 0;
    if (items == dispatch->waiters && *ret_count)
        *ret_count = waiters_find(dispatch, *ret_count);
    size_t count = dispatch->batch_items = *ret_count;
    if (lanes_wants_load(dispatch->lanes))
        lanes_load(dispatch->lanes, work, dispatch->context.now_us);
    relay_turn(dispatch->relay, work);

    for (size_t i = 0; i < count; i++) {
        if (items[i].door != DOOR_RECORD && items[i].door != DOOR_WAITING)
            continue;
        crash_enter(dispatch->crash, &items[i].record);
        outcome = item_decode(dispatch, &items[i], error);
        crash_leave(dispatch->crash);
        dispatch->outage_of_handler |= outcome == OUTAGE;
        if (outcome != OK)
            goto failed;
    }
    FAULT(dispatch_before_handle);
    waiting_ask(&dispatch->room, work);
    for (size_t i = 0; i < count; i++)
        item_keys(dispatch, &items[i]);
    outcome = work_read(work, error);
    if (outcome == OK && waiting_answered(&dispatch->room, work)) {
        for (size_t i = 0; i < count; i++)
            item_want_held(dispatch, &items[i]);
        outcome = work_read(work, error);
    }
    if (outcome != OK)
        goto failed;
    relay_send(dispatch->relay); /* where nothing was waited for: a handler may take its time */

    for (size_t i = 0; i < count && outcome == OK; i++)
        outcome = item_handle(dispatch, &items[i], error);
    log_trace(TEXT(""));
    if (outcome != OK)
        goto failed;
    lanes_begin(dispatch->lanes, work, dispatch->context.now_us);
    FAULT(dispatch_before_commit);
    outcome = work_commit(work, error);
    if (outcome == OK)
        return OK;
failed:
    batch_rolled_back(dispatch);
    return outcome;
}

void batch_rolled_back(struct dispatch *dispatch)
{
    work_rollback(dispatch->work);
    relay_rolled_back(dispatch->relay);
    lanes_rolled_back(dispatch->lanes);
    waiting_rolled_back(&dispatch->room);
    crash_rolled_back(dispatch->crash);
}

static bool comes_again(const struct item *item)
{
    return item->state == ITEM_STALE || item->state == ITEM_HELD;
}

/* After the offsets of the others: a partition is read again from the lowest that is not done. */
static void give_back(struct dispatch *dispatch, struct item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (items[i].door != DOOR_RECORD)
            continue;
        if (items[i].state == ITEM_STALE)
            consumer_drop(dispatch->consumer, &items[i].record, 1);
        else if (items[i].state == ITEM_HELD)
            hold(dispatch, &items[i]);
    }
}

/* After the commit: a record goes to where its state says. True: its offset may go. */
static bool record_let_go(struct dispatch *dispatch, struct item *item, double seconds)
{
    struct meters *meters = &dispatch->meters;
    if (item->state == ITEM_RETRIED)
        FAULT(retry_after_commit);
    if (item->state == ITEM_REJECTED)
        FAULT(dlq_after_commit);
    if (item->state != ITEM_DONE) {
        trace_tell(item);
        route_tell(dispatch, item);
        log_trace(TEXT(""));
    }
    if (dispatch->context.spans)
        trace_let_go(dispatch, item, clock_wall_us() - (int64_t)(seconds * 1e6));
    if (item->state == ITEM_WAITS) /* it is counted when it is handled */
        return true;
    if (item->state == ITEM_DONE && item->meter == METER_DUPLICATE)
        metric_add(meters->duplicates, 1);
    if (item->topic < TOPIC_COUNT && dispatch->reads[item->topic])
        metric_add(meters->events[item->topic][item->meter], 1);
    metric_observe(meters->handle_seconds, seconds);
    return item->door == DOOR_RECORD;
}

/* After the commit: each to where it goes. */
void batch_let_go(struct dispatch *dispatch, struct item *items, size_t count, int64_t since_us)
{
    size_t done_count = 0, again = 0, handled = 0, rejected = 0;
    const struct error *rejection = NULL;
    double seconds = (double)(clock_monotonic_us() - since_us) / 1e6;

    FAULT(dispatch_after_commit);
    relay_committed(dispatch->relay, dispatch->work);
    if (!dispatch->spare)
        relay_send(dispatch->relay);
    metric_add(dispatch->meters.outbox_refused, (int64_t)relay_set_aside(dispatch->relay));
    lanes_committed(dispatch->lanes);
    waiting_committed(&dispatch->room);
    crash_committed(dispatch->crash);
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
        case DOOR_WAITING:
            handled += item->state == ITEM_DONE || item->state == ITEM_RETRIED;
            rejected += item->state == ITEM_REJECTED;
            if (item->error.outcome == REJECT)
                rejection = &item->error;
            again += comes_again(item);
            if (!comes_again(item) && record_let_go(dispatch, item, seconds))
                dispatch->records[done_count++] = item->record;
            break;
        }
    }
    if (done_count)
        consumer_done(dispatch->consumer, dispatch->records, done_count);
    if (again)
        give_back(dispatch, items, count);
    if (count)
        metric_observe(dispatch->meters.batch_items, (double)count);
    if (handled || rejected)
        flood_count(&dispatch->flood, handled, rejected, clock_monotonic_us());
    if (dispatch->trip)
        flood_begin(dispatch, rejection);
    if (dispatch->spare) { /* the rows of this one are sent while the next one waits for the database */
        struct work *work = dispatch->work;
        dispatch->work = dispatch->spare;
        dispatch->spare = work;
    }
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
        case DOOR_WAITING: /* it is in the room */
            break;
        }
    }
}

static void batch_failed(struct dispatch *dispatch, struct item *items, size_t count,
                         const struct error *error)
{
    if (error->outcome == FATAL)
        give_up(dispatch, error);
    outage_begin(dispatch, error);
    batch_put_back(dispatch, items, count);
}

/* A batch that lost a race is run again, and not for ever. */
static bool raced(struct dispatch *dispatch, enum outcome outcome, const struct error *error)
{
    bool race = outcome != OK && store_raced(error);
    dispatch->races = race ? dispatch->races + 1 : 0;
    return race && dispatch->races <= BATCH_RACES_MAX;
}

void batch_run(struct dispatch *dispatch, struct item *items, size_t count)
{
    struct error error;
    int64_t since_us = clock_monotonic_us();
    enum outcome outcome = batch_try(dispatch, items, &count, &error);
    if (raced(dispatch, outcome, &error)) {
        batch_run(dispatch, items, count);
        return;
    }
    if (outcome == OK) {
        outage_passed(dispatch, items, count);
        batch_let_go(dispatch, items, count, since_us);
        return;
    }
    if ((outcome == REJECT || outcome == RETRY) && count > 1) {
        /* One of them does not fit the data, or all together do not fit the memory: each for itself. */
        for (size_t i = 0; i < count; i++) {
            if (dispatch->outage_until_us > clock_monotonic_us()) { /* one of them has met an outage */
                batch_put_back(dispatch, &items[i], count - i);
                return;
            }
            batch_run(dispatch, &items[i], 1);
        }
        return;
    }
    if (outcome == REJECT && count == 1 && !items[0].refused) {
        items[0].refused = true;
        items[0].class = FAILED_REJECT;
        items[0].error = error;
        batch_run(dispatch, items, 1);
        return;
    }
    batch_failed(dispatch, items, count, &error);
}

void batch_run_waiters(struct dispatch *dispatch)
{
    struct error error;
    size_t count = dispatch->waiters_max;
    int64_t since_us = clock_monotonic_us();
    enum outcome outcome = batch_try(dispatch, dispatch->waiters, &count, &error);
    if (outcome == REJECT && dispatch->waiters_max == 1) {
        /* At once, so that it is this one that is found again, and no other. */
        dispatch->waiters_refused = true;
        dispatch->waiters_error = error;
        outcome = batch_try(dispatch, dispatch->waiters, &count, &error);
        dispatch->waiters_refused = false;
    }
    if (outcome == OK) {
        outage_passed(dispatch, dispatch->waiters, count);
        batch_let_go(dispatch, dispatch->waiters, count, since_us);
        if (dispatch->waiters_max < WAITERS_MAX)
            dispatch->waiters_max++;
        return;
    }
    if (raced(dispatch, outcome, &error))
        return; /* found again, or by another */
    if ((outcome == REJECT || outcome == RETRY) && dispatch->waiters_max > 1) {
        dispatch->waiters_max = 1; /* found again, each for itself */
        return;
    }
    batch_failed(dispatch, dispatch->waiters, 0, &error);
}

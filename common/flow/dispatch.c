/*
 * The loop's turn, top down: dispatch_run() at the end of the file reads as the list of its duties; batch_try() above it is a
 * batch's way from the doors to the commit; batch_let_go() is what follows from the commit.
 */
#include "flow/dispatch.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "flow/context.h"
#include "flow/decode.h"
#include "flow/dlq.h"
#include "flow/meters.h"
#include "flow/relay.h"
#include "flow/requests.h"
#include "store/inbox.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    TICKS_MAX = 16,
    HOLDS_MAX = 1024, /* partitions whose backoff is remembered */
    PRUNE_INTERVAL_MS = 10000,
    INBOX_PRUNE_MAX = 2000,
    DRAIN_STEP_MS = 10,
};

const struct setting flow_settings[] = {
    {"BATCH_COUNT_MAX", SETTING_INT, "1000", 1, 10000, NULL, "Items in one transaction at most."},
    {"INBOX_AGE", SETTING_DURATION, "14d", 60 * 1000, INT64_C(10) * 365 * 86400 * 1000, NULL,
     "How long the ids of handled events are kept; longer than any topic's retention."},
    SETTINGS_END,
};

const struct rows_table *const flow_tables[] = {&calls_table, &idempotency_table, NULL};

enum door { DOOR_RECORD, DOOR_REQUEST, DOOR_ANSWER };

enum item_state {
    ITEM_OPEN,      /* to be handled                                                        */
    ITEM_DONE,      /* it took effect (or needs none: passed, duplicate); let go after commit */
    ITEM_REJECTED,  /* its dead letter is in the outbox; let go after commit                */
    ITEM_HELD,      /* failed for now: after commit its partition is held from it on         */
    ITEM_STALE,     /* behind a held one, or taken away by a rebalance: it comes again       */
};

/* One thing to be handled in a batch. */
struct item {
    enum door door;
    enum item_state state;
    enum meter_outcome meter;
    bool reject;        /* a constraint refused it: straight to the dead letters */
    struct error error; /* why it was rejected or held */
    /* DOOR_RECORD */
    struct record record;
    struct decoded decoded;
    struct inbox_note *note;
    /* DOOR_REQUEST */
    struct waiting_request request;
    struct answer answer;
    /* DOOR_ANSWER */
    struct lane_answer *lane_answer;
};

struct dispatch {
    struct dispatch_settings settings;
    struct context context;
    struct work *work;
    struct relay *relay;
    struct lanes *lanes;
    struct consumer *consumer;
    struct decode decode;
    struct meters meters;
    struct requests requests;
    const char **topics; /* NULL ended */
    enum topic_id topic_ids[TOPIC_COUNT]; /* by the consumer's index */
    bool reads[TOPIC_COUNT];
    size_t batch_count_max;
    int64_t inbox_age_us;

    /* the batch in hand */
    struct item *items;
    size_t count;
    struct record *records; /* room for consumer_take() */
    struct held {
        int topic_index;
        int32_t partition;
    } *held; /* partitions that a record of this batch stopped */
    size_t held_count;

    int64_t tick_due_us[TICKS_MAX];
    int64_t prune_due_us;
    int64_t settle_due_us; /* monotonic; 0: nothing to settle */

    /* backoff */
    int64_t outage_ms;
    int64_t outage_until_us; /* monotonic: nothing is taken before */
    struct hold {
        int topic_index;
        int32_t partition;
        int64_t offset;
        int64_t delay_ms;
        int attempts;
    } holds[HOLDS_MAX];
    size_t hold_count;

    /* shared */
    int wake_fd;
    atomic_bool woken;
    atomic_bool stopping;
    atomic_bool in_outage;
    char outage_reason[ERROR_TEXT_BYTES_MAX]; /* written before in_outage is set */
    bool fatal;
    struct error fatal_error;
};

/* ---- waking */

static void wake(void *owner)
{
    struct dispatch *dispatch = owner;
    if (!atomic_exchange(&dispatch->woken, true)) {
        uint64_t one = 1;
        ssize_t written = write(dispatch->wake_fd, &one, sizeof(one));
        (void)written; /* only fails when it is set already */
    }
}

static void wait_for(struct dispatch *dispatch, int64_t wait_ms)
{
    struct pollfd wait = {.fd = dispatch->wake_fd, .events = POLLIN};
    if (poll(&wait, 1, wait_ms > 60000 ? 60000 : (int)wait_ms) > 0) {
        uint64_t count;
        ssize_t got = read(dispatch->wake_fd, &count, sizeof(count));
        (void)got;
    }
    /* Cleared before anything is looked at: what comes after wakes again. */
    atomic_store(&dispatch->woken, false);
}

/* ---- failures */

static void give_up(struct dispatch *dispatch, const struct error *error)
{
    if (dispatch->fatal)
        return;
    dispatch->fatal = true;
    dispatch->fatal_error = *error;
    log_error("dispatch", "cannot go on: draining", LOG_STRING("error", error->text));
}

/* The store, or what a handler needs, is away: nothing is taken for a while. Said once, not once a try. */
static void outage_begin(struct dispatch *dispatch, const struct error *error)
{
    if (!dispatch->outage_ms) {
        log_error("dispatch", "outage: paused until it is over; nothing is lost", LOG_STRING("error", error->text));
        snprintf(dispatch->outage_reason, sizeof(dispatch->outage_reason), "%s", error->text);
        atomic_store(&dispatch->in_outage, true);
        consumer_pause(dispatch->consumer, PAUSE_OUTAGE);
    }
    dispatch->outage_ms = dispatch->outage_ms ? dispatch->outage_ms * 2 : DISPATCH_OUTAGE_MS_MIN;
    if (dispatch->outage_ms > DISPATCH_OUTAGE_MS_MAX)
        dispatch->outage_ms = DISPATCH_OUTAGE_MS_MAX;
    dispatch->outage_until_us = clock_monotonic_us() + dispatch->outage_ms * 1000;
}

static void outage_end(struct dispatch *dispatch)
{
    if (!dispatch->outage_ms)
        return;
    dispatch->outage_ms = 0;
    dispatch->outage_until_us = 0;
    atomic_store(&dispatch->in_outage, false);
    consumer_resume(dispatch->consumer, PAUSE_OUTAGE);
    log_info("dispatch", "outage is over", LOG_STRING("was", dispatch->outage_reason));
}

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

/* In the batch: the later records of the partition are left alone. */
static void hold_in_batch(struct dispatch *dispatch, struct item *item)
{
    dispatch->held[dispatch->held_count++] = (struct held){item->record.topic_index, item->record.partition};
    item->state = ITEM_HELD;
}

static bool is_held_in_batch(const struct dispatch *dispatch, const struct record *record)
{
    for (size_t i = 0; i < dispatch->held_count; i++)
        if (dispatch->held[i].topic_index == record->topic_index && dispatch->held[i].partition == record->partition)
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
    log_warn("retry", "a record failed; its partition waits and tries it again", LOG_TEXT("topic", item->record.topic),
             LOG_INT("partition", item->record.partition), LOG_INT("offset", item->record.offset),
             LOG_TEXT("key", item->record.key), LOG_INT("attempt", hold->attempts), LOG_INT("delay_ms", hold->delay_ms),
             LOG_STRING("error", item->error.text));
    metric_add(dispatch->meters.retry, 1);
    consumer_hold(dispatch->consumer, &item->record, hold->delay_ms);
}

/* ---- a batch: read */

/* What a record is, before anything is read. Sets the item's state where there is nothing to handle. */
static enum outcome item_decode(struct dispatch *dispatch, struct item *item, struct error *error)
{
    struct arena *arena = work_arena(dispatch->work);
    item->decoded = (struct decoded){0};
    item->note = NULL;
    enum outcome outcome = decode_record(&dispatch->decode, &item->record, arena, &item->decoded, &item->error);
    if (outcome == OUTAGE || outcome == FATAL) {
        *error = item->error;
        return outcome;
    }
    if (outcome == OK && !item->decoded.subscription) {
        item->state = ITEM_DONE;
        item->meter = METER_PASSED;
        return OK;
    }
    struct inbox_note *note = arena_take_zeroed(arena, sizeof(*note));
    if (!note)
        return error_outage(error, "memory", "the batch is too large for its memory");
    note->attempt = 1;
    if (outcome == OK) {
        note->id = item->decoded.event.id;
    } else { /* RETRY for want of memory is as good as a record that is too large */
        item->reject = true;
        item->meter = METER_INVALID;
        note->id = decode_origin_id(item->record.topic, item->record.partition, item->record.offset);
    }
    item->note = note;
    return OK;
}

static void item_keys(struct dispatch *dispatch, struct item *item)
{
    struct work *work = dispatch->work;
    switch (item->door) {
    case DOOR_RECORD:
        if (item->note)
            inbox_note(work, item->note, 1);
        if (item->note && !item->reject && item->decoded.subscription->keys)
            item->decoded.subscription->keys(work, &item->decoded.event);
        break;
    case DOOR_REQUEST:
        idempotency_keys(work, item->request.request);
        if (item->request.request->route->keys)
            item->request.request->route->keys(work, item->request.request);
        break;
    case DOOR_ANSWER:
        lane_answer_keys(item->lane_answer, work);
        break;
    }
}

/* ---- a batch: handle */

static void item_reject(struct dispatch *dispatch, struct item *item)
{
    const struct dlq_reason reason = {
        .class = "REJECT",
        .error = &item->error,
        .attempt = item->note->attempt,
        .first_failed_us = dispatch->context.now_us,
    };
    dlq_move(dispatch->work, dispatch->settings.service, dispatch->settings.group_id, &item->record, item->decoded.headers,
             item->decoded.header_count, &reason);
    inbox_moved(dispatch->work, item->note);
    item->state = ITEM_REJECTED;
    if (item->meter != METER_INVALID)
        item->meter = METER_REJECT;
}

/* OK: the item's state is set. OUTAGE, FATAL: the batch cannot go on. */
static enum outcome item_handle_record(struct dispatch *dispatch, struct item *item, struct error *error)
{
    struct work *work = dispatch->work;
    if (is_held_in_batch(dispatch, &item->record) || !consumer_owns(dispatch->consumer, &item->record)) {
        if (item->note && !item->note->seen)
            inbox_forget(work, item->note);
        item->state = ITEM_STALE;
        return OK;
    }
    if (item->state != ITEM_OPEN)
        return OK;
    if (item->note->seen) {
        item->state = ITEM_DONE;
        item->meter = METER_DUPLICATE;
        return OK;
    }
    if (item->reject) {
        item_reject(dispatch, item);
        return work_failed(work, error) == OK ? OK : OUTAGE;
    }
    const struct event *event = &item->decoded.event;
    context_enter(&dispatch->context, event->id, event->traceparent);
    enum outcome outcome = item->decoded.subscription->handle(work, event, &item->error);
    if (work_failed(work, &item->error) != OK)
        outcome = item->error.outcome;
    if (outcome == OK) {
        item->state = ITEM_DONE;
        item->meter = METER_OK;
        return OK;
    }
    work_item_undo(work);
    lanes_item_undo(dispatch->lanes);
    if (work_failed(work, error) != OK)
        return OUTAGE;
    switch (outcome) {
    case REJECT:
        item_reject(dispatch, item);
        return work_failed(work, error) == OK ? OK : OUTAGE;
    case RETRY:
        inbox_forget(work, item->note);
        hold_in_batch(dispatch, item);
        return OK;
    case OUTAGE:
    case FATAL:
    case OK:
        break;
    }
    *error = item->error;
    return outcome == FATAL ? FATAL : OUTAGE;
}

static void answer_unavailable(struct work *work, struct answer *answer, const char *why)
{
    answer_problem(work, answer, 503, "%s", why);
    answer->retry_after_s = 1;
}

static enum outcome item_handle_request(struct dispatch *dispatch, struct item *item, struct error *error)
{
    struct work *work = dispatch->work;
    const struct request *request = item->request.request;
    struct answer *answer = &item->answer;
    *answer = (struct answer){0};
    item->state = ITEM_DONE;
    context_enter(&dispatch->context, request->id, request->traceparent);

    if (idempotency_answered(work, request, answer))
        return work_failed(work, error) == OK ? OK : OUTAGE;
    const struct outbox_row *added;
    if (request->route->backlog &&
        outbox_rows(dispatch->settings.store) + (int64_t)outbox_added(work, &added) >= dispatch->settings.backlog_max) {
        answer_unavailable(work, answer, "too many orders wait to be sent to Kafka; try again later");
        return OK;
    }
    enum outcome outcome = item->reject ? REJECT : request->route->handle(work, request, answer, &item->error);
    if (work_failed(work, &item->error) != OK)
        outcome = item->error.outcome;
    if (outcome == OK) {
        assert(answer->status);
        idempotency_keep(work, request, answer);
        return work_failed(work, error) == OK ? OK : OUTAGE;
    }
    work_item_undo(work);
    lanes_item_undo(dispatch->lanes);
    if (work_failed(work, error) != OK)
        return OUTAGE;
    if (outcome == FATAL) {
        *error = item->error;
        return FATAL;
    }
    if (outcome == REJECT)
        answer_problem(work, answer, 422, "%s", item->error.text);
    else
        answer_unavailable(work, answer, item->error.text);
    return OK;
}

static enum outcome item_handle(struct dispatch *dispatch, struct item *item, struct error *error)
{
    work_item_begin(dispatch->work);
    lanes_item_begin(dispatch->lanes);
    switch (item->door) {
    case DOOR_RECORD:
        return item_handle_record(dispatch, item, error);
    case DOOR_REQUEST:
        return item_handle_request(dispatch, item, error);
    case DOOR_ANSWER: {
        const struct call *call = lane_answer_call(item->lane_answer);
        item->state = ITEM_DONE;
        context_enter(&dispatch->context, call->id, call->traceparent);
        return lane_answer_handle(dispatch->lanes, item->lane_answer, dispatch->work, dispatch->context.now_us, error);
    }
    }
    return OK;
}

/* ---- a batch: from its doors to its commit */

static enum outcome batch_try(struct dispatch *dispatch, struct item *items, size_t count, struct error *error)
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
            struct error why = items[i].error;
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
    log_warn("dlq", "a record that cannot succeed is now a dead letter", LOG_TEXT("topic", item->record.topic),
             LOG_INT("partition", item->record.partition), LOG_INT("offset", item->record.offset),
             LOG_TEXT("key", item->record.key), LOG_STRING("error", item->error.text));
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
static void batch_let_go(struct dispatch *dispatch, struct item *items, size_t count, int64_t since_us)
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

/* The store or a dependency is away: nothing is let go. Records come again after a hold, answers too, requests get 503. */
static void batch_put_back(struct dispatch *dispatch, struct item *items, size_t count, const struct error *error)
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
            (void)error;
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

static void batch_run(struct dispatch *dispatch, struct item *items, size_t count)
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
    if (outcome == REJECT && count == 1 && !items[0].reject && items[0].door != DOOR_ANSWER) {
        items[0].reject = true;
        items[0].error = error;
        batch_run(dispatch, items, 1);
        return;
    }
    if (outcome == FATAL)
        give_up(dispatch, &error);
    outage_begin(dispatch, &error);
    batch_put_back(dispatch, items, count, &error);
}

/* ---- the doors */

static void take(struct dispatch *dispatch)
{
    size_t room = dispatch->batch_count_max;
    dispatch->count = 0;

    struct waiting_request requests[64];
    for (size_t got = 1; got && room > dispatch->batch_count_max / 2;) {
        got = requests_take(&dispatch->requests, requests, room < 64 ? room : 64);
        for (size_t i = 0; i < got; i++)
            dispatch->items[dispatch->count++] = (struct item){.door = DOOR_REQUEST, .request = requests[i]};
        room -= got;
    }
    struct lane_answer *answers[64];
    for (size_t got = 1; got && room > dispatch->batch_count_max / 4;) {
        got = lanes_take(dispatch->lanes, answers, room < 64 ? room : 64);
        for (size_t i = 0; i < got; i++)
            dispatch->items[dispatch->count++] = (struct item){.door = DOOR_ANSWER, .lane_answer = answers[i]};
        room -= got;
    }
    bool backlog = outbox_rows(dispatch->settings.store) >= DISPATCH_OUTBOX_ROWS_MAX;
    if (backlog != !!(consumer_paused(dispatch->consumer) & PAUSE_BACKLOG)) {
        if (backlog)
            consumer_pause(dispatch->consumer, PAUSE_BACKLOG);
        else
            consumer_resume(dispatch->consumer, PAUSE_BACKLOG);
    }
    if (!backlog && !dispatch->fatal && !atomic_load(&dispatch->stopping)) {
        size_t got = consumer_take(dispatch->consumer, dispatch->records, room, DISPATCH_BATCH_BYTES_MAX);
        for (size_t i = 0; i < got; i++)
            dispatch->items[dispatch->count++] = (struct item){.door = DOOR_RECORD, .record = dispatch->records[i]};
    }
}

/* ---- ticks: each in a unit of work of its own, so that what it finds by a condition is exact */

static enum outcome tick_try(struct dispatch *dispatch, const struct tick *tick, bool *ret_again, struct error *error)
{
    struct work *work = dispatch->work;
    enum outcome outcome = work_begin(work, error);
    if (outcome != OK)
        return outcome;
    dispatch->context.now_us = clock_wall_us();
    relay_turn(dispatch->relay, work);
    outcome = work_read(work, error);
    if (outcome == OK) {
        work_item_begin(work);
        lanes_item_begin(dispatch->lanes);
        context_enter(&dispatch->context, id_new(), TEXT(""));
        *ret_again = false;
        if (tick) {
            outcome = tick->handle(work, ret_again, error);
        } else {
            size_t ids = inbox_prune(work, dispatch->context.now_us - dispatch->inbox_age_us, INBOX_PRUNE_MAX);
            size_t keys = idempotency_prune(work, dispatch->context.now_us);
            *ret_again = ids == INBOX_PRUNE_MAX || keys == IDEMPOTENCY_PRUNE_MAX;
        }
        if (outcome == OK)
            outcome = work_failed(work, error);
    }
    if (outcome == OK)
        lanes_begin(dispatch->lanes, work, dispatch->context.now_us);
    if (outcome == OK)
        outcome = work_commit(work, error);
    if (outcome != OK) {
        work_rollback(work);
        relay_rolled_back(dispatch->relay);
        lanes_rolled_back(dispatch->lanes);
    }
    return outcome;
}

static void tick_run(struct dispatch *dispatch, const struct tick *tick, int64_t interval_ms, int64_t *due_us)
{
    struct error error;
    bool again = false;
    enum outcome outcome = tick_try(dispatch, tick, &again, &error);
    int64_t now_us = clock_monotonic_us();
    *due_us = again ? now_us : now_us + interval_ms * 1000;
    if (outcome == OK) {
        batch_let_go(dispatch, NULL, 0, now_us);
    } else if (outcome == FATAL) {
        give_up(dispatch, &error);
    } else if (outcome == OUTAGE) {
        outage_begin(dispatch, &error);
    } else {
        log_error("tick", "a tick failed and comes again", LOG_STRING("tick", tick ? tick->name : "prune"),
                  LOG_STRING("error", error.text));
    }
}

static void ticks(struct dispatch *dispatch)
{
    const struct tick *tick = dispatch->settings.ticks;
    for (size_t i = 0; tick && tick[i].name; i++)
        if (dispatch->tick_due_us[i] <= clock_monotonic_us() && !dispatch->outage_ms)
            tick_run(dispatch, &tick[i], tick[i].interval_ms, &dispatch->tick_due_us[i]);
    if (dispatch->prune_due_us <= clock_monotonic_us() && !dispatch->outage_ms)
        tick_run(dispatch, NULL, PRUNE_INTERVAL_MS, &dispatch->prune_due_us);
}

/* ---- the loop */

static void earlier(int64_t *wait_ms, int64_t ms)
{
    if (ms < 0)
        ms = 0;
    if (ms < *wait_ms)
        *wait_ms = ms;
}

/* How long nothing will be due. A wake ends the wait before that. */
static int64_t idle_ms(struct dispatch *dispatch)
{
    int64_t now_us = clock_monotonic_us(), wait_ms = 1000, at_us;
    if (dispatch->outage_until_us)
        return dispatch->outage_until_us > now_us ? (dispatch->outage_until_us - now_us) / 1000 + 1 : 0;
    const struct tick *tick = dispatch->settings.ticks;
    for (size_t i = 0; tick && tick[i].name; i++)
        earlier(&wait_ms, (dispatch->tick_due_us[i] - now_us + 999) / 1000);
    earlier(&wait_ms, (dispatch->prune_due_us - now_us + 999) / 1000);

    int64_t relay_ms = relay_wait_ms(dispatch->relay);
    if (relay_ms == RELAY_SETTLE_MS) { /* counted from when there was first something to settle */
        if (!dispatch->settle_due_us)
            dispatch->settle_due_us = now_us + RELAY_SETTLE_MS * 1000;
        earlier(&wait_ms, (dispatch->settle_due_us - now_us + 999) / 1000);
    } else if (relay_ms >= 0) {
        earlier(&wait_ms, relay_ms);
    }
    int64_t wall_us = clock_wall_us();
    if (lanes_due(dispatch->lanes, wall_us, &at_us) || lanes_wants_load(dispatch->lanes))
        return 0;
    if (at_us)
        earlier(&wait_ms, (at_us - wall_us + 999) / 1000);
    return wait_ms;
}

/* Nothing came through a door, but the relay or a lane has something to do: an empty batch serves them. */
static bool housekeeping_due(struct dispatch *dispatch)
{
    int64_t at_us, relay_ms = relay_wait_ms(dispatch->relay);
    if (relay_ms == 0 || lanes_wants_load(dispatch->lanes) || lanes_due(dispatch->lanes, clock_wall_us(), &at_us))
        return true;
    return relay_ms == RELAY_SETTLE_MS && dispatch->settle_due_us && clock_monotonic_us() >= dispatch->settle_due_us;
}

static void gauges(struct dispatch *dispatch)
{
    struct meters *meters = &dispatch->meters;
    int64_t oldest_us = outbox_oldest_us(dispatch->settings.store);
    unsigned paused = consumer_paused(dispatch->consumer);
    metric_set(meters->outbox_rows, (double)outbox_rows(dispatch->settings.store));
    metric_set(meters->outbox_oldest_seconds, oldest_us ? (double)(clock_wall_us() - oldest_us) / 1e6 : 0);
    metric_set(meters->paused_outage, !!(paused & PAUSE_OUTAGE));
    metric_set(meters->paused_flood, !!(paused & PAUSE_FLOOD));
    metric_set(meters->paused_backlog, !!(paused & PAUSE_BACKLOG));
    metric_set(meters->paused_operator, !!(paused & PAUSE_OPERATOR));
}

static void oldest_of(void *owner, const struct consumer_partition *partition)
{
    int64_t *oldest_ms = owner;
    if (partition->oldest_ms && (*oldest_ms == 0 || partition->oldest_ms < *oldest_ms))
        *oldest_ms = partition->oldest_ms;
}

static void collect(void *owner)
{
    struct dispatch *dispatch = owner;
    int64_t oldest_ms = 0;
    gauges(dispatch);
    consumer_each(dispatch->consumer, oldest_of, &oldest_ms);
    int64_t age_us = oldest_ms ? clock_wall_us() - oldest_ms * 1000 : 0;
    metric_set(dispatch->meters.oldest_unhandled_seconds, age_us > 0 ? (double)age_us / 1e6 : 0);
}

static void turn(struct dispatch *dispatch)
{
    take(dispatch);
    if (dispatch->count || housekeeping_due(dispatch)) {
        dispatch->settle_due_us = 0;
        batch_run(dispatch, dispatch->items, dispatch->count);
    }
    if (!dispatch->outage_ms)
        ticks(dispatch);
}

/* While the store is away requests are answered at once; records and answers wait where they are. */
static void refuse_requests(struct dispatch *dispatch)
{
    struct waiting_request requests[64];
    size_t got;
    while ((got = requests_take(&dispatch->requests, requests, 64)) > 0)
        for (size_t i = 0; i < got; i++) {
            struct item item = {.door = DOOR_REQUEST, .request = requests[i]};
            batch_put_back(dispatch, &item, 1, NULL);
        }
}

/* All that was begun is finished: nothing in the doors, nothing in flight, nothing to delete. */
static bool drained(struct dispatch *dispatch)
{
    int64_t relay_ms = relay_wait_ms(dispatch->relay);
    return dispatch->count == 0 && relay_in_flight(dispatch->relay) == 0 && lanes_in_flight(dispatch->lanes) == 0 &&
           relay_ms < 0;
}

static void drain(struct dispatch *dispatch, int64_t (*drain_left_ms)(void))
{
    log_info("drain", "finishing what is in hand", LOG_INT("left_ms", drain_left_ms()));
    requests_shut(&dispatch->requests);
    consumer_stop(dispatch->consumer);
    lanes_stop(dispatch->lanes);
    FAULT(drain_before_close);
    /* A tenth of the time is kept for closing. */
    for (int64_t keep_ms = drain_left_ms() / 10; drain_left_ms() > keep_ms;) {
        if (dispatch->outage_until_us > clock_monotonic_us()) {
            refuse_requests(dispatch);
            wait_for(dispatch, DRAIN_STEP_MS);
            continue;
        }
        dispatch->settle_due_us = 1; /* at once: there is nothing to wait for any more */
        take(dispatch);
        if (dispatch->count || housekeeping_due(dispatch))
            batch_run(dispatch, dispatch->items, dispatch->count);
        if (drained(dispatch) && !dispatch->outage_ms)
            break;
        if (!relay_connected(dispatch->relay) && lanes_in_flight(dispatch->lanes) == 0 && dispatch->count == 0)
            break; /* what is in the outbox is sent at the next start */
        wait_for(dispatch, DRAIN_STEP_MS);
    }
    refuse_requests(dispatch);
    log_info("drain", "done", LOG_INT("outbox_rows", outbox_rows(dispatch->settings.store)),
             LOG_INT("calls_in_flight", (int64_t)lanes_in_flight(dispatch->lanes)));
}

enum outcome dispatch_run(struct dispatch *dispatch, int64_t (*drain_left_ms)(void), struct error *error)
{
    while (!atomic_load(&dispatch->stopping) && !dispatch->fatal) {
        if (dispatch->outage_until_us > clock_monotonic_us()) {
            refuse_requests(dispatch);
        } else {
            dispatch->outage_until_us = 0;
            turn(dispatch);
            if (dispatch->count)
                continue; /* there may be more already: look before waiting */
        }
        wait_for(dispatch, idle_ms(dispatch));
        const char *fatal = consumer_fatal(dispatch->consumer);
        if (fatal) {
            struct error consumer_error;
            error_set(&consumer_error, FATAL, "consumer", "Kafka: %s", fatal);
            give_up(dispatch, &consumer_error);
        }
    }
    drain(dispatch, drain_left_ms);
    if (dispatch->fatal) {
        *error = dispatch->fatal_error;
        error->outcome = FATAL;
        return FATAL;
    }
    return OK;
}

void dispatch_stop(struct dispatch *dispatch)
{
    atomic_store(&dispatch->stopping, true);
    wake(dispatch);
}

bool dispatch_request(struct dispatch *dispatch, void *exchange, const struct request *request)
{
    bool first;
    if (!requests_put(&dispatch->requests, exchange, request, &first))
        return false;
    if (first)
        wake(dispatch);
    return true;
}

bool dispatch_ready(const struct dispatch *dispatch, char *reason, size_t reason_bytes)
{
    if (atomic_load(&dispatch->stopping)) {
        snprintf(reason, reason_bytes, "draining");
        return false;
    }
    if (atomic_load(&dispatch->in_outage)) {
        snprintf(reason, reason_bytes, "outage: %s", dispatch->outage_reason);
        return false;
    }
    if (!consumer_ready(dispatch->consumer)) {
        snprintf(reason, reason_bytes, "Kafka has not given this member its partitions");
        return false;
    }
    snprintf(reason, reason_bytes, "ready");
    return true;
}

struct consumer *dispatch_consumer(const struct dispatch *dispatch)
{
    return dispatch->consumer;
}

/* ---- open and close */

/* The topics of the subscriptions, each once. */
static enum outcome topics_open(struct dispatch *dispatch, struct error *error)
{
    size_t count = 0;
    dispatch->topics = calloc(TOPIC_COUNT + 1, sizeof(*dispatch->topics));
    if (!dispatch->topics)
        return error_fatal(error, "memory", "dispatch: out of memory");
    for (const struct subscription *s = dispatch->settings.subscriptions; s && s->type; s++)
        dispatch->reads[s->type->topic] = true;
    for (int topic = 0; topic < TOPIC_COUNT; topic++)
        if (dispatch->reads[topic]) {
            dispatch->topic_ids[count] = (enum topic_id)topic;
            dispatch->topics[count++] = topic_get((enum topic_id)topic)->name;
        }
    return OK;
}

enum outcome dispatch_open(const struct dispatch_settings *settings, struct dispatch **ret, struct error *error)
{
    struct dispatch *dispatch = calloc(1, sizeof(*dispatch));
    if (!dispatch)
        return error_fatal(error, "memory", "dispatch: out of memory");
    dispatch->settings = *settings;
    dispatch->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dispatch->batch_count_max = (size_t)config_int(settings->config, "BATCH_COUNT_MAX");
    dispatch->inbox_age_us = config_ms(settings->config, "INBOX_AGE") * 1000;
    dispatch->items = calloc(dispatch->batch_count_max, sizeof(*dispatch->items));
    dispatch->records = calloc(dispatch->batch_count_max, sizeof(*dispatch->records));
    dispatch->held = calloc(dispatch->batch_count_max, sizeof(*dispatch->held));
    dispatch->prune_due_us = clock_monotonic_us() + PRUNE_INTERVAL_MS * 1000;
    dispatch->context = (struct context){
        .service = settings->service,
        .state = settings->state,
        .registry = settings->registry,
        .scratch = buffer_of(CODEC_ENCODED_BYTES_MAX),
    };

    enum outcome outcome = OK;
    if (dispatch->wake_fd < 0 || !dispatch->items || !dispatch->records || !dispatch->held)
        outcome = error_fatal(error, "memory", "dispatch: out of memory or descriptors");
    if (outcome == OK)
        outcome = topics_open(dispatch, error);
    if (outcome == OK)
        outcome = decode_open(&dispatch->decode, settings->subscriptions, settings->registry, error);
    if (outcome == OK)
        outcome = requests_open(&dispatch->requests, DISPATCH_REQUESTS_MAX, error);
    if (outcome == OK)
        outcome = work_new(settings->store, DISPATCH_BATCH_MEMORY_MAX, &dispatch->work, error);
    if (outcome != OK)
        goto out;
    work_set_owner(dispatch->work, &dispatch->context);
    meters_open(&dispatch->meters, settings->metrics, dispatch->reads);

    outcome = lanes_new(settings->lanes, settings->limits, settings->state, settings->net, settings->metrics, wake, dispatch,
                        &dispatch->lanes, error);
    if (outcome != OK)
        goto out;
    dispatch->context.lanes = dispatch->lanes;

    const struct producer_settings producer = {
        .client = settings->client,
        .linger_ms = (int)config_ms(settings->config, "KAFKA_LINGER"),
        .queue_records_max = 100000,
        .queue_kbytes_max = 64 << 10,
    };
    outcome = relay_open(&producer, wake, dispatch, &dispatch->relay, error);
    if (outcome != OK)
        goto out;
    const struct consumer_settings consumer = {
        .client = settings->client,
        .group_id = settings->group_id,
        .topics = dispatch->topics,
        .queue_records_max = 20000,
        .queue_bytes_max = 32 << 20,
        .commit_interval_ms = 200,
        .revoke_wait_ms = 5000,
        .wake = wake,
        .wake_owner = dispatch,
    };
    outcome = consumer_open(&consumer, &dispatch->consumer, error);
    if (outcome != OK)
        goto out;
    metrics_on_collect(settings->metrics, collect, dispatch);
    *ret = dispatch;
    return OK;
out:
    dispatch_close(dispatch, 0);
    return outcome;
}

void dispatch_close(struct dispatch *dispatch, int timeout_ms)
{
    if (!dispatch)
        return;
    if (dispatch->consumer)
        consumer_close(dispatch->consumer, timeout_ms / 2);
    relay_close(dispatch->relay, timeout_ms / 2);
    lanes_destroy(dispatch->lanes);
    work_destroy(dispatch->work);
    requests_close(&dispatch->requests);
    buffer_free(&dispatch->context.scratch);
    if (dispatch->wake_fd >= 0)
        close(dispatch->wake_fd);
    free(dispatch->topics);
    free(dispatch->items);
    free(dispatch->records);
    free(dispatch->held);
    free(dispatch);
}

/* item: one thing that came through a door, on its way through a batch. */
#include "flow/loop.h"

#include "store/outbox.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

void item_clear(struct item *item, enum door door)
{
    memset(item, 0, offsetof(struct item, error));
    item->door = door;
    item->error.outcome = OK;
    item->error.exit_code = 0;
    item->error.cause = NULL;
    item->error.text[0] = '\0';
}

void item_suspect(struct item *item, int crashes)
{
    item->crashes = crashes;
    if (crashes < CRASH_ATTEMPTS_MAX)
        return;
    item->refused = true;
    item->class = FAILED_CRASH;
    error_set(&item->error, REJECT, "crash", "the process died %d times while it was handled", crashes);
}

/* A copy on one of our retry topics is what it was where it came from, once it is due. REJECT: it has no
 * origin that can be told. */
static enum outcome from_retry_topic(struct dispatch *dispatch, struct item *item, struct error *error)
{
    struct arena *arena = work_arena(dispatch->work);
    struct origin *origin = arena_take(arena, sizeof(*origin));
    struct record *home = arena_take(arena, sizeof(*home));
    if (!origin || !home)
        return error_retry(error, "memory", "the batch is too large for its memory");
    origin_read(item->headers, item->header_count, origin);
    item->due_us = retry_due_us(&dispatch->retry, item->step, origin, item->record.timestamp_ms);
    if (!retry_believes(&dispatch->retry, item->step, item->due_us, dispatch->context.now_us))
        item->due_us = 0;
    if (origin->kind == ORIGIN_NONE)
        return error_reject(error, "origin", "it does not say where it first was");
    *home = item->record;
    home->topic = origin->topic;
    home->partition = origin->partition;
    home->offset = origin->offset;
    item->home = home;
    item->origin = origin;
    return OK;
}

/* What a copy says of ours beside its record's own headers counts for itself: a record that was taken with as
 * many as it may have comes back with more, and its key would wait for it for ever. One that has too many of
 * its own is a dead letter as it was before, of the same origin, and may be dropped. */
static enum outcome headers_read(struct dispatch *dispatch, struct item *item)
{
    enum outcome outcome = record_headers(&item->record, work_arena(dispatch->work), &item->headers,
                                          &item->header_count, &item->error);
    bool given = outcome == OK || (outcome == REJECT && item->header_count);
    if (!given || (size_t)item->record.topic_index < dispatch->topic_count ||
        !retry_find(&dispatch->retry, item->record.topic, &item->step))
        return outcome;
    enum outcome origin = from_retry_topic(dispatch, item, &item->error);
    if (origin != OK || outcome == OK || !origin_headers_fit(item->headers, item->header_count))
        return origin != OK ? origin : outcome;
    error_set(&item->error, OK, NULL, "%s", "");
    return OK;
}

/* What this process wrote itself and need not decode; false: like any other. Only what is handled may end an
 * outage of a handler. */
static bool own_decode(const struct dispatch *dispatch, struct item *item)
{
    struct id id;
    if (!dispatch->context.own || item->door != DOOR_RECORD || item->refused || item->crashes ||
        (size_t)item->record.topic_index >= dispatch->topic_count || dispatch->outage_of_handler ||
        !own_find(&dispatch->own, item->record.key, item->record.value, &id))
        return false;
    item->note = arena_take_zeroed(work_arena(dispatch->work), sizeof(*item->note));
    if (!item->note)
        return false;
    *item->note = (struct inbox_note){.id = id, .attempt = 1};
    item->topic = TOPIC_COUNT;
    topic_find(item->record.topic, &item->topic);
    return true;
}

enum outcome item_decode(struct dispatch *dispatch, struct item *item, struct error *error)
{
    struct arena *arena = work_arena(dispatch->work);
    enum outcome outcome = OK;
    item->decoded = (struct decoded){0};
    item->state = ITEM_OPEN;
    item->unknown = false;
    item->reject = item->refused;
    item->note = NULL;
    item->trace.start_us = 0;
    item->origin = NULL;
    item->home = &item->record;
    item->due_us = 0;
    item->own = own_decode(dispatch, item);
    if (item->own)
        return OK;
    if (item->door == DOOR_RECORD)
        outcome = headers_read(dispatch, item);
    item->topic = TOPIC_COUNT;
    topic_find(item->home->topic, &item->topic);
    if (outcome == OK)
        outcome =
            decode_record(&dispatch->decode, item->home, item->headers, item->header_count,
                          item->refused ? NULL : arena, &item->decoded, item->refused ? NULL : &item->error);
    if (outcome == OUTAGE && item->door == DOOR_RECORD) {
        item->unknown = true;
        return OK;
    }
    bool too_many = outcome == RETRY && dispatch->batch_items > 1; /* alone it may have room */
    if (outcome == OUTAGE || outcome == FATAL || too_many) {
        *error = item->error;
        return outcome;
    }
    bool dropped = item->origin && item->origin->drop.length; /* it may be a key's head all the same */
    if (outcome == OK && !item->decoded.subscription && !dropped) {
        item->state = ITEM_DONE;
        item->meter = METER_PASSED;
        return OK;
    }
    struct inbox_note *note = arena_take_zeroed(arena, sizeof(*note));
    if (!note)
        return error_retry(error, "memory", "the batch is too large for its memory");
    note->attempt = item->origin ? item->origin->deliveries + 1 : 1;
    if (outcome == OK && item->decoded.subscription) {
        note->id = item->decoded.event.id;
        note->by_effect = item->decoded.subscription->once == ONCE_BY_EFFECT;
    } else { /* RETRY for want of memory is as good as a record that is too large */
        if (!item->refused)
            item->class = FAILED_REJECT;
        item->reject = true;
        item->meter = METER_INVALID;
        note->id = decode_origin_id(item->home->topic, item->home->partition, item->home->offset);
    }
    item->note = note;
    return OK;
}

void item_want_held(struct dispatch *dispatch, struct item *item)
{
    if ((item->door == DOOR_RECORD || item->door == DOOR_WAITING) && item->note &&
        item->decoded.subscription && item->decoded.subscription->ordering == ORDERED)
        waiting_want(&dispatch->room, dispatch->work, item->home->topic, item->home->key);
}

void item_keys(struct dispatch *dispatch, struct item *item)
{
    struct work *work = dispatch->work;
    switch (item->door) {
    case DOOR_RECORD:
    case DOOR_WAITING:
        if (!item->note)
            break;
        inbox_note(work, item->note, 1);
        item_want_held(dispatch, item);
        if (!item->own && !item->reject && item->decoded.subscription->keys)
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

static enum outcome call_handler(struct dispatch *dispatch, struct item *item)
{
    struct work *work = dispatch->work;
    const struct event *event = &item->decoded.event;
    enum outcome outcome = OK;
    trace_enter(dispatch, item);
    crash_enter(dispatch->crash, &item->record);
    if (dispatch->chaos.on)
        outcome = chaos_strike(&dispatch->chaos, event->key, event->id, item->note->attempt,
                               dispatch->context.now_us, &item->error);
    if (outcome == OK)
        outcome = item->decoded.subscription->handle(work, event, &item->error);
    crash_leave(dispatch->crash);
    if (work_failed(work, &item->error) != OK)
        outcome = item->error.outcome;
    return outcome;
}

/* What a handler may find by itself: out of a batch's memory. Alone it is a record like any other. */
static bool for_want_of_memory(const struct dispatch *dispatch, const struct item *item)
{
    return dispatch->batch_items > 1 && item->error.cause && strcmp(item->error.cause, "memory") == 0;
}

static enum outcome handle_record(struct dispatch *dispatch, struct item *item, struct error *error)
{
    struct work *work = dispatch->work;
    if (item->reject) {
        route_reject(dispatch, item, item->class);
        return OK;
    }
    enum outcome outcome = call_handler(dispatch, item);
    if (outcome == OK) {
        route_ok(dispatch, item);
        dispatch->batch_handled++;
        item->state = ITEM_DONE;
        item->meter = dispatch->context.repeated ? METER_DUPLICATE : METER_OK;
        return OK;
    }
    work_item_undo(work);
    lanes_item_undo(dispatch->lanes);
    waiting_item_undo(&dispatch->room);
    if (work_failed(work, error) != OK)
        return OUTAGE;
#ifdef WEIR_MUTANT_OUTAGE_SPENDS_ATTEMPT
    outcome = outcome == OUTAGE ? RETRY : outcome;
#endif
    switch (outcome) {
    case REJECT:
        route_reject(dispatch, item, FAILED_REJECT);
        return OK;
    case RETRY:
        if (for_want_of_memory(dispatch, item))
            break;
        route_retry(dispatch, item);
        return OK;
    case OUTAGE:
    case FATAL:
    case OK:
        break;
    }
    *error = item->error;
    dispatch->outage_of_handler |= outcome == OUTAGE;
    return outcome == FATAL || outcome == RETRY ? outcome : OUTAGE;
}

/* OK: the item's state is set. OUTAGE, FATAL: the batch cannot go on. */
static enum outcome item_handle_record(struct dispatch *dispatch, struct item *item, struct error *error)
{
    struct work *work = dispatch->work;
    if (item->door == DOOR_RECORD &&
        (batch_holds(dispatch, &item->record) || !consumer_owns(dispatch->consumer, &item->record))) {
        if (item->note && !item->note->seen)
            inbox_forget(work, item->note);
        item->state = ITEM_STALE;
        return OK;
    }
    if (item->state != ITEM_OPEN) {
        route_passed(dispatch, item);
        return OK;
    }
    if (item->unknown) {
        batch_hold(dispatch, item, HOLD_SCHEMA);
        return OK;
    }
    if (item->due_us > dispatch->context.now_us) {
        inbox_forget(work, item->note);
        batch_hold(dispatch, item, HOLD_NOT_DUE);
        return OK;
    }
    enum outcome outcome = OK;
    if (item->door == DOOR_RECORD && item->note->seen) {
        item->state = ITEM_DONE;
        item->meter = METER_DUPLICATE;
    } else if (item->own) {
        item->state = ITEM_DONE;
        item->meter = METER_OK;
    } else if (item->origin && item->origin->drop.length) {
        route_drop(dispatch, item);
    } else if (route_behind(dispatch, item)) {
        /* its state is set */
    } else if (item->note->seen) { /* it waited, and had taken effect before */
        route_ok(dispatch, item);
        item->state = ITEM_DONE;
        item->meter = METER_DUPLICATE;
    } else {
        outcome = handle_record(dispatch, item, error);
    }
    if (outcome == OK && work_failed(work, error) != OK)
        outcome = OUTAGE;
    /* In the waiting room it is a suspect still. */
    if (outcome == OK && item->state != ITEM_HELD && item->state != ITEM_STALE && item->state != ITEM_WAITS)
        crash_settled(dispatch->crash, work, &item->record);
    return outcome;
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
        outbox_rows(dispatch->settings.store) + (int64_t)outbox_added(work, &added) >=
            dispatch->settings.backlog_max) {
        answer_unavailable(work, answer, "too many orders wait to be sent to Kafka; try again later");
        return OK;
    }
    enum outcome outcome =
        item->reject ? REJECT : request->route->handle(work, request, answer, &item->error);
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

enum outcome item_handle(struct dispatch *dispatch, struct item *item, struct error *error)
{
    work_item_begin(dispatch->work);
    lanes_item_begin(dispatch->lanes);
    waiting_item_begin(&dispatch->room);
    switch (item->door) {
    case DOOR_RECORD:
    case DOOR_WAITING:
        return item_handle_record(dispatch, item, error);
    case DOOR_REQUEST:
        return item_handle_request(dispatch, item, error);
    case DOOR_ANSWER: {
        const struct call *call = lane_answer_call(item->lane_answer);
        item->state = ITEM_DONE;
        context_enter(&dispatch->context, call->id, call->traceparent);
        if (item->reject) {
            lane_answer_give_up(dispatch->lanes, item->lane_answer, dispatch->work, &item->error);
            return work_failed(dispatch->work, error) == OK ? OK : OUTAGE;
        }
        return lane_answer_handle(dispatch->lanes, item->lane_answer, dispatch->work,
                                  dispatch->context.now_us, error);
    }
    }
    return OK;
}

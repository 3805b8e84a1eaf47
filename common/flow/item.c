/* item: one thing that came through a door, on its way through a batch. */
#include "flow/loop.h"

#include "flow/dlq.h"
#include "store/outbox.h"

#include <assert.h>

enum outcome item_decode(struct dispatch *dispatch, struct item *item, struct error *error)
{
    struct arena *arena = work_arena(dispatch->work);
    item->decoded = (struct decoded){0};
    item->note = NULL;
    enum outcome outcome =
        decode_record(&dispatch->decode, &item->record, arena, &item->decoded, &item->error);
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

void item_keys(struct dispatch *dispatch, struct item *item)
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

static void item_reject(struct dispatch *dispatch, struct item *item)
{
    const struct dlq_reason reason = {
        .class = "REJECT",
        .error = &item->error,
        .attempt = item->note->attempt,
        .first_failed_us = dispatch->context.now_us,
    };
    dlq_move(dispatch->work, dispatch->settings.service, dispatch->settings.group_id, &item->record,
             item->decoded.headers, item->decoded.header_count, &reason);
    inbox_moved(dispatch->work, item->note);
    item->state = ITEM_REJECTED;
    if (item->meter != METER_INVALID)
        item->meter = METER_REJECT;
}

/* OK: the item's state is set. OUTAGE, FATAL: the batch cannot go on. */
static enum outcome item_handle_record(struct dispatch *dispatch, struct item *item, struct error *error)
{
    struct work *work = dispatch->work;
    if (batch_holds(dispatch, &item->record) || !consumer_owns(dispatch->consumer, &item->record)) {
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
        batch_hold(dispatch, item);
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
    switch (item->door) {
    case DOOR_RECORD:
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

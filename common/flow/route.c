/* route: where a record goes that did not simply succeed: a retry topic, the waiting room, the dead letters;
 * and what that means for its key. */
#include "flow/loop.h"

#include "base/clock.h"

#include <assert.h>

/* Records without a key have no order, nor has what its subscription calls unordered, nor what could not be
 * decoded: it holds nobody back. */
static bool ordered(const struct item *item)
{
    return item->decoded.subscription && item->decoded.subscription->ordering == ORDERED &&
           !item->home->key_null;
}

/* Of what waits, and of what people drop, it does not matter whether it can be decoded any more. */
static struct held_key *held_of(struct dispatch *dispatch, const struct item *item)
{
    bool dropped = item->origin && item->origin->drop.length;
    if (!ordered(item) && item->door != DOOR_WAITING && (!dropped || item->home->key_null))
        return NULL;
#ifdef WEIR_MUTANT_ROOM_SKIPPED
    return NULL;
#endif
    return waiting_held(&dispatch->room, dispatch->work, item->home->topic, item->home->key);
}

static bool is_head(const struct held_key *held, const struct item *item)
{
    return memcmp(held->head.bytes, item->note->id.bytes, sizeof(held->head.bytes)) == 0;
}

/* Likewise where it could not be decoded, and its note has the id of its place. */
static bool is_head_by_name(const struct held_key *held, const struct item *item)
{
    const struct header *name = header_find(item->headers, item->header_count, HEADER_ID);
    return name && name->value.length && id_equal(held->head, id_from_text(name->value));
}

/* In the waiting room and to be handled now: its key is being drained. It stands there no longer. */
static void leave_room(struct dispatch *dispatch, struct item *item, struct held_key *held)
{
    if (item->door == DOOR_WAITING && held && item->waiting) {
        waiting_taken(&dispatch->room, dispatch->work, held, item->waiting);
        item->waiting = NULL;
    }
}

bool route_behind(struct dispatch *dispatch, struct item *item)
{
    struct held_key *held = held_of(dispatch, item);
    if (item->door == DOOR_WAITING) {
        /* One before it has failed in this very batch, or must not be rejected now: it goes on waiting. */
        if (held && held->state == HELD_DRAINING && item->waiting && !dispatch->trip)
            return false;
        inbox_forget(dispatch->work, item->note);
        item->state = ITEM_STALE;
        return true;
    }
    if (!held || item->origin)
        return false; /* what comes by a retry topic is a head, or was sent back by people */
    const struct waiting_record record = {
        .topic = item->home->topic,
        .key = item->home->key,
        .partition = item->home->partition,
        .offset = item->home->offset,
        .timestamp_ms = item->home->timestamp_ms,
        .value_null = item->home->value_null,
        .value = item->home->value,
        .since_us = dispatch->context.now_us,
    };
    inbox_forget(dispatch->work, item->note);
    if (waiting_add(&dispatch->room, dispatch->work, held, &record, item->headers, item->header_count)) {
        item->state = ITEM_WAITS;
    } else {
        batch_hold(dispatch, item, HOLD_ROOM_FULL);
    }
    return true;
}

void route_ok(struct dispatch *dispatch, struct item *item)
{
    struct held_key *held = held_of(dispatch, item);
    if (!held)
        return;
    leave_room(dispatch, item, held);
    if (item->door == DOOR_RECORD && held->state != HELD_DRAINING && is_head(held, item))
        waiting_release(&dispatch->room, dispatch->work, held);
}

static struct failure failure_of(const struct dispatch *dispatch, const struct item *item,
                                 enum failure_class class)
{
    const struct origin *origin = item->origin;
    return (struct failure){
        .class = class,
        .error = &item->error,
        .deliveries = item->note->attempt,
        .attempt = origin ? origin->attempt + 1 : 1,
        .first_failed_us =
            origin && origin->first_failed_us ? origin->first_failed_us : dispatch->context.now_us,
    };
}

static void hold_key(struct dispatch *dispatch, struct item *item, struct held_key *held,
                     enum held_state state)
{
    waiting_hold(&dispatch->room, dispatch->work, held, item->home->topic, item->home->key, item->note->id,
                 state, item->note->attempt, state == HELD_RETRYING ? item->due_us : 0,
                 text_of(item->error.text), dispatch->context.now_us);
}

/* One more key cannot be held: its record stays where it is, and is tried again there. Not one that comes by
 * a retry topic: heads of keys that are held lie behind it, and only when they are done there is room again.
 */
static bool keys_full(struct dispatch *dispatch, struct item *item, bool hold)
{
#ifdef WEIR_MUTANT_ROOM_SKIPPED
    hold = false;
#endif
    if (!hold || !ordered(item) || item->door == DOOR_WAITING || item->origin || held_of(dispatch, item) ||
        dispatch->room.keys + dispatch->room.work.keys < dispatch->held_keys_max)
        return false;
    inbox_forget(dispatch->work, item->note);
    batch_hold(dispatch, item, HOLD_KEYS_FULL);
    return true;
}

static void move(struct dispatch *dispatch, struct item *item, const char *topic,
                 const struct failure *failure, int64_t due_us)
{
    copy_move(dispatch->work, &dispatch->copier, topic, item->home, item->headers, item->header_count,
              item->origin, failure, due_us, dispatch->context.now_us);
    inbox_moved(dispatch->work, item->note);
}

/* The head is a dead letter: its key waits for people, or goes on without it. */
static void dead_key(struct dispatch *dispatch, struct item *item, bool hold)
{
    struct held_key *held = held_of(dispatch, item);
    leave_room(dispatch, item, held);
    held = held_of(dispatch, item); /* the last one that waited lets its key go */
#ifdef WEIR_MUTANT_ROOM_SKIPPED
    return;
#endif
    bool mine = !held || item->door == DOOR_WAITING || is_head(held, item);
    if (hold && ordered(item) && mine)
        hold_key(dispatch, item, held, HELD_DEAD);
    else if (held && item->door == DOOR_RECORD && held->state != HELD_DRAINING && is_head(held, item))
        waiting_release(&dispatch->room, dispatch->work, held);
}

void route_retry(struct dispatch *dispatch, struct item *item)
{
    struct failure failure = failure_of(dispatch, item, FAILED_RETRY);
    size_t step;
    if (!retry_next(&dispatch->retry, failure.attempt, &step)) {
        route_reject(dispatch, item, FAILED_RETRY);
        return;
    }
    if (keys_full(dispatch, item, true))
        return;
    item->step = step;
    item->due_us = dispatch->context.now_us + dispatch->retry.delays_ms[step] * 1000;
    move(dispatch, item, dispatch->retry.topics[step], &failure, item->due_us);
    item->state = ITEM_RETRIED;
    item->meter = METER_RETRY;
#ifdef WEIR_MUTANT_ROOM_SKIPPED
    return;
#endif
    struct held_key *held = held_of(dispatch, item);
    leave_room(dispatch, item, held);
    if (!ordered(item))
        return;
    held = held_of(dispatch, item);
    if (!held || item->door == DOOR_WAITING || is_head(held, item))
        hold_key(dispatch, item, held, HELD_RETRYING);
}

void route_reject(struct dispatch *dispatch, struct item *item, enum failure_class class)
{
    char topic[TOPIC_NAME_BYTES_MAX];
    if (!flood_allows(&dispatch->flood, dispatch->batch_handled, dispatch->batch_rejected,
                      clock_monotonic_us())) {
        inbox_forget(dispatch->work, item->note);
        dispatch->trip = true;
        if (item->door == DOOR_WAITING)
            item->state = ITEM_STALE;
        else
            batch_hold(dispatch, item, HOLD_FLOOD);
        return;
    }
    bool hold = class == FAILED_REJECT ? dispatch->hold_rejected : dispatch->hold_used_up;
    if (keys_full(dispatch, item, hold))
        return;
    dispatch->batch_rejected++;
    const struct failure failure = failure_of(dispatch, item, class);
    move(dispatch, item, topic_dlq(dispatch->settings.service, topic), &failure, 0);
    item->class = class;
    item->state = ITEM_REJECTED;
    if (item->meter != METER_INVALID)
        item->meter = METER_REJECT;
    dead_key(dispatch, item, hold);
}

void route_drop(struct dispatch *dispatch, struct item *item)
{
    struct held_key *held = held_of(dispatch, item);
    item->state = ITEM_DROPPED;
    item->meter = METER_PASSED;
    if (held && held->state != HELD_DRAINING && (is_head(held, item) || is_head_by_name(held, item)))
        waiting_release(&dispatch->room, dispatch->work, held);
}

void route_passed(struct dispatch *dispatch, struct item *item)
{
    struct held_key *held = item->door == DOOR_WAITING ? held_of(dispatch, item) : NULL;
    if (held && held->state == HELD_DRAINING)
        leave_room(dispatch, item, held);
}

/* ---- after the commit */

/* One line a record is a flood where every record fails: of each cause the first few, and a number. */
static bool may_tell(struct dispatch *dispatch, struct log_few *few, enum log_level level,
                     const char *station, const char *more, const struct item *item)
{
    char fingerprint[FINGERPRINT_BYTES + 1], cause[256];
    if (!few->station)
        log_few_open(few, level, station, more);
    if (item->state == ITEM_WAITS) {
        snprintf(cause, sizeof(cause), "%.*s", TEXT_ARG(item->home->topic));
    } else {
        copy_fingerprint(dispatch->settings.service, item->class, &item->error, fingerprint);
        snprintf(cause, sizeof(cause), "%.*s %s %s", TEXT_ARG(item->home->topic),
                 item->error.cause ? item->error.cause : failure_class_names[item->class], fingerprint);
    }
    return log_few_may(few, text_of(cause), clock_monotonic_us());
}

void route_tell_rest(struct dispatch *dispatch, bool ending)
{
    struct log_few *const all[] = {&dispatch->retried_few, &dispatch->waits_few, &dispatch->dead_few};
    int64_t now_us = clock_monotonic_us();
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (ending)
            log_few_close(all[i], now_us);
        else
            log_few_sum(all[i], now_us);
}

void route_tell(struct dispatch *dispatch, const struct item *item)
{
    struct meters *meters = &dispatch->meters;
    char id[ID_TEXT_BYTES], due[CLOCK_RFC3339_BYTES_MAX];
    const struct record *home = item->home;
#define PLACE                                                                                                \
    LOG_TEXT("topic", home->topic), LOG_INT("partition", home->partition), LOG_INT("offset", home->offset),  \
        LOG_TEXT("key", home->key), LOG_TEXT("id", id_to_text(item->note->id, id))
    switch (item->state) {
    case ITEM_RETRIED:
        metric_add(meters->retry, 1);
        if (may_tell(dispatch, &dispatch->retried_few, LOG_WARN, "retry",
                     "more records of one cause failed and are tried again later", item))
            log_warn("retry", "a record failed and is tried again later", PLACE,
                     LOG_INT("attempt", item->note->attempt),
                     LOG_STRING("to", dispatch->retry.topics[item->step]),
                     LOG_STRING("due_at", clock_to_rfc3339(item->due_us, due)),
                     LOG_STRING("error", item->error.text));
        break;
    case ITEM_WAITS:
        metric_add(meters->waited, 1);
        if (may_tell(dispatch, &dispatch->waits_few, LOG_INFO, "waiting",
                     "more records wait: earlier ones of their keys have failed", item))
            log_info("waiting", "a record waits: an earlier one of its key has failed", PLACE);
        break;
    case ITEM_REJECTED:
        metric_add(meters->dead[item->class], 1);
        if (may_tell(dispatch, &dispatch->dead_few, LOG_WARN, "dlq",
                     "more records of one cause are now dead letters", item))
            log_warn("dlq", "a record is now a dead letter", PLACE,
                     LOG_STRING("class", failure_class_names[item->class]),
                     LOG_INT("attempt", item->note->attempt), LOG_STRING("error", item->error.text));
        break;
    case ITEM_DROPPED:
        metric_add(meters->dropped, 1);
        log_warn("dlq", "a dead letter was dropped: it will never take effect", PLACE,
                 LOG_TEXT("reason", item->origin->drop));
        break;
    case ITEM_OPEN:
    case ITEM_DONE:
    case ITEM_HELD:
    case ITEM_STALE:
        break;
    }
#undef PLACE
}

/* outage: when nothing may go on. Something the records need is away: paused, said once, tried again with
 * backoff. Or too many of them are rejected: paused until it is probed, or mended by people. */
#include "flow/loop.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

void give_up(struct dispatch *dispatch, const struct error *error)
{
    if (dispatch->fatal)
        return;
    dispatch->fatal = true;
    dispatch->fatal_error = *error;
    log_error("dispatch", "cannot go on: draining", LOG_STRING("error", error->text));
}

/* Other threads may still be reading what the outage before was for. One lock for all, held for a copy. */
static pthread_mutex_t reason_lock = PTHREAD_MUTEX_INITIALIZER;

static void reason_set(char into[ERROR_TEXT_BYTES_MAX], const char *text)
{
    pthread_mutex_lock(&reason_lock);
    snprintf(into, ERROR_TEXT_BYTES_MAX, "%s", text);
    pthread_mutex_unlock(&reason_lock);
}

void reason_get(const char from[ERROR_TEXT_BYTES_MAX], char into[ERROR_TEXT_BYTES_MAX])
{
    pthread_mutex_lock(&reason_lock);
    memcpy(into, from, ERROR_TEXT_BYTES_MAX);
    pthread_mutex_unlock(&reason_lock);
}

/* The store, or what a handler needs, is away: nothing is taken for a while. Said once, not once a try. */
void outage_begin(struct dispatch *dispatch, const struct error *error)
{
    if (!dispatch->outage_ms) {
        log_error("dispatch", "outage: paused until it is over; nothing is lost",
                  LOG_STRING("error", error->text));
        reason_set(dispatch->outage_reason, error->text);
        atomic_store(&dispatch->in_outage, true);
    }
    consumer_pause(dispatch->consumer, PAUSE_OUTAGE);
    dispatch->outage_ms = dispatch->outage_ms ? dispatch->outage_ms * 2 : DISPATCH_OUTAGE_MS_MIN;
    if (dispatch->outage_ms > DISPATCH_OUTAGE_MS_MAX)
        dispatch->outage_ms = DISPATCH_OUTAGE_MS_MAX;
    dispatch->outage_until_us = clock_monotonic_us() + dispatch->outage_ms * 1000;
}

/* The wait is over: one record at a time is taken, until one is handled. */
void outage_probe(struct dispatch *dispatch)
{
    dispatch->outage_until_us = 0;
    consumer_resume(dispatch->consumer, PAUSE_OUTAGE);
}

/* A batch was committed: the store is there. What a handler missed is there when a handler says so. */
void outage_passed(struct dispatch *dispatch, const struct item *items, size_t count)
{
    bool handled = !dispatch->outage_of_handler;
    for (size_t i = 0; i < count && !handled; i++)
        handled = (items[i].door == DOOR_RECORD || items[i].door == DOOR_WAITING) &&
                  items[i].meter != METER_PASSED && items[i].state != ITEM_HELD &&
                  items[i].state != ITEM_STALE && items[i].state != ITEM_WAITS;
    if (handled)
        outage_end(dispatch);
}

void outage_end(struct dispatch *dispatch)
{
    if (!dispatch->outage_ms)
        return;
    dispatch->outage_of_handler = false;
    dispatch->outage_ms = 0;
    dispatch->outage_until_us = 0;
    atomic_store(&dispatch->in_outage, false);
    consumer_resume(dispatch->consumer, PAUSE_OUTAGE);
    log_info("dispatch", "outage is over", LOG_STRING("was", dispatch->outage_reason));
}

void schema_wait_begin(struct dispatch *dispatch, const struct error *error)
{
    dispatch->schema_waits_until_us = clock_monotonic_us() + SCHEMA_WAITS_MS * INT64_C(1000);
    if (atomic_load(&dispatch->schema_waits))
        return;
    reason_set(dispatch->schema_reason, error->text);
    atomic_store(&dispatch->schema_waits, true);
}

void schema_wait_look(struct dispatch *dispatch)
{
    if (clock_monotonic_us() > dispatch->schema_waits_until_us)
        atomic_store(&dispatch->schema_waits, false);
}

void room_full_begin(struct dispatch *dispatch)
{
    dispatch->room_full_until_us = clock_monotonic_us() + ROOM_FULL_SAID_MS * INT64_C(1000);
    atomic_store(&dispatch->room_full, true);
}

void room_full_look(struct dispatch *dispatch)
{
    if (clock_monotonic_us() > dispatch->room_full_until_us)
        atomic_store(&dispatch->room_full, false);
}

void flood_begin(struct dispatch *dispatch, const struct error *error)
{
    int64_t handled, rejected, now_us = clock_monotonic_us(); /* the wall may be put back */
    bool again = dispatch->flood.state == FLOOD_HALF_OPEN;
    flood_window(&dispatch->flood, now_us, &handled, &rejected);
    flood_trip(&dispatch->flood, now_us);
    if (!again) {
        char why[ERROR_TEXT_BYTES_MAX];
        snprintf(why, sizeof(why), "%lld records rejected of %lld: %.160s", (long long)rejected,
                 (long long)(handled + rejected), error ? error->text : "");
        reason_set(dispatch->flood_reason, why);
    }
    atomic_store(&dispatch->in_flood, true);
    consumer_pause(dispatch->consumer, PAUSE_FLOOD);
    log_error("flood",
              again ? "still: the probe was rejected too"
                    : "too many records are rejected: nothing is taken until a probe succeeds or weir resume",
              LOG_INT("handled", handled), LOG_INT("rejected", rejected),
              LOG_INT("probe_in_ms", (dispatch->flood.probe_at_us - now_us) / 1000),
              LOG_STRING("error", error ? error->text : ""));
}

static void flood_end(struct dispatch *dispatch, const char *how)
{
    atomic_store(&dispatch->in_flood, false);
    consumer_resume(dispatch->consumer, PAUSE_FLOOD);
    log_info("flood", "over: records are taken again", LOG_STRING("how", how));
}

void flood_look(struct dispatch *dispatch)
{
    if (atomic_exchange(&dispatch->resume_asked, false)) {
        flood_resume(&dispatch->flood);
        if (atomic_load(&dispatch->in_flood))
            flood_end(dispatch, "an operator said so");
        return;
    }
    if (!atomic_load(&dispatch->in_flood))
        return;
    if (dispatch->flood.state == FLOOD_CLOSED) {
        flood_end(dispatch, "the probe succeeded");
    } else if (flood_probe(&dispatch->flood, clock_monotonic_us())) {
        log_info("flood", "probing: records are taken one by one",
                 LOG_INT("after_ms", dispatch->flood.probe_ms));
        consumer_resume(dispatch->consumer, PAUSE_FLOOD);
    }
}

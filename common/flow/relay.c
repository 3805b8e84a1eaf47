#include "flow/relay.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "flow/sent.h"
#include "flow/trace.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct relay {
    struct producer_settings settings;
    struct producer *producer; /* NULL between two */
    void (*wake)(void *owner);
    void *wake_owner;
    struct trace_sends *traces; /* NULL: no traces */

    /* the loop's */
    bool behind;                       /* the table holds rows that were not sent: read it */
    int64_t sent_seq;                  /* this instance's rows up to here were sent        */
    const struct instances *instances; /* NULL: alone */
    struct sent sent;                  /* beside other instances */
    const struct work *unsent;         /* committed, and its rows not sent yet; NULL: none */
    bool nothing_new;                  /* all that was read is under way: reading again waits for a report */
    bool full;                         /* the producer did not take a row … */
    size_t full_in_flight;             /* … while so many were under way */
    int64_t poll_at_us, poll_ms;
    int64_t reopen_at_us; /* not before                                       */
    int64_t reopen_ms;
    int64_t alone_until_us; /* 0: records are sent together */
    int64_t *settling;      /* acknowledged rows that the open transaction deletes */
    size_t settling_count;
    struct refusal {
        int64_t seq;
        char reason[96];
    } aside[RELAY_REFUSED_MAX];    /* refused rows that the open transaction sets aside */
    size_t aside_count, set_aside; /* set_aside: since relay_set_aside() */

    /* shared with the producer's thread */
    pthread_mutex_t lock;
    int64_t *acked;
    size_t acked_count;
    size_t acked_capacity;
    struct refusal refused[RELAY_REFUSED_MAX];
    size_t refused_count;
    char denied[256]; /* what this principal lacks; empty: nothing is known to be */
    atomic_size_t in_flight;
    atomic_bool wanted;        /* the loop wants to hear of the next report */
    atomic_size_t wanted_left; /* … above all of that which leaves so many */
};

static void on_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    struct relay *relay = owner;
    trace_sent(relay->traces, (int64_t)tag, outcome, partition, offset, reason);
    FAULT(relay_after_ack);
    pthread_mutex_lock(&relay->lock);
    if (outcome == OK)
        relay->denied[0] = '\0';
    if (outcome == OK && relay->acked_count < RELAY_ACKED_MAX) {
        if (relay->acked_count == relay->acked_capacity) {
            size_t capacity = relay->acked_capacity ? relay->acked_capacity * 2 : 1024;
            int64_t *acked = realloc(relay->acked, capacity * sizeof(*acked));
            if (acked) {
                relay->acked = acked;
                relay->acked_capacity = capacity;
            }
        }
        /* Not noted for want of memory: the row stays and is sent again at the next start, with its id. */
        if (relay->acked_count < relay->acked_capacity)
            relay->acked[relay->acked_count++] = (int64_t)tag;
    } else if (outcome == REJECT && relay->refused_count < RELAY_REFUSED_MAX) {
        struct refusal *refusal = &relay->refused[relay->refused_count++];
        refusal->seq = (int64_t)tag;
        snprintf(refusal->reason, sizeof(refusal->reason), "%s", reason ? reason : "");
    }
    pthread_mutex_unlock(&relay->lock);
    size_t left = atomic_fetch_sub(&relay->in_flight, 1) - 1;
    if ((left == 0 || left % 512 == 0 || left == atomic_load(&relay->wanted_left) || outcome != OK) &&
        atomic_exchange(&relay->wanted, false))
        relay->wake(relay->wake_owner);
}

/* Records go together again once those that were sent alone are all in. True: so long none may be sent. */
static bool together_again(struct relay *relay)
{
    if (!relay->alone_until_us || clock_monotonic_us() < relay->alone_until_us)
        return false;
    if (atomic_load(&relay->in_flight)) {
        relay->behind = true;
        relay->nothing_new = false;
        return true;
    }
    producer_close(relay->producer, 1000);
    relay->producer = NULL;
    relay->reopen_at_us = 0;
    relay->alone_until_us = 0;
    relay->settings.alone = false;
    return false;
}

static bool producer_ready(struct relay *relay)
{
    if (relay->producer && !producer_is_fatal(relay->producer) && together_again(relay))
        return false;
    if (relay->producer && !producer_is_fatal(relay->producer))
        return true;
    int64_t now = clock_monotonic_us();
    if (now < relay->reopen_at_us)
        return false;
    if (relay->producer && producer_refused(relay->producer)) {
        log_error("relay",
                  "Kafka refused a batch: each record is sent alone for a while, to find out which it was",
                  LOG_INT("alone_ms", RELAY_ALONE_MS));
        relay->settings.alone = true;
        relay->alone_until_us = now + RELAY_ALONE_MS * INT64_C(1000);
    }
    if (relay->producer) {
        const char *denied = producer_denied(relay->producer);
        log_error("relay", "the producer is done for; a new one sends again what is in the outbox",
                  LOG_INT("in_flight", (int64_t)atomic_load(&relay->in_flight)),
                  LOG_STRING("reason", denied ? denied : "see the line of kafka before"));
        pthread_mutex_lock(&relay->lock);
        if (denied)
            snprintf(relay->denied, sizeof(relay->denied), "%s", denied);
        pthread_mutex_unlock(&relay->lock);
        producer_close(relay->producer, 1000);
        relay->producer = NULL;
        atomic_store(&relay->in_flight, 0);
        sent_clear(&relay->sent);
        relay->behind = true;
        relay->sent_seq = 0;
    }
    relay->reopen_ms = relay->reopen_ms ? relay->reopen_ms * 2 : RELAY_REOPEN_MS_MIN;
    if (relay->reopen_ms > RELAY_REOPEN_MS_MAX)
        relay->reopen_ms = RELAY_REOPEN_MS_MAX;
    relay->reopen_at_us = now + relay->reopen_ms * 1000;
    struct error error;
    if (producer_open(&relay->settings, on_report, relay, &relay->producer, &error) != OK) {
        log_error("relay", "cannot make a producer", LOG_STRING("error", error.text));
        relay->producer = NULL;
        return false;
    }
    return true;
}

static bool shared(const struct relay *relay)
{
    return relay->instances && relay->instances->shared;
}

static bool beside_others(const struct relay *relay)
{
    return shared(relay) && relay->instances->others > 0;
}

static void passed(struct relay *relay, const struct outbox_row *row)
{
    if (row->seq > relay->sent_seq)
        relay->sent_seq = row->seq;
}

/* False: it was not taken, and nothing after it may be sent before it. A new producer begins with a turn, and
 * with what the one before it has left. */
static bool send(struct relay *relay, const struct outbox_row *row)
{
    struct error error;
    if (!relay->producer || producer_is_fatal(relay->producer))
        return false;
    if (shared(relay) && sent_has(&relay->sent, row->seq))
        return true;
    if (shared(relay) && !sent_add(&relay->sent, row->seq, row->part))
        return false;
    const struct producer_record record = {
        .topic = row->topic,
        .partition = row->partition,
        .key = row->key,
        .value = row->value,
        .key_null = row->key_null,
        .value_null = row->value_null,
        .headers = row->headers,
        .header_count = row->header_count,
    };
    atomic_fetch_add(&relay->in_flight, 1);
    trace_send(relay->traces, row);
    enum outcome outcome = producer_send(relay->producer, &record, (uint64_t)row->seq, &error);
    if (outcome == OK)
        return true;
    atomic_fetch_sub(&relay->in_flight, 1);
    if (outcome == REJECT) { /* kept aside by the next turn; what follows it may go */
        atomic_fetch_add(&relay->in_flight, 1);
        on_report(relay, (uint64_t)row->seq, REJECT, -1, -1, error.text);
        return true;
    }
    if (shared(relay))
        sent_remove(&relay->sent, row->seq);
    relay->full = true;
    relay->full_in_flight = atomic_load(&relay->in_flight);
    return false;
}

enum outcome relay_open(const struct producer_settings *settings, void (*wake)(void *owner), void *wake_owner,
                        struct relay **ret, struct error *error)
{
    struct relay *relay = calloc(1, sizeof(*relay));
    if (!relay)
        return error_fatal(error, "memory", "relay: out of memory");
    relay->settings = *settings;
    relay->settings.gather = relay->settings.whole = true;
    relay->wake = wake;
    relay->wake_owner = wake_owner;
    relay->behind = true; /* what an earlier run left */
    pthread_mutex_init(&relay->lock, NULL);
    enum outcome outcome = producer_open(&relay->settings, on_report, relay, &relay->producer, error);
    if (outcome != OK) {
        relay_close(relay, 0);
        return outcome;
    }
    *ret = relay;
    return OK;
}

/* Kafka takes records: a producer that is done for after this is the first of its kind. That they were handed
 * to one says nothing yet. */
static void reopen_soon(struct relay *relay)
{
    int64_t soon_us = clock_monotonic_us() + RELAY_REOPEN_MS_MIN * INT64_C(1000);
    relay->reopen_ms = 0;
    if (relay->reopen_at_us > soon_us)
        relay->reopen_at_us = soon_us;
}

/* What was acknowledged up to now goes into the transaction; it is kept until the transaction's end is known.
 */
static void settle(struct relay *relay, struct work *work)
{
    assert(relay->settling_count == 0 && relay->aside_count == 0);
    pthread_mutex_lock(&relay->lock);
    relay->settling = relay->acked;
    relay->settling_count = relay->acked_count;
    relay->acked = NULL;
    relay->acked_count = relay->acked_capacity = 0;
    relay->aside_count = relay->refused_count;
    memcpy(relay->aside, relay->refused, relay->aside_count * sizeof(relay->aside[0]));
    relay->refused_count = 0;
    pthread_mutex_unlock(&relay->lock);

    if (relay->settling_count) {
        outbox_done(work, relay->settling, relay->settling_count);
        reopen_soon(relay);
    }
    for (size_t i = 0; i < relay->aside_count; i++) {
        const struct refusal *refusal = &relay->aside[i];
        log_error("relay", "Kafka will never take this record; it is kept in the outbox",
                  LOG_INT("seq", refusal->seq), LOG_STRING("reason", refusal->reason));
        outbox_refused(work, refusal->seq, text_copy(work_arena(work), text_of(refusal->reason)));
    }
}

/* The next look at other instances' rows by itself: soon while some come. */
static void poll_later(struct relay *relay, bool found)
{
    relay->poll_ms = found ? RELAY_POLL_MS_MIN : relay->poll_ms * 2;
    if (relay->poll_ms < RELAY_POLL_MS_MIN)
        relay->poll_ms = RELAY_POLL_MS_MIN;
    if (relay->poll_ms > RELAY_POLL_MS_MAX)
        relay->poll_ms = RELAY_POLL_MS_MAX;
    relay->poll_at_us = clock_monotonic_us() + relay->poll_ms * 1000;
}

/* What others wrote for this instance's parts, before anything of its own. False: behind now. */
static bool send_elsewhere(struct relay *relay, const struct outbox_row *rows, size_t count, bool more)
{
    size_t before = sent_count(&relay->sent);
    for (size_t i = 0; i < count && !relay->behind; i++)
        relay->behind = !send(relay, &rows[i]);
    relay->behind = relay->behind || more;
    poll_later(relay, sent_count(&relay->sent) > before);
    if (count && relay->producer)
        producer_go(relay->producer);
    return !relay->behind;
}

static void turn_in_step(struct relay *relay, struct work *work)
{
    const struct outbox_row *rows;
    if (relay_poll_ms(relay, clock_monotonic_us()) == 0) {
        bool more;
        relay_send(relay); /* before what others wrote after it */
        size_t count = outbox_read_elsewhere(work, RELAY_READ_MAX, &rows, &more);
        if (work_failed(work, NULL) != OK || !send_elsewhere(relay, rows, count, more))
            return;
    }
    /* Also while it is alone: one that came since the last beat may write for its parts already. */
    if (shared(relay))
        outbox_want_elsewhere(work, RELAY_READ_MAX);
}

/* With how many under way at most the table is read on. */
static size_t room_at(const struct relay *relay)
{
    if (relay->alone_until_us && clock_monotonic_us() >= relay->alone_until_us)
        return 0;
    return relay->full ? relay->full_in_flight / 2 : (size_t)relay->settings.queue_records_max / 2;
}

void relay_turn(struct relay *relay, struct work *work)
{
    assert(work != relay->unsent);
    settle(relay, work);
    if (!producer_ready(relay))
        return;
    if (!relay->behind) {
        turn_in_step(relay, work);
        return;
    }
    relay->unsent = NULL; /* it is in the table, behind others */
    if (relay->full && atomic_load(&relay->in_flight) > room_at(relay))
        return;
    relay->full = false;
    const struct outbox_row *rows;
    int64_t from_seq = relay->sent_seq;
    bool all = true, more;
    size_t count = outbox_read(work, from_seq, RELAY_READ_MAX, &rows, &more),
           before = sent_count(&relay->sent);
    for (size_t i = 0; i < count && all; i++) {
        all = send(relay, &rows[i]);
        if (all)
            passed(relay, &rows[i]);
    }
    if (relay->producer)
        producer_go(relay->producer);
    relay->nothing_new =
        shared(relay) && all && sent_count(&relay->sent) == before && relay->sent_seq == from_seq;
    if (!all)
        return;
    if (!more && work_failed(work, NULL) == OK) {
        relay->behind = false;
        if (shared(relay))
            outbox_want_elsewhere(work, RELAY_READ_MAX);
    }
}

size_t relay_set_aside(struct relay *relay)
{
    size_t count = relay->set_aside;
    relay->set_aside = 0;
    return count;
}

void relay_committed(struct relay *relay, const struct work *work)
{
    relay_send(relay); /* of the commit before */
    for (size_t i = 0; shared(relay) && i < relay->settling_count; i++)
        sent_remove(&relay->sent, relay->settling[i]);
    for (size_t i = 0; shared(relay) && i < relay->aside_count; i++)
        sent_remove(&relay->sent, relay->aside[i].seq);
    relay->nothing_new = relay->nothing_new && relay->settling_count + relay->aside_count == 0;
    relay->set_aside += relay->aside_count;
    relay->aside_count = 0;
    free(relay->settling);
    relay->settling = NULL;
    relay->settling_count = 0;
    relay->unsent = work;
}

void relay_send(struct relay *relay)
{
    const struct work *work = relay->unsent;
    const struct outbox_row *rows;
    size_t count;
    bool more;
    relay->unsent = NULL;
    if (!work || relay->behind)
        return; /* behind: they are in the table, behind others */
    if (outbox_elsewhere(work, &rows, &count, &more) && !send_elsewhere(relay, rows, count, more))
        return;
    count = outbox_added(work, &rows);
    for (size_t i = 0; i < count; i++) {
        if (rows[i].elsewhere)
            continue;
        FAULT(relay_before_send);
        if (!send(relay, &rows[i])) {
            relay->behind = true;
            break;
        }
        passed(relay, &rows[i]);
    }
    if (count && relay->producer)
        producer_go(relay->producer);
}

void relay_rolled_back(struct relay *relay)
{
    pthread_mutex_lock(&relay->lock);
    for (size_t i = 0; i < relay->settling_count; i++) {
        if (relay->acked_count == relay->acked_capacity) {
            size_t capacity = relay->acked_capacity ? relay->acked_capacity * 2 : relay->settling_count;
            int64_t *acked = realloc(relay->acked, capacity * sizeof(*acked));
            if (!acked)
                break; /* sent again at the next start */
            relay->acked = acked;
            relay->acked_capacity = capacity;
        }
        relay->acked[relay->acked_count++] = relay->settling[i];
    }
    for (size_t i = 0; i < relay->aside_count && relay->refused_count < RELAY_REFUSED_MAX; i++)
        relay->refused[relay->refused_count++] = relay->aside[i];
    relay->aside_count = 0;
    pthread_mutex_unlock(&relay->lock);
    free(relay->settling);
    relay->settling = NULL;
    relay->settling_count = 0;
}

bool relay_behind(const struct relay *relay)
{
    return relay->behind;
}

void relay_share(struct relay *relay, const struct instances *instances)
{
    relay->instances = instances;
}

void relay_look_again(struct relay *relay)
{
    relay->behind = true;
    relay->nothing_new = false;
    relay->sent_seq = 0;
}

void relay_parts(const struct relay *relay, bool busy[INSTANCE_PARTS_MAX])
{
    assert(!relay->unsent);
    sent_parts(&relay->sent, busy, INSTANCE_PARTS_MAX);
}

int64_t relay_poll_ms(const struct relay *relay, int64_t now_us)
{
    if (!beside_others(relay) || relay->behind || relay->instances->owned_count == 0 || !relay->producer ||
        producer_is_fatal(relay->producer))
        return -1;
    return relay->poll_at_us > now_us ? (relay->poll_at_us - now_us + 999) / 1000 : 0;
}

int64_t relay_wait_ms(struct relay *relay)
{
    pthread_mutex_lock(&relay->lock);
    bool acked = relay->acked_count || relay->refused_count;
    pthread_mutex_unlock(&relay->lock);
    bool usable = relay->producer && !producer_is_fatal(relay->producer);
    if (!usable) {
        int64_t left_ms = (relay->reopen_at_us - clock_monotonic_us()) / 1000;
        return left_ms > 0 ? left_ms + 1 : 0;
    }
    if (relay->nothing_new)
        atomic_store(&relay->wanted, true); /* a report brings the next step */
    if (relay->behind && !relay->nothing_new) {
        size_t room = room_at(relay);
        atomic_store(&relay->wanted_left, room);
        atomic_store(&relay->wanted, true); /* a report makes room; before the look, which may be too late */
        if (atomic_load(&relay->in_flight) <= room)
            return relay->full && relay->full_in_flight == 0 ? RELAY_SETTLE_MS : 0;
    }
    return acked ? RELAY_SETTLE_MS : -1;
}

size_t relay_in_flight(const struct relay *relay)
{
    return atomic_load(&relay->in_flight);
}

bool relay_refused(struct relay *relay, char *into, size_t into_bytes)
{
    pthread_mutex_lock(&relay->lock);
    bool refused = relay->denied[0];
    if (refused)
        snprintf(into, into_bytes, "%s", relay->denied);
    pthread_mutex_unlock(&relay->lock);
    return refused;
}

bool relay_connected(const struct relay *relay)
{
    return relay->producer && producer_connected(relay->producer);
}

void relay_trace(struct relay *relay, struct spans *spans)
{
    relay->traces = trace_sends_new(spans);
}

void relay_close(struct relay *relay, int timeout_ms)
{
    if (!relay)
        return;
    if (relay->producer)
        producer_close(relay->producer, timeout_ms);
    pthread_mutex_destroy(&relay->lock);
    sent_free(&relay->sent);
    trace_sends_destroy(relay->traces);
    free(relay->acked);
    free(relay->settling);
    free(relay);
}

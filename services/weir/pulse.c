#include "pulse.h"
#include "cli.h"
#include "mails.h"

#include "base/clock.h"
#include "base/ids.h"
#include "kafka/reader.h"
#include "wire/events.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
    POLL_MS = 100,
    BUCKETS = 1 << 19,
    ARENA_BYTES = 16 << 20,
    CLOCK_DRIFT_US = 60000000, /* placed_at further from the record's time is somebody else's clock */
    STEPS = 16,                /* of the histogram, in each doubling */
    DOUBLINGS = 40,
};

/* Counts by microseconds, 16 steps a doubling: within 6 %. */
struct histogram {
    uint32_t count[STEPS * DOUBLINGS];
    int64_t total;
};

struct pulse_order {
    struct id id;
    uint32_t next; /* in its bucket: index + 1; 0: the last */
    uint8_t placed, decision, captured, refunded, dead, counted_open, counted_stuck;
    uint8_t wanted, got; /* mails, a bit a template */
    int64_t placed_us;
};
enum { DECISION_NONE, DECISION_CONFIRMED, DECISION_REJECTED, DECISION_CANCELLED };

struct pulse {
    struct client_settings client;
    struct registry *registry;
    struct reader *reader;
    struct arena *arena;
    pthread_t thread;
    atomic_bool stopping;

    struct pulse_order *orders; /* a ring */
    uint32_t *buckets;
    size_t taken; /* ever */

    pthread_mutex_t lock; /* for what follows */
    struct pulse_counts counts;
    struct histogram all, window[2];
    int64_t window_us; /* when window[0] began */
};

/* ---- times */

static size_t step_of(int64_t us)
{
    if (us < STEPS)
        return us < 0 ? 0 : (size_t)us;
    int doubling = 63 - __builtin_clzll((unsigned long long)us); /* at least 4 */
    size_t step = (size_t)(us >> (doubling - 4)) - STEPS;
    size_t index = (size_t)(doubling - 3) * STEPS + step;
    return index < STEPS * DOUBLINGS ? index : STEPS * DOUBLINGS - 1;
}

static int64_t step_us(size_t index)
{
    size_t doubling = index / STEPS, step = index % STEPS;
    return doubling == 0 ? (int64_t)step : (int64_t)(STEPS + step) << (doubling - 1);
}

static void histogram_add(struct histogram *histogram, int64_t us)
{
    histogram->count[step_of(us)]++;
    histogram->total++;
}

/* Of two together; b may be NULL. */
static int64_t quantile(const struct histogram *a, const struct histogram *b, int percent)
{
    int64_t total = a->total + (b ? b->total : 0), seen = 0;
    if (total == 0)
        return -1;
    for (size_t i = 0; i < STEPS * DOUBLINGS; i++) {
        seen += a->count[i] + (b ? b->count[i] : 0);
        if (seen * 100 >= total * percent)
            return step_us(i);
    }
    return -1;
}

static void turn_window(struct pulse *pulse)
{
    int64_t now_us = clock_monotonic_us();
    if (now_us - pulse->window_us < PULSE_WINDOW_MS * INT64_C(1000))
        return;
    pulse->window[1] = pulse->window[0];
    memset(&pulse->window[0], 0, sizeof(pulse->window[0]));
    pulse->window_us = now_us;
}

/* ---- orders */

static uint32_t *bucket_of(struct pulse *pulse, struct id id)
{
    return &pulse->buckets[text_hash((struct text){(const char *)id.bytes, sizeof(id.bytes)}) % BUCKETS];
}

static void forget_oldest(struct pulse *pulse, struct pulse_order *oldest)
{
    uint32_t index = (uint32_t)(oldest - pulse->orders) + 1;
    uint32_t *at = bucket_of(pulse, oldest->id);
    while (*at && *at != index)
        at = &pulse->orders[*at - 1].next;
    if (*at)
        *at = oldest->next;
    if (oldest->counted_open) {
        pulse->counts.open--;
        pulse->counts.forgotten++;
    }
    pulse->counts.stuck -= oldest->counted_stuck;
}

static struct pulse_order *order_of(struct pulse *pulse, struct text order_id)
{
    struct id id = id_from_text(order_id);
    uint32_t *bucket = bucket_of(pulse, id);
    for (uint32_t at = *bucket; at; at = pulse->orders[at - 1].next)
        if (id_equal(pulse->orders[at - 1].id, id))
            return &pulse->orders[at - 1];
    struct pulse_order *order = &pulse->orders[pulse->taken % PULSE_ORDERS_MAX];
    if (pulse->taken >= PULSE_ORDERS_MAX)
        forget_oldest(pulse, order);
    *order = (struct pulse_order){.id = id, .next = *bucket};
    *bucket = (uint32_t)(pulse->taken % PULSE_ORDERS_MAX) + 1;
    pulse->taken++;
    return order;
}

static bool is_settled(const struct pulse_order *order)
{
    if (!order->decision || (order->wanted & ~order->got))
        return false;
    return order->decision == DECISION_CONFIRMED ? order->captured : !order->captured || order->refunded;
}

static void recount(struct pulse *pulse, struct pulse_order *order)
{
    bool open = order->placed && !is_settled(order);
    pulse->counts.open += (int)open - (int)order->counted_open;
    order->counted_open = open;
    pulse->counts.stuck += (int)(open && order->dead) - (int)order->counted_stuck;
    order->counted_stuck = open && order->dead;
}

static void decide(struct pulse_order *order, uint8_t decision, enum mail mail, int64_t *count)
{
    if (order->decision)
        return;
    order->decision = decision;
    order->wanted |= mail_bit(mail);
    ++*count;
}

static void confirm(struct pulse *pulse, struct pulse_order *order, const struct order_confirmed *event)
{
    bool first = !order->decision;
    decide(order, DECISION_CONFIRMED, MAIL_CONFIRMED, &pulse->counts.confirmed);
    if (!first || !order->placed_us)
        return;
    histogram_add(&pulse->all, event->confirmed_at - order->placed_us);
    histogram_add(&pulse->window[0], event->confirmed_at - order->placed_us);
    if (!pulse->counts.sample_id[0] && event->order_id.length < sizeof(pulse->counts.sample_id))
        memcpy(pulse->counts.sample_id, event->order_id.at, event->order_id.length);
}

static void place(struct pulse *pulse, struct pulse_order *order, const struct order_placed *event, const struct record *record)
{
    struct codec_faults faults = {0};
    int64_t record_us = record->timestamp_ms * 1000, apart_us = event->placed_at - record_us;
    if (order->placed)
        return;
    order->placed = 1;
    order->placed_us = apart_us > -CLOCK_DRIFT_US && apart_us < CLOCK_DRIFT_US ? event->placed_at : record_us;
    pulse->counts.placed++;
    if (order_placed_valid(event, &faults))
        order->wanted |= mail_bit(MAIL_RECEIVED);
    else
        order->got = 0xff; /* nobody is written to */
}

static void mailed(struct pulse_order *order, struct text template, int64_t *count)
{
    enum mail mail;
    ++*count;
    if (mail_find(template, &mail))
        order->got |= mail_bit(mail);
}

static void note(struct pulse *pulse, const struct event_type *type, const void *data, const struct record *record)
{
    struct pulse_order *order = order_of(pulse, *(const struct text *)(const void *)((const char *)data + type->key_offset));
    struct pulse_counts *counts = &pulse->counts;
    switch (type->number) {
    case 1: place(pulse, order, data, record); break;
    case 2: confirm(pulse, order, data); break;
    case 3: decide(order, DECISION_REJECTED, MAIL_REJECTED, &counts->rejected); break;
    case 4: decide(order, DECISION_CANCELLED, MAIL_CANCELLED, &counts->cancelled); break;
    case 9:
        order->captured = 1;
        order->wanted |= mail_bit(MAIL_RECEIPT);
        break;
    case 11:
        order->refunded = 1;
        order->wanted |= mail_bit(MAIL_REFUND);
        break;
    case 12: mailed(order, ((const struct email_sent *)data)->template, &counts->mails_sent); break;
    case 13: mailed(order, ((const struct email_failed *)data)->template, &counts->mails_failed); break;
    default: return;
    }
    recount(pulse, order);
}

/* The order waits for people, but for analytics: nothing in it hangs on what is counted. */
static void note_dead(struct pulse *pulse, const struct record *record)
{
    pulse->counts.dead++;
    if (record->key_null || text_is(record->topic, "dlq.analytics"))
        return;
    struct pulse_order *order = order_of(pulse, record->key);
    order->dead = 1;
    recount(pulse, order);
}

/* ---- the thread */

static void take(struct pulse *pulse, const struct record *record)
{
    struct error error;
    struct text datum;
    int32_t schema_id;
    const struct event_type *type = NULL;
    const struct codec_plan *plan;
    const void *data = NULL;
    bool is_dead = !topic_find(record->topic, NULL);
    arena_reset(pulse->arena);
    enum outcome outcome = is_dead || record->value_null ? REJECT : frame_read(record->value, &schema_id, &datum, &error);
    if (outcome == OK)
        outcome = registry_plan(pulse->registry, schema_id, &type, &plan, &error);
    if (outcome == OK)
        outcome = codec_decode(plan, datum, pulse->arena, &data, &error);
    if (outcome == OK && type->topic == TOPIC_ORDERS && cli_contradicts(record, type, data, pulse->arena))
        outcome = REJECT; /* a dead letter: no order */
    pthread_mutex_lock(&pulse->lock);
    pulse->counts.records++;
    turn_window(pulse);
    if (is_dead)
        note_dead(pulse, record);
    else if (outcome == OK)
        note(pulse, type, data, record);
    pthread_mutex_unlock(&pulse->lock);
}

static void *run(void *owner)
{
    struct pulse *pulse = owner;
    struct error error;
    while (!atomic_load(&pulse->stopping)) {
        struct record record;
        bool got, end;
        /* What a reader cannot read now it reads later: it holds its place. */
        if (reader_read(pulse->reader, POLL_MS, &record, &got, &end, &error) != OK || !got)
            continue;
        take(pulse, &record);
        reader_release(&record);
    }
    return NULL;
}

enum outcome pulse_open(const struct client_settings *client, struct pulse **ret, struct error *error)
{
    static const char *const topics[] = {"orders",      "payments",  "emails",        "dlq.order", "dlq.inventory",
                                         "dlq.payment", "dlq.email", "dlq.analytics", NULL};
    sigset_t all, before;
    struct pulse *pulse = calloc(1, sizeof(*pulse));
    if (!pulse)
        return error_fatal(error, "memory", "out of memory");
    pthread_mutex_init(&pulse->lock, NULL);
    pulse->window_us = clock_monotonic_us();
    pulse->orders = calloc(PULSE_ORDERS_MAX, sizeof(*pulse->orders)); /* pages come as they are used */
    pulse->buckets = calloc(BUCKETS, sizeof(*pulse->buckets));
    pulse->arena = arena_new(ARENA_BYTES);
    enum outcome outcome = pulse->orders && pulse->buckets && pulse->arena ? OK : error_fatal(error, "memory", "out of memory");
    if (outcome == OK)
        outcome = cli_registry(client->config, &pulse->registry, error);
    if (outcome == OK)
        outcome = reader_open(client, topics, READER_END, 0, false, PULSE_OPEN_MS, NULL, &pulse->reader, error);
    if (outcome == OK) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        if (pthread_create(&pulse->thread, NULL, run, pulse) != 0) {
            reader_close(pulse->reader);
            pulse->reader = NULL;
            outcome = error_fatal(error, "thread", "a thread cannot be started");
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (outcome == OK)
        *ret = pulse;
    else
        pulse_close(pulse);
    return outcome;
}

void pulse_counts(struct pulse *pulse, struct pulse_counts *ret)
{
    pthread_mutex_lock(&pulse->lock);
    turn_window(pulse);
    *ret = pulse->counts;
    ret->p50_us = quantile(&pulse->window[0], &pulse->window[1], 50);
    ret->p99_us = quantile(&pulse->window[0], &pulse->window[1], 99);
    ret->all_p50_us = quantile(&pulse->all, NULL, 50);
    ret->all_p99_us = quantile(&pulse->all, NULL, 99);
    pthread_mutex_unlock(&pulse->lock);
}

void pulse_close(struct pulse *pulse)
{
    if (!pulse)
        return;
    if (pulse->reader) {
        atomic_store(&pulse->stopping, true);
        pthread_join(pulse->thread, NULL);
        reader_close(pulse->reader);
    }
    registry_close(pulse->registry);
    arena_destroy(pulse->arena);
    free(pulse->orders);
    free(pulse->buckets);
    pthread_mutex_destroy(&pulse->lock);
    free(pulse);
}

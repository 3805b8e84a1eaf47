#include "bench_track.h"
#include "bench_order.h"
#include "mails.h"

#include "base/clock.h"
#include "kafka/reader.h"
#include "wire/event.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

enum { POLL_MS = 50, ARENA_BYTES = 4 << 20 };

struct bench_track {
    uint64_t run;
    struct registry *registry;
    struct reader *reader;
    struct arena *arena;
    pthread_t thread;
    atomic_bool stopping, failed;
    struct error error; /* written once, before failed is set */

    pthread_mutex_t lock; /* the reader holds it while it looks at an order: for whose orders they are */
    struct bench_order *orders;
    size_t count;
    uint32_t first;
    int64_t begun_us;

    _Atomic int64_t sent, dropped, accepted, refused, decided, confirmed, mailed, placed_again, decided_again,
        records, foreign, last_mail_us, behind_max_us;
};

static void add(_Atomic int64_t *count, int64_t by)
{
    atomic_fetch_add_explicit(count, by, memory_order_relaxed);
}

static int64_t look(_Atomic int64_t *count)
{
    return atomic_load_explicit(count, memory_order_relaxed);
}

/* Since the order was due; at least 1, for 0 is "not yet". */
static uint32_t since_due(const struct bench_track *track, const struct bench_order *order, int64_t now_us)
{
    int64_t us = now_us - track->begun_us - order->due_us;
    return us < 0 ? 1 : us >= UINT32_MAX ? UINT32_MAX : (uint32_t)us + 1;
}

/* ---- the senders */

void bench_track_sent(struct bench_track *track, size_t index, int64_t now_us)
{
    struct bench_order *order = &track->orders[index];
    atomic_store_explicit(&order->sent_us, since_due(track, order, now_us), memory_order_relaxed);
    add(&track->sent, 1);
}

void bench_track_accepted(struct bench_track *track, size_t index, int64_t now_us)
{
    struct bench_order *order = &track->orders[index];
    atomic_store_explicit(&order->accepted_us, since_due(track, order, now_us), memory_order_relaxed);
    add(&track->accepted, 1);
}

void bench_track_refused(struct bench_track *track, size_t index)
{
    atomic_store_explicit(&track->orders[index].refused, 1, memory_order_relaxed);
    add(&track->refused, 1);
}

void bench_track_dropped(struct bench_track *track, size_t index)
{
    atomic_store_explicit(&track->orders[index].dropped, 1, memory_order_relaxed);
    add(&track->dropped, 1);
}

/* ---- the reader's thread */

static void note_decision(struct bench_track *track, struct bench_order *order, enum bench_decision decision,
                          int64_t now_us)
{
    if (atomic_load_explicit(&order->decision, memory_order_relaxed) != BENCH_UNDECIDED) {
        add(&track->decided_again, 1);
        return;
    }
    atomic_store_explicit(&order->decision, (uint8_t)decision, memory_order_relaxed);
    atomic_store_explicit(&order->decided_us, since_due(track, order, now_us), memory_order_relaxed);
    add(&track->decided, 1);
    add(&track->confirmed, decision == BENCH_CONFIRMED);
}

static void note_mail(struct bench_track *track, struct bench_order *order, const struct email_sent *event,
                      int64_t now_us)
{
    enum mail mail;
    if (!mail_find(event->template, &mail) || mail != MAIL_CONFIRMED ||
        atomic_load_explicit(&order->mailed_us, memory_order_relaxed))
        return;
    atomic_store_explicit(&order->mailed_us, since_due(track, order, now_us), memory_order_relaxed);
    atomic_store_explicit(&track->last_mail_us, now_us, memory_order_relaxed);
    add(&track->mailed, 1);
}

static void note(struct bench_track *track, struct bench_order *order, const struct event_type *type,
                 const struct codec_plan *plan, struct text datum, int64_t now_us)
{
    struct error ignored;
    const void *data;
    switch (type->number) {
    case 1:
        if (atomic_exchange_explicit(&order->placed_seen, 1, memory_order_relaxed))
            add(&track->placed_again, 1);
        break;
    case 2:
        note_decision(track, order, BENCH_CONFIRMED, now_us);
        break;
    case 3:
        note_decision(track, order, BENCH_REJECTED, now_us);
        break;
    case 4:
        note_decision(track, order, BENCH_CANCELLED, now_us);
        break;
    case 12:
        arena_reset(track->arena);
        if (codec_decode(plan, datum, track->arena, &data, &ignored) == OK)
            note_mail(track, order, data, now_us);
        break;
    default:
        break;
    }
}

static void take(struct bench_track *track, const struct record *record, int64_t now_us)
{
    struct error ignored;
    struct text datum;
    int32_t schema_id;
    uint32_t number;
    const struct event_type *type = NULL;
    const struct codec_plan *plan;
    add(&track->records, 1);
    bool ours = !record->key_null && !record->value_null &&
                bench_order_number(track->run, record->key, &number) &&
                frame_read(record->value, &schema_id, &datum, &ignored) == OK &&
                registry_plan(track->registry, schema_id, &type, &plan, &ignored) == OK;
    pthread_mutex_lock(&track->lock);
    ours = ours && number - track->first < track->count; /* of an earlier step: wraps around to a large one */
    if (ours)
        note(track, &track->orders[number - track->first], type, plan, datum, now_us);
    else
        add(&track->foreign, 1);
    pthread_mutex_unlock(&track->lock);
}

static void *run(void *owner)
{
    struct bench_track *track = owner;
    int64_t idle_us = clock_monotonic_us(); /* when there was last nothing to read */
    for (bool busy = false; !atomic_load(&track->stopping);) {
        struct record record;
        struct error error;
        bool got, end;
        enum outcome outcome = reader_read(track->reader, busy ? 0 : POLL_MS, &record, &got, &end, &error);
        if (outcome != OK) {
            track->error = error;
            atomic_store(&track->failed, true);
            break;
        }
        int64_t now_us = clock_monotonic_us();
        if (!busy)
            idle_us = now_us; /* it has waited */
        else if (now_us - idle_us > look(&track->behind_max_us))
            atomic_store_explicit(&track->behind_max_us, now_us - idle_us, memory_order_relaxed);
        busy = got;
        if (got) {
            take(track, &record, now_us);
            reader_release(&record);
        }
    }
    return NULL;
}

/* ---- any thread */

int64_t bench_track_outstanding(struct bench_track *track)
{
    return look(&track->sent) - look(&track->refused) - look(&track->decided);
}

int64_t bench_track_behind_max_us(struct bench_track *track)
{
    return look(&track->behind_max_us);
}

const struct error *bench_track_failed(struct bench_track *track)
{
    return atomic_load(&track->failed) ? &track->error : NULL;
}

struct bench_counts bench_track_counts(struct bench_track *track)
{
    return (struct bench_counts){
        .sent = look(&track->sent),
        .dropped = look(&track->dropped),
        .accepted = look(&track->accepted),
        .refused = look(&track->refused),
        .decided = look(&track->decided),
        .confirmed = look(&track->confirmed),
        .mailed = look(&track->mailed),
        .placed_again = look(&track->placed_again),
        .decided_again = look(&track->decided_again),
        .records = look(&track->records),
        .foreign = look(&track->foreign),
        .last_mail_us = look(&track->last_mail_us),
    };
}

/* ---- opening, steps, closing */

void bench_track_begin(struct bench_track *track, struct bench_order *orders, size_t count, uint32_t first,
                       int64_t begun_us)
{
    _Atomic int64_t *const counts[] = {
        &track->sent,          &track->dropped,   &track->accepted, &track->refused,
        &track->decided,       &track->confirmed, &track->mailed,   &track->placed_again,
        &track->decided_again, &track->records,   &track->foreign,  &track->last_mail_us,
        &track->behind_max_us,
    };
    pthread_mutex_lock(&track->lock);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        atomic_store(counts[i], 0);
    track->orders = orders;
    track->count = count;
    track->first = first;
    track->begun_us = begun_us;
    pthread_mutex_unlock(&track->lock);
}

void bench_track_end(struct bench_track *track)
{
    pthread_mutex_lock(&track->lock);
    track->orders = NULL;
    track->count = 0;
    pthread_mutex_unlock(&track->lock);
}

enum outcome bench_track_open(const struct client_settings *client, struct registry *registry,
                              uint64_t run_of, struct bench_track **ret, struct error *error)
{
    static const char *const topics[] = {"orders", "emails", NULL};
    sigset_t all, before;
    size_t missing = 0;
    struct bench_track *track = calloc(1, sizeof(*track));
    if (!track)
        return error_fatal(error, "memory", "out of memory");
    track->run = run_of;
    track->registry = registry;
    pthread_mutex_init(&track->lock, NULL);
    track->arena = arena_new(ARENA_BYTES);
    enum outcome outcome = track->arena ? OK : error_fatal(error, "memory", "out of memory");
    if (outcome == OK)
        outcome = reader_open(client, topics, READER_END, 0, false, BENCH_TRACK_OPEN_MS, &missing,
                              &track->reader, error);
    if (outcome == OK && missing)
        outcome =
            error_outage(error, "topics", "orders or emails does not exist: weir topics create makes them");
    if (outcome == OK) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        if (pthread_create(&track->thread, NULL, run, track) != 0)
            outcome = error_fatal(error, "thread", "a thread cannot be started");
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (outcome == OK) {
        *ret = track;
        return OK;
    }
    reader_close(track->reader);
    track->reader = NULL;
    bench_track_close(track);
    return outcome;
}

void bench_track_close(struct bench_track *track)
{
    if (!track)
        return;
    if (track->reader) {
        atomic_store(&track->stopping, true);
        pthread_join(track->thread, NULL);
        reader_close(track->reader);
    }
    arena_destroy(track->arena);
    pthread_mutex_destroy(&track->lock);
    free(track);
}

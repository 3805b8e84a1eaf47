#include "flow/redrive.h"

#include "base/clock.h"
#include "base/fault.h"
#include "kafka/admin.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    REDRIVE_ADMIN_MS = 15000,
    REDRIVE_CLOSE_MS = 5000,
    REDRIVE_WAIT_MS = 50,      /* slices of every wait, so that a stop is heard */
    REDRIVE_PROGRESS_MS = 200, /* progress() at most so often                   */
    REDRIVE_KEPT_BYTES = 4 << 10,
    REDRIVE_LINGER_MS = 5,
    DELIVERIES_SLOTS_MIN = 1024,
};

/* ---- pace */

struct pace pace_of(int64_t per_hour, int64_t now_us)
{
    const int64_t hour_us = INT64_C(3600) * 1000000, tenth_us = 100000;
    if (per_hour <= 0)
        return (struct pace){0};
    int64_t interval_us = hour_us / per_hour;
    if (interval_us == 0)
        interval_us = 1;
    return (struct pace){interval_us, interval_us < tenth_us ? tenth_us : 0, now_us};
}

int64_t pace_wait_us(struct pace *pace, int64_t now_us)
{
    if (pace->interval_us == 0)
        return 0;
    if (pace->next_us < now_us)
        pace->next_us = now_us; /* what was not used is gone: no burst after a pause */
    int64_t wait_us = pace->next_us - pace->burst_us - now_us;
    if (wait_us > 0)
        return wait_us;
    pace->next_us += pace->interval_us;
    return 0;
}

/* ---- deliveries that were seen: a set of hashes, 0 is a free place */

struct deliveries {
    uint64_t *slots;
    size_t slot_count, count;
    bool full;
};

static uint64_t *place(const struct deliveries *set, uint64_t hash)
{
    size_t at = (size_t)hash & (set->slot_count - 1);
    while (set->slots[at] && set->slots[at] != hash)
        at = (at + 1) & (set->slot_count - 1);
    return &set->slots[at];
}

/* Was it there? Past the bound, or out of memory, what is new is not kept and .full says so. */
static bool seen(struct deliveries *set, uint64_t hash)
{
    hash += hash == 0;
    if ((set->count + 1) * 4 > set->slot_count * 3 && set->count < REDRIVE_DELIVERIES_MAX) {
        struct deliveries larger = {.slot_count =
                                        set->slot_count ? set->slot_count * 2 : DELIVERIES_SLOTS_MIN};
        larger.slots = calloc(larger.slot_count, sizeof(*larger.slots));
        if (larger.slots) {
            for (size_t i = 0; i < set->slot_count; i++)
                if (set->slots[i])
                    *place(&larger, set->slots[i]) = set->slots[i];
            free(set->slots);
            set->slots = larger.slots;
            set->slot_count = larger.slot_count;
        }
    }
    if (set->slot_count == 0) {
        set->full = true;
        return false;
    }
    uint64_t *slot = place(set, hash);
    if (*slot)
        return true;
    if ((set->count + 1) * 4 > set->slot_count * 3) {
        set->full = true;
        return false;
    }
    *slot = hash;
    set->count++;
    return false;
}

/* ---- which letters, and where to */

struct targets {
    struct admin_topic *list;
    size_t count, last;
};

static enum outcome targets_find(const struct redrive_settings *settings, struct targets *targets,
                                 struct error *error)
{
    struct admin *admin = NULL;
    *targets = (struct targets){0};
    enum outcome outcome = admin_open(&settings->letters.client, &admin, error);
    if (outcome == OK)
        outcome = admin_topics(admin, REDRIVE_ADMIN_MS, &targets->list, &targets->count, error);
    admin_close(admin);
    return outcome;
}

static bool target_is(const struct admin_topic *topic, struct text name)
{
    return topic->partitions > 0 && text_is(name, topic->name);
}

static bool target_exists(struct targets *targets, struct text name)
{
    if (targets->last < targets->count && target_is(&targets->list[targets->last], name))
        return true;
    for (size_t i = 0; i < targets->count; i++)
        if (target_is(&targets->list[i], name)) {
            targets->last = i;
            return true;
        }
    return false;
}

static bool is_wanted(const struct redrive_settings *settings, const struct letter *letter)
{
    return letter->state == LETTER_OPEN || settings->again;
}

/* Its copy, if there can be one: a topic that is not there would hold up all that come after. */
static enum outcome copy_of(const struct redrive_settings *settings, struct letters *letters,
                            struct targets *targets, const struct letter *letter, int64_t now_us,
                            struct producer_record *ret, bool *ret_send, struct error *error)
{
    const struct letter_order order = {
        .drop = settings->drop,
        .reason = settings->reason,
        .by = settings->by,
        .first_delay_ms = settings->first_delay_ms,
        .now_us = now_us,
    };
    enum outcome outcome = letter_copy(letter, &order, letters_arena(letters), ret, ret_send, error);
    if (outcome == OK && *ret_send && !target_exists(targets, ret->topic))
        return error_reject(error, "topic", "there is no topic %.*s, or it needs the ACL Write on topic %.*s%s",
                            TEXT_ARG(ret->topic), TEXT_ARG(ret->topic),
                            letter->service ? " (RETRY_DELAYS as the service has them? weir topics create?)"
                                            : "");
    return outcome;
}

static void name_it(const struct letter *letter, const struct error *error, char *into, size_t bytes)
{
    const struct record *record = letter->record;
    if (into[0] == '\0')
        snprintf(into, bytes, "%.*s[%d]@%lld: %.160s", TEXT_ARG(record->topic), (int)record->partition,
                 (long long)record->offset, error->text);
}

/* ---- the forecast */

static void foresee_one(const struct redrive_settings *settings, struct letters *letters,
                        struct targets *targets, struct deliveries *deliveries, const struct letter *letter,
                        struct redrive_forecast *forecast)
{
    struct producer_record copy;
    struct error error;
    bool send;
    forecast->matching++;
    forecast->open += letter->state == LETTER_OPEN;
    forecast->redriven += letter->state == LETTER_REDRIVEN;
    forecast->dropped += letter->state == LETTER_DROPPED;
    causes_add(&forecast->causes, letter);
    if (!is_wanted(settings, letter)) {
        (void)seen(deliveries, letter_delivery(letter));
        return;
    }
    if (settings->limit && forecast->sent >= (size_t)settings->limit)
        return;
    if (copy_of(settings, letters, targets, letter, 0, &copy, &send, &error) != OK) {
        forecast->unreadable++;
        name_it(letter, &error, forecast->unreadable_first, sizeof(forecast->unreadable_first));
        return;
    }
    forecast->sent++;
    forecast->home += !letter->service;
    if (letter->service) /* what goes home is judged there */
        forecast->duplicates += seen(deliveries, letter_delivery(letter)) || letter->state != LETTER_OPEN;
}

static bool is_stopped(const struct redrive_settings *settings)
{
    return settings->letters.stopped && settings->letters.stopped(settings->letters.owner);
}

enum outcome redrive_foresee(const struct redrive_settings *settings, struct redrive_forecast *ret,
                             struct error *error)
{
    struct redrive_forecast forecast = {0};
    struct deliveries deliveries = {0};
    struct targets targets = {0};
    struct letters *letters = NULL;
    bool end = false;
    enum outcome outcome = causes_new(&forecast.causes, error);
    if (outcome != OK || (outcome = letters_open(&settings->letters, &letters, error)) != OK ||
        (outcome = targets_find(settings, &targets, error)) != OK ||
        (outcome = letters_rewind(letters, NULL, error)) != OK)
        goto out;
    while (!end) {
        const struct letter *letter;
        if (is_stopped(settings)) {
            outcome = error_retry(error, "stopped", "stopped before all was counted");
            goto out;
        }
        if ((outcome = letters_next(letters, &letter, &end, error)) != OK)
            goto out;
        if (letter)
            foresee_one(settings, letters, &targets, &deliveries, letter, &forecast);
    }
    causes_sort(&forecast.causes);
    forecast.duplicates_at_least = deliveries.full;
    if (settings->rate_per_hour > 0)
        forecast.seconds = (int64_t)((double)forecast.sent * 3600 / (double)settings->rate_per_hour + 0.5);
out:
    letters_close(letters);
    free(targets.list);
    free(deliveries.slots);
    if (outcome == OK)
        *ret = forecast;
    else
        causes_free(&forecast.causes);
    return outcome;
}

void redrive_forecast_free(struct redrive_forecast *forecast)
{
    causes_free(&forecast->causes);
}

/* ---- the run */

/* A letter on its way: first its copy, then its audit record. */
struct flight {
    enum { FLIGHT_FREE, FLIGHT_COPY, FLIGHT_AUDIT } stage;
    struct buffer story; /* the audit's record: key, then its JSON */
    size_t key_bytes, bytes;
    bool key_null;
    char name[96]; /* of the letter */
};

struct run {
    const struct redrive_settings *settings;
    struct letters *letters;
    struct targets targets;
    struct producer *producer;
    struct pace pace;
    struct redrive_done done;
    struct flight flights[REDRIVE_IN_FLIGHT_MAX];
    uint16_t free[REDRIVE_IN_FLIGHT_MAX];
    size_t free_count, bytes;
    int64_t heard_us, told_us;

    /* What the producer's thread reports. A flight has one report outstanding at most. */
    pthread_mutex_t lock;
    pthread_cond_t reported;
    struct report {
        uint16_t flight;
        enum outcome outcome;
        char reason[96];
    } reports[REDRIVE_IN_FLIGHT_MAX];
    size_t report_first, report_count;
};

static void on_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    struct run *run = owner;
    (void)partition, (void)offset;
    pthread_mutex_lock(&run->lock);
    struct report *report = &run->reports[(run->report_first + run->report_count) % REDRIVE_IN_FLIGHT_MAX];
    report->flight = (uint16_t)tag;
    report->outcome = outcome;
    snprintf(report->reason, sizeof(report->reason), "%s", reason ? reason : "");
    run->report_count++;
    pthread_cond_signal(&run->reported);
    pthread_mutex_unlock(&run->lock);
}

/* The next report, waiting at most wait_ms for it. */
static bool report_take(struct run *run, int wait_ms, struct report *ret)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += wait_ms * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&run->lock);
    while (run->report_count == 0 && wait_ms > 0)
        if (pthread_cond_timedwait(&run->reported, &run->lock, &until) == ETIMEDOUT)
            break;
    bool any = run->report_count > 0;
    if (any) {
        *ret = run->reports[run->report_first];
        run->report_first = (run->report_first + 1) % REDRIVE_IN_FLIGHT_MAX;
        run->report_count--;
    }
    pthread_mutex_unlock(&run->lock);
    return any;
}

static size_t in_flight(const struct run *run)
{
    return REDRIVE_IN_FLIGHT_MAX - run->free_count;
}

static void land(struct run *run, uint16_t number)
{
    struct flight *flight = &run->flights[number];
    flight->stage = FLIGHT_FREE;
    run->bytes -= flight->bytes;
    buffer_clear(&flight->story);
    if (flight->story.capacity > REDRIVE_KEPT_BYTES)
        buffer_free(&flight->story);
    run->free[run->free_count++] = number;
}

static enum outcome send(struct run *run, const struct producer_record *record, uint16_t number,
                         struct error *error)
{
    enum outcome outcome;
    /* The queue is larger than what is in flight: full only where librdkafka counts otherwise. */
    while ((outcome = producer_send(run->producer, record, number, error)) == RETRY) {
        struct timespec nap = {.tv_nsec = REDRIVE_WAIT_MS * 1000000L};
        if (clock_monotonic_us() - run->heard_us > REDRIVE_ACK_MS * INT64_C(1000))
            return RETRY;
        nanosleep(&nap, NULL);
    }
    return outcome;
}

static enum outcome audit_send(struct run *run, uint16_t number, struct error *error)
{
    struct flight *flight = &run->flights[number];
    const struct producer_record record = {
        .topic = TEXT(TOPIC_AUDIT),
        .partition = -1,
        .key = {flight->story.at, flight->key_bytes},
        .key_null = flight->key_null,
        .value = {flight->story.at + flight->key_bytes, flight->story.length - flight->key_bytes},
    };
    flight->stage = FLIGHT_AUDIT;
    enum outcome outcome = send(run, &record, number, error);
    if (outcome != OK)
        land(run, number);
    if (outcome == REJECT)
        return error_retry(error, "audit", "the audit record of %s can never be sent", flight->name);
    return outcome;
}

static enum outcome report_handle(struct run *run, const struct report *report, struct error *error)
{
    struct flight *flight = &run->flights[report->flight];
    run->heard_us = clock_monotonic_us();
    if (report->outcome != OK && (report->outcome != REJECT || flight->stage == FLIGHT_AUDIT))
        land(run, report->flight);
    if (report->outcome != OK && report->outcome != REJECT)
        return error_retry(error, "producer-fatal",
                           "Kafka may or may not have taken %s (%s); it stays open, run it again",
                           flight->name, report->reason);
    if (report->outcome == REJECT && flight->stage == FLIGHT_AUDIT)
        return error_retry(error, "audit", "the audit record of %s was refused: %s", flight->name,
                           report->reason);
    if (report->outcome == REJECT) {
        run->done.refused++;
        if (run->done.refused_first[0] == '\0')
            snprintf(run->done.refused_first, sizeof(run->done.refused_first), "%s: %s", flight->name,
                     report->reason);
        land(run, report->flight);
        return OK;
    }
    if (flight->stage == FLIGHT_COPY) {
        FAULT(redrive_after_ack);
        return audit_send(run, report->flight, error);
    }
    run->done.sent++;
    land(run, report->flight);
    return OK;
}

static void tell(struct run *run, bool at_once)
{
    int64_t now_us = clock_monotonic_us();
    if (!run->settings->progress || (!at_once && now_us - run->told_us < REDRIVE_PROGRESS_MS * INT64_C(1000)))
        return;
    run->told_us = now_us;
    run->settings->progress(run->settings->progress_owner, &run->done);
}

/* Handles what was reported, waiting at most wait_ms for the first of it. */
static enum outcome harvest(struct run *run, int wait_ms, struct error *error)
{
    struct report report;
    while (report_take(run, wait_ms, &report)) {
        enum outcome outcome = report_handle(run, &report, error);
        if (outcome != OK)
            return outcome;
        wait_ms = 0;
    }
    if (in_flight(run) == 0)
        run->heard_us = clock_monotonic_us();
    tell(run, false);
    if (clock_monotonic_us() - run->heard_us > REDRIVE_ACK_MS * INT64_C(1000))
        return error_retry(error, "kafka",
                           "Kafka has acknowledged nothing for %d s; what is open is sent by the next run",
                           REDRIVE_ACK_MS / 1000);
    return OK;
}

/* Until there is room for one more, and the rate allows it. False: stopped. */
static enum outcome wait_for_turn(struct run *run, bool *ret_go, struct error *error)
{
    int64_t wait_us;
    *ret_go = false;
    for (;;) {
        if (is_stopped(run->settings))
            return OK;
        bool room = run->free_count > 0 && run->bytes < REDRIVE_IN_FLIGHT_BYTES_MAX;
        wait_us = room ? pace_wait_us(&run->pace, clock_monotonic_us()) : REDRIVE_WAIT_MS * 1000;
        enum outcome outcome = harvest(
            run, wait_us >= REDRIVE_WAIT_MS * 1000 ? REDRIVE_WAIT_MS : (int)(wait_us + 999) / 1000, error);
        if (outcome != OK)
            return outcome;
        if (room && wait_us == 0)
            break;
    }
    *ret_go = true;
    return OK;
}

static void story_write(struct run *run, const struct letter *letter, const struct producer_record *copy,
                        bool sent, int64_t now_us, struct buffer *into)
{
    const struct audit_entry entry = {
        .action = run->settings->drop ? LETTER_DROPPED : LETTER_REDRIVEN,
        .service = text_of(letter->service),
        .topic = letter->record->topic,
        .partition = letter->record->partition,
        .offset = letter->record->offset,
        .event_id = letter->id,
        .key = letter->record->key,
        .key_null = letter->record->key_null,
        .fingerprint = letter->fingerprint,
        .to = sent ? copy->topic : TEXT(""),
        .reason = run->settings->drop ? text_of(run->settings->reason) : TEXT(""),
        .by = text_of(run->settings->by),
        .at_us = now_us,
        .run = text_of(run->done.run),
    };
    buffer_add_text(into, audit_cut(letter->record->key));
    audit_write(&entry, into);
}

static enum outcome send_one(struct run *run, const struct letter *letter, struct error *error)
{
    struct producer_record copy;
    bool sent;
    int64_t now_us = clock_wall_us();
    enum outcome outcome =
        copy_of(run->settings, run->letters, &run->targets, letter, now_us, &copy, &sent, error);
    if (outcome != OK) {
        run->done.unreadable++;
        name_it(letter, error, run->done.refused_first, sizeof(run->done.refused_first));
        return OK;
    }
    uint16_t number = run->free[--run->free_count];
    struct flight *flight = &run->flights[number];
    story_write(run, letter, &copy, sent, now_us, &flight->story);
    flight->key_null = letter->record->key_null;
    flight->key_bytes = audit_cut(letter->record->key).length;
    flight->bytes = letter->record->key.length + letter->record->value.length + flight->story.length;
    run->bytes += flight->bytes;
    snprintf(flight->name, sizeof(flight->name), "%.*s[%d]@%lld", TEXT_ARG(letter->record->topic),
             (int)letter->record->partition, (long long)letter->record->offset);
    if (flight->story.failed) {
        land(run, number);
        return error_fatal(error, "memory", "redrive: out of memory");
    }
    if (in_flight(run) == 1)
        run->heard_us = clock_monotonic_us();
    if (!sent)
        return audit_send(run, number, error);
    flight->stage = FLIGHT_COPY;
    outcome = send(run, &copy, number, error);
    if (outcome != OK)
        land(run, number);
    if (outcome != REJECT)
        return outcome;
    run->done.refused++; /* it can never be sent: too large above all */
    name_it(letter, error, run->done.refused_first, sizeof(run->done.refused_first));
    return OK;
}

static enum outcome send_all(struct run *run, struct error *error)
{
    const struct redrive_settings *settings = run->settings;
    bool end = false, go;
    while (!end) {
        const struct letter *letter;
        enum outcome outcome;
        if (is_stopped(settings)) {
            run->done.stopped = true;
            break;
        }
        /* What cannot be sent does not count: else those that lie in front would use the limit up in each run. */
        if (settings->limit && run->done.sent + in_flight(run) >= (size_t)settings->limit) {
            if (in_flight(run) == 0)
                break;
            if ((outcome = harvest(run, REDRIVE_WAIT_MS, error)) != OK)
                return outcome;
            continue;
        }
        outcome = letters_next(run->letters, &letter, &end, error);
        if (outcome == OK)
            outcome = harvest(run, 0, error);
        if (outcome != OK)
            return outcome;
        if (!letter)
            continue;
        if (!is_wanted(settings, letter)) {
            run->done.passed++;
            continue;
        }
        if ((outcome = wait_for_turn(run, &go, error)) != OK)
            return outcome;
        if (!go) {
            run->done.stopped = true;
            break;
        }
        if ((outcome = send_one(run, letter, error)) != OK)
            return outcome;
    }
    return OK;
}

static enum outcome run_open(struct run *run, struct error *error)
{
    const struct redrive_settings *settings = run->settings;
    static const char *const topics[] = {TOPIC_AUDIT, NULL};
    enum outcome outcome;
    if ((outcome = letters_open(&settings->letters, &run->letters, error)) != OK ||
        (outcome = targets_find(settings, &run->targets, error)) != OK)
        return outcome;
    if (!target_exists(&run->targets, TEXT(TOPIC_AUDIT))) {
        error_set(error, FATAL, "topic",
                  "there is no topic %s (weir topics create makes it), or it needs the ACL Write on topic %s",
                  TOPIC_AUDIT, TOPIC_AUDIT);
        error->exit_code = EXIT_CONFIG;
        return FATAL;
    }
    const struct producer_settings producer = {
        .client = settings->letters.client,
        .linger_ms = REDRIVE_LINGER_MS,
        .queue_records_max = REDRIVE_IN_FLIGHT_MAX * 2,
        .queue_kbytes_max = (REDRIVE_IN_FLIGHT_BYTES_MAX >> 10) * 4,
        .topics = topics,
    };
    if ((outcome = producer_open(&producer, on_report, run, &run->producer, error)) != OK)
        return outcome;
    return letters_rewind(run->letters, NULL, error);
}

enum outcome redrive_run(const struct redrive_settings *settings, struct redrive_done *ret,
                         struct error *error)
{
    *ret = (struct redrive_done){0};
    struct run *run = calloc(1, sizeof(*run));
    if (!run)
        return error_fatal(error, "memory", "redrive: out of memory");
    run->settings = settings;
    if (settings->run)
        snprintf(run->done.run, sizeof(run->done.run), "%s", settings->run);
    else
        (void)id_to_text(id_new(), run->done.run);
    for (uint16_t i = 0; i < REDRIVE_IN_FLIGHT_MAX; i++) {
        run->flights[i].story = buffer_of(64 << 10); /* of texts that are cut: audit.h */
        run->free[run->free_count++] = i;
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&run->reported, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&run->lock, NULL);

    enum outcome outcome = run_open(run, error);
    run->heard_us = clock_monotonic_us();
    run->pace = pace_of(settings->rate_per_hour, run->heard_us);
    if (outcome == OK)
        outcome = send_all(run, error);
    /* Also after a failure: what can still be settled need not be sent again. */
    struct error later;
    bool fatal = run->producer && producer_is_fatal(run->producer);
    int64_t finish_us =
        clock_monotonic_us() + (settings->finish_ms ? settings->finish_ms : REDRIVE_ACK_MS) * INT64_C(1000);
    while (run->producer && !fatal && in_flight(run) > 0 &&
           (!run->done.stopped || clock_monotonic_us() < finish_us)) {
        enum outcome last = harvest(run, REDRIVE_WAIT_MS, &later);
        if (last != OK) {
            if (outcome == OK && error)
                *error = later;
            outcome = outcome == OK ? last : outcome;
            break;
        }
    }
    tell(run, true);
    producer_close(run->producer, run->done.stopped && settings->finish_ms ? 0 : REDRIVE_CLOSE_MS);
    letters_close(run->letters);
    for (size_t i = 0; i < REDRIVE_IN_FLIGHT_MAX; i++)
        buffer_free(&run->flights[i].story);
    pthread_cond_destroy(&run->reported);
    pthread_mutex_destroy(&run->lock);
    free(run->targets.list);
    *ret = run->done;
    free(run);
    return outcome;
}

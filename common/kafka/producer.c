#include "kafka/producer.h"
#include "base/clock.h"
#include "kafka/handle.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    PRODUCER_QUEUE_RECORDS_MAX = 100000,
    PRODUCER_QUEUE_KBYTES_MAX = 64 << 10,
    PRODUCER_LINGER_MS = 0,
    PRODUCER_TOPICS_MAX = 256, /* kept handles; past it each send looks its topic up by name */
    PRODUCER_POLL_MS = 100,
    PRODUCER_METADATA_MS = 500,
    PRODUCER_CLOSE_MIN_MS = 200,
    PRODUCER_SAY_MS = 30000,      /* between two lines about a topic that is not there */
    PRODUCER_GATHERED_MAX = 2000, /* gathered records that go without waiting for those in flight … */
    PRODUCER_GATHER_US = 50000,   /* … as do those of which one was taken so long ago */
};

#define PRODUCER_GATHER_LINGER_MS "0.1"

/* A record that is gathered: taken, and not yet librdkafka's. */
struct gathered {
    struct gathered *next;
    rd_kafka_topic_t *topic;
    bool topic_kept; /* by the producer; otherwise let go of with the record */
    bool key_null, value_null;
    int32_t partition;
    uint64_t tag;
    int64_t timestamp_ms;
    rd_kafka_headers_t *headers;
    size_t key_length, value_length;
    char bytes[]; /* key, value */
};

struct producer {
    struct handle handle; /* librdkafka's opaque: first */
    producer_report_fn *report;
    void *owner;
    pthread_t thread;
    atomic_bool stopping, fatal, connected;
    atomic_bool denied;    /* fatal because the principal may not */
    char denied_text[256]; /* written once, before denied is set: librdkafka's own fatal text names no ACL */
    atomic_size_t in_flight; /* taken and not reported */
    atomic_size_t handed;    /* of these, librdkafka's */
    char fatal_text[256];    /* written once, before fatal is set */

    pthread_mutex_t lock; /* for those who wait in producer_flush(), and the fatal text */
    pthread_cond_t reported;
    int waiting;

    bool gather, whole;
    atomic_bool refused; /* set before fatal is */
    size_t queue_records_max, queue_bytes_max;
    pthread_mutex_t gather_lock; /* held while records are handed over, so that their order stays */
    struct gathered *gathered, **gathered_end;
    size_t gathered_count, gathered_bytes;
    int64_t gathered_since_us; /* the first of them, monotonic */
    int64_t said_us;           /* when the log was told why they wait; 0: never */

    /* The sender's thread only, after open: a lookup by name in librdkafka costs a lock and a search. */
    size_t topic_count, topic_last;
    rd_kafka_topic_t *topics[PRODUCER_TOPICS_MAX];
    struct text topic_names[PRODUCER_TOPICS_MAX]; /* librdkafka's copies */
};

/* ---- the producer's thread */

static void become_fatal(struct producer *producer, const char *text)
{
    pthread_mutex_lock(&producer->lock); /* the sender may find out at the same time */
    bool first = !atomic_load(&producer->fatal);
    if (first) {
        snprintf(producer->fatal_text, sizeof(producer->fatal_text), "%s", text);
        atomic_store_explicit(&producer->fatal, true, memory_order_release);
    }
    pthread_mutex_unlock(&producer->lock);
    if (first)
        handle_log(&producer->handle, 2, "FATAL", "producer: %s", text);
}

/* Said by itself: of several records in a request librdkafka's fatal error comes first, and hides it. */
static void become_denied(struct producer *producer, const char *text)
{
    pthread_mutex_lock(&producer->lock);
    bool first = !atomic_load(&producer->denied);
    if (first) {
        snprintf(producer->denied_text, sizeof(producer->denied_text), "%s", text);
        atomic_store_explicit(&producer->denied, true, memory_order_release);
    }
    pthread_mutex_unlock(&producer->lock);
}

static void gathered_free(struct gathered *record)
{
    if (record->headers)
        rd_kafka_headers_destroy(record->headers);
    if (!record->topic_kept)
        rd_kafka_topic_destroy(record->topic);
    free(record);
}

static rd_kafka_resp_err_t produce(struct producer *producer, rd_kafka_topic_t *topic, int32_t partition,
                                   const char *key, size_t key_length, const char *value, size_t value_length,
                                   int64_t timestamp_ms, rd_kafka_headers_t *headers, uint64_t tag)
{
    /* Counted before it is taken: its report may come before rd_kafka_producev() is back. */
    atomic_fetch_add_explicit(&producer->handed, 1, memory_order_seq_cst);
    /* The bare tags: rd_kafka.h's checking macros are a GNU extension that clang refuses under -Wpedantic. */
    rd_kafka_resp_err_t err = rd_kafka_producev(
        producer->handle.rk, RD_KAFKA_VTYPE_RKT, topic, RD_KAFKA_VTYPE_PARTITION,
        (int)(partition < 0 ? RD_KAFKA_PARTITION_UA : partition), RD_KAFKA_VTYPE_MSGFLAGS,
        (int)RD_KAFKA_MSG_F_COPY, RD_KAFKA_VTYPE_KEY, (const void *)key, key_length, RD_KAFKA_VTYPE_VALUE,
        (const void *)value, value_length, RD_KAFKA_VTYPE_TIMESTAMP, timestamp_ms, RD_KAFKA_VTYPE_HEADERS,
        headers, RD_KAFKA_VTYPE_OPAQUE, (void *)(uintptr_t)tag, RD_KAFKA_VTYPE_END);
    if (err)
        atomic_fetch_sub_explicit(&producer->handed, 1, memory_order_seq_cst);
    return err;
}

/* Why librdkafka did not take a record. */
static enum outcome refused(struct producer *producer, rd_kafka_resp_err_t err, struct text topic,
                            size_t bytes, struct error *error)
{
    if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
        return error_retry(error, "queue-full", "producer: its queue is full");
    if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
        return error_reject(error, "record-too-large", "record of %zu bytes is too large for Kafka", bytes);
    if (err == RD_KAFKA_RESP_ERR__FATAL || err == RD_KAFKA_RESP_ERR__STATE) {
        become_fatal(producer, rd_kafka_err2str(err));
        return error_fatal(error, "producer-fatal", "%s", producer->fatal_text);
    }
    if (handle_denied(err)) { /* known before it is sent: the broker has said so of the topic */
        char name[256], denial[256];
        snprintf(name, sizeof(name), "%.*s", TEXT_ARG(topic));
        handle_denial(err, "Write", "topic", name, denial, sizeof(denial));
        become_denied(producer, denial);
        become_fatal(producer, denial);
        return error_fatal(error, "producer-fatal", "%s", denial);
    }
    if (handle_outcome(err) == REJECT)
        return error_reject(error, "record-invalid", "producer: %s", rd_kafka_err2str(err));
    /* An unknown topic or partition above all: a broker that starts says so of topics that it has (P08). */
    return error_retry(error, "topic-unknown", "topic %.*s: %s", TEXT_ARG(topic), rd_kafka_err2str(err));
}

/* A full queue empties by itself. A topic that is not there is somebody's to mend, and all behind it waits.
 */
static void say_waiting(struct producer *producer, const struct error *why)
{
    int64_t now_us = clock_monotonic_us();
    if (strcmp(why->cause, "topic-unknown") != 0 ||
        (producer->said_us && now_us - producer->said_us < PRODUCER_SAY_MS * INT64_C(1000)))
        return;
    producer->said_us = now_us;
    handle_log(&producer->handle, 4, "TOPIC", "%s: %zu records wait for it and behind it", why->text,
               producer->gathered_count);
}

/* Hands all that is gathered to librdkafka, in order; one that is not taken for now stays, and what is behind
 * it. gather_lock held. */
static void hand_over(struct producer *producer)
{
    struct gathered *record;
    while ((record = producer->gathered) && !atomic_load(&producer->fatal)) {
        const char *key = record->key_null ? NULL : record->bytes;
        const char *value = record->value_null ? NULL : record->bytes + record->key_length;
        rd_kafka_resp_err_t err =
            produce(producer, record->topic, record->partition, key, record->key_length, value,
                    record->value_length, record->timestamp_ms, record->headers, record->tag);
        if (err) {
            struct error error;
            size_t bytes = record->key_length + record->value_length;
            enum outcome outcome =
                refused(producer, err, text_of(rd_kafka_topic_name(record->topic)), bytes, &error);
            if (outcome != REJECT) {
                say_waiting(producer, &error);
                return;
            }
            producer->report(producer->owner, record->tag, REJECT, -1, -1, error.text);
            atomic_fetch_sub_explicit(&producer->in_flight, 1, memory_order_release);
        } else {
            record->headers = NULL; /* taken only on success */
        }
        producer->gathered = record->next;
        if (!producer->gathered)
            producer->gathered_end = &producer->gathered;
        producer->gathered_count--;
        producer->gathered_bytes -= record->key_length + record->value_length;
        gathered_free(record);
    }
}

/* After a fatal error nothing is handed over any more. */
static void give_up_gathered(struct producer *producer)
{
    pthread_mutex_lock(&producer->gather_lock);
    struct gathered *record = producer->gathered;
    producer->gathered = NULL;
    producer->gathered_end = &producer->gathered;
    producer->gathered_count = producer->gathered_bytes = 0;
    pthread_mutex_unlock(&producer->gather_lock);
    for (struct gathered *next; record; record = next) {
        next = record->next;
        producer->report(producer->owner, record->tag, FATAL, -1, -1, producer->fatal_text);
        atomic_fetch_sub_explicit(&producer->in_flight, 1, memory_order_release);
        gathered_free(record);
    }
}

/* Nothing is in flight, or something waits too long for what is: a partition without a leader must not hold
 * the others up. gather_lock held. */
static bool hand_over_is_due(const struct producer *producer)
{
    return atomic_load_explicit(&producer->handed, memory_order_seq_cst) == 0 ||
           clock_monotonic_us() - producer->gathered_since_us >= PRODUCER_GATHER_US;
}

static void hand_over_when_due(struct producer *producer)
{
    if (!producer->gather)
        return;
    pthread_mutex_lock(&producer->gather_lock);
    if (producer->gathered && hand_over_is_due(producer))
        hand_over(producer);
    pthread_mutex_unlock(&producer->gather_lock);
}

/*
 * Only what certainly is in the log is OK: no error, or an error after which the record is known to be
 * persisted. Only what the broker refuses for what it is, is REJECT. All else is unknown, and what follows it
 * may have overtaken it: this producer ends there, and whoever keeps the records sends again from the first
 * that was not reported OK.
 */
static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk;
    struct producer *producer = opaque;
    enum outcome outcome = OK;
    const char *reason = NULL;
    char denial[256];
    if (message->err && rd_kafka_message_status(message) != RD_KAFKA_MSG_STATUS_PERSISTED) {
        outcome = handle_outcome(message->err) == REJECT ? REJECT : FATAL;
        if (outcome == REJECT && producer->whole) {
            atomic_store(&producer->refused, true);
            outcome = FATAL;
        }
        reason = rd_kafka_err2str(message->err);
        if (handle_denied(message->err)) {
            const char *topic = rd_kafka_topic_name(message->rkt);
            handle_denial(message->err, "Write", "topic", topic, denial, sizeof(denial));
            reason = denial;
            become_denied(producer, denial);
        }
        if (outcome == FATAL)
            become_fatal(producer, reason);
    }
    producer->report(producer->owner, (uint64_t)(uintptr_t)message->_private, outcome, message->partition,
                     message->offset >= 0 ? message->offset : -1, reason);
    atomic_fetch_sub_explicit(&producer->in_flight, 1, memory_order_release);
    if (atomic_fetch_sub_explicit(&producer->handed, 1, memory_order_seq_cst) == 1)
        hand_over_when_due(producer);
}

static void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
    struct producer *producer = opaque;
    if (err == RD_KAFKA_RESP_ERR__FATAL) {
        char text[256];
        rd_kafka_resp_err_t cause = rd_kafka_fatal_error(rk, text, sizeof(text));
        if (handle_denied(
                cause)) { /* a number for idempotent writing is given to who may write to any topic */
            handle_denial(cause, "Write", "any topic,", "or IdempotentWrite on the cluster", text,
                          sizeof(text));
            become_denied(producer, text);
        }
        become_fatal(producer, cause ? text : reason);
    } else if (handle_outcome((rd_kafka_resp_err_t)err) == FATAL) {
        /* Authentication and the like: librdkafka tries again for ever, and an operator may mend it. */
        handle_log(&producer->handle, 3, "ERROR", "producer: %s", reason);
    }
    if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
        atomic_store(&producer->connected, false);
}

static int on_statistics(rd_kafka_t *rk, char *json, size_t bytes, void *opaque)
{
    (void)rk;
    struct producer *producer = opaque;
    atomic_store(&producer->connected, handle_statistics_up(json, bytes));
    return 0;
}

static void wake_waiting(struct producer *producer)
{
    pthread_mutex_lock(&producer->lock);
    if (producer->waiting)
        pthread_cond_broadcast(&producer->reported);
    pthread_mutex_unlock(&producer->lock);
}

static void *producer_run(void *argument)
{
    struct producer *producer = argument;
    bool known = false;
    while (!atomic_load(&producer->stopping)) {
        /* The first send to a topic whose leader is not known is up to a second late on 2.0.2: ask before. */
        if (!known) {
            const struct rd_kafka_metadata *metadata;
            known = rd_kafka_metadata(producer->handle.rk, 0, NULL, &metadata, PRODUCER_METADATA_MS) ==
                    RD_KAFKA_RESP_ERR_NO_ERROR;
            if (known) {
                rd_kafka_metadata_destroy(metadata);
                atomic_store(&producer->connected, true);
            }
        }
        if (rd_kafka_poll(producer->handle.rk, known ? PRODUCER_POLL_MS : 0) > 0)
            wake_waiting(producer);
        hand_over_when_due(producer); /* what was not taken before */
        /* Nothing is sent any more after a fatal error, and without a time-out nothing would be reported
         * either. Again and again: a record may be on its way in while it ends. */
        if (atomic_load(&producer->fatal) && producer_in_flight(producer) > 0) {
            rd_kafka_purge(producer->handle.rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
            give_up_gathered(producer);
            wake_waiting(producer);
        }
    }
    return NULL;
}

/* ---- opening and closing */

static void producer_release(void *owner)
{
    struct producer *producer = owner;
    pthread_mutex_destroy(&producer->lock);
    pthread_mutex_destroy(&producer->gather_lock);
    pthread_cond_destroy(&producer->reported);
    free(producer);
}

static rd_kafka_topic_t *sending_topic(struct producer *producer, struct text name)
{
    if (producer->topic_last < producer->topic_count &&
        text_equal(producer->topic_names[producer->topic_last], name))
        return producer->topics[producer->topic_last];
    for (size_t i = 0; i < producer->topic_count; i++) {
        if (text_equal(producer->topic_names[i], name)) {
            producer->topic_last = i;
            return producer->topics[i];
        }
    }
    return NULL;
}

/* NULL where the name cannot be one, or memory is out; kept says that the caller need not let go of it. */
static rd_kafka_topic_t *sending_topic_add(struct producer *producer, struct text name, bool *ret_kept)
{
    char text[256];
    if (name.length == 0 || name.length >= sizeof(text))
        return NULL;
    memcpy(text, name.at, name.length);
    text[name.length] = '\0';
    rd_kafka_topic_t *topic = rd_kafka_topic_new(producer->handle.rk, text, NULL);
    *ret_kept = topic && producer->topic_count < PRODUCER_TOPICS_MAX;
    if (*ret_kept) {
        producer->topics[producer->topic_count] = topic;
        producer->topic_names[producer->topic_count++] = text_of(rd_kafka_topic_name(topic));
    }
    return topic;
}

enum outcome producer_open(const struct producer_settings *settings, producer_report_fn *report, void *owner,
                           struct producer **ret, struct error *error)
{
    const struct config *config = settings->client.config;
    int64_t linger_ms = settings->linger_ms;
    if (linger_ms == 0)
        linger_ms = config ? config_ms(config, "KAFKA_LINGER") : PRODUCER_LINGER_MS;
    int records_max = settings->queue_records_max ? settings->queue_records_max : PRODUCER_QUEUE_RECORDS_MAX;
    int kbytes_max = settings->queue_kbytes_max ? settings->queue_kbytes_max : PRODUCER_QUEUE_KBYTES_MAX;
    char linger[24], records[24], kbytes[24];
    /* Handed over together, sent together: without a moment's linger the first record of each partition goes
     * alone. No longer than that: librdkafka waits the last millisecond of it by polling without a pause. */
    if (settings->gather && linger_ms == 0)
        snprintf(linger, sizeof(linger), "%s", PRODUCER_GATHER_LINGER_MS);
    else
        snprintf(linger, sizeof(linger), "%lld", (long long)linger_ms);
    snprintf(records, sizeof(records), "%d", records_max);
    snprintf(kbytes, sizeof(kbytes), "%d", kbytes_max);
    const char *more[] = {"linger.ms", linger, "queue.buffering.max.messages", records,
                          "queue.buffering.max.kbytes", kbytes,
                          /* What is behind a batch that was refused must not pass it: fatal in librdkafka
                           * itself, at once, and not only when its report is heard. */
                          settings->alone ? "batch.num.messages" : "enable.gapless.guarantee",
                          settings->alone   ? "1"
                          : settings->whole ? "true"
                                            : "false",
                          NULL};

    struct producer *producer = calloc(1, sizeof(*producer));
    if (!producer)
        return error_fatal(error, "memory", "producer: out of memory");
    producer->report = report;
    producer->owner = owner;
    producer->gather = settings->gather;
    producer->whole = settings->whole && !settings->alone;
    producer->gathered_end = &producer->gathered;
    producer->queue_records_max = (size_t)records_max;
    producer->queue_bytes_max = (size_t)kbytes_max << 10;
    pthread_mutex_init(&producer->gather_lock, NULL);
    handle_init(&producer->handle, &settings->client);
    pthread_mutex_init(&producer->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&producer->reported, &attributes);
    pthread_condattr_destroy(&attributes);

    rd_kafka_conf_t *conf;
    enum outcome outcome =
        handle_conf(&producer->handle, &settings->client, HANDLE_PRODUCER, more, &conf, error);
    if (outcome != OK)
        goto out;
    rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_stats_cb(conf, on_statistics);
    if ((outcome = handle_open(&producer->handle, HANDLE_PRODUCER, conf, error)) != OK)
        goto out;
    for (const char *const *topic = settings->topics; topic && *topic; topic++) {
        bool kept;
        if (!sending_topic(producer, text_of(*topic)))
            (void)sending_topic_add(producer, text_of(*topic), &kept);
        if (producer->topic_count == PRODUCER_TOPICS_MAX)
            break;
    }
    if (pthread_create(&producer->thread, NULL, producer_run, producer) != 0) {
        outcome = error_fatal(error, "memory", "producer: no thread");
        for (size_t i = 0; i < producer->topic_count; i++)
            rd_kafka_topic_destroy(producer->topics[i]);
        handle_destroy(&producer->handle, PRODUCER_CLOSE_MIN_MS, producer_release, producer);
        return outcome;
    }
    *ret = producer;
    return OK;
out:
    pthread_mutex_destroy(&producer->handle.log_lock);
    producer_release(producer);
    return outcome;
}

static struct timespec from_now(int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (timeout_ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    return until;
}

bool producer_flush(struct producer *producer, int timeout_ms)
{
    struct timespec until = from_now(timeout_ms);
    producer_go(producer);
    pthread_mutex_lock(&producer->lock);
    producer->waiting++;
    while (producer_in_flight(producer) > 0)
        if (pthread_cond_timedwait(&producer->reported, &producer->lock, &until) == ETIMEDOUT)
            break;
    producer->waiting--;
    pthread_mutex_unlock(&producer->lock);
    return producer_in_flight(producer) == 0;
}

void producer_close(struct producer *producer, int timeout_ms)
{
    if (!producer)
        return;
    int64_t start_us = clock_monotonic_us();
    (void)producer_flush(producer, timeout_ms);
    atomic_store(&producer->stopping, true);
    rd_kafka_yield(producer->handle.rk);
    pthread_join(producer->thread, NULL);
    /* From here on nobody serves reports: what is left ends unreported, in the log or not. */
    for (struct gathered *record = producer->gathered, *next; record; record = next) {
        next = record->next;
        gathered_free(record);
    }
    producer->gathered = NULL;
    rd_kafka_purge(producer->handle.rk,
                   RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
    for (size_t i = 0; i < producer->topic_count; i++)
        rd_kafka_topic_destroy(producer->topics[i]);
    int64_t left_ms = timeout_ms - (clock_monotonic_us() - start_us) / 1000;
    handle_destroy(&producer->handle, left_ms > PRODUCER_CLOSE_MIN_MS ? (int)left_ms : PRODUCER_CLOSE_MIN_MS,
                   producer_release, producer);
}

/* ---- sending */

static rd_kafka_headers_t *headers_copy(const struct producer_record *record)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(record->header_count);
    for (size_t i = 0; i < record->header_count; i++) {
        const struct header *header = &record->headers[i];
        /* An empty value must not become a null one, nor a null one empty. */
        rd_kafka_header_add(headers, header->name.at, (ssize_t)header->name.length, header->value.at,
                            (ssize_t)header->value.length);
    }
    return headers;
}

static enum outcome gather(struct producer *producer, const struct producer_record *record,
                           rd_kafka_topic_t *topic, bool topic_kept, uint64_t tag, struct error *error)
{
    size_t key_length = record->key_null ? 0 : record->key.length;
    size_t value_length = record->value_null ? 0 : record->value.length;
    pthread_mutex_lock(&producer->gather_lock);
    bool room = producer_in_flight(producer) < producer->queue_records_max &&
                producer->gathered_bytes < producer->queue_bytes_max;
    pthread_mutex_unlock(&producer->gather_lock);
    struct gathered *copy = room ? malloc(sizeof(*copy) + key_length + value_length) : NULL;
    if (!copy) {
        if (!topic_kept)
            rd_kafka_topic_destroy(topic);
        return error_retry(error, "queue-full", "producer: its queue is full");
    }
    *copy = (struct gathered){
        .topic = topic,
        .topic_kept = topic_kept,
        .key_null = record->key_null,
        .value_null = record->value_null,
        .partition = record->partition,
        .tag = tag,
        .timestamp_ms = record->timestamp_ms,
        .headers = record->header_count ? headers_copy(record) : NULL,
        .key_length = key_length,
        .value_length = value_length,
    };
    if (key_length)
        memcpy(copy->bytes, record->key.at, key_length);
    if (value_length)
        memcpy(copy->bytes + key_length, record->value.at, value_length);
    atomic_fetch_add_explicit(&producer->in_flight, 1, memory_order_relaxed);
    pthread_mutex_lock(&producer->gather_lock);
    if (!producer->gathered)
        producer->gathered_since_us = clock_monotonic_us();
    *producer->gathered_end = copy;
    producer->gathered_end = &copy->next;
    producer->gathered_count++;
    producer->gathered_bytes += key_length + value_length;
    pthread_mutex_unlock(&producer->gather_lock);
    return OK;
}

void producer_go(struct producer *producer)
{
    if (!producer->gather)
        return;
    pthread_mutex_lock(&producer->gather_lock);
    if (producer->gathered_count >= PRODUCER_GATHERED_MAX || hand_over_is_due(producer))
        hand_over(producer);
    pthread_mutex_unlock(&producer->gather_lock);
}

enum outcome producer_send(struct producer *producer, const struct producer_record *record, uint64_t tag,
                           struct error *error)
{
    if (atomic_load_explicit(&producer->fatal, memory_order_acquire))
        return error_fatal(error, "producer-fatal", "%s", producer->fatal_text);

    bool kept = true;
    rd_kafka_topic_t *topic = sending_topic(producer, record->topic);
    if (!topic && !(topic = sending_topic_add(producer, record->topic, &kept)))
        return error_reject(error, "topic", "no such topic name: %.*s", TEXT_ARG(record->topic));
    if (producer->gather)
        return gather(producer, record, topic, kept, tag, error);
    rd_kafka_headers_t *headers = record->header_count ? headers_copy(record) : NULL;

    atomic_fetch_add_explicit(&producer->in_flight, 1, memory_order_relaxed);
    const char *key = record->key_null ? NULL : record->key.length ? record->key.at : "";
    const char *value = record->value_null ? NULL : record->value.length ? record->value.at : "";
    rd_kafka_resp_err_t err =
        produce(producer, topic, record->partition, key, key ? record->key.length : 0, value,
                value ? record->value.length : 0, record->timestamp_ms, headers, tag);
    if (!kept)
        rd_kafka_topic_destroy(topic);
    if (!err)
        return OK;

    atomic_fetch_sub_explicit(&producer->in_flight, 1, memory_order_release);
    if (headers)
        rd_kafka_headers_destroy(headers); /* taken only on success */
    return refused(producer, err, record->topic, record->value.length + record->key.length, error);
}

size_t producer_in_flight(const struct producer *producer)
{
    return atomic_load_explicit(&producer->in_flight, memory_order_acquire);
}

bool producer_is_fatal(const struct producer *producer)
{
    return atomic_load_explicit(&producer->fatal, memory_order_acquire);
}

const char *producer_denied(const struct producer *producer)
{
    return producer_is_fatal(producer) && atomic_load_explicit(&producer->denied, memory_order_acquire)
               ? producer->denied_text
               : NULL;
}

bool producer_refused(const struct producer *producer)
{
    return atomic_load(&producer->refused);
}

bool producer_connected(const struct producer *producer)
{
    return atomic_load(&producer->connected);
}

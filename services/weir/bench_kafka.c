/* OrderPlaced straight to `orders`, as an upstream system's producer. Accepted is what all in-sync replicas
 * have. */
#include "bench.h"
#include "bench_load.h"

#include "base/clock.h"
#include "kafka/producer.h"
#include "wire/event.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum {
    QUEUE_RECORDS_MAX = 200000,
    QUEUE_KBYTES_MAX = 256 << 10,
    CLOSE_MS = 2000,
    READY_MS = 10000,
    HEADERS_MAX = 8,
};

struct bench_kafka {
    struct producer *producer;
    const struct event_type *type;
    int32_t schema_id;
    struct buffer value;
    pthread_mutex_t lock;    /* held by a report while it looks at an order: for the load */
    struct bench_load *load; /* whose orders are reported on; NULL between steps */
    atomic_bool failed;
    struct error error; /* written once, before failed is set */
    int64_t taken_us;   /* when the producer last took one; what it does not take waits for it */
    bool full;
};

static void on_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    struct bench_kafka *kafka = owner;
    (void)partition;
    (void)offset;
    if (outcome == FATAL && !atomic_load(&kafka->failed)) {
        error_set(&kafka->error, OUTAGE, "kafka", "the producer is done for: %s",
                  reason ? reason : "unknown");
        atomic_store(&kafka->failed, true);
    }
    int64_t now_us = clock_monotonic_us();
    pthread_mutex_lock(&kafka->lock);
    struct bench_load *load = kafka->load;
    uint32_t index = (uint32_t)tag - (load ? load->first : 0);
    bool ours = load && index < load->count; /* else of a step that was given up */
    if (ours && outcome == OK)
        bench_track_accepted(load->track, index, now_us);
    else if (ours)
        bench_track_refused(load->track, index);
    pthread_mutex_unlock(&kafka->lock);
}

static void report_to(struct bench_kafka *kafka, struct bench_load *load)
{
    pthread_mutex_lock(&kafka->lock);
    kafka->load = load;
    pthread_mutex_unlock(&kafka->lock);
}

/* False where the producer takes no more for now: the order is made again, the same. */
static bool send(struct bench_kafka *kafka, uint32_t number, const struct bench_draft *draft)
{
    char time[CLOCK_RFC3339_BYTES_MAX], trace[HEADER_TRACEPARENT_BYTES + 1];
    struct error error;
    struct text id = draft->placed.order_id;
    buffer_clear(&kafka->value);
    frame_write(&kafka->value, kafka->schema_id);
    if (codec_encode(kafka->type->codec, &draft->placed, &kafka->value, &error) != OK)
        return true; /* it cannot be: what is drawn fits */
    const struct header headers[HEADERS_MAX] = {
        {TEXT(HEADER_SPECVERSION), TEXT("1.0")},
        {TEXT(HEADER_ID), id},
        {TEXT(HEADER_SOURCE), TEXT("/weir/bench")},
        {TEXT(HEADER_TYPE), TEXT("weir.OrderPlaced")},
        {TEXT(HEADER_TIME), text_of(clock_to_rfc3339(draft->placed.placed_at, time))},
        {TEXT(HEADER_SUBJECT), id},
        {TEXT(HEADER_CONTENT_TYPE), TEXT("application/avro")},
        {TEXT(HEADER_TRACEPARENT), traceparent_next(TEXT(""), id_from_text(id), trace)},
    };
    const struct producer_record record = {
        .topic = TEXT("orders"),
        .partition = -1,
        .key = id,
        .value = buffer_text(&kafka->value),
        .headers = headers,
        .header_count = HEADERS_MAX,
    };
    return producer_send(kafka->producer, &record, number, &error) != RETRY;
}

/* As long as the producer takes them. */
static void send_due(struct bench_kafka *kafka, struct bench_load *load)
{
    struct bench_draft draft;
    bool sent = false;
    int64_t now_us;
    while (!atomic_load(&kafka->failed) && bench_load_due(load, now_us = clock_monotonic_us())) {
        /* Room in the producer is what a free connection is elsewhere. */
        if (producer_in_flight(kafka->producer) >= QUEUE_RECORDS_MAX) {
            kafka->full = true;
            break;
        }
        if (kafka->full)
            kafka->taken_us = now_us;
        kafka->full = false;
        size_t index = bench_load_take(load, kafka->taken_us, now_us, &draft);
        while (!send(kafka, load->first + (uint32_t)index, &draft) &&
               now_us < atomic_load(&load->give_up_us)) {
            const struct timespec tick = {.tv_nsec = BENCH_TICK_US * 1000};
            clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
            now_us = clock_monotonic_us();
        }
        sent = true;
    }
    if (sent)
        producer_go(kafka->producer);
}

void bench_kafka_run(struct bench_kafka *kafka, struct bench_load *load)
{
    report_to(kafka, load);
    for (;;) {
        int64_t now_us = clock_monotonic_us();
        send_due(kafka, load);
        bool all_reported = producer_in_flight(kafka->producer) == 0;
        if ((all_reported && bench_load_over(load, now_us)) || now_us > atomic_load(&load->give_up_us) ||
            atomic_load(&kafka->failed))
            break;
        int64_t wait_us = bench_load_wait_us(load, clock_monotonic_us());
        wait_us = wait_us < 0 || wait_us > BENCH_POLL_US ? BENCH_POLL_US
                  : wait_us < BENCH_TICK_US              ? BENCH_TICK_US
                                                         : wait_us;
        const struct timespec wait = {.tv_nsec = wait_us * 1000};
        clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
    }
    report_to(kafka, NULL);
}

const struct error *bench_kafka_failed(struct bench_kafka *kafka)
{
    return atomic_load(&kafka->failed) ? &kafka->error : NULL;
}

enum outcome bench_kafka_open(const struct client_settings *client, struct registry *registry,
                              struct bench_kafka **ret, struct error *error)
{
    static const char *const topics[] = {"orders", NULL};
    const struct producer_settings settings = {
        .client = *client,
        .queue_records_max = QUEUE_RECORDS_MAX * 2, /* it is never full of what is in flight here */
        .queue_kbytes_max = QUEUE_KBYTES_MAX,
        .gather = true,
        .topics = topics,
    };
    struct bench_kafka *kafka = calloc(1, sizeof(*kafka));
    if (!kafka)
        return error_fatal(error, "memory", "out of memory");
    pthread_mutex_init(&kafka->lock, NULL);
    kafka->type = event_type_find(TEXT("OrderPlaced"));
    kafka->value = buffer_of(CODEC_ENCODED_BYTES_MAX);
    enum outcome outcome = registry_id(registry, kafka->type, &kafka->schema_id, error);
    if (outcome == OK)
        outcome = producer_open(&settings, on_report, kafka, &kafka->producer, error);
    /* Until the topic's leaders are known what is sent would wait for that. */
    for (int64_t until_us = clock_monotonic_us() + READY_MS * INT64_C(1000);
         outcome == OK && !producer_connected(kafka->producer);) {
        const struct timespec tick = {.tv_nsec = BENCH_POLL_US * 1000};
        clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
        if (clock_monotonic_us() > until_us)
            outcome = error_outage(error, "kafka", "no broker answers");
    }
    if (outcome == OK)
        *ret = kafka;
    else
        bench_kafka_close(kafka);
    return outcome;
}

void bench_kafka_close(struct bench_kafka *kafka)
{
    if (!kafka)
        return;
    if (kafka->producer)
        producer_close(kafka->producer, CLOSE_MS);
    buffer_free(&kafka->value);
    pthread_mutex_destroy(&kafka->lock);
    free(kafka);
}

/*
 * What Kafka and librdkafka do with no work behind them, over records of the same size and headers as an
 * event of inventory's:
 *
 *     floor_kafka produce BOOTSTRAP TOPIC EVENTS        as fast as it goes, until all are acknowledged
 *     floor_kafka consume BOOTSTRAP TOPIC EVENTS        reads so many from the beginning and drops them
 *     floor_kafka trip BOOTSTRAP TOPIC EVENTS RATE      so many a second at equal distances: from when one
 * was due until it was read
 *
 * The properties are those of floor_inventory. Prints a JSON object; times in µs.
 */
#include "floor/hdr_json.h"
#include "store/inventory_work.h"

#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { BATCH_MAX = 1000, PARTITIONS_MAX = 256, POLL_MS = 100, IDLE_SECONDS_MAX = 60, TIME_OUT_MS = 10000 };

static size_t acknowledged;

static void give_up(const char *what, const char *why)
{
    fprintf(stderr, "floor_kafka: %s: %s\n", what, why);
    exit(70);
}

static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk, (void)opaque;
    if (message->err)
        give_up("produce", rd_kafka_err2str(message->err));
    acknowledged++;
}

static rd_kafka_t *client(rd_kafka_type_t type, const char *bootstrap, const char *const *properties)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    const char *const common[] = {"bootstrap.servers",
                                  bootstrap,
                                  "socket.nagle.disable",
                                  "true",
                                  "log.connection.close",
                                  "false",
                                  NULL};
    const char *const *lists[] = {common, properties};
    for (int list = 0; list < 2; list++)
        for (const char *const *pair = lists[list]; *pair; pair += 2)
            if (rd_kafka_conf_set(conf, pair[0], pair[1], text, sizeof(text)) != RD_KAFKA_CONF_OK)
                give_up("librdkafka", text);
    if (type == RD_KAFKA_PRODUCER)
        rd_kafka_conf_set_dr_msg_cb(conf, on_report);
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof(text));
    if (!rk)
        give_up("librdkafka", text);
    return rk;
}

static rd_kafka_t *producer_open(const char *bootstrap, const char *topic, const char *linger_ms,
                                 rd_kafka_topic_t **ret)
{
    const char *const properties[] = {"enable.idempotence",
                                      "true",
                                      "acks",
                                      "all",
                                      "partitioner",
                                      "murmur2_random",
                                      "linger.ms",
                                      linger_ms,
                                      "batch.size",
                                      "524288",
                                      "queue.buffering.max.messages",
                                      "100000",
                                      NULL};
    rd_kafka_t *producer = client(RD_KAFKA_PRODUCER, bootstrap, properties);
    *ret = rd_kafka_topic_new(producer, topic, NULL);
    const struct rd_kafka_metadata *metadata;
    if (!*ret || rd_kafka_metadata(producer, 0, *ret, &metadata, TIME_OUT_MS))
        give_up("librdkafka", "no metadata");
    rd_kafka_metadata_destroy(metadata);
    return producer;
}

static void produce(rd_kafka_t *producer, rd_kafka_topic_t *topic, const struct arrival *event)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(HEADERS);
    for (size_t i = 0; i < HEADERS; i++)
        rd_kafka_header_add(headers, event->headers[i].name.at, (ssize_t)event->headers[i].name.length,
                            event->headers[i].value.at, (ssize_t)event->headers[i].value.length);
    while (rd_kafka_producev(producer, RD_KAFKA_VTYPE_RKT, topic, RD_KAFKA_VTYPE_KEY,
                             (const void *)event->order_id, (size_t)ID_TEXT_BYTES, RD_KAFKA_VTYPE_VALUE,
                             (const void *)event->value, (size_t)VALUE_BYTES, RD_KAFKA_VTYPE_MSGFLAGS,
                             (int)RD_KAFKA_MSG_F_COPY, RD_KAFKA_VTYPE_HEADERS, headers,
                             RD_KAFKA_VTYPE_END) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
        rd_kafka_poll(producer, POLL_MS);
}

/* All partitions of the topic, from the beginning or from the end. */
static rd_kafka_t *consumer_open(const char *bootstrap, const char *topic, bool from_the_end)
{
    const char *const properties[] = {"group.id",
                                      "floor-kafka",
                                      "enable.auto.commit",
                                      "false",
                                      "check.crcs",
                                      "true",
                                      "isolation.level",
                                      "read_committed",
                                      "queued.min.messages",
                                      "1000000",
                                      "queued.max.messages.kbytes",
                                      "65536",
                                      NULL};
    rd_kafka_t *consumer = client(RD_KAFKA_CONSUMER, bootstrap, properties);
    rd_kafka_poll_set_consumer(consumer);
    rd_kafka_topic_t *handle = rd_kafka_topic_new(consumer, topic, NULL);
    const struct rd_kafka_metadata *metadata;
    if (rd_kafka_metadata(consumer, 0, handle, &metadata, TIME_OUT_MS) || metadata->topic_cnt != 1)
        give_up("librdkafka", "no metadata");
    rd_kafka_topic_partition_list_t *partitions = rd_kafka_topic_partition_list_new(PARTITIONS_MAX);
    for (int i = 0; i < metadata->topics[0].partition_cnt && i < PARTITIONS_MAX; i++) {
        int64_t low = 0, high = 0;
        if (rd_kafka_query_watermark_offsets(consumer, topic, i, &low, &high, TIME_OUT_MS))
            give_up("librdkafka", "no watermarks");
        rd_kafka_topic_partition_list_add(partitions, topic, i)->offset = from_the_end ? high : low;
    }
    rd_kafka_metadata_destroy(metadata);
    rd_kafka_topic_destroy(handle);
    if (rd_kafka_assign(consumer, partitions))
        give_up("librdkafka", "cannot assign");
    rd_kafka_topic_partition_list_destroy(partitions);
    return consumer;
}

static void say(const char *mode, size_t events, struct timing from)
{
    struct timing to = timing_now();
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"mode\":\"%s\",\"events\":%zu,\"seconds\":%.6f,\"cpu_us\":%.0f,\"peak_kib\":%ld", mode, events,
           to.wall - from.wall, (to.cpu - from.cpu) * 1e6, usage.ru_maxrss);
}

static void produce_all(const char *bootstrap, const char *name, size_t events)
{
    rd_kafka_topic_t *topic;
    rd_kafka_t *producer = producer_open(bootstrap, name, "1", &topic);
    struct timing timing = timing_begin();
    for (size_t i = 0; i < events; i++) {
        struct arrival event;
        arrival_make(&event, i);
        produce(producer, topic, &event);
        if (i % BATCH_MAX == 0)
            rd_kafka_poll(producer, 0);
    }
    while (acknowledged < events)
        rd_kafka_poll(producer, POLL_MS);
    say("produce", events, timing);
}

static void consume_all(const char *bootstrap, const char *name, size_t events)
{
    rd_kafka_t *consumer = consumer_open(bootstrap, name, false);
    struct timing timing = {0};
    size_t count = 0, first = 0;
    int idle_ms = 0;
    while (count < events) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, POLL_MS);
        if (!message && (idle_ms += POLL_MS) > IDLE_SECONDS_MAX * 1000)
            give_up("consume", "nothing comes any more");
        if (!message)
            continue;
        if (message->err)
            give_up("consume", rd_kafka_message_errstr(message));
        rd_kafka_message_destroy(message);
        idle_ms = 0;
        if (++count == 1) {
            timing = timing_begin();
            first = count;
        }
    }
    say("consume", count - first, timing);
}

struct trip {
    rd_kafka_t *consumer;
    size_t events;
    atomic_bool ready;
    struct hdr *latency;
};

static int64_t clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void *trip_read(void *owner)
{
    struct trip *trip = owner;
    int idle_ms = 0;
    for (size_t count = 0; count < trip->events;) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(trip->consumer, POLL_MS);
        if (!message && (idle_ms += POLL_MS) > IDLE_SECONDS_MAX * 1000)
            give_up("trip", "nothing comes any more");
        if (!message)
            continue;
        if (message->err)
            give_up("trip", rd_kafka_message_errstr(message));
        int64_t due_us;
        memcpy(&due_us, message->payload, sizeof(due_us));
        hdr_add(trip->latency, clock_us() - due_us);
        rd_kafka_message_destroy(message);
        idle_ms = 0;
        count++;
    }
    return NULL;
}

static void trips(const char *bootstrap, const char *name, size_t events, double rate)
{
    static struct trip trip;
    rd_kafka_topic_t *topic;
    rd_kafka_t *producer = producer_open(bootstrap, name, "0", &topic);
    trip.consumer = consumer_open(bootstrap, name, true);
    trip.events = events;
    trip.latency = hdr_new();
    if (!trip.latency)
        give_up("memory", "none left");
    pthread_t reader;
    if (pthread_create(&reader, NULL, trip_read, &trip))
        give_up("thread", "none");
    rd_kafka_poll(producer, TIME_OUT_MS / 10); /* its first fetches stand at the end by now */
    struct timing timing = timing_begin();
    int64_t begun_us = clock_us();
    for (size_t i = 0; i < events; i++) {
        int64_t due_us = begun_us + (int64_t)((double)i * 1e6 / rate), left_us = due_us - clock_us();
        struct arrival event;
        arrival_make(&event, i);
        memcpy(event.value, &due_us, sizeof(due_us));
        if (left_us > 0)
            nanosleep(&(struct timespec){left_us / 1000000, left_us % 1000000 * 1000}, NULL);
        produce(producer, topic, &event);
        rd_kafka_poll(producer, 0);
    }
    while (acknowledged < events)
        rd_kafka_poll(producer, POLL_MS);
    pthread_join(reader, NULL);
    say("trip", events, timing);
    printf(",\"rate\":%.0f,\"buckets\":", rate);
    hdr_print_json(trip.latency, stdout);
}

int main(int argc, char **argv)
{
    size_t events = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
    double rate = argc > 5 ? strtod(argv[5], NULL) : 0;
    if (events && argc == 5 && strcmp(argv[1], "produce") == 0)
        produce_all(argv[2], argv[3], events);
    else if (events && argc == 5 && strcmp(argv[1], "consume") == 0)
        consume_all(argv[2], argv[3], events);
    else if (events && rate > 0 && argc == 6 && strcmp(argv[1], "trip") == 0)
        trips(argv[2], argv[3], events, rate);
    else {
        fputs("usage: floor_kafka produce|consume|trip BOOTSTRAP TOPIC EVENTS [RATE]\n", stderr);
        return 64;
    }
    puts("}");
    fflush(stdout);
    _Exit(0); /* nothing is measured any more, and nothing is in flight */
}

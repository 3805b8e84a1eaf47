#include "support/broker.h"

#include <assert.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BROKER_NODES_MAX = 9, BROKER_WAIT_MS = 10000 };

struct broker {
    rd_kafka_t *host; /* the mock cluster lives inside a handle */
    rd_kafka_mock_cluster_t *cluster;
    int nodes;
};

static void be_silent(const rd_kafka_t *handle, int level, const char *facility, const char *text)
{
    (void)handle, (void)level, (void)facility, (void)text;
}

static rd_kafka_t *handle_new(rd_kafka_type_t type, const char *const *pairs)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, be_silent);
    for (; pairs[0]; pairs += 2) {
        rd_kafka_conf_res_t result = rd_kafka_conf_set(conf, pairs[0], pairs[1], text, sizeof(text));
        assert(result == RD_KAFKA_CONF_OK);
    }
    rd_kafka_t *handle = rd_kafka_new(type, conf, text, sizeof(text));
    assert(handle);
    return handle;
}

struct broker *broker_start(int nodes, const char *const *topics, int partitions)
{
    assert(broker_threads_are_seen == 0);
    assert(nodes > 0 && nodes <= BROKER_NODES_MAX);
    struct broker *broker = calloc(1, sizeof(*broker));
    assert(broker);
    broker->nodes = nodes;
    broker->host = handle_new(RD_KAFKA_PRODUCER, (const char *[]){"client.id", "mock", NULL});
    broker->cluster = rd_kafka_mock_cluster_new(broker->host, nodes);
    assert(broker->cluster);
    for (; topics && *topics; topics++)
        broker_add_topic(broker, *topics, partitions);
    return broker;
}

void broker_stop(struct broker *broker)
{
    if (!broker)
        return;
    rd_kafka_mock_cluster_destroy(broker->cluster);
    rd_kafka_destroy(broker->host);
    free(broker);
}

const char *broker_bootstrap(const struct broker *broker)
{
    return rd_kafka_mock_cluster_bootstraps(broker->cluster);
}

void broker_add_topic(struct broker *broker, const char *topic, int partitions)
{
    rd_kafka_resp_err_t err =
        rd_kafka_mock_topic_create(broker->cluster, topic, partitions, broker->nodes > 3 ? 3 : broker->nodes);
    assert(!err);
}

void broker_down(struct broker *broker)
{
    for (int node = 1; node <= broker->nodes; node++)
        rd_kafka_mock_broker_set_down(broker->cluster, node);
}

void broker_up(struct broker *broker)
{
    for (int node = 1; node <= broker->nodes; node++)
        rd_kafka_mock_broker_set_up(broker->cluster, node);
}

void broker_delay(struct broker *broker, int delay_ms)
{
    for (int node = 1; node <= broker->nodes; node++)
        rd_kafka_mock_broker_set_rtt(broker->cluster, node, delay_ms);
}

void broker_fail(struct broker *broker, enum broker_request request, int error, int times)
{
    for (int i = 0; i < times; i++)
        rd_kafka_mock_push_request_errors(broker->cluster, (int16_t)request, 1, (rd_kafka_resp_err_t)error);
}

void broker_heal(struct broker *broker, enum broker_request request)
{
    rd_kafka_mock_clear_request_errors(broker->cluster, (int16_t)request);
}

int64_t broker_committed(struct broker *broker, const char *group, const char *topic, int32_t partition)
{
    rd_kafka_t *handle =
        handle_new(RD_KAFKA_CONSUMER,
                   (const char *[]){"bootstrap.servers", broker_bootstrap(broker), "group.id", group, NULL});
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition);
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__TIMED_OUT;
    for (int i = 0; i < 5 && err; i++) /* an error that a test has pushed may hit this request as well */
        err = rd_kafka_committed(handle, list, BROKER_WAIT_MS / 5);
    assert(!err);
    int64_t offset = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_destroy_flags(handle, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    return offset < 0 ? -1 : offset;
}

void broker_write(struct broker *broker, const char *topic, int32_t partition, int first, int count)
{
    rd_kafka_t *handle = handle_new(RD_KAFKA_PRODUCER,
                                    (const char *[]){"bootstrap.servers", broker_bootstrap(broker),
                                                     "linger.ms", "20", "enable.idempotence", "true", NULL});
    for (int i = first; i < first + count; i++) {
        char text[16];
        size_t length = (size_t)snprintf(text, sizeof(text), "%d", i);
        rd_kafka_resp_err_t err;
        do {
            err = rd_kafka_producev(handle, RD_KAFKA_VTYPE_TOPIC, topic, RD_KAFKA_VTYPE_PARTITION,
                                    (int)partition, RD_KAFKA_VTYPE_KEY, text, length, RD_KAFKA_VTYPE_VALUE,
                                    text, length, RD_KAFKA_VTYPE_MSGFLAGS, (int)RD_KAFKA_MSG_F_COPY,
                                    RD_KAFKA_VTYPE_END);
            if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
                rd_kafka_poll(handle, 10);
        } while (err == RD_KAFKA_RESP_ERR__QUEUE_FULL);
        assert(!err);
    }
    rd_kafka_resp_err_t err = rd_kafka_flush(handle, BROKER_WAIT_MS);
    assert(!err);
    rd_kafka_destroy(handle);
}

size_t broker_read(struct broker *broker, const char *topic, int32_t partition,
                   void (*each)(void *owner, const void *key, size_t key_bytes, const void *value,
                                size_t value_bytes),
                   void *owner)
{
    rd_kafka_t *handle =
        handle_new(RD_KAFKA_CONSUMER,
                   (const char *[]){"bootstrap.servers", broker_bootstrap(broker), "group.id", "broker-read",
                                    "enable.auto.commit", "false", "enable.partition.eof", "true", NULL});
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = 0;
    rd_kafka_resp_err_t err = rd_kafka_assign(handle, list);
    assert(!err);
    rd_kafka_topic_partition_list_destroy(list);
    size_t count = 0;
    for (;;) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(handle, BROKER_WAIT_MS);
        assert(message);
        rd_kafka_resp_err_t result = message->err;
        if (!result) {
            count++;
            if (each)
                each(owner, message->key, message->key_len, message->payload, message->len);
        }
        rd_kafka_message_destroy(message);
        if (result == RD_KAFKA_RESP_ERR__PARTITION_EOF)
            break;
    }
    rd_kafka_destroy_flags(handle, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    return count;
}

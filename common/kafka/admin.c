#include "kafka/admin.h"
#include "base/clock.h"
#include "kafka/handle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ADMIN_CLOSE_MS = 2000 };

struct admin {
    struct handle handle; /* librdkafka's opaque: first */
};

enum outcome admin_open(const struct client_settings *client, struct admin **ret, struct error *error)
{
    struct admin *admin = calloc(1, sizeof(*admin));
    if (!admin)
        return error_fatal(error, "memory", "admin: out of memory");
    handle_init(&admin->handle, client);
    /* A consumer, which joins nothing: where a broker says that it is not a group's coordinator (it has just
     * been started), librdkafka sends the handle's own group to look for one, and dies where there is none,
     * as in a producer (seen on 2.0.2; confluent-kafka-javascript 374 on 2.11). */
    const char *more[] = {"group.id", "weir-admin", NULL};
    rd_kafka_conf_t *conf;
    enum outcome outcome = handle_conf(&admin->handle, client, HANDLE_READER, more, &conf, error);
    if (outcome != OK)
        goto out;
    if ((outcome = handle_open(&admin->handle, HANDLE_READER, conf, error)) != OK)
        goto out;
    *ret = admin;
    return OK;
out:
    pthread_mutex_destroy(&admin->handle.log_lock);
    free(admin);
    return outcome;
}

enum outcome admin_check_settings(const struct client_settings *client, struct error *error)
{
    static const enum handle_kind kinds[] = {HANDLE_PRODUCER, HANDLE_CONSUMER, HANDLE_READER};
    struct client_settings silent = *client;
    silent.log = NULL; /* what is to be said is said when they are made */
    struct handle handle;
    handle_init(&handle, &silent);
    enum outcome outcome = OK;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && outcome == OK; i++) {
        rd_kafka_conf_t *conf;
        outcome = handle_conf(&handle, &silent, kinds[i], NULL, &conf, error);
        if (outcome == OK)
            rd_kafka_conf_destroy(conf);
    }
    pthread_mutex_destroy(&handle.log_lock);
    return outcome;
}

void admin_close(struct admin *admin)
{
    if (!admin)
        return;
    handle_destroy(&admin->handle, ADMIN_CLOSE_MS, free, admin);
}

/* For tools a time-out is a broker that cannot be reached, whatever it timed out on. */
static enum outcome failed(struct admin *admin, struct error *error, rd_kafka_resp_err_t err,
                           const char *what, const char *reason)
{
    enum outcome outcome = handle_error(error, err, what, reason);
    char trouble[ERROR_TEXT_BYTES_MAX];
    /* A call that got no answer says no more than that; why there is no connection is another matter. */
    if (outcome == OUTAGE && handle_trouble(&admin->handle, trouble, sizeof(trouble)))
        error_set(error, outcome, "kafka", "%s: %s", what, trouble);
    return outcome;
}

enum outcome admin_topics(struct admin *admin, int timeout_ms, struct admin_topic **ret, size_t *ret_count,
                          struct error *error)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t err = rd_kafka_metadata(admin->handle.rk, 1, NULL, &metadata, timeout_ms);
    if (err)
        return failed(admin, error, err, "topics", NULL);
    size_t count = (size_t)metadata->topic_cnt;
    struct admin_topic *topics = calloc(count ? count : 1, sizeof(*topics));
    if (!topics) {
        rd_kafka_metadata_destroy(metadata);
        return error_fatal(error, "memory", "topics: out of memory");
    }
    for (size_t i = 0; i < count; i++) {
        const struct rd_kafka_metadata_topic *topic = &metadata->topics[i];
        snprintf(topics[i].name, sizeof(topics[i].name), "%s", topic->topic);
        topics[i].partitions = topic->partition_cnt;
        topics[i].replication = topic->partition_cnt ? topic->partitions[0].replica_cnt : 0;
    }
    rd_kafka_metadata_destroy(metadata);
    *ret = topics;
    *ret_count = count;
    return OK;
}

enum outcome admin_topics_named(struct admin *admin, const char *const *names, int timeout_ms,
                                struct admin_topic **ret, size_t *ret_count, struct error *error)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t err = handle_metadata(&admin->handle, names, timeout_ms, &metadata);
    if (err)
        return failed(admin, error, err, "topics", NULL);
    size_t count = 0;
    while (names[count])
        count++;
    struct admin_topic *topics = calloc(count ? count : 1, sizeof(*topics));
    if (!topics) {
        rd_kafka_metadata_destroy(metadata);
        return error_fatal(error, "memory", "topics: out of memory");
    }
    for (size_t i = 0; i < count; i++) {
        snprintf(topics[i].name, sizeof(topics[i].name), "%s", names[i]);
        for (int j = 0; j < metadata->topic_cnt; j++) {
            const struct rd_kafka_metadata_topic *topic = &metadata->topics[j];
            if (strcmp(topic->topic, names[i]) != 0)
                continue;
            topics[i].denied = handle_denied(topic->err);
            topics[i].partitions = topic->partition_cnt;
            topics[i].replication = topic->partition_cnt ? topic->partitions[0].replica_cnt : 0;
        }
    }
    rd_kafka_metadata_destroy(metadata);
    *ret = topics;
    *ret_count = count;
    return OK;
}

enum outcome admin_brokers(struct admin *admin, int timeout_ms, int *ret_count, struct error *error)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t err = rd_kafka_metadata(admin->handle.rk, 0, NULL, &metadata, timeout_ms);
    if (err)
        return failed(admin, error, err, "brokers", NULL);
    *ret_count = metadata->broker_cnt;
    rd_kafka_metadata_destroy(metadata);
    return OK;
}

/* The answer to what was just asked on a queue of its own, so that one that comes too late finds none any
 * more and is not taken for another's. Takes the queue. */
static enum outcome answer(struct admin *admin, rd_kafka_queue_t *queue, int timeout_ms, const char *what,
                           rd_kafka_event_t **ret, struct error *error)
{
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, timeout_ms);
    rd_kafka_queue_destroy(queue);
    if (!event)
        return error_outage(error, "kafka", "%s: no broker answered within %d ms", what, timeout_ms);
    rd_kafka_resp_err_t err = rd_kafka_event_error(event);
    if (!err) {
        *ret = event;
        return OK;
    }
    enum outcome outcome = failed(admin, error, err, what, rd_kafka_event_error_string(event));
    rd_kafka_event_destroy(event);
    return outcome;
}

static rd_kafka_AdminOptions_t *options_new(struct admin *admin, rd_kafka_admin_op_t operation,
                                            int timeout_ms)
{
    char text[128];
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(admin->handle.rk, operation);
    /* Both fail only out of range, and then the defaults stand; our own wait is bounded anyway. */
    (void)rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, text, sizeof(text));
    if (operation == RD_KAFKA_ADMIN_OP_CREATETOPICS)
        (void)rd_kafka_AdminOptions_set_operation_timeout(options, timeout_ms, text, sizeof(text));
    return options;
}

enum outcome admin_create(struct admin *admin, const struct admin_new_topic *topics, size_t count,
                          int timeout_ms, struct error *error)
{
    char text[256];
    enum outcome outcome = OK;
    rd_kafka_event_t *event = NULL;
    rd_kafka_AdminOptions_t *options = NULL;
    if (count == 0)
        return OK;
    rd_kafka_NewTopic_t **asked = calloc(count, sizeof(rd_kafka_NewTopic_t *));
    if (!asked)
        return error_fatal(error, "memory", "create topics: out of memory");
    for (size_t i = 0; i < count; i++) {
        asked[i] = rd_kafka_NewTopic_new(topics[i].name, topics[i].partitions, topics[i].replication, text,
                                         sizeof(text));
        if (!asked[i]) {
            outcome = error_reject(error, "topic", "topic %s: %s", topics[i].name, text);
            goto out;
        }
        for (const char *const *pair = topics[i].config; pair && pair[0]; pair += 2) {
            if (rd_kafka_NewTopic_set_config(asked[i], pair[0], pair[1])) {
                outcome = error_reject(error, "topic", "topic %s: %s=%s cannot be set", topics[i].name,
                                       pair[0], pair[1]);
                goto out;
            }
        }
    }
    options = options_new(admin, RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout_ms);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(admin->handle.rk);
    rd_kafka_CreateTopics(admin->handle.rk, asked, count, options, queue);
    outcome = answer(admin, queue, timeout_ms, "create topics", &event, error);
    if (outcome != OK)
        goto out;
    size_t result_count;
    const rd_kafka_topic_result_t **results =
        rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &result_count);
    for (size_t i = 0; i < result_count; i++) {
        rd_kafka_resp_err_t err = rd_kafka_topic_result_error(results[i]);
        if (!err || err == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
            continue;
        snprintf(text, sizeof(text), "topic %s", rd_kafka_topic_result_name(results[i]));
        if (handle_denied(err)) {
            char denial[ERROR_TEXT_BYTES_MAX];
            handle_denial(err, "Create", "topic", rd_kafka_topic_result_name(results[i]), denial,
                          sizeof(denial));
            outcome = error_fatal(error, "kafka", "%s cannot be made: %s", text, denial);
            if (error)
                error->exit_code = EXIT_CONFIG;
            goto out;
        }
        outcome = failed(admin, error, err, text, rd_kafka_topic_result_error_string(results[i]));
        goto out;
    }
out:
    if (event)
        rd_kafka_event_destroy(event);
    if (options)
        rd_kafka_AdminOptions_destroy(options);
    for (size_t i = 0; i < count; i++)
        if (asked[i])
            rd_kafka_NewTopic_destroy(asked[i]);
    free(asked);
    return outcome;
}

static void settings_read(const rd_kafka_ConfigResource_t *resource, struct admin_topic_settings *settings)
{
    size_t count;
    const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(resource, &count);
    settings->known = true;
    for (size_t i = 0; i < count; i++) {
        const char *name = rd_kafka_ConfigEntry_name(entries[i]),
                   *value = rd_kafka_ConfigEntry_value(entries[i]);
        if (!value)
            continue;
        if (strcmp(name, "cleanup.policy") == 0)
            snprintf(settings->cleanup_policy, sizeof(settings->cleanup_policy), "%s", value);
        else if (strcmp(name, "retention.ms") == 0)
            settings->retention_ms = strtoll(value, NULL, 10);
        else if (strcmp(name, "max.message.bytes") == 0)
            settings->message_bytes_max = strtoll(value, NULL, 10);
        else if (strcmp(name, "min.insync.replicas") == 0)
            settings->min_insync = (int)strtol(value, NULL, 10);
    }
}

enum outcome admin_topics_settings(struct admin *admin, const char *const *names, size_t count,
                                   int timeout_ms, struct admin_topic_settings *ret, struct error *error)
{
    memset(ret, 0, count * sizeof(*ret));
    if (count == 0)
        return OK;
    rd_kafka_ConfigResource_t **asked = calloc(count, sizeof(rd_kafka_ConfigResource_t *));
    if (!asked)
        return error_fatal(error, "memory", "describe topics: out of memory");
    for (size_t i = 0; i < count; i++)
        asked[i] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, names[i]);
    rd_kafka_AdminOptions_t *options = options_new(admin, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout_ms);
    rd_kafka_event_t *event = NULL;
    rd_kafka_queue_t *queue = rd_kafka_queue_new(admin->handle.rk);
    rd_kafka_DescribeConfigs(admin->handle.rk, asked, count, options, queue);
    enum outcome outcome = answer(admin, queue, timeout_ms, "describe topics", &event, error);
    size_t told_count = 0;
    const rd_kafka_ConfigResource_t **told =
        outcome == OK ? rd_kafka_DescribeConfigs_result_resources(
                            rd_kafka_event_DescribeConfigs_result(event), &told_count)
                      : NULL;
    for (size_t i = 0; i < told_count; i++)
        for (size_t j = 0; j < count; j++) {
            if (strcmp(rd_kafka_ConfigResource_name(told[i]), names[j]) != 0)
                continue;
            rd_kafka_resp_err_t err = rd_kafka_ConfigResource_error(told[i]);
            ret[j].denied = handle_denied(err);
            if (!err)
                settings_read(told[i], &ret[j]);
        }
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_ConfigResource_destroy_array(asked, count);
    free(asked);
    return outcome;
}

enum outcome admin_group_offset(struct admin *admin, const char *group, const char *topic, int32_t partition,
                                int timeout_ms, int64_t *ret_committed, int64_t *ret_high,
                                struct error *error)
{
    int64_t until_us = clock_monotonic_us() + (int64_t)timeout_ms * 1000, committed = -1, high = -1;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition);
    rd_kafka_ListConsumerGroupOffsets_t *ask = rd_kafka_ListConsumerGroupOffsets_new(group, list);
    rd_kafka_AdminOptions_t *options =
        options_new(admin, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, timeout_ms);
    rd_kafka_event_t *event = NULL;
    rd_kafka_queue_t *queue = rd_kafka_queue_new(admin->handle.rk);
    rd_kafka_ListConsumerGroupOffsets(admin->handle.rk, &ask, 1, options, queue);
    enum outcome outcome = answer(admin, queue, timeout_ms, "group offsets", &event, error);
    if (outcome != OK)
        goto out;
    size_t count;
    const rd_kafka_group_result_t **groups = rd_kafka_ListConsumerGroupOffsets_result_groups(
        rd_kafka_event_ListConsumerGroupOffsets_result(event), &count);
    const rd_kafka_error_t *refused = count ? rd_kafka_group_result_error(groups[0]) : NULL;
    if (refused) {
        outcome = failed(admin, error, rd_kafka_error_code(refused), group, rd_kafka_error_string(refused));
        goto out;
    }
    const rd_kafka_topic_partition_list_t *offsets =
        count ? rd_kafka_group_result_partitions(groups[0]) : NULL;
    for (int i = 0; offsets && i < offsets->cnt; i++)
        if (offsets->elems[i].partition == partition && !offsets->elems[i].err &&
            offsets->elems[i].offset >= 0)
            committed = offsets->elems[i].offset;

    /* rd_kafka_query_watermark_offsets() ignores its time-out on 2.0.2; this asks the same and does not. */
    list->elems[0].offset = RD_KAFKA_OFFSET_END;
    int64_t left_ms = (until_us - clock_monotonic_us()) / 1000;
    rd_kafka_resp_err_t err =
        rd_kafka_offsets_for_times(admin->handle.rk, list, left_ms > 1 ? (int)left_ms : 1);
    if (!err)
        err = list->elems[0].err;
    if (err && err != RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION &&
        err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) {
        outcome = failed(admin, error, err, topic, NULL);
        goto out;
    }
    if (!err)
        high = list->elems[0].offset;
    *ret_committed = committed;
    *ret_high = high;
out:
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_ListConsumerGroupOffsets_destroy(ask);
    rd_kafka_topic_partition_list_destroy(list);
    return outcome;
}

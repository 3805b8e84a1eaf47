#include "kafka/mock.h"
#include "kafka/handle.h"

#include <librdkafka/rdkafka_mock.h>
#include <stdlib.h>
#include <string.h>

enum { MOCK_CLOSE_MS = 2000 };

/* A handle that knows the group's offsets and is no member of it. */
struct mock_group {
    struct handle handle; /* librdkafka's opaque: first */
    const char *name;
    rd_kafka_topic_partition_list_t *committed;
};

struct mock {
    struct handle host; /* the cluster lives inside a handle; librdkafka's opaque: first */
    rd_kafka_mock_cluster_t *cluster;
    struct mock_group *groups[MOCK_GROUPS_MAX];
    size_t group_count;
    rd_kafka_topic_partition_list_t *lows; /* every partition */
};

static enum outcome open_host(struct mock *mock, struct error *error)
{
    static const struct client_settings settings = {.bootstrap_servers = "127.0.0.1:1", .client_id = "mock"};
    rd_kafka_conf_t *conf;
    handle_init(&mock->host, &settings);
    enum outcome outcome = handle_conf(&mock->host, &settings, HANDLE_ADMIN, NULL, &conf, error);
    if (outcome == OK)
        outcome = handle_open(&mock->host, HANDLE_ADMIN, conf, error);
    if (outcome != OK)
        return outcome;
    mock->cluster = rd_kafka_mock_cluster_new(mock->host.rk, 1);
    return mock->cluster ? OK : error_fatal(error, "mock", "the mock cluster cannot be started");
}

static enum outcome make_topics(struct mock *mock, const struct mock_topic *topics, size_t count, struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        rd_kafka_resp_err_t err = rd_kafka_mock_topic_create(mock->cluster, topics[i].name, topics[i].partitions, 1);
        if (err)
            return handle_error(error, err, topics[i].name, NULL);
        for (int32_t partition = 0; partition < topics[i].partitions; partition++)
            rd_kafka_topic_partition_list_add(mock->lows, topics[i].name, partition);
    }
    return OK;
}

static enum outcome open_group(struct mock *mock, const char *name, struct error *error)
{
    const struct client_settings settings = {.bootstrap_servers = mock_bootstrap(mock), .client_id = "mock"};
    const char *const more[] = {"group.id", name, NULL};
    rd_kafka_conf_t *conf;
    struct mock_group *group = calloc(1, sizeof(*group));
    if (!group)
        return error_fatal(error, "memory", "out of memory");
    group->name = name;
    handle_init(&group->handle, &settings);
    enum outcome outcome = handle_conf(&group->handle, &settings, HANDLE_READER, more, &conf, error);
    if (outcome == OK)
        outcome = handle_open(&group->handle, HANDLE_READER, conf, error);
    if (outcome != OK) {
        free(group);
        return outcome;
    }
    group->committed = rd_kafka_topic_partition_list_copy(mock->lows);
    mock->groups[mock->group_count++] = group;
    return OK;
}

enum outcome mock_open(const struct mock_topic *topics, size_t topic_count, const char *const *groups, struct mock **ret,
                       struct error *error)
{
    struct mock *mock = calloc(1, sizeof(*mock));
    if (!mock)
        return error_fatal(error, "memory", "out of memory");
    mock->lows = rd_kafka_topic_partition_list_new(MOCK_TOPICS_MAX);
    enum outcome outcome = open_host(mock, error);
    if (outcome == OK)
        outcome = make_topics(mock, topics, topic_count, error);
    for (; outcome == OK && *groups && mock->group_count < MOCK_GROUPS_MAX; groups++)
        outcome = open_group(mock, *groups, error);
    if (outcome == OK)
        *ret = mock;
    else
        mock_close(mock);
    return outcome;
}

const char *mock_bootstrap(const struct mock *mock)
{
    return rd_kafka_mock_cluster_bootstraps(mock->cluster);
}

static bool reads_topic(const struct mock_group *group, const char *topic)
{
    for (int i = 0; i < group->committed->cnt; i++)
        if (group->committed->elems[i].offset >= 0 && strcmp(group->committed->elems[i].topic, topic) == 0)
            return true;
    return false;
}

/* What is below a partition's low watermark is gone; a group that has not committed up to there has not read it. */
static enum outcome compare(const struct mock *mock, const struct mock_group *group, struct error *error)
{
    for (int i = 0; i < mock->lows->cnt; i++) {
        const rd_kafka_topic_partition_t *low = &mock->lows->elems[i];
        int64_t committed = group->committed->elems[i].offset >= 0 ? group->committed->elems[i].offset : 0;
        if (low->offset > committed && reads_topic(group, low->topic))
            return error_fatal(error, "evicted",
                               "%s[%d] has forgotten %lld records that %s had not read: the mock broker keeps 5 MiB a partition",
                               low->topic, (int)low->partition, (long long)(low->offset - committed), group->name);
    }
    return OK;
}

enum outcome mock_check(struct mock *mock, int timeout_ms, struct error *error)
{
    bool any = false;
    if (mock->group_count == 0)
        return OK;
    for (int i = 0; i < mock->lows->cnt; i++)
        mock->lows->elems[i].offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_resp_err_t err = rd_kafka_offsets_for_times(mock->groups[0]->handle.rk, mock->lows, timeout_ms);
    for (int i = 0; i < mock->lows->cnt && !err; i++) {
        err = mock->lows->elems[i].err;
        any |= mock->lows->elems[i].offset > 0;
    }
    if (err)
        return error_retry(error, "mock", "low watermarks: %s", rd_kafka_err2str(err));
    for (size_t i = 0; any && i < mock->group_count; i++) {
        struct mock_group *group = mock->groups[i];
        for (int j = 0; j < group->committed->cnt; j++)
            group->committed->elems[j].offset = RD_KAFKA_OFFSET_INVALID;
        err = rd_kafka_committed(group->handle.rk, group->committed, timeout_ms);
        if (err)
            return error_retry(error, "mock", "%s: %s", group->name, rd_kafka_err2str(err));
        enum outcome outcome = compare(mock, group, error);
        if (outcome != OK)
            return outcome;
    }
    return OK;
}

static void group_free(void *owner)
{
    struct mock_group *group = owner;
    rd_kafka_topic_partition_list_destroy(group->committed);
    free(group);
}

static void mock_free(void *owner)
{
    struct mock *mock = owner;
    rd_kafka_topic_partition_list_destroy(mock->lows);
    free(mock);
}

void mock_close(struct mock *mock)
{
    if (!mock)
        return;
    for (size_t i = 0; i < mock->group_count; i++)
        handle_destroy(&mock->groups[i]->handle, MOCK_CLOSE_MS, group_free, mock->groups[i]);
    if (mock->cluster)
        rd_kafka_mock_cluster_destroy(mock->cluster);
    if (mock->host.rk)
        handle_destroy(&mock->host, MOCK_CLOSE_MS, mock_free, mock);
    else
        mock_free(mock);
}

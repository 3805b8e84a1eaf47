/* topics: the declared topics (wire/topics.def, retry and dead letter topics of every service) against the actual ones. */
#include "cli.h"

#include "kafka/admin.h"

#include <stdio.h>
#include <stdlib.h>

enum { TOPICS_MAX = 128, TOPICS_TIMEOUT_MS = 15000, TOPICS_CONFIG_MAX = 8 };

static const struct setting topics_settings[] = {
    {"PARTITIONS", SETTING_INT, "6", 1, 10000, NULL, "Partitions of a topic that is made."},
    {"REPLICATION", SETTING_INT, "0", 0, 100, NULL, "Replicas of a topic that is made; 0: the broker's default."},
    {"RETRY_DELAYS", SETTING_DURATIONS, "2s,4s,8s", 0, 0, NULL, "One retry topic for each delay and service."},
    SETTINGS_END,
};

/* What a topic should be. */
struct declared {
    char name[TOPIC_NAME_BYTES_MAX];
    bool compacted;
    int64_t retention_ms;
    int64_t message_bytes_max; /* 0: the broker's default */
    int partitions;
};

static void declare(struct declared *list, size_t *count, const char *name, bool compacted, int days, int64_t message_bytes_max,
                    int partitions)
{
    struct declared *topic = &list[(*count)++];
    snprintf(topic->name, sizeof(topic->name), "%s", name);
    topic->compacted = compacted;
    topic->retention_ms = (int64_t)days * 24 * 3600 * 1000;
    topic->message_bytes_max = message_bytes_max;
    topic->partitions = partitions;
}

static size_t declared_topics(const struct config *config, struct declared *list)
{
    /* A copy carries more headers than what it is a copy of, so it must be allowed to be larger. */
    const int64_t copy_bytes_max = 2 << 20;
    size_t count = 0;
    char name[TOPIC_NAME_BYTES_MAX];
    int64_t delays_ms[8];
    size_t delay_count = config_durations_ms(config, "RETRY_DELAYS", delays_ms, 8);
    int partitions = (int)config_int(config, "PARTITIONS");
    for (int id = 0; id < TOPIC_COUNT; id++) {
        const struct topic *topic = topic_get((enum topic_id)id);
        declare(list, &count, topic->name, topic->compacted, topic->retention_days, 0, partitions);
    }
    for (const char *const *service = topic_services; *service; service++) {
        for (size_t i = 0; i < delay_count; i++)
            declare(list, &count, topic_retry(*service, delays_ms[i], name), false, TOPIC_RETRY_DAYS, copy_bytes_max, partitions);
        declare(list, &count, topic_dlq(*service, name), false, TOPIC_DLQ_DAYS, copy_bytes_max, partitions);
    }
    return count;
}

static const struct admin_topic *find(const struct admin_topic *topics, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(topics[i].name, name) == 0)
            return &topics[i];
    return NULL;
}

static enum outcome create(struct admin *admin, const struct declared *topic, int replication, struct error *error)
{
    char retention[32], bytes[32];
    const char *config[TOPICS_CONFIG_MAX * 2] = {0};
    size_t count = 0;
    config[count++] = "cleanup.policy";
    config[count++] = topic->compacted ? "compact" : "delete";
    if (!topic->compacted) {
        snprintf(retention, sizeof(retention), "%lld", (long long)topic->retention_ms);
        config[count++] = "retention.ms";
        config[count++] = retention;
    }
    if (topic->message_bytes_max) {
        snprintf(bytes, sizeof(bytes), "%lld", (long long)topic->message_bytes_max);
        config[count++] = "max.message.bytes";
        config[count++] = bytes;
    }
    const struct admin_new_topic new_topic = {
        .name = topic->name,
        .partitions = topic->partitions,
        .replication = replication ? replication : -1,
        .config = config,
    };
    return admin_create(admin, &new_topic, 1, TOPICS_TIMEOUT_MS, error);
}

static const char *verdict(const struct declared *topic, const struct admin_topic *actual)
{
    if (!actual || actual->partitions == 0)
        return "missing";
    return actual->partitions < topic->partitions ? "fewer partitions than declared" : "ok";
}

static enum outcome run(const struct config *config, bool make, bool *ret_missing, struct error *error)
{
    struct client_settings client = cli_client(config);
    struct declared list[TOPICS_MAX];
    struct admin *admin = NULL;
    struct admin_topic *actual = NULL;
    size_t actual_count = 0, count = declared_topics(config, list);
    enum outcome outcome = admin_open(&client, &admin, error);
    if (outcome == OK)
        outcome = admin_topics(admin, TOPICS_TIMEOUT_MS, &actual, &actual_count, error);
    for (size_t i = 0; outcome == OK && i < count; i++) {
        const struct admin_topic *found = find(actual, actual_count, list[i].name);
        const char *said = verdict(&list[i], found);
        bool missing = !found || found->partitions == 0;
        if (missing && make) {
            outcome = create(admin, &list[i], (int)config_int(config, "REPLICATION"), error);
            said = "created";
        } else if (missing) {
            *ret_missing = true;
        }
        if (outcome == OK)
            printf("%-26s %3d partitions  %-8s %s\n", list[i].name, missing ? list[i].partitions : found->partitions,
                   list[i].compacted ? "compact" : "delete", said);
    }
    free(actual);
    admin_close(admin);
    return outcome;
}

int topics_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("topics");
    struct config *config = NULL;
    struct error error;
    int exit_code;
    bool missing = false;
    if (!cli_read(verb, topics_settings, argc, argv, 1, &config, &exit_code))
        return exit_code;
    const char *word = config_positional_count(config) ? config_positional(config, 0) : "show";
    bool make = strcmp(word, "create") == 0;
    if (!make && strcmp(word, "show") != 0) {
        fprintf(stderr, "weir topics: there is no %s; weir topics shows, weir topics create makes what is missing\n", word);
        exit_code = EXIT_USAGE;
    } else {
        exit_code = run(config, make, &missing, &error) != OK ? cli_fail(verb, &error) : missing ? EXIT_NOTHING_FOUND : 0;
    }
    config_destroy(config);
    return exit_code;
}

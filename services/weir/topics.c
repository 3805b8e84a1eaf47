/* topics: the declared topics (wire/topics.def, retry and dead letter topics of every service) against the
 * actual ones. */
#include "topics.h"
#include "cli.h"

#include "base/clock.h"
#include "kafka/admin.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOPICS_STEP_MS = 50 };

static const struct setting topics_settings[] = {
    {"PARTITIONS", SETTING_INT, "6", 1, 10000, NULL, "Partitions of a topic that is made."},
    {"REPLICATION", SETTING_INT, "0", -1, 100, NULL,
     "Replicas of a topic that is made; 0: the broker's default; -1: 3, or as many as there are brokers."},
    {"RETRY_DELAYS", SETTING_DURATIONS, "2s,4s,8s", 0, TOPIC_RETRY_DELAY_MS_MAX, NULL,
     "One retry topic for each delay and service."},
    SETTINGS_END,
};

size_t topics_declared(const struct topics_wanted *wanted, struct declared list[TOPICS_MAX])
{
    size_t count = 0;
    int partitions = wanted->partitions;
    for (int id = 0; id < TOPIC_COUNT; id++)
        list[count++] = declared_event((enum topic_id)id, partitions);
    for (const char *const *service = topic_services; *service; service++) {
        for (size_t i = 0; i < wanted->delay_count; i++)
            list[count++] = declared_retry(*service, wanted->delays_ms[i], partitions);
        list[count++] = declared_dlq(*service, partitions);
    }
    list[count++] = declared_audit(partitions);
    return count;
}

static const struct admin_topic *find(const struct admin_topic *topics, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(topics[i].name, name) == 0)
            return &topics[i];
    return NULL;
}

static const char *verdict(const struct declared *topic, const struct admin_topic *actual)
{
    if (actual && actual->denied)
        return "not allowed: it needs the ACL Describe on it";
    if (!actual || actual->partitions == 0)
        return "missing";
    return actual->partitions < topic->partitions ? "fewer partitions than declared" : "ok";
}

static void say(const struct declared *topic, int partitions, const char *what)
{
    printf("%-26s %3d partitions  %-8s %s\n", topic->name, partitions,
           topic->compacted ? "compact" : "delete", what);
}

/* What there is of the declared topics; asked for by name, so that one that may not be seen is not taken for
 * missing. */
static enum outcome look(struct admin *admin, const struct declared *list, size_t count,
                         struct admin_topic **ret, size_t *ret_count, struct error *error)
{
    const char *names[TOPICS_MAX + 1] = {NULL};
    for (size_t i = 0; i < count; i++)
        names[i] = list[i].name;
    return admin_topics_named(admin, names, TOPICS_TIMEOUT_MS, ret, ret_count, error);
}

/* A broker hears of a new topic a moment after the controller has made it; who subscribes in between would
 * not get it. */
static enum outcome wait_until_known(struct admin *admin, const struct declared *list, size_t count,
                                     struct error *error)
{
    int64_t until_us = clock_monotonic_us() + TOPICS_CREATE_MS * INT64_C(1000);
    for (;;) {
        struct admin_topic *actual = NULL;
        size_t actual_count = 0, known = 0;
        enum outcome outcome = look(admin, list, count, &actual, &actual_count, error);
        for (size_t i = 0; outcome == OK && i < count; i++) {
            const struct admin_topic *found = find(actual, actual_count, list[i].name);
            known += found && (found->partitions > 0 || found->denied);
        }
        free(actual);
        if (outcome != OK || known == count)
            return outcome;
        if (clock_monotonic_us() > until_us)
            return error_outage(error, "kafka", "%zu topics were made, and the broker does not know them yet",
                                count - known);
        poll(NULL, 0, TOPICS_STEP_MS);
    }
}

static enum outcome replicas(struct admin *admin, int wanted, int *ret, struct error *error)
{
    enum { COPIES = 3 }; /* one may be lost while another is being repaired */
    int brokers = COPIES;
    enum outcome outcome = wanted < 0 ? admin_brokers(admin, TOPICS_TIMEOUT_MS, &brokers, error) : OK;
    *ret = wanted >= 0 ? wanted : brokers < COPIES ? brokers : COPIES;
    return outcome;
}

static void say_finding(void *owner, const char *topic, const char *finding, const char *advice)
{
    (void)owner, (void)topic;
    printf("%26s ! %s\n%26s   %s\n", "", finding, "", advice);
}

/* What is different about those that are there: only what may be asked, and what the brokers know. */
static void compare(const struct declared *topic, const struct admin_topic *found,
                    const struct admin_topic_settings *settings, int brokers)
{
    if (found && found->partitions > 0)
        declared_compare(topic, found, settings, brokers, 0, say_finding, NULL);
}

/* Counts the missing, or makes them. */
static enum outcome run(const struct client_settings *client, const struct topics_wanted *wanted, bool make,
                        bool quiet, size_t *ret_missing, struct error *error)
{
    struct declared list[TOPICS_MAX];
    struct admin_topic_settings settings[TOPICS_MAX] = {{0}};
    const char *names[TOPICS_MAX];
    struct admin *admin = NULL;
    struct admin_topic *actual = NULL;
    int replication = 0, brokers = 0;
    size_t actual_count = 0, missing_count = 0, count = topics_declared(wanted, list);
    enum outcome outcome = admin_open(client, &admin, error);
    if (outcome == OK)
        outcome = look(admin, list, count, &actual, &actual_count, error);
    if (outcome == OK && make)
        outcome = replicas(admin, wanted->replication, &replication, error);
    if (outcome == OK && !make && !quiet) {
        struct error ignored;
        for (size_t i = 0; i < count; i++)
            names[i] = list[i].name;
        outcome = admin_brokers(admin, TOPICS_TIMEOUT_MS, &brokers, error);
        /* Who may not ask, or asks a broker that cannot say, sees the rest. */
        if (outcome == OK &&
            admin_topics_settings(admin, names, count, TOPICS_TIMEOUT_MS, settings, &ignored) != OK)
            memset(settings, 0, sizeof(settings));
    }
    for (size_t i = 0; outcome == OK && i < count; i++) {
        const struct admin_topic *found = find(actual, actual_count, list[i].name);
        bool missing = !found || (found->partitions == 0 && !found->denied);
        /* Who may not see a topic may be allowed to make it, and is told otherwise which ACL that takes. */
        bool unseen = found && found->denied;
        missing_count += missing;
        if ((missing || unseen) && make)
            outcome = declared_make(admin, &list[i], replication ? replication : -1, TOPICS_CREATE_MS, error);
        if (outcome == OK && !quiet)
            say(&list[i], missing || unseen ? list[i].partitions : found->partitions,
                !make || !(missing || unseen) ? verdict(&list[i], found)
                : unseen ? "created, or there before: it needs the ACL Describe on it to be seen"
                         : "created");
        if (outcome == OK && !quiet && !make)
            compare(&list[i], found, &settings[i], brokers);
    }
    if (outcome == OK && make && missing_count)
        outcome = wait_until_known(admin, list, count, error);
    free(actual);
    admin_close(admin);
    *ret_missing = missing_count;
    return outcome;
}

enum outcome topics_make(const struct client_settings *client, const struct topics_wanted *wanted,
                         size_t *ret_made, struct error *error)
{
    return run(client, wanted, true, true, ret_made, error);
}

int topics_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("topics");
    struct config *config = NULL;
    struct error error;
    int exit_code;
    size_t missing = 0;
    if (!cli_read(verb, topics_settings, argc, argv, 1, &config, &exit_code))
        return exit_code;
    const char *word = config_positional_count(config) ? config_positional(config, 0) : "show";
    bool make = strcmp(word, "create") == 0;
    if (!make && strcmp(word, "show") != 0) {
        fprintf(stderr,
                "weir topics: there is no %s; weir topics shows, weir topics create makes what is missing\n",
                word);
        exit_code = EXIT_USAGE;
    } else {
        const struct client_settings client = cli_client(config);
        struct topics_wanted wanted = {
            .partitions = (int)config_int(config, "PARTITIONS"),
            .replication = (int)config_int(config, "REPLICATION"),
        };
        wanted.delay_count =
            config_durations_ms(config, "RETRY_DELAYS", wanted.delays_ms, CONFIG_DURATIONS_MAX);
        enum outcome outcome = run(&client, &wanted, make, false, &missing, &error);
        exit_code = outcome != OK ? cli_fail(verb, &error) : missing && !make ? EXIT_NOTHING_FOUND : 0;
    }
    config_destroy(config);
    return exit_code;
}

/*
 * broker: librdkafka's mock cluster as a process, for a look at Weir without Java. It forgets everything at its end, and while it runs
 * keeps 5 MiB a partition: when a service of Weir loses records that it had not read, it says so and ends, rather than let the loss
 * pass for a result.
 */
#include "cli.h"
#include "topics.h"

#include "kafka/mock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

enum { BROKER_CHECK_MS = 500, BROKER_ANSWER_MS = 2000 };

static const struct setting broker_settings[] = {
    {"PARTITIONS", SETTING_INT, "6", 1, 100, NULL, "Partitions of each topic."},
    {"RETRY_DELAYS", SETTING_DURATIONS, "2s,4s,8s", 0, TOPIC_RETRY_DELAY_MS_MAX, NULL, "One retry topic for each delay and service."},
    {"BOOTSTRAP_FILE", SETTING_TEXT, NULL, 0, 0, NULL, "Its address is written here as well, once it can be used."},
    SETTINGS_END,
};

static const char *const groups[] = {"weir-order", "weir-inventory", "weir-payment", "weir-email", "weir-analytics", NULL};

/* Whole or not at all: who waits for the file reads it as soon as it is there. */
static enum outcome announce(const char *path, const char *bootstrap, struct error *error)
{
    char part[4096];
    if (!path)
        return OK;
    snprintf(part, sizeof(part), "%s.new", path);
    FILE *file = fopen(part, "we");
    bool written = file && fprintf(file, "%s\n", bootstrap) > 0;
    if (file && fclose(file) != 0)
        written = false;
    if (!written || rename(part, path) != 0)
        return error_outage(error, "file", "%s: %s", path, strerror(errno));
    return OK;
}

static enum outcome run(const struct config *config, struct error *error)
{
    struct declared declared[TOPICS_MAX];
    struct mock_topic topics[TOPICS_MAX];
    struct mock *mock = NULL;
    struct topics_wanted wanted = {.partitions = (int)config_int(config, "PARTITIONS")};
    wanted.delay_count = config_durations_ms(config, "RETRY_DELAYS", wanted.delays_ms, CONFIG_DURATIONS_MAX);
    size_t count = topics_declared(&wanted, declared);
    for (size_t i = 0; i < count; i++)
        topics[i] = (struct mock_topic){declared[i].name, declared[i].partitions};
    enum outcome outcome = mock_open(topics, count, groups, &mock, error);
    if (outcome == OK)
        outcome = announce(config_text(config, "BOOTSTRAP_FILE"), mock_bootstrap(mock), error);
    if (outcome == OK) {
        printf("weir broker: a mock of Kafka on %s: it keeps 5 MiB a partition and forgets all of it at the end\n",
               mock_bootstrap(mock));
        fflush(stdout);
    }
    while (outcome == OK && !cli_interrupted()) {
        poll(NULL, 0, BROKER_CHECK_MS);
        outcome = mock_check(mock, BROKER_ANSWER_MS, error);
        if (outcome == RETRY)
            outcome = OK;
    }
    mock_close(mock);
    return outcome;
}

int broker_main(int argc, char **argv)
{
    const struct verb *verb = cli_verb("broker");
    struct config *config = NULL;
    struct error error;
    int exit_code;
    if (!cli_read(verb, broker_settings, argc, argv, 0, &config, &exit_code))
        return exit_code;
    cli_signals();
    exit_code = run(config, &error) != OK ? cli_fail(verb, &error) : 0;
    config_destroy(config);
    return exit_code;
}

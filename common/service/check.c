#include "service/check.h"

#include "kafka/admin.h"
#include "service/http.h"
#include "store/store.h"
#include "wire/event.h"

#include <stdio.h>
#include <stdlib.h>

enum { LINE_BYTES = 1024 };

/* service->check() is given a function without an owner. One check a process. */
static int exit_code;

/* The first failure's, as `serve` would end with it; what only a person can put right goes before all. */
static void fail(int code)
{
    if (exit_code == 0 || code == EXIT_CONFIG)
        exit_code = code;
}

static void print(const char *part, enum outcome outcome, const char *text)
{
    printf("%-4s %-9s %s\n", outcome == OK ? "ok" : "FAIL", part, text);
    fflush(stdout);
}

/* text: what is said where the outcome is OK; else the error's. */
static void tell(const char *part, enum outcome outcome, const char *text, const struct error *error)
{
    if (outcome != OK)
        fail(error->exit_code ? error->exit_code : EXIT_UNREACHABLE);
    print(part, outcome, outcome == OK ? text : error->text);
}

static void say(const char *part, enum outcome outcome, const char *text)
{
    if (outcome != OK)
        fail(outcome == FATAL ? EXIT_CONFIG : EXIT_UNREACHABLE);
    print(part, outcome, text);
}

static int partitions_of(const struct admin_topic *topics, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(topics[i].name, name) == 0)
            return topics[i].partitions;
    return 0;
}

static void check_topics(const struct service *service, const struct admin_topic *topics, size_t count)
{
    char dead[TOPIC_NAME_BYTES_MAX];
    const char *names[TOPIC_COUNT + 1];
    for (int topic = 0; topic < TOPIC_COUNT; topic++)
        names[topic] = topic_get((enum topic_id)topic)->name;
    names[TOPIC_COUNT] = topic_dlq(service->name, dead);

    struct buffer there = buffer_of(LINE_BYTES), missing = buffer_of(LINE_BYTES);
    for (size_t i = 0; i < TOPIC_COUNT + 1; i++) {
        int partitions = partitions_of(topics, count, names[i]);
        if (partitions)
            buffer_print(&there, "%s%s (%d)", there.length ? ", " : "", names[i], partitions);
        else
            buffer_print(&missing, "%s%s", missing.length ? ", " : "", names[i]);
    }
    char line[LINE_BYTES];
    if (missing.length)
        snprintf(line, sizeof(line), "missing: %.*s; make them with: weir topics create",
                 TEXT_ARG(buffer_text(&missing)));
    else
        snprintf(line, sizeof(line), "%.*s", TEXT_ARG(buffer_text(&there)));
    say("topics", missing.length ? OUTAGE : OK, line);
    buffer_free(&there);
    buffer_free(&missing);
}

static void check_kafka(const struct service *service, const struct client_settings *client)
{
    struct admin *admin = NULL;
    struct admin_topic *topics = NULL;
    size_t count = 0;
    struct error error;
    char line[LINE_BYTES];
    enum outcome outcome = admin_check_settings(client, &error);
    if (outcome == OK)
        outcome = admin_open(client, &admin, &error);
    if (outcome != OK) {
        tell("kafka", outcome, NULL, &error);
        return;
    }
    outcome = admin_topics(admin, CHECK_TIMEOUT_MS, &topics, &count, &error);
    if (outcome == OK)
        snprintf(line, sizeof(line), "%s answers", client->bootstrap_servers);
    else
        snprintf(line, sizeof(line), "%s: %s; is the broker up, and KAFKA_BOOTSTRAP_SERVERS right?",
                 client->bootstrap_servers, error.text);
    say("kafka", outcome == OK ? OK : OUTAGE, line);
    if (outcome == OK)
        check_topics(service, topics, count);
    free(topics);
    admin_close(admin);
}

static void check_database(const struct service *service, const struct config *config)
{
    struct error error;
    char line[LINE_BYTES];
    bool there = false;
    const char *url = config_text(config, "DATABASE_URL");
    enum outcome outcome = store_check(url, service->name, &there, &error);
    if (strncmp(url, "sqlite:", 7) == 0)
        snprintf(line, sizeof(line), "%s%s", url, there ? "" : " (not there yet, and can be made)");
    else /* the URL itself may hold a password */
        snprintf(line, sizeof(line), "answers, and can be written to");
    tell("database", outcome, line, &error);
}

static void check_port(const struct config *config)
{
    struct server *server = NULL;
    struct error error;
    char line[LINE_BYTES];
    const struct server_settings settings = {.listen = config_text(config, "HTTP_LISTEN")};
    enum outcome outcome = http_open(&settings, &server, &error);
    snprintf(line, sizeof(line), "%s is free", settings.listen);
    tell("http", outcome, line, &error);
    http_close(server);
}

/* Does it answer, and does it know what this service writes? */
static void check_registry(const struct service *service, const struct config *config)
{
    const struct registry_use use = {.config = config, .tool = true};
    struct registry *registry = NULL;
    struct error error;
    json_t *json = NULL;
    int32_t id;
    const char *url = config_text(config, "SCHEMA_REGISTRY_URL");
    if (!url || !*url) {
        say("schemas", OK, "built in (SCHEMA_REGISTRY_URL is not set)");
        return;
    }
    enum outcome outcome = registry_open(&use, &registry, &error);
    if (outcome == OK)
        outcome = registry_call(registry, "GET", "/subjects", TEXT(""), &json, NULL, &error);
    json_decref(json);
    /* To look is not to register. */
    bool looks_up = !config_bool(config, "SCHEMA_REGISTRY_REGISTER");
    for (const struct event_type *const *type = event_types; outcome == OK && *type && looks_up; type++)
        for (const enum topic_id *topic = service->writes; outcome == OK && topic && *topic != TOPIC_COUNT;
             topic++)
            if ((*type)->topic == *topic)
                outcome = registry_id(registry, *type, &id, &error);
    tell("schemas", outcome,
         looks_up ? "the registry answers, and has what is written" : "the registry answers", &error);
    registry_close(registry);
}

int check_run(const struct service *service, const struct config *config,
              const struct client_settings *client)
{
    struct error error;
    exit_code = 0;
    check_kafka(service, client);
    check_database(service, config);
    check_registry(service, config);
    check_port(config);
    enum outcome outcome = service->check ? service->check(config, say, &error) : OK;
    if (outcome != OK)
        tell(service->name, outcome, NULL, &error);
    return exit_code;
}

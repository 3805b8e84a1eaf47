#include "service/check.h"

#include "kafka/admin.h"
#include "service/http.h"
#include "store/store.h"
#include "wire/event.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { LINE_BYTES = 1024, URL_BYTES = 512 };

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

struct waited {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool done;
    enum outcome outcome;
    char text[LINE_BYTES];
};

static void on_answer(void *owner, const struct net_result *result)
{
    struct waited *waited = owner;
    pthread_mutex_lock(&waited->lock);
    waited->outcome = result->outcome;
    snprintf(waited->text, sizeof(waited->text), "%s", result->outcome == OK ? "answers" : result->text);
    waited->done = true;
    pthread_cond_signal(&waited->answered);
    pthread_mutex_unlock(&waited->lock);
}

static void check_registry(const struct config *config)
{
    const char *base = config_text(config, "SCHEMA_REGISTRY_URL");
    if (!base) {
        say("schemas", OK, "built in (SCHEMA_REGISTRY_URL is not set)");
        return;
    }
    char url[URL_BYTES];
    size_t length = strlen(base);
    snprintf(url, sizeof(url), "%s%ssubjects", base, length && base[length - 1] == '/' ? "" : "/");
    struct waited waited = {.outcome = OUTAGE};
    pthread_mutex_init(&waited.lock, NULL);
    pthread_cond_init(&waited.answered, NULL);
    struct net *net = NULL;
    struct error error;
    const struct net_http http = {.method = "GET", .url = url, .timeout_ms = CHECK_TIMEOUT_MS};
    enum outcome outcome = net_open(1, &net, &error);
    if (outcome == OK)
        outcome = net_http(net, &http, on_answer, &waited, &error);
    if (outcome == OK) {
        pthread_mutex_lock(&waited.lock);
        while (!waited.done) /* the net bounds it by timeout_ms */
            pthread_cond_wait(&waited.answered, &waited.lock);
        pthread_mutex_unlock(&waited.lock);
        outcome = waited.outcome;
    }
    say("schemas", outcome, waited.done ? waited.text : error.text);
    net_close(net);
    pthread_cond_destroy(&waited.answered);
    pthread_mutex_destroy(&waited.lock);
}

int check_run(const struct service *service, const struct config *config,
              const struct client_settings *client)
{
    struct error error;
    exit_code = 0;
    check_kafka(service, client);
    check_database(service, config);
    check_registry(config);
    check_port(config);
    enum outcome outcome = service->check ? service->check(config, say, &error) : OK;
    if (outcome != OK)
        tell(service->name, outcome, NULL, &error);
    return exit_code;
}

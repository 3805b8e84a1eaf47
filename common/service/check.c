#include "service/check.h"

#include "base/json.h"
#include "kafka/admin.h"
#include "net/net.h"
#include "service/http.h"
#include "service/own_topics.h"
#include "service/settings.h"
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

/* Those that the service reads or writes, and its dead letters; into names, NULL ended. */
static void topics_of(const struct service *service, char dead[TOPIC_NAME_BYTES_MAX],
                      const char *names[TOPIC_COUNT + 2])
{
    size_t count = 0;
    for (int i = 0; i < TOPIC_COUNT; i++)
        if (own_topics_reads(service, (enum topic_id)i) || own_topics_writes(service, (enum topic_id)i))
            names[count++] = topic_get((enum topic_id)i)->name;
    names[count++] = topic_dlq(service->name, dead);
    names[count] = NULL;
}

static void check_topics(const struct admin_topic *topics, size_t count)
{
    struct buffer there = buffer_of(LINE_BYTES), missing = buffer_of(LINE_BYTES),
                  denied = buffer_of(LINE_BYTES);
    for (size_t i = 0; i < count; i++) {
        struct buffer *into = topics[i].denied ? &denied : topics[i].partitions ? &there : &missing;
        buffer_print(into, "%s%s", into->length ? ", " : "", topics[i].name);
        if (into == &there)
            buffer_print(into, " (%d)", topics[i].partitions);
    }
    char line[LINE_BYTES];
    if (denied.length)
        snprintf(line, sizeof(line), "not allowed: it needs the ACL Read or Write on: %.*s",
                 TEXT_ARG(buffer_text(&denied)));
    else if (missing.length)
        snprintf(line, sizeof(line), "missing: %.*s; make them with: weir topics create",
                 TEXT_ARG(buffer_text(&missing)));
    else
        snprintf(line, sizeof(line), "%.*s", TEXT_ARG(buffer_text(&there)));
    say("topics", denied.length ? FATAL : missing.length ? OUTAGE : OK, line);
    buffer_free(&denied);
    buffer_free(&there);
    buffer_free(&missing);
}

static void check_kafka(const struct service *service, const struct client_settings *client)
{
    struct admin *admin = NULL;
    struct admin_topic *topics = NULL;
    size_t count = 0;
    struct error error;
    char line[LINE_BYTES], dead[TOPIC_NAME_BYTES_MAX];
    const char *names[TOPIC_COUNT + 2];
    enum outcome outcome = admin_check_settings(client, &error);
    if (outcome == OK)
        outcome = admin_open(client, &admin, &error);
    if (outcome != OK) {
        tell("kafka", outcome, NULL, &error);
        return;
    }
    topics_of(service, dead, names);
    outcome = admin_topics_named(admin, names, CHECK_TIMEOUT_MS, &topics, &count, &error);
    if (outcome == OK)
        snprintf(line, sizeof(line), "%s answers", client->bootstrap_servers);
    else
        snprintf(line, sizeof(line), "%s: %s; is the broker up, and KAFKA_BOOTSTRAP_SERVERS right?",
                 client->bootstrap_servers, error.text);
    say("kafka", outcome == OK ? OK : OUTAGE, line);
    if (outcome == OK)
        check_topics(topics, count);
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

struct waited {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool done;
    struct net_result result; /* without its body */
    char body[LINE_BYTES];
};

static void on_answer(void *owner, const struct net_result *result)
{
    struct waited *waited = owner;
    pthread_mutex_lock(&waited->lock);
    waited->result = *result;
    snprintf(waited->body, sizeof(waited->body), "%.*s", TEXT_ARG(result->body));
    waited->done = true;
    pthread_cond_signal(&waited->answered);
    pthread_mutex_unlock(&waited->lock);
}

/* OK for any answer, whatever its status; it is in *ret then. */
static enum outcome get(const char *url, struct waited *ret, struct error *error)
{
    struct net *net = NULL;
    const struct net_http http = {.method = "GET", .url = url, .timeout_ms = CHECK_TIMEOUT_MS};
    *ret = (struct waited){.done = false};
    pthread_mutex_init(&ret->lock, NULL);
    pthread_cond_init(&ret->answered, NULL);
    enum outcome outcome = net_open(1, &net, error);
    if (outcome == OK)
        outcome = net_http(net, &http, on_answer, ret, error);
    if (outcome == OK) {
        pthread_mutex_lock(&ret->lock);
        while (!ret->done) /* the net bounds it by timeout_ms */
            pthread_cond_wait(&ret->answered, &ret->lock);
        pthread_mutex_unlock(&ret->lock);
        if (ret->result.status == 0)
            outcome = error_outage(error, "http", "%s", ret->result.text);
    }
    net_close(net);
    pthread_cond_destroy(&ret->answered);
    pthread_mutex_destroy(&ret->lock);
    return outcome;
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

/* Where HTTP_LISTEN is reached on this machine: every address is also the loopback's. */
static void own_url(const struct config *config, const char *path, char into[URL_BYTES])
{
    const char *listen = config_text(config, "HTTP_LISTEN");
    const char *port = strrchr(listen, ':');
    bool every = strncmp(listen, "0.0.0.0:", 8) == 0 || strncmp(listen, "[::]:", 5) == 0 || port == listen;
    if (every)
        snprintf(into, URL_BYTES, "http://127.0.0.1%s%s", port, path);
    else
        snprintf(into, URL_BYTES, "http://%s%s", listen, path);
}

/* Whose port it is where it is not free: this service's own, or another program's. */
static bool serves_here(const struct service *service, const struct config *config)
{
    char url[URL_BYTES];
    struct waited waited;
    struct error error;
    json_t *json = NULL;
    own_url(config, "/version", url);
    bool serves = get(url, &waited, &error) == OK && waited.result.status == 200 &&
                  json_read(text_of(waited.body), &json, &error) == OK &&
                  text_is(json_text(json, "service"), service->name);
    json_decref(json);
    return serves;
}

static void check_port(const struct service *service, const struct config *config)
{
    struct server *server = NULL;
    struct error error;
    char line[LINE_BYTES];
    const struct server_settings settings = {.listen = config_text(config, "HTTP_LISTEN")};
    struct client_networks proxies;
    enum outcome outcome = settings_proxies(config, &proxies, &error);
    if (outcome == OK)
        outcome = http_open(&settings, &server, &error);
    snprintf(line, sizeof(line), "%s is free", settings.listen);
    if (outcome == OUTAGE && serves_here(service, config)) {
        outcome = OK;
        snprintf(line, sizeof(line), "weir-%s serves at %s", service->name, settings.listen);
    }
    tell("http", outcome, line, &error);
    http_close(server);
}

int check_ready(const struct service *service, const struct config *config)
{
    char url[URL_BYTES], line[LINE_BYTES];
    struct waited waited;
    struct error error;
    json_t *json = NULL;
    exit_code = 0;
    own_url(config, "/readyz", url);
    enum outcome outcome = get(url, &waited, &error);
    if (outcome == OK && waited.result.status == 200) {
        snprintf(line, sizeof(line), "weir-%s, at %s", service->name, config_text(config, "HTTP_LISTEN"));
        say("ready", OK, line);
    } else if (outcome == OK && json_read(text_of(waited.body), &json, &error) == OK) {
        snprintf(line, sizeof(line), "%.*s", TEXT_ARG(json_text(json, "reason")));
        say("ready", OUTAGE, line);
    } else {
        say("ready", OUTAGE, outcome == OK ? waited.result.text : error.text);
    }
    json_decref(json);
    return exit_code;
}

int check_run(const struct service *service, const struct config *config,
              const struct client_settings *client)
{
    struct error error;
    exit_code = 0;
    check_kafka(service, client);
    check_database(service, config);
    check_registry(service, config);
    check_port(service, config);
    enum outcome outcome = service->check ? service->check(config, say, &error) : OK;
    if (outcome != OK)
        tell(service->name, outcome, NULL, &error);
    return exit_code;
}

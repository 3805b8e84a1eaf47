#include "service/own_topics.h"

#include "base/log.h"
#include "base/stop.h"
#include "flow/dispatch.h"
#include "kafka/declared.h"
#include "wire/event.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STACK_BYTES = 256 << 10 };

struct wanted {
    struct declared declared;
    bool own;    /* no other service writes or reads it */
    bool read;   /* and by this service, so that it may read it again from the beginning */
    bool writes; /* this service does */
};

static bool ends(const struct own_topics *own)
{
    return stop_asked() || atomic_load(&own->ending);
}

bool own_topics_reads(const struct service *service, enum topic_id id)
{
    for (const struct subscription *each = service->subscriptions; each && each->type; each++)
        if (each->type->topic == id)
            return true;
    return false;
}

bool own_topics_writes(const struct service *service, enum topic_id id)
{
    for (const enum topic_id *each = service->writes; each && *each != TOPIC_COUNT; each++)
        if (*each == id)
            return true;
    return false;
}

static size_t wanted_of(const struct own_topics *own, struct wanted wanted[OWN_TOPICS_MAX])
{
    const char *name = own->service->name;
    size_t count = 0;
    for (int i = 0; i < TOPIC_COUNT; i++) {
        enum topic_id id = (enum topic_id)i;
        bool writes = own_topics_writes(own->service, id), read = own_topics_reads(own->service, id);
        if (writes || read)
            wanted[count++] = (struct wanted){
                .declared = declared_event(id, topic_get(id)->partitions), .read = read, .writes = writes};
    }
    for (size_t i = 0; i < own->delay_count && count < OWN_TOPICS_MAX - 1; i++)
        wanted[count++] =
            (struct wanted){.declared = declared_retry(name, own->delays_ms[i], TOPIC_PARTITIONS),
                            .own = true,
                            .read = true,
                            .writes = true};
    wanted[count++] =
        (struct wanted){.declared = declared_dlq(name, TOPIC_PARTITIONS), .own = true, .writes = true};
    return count;
}

/* As many partitions as the topics have whose records come here, so that a key is in the same one. */
static int partitions_of(const struct wanted *wanted, const struct admin_topic *topics, size_t count)
{
    int most = 0;
    for (size_t i = 0; i < count; i++)
        if (!wanted[i].own && topics[i].partitions > most)
            most = topics[i].partitions;
    return most;
}

static enum outcome make_missing(const struct own_topics *own, struct admin *admin, struct wanted *wanted,
                                 struct admin_topic *topics, size_t count, struct error *error)
{
    int partitions = partitions_of(wanted, topics, count);
    enum outcome outcome = OK;
    for (size_t i = 0; i < count && outcome == OK && !ends(own); i++) {
        struct declared *declared = &wanted[i].declared;
        if (!wanted[i].own || topics[i].partitions > 0)
            continue;
        declared->partitions = partitions;
        outcome = declared_make(admin, declared, -1, OWN_TOPICS_TIMEOUT_MS, error);
        if (outcome == OK)
            log_info("topics", "made a topic of this service that was missing",
                     LOG_STRING("topic", declared->name), LOG_INT("partitions", partitions));
    }
    return outcome;
}

static void say_finding(void *owner, const char *topic, const char *finding, const char *advice)
{
    (void)owner;
    log_warn("topics", finding, LOG_STRING("topic", topic), LOG_STRING("do", advice));
}

static void say_missing(struct own_topics *own, const struct wanted *wanted, const struct admin_topic *topics,
                        size_t count)
{
    for (size_t i = 0; i < count && !own->said_missing; i++) {
        const char *name = wanted[i].declared.name;
        /* One that may not be seen answers the question for it no better than one that is not there. */
        if (topics[i].denied)
            log_error(
                "topics", "this principal may not even see a topic that it needs", LOG_STRING("topic", name),
                LOG_STRING("do", wanted[i].writes ? wanted[i].own ? "give it the ACLs Read and Write on it"
                                                                  : "give it the ACL Write on it"
                                                  : "give it the ACL Read on it"));
        else if (topics[i].partitions == 0 && (!wanted[i].own || !own->makes))
            log_warn("topics", "a topic that this service needs is missing", LOG_STRING("topic", name),
                     LOG_STRING("do", "weir topics create"));
    }
    own->said_missing = true;
}

/* The settings are a courtesy: who may not ask is told so, and nothing else. */
static void compare(const struct own_topics *own, struct admin *admin, const struct wanted *wanted,
                    const struct admin_topic *topics, size_t count)
{
    struct admin_topic_settings settings[OWN_TOPICS_MAX];
    const char *names[OWN_TOPICS_MAX];
    struct error error;
    int brokers = 0;
    bool denied = false;
    for (size_t i = 0; i < count; i++)
        names[i] = wanted[i].declared.name;
    if (admin_brokers(admin, OWN_TOPICS_TIMEOUT_MS, &brokers, &error) != OK)
        return;
    if (admin_topics_settings(admin, names, count, OWN_TOPICS_TIMEOUT_MS, settings, &error) != OK) {
        log_info("topics", "the settings of the topics cannot be looked at", LOG_STRING("error", error.text));
        memset(settings, 0, sizeof(settings));
    }
    for (size_t i = 0; i < count; i++) {
        denied = denied || settings[i].denied;
        if (topics[i].partitions > 0)
            declared_compare(&wanted[i].declared, &topics[i], &settings[i], brokers,
                             wanted[i].read ? own->keeps_ms : 0, say_finding, NULL);
    }
    if (denied)
        log_info("topics",
                 "the settings of the topics are not looked at: this principal lacks the ACL DescribeConfigs",
                 LOG_STRING("service", own->service->name));
}

/* OUTAGE: ask again. */
static enum outcome look(struct own_topics *own, struct admin *admin, struct error *error)
{
    struct wanted wanted[OWN_TOPICS_MAX];
    const char *names[OWN_TOPICS_MAX + 1] = {NULL};
    struct admin_topic *topics = NULL;
    size_t count = wanted_of(own, wanted), topic_count = 0;
    for (size_t i = 0; i < count; i++)
        names[i] = wanted[i].declared.name;
    enum outcome outcome =
        admin_topics_named(admin, names, OWN_TOPICS_TIMEOUT_MS, &topics, &topic_count, error);
    if (outcome != OK)
        return outcome;
    say_missing(own, wanted, topics, count);
    if (partitions_of(wanted, topics, count) == 0) {
        outcome = error_outage(error, "topics", "none of the topics of events is there yet");
        goto out;
    }
    if (own->makes)
        outcome = make_missing(own, admin, wanted, topics, count, error);
    if (outcome != OUTAGE)
        compare(own, admin, wanted, topics, count);
out:
    free(topics);
    return outcome;
}

/* OUTAGE: ask again. */
static enum outcome look_old(struct own_topics *own, struct admin *admin, struct error *error)
{
    struct admin_topic *topics = NULL;
    size_t count = 0;
    enum outcome outcome = admin_topics(admin, OWN_TOPICS_TIMEOUT_MS, &topics, &count, error);
    for (size_t i = 0; outcome == OK && i < count && !ends(own); i++)
        if (!dispatch_read_old(own->dispatch, topics[i].name))
            log_error(
                "retry",
                "a retry topic of an earlier RETRY_DELAYS is not read: there are too many; delete the empty "
                "ones and start again",
                LOG_STRING("topic", topics[i].name));
    free(topics);
    return outcome;
}

/* Asks until the brokers have answered. */
static void ask(struct own_topics *own, struct admin *admin, const char *failed,
                enum outcome (*question)(struct own_topics *, struct admin *, struct error *))
{
    struct pollfd stop = {.fd = stop_fd(), .events = POLLIN};
    struct error error;
    while (!ends(own)) {
        enum outcome outcome = question(own, admin, &error);
        if (outcome != OUTAGE) {
            if (outcome != OK)
                log_error("topics", failed, LOG_STRING("error", error.text));
            return;
        }
        if (poll(&stop, 1, OWN_TOPICS_STEP_MS) > 0)
            return;
    }
}

static void *run(void *owner)
{
    struct own_topics *own = owner;
    struct admin *admin = NULL;
    struct error error;
    if (admin_open(own->client, &admin, &error) != OK) {
        log_error("topics", "this service's topics are not looked at", LOG_STRING("error", error.text));
        return NULL;
    }
    ask(own, admin, "cannot look for retry topics of an earlier RETRY_DELAYS: they are not read", look_old);
    ask(own, admin, "cannot make this service's retry and dead letter topics: weir topics create", look);
    admin_close(admin);
    return NULL;
}

enum outcome own_topics_open(struct own_topics *own, struct error *error)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = pthread_create(&own->thread, &attributes, run, own);
    pthread_attr_destroy(&attributes);
    if (failed)
        return error_fatal(error, "thread", "cannot start a thread: %s", strerror(failed));
    own->running = true;
    return OK;
}

void own_topics_close(struct own_topics *own)
{
    atomic_store(&own->ending, true);
    if (own->running)
        pthread_join(own->thread, NULL);
    own->running = false;
}

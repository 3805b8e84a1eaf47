#include "service/own_topics.h"

#include "base/log.h"
#include "base/stop.h"
#include "kafka/admin.h"
#include "wire/topic.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STACK_BYTES = 256 << 10 };

static bool ends(const struct own_topics *own)
{
    return stop_asked() || atomic_load(&own->ending);
}

static const struct admin_topic *find(const struct admin_topic *topics, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(topics[i].name, name) == 0 && topics[i].partitions > 0)
            return &topics[i];
    return NULL;
}

/* As many partitions as the topics have whose records come here, so that a key is in the same one. */
static int partitions_of(const struct admin_topic *topics, size_t count)
{
    int most = 0;
    for (int id = 0; id < TOPIC_COUNT; id++) {
        const struct admin_topic *topic = find(topics, count, topic_get((enum topic_id)id)->name);
        if (topic && topic->partitions > most)
            most = topic->partitions;
    }
    return most;
}

static enum outcome make(struct admin *admin, const char *name, int days, int partitions, struct error *error)
{
    char retention[32], bytes[32];
    snprintf(retention, sizeof(retention), "%lld", days * 86400000LL);
    snprintf(bytes, sizeof(bytes), "%d", TOPIC_COPY_BYTES_MAX);
    const char *const config[] = {
        "cleanup.policy", "delete", "retention.ms", retention, "max.message.bytes", bytes, NULL};
    const struct admin_new_topic topic = {
        .name = name, .partitions = partitions, .replication = -1, .config = config};
    enum outcome outcome = admin_create(admin, &topic, 1, OWN_TOPICS_TIMEOUT_MS, error);
    if (outcome == OK)
        log_info("topics", "made a topic of this service that was missing", LOG_STRING("topic", name),
                 LOG_INT("partitions", partitions));
    return outcome;
}

/* OUTAGE: ask again. */
static enum outcome look(const struct own_topics *own, struct admin *admin, struct error *error)
{
    struct admin_topic *topics = NULL;
    size_t count = 0;
    char name[TOPIC_NAME_BYTES_MAX];
    enum outcome outcome = admin_topics(admin, OWN_TOPICS_TIMEOUT_MS, &topics, &count, error);
    if (outcome != OK)
        return outcome;
    int partitions = partitions_of(topics, count);
    if (partitions == 0)
        outcome = error_outage(error, "topics", "none of the topics of events is there yet");
    for (size_t i = 0; outcome == OK && i <= own->delay_count && !ends(own); i++) {
        bool dead = i == own->delay_count;
        if (dead)
            topic_dlq(own->service, name);
        else
            topic_retry(own->service, own->delays_ms[i], name);
        if (!find(topics, count, name))
            outcome = make(admin, name, dead ? TOPIC_DLQ_DAYS : TOPIC_RETRY_DAYS, partitions, error);
    }
    free(topics);
    return outcome;
}

static void *run(void *owner)
{
    const struct own_topics *own = owner;
    struct pollfd stop = {.fd = stop_fd(), .events = POLLIN};
    struct admin *admin = NULL;
    struct error error;
    enum outcome outcome = admin_open(own->client, &admin, &error);
    while (outcome == OK && !ends(own)) {
        outcome = look(own, admin, &error);
        if (outcome != OUTAGE)
            break;
        outcome = OK;
        if (poll(&stop, 1, OWN_TOPICS_STEP_MS) > 0)
            break;
    }
    if (outcome != OK)
        log_error("topics", "cannot make this service's retry and dead letter topics: weir topics create",
                  LOG_STRING("error", error.text));
    admin_close(admin);
    return NULL;
}

enum outcome own_topics_open(struct own_topics *own, const struct client_settings *client,
                             const char *service, const int64_t *delays_ms, size_t delay_count,
                             struct error *error)
{
    *own = (struct own_topics){
        .client = client, .service = service, .delays_ms = delays_ms, .delay_count = delay_count};
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

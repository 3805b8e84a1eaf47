#include "service/old_retries.h"

#include "base/log.h"
#include "base/stop.h"
#include "flow/dispatch.h"
#include "kafka/admin.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { STACK_BYTES = 256 << 10 };

static bool ends(const struct old_retries *old)
{
    return stop_asked() || atomic_load(&old->ending);
}

static enum outcome look(const struct old_retries *old, struct admin *admin, struct error *error)
{
    struct admin_topic *topics = NULL;
    size_t count = 0;
    enum outcome outcome = admin_topics(admin, OLD_RETRIES_TIMEOUT_MS, &topics, &count, error);
    for (size_t i = 0; outcome == OK && i < count && !ends(old); i++)
        if (!dispatch_read_old(old->dispatch, topics[i].name))
            log_error(
                "retry",
                "a retry topic of an earlier RETRY_DELAYS is not read: there are too many; delete the empty "
                "ones and start again",
                LOG_STRING("topic", topics[i].name));
    free(topics);
    return outcome;
}

static void *run(void *owner)
{
    const struct old_retries *old = owner;
    struct pollfd stop = {.fd = stop_fd(), .events = POLLIN};
    struct admin *admin = NULL;
    struct error error;
    enum outcome outcome = admin_open(old->client, &admin, &error);
    while (outcome == OK && !ends(old)) {
        outcome = look(old, admin, &error);
        if (outcome != OUTAGE)
            break;
        outcome = OK;
        if (poll(&stop, 1, OLD_RETRIES_STEP_MS) > 0)
            break;
    }
    if (outcome != OK)
        log_error("retry", "cannot look for retry topics of an earlier RETRY_DELAYS: they are not read",
                  LOG_STRING("error", error.text));
    admin_close(admin);
    return NULL;
}

enum outcome old_retries_open(struct old_retries *old, const struct client_settings *client,
                              struct dispatch *dispatch, struct error *error)
{
    *old = (struct old_retries){.client = client, .dispatch = dispatch};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = pthread_create(&old->thread, &attributes, run, old);
    pthread_attr_destroy(&attributes);
    if (failed)
        return error_fatal(error, "thread", "cannot start a thread: %s", strerror(failed));
    old->running = true;
    return OK;
}

void old_retries_close(struct old_retries *old)
{
    atomic_store(&old->ending, true);
    if (old->running)
        pthread_join(old->thread, NULL);
    old->running = false;
}

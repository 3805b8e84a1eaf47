/*
 * own_topics: a service makes the topics that only it writes and reads, where they are missing: its retry
 * topics (one for each of RETRY_DELAYS) and its dead letters. A record that fails must not wait for somebody
 * to think of a topic after the delays were changed. The topics of events are never made here.
 *
 * A thread of its own that asks until the brokers have answered, then ends: nothing waits for it. Off by
 * TOPICS_CREATE=false, or where the brokers refuse: said once, with what to do.
 */
#ifndef SERVICE_OWN_TOPICS_H
#define SERVICE_OWN_TOPICS_H

#include "kafka/client.h"

#include <pthread.h>
#include <stdatomic.h>

enum { OWN_TOPICS_TIMEOUT_MS = 1500, OWN_TOPICS_STEP_MS = 1000, OWN_TOPICS_MAX = 17 };

struct own_topics {
    const struct client_settings *client; /* lent */
    const char *service;
    const int64_t *delays_ms; /* lent */
    size_t delay_count;
    pthread_t thread;
    bool running;
    atomic_bool ending;
};

MUST_CHECK enum outcome own_topics_open(struct own_topics *own, const struct client_settings *client,
                                        const char *service, const int64_t *delays_ms, size_t delay_count,
                                        struct error *error);
/* Waits for the call that is under way, at most two of OWN_TOPICS_TIMEOUT_MS. */
void own_topics_close(struct own_topics *own);

#endif

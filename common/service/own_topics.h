/*
 * own_topics: a service's look at its topics when it starts.
 *
 * It makes those that only it writes and reads, where they are missing: its retry topics (one for each of
 * RETRY_DELAYS) and its dead letters. A record that fails must not wait for somebody to think of a topic
 * after the delays were changed. The topics of events are never made here. Off by TOPICS_CREATE=false, or
 * where the brokers refuse: said once, with what to do.
 *
 * And it warns, a line a finding, of what may cost records or order (kafka/declared.h), of topics that are
 * missing, and of those that its principal may not even see.
 *
 * Before that it has the loop read its retry topics that RETRY_DELAYS does not name any more (dispatch_read_old()):
 * what lay there when the delays were changed must not be forgotten.
 *
 * A thread of its own that asks until the brokers have answered, then ends: nothing waits for it.
 */
#ifndef SERVICE_OWN_TOPICS_H
#define SERVICE_OWN_TOPICS_H

#include "kafka/client.h"
#include "service/service.h"

#include <pthread.h>
#include <stdatomic.h>

enum { OWN_TOPICS_TIMEOUT_MS = 1500, OWN_TOPICS_STEP_MS = 1000, OWN_TOPICS_MAX = 32 };

struct dispatch;

struct own_topics {
    const struct client_settings *client; /* lent, as what it points to */
    struct dispatch *dispatch;            /* lent */
    const struct service *service;
    const int64_t *delays_ms; /* lent */
    size_t delay_count;
    int64_t keeps_ms; /* INBOX_AGE */
    bool makes;       /* TOPICS_CREATE */
    pthread_t thread;
    bool running;
    bool said_missing; /* its thread's */
    atomic_bool ending;
};

/* Everything but thread, running and what is behind them is the caller's to fill in. */
MUST_CHECK enum outcome own_topics_open(struct own_topics *own, struct error *error);
/* Before dispatch_close(). Waits for the call that is under way, at most two of OWN_TOPICS_TIMEOUT_MS. */
void own_topics_close(struct own_topics *own);

/* Does the service read or write this topic of events? */
bool own_topics_reads(const struct service *service, enum topic_id id);
bool own_topics_writes(const struct service *service, enum topic_id id);

#endif

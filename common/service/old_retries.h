/*
 * old_retries: when a service starts, it looks for its retry topics that RETRY_DELAYS does not name (any
 * more) and has the loop read them (dispatch_read_old()): what lay there when the delays were changed must
 * not be forgotten.
 *
 * A thread of its own that asks until the brokers have answered, then ends: nothing waits for it.
 */
#ifndef SERVICE_OLD_RETRIES_H
#define SERVICE_OLD_RETRIES_H

#include "kafka/client.h"

#include <pthread.h>
#include <stdatomic.h>

enum { OLD_RETRIES_TIMEOUT_MS = 1500, OLD_RETRIES_STEP_MS = 1000 };

struct dispatch;

struct old_retries {
    const struct client_settings *client; /* lent */
    struct dispatch *dispatch;            /* lent */
    pthread_t thread;
    bool running;
    atomic_bool ending;
};

MUST_CHECK enum outcome old_retries_open(struct old_retries *old, const struct client_settings *client,
                                         struct dispatch *dispatch, struct error *error);
/* Before dispatch_close(). Waits for the call that is under way, about OLD_RETRIES_TIMEOUT_MS at most. */
void old_retries_close(struct old_retries *old);

#endif

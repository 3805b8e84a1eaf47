/* topics: what topics there should be (wire/topics.def, retry and dead letter topics of every service), and making those that
 * are missing. `weir topics`, `weir up` and `weir broker` share it. */
#ifndef WEIR_TOPICS_H
#define WEIR_TOPICS_H

#include "base/config.h"
#include "kafka/client.h"
#include "kafka/declared.h"
#include "wire/topic.h"

enum {
    TOPICS_MAX = 128,
    TOPICS_TIMEOUT_MS = 15000, /* a question */
    TOPICS_CREATE_MS = 60000,  /* a topic made, and all of them known: brokers that have just started are slow */
};

struct topics_wanted {
    int partitions;
    int replication; /* 0: the broker's default; -1: 3, or as many as there are brokers */
    int64_t delays_ms[CONFIG_DURATIONS_MAX]; /* RETRY_DELAYS: one retry topic each */
    size_t delay_count;
};

size_t topics_declared(const struct topics_wanted *wanted, struct declared ret[TOPICS_MAX]);
/* Makes what is missing; never shrinks or deletes. *ret_made counts them. */
MUST_CHECK enum outcome topics_make(const struct client_settings *client, const struct topics_wanted *wanted, size_t *ret_made,
                                    struct error *error);

#endif

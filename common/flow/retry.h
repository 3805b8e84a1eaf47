/*
 * retry: the ladder of retry topics of a service: which one is next, and when a record on it is due.
 *
 * A record that failed for the n-th time since it was delivered (or redriven) goes to the topic of the n-th
 * of RETRY_DELAYS, and after the last one to the dead letters. Every topic has one delay, so that records on
 * it become due in the order in which they lie there, and waiting for the first is waiting for all. Pure.
 *
 * Topics of delays that RETRY_DELAYS no longer names are read as well, and nothing goes there any more: a
 * record that comes from one goes on up the ladder as it is now.
 */
#ifndef FLOW_RETRY_H
#define FLOW_RETRY_H

#include "wire/origin.h"

#include <stdatomic.h>

enum {
    RETRY_DELAYS_MAX = 16,
    RETRY_OLD_MAX = 32, /* topics of earlier delays that are read */
    RETRY_TOPICS_MAX = RETRY_DELAYS_MAX + RETRY_OLD_MAX,
    RETRY_SKEW_MS = 60000, /* clocks of hosts may differ by so much; see retry_due_us() */
};

struct retry {
    /* As in RETRY_DELAYS, the same one may come twice; behind them the old ones. */
    int64_t delays_ms[RETRY_TOPICS_MAX];
    char topics[RETRY_TOPICS_MAX][TOPIC_NAME_BYTES_MAX];
    size_t count;            /* of the ladder */
    atomic_size_t old_count; /* another thread adds them: retry_add_old() */
};

/* More than RETRY_DELAYS_MAX are cut: settings refuse them before. */
void retry_init(struct retry *retry, const char *service, const int64_t *delays_ms, size_t count);
/* After so many attempts (1 is the first): which delay comes now. False: the ladder is used up. */
bool retry_next(const struct retry *retry, int attempt, size_t *ret_step);
/* A topic of an earlier delay; one that is known already is nothing new. One thread, beside the loop's.
 * False: RETRY_OLD_MAX are there. */
MUST_CHECK bool retry_add_old(struct retry *retry, const char *topic, int64_t delay_ms);
/* One of the ladder's topics, or an old one? */
bool retry_find(const struct retry *retry, struct text topic, size_t *ret_step);
/* When a record on this step's topic may be tried: what it says, but never later than its delay after it was
 * written there, so that no header can keep a partition waiting. A timestamp is the writer's word as well:
 * what is then due later than two delays and RETRY_SKEW_MS from now is due now (retry_believes()). */
int64_t retry_due_us(const struct retry *retry, size_t step, const struct origin *origin,
                     int64_t timestamp_ms);
bool retry_believes(const struct retry *retry, size_t step, int64_t due_us, int64_t now_us);

#endif

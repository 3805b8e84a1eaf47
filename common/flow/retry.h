/*
 * retry: the ladder of retry topics of a service: which one is next, and when a record on it is due.
 *
 * A record that failed for the n-th time since it was delivered (or redriven) goes to the topic of the n-th
 * of RETRY_DELAYS, and after the last one to the dead letters. Every topic has one delay, so that records on
 * it become due in the order in which they lie there, and waiting for the first is waiting for all. Pure.
 */
#ifndef FLOW_RETRY_H
#define FLOW_RETRY_H

#include "wire/origin.h"

enum {
    RETRY_DELAYS_MAX = 16,
    RETRY_SKEW_MS = 60000, /* clocks of hosts may differ by so much; see retry_due_us() */
};
#define RETRY_TIMESTAMP_MS_MAX INT64_C(253402300800000) /* the year 10000: no clock says more */

struct retry {
    int64_t delays_ms[RETRY_DELAYS_MAX]; /* as in RETRY_DELAYS, the same one may come twice */
    char topics[RETRY_DELAYS_MAX][TOPIC_NAME_BYTES_MAX];
    size_t count;
};

/* More than RETRY_DELAYS_MAX are cut: settings refuse them before. */
void retry_init(struct retry *retry, const char *service, const int64_t *delays_ms, size_t count);
/* After so many attempts (1 is the first): which delay comes now. False: the ladder is used up. */
bool retry_next(const struct retry *retry, int attempt, size_t *ret_step);
/* One of the ladder's topics? */
bool retry_find(const struct retry *retry, struct text topic, size_t *ret_step);
/* When a record on this step's topic may be tried: what it says, but never later than its delay after it was
 * written there, so that no header can keep a partition waiting. A timestamp is the writer's word as well:
 * what is then due later than two delays and RETRY_SKEW_MS from now is due now (retry_believes()). */
int64_t retry_due_us(const struct retry *retry, size_t step, const struct origin *origin,
                     int64_t timestamp_ms);
bool retry_believes(const struct retry *retry, size_t step, int64_t due_us, int64_t now_us);

#endif

/*
 * mock: librdkafka's mock cluster as a broker for a look without Java, and for fault tests. Not a Kafka: it
 * keeps everything in memory, at most 5 MiB or 100,000 record sets a partition, and forgets the oldest
 * without a word. mock_check() finds out. It has no CreateTopics: topics are given at the start. One thread.
 */
#ifndef KAFKA_MOCK_H
#define KAFKA_MOCK_H

#include "base/error.h"

#include <stddef.h>

enum { MOCK_GROUPS_MAX = 16, MOCK_TOPICS_MAX = 256 };

struct mock_topic {
    const char *name;
    int partitions;
};

struct mock;
/* groups: consumer groups, NULL ended, whose unread records mock_check() looks after. Topics and groups are
 * kept, not copied. */
MUST_CHECK enum outcome mock_open(const struct mock_topic *topics, size_t topic_count,
                                  const char *const *groups, struct mock **ret, struct error *error);
const char *mock_bootstrap(const struct mock *mock); /* host:port */
/* FATAL ("evicted") when a group that reads a topic (it has committed an offset there) has lost records it
 * had not read. RETRY when it could not be told now. Waits at most timeout_ms for each group. */
MUST_CHECK enum outcome mock_check(struct mock *mock, int timeout_ms, struct error *error);
void mock_close(struct mock *mock); /* accepts NULL */

#endif

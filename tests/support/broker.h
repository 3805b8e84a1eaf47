/*
 * broker: librdkafka's mock cluster in this process, for tests of flow/ and kafka/.
 *
 * It keeps 5 MiB or 100,000 record sets a partition and forgets the oldest silently: a test that writes more
 * must read along. The first member of a group waits 3 s for its partitions, fixed in 2.0.2's code. It has no
 * CreateTopics, no offsets by time and no transactions, and it does not deduplicate. Asserts where it cannot
 * start.
 */
#ifndef SUPPORT_BROKER_H
#define SUPPORT_BROKER_H

#include <stddef.h>
#include <stdint.h>

struct broker;
extern const int broker_threads_are_seen; /* threads.c */

/* nodes brokers with these topics (NULL ended) of so many partitions each. */
struct broker *broker_start(int nodes, const char *const *topics, int partitions);
void broker_stop(struct broker *broker);
const char *broker_bootstrap(const struct broker *broker); /* host:port,… */
void broker_add_topic(struct broker *broker, const char *topic, int partitions);

/* All nodes: connections are dropped and refused; and back. */
void broker_down(struct broker *broker);
void broker_up(struct broker *broker);
/* All nodes answer so much later: 3,600,000 is "hung"; 0 is back to normal. Answers that wait already keep
 * waiting. */
void broker_delay(struct broker *broker, int delay_ms);
/* Kafka's protocol numbers of the requests that tests fail. */
enum broker_request {
    BROKER_PRODUCE = 0,
    BROKER_FETCH = 1,
    BROKER_LIST_OFFSETS = 2,
    BROKER_METADATA = 3,
    BROKER_OFFSET_COMMIT = 8,
    BROKER_OFFSET_FETCH = 9,
    BROKER_FIND_COORDINATOR = 10,
    BROKER_JOIN_GROUP = 11,
    BROKER_HEARTBEAT = 12,
    BROKER_LEAVE_GROUP = 13,
    BROKER_SYNC_GROUP = 14,
    BROKER_INIT_PRODUCER_ID = 22,
};
/* The next times such requests are answered with error (a rd_kafka_resp_err_t; -195 drops the connection). */
void broker_fail(struct broker *broker, enum broker_request request, int error, int times);
void broker_heal(struct broker *broker, enum broker_request request); /* what is left of it */

/* The group's committed offset as the broker has it, -1 for none. Waits at most 10 s for an answer (asserts).
 */
int64_t broker_committed(struct broker *broker, const char *group, const char *topic, int32_t partition);
/* Writes count records, value and key the decimals of first, first + 1, …; waits until they are there.
 */
void broker_write(struct broker *broker, const char *topic, int32_t partition, int first, int count);
/* Reads all that is there, in order; each is called for every record. Returns the count. */
size_t broker_read(struct broker *broker, const char *topic, int32_t partition,
                   void (*each)(void *owner, const void *key, size_t key_bytes, const void *value,
                                size_t value_bytes),
                   void *owner);

#endif

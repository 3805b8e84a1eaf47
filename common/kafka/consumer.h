/*
 * consumer: a member of a group, with a poll thread of its own that never waits for a handler.
 *
 * The poll thread fetches into a bounded queue; the loop takes from it, handles, and says what is done.
 * Offsets are committed by hand, asynchronously, by the poll thread, never above the contiguous watermark
 * (offsets.h) and never for a partition that was taken away. A full queue and a pause leave records where
 * librdkafka has fetched them; a hold rewinds one partition. Membership is kept all the while, polling goes
 * on.
 */
#ifndef KAFKA_CONSUMER_H
#define KAFKA_CONSUMER_H

#include "base/text.h"
#include "kafka/client.h"
#include "wire/event.h"

struct consumer;

struct consumer_settings {
    struct client_settings client;
    const char *group_id;
    const char *const *topics; /* NULL ended */
    int queue_records_max;     /* taken from librdkafka, not yet by the loop; default 20,000 */
    size_t queue_bytes_max;    /* default 32 MiB */
    int commit_interval_ms;    /* default 200 */
    int revoke_wait_ms;        /* how long a revoke waits for records in the loop's hands; default 5000 */
    void (*wake)(void *owner); /* on the poll thread: there is something to take, or the assignment changed */
    void *wake_owner;
};

/* One record, in the loop's hands until consumer_done() or consumer_drop(). */
struct record {
    struct text topic;
    int topic_index; /* in settings.topics */
    int32_t partition;
    int64_t offset;
    int64_t timestamp_ms; /* the writer's word: 0 (none) to RECORD_TIMESTAMP_MS_MAX */
    struct text key, value;
    bool key_null, value_null;
    uint32_t generation; /* of the partition's assignment or last hold */
    void *message;       /* librdkafka's; the slices point into it */
};

/* Does not wait for a broker. auto.offset.reset=earliest. */
MUST_CHECK enum outcome consumer_open(const struct consumer_settings *settings, struct consumer **ret,
                                      struct error *error);

/* ---- the loop's thread */

/* At most count_max records and about bytes_max bytes, in order per partition; none that were taken away or
 * are held. Does not wait. */
size_t consumer_take(struct consumer *consumer, struct record *ret_records, size_t count_max,
                     size_t bytes_max);
/* The headers, in the arena. REJECT ("headers") past HEADERS_COUNT_MAX or HEADERS_BYTES_MAX, with all of them
 * given for the dead letter: what the record's own size allows. */
MUST_CHECK enum outcome record_headers(const struct record *record, struct arena *arena,
                                       const struct header **ret_headers, size_t *ret_count,
                                       struct error *error);
/* Still this member's, and not held since it was taken? What is not must not be handled. */
bool consumer_owns(struct consumer *consumer, const struct record *record);
/* Its effect is durable: its offset may be committed. Releases it. */
void consumer_done(struct consumer *consumer, struct record *records, size_t count);
/* Releases without being done: it will be delivered again (to somebody). While the partition is still this
 * member's, that is a hold without a delay. */
void consumer_drop(struct consumer *consumer, struct record *records, size_t count);
/* Holds the record's partition: this record and all after it are delivered again, in order, in delay_ms; from
 * an earlier one on where an earlier one is still in hand (what is done above it comes again too). Records of
 * the partition in hand or queued become stale (consumer_owns() false). The record is released. */
void consumer_hold(struct consumer *consumer, struct record *record, int64_t delay_ms);

/* ---- any thread */

/* Another topic to read; its index is the next after those of the settings. False: no room for it, or memory
 * is out. The group is rebalanced. */
MUST_CHECK bool consumer_add_topic(struct consumer *consumer, const char *topic);

enum consumer_pause { PAUSE_OUTAGE = 1, PAUSE_FLOOD = 2, PAUSE_BACKLOG = 4, PAUSE_OPERATOR = 8 };
/* Adds or takes away a reason; fetching is paused while any is there. Queued records can still be taken. */
void consumer_pause(struct consumer *consumer, enum consumer_pause reason);
void consumer_resume(struct consumer *consumer, enum consumer_pause reason);
unsigned consumer_paused(const struct consumer *consumer); /* the reasons */

/* True once Kafka has given partitions, or said that there are none left for this member. False again while
 * there is no broker to talk to for longer than the session time-out. */
bool consumer_ready(const struct consumer *consumer);
/* A fatal consumer error (fenced, not authorised for a topic or the group): its text, else NULL. */
const char *consumer_fatal(const struct consumer *consumer);
/* Is it fatal because the principal lacks an ACL? Only a person can help. */
bool consumer_denied(const struct consumer *consumer);
/* Why no broker can be talked to (a certificate, a password, a port), as the last connection failed; false
 * where there is one, or nothing is known. */
bool consumer_trouble(struct consumer *consumer, char *into, size_t into_bytes);
size_t consumer_queued(const struct consumer *consumer);

/* For metrics: one call a partition that is assigned. lag -1 where unknown; oldest_ms: timestamp of the
 * oldest record that was fetched and is not done, 0 for none. Takes a lock; not for the hot path. */
struct consumer_partition {
    const char *topic;
    int32_t partition;
    int64_t committed, high, lag;
    int64_t oldest_ms;
};
void consumer_each(struct consumer *consumer,
                   void (*each)(void *owner, const struct consumer_partition *partition), void *owner);

/* Goes up with each assignment and each loss of one, and when consumer_first() knows more; settings.wake
 * follows. */
unsigned consumer_rebalances(const struct consumer *consumer);
/* Which partitions of settings.topics[0] are this member's: into ret_owned. Returns how many the topic has; 0
 * while that is not known. At most count_max of both. Takes a lock; not for the hot path. */
int32_t consumer_first(struct consumer *consumer, bool *ret_owned, int32_t count_max);

/* Stops fetching; takes return nothing any more. Then finish what is in hand, then close. */
void consumer_stop(struct consumer *consumer);
/* Commits what is done, leaves the group, ends within about timeout_ms whatever the brokers do. */
void consumer_close(struct consumer *consumer, int timeout_ms);

#endif

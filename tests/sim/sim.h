/*
 * sim: Kafka in memory, for tests that want thousands of random histories of the real loop, each of them
 * again by its seed. It defines the symbols of kafka/consumer.h and kafka/producer.h, so that the library's
 * own are not linked: a test that calls sim_open() has no thread and no socket, and dispatch_run() runs on
 * the test's thread.
 *
 * The test moves when the loop does: .turn is called each time that the loop looks for records or has nothing
 * to do. Time stands still but for what the test adds (clock_hold(), clock_advance()).
 *
 * What it does at random, each one time in so many (0: never):
 *   a crash         nothing that the loop says is heard any more, and it ends: sends, offsets, holds are
 * lost; of what was in flight, some was written and some not a rebalance     a partition is away for a while,
 * also in the middle of a batch a full queue    the producer does not take a record a fatal error   the
 * producer is done for, what was in flight may or may not have been written
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "kafka/consumer.h"
#include "kafka/producer.h"

enum { SIM_TOPICS_MAX = 8, SIM_PARTITIONS = 3, SIM_NEVER = 0 };

struct sim_record {
    struct text topic;
    int32_t partition;
    int64_t offset, timestamp_ms;
    struct text key, value;
    bool key_null, value_null;
    const struct header *headers;
    size_t header_count;
    bool in_hand, done; /* since the partition's last rewind */
};

struct sim_partition {
    struct sim_record **records; /* all that was ever written */
    size_t count, capacity;
    size_t position, committed;
    uint32_t generation;
    bool away;
    int64_t held_until_us; /* monotonic */
};

struct sim {
    uint64_t random; /* the state of sim_random(); the seed before */
    struct arena *arena;
    struct sim_topic {
        char name[64];
        struct sim_partition partitions[SIM_PARTITIONS];
    } topics[SIM_TOPICS_MAX];
    size_t topic_count;
    struct sim_topic *read[SIM_TOPICS_MAX]; /* by the consumer, by topic_index */
    size_t read_count;

    void *owner;
    void (*turn)(void *owner);
    void (*appended)(void *owner, const struct sim_record *record);
    void (*taken)(void *owner, const struct sim_record *record); /* the loop has it now */
    void (*crash)(void *owner); /* .crashed is set: end the loop (dispatch_stop) */
    unsigned crash_one_in, rebalance_one_in, queue_full_one_in, fatal_one_in;

    bool crashed;
    uint64_t progress; /* goes up with each record written or done */
    struct sim_sent {
        struct sim_record *record;
        uint64_t tag;
    } * sent; /* by the producer, not yet written, in order */
    size_t sent_count, sent_capacity;
    struct consumer *consumer;
    struct producer *producer;
};

/* One at a time. topics: NULL ended. */
void sim_open(struct sim *sim, uint64_t seed, const char *const *topics);
void sim_close(struct sim *sim);
uint64_t sim_random(struct sim *sim);
size_t sim_below(struct sim *sim, size_t bound); /* 0 to bound - 1 */
bool sim_one_in(struct sim *sim, unsigned n);    /* false for 0 */

/* By others than the loop. All is copied. */
void sim_append(struct sim *sim, struct text topic, struct text key, struct text value,
                const struct header *headers, size_t header_count);
/* Some of what the producer was given is written, and said to be. all: everything. */
void sim_settle(struct sim *sim, bool all);
void sim_wake(struct sim *sim);
void sim_crash(struct sim *sim); /* now: also from inside a handler */
/* After a crash, when the dispatch is gone: as the next process finds it. */
void sim_restart(struct sim *sim);
void sim_rebalance(struct sim *sim, struct sim_partition *partition); /* away, or back */
/* Records that the loop has not let go yet, and those that the producer has. */
size_t sim_left(const struct sim *sim);

#endif

/* consumer.h's promises, on the mock cluster. The first member of a group waits 3 s for its partitions there:
 * cases share a cluster where they can, each with a group and topics of its own. */
#include "base/clock.h"
#include "kafka/consumer.h"
#include "kafka/handle.h"
#include "kafka/producer.h"
#include "kafka/reader.h"
#include "support/broker.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { WAIT_MS = 40000, TAKE_MAX = 512, PARTITIONS = 3 };

static struct broker *broker;
static uint64_t seed = 88172645463325252u;

static uint64_t dice(void)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed >> 16;
}

struct member {
    struct consumer *consumer;
    struct record records[TAKE_MAX];
    atomic_int wakes;
};

static void on_wake(void *owner)
{
    struct member *member = owner;
    atomic_fetch_add(&member->wakes, 1);
}

static const char *const quick[] = {
    "session.timeout.ms", "6000", "heartbeat.interval.ms", "500", "fetch.wait.max.ms", "50", NULL};

static void open_with(struct member *member, const char *group, const char *topic, int queue_records_max,
                      int revoke_wait_ms, const char *const *properties)
{
    struct error error;
    const char *const topics[] = {topic, NULL};
    struct consumer_settings settings = {
        .client = {.bootstrap_servers = broker_bootstrap(broker), .properties = properties},
        .group_id = group,
        .topics = topics,
        .queue_records_max = queue_records_max,
        .commit_interval_ms = 20,
        .revoke_wait_ms = revoke_wait_ms,
        .wake = on_wake,
        .wake_owner = member,
    };
    if (consumer_open(&settings, &member->consumer, &error) != OK)
        fail_msg("%s", error.text);
}

static void open_member(struct member *member, const char *group, const char *topic, int queue_records_max,
                        int revoke_wait_ms)
{
    open_with(member, group, topic, queue_records_max, revoke_wait_ms, quick);
}

static bool waited(int64_t since_us)
{
    usleep(2000); /* between two looks, not for a time that is assumed to be enough */
    return clock_monotonic_us() - since_us > WAIT_MS * 1000LL;
}
/* Looks again and again until it holds; a test that waits too long fails. */
#define WAIT_UNTIL(condition)                                                                                \
    do {                                                                                                     \
        int64_t looked_us = clock_monotonic_us();                                                            \
        while (!(condition))                                                                                 \
            if (waited(looked_us))                                                                           \
                fail_msg("never: %s", #condition);                                                           \
    } while (0)

static size_t take(struct member *member, size_t max)
{
    return consumer_take(member->consumer, member->records, max, SIZE_MAX);
}

static int number_of(const struct record *record)
{
    char text[16];
    snprintf(text, sizeof(text), "%.*s", TEXT_ARG(record->value));
    return atoi(text);
}

struct seen {
    int64_t lag, committed, oldest_ms;
    int partitions;
};

static void look(void *owner, const struct consumer_partition *partition)
{
    struct seen *seen = owner;
    seen->partitions++;
    seen->lag += partition->lag;
    seen->committed += partition->committed > 0 ? partition->committed : 0;
    seen->oldest_ms += partition->oldest_ms;
}

static struct seen look_at(struct member *member)
{
    struct seen seen = {0};
    consumer_each(member->consumer, look, &seen);
    return seen;
}

static void commits_follow_what_is_done_in_any_order_and_never_pass_it(void **state)
{
    (void)state;
    enum { COUNT = 3000, HAND_MAX = 1000, HAND_MIN = 100 };
    broker_add_topic(broker, "random", PARTITIONS);
    for (int partition = 0; partition < PARTITIONS; partition++)
        broker_write(broker, "random", partition, 0, COUNT);
    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-random", "random", 200,
                0); /* a queue far smaller than what there is: it fills and empties */
    static struct record hand[HAND_MAX];
    static bool done[PARTITIONS][COUNT];
    size_t in_hand = 0;
    int finished = 0, taken = 0, next[PARTITIONS] = {0}, looks = 0;
    int64_t since_us = clock_monotonic_us();
    while (finished < PARTITIONS * COUNT) {
        size_t room = HAND_MAX - in_hand, count = take(member, room < TAKE_MAX ? room : TAKE_MAX);
        for (size_t i = 0; i < count; i++) {
            const struct record *record = &member->records[i];
            assert_int_equal(record->offset, next[record->partition]);
            assert_int_equal(number_of(record), next[record->partition]++);
            assert_true(consumer_owns(member->consumer, record));
            hand[in_hand++] = *record;
            taken++;
        }
        assert_true(consumer_queued(member->consumer) <= 200);
        for (size_t burst = dice() % 64; burst && in_hand > (taken < PARTITIONS * COUNT ? HAND_MIN : 0);
             burst--) {
            size_t at = dice() % in_hand;
            done[hand[at].partition][hand[at].offset] = true;
            consumer_done(member->consumer, &hand[at], 1);
            hand[at] = hand[--in_hand];
            finished++;
        }
        if (!count && waited(since_us))
            fail_msg("only %d of %d came", finished, PARTITIONS * COUNT);
        if (finished > looks * 1500 + 1000) {
            /* What the broker has may lag behind what is done, and must not be ahead of it. */
            for (int partition = 0; partition < PARTITIONS; partition++) {
                int64_t committed = broker_committed(broker, "g-random", "random", partition);
                for (int64_t offset = 0; offset < committed; offset++)
                    assert_true(done[partition][offset]);
            }
            looks++;
        }
    }
    assert_true(looks > 2);
    WAIT_UNTIL(look_at(member).committed == PARTITIONS * COUNT);
    WAIT_UNTIL(look_at(member).lag == 0);
    assert_int_equal(look_at(member).oldest_ms, 0);
    assert_true(consumer_ready(member->consumer));
    assert_true(atomic_load(&member->wakes) > 0);
    consumer_close(member->consumer, 3000);
    for (int partition = 0; partition < PARTITIONS; partition++)
        assert_int_equal(broker_committed(broker, "g-random", "random", partition), COUNT);
    free(member);
}

/* Old librdkafka looks for room in its queue once a second unless it is woken: here each of more record sets
 * than the test has seconds fills the queue. */
static void a_queue_of_the_library_that_was_full_is_filled_again_as_soon_as_it_was_emptied(void **state)
{
    (void)state;
    enum { SETS = 2 * WAIT_MS / 1000, COUNT = 5 };
    static const char *const narrow[] = {
        "session.timeout.ms", "6000", "fetch.wait.max.ms", "50", "queued.min.messages", "1", NULL};
    broker_add_topic(broker, "sets", 1);
    for (int set = 0; set < SETS; set++)
        broker_write(broker, "sets", 0, set * COUNT, COUNT);
    struct member *member = calloc(1, sizeof(*member));
    open_with(member, "g-sets", "sets", 200, 0, narrow);
    WAIT_UNTIL(consumer_ready(member->consumer));
    int64_t since_us = clock_monotonic_us();
    for (int taken = 0; taken < SETS * COUNT;) {
        size_t count = take(member, TAKE_MAX);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(number_of(&member->records[i]), taken++);
        consumer_done(member->consumer, member->records, count);
        if (!count && waited(since_us))
            fail_msg("only %d of %d came", taken, SETS * COUNT);
    }
    consumer_close(member->consumer, 3000);
    free(member);
}

static void close_commits_what_is_done_and_the_next_goes_on_from_there(void **state)
{
    (void)state;
    broker_add_topic(broker, "close", 1);
    broker_write(broker, "close", 0, 0, 10);
    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-close", "close", 0, 0);
    WAIT_UNTIL(consumer_queued(member->consumer) == 10);
    assert_int_equal(take(member, 10), 10);
    assert_true(look_at(member).oldest_ms > 0);
    consumer_done(member->consumer, member->records, 4);
    consumer_done(member->consumer, member->records + 6, 2);
    consumer_stop(member->consumer);
    assert_int_equal(take(member, 10), 0);
    consumer_drop(member->consumer, member->records + 4, 2);
    consumer_drop(member->consumer, member->records + 8, 2);
    consumer_close(member->consumer, 3000);
    assert_int_equal(broker_committed(broker, "g-close", "close", 0), 4);
    open_member(member, "g-close", "close", 0, 0);
    WAIT_UNTIL(take(member, 1) == 1);
    assert_int_equal(number_of(&member->records[0]), 4);
    consumer_drop(member->consumer, member->records, 1);
    consumer_close(member->consumer, 3000);
    free(member);
}

static void a_hold_delivers_again_from_the_record_in_order(void **state)
{
    (void)state;
    enum { COUNT = 2000 };
    broker_add_topic(broker, "hold", 2);
    broker_write(broker, "hold", 0, 0, COUNT);
    broker_write(broker, "hold", 1, 0, COUNT);
    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-hold", "hold", 100, 0);
    int next[2] = {0, 0}, holds = 0;
    int64_t held_until_us = 0, since_us = clock_monotonic_us();
    while (next[0] < COUNT || next[1] < COUNT) {
        size_t count = take(member, 1 + dice() % 50);
        if (count == 0 && waited(since_us))
            fail_msg("stuck at %d and %d", next[0], next[1]);
        for (size_t i = 0; i < count; i++) {
            struct record *record = &member->records[i];
            if (!consumer_owns(member->consumer, record)) {
                assert_int_equal(record->partition, 0); /* only what was held becomes stale */
                consumer_drop(member->consumer, record, 1);
                continue;
            }
            assert_int_equal(number_of(record), next[record->partition]);
            if (record->partition == 0 && holds < 40 && dice() % 20 == 0) {
                int64_t delay_ms = (int64_t)(dice() % 3) * 30;
                held_until_us = clock_monotonic_us() + delay_ms * 1000;
                consumer_hold(member->consumer, record, delay_ms);
                holds++;
                continue;
            }
            if (record->partition == 0)
                assert_true(clock_monotonic_us() >= held_until_us);
            next[record->partition]++;
            consumer_done(member->consumer, record, 1);
        }
    }
    assert_int_equal(holds, 40);
    WAIT_UNTIL(look_at(member).committed == 2 * COUNT);
    consumer_close(member->consumer, 3000);
    free(member);
}

static void a_hold_below_others_in_hand_leaves_no_gap(void **state)
{
    (void)state;
    broker_add_topic(broker, "below", 1);
    broker_write(broker, "below", 0, 0, 10);
    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-below", "below", 0, 0);
    WAIT_UNTIL(consumer_queued(member->consumer) == 10);
    assert_int_equal(take(member, 10), 10);
    consumer_done(member->consumer, &member->records[0], 1);
    consumer_hold(member->consumer, &member->records[5], 10); /* 1 to 4 are in hand, as in lanes */
    assert_false(consumer_owns(member->consumer, &member->records[1]));
    consumer_done(member->consumer, &member->records[1], 4);
    consumer_drop(member->consumer, &member->records[6], 4);
    for (int expected = 1; expected < 10; expected++) {
        WAIT_UNTIL(take(member, 1) == 1);
        assert_int_equal(number_of(&member->records[0]), expected);
        consumer_done(member->consumer, member->records, 1);
    }
    WAIT_UNTIL(look_at(member).committed == 10);
    consumer_close(member->consumer, 3000);
    free(member);
}

static void a_pause_keeps_membership_and_ends_when_its_last_reason_does(void **state)
{
    (void)state;
    broker_add_topic(broker, "pause", 1);
    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-pause", "pause", 0, 0);
    WAIT_UNTIL(consumer_ready(member->consumer));
    consumer_pause(member->consumer, PAUSE_OUTAGE);
    consumer_pause(member->consumer, PAUSE_BACKLOG);
    broker_write(broker, "pause", 0, 0, 5);
    consumer_resume(member->consumer, PAUSE_OUTAGE);
    assert_int_equal(consumer_paused(member->consumer), PAUSE_BACKLOG);
    assert_int_equal(take(member, 5), 0);
    consumer_resume(member->consumer, PAUSE_BACKLOG);
    WAIT_UNTIL(consumer_queued(member->consumer) == 5);
    assert_true(consumer_ready(member->consumer));
    consumer_close(member->consumer, 3000);
    free(member);
}

/*
 * The pause is the application's, not a partition's: it holds for what a rebalance gives, and a member that
 * joins is not touched by it. That nothing comes is told beside a member of another group, which has it all
 * by then.
 */
static void a_pause_holds_for_what_a_rebalance_gives_until_it_ends(void **state)
{
    (void)state;
    enum { PARTS = 4, EACH = 5 };
    broker_add_topic(broker, "paused", PARTS);
    struct member *member = calloc(1, sizeof(*member)), *other = calloc(1, sizeof(*other)),
                  *witness = calloc(1, sizeof(*witness));
    open_member(member, "g-paused", "paused", 0, 0);
    open_member(witness, "g-witness", "paused", 0, 0);
    WAIT_UNTIL(look_at(member).partitions == PARTS && look_at(witness).partitions == PARTS);
    consumer_pause(member->consumer, PAUSE_OPERATOR);
    open_member(other, "g-paused", "paused", 0, 0);
    WAIT_UNTIL(look_at(member).partitions == PARTS / 2 && look_at(other).partitions == PARTS / 2);
    for (int partition = 0; partition < PARTS; partition++)
        broker_write(broker, "paused", partition, 0, EACH);
    WAIT_UNTIL(consumer_queued(other->consumer) == PARTS / 2 * EACH);
    WAIT_UNTIL(consumer_queued(witness->consumer) == PARTS * EACH);
    assert_int_equal(consumer_queued(member->consumer), 0);
    consumer_close(other->consumer, 3000);
    WAIT_UNTIL(look_at(member).partitions == PARTS);
    for (int partition = 0; partition < PARTS; partition++)
        broker_write(broker, "paused", partition, EACH, EACH);
    WAIT_UNTIL(consumer_queued(witness->consumer) == PARTS * EACH * 2);
    assert_int_equal(consumer_queued(member->consumer), 0);
    consumer_resume(member->consumer, PAUSE_OPERATOR);
    WAIT_UNTIL(consumer_queued(member->consumer) == PARTS * EACH * 2);
    consumer_close(member->consumer, 3000);
    consumer_close(witness->consumer, 3000);
    free(member);
    free(other);
    free(witness);
}

/*
 * Two members, the first with a partition on hold and with records in hand while the second joins. Each
 * record must be done by somebody. What was in hand may come again: Kafka takes the commit of a revoke, the
 * mock cluster answers it with REBALANCE_IN_PROGRESS. What was committed before must not.
 */
static void a_second_member_joins_and_nothing_is_lost(void **state)
{
    (void)state;
    enum { COUNT = 1000, PARTS = 4 };
    broker_add_topic(broker, "join", PARTS);
    for (int partition = 0; partition < PARTS; partition++)
        broker_write(broker, "join", partition, 0, COUNT);
    struct member *members[2] = {calloc(1, sizeof(struct member)), calloc(1, sizeof(struct member))};
    open_member(members[0], "g-join", "join", 50, 20000);
    static atomic_uchar times[PARTS][COUNT];
    int total = 0, again = 0;
    while (total < 100) { /* somewhere in the middle, with partition 3 held for long: the others flow */
        size_t count = take(members[0], 20);
        for (size_t i = 0; i < count; i++) {
            struct record *record = &members[0]->records[i];
            if (record->partition == 3 && consumer_owns(members[0]->consumer, record)) {
                consumer_hold(members[0]->consumer, record, 3600000);
            } else if (consumer_owns(members[0]->consumer, record)) {
                times[record->partition][record->offset]++;
                consumer_done(members[0]->consumer, record, 1);
                total++;
            } else {
                consumer_drop(members[0]->consumer, record, 1);
            }
        }
        usleep(1000);
    }
    static struct record hand[20];
    size_t in_hand = 0;
    WAIT_UNTIL(look_at(members[0]).committed == total);
    WAIT_UNTIL((in_hand = consumer_take(members[0]->consumer, hand, 20, SIZE_MAX)) > 0);
    open_member(members[1], "g-join", "join", 50, 20000);
    /* The revoke waits for what is in hand: only when it is done can the second member get anything. */
    WAIT_UNTIL(consumer_queued(members[0]->consumer) > 0);
    WAIT_UNTIL(consumer_queued(members[0]->consumer) == 0); /* thrown away by the revoke */
    assert_false(consumer_ready(members[1]->consumer));
    for (size_t i = 0; i < in_hand; i++) {
        assert_true(consumer_owns(members[0]->consumer, &hand[i]));
        times[hand[i].partition][hand[i].offset]++;
        total++;
    }
    consumer_done(members[0]->consumer, hand, in_hand);
    WAIT_UNTIL(consumer_ready(members[1]->consumer) && look_at(members[1]).partitions == PARTS / 2 &&
               look_at(members[0]).partitions == PARTS / 2);
    int64_t since_us = clock_monotonic_us();
    while (total < PARTS * COUNT) {
        for (int which = 0; which < 2; which++) {
            size_t count = take(members[which], 50);
            for (size_t i = 0; i < count; i++) {
                const struct record *record = &members[which]->records[i];
                if (times[record->partition][record->offset]++)
                    again++;
                else
                    total++;
            }
            consumer_done(members[which]->consumer, members[which]->records, count);
            if (count)
                since_us = clock_monotonic_us();
        }
        if (waited(since_us)) /* partition 3 was paused by its hold: that must not outlive the assignment */
            fail_msg("%d of %d after the rebalance", total, PARTS * COUNT);
    }
    assert_true(again <= (int)in_hand);
    WAIT_UNTIL(look_at(members[0]).committed + look_at(members[1]).committed == PARTS * COUNT);
    consumer_close(members[1]->consumer, 3000);
    consumer_close(members[0]->consumer, 3000);
    free(members[0]);
    free(members[1]);
}

enum { FIRST_PARTS = 5, FIRST_ROOM = 8 };

static int first_of(struct member *member, bool *ret_owned)
{
    int owned = 0;
    if (consumer_first(member->consumer, ret_owned, FIRST_ROOM) != FIRST_PARTS)
        return -1;
    for (int number = 0; number < FIRST_ROOM; number++)
        owned += ret_owned[number];
    return owned;
}

static void partitions_of_the_first_topic_are_told_with_each_assignment(void **state)
{
    (void)state;
    bool owned[2][FIRST_ROOM];
    broker_add_topic(broker, "first", FIRST_PARTS);
    struct member *members[2] = {calloc(1, sizeof(struct member)), calloc(1, sizeof(struct member))};
    open_member(members[0], "g-first", "first", 50, 1000);
    WAIT_UNTIL(first_of(members[0], owned[0]) == FIRST_PARTS);
    unsigned before = consumer_rebalances(members[0]->consumer);
    open_member(members[1], "g-first", "first", 50, 1000);
    WAIT_UNTIL(first_of(members[0], owned[0]) > 0 && first_of(members[1], owned[1]) > 0 &&
               first_of(members[0], owned[0]) + first_of(members[1], owned[1]) == FIRST_PARTS);
    for (int number = 0; number < FIRST_PARTS; number++)
        assert_int_equal(owned[0][number] + owned[1][number], 1);
    assert_true(consumer_rebalances(members[0]->consumer) > before);
    consumer_close(members[1]->consumer, 3000);
    WAIT_UNTIL(first_of(members[0], owned[0]) == FIRST_PARTS);
    consumer_close(members[0]->consumer, 3000);
    free(members[0]);
    free(members[1]);
}

static void errors_of_every_request_of_the_group_are_survived(void **state)
{
    (void)state;
    broker_add_topic(broker, "errors", 1);
    broker_fail(broker, BROKER_FIND_COORDINATOR, RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, 1);
    broker_fail(broker, BROKER_JOIN_GROUP, RD_KAFKA_RESP_ERR_NOT_COORDINATOR, 1);
    broker_fail(broker, BROKER_SYNC_GROUP, RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS, 1);
    broker_fail(broker, BROKER_OFFSET_FETCH, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, 1);
    broker_fail(broker, BROKER_FETCH, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, 2);
    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-errors", "errors", 0, 0);
    WAIT_UNTIL(consumer_ready(member->consumer));
    const struct {
        enum broker_request request;
        int error;
    } cases[] = {
        {BROKER_FETCH, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART},
        {BROKER_FETCH, RD_KAFKA_RESP_ERR__TRANSPORT},
        {BROKER_OFFSET_COMMIT, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT},
        {BROKER_OFFSET_COMMIT, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS},
        {BROKER_OFFSET_COMMIT, RD_KAFKA_RESP_ERR_NOT_COORDINATOR},
        {BROKER_HEARTBEAT, RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID},
    };
    int written = 0;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        broker_fail(broker, cases[i].request, cases[i].error, 1);
        broker_write(broker, "errors", 0, written++, 1);
        int64_t since_us = clock_monotonic_us();
        /* Delivered again after the lost membership is right; what is asked is that it comes and is
         * committed. */
        while (look_at(member).committed != written) {
            size_t count = take(member, TAKE_MAX);
            consumer_done(member->consumer, member->records, count);
            if (waited(since_us))
                fail_msg("case %zu", i);
        }
        assert_null(consumer_fatal(member->consumer));
    }
    consumer_close(member->consumer, 3000);
    assert_int_equal(broker_committed(broker, "g-errors", "errors", 0), written);
    free(member);
}

static void a_fatal_error_is_said(void **state)
{
    (void)state;
    broker_add_topic(broker, "fatal", 1);
    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-fatal", "fatal", 0, 0);
    assert_null(consumer_fatal(member->consumer));
    const struct handle *handle = (const void *)member->consumer; /* first in struct consumer */
    rd_kafka_test_fatal_error(handle->rk, RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID, "a test");
    WAIT_UNTIL(consumer_fatal(member->consumer));
    assert_non_null(strstr(consumer_fatal(member->consumer), "a test"));
    consumer_close(member->consumer, 1000);
    free(member);
}

static void headers_are_bounded(void **state)
{
    (void)state;
    struct arena *arena = arena_new(1 << 20);
    struct error error;
    broker_add_topic(broker, "headers", 1);
    broker_write(broker, "headers", 0, 0, 1);
    struct reader *reader;
    const char *const topics[] = {"headers", "missing", NULL};
    size_t missing = 0, count = 99;
    struct client_settings client = {.bootstrap_servers = broker_bootstrap(broker)};
    assert_int_equal(
        reader_open(&client, topics, READER_BEGINNING, 0, true, WAIT_MS, &missing, &reader, &error), OK);
    assert_int_equal(missing, 1);
    bool got = false, end = false;
    struct record record;
    assert_int_equal(reader_read(reader, WAIT_MS, &record, &got, &end, &error), OK);
    assert_true(got);
    assert_int_equal(number_of(&record), 0);
    const struct header *headers;
    assert_int_equal(record_headers(&record, arena, &headers, &count, &error), OK);
    assert_int_equal(count, 0);
    reader_release(&record);
    assert_int_equal(reader_read(reader, WAIT_MS, &record, &got, &end, &error), OK);
    assert_true(end && !got);
    reader_close(reader);
    arena_destroy(arena);
}

/* NOT_LEADER, as a broker says that has just been started. */
static void no_report(void *owner, uint64_t tag, enum outcome outcome, int32_t partition, int64_t offset,
                      const char *reason)
{
    (void)owner, (void)tag, (void)outcome, (void)partition, (void)offset, (void)reason;
}

static void a_timestamp_that_no_clock_says_is_cut_to_one_that_can_be_counted_with(void **state)
{
    (void)state;
    enum { COUNT = 2 };
    struct error error;
    struct producer *producer;
    const struct producer_settings settings = {.client = {.bootstrap_servers = broker_bootstrap(broker)}};
    broker_add_topic(broker, "clocks", 1);
    assert_int_equal(producer_open(&settings, no_report, NULL, &producer, &error), OK);
    const struct producer_record record = {
        .topic = TEXT("clocks"), .key = TEXT("1"), .value = TEXT("1"), .timestamp_ms = INT64_MAX};
    for (uint64_t i = 0; i < COUNT; i++)
        assert_int_equal(producer_send(producer, &record, i, &error), OK);
    assert_true(producer_flush(producer, WAIT_MS));
    producer_close(producer, 1000);

    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-clocks", "clocks", 100, 0);
    for (size_t taken = 0, count; taken < COUNT; taken += count) {
        WAIT_UNTIL((count = take(member, TAKE_MAX)) > 0);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(member->records[i].timestamp_ms, RECORD_TIMESTAMP_MS_MAX);
        consumer_done(member->consumer, member->records, count);
    }
    consumer_close(member->consumer, 3000);
    free(member);
}

static void a_reader_asks_again_where_no_leader_is_known_yet(void **state)
{
    (void)state;
    enum { LEADER_NOT_AVAILABLE = 5, NOT_LEADER = 6, TIMES = 12, OPEN_MS = 30000 };
    static const char *const topics[] = {"leaderless", NULL};
    broker_add_topic(broker, "leaderless", 1);
    broker_write(broker, "leaderless", 0, 0, 3);
    const struct client_settings client = {.bootstrap_servers = broker_bootstrap(broker)};
    static const int errors[] = {LEADER_NOT_AVAILABLE, NOT_LEADER};
    for (size_t i = 0; i < 2; i++) {
        struct reader *reader;
        struct error error;
        struct record record;
        bool got, end;
        broker_fail(broker, BROKER_LIST_OFFSETS, errors[i], TIMES);
        assert_int_equal(
            reader_open(&client, topics, READER_BEGINNING, 0, true, OPEN_MS, NULL, &reader, &error), OK);
        assert_int_equal(reader_read(reader, WAIT_MS, &record, &got, &end, &error), OK);
        assert_true(got);
        reader_release(&record);
        reader_close(reader);
    }
}

static void a_reader_without_a_broker_says_so_in_its_time(void **state)
{
    (void)state;
    struct error error;
    struct reader *reader;
    const char *const topics[] = {"orders", NULL};
    struct client_settings client = {.bootstrap_servers = "127.0.0.1:1"};
    assert_int_equal(reader_open(&client, topics, READER_END, 0, false, 300, NULL, &reader, &error), OUTAGE);
    assert_int_equal(error_exit_code(&error), EXIT_UNREACHABLE);
}

/* The last two break the cluster, so each has its own. Minutes, without bounds of our own: reliability
 * finding 4. */
static void close_ends_in_its_bound(void (*break_it)(struct broker *broker))
{
    struct broker *shared = broker;
    broker = broker_start(1, (const char *[]){"gone", NULL}, 1);
    broker_write(broker, "gone", 0, 0, 20);
    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-gone", "gone", 0, 0);
    WAIT_UNTIL(consumer_queued(member->consumer) == 20);
    assert_int_equal(take(member, 20), 20);
    break_it(broker);
    consumer_done(member->consumer, member->records, 20); /* commits are now under way, and never answered */
    usleep(100000);
    int64_t start_us = clock_monotonic_us();
    consumer_close(member->consumer, 1000);
    assert_true(clock_monotonic_us() - start_us < 10000000);
    broker_delay(broker, 0);
    broker_up(broker);
    broker_stop(broker);
    broker = shared;
    free(member);
}

static void hang(struct broker *which)
{
    broker_delay(which, 3600000);
}

static void close_ends_in_its_bound_where_brokers_hang(void **state)
{
    (void)state;
    close_ends_in_its_bound(hang);
}

static void close_ends_in_its_bound_where_brokers_are_down(void **state)
{
    (void)state;
    close_ends_in_its_bound(broker_down);
}

static void brokers_that_come_back_find_the_member_where_it_was(void **state)
{
    (void)state;
    struct broker *shared = broker;
    broker = broker_start(1, (const char *[]){"back", NULL}, 1);
    broker_write(broker, "back", 0, 0, 10);
    struct member *member = calloc(1, sizeof(*member));
    open_member(member, "g-back", "back", 0, 0);
    WAIT_UNTIL(consumer_queued(member->consumer) == 10);
    assert_int_equal(take(member, 10), 10);
    broker_down(broker);
    consumer_done(member->consumer, member->records, 10);
    WAIT_UNTIL(!consumer_ready(member->consumer));
    broker_up(broker);
    broker_write(broker, "back", 0, 10, 1);
    int last = -1;
    int64_t since_us = clock_monotonic_us();
    while (last < 10 || look_at(member).committed != 11) {
        size_t count = take(member, TAKE_MAX);
        for (size_t i = 0; i < count; i++)
            last = number_of(&member->records[i]);
        consumer_done(member->consumer, member->records, count);
        if (waited(since_us))
            fail_msg("last %d", last);
    }
    assert_true(consumer_ready(member->consumer));
    consumer_close(member->consumer, 2000);
    broker_stop(broker);
    broker = shared;
    free(member);
}

static int start(void **state)
{
    (void)state;
    broker = broker_start(1, NULL, 0);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    broker_stop(broker);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commits_follow_what_is_done_in_any_order_and_never_pass_it),
        cmocka_unit_test(a_queue_of_the_library_that_was_full_is_filled_again_as_soon_as_it_was_emptied),
        cmocka_unit_test(close_commits_what_is_done_and_the_next_goes_on_from_there),
        cmocka_unit_test(a_hold_delivers_again_from_the_record_in_order),
        cmocka_unit_test(a_hold_below_others_in_hand_leaves_no_gap),
        cmocka_unit_test(a_pause_keeps_membership_and_ends_when_its_last_reason_does),
        cmocka_unit_test(a_pause_holds_for_what_a_rebalance_gives_until_it_ends),
        cmocka_unit_test(a_second_member_joins_and_nothing_is_lost),
        cmocka_unit_test(partitions_of_the_first_topic_are_told_with_each_assignment),
        cmocka_unit_test(errors_of_every_request_of_the_group_are_survived),
        cmocka_unit_test(a_fatal_error_is_said),
        cmocka_unit_test(headers_are_bounded),
        cmocka_unit_test(a_timestamp_that_no_clock_says_is_cut_to_one_that_can_be_counted_with),
        cmocka_unit_test(a_reader_asks_again_where_no_leader_is_known_yet),
        cmocka_unit_test(a_reader_without_a_broker_says_so_in_its_time),
        cmocka_unit_test(close_ends_in_its_bound_where_brokers_hang),
        cmocka_unit_test(close_ends_in_its_bound_where_brokers_are_down),
        cmocka_unit_test(brokers_that_come_back_find_the_member_where_it_was),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

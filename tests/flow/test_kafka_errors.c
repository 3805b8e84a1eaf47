/*
 * What the broker may answer, as a table: to produce, fetch, commit, join and what goes with them. After each
 * the service goes on by itself, or it says FATAL with a text that names the cause and goes on after a
 * restart. Either way each record takes effect once, also the one that goes over a retry topic meanwhile.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "support/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TIMES = 3 };

/* Kafka's numbers of its errors, and librdkafka's of a connection that breaks. */
enum {
    TRANSPORT = -195,
    OFFSET_OUT_OF_RANGE = 1,
    CORRUPT_MESSAGE = 2,
    UNKNOWN_TOPIC_OR_PARTITION = 3,
    LEADER_NOT_AVAILABLE = 5,
    NOT_LEADER_OR_FOLLOWER = 6,
    REQUEST_TIMED_OUT = 7,
    REPLICA_NOT_AVAILABLE = 9,
    NETWORK_EXCEPTION = 13,
    COORDINATOR_LOAD_IN_PROGRESS = 14,
    COORDINATOR_NOT_AVAILABLE = 15,
    NOT_COORDINATOR = 16,
    NOT_ENOUGH_REPLICAS = 19,
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20,
    ILLEGAL_GENERATION = 22,
    UNKNOWN_MEMBER_ID = 25,
    REBALANCE_IN_PROGRESS = 27,
    GROUP_AUTHORIZATION_FAILED = 30,
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45,
    INVALID_PRODUCER_EPOCH = 47,
    KAFKA_STORAGE_ERROR = 56,
    UNKNOWN_PRODUCER_ID = 59,
    FENCED_LEADER_EPOCH = 74,
    UNKNOWN_LEADER_EPOCH = 76,
    UNSTABLE_OFFSET_COMMIT = 88,
};

struct row {
    enum broker_request request;
    int error;
    const char *fatal; /* what the text says; NULL: it goes on by itself */
};

static const struct row producing[] = {
    {BROKER_PRODUCE, TRANSPORT, NULL},
    {BROKER_PRODUCE, CORRUPT_MESSAGE, NULL},
    {BROKER_PRODUCE, UNKNOWN_TOPIC_OR_PARTITION, NULL},
    {BROKER_PRODUCE, LEADER_NOT_AVAILABLE, NULL},
    {BROKER_PRODUCE, NOT_LEADER_OR_FOLLOWER, NULL},
    {BROKER_PRODUCE, REQUEST_TIMED_OUT, NULL},
    {BROKER_PRODUCE, NETWORK_EXCEPTION, NULL},
    {BROKER_PRODUCE, NOT_ENOUGH_REPLICAS, NULL},
    {BROKER_PRODUCE, NOT_ENOUGH_REPLICAS_AFTER_APPEND, NULL},
    {BROKER_PRODUCE, KAFKA_STORAGE_ERROR, NULL},
    {BROKER_PRODUCE, OUT_OF_ORDER_SEQUENCE_NUMBER, NULL}, /* a new producer sends again */
    {BROKER_PRODUCE, INVALID_PRODUCER_EPOCH, NULL},
    {BROKER_PRODUCE, UNKNOWN_PRODUCER_ID, NULL},
    {0},
};

static const struct row fetching[] = {
    {BROKER_FETCH, TRANSPORT, NULL},
    {BROKER_FETCH, OFFSET_OUT_OF_RANGE, NULL}, /* from the beginning: the inbox passes what was */
    {BROKER_FETCH, UNKNOWN_TOPIC_OR_PARTITION, NULL},
    {BROKER_FETCH, LEADER_NOT_AVAILABLE, NULL},
    {BROKER_FETCH, NOT_LEADER_OR_FOLLOWER, NULL},
    {BROKER_FETCH, REPLICA_NOT_AVAILABLE, NULL},
    {BROKER_FETCH, KAFKA_STORAGE_ERROR, NULL},
    {BROKER_FETCH, FENCED_LEADER_EPOCH, NULL},
    {BROKER_FETCH, UNKNOWN_LEADER_EPOCH, NULL},
    {BROKER_LIST_OFFSETS, TRANSPORT, NULL},
    {BROKER_LIST_OFFSETS, NOT_LEADER_OR_FOLLOWER, NULL},
    {BROKER_METADATA, TRANSPORT, NULL},
    {0},
};

static const struct row committing[] = {
    {BROKER_OFFSET_COMMIT, TRANSPORT, NULL},
    {BROKER_OFFSET_COMMIT, REQUEST_TIMED_OUT, NULL},
    {BROKER_OFFSET_COMMIT, COORDINATOR_LOAD_IN_PROGRESS, NULL},
    {BROKER_OFFSET_COMMIT, COORDINATOR_NOT_AVAILABLE, NULL},
    {BROKER_OFFSET_COMMIT, NOT_COORDINATOR, NULL},
    {BROKER_OFFSET_COMMIT, REBALANCE_IN_PROGRESS, NULL},
    {BROKER_OFFSET_COMMIT, ILLEGAL_GENERATION, NULL},
    {BROKER_OFFSET_COMMIT, UNKNOWN_MEMBER_ID, NULL},
    {BROKER_OFFSET_COMMIT, UNKNOWN_TOPIC_OR_PARTITION, NULL},
    {BROKER_OFFSET_FETCH, COORDINATOR_LOAD_IN_PROGRESS, NULL},
    {BROKER_OFFSET_FETCH, UNSTABLE_OFFSET_COMMIT, NULL},
    {BROKER_FIND_COORDINATOR, COORDINATOR_NOT_AVAILABLE, NULL},
    {BROKER_FIND_COORDINATOR, TRANSPORT, NULL},
    {BROKER_OFFSET_COMMIT, GROUP_AUTHORIZATION_FAILED, "AUTHORIZATION"},
    {0},
};

/* Each after a heartbeat that sends the member away, so that it joins again. */
static const struct row joining[] = {
    {BROKER_HEARTBEAT, ILLEGAL_GENERATION, NULL},
    {BROKER_HEARTBEAT, REBALANCE_IN_PROGRESS, NULL},
    {BROKER_HEARTBEAT, NOT_COORDINATOR, NULL},
    {BROKER_HEARTBEAT, TRANSPORT, NULL},
    {BROKER_JOIN_GROUP, TRANSPORT, NULL},
    {BROKER_JOIN_GROUP, COORDINATOR_LOAD_IN_PROGRESS, NULL},
    {BROKER_JOIN_GROUP, COORDINATOR_NOT_AVAILABLE, NULL},
    {BROKER_JOIN_GROUP, NOT_COORDINATOR, NULL},
    {BROKER_JOIN_GROUP, UNKNOWN_MEMBER_ID, NULL},
    {BROKER_SYNC_GROUP, TRANSPORT, NULL},
    {BROKER_SYNC_GROUP, NOT_COORDINATOR, NULL},
    {BROKER_SYNC_GROUP, ILLEGAL_GENERATION, NULL},
    {BROKER_SYNC_GROUP, UNKNOWN_MEMBER_ID, NULL},
    {BROKER_SYNC_GROUP, REBALANCE_IN_PROGRESS, NULL},
    {BROKER_JOIN_GROUP, GROUP_AUTHORIZATION_FAILED, "AUTHORIZATION"},
    {0},
};

/* Until the record has taken effect, or the service has said that it cannot go on: why. */
static const char *wait_for_one(struct world *world, const char *customer, bool fatal_expected)
{
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while ((fatal_expected || world_look(world, customer).orders < 1) && clock_monotonic_us() < until_us) {
        const char *fatal = consumer_fatal(dispatch_consumer(world->dispatch));
        if (fatal)
            return fatal;
        usleep(20000);
    }
    return NULL;
}

static void restart(struct world *world)
{
    pthread_join(world->thread, NULL); /* it drains, and ends by itself */
    assert_int_equal(world->outcome, FATAL);
    assert_int_equal(world->error.outcome, FATAL);
    dispatch_close(world->dispatch, 2000);
    metrics_destroy(world->metrics);
    store_close(world->store);
    world_start(world);
}

static void wait_for_acks(struct world *world)
{
    int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000;
    while (atomic_load(&world->acked) < world->sent && clock_monotonic_us() < until_us)
        usleep(1000);
    assert_int_equal(atomic_load(&world->acked), world->sent);
}

static void walk(struct world *world, const struct row *rows, bool rejoin)
{
    char customer[32], id[32];
    world_place(world, "first", "anna", "a");
    world_wait_for_orders(world, "anna", 1); /* it has its partitions */
    for (size_t i = 0; rows[i].request || rows[i].error; i++) {
        const struct row *row = &rows[i];
        atomic_store(&world->state.fail_times, 1);
        snprintf(customer, sizeof(customer), "shaky%zu", i); /* goes over the first retry topic */
        snprintf(id, sizeof(id), "e%zu-%d", i, row->error);
        dispatch_pause(world->dispatch); /* the errors are for the service, not for who sends this */
        world_place(world, id, customer, "x");
        wait_for_acks(world);
        broker_fail(world->broker, row->request, row->error, rejoin ? 1 : TIMES);
        if (rejoin && row->request != BROKER_HEARTBEAT)
            broker_fail(world->broker, BROKER_HEARTBEAT, UNKNOWN_MEMBER_ID, 1);
        dispatch_resume(world->dispatch);
        const char *fatal = wait_for_one(world, customer, row->fatal);
        if (!!fatal != !!row->fatal || (fatal && !strstr(fatal, row->fatal)))
            fail_msg("request %d, error %d: %s", row->request, row->error, fatal ? fatal : "goes on");
        if (fatal)
            restart(world);
        world_wait_for_orders(world, customer, 1);
        assert_string_equal(world_look(world, customer).seen, "x");
    }
    assert_int_equal(world_look(world, "anna").orders, 1);
}

static void errors_of_produce_lose_nothing(void **state)
{
    walk(*state, producing, false);
}

static void errors_of_fetch_lose_nothing(void **state)
{
    walk(*state, fetching, false);
}

static void errors_of_commit_lose_nothing(void **state)
{
    walk(*state, committing, false);
}

static void errors_of_join_lose_nothing(void **state)
{
    walk(*state, joining, true);
}

#define IN_A_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IN_A_WORLD(errors_of_produce_lose_nothing),
        IN_A_WORLD(errors_of_fetch_lose_nothing),
        IN_A_WORLD(errors_of_commit_lose_nothing),
        IN_A_WORLD(errors_of_join_lose_nothing),
    };
    cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
    setenv("KAFKA_PROPERTIES", "heartbeat.interval.ms=300", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

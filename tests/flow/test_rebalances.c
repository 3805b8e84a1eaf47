/*
 * Partitions that come and go while records are in hand, and handlers that take longer than Kafka waits for a
 * member that does not poll: over the mock cluster (support/world.h). That a member which was stopped and
 * comes back does no harm is seen on real Kafka: e2e/mixed_faults.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "support/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_POLL_INTERVAL_MS = 6000, SLOW_MS = MAX_POLL_INTERVAL_MS + 3000, MANY = 30, ROUNDS = 2 };
#define PROPERTIES "max.poll.interval.ms=6000;heartbeat.interval.ms=300"

static bool waited(int64_t until_us)
{
    usleep(5000);
    return clock_monotonic_us() > until_us;
}
#define WAIT_UNTIL(condition)                                                                                \
    for (int64_t until_us = clock_monotonic_us() + WAIT_MS_MAX * 1000; !(condition);)                        \
        if (waited(until_us))                                                                                \
    fail_msg("never: %s", #condition)

static void a_handler_slower_than_the_poll_interval_keeps_its_partitions(void **state)
{
    struct world *world = *state;
    atomic_store(&world->state.slow_ms, SLOW_MS);
    world_place(world, "e1", "slow", "a");
    world_wait_for_orders(world, "slow", 1);
    atomic_store(&world->state.slow_ms, 0);
    world_place(world, "e2", "slow", "b");
    world_wait_for_orders(world, "slow", 2);
    assert_string_equal(world_look(world, "slow").seen, "ab");
    assert_int_equal(atomic_load(&world->state.handled), 2); /* neither was given to it twice */
    WAIT_UNTIL(broker_committed(world->broker, "weir-test", "orders", 0) >= 2);
}

struct other {
    struct consumer *consumer;
    atomic_int wakes;
};

static void on_wake(void *owner)
{
    struct other *other = owner;
    atomic_fetch_add(&other->wakes, 1);
}

static void open_other(struct world *world, struct other *other)
{
    static const char *const topics[] = {"orders", WORLD_RETRY_1, WORLD_RETRY_2, NULL};
    const struct consumer_settings settings = {
        .client = {.bootstrap_servers = broker_bootstrap(world->broker), .config = world->config},
        .group_id = "weir-test",
        .topics = topics,
        .queue_records_max = 100,
        .commit_interval_ms = 20,
        .wake = on_wake,
        .wake_owner = other,
    };
    assert_int_equal(consumer_open(&settings, &other->consumer, &world->error), OK);
}

/* The other member takes what it is given, finishes none of it and goes: all of it comes back. */
static void records_in_hand_when_a_partition_goes_take_effect_once(void **state)
{
    struct world *world = *state;
    struct other other = {0};
    struct record records[100];
    int placed = 0;
    world_place(world, "first", "anna", "a");
    world_wait_for_orders(world, "anna", 1);
    atomic_store(&world->state.slow_ms, 100);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < MANY; i++, placed++) {
            char id[16], customer[16];
            snprintf(id, sizeof(id), "e%d", placed);
            snprintf(customer, sizeof(customer), "slow%d", placed);
            world_place(world, id, customer, "x");
        }
        open_other(world, &other);
        WAIT_UNTIL(consumer_ready(other.consumer));
        size_t count = consumer_take(other.consumer, records, 100, SIZE_MAX);
        consumer_drop(other.consumer, records, count);
        consumer_close(other.consumer, 5000);
    }
    atomic_store(&world->state.slow_ms, 0);
    for (int i = 0; i < placed; i++) {
        char customer[16];
        snprintf(customer, sizeof(customer), "slow%d", i);
        world_wait_for_orders(world, customer, 1);
        assert_string_equal(world_look(world, customer).seen, "x");
    }
    WAIT_UNTIL(broker_committed(world->broker, "weir-test", "orders", 0) > placed);
}

#define IN_A_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_WORLD(a_handler_slower_than_the_poll_interval_keeps_its_partitions),
        IN_A_WORLD(records_in_hand_when_a_partition_goes_take_effect_once),
    };
    setenv("KAFKA_PROPERTIES", PROPERTIES, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

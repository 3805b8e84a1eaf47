/*
 * Processes on one PostgreSQL that end together: what one of them wrote for another's part, when that one had
 * looked for the last time, is sent by the last of them. The loop is one process, the test the other, by the
 * store alone; Kafka is in memory (sim/sim.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "sim/order_line.h"
#include "store/instances.h"
#include "store/outbox.h"
#include "support/placed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUIET_TURNS = 12, IDLE_TURNS = 10, TURNS_MAX = 2000, DRAIN_MS = 2000 };

static const char KEY[] = "00000000-0000-7000-8000-000000000001";

static struct cluster cluster;

static struct line {
    struct order_line order;
    int handled, arrived; /* arrived: what the loop or the other has written, on the topic */
    int64_t drain_left_ms;
    size_t turns, idle;
    uint64_t progress;
    bool injected, draining;
    bool other_writes, other_leaves; /* when the loop begins to drain */
    struct other {
        struct store *store;
        struct work *work;
        struct instances instances;
    } other;
} line;

/* ---- the other process */

static void other_beat(void)
{
    line.other.instances.beat_us = 0;
    assert_int_equal(instances_beat(line.other.store, &line.other.instances, &line.order.error), OK);
}

static void other_start(void)
{
    assert_int_equal(store_open(line.order.url, "order", &line.other.store, &line.order.error), OK);
    assert_int_equal(work_new(line.other.store, 1 << 20, &line.other.work, &line.order.error), OK);
    line.other.instances.part_count = SIM_PARTITIONS;
}

static void other_write(void)
{
    struct work *work = line.other.work;
    assert_int_equal(work_begin(work, &line.order.error), OK);
    assert_int_equal(work_read(work, &line.order.error), OK);
    outbox_add(work,
               &(struct outbox_row){
                   .topic = TEXT("orders"), .partition = -1, .key = text_of(KEY), .value = TEXT("other")});
    assert_int_equal(work_commit(work, &line.order.error), OK);
}

static void other_end(void)
{
    instances_leave(line.other.store, &line.other.instances);
    work_destroy(line.other.work);
    store_close(line.other.store);
}

/* ---- the service */

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    const struct order_confirmed confirmed = {
        .order_id = order->order_id, .payment_id = TEXT("p"), .confirmed_at = 1};
    (void)error;
    work_emit(work, &confirmed);
    line.handled++;
    return OK;
}

static const struct subscription subscriptions[] = {
    {.type = &order_placed_type, .handle = on_order_placed, .ordering = ORDERED},
    {0},
};

/* ---- Kafka */

static void on_appended(void *owner, const struct sim_record *record)
{
    (void)owner;
    const struct header *type = header_find(record->headers, record->header_count, HEADER_TYPE);
    line.arrived += !type || text_is(type->value, "weir.OrderConfirmed");
}

static void inject(void)
{
    struct buffer value = placed_value(text_of(KEY), TEXT("anna"), TEXT("en"));
    const struct header headers[] = {{TEXT(HEADER_ID), TEXT("e1")},
                                     {TEXT(HEADER_TYPE), TEXT("weir.OrderPlaced")}};
    sim_append(&line.order.sim, TEXT("orders"), text_of(KEY), buffer_text(&value), headers, 2);
    buffer_free(&value);
}

/* Called when the loop looks for records, and when it has slept. */
static void on_turn(void *owner)
{
    (void)owner;
    assert_true(++line.turns < TURNS_MAX);
    if (line.turns == QUIET_TURNS / 2)
        other_beat();
    sim_settle(&line.order.sim, true);
    if (line.turns <= QUIET_TURNS) /* all beats of a start are over */
        clock_advance(INSTANCE_TAKE_MS * INT64_C(1000));
    if (line.turns > QUIET_TURNS && !line.injected) {
        line.injected = true;
        inject();
    }
    bool quiet = line.order.sim.progress == line.progress && line.handled == 1;
    if (quiet) /* what was acknowledged is deleted */
        clock_advance(10000);
    line.idle = quiet ? line.idle + 1 : 0;
    line.progress = line.order.sim.progress;
    if (line.idle > IDLE_TURNS)
        dispatch_stop(line.order.dispatch);
}

/* Time stands still from here on: no beat and no look is due. */
static int64_t drain_left(void)
{
    if (!line.draining) {
        line.draining = true;
        if (line.other_writes)
            other_write();
        if (line.other_leaves)
            instances_leave(line.other.store, &line.other.instances);
    }
    sim_settle(&line.order.sim, true);
    return line.drain_left_ms -= 5;
}

/* first: the other is there, and has all parts. */
static void run(bool first, bool writes, bool leaves)
{
    static char *arguments[] = {NULL};
    memset(&line, 0, sizeof(line));
    line.drain_left_ms = DRAIN_MS;
    line.other_writes = writes;
    line.other_leaves = leaves;
    order_line_make(&line.order, &cluster, arguments);
    line.order.sim.turn = on_turn;
    line.order.sim.appended = on_appended;
    other_start();
    if (first)
        other_beat();
    order_line_open(&line.order, subscriptions);
    assert_int_equal(dispatch_run(line.order.dispatch, drain_left, &line.order.error), OK);
    dispatch_close(line.order.dispatch, 1000);
    assert_int_equal(line.handled, 1);
}

static int64_t left_in_the_outbox(void)
{
    return cluster_do(line.order.url, "SELECT coalesce(sum(events), 0)::bigint FROM weir_order.outbox_pack");
}

static int64_t instances_left(void)
{
    return cluster_do(line.order.url, "SELECT count(*) FROM weir_order.instance");
}

static void end(void)
{
    other_end();
    order_line_end(&line.order);
}

static void what_it_wrote_for_one_that_has_left_is_sent(void **state)
{
    (void)state;
    run(true, false, true);
    assert_int_equal(line.arrived, 1);
    assert_int_equal(left_in_the_outbox(), 0);
    assert_int_equal(instances_left(), 0);
    end();
}

static void what_one_that_has_left_wrote_for_it_is_sent(void **state)
{
    (void)state;
    run(false, true, true);
    assert_int_equal(line.arrived, 2);
    assert_int_equal(left_in_the_outbox(), 0);
    assert_int_equal(instances_left(), 0);
    end();
}

static void what_it_wrote_for_one_that_is_there_is_left_to_that_one(void **state)
{
    (void)state;
    bool left = true;
    run(true, false, false);
    assert_int_equal(line.arrived, 0);
    assert_int_equal(left_in_the_outbox(), 1);
    assert_int_equal(instances_left(), 1);
    assert_int_equal(instances_leave_empty(line.other.store, &line.other.instances, &left, &line.order.error),
                     OK);
    assert_false(left);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_it_wrote_for_one_that_has_left_is_sent),
        cmocka_unit_test(what_one_that_has_left_wrote_for_it_is_sent),
        cmocka_unit_test(what_it_wrote_for_one_that_is_there_is_left_to_that_one),
    };
    cluster_start(&cluster);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cluster_remove(&cluster);
    return failed;
}

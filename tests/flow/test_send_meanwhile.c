/*
 * The loop on PostgreSQL: what a batch committed is sent while the next one waits for the database, and where
 * there is no next one before the loop sleeps. Kafka is in memory (sim/sim.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "sim/order_line.h"
#include "support/placed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ORDERS = 8, QUIET_TURNS = 12, IDLE_TURNS = 30, TURNS_MAX = 2000 };

static const char KEY[] = "00000000-0000-7000-8000-000000000001"; /* of all */

static struct cluster cluster;

static struct line {
    struct order_line order;
    int64_t step_us; /* of the clock, each turn */
    int orders;      /* to be handled */
    int away_at;     /* this one meets an outage, the first time; -1: none */
    int handled;     /* by batches of one */
    int arrived;     /* what they emitted, on the topic */
    int in_waits;    /* … sent while the database was waited for */
    int64_t drain_left_ms;
    size_t turns, idle, after;
    uint64_t progress;
    void (*call)(void *owner);
    void *call_owner;
    bool injected, ended;
} line;

static int sent(void)
{
    return line.arrived + (int)line.order.sim.sent_count;
}

/* ---- between the loop and its store (-Wl,--wrap) */

bool __real_store_meanwhile(struct store *store, void (*call)(void *owner), void *owner);
bool __wrap_store_meanwhile(struct store *store, void (*call)(void *owner), void *owner);

static void in_a_wait(void *owner)
{
    int before = sent();
    (void)owner;
    line.call(line.call_owner);
    line.in_waits += sent() - before;
}

bool __wrap_store_meanwhile(struct store *store, void (*call)(void *owner), void *owner)
{
    line.call = call;
    line.call_owner = owner;
    return __real_store_meanwhile(store, call ? in_a_wait : NULL, NULL);
}

/* ---- the service */

static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    /* All that was committed before it, and nothing of its own. */
    assert_int_equal(sent(), line.handled);
    if (line.away_at == line.handled) {
        line.away_at = -1;
        const struct order_confirmed undone = {
            .order_id = order->order_id, .payment_id = TEXT("undone"), .confirmed_at = 1};
        work_emit(work, &undone);
        return error_outage(error, "away", "a dependency is away");
    }
    const char *payment = arena_print(work_arena(work), "payment-%d.", line.handled);
    const struct order_confirmed confirmed = {
        .order_id = order->order_id, .payment_id = text_of(payment), .confirmed_at = 1};
    work_emit(work, &confirmed);
    line.handled++;
    return OK;
}

static const struct subscription subscriptions[] = {
    {.type = &order_placed_type, .handle = on_order_placed, .ordering = ORDERED},
    {0},
};

/* ---- Kafka */

static void inject(void)
{
    for (int i = 0; i < line.orders; i++) {
        char id[16];
        snprintf(id, sizeof(id), "e%d", i);
        struct buffer value = placed_value(text_of(KEY), TEXT("anna"), TEXT("en"));
        const struct header headers[] = {{TEXT(HEADER_ID), text_of(id)},
                                         {TEXT(HEADER_TYPE), TEXT("weir.OrderPlaced")}};
        sim_append(&line.order.sim, TEXT("orders"), text_of(KEY), buffer_text(&value), headers, 2);
        buffer_free(&value);
    }
}

/* Each once, and in the order of its key. */
static void on_appended(void *owner, const struct sim_record *record)
{
    char payment[24];
    (void)owner;
    if (!text_is(header_find(record->headers, record->header_count, HEADER_TYPE)->value,
                 "weir.OrderConfirmed"))
        return;
    snprintf(payment, sizeof(payment), "payment-%d.", line.arrived);
    assert_non_null(memmem(record->value.at, record->value.length, payment, strlen(payment)));
    line.arrived++;
}

/* Called when the loop looks for records, and when it has slept. */
static void on_turn(void *owner)
{
    (void)owner;
    assert_true(++line.turns < TURNS_MAX);
    if (line.ended)
        return;
    clock_advance(line.step_us);
    if (line.turns > QUIET_TURNS && !line.injected) { /* all beats of a start are over */
        line.injected = true;
        inject();
    }
    /* The first time after the last commit it looks for records; the second time it has slept. */
    if (line.handled == line.orders && line.injected && ++line.after > 1)
        assert_int_equal(sent(), line.orders);
    line.idle = line.order.sim.progress == line.progress && line.injected ? line.idle + 1 : 0;
    line.progress = line.order.sim.progress;
    if (line.idle > IDLE_TURNS / 2)
        sim_settle(&line.order.sim, true);
    if (line.idle > IDLE_TURNS) {
        line.ended = true;
        dispatch_stop(line.order.dispatch);
    }
}

static int64_t drain_left(void)
{
    clock_advance(50000);
    return line.drain_left_ms -= 50;
}

static void run(int orders, int away_at, int64_t step_us)
{
    static char *arguments[] = {"--batch-count-max", "1", NULL};
    memset(&line, 0, sizeof(line));
    line.orders = orders;
    line.away_at = away_at;
    line.step_us = step_us;
    line.drain_left_ms = 1000;
    order_line_make(&line.order, &cluster, arguments);
    line.order.sim.turn = on_turn;
    line.order.sim.appended = on_appended;
    order_line_open(&line.order, subscriptions);
    assert_non_null(line.call);
    assert_int_equal(dispatch_run(line.order.dispatch, drain_left, &line.order.error), OK);
    dispatch_close(line.order.dispatch, 1000);
    assert_null(line.call); /* the store outlives the relay */
    assert_int_equal(line.handled, orders);
    assert_int_equal(line.arrived, orders);
    order_line_end(&line.order);
}

/* Time stands still: nothing else is due that would wait for the database. */
static void what_was_committed_is_sent_before_the_loop_sleeps(void **state)
{
    (void)state;
    run(1, -1, 0);
    assert_int_equal(line.in_waits, 0);
}

static void what_a_batch_committed_is_sent_while_the_next_one_waits_for_the_database(void **state)
{
    (void)state;
    run(ORDERS, -1, 0);
    /* All but the last, and those after which it found no record at once. */
    assert_in_range(line.in_waits, ORDERS / 2, ORDERS - 1);
}

static void a_batch_that_is_rolled_back_loses_nothing_and_sends_nothing_twice(void **state)
{
    (void)state;
    for (int away_at = 0; away_at < ORDERS; away_at += 3)
        run(ORDERS, away_at, 200000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_committed_is_sent_before_the_loop_sleeps),
        cmocka_unit_test(what_a_batch_committed_is_sent_while_the_next_one_waits_for_the_database),
        cmocka_unit_test(a_batch_that_is_rolled_back_loses_nothing_and_sends_nothing_twice),
    };
    cluster_start(&cluster);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cluster_remove(&cluster);
    return failed;
}

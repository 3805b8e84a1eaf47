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
#include "base/metrics.h"
#include "flow/dispatch.h"
#include "sim/sim.h"
#include "support/cluster.h"
#include "support/placed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ORDERS = 8, QUIET_TURNS = 12, IDLE_TURNS = 30, TURNS_MAX = 2000 };

static const char KEY[] = "00000000-0000-7000-8000-000000000001"; /* of all */

static struct cluster cluster;

static struct line {
    struct sim sim;
    char url[CLUSTER_URL_BYTES];
    struct config *config;
    struct registry *registry;
    struct metrics *metrics;
    struct store *store;
    struct dispatch *dispatch;
    struct error error;
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
    return line.arrived + (int)line.sim.sent_count;
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

static void no_answer(void *exchange, const struct answer *answer)
{
    (void)exchange;
    (void)answer;
}

/* ---- Kafka */

static void inject(void)
{
    for (int i = 0; i < line.orders; i++) {
        char id[16];
        snprintf(id, sizeof(id), "e%d", i);
        struct buffer value = placed_value(text_of(KEY), TEXT("anna"), TEXT("en"));
        const struct header headers[] = {{TEXT(HEADER_ID), text_of(id)},
                                         {TEXT(HEADER_TYPE), TEXT("weir.OrderPlaced")}};
        sim_append(&line.sim, TEXT("orders"), text_of(KEY), buffer_text(&value), headers, 2);
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
    line.idle = line.sim.progress == line.progress && line.injected ? line.idle + 1 : 0;
    line.progress = line.sim.progress;
    if (line.idle > IDLE_TURNS / 2)
        sim_settle(&line.sim, true);
    if (line.idle > IDLE_TURNS) {
        line.ended = true;
        dispatch_stop(line.dispatch);
    }
}

static int64_t drain_left(void)
{
    clock_advance(50000);
    return line.drain_left_ms -= 50;
}

static void run(int orders, int away_at, int64_t step_us)
{
    static const char *const topics[] = {"orders", "dlq.order", "retry.order.2s", NULL};
    static const int64_t delays_ms[] = {2000};
    static char *arguments[] = {"--batch-count-max", "1", NULL};
    const struct setting *const settings_tables[] = {kafka_settings, flow_settings};
    memset(&line, 0, sizeof(line));
    line.orders = orders;
    line.away_at = away_at;
    line.step_us = step_us;
    line.drain_left_ms = 1000;
    cluster_make(&cluster, line.url);
    clock_hold(INT64_C(1800000000000000));
    assert_int_equal(config_read(settings_tables, 2, 2, arguments, &line.config, &line.error), OK);
    assert_int_equal(registry_open(NULL, &line.registry, &line.error), OK);
    sim_open(&line.sim, 1, topics);
    line.sim.turn = on_turn;
    line.sim.appended = on_appended;
    line.metrics = metrics_new();
    assert_int_equal(store_open(line.url, "order", &line.store, &line.error), OK);
    size_t count = 0;
    for (const struct rows_table *const *table = flow_tables; *table; table++)
        count++;
    assert_int_equal(store_migrate(line.store, flow_tables, count, NULL, 0, &line.error), OK);
    const struct dispatch_settings settings = {
        .service = "order",
        .subscriptions = subscriptions,
        .store = line.store,
        .registry = line.registry,
        .metrics = line.metrics,
        .client = {.bootstrap_servers = "nowhere:1", .client_id = "line", .config = line.config},
        .group_id = "weir-order",
        .retry_delays_ms = delays_ms,
        .retry_delay_count = 1,
        .config = line.config,
        .backlog_max = 1000,
        .answer = no_answer,
    };
    assert_int_equal(dispatch_open(&settings, &line.dispatch, &line.error), OK);
    assert_non_null(line.call);
    assert_int_equal(dispatch_run(line.dispatch, drain_left, &line.error), OK);
    dispatch_close(line.dispatch, 1000);
    assert_null(line.call); /* the store outlives the relay */
    assert_int_equal(line.handled, orders);
    assert_int_equal(line.arrived, orders);
    metrics_destroy(line.metrics);
    store_close(line.store);
    registry_close(line.registry);
    config_destroy(line.config);
    sim_close(&line.sim);
    clock_release();
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

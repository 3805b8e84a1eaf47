/*
 * Lanes over a real store and a net that the test plays: it notes what was sent, and answers when the test
 * likes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "flow/context.h"
#include "flow/lanes.h"
#include "support/fake_net.h"
#include "support/scratch.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the world */

struct world {
    struct scratch scratch;
    struct store *store;
    struct work *work;
    struct lanes *lanes;
    struct metrics *metrics;
    struct lane_limits limits;
    struct context context;
    struct error error;
    int64_t now_us;
};

static void wake(void *owner)
{
    (void)owner;
}

static void world_open(struct world *world)
{
    const struct rows_table *const tables[] = {&calls_table};
    assert_int_equal(store_open(world->scratch.url, "test", &world->store, &world->error), OK);
    assert_int_equal(store_migrate(world->store, tables, 1, NULL, 0, &world->error), OK);
    assert_int_equal(work_new(world->store, 16 << 20, &world->work, &world->error), OK);
    world->metrics = metrics_new();
    assert_int_equal(lanes_new(fake_net_lanes, &world->limits, NULL, NULL, world->metrics, wake, NULL,
                               &world->lanes, &world->error),
                     OK);
    world->context = (struct context){.service = "test", .lanes = world->lanes};
    work_set_owner(world->work, &world->context);
    fake_net_clear();
}

/* As a crash: what was begun stays active in the table. */
static void world_close(struct world *world)
{
    fake_net_answer_rest(NULL, OUTAGE);
    lanes_destroy(world->lanes);
    metrics_destroy(world->metrics);
    work_destroy(world->work);
    store_close(world->store);
}

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    scratch_make(&world->scratch);
    world->now_us = INT64_C(1795000000000000);
    clock_hold(world->now_us);
    world->limits =
        (struct lane_limits){.concurrency = 2, .timeout_ms = 1000, .delays_ms = {100, 200}, .delay_count = 2};
    world_open(world);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    world_close(world);
    scratch_remove(&world->scratch);
    clock_release();
    free(world);
    return 0;
}

static void begin(struct world *world)
{
    world->context.now_us = world->now_us;
    assert_int_equal(work_begin(world->work, &world->error), OK);
    if (lanes_wants_load(world->lanes))
        lanes_load(world->lanes, world->work, world->now_us);
}

/* What dispatch does with a batch: the answers that came back, then what may begin, then the commit. */
static void end(struct world *world, bool commit)
{
    struct lane_answer *answers[FAKE_NET_MAX];
    size_t count = lanes_take(world->lanes, answers, FAKE_NET_MAX);
    assert_int_equal(work_read(world->work, &world->error), OK);
    for (size_t i = 0; i < count; i++) {
        work_item_begin(world->work);
        lanes_item_begin(world->lanes);
        assert_int_equal(
            lane_answer_handle(world->lanes, answers[i], world->work, world->now_us, &world->error), OK);
    }
    lanes_begin(world->lanes, world->work, world->now_us);
    if (commit) {
        assert_int_equal(work_commit(world->work, &world->error), OK);
        lanes_committed(world->lanes);
        for (size_t i = 0; i < count; i++)
            lane_answer_free(answers[i]);
    } else {
        work_rollback(world->work);
        lanes_rolled_back(world->lanes);
        for (size_t i = 0; i < count; i++)
            lanes_return(world->lanes, answers[i]);
    }
}

static void turn(struct world *world)
{
    begin(world);
    end(world, true);
}

static void ask(struct world *world, const char *key, const char *url)
{
    work_item_begin(world->work);
    lanes_item_begin(world->lanes);
    context_enter(&world->context, id_from_text(text_of(url)), TEXT(""));
    work_call(world->work, &fake_net_lane, text_of(key), text_of(url), url);
}

static void asked(struct world *world, const char *key, const char *url)
{
    begin(world);
    ask(world, key, url);
    end(world, true);
}

static void later(struct world *world, int64_t ms)
{
    world->now_us += ms * 1000;
    clock_advance(ms * 1000);
}

static int64_t rows(struct world *world)
{
    begin(world);
    assert_int_equal(work_read(world->work, &world->error), OK);
    int64_t count = rows_count(world->work, &calls_table, NULL, NULL, 0);
    work_rollback(world->work);
    lanes_rolled_back(world->lanes);
    return count;
}

/* ---- tests */

static void a_call_is_sent_after_the_commit_that_asks_for_it_and_gone_when_settled(void **state)
{
    struct world *world = *state;
    asked(world, "k", "u1");
    assert_int_equal(fake_net.sent_count, 1);
    assert_string_equal(fake_net.sent[0].url, "u1");
    assert_int_equal(rows(world), 1);
    fake_net_answer(0, OK);
    turn(world);
    assert_int_equal(fake_net.heard_count, 1);
    assert_int_equal(fake_net.heard[0].attempts, 1);
    assert_int_equal(rows(world), 0);
}

/* A drain that does not wait for it would leave a call behind of which nobody knows any more what became. */
static void an_answer_that_nobody_has_taken_is_in_flight(void **state)
{
    struct world *world = *state;
    asked(world, "k", "u1");
    assert_int_equal(lanes_in_flight(world->lanes), 1);
    fake_net_answer(0, OK);
    assert_int_equal(lanes_in_flight(world->lanes), 1);
    begin(world);
    end(world, false);
    assert_int_equal(lanes_in_flight(world->lanes), 1);
    turn(world);
    assert_int_equal(lanes_in_flight(world->lanes), 0);
}

static void a_batch_that_is_rolled_back_sends_nothing(void **state)
{
    struct world *world = *state;
    begin(world);
    ask(world, "k", "u1");
    end(world, false);
    assert_int_equal(fake_net.sent_count, 0);
    assert_int_equal(rows(world), 0);
    asked(world, "k", "u1");
    assert_int_equal(fake_net.sent_count, 1);
}

static void an_item_that_is_undone_asks_for_nothing(void **state)
{
    struct world *world = *state;
    begin(world);
    ask(world, "k", "u1");
    work_item_undo(world->work);
    lanes_item_undo(world->lanes);
    ask(world, "l", "u2");
    end(world, true);
    assert_int_equal(fake_net.sent_count, 1);
    assert_string_equal(fake_net.sent[0].url, "u2");
}

static void the_same_call_asked_for_twice_is_one(void **state)
{
    struct world *world = *state;
    asked(world, "k", "u1");
    asked(world, "k", "u1");
    assert_int_equal(fake_net.sent_count, 1);
    assert_int_equal(rows(world), 1);
}

static void no_more_are_in_flight_than_the_lane_allows(void **state)
{
    struct world *world = *state;
    asked(world, "a", "u1");
    asked(world, "b", "u2");
    asked(world, "c", "u3");
    asked(world, "d", "u4");
    assert_int_equal(fake_net.sent_count, 2);
    fake_net_answer(1, OK);
    turn(world);
    assert_int_equal(fake_net.sent_count, 3);
    assert_string_equal(fake_net.sent[2].url, "u3");
}

static void calls_of_one_key_go_one_after_another_and_others_pass(void **state)
{
    struct world *world = *state;
    asked(world, "k", "u1");
    asked(world, "k", "u2");
    asked(world, "l", "u3");
    assert_int_equal(fake_net.sent_count, 2);
    assert_string_equal(fake_net.sent[1].url, "u3");
    fake_net_answer(0, RETRY); /* u1 waits for its delay, and u2 behind it */
    turn(world);
    assert_int_equal(fake_net.sent_count, 2);
    later(world, 110);
    turn(world);
    assert_string_equal(fake_net.sent[2].url, "u1");
    fake_net_answer(2, OK);
    turn(world);
    assert_string_equal(fake_net.sent[3].url, "u2");
}

static void a_retry_waits_for_its_delay_and_the_last_one_is_said(void **state)
{
    struct world *world = *state;
    int64_t at_us;
    asked(world, "k", "u1");
    fake_net_answer(0, RETRY);
    turn(world);
    assert_false(fake_net.heard[0].last);
    assert_false(lanes_due(world->lanes, world->now_us, &at_us));
    assert_in_range(at_us, world->now_us + 100 * 1000, world->now_us + 110 * 1000); /* up to a tenth later */
    later(world, 99);
    assert_false(lanes_due(world->lanes, world->now_us, &at_us));
    later(world, 11);
    assert_true(lanes_due(world->lanes, world->now_us, &at_us));
    turn(world);
    fake_net_answer(1, RETRY);
    turn(world);
    later(world, 199);
    turn(world);
    assert_int_equal(fake_net.sent_count, 2);
    later(world, 21);
    turn(world);
    fake_net_answer(2, RETRY);
    turn(world);
    assert_true(fake_net.heard[2].last);
    assert_int_equal(fake_net.heard[2].attempts, 3);
    assert_int_equal(rows(world), 0);
}

static void an_outage_costs_no_attempt_and_lets_one_probe_at_a_time_through(void **state)
{
    struct world *world = *state;
    asked(world, "a", "u1");
    asked(world, "b", "u2");
    asked(world, "c", "u3");
    fake_net_answer(0, OUTAGE);
    fake_net_answer(1, OUTAGE);
    turn(world);
    assert_int_equal(fake_net.sent_count, 2);
    later(world, LANES_OUTAGE_MS_MIN);
    turn(world);
    assert_int_equal(fake_net.sent_count, 3); /* the probe */
    fake_net_answer(2, OUTAGE);
    turn(world);
    later(world, LANES_OUTAGE_MS_MIN);
    turn(world);
    assert_int_equal(fake_net.sent_count, 3); /* twice as long now */
    later(world, LANES_OUTAGE_MS_MIN);
    turn(world);
    assert_int_equal(fake_net.sent_count, 4);
    fake_net_answer(3, OK);
    turn(world);
    assert_int_equal(fake_net.heard[fake_net.heard_count - 1].attempts, 1);
    assert_int_equal(fake_net.sent_count, 6); /* open again: both places are taken */
}

static void a_clock_that_is_put_back_makes_nothing_wait_longer(void **state)
{
    struct world *world = *state;
    const int64_t hour_us = INT64_C(3600) * 1000000;
    int64_t at_us;
    asked(world, "k", "u1");
    fake_net_answer(0, RETRY);
    turn(world);
    assert_false(lanes_due(world->lanes, world->now_us, &at_us));
    world->now_us -= hour_us;
    assert_false(lanes_due(world->lanes, world->now_us, &at_us));
    assert_in_range(at_us, world->now_us + 100 * 1000, world->now_us + 110 * 1000);
    later(world, 110);
    turn(world);
    assert_int_equal(fake_net.sent_count, 2);
    fake_net_answer(1, OUTAGE);
    turn(world);
    world->now_us -= hour_us;
    turn(world);
    assert_int_equal(fake_net.sent_count, 2);
    later(world, LANES_OUTAGE_MS_MIN);
    turn(world);
    assert_int_equal(fake_net.sent_count, 3);
    /* Also where it was put back in a batch that came to nothing. */
    fake_net_answer(2, RETRY);
    begin(world);
    world->now_us -= hour_us;
    end(world, false);
    turn(world);
    later(world, 220);
    turn(world);
    assert_int_equal(fake_net.sent_count, 4);
}

static void a_call_under_way_when_the_process_died_comes_back_as_ambiguous(void **state)
{
    struct world *world = *state;
    asked(world, "k", "u1");
    asked(world, "l", "u2");
    assert_int_equal(fake_net.sent_count, 2);
    fake_net_answer(1, OK);
    turn(world);
    world_close(world); /* u1 was sent, its answer never handled */
    world_open(world);
    turn(world);
    assert_int_equal(fake_net.heard_count, 0); /* taken over, durably */
    turn(world);
    assert_int_equal(fake_net.heard_count, 1);
    assert_string_equal(fake_net.heard[0].key, "k");
    assert_true(fake_net.heard[0].ambiguous);
    assert_int_equal(fake_net.heard[0].outcome, RETRY);
    assert_int_equal(fake_net.heard[0].attempts, 1);
    later(world, 110);
    turn(world);
    assert_int_equal(fake_net.sent_count, 1);
    assert_string_equal(fake_net.sent[0].url, "u1");
}

static void what_waits_is_taken_up_after_a_restart_in_its_order(void **state)
{
    struct world *world = *state;
    const char *const urls[] = {"u1", "u2", "u3", "u4", "u5"};
    for (size_t i = 0; i < 5; i++)
        asked(world, urls[i], urls[i]);
    world_close(world);
    world_open(world);
    turn(world);
    turn(world); /* u1 and u2 come back, so that u3 and u4 go first */
    later(world, 110);
    for (size_t i = 0; i < 5; i++) {
        turn(world);
        fake_net_answer_rest(NULL, OK);
    }
    turn(world);
    assert_int_equal(fake_net.sent_count, 5);
    assert_int_equal(rows(world), 0);
}

static void attempts_are_held_to_the_rate_with_its_burst(void **state)
{
    struct world *world = *state;
    int64_t at_us;
    world_close(world);
    world->limits.concurrency = 50;
    world->limits.rate_per_hour = 6000; /* 100 a minute: a burst of 10, then one in 600 ms */
    world_open(world);
    begin(world);
    for (int i = 0; i < 20; i++) {
        char url[8];
        snprintf(url, sizeof(url), "u%d", i);
        struct text kept = text_copy(work_arena(world->work), text_of(url));
        ask(world, kept.at, kept.at);
    }
    end(world, true);
    assert_int_equal(fake_net.sent_count, 10);
    assert_false(lanes_due(world->lanes, world->now_us, &at_us));
    assert_true(at_us > world->now_us && at_us <= world->now_us + 601 * 1000);
    for (int us = 0; us < 599000; us += 7) { /* looked at often, each time for next to nothing */
        world->now_us += 7;
        lanes_due(world->lanes, world->now_us, &at_us);
    }
    turn(world);
    assert_int_equal(fake_net.sent_count, 10);
    later(world, 2);
    turn(world);
    assert_int_equal(fake_net.sent_count, 11);
    later(world, 6000);
    turn(world);
    assert_int_equal(fake_net.sent_count, 20);
}

static void draining_begins_nothing_more(void **state)
{
    struct world *world = *state;
    int64_t at_us;
    asked(world, "a", "u1");
    asked(world, "b", "u2");
    lanes_stop(world->lanes);
    asked(world, "c", "u3");
    fake_net_answer(0, OK);
    turn(world);
    assert_int_equal(fake_net.sent_count, 2);
    assert_false(lanes_due(world->lanes, world->now_us, &at_us));
    assert_int_equal(rows(world), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            a_call_is_sent_after_the_commit_that_asks_for_it_and_gone_when_settled, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_that_nobody_has_taken_is_in_flight, setup, teardown),
        cmocka_unit_test_setup_teardown(a_batch_that_is_rolled_back_sends_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(an_item_that_is_undone_asks_for_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(the_same_call_asked_for_twice_is_one, setup, teardown),
        cmocka_unit_test_setup_teardown(no_more_are_in_flight_than_the_lane_allows, setup, teardown),
        cmocka_unit_test_setup_teardown(calls_of_one_key_go_one_after_another_and_others_pass, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_retry_waits_for_its_delay_and_the_last_one_is_said, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_outage_costs_no_attempt_and_lets_one_probe_at_a_time_through,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_clock_that_is_put_back_makes_nothing_wait_longer, setup, teardown),
        cmocka_unit_test_setup_teardown(a_call_under_way_when_the_process_died_comes_back_as_ambiguous, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_waits_is_taken_up_after_a_restart_in_its_order, setup, teardown),
        cmocka_unit_test_setup_teardown(attempts_are_held_to_the_rate_with_its_burst, setup, teardown),
        cmocka_unit_test_setup_teardown(draining_begins_nothing_more, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Lanes of two instances over one PostgreSQL: who begins a call, who finishes it, and what becomes of it when
 * its part goes to another, or its holder dies. The test plays the net, as in test_lanes.c.
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
#include "store/instances.h"
#include "support/cluster.h"
#include "support/fake_net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- two instances */

enum { PARTS = 4 };

struct instance {
    struct store *store;
    struct work *work;
    struct lanes *lanes;
    struct metrics *metrics;
    struct context context;
    struct instances instances;
};

static struct cluster cluster;
static char url[CLUSTER_URL_BYTES];
static struct instance one, two;
static struct error error;
static int64_t now_us;
static char keys[PARTS][16]; /* one of each part */

static void wake(void *owner)
{
    (void)owner;
}

static enum outcome beat(struct instance *instance)
{
    instance->instances.beat_us = 0;
    instance->instances.part_count = PARTS;
    return instances_beat(instance->store, &instance->instances, &error);
}

static void instance_open(struct instance *instance)
{
    static const struct rows_table *const tables[] = {&calls_table};
    static const struct lane_limits limits = {
        .concurrency = 2, .timeout_ms = 1000, .delays_ms = {100, 200}, .delay_count = 2};
    assert_int_equal(store_open(url, "test", &instance->store, &error), OK);
    assert_int_equal(store_migrate(instance->store, tables, 1, NULL, 0, &error), OK);
    assert_int_equal(work_new(instance->store, 16 << 20, &instance->work, &error), OK);
    instance->metrics = metrics_new();
    assert_int_equal(lanes_new(fake_net_lanes, &limits, NULL, (struct net *)(void *)instance,
                               instance->metrics, wake, NULL, &instance->lanes, &error),
                     OK);
    lanes_share(instance->lanes, &instance->instances);
    instance->context =
        (struct context){.service = "test", .lanes = instance->lanes, .instances = &instance->instances};
    work_set_owner(instance->work, &instance->context);
    assert_int_equal(beat(instance), OK);
}

/* As a crash: nobody says good-bye. */
static void instance_close(struct instance *instance)
{
    if (!instance->store)
        return;
    fake_net_answer_rest((struct net *)(void *)instance, OUTAGE);
    lanes_destroy(instance->lanes);
    metrics_destroy(instance->metrics);
    work_destroy(instance->work);
    store_close(instance->store);
    memset(instance, 0, sizeof(*instance));
}

static int setup(void **state)
{
    (void)state;
    now_us = INT64_C(1795000000000000);
    clock_hold(now_us);
    cluster_make(&cluster, url);
    fake_net_clear();
    memset(keys, 0, sizeof(keys));
    instance_open(&one);
    for (int found = 0, i = 0; found < PARTS; i++) {
        char key[16];
        snprintf(key, sizeof(key), "key%d", i);
        int32_t part = instances_part(&one.instances, text_of(key), false);
        found += keys[part][0] == '\0';
        if (keys[part][0] == '\0')
            memcpy(keys[part], key, sizeof(key));
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    instance_close(&one);
    instance_close(&two);
    clock_release();
    return 0;
}

static void want(struct instance *instance, int first, int last)
{
    for (int part = 0; part < PARTS; part++)
        instance->instances.wanted[part] = part >= first && part <= last;
}

/* The second one comes, and the parts from there on become its. */
static void hand_over(int from)
{
    if (!two.store)
        instance_open(&two);
    want(&one, 0, from - 1);
    want(&two, from, PARTS - 1);
    assert_int_equal(beat(&one), OK); /* hears of the other */
    want(&one, 0, from - 1);          /* while it was alone it wanted all */
    assert_int_equal(beat(&one), OK); /* lets go */
    assert_int_equal(beat(&two), OK); /* takes */
    for (int part = 0; part < PARTS; part++) {
        assert_int_equal(instances_own(&one.instances, part), part < from);
        assert_int_equal(instances_own(&two.instances, part), part >= from);
    }
}

static void begin(struct instance *instance)
{
    instance->context.now_us = now_us;
    assert_int_equal(work_begin(instance->work, &error), OK);
    if (lanes_wants_load(instance->lanes))
        lanes_load(instance->lanes, instance->work, now_us);
    assert_int_equal(work_read(instance->work, &error), OK);
}

/* What dispatch does with a batch: the answers that came back, then what may begin, then the commit. */
static enum outcome end(struct instance *instance)
{
    struct lane_answer *answers[FAKE_NET_MAX];
    size_t count = lanes_take(instance->lanes, answers, FAKE_NET_MAX);
    for (size_t i = 0; i < count; i++) {
        work_item_begin(instance->work);
        lanes_item_begin(instance->lanes);
        assert_int_equal(lane_answer_handle(instance->lanes, answers[i], instance->work, now_us, &error), OK);
    }
    lanes_begin(instance->lanes, instance->work, now_us);
    enum outcome outcome = work_commit(instance->work, &error);
    if (outcome == OK) {
        lanes_committed(instance->lanes);
    } else {
        lanes_rolled_back(instance->lanes);
    }
    for (size_t i = 0; i < count; i++)
        outcome == OK ? lane_answer_free(answers[i]) : lanes_return(instance->lanes, answers[i]);
    return outcome;
}

static void turn(struct instance *instance)
{
    begin(instance);
    assert_int_equal(end(instance), OK);
}

static void ask_more(struct instance *instance, const char *key, const char *what)
{
    work_item_begin(instance->work);
    lanes_item_begin(instance->lanes);
    context_enter(&instance->context, id_from_text(text_of(what)), TEXT(""));
    work_call(instance->work, &fake_net_lane, text_of(key), text_of(what), what);
}

static void ask(struct instance *instance, const char *key, const char *what)
{
    begin(instance);
    ask_more(instance, key, what);
    assert_int_equal(end(instance), OK);
}

static void later(int64_t ms)
{
    now_us += ms * 1000;
    clock_advance(ms * 1000);
}

static int64_t in_table(const char *condition)
{
    char sql[160];
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM weir_test.calls WHERE %s", condition);
    return cluster_do(url, sql);
}

static bool sent_by(size_t which, const struct instance *instance, const char *what)
{
    return which < fake_net.sent_count &&
           fake_net.sent[which].net == (const struct net *)(const void *)instance &&
           strcmp(fake_net.sent[which].url, what) == 0;
}

/* ---- tests */

static void a_call_is_begun_by_the_owner_of_its_part_whoever_asks_for_it(void **state)
{
    (void)state;
    hand_over(2);
    ask(&one, keys[3], "u1");
    assert_int_equal(fake_net.sent_count, 0);
    assert_int_equal(in_table("elsewhere = 1 AND part = 3"), 1);
    turn(&two);
    assert_int_equal(fake_net.sent_count, 1);
    assert_true(sent_by(0, &two, "u1"));
    assert_int_equal(in_table("elsewhere = 0 AND state = 1"), 1);
    fake_net_answer(0, OK);
    turn(&two);
    assert_int_equal(fake_net.heard_count, 1);
    assert_int_equal(in_table("true"), 0);
}

static void an_earlier_call_of_a_key_from_elsewhere_goes_first(void **state)
{
    (void)state;
    hand_over(2);
    turn(&one);
    ask(&two, keys[0], "u1");
    ask(&one, keys[0], "u2"); /* no time has passed for a look */
    assert_int_equal(fake_net.sent_count, 1);
    assert_true(sent_by(0, &one, "u1"));
    fake_net_answer(0, OK);
    turn(&one);
    assert_true(sent_by(1, &one, "u2"));
}

static void what_waits_goes_with_its_part_and_what_is_active_is_finished_by_who_began_it(void **state)
{
    (void)state;
    ask(&one, keys[3], "u1");
    ask(&one, keys[3], "u2");
    ask(&one, keys[3], "u3");
    ask(&one, keys[2], "u4");
    assert_int_equal(fake_net.sent_count, 2); /* u1 and u4 */
    hand_over(2);
    turn(&two);
    turn(&one);
    later(LANES_POLL_MS + 1);
    turn(&two);
    assert_int_equal(fake_net.sent_count, 2); /* u2 and u3 wait for u1 */
    fake_net_answer(0, OK);
    turn(&one);
    assert_int_equal(fake_net.heard_count, 1);
    assert_int_equal(fake_net.sent_count, 2);
    turn(&two); /* it does not look all the time */
    later(LANES_POLL_MS + 1);
    turn(&two);
    assert_true(sent_by(2, &two, "u2"));
    fake_net_answer(2, OK);
    turn(&two);
    assert_true(sent_by(3, &two, "u3"));
    fake_net_answer(3, OK);
    fake_net_answer(1, OK);
    turn(&two);
    turn(&one);
    assert_int_equal(fake_net.heard_count, 4);
    assert_int_equal(in_table("true"), 0);
}

static void a_retry_of_a_part_that_has_gone_is_its_new_owners(void **state)
{
    (void)state;
    ask(&one, keys[3], "u1");
    hand_over(2);
    turn(&two);
    fake_net_answer(0, RETRY);
    turn(&one);
    assert_int_equal(in_table("elsewhere = 1 AND state = 0 AND attempts = 1"), 1);
    later(LANES_POLL_MS + 1); /* past the delay too */
    turn(&two);
    assert_int_equal(fake_net.sent_count, 2);
    assert_true(sent_by(1, &two, "u1"));
    fake_net_answer(1, OK);
    turn(&two);
    assert_int_equal(fake_net.heard[1].attempts, 2);
    assert_int_equal(in_table("true"), 0);
}

static void a_part_that_comes_back_finds_its_active_calls_where_they_were(void **state)
{
    (void)state;
    ask(&one, keys[3], "u1");
    ask(&one, keys[3], "u2");
    hand_over(2);
    turn(&two);
    turn(&one);
    want(&two, PARTS, PARTS);
    want(&one, 0, PARTS - 1);
    assert_int_equal(beat(&two), OK);
    assert_int_equal(beat(&one), OK);
    turn(&one);
    assert_int_equal(fake_net.sent_count, 1);
    fake_net_answer(0, OK);
    turn(&one);
    assert_true(sent_by(1, &one, "u2"));
    assert_int_equal(fake_net.heard_count, 1);
    assert_false(fake_net.heard[0].ambiguous);
}

static void
the_calls_of_a_holder_that_was_buried_come_back_as_ambiguous_and_its_answers_count_for_nothing(void **state)
{
    (void)state;
    ask(&one, keys[3], "u1");
    ask(&one, keys[3], "u2");
    hand_over(2);
    turn(&two);
    assert_int_equal(fake_net.sent_count, 1);
    cluster_do(url, "DELETE FROM weir_test.instance WHERE id IN (SELECT owner FROM weir_test.part WHERE "
                    "number = 0); SELECT 1");
    assert_int_equal(beat(&two), OK);
    assert_int_equal(two.instances.owned_count, PARTS);
    turn(&two);
    turn(&two);
    assert_int_equal(fake_net.heard_count, 1);
    assert_true(fake_net.heard[0].ambiguous);
    assert_int_equal(fake_net.heard[0].attempts, 1);
    fake_net_answer(0, OK); /* the zombie's */
    begin(&one);            /* which does not know yet that it is dead */
    ask_more(&one, keys[0], "u3");
    assert_int_equal(end(&one), FATAL);
    assert_int_equal(error_exit_code(&error), EXIT_TRY_AGAIN);
    later(LANES_POLL_MS + 1);
    turn(&two);
    assert_true(sent_by(1, &two, "u1"));
    assert_int_equal(in_table("state = 1 AND attempts = 2"), 1);
    fake_net_answer(1, OK);
    turn(&two);
    assert_true(sent_by(2, &two, "u2"));
}

static void what_the_last_other_instance_has_written_is_not_left_behind(void **state)
{
    (void)state;
    hand_over(2);
    turn(&one);
    ask(&two, keys[0], "u1");
    instances_leave(two.store, &two.instances);
    instance_close(&two);
    assert_int_equal(beat(&one), OK);
    assert_int_equal(one.instances.others, 0);
    assert_true(lanes_wants_load(one.lanes));
    turn(&one);
    assert_true(sent_by(0, &one, "u1"));
    assert_false(lanes_wants_load(one.lanes));
}

static void calls_of_before_there_were_parts_get_theirs(void **state)
{
    (void)state;
    hand_over(2);
    char sql[400];
    snprintf(
        sql, sizeof(sql),
        "INSERT INTO weir_test.calls (id, lane, key, payload, attempts, due_us, state, traceparent, "
        "created_us, part, holder, elsewhere) VALUES (gen_random_uuid(), 'test', '%s', 'u1', 0, 0, 0, '', "
        "1, 0, '00000000-0000-0000-0000-000000000000', 0); SELECT 1",
        keys[3]);
    cluster_do(url, sql);
    turn(&one);
    assert_int_equal(in_table("part = 3 AND elsewhere = 1"), 1);
    turn(&two);
    assert_true(sent_by(0, &two, "u1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_call_is_begun_by_the_owner_of_its_part_whoever_asks_for_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_earlier_call_of_a_key_from_elsewhere_goes_first, setup, teardown),
        cmocka_unit_test_setup_teardown(
            what_waits_goes_with_its_part_and_what_is_active_is_finished_by_who_began_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_retry_of_a_part_that_has_gone_is_its_new_owners, setup, teardown),
        cmocka_unit_test_setup_teardown(a_part_that_comes_back_finds_its_active_calls_where_they_were, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            the_calls_of_a_holder_that_was_buried_come_back_as_ambiguous_and_its_answers_count_for_nothing,
            setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_last_other_instance_has_written_is_not_left_behind, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(calls_of_before_there_were_parts_get_theirs, setup, teardown),
    };
    cluster_start(&cluster);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cluster_remove(&cluster);
    return failed;
}

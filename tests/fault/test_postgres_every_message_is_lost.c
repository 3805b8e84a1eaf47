/*
 * A batch that was acknowledged is there, once, wherever the connection to PostgreSQL is cut: before each
 * message to the server in turn, before each answer of it in turn (the commit's among them), while the server
 * can be reached again at once and while it cannot for a while.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/batches.h"
#include "support/cutter.h"

#include <stdio.h>

static struct cluster cluster;

static void cut_everywhere(enum cutter_side side, int refuse, uint64_t from, uint64_t pace)
{
    char url[CLUSTER_URL_BYTES], through[CLUSTER_URL_BYTES];
    cluster_make(&cluster, url);
    struct cutter *cutter = cutter_start(&cluster, url, through);
    for (uint64_t at = from;; at += pace) {
        int64_t acknowledged = 0;
        cluster_do(url, "SET client_min_messages = error; DROP SCHEMA IF EXISTS weir_fault CASCADE");
        cutter_cut(cutter, side, at, refuse);
        assert_true(batches_work_through(through, &acknowledged));
        uint64_t messages = cutter_messages(cutter, side);
        cutter_cut(cutter, side, 0, 0);
        int64_t there = batches_there(through);
        if (there != BATCHES)
            print_message("message %llu: %lld batches\n", (unsigned long long)at, (long long)there);
        assert_int_equal(there, BATCHES);
        if (messages < at) {
            print_message("%llu messages\n", (unsigned long long)messages);
            assert_true(messages > 100);
            break;
        }
    }
    cutter_end(cutter);
}

static void nothing_is_lost_or_doubled_when_any_message_is_not_heard(void **state)
{
    (void)state;
    cut_everywhere(CUTTER_TO_SERVER, 0, 1, 2);
}

static void nothing_is_lost_or_doubled_when_any_answer_is_lost(void **state)
{
    (void)state;
    cut_everywhere(CUTTER_TO_CLIENT, 0, 1, 2);
}

static void nothing_is_lost_or_doubled_when_the_server_is_away_after_it(void **state)
{
    (void)state;
    cut_everywhere(CUTTER_TO_CLIENT, 3, 2, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost_or_doubled_when_any_message_is_not_heard),
        cmocka_unit_test(nothing_is_lost_or_doubled_when_any_answer_is_lost),
        cmocka_unit_test(nothing_is_lost_or_doubled_when_the_server_is_away_after_it),
    };
    cluster_start(&cluster);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cluster_remove(&cluster);
    return failed;
}

/* How the relay goes on after a producer that is done for, with time and Kafka in the test's hands. Order and
 * losses: test_relay_model. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "flow/relay.h"
#include "support/scratch.h"

#include <stdlib.h>
#include <string.h>

enum {
    STEP_MS = 100,
    OPENED_MAX = 16,
    SENT_MAX = RELAY_REFUSED_MAX + 16,
    STEPS_MAX = 4 * RELAY_REOPEN_MS_MAX / STEP_MS
};

/* ---- Kafka: takes all, answers when the test wants */

struct producer {
    producer_report_fn *report;
    void *owner;
    bool fatal;
    uint64_t sent[SENT_MAX];
    size_t sent_count;
};

static struct producer *current; /* the relay's; NULL between two */
static bool full;                /* it takes nothing more */
static size_t refused_count, wake_count;
static int64_t opened_us[OPENED_MAX];
static size_t opened_count;

enum outcome producer_open(const struct producer_settings *settings, producer_report_fn *report, void *owner,
                           struct producer **ret, struct error *error)
{
    (void)settings, (void)error;
    assert_null(current);
    assert_true(opened_count < OPENED_MAX);
    opened_us[opened_count++] = clock_monotonic_us();
    current = *ret = calloc(1, sizeof(**ret));
    assert_non_null(current);
    current->report = report;
    current->owner = owner;
    return OK;
}

enum outcome producer_send(struct producer *producer, const struct producer_record *record, uint64_t tag,
                           struct error *error)
{
    (void)record;
    refused_count += full;
    if (full)
        return error_retry(error, "queue-full", "full");
    assert_true(producer->sent_count < SENT_MAX);
    producer->sent[producer->sent_count++] = tag;
    return OK;
}

void producer_go(struct producer *producer)
{
    (void)producer;
}

bool producer_is_fatal(const struct producer *producer)
{
    return producer->fatal;
}

bool producer_refused(const struct producer *producer)
{
    (void)producer;
    return false;
}

const char *producer_denied(const struct producer *producer)
{
    return producer->fatal ? "not allowed: it needs the ACL Write on topic orders" : NULL;
}

bool producer_connected(const struct producer *producer)
{
    return !producer->fatal;
}

void producer_close(struct producer *producer, int timeout_ms)
{
    (void)timeout_ms;
    assert_ptr_equal(producer, current);
    free(producer);
    current = NULL;
}

/* ---- a process */

struct fixture {
    struct scratch scratch;
    struct store *store;
    struct work *work, *spare;
    struct relay *relay;
    struct error error;
};

static void wake(void *owner)
{
    (void)owner;
    wake_count++;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    const struct producer_settings settings = {.queue_records_max = SENT_MAX};
    clock_hold(INT64_C(1800000000000000));
    opened_count = refused_count = wake_count = 0;
    full = false;
    scratch_make(&fixture->scratch);
    assert_int_equal(store_open(fixture->scratch.url, "relay", &fixture->store, &fixture->error), OK);
    assert_int_equal(work_new(fixture->store, 4 << 20, &fixture->work, &fixture->error), OK);
    assert_int_equal(work_new(fixture->store, 4 << 20, &fixture->spare, &fixture->error), OK);
    assert_int_equal(relay_open(&settings, wake, NULL, &fixture->relay, &fixture->error), OK);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    relay_close(fixture->relay, 0);
    work_destroy(fixture->work);
    work_destroy(fixture->spare);
    store_close(fixture->store);
    scratch_remove(&fixture->scratch);
    free(fixture);
    clock_release();
    return 0;
}

static void begin(struct fixture *fixture, bool add)
{
    assert_int_equal(work_begin(fixture->work, &fixture->error), OK);
    relay_turn(fixture->relay, fixture->work);
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
    if (add)
        outbox_add(fixture->work,
                   &(struct outbox_row){.topic = TEXT("orders"), .partition = -1, .key = TEXT("k")});
}

/* Not sent yet: the other unit of work is the next. */
static void commit(struct fixture *fixture)
{
    struct work *work = fixture->work;
    assert_int_equal(work_commit(work, &fixture->error), OK);
    relay_committed(fixture->relay, work);
    fixture->work = fixture->spare;
    fixture->spare = work;
}

static void roll_back(struct fixture *fixture)
{
    work_rollback(fixture->work);
    relay_rolled_back(fixture->relay);
}

static void turn(struct fixture *fixture, bool add)
{
    begin(fixture, add);
    commit(fixture);
    relay_send(fixture->relay);
}

/* The producer ends without having reported anything; its next one. Milliseconds between the two. */
static int64_t next_producer(struct fixture *fixture)
{
    size_t before = opened_count;
    assert_true(before > 0 && current->sent_count > 0);
    current->fatal = true;
    for (int step = 0; step < STEPS_MAX && opened_count == before; step++) {
        clock_advance(STEP_MS * INT64_C(1000));
        turn(fixture, false);
    }
    assert_int_equal(opened_count, before + 1);
    return (opened_us[before] - opened_us[before - 1]) / 1000;
}

static void the_next_producer_comes_ever_later_while_nothing_is_acknowledged(void **state)
{
    struct fixture *fixture = *state;
    char why[256];
    turn(fixture, true);
    next_producer(fixture);
    for (int64_t wanted_ms = RELAY_REOPEN_MS_MIN; wanted_ms < RELAY_REOPEN_MS_MAX; wanted_ms *= 2)
        assert_in_range(next_producer(fixture), wanted_ms, wanted_ms + STEP_MS);
    for (int i = 0; i < 2; i++)
        assert_in_range(next_producer(fixture), RELAY_REOPEN_MS_MAX, RELAY_REOPEN_MS_MAX + STEP_MS);
    assert_true(relay_refused(fixture->relay, why, sizeof(why)));
    assert_non_null(strstr(why, "ACL Write on topic orders"));

    /* Every one got the row again; the last has an answer, and all begins anew. */
    assert_int_equal(current->sent_count, 1);
    current->report(current->owner, current->sent[0], OK, 0, 0, NULL);
    turn(fixture, true);
    assert_false(relay_refused(fixture->relay, why, sizeof(why)));
    assert_in_range(next_producer(fixture), 0, RELAY_REOPEN_MS_MIN + STEP_MS);
    assert_in_range(next_producer(fixture), RELAY_REOPEN_MS_MIN, RELAY_REOPEN_MS_MIN + STEP_MS);
}

static size_t left_in_table(struct fixture *fixture)
{
    const struct outbox_row *rows;
    bool more;
    assert_int_equal(work_begin(fixture->work, &fixture->error), OK);
    size_t left = outbox_read(fixture->work, 0, SENT_MAX, &rows, &more);
    work_rollback(fixture->work);
    return left;
}

static void a_refusal_that_was_rolled_back_is_set_aside_by_the_next_commit(void **state)
{
    struct fixture *fixture = *state;
    turn(fixture, true);
    assert_int_equal(current->sent_count, 1);
    current->report(current->owner, current->sent[0], REJECT, -1, -1, "too large");
    begin(fixture, false);
    roll_back(fixture);
    assert_int_equal(relay_set_aside(fixture->relay), 0);
    assert_int_equal(left_in_table(fixture), 1);
    turn(fixture, false);
    assert_int_equal(relay_set_aside(fixture->relay), 1);
    assert_int_equal(left_in_table(fixture), 0);
}

/* By its bytes a queue may be full with few records in it. */
static void a_producer_that_takes_no_more_is_asked_again_when_half_of_it_is_reported(void **state)
{
    enum { UNDER_WAY = 4 };
    struct fixture *fixture = *state;
    for (int i = 0; i < UNDER_WAY; i++)
        turn(fixture, true);
    full = true;
    turn(fixture, true);
    assert_true(relay_behind(fixture->relay));
    for (int i = 0; i < UNDER_WAY / 2; i++) {
        assert_int_not_equal(relay_wait_ms(fixture->relay), 0);
        turn(fixture, true); /* for others */
        assert_int_equal(refused_count, 1);
        assert_int_equal(wake_count, 0);
        current->report(current->owner, current->sent[i], OK, 0, 0, NULL);
    }
    assert_int_equal(wake_count, 1);
    assert_int_equal(relay_wait_ms(fixture->relay), 0);
    full = false;
    turn(fixture, false);
    assert_int_equal(current->sent_count, UNDER_WAY + 1 + UNDER_WAY / 2);
    assert_false(relay_behind(fixture->relay));
}

static void a_producer_that_takes_nothing_at_all_is_asked_again_a_little_later(void **state)
{
    struct fixture *fixture = *state;
    full = true;
    turn(fixture, true);
    assert_int_equal(relay_wait_ms(fixture->relay), RELAY_SETTLE_MS);
    full = false;
    turn(fixture, false);
    assert_int_equal(current->sent_count, 1);
}

static void refusals_past_the_bound_stay_in_the_outbox(void **state)
{
    struct fixture *fixture = *state;
    enum { PAST = 3 };
    for (int i = 0; i < RELAY_REFUSED_MAX + PAST; i++)
        turn(fixture, true);
    assert_int_equal(current->sent_count, RELAY_REFUSED_MAX + PAST);
    for (size_t i = 0; i < current->sent_count; i++)
        current->report(current->owner, current->sent[i], REJECT, -1, -1, "too large");
    turn(fixture, false);
    assert_int_equal(relay_set_aside(fixture->relay), RELAY_REFUSED_MAX);
    assert_int_equal(left_in_table(fixture), PAST);
}

/* Beside other instances a part changes hands when nothing of it is under way. */
static void a_refused_row_is_not_under_way_any_more(void **state)
{
    struct fixture *fixture = *state;
    bool busy[INSTANCE_PARTS_MAX] = {false};
    const struct instances instances = {.shared = true};
    relay_share(fixture->relay, &instances);
    turn(fixture, true);
    relay_parts(fixture->relay, busy);
    assert_true(busy[0]);
    current->report(current->owner, current->sent[0], REJECT, -1, -1, "too large");
    turn(fixture, false);
    memset(busy, false, sizeof(busy));
    relay_parts(fixture->relay, busy);
    assert_false(busy[0]);
}

/* ---- what is sent while the next unit of work is open */

static void acknowledge_all(void)
{
    for (size_t i = 0; i < current->sent_count; i++)
        current->report(current->owner, current->sent[i], OK, 0, 0, NULL);
}

static void what_a_later_unit_of_work_rolls_back_is_sent_once_and_deleted_once(void **state)
{
    struct fixture *fixture = *state;
    turn(fixture, false); /* in step from here on */
    begin(fixture, true);
    commit(fixture);
    assert_int_equal(current->sent_count, 0);
    begin(fixture, true);
    relay_send(fixture->relay);
    assert_int_equal(current->sent_count, 1);
    roll_back(fixture); /* its own row was never there */
    relay_send(fixture->relay);
    turn(fixture, false);
    assert_int_equal(current->sent_count, 1);
    assert_int_equal(left_in_table(fixture), 1);

    acknowledge_all();
    begin(fixture, true); /* deletes it, and is rolled back */
    roll_back(fixture);
    assert_int_equal(left_in_table(fixture), 1);
    turn(fixture, false);
    assert_int_equal(left_in_table(fixture), 0);
    assert_int_equal(current->sent_count, 1);
}

static void what_was_rolled_back_before_it_was_sent_loses_nothing(void **state)
{
    struct fixture *fixture = *state;
    turn(fixture, false);
    begin(fixture, true);
    commit(fixture);
    for (int i = 0; i < 3; i++) { /* as a batch that loses races: none of them waited */
        begin(fixture, true);
        roll_back(fixture);
    }
    assert_int_equal(current->sent_count, 0);
    relay_send(fixture->relay);
    assert_int_equal(current->sent_count, 1);
}

static void commits_are_sent_in_their_order_and_the_next_one_sends_the_one_before(void **state)
{
    struct fixture *fixture = *state;
    enum { COMMITS = 8 };
    turn(fixture, false);
    for (size_t i = 0; i < COMMITS; i++) {
        begin(fixture, true);
        commit(fixture);
        assert_int_equal(current->sent_count, i);
    }
    relay_send(fixture->relay);
    relay_send(fixture->relay);
    assert_int_equal(current->sent_count, COMMITS);
    for (size_t i = 1; i < COMMITS; i++)
        assert_true(current->sent[i - 1] < current->sent[i]);
    acknowledge_all();
    turn(fixture, false);
    assert_int_equal(left_in_table(fixture), 0);
}

/* Its table is read from the first row on then, and what is not sent yet is one of those. */
static void what_is_not_sent_when_the_relay_falls_behind_is_sent_from_the_table_once(void **state)
{
    struct fixture *fixture = *state;
    turn(fixture, false);
    turn(fixture, true);
    begin(fixture, true);
    commit(fixture);
    current->fatal = true; /* with one under way and one not sent */
    clock_advance(RELAY_REOPEN_MS_MAX * INT64_C(1000));
    turn(fixture, true);
    assert_int_equal(opened_count, 2);
    turn(fixture, true);
    assert_int_equal(current->sent_count, 4);
    for (size_t i = 1; i < current->sent_count; i++)
        assert_true(current->sent[i - 1] < current->sent[i]);
    acknowledge_all();
    turn(fixture, false);
    assert_int_equal(left_in_table(fixture), 0);
}

static void a_producer_that_is_done_for_when_it_is_sent_leaves_it_in_the_table(void **state)
{
    struct fixture *fixture = *state;
    turn(fixture, false);
    begin(fixture, true);
    commit(fixture);
    current->fatal = true;
    relay_send(fixture->relay);
    assert_true(relay_behind(fixture->relay));
    assert_int_equal(relay_wait_ms(fixture->relay), 0);
    clock_advance(RELAY_REOPEN_MS_MAX * INT64_C(1000));
    turn(fixture, false);
    assert_int_equal(current->sent_count, 1);
}

static void sqlite_is_never_waited_for(void **state)
{
    struct fixture *fixture = *state;
    assert_false(store_meanwhile(fixture->store, wake, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_next_producer_comes_ever_later_while_nothing_is_acknowledged,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_refusal_that_was_rolled_back_is_set_aside_by_the_next_commit, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            a_producer_that_takes_no_more_is_asked_again_when_half_of_it_is_reported, setup, teardown),
        cmocka_unit_test_setup_teardown(a_producer_that_takes_nothing_at_all_is_asked_again_a_little_later,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(refusals_past_the_bound_stay_in_the_outbox, setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_row_is_not_under_way_any_more, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_later_unit_of_work_rolls_back_is_sent_once_and_deleted_once,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_rolled_back_before_it_was_sent_loses_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(commits_are_sent_in_their_order_and_the_next_one_sends_the_one_before,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            what_is_not_sent_when_the_relay_falls_behind_is_sent_from_the_table_once, setup, teardown),
        cmocka_unit_test_setup_teardown(a_producer_that_is_done_for_when_it_is_sent_leaves_it_in_the_table,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(sqlite_is_never_waited_for, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

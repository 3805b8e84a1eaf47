/* retry: the ladder as tables. waiting: held keys and what waits behind them, on a real SQLite file, or on a
 * PostgreSQL of its own ("postgres" as the argument). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "flow/retry.h"
#include "store/waiting.h"
#include "support/scratch.h"

#include <stdio.h>
#include <stdlib.h>

#define S INT64_C(1000)

/* ---- the ladder */

static struct retry ladder(const int64_t *delays_ms, size_t count)
{
    struct retry retry;
    retry_init(&retry, "email", delays_ms, count);
    return retry;
}

static void each_attempt_has_its_delay_and_past_the_last_there_is_none(void **state)
{
    static const int64_t delays_ms[] = {2 * S, 4 * S, 8 * S};
    static const struct {
        size_t count;
        int attempt;
        bool next;
        size_t step;
    } cases[] = {
        {3, 1, true, 0}, {3, 2, true, 1},  {3, 3, true, 2},  {3, 4, false, 0}, {3, 1000000, false, 0},
        {1, 1, true, 0}, {1, 2, false, 0}, {0, 1, false, 0}, {0, 2, false, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct retry retry = ladder(delays_ms, cases[i].count);
        size_t step = 77;
        assert_int_equal(retry_next(&retry, cases[i].attempt, &step), cases[i].next);
        assert_int_equal(step, cases[i].next ? cases[i].step : 77);
    }
}

static void a_topic_is_named_by_its_delay(void **state)
{
    static const int64_t delays_ms[] = {2 * S, 250, 60 * S, 90 * S, 3600 * S};
    struct retry retry = ladder(delays_ms, 5);
    (void)state;
    assert_string_equal(retry.topics[0], "retry.email.2s");
    assert_string_equal(retry.topics[1], "retry.email.250ms");
    for (size_t i = 0; i < 5; i++) {
        size_t step = 77;
        assert_true(retry_find(&retry, text_of(retry.topics[i]), &step));
        assert_int_equal(step, i);
    }
    static const char *const others[] = {"retry.email.3s",  "retry.email", "retry.emails.2s",
                                         "retry.email.2s1", "orders",      ""};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        size_t step;
        assert_false(retry_find(&retry, text_of(others[i]), &step));
    }
}

static void topics_of_earlier_delays_are_found_and_are_no_step_of_the_ladder(void **state)
{
    static const int64_t delays_ms[] = {2 * S, 4 * S};
    struct retry retry = ladder(delays_ms, 2);
    char name[TOPIC_NAME_BYTES_MAX];
    size_t step = 77;
    (void)state;
    assert_true(retry_add_old(&retry, "retry.email.5s", 5 * S));
    assert_true(retry_add_old(&retry, "retry.email.5s", 5 * S));
    assert_true(retry_add_old(&retry, "retry.email.4s", 4 * S)); /* is one of the ladder */
    assert_int_equal(retry.old_count, 1);
    assert_true(retry_find(&retry, TEXT("retry.email.5s"), &step));
    assert_int_equal(step, 2);
    assert_int_equal(retry_due_us(&retry, step, &(struct origin){0}, 1000), (1000 + 5 * S) * 1000);
    step = 77;
    assert_false(retry_next(&retry, 3, &step));
    for (int i = 1; i < RETRY_OLD_MAX; i++)
        assert_true(retry_add_old(&retry, topic_retry("email", 10 * S + i, name), 10 * S + i));
    assert_false(retry_add_old(&retry, "retry.email.1d", 86400 * S));
    assert_false(retry_find(&retry, TEXT("retry.email.1d"), &step));
}

static void the_same_delay_twice_is_one_topic_and_two_attempts(void **state)
{
    static const int64_t delays_ms[] = {1 * S, 1 * S, 1 * S};
    struct retry retry = ladder(delays_ms, 3);
    size_t step = 77;
    (void)state;
    assert_string_equal(retry.topics[0], retry.topics[2]);
    assert_true(retry_find(&retry, text_of(retry.topics[2]), &step));
    assert_int_equal(step, 0); /* the first; the delay is the same */
    assert_true(retry_next(&retry, 3, &step));
    assert_int_equal(step, 2); /* by the attempt, not by the topic */
    assert_false(retry_next(&retry, 4, &step));
}

static void more_delays_than_fit_are_cut(void **state)
{
    int64_t delays_ms[RETRY_DELAYS_MAX + 5];
    size_t step;
    (void)state;
    for (size_t i = 0; i < RETRY_DELAYS_MAX + 5; i++)
        delays_ms[i] = (int64_t)(i + 1) * S;
    struct retry retry = ladder(delays_ms, RETRY_DELAYS_MAX + 5);
    assert_int_equal(retry.count, RETRY_DELAYS_MAX);
    assert_true(retry_next(&retry, RETRY_DELAYS_MAX, &step));
    assert_false(retry_next(&retry, RETRY_DELAYS_MAX + 1, &step));
}

static void a_record_is_due_when_it_says_but_never_later_than_its_delay_after_it_was_written(void **state)
{
    static const int64_t delays_ms[] = {2 * S, 8 * S};
    static const struct {
        size_t step;
        int64_t said_us, timestamp_ms, due_us;
    } cases[] = {
        {0, 0, 100 * S, 102 * S * 1000},              /* it says nothing */
        {0, 101 * S * 1000, 100 * S, 101 * S * 1000}, /* sooner: as it says */
        {0, 102 * S * 1000, 100 * S, 102 * S * 1000},
        {0, 103 * S * 1000, 100 * S, 102 * S * 1000}, /* later: it is not believed */
        {0, INT64_MAX, 100 * S, 102 * S * 1000},
        {1, 103 * S * 1000, 100 * S, 103 * S * 1000}, /* of a longer delay it may be so */
        {1, INT64_MAX, 100 * S, 108 * S * 1000},
        {0, 0, -1, 2 * S * 1000}, /* no timestamp */
        {0, 0, INT64_MIN, 2 * S * 1000},
        {0, 0, INT64_MAX, (RECORD_TIMESTAMP_MS_MAX + 2 * S) * 1000},
    };
    (void)state;
    struct retry retry = ladder(delays_ms, 2);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct origin origin = {.kind = ORIGIN_WEIR, .due_us = cases[i].said_us};
        assert_int_equal(retry_due_us(&retry, cases[i].step, &origin, cases[i].timestamp_ms),
                         cases[i].due_us);
    }
}

static void a_time_far_ahead_is_not_believed(void **state)
{
    static const int64_t delays_ms[] = {2 * S};
    struct retry retry = ladder(delays_ms, 1);
    int64_t now_us = INT64_C(1800000000000000), furthest_us = now_us + (2 * 2 * S + RETRY_SKEW_MS) * 1000;
    (void)state;
    assert_true(retry_believes(&retry, 0, 0, now_us));
    assert_true(retry_believes(&retry, 0, now_us + 2 * S * 1000, now_us));
    assert_true(retry_believes(&retry, 0, furthest_us, now_us));
    assert_false(retry_believes(&retry, 0, furthest_us + 1, now_us));
    assert_false(retry_believes(&retry, 0, RECORD_TIMESTAMP_MS_MAX * 1000, now_us));
}

/* ---- the waiting room */

struct place {
    struct scratch scratch;
    struct store *store;
    struct work *work;
    struct waiting_room room;
    int64_t records_max;
    struct error error;
};

#define TOPIC TEXT("orders")
#define KEY   TEXT("one")
#define OTHER TEXT("two")

static void begin(struct place *place)
{
    assert_int_equal(work_begin(place->work, &place->error), OK);
}

static void commit(struct place *place)
{
    assert_int_equal(work_commit(place->work, &place->error), OK);
    waiting_committed(&place->room);
}

static void rollback(struct place *place)
{
    work_rollback(place->work);
    waiting_rolled_back(&place->room);
}

static void read_all(struct place *place)
{
    waiting_want(&place->room, place->work, TOPIC, KEY);
    waiting_want(&place->room, place->work, TOPIC, OTHER);
    assert_int_equal(work_read(place->work, &place->error), OK);
    work_item_begin(place->work);
    waiting_item_begin(&place->room);
}

static void start(struct place *place)
{
    const struct rows_table *const tables[] = {&held_table, &waiting_table};
    assert_int_equal(store_open(place->scratch.url, "test", &place->store, &place->error), OK);
    assert_int_equal(store_migrate(place->store, tables, 2, NULL, 0, &place->error), OK);
    assert_int_equal(work_new(place->store, 1 << 20, &place->work, &place->error), OK);
    begin(place);
    assert_int_equal(work_read(place->work, &place->error), OK);
    waiting_load(&place->room, place->work, place->records_max);
    commit(place);
}

static void end(struct place *place)
{
    work_destroy(place->work);
    store_close(place->store);
}

static int setup(void **state)
{
    struct place *place = calloc(1, sizeof(*place));
    place->records_max = 5;
    scratch_make(&place->scratch);
    start(place);
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;
    end(place);
    scratch_remove(&place->scratch);
    free(place);
    return 0;
}

static struct held_key *held(struct place *place, struct text key)
{
    return waiting_held(&place->room, place->work, TOPIC, key);
}

static void hold(struct place *place, struct text key, enum held_state state)
{
    waiting_hold(&place->room, place->work, held(place, key), TOPIC, key, id_from_text(TEXT("head")), state,
                 1, 99, TEXT("why"), 5);
}

static bool add(struct place *place, struct text key, int64_t offset)
{
    const struct header headers[] = {{TEXT("name"), TEXT("value")}};
    const struct waiting_record record = {
        .topic = TOPIC, .key = key, .partition = 3, .offset = offset, .value = TEXT("\0v"), .since_us = 7};
    return waiting_add(&place->room, place->work, held(place, key), &record, headers, 1);
}

/* A key with so many behind its head, committed. */
static void fill(struct place *place, struct text key, int64_t count)
{
    begin(place);
    read_all(place);
    hold(place, key, HELD_RETRYING);
    for (int64_t i = 0; i < count; i++)
        assert_true(add(place, key, i));
    commit(place);
}

static void release(struct place *place, struct text key)
{
    begin(place);
    read_all(place);
    waiting_release(&place->room, place->work, held(place, key));
    commit(place);
}

/* Takes the next ones of a key in a work of its own: their offsets, as digits. */
static const char *take(struct place *place, struct text key, size_t limit)
{
    static char seen[32];
    struct waiting_record **rows;
    size_t length = 0;
    begin(place);
    size_t count = waiting_next(place->work, TOPIC, key, limit, &rows);
    read_all(place);
    for (size_t i = 0; i < count; i++) {
        seen[length++] = (char)('0' + rows[i]->offset);
        waiting_taken(&place->room, place->work, held(place, key), rows[i]);
    }
    seen[length] = '\0';
    commit(place);
    return seen;
}

static void no_key_is_held_at_first(void **state)
{
    struct place *place = *state;
    begin(place);
    read_all(place);
    assert_null(held(place, KEY));
    commit(place);
    assert_int_equal(place->room.keys + place->room.records + place->room.draining, 0);
}

static void a_held_key_says_what_holds_it(void **state)
{
    struct place *place = *state;
    fill(place, KEY, 0);
    begin(place);
    read_all(place);
    const struct held_key *row = held(place, KEY);
    assert_non_null(row);
    assert_int_equal(row->state, HELD_RETRYING);
    assert_int_equal(row->attempts, 1);
    assert_int_equal(row->due_us, 99);
    assert_int_equal(row->since_us, 5);
    assert_true(text_is(row->reason, "why"));
    assert_null(held(place, OTHER));
    commit(place);
    assert_int_equal(place->room.keys, 1);
}

static void a_key_that_is_held_in_this_very_work_is_found(void **state)
{
    struct place *place = *state;
    begin(place);
    read_all(place);
    hold(place, KEY, HELD_RETRYING);
    assert_non_null(held(place, KEY));
    assert_true(add(place, KEY, 0));
    commit(place);
    assert_int_equal(place->room.records, 1);
}

static void a_head_that_fails_again_stays_since_when_it_was(void **state)
{
    struct place *place = *state;
    fill(place, KEY, 2);
    begin(place);
    read_all(place);
    waiting_hold(&place->room, place->work, held(place, KEY), TOPIC, KEY, id_from_text(TEXT("head")),
                 HELD_DEAD, 4, 0, TEXT("at last"), 1000);
    commit(place);
    begin(place);
    read_all(place);
    const struct held_key *row = held(place, KEY);
    assert_int_equal(row->state, HELD_DEAD);
    assert_int_equal(row->attempts, 4);
    assert_int_equal(row->since_us, 5);
    assert_int_equal(row->waiting, 2);
    assert_true(text_is(row->reason, "at last"));
    commit(place);
    assert_int_equal(place->room.keys, 1);
}

static int64_t oldest(struct place *place)
{
    begin(place);
    assert_int_equal(work_read(place->work, &place->error), OK);
    int64_t oldest_us = waiting_oldest_us(place->work);
    commit(place);
    return oldest_us;
}

static void the_oldest_key_is_the_one_held_longest_whatever_its_state(void **state)
{
    struct place *place = *state;
    assert_int_equal(oldest(place), 0);
    begin(place);
    read_all(place);
    waiting_hold(&place->room, place->work, NULL, TOPIC, OTHER, id_from_text(TEXT("head")), HELD_DEAD, 1, 0,
                 TEXT("why"), 3);
    commit(place);
    assert_int_equal(oldest(place), 3);
    fill(place, KEY, 1); /* since 5 */
    assert_int_equal(oldest(place), 3);
    release(place, OTHER);
    assert_int_equal(oldest(place), 5);
    release(place, KEY); /* draining is still waiting */
    assert_int_equal(oldest(place), 5);
    assert_string_equal(take(place, KEY, 1), "0");
    assert_int_equal(oldest(place), 0);
}

static void what_waits_comes_out_as_it_came_and_in_order(void **state)
{
    struct place *place = *state;
    struct waiting_record **rows;
    fill(place, KEY, 4);
    begin(place);
    assert_int_equal(waiting_next(place->work, TOPIC, KEY, 10, &rows), 4);
    assert_int_equal(rows[0]->partition, 3);
    assert_int_equal(rows[0]->since_us, 7);
    assert_int_equal(rows[0]->value.length, 2);
    assert_memory_equal(rows[0]->value.at, "\0v", 2);
    for (size_t i = 1; i < 4; i++)
        assert_true(rows[i - 1]->seq < rows[i]->seq);
    read_all(place);
    commit(place);
    release(place, KEY);
    assert_string_equal(take(place, KEY, 3), "012");
    assert_string_equal(take(place, KEY, 3), "3");
    assert_int_equal(place->room.keys + place->room.records + place->room.draining, 0);
}

static void past_the_bound_nothing_is_added_and_nothing_changes(void **state)
{
    struct place *place = *state;
    fill(place, KEY, 5);
    begin(place);
    read_all(place);
    hold(place, OTHER, HELD_RETRYING);
    assert_false(add(place, KEY, 6));
    assert_false(add(place, OTHER, 6)); /* the bound is the room's, not the key's */
    assert_int_equal(held(place, KEY)->waiting, 5);
    assert_int_equal(held(place, OTHER)->waiting, 0);
    commit(place);
    assert_int_equal(place->room.records, 5);
    release(place, KEY);
    assert_string_equal(take(place, KEY, 1), "0");
    begin(place);
    read_all(place);
    assert_true(add(place, OTHER, 6)); /* room again */
    assert_false(add(place, OTHER, 7));
    commit(place);
}

static void the_bound_counts_what_this_very_work_has_added(void **state)
{
    struct place *place = *state;
    begin(place);
    read_all(place);
    hold(place, KEY, HELD_RETRYING);
    for (int64_t i = 0; i < 5; i++)
        assert_true(add(place, KEY, i));
    assert_false(add(place, KEY, 5));
    rollback(place);
    assert_int_equal(place->room.records, 0);
    begin(place);
    read_all(place);
    assert_null(held(place, KEY)); /* nothing of it stands */
    commit(place);
}

static void a_key_with_nothing_behind_it_is_let_go_at_once(void **state)
{
    struct place *place = *state;
    fill(place, KEY, 0);
    release(place, KEY);
    assert_int_equal(place->room.keys, 0);
    assert_int_equal(place->room.draining, 0);
    begin(place);
    read_all(place);
    assert_null(held(place, KEY));
    commit(place);
}

static void a_key_with_some_behind_it_drains_and_is_let_go_with_the_last(void **state)
{
    struct place *place = *state;
    struct held_key **keys;
    fill(place, KEY, 2);
    fill(place, OTHER, 1);
    release(place, KEY);
    assert_int_equal(place->room.draining, 1);
    begin(place);
    assert_int_equal(waiting_draining(place->work, 10, &keys), 1);
    assert_true(text_equal(keys[0]->key, KEY));
    read_all(place);
    commit(place);
    assert_string_equal(take(place, KEY, 1), "0");
    assert_int_equal(place->room.keys, 2);
    assert_string_equal(take(place, KEY, 1), "1");
    assert_int_equal(place->room.keys, 1);
    assert_int_equal(place->room.draining, 0);
}

static void what_comes_while_a_key_drains_waits_behind_the_rest(void **state)
{
    struct place *place = *state;
    fill(place, KEY, 2);
    release(place, KEY);
    begin(place);
    read_all(place);
    assert_true(add(place, KEY, 8));
    commit(place);
    assert_string_equal(take(place, KEY, 10), "018");
}

static void a_waiter_that_fails_is_the_head_and_the_rest_waits_for_it(void **state)
{
    struct place *place = *state;
    struct waiting_record **rows;
    fill(place, KEY, 2);
    release(place, KEY);
    begin(place);
    assert_int_equal(waiting_next(place->work, TOPIC, KEY, 1, &rows), 1);
    read_all(place);
    waiting_taken(&place->room, place->work, held(place, KEY), rows[0]);
    hold(place, KEY, HELD_RETRYING);
    commit(place);
    assert_int_equal(place->room.draining, 0);
    assert_int_equal(place->room.records, 1);
    release(place, KEY);
    assert_string_equal(take(place, KEY, 10), "1");
    assert_int_equal(place->room.keys, 0);
}

static void the_last_waiter_that_fails_holds_its_key_anew(void **state)
{
    struct place *place = *state;
    struct waiting_record **rows;
    fill(place, KEY, 1);
    release(place, KEY);
    begin(place);
    assert_int_equal(waiting_next(place->work, TOPIC, KEY, 1, &rows), 1);
    read_all(place);
    waiting_taken(&place->room, place->work, held(place, KEY), rows[0]);
    assert_null(held(place, KEY)); /* let go, in this work */
    hold(place, KEY, HELD_RETRYING);
    assert_non_null(held(place, KEY));
    commit(place);
    assert_int_equal(place->room.keys, 1);
    begin(place);
    read_all(place);
    assert_int_equal(held(place, KEY)->state, HELD_RETRYING);
    assert_int_equal(held(place, KEY)->waiting, 0);
    commit(place);
}

static void an_item_that_is_undone_leaves_the_room_as_it_was(void **state)
{
    struct place *place = *state;
    begin(place);
    read_all(place);
    hold(place, KEY, HELD_RETRYING);
    assert_true(add(place, KEY, 0));
    work_item_begin(place->work); /* the next item */
    waiting_item_begin(&place->room);
    assert_true(add(place, KEY, 1));
    hold(place, OTHER, HELD_DEAD);
    work_item_undo(place->work);
    waiting_item_undo(&place->room);
    assert_null(held(place, OTHER));
    assert_int_equal(held(place, KEY)->waiting, 1);
    assert_true(add(place, KEY, 2));
    commit(place);
    assert_int_equal(place->room.keys, 1);
    assert_int_equal(place->room.records, 2);
    release(place, KEY);
    assert_string_equal(take(place, KEY, 10), "02");
}

static void a_restart_finds_what_was_committed(void **state)
{
    struct place *place = *state;
    fill(place, KEY, 3);
    fill(place, OTHER, 1);
    release(place, KEY);
    begin(place);
    read_all(place);
    assert_true(add(place, KEY, 9));
    rollback(place);
    end(place);
    start(place);
    assert_int_equal(place->room.keys, 2);
    assert_int_equal(place->room.records, 4);
    assert_int_equal(place->room.draining, 1);
    assert_string_equal(take(place, KEY, 10), "012");
    assert_int_equal(place->room.keys, 1);
}

static void the_same_key_of_another_topic_is_another_key(void **state)
{
    struct place *place = *state;
    fill(place, KEY, 1);
    begin(place);
    waiting_want(&place->room, place->work, TEXT("payments"), KEY);
    read_all(place);
    assert_null(waiting_held(&place->room, place->work, TEXT("payments"), KEY));
    commit(place);
}

#define IN_A_ROOM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_attempt_has_its_delay_and_past_the_last_there_is_none),
        cmocka_unit_test(a_topic_is_named_by_its_delay),
        cmocka_unit_test(topics_of_earlier_delays_are_found_and_are_no_step_of_the_ladder),
        cmocka_unit_test(the_same_delay_twice_is_one_topic_and_two_attempts),
        cmocka_unit_test(more_delays_than_fit_are_cut),
        cmocka_unit_test(a_record_is_due_when_it_says_but_never_later_than_its_delay_after_it_was_written),
        cmocka_unit_test(a_time_far_ahead_is_not_believed),
        IN_A_ROOM(no_key_is_held_at_first),
        IN_A_ROOM(a_held_key_says_what_holds_it),
        IN_A_ROOM(a_key_that_is_held_in_this_very_work_is_found),
        IN_A_ROOM(a_head_that_fails_again_stays_since_when_it_was),
        IN_A_ROOM(the_oldest_key_is_the_one_held_longest_whatever_its_state),
        IN_A_ROOM(what_waits_comes_out_as_it_came_and_in_order),
        IN_A_ROOM(past_the_bound_nothing_is_added_and_nothing_changes),
        IN_A_ROOM(the_bound_counts_what_this_very_work_has_added),
        IN_A_ROOM(a_key_with_nothing_behind_it_is_let_go_at_once),
        IN_A_ROOM(a_key_with_some_behind_it_drains_and_is_let_go_with_the_last),
        IN_A_ROOM(what_comes_while_a_key_drains_waits_behind_the_rest),
        IN_A_ROOM(a_waiter_that_fails_is_the_head_and_the_rest_waits_for_it),
        IN_A_ROOM(the_last_waiter_that_fails_holds_its_key_anew),
        IN_A_ROOM(an_item_that_is_undone_leaves_the_room_as_it_was),
        IN_A_ROOM(a_restart_finds_what_was_committed),
        IN_A_ROOM(the_same_key_of_another_topic_is_another_key),
    };
    scratch_choose(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "store/outbox.h"
#include "support/scratch.h"

#include <stdlib.h>

struct fixture {
    struct scratch scratch;
    struct store *store;
    struct work *work;
    struct error error;
};

static void open_all(struct fixture *fixture)
{
    assert_int_equal(store_open(fixture->scratch.url, "outbox", &fixture->store, &fixture->error), OK);
    assert_int_equal(work_new(fixture->store, 4 << 20, &fixture->work, &fixture->error), OK);
}

static void close_all(struct fixture *fixture)
{
    work_destroy(fixture->work);
    store_close(fixture->store);
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    scratch_make(&fixture->scratch);
    open_all(fixture);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    close_all(fixture);
    scratch_remove(&fixture->scratch);
    free(fixture);
    clock_release();
    return 0;
}

static void begin(struct fixture *fixture)
{
    assert_int_equal(work_begin(fixture->work, &fixture->error), OK);
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
}

static void commit(struct fixture *fixture)
{
    assert_int_equal(work_commit(fixture->work, &fixture->error), OK);
}

static void add(struct fixture *fixture, const char *key)
{
    outbox_add(fixture->work,
               &(struct outbox_row){.topic = TEXT("orders"), .partition = -1, .key = text_of(key)});
}

/* Commits count rows; the number of the first. */
static int64_t add_and_commit(struct fixture *fixture, size_t count)
{
    begin(fixture);
    for (size_t i = 0; i < count; i++)
        add(fixture, "k");
    commit(fixture);
    const struct outbox_row *rows;
    assert_int_equal(outbox_added(fixture->work, &rows), count);
    return rows[0].seq;
}

static void a_row_comes_back_byte_for_byte(void **state)
{
    struct fixture *fixture = *state;
    char long_value[300];
    memset(long_value, 'v', sizeof(long_value));
    const struct header headers[] = {
        {TEXT("ce_id"), TEXT("1")}, {TEXT("null"), {NULL, 0}},         {TEXT("empty"), TEXT("")},
        {TEXT(""), {"\0\xff", 2}},  {TEXT("long"), {long_value, 300}}, {TEXT("ce_id"), TEXT("again")},
    };
    struct outbox_row rows[] = {
        {.topic = TEXT("orders"),
         .partition = 5,
         .key = TEXT("k"),
         .value = {"\0\x01", 2},
         .headers = headers,
         .header_count = 6,
         .created_us = 77},
        {.topic = TEXT("dlq.email"), .partition = -1, .key_null = true, .value_null = true, .created_us = 78},
        {.topic = TEXT("t"), .partition = 0},
    };
    begin(fixture);
    for (size_t i = 0; i < 3; i++)
        outbox_add(fixture->work, &rows[i]);
    commit(fixture);
    close_all(fixture);
    open_all(fixture);
    assert_int_equal(outbox_rows(fixture->store), 3);
    assert_int_equal(outbox_oldest_us(fixture->store), 77);
    begin(fixture);
    const struct outbox_row *got;
    assert_int_equal(outbox_read(fixture->work, 0, 10, &got), 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true(text_equal(got[i].topic, rows[i].topic));
        assert_int_equal(got[i].partition, rows[i].partition);
        assert_true(text_equal(got[i].key, rows[i].key));
        assert_true(text_equal(got[i].value, rows[i].value));
        assert_int_equal(got[i].key_null, rows[i].key_null);
        assert_int_equal(got[i].value_null, rows[i].value_null);
        assert_int_equal(got[i].header_count, rows[i].header_count);
        assert_true(i == 0 || got[i].seq > got[i - 1].seq);
    }
    for (size_t i = 0; i < 6; i++) {
        assert_true(text_equal(got[0].headers[i].name, headers[i].name));
        assert_true(text_equal(got[0].headers[i].value, headers[i].value));
        assert_int_equal(got[0].headers[i].value.at == NULL, headers[i].value.at == NULL);
    }
    work_rollback(fixture->work);
}

static void numbers_go_up_over_rollback_emptying_and_restart(void **state)
{
    struct fixture *fixture = *state;
    int64_t last = 0;
    for (int round = 0; round < 5; round++) {
        int64_t first = add_and_commit(fixture, 3);
        assert_true(first > last);
        last = first + 2;
        begin(fixture);
        add(fixture, "lost");
        work_rollback(fixture->work);
        begin(fixture);
        outbox_done(fixture->work, (int64_t[]){first, first + 1, first + 2}, 3);
        commit(fixture);
        assert_int_equal(outbox_rows(fixture->store), 0);
        assert_int_equal(outbox_oldest_us(fixture->store), 0);
        if (round % 2) {
            close_all(fixture);
            open_all(fixture);
        }
    }
}

static void what_was_acknowledged_is_gone_in_any_order_and_the_rest_stays(void **state)
{
    struct fixture *fixture = *state;
    clock_hold(1000);
    int64_t first = add_and_commit(fixture, 10);
    clock_hold(2000);
    add_and_commit(fixture, 1);
    assert_int_equal(outbox_rows(fixture->store), 11);
    assert_int_equal(outbox_oldest_us(fixture->store), 1000);
    begin(fixture);
    int64_t done[] = {first + 9, first, first + 2, first + 1, first + 7, first + 7, first + 1000};
    outbox_done(fixture->work, done, 7);
    add(fixture, "new");
    commit(fixture);
    assert_int_equal(outbox_rows(fixture->store), 11 - 5 + 1);
    begin(fixture);
    const struct outbox_row *rows;
    assert_int_equal(outbox_read(fixture->work, 0, 100, &rows), 7);
    const int64_t left[] = {3, 4, 5, 6, 8, 10, 11};
    for (size_t i = 0; i < 7; i++)
        assert_int_equal(rows[i].seq, first + left[i]);
    assert_int_equal(outbox_read(fixture->work, first + 5, 2, &rows), 2);
    assert_int_equal(rows[0].seq, first + 6);
    outbox_done(fixture->work, (int64_t[]){first + 3, first + 4, first + 5, first + 6, first + 8}, 5);
    commit(fixture);
    assert_int_equal(outbox_oldest_us(fixture->store), 2000);
}

static void undo_takes_away_what_the_item_added(void **state)
{
    struct fixture *fixture = *state;
    int64_t first = add_and_commit(fixture, 1);
    begin(fixture);
    work_item_begin(fixture->work);
    add(fixture, "stays");
    work_item_begin(fixture->work);
    add(fixture, "goes");
    outbox_done(fixture->work, &first, 1);
    work_item_undo(fixture->work);
    add(fixture, "moved");
    commit(fixture);
    const struct outbox_row *rows;
    assert_int_equal(outbox_added(fixture->work, &rows), 2);
    assert_true(text_is(rows[0].key, "stays"));
    assert_true(text_is(rows[1].key, "moved"));
    assert_int_equal(rows[1].seq, rows[0].seq + 1);
    assert_int_equal(outbox_rows(fixture->store), 3);
}

static void a_refused_row_is_set_aside_and_not_read_again(void **state)
{
    struct fixture *fixture = *state;
    int64_t first = add_and_commit(fixture, 2);
    begin(fixture);
    outbox_refused(fixture->work, first, TEXT("too large"));
    commit(fixture);
    assert_int_equal(outbox_rows(fixture->store), 1);
    close_all(fixture);
    open_all(fixture);
    assert_int_equal(outbox_rows(fixture->store), 1);
    begin(fixture);
    const struct outbox_row *rows;
    assert_int_equal(outbox_read(fixture->work, 0, 10, &rows), 1);
    assert_int_equal(rows[0].seq, first + 1);
    work_rollback(fixture->work);
}

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_row_comes_back_byte_for_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(numbers_go_up_over_rollback_emptying_and_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_acknowledged_is_gone_in_any_order_and_the_rest_stays, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(undo_takes_away_what_the_item_added, setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_row_is_set_aside_and_not_read_again, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

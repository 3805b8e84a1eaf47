#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "store/outbox.h"
#include "support/cluster.h"
#include "support/scratch.h"

#include <sqlite3.h>
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

static bool keep_number(void *owner, const struct store_row *row)
{
    *(int64_t *)owner = store_row_int(row, 0);
    return false;
}

/* Statements beside the store, which must be closed for SQLite. */
static void beside(struct fixture *fixture, const char *sqlite, const char *postgres)
{
    if (scratch_cluster()) {
        cluster_do(fixture->scratch.url, postgres);
        return;
    }
    sqlite3 *db;
    assert_int_equal(sqlite3_open(fixture->scratch.url + strlen("sqlite:"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sqlite, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void break_packs(struct fixture *fixture)
{
    beside(fixture, "UPDATE outbox_pack SET body = x'0100'",
           "UPDATE weir_outbox.outbox_pack SET body = '\\x0100'");
}

static void make_old_table(struct fixture *fixture)
{
    beside(
        fixture,
        "CREATE TABLE outbox (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,"
        " key BLOB, value BLOB, headers BLOB NOT NULL, created_us INTEGER NOT NULL);"
        "INSERT INTO outbox VALUES (5, 'orders', 3, 'k', NULL, x'0161036263', 70),"
        " (7, 'orders', -1, NULL, x'', x'', 71);",
        "CREATE TABLE weir_outbox.outbox (seq BIGINT PRIMARY KEY DEFAULT nextval('weir_outbox.outbox_seq'),"
        " topic TEXT COLLATE \"C\" NOT NULL, partition BIGINT NOT NULL, key BYTEA, value BYTEA,"
        " headers BYTEA NOT NULL, created_us BIGINT NOT NULL, part BIGINT NOT NULL DEFAULT 0,"
        " elsewhere BOOLEAN NOT NULL DEFAULT false);"
        "INSERT INTO weir_outbox.outbox VALUES (5, 'orders', 3, 'k', NULL, '\\x0161036263', 70, 0, true),"
        " (7, 'orders', -1, NULL, '', '', 71, 0, false)");
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
    assert_int_equal(outbox_read(fixture->work, 0, 10, &got, &(bool){false}), 3);
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
    assert_int_equal(outbox_rows(fixture->store), 11 + 1); /* in packs that are not done */
    begin(fixture);
    const struct outbox_row *rows;
    assert_int_equal(outbox_read(fixture->work, 0, 100, &rows, &(bool){false}), 7);
    const int64_t left[] = {3, 4, 5, 6, 8};
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(rows[i].seq, first + left[i]);
    assert_true(rows[5].seq > first + 9 && rows[6].seq > rows[5].seq);
    assert_int_equal(outbox_read(fixture->work, first + 5, 2, &rows, &(bool){false}), 2);
    assert_int_equal(rows[0].seq, first + 6);
    outbox_done(fixture->work, (int64_t[]){first + 3, first + 4, first + 5, first + 6, first + 8}, 5);
    assert_int_equal(outbox_read(fixture->work, 0, 100, &rows, &(bool){false}), 2);
    assert_int_equal(outbox_oldest_us(fixture->store), 1000);
    commit(fixture);
    assert_int_equal(outbox_rows(fixture->store), 2);
    assert_int_equal(outbox_oldest_us(fixture->store), 2000);
}

static int64_t number(struct fixture *fixture, const char *sql)
{
    struct store_reader *reader = NULL;
    int64_t ret = -1;
    assert_int_equal(store_reader_open(fixture->scratch.url, "outbox", &reader, &fixture->error), OK);
    assert_int_equal(store_read(reader, sql, NULL, 0, keep_number, &ret, &fixture->error), OK);
    store_reader_close(reader);
    return ret;
}

static int64_t packs(struct fixture *fixture)
{
    return number(fixture, "SELECT count(*) FROM outbox_pack");
}

static void done(struct fixture *fixture, int64_t seq)
{
    begin(fixture);
    outbox_done(fixture->work, &seq, 1);
    commit(fixture);
}

static void a_pack_is_deleted_with_the_last_of_its_events(void **state)
{
    struct fixture *fixture = *state;
    int64_t first = add_and_commit(fixture, 3);
    assert_int_equal(packs(fixture), 1);
    done(fixture, first + 1);
    done(fixture, first + 1);
    done(fixture, first);
    assert_int_equal(packs(fixture), 1);
    begin(fixture);
    outbox_done(fixture->work, (int64_t[]){first + 2}, 1);
    work_rollback(fixture->work); /* is as if it had not been said */
    const struct outbox_row *rows;
    begin(fixture);
    assert_int_equal(outbox_read(fixture->work, 0, 10, &rows, &(bool){false}), 1);
    assert_int_equal(rows[0].seq, first + 2);
    work_rollback(fixture->work);
    done(fixture, first + 2);
    assert_int_equal(packs(fixture), 0);
    assert_int_equal(outbox_rows(fixture->store), 0);
    done(fixture, first + 2); /* again, after a new producer */
    int64_t next = add_and_commit(fixture, 1);
    assert_true(next > first + 2);
    done(fixture, next);
    assert_int_equal(packs(fixture), 0);
}

static void what_was_acknowledged_of_a_pack_is_read_again_after_a_restart(void **state)
{
    struct fixture *fixture = *state;
    int64_t first = add_and_commit(fixture, 3);
    done(fixture, first + 1);
    close_all(fixture);
    open_all(fixture);
    const struct outbox_row *rows;
    bool more;
    begin(fixture);
    assert_int_equal(outbox_read(fixture->work, 0, 10, &rows, &more), 3);
    assert_false(more);
    assert_int_equal(outbox_read(fixture->work, first, 10, &rows, &more), 2);
    assert_int_equal(rows[0].seq, first + 1);
    assert_int_equal(outbox_read(fixture->work, first + 2, 10, &rows, &more), 0);
    assert_int_equal(outbox_read(fixture->work, 0, 2, &rows, &more), 2);
    assert_true(more);
    outbox_done(fixture->work, (int64_t[]){first, first + 1, first + 2}, 3);
    commit(fixture);
    assert_int_equal(packs(fixture), 0);
}

static void many_rows_are_read_in_steps_each_once(void **state)
{
    enum { BATCHES = 140, ROWS = 9 }; /* more packs than one reading takes */
    struct fixture *fixture = *state;
    char value[1500] = "";
    for (int batch = 0; batch < BATCHES; batch++) {
        begin(fixture);
        for (int i = 0; i < ROWS; i++)
            outbox_add(fixture->work, &(struct outbox_row){.topic = TEXT("orders"),
                                                           .partition = i,
                                                           .key = TEXT("k"),
                                                           .value = {value, batch % 3 ? sizeof(value) : 1}});
        commit(fixture);
    }
    assert_in_range(packs(fixture), 129, BATCHES * ROWS);
    assert_int_equal(outbox_rows(fixture->store), BATCHES * ROWS);
    int64_t last = 0;
    bool more = true;
    int read = 0;
    begin(fixture);
    while (more) {
        const struct outbox_row *rows;
        size_t count = outbox_read(fixture->work, last, 100, &rows, &more);
        assert_in_range(count, more ? 1 : 0, 100);
        for (size_t i = 0; i < count; i++, read++) {
            assert_int_equal(rows[i].partition, read % ROWS);
            assert_true(rows[i].seq > last);
            last = rows[i].seq;
        }
        outbox_done(fixture->work, &(int64_t){count ? rows[0].seq : 0}, 1);
    }
    assert_int_equal(read, BATCHES * ROWS);
    commit(fixture);
}

static void one_event_larger_than_a_page_is_a_pack_of_its_own(void **state)
{
    struct fixture *fixture = *state;
    static char value[600000];
    for (size_t i = 0; i < sizeof(value); i++)
        value[i] = (char)(i * i >> 3);
    begin(fixture);
    add(fixture, "k");
    outbox_add(fixture->work, &(struct outbox_row){
                                  .topic = TEXT("orders"), .partition = -1, .value = {value, sizeof(value)}});
    add(fixture, "k");
    commit(fixture);
    assert_int_equal(packs(fixture), 3);
    const struct outbox_row *rows;
    begin(fixture);
    assert_int_equal(outbox_read(fixture->work, 0, 10, &rows, &(bool){false}), 3);
    assert_true(text_equal(rows[1].value, (struct text){value, sizeof(value)}));
    work_rollback(fixture->work);
}

static void a_damaged_pack_stops_the_service(void **state)
{
    struct fixture *fixture = *state;
    add_and_commit(fixture, 2);
    break_packs(fixture);
    const struct outbox_row *rows;
    begin(fixture);
    assert_int_equal(outbox_read(fixture->work, 0, 10, &rows, &(bool){false}), 0);
    assert_int_equal(work_failed(fixture->work, &fixture->error), FATAL);
    assert_string_equal(fixture->error.cause, "store-damaged");
    work_rollback(fixture->work);
}

/* Rows that a version before packs has left. */
static void rows_of_an_earlier_version_are_read_on(void **state)
{
    struct fixture *fixture = *state;
    int64_t first = add_and_commit(fixture, 1);
    begin(fixture);
    outbox_done(fixture->work, &first, 1);
    commit(fixture);
    close_all(fixture);
    make_old_table(fixture);
    open_all(fixture);
    assert_int_equal(outbox_rows(fixture->store), 2);
    assert_int_equal(outbox_oldest_us(fixture->store), 70);
    const struct outbox_row *rows;
    begin(fixture);
    assert_int_equal(outbox_read(fixture->work, 0, 10, &rows, &(bool){false}), 2);
    assert_true(text_is(rows[0].topic, "orders") && text_is(rows[0].key, "k") && rows[0].value_null);
    assert_int_equal(rows[0].partition, 3);
    assert_int_equal(rows[0].created_us, 70);
    assert_int_equal(rows[0].header_count, 1);
    assert_true(text_is(rows[0].headers[0].name, "a") && text_is(rows[0].headers[0].value, "bc"));
    assert_true(text_is(rows[1].value, "") && rows[1].key_null && !rows[1].value_null);
    assert_true(rows[1].seq > rows[0].seq);
    outbox_done(fixture->work, (int64_t[]){rows[0].seq, rows[1].seq}, 2);
    commit(fixture);
    assert_int_equal(packs(fixture), 0);
    close_all(fixture);
    open_all(fixture); /* the old table has gone */
    assert_int_equal(outbox_rows(fixture->store), 0);
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
    int64_t first = add_and_commit(fixture, 3);
    begin(fixture);
    outbox_refused(fixture->work, first + 1, TEXT("too large"));
    commit(fixture);
    begin(fixture);
    const struct outbox_row *rows;
    assert_int_equal(outbox_read(fixture->work, 0, 10, &rows, &(bool){false}), 2);
    assert_int_equal(rows[0].seq, first);
    assert_int_equal(rows[1].seq, first + 2);
    work_rollback(fixture->work);
    close_all(fixture);
    open_all(fixture);
    begin(fixture); /* was forgotten, and is refused again */
    assert_int_equal(outbox_read(fixture->work, 0, 10, &rows, &(bool){false}), 3);
    outbox_refused(fixture->work, first + 1, TEXT("too large"));
    commit(fixture);
    assert_int_equal(number(fixture,
                            "SELECT count(*) FROM outbox_refused WHERE topic = 'orders' AND partition "
                            "= -1 AND reason = 'too large' AND value IS NOT NULL"),
                     1);
    begin(fixture);
    outbox_done(fixture->work, (int64_t[]){first, first + 2}, 2);
    commit(fixture);
    assert_int_equal(packs(fixture), 0);
    begin(fixture);
    outbox_refused(fixture->work, first + 1, TEXT("too large")); /* its pack has gone */
    commit(fixture);
    assert_int_equal(number(fixture, "SELECT count(*) FROM outbox_refused"), 1);
}

/* More than the unit of work has room for, in as many packs as one reading has rows at most. */
static void large_events_are_read_in_steps(void **state)
{
    enum { EVENT_BYTES = 1 << 20, EVENTS = OUTBOX_READ_PACKS_MAX, BATCH = 16, ARENA_BYTES = 64 << 20 };
    struct fixture *fixture = *state;
    char *value = calloc(1, EVENT_BYTES);
    work_destroy(fixture->work);
    assert_int_equal(work_new(fixture->store, ARENA_BYTES, &fixture->work, &fixture->error), OK);
    for (int i = 0; i < EVENTS; i += BATCH) {
        begin(fixture);
        for (int j = 0; j < BATCH; j++)
            outbox_add(fixture->work, &(struct outbox_row){.topic = TEXT("dlq.outbox"),
                                                           .partition = -1,
                                                           .key = TEXT("k"),
                                                           .value = {value, EVENT_BYTES}});
        commit(fixture);
    }
    free(value);
    int64_t after_seq = 0;
    size_t all = 0, count;
    bool more = true;
    for (; more; all += count) {
        const struct outbox_row *rows;
        begin(fixture);
        count = outbox_read(fixture->work, after_seq, 1000, &rows, &more);
        assert_int_equal(work_failed(fixture->work, &fixture->error), OK);
        assert_true(count > 0 || !more);
        assert_true(count * EVENT_BYTES <= OUTBOX_READ_BYTES_MAX);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(rows[i].value.length, EVENT_BYTES);
        after_seq = count ? rows[count - 1].seq : after_seq;
        commit(fixture);
    }
    assert_int_equal(all, EVENTS);
}

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(large_events_are_read_in_steps, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_comes_back_byte_for_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(numbers_go_up_over_rollback_emptying_and_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_acknowledged_is_gone_in_any_order_and_the_rest_stays, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_pack_is_deleted_with_the_last_of_its_events, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_acknowledged_of_a_pack_is_read_again_after_a_restart, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(many_rows_are_read_in_steps_each_once, setup, teardown),
        cmocka_unit_test_setup_teardown(one_event_larger_than_a_page_is_a_pack_of_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_pack_stops_the_service, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_of_an_earlier_version_are_read_on, setup, teardown),
        cmocka_unit_test_setup_teardown(undo_takes_away_what_the_item_added, setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_row_is_set_aside_and_not_read_again, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/rows.h"
#include "support/scratch.h"

#include <stdio.h>
#include <stdlib.h>

struct ware {
    struct text sku;
    int64_t available;
    struct text note;
    struct id last;
    struct text blob;
};
static const struct rows_column WARE_COLUMNS[] = {
    ROWS_COLUMN(ware, sku, ROWS_TEXT),   ROWS_COLUMN(ware, available, ROWS_INT),
    ROWS_COLUMN(ware, note, ROWS_TEXT),  ROWS_COLUMN(ware, last, ROWS_ID),
    ROWS_COLUMN(ware, blob, ROWS_BYTES),
};
static const struct rows_table WARES = {
    .name = "wares",
    .columns = WARE_COLUMNS,
    .column_count = 5,
    .key_count = 1,
    .row_bytes = sizeof(struct ware),
    .indexes = {"available, sku"},
    .check = "available >= 0",
};

struct pair {
    int64_t a;
    struct id b;
    int64_t value;
};
static const struct rows_column PAIR_COLUMNS[] = {
    ROWS_COLUMN(pair, a, ROWS_INT),
    ROWS_COLUMN(pair, b, ROWS_ID),
    ROWS_COLUMN(pair, value, ROWS_INT),
};
static const struct rows_table PAIRS = {.name = "pairs",
                                        .columns = PAIR_COLUMNS,
                                        .column_count = 3,
                                        .key_count = 2,
                                        .row_bytes = sizeof(struct pair)};

static const struct rows_table *const TABLES[] = {&WARES, &PAIRS};

struct fixture {
    struct scratch scratch;
    struct store *store;
    struct work *work;
    struct error error;
};

static void open_all(struct fixture *fixture)
{
    struct error *error = &fixture->error;
    assert_int_equal(store_open(fixture->scratch.url, "rows", &fixture->store, error), OK);
    assert_int_equal(store_migrate(fixture->store, TABLES, 2, NULL, 0, error), OK);
    assert_int_equal(work_new(fixture->store, 4 << 20, &fixture->work, error), OK);
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
    return 0;
}

static void begin(struct fixture *fixture)
{
    assert_int_equal(work_begin(fixture->work, &fixture->error), OK);
}

static void begin_read(struct fixture *fixture)
{
    begin(fixture);
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
}

static void commit(struct fixture *fixture)
{
    assert_int_equal(work_commit(fixture->work, &fixture->error), OK);
}

static struct ware *ware(struct fixture *fixture, const char *sku)
{
    return rows_get(fixture->work, &WARES, &(struct ware){.sku = text_of(sku)});
}

static struct ware *add_ware(struct fixture *fixture, const char *sku, int64_t available)
{
    struct ware row = {.sku = text_of(sku), .available = available};
    return rows_add(fixture->work, &WARES, &row);
}

static void every_type_comes_back_as_it_went(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    struct id id = id_new();
    struct ware row = {.sku = TEXT("s"),
                       .available = INT64_MAX,
                       .note = TEXT("Gr\xc3\xb6\xc3\x9f"
                                    "e"),
                       .last = id,
                       .blob = {"\0\xff\0", 3}};
    rows_add(fixture->work, &WARES, &row);
    rows_add(fixture->work, &WARES, &(struct ware){.sku = TEXT("")});
    rows_add(fixture->work, &PAIRS, &(struct pair){INT64_MIN, id, -1});
    commit(fixture);
    begin_read(fixture);
    struct ware *got = ware(fixture, "s");
    assert_non_null(got);
    assert_int_equal(got->available, INT64_MAX);
    assert_true(text_equal(got->note, row.note));
    assert_true(id_equal(got->last, id));
    assert_true(text_equal(got->blob, row.blob));
    got = ware(fixture, "");
    assert_non_null(got);
    assert_int_equal(got->note.length, 0);
    struct pair *pair = rows_get(fixture->work, &PAIRS, &(struct pair){.a = INT64_MIN, .b = id});
    assert_non_null(pair);
    assert_int_equal(pair->value, -1);
    assert_null(rows_get(fixture->work, &PAIRS, &(struct pair){.a = INT64_MIN, .b = id_new()}));
    work_rollback(fixture->work);
}

static void a_row_has_one_address_in_a_batch_whether_wanted_got_or_found(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    add_ware(fixture, "a", 1);
    add_ware(fixture, "b", 2);
    commit(fixture);
    begin(fixture);
    rows_want(fixture->work, &WARES, &(struct ware){.sku = TEXT("a")});
    rows_want(fixture->work, &WARES, &(struct ware){.sku = TEXT("a")});
    rows_want(fixture->work, &WARES, &(struct ware){.sku = TEXT("none")});
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
    struct ware *a = ware(fixture, "a");
    assert_non_null(a);
    assert_null(ware(fixture, "none"));
    void **rows;
    assert_int_equal(rows_find(fixture->work, &WARES, "available > $1 ORDER BY available",
                               (struct store_value[]){STORE_INT(0)}, 1, 10, &rows),
                     2);
    assert_ptr_equal(rows[0], a);
    assert_ptr_equal(rows[1], ware(fixture, "b"));
    assert_false(work_changed(fixture->work));
    commit(fixture);
}

static void a_row_asked_for_before_the_read_is_read(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    add_ware(fixture, "a", 7);
    commit(fixture);
    begin(fixture);
    rows_want(fixture->work, &WARES, &(struct ware){.sku = TEXT("a")});
    assert_int_equal(ware(fixture, "a")->available, 7);
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
    assert_int_equal(ware(fixture, "a")->available, 7);
    work_rollback(fixture->work);
}

static void what_is_not_yet_written_is_seen_by_get_and_find(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    for (int i = 0; i < 5; i++) {
        char sku[16];
        snprintf(sku, sizeof(sku), "s%d", i);
        add_ware(fixture, sku, i);
    }
    commit(fixture);
    begin_read(fixture);
    ware(fixture, "s1")->available = 100;
    rows_delete(fixture->work, &WARES, ware(fixture, "s2"));
    assert_non_null(add_ware(fixture, "s9", 3));
    assert_null(ware(fixture, "s2"));
    void **rows;
    size_t count = rows_find(fixture->work, &WARES, "available <= 4 ORDER BY available", NULL, 0, 4, &rows);
    assert_int_equal(count, 4); /* s0, s1 as changed, s3, s4: the one that was deleted takes no place */
    assert_int_equal(((struct ware *)rows[1])->available, 100);
    assert_int_equal(((struct ware *)rows[2])->available, 3);
    assert_true(text_is(((struct ware *)rows[2])->sku, "s3"));
    assert_int_equal(rows_count(fixture->work, &WARES, NULL, NULL, 0), 5);
    commit(fixture);
    begin_read(fixture);
    assert_int_equal(
        rows_count(fixture->work, &WARES, "available >= $1", (struct store_value[]){STORE_INT(3)}, 1), 4);
    assert_int_equal(
        rows_count(fixture->work, &WARES, "sku = $1", (struct store_value[]){STORE_TEXT(TEXT("s2"))}, 1), 0);
    work_rollback(fixture->work);
}

static void conditions_take_ids_and_bytes(void **state)
{
    struct fixture *fixture = *state;
    struct id id = id_new();
    begin_read(fixture);
    rows_add(fixture->work, &PAIRS, &(struct pair){1, id, 5});
    commit(fixture);
    begin_read(fixture);
    void **rows;
    assert_int_equal(rows_find(fixture->work, &PAIRS, "a = $1 AND b = $2",
                               (struct store_value[]){STORE_INT(1), STORE_ID(&id)}, 2, 1, &rows),
                     1);
    work_rollback(fixture->work);
}

static void more_conditions_than_are_kept_still_give_the_right_rows(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    for (int i = 0; i < 100; i++)
        rows_add(fixture->work, &PAIRS, &(struct pair){i, {{0}}, i});
    commit(fixture);
    begin_read(fixture);
    for (int i = 0; i < 200; i++) {
        char condition[32];
        snprintf(condition, sizeof(condition), "a = %d", i % 100);
        void **rows;
        assert_int_equal(rows_find(fixture->work, &PAIRS, condition, NULL, 0, 1, &rows), 1);
        assert_int_equal(((struct pair *)rows[0])->value, i % 100);
    }
    work_rollback(fixture->work);
}

static void delete_and_add_of_one_key_is_one_change(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    add_ware(fixture, "a", 1);
    commit(fixture);
    begin_read(fixture);
    rows_delete(fixture->work, &WARES, ware(fixture, "a"));
    assert_true(work_changed(fixture->work));
    add_ware(fixture, "a", 1);
    assert_false(work_changed(fixture->work));
    rows_delete(fixture->work, &WARES, ware(fixture, "a"));
    add_ware(fixture, "a", 2);
    commit(fixture);
    begin_read(fixture);
    assert_int_equal(ware(fixture, "a")->available, 2);
    work_rollback(fixture->work);
}

static void a_row_added_twice_is_rejected_and_the_work_refuses(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    add_ware(fixture, "a", 1);
    add_ware(fixture, "a", 2)->available = 3; /* goes nowhere */
    assert_int_equal(work_failed(fixture->work, &fixture->error), REJECT);
    assert_string_equal(fixture->error.cause, "row-exists");
    assert_null(ware(fixture, "a"));
    assert_int_equal(work_commit(fixture->work, &fixture->error), REJECT);
    begin_read(fixture);
    assert_null(ware(fixture, "a"));
    work_rollback(fixture->work);
}

static void a_row_that_is_there_but_was_not_looked_for_is_rejected_at_commit(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    add_ware(fixture, "a", 1);
    commit(fixture);
    begin_read(fixture);
    add_ware(fixture, "b", 2);
    add_ware(fixture, "a", 2);
    assert_int_equal(work_commit(fixture->work, &fixture->error), REJECT);
    begin_read(fixture);
    assert_int_equal(ware(fixture, "a")->available, 1);
    assert_null(ware(fixture, "b"));
    work_rollback(fixture->work);
}

static void a_broken_check_is_rejected_and_nothing_is_written(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    add_ware(fixture, "good", 1);
    add_ware(fixture, "bad", -1);
    assert_int_equal(work_commit(fixture->work, &fixture->error), REJECT);
    begin_read(fixture);
    assert_null(ware(fixture, "good"));
    add_ware(fixture, "good", 1);
    commit(fixture);
}

static void a_full_arena_sticks(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    char big[100000];
    memset(big, 'x', sizeof(big));
    for (int i = 0; i < 100; i++) {
        char sku[16];
        snprintf(sku, sizeof(sku), "%d", i);
        struct ware row = {.sku = text_of(sku), .note = {big, sizeof(big)}};
        assert_non_null(rows_add(fixture->work, &WARES, &row));
    }
    assert_int_equal(work_failed(fixture->work, &fixture->error), RETRY);
    assert_int_equal(work_commit(fixture->work, &fixture->error), RETRY);
    begin_read(fixture);
    assert_int_equal(work_failed(fixture->work, NULL), OK);
    assert_null(ware(fixture, "0"));
    work_rollback(fixture->work);
}

static void undo_puts_back_only_what_the_item_did(void **state)
{
    struct fixture *fixture = *state;
    begin_read(fixture);
    add_ware(fixture, "a", 1);
    add_ware(fixture, "b", 1);
    commit(fixture);
    begin_read(fixture);
    work_item_begin(fixture->work);
    ware(fixture, "a")->available = 2;
    add_ware(fixture, "c", 2);
    work_item_begin(fixture->work);
    ware(fixture, "a")->available = 3;
    ware(fixture, "c")->note = TEXT("three");
    rows_delete(fixture->work, &WARES, ware(fixture, "b"));
    add_ware(fixture, "d", 3);
    work_item_undo(fixture->work);
    assert_int_equal(ware(fixture, "a")->available, 2);
    assert_int_equal(ware(fixture, "c")->note.length, 0);
    assert_int_equal(ware(fixture, "b")->available, 1);
    assert_null(ware(fixture, "d"));
    ware(fixture, "a")->available = 9; /* the same item again, as the one who undid it sees fit */
    work_item_undo(fixture->work);
    assert_int_equal(ware(fixture, "a")->available, 2);
    commit(fixture);
    begin_read(fixture);
    assert_int_equal(ware(fixture, "a")->available, 2);
    assert_int_equal(ware(fixture, "c")->available, 2);
    assert_null(ware(fixture, "d"));
    work_rollback(fixture->work);
}

/* ---- against a model ---- */

enum { MODEL_KEYS = 40, MODEL_STEPS = 100000 };

struct model {
    bool there[MODEL_KEYS];
    int64_t available[MODEL_KEYS];
    char note[MODEL_KEYS][16];
};

static uint64_t random_state;
static size_t random_below(size_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (size_t)(random_state >> 11) % bound;
}

static void key_name(size_t key, char into[16])
{
    snprintf(into, 16, "k%02u", (unsigned)key);
}

static void compare(struct fixture *fixture, const struct model *model, size_t key)
{
    char name[16];
    key_name(key, name);
    const struct ware *row = ware(fixture, name);
    assert_int_equal(row != NULL, model->there[key]);
    if (row) {
        assert_int_equal(row->available, model->available[key]);
        assert_true(text_is(row->note, model->note[key]));
        assert_true(text_is(row->sku, name));
    }
}

static void steps_of_a_handler_agree_with_a_model_after_any_undo_commit_and_rollback(void **state)
{
    struct fixture *fixture = *state;
    struct work *work = fixture->work;
    static struct model committed, before_item, now;
    memset(&committed, 0, sizeof(committed));
    now = committed;
    random_state = 0x9e3779b97f4a7c15u;
    begin(fixture);
    bool read = false, in_item = false;
    int steps = scratch_cluster() ? MODEL_STEPS / 5 : MODEL_STEPS; /* each is a way to the server there */
    for (int step = 0; step < steps; step++) {
        size_t key = random_below(MODEL_KEYS);
        char name[16];
        key_name(key, name);
        size_t what = random_below(100);
        if (!read) { /* name some, read, or go on without */
            if (what < 60) {
                rows_want(work, &WARES, &(struct ware){.sku = text_of(name)});
                continue;
            }
            assert_int_equal(work_read(work, &fixture->error), OK);
            read = true;
        }
        if (what < 25) {
            compare(fixture, &now, key);
        } else if (what < 50) {
            struct ware *row = ware(fixture, name);
            assert_int_equal(row != NULL, now.there[key]);
            if (!row)
                continue;
            row->available = now.available[key] = (int64_t)random_below(5);
            snprintf(now.note[key], sizeof(now.note[key]), "n%zu", random_below(3));
            row->note = text_copy(work_arena(work), text_of(now.note[key]));
        } else if (what < 65) {
            if (now.there[key])
                continue;
            if (random_below(2)) /* looked for or not: it is not there */
                assert_null(ware(fixture, name));
            assert_non_null(add_ware(fixture, name, (int64_t)step));
            now.there[key] = true;
            now.available[key] = step;
            now.note[key][0] = '\0';
        } else if (what < 75) {
            rows_delete(work, &WARES, ware(fixture, name));
            now.there[key] = false;
        } else if (what < 78) {
            void **rows;
            size_t count = rows_find(work, &WARES, "sku >= $1 ORDER BY sku",
                                     (struct store_value[]){STORE_TEXT(text_of(name))}, 1, 5, &rows),
                   at = 0;
            for (size_t i = key; i < MODEL_KEYS && at < count;
                 i++) { /* those of the database that stand, in order */
                if (!committed.there[i] || !now.there[i])
                    continue;
                char expected[16];
                key_name(i, expected);
                const struct ware *row = rows[at++];
                assert_true(text_is(row->sku, expected));
                assert_int_equal(row->available, now.available[i]);
            }
            assert_true(at == count);
        } else if (what < 90) {
            if (in_item && random_below(3) == 0) {
                work_item_undo(work);
                now = before_item;
            } else {
                work_item_begin(work);
                before_item = now;
                in_item = true;
            }
        } else if (what < 97) {
            continue;
        } else {
            if (what < 99) {
                assert_int_equal(work_commit(work, &fixture->error), OK);
                committed = now;
            } else {
                work_rollback(work);
                now = committed;
            }
            if (random_below(20) == 0) {
                close_all(fixture);
                open_all(fixture);
                work = fixture->work;
            }
            begin(fixture);
            read = in_item = false;
        }
        assert_int_equal(work_failed(work, &fixture->error), OK);
    }
    if (!read)
        assert_int_equal(work_read(work, &fixture->error), OK);
    commit(fixture);
    begin_read(fixture);
    for (size_t key = 0; key < MODEL_KEYS; key++)
        compare(fixture, &now, key);
    work_rollback(work);
}

static void one_more(void *what)
{
    ++*(int *)what;
}

static void what_waits_for_the_commit_happens_once_and_only_then(void **state)
{
    struct fixture *fixture = *state;
    int kept = 0, undone = 0, rolled_back = 0, idle = 0;
    begin_read(fixture);
    work_item_begin(fixture->work);
    add_ware(fixture, "a", 1);
    work_after_commit(fixture->work, one_more, &kept);
    work_item_begin(fixture->work);
    work_after_commit(fixture->work, one_more, &undone);
    work_item_undo(fixture->work);
    work_after_commit(fixture->work, one_more, &kept); /* what is done about it */
    assert_int_equal(kept, 0);
    commit(fixture);
    assert_int_equal(kept, 2);
    assert_int_equal(undone, 0);

    begin_read(fixture);
    work_item_begin(fixture->work);
    work_after_commit(fixture->work, one_more, &rolled_back);
    work_rollback(fixture->work);
    begin_read(fixture);
    add_ware(fixture, "a", 1); /* is there: the commit is refused */
    work_after_commit(fixture->work, one_more, &rolled_back);
    assert_int_equal(work_commit(fixture->work, &fixture->error), REJECT);
    begin_read(fixture);
    work_after_commit(fixture->work, one_more, &idle); /* nothing is written */
    commit(fixture);
    assert_int_equal(rolled_back, 0);
    assert_int_equal(idle, 1);
    assert_int_equal(kept, 2);
}

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_type_comes_back_as_it_went, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_has_one_address_in_a_batch_whether_wanted_got_or_found, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_row_asked_for_before_the_read_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_not_yet_written_is_seen_by_get_and_find, setup, teardown),
        cmocka_unit_test_setup_teardown(conditions_take_ids_and_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(more_conditions_than_are_kept_still_give_the_right_rows, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(delete_and_add_of_one_key_is_one_change, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_added_twice_is_rejected_and_the_work_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_that_is_there_but_was_not_looked_for_is_rejected_at_commit,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_broken_check_is_rejected_and_nothing_is_written, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_arena_sticks, setup, teardown),
        cmocka_unit_test_setup_teardown(undo_puts_back_only_what_the_item_did, setup, teardown),
        cmocka_unit_test_setup_teardown(what_waits_for_the_commit_happens_once_and_only_then, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            steps_of_a_handler_agree_with_a_model_after_any_undo_commit_and_rollback, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "store/inbox.h"
#include "support/scratch.h"

#include <stdlib.h>

struct fixture {
    struct scratch scratch;
    struct store *store;
    struct work *work;
    struct error error;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    scratch_make(&fixture->scratch);
    assert_int_equal(store_open(fixture->scratch.url, "inbox", &fixture->store, &fixture->error), OK);
    assert_int_equal(work_new(fixture->store, 4 << 20, &fixture->work, &fixture->error), OK);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    work_destroy(fixture->work);
    store_close(fixture->store);
    scratch_remove(&fixture->scratch);
    free(fixture);
    clock_release();
    return 0;
}

static void note(struct fixture *fixture, struct inbox_note *notes, size_t count)
{
    assert_int_equal(work_begin(fixture->work, &fixture->error), OK);
    inbox_note(fixture->work, notes, count);
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
}

static void commit(struct fixture *fixture)
{
    assert_int_equal(work_commit(fixture->work, &fixture->error), OK);
}

static bool seen(struct fixture *fixture, struct id id, int32_t attempt)
{
    struct inbox_note one = {.id = id, .attempt = attempt};
    note(fixture, &one, 1);
    work_rollback(fixture->work);
    return one.seen;
}

static void an_id_is_seen_after_its_commit_and_not_after_a_rollback(void **state)
{
    struct fixture *fixture = *state;
    struct inbox_note one = {.id = id_new(), .attempt = 1};
    note(fixture, &one, 1);
    assert_false(one.seen);
    assert_true(work_changed(fixture->work));
    work_rollback(fixture->work);
    assert_false(seen(fixture, one.id, 1));
    note(fixture, &one, 1);
    commit(fixture);
    assert_true(seen(fixture, one.id, 1));
    assert_true(seen(fixture, one.id, 2));
    note(fixture, &one, 1);
    assert_false(work_changed(fixture->work));
    commit(fixture);
}

static void an_id_that_stands_twice_is_seen_at_its_second_place(void **state)
{
    struct fixture *fixture = *state;
    struct id id = id_new();
    struct inbox_note notes[3] = {
        {.id = id, .attempt = 1}, {.id = id_new(), .attempt = 1}, {.id = id, .attempt = 1}};
    assert_int_equal(work_begin(fixture->work, &fixture->error), OK);
    inbox_note(fixture->work, notes, 2);
    inbox_note(fixture->work, notes + 2, 1);
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
    assert_false(notes[0].seen);
    assert_false(notes[1].seen);
    assert_true(notes[2].seen);
    commit(fixture);
}

static void a_moved_attempt_is_seen_and_its_copy_is_not(void **state)
{
    struct fixture *fixture = *state;
    struct inbox_note one = {.id = id_new(), .attempt = 1};
    note(fixture, &one, 1);
    inbox_moved(fixture->work, &one);
    commit(fixture);
    assert_true(seen(fixture, one.id, 1));
    assert_false(seen(fixture, one.id, 2));

    struct inbox_note copies[3] = {
        {.id = one.id, .attempt = 1}, {.id = one.id, .attempt = 2}, {.id = one.id, .attempt = 2}};
    note(fixture, copies, 3);
    assert_true(copies[0].seen);
    assert_false(copies[1].seen);
    assert_true(copies[2].seen);
    inbox_moved(fixture->work, &copies[1]);
    commit(fixture);
    assert_true(seen(fixture, one.id, 2));
    assert_false(seen(fixture, one.id, 3));

    struct inbox_note last = {.id = one.id, .attempt = 3};
    note(fixture, &last, 1);
    commit(fixture);
    assert_true(seen(fixture, one.id, 3));
    assert_true(seen(fixture, one.id, 4));
}

static void a_forgotten_one_is_as_never_noted(void **state)
{
    struct fixture *fixture = *state;
    struct inbox_note fresh = {.id = id_new(), .attempt = 1}, other = {.id = id_new(), .attempt = 1};
    note(fixture, &fresh, 1);
    inbox_forget(fixture->work, &fresh);
    assert_false(work_changed(fixture->work));
    commit(fixture);
    assert_false(seen(fixture, fresh.id, 1));

    struct inbox_note both[2] = {fresh, other};
    note(fixture, both, 2);
    inbox_forget(fixture->work, &both[0]);
    commit(fixture);
    assert_false(seen(fixture, fresh.id, 1));
    assert_true(seen(fixture, other.id, 1));

    note(fixture, &fresh, 1); /* one that was moved before goes back to that */
    inbox_moved(fixture->work, &fresh);
    commit(fixture);
    struct inbox_note copies[2] = {{.id = fresh.id, .attempt = 2}, {.id = id_new(), .attempt = 1}};
    note(fixture, copies, 2);
    inbox_forget(fixture->work, &copies[0]);
    commit(fixture);
    assert_true(seen(fixture, fresh.id, 1));
    assert_false(seen(fixture, fresh.id, 2));
}

static void what_its_effect_tells_of_is_seen_once_it_was_moved(void **state)
{
    struct fixture *fixture = *state;
    struct inbox_note one = {.id = id_new(), .attempt = 1, .by_effect = true},
                      plain = {.id = id_new(), .attempt = 1};
    note(fixture, &one, 1);
    assert_false(one.seen);
    work_rollback(fixture->work);

    struct inbox_note mixed[4] = {plain, one, plain, one}; /* both kinds in one work, each twice */
    note(fixture, mixed, 4);
    assert_false(mixed[0].seen);
    assert_false(mixed[1].seen);
    assert_true(mixed[2].seen);
    assert_true(mixed[3].seen);
    inbox_moved(fixture->work, &mixed[1]);
    commit(fixture);
    assert_true(seen(fixture, plain.id, 1));

    struct inbox_note again[3] = {one, {.id = id_new(), .attempt = 1, .by_effect = true}, one};
    again[2].attempt = 2;
    note(fixture, again, 3);
    assert_true(again[0].seen);
    assert_false(again[1].seen);
    assert_false(again[2].seen);
    inbox_moved(fixture->work, &again[2]);
    commit(fixture);

    again[0].attempt = 2;
    note(fixture, again, 1);
    assert_true(again[0].seen);
    work_rollback(fixture->work);
    again[0].attempt = 3;
    note(fixture, again, 1);
    assert_false(again[0].seen);
    inbox_forget(fixture->work, &again[0]);
    commit(fixture);
    note(fixture, again, 1);
    assert_false(again[0].seen);
    work_rollback(fixture->work);
}

static void undo_takes_back_the_move_of_an_item(void **state)
{
    struct fixture *fixture = *state;
    struct inbox_note one = {.id = id_new(), .attempt = 1};
    note(fixture, &one, 1);
    work_item_begin(fixture->work);
    inbox_moved(fixture->work, &one);
    inbox_forget(fixture->work, &one);
    work_item_undo(fixture->work);
    commit(fixture);
    assert_true(seen(fixture, one.id, 2)); /* handled, not moved at 1 */
}

static void prune_takes_the_old_ones_only_and_goes_on_where_it_stopped(void **state)
{
    struct fixture *fixture = *state;
    enum { OLD = 50, YOUNG = 30 };
    struct inbox_note old[OLD], young[YOUNG];
    clock_hold(1000000);
    for (int i = 0; i < OLD; i++) /* not in the order of time */
        old[i] =
            (struct inbox_note){.id = id_from_text((struct text){(const char *)&i, sizeof(i)}), .attempt = 1};
    note(fixture, old, OLD);
    commit(fixture);
    clock_advance(1000000);
    for (int i = 0; i < YOUNG; i++)
        young[i] = (struct inbox_note){.id = id_derive(old[i].id, TEXT("young")), .attempt = 1};
    note(fixture, young, YOUNG);
    commit(fixture);

    size_t gone = 0;
    for (int pass = 0; pass < 200 && gone < OLD; pass++) {
        note(fixture, NULL, 0);
        size_t count = inbox_prune(fixture->work, 2000000, 7);
        assert_true(count <= 7);
        gone += count;
        commit(fixture);
    }
    assert_int_equal(gone, OLD);
    for (int i = 0; i < OLD; i++)
        assert_false(seen(fixture, old[i].id, 1));
    for (int i = 0; i < YOUNG; i++)
        assert_true(seen(fixture, young[i].id, 1));
    note(fixture, NULL, 0);
    for (int pass = 0; pass < 20; pass++)
        assert_int_equal(inbox_prune(fixture->work, 2000000, 7), 0);
    commit(fixture);
}

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_id_is_seen_after_its_commit_and_not_after_a_rollback, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_id_that_stands_twice_is_seen_at_its_second_place, setup, teardown),
        cmocka_unit_test_setup_teardown(a_moved_attempt_is_seen_and_its_copy_is_not, setup, teardown),
        cmocka_unit_test_setup_teardown(a_forgotten_one_is_as_never_noted, setup, teardown),
        cmocka_unit_test_setup_teardown(what_its_effect_tells_of_is_seen_once_it_was_moved, setup, teardown),
        cmocka_unit_test_setup_teardown(undo_takes_back_the_move_of_an_item, setup, teardown),
        cmocka_unit_test_setup_teardown(prune_takes_the_old_ones_only_and_goes_on_where_it_stopped, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Several processes on one database: who has which part of the keys. Each as a connection of its own. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "store/inbox.h"
#include "store/instances.h"
#include "store/outbox.h"
#include "support/cluster.h"
#include "support/cutter.h"
#include "support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS = 4, PROCESSES = 3 };

struct process {
    struct store *store;
    struct work *work;
    struct instances instances;
};

static struct cluster cluster;
static char url[CLUSTER_URL_BYTES];
static struct process processes[PROCESSES];
static struct process *const one = &processes[0], *const two = &processes[1];
static struct error error;

static void start(struct process *process, const char *at)
{
    memset(process, 0, sizeof(*process));
    assert_int_equal(store_open(at, "test", &process->store, &error), OK);
    assert_int_equal(store_migrate(process->store, NULL, 0, NULL, 0, &error), OK);
    assert_int_equal(work_new(process->store, 8 << 20, &process->work, &error), OK);
}

static int setup(void **state)
{
    (void)state;
    cluster_make(&cluster, url);
    for (int i = 0; i < PROCESSES; i++)
        start(&processes[i], url);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < PROCESSES; i++) {
        work_destroy(processes[i].work);
        store_close(processes[i].store);
    }
    return 0;
}

static enum outcome beat(struct process *process)
{
    process->instances.beat_us = 0;
    return instances_beat(process->store, &process->instances, &error);
}

/* wanted: "0011" wants the last two. */
static void want(struct process *process, const char *wanted)
{
    process->instances.part_count = PARTS;
    for (int part = 0; part < PARTS; part++)
        process->instances.wanted[part] = wanted[part] == '1';
    assert_int_equal(beat(process), OK);
}

static const char *owned(const struct process *process)
{
    static char text[2][PARTS + 1];
    char *into = text[process != one];
    for (int part = 0; part < PARTS; part++)
        into[part] = process->instances.owned[part] ? '1' : '0';
    return into;
}

static enum outcome write_row(struct process *process, const char *key)
{
    enum outcome outcome = work_begin(process->work, &error);
    if (outcome == OK)
        outcome = work_read(process->work, &error);
    if (outcome != OK)
        return outcome;
    outbox_add(process->work, &(struct outbox_row){.topic = TEXT("t"), .partition = -1, .key = text_of(key)});
    return work_commit(process->work, &error);
}

static void bury(struct process *process)
{
    char sql[200];
    char id[ID_TEXT_BYTES];
    struct text text = id_to_text(process->instances.self, id);
    snprintf(
        sql, sizeof(sql),
        "WITH old AS (UPDATE weir_test.instance SET beat_us = beat_us - %lld WHERE id = '%.*s' RETURNING 1) "
        "SELECT count(*) FROM old",
        (INSTANCE_DEAD_MS + 1000) * 1000LL, TEXT_ARG(text));
    assert_int_equal(cluster_do(url, sql), 1);
}

static void one_that_is_alone_has_every_part(void **state)
{
    (void)state;
    want(one, "0000");
    assert_string_equal(owned(one), "1111");
    assert_int_equal(one->instances.gained_count, PARTS);
    assert_int_equal(one->instances.others, 0);
    assert_int_equal(beat(one), OK);
    assert_int_equal(one->instances.gained_count, 0);
}

static void a_part_changes_hands_when_its_owner_lets_go_of_it(void **state)
{
    (void)state;
    want(one, "1111");
    want(two, "0011");
    assert_string_equal(owned(two), "0000");
    assert_int_equal(two->instances.others, 1);
    one->instances.busy[3] = true;
    want(one, "1100");
    assert_string_equal(owned(one), "1101");
    assert_false(instances_own(&one->instances, 3)); /* it sends nothing more for it */
    want(two, "0011");
    assert_string_equal(owned(two), "0010");
    assert_int_equal(two->instances.gained_count, 1);
    assert_true(two->instances.gained[2]);
    one->instances.busy[3] = false;
    want(one, "1100");
    want(two, "0011");
    assert_string_equal(owned(two), "0011");
    assert_string_equal(owned(one), "1100");
}

static void nobody_else_has_what_one_has(void **state)
{
    (void)state;
    want(one, "1111");
    want(two, "1111");
    want(&processes[2], "1111");
    assert_string_equal(owned(one), "1111");
    assert_string_equal(owned(two), "0000");
    assert_int_equal(processes[2].instances.owned_count, 0);
    assert_int_equal(processes[2].instances.others, 2);
}

static void one_that_leaves_is_followed_at_once(void **state)
{
    (void)state;
    want(one, "1111");
    want(two, "0000");
    instances_leave(one->store, &one->instances);
    want(two, "0000");
    assert_string_equal(owned(two), "1111");
    assert_int_equal(two->instances.others, 0);
}

static bool leave_empty(struct process *process)
{
    bool left = false;
    assert_int_equal(instances_leave_empty(process->store, &process->instances, &left, &error), OK);
    assert_int_equal(left, !process->instances.joined);
    return left;
}

static void the_last_one_does_not_leave_while_the_outbox_holds_something(void **state)
{
    (void)state;
    for (int first = 0; first < 2; first++) {
        struct process *early = &processes[first], *last = &processes[1 - first];
        const struct outbox_row *rows;
        bool more;
        memset(&early->instances, 0, sizeof(early->instances));
        memset(&last->instances, 0, sizeof(last->instances));
        want(one, "1111");
        want(two, "0011");
        assert_int_equal(write_row(two, "a"), OK); /* for a part of the other */
        assert_true(leave_empty(early));
        assert_false(leave_empty(last));
        assert_int_equal(write_row(last, "b"), OK); /* it goes on as before */
        want(last, "0000");
        assert_string_equal(owned(last), "1111");
        assert_int_equal(work_begin(last->work, &error), OK);
        size_t count = outbox_read(last->work, 0, 10, &rows, &more);
        assert_int_equal(count, 2);
        const int64_t seqs[] = {rows[0].seq, rows[1].seq};
        outbox_done(last->work, seqs, 2);
        assert_int_equal(work_commit(last->work, &error), OK);
        assert_true(leave_empty(last));
        assert_int_equal(cluster_do(url, "SELECT count(*) FROM weir_test.instance"), 0);
        assert_true(leave_empty(last)); /* as it is not there */
    }
}

static void one_that_was_buried_has_left(void **state)
{
    (void)state;
    want(one, "1111");
    assert_int_equal(write_row(one, "a"), OK);
    cluster_do(url, "DELETE FROM weir_test.instance");
    assert_true(leave_empty(one));
}

static void one_without_a_beat_is_buried_and_can_commit_nothing_any_more(void **state)
{
    (void)state;
    want(one, "1111");
    want(two, "0011");
    assert_int_equal(write_row(one, "a"), OK);
    bury(one);
    want(two, "0011");
    assert_string_equal(owned(two), "1111");
    assert_int_equal(write_row(one, "b"), FATAL);
    assert_int_equal(error_exit_code(&error), EXIT_TRY_AGAIN);
    assert_int_equal(cluster_do(url, "SELECT coalesce(sum(events), 0)::bigint FROM weir_test.outbox_pack"),
                     1);
    assert_int_equal(beat(one), FATAL);
    assert_int_equal(error_exit_code(&error), EXIT_TRY_AGAIN);
    memset(&one->instances, 0, sizeof(one->instances)); /* a new one */
    want(one, "1100");
    assert_int_equal(write_row(one, "b"), OK);
    assert_int_equal(write_row(two, "c"), OK);
}

static void who_was_away_itself_gives_the_others_time(void **state)
{
    (void)state;
    clock_hold(clock_wall_us());
    want(one, "1111");
    want(two, "0000");
    bury(two); /* the server was away for all */
    clock_advance((INSTANCE_STEADY_MS + 1000) * INT64_C(1000));
    assert_int_equal(beat(one), OK);
    assert_int_equal(one->instances.others, 1);
    for (int ms = 0; ms <= INSTANCE_DEAD_MS; ms += INSTANCE_BEAT_MS) {
        clock_advance(INSTANCE_BEAT_MS * INT64_C(1000));
        assert_int_equal(beat(one), OK);
    }
    assert_int_equal(one->instances.others, 0);
    clock_release();
}

static void parts_grow_with_the_topic(void **state)
{
    (void)state;
    want(one, "1111");
    two->instances.part_count = 2 * PARTS;
    assert_int_equal(beat(two), OK);
    assert_int_equal(beat(one), OK);
    assert_int_equal(one->instances.part_count, 2 * PARTS);
    assert_int_equal(cluster_do(url, "SELECT count(*) FROM weir_test.part"), 2 * PARTS);
    assert_string_equal(owned(one), "1111");
    assert_false(one->instances.owned[PARTS]);
}

static void a_beat_comes_soon_while_something_is_to_change_hands(void **state)
{
    (void)state;
    clock_hold(clock_wall_us());
    want(one, "1111");
    assert_int_equal(one->instances.beat_us, clock_monotonic_us() + INSTANCE_BEAT_MS * 1000);
    want(two, "0011");
    assert_int_equal(two->instances.beat_us, clock_monotonic_us() + INSTANCE_TAKE_MS * 1000);
    assert_int_equal(beat(one), OK); /* it is not alone any more */
    assert_int_equal(one->instances.beat_us, clock_monotonic_us() + INSTANCE_TAKE_MS * 1000);
    clock_release();
}

/* ---- the outbox */

static const char *key_of_part(const struct process *process, int32_t part)
{
    static char key[16];
    for (int i = 0;; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        if (instances_part(&process->instances, text_of(key), false) == part)
            return key;
    }
}

static void share(void)
{
    want(one, "1111");
    want(two, "0011");
    want(one, "1100");
    want(two, "0011");
}

static void a_row_goes_to_the_owner_of_its_part(void **state)
{
    (void)state;
    const struct outbox_row *rows;
    size_t count;
    bool more;
    share();
    assert_int_equal(write_row(one, key_of_part(one, 0)), OK);
    assert_int_equal(outbox_added(one->work, &rows), 1);
    assert_false(rows[0].elsewhere);
    assert_int_equal(write_row(one, key_of_part(one, 2)), OK);
    assert_int_equal(outbox_added(one->work, &rows), 1);
    assert_true(rows[0].elsewhere);
    assert_int_equal(rows[0].part, 2);

    assert_int_equal(work_begin(two->work, &error), OK);
    assert_int_equal(outbox_read_elsewhere(two->work, 10, &rows, &(bool){false}), 1);
    assert_int_equal(rows[0].part, 2);
    assert_int_equal(outbox_read(two->work, 0, 10, &rows, &(bool){false}), 1);
    assert_int_equal(outbox_read(two->work, INT64_MAX, 10, &rows, &(bool){false}),
                     1); /* however late it comes */
    work_rollback(two->work);
    assert_int_equal(work_begin(one->work, &error), OK);
    assert_int_equal(outbox_read_elsewhere(one->work, 10, &rows, &(bool){false}), 0);
    assert_int_equal(outbox_read(one->work, 0, 10, &rows, &(bool){false}), 1);
    assert_int_equal(rows[0].part, 0);
    work_rollback(one->work);

    assert_int_equal(work_begin(two->work, &error), OK);
    assert_int_equal(work_read(two->work, &error), OK);
    outbox_want_elsewhere(two->work, 10);
    outbox_add(two->work, &(struct outbox_row){.topic = TEXT("t"), .partition = -1});
    assert_int_equal(work_commit(two->work, &error), OK);
    assert_true(outbox_elsewhere(two->work, &rows, &count, &more));
    assert_int_equal(count, 1);
    assert_false(more);
    assert_true(text_is(rows[0].key, key_of_part(one, 2)));
}

/* What is acknowledged of a pack that another wrote is not read again, though its row stands. */
/* A cursor does not pass by what another commits late, with a number that it was given early. Who has every
 * part has others beside it as well. */
static void what_others_write_is_read_from_behind_the_cursor(void **state)
{
    (void)state;
    const struct outbox_row *rows;
    bool more;
    want(one, "1111");
    want(two, "0000");
    assert_int_equal(write_row(two, "a"), OK);
    assert_int_equal(write_row(one, "a"), OK);
    for (int parts = 0; parts < 2; parts++) {
        assert_int_equal(work_begin(one->work, &error), OK);
        assert_int_equal(outbox_read(one->work, 0, 10, &rows, &more), 2);
        assert_true(rows[0].elsewhere && !rows[1].elsewhere);
        int64_t after_seq = rows[1].seq;
        assert_int_equal(outbox_read(one->work, after_seq, 10, &rows, &more), 1);
        assert_true(rows[0].elsewhere && rows[0].seq < after_seq);
        work_rollback(one->work);
        /* The same with another part at the other. */
        char wanted[] = "1111";
        wanted[(instances_part(&one->instances, TEXT("a"), false) + 1) % PARTS] = '0';
        want(one, wanted);
    }
}

static void events_of_a_pack_are_acknowledged_one_by_one_by_its_owner(void **state)
{
    (void)state;
    static const int32_t parts[] = {2, 0, 3, 2, 0, 3, 2};
    const struct outbox_row *rows;
    size_t count;
    bool more;
    share();
    assert_int_equal(work_begin(one->work, &error), OK);
    assert_int_equal(work_read(one->work, &error), OK);
    for (int i = 0; i < 7; i++)
        outbox_add(one->work, &(struct outbox_row){.topic = TEXT("t"),
                                                   .partition = i,
                                                   .key = text_copy(work_arena(one->work),
                                                                    text_of(key_of_part(one, parts[i])))});
    assert_int_equal(work_commit(one->work, &error), OK);
    assert_int_equal(cluster_do(url, "SELECT count(*) FROM weir_test.outbox_pack"), 3);
    assert_int_equal(outbox_added(one->work, &rows), 7); /* by part, in the order of their numbers */
    static const int32_t order[] = {1, 4, 0, 3, 6, 2, 5};
    for (int i = 0; i < 7; i++) {
        assert_int_equal(rows[i].partition, order[i]);
        assert_int_equal(rows[i].elsewhere, rows[i].part != 0);
        assert_true(i == 0 || rows[i].seq > rows[i - 1].seq);
    }

    assert_int_equal(work_begin(two->work, &error), OK);
    assert_int_equal(outbox_read_elsewhere(two->work, 2, &rows, &more), 2);
    assert_true(more);
    outbox_done(two->work, &rows[1].seq, 1);
    assert_int_equal(work_commit(two->work, &error), OK);
    assert_int_equal(work_begin(two->work, &error), OK);
    assert_int_equal(outbox_read_elsewhere(two->work, 10, &rows, &more), 4);
    assert_false(more);
    assert_int_equal(rows[0].partition, 0);
    assert_int_equal(rows[1].partition, 6);
    work_rollback(two->work);

    /* The same of those that are read with the commit that acknowledges more. */
    const int64_t last = rows[3].seq;
    assert_int_equal(work_begin(two->work, &error), OK);
    assert_int_equal(work_read(two->work, &error), OK);
    outbox_want_elsewhere(two->work, 10);
    outbox_done(two->work, &last, 1);
    outbox_add(two->work, &(struct outbox_row){.topic = TEXT("t"), .partition = 9, .key_null = true});
    assert_int_equal(work_commit(two->work, &error), OK);
    assert_true(outbox_elsewhere(two->work, &rows, &count, &more));
    assert_int_equal(count, 3);
    assert_false(more);
    int64_t left[3] = {rows[0].seq, rows[1].seq, rows[2].seq};
    assert_int_equal(work_begin(two->work, &error), OK);
    outbox_done(two->work, left, 3);
    assert_int_equal(work_commit(two->work, &error), OK);
    assert_int_equal(cluster_do(url, "SELECT count(*) FROM weir_test.outbox_pack WHERE part > 0"), 0);
    assert_int_equal(cluster_do(url, "SELECT sum(events)::bigint FROM weir_test.outbox_pack"), 3);
}

static void what_others_write_while_a_commit_waits_is_read_with_it(void **state)
{
    (void)state;
    const struct outbox_row *rows;
    size_t count;
    bool more;
    share();
    assert_int_equal(work_begin(two->work, &error), OK);
    struct inbox_note note = {.id = id_new(), .attempt = 1};
    inbox_note(two->work, &note, 1);
    assert_int_equal(work_read(two->work, &error), OK); /* its transaction is open */
    outbox_want_elsewhere(two->work, 1);
    assert_int_equal(write_row(one, key_of_part(one, 3)), OK);
    assert_int_equal(write_row(one, key_of_part(one, 3)), OK);
    assert_int_equal(work_commit(two->work, &error), OK);
    assert_true(outbox_elsewhere(two->work, &rows, &count, &more));
    assert_int_equal(count, 1);
    assert_true(more);
}

static void the_outbox_is_counted_by_its_owner(void **state)
{
    (void)state;
    share();
    assert_int_equal(write_row(one, key_of_part(one, 3)), OK);
    assert_int_equal(outbox_rows(one->store), 0);
    assert_int_equal(beat(two), OK);
    assert_int_equal(outbox_rows(two->store), 1);
    assert_true(outbox_oldest_us(two->store) > 0);
    assert_int_equal(beat(one), OK);
    assert_int_equal(outbox_rows(one->store), 0);
}

/* ---- SQLite */

/* What others wrote was never in this one's hands, nor is what a commit did whose answer was lost. */
static void the_outbox_is_counted_anew_by_each_beat(void **state)
{
    (void)state;
    enum { OF_TWO = 5, TO_PREPARE = 3 };
    char through[CLUSTER_URL_BYTES];
    struct cutter *cutter = cutter_start(&cluster, url, through);
    work_destroy(one->work);
    store_close(one->store);
    start(one, through);
    want(one, "1111");
    want(two, "0000");
    for (int i = 0; i < OF_TWO; i++)
        assert_int_equal(write_row(two, "a"), OK);
    instances_leave(two->store, &two->instances);
    assert_int_equal(beat(one), OK);
    assert_int_equal(one->instances.others, 0);
    assert_int_equal(outbox_rows(one->store), OF_TWO);
    for (int i = 0; i < TO_PREPARE; i++) {
        cutter_cut(cutter, CUTTER_TO_CLIENT, 0, 0);
        assert_int_equal(write_row(one, "b"), OK);
    }
    cutter_cut(cutter, CUTTER_TO_CLIENT, cutter_messages(cutter, CUTTER_TO_CLIENT) - 1, 0);
    assert_int_equal(write_row(one, "b"), OK);
    assert_int_equal(beat(one), OK);
    assert_int_equal(outbox_rows(one->store), OF_TWO + TO_PREPARE + 1);
    work_destroy(one->work);
    store_close(one->store);
    cutter_end(cutter);
    start(one, url);
}

static void with_sqlite_there_is_one_process_and_one_part(void **state)
{
    (void)state;
    struct scratch scratch;
    struct process alone;
    scratch_make(&scratch);
    start(&alone, scratch.url);
    assert_int_equal(instances_beat(alone.store, &alone.instances, &error), OK);
    assert_false(alone.instances.shared);
    assert_int_equal(alone.instances.part_count, 1);
    assert_int_equal(instances_part(&alone.instances, TEXT("a"), false), 0);
    assert_true(instances_own(&alone.instances, 0));
    assert_int_equal(alone.instances.gained_count, 1);
    assert_int_equal(instances_beat(alone.store, &alone.instances, &error), OK);
    assert_int_equal(alone.instances.gained_count, 0);
    instances_leave(alone.store, &alone.instances);
    work_destroy(alone.work);
    store_close(alone.store);
    scratch_remove(&scratch);
}

#define ON_POSTGRES(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_sqlite_there_is_one_process_and_one_part),
        ON_POSTGRES(one_that_is_alone_has_every_part),
        ON_POSTGRES(a_part_changes_hands_when_its_owner_lets_go_of_it),
        ON_POSTGRES(nobody_else_has_what_one_has),
        ON_POSTGRES(one_that_leaves_is_followed_at_once),
        ON_POSTGRES(the_last_one_does_not_leave_while_the_outbox_holds_something),
        ON_POSTGRES(one_that_was_buried_has_left),
        ON_POSTGRES(one_without_a_beat_is_buried_and_can_commit_nothing_any_more),
        ON_POSTGRES(who_was_away_itself_gives_the_others_time),
        ON_POSTGRES(parts_grow_with_the_topic),
        ON_POSTGRES(a_beat_comes_soon_while_something_is_to_change_hands),
        ON_POSTGRES(a_row_goes_to_the_owner_of_its_part),
        ON_POSTGRES(what_others_write_is_read_from_behind_the_cursor),
        ON_POSTGRES(events_of_a_pack_are_acknowledged_one_by_one_by_its_owner),
        ON_POSTGRES(what_others_write_while_a_commit_waits_is_read_with_it),
        ON_POSTGRES(the_outbox_is_counted_by_its_owner),
        ON_POSTGRES(the_outbox_is_counted_anew_by_each_beat),
    };
    cluster_start(&cluster);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cluster_remove(&cluster);
    return failed;
}

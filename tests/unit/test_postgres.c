/* What only PostgreSQL has: a server that goes and comes, other instances, a pooler, planners. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "store/inbox.h"
#include "store/instances.h"
#include "store/outbox.h"
#include "support/batches.h"
#include "support/cluster.h"
#include "support/cutter.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct thing {
    struct text name;
    int64_t due;
    struct text said;
};
static const struct rows_column THING_COLUMNS[] = {
    ROWS_COLUMN(thing, name, ROWS_TEXT),
    ROWS_COLUMN(thing, due, ROWS_INT),
    ROWS_COLUMN(thing, said, ROWS_TEXT),
};
static const struct rows_table THINGS = {.name = "things",
                                         .columns = THING_COLUMNS,
                                         .column_count = 3,
                                         .key_count = 1,
                                         .row_bytes = sizeof(struct thing),
                                         .indexes = {"due"}};
struct pair {
    struct text side;
    struct id item;
    int64_t number;
};
static const struct rows_column PAIR_COLUMNS[] = {
    ROWS_COLUMN(pair, side, ROWS_TEXT),
    ROWS_COLUMN(pair, item, ROWS_ID),
    ROWS_COLUMN(pair, number, ROWS_INT),
};
static const struct rows_table PAIRS = {.name = "pairs",
                                        .columns = PAIR_COLUMNS,
                                        .column_count = 3,
                                        .key_count = 2,
                                        .row_bytes = sizeof(struct pair),
                                        .indexes = {"item", "number"}};
static const struct rows_table *const TABLES[] = {&THINGS, &PAIRS};
enum { TABLE_COUNT = sizeof(TABLES) / sizeof(*TABLES) };

/* One instance of a service. */
struct instance {
    struct store *store;
    struct work *work;
};

static struct cluster cluster = {
    .settings = {"shared_preload_libraries=auto_explain", "auto_explain.log_min_duration=0"}};
static char url[CLUSTER_URL_BYTES];
static struct instance one, two;
static struct error error;

static enum outcome open_at(struct instance *instance, const char *at, const char *service)
{
    enum outcome outcome = store_open(at, service, &instance->store, &error);
    if (outcome == OK)
        outcome = store_migrate(instance->store, TABLES, TABLE_COUNT, NULL, 0, &error);
    return outcome == OK ? work_new(instance->store, 8 << 20, &instance->work, &error) : outcome;
}

static void close_all(struct instance *instance)
{
    work_destroy(instance->work);
    store_close(instance->store);
    *instance = (struct instance){NULL, NULL};
}

static int setup(void **state)
{
    (void)state;
    cluster_make(&cluster, url);
    assert_int_equal(open_at(&one, url, "test"), OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close_all(&one);
    close_all(&two);
    return 0;
}

static void begin(struct instance *instance)
{
    assert_int_equal(work_begin(instance->work, &error), OK);
    assert_int_equal(work_read(instance->work, &error), OK);
}

static enum outcome add(struct instance *instance, struct text name)
{
    enum outcome outcome = work_begin(instance->work, &error);
    if (outcome != OK)
        return outcome;
    rows_want(instance->work, &THINGS, &(struct thing){.name = name});
    outcome = work_read(instance->work, &error);
    if (outcome == OK)
        rows_add(instance->work, &THINGS, &(struct thing){.name = name});
    if (outcome == OK)
        return work_commit(instance->work, &error);
    work_rollback(instance->work);
    return outcome;
}

static bool is_there(struct instance *instance, struct text name)
{
    begin(instance);
    bool there = rows_get(instance->work, &THINGS, &(struct thing){.name = name});
    assert_int_equal(work_failed(instance->work, &error), OK);
    work_rollback(instance->work);
    return there;
}

/* ---- the server */

static void what_only_a_person_can_put_right_is_a_configuration_error(void **state)
{
    (void)state;
    char other[CLUSTER_URL_BYTES];
    struct store *store;
    snprintf(other, sizeof(other), "postgresql://postgres@/nosuch?host=%s", cluster.folder);
    assert_int_equal(store_open(other, "test", &store, &error), FATAL);
    assert_int_equal(error.exit_code, EXIT_CONFIG);
    assert_non_null(strstr(error.text, "nosuch"));
    snprintf(other, sizeof(other), "postgresql://nobody_known@/postgres?host=%s", cluster.folder);
    assert_int_equal(store_open(other, "test", &store, &error), FATAL);
    assert_int_equal(error.exit_code, EXIT_CONFIG);
    cluster_do(url, "CREATE USER guest");
    snprintf(other, sizeof(other), "postgresql://guest@/postgres?host=%s", cluster.folder);
    assert_int_equal(store_open(other, "test", &store, &error), FATAL); /* may not make a schema */
    assert_int_equal(error.exit_code, EXIT_CONFIG);
    bool there;
    assert_int_equal(store_check(other, "test", &there, &error), FATAL);
    assert_int_equal(error.exit_code, EXIT_CONFIG);
    snprintf(other, sizeof(other), "postgresql://postgres@/postgres?host=%s/nowhere", cluster.folder);
    assert_int_equal(store_open(other, "test", &store, &error), OUTAGE);
    cluster_do(url, "DROP USER guest");
}

static void a_check_makes_nothing(void **state)
{
    (void)state;
    bool there = true;
    assert_int_equal(store_check(url, "fresh", &there, &error), OK);
    assert_false(there);
    assert_int_equal(cluster_do(url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'weir_fresh'"), 0);
    assert_int_equal(store_check(url, "test", &there, &error), OK);
    assert_true(there);
}

static void an_outage_begins_and_ends_with_the_server(void **state)
{
    (void)state;
    assert_int_equal(add(&one, TEXT("a")), OK);
    begin(&one);
    rows_add(one.work, &THINGS, &(struct thing){.name = TEXT("b")});
    cluster_kill(&cluster);
    assert_int_equal(work_commit(one.work, &error), OUTAGE);
    assert_int_equal(add(&one, TEXT("c")), OUTAGE);
    assert_int_equal(store_probe(one.store, &error), OUTAGE);
    cluster_go_on(&cluster);
    assert_int_equal(store_probe(one.store, &error), OK);
    assert_true(is_there(&one, TEXT("a")));
    assert_false(is_there(&one, TEXT("b")));
    assert_int_equal(add(&one, TEXT("b")), OK);
}

static void a_commit_that_took_effect_unseen_ends_the_process_that_knows_nothing_of_it(void **state)
{
    (void)state;
    char through[CLUSTER_URL_BYTES];
    struct cutter *cutter = cutter_start(&cluster, url, through);
    close_all(&one);
    assert_int_equal(open_at(&one, through, "test"), OK);
    for (int i = 0; i < 3; i++) { /* until each statement is prepared */
        char name[16];
        snprintf(name, sizeof(name), "n%d", i);
        cutter_cut(cutter, CUTTER_TO_CLIENT, 0, 0);
        assert_int_equal(add(&one, text_of(name)), OK);
    }
    /* The answer to COMMIT, but for what says that the server is ready again; and then nobody is there for
     * long. */
    cutter_cut(cutter, CUTTER_TO_CLIENT, cutter_messages(cutter, CUTTER_TO_CLIENT) - 1, 1 << 30);
    assert_int_equal(add(&one, TEXT("unseen")), OUTAGE);
    assert_int_equal(add(&one, TEXT("later")), OUTAGE);
    cutter_cut(cutter, CUTTER_TO_CLIENT, 0, 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(add(&one, TEXT("later")), FATAL);
        assert_int_equal(error.exit_code, EXIT_TRY_AGAIN);
    }
    close_all(&one);
    assert_int_equal(open_at(&one, through, "test"), OK);
    assert_true(is_there(&one, TEXT("unseen")));
    assert_false(is_there(&one, TEXT("later")));
    close_all(&one);
    cutter_end(cutter);
}

/* The answer to COMMIT is lost, and then the connection by which it is looked up, after each of its messages.
 */
static void a_commit_in_doubt_that_is_cut_again_is_not_taken_for_undone(void **state)
{
    (void)state;
    enum { AGAIN_MAX = 80 };
    char through[CLUSTER_URL_BYTES], name[16];
    struct cutter *cutter = cutter_start(&cluster, url, through);
    bool uncut = false;
    for (uint64_t again = 1; !uncut; again++) {
        assert_true(again < AGAIN_MAX);
        close_all(&one);
        assert_int_equal(open_at(&one, through, "test"), OK);
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof(name), "n%llu-%d", (unsigned long long)again, i);
            cutter_cut(cutter, CUTTER_TO_CLIENT, 0, 0);
            assert_int_equal(add(&one, text_of(name)), OK);
        }
        uint64_t at = cutter_messages(cutter, CUTTER_TO_CLIENT) - 1;
        cutter_cut(cutter, CUTTER_TO_CLIENT, at, 0);
        cutter_cut_again(cutter, again);
        snprintf(name, sizeof(name), "doubt%llu", (unsigned long long)again);
        enum outcome outcome = add(&one, text_of(name));
        uncut = cutter_messages(cutter, CUTTER_TO_CLIENT) < at + again;
        cutter_cut(cutter, CUTTER_TO_CLIENT, 0, 0);
        if (outcome == OK)
            continue;
        assert_true(outcome == OUTAGE || outcome == FATAL);
        assert_int_equal(add(&one, TEXT("later")), FATAL);
        assert_int_equal(error.exit_code, EXIT_TRY_AGAIN);
    }
    close_all(&one);
    assert_int_equal(open_at(&one, url, "test"), OK);
    cutter_end(cutter);
}

static void a_restart_between_two_batches_goes_unnoticed(void **state)
{
    (void)state;
    struct store_reader *reader;
    assert_int_equal(store_reader_open(url, "test", &reader, &error), OK);
    assert_int_equal(add(&one, TEXT("a")), OK);
    cluster_stop(&cluster);
    cluster_go_on(&cluster);
    assert_int_equal(add(&one, TEXT("b")), OK);
    assert_int_equal(store_read(reader, "SELECT 1", NULL, 0, NULL, NULL, &error), OK);
    store_reader_close(reader);
}

static void what_is_an_error_at_the_start_is_an_outage_later(void **state)
{
    (void)state;
    char server[CLUSTER_URL_BYTES], name[32], sql[128];
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(strstr(url, "@/") + 2, "?"), strstr(url, "@/") + 2);
    snprintf(server, sizeof(server), "postgresql://postgres@/postgres?host=%s", cluster.folder);
    assert_int_equal(add(&one, TEXT("a")), OK);
    snprintf(sql, sizeof(sql),
             "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '%s'", name);
    cluster_do(server, sql);
    snprintf(sql, sizeof(sql), "ALTER DATABASE %s RENAME TO elsewhere", name);
    cluster_do(server, sql);
    assert_int_equal(add(&one, TEXT("b")), OUTAGE);
    snprintf(sql, sizeof(sql), "ALTER DATABASE elsewhere RENAME TO %s", name);
    cluster_do(server, sql);
    assert_int_equal(add(&one, TEXT("b")), OK);
}

static void a_lock_of_a_tool_is_an_outage(void **state)
{
    (void)state;
    PGconn *tool = PQconnectdb(url);
    PQclear(PQexec(tool, "BEGIN; LOCK TABLE weir_test.things"));
    assert_int_equal(add(&one, TEXT("a")), OUTAGE);
    assert_string_equal(error.cause, "store-locked");
    PQfinish(tool);
    assert_int_equal(add(&one, TEXT("a")), OK);
}

/* ---- other instances */

static void many_instances_may_start_at_once(void **state)
{
    (void)state;
    enum { STARTS = 6 };
    pid_t pids[STARTS];
    for (int i = 0; i < STARTS; i++)
        if ((pids[i] = fork()) == 0) {
            struct instance mine = {NULL, NULL};
            _exit(open_at(&mine, url, "crowd") == OK ? 0 : 1);
        }
    for (int i = 0; i < STARTS; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
}

static void a_key_that_another_instance_added_since_is_tried_again(void **state)
{
    (void)state;
    assert_int_equal(open_at(&two, url, "test"), OK);
    assert_int_equal(work_begin(one.work, &error), OK);
    rows_want(one.work, &THINGS, &(struct thing){.name = TEXT("a")});
    assert_int_equal(work_read(one.work, &error), OK);
    assert_null(rows_get(one.work, &THINGS, &(struct thing){.name = TEXT("a")}));
    assert_int_equal(add(&two, TEXT("a")), OK);
    rows_add(one.work, &THINGS, &(struct thing){.name = TEXT("a")});
    assert_int_equal(work_commit(one.work, &error), RETRY);
    assert_true(is_there(&one, TEXT("a")));
}

/* As a handler that makes a row where it finds none. */
static enum outcome add_if_new(struct instance *instance, struct text name, bool *ret_found)
{
    assert_int_equal(work_begin(instance->work, &error), OK);
    rows_want_new(instance->work, &THINGS, &(struct thing){.name = name});
    assert_int_equal(work_read(instance->work, &error), OK);
    work_item_begin(instance->work);
    *ret_found = rows_get(instance->work, &THINGS, &(struct thing){.name = name});
    if (!*ret_found)
        rows_add(instance->work, &THINGS, &(struct thing){.name = name});
    return work_commit(instance->work, &error);
}

static void a_row_that_is_taken_for_new_and_is_there_is_a_race_and_found_when_it_is_tried_again(void **state)
{
    (void)state;
    bool found;
    assert_int_equal(open_at(&two, url, "test"), OK);
    assert_int_equal(add(&two, TEXT("a")), OK);
    assert_int_equal(add_if_new(&one, TEXT("a"), &found), RETRY);
    assert_true(store_raced(&error));
    assert_false(found);
    assert_int_equal(add_if_new(&one, TEXT("a"), &found), OK);
    assert_true(found);
    assert_int_equal(add_if_new(&one, TEXT("b"), &found), OK);
    assert_false(found);
    assert_int_equal(add_if_new(&one, TEXT("b"), &found), OK);
    assert_true(found);
}

static void a_row_that_is_also_wanted_as_any_other_is_not_taken_for_new(void **state)
{
    (void)state;
    const struct thing key = {.name = TEXT("a")};
    assert_int_equal(open_at(&two, url, "test"), OK);
    assert_int_equal(add(&two, TEXT("a")), OK);
    for (int wanted_first = 0; wanted_first < 2; wanted_first++) {
        assert_int_equal(work_begin(one.work, &error), OK);
        if (wanted_first)
            rows_want(one.work, &THINGS, &key);
        rows_want_new(one.work, &THINGS, &key);
        if (!wanted_first)
            rows_want(one.work, &THINGS, &key);
        assert_int_equal(work_read(one.work, &error), OK);
        assert_non_null(rows_get(one.work, &THINGS, &key));
        work_rollback(one.work);
    }
}

static void an_event_takes_effect_in_one_instance_only(void **state)
{
    (void)state;
    assert_int_equal(open_at(&two, url, "test"), OK);
    struct inbox_note first = {.id = id_new(), .attempt = 1}, second = first;
    struct instance *instances[] = {&one, &two};
    struct inbox_note *notes[] = {&first, &second};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(work_begin(instances[i]->work, &error), OK);
        inbox_note(instances[i]->work, notes[i], 1);
        assert_int_equal(work_read(instances[i]->work, &error), OK);
        assert_int_equal(work_commit(instances[i]->work, &error), OK);
    }
    assert_false(first.seen);
    assert_true(second.seen);
}

static void outbox_numbers_of_two_instances_go_up_in_the_order_of_their_commits(void **state)
{
    (void)state;
    assert_int_equal(open_at(&two, url, "test"), OK);
    int64_t last = 0;
    for (int i = 0; i < 10; i++) {
        struct instance *instance = i % 2 ? &two : &one;
        begin(instance);
        for (int row = 0; row < 3; row++)
            outbox_add(instance->work, &(struct outbox_row){.topic = TEXT("t"), .partition = -1});
        assert_int_equal(work_commit(instance->work, &error), OK);
        const struct outbox_row *rows;
        assert_int_equal(outbox_added(instance->work, &rows), 3);
        for (int row = 0; row < 3; row++) {
            assert_true(rows[row].seq > last);
            last = rows[row].seq;
        }
    }
}

/* ---- while it is waited for */

static void count_up(void *owner)
{
    ++*(int *)owner;
}

static void what_is_to_be_done_meanwhile_is_done_in_each_wait_until_it_is_taken_away(void **state)
{
    (void)state;
    int calls = 0, before;
    assert_true(store_meanwhile(one.store, count_up, &calls));
    assert_int_equal(work_begin(one.work, &error), OK);
    assert_int_equal(calls, 0); /* nothing is sent to the server yet */
    rows_want(one.work, &THINGS, &(struct thing){.name = TEXT("a")});
    assert_int_equal(work_read(one.work, &error), OK);
    before = calls;
    assert_true(before > 0);
    rows_add(one.work, &THINGS, &(struct thing){.name = TEXT("a")});
    assert_int_equal(calls, before);
    assert_int_equal(work_commit(one.work, &error), OK);
    assert_true(calls > before);
    cluster_kill(&cluster);
    before = calls;
    assert_int_equal(add(&one, TEXT("b")), OUTAGE); /* a server that is away may be waited for longest */
    assert_true(calls > before);
    cluster_go_on(&cluster);
    before = calls;
    assert_int_equal(add(&one, TEXT("b")), OK);
    assert_true(calls > before);
    store_meanwhile(one.store, NULL, NULL);
    before = calls;
    assert_int_equal(add(&one, TEXT("c")), OK);
    assert_int_equal(calls, before);
}

/* ---- a pooler */

static void a_pooler_in_transaction_mode_may_stand_between(void **state)
{
    (void)state;
    char pooled[CLUSTER_URL_BYTES];
    int64_t acknowledged = 0;
    cluster_pooler(&cluster, url, pooled);
    assert_true(batches_work_through(pooled, &acknowledged));
    assert_int_equal(batches_there(pooled), BATCHES);
    assert_int_equal(open_at(&two, pooled, "other"), OK);
    close_all(&one);
    assert_int_equal(open_at(&one, pooled, "test"), OK);
    static struct instances of_one, of_two;
    assert_int_equal(instances_beat(one.store, &of_one, &error), OK);
    assert_int_equal(instances_beat(two.store, &of_two, &error), OK);
    for (int i = 0; i < 20; i++) { /* each with the other's server connection, now and then */
        char name[16];
        struct instance *open = i % 3 ? &one : &two, *other = i % 3 ? &two : &one;
        snprintf(name, sizeof(name), "n%d", i);
        begin(open);
        assert_null(rows_get(open->work, &THINGS, &(struct thing){.name = text_of(name)}));
        assert_int_equal(add(other, text_of(name)), OK);
        assert_null(rows_get(open->work, &THINGS, &(struct thing){.name = TEXT("none")}));
        rows_add(open->work, &THINGS, &(struct thing){.name = text_of(name)});
        assert_int_equal(work_commit(open->work, &error), OK);
    }
    of_one.beat_us = 0;
    assert_int_equal(instances_beat(one.store, &of_one, &error), OK);
    assert_int_equal(of_one.others, 0); /* each service has its own */
    instances_leave(one.store, &of_one);
    instances_leave(two.store, &of_two);
    assert_int_equal(cluster_do(url, "SELECT count(*) FROM weir_test.things"), 20);
    assert_int_equal(cluster_do(url, "SELECT count(*) FROM weir_other.things"), 20);
    /* Nothing is left behind in its connections. */
    assert_int_equal(cluster_do(pooled, "SELECT count(*) FROM pg_prepared_statements"), 0);
    assert_int_equal(cluster_do(pooled,
                                "SELECT count(*) FROM pg_settings WHERE name = 'enable_seqscan' AND setting "
                                "= 'off'"),
                     0);
}

/* ---- text */

static void text_that_is_none_is_mended_where_people_read_it_and_refused_as_a_key(void **state)
{
    (void)state;
    begin(&one);
    rows_add(one.work, &THINGS,
             &(struct thing){.name = TEXT("a"), .said = {"5\0 caf\xe9 \xf0\x9f\x8c\xb0", 12}});
    assert_int_equal(work_commit(one.work, &error), OK);
    begin(&one);
    const struct thing *thing = rows_get(one.work, &THINGS, &(struct thing){.name = TEXT("a")});
    assert_non_null(thing);
    assert_true(text_is(thing->said, "5\xef\xbf\xbd caf\xef\xbf\xbd \xf0\x9f\x8c\xb0"));
    work_rollback(one.work);
    assert_int_equal(add(&one, (struct text){"b\0c", 3}), REJECT);
    assert_int_equal(add(&one, TEXT("b\xff")), REJECT);
}

static bool count_rows(void *owner, const struct store_row *row)
{
    int64_t *count = owner;
    assert_int_equal(store_row_int(row, 0), ++*count);
    return true;
}

static bool types(void *owner, const struct store_row *row)
{
    *(bool *)owner = true;
    assert_int_equal(store_row_int(row, 0), 7);
    assert_int_equal(store_row_int(row, 1), -123456789012);
    assert_int_equal(store_row_int(row, 2), 12);
    assert_int_equal(store_row_int(row, 3), 0);
    assert_int_equal(store_row_int(row, 4), 1);
    assert_true(text_is(store_row_text(row, 5), "x"));
    assert_int_equal(store_row_text(row, 6).length, 0);
    return true;
}

static void a_reader_takes_long_answers_in_steps(void **state)
{
    (void)state;
    struct store_reader *reader;
    int64_t count = 0;
    bool seen = false;
    assert_int_equal(store_reader_open(url, "test", &reader, &error), OK);
    assert_int_equal(store_read(reader, "SELECT generate_series(1, $1)",
                                (struct store_value[]){STORE_INT(2500)}, 1, count_rows, &count, &error),
                     OK);
    assert_int_equal(count, 2500);
    assert_int_equal(
        store_read(reader,
                   "SELECT CAST(7 AS smallint), sum(CAST(x AS bigint)), 12.9, CAST(NULL AS bigint), true, "
                   "'x', CAST(NULL AS text) FROM (VALUES (-123456789000), (-12)) AS v (x)",
                   NULL, 0, types, &seen, &error),
        OK);
    assert_true(seen);
    store_reader_close(reader);
}

/* ---- plans */

static char *server_log(void)
{
    char path[200];
    snprintf(path, sizeof(path), "%s/server.log", cluster.folder);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char *text = calloc(1, 64 << 20);
    assert_true(fread(text, 1, (64 << 20) - 1, file) > 0);
    fclose(file);
    return text;
}

/* Plans whose table was empty must be right for those that have rows since: each key has its probe. */
static void check_probes(const char *log)
{
    static const char *const tables[] = {"inbox", "outbox_pack", "things", "pairs"};
    const char *next;
    for (const char *from = strstr(log, "Query Text:"); from; from = next) {
        next = strstr(from + 1, "Query Text:");
        char *plan = strndup(from, next ? (size_t)(next - from) : strlen(from));
        if (strstr(plan, "unnest(") && strstr(plan, "Join Filter"))
            fail_msg("rows are compared with keys one by one: %s", plan);
        for (size_t i = 0; strstr(plan, "unnest(") && i < sizeof(tables) / sizeof(*tables); i++) {
            char on[32];
            snprintf(on, sizeof(on), " on %s", tables[i]);
            for (const char *at = plan; (at = strstr(at, on)); at++) {
                char *line = strndup(at, strcspn(at, "\n")), *after = strdup(at + strlen(line));
                const char *start = at;
                while (start > plan && start[-1] != '\n')
                    start--;
                bool scans = memmem(start, (size_t)(at - start), "Index Scan", 10) ||
                             memmem(start, (size_t)(at - start), "Index Only Scan", 15);
                if (scans && strncmp(after + strspn(after, " \t\n"), "Index Cond:", 11) != 0)
                    fail_msg("an index is read from end to end: %s", plan);
                free(line);
                free(after);
            }
        }
        free(plan);
    }
}

/* One of all that is done, on tables that were empty when the plans were made. */
static void plans_check(const char *log_from)
{
    enum { ROWS = 2000 };
    static struct inbox_note notes[ROWS];
    static struct instances instances, others;
    static struct id items[ROWS];
    char name[16];
    instances = others = (struct instances){0};
    for (int i = 0; i < ROWS; i++)
        items[i] = id_new();
    /* Two of four parts are another's: what is its to send is told apart. */
    assert_int_equal(open_at(&two, url, "test"), OK);
    instances.part_count = others.part_count = 4;
    memset(instances.wanted, true, 2);
    memset(others.wanted + 2, true, 2);
    for (int i = 0; i < 3; i++) {
        instances.beat_us = others.beat_us = 0;
        assert_int_equal(instances_beat(one.store, &instances, &error), OK);
        assert_int_equal(instances_beat(two.store, &others, &error), OK);
        memset(instances.wanted + 2, false, 2);
    }
    assert_int_equal(instances.owned_count, 2);
    for (int round = 0; round < 3; round++) {
        instances.beat_us = 0;
        assert_int_equal(instances_beat(one.store, &instances, &error), OK);
        assert_int_equal(work_begin(one.work, &error), OK);
        rows_ask(one.work, &THINGS);
        outbox_want_elsewhere(one.work, 100);
        for (int i = 0; i < ROWS; i++) {
            snprintf(name, sizeof(name), "n%d", i);
            rows_want(one.work, &THINGS,
                      &(struct thing){.name = text_copy(work_arena(one.work), text_of(name))});
            rows_want(one.work, &PAIRS, &(struct pair){.side = TEXT("l"), .item = items[i]});
            notes[i] = (struct inbox_note){.id = i % 10 || !round ? id_new() : notes[i].id,
                                           .attempt = round + 1,
                                           .by_effect = i % 3 == 0};
        }
        inbox_note(one.work, notes, ROWS);
        assert_int_equal(work_read(one.work, &error), OK);
        work_item_begin(one.work);
        for (int i = 0; i < ROWS; i++) {
            snprintf(name, sizeof(name), "n%d", i);
            struct thing *thing = rows_get(one.work, &THINGS, &(struct thing){.name = text_of(name)});
            if (!thing)
                thing = rows_add(one.work, &THINGS, &(struct thing){.name = text_of(name)});
            thing->due += i;
            struct pair *pair =
                rows_get(one.work, &PAIRS, &(struct pair){.side = TEXT("l"), .item = items[i]});
            if (!pair)
                pair = rows_add(one.work, &PAIRS, &(struct pair){.side = TEXT("l"), .item = items[i]});
            pair->number += i;
            if (round == 2 && i % 7 == 0) {
                rows_delete(one.work, &THINGS, thing);
                rows_delete(one.work, &PAIRS, pair);
            }
            if (i % 10 == 0)
                inbox_moved(one.work, &notes[i]);
            else if (i % 10 == 1)
                inbox_forget(one.work, &notes[i]);
            outbox_add(one.work, &(struct outbox_row){.topic = TEXT("t"),
                                                      .partition = -1,
                                                      .key = text_copy(work_arena(one.work), text_of(name))});
        }
        assert_int_equal(work_commit(one.work, &error), OK);
        const struct outbox_row *rows;
        size_t count = outbox_added(one.work, &rows);
        int64_t first = rows[0].seq, last = rows[count - 1].seq;
        begin(&one);
        outbox_done(one.work, (int64_t[]){first, first + 2, last}, 3);
        outbox_refused(one.work, first + 5, TEXT("why"));
        outbox_read_elsewhere(one.work, 10, &rows, &(bool){false});
        assert_int_equal(outbox_read(one.work, first, 10, &rows, &(bool){false}), 10);
        void **found;
        rows_find(one.work, &THINGS, "due > 0 AND due <= $1 ORDER BY due",
                  (struct store_value[]){STORE_INT(100)}, 1, 10, &found);
        rows_find(one.work, &THINGS, "name > $1 ORDER BY name",
                  (struct store_value[]){STORE_TEXT(TEXT("n5"))}, 1, 10, &found);
        rows_find_free(one.work, &THINGS, "due > 0 AND due <= $1 ORDER BY due",
                       (struct store_value[]){STORE_INT(100)}, 1, 10, &found);
        rows_count(one.work, &THINGS, "due <= $1", (struct store_value[]){STORE_INT(100)}, 1);
        inbox_prune(one.work, notes[0].attempt, 100);
        assert_int_equal(work_commit(one.work, &error), OK);
    }
    char *whole = server_log(), *log = strstr(whole, log_from);
    assert_non_null(log);
    check_probes(log);
    static const char *const used[] = {
        "Index Scan using inbox_pkey",
        "Index Scan using outbox_pack_pkey",
        "Index Scan using outbox_pack_elsewhere",
        "Index Scan using instance_pkey",
        "Index Scan using things_pkey",
        "Scan using things_due",
        "Index Scan using pairs_pkey",
        "Tid Range Scan on inbox",
        "Insert on outbox_refused",
        "LockRows",
    };
    for (size_t i = 0; i < sizeof(used) / sizeof(*used); i++)
        if (!strstr(log, used[i]))
            fail_msg("no plan has: %s", used[i]);
    static const char *const tables[] = {"inbox", "outbox_pack", "things", "pairs"};
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        char scan[64];
        snprintf(scan, sizeof(scan), "Seq Scan on %s", tables[i]);
        for (const char *at = log; (at = strstr(at, scan)); at++) {
            const char *from = at;
            while (from > log && strncmp(from, "Query Text:", 11) != 0)
                from--;
            /* At the start the outbox is counted. */
            if (!strstr(from, "sum(events) FROM outbox_pack") ||
                strstr(from, "sum(events) FROM outbox_pack") > at)
                fail_msg("%.*s", (int)(at - from) + 60, from);
        }
    }
    free(whole);
    instances_leave(one.store, &instances);
    instances_leave(two.store, &others);
}

/* Nobody has analysed them: the planner takes such tables for larger than they are. */
/* How often things were looked for by key. */
static size_t looks(void)
{
    size_t count = 0;
    char *log = server_log();
    for (const char *at = log; (at = strstr(at, "JOIN \"weir_test\".things")); at++)
        count++;
    free(log);
    return count;
}

static void rows_that_are_taken_for_new_are_not_looked_for(void **state)
{
    (void)state;
    char name[16];
    bool found;
    assert_int_equal(add(&one, TEXT("a")), OK);
    size_t before = looks();
    assert_true(before > 0);
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof(name), "new-%d", i);
        assert_int_equal(add_if_new(&one, text_of(name), &found), OK);
        assert_false(found);
    }
    assert_int_equal(looks(), before);
    assert_int_equal(add_if_new(&one, TEXT("new-3"), &found), OK);
    assert_true(found);
    assert_true(looks() > before);
}

static void nothing_that_a_batch_does_reads_a_table_from_end_to_end(void **state)
{
    (void)state;
    plans_check("");
}

/* As autovacuum does after a table was emptied by pruning: from here on the planner knows it for empty. */
static void plans_made_while_tables_were_empty_and_known_to_be_are_right_when_they_have_grown(void **state)
{
    (void)state;
    static const char *const tables[] = {"inbox", "outbox_pack", "outbox_refused", "instance",
                                         "part",  "things",      "pairs"};
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++) {
        char sql[64];
        snprintf(sql, sizeof(sql), "VACUUM (ANALYZE) weir_test.%s", tables[i]);
        cluster_do(url, sql);
    }
    assert_int_equal(cluster_do(url, "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = "
                                     "c.relnamespace WHERE n.nspname = 'weir_test' AND c.relname IN "
                                     "('inbox', 'outbox_pack', 'things', 'pairs') AND c.reltuples = 0"),
                     4);
    cluster_do(url, "SELECT 'from here on'");
    plans_check("SELECT 'from here on'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_that_a_batch_does_reads_a_table_from_end_to_end, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            plans_made_while_tables_were_empty_and_known_to_be_are_right_when_they_have_grown, setup,
            teardown),
        cmocka_unit_test_setup_teardown(what_only_a_person_can_put_right_is_a_configuration_error, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_check_makes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(an_outage_begins_and_ends_with_the_server, setup, teardown),
        cmocka_unit_test_setup_teardown(
            a_commit_that_took_effect_unseen_ends_the_process_that_knows_nothing_of_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_commit_in_doubt_that_is_cut_again_is_not_taken_for_undone, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_restart_between_two_batches_goes_unnoticed, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_an_error_at_the_start_is_an_outage_later, setup, teardown),
        cmocka_unit_test_setup_teardown(a_lock_of_a_tool_is_an_outage, setup, teardown),
        cmocka_unit_test_setup_teardown(many_instances_may_start_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(a_key_that_another_instance_added_since_is_tried_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            a_row_that_is_taken_for_new_and_is_there_is_a_race_and_found_when_it_is_tried_again, setup,
            teardown),
        cmocka_unit_test_setup_teardown(a_row_that_is_also_wanted_as_any_other_is_not_taken_for_new, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(rows_that_are_taken_for_new_are_not_looked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(an_event_takes_effect_in_one_instance_only, setup, teardown),
        cmocka_unit_test_setup_teardown(outbox_numbers_of_two_instances_go_up_in_the_order_of_their_commits,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            what_is_to_be_done_meanwhile_is_done_in_each_wait_until_it_is_taken_away, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pooler_in_transaction_mode_may_stand_between, setup, teardown),
        cmocka_unit_test_setup_teardown(text_that_is_none_is_mended_where_people_read_it_and_refused_as_a_key,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_reader_takes_long_answers_in_steps, setup, teardown),
    };
    cluster_start(&cluster);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cluster_remove(&cluster);
    return failed;
}

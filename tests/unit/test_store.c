#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/outbox.h"
#include "support/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct thing {
    int64_t id;
    struct text name;
};
static const struct rows_column THING_COLUMNS[] = {
    ROWS_COLUMN(thing, id, ROWS_INT),
    ROWS_COLUMN(thing, name, ROWS_TEXT),
};
static const struct rows_table THINGS = {.name = "things",
                                         .columns = THING_COLUMNS,
                                         .column_count = 2,
                                         .key_count = 1,
                                         .row_bytes = sizeof(struct thing)};
static const struct rows_table *const TABLES[] = {&THINGS};

/* The same table one version later. */
struct grown {
    int64_t id;
    struct text name;
    int64_t weight;
};
static const struct rows_column GROWN_COLUMNS[] = {
    ROWS_COLUMN(grown, id, ROWS_INT),
    ROWS_COLUMN(grown, name, ROWS_TEXT),
    ROWS_COLUMN(grown, weight, ROWS_INT),
};
static const struct rows_table GROWN = {.name = "things",
                                        .columns = GROWN_COLUMNS,
                                        .column_count = 3,
                                        .key_count = 1,
                                        .row_bytes = sizeof(struct grown)};
static const struct rows_table *const GROWN_TABLES[] = {&GROWN};
static const struct migration MIGRATIONS[] = {
    {1, "ALTER TABLE things ADD COLUMN weight INTEGER NOT NULL DEFAULT 7",
     "ALTER TABLE things ADD COLUMN weight BIGINT NOT NULL DEFAULT 7"},
    {2, "UPDATE things SET weight = weight + 1; CREATE INDEX things_by_weight ON things (weight)",
     "UPDATE things SET weight = weight + 1; CREATE INDEX things_by_weight ON things (weight)"},
};

static struct scratch scratch;
static struct store *store;
static struct work *work;
static struct error error;

static enum outcome open_store(const char *service)
{
    return store_open(scratch.url, service, &store, &error);
}

static void open_things(void)
{
    assert_int_equal(open_store("test"), OK);
    assert_int_equal(store_migrate(store, TABLES, 1, NULL, 0, &error), OK);
    assert_int_equal(work_new(store, 1 << 20, &work, &error), OK);
}

static void close_things(void)
{
    work_destroy(work);
    store_close(store);
    work = NULL;
    store = NULL;
}

static void begin(void)
{
    assert_int_equal(work_begin(work, &error), OK);
    assert_int_equal(work_read(work, &error), OK);
}

static enum outcome add_thing(int64_t id)
{
    begin();
    rows_add(work, &THINGS, &(struct thing){id, TEXT("thing")});
    return work_commit(work, &error);
}

static int64_t things(void)
{
    begin();
    int64_t count = rows_count(work, &THINGS, NULL, NULL, 0);
    work_rollback(work);
    return count;
}

static int setup(void **state)
{
    (void)state;
    scratch_make(&scratch);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close_things();
    scratch_remove(&scratch);
    return 0;
}

static void reopening_keeps_what_was_committed(void **state)
{
    (void)state;
    open_things();
    assert_int_equal(add_thing(1), OK);
    begin();
    rows_add(work, &THINGS, &(struct thing){2, TEXT("never")});
    close_things(); /* rolls back */
    open_things();
    assert_int_equal(things(), 1);
}

static void a_large_commit_is_whole(void **state)
{
    (void)state;
    enum { COUNT = 60, BYTES = 8 << 10 };
    static char names[COUNT][BYTES];
    open_things();
    begin();
    for (int64_t id = 0; id < COUNT; id++) {
        memset(names[id], 'A' + (int)id, BYTES);
        rows_add(work, &THINGS, &(struct thing){id, {names[id], BYTES}});
    }
    assert_int_equal(work_commit(work, &error), OK);
    close_things();
    open_things();
    for (int64_t id = 0; id < COUNT; id++) {
        begin();
        const struct thing *thing = rows_get(work, &THINGS, &(struct thing){id, {NULL, 0}});
        assert_non_null(thing);
        assert_true(text_equal(thing->name, (struct text){names[id], BYTES}));
        work_rollback(work);
    }
}

static void what_only_a_person_can_put_right_is_a_configuration_error(void **state)
{
    (void)state;
    static const char *const urls[] = {"",
                                       "sqlite:",
                                       "mysql://x",
                                       "postgresql://user:secret@host/db?secret=1",
                                       "sqlite:/nowhere/at/all/x.db",
                                       "sqlite:/"};
    for (size_t i = 0; i < sizeof(urls) / sizeof(*urls); i++) {
        assert_int_equal(store_open(urls[i], "test", &store, &error), FATAL);
        assert_int_equal(error.exit_code, EXIT_CONFIG);
        assert_null(strstr(error.text, "secret"));
    }
    FILE *file = fopen(scratch.path, "w");
    for (int i = 0; i < 1000; i++)
        fputs("this is a shopping list", file);
    fclose(file);
    assert_int_equal(open_store("test"), FATAL);
    assert_int_equal(error.exit_code, EXIT_CONFIG);
    assert_string_equal(error.cause, "store-not-a-database");
    assert_non_null(strstr(error.text, scratch.path));
    unlink(scratch.path);

    sqlite3 *db;
    assert_int_equal(sqlite3_open(scratch.path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE photos (id)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(open_store("test"), FATAL);
    assert_int_equal(error.exit_code, EXIT_CONFIG);
    assert_string_equal(error.cause, "store-foreign");
}

static void the_file_of_another_service_is_refused(void **state)
{
    (void)state;
    assert_int_equal(open_store("order"), OK);
    store_close(store);
    store = NULL;
    assert_int_equal(open_store("email"), FATAL);
    assert_int_equal(error.exit_code, EXIT_CONFIG);
    assert_non_null(strstr(error.text, "'order'"));
    assert_int_equal(open_store("order"), OK);
}

static void a_second_process_is_refused_by_number_until_the_first_ends(void **state)
{
    (void)state;
    int ready[2], end[2];
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(end), 0);
    pid_t child = fork();
    if (child == 0) {
        char byte = 'k';
        bool opened = store_open(scratch.url, "test", &store, &error) == OK;
        if (!opened || write(ready[1], &byte, 1) != 1 || read(end[0], &byte, 1) != 1)
            _exit(1);
        _exit(0); /* without closing: as if killed */
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(open_store("test"), FATAL);
    assert_int_equal(error.exit_code, EXIT_TRY_AGAIN);
    char expected[64];
    snprintf(expected, sizeof(expected), "in use by process %d;", (int)child);
    assert_non_null(strstr(error.text, expected));
    assert_int_equal(write(end[1], "e", 1), 1);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    open_things();
    assert_int_equal(add_thing(1), OK);
}

static void the_file_is_in_wal_mode(void **state)
{
    (void)state;
    open_things();
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(scratch.path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    sqlite3_stmt *mode;
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA journal_mode", -1, &mode, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(mode), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(mode, 0), "wal");
    sqlite3_finalize(mode);
    sqlite3_close(db);
}

static void migrations_are_applied_once_and_in_order(void **state)
{
    (void)state;
    open_things();
    assert_int_equal(add_thing(1), OK);
    close_things();
    for (int i = 0; i < 3; i++) {
        assert_int_equal(open_store("test"), OK);
        assert_int_equal(store_migrate(store, GROWN_TABLES, 1, MIGRATIONS, 2, &error), OK);
        assert_int_equal(work_new(store, 1 << 20, &work, &error), OK);
        begin();
        const struct grown *row = rows_get(work, &GROWN, &(struct grown){.id = 1});
        assert_non_null(row);
        assert_int_equal(row->weight, 8);
        work_rollback(work);
        close_things();
    }
}

static void a_new_database_has_the_newest_state_without_migrations(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(open_store("test"), OK);
        assert_int_equal(store_migrate(store, GROWN_TABLES, 1, MIGRATIONS, 2, &error), OK);
        close_things();
    }
}

struct later {
    int64_t id;
    struct text name;
    int64_t weight;
    struct text label, blob;
    struct id owner;
    int64_t open;
};
static const struct rows_column LATER_COLUMNS[] = {
    ROWS_COLUMN(later, id, ROWS_INT),     ROWS_COLUMN(later, name, ROWS_TEXT),
    ROWS_COLUMN(later, weight, ROWS_INT), ROWS_COLUMN(later, label, ROWS_TEXT),
    ROWS_COLUMN(later, blob, ROWS_BYTES), ROWS_COLUMN(later, owner, ROWS_ID),
    ROWS_COLUMN(later, open, ROWS_INT),
};
static const struct rows_table LATER = {.name = "things",
                                        .columns = LATER_COLUMNS,
                                        .column_count = sizeof(LATER_COLUMNS) / sizeof(*LATER_COLUMNS),
                                        .key_count = 1,
                                        .row_bytes = sizeof(struct later),
                                        .indexes = {"owner", "weight WHERE open = 1"}};

static void columns_of_a_later_version_are_added_at_no_value_and_what_migrations_say_counts(void **state)
{
    (void)state;
    static const struct rows_table *const tables[] = {&LATER};
    static const struct id none;
    open_things();
    assert_int_equal(add_thing(1), OK);
    close_things();
    for (int i = 0; i < 2; i++) { /* the second time all is there */
        assert_int_equal(open_store("test"), OK);
        assert_int_equal(store_migrate(store, tables, 1, MIGRATIONS, 2, &error), OK);
        assert_int_equal(work_new(store, 1 << 20, &work, &error), OK);
        begin();
        struct later *row = rows_get(work, &LATER, &(struct later){.id = 1});
        assert_non_null(row);
        assert_true(text_is(row->name, "thing"));
        assert_int_equal(row->weight, i ? 3 : 8);
        assert_int_equal(row->label.length, i ? 1 : 0);
        assert_int_equal(row->blob.length, 0);
        assert_true(id_equal(row->owner, none));
        assert_int_equal(row->open, i);
        row->weight = 3;
        row->label = TEXT("x");
        row->open = 1;
        assert_int_equal(work_commit(work, &error), OK);
        begin();
        void **found;
        assert_int_equal(rows_find(work, &LATER, "open = 1 AND weight = $1",
                                   (struct store_value[]){STORE_INT(3)}, 1, 10, &found),
                         1);
        work_rollback(work);
        close_things();
    }
    /* An instance of the earlier version goes on. */
    open_things();
    assert_int_equal(add_thing(2), OK);
}

static void a_failed_migration_leaves_nothing_behind_and_a_missing_one_is_named(void **state)
{
    (void)state;
    open_things();
    assert_int_equal(add_thing(1), OK);
    static const struct migration broken[] = {{1, "DELETE FROM things; DELETE FROM nothing_there",
                                               "DELETE FROM things; DELETE FROM nothing_there"}};
    assert_int_equal(store_migrate(store, TABLES, 1, broken, 1, &error), FATAL);
    assert_non_null(strstr(error.text, "migration 1"));
    assert_int_equal(things(), 1);
    close_things();
    assert_int_equal(open_store("test"), OK);
    static const struct rows_column rekeyed_columns[] = {
        ROWS_COLUMN(grown, weight, ROWS_INT),
        ROWS_COLUMN(grown, id, ROWS_INT),
        ROWS_COLUMN(grown, name, ROWS_TEXT),
    };
    static const struct rows_table rekeyed = {.name = "things",
                                              .columns = rekeyed_columns,
                                              .column_count = 3,
                                              .key_count = 1,
                                              .row_bytes = sizeof(struct grown)};
    static const struct rows_table *const rekeyed_tables[] = {&rekeyed};
    assert_int_equal(store_migrate(store, rekeyed_tables, 1, NULL, 0, &error), FATAL);
    assert_non_null(strstr(error.text, "things"));
}

static void a_database_locked_by_a_tool_is_an_outage_that_ends(void **state)
{
    (void)state;
    open_things();
    sqlite3 *tool;
    assert_int_equal(sqlite3_open(scratch.path, &tool), SQLITE_OK);
    assert_int_equal(sqlite3_exec(tool, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(work_begin(work, &error), OUTAGE);
    assert_non_null(strstr(error.text, "locked by another process"));
    assert_int_equal(store_probe(store, &error), OUTAGE);
    assert_int_equal(sqlite3_exec(tool, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(tool);
    assert_int_equal(store_probe(store, &error), OK);
    assert_int_equal(add_thing(1), OK);
    assert_int_equal(things(), 1);
}

/* ---- a full disk: SQLite's own hook for system calls ---- */

static bool disk_is_full;

static ssize_t full_pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    if (disk_is_full) {
        errno = ENOSPC;
        return -1;
    }
    return pwrite(fd, bytes, count, offset);
}

static void a_full_disk_is_an_outage_that_says_so_and_ends(void **state)
{
    (void)state;
    sqlite3_initialize();
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    assert_int_equal(vfs->xSetSystemCall(vfs, "pwrite", (sqlite3_syscall_ptr)full_pwrite), SQLITE_OK);
    vfs->xSetSystemCall(vfs, "pwrite64", (sqlite3_syscall_ptr)full_pwrite);
    open_things();
    assert_int_equal(add_thing(1), OK);
    disk_is_full = true;
    assert_int_equal(add_thing(2), OUTAGE);
    assert_non_null(strstr(error.text, "the disk is full"));
    assert_int_equal(store_probe(store, &error), OUTAGE);
    assert_int_equal(things(), 1);
    disk_is_full = false;
    assert_int_equal(store_probe(store, &error), OK);
    assert_int_equal(add_thing(2), OK);
    close_things();
    disk_is_full = true;
    char other[300];
    snprintf(other, sizeof(other), "%s.new", scratch.url);
    assert_int_equal(store_open(other, "test", &store, &error), OUTAGE);
    assert_non_null(strstr(error.text, "the disk is full"));
    disk_is_full = false;
    vfs->xSetSystemCall(vfs, "pwrite", NULL);
    vfs->xSetSystemCall(vfs, "pwrite64", NULL);
    open_things();
    assert_int_equal(things(), 2);
}

static void a_file_that_was_taken_away_is_noticed_by_the_probe(void **state)
{
    (void)state;
    open_things();
    assert_int_equal(store_probe(store, &error), OK);
    assert_int_equal(unlink(scratch.path), 0);
    assert_int_equal(store_probe(store, &error), FATAL);
    assert_string_equal(error.cause, "store-moved");
}

static void a_damaged_file_is_fatal(void **state)
{
    (void)state;
    open_things();
    for (int64_t id = 1; id < 500; id++) {
        begin();
        rows_add(work, &THINGS,
                 &(struct thing){id, TEXT("a thing with a name that fills the pages of the file")});
        assert_int_equal(work_commit(work, &error), OK);
    }
    close_things();
    int fd = open(scratch.path, O_RDWR);
    off_t size = lseek(fd, 0, SEEK_END);
    char junk[4096];
    memset(junk, 0x5a, sizeof(junk));
    for (off_t at = 4096; at < size; at += 8192)
        assert_int_equal(pwrite(fd, junk, sizeof(junk), at), sizeof(junk));
    close(fd);
    assert_int_equal(open_store("test"), FATAL);
    assert_string_equal(error.cause, "store-damaged");
}

/* ---- reading beside ---- */

struct seen_rows {
    size_t count;
    size_t stop_after;
    int64_t last;
    char name[32];
};

static bool see(void *owner, const struct store_row *row)
{
    struct seen_rows *seen = owner;
    seen->last = store_row_int(row, 0);
    snprintf(seen->name, sizeof(seen->name), "%.*s", TEXT_ARG(store_row_text(row, 1)));
    return ++seen->count < seen->stop_after;
}

static void a_reader_sees_what_was_committed_while_the_writer_goes_on(void **state)
{
    (void)state;
    open_things();
    struct store_reader *reader;
    assert_int_equal(store_reader_open(scratch.url, "other", &reader, &error), FATAL);
    assert_int_equal(store_reader_open(scratch.url, "test", &reader, &error), OK);
    for (int64_t id = 1; id <= 10; id++)
        assert_int_equal(add_thing(id), OK);
    begin();
    rows_add(work, &THINGS, &(struct thing){11, TEXT("open")});
    struct seen_rows seen = {.stop_after = 3};
    static const char sql[] =
        "SELECT id, name FROM things WHERE id > $1 AND name <> '$1' AND name = $2 ORDER BY id";
    const struct store_value values[] = {STORE_INT(4), STORE_TEXT(TEXT("thing"))};
    assert_int_equal(store_read(reader, sql, values, 2, see, &seen, &error), OK);
    assert_int_equal(seen.count, 3);
    assert_int_equal(seen.last, 7);
    assert_string_equal(seen.name, "thing");
    seen = (struct seen_rows){.stop_after = 100};
    assert_int_equal(store_read(reader, sql, values, 2, see, &seen, &error), OK);
    assert_int_equal(seen.count, 6);
    assert_int_equal(work_commit(work, &error), OK);
    assert_int_equal(store_read(reader, "DELETE FROM things", NULL, 0, see, &seen, &error), FATAL);
    assert_int_equal(store_read(reader, "SELECT nonsense", NULL, 0, see, &seen, &error), FATAL);
    store_reader_close(reader);
    assert_int_equal(things(), 11);
}

static off_t wal_bytes(void)
{
    char path[200];
    snprintf(path, sizeof(path), "%s-wal", scratch.path);
    struct stat about;
    return stat(path, &about) == 0 ? about.st_size : 0;
}

static bool first_only(void *owner, const struct store_row *row)
{
    (void)row;
    int64_t *id = owner;
    char *block = malloc(64 << 10);
    memset(block, 'x', 64 << 10);
    for (int64_t end = *id + 300; *id < end;
         ++*id) { /* a reader in the middle of its query: the log cannot be reset */
        begin();
        rows_add(work, &THINGS, &(struct thing){*id, {block, 64 << 10}});
        assert_int_equal(work_commit(work, &error), OK);
    }
    free(block);
    return false;
}

static void the_log_is_bounded_and_shrinks_again_after_a_long_reader(void **state)
{
    (void)state;
    open_things();
    assert_int_equal(add_thing(1), OK);
    char *block = malloc(64 << 10);
    memset(block, 'x', 64 << 10);
    int64_t id = 2;
    for (; id < 402; id++) { /* 25 MB through a log of 8 */
        begin();
        rows_add(work, &THINGS, &(struct thing){id, {block, 64 << 10}});
        assert_int_equal(work_commit(work, &error), OK);
    }
    assert_true(wal_bytes() < 12 << 20);
    struct store_reader *reader;
    assert_int_equal(store_reader_open(scratch.url, "test", &reader, &error), OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(store_read(reader, "SELECT id FROM things", NULL, 0, first_only, &id, &error), OK);
    store_reader_close(reader);
    assert_true(wal_bytes() > 64 << 20);
    for (int i = 0; i < 20; i++, id++) {
        begin();
        rows_add(work, &THINGS, &(struct thing){id, {block, 64 << 10}});
        assert_int_equal(work_commit(work, &error), OK);
    }
    free(block);
    assert_true(wal_bytes() < 12 << 20);
    assert_int_equal(things(), id - 1);
}

static void a_check_makes_nothing_and_says_what_opening_would(void **state)
{
    (void)state;
    bool there = true;
    assert_int_equal(store_check(scratch.url, "test", &there, &error), OK);
    assert_false(there);
    assert_int_equal(scratch_files(&scratch), 0);
    assert_int_equal(store_check("sqlite:/no/such/folder/x.db", "test", &there, &error), FATAL);
    assert_int_equal(error_exit_code(&error), EXIT_CONFIG);
    open_things();
    assert_int_equal(store_check(scratch.url, "test", &there, &error), FATAL); /* in use */
    assert_int_equal(error_exit_code(&error), EXIT_TRY_AGAIN);
    close_things();
    assert_int_equal(store_check(scratch.url, "test", &there, &error), OK);
    assert_true(there);
    assert_int_equal(store_check(scratch.url, "other", &there, &error), FATAL);
    assert_int_equal(error_exit_code(&error), EXIT_CONFIG);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest both[] = {
        cmocka_unit_test_setup_teardown(reopening_keeps_what_was_committed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_large_commit_is_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(migrations_are_applied_once_and_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_new_database_has_the_newest_state_without_migrations, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            columns_of_a_later_version_are_added_at_no_value_and_what_migrations_say_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failed_migration_leaves_nothing_behind_and_a_missing_one_is_named,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_reader_sees_what_was_committed_while_the_writer_goes_on, setup,
                                        teardown),
    };
    const struct CMUnitTest sqlite_only[] = {
        /* files, and what SQLite makes of them */
        cmocka_unit_test_setup_teardown(a_check_makes_nothing_and_says_what_opening_would, setup, teardown),
        cmocka_unit_test_setup_teardown(what_only_a_person_can_put_right_is_a_configuration_error, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_file_of_another_service_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_process_is_refused_by_number_until_the_first_ends, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_file_is_in_wal_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(a_database_locked_by_a_tool_is_an_outage_that_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_disk_is_an_outage_that_says_so_and_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_was_taken_away_is_noticed_by_the_probe, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_file_is_fatal, setup, teardown),
        cmocka_unit_test_setup_teardown(the_log_is_bounded_and_shrinks_again_after_a_long_reader, setup,
                                        teardown),
    };
    scratch_choose(argc, argv);
    int failed = cmocka_run_group_tests(both, NULL, NULL);
    return failed || scratch_cluster() ? failed : cmocka_run_group_tests(sqlite_only, NULL, NULL);
}

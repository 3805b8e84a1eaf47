#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/crash.h"
#include "support/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct rows_table *const tables[] = {&suspects_table};

struct fixture {
    struct scratch scratch;
    char path[200]; /* of the note */
    struct store *store;
    struct work *work;
    struct error error;
    int64_t now_us;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    scratch_make(&fixture->scratch);
    snprintf(fixture->path, sizeof(fixture->path), "%s/crash", fixture->scratch.folder);
    fixture->now_us = 1000000;
    assert_int_equal(store_open(fixture->scratch.url, "crash", &fixture->store, &fixture->error), OK);
    assert_int_equal(store_migrate(fixture->store, tables, 1, NULL, 0, &fixture->error), OK);
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
    return 0;
}

static struct record record(const char *topic, int32_t partition, int64_t offset)
{
    return (struct record){.topic = text_of(topic), .partition = partition, .offset = offset};
}

enum death { KILLED, ABORTED, LEFT, CLOSED };

/* A process that takes the record in hand and ends like this. Nothing of the parent's is touched: the child
 * opens the note itself, and nothing else. */
static void die(const struct fixture *fixture, struct record in_hand, enum death death)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct crash *crash;
        struct error error;
        struct record before = record("orders", 0, 1);
        if (crash_open(fixture->path, &crash, &error) != OK)
            _exit(10);
        crash_enter(crash, &before);
        crash_leave(crash);
        crash_enter(crash, &in_hand);
        switch (death) {
        case KILLED:
            raise(SIGKILL);
            break;
        case ABORTED:
            signal(SIGABRT, SIG_DFL);
            abort();
        case LEFT:
            crash_leave(crash);
            raise(SIGKILL);
            break;
        case CLOSED:
            crash_close(crash);
            _exit(0);
        }
        _exit(11);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    switch (death) {
    case KILLED:
    case LEFT:
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        break;
    case ABORTED:
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        break;
    case CLOSED:
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        break;
    }
}

static struct crash *opened(struct fixture *fixture)
{
    struct crash *crash;
    enum outcome outcome = crash_open(fixture->path, &crash, &fixture->error);
    if (outcome != OK)
        fail_msg("%s", fixture->error.text);
    return crash;
}

/* As the start does: returns the crashes of what was found. */
static int load(struct fixture *fixture, struct crash *crash)
{
    int crashes = -1;
    assert_int_equal(work_begin(fixture->work, &fixture->error), OK);
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
    crash_load(crash, fixture->work, fixture->now_us++, &crashes);
    assert_int_equal(work_commit(fixture->work, &fixture->error), OK);
    crash_committed(crash);
    return crashes;
}

static void begin(struct fixture *fixture)
{
    assert_int_equal(work_begin(fixture->work, &fixture->error), OK);
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
    work_item_begin(fixture->work);
}

static int64_t suspects(struct fixture *fixture)
{
    begin(fixture);
    int64_t count = rows_count(fixture->work, &suspects_table, NULL, NULL, 0);
    assert_int_equal(work_failed(fixture->work, NULL), OK);
    work_rollback(fixture->work);
    return count;
}

/* ---- the note */

static void a_note_names_what_was_in_hand_at_the_end(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        enum death death;
        bool found;
    } ends[] = {{KILLED, true}, {ABORTED, true}, {LEFT, false}, {CLOSED, false}};
    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
        die(fixture, record("retry.email.2s", 5, INT64_C(9007199254740993)), ends[i].death);
        struct crash *crash = opened(fixture);
        struct crash_place place;
        assert_int_equal(crash_found(crash, &place), ends[i].found);
        if (ends[i].found) {
            assert_string_equal(place.topic, "retry.email.2s");
            assert_int_equal(place.partition, 5);
            assert_int_equal(place.offset, INT64_C(9007199254740993));
            load(fixture, crash);
        }
        crash_close(crash);
        crash = opened(fixture);
        assert_false(crash_found(crash, &place)); /* counted once */
        crash_close(crash);
    }
}

static void a_topic_of_the_greatest_length_is_noted_whole(void **state)
{
    struct fixture *fixture = *state;
    char topic[250];
    memset(topic, 'a', 249);
    topic[249] = '\0';
    die(fixture, record(topic, 0, 0), KILLED);
    struct crash *crash = opened(fixture);
    struct crash_place place;
    assert_true(crash_found(crash, &place));
    assert_string_equal(place.topic, topic);
    crash_close(crash);
}

static void what_was_found_and_not_counted_is_found_again(void **state)
{
    struct fixture *fixture = *state;
    die(fixture, record("orders", 1, 7), KILLED);
    for (int i = 0; i < 3; i++) { /* starts that do not reach the database */
        struct crash *crash = opened(fixture);
        struct crash_place place;
        assert_true(crash_found(crash, &place));
        crash_close(crash);
    }
    struct crash *crash = opened(fixture);
    int crashes;
    assert_int_equal(work_begin(fixture->work, &fixture->error), OK);
    assert_int_equal(work_read(fixture->work, &fixture->error), OK);
    crash_load(crash, fixture->work, 1, &crashes);
    assert_int_equal(crashes, 1);
    work_rollback(fixture->work);
    crash_rolled_back(crash);
    assert_int_equal(load(fixture, crash), 1); /* not 2 */
    assert_int_equal(load(fixture, crash), 0); /* counted already */
    struct record suspect = record("orders", 1, 7);
    assert_int_equal(crash_count(crash, &suspect), 1);
    crash_close(crash);
}

static void a_second_process_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct crash *crash = opened(fixture), *second = NULL;
    assert_int_equal(crash_open(fixture->path, &second, &fixture->error), FATAL);
    assert_int_equal(fixture->error.exit_code, EXIT_TRY_AGAIN);
    assert_non_null(strstr(fixture->error.text, fixture->path));
    assert_null(second);
    crash_close(crash);
    crash_close(opened(fixture));
}

static void write_file(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void a_file_that_is_not_ours_is_left_alone(void **state)
{
    struct fixture *fixture = *state;
    crash_close(opened(fixture));
    struct stat is;
    assert_int_equal(stat(fixture->path, &is), 0);
    size_t whole = (size_t)is.st_size;
    char *bytes = malloc(whole + 1);
    memset(bytes, 'x', whole + 1);
    const size_t sizes[] = {1, whole - 1, whole, whole + 1};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct crash *crash = NULL;
        write_file(fixture->path, bytes, sizes[i]);
        assert_int_equal(crash_open(fixture->path, &crash, &fixture->error), FATAL);
        assert_int_equal(fixture->error.exit_code, EXIT_CONFIG);
        assert_null(crash);
        assert_int_equal(stat(fixture->path, &is), 0);
        assert_int_equal(is.st_size, sizes[i]);
    }
    memset(bytes, 0, whole); /* made, and never written to */
    write_file(fixture->path, bytes, whole);
    crash_close(opened(fixture));
    free(bytes);
}

static void a_place_that_cannot_be_is_for_a_person(void **state)
{
    struct fixture *fixture = *state;
    char inside[256];
    snprintf(inside, sizeof(inside), "%s/no/crash", fixture->scratch.folder);
    const char *const paths[] = {inside, fixture->scratch.folder, "/dev/null", ""};
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
        struct crash *crash = NULL;
        assert_int_equal(crash_open(paths[i], &crash, &fixture->error), FATAL);
        assert_int_equal(fixture->error.exit_code, EXIT_CONFIG);
        assert_null(crash);
    }
}

static void without_a_path_no_note_is_kept_and_suspects_still_count(void **state)
{
    struct fixture *fixture = *state;
    die(fixture, record("orders", 1, 7), KILLED);
    struct crash *crash = opened(fixture);
    assert_int_equal(load(fixture, crash), 1);
    crash_close(crash);
    assert_int_equal(crash_open(NULL, &crash, &fixture->error), OK);
    struct crash_place place;
    struct record suspect = record("orders", 1, 7);
    assert_false(crash_found(crash, &place));
    assert_int_equal(load(fixture, crash), 0);
    assert_int_equal(crash_count(crash, &suspect), 1);
    crash_enter(crash, &suspect);
    crash_leave(crash);
    crash_close(crash);
}

/* ---- the suspects */

static void crashes_of_one_record_add_up_over_starts(void **state)
{
    struct fixture *fixture = *state;
    struct record suspect = record("orders", 3, 42);
    for (int i = 1; i <= CRASH_ATTEMPTS_MAX; i++) {
        die(fixture, suspect, i % 2 ? KILLED : ABORTED);
        struct crash *crash = opened(fixture);
        assert_int_equal(load(fixture, crash), i);
        assert_int_equal(crash_count(crash, &suspect), i);
        crash_close(crash);
        assert_int_equal(suspects(fixture), 1);
    }
}

static void a_record_is_told_apart_by_topic_partition_and_offset(void **state)
{
    struct fixture *fixture = *state;
    const struct record suspect[] = {record("orders", 3, 42), record("orders", 3, 7),
                                     record("payments", 3, 42), record("orders", 4, 42)};
    enum { COUNT = sizeof(suspect) / sizeof(*suspect) };
    for (int i = 0; i < COUNT; i++) {
        for (int k = 0; k <= i; k++) {
            die(fixture, suspect[i], KILLED);
            struct crash *crash = opened(fixture);
            load(fixture, crash);
            crash_close(crash);
        }
    }
    struct crash *crash = opened(fixture);
    load(fixture, crash);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(crash_count(crash, &suspect[i]),
                         i + 1 < CRASH_ATTEMPTS_MAX ? i + 1 : CRASH_ATTEMPTS_MAX);
    const struct record innocent[] = {record("orders", 3, 41), record("order", 3, 42), record("stock", 3, 42),
                                      record("orders", 2, 42), record("orders", 3, 43)};
    for (size_t i = 0; i < sizeof(innocent) / sizeof(*innocent); i++)
        assert_int_equal(crash_count(crash, &innocent[i]), 0);
    crash_close(crash);
}

static void what_is_settled_is_no_suspect_once_it_is_committed(void **state)
{
    struct fixture *fixture = *state;
    struct record suspect = record("orders", 3, 42), innocent = record("orders", 3, 43);
    die(fixture, record("orders", 3, 41), KILLED);
    struct crash *crash = opened(fixture);
    load(fixture, crash);
    crash_close(crash);
    die(fixture, suspect, KILLED);
    crash = opened(fixture);
    load(fixture, crash);

    begin(fixture);
    crash_settled(crash, fixture->work, &innocent);
    crash_settled(crash, fixture->work, &suspect);
    assert_int_equal(crash_count(crash, &suspect), 1); /* not yet */
    work_rollback(fixture->work);
    crash_rolled_back(crash);
    crash_committed(crash); /* of another work: nothing of the one before */
    assert_int_equal(crash_count(crash, &suspect), 1);
    assert_int_equal(suspects(fixture), 2);

    begin(fixture);
    crash_settled(crash, fixture->work, &suspect);
    assert_int_equal(work_commit(fixture->work, &fixture->error), OK);
    crash_committed(crash);
    assert_int_equal(crash_count(crash, &suspect), 0);
    assert_int_equal(suspects(fixture), 1);
    crash_close(crash);

    crash = opened(fixture);
    load(fixture, crash);
    assert_int_equal(crash_count(crash, &suspect), 0);
    crash_close(crash);
}

static void past_the_bound_the_oldest_suspect_is_forgotten(void **state)
{
    struct fixture *fixture = *state;
    enum { MORE = 3 };
    /* The note as another process would leave it, without a process for each. */
    struct record one = record("orders", 0, 0);
    die(fixture, one, KILLED);
    int file = open(fixture->path, O_RDWR);
    struct stat is;
    assert_true(file >= 0 && fstat(file, &is) == 0);
    char *left = mmap(NULL, (size_t)is.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    assert_ptr_not_equal(left, MAP_FAILED);
    char *in_hand = malloc((size_t)is.st_size);
    memcpy(in_hand, left, (size_t)is.st_size);

    struct crash *crash;
    for (int i = 0; i < CRASH_SUSPECTS_MAX + MORE; i++) {
        struct crash *writer = opened(fixture);
        one.offset = i;
        crash_enter(writer, &one);
        memcpy(in_hand, left, (size_t)is.st_size);
        crash_close(writer);
        memcpy(left, in_hand, (size_t)is.st_size);
        crash = opened(fixture);
        assert_int_equal(load(fixture, crash), 1);
        crash_close(crash);
    }
    assert_int_equal(suspects(fixture), CRASH_SUSPECTS_MAX);
    crash = opened(fixture);
    load(fixture, crash);
    for (int i = 0; i < CRASH_SUSPECTS_MAX + MORE; i++) {
        one.offset = i;
        assert_int_equal(crash_count(crash, &one), i >= MORE);
    }
    crash_close(crash);
    munmap(left, (size_t)is.st_size);
    close(file);
    free(in_hand);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_note_names_what_was_in_hand_at_the_end),
        TEST(a_topic_of_the_greatest_length_is_noted_whole),
        TEST(what_was_found_and_not_counted_is_found_again),
        TEST(a_second_process_is_refused),
        TEST(a_file_that_is_not_ours_is_left_alone),
        TEST(a_place_that_cannot_be_is_for_a_person),
        TEST(without_a_path_no_note_is_kept_and_suspects_still_count),
        TEST(crashes_of_one_record_add_up_over_starts),
        TEST(a_record_is_told_apart_by_topic_partition_and_offset),
        TEST(what_is_settled_is_no_suspect_once_it_is_committed),
        TEST(past_the_bound_the_oldest_suspect_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

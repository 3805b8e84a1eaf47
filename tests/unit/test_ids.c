#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/ids.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int order(struct id a, struct id b)
{
    return memcmp(a.bytes, b.bytes, sizeof(a.bytes));
}

static uint64_t milliseconds(struct id id)
{
    uint64_t ms = 0;
    for (int i = 0; i < 6; i++)
        ms = ms << 8 | id.bytes[i];
    return ms;
}

static void new_id_is_a_uuid_of_version_7_with_the_time_in_it(void **state)
{
    (void)state;
    int64_t ahead_us = clock_wall_us() + 1000 * INT64_C(1000000);
    clock_hold(ahead_us);
    struct id id = id_new();
    assert_int_equal(milliseconds(id), ahead_us / 1000);
    assert_int_equal(id.bytes[6] >> 4, 7);
    assert_int_equal(id.bytes[8] >> 6, 2);
    clock_release();
}

static void new_ids_only_grow_also_when_the_clock_stands_or_goes_back(void **state)
{
    (void)state;
    clock_hold(clock_wall_us() + 2000 * INT64_C(1000000));
    struct id last = id_new();
    for (int i = 0; i < 200000; i++) {
        struct id next = id_new();
        assert_true(order(last, next) < 0);
        last = next;
    }
    clock_advance(-60 * INT64_C(1000000));
    struct id later = id_new();
    assert_true(order(last, later) < 0);
    clock_release();
    assert_true(order(later, id_new()) < 0);
}

enum { THREADS = 4, EACH = 5000 };

static void *make_many(void *into)
{
    struct id *ids = into;
    for (int i = 0; i < EACH; i++)
        ids[i] = id_new();
    return NULL;
}

static int by_bytes(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct id));
}

static void no_two_threads_get_the_same_id(void **state)
{
    (void)state;
    static struct id ids[THREADS][EACH];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, make_many, ids[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        for (int j = 1; j < EACH; j++)
            assert_true(order(ids[i][j - 1], ids[i][j]) < 0);
    struct id *all = ids[0];
    qsort(all, THREADS * EACH, sizeof(*all), by_bytes);
    for (int i = 1; i < THREADS * EACH; i++)
        assert_false(id_equal(all[i - 1], all[i]));
}

static void child_process_makes_ids_of_its_own(void **state)
{
    (void)state;
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    clock_hold(clock_wall_us() + 4000 * INT64_C(1000000)); /* the same millisecond in both */
    id_new();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct id theirs = id_new();
        _exit(write(pipes[1], &theirs, sizeof(theirs)) == sizeof(theirs) ? 0 : 1);
    }
    struct id ours = id_new(), theirs;
    assert_int_equal(read(pipes[0], &theirs, sizeof(theirs)), sizeof(theirs));
    assert_int_equal(waitpid(child, NULL, 0), child);
    /* The low 62 bits are random in each: alike would be the parent's bytes handed out again. */
    assert_memory_not_equal(ours.bytes + 8, theirs.bytes + 8, 8);
    clock_release();
    close(pipes[0]);
    close(pipes[1]);
}

static void derived_id_is_the_same_again_and_keeps_the_parents_time(void **state)
{
    (void)state;
    struct id parent;
    assert_true(id_parse(TEXT("019ab6f1-2345-7abc-8def-0123456789ab"), &parent));
    struct id derived = id_derive(parent, TEXT("OrderConfirmed"));
    assert_true(id_equal(derived, id_derive(parent, TEXT("OrderConfirmed"))));
    assert_false(id_equal(derived, id_derive(parent, TEXT("OrderRejected"))));
    assert_false(id_equal(derived, id_derive(id_new(), TEXT("OrderConfirmed"))));
    assert_int_equal(milliseconds(derived), milliseconds(parent));
    assert_int_equal(derived.bytes[6] >> 4, 8);
    assert_int_equal(derived.bytes[8] >> 6, 2);
    /* Stored in inboxes and on topics: this value must never change. */
    char text[ID_TEXT_BYTES];
    assert_true(text_is(id_to_text(derived, text), "019ab6f1-2345-8e72-8f92-f3b480be5c35"));
}

static void text_that_is_no_uuid_has_an_id_too(void **state)
{
    (void)state;
    struct id id = id_from_text(TEXT("evt_1"));
    assert_true(id_equal(id, id_from_text(TEXT("evt_1"))));
    assert_false(id_equal(id, id_from_text(TEXT("evt_2"))));
    assert_int_equal(id.bytes[6] >> 4, 8);
    char text[ID_TEXT_BYTES];
    assert_true(text_is(id_to_text(id, text), "7d4e5a76-eae6-88c1-a541-0ac19fe67565"));
    struct id parsed;
    assert_true(id_parse(TEXT("019AB6F1-2345-7ABC-8DEF-0123456789AB"), &parsed));
    assert_true(id_equal(parsed, id_from_text(TEXT("019ab6f1-2345-7abc-8def-0123456789ab"))));
    id_from_text((struct text){NULL, 0});
}

static void only_the_36_byte_form_is_a_uuid(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "",
        "019ab6f123457abc8def0123456789ab",
        "{019ab6f1-2345-7abc-8def-0123456789ab}",
        "019ab6f1-2345-7abc-8def-0123456789a",
        "019ab6f1-2345-7abc-8def-0123456789abc",
        "019ab6f1-2345-7abc-8def-0123456789ag",
        "019ab6f1+2345-7abc-8def-0123456789ab",
        "019ab6f1-2345-7abc-8def0-123456789ab",
        "-19ab6f1-2345-7abc-8def-0123456789ab",
    };
    struct id id, untouched = {{1}};
    id = untouched;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_false(id_parse(text_of(cases[i]), &id));
    assert_true(id_equal(id, untouched));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_id_is_a_uuid_of_version_7_with_the_time_in_it),
        cmocka_unit_test(new_ids_only_grow_also_when_the_clock_stands_or_goes_back),
        cmocka_unit_test(no_two_threads_get_the_same_id),
        cmocka_unit_test(child_process_makes_ids_of_its_own),
        cmocka_unit_test(derived_id_is_the_same_again_and_keeps_the_parents_time),
        cmocka_unit_test(text_that_is_no_uuid_has_an_id_too),
        cmocka_unit_test(only_the_36_byte_form_is_a_uuid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

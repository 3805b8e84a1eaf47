#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"

#include <stdatomic.h>
#include <pthread.h>

static const struct {
    int64_t us;
    const char *text;
} golden[] = {
    {0, "1970-01-01T00:00:00.000000Z"},
    {1795264496123456, "2026-11-21T12:34:56.123456Z"},
    {951782400000000, "2000-02-29T00:00:00.000000Z"},
    {4107542399999999, "2100-02-28T23:59:59.999999Z"},
    {4107542400000000, "2100-03-01T00:00:00.000000Z"},
    {-1, "1969-12-31T23:59:59.999999Z"},
    {-62135596800000000, "0001-01-01T00:00:00.000000Z"},
    {253402300799999999, "9999-12-31T23:59:59.999999Z"},
};

static void time_is_written_and_read_as_rfc3339(void **state)
{
    (void)state;
    char into[CLOCK_RFC3339_BYTES_MAX];
    for (size_t i = 0; i < sizeof(golden) / sizeof(golden[0]); i++) {
        assert_string_equal(clock_to_rfc3339(golden[i].us, into), golden[i].text);
        int64_t us;
        assert_true(clock_from_rfc3339(text_of(golden[i].text), &us));
        assert_int_equal(us, golden[i].us);
    }
}

static void time_out_of_the_four_digit_years_is_clamped(void **state)
{
    (void)state;
    char into[CLOCK_RFC3339_BYTES_MAX];
    assert_string_equal(clock_to_rfc3339(INT64_MIN, into), "0001-01-01T00:00:00.000000Z");
    assert_string_equal(clock_to_rfc3339(INT64_MAX, into), "9999-12-31T23:59:59.999999Z");
}

static void every_day_of_four_centuries_comes_back(void **state)
{
    (void)state;
    char into[CLOCK_RFC3339_BYTES_MAX];
    for (int64_t day = -200000; day < 200000; day += 1) {
        int64_t us = day * 86400 * 1000000, back;
        clock_to_rfc3339(us, into);
        assert_true(clock_from_date((struct text){into, 10}, &back));
        assert_int_equal(back, us);
    }
}

static void offsets_and_fractions_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t us;
    } cases[] = {
        {"1970-01-01T01:00:00+01:00", 0},
        {"1969-12-31t18:30:00-05:30", 0},
        {"1970-01-01 00:00:00z", 0},
        {"1970-01-01T00:00:00.5Z", 500000},
        {"1970-01-01T00:00:00.123456789Z", 123456},
        {"1970-01-01T00:00:00.000001Z", 1},
        {"1970-01-01T00:00:00-00:00", 0},
        {"1969-12-31T23:59:60Z", 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t us = -1;
        assert_true(clock_from_rfc3339(text_of(cases[i].text), &us));
        assert_int_equal(us, cases[i].us);
    }
}

static void what_is_no_time_is_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "",
        "2026-11-21",
        "2026-11-21T12:34:56",
        "2026-11-21T12:34:56.Z",
        "2026-11-21T12:34:56.1234567890Z",
        "2026-11-21T12:34:56Zx",
        "2026-11-21T12:34:56+1:00",
        "2026-11-21T12:34:56+24:00",
        "2026-11-21T24:00:00Z",
        "2026-11-21T12:60:00Z",
        "2026-11-21T12:34:61Z",
        "2026-02-29T12:34:56Z",
        "2100-02-29T12:34:56Z",
        "2026-13-01T12:34:56Z",
        "2026-00-01T12:34:56Z",
        "2026-11-00T12:34:56Z",
        "2026-11-31T12:34:56Z",
        "0000-11-21T12:34:56Z",
        "+026-11-21T12:34:56Z",
        "2026-11-21T12:34",
    };
    int64_t us = 42;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_false(clock_from_rfc3339(text_of(cases[i]), &us));
    assert_false(clock_from_date(TEXT("2026-11-21T"), &us));
    assert_false(clock_from_date(TEXT("2026-1-21"), &us));
    assert_int_equal(us, 42);
}

static void held_clock_moves_only_by_hand(void **state)
{
    (void)state;
    int64_t before = clock_monotonic_us();
    clock_hold(1000000);
    int64_t held = clock_monotonic_us();
    assert_true(held >= before);
    assert_int_equal(clock_wall_us(), 1000000);
    clock_advance(2500);
    assert_int_equal(clock_wall_us(), 1002500);
    assert_int_equal(clock_monotonic_us(), held + 2500);
    clock_hold(5);
    assert_int_equal(clock_wall_us(), 5);
    assert_int_equal(clock_monotonic_us(), held + 2500);
    clock_advance(INT64_C(3600) * 1000000);
    clock_release();
    /* an hour was waited for: going back would make deadlines that have passed come again */
    assert_true(clock_monotonic_us() >= held + 2500 + INT64_C(3600) * 1000000);
    assert_true(clock_wall_us() > INT64_C(1000000) * 1000000000);
}

enum { THREADS = 4, STEPS = 2000 };

static void *advance(void *unused)
{
    for (int i = 0; i < STEPS; i++)
        clock_advance(1);
    return unused;
}

static void held_clock_loses_no_step_of_any_thread(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    clock_hold(0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, advance, NULL), 0);
    int64_t last = 0;
    for (int i = 0; i < STEPS; i++) {
        int64_t now = clock_wall_us();
        assert_true(now >= last);
        last = now;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(clock_wall_us(), THREADS * STEPS);
    clock_release();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_is_written_and_read_as_rfc3339),
        cmocka_unit_test(time_out_of_the_four_digit_years_is_clamped),
        cmocka_unit_test(every_day_of_four_centuries_comes_back),
        cmocka_unit_test(offsets_and_fractions_are_read),
        cmocka_unit_test(what_is_no_time_is_refused),
        cmocka_unit_test(held_clock_moves_only_by_hand),
        cmocka_unit_test(held_clock_loses_no_step_of_any_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

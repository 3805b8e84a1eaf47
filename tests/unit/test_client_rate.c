/* client_rate: a bucket for each client, and who is forgotten. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "service/client_rate.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>

static struct client_rate *opened(int64_t rate, int64_t burst, size_t max)
{
    struct client_rate *made;
    struct error error;
    assert_int_equal(client_rate_open(rate, burst, max, &made, &error), OK);
    return made;
}

static int take(struct client_rate *rate, const char *from)
{
    struct client_address address;
    assert_true(client_address_parse(text_of(from), &address));
    return client_rate_take(rate, &address, clock_monotonic_us());
}

static int stop_the_clock(void **state)
{
    (void)state;
    clock_hold(INT64_C(1763754000000000));
    return 0;
}

static int let_the_clock_go(void **state)
{
    (void)state;
    clock_release();
    return 0;
}

static void a_burst_comes_in_and_then_the_rate(void **state)
{
    (void)state;
    static const struct {
        int64_t rate, burst;
        struct {
            int64_t after_us;
            int asked, let_in;
        } steps[6];
    } cases[] = {
        {2, 3, {{0, 5, 3}, {499999, 1, 0}, {1, 1, 1}, {500000, 2, 1}, {INT64_C(3600000000), 9, 3}}},
        {1, 1, {{0, 2, 1}, {999999, 1, 0}, {1, 1, 1}, {INT64_C(1000000000000), 4, 1}}},
        {10, 5, {{0, 6, 5}, {250000, 4, 2}, {50000, 1, 1}, {1000000, 20, 5}}},
        {CLIENT_RATE_MAX, 1, {{0, 2, 1}, {1, 2, 1}, {3, 2, 1}}},
        {1, CLIENT_RATE_MAX, {{0, 1000, 1000}}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct client_rate *rate = opened(cases[i].rate, cases[i].burst, 10);
        for (size_t step = 0; step < 6; step++) {
            int let_in = 0;
            clock_advance(cases[i].steps[step].after_us);
            for (int j = 0; j < cases[i].steps[step].asked; j++)
                let_in += take(rate, "192.0.2.1") == 0;
            if (let_in != cases[i].steps[step].let_in)
                fail_msg("case %zu, step %zu: %d", i, step, let_in);
        }
        client_rate_close(rate);
    }
}

static void who_is_refused_may_come_after_what_he_was_told(void **state)
{
    (void)state;
    static const int64_t rates[] = {1, 2, 7, 1000};
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        struct client_rate *rate = opened(rates[i], 1, 10);
        assert_int_equal(take(rate, "192.0.2.1"), 0);
        for (int j = 0; j < 20; j++) {
            int wait_s = take(rate, "192.0.2.1");
            assert_int_equal(wait_s, 1);
            clock_advance(wait_s * INT64_C(1000000));
            assert_int_equal(take(rate, "192.0.2.1"), 0);
        }
        client_rate_close(rate);
    }
}

static void a_clock_that_is_behind_gives_nothing_and_takes_nothing(void **state)
{
    (void)state;
    struct client_rate *rate = opened(1, 1, 10);
    struct client_address address;
    assert_true(client_address_parse(TEXT("192.0.2.1"), &address));
    assert_int_equal(client_rate_take(rate, &address, 5000000), 0);
    assert_int_equal(client_rate_take(rate, &address, 4000000), 1);
    assert_int_equal(client_rate_take(rate, &address, 5999999), 1);
    assert_int_equal(client_rate_take(rate, &address, 6000000), 0);
    client_rate_close(rate);
}

static void clients_are_told_apart_as_far_as_they_are_others(void **state)
{
    (void)state;
    static const struct {
        const char *first, *second;
        bool same;
    } cases[] = {
        {"192.0.2.1", "192.0.2.2", false},
        {"192.0.2.1", "::ffff:192.0.2.1", true},
        {"2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", true}, /* one network */
        {"2001:db8:0:1::1", "2001:db8:0:2::1", false},
        {"::1", "::2", true},
        {"::1", "0.0.0.1", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct client_rate *rate = opened(1, 1, 10);
        assert_int_equal(take(rate, cases[i].first), 0);
        assert_int_equal(take(rate, cases[i].second) != 0, cases[i].same);
        client_rate_close(rate);
    }
}

static void the_one_seen_longest_ago_is_forgotten(void **state)
{
    (void)state;
    struct client_rate *rate = opened(1, 1, 3);
    assert_int_equal(take(rate, "192.0.2.1"), 0);
    assert_int_equal(take(rate, "192.0.2.2"), 0);
    assert_int_equal(take(rate, "192.0.2.3"), 0);
    assert_int_equal(take(rate, "192.0.2.1"), 1); /* seen again, though refused */
    assert_int_equal(take(rate, "192.0.2.4"), 0); /* instead of .2 */
    assert_int_equal(take(rate, "192.0.2.1"), 1);
    assert_int_equal(take(rate, "192.0.2.3"), 1);
    assert_int_equal(take(rate, "192.0.2.2"), 0); /* anew, instead of .4 */
    assert_int_equal(take(rate, "192.0.2.4"), 0);
    client_rate_close(rate);
    /* The only place is everybody's in turn. */
    rate = opened(1, 1, 1);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(take(rate, "192.0.2.1"), 0);
        assert_int_equal(take(rate, "192.0.2.1"), 1);
        assert_int_equal(take(rate, "192.0.2.2"), 0);
    }
    client_rate_close(rate);
}

/* Against a list that is searched from one end to the other. */
static void a_full_table_forgets_as_a_plain_list_does(void **state)
{
    (void)state;
    enum { MAX = 40, CLIENTS = 60, TAKES = 20000 };
    struct client_rate *rate = opened(1, 1, MAX);
    int list[MAX], count = 0; /* the one seen last in front; all buckets are empty */
    unsigned seed = 11;
    for (int i = 0; i < TAKES; i++) {
        char from[32];
        int client = rand_r(&seed) % CLIENTS, at = 0;
        while (at < count && list[at] != client)
            at++;
        bool known = at < count;
        if (!known && count < MAX)
            count++;
        if (at == MAX)
            at--;
        memmove(list + 1, list, (size_t)at * sizeof(list[0]));
        list[0] = client;
        snprintf(from, sizeof(from), "192.0.2.%d", client);
        assert_int_equal(take(rate, from), known ? 1 : 0);
    }
    client_rate_close(rate);
}

int main(void)
{
#define WITH_CLOCK(test) cmocka_unit_test_setup_teardown(test, stop_the_clock, let_the_clock_go)
    const struct CMUnitTest tests[] = {
        WITH_CLOCK(a_burst_comes_in_and_then_the_rate),
        WITH_CLOCK(who_is_refused_may_come_after_what_he_was_told),
        cmocka_unit_test(a_clock_that_is_behind_gives_nothing_and_takes_nothing),
        WITH_CLOCK(clients_are_told_apart_as_far_as_they_are_others),
        WITH_CLOCK(the_one_seen_longest_ago_is_forgotten),
        WITH_CLOCK(a_full_table_forgets_as_a_plain_list_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

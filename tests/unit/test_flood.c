#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/flood.h"

enum { WINDOW_MS = 60000, START_MS = 1000 };
static const struct flood_limits by_share = {.window_ms = WINDOW_MS, .count_min = 10, .share_percent = 50};
static const struct flood_limits by_count = {.window_ms = WINDOW_MS, .count_max = 3};
static const struct flood_limits by_both = {
    .window_ms = WINDOW_MS, .count_min = 10, .share_percent = 50, .count_max = 12};
static const struct flood_limits by_nothing = {.window_ms = WINDOW_MS};

static int64_t us(int64_t ms)
{
    return ms * 1000;
}

static void a_limit_is_what_may_be_in_the_window(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        const struct flood_limits *limits;
        size_t handled, rejected;             /* counted before */
        size_t batch_handled, batch_rejected; /* in the batch in hand */
        bool allowed;                         /* one more */
    } examples[] = {
        {"nothing yet", &by_share, 0, 0, 0, 0, true},
        {"too few for a share", &by_share, 0, 8, 0, 0, true},
        {"all of just enough", &by_share, 0, 9, 0, 0, false},
        {"exactly the share", &by_share, 10, 9, 0, 0, true},
        {"one past the share", &by_share, 9, 9, 0, 0, false},
        {"many of very many", &by_share, 100000, 1000, 0, 0, true},
        {"the last that may be", &by_count, 0, 2, 0, 0, true},
        {"one more than may be", &by_count, 1000000, 3, 0, 0, false},
        {"both: count is met first", &by_both, 1000, 12, 0, 0, false},
        {"both: share is met first", &by_both, 0, 9, 0, 0, false},
        {"both: neither", &by_both, 12, 11, 0, 0, true},
        {"no limits at all", &by_nothing, 0, 1000000, 0, 0, true},
        {"a batch of nothing but rejects, so far", &by_count, 0, 0, 0, 2, true},
        {"a batch of nothing but rejects", &by_count, 0, 0, 0, 3, false},
        {"a batch that began well", &by_share, 0, 0, 10, 9, true},
        {"a batch that did not", &by_share, 0, 0, 9, 9, false},
        {"window and batch together", &by_count, 0, 2, 0, 1, false},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(*examples); i++) {
        struct flood flood;
        flood_init(&flood, examples[i].limits);
        flood_count(&flood, examples[i].handled, examples[i].rejected, us(START_MS));
        if (flood_allows(&flood, examples[i].batch_handled, examples[i].batch_rejected, us(START_MS)) !=
            examples[i].allowed)
            fail_msg("%s: wrong", examples[i].what);
        assert_int_equal(flood.state, FLOOD_CLOSED); /* asking changes nothing */
    }
}

static void what_is_older_than_the_window_is_forgotten(void **state)
{
    (void)state;
    struct flood flood;
    int64_t handled, rejected;
    flood_init(&flood, &by_count);
    flood_count(&flood, 5, 1, us(0));
    flood_count(&flood, 7, 2, us(WINDOW_MS / 2));
    assert_false(flood_allows(&flood, 0, 0, us(WINDOW_MS - 1)));
    flood_window(&flood, us(WINDOW_MS - 1), &handled, &rejected);
    assert_int_equal(handled, 12);
    assert_int_equal(rejected, 3);

    flood_window(&flood, us(WINDOW_MS), &handled, &rejected);
    assert_int_equal(handled, 7);
    assert_int_equal(rejected, 2);
    assert_true(flood_allows(&flood, 0, 0, us(WINDOW_MS)));

    flood_count(&flood, 1, 0, us(WINDOW_MS)); /* into the bucket of the first */
    flood_window(&flood, us(WINDOW_MS), &handled, &rejected);
    assert_int_equal(handled, 8);
    assert_int_equal(rejected, 2);

    flood_window(&flood, us(10 * WINDOW_MS), &handled, &rejected);
    assert_int_equal(handled, 0);
    assert_int_equal(rejected, 0);
}

static void the_window_counts_what_a_list_of_all_would(void **state)
{
    (void)state;
    enum { EVENTS = 3000 };
    static struct {
        int64_t at_ms;
        size_t handled, rejected;
    } all[EVENTS];
    struct flood flood;
    uint32_t seed = 4;
    int64_t now_ms = 0;
    flood_init(&flood, &by_share);
    for (int i = 0; i < EVENTS; i++) {
        seed = seed * 1664525 + 1013904223;
        now_ms += seed >> 20; /* 0 to 4 s: now and then in one bucket, now and then past some */
        all[i].at_ms = now_ms;
        all[i].handled = seed >> 8 & 15;
        all[i].rejected = seed >> 4 & 3;
        flood_count(&flood, all[i].handled, all[i].rejected, us(now_ms));
        int64_t handled, rejected, wanted_handled = 0, wanted_rejected = 0;
        for (int k = i; k >= 0; k--) {
            if (all[k].at_ms / (WINDOW_MS / FLOOD_BUCKETS) + FLOOD_BUCKETS <=
                now_ms / (WINDOW_MS / FLOOD_BUCKETS))
                break;
            wanted_handled += (int64_t)all[k].handled;
            wanted_rejected += (int64_t)all[k].rejected;
        }
        flood_window(&flood, us(now_ms), &handled, &rejected);
        assert_int_equal(handled, wanted_handled);
        assert_int_equal(rejected, wanted_rejected);
    }
}

/* Time in steps of half the shortest delay; what is done, and what the state is after it. */
static void it_opens_probes_and_closes_again(void **state)
{
    (void)state;
    enum { COUNT, TRIP, PROBE, RESUME };
    static const struct {
        int64_t at_ms;
        int what;
        size_t handled, rejected;
        enum flood_state after;
        bool allows;
    } steps[] = {
        {0, COUNT, 5, 3, FLOOD_CLOSED, false},
        {0, PROBE, 0, 0, FLOOD_CLOSED, false}, /* nothing to probe */
        {0, TRIP, 0, 0, FLOOD_OPEN, false},
        {5000, TRIP, 0, 0, FLOOD_OPEN, false}, /* open already: the delay runs on */
        {9999, PROBE, 0, 0, FLOOD_OPEN, false},
        {9999, COUNT, 1000, 0, FLOOD_OPEN, false}, /* what was in hand closes nothing */
        {10000, PROBE, 0, 0, FLOOD_HALF_OPEN, true},
        {10000, COUNT, 50, 1, FLOOD_HALF_OPEN, false}, /* the one that may pass */
        {10000, TRIP, 0, 0, FLOOD_OPEN, false},
        {20000, PROBE, 0, 0, FLOOD_OPEN, false}, /* twice the delay now */
        {30000, PROBE, 0, 0, FLOOD_HALF_OPEN, true},
        {30000, COUNT, 99, 0, FLOOD_HALF_OPEN, true}, /* the 50 of the last probe are not among them */
        {30000, COUNT, 0, 1, FLOOD_HALF_OPEN, false},
        {30000, COUNT, 1, 0, FLOOD_CLOSED, true}, /* with an empty window */
        {30000, COUNT, 0, 3, FLOOD_CLOSED, false},
        {30000, TRIP, 0, 0, FLOOD_OPEN, false},
        {40000, PROBE, 0, 0, FLOOD_HALF_OPEN, true}, /* the shortest delay again */
        {40000, TRIP, 0, 0, FLOOD_OPEN, false},
        {40000, RESUME, 0, 0, FLOOD_CLOSED, true},
        {40000, PROBE, 0, 0, FLOOD_CLOSED, true},
        {40000, COUNT, 0, 2, FLOOD_CLOSED, true},
        {40000, COUNT, 0, 1, FLOOD_CLOSED, false},
    };
    struct flood flood;
    flood_init(&flood, &by_count);
    for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
        int64_t now_us = us(START_MS + steps[i].at_ms);
        enum flood_state before = flood.state;
        switch (steps[i].what) {
        case COUNT:
            flood_count(&flood, steps[i].handled, steps[i].rejected, now_us);
            break;
        case TRIP:
            flood_trip(&flood, now_us);
            break;
        case PROBE:
            assert_int_equal(flood_probe(&flood, now_us), before != steps[i].after);
            break;
        default:
            flood_resume(&flood);
        }
        if (flood.state != steps[i].after || flood_allows(&flood, 0, 0, now_us) != steps[i].allows)
            fail_msg("step %zu: state %d", i, (int)flood.state);
    }
}

static void more_rejects_than_may_pass_never_close_a_probe(void **state)
{
    (void)state;
    struct flood flood;
    flood_init(&flood, &by_count);
    flood_trip(&flood, 0);
    assert_true(flood_probe(&flood, us(FLOOD_PROBE_MS_MIN)));
    flood_count(&flood, FLOOD_PROBE_OK_COUNT - 1, FLOOD_PROBE_REJECTS_MAX + 1, us(FLOOD_PROBE_MS_MIN));
    flood_count(&flood, FLOOD_PROBE_OK_COUNT, 0, us(FLOOD_PROBE_MS_MIN));
    assert_int_equal(flood.state, FLOOD_HALF_OPEN);
    assert_false(flood_allows(&flood, 0, 0, us(FLOOD_PROBE_MS_MIN)));
}

static void the_delay_doubles_up_to_its_maximum(void **state)
{
    (void)state;
    struct flood flood;
    int64_t now_ms = 0, delay_ms = FLOOD_PROBE_MS_MIN;
    flood_init(&flood, &by_count);
    for (int i = 0; i < 12; i++) {
        flood_trip(&flood, us(now_ms));
        assert_false(flood_probe(&flood, us(now_ms + delay_ms) - 1));
        now_ms += delay_ms;
        assert_true(flood_probe(&flood, us(now_ms)));
        delay_ms = delay_ms * 2 > FLOOD_PROBE_MS_MAX ? FLOOD_PROBE_MS_MAX : delay_ms * 2;
    }
    assert_int_equal(flood.probe_ms, FLOOD_PROBE_MS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_limit_is_what_may_be_in_the_window),
        cmocka_unit_test(what_is_older_than_the_window_is_forgotten),
        cmocka_unit_test(the_window_counts_what_a_list_of_all_would),
        cmocka_unit_test(it_opens_probes_and_closes_again),
        cmocka_unit_test(more_rejects_than_may_pass_never_close_a_probe),
        cmocka_unit_test(the_delay_doubles_up_to_its_maximum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/bucket.h"

enum { SECOND_US = 1000000 };
static const int64_t START_US = INT64_C(1795000000000000);

/* As many as there are to take, looked at every step_us. */
static int taken(struct bucket *bucket, int64_t *now_us, int64_t seconds, int64_t step_us)
{
    int count = 0;
    for (int64_t until_us = *now_us + seconds * SECOND_US;; *now_us += step_us) {
        bucket_fill(bucket, *now_us);
        while (bucket_when_us(bucket, *now_us) <= *now_us) {
            bucket_take(bucket);
            count++;
        }
        if (*now_us + step_us > until_us)
            return count;
    }
}

static void a_share_has_its_part_of_rate_and_burst_and_at_least_one_attempt(void **state)
{
    (void)state;
    static const struct {
        int64_t rate_per_hour, share, parts;
        int first;       /* at once */
        int64_t seconds; /* then, in so many … */
        int then;        /* … so many */
    } cases[] = {
        {6000, 1, 1, 10, 60, 100}, /* 100 a minute */
        {6000, 6, 6, 10, 60, 100}, {6000, 3, 6, 5, 60, 50},
        {6000, 2, 6, 3, 60, 33},                             /* 3.33 at once, rounded down */
        {6000, 1, 6, 1, 60, 17},                             /* 1.66: the rest of the first one counts */
        {60, 1, 6, 1, 359, 0},                               /* one a minute: one in six minutes */
        {60, 1, 6, 1, 361, 1},     {1, 1, 1000, 1, 3600, 0}, /* never starved: one to begin with */
        {36000, 0, 6, 1, 3600, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct bucket bucket;
        int64_t now_us = START_US;
        bucket_init(&bucket, cases[i].rate_per_hour, now_us);
        bucket_share(&bucket, cases[i].share, cases[i].parts, now_us);
        assert_int_equal(taken(&bucket, &now_us, 0, SECOND_US), cases[i].first);
        assert_int_equal(taken(&bucket, &now_us, cases[i].seconds, SECOND_US / 2), cases[i].then);
    }
}

static void no_limit_is_none_and_looking_often_costs_nothing(void **state)
{
    (void)state;
    struct bucket bucket;
    int64_t now_us = START_US;
    bucket_init(&bucket, 0, now_us);
    for (int i = 0; i < 1000; i++)
        bucket_take(&bucket);
    assert_true(bucket_when_us(&bucket, now_us) <= now_us);
    bucket_init(&bucket, 6000, now_us);
    bucket_share(&bucket, 1, 7, now_us);
    (void)taken(&bucket, &now_us, 0, SECOND_US);
    assert_int_equal(taken(&bucket, &now_us, 42, 7), 10); /* 4.2 s each: 0.43 left over, 10 in 42 s */
}

static void a_changed_share_goes_on_from_what_is_there(void **state)
{
    (void)state;
    struct bucket bucket;
    int64_t now_us = START_US;
    bucket_init(&bucket, 6000, now_us);
    bucket_share(&bucket, 3, 6, now_us);
    assert_int_equal(bucket.micro, 5 * 1000000);
    bucket_share(&bucket, 6, 6, now_us); /* nothing is given with it */
    assert_int_equal(bucket.micro, 5 * 1000000);
    bucket_share(&bucket, 2, 6, now_us + 600000); /* one came in meanwhile, and is cut */
    assert_int_equal(bucket.micro, 3333333);
    bucket_share(&bucket, 0, 6, now_us + 600000);
    assert_int_equal(bucket.micro, 1000000);
    bucket_fill(&bucket, now_us + 3600 * (int64_t)SECOND_US);
    assert_int_equal(bucket.micro, 1000000);
    bucket_take(&bucket);
    assert_true(bucket_when_us(&bucket, now_us) == INT64_MAX);
}

static void a_clock_that_jumps_gives_at_most_the_burst(void **state)
{
    (void)state;
    struct bucket bucket;
    bucket_init(&bucket, INT64_MAX / 4000000, START_US); /* and nothing overflows */
    bucket_fill(&bucket, INT64_MAX / 2);
    bucket_fill(&bucket, START_US);
    assert_true(bucket.micro > 0);
    bucket_init(&bucket, 6000, START_US);
    for (int i = 0; i < 10; i++)
        bucket_take(&bucket);
    bucket_fill(&bucket, START_US - 3600 * (int64_t)SECOND_US);
    assert_int_equal(bucket.micro, 0);
    bucket_fill(&bucket, START_US + 365 * 86400 * (int64_t)SECOND_US);
    assert_int_equal(bucket.micro, 10 * 1000000);
}

/* Parts go from one to another, let go before they are taken, as fast as they like: together they never begin
 * more than the bound that flow/lanes.h states. */
static void together_they_stay_below_the_bound_whatever_goes_from_hand_to_hand(void **state)
{
    (void)state;
    enum { INSTANCES = 4, PARTS = 6, STEPS = 20000, RATE_PER_HOUR = 6000, STEP_US = 50000 };
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct bucket buckets[INSTANCES];
        int owner[PARTS];
        int64_t begun = 0, now_us = START_US;
        uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15);
        for (int i = 0; i < INSTANCES; i++) {
            bucket_init(&buckets[i], RATE_PER_HOUR, now_us);
            bucket_spend_burst(&buckets[i]);
            bucket_share(&buckets[i], 0, PARTS, now_us);
        }
        for (int part = 0; part < PARTS; part++)
            owner[part] = -1;
        for (int step = 0; step < STEPS; step++, now_us += STEP_US) {
            random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
            if (random >> 60 == 0) {
                int part = (int)(random >> 40) % PARTS, to = (int)(random >> 50) % INSTANCES;
                owner[part] = owner[part] < 0 ? to : -1;
                for (int i = 0; i < INSTANCES; i++) {
                    int share = 0;
                    for (int p = 0; p < PARTS; p++)
                        share += owner[p] == i;
                    bucket_share(&buckets[i], share, PARTS, now_us);
                }
            }
            for (int i = 0; i < INSTANCES; i++) {
                bucket_fill(&buckets[i], now_us);
                while (buckets[i].share && bucket_when_us(&buckets[i], now_us) <= now_us) {
                    bucket_take(&buckets[i]);
                    begun++;
                }
            }
        }
        int64_t bound =
            (int64_t)RATE_PER_HOUR * STEPS * STEP_US / (3600 * (int64_t)SECOND_US) + 10 + INSTANCES;
        assert_in_range(begun, bound / 4, bound);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_share_has_its_part_of_rate_and_burst_and_at_least_one_attempt),
        cmocka_unit_test(no_limit_is_none_and_looking_often_costs_nothing),
        cmocka_unit_test(a_changed_share_goes_on_from_what_is_there),
        cmocka_unit_test(a_clock_that_jumps_gives_at_most_the_burst),
        cmocka_unit_test(together_they_stay_below_the_bound_whatever_goes_from_hand_to_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Which keys pass for new, against a count. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/newcomers.h"

static uint64_t hash_of(uint64_t number)
{
    number = (number + 1) * UINT64_C(0x9e3779b97f4a7c15);
    number = (number ^ number >> 31) * UINT64_C(0xbf58476d1ce4e5b9);
    return number ^ number >> 29;
}

static int setup(void **state)
{
    static struct newcomers newcomers;
    *state = &newcomers;
    return 0;
}

static int teardown(void **state)
{
    newcomers_free(*state);
    return 0;
}

static void a_key_passes_once(void **state)
{
    assert_true(newcomers_pass(*state, hash_of(1)));
    assert_false(newcomers_pass(*state, hash_of(1)));
    assert_true(newcomers_pass(*state, hash_of(2)));
}

static void no_key_of_the_last_ones_is_missed_and_few_new_ones_are_taken_for_known(void **state)
{
    enum { KEYS = 5 * NEWCOMERS_KEYS, BACK = NEWCOMERS_KEYS / 2 - 1 };
    size_t known = 0;
    for (uint64_t i = 0; i < KEYS; i++) {
        known += !newcomers_pass(*state, hash_of(i));
        if (i >= BACK && newcomers_pass(*state, hash_of(i - BACK)))
            fail_msg("a key passed again after %d others and %d repeats", BACK, BACK);
    }
    assert_in_range(known, 1, KEYS / 50);
}

static void what_came_long_ago_passes_again_so_that_the_memory_is_bounded(void **state)
{
    size_t passed = 0;
    for (uint64_t i = 0; i < 4 * NEWCOMERS_KEYS; i++)
        (void)newcomers_pass(*state, hash_of(i));
    for (uint64_t i = 0; i < 1000; i++)
        passed += newcomers_pass(*state, hash_of(i));
    assert_in_range(passed, 900, 1000);
}

/* Commits until something passes again. */
static unsigned doubted(struct newcomers *newcomers, uint64_t *key)
{
    unsigned commits = 0;
    while (!newcomers_pass(newcomers, hash_of((*key)++))) {
        newcomers_right(newcomers);
        assert_true(++commits <= NEWCOMERS_DOUBT_MAX + 100);
    }
    return commits;
}

static void after_a_mistake_nothing_passes_for_a_while_that_doubles_until_all_goes_well(void **state)
{
    struct newcomers *newcomers = *state;
    uint64_t key = 0;
    unsigned want = NEWCOMERS_DOUBT_MIN;
    for (int i = 0; i < 12; i++) {
        newcomers_wrong(newcomers);
        unsigned commits = doubted(newcomers, &key);
        assert_in_range(commits, want, want + want / 10 + 3); /* a new key may be taken for known */
        want = want * 2 < NEWCOMERS_DOUBT_MAX ? want * 2 : NEWCOMERS_DOUBT_MAX;
    }
    newcomers_right(newcomers);
    newcomers_wrong(newcomers);
    assert_in_range(doubted(newcomers, &key), NEWCOMERS_DOUBT_MIN, NEWCOMERS_DOUBT_MIN + 3);
}

static void what_comes_in_doubt_is_remembered(void **state)
{
    struct newcomers *newcomers = *state;
    newcomers_wrong(newcomers);
    assert_false(newcomers_pass(newcomers, hash_of(1)));
    for (int i = 0; i < NEWCOMERS_DOUBT_MIN; i++)
        newcomers_right(newcomers);
    assert_false(newcomers_pass(newcomers, hash_of(1)));
    assert_true(newcomers_pass(newcomers, hash_of(2)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_key_passes_once, setup, teardown),
        cmocka_unit_test_setup_teardown(
            no_key_of_the_last_ones_is_missed_and_few_new_ones_are_taken_for_known, setup, teardown),
        cmocka_unit_test_setup_teardown(what_came_long_ago_passes_again_so_that_the_memory_is_bounded, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            after_a_mistake_nothing_passes_for_a_while_that_doubles_until_all_goes_well, setup, teardown),
        cmocka_unit_test_setup_teardown(what_comes_in_doubt_is_remembered, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "kafka/offsets.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static void nothing_is_committed_before_the_first_is_done(void **state)
{
    (void)state;
    struct offsets *offsets = offsets_new();
    assert_int_equal(offsets_watermark(offsets), -1);
    assert_true(offsets_take(offsets, 7));
    assert_int_equal(offsets_watermark(offsets), -1);
    offsets_done(offsets, 7);
    assert_int_equal(offsets_watermark(offsets), 8);
    offsets_destroy(offsets);
}

static void a_gap_holds_the_watermark(void **state)
{
    (void)state;
    struct offsets *offsets = offsets_new();
    const int64_t taken[] = {3, 4, 9, 10}; /* 5 to 8 do not exist */
    for (size_t i = 0; i < 4; i++)
        assert_true(offsets_take(offsets, taken[i]));
    offsets_done(offsets, 4);
    offsets_done(offsets, 10);
    assert_int_equal(offsets_watermark(offsets), -1);
    offsets_done(offsets, 3);
    assert_int_equal(offsets_watermark(offsets), 5);
    offsets_done(offsets, 9);
    assert_int_equal(offsets_watermark(offsets), 11);
    assert_int_equal(offsets_open(offsets), 0);
    offsets_destroy(offsets);
}

static void what_is_not_open_is_ignored(void **state)
{
    (void)state;
    struct offsets *offsets = offsets_new();
    offsets_done(offsets, 1);
    assert_true(offsets_take(offsets, 5));
    assert_true(offsets_take(offsets, 8));
    offsets_done(offsets, 4);
    offsets_done(offsets, 6);
    offsets_done(offsets, 9);
    assert_int_equal(offsets_watermark(offsets), -1);
    offsets_done(offsets, 5);
    offsets_done(offsets, 5);
    assert_int_equal(offsets_watermark(offsets), 6);
    offsets_destroy(offsets);
}

static void a_rewind_takes_again_from_the_offset(void **state)
{
    (void)state;
    struct offsets *offsets = offsets_new();
    for (int64_t offset = 0; offset < 10; offset++)
        assert_true(offsets_take(offsets, offset));
    offsets_done(offsets, 0);
    offsets_done(offsets, 7);
    offsets_forget_from(offsets, 4);
    assert_int_equal(offsets_open(offsets), 3);
    for (int64_t offset = 1; offset < 4; offset++)
        offsets_done(offsets, offset);
    assert_int_equal(offsets_watermark(offsets), 4); /* 7 was done before the rewind: that does not count */
    assert_true(offsets_take(offsets, 4));
    offsets_done(offsets, 4);
    assert_int_equal(offsets_watermark(offsets), 5);
    offsets_destroy(offsets);
}

static void no_more_than_the_bound_is_open(void **state)
{
    (void)state;
    struct offsets *offsets = offsets_new();
    for (int64_t offset = 0; offset < OFFSETS_OPEN_MAX; offset++)
        assert_true(offsets_take(offsets, offset));
    assert_false(offsets_take(offsets, OFFSETS_OPEN_MAX));
    offsets_done(offsets, 0);
    assert_true(offsets_take(offsets, OFFSETS_OPEN_MAX));
    assert_int_equal(offsets_open(offsets), OFFSETS_OPEN_MAX);
    offsets_destroy(offsets);
}

/*
 * Against a model that is too simple to be wrong: the list of what was taken, with a flag. A million random
 * steps of take (with random gaps), done (of anything, open or not) and rewind.
 */
enum { STEPS = 1000000, MODEL_OPEN_MAX = 400 };

static void a_million_random_steps_agree_with_the_model(void **state)
{
    (void)state;
    static int64_t taken[MODEL_OPEN_MAX];
    static bool done[MODEL_OPEN_MAX];
    size_t count = 0;
    int64_t next = 0, watermark = -1;
    uint64_t seed = 88172645463325252u;
    struct offsets *offsets = offsets_new();
    for (int step = 0; step < STEPS; step++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        uint64_t dice = seed >> 20;
        int64_t before = offsets_watermark(offsets);
        if (dice % 1000 == 0) {
            int64_t from = count ? taken[(dice >> 10) % count] : next;
            offsets_forget_from(offsets, from);
            while (count && taken[count - 1] >= from)
                count--;
            next = from;
        } else if (dice % 2 == 0 && count < MODEL_OPEN_MAX) {
            next += (dice >> 10) % 8 == 0 ? (int64_t)(dice >> 13) % 5 : 0;
            assert_true(offsets_take(offsets, next));
            taken[count] = next++;
            done[count++] = false;
        } else {
            int64_t offset = watermark + (int64_t)((dice >> 10) % (MODEL_OPEN_MAX / 2)) - 3;
            offsets_done(offsets, offset);
            for (size_t i = 0; i < count; i++)
                if (taken[i] == offset)
                    done[i] = true;
            size_t settled = 0;
            while (settled < count && done[settled])
                watermark = taken[settled++] + 1;
            memmove(taken, taken + settled, (count - settled) * sizeof(taken[0]));
            memmove(done, done + settled, (count - settled) * sizeof(done[0]));
            count -= settled;
        }
        assert_int_equal(offsets_watermark(offsets), watermark);
        assert_int_equal(offsets_open(offsets), count);
        assert_true(offsets_watermark(offsets) >= before);
    }
    assert_true(watermark > 1000); /* the walk went somewhere */
    offsets_destroy(offsets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_committed_before_the_first_is_done),
        cmocka_unit_test(a_gap_holds_the_watermark),
        cmocka_unit_test(what_is_not_open_is_ignored),
        cmocka_unit_test(a_rewind_takes_again_from_the_offset),
        cmocka_unit_test(no_more_than_the_bound_is_open),
        cmocka_unit_test(a_million_random_steps_agree_with_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/hdr.h"

#include <math.h>
#include <stdlib.h>

#define SECOND          INT64_C(1000000)
#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))

static void a_value_lies_in_its_slot_and_within_a_thousandth_of_its_bounds(void **state)
{
    (void)state;
    static const int64_t values[] = {
        0,    1,    2,    999,   1000,  1023,    1024,    2047,        2048,       2049,
        4095, 4096, 5000, 65535, 65536, 1000000, 1234567, 60 * SECOND, HDR_US_MAX,
    };
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        size_t slot = hdr_slot(values[i]);
        assert_true(slot < HDR_SLOTS);
        assert_true(hdr_slot_low_us(slot) <= values[i] && values[i] <= hdr_slot_high_us(slot));
        assert_true((hdr_slot_high_us(slot) - hdr_slot_low_us(slot)) * 1000 <= values[i]);
    }
}

static void slots_follow_each_other_without_a_gap(void **state)
{
    (void)state;
    assert_int_equal(hdr_slot_low_us(0), 0);
    for (size_t slot = 0; slot + 1 < HDR_SLOTS; slot++) {
        assert_int_equal(hdr_slot_high_us(slot) + 1, hdr_slot_low_us(slot + 1));
        if (hdr_slot_high_us(slot) <= HDR_US_MAX) {
            assert_int_equal(hdr_slot(hdr_slot_low_us(slot)), slot);
            assert_int_equal(hdr_slot(hdr_slot_high_us(slot)), slot);
        }
    }
    assert_true(hdr_slot_high_us(HDR_SLOTS - 1) >= HDR_US_MAX);
}

static void percentiles_are_those_of_the_sorted_values(void **state)
{
    (void)state;
    static const struct {
        int64_t first_us, step_us;
        int count;
        double percent;
        int64_t at_us;
    } rows[] = {
        {1, 1, 100, 50, 50},
        {1, 1, 100, 99, 99},
        {1, 1, 100, 99.1, 100},
        {1, 1, 100, 0, 1},
        {1, 1, 100, 100, 100},
        {1, 1, 200, 99, 198},
        {1, 1, 1000, 99.9, 999},
        {1, 1, 1000, 99.99, 1000},
        {7, 0, 1, 50, 7},
        {7, 0, 1, 99.99, 7},
        {0, 0, 5, 90, 0},
        {10, 10, 10, 90, 90},
        {1000, 1000, 1000, 50, 500000},
        {1000, 1000, 1000, 99, 990000},
        {SECOND, SECOND, 3600, 100, HDR_US_MAX},
    };
    struct hdr *hdr = hdr_new();
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        hdr_clear(hdr);
        for (int k = 0; k < rows[i].count; k++)
            hdr_add(hdr, rows[i].first_us + k * rows[i].step_us);
        int64_t got_us = hdr_percentile_us(hdr, rows[i].percent);
        assert_true(got_us >= rows[i].at_us);
        assert_true((got_us - rows[i].at_us) * 1000 <= rows[i].at_us);
    }
    free(hdr);
}

static void no_percentile_is_above_the_greatest_value(void **state)
{
    (void)state;
    struct hdr *hdr = hdr_new();
    hdr_add(hdr, 1234567); /* the slot's greatest is above */
    assert_int_equal(hdr_percentile_us(hdr, 50), 1234567);
    assert_int_equal(hdr->max_us, 1234567);
    assert_int_equal(hdr->min_us, 1234567);
    free(hdr);
}

static void none_have_no_percentile(void **state)
{
    (void)state;
    struct hdr *hdr = hdr_new();
    assert_int_equal(hdr_percentile_us(hdr, 50), -1);
    assert_true(hdr_mean_us(hdr) == 0 && hdr_deviation_us(hdr) == 0);
    free(hdr);
}

static void what_is_out_of_range_is_counted_at_its_end(void **state)
{
    (void)state;
    struct hdr *hdr = hdr_new();
    hdr_add(hdr, -5);
    hdr_add(hdr, HDR_US_MAX + 1);
    hdr_add(hdr, INT64_MAX);
    assert_int_equal(hdr->clamped, 3);
    assert_int_equal(hdr->total, 3);
    assert_int_equal(hdr->min_us, 0);
    assert_int_equal(hdr->max_us, HDR_US_MAX);
    assert_int_equal(hdr_percentile_us(hdr, 30), 0);
    assert_int_equal(hdr_percentile_us(hdr, 100), HDR_US_MAX);
    free(hdr);
}

static void merged_ones_are_as_one_that_took_all(void **state)
{
    (void)state;
    struct hdr *one = hdr_new(), *odd = hdr_new(), *even = hdr_new(), *none = hdr_new();
    for (int64_t us = 1; us <= 3000; us++) {
        hdr_add(one, us * us);
        hdr_add(us % 2 ? odd : even, us * us);
    }
    hdr_merge(none, odd);
    hdr_merge(none, even);
    assert_memory_equal(none, one, sizeof(*one));
    hdr_clear(odd);
    hdr_merge(one, odd); /* of none */
    assert_memory_equal(none, one, sizeof(*one));
    free(one);
    free(odd);
    free(even);
    free(none);
}

static void mean_and_deviation_are_those_of_the_values(void **state)
{
    (void)state;
    struct hdr *hdr = hdr_new();
    for (int i = 0; i < 1000; i++)
        hdr_add(hdr, i % 2 ? 100 : 300);
    assert_true(fabs(hdr_mean_us(hdr) - 200) < 0.001);
    assert_true(fabs(hdr_deviation_us(hdr) - 100) < 0.001);
    assert_int_equal(hdr_count_above(hdr, 100), 500);
    assert_int_equal(hdr_count_above(hdr, 99), 1000);
    assert_int_equal(hdr_count_above(hdr, 300), 0);
    free(hdr);
}

/* Worked out by hand from the rules of outputPercentileDistribution(): each level that a value reaches is a
 * line of its own. */
static void text_is_what_the_plotter_reads(void **state)
{
    (void)state;
    static const char wanted[] = "       Value     Percentile TotalCount 1/(1-Percentile)\n"
                                 "\n"
                                 "       1.000 0.000000000000          1           1.00\n"
                                 "       1.000 0.100000000000          1           1.11\n"
                                 "       1.000 0.200000000000          1           1.25\n"
                                 "       2.000 0.300000000000          2           1.43\n"
                                 "       2.000 0.400000000000          2           1.67\n"
                                 "       2.000 0.500000000000          2           2.00\n"
                                 "       3.001 0.550000000000          4           2.22\n"
                                 "       3.001 1.000000000000          4\n"
                                 "#[Mean    =        2.251, StdDeviation   =        0.830]\n"
                                 "#[Max     =        3.001, Total count    =            4]\n"
                                 "#[Buckets =           22, SubBuckets     =         2048]\n";
    struct hdr *hdr = hdr_new();
    struct buffer text = buffer_of(1 << 16);
    hdr_add(hdr, 1000);
    hdr_add(hdr, 2000);
    hdr_add(hdr, 3000);
    hdr_add(hdr, 3000);
    hdr_write_text(hdr, &text);
    buffer_add_char(&text, '\0');
    assert_string_equal(text.at, wanted);
    buffer_free(&text);
    free(hdr);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_lies_in_its_slot_and_within_a_thousandth_of_its_bounds),
        cmocka_unit_test(slots_follow_each_other_without_a_gap),
        cmocka_unit_test(percentiles_are_those_of_the_sorted_values),
        cmocka_unit_test(no_percentile_is_above_the_greatest_value),
        cmocka_unit_test(none_have_no_percentile),
        cmocka_unit_test(what_is_out_of_range_is_counted_at_its_end),
        cmocka_unit_test(merged_ones_are_as_one_that_took_all),
        cmocka_unit_test(mean_and_deviation_are_those_of_the_values),
        cmocka_unit_test(text_is_what_the_plotter_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

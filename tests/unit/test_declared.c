#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kafka/declared.h"

static const int64_t day_ms = INT64_C(24) * 3600 * 1000;

static void a_retry_topic_keeps_its_records_until_they_are_due_and_as_long_again(void **state)
{
    (void)state;
    static const struct {
        int64_t delay_ms;
        int days;
    } rows[] = {
        {0, TOPIC_RETRY_DAYS},
        {2000, TOPIC_RETRY_DAYS},
        {INT64_C(84) * 3600 * 1000, TOPIC_RETRY_DAYS},
        {INT64_C(84) * 3600 * 1000 + 1, TOPIC_RETRY_DAYS + 1},
        {INT64_C(10) * 24 * 3600 * 1000, 20},
        {TOPIC_RETRY_DELAY_MS_MAX, 732},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct declared declared = declared_retry("order", rows[i].delay_ms, TOPIC_PARTITIONS);
        assert_int_equal(declared.retention_ms, rows[i].days * day_ms);
        assert_true(declared.retention_ms >= 2 * rows[i].delay_ms);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_retry_topic_keeps_its_records_until_they_are_due_and_as_long_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* audit: what was done with dead letters, written and read back, and the set of those that were settled. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/audit.h"
#include "flow/causes.h"
#include "flow/redrive.h"

#include <stdio.h>

static const struct audit_entry dropped = {
    .action = LETTER_DROPPED,
    .service = TEXT_INIT("order"),
    .topic = TEXT_INIT("dlq.order"),
    .partition = 5,
    .offset = INT64_C(5000000000),
    .event_id = TEXT_INIT("e-\"1\""),
    .key = TEXT_INIT("k"),
    .fingerprint = TEXT_INIT("00ff"),
    .to = TEXT_INIT("retry.order.2s"),
    .reason = TEXT_INIT("a test"),
    .by = TEXT_INIT("ann@desk"),
    .at_us = INT64_C(1763712000123456),
    .run = TEXT_INIT("r-1"),
};

static void entry_is_read_back_as_it_was_written(void **state)
{
    (void)state;
    struct buffer buffer = buffer_of(1 << 16);
    struct audit_entry read;
    struct error error;
    json_t *json;
    audit_write(&dropped, &buffer);
    assert_int_equal(audit_read(buffer_text(&buffer), &read, &json, &error), OK);
    assert_int_equal(read.action, LETTER_DROPPED);
    assert_true(text_equal(read.service, dropped.service));
    assert_true(text_equal(read.topic, dropped.topic));
    assert_int_equal(read.partition, 5);
    assert_true(read.offset == dropped.offset);
    assert_true(text_equal(read.event_id, dropped.event_id));
    assert_true(text_equal(read.key, dropped.key));
    assert_false(read.key_null);
    assert_true(text_equal(read.fingerprint, dropped.fingerprint));
    assert_true(text_equal(read.to, dropped.to));
    assert_true(text_equal(read.reason, dropped.reason));
    assert_true(text_equal(read.by, dropped.by));
    assert_true(read.at_us == dropped.at_us);
    assert_true(text_equal(read.run, dropped.run));

    enum letter_state action;
    struct text topic;
    int32_t partition;
    int64_t offset;
    assert_true(audit_place(buffer_text(&buffer), &action, &topic, &partition, &offset));
    assert_int_equal(action, LETTER_DROPPED);
    assert_true(text_equal(topic, dropped.topic));
    assert_int_equal(partition, dropped.partition);
    assert_true(offset == dropped.offset);
    /* Cut anywhere before what it reads, it is none. */
    for (size_t length = 0; length < 75; length++)
        assert_false(audit_place((struct text){buffer.at, length}, &action, &topic, &partition, &offset));
    json_decref(json);
    buffer_free(&buffer);
}

static void what_is_absent_is_null(void **state)
{
    (void)state;
    struct buffer buffer = buffer_of(1 << 16);
    audit_write(&(struct audit_entry){.action = LETTER_REDRIVEN,
                                      .topic = TEXT("x.DLT"),
                                      .key_null = true,
                                      .by = TEXT("ann"),
                                      .run = TEXT("r")},
                &buffer);
    buffer_add_char(&buffer, '\0');
    assert_string_equal(
        buffer.at, "{\"action\":\"redrive\",\"service\":null,\"topic\":\"x.DLT\",\"partition\":0,"
                   "\"offset\":0,\"event_id\":\"\",\"key\":null,\"fingerprint\":\"\",\"to\":null,"
                   "\"reason\":null,\"by\":\"ann\",\"at\":\"1970-01-01T00:00:00.000000Z\",\"run\":\"r\"}");
    buffer_free(&buffer);
}

static void what_is_no_entry_is_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "",
        "{}",
        "[]",
        "null",
        "not json",
        "{\"action\":\"redrive\"}",
        "{\"action\":\"burn\",\"topic\":\"t\",\"partition\":0,\"offset\":1}",
        "{\"action\":\"drop\",\"topic\":\"\",\"partition\":0,\"offset\":1}",
        "{\"action\":\"drop\",\"topic\":\"t\",\"partition\":-1,\"offset\":1}",
        "{\"action\":\"drop\",\"topic\":\"t\",\"partition\":4294967296,\"offset\":1}",
        "{\"action\":\"drop\",\"topic\":\"t\",\"partition\":\"0\",\"offset\":1}",
        "{\"action\":\"drop\",\"topic\":\"t\",\"partition\":0,\"offset\":-1}",
        "{\"action\":\"drop\",\"topic\":\"t\",\"partition\":0}",
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct audit_entry entry;
        struct error error;
        json_t *json;
        enum letter_state action;
        struct text topic;
        int32_t partition;
        int64_t offset;
        if (audit_read(text_of(cases[i]), &entry, &json, &error) != REJECT ||
            audit_place(text_of(cases[i]), &action, &topic, &partition, &offset))
            fail_msg("case %zu", i);
    }
}

static void what_a_letter_brings_with_it_is_cut(void **state)
{
    (void)state;
    enum { LONG = 1 << 20, WRITTEN_BYTES_MAX = 64 << 10 };
    static char controls[LONG], accents[LONG];
    struct audit_entry entry = dropped, read;
    struct buffer buffer = buffer_of(WRITTEN_BYTES_MAX);
    struct error error;
    json_t *json;
    memset(controls, '\1', sizeof(controls));
    for (size_t i = 0; i < LONG; i++)
        accents[i] = i == 0 ? 'a' : i % 2 ? '\xc3' : '\xa9';
    entry.event_id = entry.fingerprint = (struct text){controls, LONG};
    entry.key = (struct text){accents, LONG};
    audit_write(&entry, &buffer);
    assert_false(buffer.failed);
    assert_int_equal(audit_read(buffer_text(&buffer), &read, &json, &error), OK);
    assert_int_equal(read.event_id.length, AUDIT_TEXT_BYTES_MAX);
    assert_true(text_equal(read.fingerprint, read.event_id));
    assert_true(text_equal(read.key, ((struct text){accents, AUDIT_TEXT_BYTES_MAX - 1})));
    json_decref(json);
    buffer_free(&buffer);
    /* What is no text is cut as well. */
    memset(accents, '\xa9', sizeof(accents));
    assert_in_range(audit_cut((struct text){accents, LONG}).length, 1, AUDIT_TEXT_BYTES_MAX);
    assert_int_equal(audit_cut((struct text){accents, AUDIT_TEXT_BYTES_MAX}).length, AUDIT_TEXT_BYTES_MAX);
}

static void service_that_is_none_is_passed_over_in_a_hurry(void **state)
{
    (void)state;
    enum letter_state action;
    struct text topic;
    int32_t partition;
    int64_t offset;
    assert_true(
        audit_place(TEXT("{\"action\":\"redrive\",\"service\":null,\"topic\":\"x.DLT\",\"partition\":2,"
                         "\"offset\":17,\"more\":1}"),
                    &action, &topic, &partition, &offset));
    assert_int_equal(action, LETTER_REDRIVEN);
    assert_true(text_is(topic, "x.DLT"));
    assert_int_equal(partition, 2);
    assert_int_equal(offset, 17);
    /* Right, but not as we write it: for the slow way. */
    assert_false(audit_place(TEXT("{ \"action\":\"redrive\",\"topic\":\"t\",\"partition\":2,\"offset\":17}"),
                             &action, &topic, &partition, &offset));
    assert_false(
        audit_place(TEXT("{\"action\":\"redrive\",\"service\":null,\"topic\":\"a\\\"b\",\"partition\":2,"
                         "\"offset\":17,\"more\":1}"),
                    &action, &topic, &partition, &offset));
}

/* ---- settled */

static struct letter told(const struct settled *settled, uint16_t topic, int32_t partition, int64_t offset)
{
    static struct record record;
    record = (struct record){.partition = partition, .offset = offset};
    struct letter letter = {.record = &record};
    settled_tell(settled, topic, &letter);
    return letter;
}

static void every_settled_letter_is_found_and_no_other(void **state)
{
    (void)state;
    enum { TOPICS = 3, PARTITIONS = 6, OFFSETS = 2000 };
    struct settled *settled = settled_new();
    struct error error;
    assert_non_null(settled);
    for (uint16_t topic = 0; topic < TOPICS; topic++)
        for (int32_t partition = 0; partition < PARTITIONS; partition++)
            for (int64_t offset = 0; offset < OFFSETS; offset += 2)
                assert_int_equal(
                    settled_add(settled, topic, partition, offset, LETTER_REDRIVEN, offset + 1, &error), OK);
    assert_int_equal(settled_count(settled), TOPICS * PARTITIONS * OFFSETS / 2);
    for (uint16_t topic = 0; topic < TOPICS; topic++)
        for (int32_t partition = 0; partition < PARTITIONS; partition++)
            for (int64_t offset = 0; offset < OFFSETS; offset++) {
                const struct letter letter = told(settled, topic, partition, offset);
                assert_int_equal(letter.state, offset % 2 ? LETTER_OPEN : LETTER_REDRIVEN);
                assert_int_equal(letter.settled_count, offset % 2 ? 0 : 1);
                assert_true(letter.settled_us == (offset % 2 ? 0 : offset + 1));
            }
    settled_destroy(settled);
}

static void what_was_done_last_counts(void **state)
{
    (void)state;
    struct settled *settled = settled_new();
    struct error error;
    assert_int_equal(settled_add(settled, 1, 2, 3, LETTER_REDRIVEN, 10, &error), OK);
    assert_int_equal(settled_add(settled, 1, 2, 3, LETTER_REDRIVEN, 20, &error), OK);
    assert_int_equal(settled_add(settled, 1, 2, 3, LETTER_DROPPED, 30, &error), OK);
    const struct letter letter = told(settled, 1, 2, 3);
    assert_int_equal(letter.state, LETTER_DROPPED);
    assert_int_equal(letter.settled_count, 3);
    assert_true(letter.settled_us == 30);
    assert_int_equal(settled_count(settled), 1);
    settled_destroy(settled);
}

static void past_the_bound_no_more_are_taken_and_it_says_so(void **state)
{
    (void)state;
    struct settled *settled = settled_new();
    struct error error;
    for (int64_t offset = 0; offset < AUDIT_SETTLED_MAX; offset++)
        assert_int_equal(settled_add(settled, 0, 0, offset, LETTER_REDRIVEN, 1, &error), OK);
    assert_int_equal(settled_add(settled, 0, 0, AUDIT_SETTLED_MAX, LETTER_REDRIVEN, 1, &error), RETRY);
    assert_string_equal(error.cause, "audit-full");
    /* What is there already may change. */
    assert_int_equal(settled_add(settled, 0, 0, 7, LETTER_DROPPED, 1, &error), OK);
    settled_destroy(settled);
}

/* ---- causes */

static void ten_thousand_of_one_cause_are_one(void **state)
{
    (void)state;
    struct causes causes;
    struct error error;
    assert_int_equal(causes_new(&causes, &error), OK);
    for (int64_t i = 0; i < 10001; i++) {
        struct record record = {.topic = TEXT("dlq.order"), .offset = i, .timestamp_ms = 1000 + i};
        const struct letter letter = {
            .record = &record,
            .type = TEXT("weir.OrderPlaced"),
            .fingerprint = i < 10000 ? TEXT("aa") : TEXT("bb"),
            .state = i % 2 ? LETTER_OPEN : LETTER_REDRIVEN,
            .origin.redrives = i < 5,
            .origin.message = TEXT("first words"),
        };
        causes_add(&causes, &letter);
    }
    causes_sort(&causes);
    assert_int_equal(causes.count, 2);
    assert_int_equal(causes.list[0].count, 10000);
    assert_int_equal(causes.list[0].open, 5000);
    assert_int_equal(causes.list[0].redriven, 5000);
    assert_int_equal(causes.list[0].dropped, 0);
    assert_int_equal(causes.list[0].again, 5);
    assert_true(causes.list[0].first_us == 1000000 && causes.list[0].last_us == 10999000);
    assert_string_equal(causes.list[0].fingerprint, "aa");
    assert_string_equal(causes.list[1].fingerprint, "bb");
    causes_free(&causes);
}

static void causes_past_the_bound_are_counted_together(void **state)
{
    (void)state;
    struct causes causes;
    struct error error;
    assert_int_equal(causes_new(&causes, &error), OK);
    for (int i = 0; i < CAUSES_MAX + 5; i++) {
        struct record record = {.topic = TEXT("dlq.order")};
        char fingerprint[16];
        snprintf(fingerprint, sizeof(fingerprint), "%d", i);
        causes_add(&causes, &(struct letter){.record = &record, .fingerprint = text_of(fingerprint)});
    }
    assert_int_equal(causes.count, CAUSES_MAX);
    assert_int_equal(causes.others, 5);
    causes_free(&causes);
}

/* ---- pace */

static void pace_is_the_rate_and_a_burst_of_a_tenth_of_a_second(void **state)
{
    (void)state;
    static const struct {
        int64_t per_hour;
        int64_t burst, in_a_minute;
    } cases[] = {
        {INT64_C(100) * 3600, 11, 6010}, /* 100/s: the one that is due, and ten */
        {INT64_C(5) * 3600, 1, 300},
        {INT64_C(60), 1, 1},
        {INT64_C(10000) * 3600, 1001, 601000},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t now_us = 1000, burst = 0, count = 0, end_us = now_us + INT64_C(60) * 1000000;
        struct pace pace = pace_of(cases[i].per_hour, now_us);
        while (pace_wait_us(&pace, now_us) == 0)
            burst++;
        assert_int_equal(burst, cases[i].burst);
        for (count = burst; now_us < end_us;) {
            int64_t wait_us = pace_wait_us(&pace, now_us);
            count += wait_us == 0;
            now_us += wait_us;
        }
        /* The one that is due at the end itself counts or not. */
        assert_in_range(count, cases[i].in_a_minute - 1, cases[i].in_a_minute + 1);
    }
}

static void pace_has_no_burst_for_time_that_was_not_used(void **state)
{
    (void)state;
    struct pace pace = pace_of(INT64_C(100) * 3600, 0);
    int64_t count = 0;
    while (pace_wait_us(&pace, INT64_C(3600) * 1000000) == 0)
        count++;
    assert_int_equal(count, 11);
}

static void pace_without_a_limit_never_waits(void **state)
{
    (void)state;
    struct pace pace = pace_of(0, 0);
    for (int i = 0; i < 1000; i++)
        assert_true(pace_wait_us(&pace, 0) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entry_is_read_back_as_it_was_written),
        cmocka_unit_test(what_is_absent_is_null),
        cmocka_unit_test(what_is_no_entry_is_refused),
        cmocka_unit_test(what_a_letter_brings_with_it_is_cut),
        cmocka_unit_test(service_that_is_none_is_passed_over_in_a_hurry),
        cmocka_unit_test(every_settled_letter_is_found_and_no_other),
        cmocka_unit_test(what_was_done_last_counts),
        cmocka_unit_test(past_the_bound_no_more_are_taken_and_it_says_so),
        cmocka_unit_test(ten_thousand_of_one_cause_are_one),
        cmocka_unit_test(causes_past_the_bound_are_counted_together),
        cmocka_unit_test(pace_is_the_rate_and_a_burst_of_a_tenth_of_a_second),
        cmocka_unit_test(pace_has_no_burst_for_time_that_was_not_used),
        cmocka_unit_test(pace_without_a_limit_never_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* letter: what a dead letter says of itself, which filter takes it, and the headers of the copy that goes
 * back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "flow/letter.h"

#include <stdio.h>

enum { HEADERS_MAX = 24 };
#define DEAD_AT_MS INT64_C(1763712000000) /* 2025-11-21T08:00:00Z */

static struct arena *arena;

static int arena_up(void **state)
{
    (void)state;
    arena = arena_new(1 << 20);
    return arena ? 0 : -1;
}
static int arena_down(void **state)
{
    (void)state;
    arena_destroy(arena);
    return 0;
}

/* "name=value" strings, NULL ended, as headers. */
static size_t headers_of(const char *const *pairs, struct header *into)
{
    size_t count = 0;
    for (; pairs[count]; count++) {
        const char *equals = strchr(pairs[count], '=');
        into[count] = (struct header){{pairs[count], (size_t)(equals - pairs[count])}, text_of(equals + 1)};
    }
    return count;
}

static const char *const weir_pairs[] = {
    "ce_id=e-1",
    "ce_type=weir.OrderPlaced",
    "custom=kept",
    "__dlq.errors.topic=orders",
    "__dlq.errors.partition=3",
    "__dlq.errors.offset=17",
    "__dlq.errors.group=weir-payment",
    "__dlq.errors.delivery.count=4",
    "__dlq.errors.message=the gateway said no",
    "weir_error_class=RETRY",
    "weir_error_fingerprint=0123456789abcdef",
    "weir_attempt=4",
    "weir_first_failed_at=2025-11-21T07:59:00Z",
    NULL,
};

static struct letter letter_of(struct record *record, struct header *headers, const char *topic,
                               const char *const *pairs)
{
    struct letter letter;
    *record = (struct record){
        .topic = text_of(topic),
        .partition = 2,
        .offset = 99,
        .timestamp_ms = DEAD_AT_MS,
        .key = TEXT("k-1"),
        .value = TEXT("value"),
    };
    letter_read(record, headers, headers_of(pairs, headers), NULL, arena, &letter);
    return letter;
}

static void letter_of_a_service_is_known_by_its_topic(void **state)
{
    (void)state;
    struct record record;
    struct header headers[HEADERS_MAX];
    const struct letter letter = letter_of(&record, headers, "dlq.payment", weir_pairs);
    assert_string_equal(letter.service, "payment");
    assert_false(letter.foreign);
    assert_true(text_is(letter.id, "e-1"));
    assert_true(text_is(letter.type, "weir.OrderPlaced"));
    assert_true(text_is(letter.fingerprint, "0123456789abcdef"));
    assert_true(text_is(letter_header(&letter, "custom"), "kept"));
    assert_true(text_is(letter_header(&letter, "absent"), ""));
}

static void letter_of_others_belongs_to_the_service_whose_group_it_names(void **state)
{
    (void)state;
    static const struct {
        const char *group, *service;
    } cases[] = {
        {"kafka_dlt-original-consumer-group=weir-email", "email"},
        {"kafka_dlt-original-consumer-group=weir-emails", NULL},
        {"kafka_dlt-original-consumer-group=weir-", NULL},
        {"kafka_dlt-original-consumer-group=billing", NULL},
        {"kafka_dlt-original-consumer-group=", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *const pairs[] = {"kafka_dlt-original-topic=orders", cases[i].group,
                                     "kafka_dlt-exception-fqcn=java.lang.Boom", NULL};
        struct record record;
        struct header headers[HEADERS_MAX];
        const struct letter letter = letter_of(&record, headers, "orders.DLT", pairs);
        assert_true(letter.foreign);
        if (cases[i].service)
            assert_string_equal(letter.service, cases[i].service);
        else
            assert_null(letter.service);
        /* Made of group and exception, so that letters of one cause are found as one. */
        assert_int_equal(letter.fingerprint.length, LETTER_FINGERPRINT_BYTES);
        /* No ce_id: known by where it first was. */
        assert_true(text_is(letter.id, "orders/-1/-1"));
    }
}

static void filter_takes_what_fits_all_that_is_set(void **state)
{
    (void)state;
    const int64_t dead_us = DEAD_AT_MS * 1000;
    const struct {
        struct letter_filter filter;
        bool matches;
    } cases[] = {
        {{0}, true},
        {{.service = "payment"}, true},
        {{.service = "order"}, false},
        {{.type = "OrderPlaced"}, true},
        {{.type = "weir.OrderPlaced"}, true},
        {{.type = "OrderCancelled"}, false},
        {{.type = "NoSuchType"}, false},
        {{.class = "RETRY"}, true},
        {{.class = "REJECT"}, false},
        {{.fingerprint = "0123456789abcdef"}, true},
        {{.fingerprint = "0123456789abcde"}, false},
        {{.id = "e-1"}, true},
        {{.id = "e-2"}, false},
        {{.key = "k-1"}, true},
        {{.key = "k"}, false},
        {{.since_us = dead_us}, true},
        {{.since_us = dead_us + 1}, false},
        {{.until_us = dead_us}, false},
        {{.until_us = dead_us + 1}, true},
        {{.at = true, .partition = 2, .offset = 99}, true},
        {{.at = true, .partition = 2, .offset = 98}, false},
        {{.at = true, .partition = 1, .offset = 99}, false},
        {{.service = "payment", .type = "OrderPlaced", .class = "RETRY", .id = "e-1", .key = "k-1"}, true},
        {{.service = "payment", .type = "OrderPlaced", .class = "RETRY", .id = "e-1", .key = "k-2"}, false},
    };
    struct record record;
    struct header headers[HEADERS_MAX];
    const struct letter letter = letter_of(&record, headers, "dlq.payment", weir_pairs);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (letter_matches(&cases[i].filter, &letter) != cases[i].matches)
            fail_msg("case %zu", i);
}

static void no_key_is_not_the_empty_key(void **state)
{
    (void)state;
    struct record record;
    struct header headers[HEADERS_MAX];
    const struct letter letter = letter_of(&record, headers, "dlq.payment", weir_pairs);
    const struct letter_filter filter = {.key = ""};
    record.key = TEXT("");
    assert_true(letter_matches(&filter, &letter));
    record.key_null = true;
    assert_false(letter_matches(&filter, &letter));
}

static void one_delivery_of_one_event_is_told_from_another(void **state)
{
    (void)state;
    struct record record;
    struct header headers[HEADERS_MAX];
    struct letter a = letter_of(&record, headers, "dlq.payment", weir_pairs), b = a;
    assert_true(letter_delivery(&a) == letter_delivery(&b));
    b.origin.deliveries++;
    assert_true(letter_delivery(&a) != letter_delivery(&b));
    b = a;
    b.service = "email";
    assert_true(letter_delivery(&a) != letter_delivery(&b));
    b = a;
    b.id = TEXT("e-2");
    assert_true(letter_delivery(&a) != letter_delivery(&b));
}

/* ---- the copy */

/* The copy's headers as "name=value;…", in their order. */
static const char *copied(const char *topic, const char *const *pairs, bool drop, const char *to)
{
    struct record record;
    struct header headers[HEADERS_MAX];
    const struct letter letter = letter_of(&record, headers, topic, pairs);
    const struct letter_order order = {
        .drop = drop,
        .reason = "a test order",
        .by = "ann@desk",
        .first_delay_ms = 2000,
        .now_us = DEAD_AT_MS * 1000,
    };
    struct producer_record copy;
    struct error error;
    bool send = false;
    assert_int_equal(letter_copy(&letter, &order, arena, &copy, &send, &error), OK);
    assert_true(text_is(copy.topic, to));
    assert_int_equal(copy.partition, -1);
    assert_int_equal(copy.timestamp_ms, 0);
    assert_true(text_equal(copy.key, record.key));
    assert_true(text_equal(copy.value, record.value));
    assert_int_equal(send, letter.service || !drop);
    const char *all = "";
    for (size_t i = 0; i < copy.header_count; i++)
        all = arena_print(arena, "%s%.*s=%.*s\n", all, TEXT_ARG(copy.headers[i].name),
                          TEXT_ARG(copy.headers[i].value));
    return all;
}

#define ORIGIN_LINES                                                                                         \
    "__dlq.errors.topic=orders\n"                                                                            \
    "__dlq.errors.partition=3\n"                                                                             \
    "__dlq.errors.offset=17\n"                                                                               \
    "__dlq.errors.group=weir-payment\n"                                                                      \
    "__dlq.errors.delivery.count=4\n"                                                                        \
    "__dlq.errors.message=the gateway said no\n"
#define KEPT_LINES                                                                                           \
    "ce_id=e-1\n"                                                                                            \
    "ce_type=weir.OrderPlaced\n"                                                                             \
    "custom=kept\n" ORIGIN_LINES "weir_error_class=RETRY\n"                                                  \
    "weir_error_fingerprint=0123456789abcdef\n"
#define NOW "2025-11-21T08:00:00.000000Z"

static void redriven_copy_begins_its_attempts_anew_and_keeps_all_else(void **state)
{
    (void)state;
    assert_string_equal(copied("dlq.payment", weir_pairs, false, "retry.payment.2s"),
                        KEPT_LINES "weir_first_failed_at=2025-11-21T07:59:00Z\n"
                                   "weir_attempt=0\n"
                                   "weir_due_at=" NOW "\n"
                                   "weir_redrives=1\n"
                                   "weir_redriven_at=" NOW "\n"
                                   "weir_redriven_by=ann@desk\n");
}

static void second_redrive_is_counted_and_replaces_the_first(void **state)
{
    (void)state;
    static const char *const pairs[] = {
        "__dlq.errors.topic=orders", "weir_attempt=1",   "weir_redrives=1",        "weir_redriven_at=then",
        "weir_redriven_by=bob",      "weir_due_at=then", "weir_drop=no more",      "weir_dropped_at=then",
        "weir_dropped_by=bob",       "weir_attempt=2",   "weir_error_class=RETRY", NULL,
    };
    assert_string_equal(copied("dlq.order", pairs, false, "retry.order.2s"), "__dlq.errors.topic=orders\n"
                                                                             "weir_error_class=RETRY\n"
                                                                             "weir_attempt=0\n"
                                                                             "weir_due_at=" NOW "\n"
                                                                             "weir_redrives=2\n"
                                                                             "weir_redriven_at=" NOW "\n"
                                                                             "weir_redriven_by=ann@desk\n");
}

static void dropped_copy_says_why_and_who(void **state)
{
    (void)state;
    static const char *const pairs[] = {"__dlq.errors.topic=orders", "weir_redrives=3",
                                        "weir_redriven_by=bob", NULL};
    assert_string_equal(copied("dlq.order", pairs, true, "retry.order.2s"), "__dlq.errors.topic=orders\n"
                                                                            "weir_redrives=3\n"
                                                                            "weir_redriven_by=bob\n"
                                                                            "weir_attempt=0\n"
                                                                            "weir_due_at=" NOW "\n"
                                                                            "weir_drop=a test order\n"
                                                                            "weir_dropped_at=" NOW "\n"
                                                                            "weir_dropped_by=ann@desk\n");
}

static void letter_of_spring_for_a_service_of_weir_gets_our_headers(void **state)
{
    (void)state;
    static const char *const pairs[] = {"ce_id=e-9",
                                        "kafka_dlt-original-topic=payments",
                                        "kafka_dlt-original-consumer-group=weir-email",
                                        "kafka_dlt-exception-fqcn=java.lang.Boom",
                                        "kafka_dlt-exception-message=went off",
                                        NULL};
    assert_string_equal(copied("payments.DLT", pairs, false, "retry.email.2s"),
                        "ce_id=e-9\n"
                        "kafka_dlt-original-topic=payments\n"
                        "kafka_dlt-original-consumer-group=weir-email\n"
                        "kafka_dlt-exception-fqcn=java.lang.Boom\n"
                        "kafka_dlt-exception-message=went off\n"
                        "__dlq.errors.topic=payments\n"
                        "__dlq.errors.group=weir-email\n"
                        "__dlq.errors.delivery.count=1\n"
                        "__dlq.errors.message=went off\n"
                        "weir_attempt=0\n"
                        "weir_due_at=" NOW "\n"
                        "weir_redrives=1\n"
                        "weir_redriven_at=" NOW "\n"
                        "weir_redriven_by=ann@desk\n");
}

static void letter_of_anybody_else_goes_home_as_it_first_was(void **state)
{
    (void)state;
    static const char *const pairs[] = {"trace=1",
                                        "__connect.errors.topic=clicks",
                                        "__connect.errors.partition=0",
                                        "__connect.errors.connector.name=sink",
                                        "__connect.errors.exception.class.name=java.lang.Boom",
                                        "weir_attempt=7",
                                        NULL};
    assert_string_equal(copied("connect-dlq", pairs, false, "clicks"), "trace=1\n");
    /* Dropped: nobody waits for it. Only the audit is written. */
    assert_string_equal(copied("connect-dlq", pairs, true, "clicks"), "trace=1\n");
}

static void letter_that_does_not_say_where_it_came_from_is_left(void **state)
{
    (void)state;
    static const struct {
        const char *topic;
        const char *const pairs[3];
    } cases[] = {
        {"dlq.order", {NULL}},
        {"dlq.order", {"weir_attempt=3", NULL}},
        {"dlq.order", {"__dlq.errors.topic=no such/name", NULL}},
        {"some.DLT", {"ce_id=1", NULL}},
        {"some.DLT", {"kafka_dlt-original-topic=some.DLT", NULL}}, /* for ever round */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct record record;
        struct header headers[HEADERS_MAX];
        const struct letter letter = letter_of(&record, headers, cases[i].topic, cases[i].pairs);
        const struct letter_order order = {.by = "ann", .first_delay_ms = 2000};
        struct producer_record copy;
        struct error error;
        bool send;
        assert_int_equal(letter_copy(&letter, &order, arena, &copy, &send, &error), REJECT);
        assert_string_equal(error.cause, "origin");
    }
}

static void absent_and_null_values_stay_what_they_are(void **state)
{
    (void)state;
    struct record record;
    struct header headers[HEADERS_MAX];
    struct letter letter = letter_of(&record, headers, "dlq.payment", weir_pairs);
    const struct letter_order order = {.by = "ann", .first_delay_ms = 2000};
    struct producer_record copy;
    struct error error;
    bool send;
    record.key_null = record.value_null = true;
    headers[2].value = (struct text){NULL, 0};
    assert_int_equal(letter_copy(&letter, &order, arena, &copy, &send, &error), OK);
    assert_true(copy.key_null);
    assert_true(copy.value_null);
    assert_null(header_find(copy.headers, copy.header_count, "custom")->value.at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(letter_of_a_service_is_known_by_its_topic),
        cmocka_unit_test(letter_of_others_belongs_to_the_service_whose_group_it_names),
        cmocka_unit_test(filter_takes_what_fits_all_that_is_set),
        cmocka_unit_test(no_key_is_not_the_empty_key),
        cmocka_unit_test(one_delivery_of_one_event_is_told_from_another),
        cmocka_unit_test(redriven_copy_begins_its_attempts_anew_and_keeps_all_else),
        cmocka_unit_test(second_redrive_is_counted_and_replaces_the_first),
        cmocka_unit_test(dropped_copy_says_why_and_who),
        cmocka_unit_test(letter_of_spring_for_a_service_of_weir_gets_our_headers),
        cmocka_unit_test(letter_of_anybody_else_goes_home_as_it_first_was),
        cmocka_unit_test(letter_that_does_not_say_where_it_came_from_is_left),
        cmocka_unit_test(absent_and_null_values_stay_what_they_are),
    };
    return cmocka_run_group_tests(tests, arena_up, arena_down);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "wire/origin.h"

#include <stdio.h>

enum { HEADERS_MAX = 16, FIRST_FAILED_US = 1763726400 };
#define FIRST_FAILED "2025-11-21T12:00:00.5Z"

struct given {
    const char *name;
    struct text value;
};
#define G(name, value)                                                                                       \
    {                                                                                                        \
        (name), TEXT_INIT(value)                                                                             \
    }

static const struct example {
    const char *what;
    struct given given[HEADERS_MAX];
    enum origin_kind kind;
    const char *topic;
    int32_t partition;
    int64_t offset;
    const char *group;
    int deliveries, attempt, redrives;
    int64_t first_failed_us, due_us;
    const char *class, *fingerprint, *message, *drop;
} examples[] = {
    {.what = "no headers", .partition = -1, .offset = -1},
    {
        .what = "an event's headers",
        .given = {G("ce_id", "1"), G("ce_type", "weir.OrderPlaced"), G("traceparent", "00-")},
        .partition = -1,
        .offset = -1,
    },
    {
        .what = "Weir's dead letter, redriven twice",
        .given = {G(HEADER_ERRORS_TOPIC, "orders"), G(HEADER_ERRORS_PARTITION, "5"),
                  G(HEADER_ERRORS_OFFSET, "9007199254740993"), G(HEADER_ERRORS_GROUP, "weir-email"),
                  G(HEADER_ERRORS_DELIVERY_COUNT, "12"), G(HEADER_ERRORS_MESSAGE, "no such SKU"),
                  G(HEADER_CLASS, "RETRY"), G(HEADER_FINGERPRINT, "0123456789abcdef"), G(HEADER_ATTEMPT, "4"),
                  G(HEADER_FIRST_FAILED_AT, FIRST_FAILED), G(HEADER_REDRIVES, "2")},
        .kind = ORIGIN_WEIR,
        .topic = "orders",
        .partition = 5,
        .offset = 9007199254740993,
        .group = "weir-email",
        .deliveries = 12,
        .attempt = 4,
        .redrives = 2,
        .first_failed_us = FIRST_FAILED_US * INT64_C(1000000) + 500000,
        .class = "RETRY",
        .fingerprint = "0123456789abcdef",
        .message = "no such SKU",
    },
    {
        .what = "a copy on a retry topic that is not to be handled",
        .given = {G(HEADER_ERRORS_TOPIC, "payments"), G(HEADER_ERRORS_PARTITION, "0"),
                  G(HEADER_ERRORS_OFFSET, "0"), G(HEADER_DUE_AT, "2025-11-21T13:00:00+01:00"),
                  G(HEADER_DROP, "customer called")},
        .kind = ORIGIN_WEIR,
        .topic = "payments",
        .due_us = FIRST_FAILED_US * INT64_C(1000000),
        .drop = "customer called",
    },
    {
        .what = "KIP-1191 by a share group",
        .given = {G("__dlq.errors.topic", "stock"), G("__dlq.errors.partition", "11"),
                  G("__dlq.errors.offset", "7"), G("__dlq.errors.group", "share-1"),
                  G("__dlq.errors.delivery.count", "5"), G("__dlq.errors.message", "rejected")},
        .kind = ORIGIN_WEIR,
        .topic = "stock",
        .partition = 11,
        .offset = 7,
        .group = "share-1",
        .deliveries = 5,
        .message = "rejected",
    },
    {
        .what = "what is malformed, negative or too large is not said",
        .given = {G(HEADER_ERRORS_TOPIC, "orders"), G(HEADER_ERRORS_PARTITION, "2147483648"),
                  G(HEADER_ERRORS_OFFSET, "-1"), G(HEADER_ERRORS_DELIVERY_COUNT, "2147483647"),
                  G(HEADER_ATTEMPT, "one"), G(HEADER_REDRIVES, "-3"), G(HEADER_FIRST_FAILED_AT, "yesterday"),
                  G(HEADER_DUE_AT, ""), G(HEADER_DROP, "")},
        .kind = ORIGIN_WEIR,
        .topic = "orders",
        .partition = -1,
        .offset = -1,
    },
    {
        .what = "numbers without a topic are no origin",
        .given = {G(HEADER_ERRORS_PARTITION, "1"), G(HEADER_ATTEMPT, "3"), G(HEADER_DROP, "x")},
        .partition = -1,
        .offset = -1,
    },
    {
        .what = "a topic that Kafka would not take is no origin",
        .given = {G(HEADER_ERRORS_TOPIC, "orders\n"), G(HEADER_ATTEMPT, "3")},
        .partition = -1,
        .offset = -1,
    },
    {
        .what = "the last of a name counts",
        .given = {G(HEADER_ERRORS_TOPIC, "payments"), G(HEADER_ATTEMPT, "1"),
                  G(HEADER_ERRORS_TOPIC, "orders"), G(HEADER_ATTEMPT, "2")},
        .kind = ORIGIN_WEIR,
        .topic = "orders",
        .partition = -1,
        .offset = -1,
        .attempt = 2,
    },
    {
        .what = "Spring's dead letter",
        .given = {G("kafka_dlt-original-topic", "orders"),
                  G("kafka_dlt-original-partition", "\x00\x00\x01\x02"),
                  G("kafka_dlt-original-offset", "\x00\x00\x00\x01\x00\x00\x00\xff"),
                  G("kafka_dlt-original-timestamp", "\x00\x00\x01\x9a\xa6\xb0\x00\x00"),
                  G("kafka_dlt-original-timestamp-type", "CreateTime"),
                  G("kafka_dlt-original-consumer-group", "billing"),
                  G("kafka_dlt-exception-fqcn", "org.example.Boom"), G("kafka_dlt-exception-message", "boom"),
                  G("retry_topic-attempts", "\x00\x00\x00\x04"), G("weir_attempt", "9")},
        .kind = ORIGIN_SPRING,
        .topic = "orders",
        .partition = 258,
        .offset = 0x1000000ff,
        .group = "billing",
        .deliveries = 4,
        .class = "org.example.Boom",
        .message = "boom",
    },
    {
        .what = "Spring's retry topics, with the names they use, and a key that could not be read",
        .given = {G("kafka_original-topic", "orders"), G("kafka_original-partition", "\0\0\0\0"),
                  G("kafka_original-offset", "\0\0\0\0\0\0\0\0"),
                  G("kafka_dlt-original-consumer-group", "billing"),
                  G("kafka_key-exception-fqcn", "org.example.BadKey"),
                  G("kafka_key-exception-message", "bad key")},
        .kind = ORIGIN_SPRING,
        .topic = "orders",
        .group = "billing",
        .class = "org.example.BadKey",
        .message = "bad key",
    },
    {
        .what = "Spring appends: the first origin and the last failure",
        .given = {G("kafka_dlt-original-topic", "orders"), G("kafka_dlt-original-partition", "\0\0\0\3"),
                  G("kafka_dlt-exception-fqcn", "First"), G("kafka_dlt-original-topic", "orders-retry-0"),
                  G("kafka_dlt-original-partition", "\0\0\0\1"), G("kafka_dlt-exception-fqcn", "Second")},
        .kind = ORIGIN_SPRING,
        .topic = "orders",
        .partition = 3,
        .offset = -1,
        .class = "Second",
    },
    {
        .what = "Spring's numbers of another width, and negative ones",
        .given = {G("kafka_dlt-original-topic", "orders"), G("kafka_dlt-original-partition", "3"),
                  G("kafka_dlt-original-offset", "\xff\xff\xff\xff\xff\xff\xff\xff"),
                  G("retry_topic-attempts", "\x7f\xff\xff\xff")},
        .kind = ORIGIN_SPRING,
        .topic = "orders",
        .partition = -1,
        .offset = -1,
    },
    {
        .what = "Connect's dead letter",
        .given = {G("__connect.errors.topic", "orders"), G("__connect.errors.partition", "3"),
                  G("__connect.errors.offset", "42"), G("__connect.errors.connector.name", "sink"),
                  G("__connect.errors.task.id", "0"), G("__connect.errors.stage", "VALUE_CONVERTER"),
                  G("__connect.errors.exception.class.name", "org.apache.kafka.connect.errors.DataException"),
                  G("__connect.errors.exception.message", "Failed to deserialize")},
        .kind = ORIGIN_CONNECT,
        .topic = "orders",
        .partition = 3,
        .offset = 42,
        .group = "sink",
        .class = "org.apache.kafka.connect.errors.DataException",
        .message = "Failed to deserialize",
    },
    {
        .what = "Connect's numbers are text, not bytes",
        .given = {G("__connect.errors.topic", "orders"), G("__connect.errors.partition", "\0\0\0\3"),
                  G("__connect.errors.offset", "4 2")},
        .kind = ORIGIN_CONNECT,
        .topic = "orders",
        .partition = -1,
        .offset = -1,
    },
    {
        .what = "Weir's headers win over those that came before",
        .given = {G("__connect.errors.topic", "lines"), G("kafka_dlt-original-topic", "rows"),
                  G("kafka_dlt-exception-message", "boom"), G(HEADER_ERRORS_TOPIC, "orders"),
                  G(HEADER_ERRORS_OFFSET, "1")},
        .kind = ORIGIN_WEIR,
        .topic = "orders",
        .partition = -1,
        .offset = 1,
    },
};

static void assert_text(const char *what, const char *field, struct text is, const char *wanted)
{
    if (!text_is(is, wanted ? wanted : ""))
        fail_msg("%s: %s is \"%.*s\"", what, field, TEXT_ARG(is));
}

static void assert_number(const char *what, const char *field, int64_t is, int64_t wanted)
{
    if (is != wanted)
        fail_msg("%s: %s is %lld", what, field, (long long)is);
}

static void headers_of_each_kind_say_where_it_was_and_why_it_failed(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(examples) / sizeof(*examples); i++) {
        const struct example *example = &examples[i];
        struct header headers[HEADERS_MAX];
        size_t count = 0;
        for (; count < HEADERS_MAX && example->given[count].name; count++)
            headers[count] =
                (struct header){text_of(example->given[count].name), example->given[count].value};
        struct origin origin;
        memset(&origin, 0x5a, sizeof(origin));
        origin_read(headers, count, &origin);
        assert_number(example->what, "kind", origin.kind, example->kind);
        assert_text(example->what, "topic", origin.topic, example->topic);
        assert_number(example->what, "partition", origin.partition, example->partition);
        assert_number(example->what, "offset", origin.offset, example->offset);
        assert_text(example->what, "group", origin.group, example->group);
        assert_number(example->what, "deliveries", origin.deliveries, example->deliveries);
        assert_number(example->what, "attempt", origin.attempt, example->attempt);
        assert_number(example->what, "redrives", origin.redrives, example->redrives);
        assert_number(example->what, "first failed", origin.first_failed_us, example->first_failed_us);
        assert_number(example->what, "due", origin.due_us, example->due_us);
        assert_text(example->what, "class", origin.class, example->class);
        assert_text(example->what, "fingerprint", origin.fingerprint, example->fingerprint);
        assert_text(example->what, "message", origin.message, example->message);
        assert_text(example->what, "drop", origin.drop, example->drop);
    }
}

static void a_topics_name_is_as_long_as_kafka_lets_it_be(void **state)
{
    (void)state;
    char name[251];
    memset(name, 'a', sizeof(name));
    struct header header = {TEXT(HEADER_ERRORS_TOPIC), {name, 249}};
    struct origin origin;
    origin_read(&header, 1, &origin);
    assert_int_equal(origin.kind, ORIGIN_WEIR);
    assert_int_equal(origin.topic.length, 249);
    assert_ptr_equal(origin.topic.at, name);
    header.value.length = 250;
    origin_read(&header, 1, &origin);
    assert_int_equal(origin.kind, ORIGIN_NONE);
}

static void names_are_ours_foreign_or_the_events_own(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool ours, foreign;
    } names[] = {
        {HEADER_ERRORS_TOPIC, true, false},
        {"__dlq.errors.anything", true, false},
        {HEADER_ATTEMPT, true, false},
        {HEADER_DROP, true, false},
        {"weir_", true, false},
        {"weir", false, false},
        {"__dlq.error", false, false},
        {"Weir_attempt", false, false},
        {"kafka_dlt-original-topic", false, true},
        {"kafka_dlt-exception-stacktrace", false, true},
        {"kafka_original-offset", false, true},
        {"kafka_exception-cause-fqcn", false, true},
        {"kafka_key-exception-fqcn", false, true},
        {"retry_topic-backoff-timestamp", false, true},
        {"__connect.errors.stage", false, true},
        {"kafka_correlationId", false, false},
        {"ce_id", false, false},
        {"traceparent", false, false},
        {"", false, false},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        struct text name = text_of(names[i].name);
        if (origin_is_ours(name) != names[i].ours || origin_is_foreign(name) != names[i].foreign)
            fail_msg("\"%s\" is taken for another's", names[i].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_of_each_kind_say_where_it_was_and_why_it_failed),
        cmocka_unit_test(a_topics_name_is_as_long_as_kafka_lets_it_be),
        cmocka_unit_test(names_are_ours_foreign_or_the_events_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

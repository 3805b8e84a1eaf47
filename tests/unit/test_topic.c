#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/samples.h"
#include "wire/topic.h"

#include <librdkafka/rdkafka.h>

static void topics_are_those_of_the_table(void **state)
{
    (void)state;
    enum topic_id id;
    const struct topic *topic = topic_find(TEXT("stock"), &id);
    assert_non_null(topic);
    assert_int_equal(id, TOPIC_STOCK);
    assert_ptr_equal(topic, topic_get(TOPIC_STOCK));
    assert_ptr_equal(topic_find(TEXT("stock"), NULL), topic);
    assert_string_equal(topic->key_field, "sku");
    assert_true(topic->compacted);
    assert_string_equal(topic_get(TOPIC_ORDERS)->name, "orders");
    assert_string_equal(topic_get(TOPIC_ORDERS)->key_field, "order_id");
    assert_int_equal(topic_get(TOPIC_ORDERS)->partitions, TOPIC_PARTITIONS);
    assert_false(topic_get(TOPIC_ORDERS)->compacted);
}

static void other_topics_are_not_found(void **state)
{
    (void)state;
    enum topic_id id;
    const struct text names[] = {TEXT(""),          TEXT("order"),          TEXT("orders2"), TEXT("Orders"),
                                 TEXT("dlq.order"), TEXT("retry.order.2s"), TEXT("orders\0")};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        assert_null(topic_find(names[i], &id));
}

/* The hash itself shows through a count above every value of it. */
static void check_hash(const char *key, uint32_t hash)
{
    assert_int_equal(topic_partition(text_of(key), INT32_MAX), (int32_t)(hash & 0x7fffffff));
}

static void hash_is_that_of_the_java_client(void **state)
{
    (void)state;
    /* org.apache.kafka.common.utils.UtilsTest.testMurmur2 */
    check_hash("21", (uint32_t)-973932308);
    check_hash("foobar", (uint32_t)-790332482);
    check_hash("a-little-bit-long-string", (uint32_t)-985981536);
    check_hash("a-little-bit-longer-string", (uint32_t)-1486304829);
    check_hash("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", (uint32_t)-58897971);
    check_hash("abc", 479470107);
    /* librdkafka's rdmurmur2.c, by the Java client as well */
    check_hash("kafka", 0xd067cf64);
    check_hash("giberish123456789", 0x8f552b0c);
    check_hash("1234", 0x9fc97b14);
    check_hash("234", 0xe7c009ca);
    check_hash("34", 0x873930da);
    check_hash("4", 0x5a4b5ca1);
    check_hash("", 0x106e08d9);
    /* where murmur2 and librdkafka's own CRC32 part */
    assert_int_equal(topic_partition(TEXT("k1"), 6), 5);
}

static void partition_is_that_of_librdkafka(void **state)
{
    (void)state;
    struct samples samples = samples_of(1);
    for (int i = 0; i < 20000; i++) {
        char key[80];
        size_t length = samples_below(&samples, sizeof(key));
        for (size_t k = 0; k < length; k++)
            key[k] = (char)samples_next(&samples);
        int32_t count = (int32_t)samples_below(&samples, 100) + 1;
        assert_int_equal(topic_partition((struct text){key, length}, count),
                         rd_kafka_msg_partitioner_murmur2_random(NULL, key, length, count, NULL, NULL));
    }
}

static void retry_topic_is_named_by_the_shortest_form_of_its_delay(void **state)
{
    (void)state;
    static const struct {
        int64_t ms;
        const char *name;
    } cases[] = {
        {2000, "retry.order.2s"},      {90000, "retry.order.90s"},     {1500, "retry.order.1500ms"},
        {300000, "retry.order.5min"},  {60000, "retry.order.1min"},    {1, "retry.order.1ms"},
        {3600000, "retry.order.1h"},   {5400000, "retry.order.90min"}, {86400000, "retry.order.1d"},
        {90000000, "retry.order.25h"}, {0, "retry.order.0s"},
    };
    char into[TOPIC_NAME_BYTES_MAX];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t ms = -1;
        assert_string_equal(topic_retry("order", cases[i].ms, into), cases[i].name);
        assert_true(topic_retry_delay(text_of(cases[i].name), "order", &ms));
        assert_int_equal(ms, cases[i].ms);
    }
    assert_string_equal(topic_dlq("email", into), "dlq.email");
}

static void a_name_that_is_not_that_of_a_delay_has_none(void **state)
{
    (void)state;
    const struct text names[] = {TEXT(""),
                                 TEXT("retry.order."),
                                 TEXT("retry.order.2"),
                                 TEXT("retry.order.s"),
                                 TEXT("retry.order.02s"),
                                 TEXT("retry.order.60s"),
                                 TEXT("retry.order.2000ms"),
                                 TEXT("retry.order.-2s"),
                                 TEXT("retry.order.2s "),
                                 TEXT("retry.orders.2s"),
                                 TEXT("retry.order.x.2s"),
                                 TEXT("dlq.order"),
                                 TEXT("order.2s"),
                                 TEXT("2s"),
                                 TEXT("retry.order.99999999999999999999d"),
                                 TEXT("retry.order.367d")};
    int64_t ms;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (topic_retry_delay(names[i], "order", &ms))
            fail_msg("%.*s", TEXT_ARG(names[i]));
}

static void every_service_is_named(void **state)
{
    (void)state;
    static const char *const names[] = {"order", "inventory", "payment", "email", "analytics"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        assert_string_equal(topic_services[i], names[i]);
    assert_null(topic_services[sizeof(names) / sizeof(names[0])]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topics_are_those_of_the_table),
        cmocka_unit_test(other_topics_are_not_found),
        cmocka_unit_test(hash_is_that_of_the_java_client),
        cmocka_unit_test(partition_is_that_of_librdkafka),
        cmocka_unit_test(retry_topic_is_named_by_the_shortest_form_of_its_delay),
        cmocka_unit_test(a_name_that_is_not_that_of_a_delay_has_none),
        cmocka_unit_test(every_service_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow/decode.h"

#define LOWER    "0190ab6c-1d2e-7f30-8a1b-c2d3e4f50617"
#define CAPITALS "0190AB6C-1D2E-7F30-8A1B-C2D3E4F50617"

static struct registry *registry;
static struct arena *arena;
static struct decode decode;
static struct error error;
static int64_t timestamp_ms; /* of what is read */

static enum outcome handle(struct work *work, const struct event *event, struct error *ret_error)
{
    (void)work, (void)event, (void)ret_error;
    return OK;
}

static const struct subscription subscriptions[] = {
    {.type = &order_cancelled_type, .handle = handle},
    {.type = &stock_level_type, .handle = handle},
    {0},
};

static enum outcome read(const struct event_type *type, const void *data, struct text key,
                         struct decoded *ret)
{
    static struct buffer value;
    int32_t schema_id;
    value = buffer_of(10000);
    assert_int_equal(registry_id(registry, type, &schema_id, &error), OK);
    frame_write(&value, schema_id);
    assert_int_equal(codec_encode(type->codec, data, &value, &error), OK);
    const struct record record = {.topic = text_of(topic_get(type->topic)->name),
                                  .key = key,
                                  .timestamp_ms = timestamp_ms,
                                  .value = text_copy(arena, buffer_text(&value))};
    buffer_free(&value);
    return decode_record(&decode, &record, NULL, 0, arena, ret, &error);
}

static void order_id_in_capitals_is_the_same_order(void **state)
{
    (void)state;
    static const struct {
        struct text id, key;
    } forms[] = {
        {TEXT_INIT(LOWER), TEXT_INIT(LOWER)},
        {TEXT_INIT(CAPITALS), TEXT_INIT(CAPITALS)},
        {TEXT_INIT(LOWER), TEXT_INIT(CAPITALS)},
        {TEXT_INIT(CAPITALS), TEXT_INIT(LOWER)},
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        struct decoded decoded;
        const struct order_cancelled order = {.order_id = forms[i].id};
        assert_int_equal(read(&order_cancelled_type, &order, forms[i].key, &decoded), OK);
        assert_true(text_is(decoded.event.key, LOWER));
        assert_true(text_is(((const struct order_cancelled *)decoded.event.data)->order_id, LOWER));
    }
}

static void key_of_another_order_is_a_contradiction(void **state)
{
    (void)state;
    struct decoded decoded;
    const struct order_cancelled order = {.order_id = TEXT(LOWER)}, other = {.order_id = TEXT("no-uuid")};
    assert_int_equal(
        read(&order_cancelled_type, &order, TEXT("0190ab6c-1d2e-7f30-8a1b-c2d3e4f50618"), &decoded), REJECT);
    assert_int_equal(read(&order_cancelled_type, &other, TEXT("NO-UUID"), &decoded), REJECT);
    assert_string_equal(error.cause, "key-contradiction");
}

static void sku_is_its_bytes(void **state)
{
    (void)state;
    struct decoded decoded;
    const struct stock_level stock = {.sku = TEXT(CAPITALS)};
    assert_int_equal(read(&stock_level_type, &stock, TEXT(CAPITALS), &decoded), OK);
    assert_true(text_is(decoded.event.key, CAPITALS));
    assert_int_equal(read(&stock_level_type, &stock, TEXT(LOWER), &decoded), REJECT);
}

/* A timestamp is the writer's word; brokers before Kafka 4 take any. */
static void time_of_a_record_is_one_that_can_be_told(void **state)
{
    (void)state;
    static const struct {
        int64_t timestamp_ms, time_us;
    } rows[] = {
        {0, 0},
        {1763712000123, INT64_C(1763712000123000)},
        {INT64_MAX / 1000, RECORD_TIMESTAMP_MS_MAX * 1000},
        {INT64_MAX, RECORD_TIMESTAMP_MS_MAX * 1000},
    };
    const struct order_cancelled order = {.order_id = TEXT(LOWER)};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct decoded decoded;
        timestamp_ms = rows[i].timestamp_ms;
        assert_int_equal(read(&order_cancelled_type, &order, TEXT(LOWER), &decoded), OK);
        assert_true(decoded.event.time_us == rows[i].time_us);
    }
    timestamp_ms = 0;
}

/* A record that killed the process before: looked at without arena and without a place for the reason. */
static void refused_record_of_an_unknown_id_says_nothing(void **state)
{
    (void)state;
    struct decoded decoded;
    const struct record record = {.topic = TEXT("orders"), .key = TEXT(LOWER), .value = TEXT("\0\0\1\2\3x")};
    assert_int_equal(decode_record(&decode, &record, NULL, 0, NULL, &decoded, NULL), REJECT);
    assert_int_equal(decode_record(&decode, &record, NULL, 0, arena, &decoded, &error), REJECT);
    assert_string_equal(error.cause, "schema-unknown");
}

static int setup(void **state)
{
    (void)state;
    arena = arena_new(1 << 20);
    assert_int_equal(registry_open(NULL, &registry, &error), OK);
    assert_int_equal(decode_open(&decode, subscriptions, registry, &error), OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    registry_close(registry);
    arena_destroy(arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_id_in_capitals_is_the_same_order),
        cmocka_unit_test(key_of_another_order_is_a_contradiction),
        cmocka_unit_test(sku_is_its_bytes),
        cmocka_unit_test(time_of_a_record_is_one_that_can_be_told),
        cmocka_unit_test(refused_record_of_an_unknown_id_says_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

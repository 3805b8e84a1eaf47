#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/samples.h"
#include "wire/events.h"

#include <stdio.h>
#include <stdlib.h>

enum { BYTES_MAX = 64 << 20 };

static struct arena *arena;

static int set_up(void **state)
{
    (void)state;
    arena = arena_new(BYTES_MAX);
    return arena ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    arena_destroy(arena);
    return 0;
}

static const struct codec_type *type_of(const char *json)
{
    const struct schema *schema = NULL;
    struct error error = {.text = ""};
    if (schema_parse(text_of(json), arena, &schema, &error) != OK)
        fail_msg("%s: %s", json, error.text);
    return codec_type_new(schema, arena);
}

static const struct codec_plan *plan_of(const char *writer, const struct codec_type *reader)
{
    const struct codec_plan *plan = NULL;
    struct error error = {.text = ""};
    if (codec_plan_new(type_of(writer)->schema, reader, arena, &plan, &error) != OK)
        fail_msg("%s: %s", writer, error.text);
    return plan;
}

static const struct codec_plan *own_plan(const struct event_type *type)
{
    return plan_of(type->schemas[type->version - 1], type->codec);
}

/* What a datum of this schema is refused with, and where. */
static void refused(const char *schema, struct text bytes, const char *cause, const char *where)
{
    const void *data = NULL;
    struct error error = {.text = ""};
    size_t before = arena_used_bytes(arena);
    const struct codec_plan *plan = plan_of(schema, type_of(schema));
    before = arena_used_bytes(arena);
    /* of its very size, so that a sanitizer sees the byte after it */
    char *exact = malloc(bytes.length ? bytes.length : 1);
    memcpy(exact, bytes.at, bytes.length);
    enum outcome outcome = codec_decode(plan, (struct text){exact, bytes.length}, arena, &data, &error);
    free(exact);
    if (outcome != REJECT)
        fail_msg("%s: outcome %s", schema, outcome_name(outcome));
    if (strcmp(error.cause, cause) != 0 || !strstr(error.text, where))
        fail_msg("%s: %s, '%s'", schema, error.cause, error.text);
    assert_int_equal(arena_used_bytes(arena), before);
}

static const void *decoded(const char *schema, struct text bytes)
{
    const void *data = NULL;
    struct error error = {.text = ""};
    if (codec_decode(plan_of(schema, type_of(schema)), bytes, arena, &data, &error) != OK)
        fail_msg("%s: %s", schema, error.text);
    return data;
}

static void golden_bytes(void **state)
{
    (void)state;
    /* The Avro specification's own examples. */
    static const struct {
        int64_t value;
        struct text bytes;
    } numbers[] = {
        {0, TEXT_INIT("\x00")},
        {-1, TEXT_INIT("\x01")},
        {1, TEXT_INIT("\x02")},
        {-2, TEXT_INIT("\x03")},
        {2, TEXT_INIT("\x04")},
        {-64, TEXT_INIT("\x7f")},
        {64, TEXT_INIT("\x80\x01")},
        {INT64_MIN, TEXT_INIT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")},
        {INT64_MAX, TEXT_INIT("\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01")},
    };
    struct error error;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct buffer bytes = buffer_of(64);
        assert_int_equal(codec_encode(type_of("\"long\""), &numbers[i].value, &bytes, &error), OK);
        assert_true(text_equal(buffer_text(&bytes), numbers[i].bytes));
        assert_true(*(const int64_t *)decoded("\"long\"", numbers[i].bytes) == numbers[i].value);
        buffer_free(&bytes);
    }
    assert_true(text_is(*(const struct text *)decoded("\"string\"", TEXT("\x06"
                                                                         "foo")),
                        "foo"));
    const struct schema_list *list =
        decoded("{\"type\":\"array\",\"items\":\"long\"}", TEXT("\x04\x06\x36\x00"));
    assert_int_equal(list->count, 2);
    assert_true(((const int64_t *)list->at)[0] == 3 && ((const int64_t *)list->at)[1] == 27);
}

static const struct order_placed order = {
    .order_id = TEXT_INIT("01937a5e-5c1e-7b60-a1d4-7a0c5b6e9f11"),
    .customer_id = TEXT_INIT("c"),
    .email = TEXT_INIT("käthe@example.com"),
    .locale = TEXT_INIT("de"),
    .currency = TEXT_INIT("EUR"),
    .total_minor = 130,
    .items = (struct order_item[]){{TEXT_INIT("A"), 1, 100}, {TEXT_INIT("B"), 3, 10}},
    .items_count = 2,
    .placed_at = 1,
};
static const char order_bytes[] = "\x48"
                                  "01937a5e-5c1e-7b60-a1d4-7a0c5b6e9f11"
                                  "\x02"
                                  "c\x24k\xc3\xa4the@example.com\x04"
                                  "de\x06"
                                  "EUR\x84\x02\x04"
                                  "\x02"
                                  "A\x02\xc8\x01\x02"
                                  "B\x06\x14\x00\x02";

static void golden_order(void **state)
{
    (void)state;
    struct buffer bytes = buffer_of(BYTES_MAX);
    struct error error;
    const void *data;
    assert_int_equal(codec_encode(order_placed_type.codec, &order, &bytes, &error), OK);
    assert_int_equal(bytes.length, sizeof(order_bytes) - 1);
    assert_memory_equal(bytes.at, order_bytes, bytes.length);
    assert_int_equal(codec_decode(own_plan(&order_placed_type), buffer_text(&bytes), arena, &data, &error),
                     OK);
    assert_true(samples_same(order_placed_type.codec->schema, &order, data));
    /* text lies in the record, not in a copy */
    const struct order_placed *read = data;
    assert_ptr_equal(read->order_id.at, bytes.at + 1);
    buffer_free(&bytes);
}

static void every_event_goes_there_and_back(void **state)
{
    (void)state;
    struct samples samples = samples_of(1);
    struct buffer bytes = buffer_of(BYTES_MAX);
    struct error error;
    for (int i = 0; event_types[i]; i++) {
        const struct codec_plan *plan = own_plan(event_types[i]);
        for (int n = 0; n < 100; n++) {
            const void *value = samples_value(&samples, event_types[i]->codec->schema, arena), *data;
            buffer_clear(&bytes);
            assert_int_equal(codec_encode(event_types[i]->codec, value, &bytes, &error), OK);
            assert_int_equal(codec_decode(plan, buffer_text(&bytes), arena, &data, &error), OK);
            assert_true(samples_same(event_types[i]->codec->schema, value, data));
        }
    }
    buffer_free(&bytes);
}

/* Straight-line code writes without looking: what it is given room for must be enough. */
static void bound_is_never_less_than_what_is_written(void **state)
{
    (void)state;
    struct samples samples = samples_of(2);
    struct buffer bytes = buffer_of(BYTES_MAX);
    struct error error;
    const struct stock_level level = {TEXT(""), INT64_MIN, INT64_MIN, INT64_MIN};
    assert_int_equal(codec_encode(stock_level_type.codec, &level, &bytes, &error), OK);
    assert_int_equal(bytes.length, 1 + 3 * CODEC_LONG_BYTES_MAX);
    assert_true(stock_level_type.codec->bound(&level) >= bytes.length);
    struct order_item items[50];
    for (size_t i = 0; i < 50; i++)
        items[i] = (struct order_item){TEXT(""), INT32_MIN, INT64_MIN};
    const struct order_placed many = {.items = items, .items_count = 50};
    buffer_clear(&bytes);
    assert_int_equal(codec_encode(order_placed_type.codec, &many, &bytes, &error), OK);
    assert_true(order_placed_type.codec->bound(&many) >= bytes.length);
    for (int i = 0; event_types[i]; i++) {
        for (int n = 0; n < 200; n++) {
            const void *value = samples_value(&samples, event_types[i]->codec->schema, arena);
            buffer_clear(&bytes);
            assert_int_equal(codec_encode(event_types[i]->codec, value, &bytes, &error), OK);
            assert_true(event_types[i]->codec->bound(value) >= bytes.length);
        }
    }
    buffer_free(&bytes);
}

static void order_cut_anywhere_is_truncated(void **state)
{
    (void)state;
    const struct codec_plan *plan = own_plan(&order_placed_type);
    for (size_t length = 0; length < sizeof(order_bytes) - 1; length++) {
        const void *data;
        struct error error;
        char *exact = malloc(length ? length : 1);
        memcpy(exact, order_bytes, length);
        assert_int_equal(codec_decode(plan, (struct text){exact, length}, arena, &data, &error), REJECT);
        /* a count that the rest cannot hold may as well be a wrong one */
        if (strcmp(error.cause, "avro-truncated") != 0)
            assert_non_null(strstr(error.text, "items: a block"));
        free(exact);
    }
}

static void bytes_after_the_end_are_refused(void **state)
{
    (void)state;
    refused("\"int\"", TEXT("\2\0"), "avro-trailing", "1 bytes after the end");
    const void *data;
    struct error error;
    struct text longer = {order_bytes, sizeof(order_bytes)}; /* with its NUL */
    assert_int_equal(codec_decode(own_plan(&order_placed_type), longer, arena, &data, &error), REJECT);
    assert_string_equal(error.cause, "avro-trailing");
}

static void numbers_that_are_none_are_refused(void **state)
{
    (void)state;
    refused("\"long\"", TEXT(""), "avro-truncated", "byte 0 of 0");
    refused("\"long\"", TEXT("\xff\xff"), "avro-truncated", "long");
    refused("\"long\"", TEXT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), "avro-invalid", "not a long");
    refused("\"long\"", TEXT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "avro-invalid", "not a long");
    refused("\"int\"", TEXT("\x80\x80\x80\x80\x10"), "avro-invalid", "not a int");
    assert_int_equal(*(const int32_t *)decoded("\"int\"", TEXT("\xff\xff\xff\xff\x0f")), INT32_MIN);
    assert_int_equal(*(const int32_t *)decoded("\"int\"", TEXT("\x82\x80\x00")),
                     1); /* longer than it need be */
    refused("\"boolean\"", TEXT("\2"), "avro-invalid", "boolean");
    refused("\"float\"", TEXT("\0\0\0"), "avro-truncated", "float");
    refused("\"double\"", TEXT("\0\0\0\0\0\0\0"), "avro-truncated", "double");
    refused("{\"type\":\"fixed\",\"name\":\"F\",\"size\":4}", TEXT("abc"), "avro-truncated", "fixed");
    refused("{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"B\"]}", TEXT("\4"), "avro-invalid",
            "enum");
    refused("{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"B\"]}", TEXT("\1"), "avro-invalid",
            "enum");
    refused("[\"null\",\"int\"]", TEXT("\4\0"), "avro-invalid", "union");
    refused("[\"null\",\"int\"]", TEXT("\1\0"), "avro-invalid", "union");
}

static void declared_length_is_not_believed(void **state)
{
    (void)state;
    refused("\"string\"",
            TEXT("\x80\x80\x80\x80\x08"
                 "x"),
            "avro-truncated", "where 1 are left");
    refused("\"bytes\"", TEXT("\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "avro-truncated",
            "where 0 are left");
    refused("\"bytes\"",
            TEXT("\x01"
                 "x"),
            "avro-invalid", "bytes of -1");
    refused("\"bytes\"", TEXT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "avro-invalid",
            "bytes of -9223372036854775808");
}

static void strings_are_utf8_and_bytes_are_anything(void **state)
{
    (void)state;
    const struct text wrong[] = {TEXT("\4\xc3("),
                                 TEXT("\2\xff"),
                                 TEXT("\4\xc0\x80"),
                                 TEXT("\6\xed\xa0\x80"),
                                 TEXT("\x1e"
                                      "aaaaaaaaaaaaaa\xc3"),
                                 TEXT("\x10\x80"
                                      "aaaaaaa")};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        refused("\"string\"", wrong[i], "avro-utf8", "byte 0 is not UTF-8");
        decoded("\"bytes\"", wrong[i]);
    }
    assert_true(text_equal(*(const struct text *)decoded("\"string\"", TEXT("\4\0\0")), TEXT("\0\0")));
}

#define INTS "{\"type\":\"array\",\"items\":\"int\"}"

static void blocks_are_read_in_every_form(void **state)
{
    (void)state;
    const struct text forms[] = {
        TEXT("\6\2\4\6\0"),       /* one block                    */
        TEXT("\2\2\2\4\2\6\0"),   /* three                        */
        TEXT("\5\6\2\4\6\0"),     /* with its size in bytes       */
        TEXT("\3\4\2\4\1\2\6\0"), /* both sized                   */
        TEXT("\2\2\3\4\4\6\0"),   /* one plain, one sized         */
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        const struct schema_list *list = decoded(INTS, forms[i]);
        assert_int_equal(list->count, 3);
        for (int32_t k = 0; k < 3; k++)
            assert_int_equal(((const int32_t *)list->at)[k], k + 1);
    }
}

static void blocks_that_lie_are_refused(void **state)
{
    (void)state;
    refused(INTS, TEXT("\x80\x80\x80\x80\x08\2"), "avro-invalid", "cannot hold");
    refused(INTS, TEXT("\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "avro-invalid", "cannot hold");
    refused(INTS, TEXT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0"), "avro-invalid",
            "cannot hold");                                           /* smallest */
    refused(INTS, TEXT("\1\1\2\0"), "avro-invalid", "cannot hold");   /* of -1 bytes */
    refused(INTS, TEXT("\1\x10\2\0"), "avro-invalid", "cannot hold"); /* of 8 bytes  */
    refused(INTS, TEXT("\1\4\2\0"), "avro-invalid", "not as long as it says");
    refused(INTS, TEXT("\1\0\2\0"), "avro-invalid", "not as long as it says");
    refused(INTS, TEXT("\2\2"), "avro-truncated", "byte 2");
    refused("{\"type\":\"map\",\"values\":\"null\"}", TEXT("\x40\2a"), "avro-invalid", "cannot hold");
}

static void many_small_blocks_cost_no_more_than_one(void **state)
{
    (void)state;
    enum { BLOCKS = 200000 };
    char *bytes = malloc(2 * BLOCKS + 1);
    for (size_t i = 0; i < BLOCKS; i++)
        memcpy(bytes + 2 * i, "\2\2", 2);
    bytes[2 * BLOCKS] = 0;
    const struct codec_plan *plan = plan_of(INTS, type_of(INTS));
    size_t before = arena_used_bytes(arena);
    const void *data;
    struct error error;
    assert_int_equal(codec_decode(plan, (struct text){bytes, 2 * BLOCKS + 1}, arena, &data, &error), OK);
    assert_int_equal(((const struct schema_list *)data)->count, BLOCKS);
    assert_true(arena_used_bytes(arena) - before < 4 * BLOCKS * sizeof(int32_t) + 1024);
    free(bytes);
}

static void skipped_blocks_are_jumped_over_or_walked(void **state)
{
    (void)state;
    const char *writer = "{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":\"gone\",\"type\":{"
                         "\"type\":\"map\",\"values\":[\"null\",\"long\"]}},"
                         "{\"name\":\"kept\",\"type\":\"int\"}]}";
    const struct codec_type *reader =
        type_of("{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":\"kept\",\"type\":\"int\"}]}");
    const struct codec_plan *plan = plan_of(writer, reader);
    const struct text good[] = {TEXT("\2\2a\0\0\x0e"), TEXT("\1\6\2a\0\0\x0e"), TEXT("\1\2\xff\0\x0e"),
                                TEXT("\0\x0e")};
    const struct text bad[] = {TEXT("\2\2a\4\0\x0e"), TEXT("\2\2\xff\0\0\x0e"), TEXT("\1\x40\2a\0\0\x0e"),
                               TEXT("\2\2a\0")};
    struct error error;
    const void *data;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        if (codec_decode(plan, good[i], arena, &data, &error) != OK)
            fail_msg("%zu: %s", i, error.text);
        assert_int_equal(*(const int32_t *)data, 7);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(codec_decode(plan, bad[i], arena, &data, &error), REJECT);
        assert_non_null(strstr(error.text, "gone: "));
    }
}

static void memory_past_the_bound_is_retry_and_given_back(void **state)
{
    (void)state;
    const struct codec_plan *straight = own_plan(&order_placed_type);
    const char *schema = order_placed_type.schemas[0];
    const struct codec_plan *by_table = plan_of(schema, type_of(schema));
    struct text bytes = {order_bytes, sizeof(order_bytes) - 1};
    struct error error;
    const void *data;
    for (size_t room = 0; room <= 512; room += 16) {
        struct arena *small = arena_new(room);
        enum outcome one = codec_decode(straight, bytes, small, &data, &error);
        if (one != OK) {
            assert_int_equal(one, RETRY);
            assert_string_equal(error.cause, "memory");
            assert_int_equal(arena_used_bytes(small), 0);
        }
        arena_reset(small);
        assert_int_equal(codec_decode(by_table, bytes, small, &data, &error), one);
        arena_destroy(small);
        small = arena_new(room);
        void *copy = codec_copy(order_placed_type.codec, &order, small);
        if (copy)
            assert_true(samples_same(order_placed_type.codec->schema, &order, copy));
        arena_destroy(small);
    }
}

static void encoding_keeps_to_its_bounds(void **state)
{
    (void)state;
    struct error error;
    /* exactly as much as it needs, one byte less, and behind what is there already */
    size_t needed = sizeof(order_bytes) - 1;
    struct buffer exact = buffer_of(needed), less = buffer_of(needed - 1);
    assert_int_equal(codec_encode(order_placed_type.codec, &order, &exact, &error), OK);
    assert_memory_equal(exact.at, order_bytes, needed);
    assert_int_equal(codec_encode(order_placed_type.codec, &order, &exact, &error), REJECT);
    assert_int_equal(exact.length, needed);
    assert_int_equal(codec_encode(order_placed_type.codec, &order, &less, &error), REJECT);
    assert_string_equal(error.cause, "avro-too-long");
    assert_int_equal(less.length, 0);
    buffer_free(&exact);
    buffer_free(&less);

    struct buffer large = buffer_of(BYTES_MAX);
    struct stock_released released = {.order_id = TEXT("o"), .released_at = 0};
    char *reason = malloc(CODEC_ENCODED_BYTES_MAX);
    memset(reason, 'r', CODEC_ENCODED_BYTES_MAX);
    released.reason = (struct text){reason, CODEC_ENCODED_BYTES_MAX - 6}; /* 2 + 3 + itself + 1 */
    assert_int_equal(codec_encode(stock_released_type.codec, &released, &large, &error), OK);
    assert_int_equal(large.length, CODEC_ENCODED_BYTES_MAX);
    const void *data;
    assert_int_equal(codec_decode(own_plan(&stock_released_type), buffer_text(&large), arena, &data, &error),
                     OK);
    released.reason.length++;
    assert_int_equal(codec_encode(stock_released_type.codec, &released, &large, &error), REJECT);
    assert_string_equal(error.cause, "avro-too-long");
    assert_int_equal(large.length, CODEC_ENCODED_BYTES_MAX);
    buffer_add_char(&large, 0);
    assert_int_equal(codec_decode(own_plan(&stock_released_type), buffer_text(&large), arena, &data, &error),
                     REJECT);
    assert_string_equal(error.cause, "avro-too-long");
    free(reason);
    buffer_free(&large);
}

static void copy_lives_on_its_own(void **state)
{
    (void)state;
    char *bytes = malloc(sizeof(order_bytes));
    memcpy(bytes, order_bytes, sizeof(order_bytes));
    struct arena *record = arena_new(BYTES_MAX);
    const void *data;
    struct error error;
    struct text text = {bytes, sizeof(order_bytes) - 1};
    assert_int_equal(codec_decode(own_plan(&order_placed_type), text, record, &data, &error), OK);
    void *copy = codec_copy(order_placed_type.codec, data, arena);
    free(bytes);
    arena_destroy(record);
    assert_true(samples_same(order_placed_type.codec->schema, &order, copy));
}

/* ---- JSON */

static enum outcome from_json(const struct codec_type *type, const char *text, void **ret,
                              struct codec_faults *faults, struct error *error)
{
    json_t *json;
    assert_int_equal(json_read(text_of(text), &json, error), OK);
    faults->count = 0;
    enum outcome outcome = codec_from_json(type, json, arena, ret, faults, error);
    json_decref(json);
    return outcome;
}

static void json_of_an_order(void **state)
{
    (void)state;
    struct buffer text = buffer_of(BYTES_MAX);
    struct json_writer writer = json_writer(&text);
    struct codec_faults faults;
    struct error error;
    void *data;
    const char *expected =
        "{\"order_id\":\"01937a5e-5c1e-7b60-a1d4-7a0c5b6e9f11\",\"customer_id\":\"c\",\"email\":\"käthe@"
        "example.com\","
        "\"locale\":\"de\",\"currency\":\"EUR\",\"total_minor\":130,\"items\":[{\"sku\":\"A\",\"quantity\":1,"
        "\"unit_price_minor\":100},{\"sku\":\"B\",\"quantity\":3,\"unit_price_minor\":10}],"
        "\"placed_at\":\"1970-01-01T00:00:00.000001Z\"}";
    codec_to_json(order_placed_type.codec, &order, &writer);
    assert_true(text_is(buffer_text(&text), expected));
    assert_int_equal(from_json(order_placed_type.codec, expected, &data, &faults, &error), OK);
    assert_true(samples_same(order_placed_type.codec->schema, &order, data));
    buffer_free(&text);
}

static void absent_field_takes_its_default(void **state)
{
    (void)state;
    struct codec_faults faults;
    struct error error;
    void *data;
    assert_int_equal(from_json(order_placed_type.codec,
                               "{\"order_id\":\"x\",\"customer_id\":\"c\",\"email\":\"e\",\"currency\":"
                               "\"EUR\",\"total_minor\":0,"
                               "\"items\":[],\"placed_at\":1795262400123456}",
                               &data, &faults, &error),
                     OK);
    const struct order_placed *read = data;
    assert_true(text_is(read->locale, "en"));
    assert_true(read->placed_at == 1795262400123456);
    assert_int_equal(read->items_count, 0);
}

static void every_fault_is_named_by_its_path(void **state)
{
    (void)state;
    struct codec_faults faults;
    struct error error;
    void *data;
    assert_int_equal(
        from_json(
            order_placed_type.codec,
            "{\"order_id\":7,\"customer_id\":\"c\",\"currency\":null,\"total_minor\":1.0,"
            "\"items\":[{\"sku\":\"A\",\"quantity\":2147483648,\"unit_price_minor\":1,\"gift\":true},[]],"
            "\"placed_at\":\"yesterday\",\"extra\":{}}",
            &data, &faults, &error),
        REJECT);
    static const char *const expected[][2] = {
        {"order_id", "must be a string"},
        {"email", "is missing"},
        {"currency", "must be a string"},
        {"total_minor", "must be an integer"},
        {"items[0].quantity", "must be an integer of 32 bits"},
        {"items[0].gift", "is not a known field"},
        {"items[1]", "must be an object"},
        {"placed_at", "must be a time as in RFC 3339, or microseconds since 1970"},
        {"extra", "is not a known field"},
    };
    assert_int_equal(faults.count, sizeof(expected) / sizeof(expected[0]));
    for (size_t i = 0; i < faults.count; i++) {
        assert_string_equal(faults.fault[i].path, expected[i][0]);
        assert_string_equal(faults.fault[i].reason, expected[i][1]);
    }
    assert_string_equal(error.cause, "json-invalid");
    assert_string_equal(error.text, "order_id must be a string");
    assert_int_equal(from_json(order_placed_type.codec, "[]", &data, &faults, &error), REJECT);
    assert_string_equal(faults.fault[0].path, "");
    assert_string_equal(error.text, "must be an object");
}

static void paths_and_faults_are_bounded(void **state)
{
    (void)state;
    struct codec_faults faults;
    struct error error;
    struct buffer text = buffer_of(BYTES_MAX);
    void *data;
    buffer_add_string(&text, "{\"");
    for (int i = 0; i < 200; i++)
        buffer_add_string(&text, "ä");
    buffer_add_string(&text, "\":1");
    for (int i = 0; i < 100; i++)
        buffer_print(&text, ",\"unknown%d\":1", i);
    buffer_add(&text, "}", 2);
    assert_int_equal(from_json(stock_level_type.codec, text.at, &data, &faults, &error), REJECT);
    assert_int_equal(faults.count, CODEC_FAULTS_MAX);
    bool cut = false;
    for (size_t i = 0; i < faults.count; i++) {
        assert_true(text_is_utf8(text_of(faults.fault[i].path)));
        cut |= strlen(faults.fault[i].path) > 100;
    }
    assert_true(cut);
    faults.count = 0;
    codec_fault_add(&faults, "reason", "%s%s", "x", text.at + 2);
    assert_true(text_is_utf8(text_of(faults.fault[0].path)));
    buffer_free(&text);
}

static void values_of_every_type_in_json(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *json, *back; /* back NULL: a fault */
    } cases[] = {
        {"\"null\"", "null", "null"},
        {"\"null\"", "0", NULL},
        {"\"boolean\"", "true", "true"},
        {"\"boolean\"", "1", NULL},
        {"\"int\"", "-2147483648", "-2147483648"},
        {"\"int\"", "2147483648", NULL},
        {"\"long\"", "-9223372036854775808", "-9223372036854775808"},
        {"\"long\"", "1e3", NULL},
        {"\"long\"", "\"1\"", NULL},
        {"\"double\"", "3", "3"},
        {"\"double\"", "\"3\"", NULL},
        {"\"bytes\"", "\"\"", "\"\""},
        {"\"bytes\"", "\"AP/+\"", "\"AP/+\""},
        {"\"bytes\"", "\"AA==\"", "\"AA==\""},
        {"\"bytes\"", "\"AAA=\"", "\"AAA=\""},
        {"\"bytes\"", "\"AAA\"", NULL},
        {"\"bytes\"", "\"AB==\"", NULL},
        {"\"bytes\"", "\"AAB=\"", NULL},
        {"\"bytes\"", "\"A===\"", NULL},
        {"\"bytes\"", "\"====\"", NULL},
        {"\"bytes\"", "\"AA=A\"", NULL},
        {"\"bytes\"", "\"A A=\"", NULL},
        {"{\"type\":\"fixed\",\"name\":\"F\",\"size\":2}", "\"AAA=\"", "\"AAA=\""},
        {"{\"type\":\"fixed\",\"name\":\"F\",\"size\":2}", "\"AAAA\"", NULL},
        {"\"string\"", "\"\\u0000\\\"\"", "\"\\u0000\\\"\""},
        {"{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"B\"]}", "\"B\"", "\"B\""},
        {"{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"B\"]}", "\"C\"", NULL},
        {"{\"type\":\"map\",\"values\":\"int\"}", "{\"a\":1}", "{\"a\":1}"},
        {"{\"type\":\"map\",\"values\":\"int\"}", "{\"a\":\"1\"}", NULL},
        {"[\"null\",\"int\"]", "null", "null"},
        {"[\"null\",\"int\"]", "5", "5"},
        {"[\"null\",\"int\"]", "\"5\"", NULL},
        {"[\"int\"]", "null", NULL},
        {"[\"int\",\"string\",{\"type\":\"array\",\"items\":\"int\"}]", "[1,2]", "[1,2]"},
        {"[\"int\",\"string\",{\"type\":\"array\",\"items\":\"int\"}]", "[1,\"2\"]", NULL},
        {"[{\"type\":\"map\",\"values\":\"int\"},{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":"
         "\"a\",\"type\":\"string\"}]}]",
         "{\"a\":\"b\"}", "{\"a\":\"b\"}"},
        {"{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}", "\"2026-11-21T12:00:00.5+01:00\"",
         "\"2026-11-21T11:00:00.500000Z\""},
        {"{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}", "-62135596800000001",
         "-62135596800000001"},
        {"{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}", "253402300800000000",
         "253402300800000000"},
        {"{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}", "\"2026-13-21T12:00:00Z\"", NULL},
        {"{\"type\":\"int\",\"logicalType\":\"timestamp-micros\"}", "5", "5"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct codec_faults faults;
        struct error error;
        void *data;
        const struct codec_type *type = type_of(cases[i].schema);
        enum outcome outcome = from_json(type, cases[i].json, &data, &faults, &error);
        if (outcome != (cases[i].back ? OK : REJECT))
            fail_msg("%s of %s: %s", cases[i].json, cases[i].schema, outcome_name(outcome));
        assert_int_equal(faults.count > 0, outcome != OK);
        if (outcome != OK)
            continue;
        struct buffer text = buffer_of(BYTES_MAX);
        struct json_writer writer = json_writer(&text);
        codec_to_json(type, data, &writer);
        if (!text_is(buffer_text(&text), cases[i].back))
            fail_msg("%s of %s: %.*s", cases[i].json, cases[i].schema, TEXT_ARG(buffer_text(&text)));
        buffer_free(&text);
    }
}

static void json_without_memory_is_retry(void **state)
{
    (void)state;
    struct codec_faults faults;
    struct error error;
    struct arena *all = arena;
    for (size_t room = 0; room <= 2048; room += 16) {
        void *data;
        arena = arena_new(room);
        enum outcome outcome =
            from_json(order_placed_type.codec,
                      "{\"order_id\":\"x\",\"customer_id\":\"c\",\"email\":\"e\",\"currency\":\"EUR\","
                      "\"total_minor\":0,\"items\":[{\"sku\":\"a\",\"quantity\":1,\"unit_price_minor\":1}],"
                      "\"placed_at\":0}",
                      &data, &faults, &error);
        assert_true(outcome == OK || outcome == RETRY);
        if (room == 0)
            assert_int_equal(outcome, RETRY);
        if (room == 2048)
            assert_int_equal(outcome, OK);
        arena_destroy(arena);
    }
    arena = all;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(golden_bytes),
        TEST(golden_order),
        TEST(every_event_goes_there_and_back),
        TEST(bound_is_never_less_than_what_is_written),
        TEST(order_cut_anywhere_is_truncated),
        TEST(bytes_after_the_end_are_refused),
        TEST(numbers_that_are_none_are_refused),
        TEST(declared_length_is_not_believed),
        TEST(strings_are_utf8_and_bytes_are_anything),
        TEST(blocks_are_read_in_every_form),
        TEST(blocks_that_lie_are_refused),
        TEST(many_small_blocks_cost_no_more_than_one),
        TEST(skipped_blocks_are_jumped_over_or_walked),
        TEST(memory_past_the_bound_is_retry_and_given_back),
        TEST(encoding_keeps_to_its_bounds),
        TEST(copy_lives_on_its_own),
        TEST(json_of_an_order),
        TEST(absent_field_takes_its_default),
        TEST(every_fault_is_named_by_its_path),
        TEST(paths_and_faults_are_bounded),
        TEST(values_of_every_type_in_json),
        TEST(json_without_memory_is_retry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

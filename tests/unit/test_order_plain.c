/* What is read plainly is what the JSON reader would have made of it; all else is left to that one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "order/order.h"

#include <stdio.h>
#include <stdlib.h>

enum { ARENA_BYTES = 1 << 20 };

static struct arena *arena;

static int setup(void **state)
{
    (void)state;
    return (arena = arena_new(ARENA_BYTES)) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    arena_destroy(arena);
    return 0;
}

static void encode(const struct order_placed *order, struct buffer *into)
{
    struct error error;
    struct order_placed whole = *order;
    whole.total_minor = whole.placed_at = 1;
    if (!whole.order_id.length)
        whole.order_id = TEXT("made");
    assert_int_equal(codec_encode(order_placed_type.codec, &whole, into, &error), OK);
}

/* By the JSON reader. False: it is refused. */
static bool read_json(struct text body, struct buffer *into)
{
    struct error error;
    struct codec_faults faults = {0};
    json_t *json = NULL;
    void *data = NULL;
    bool right = json_read_request(body, &json, &error) == OK && json_is_object(json) &&
                 !json_object_get(json, "total_minor") && !json_object_get(json, "placed_at");
    if (right) {
        json_object_set_new(json, "total_minor", json_integer(1));
        json_object_set_new(json, "placed_at", json_integer(1));
        if (!json_object_get(json, "order_id"))
            json_object_set_new(json, "order_id", json_string("made"));
        right = codec_from_json(order_placed_type.codec, json, arena, &data, &faults, &error) == OK;
    }
    if (right)
        encode(data, into);
    json_decref(json);
    return right;
}

/* Whether it is plain; where it is, it must be the same as the JSON reader's. */
static bool look_at(struct text body)
{
    char *exactly = malloc(body.length + 1); /* not a byte behind it may be looked at */
    assert_non_null(exactly);
    struct text copy = {memcpy(exactly, body.at, body.length), body.length};
    struct order_placed *plain = order_plain_read(copy);
    if (plain) {
        struct buffer by_json = buffer_of(ARENA_BYTES), by_plain = buffer_of(ARENA_BYTES);
        arena_reset(arena);
        assert_true(read_json(copy, &by_json));
        const struct order_placed *order = order_plain_copy(arena, plain, copy);
        assert_non_null(order);
        memset(exactly, 'x', body.length); /* nothing of it is needed any more */
        encode(order, &by_plain);
        assert_true(text_equal(buffer_text(&by_json), buffer_text(&by_plain)));
        buffer_free(&by_json);
        buffer_free(&by_plain);
    }
    free(plain);
    free(exactly);
    return plain != NULL;
}

#define ORDER_HEAD "{\"customer_id\":\"c\",\"email\":\"a@b.example\",\"currency\":\"EUR\",\"items\":["
#define ITEM       "{\"sku\":\"S-1\",\"quantity\":1,\"unit_price_minor\":100}"

static void a_plain_order_is_read_as_by_the_json_reader(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        ORDER_HEAD ITEM "]}",
        ORDER_HEAD ITEM ",{\"unit_price_minor\":0,\"sku\":\"\",\"quantity\":2147483647}]}",
        " { \"items\" : [ " ITEM " ,\n\t" ITEM " ] , \"order_id\":\"01937A5E-5C1E-7B60-A1D4-7A0C5B6E9F11\",\r"
        "\"locale\":\"de\",\"currency\":\"\",\"email\":\"\",\"customer_id\":\"~ !\"}\n ",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":0,\"unit_price_minor\":999999999999999999}],\"locale\":\"\"}",
    };
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        assert_true(look_at(text_of(bodies[i])));
}

static void what_is_not_plain_is_left_to_the_json_reader(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "",
        "{}",
        "[]",
        "{",
        ORDER_HEAD "]}",
        ORDER_HEAD ITEM "]",
        ORDER_HEAD ITEM ",]}",
        ORDER_HEAD ITEM "],}",
        ORDER_HEAD ITEM "]}x",
        ORDER_HEAD ITEM "],\"customer_id\":\"again\"}",
        ORDER_HEAD ITEM "],\"items\":[" ITEM "]}",
        ORDER_HEAD ITEM "],\"order_id\":\"\"}",
        ORDER_HEAD ITEM "],\"order_id\":7}",
        ORDER_HEAD ITEM "],\"locale\":null}",
        ORDER_HEAD ITEM "],\"locale\":\"d\\u0065\"}",
        ORDER_HEAD ITEM "],\"locale\":\"d\xc3\xa9\"}",
        ORDER_HEAD ITEM "],\"locale\":\"d\te\"}",
        ORDER_HEAD ITEM "],\"locale\":\"de}",
        ORDER_HEAD ITEM "],\"total_minor\":100}",
        ORDER_HEAD ITEM "],\"more\":1}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":1}]}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":1,\"quantity\":1}]}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":1,\"unit_price_minor\":1,\"more\":1}]}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":01,\"unit_price_minor\":1}]}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":-1,\"unit_price_minor\":1}]}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":1.0,\"unit_price_minor\":1}]}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":1e0,\"unit_price_minor\":1}]}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":,\"unit_price_minor\":1}]}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":2147483648,\"unit_price_minor\":1}]}",
        ORDER_HEAD "{\"sku\":\"S\",\"quantity\":1,\"unit_price_minor\":1000000000000000000}]}",
        "{\"email\":\"a@b.example\",\"currency\":\"EUR\",\"items\":[" ITEM "]}",
    };
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        if (look_at(text_of(bodies[i])))
            fail_msg("%s", bodies[i]);
}

static void more_items_than_an_order_has_are_left_to_the_json_reader(void **state)
{
    (void)state;
    for (int count = 100; count <= 101; count++) {
        struct buffer body = buffer_of(1 << 16);
        buffer_print(&body, "%s%s", ORDER_HEAD, ITEM);
        for (int i = 1; i < count; i++)
            buffer_print(&body, ",%s", ITEM);
        buffer_print(&body, "]}");
        assert_int_equal(look_at(buffer_text(&body)), count == 100);
        buffer_free(&body);
    }
}

/* Each byte of an order put in place of another, taken out and written twice. */
static void whatever_a_byte_makes_of_an_order_is_read_alike_or_left(void **state)
{
    (void)state;
    static const char order[] = ORDER_HEAD ITEM "],\"order_id\":\"x\", \"locale\":\"en\"}";
    static const char bytes[] = "{}[]\",:\\ 019-.eE+a\x01\x7f\xff\n";
    const size_t length = sizeof(order) - 1;
    char body[sizeof(order) + 1];
    size_t plain = 0;
    for (size_t at = 0; at < length; at++) {
        for (size_t i = 0; i < sizeof(bytes); i++) { /* its NUL too */
            memcpy(body, order, length);
            body[at] = bytes[i];
            plain += look_at((struct text){body, length});
        }
        memcpy(body, order, at);
        memcpy(body + at, order + at + 1, length - at - 1);
        plain += look_at((struct text){body, length - 1});
        memcpy(body, order, at + 1);
        memcpy(body + at + 1, order + at, length - at);
        plain += look_at((struct text){body, length + 1});
        plain += look_at((struct text){order, at});
    }
    assert_true(plain > length);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_order_is_read_as_by_the_json_reader),
        cmocka_unit_test(what_is_not_plain_is_left_to_the_json_reader),
        cmocka_unit_test(more_items_than_an_order_has_are_left_to_the_json_reader),
        cmocka_unit_test(whatever_a_byte_makes_of_an_order_is_read_alike_or_left),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

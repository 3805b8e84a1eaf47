#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/json.h"

#include <float.h>
#include <math.h>

static json_t *read_well(struct text text)
{
    json_t *value = NULL;
    struct error error = {0};
    if (json_read(text, &value, &error) != OK)
        fail_msg("%s", error.text);
    return value;
}

static void value_is_read_whole(void **state)
{
    (void)state;
    json_t *value = read_well(TEXT(" {\"a\": \"x\\u0000y\", \"n\": 1, \"e\": \"\"} \n"));
    assert_true(text_equal(json_text(value, "a"), TEXT("x\0y")));
    assert_non_null(json_text(value, "e").at);
    assert_int_equal(json_text(value, "e").length, 0);
    assert_null(json_text(value, "n").at);
    assert_null(json_text(value, "absent").at);
    json_decref(value);
    value = read_well(TEXT("-3"));
    assert_int_equal(json_integer_value(value), -3);
    assert_null(json_text(value, "a").at);
    json_decref(value);
}

static void what_is_not_one_json_value_is_rejected_with_the_reason(void **state)
{
    (void)state;
    static const struct {
        struct text text;
        const char *part;
    } cases[] = {
        {TEXT_INIT(""), "not JSON"},
        {TEXT_INIT("{"), "line 1"},
        {TEXT_INIT("{} x"), "end of file expected"},
        {TEXT_INIT("{}\0"), "end of file expected"},
        {TEXT_INIT("{\"a\":1,\"a\":2}"), "duplicate"},
        {TEXT_INIT("\"\xff\""), "unable to decode byte"},
        {TEXT_INIT("\"\xed\xa0\x80\""), "unable to decode byte"},
        {TEXT_INIT("[1,]"), "not JSON"},
        {TEXT_INIT("nul"), "not JSON"},
        {TEXT_INIT("[99999999999999999999]"), "too big"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_t *value = NULL;
        struct error error = {0};
        assert_int_equal(json_read(cases[i].text, &value, &error), REJECT);
        assert_null(value);
        if (!strstr(error.text, cases[i].part))
            fail_msg("\"%s\" does not say \"%s\"", error.text, cases[i].part);
    }
}

static void number_that_fits_nothing_is_refused_at_its_place(void **state)
{
    (void)state;
    struct error error;
    json_t *value = NULL;
    const struct text text =
        TEXT("{\"a\":[1, 99999999999999999999,-9223372036854775809,9223372036854775807],\"b\":1e999 ,"
             "\"c\":\"\\\"99999999999999999999\"}");
    assert_int_equal(json_read_request(text, &value, &error), OK);
    json_t *list = json_object_get(value, "a");
    assert_int_equal(json_integer_value(json_array_get(list, 0)), 1);
    assert_true(json_real_value(json_array_get(list, 1)) == JSON_NUMBER_TOO_LARGE);
    assert_true(json_is_real(json_array_get(list, 2)));
    assert_true(json_integer_value(json_array_get(list, 3)) == INT64_MAX);
    assert_true(json_real_value(json_object_get(value, "b")) == JSON_NUMBER_TOO_LARGE);
    assert_true(text_is(json_text(value, "c"), "\"99999999999999999999"));
    json_decref(value);
    static const char *const still_none[] = {"[99999999999999999999", "[99999999999999999999-]",
                                             "-99999999999999999999x"};
    for (size_t i = 0; i < sizeof(still_none) / sizeof(still_none[0]); i++)
        assert_int_equal(json_read_request(text_of(still_none[i]), &value, &error), REJECT);
    assert_false(json_is_ambiguous(&error));
    assert_int_equal(json_read_request(TEXT("{\"a\":1,\"a\":2}"), &value, &error), REJECT);
    assert_true(json_is_ambiguous(&error));
}

static void an_object_that_no_text_is_made_of_is_json_all_the_same(void **state)
{
    (void)state;
    struct error error;
    json_t *value = NULL;
    struct buffer deep = buffer_of(4096);
    for (int i = 0; i <= JSON_DEPTH_MAX; i++)
        buffer_add_string(&deep, "{\"a\":");
    struct text open = buffer_text(&deep);
    size_t open_bytes = open.length;
    buffer_add_string(&deep, "1");
    for (int i = 0; i <= JSON_DEPTH_MAX; i++)
        buffer_add_string(&deep, "}");
    const struct {
        struct text text;
        bool is_json;
    } cases[] = {{buffer_text(&deep), true},
                 {{deep.at, open_bytes}, false},
                 {{deep.at, deep.length - 1}, false},
                 {TEXT(" {\"a\\u0000b\":1}"), true},
                 {TEXT("{\"a\":\"\\ud800\"}"), true},
                 {TEXT("{\"a\":\"\\udc00\"}"), true},
                 {TEXT("{\"a\":\"\\ud800\\u0041\"}"), true},
                 {TEXT("{\"a\":1,\"a\":2}"), true},
                 {TEXT("{\"a\":\"\xed\xa0\x80\"}"), false},
                 {TEXT("{\"a\":\"\\u12\"}"), false},
                 {TEXT("[{\"a\":1,\"a\":2}]"), false}, /* no object, and so refused whatever is in it */
                 {TEXT("[\"\\ud800\"]"), false},
                 {TEXT("{"), false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(json_read_request(cases[i].text, &value, &error), REJECT);
        if (json_is_ambiguous(&error) != cases[i].is_json)
            fail_msg("case %zu: %s", i, error.text);
    }
    buffer_free(&deep);
}

static void nesting_is_bounded_and_brackets_in_strings_do_not_count(void **state)
{
    (void)state;
    struct buffer text = buffer_of(1 << 20);
    for (int depth = JSON_DEPTH_MAX; depth <= JSON_DEPTH_MAX + 1; depth++) {
        buffer_clear(&text);
        for (int i = 0; i < depth; i++)
            buffer_add_char(&text, '[');
        for (int i = 0; i < depth; i++)
            buffer_add_char(&text, ']');
        json_t *value = NULL;
        assert_int_equal(json_read(buffer_text(&text), &value, NULL), depth <= JSON_DEPTH_MAX ? OK : REJECT);
        json_decref(value);
    }
    buffer_clear(&text);
    buffer_add_string(&text, "[\"\\\"");
    for (int i = 0; i < 1000; i++)
        buffer_add_char(&text, '[');
    buffer_add_string(&text, "\"]");
    json_decref(read_well(buffer_text(&text)));
    /* deep enough to end a parser that recurses by a call a level */
    buffer_clear(&text);
    for (int i = 0; i < 1000000; i++)
        buffer_add_char(&text, '{');
    json_t *value = NULL;
    assert_int_equal(json_read(buffer_text(&text), &value, NULL), REJECT);
    buffer_free(&text);
}

static void writer_puts_the_commas(void **state)
{
    (void)state;
    struct buffer into = buffer_of(4096);
    struct json_writer writer = json_writer(&into);
    json_object(&writer);
    json_member_string(&writer, "a", "x");
    json_member_string(&writer, "b", NULL);
    json_member_int(&writer, "c", INT64_MIN);
    json_key(&writer, "d");
    json_array(&writer);
    json_put_int(&writer, 0);
    json_array(&writer);
    json_array_end(&writer);
    json_object(&writer);
    json_object_end(&writer);
    json_put_bool(&writer, true);
    json_put_bool(&writer, false);
    json_put_null(&writer);
    json_put_raw(&writer, TEXT("{\"raw\":1}"));
    json_array_end(&writer);
    json_member_time(&writer, "e", 0);
    json_key_text(&writer, TEXT("f\n"));
    json_put_double(&writer, 1.5);
    json_member_text(&writer, "g", (struct text){NULL, 0});
    json_object_end(&writer);
    assert_true(text_is(buffer_text(&into),
                        "{\"a\":\"x\",\"b\":null,\"c\":-9223372036854775808,"
                        "\"d\":[0,[],{},true,false,null,{\"raw\":1}],\"e\":\"1970-01-01T00:00:00.000000Z\","
                        "\"f\\n\":1.5,\"g\":\"\"}"));
    assert_false(into.failed);
    json_decref(read_well(buffer_text(&into)));
    buffer_free(&into);
}

static void any_bytes_are_written_as_valid_json(void **state)
{
    (void)state;
    char bytes[512];
    for (size_t i = 0; i < 256; i++)
        bytes[i] = bytes[511 - i] = (char)i;
    for (size_t length = 0; length <= sizeof(bytes); length++) {
        struct buffer into = buffer_of(1 << 16);
        struct json_writer writer = json_writer(&into);
        json_put_text(&writer, (struct text){bytes, length});
        assert_null(memchr(into.at, '\n', into.length));
        json_t *value = read_well(buffer_text(&into));
        assert_true(json_is_string(value));
        json_decref(value);
        buffer_free(&into);
    }
}

static void text_that_is_valid_comes_back_the_same(void **state)
{
    (void)state;
    static const struct text texts[] = {
        TEXT_INIT("plain"),
        TEXT_INIT("\"\\/\b\f\n\r\t\x01\x7f"),
        TEXT_INIT("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8d\x8b"),
        TEXT_INIT("a\0b"),
        TEXT_INIT(""),
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct buffer into = buffer_of(4096);
        struct json_writer writer = json_writer(&into);
        json_put_text(&writer, texts[i]);
        json_t *value = read_well(buffer_text(&into));
        struct text back = {json_string_value(value), json_string_length(value)};
        assert_true(text_equal(back, texts[i]));
        json_decref(value);
        buffer_free(&into);
    }
}

static void bytes_that_are_not_utf8_become_the_replacement_character(void **state)
{
    (void)state;
    struct buffer into = buffer_of(4096);
    struct json_writer writer = json_writer(&into);
    json_put_text(&writer, TEXT("a\xff\xe2\x82z\xc3"));
    assert_true(text_is(buffer_text(&into), "\"a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\""));
    buffer_free(&into);
}

static void doubles_read_back_the_same_in_the_fewest_digits(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0.1, "0.1"},  {1e21, "1e+21"},    {-2.5, "-2.5"},      {3, "3"},
        {NAN, "null"}, {INFINITY, "null"}, {-INFINITY, "null"},
    };
    struct buffer into = buffer_of(4096);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        buffer_clear(&into);
        struct json_writer writer = json_writer(&into);
        json_put_double(&writer, cases[i].value);
        assert_true(text_is(buffer_text(&into), cases[i].text));
    }
    static const double values[] = {DBL_MAX, DBL_MIN, 1.0 / 3, 0.1 + 0.2, 123456789.123456789, 5e-324};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        buffer_clear(&into);
        struct json_writer writer = json_writer(&into);
        json_put_double(&writer, values[i]);
        json_t *back = read_well(buffer_text(&into));
        double value = json_number_value(back);
        assert_memory_equal(&value, &values[i], sizeof(value));
        json_decref(back);
    }
    buffer_free(&into);
}

static void writer_stays_within_its_buffer(void **state)
{
    (void)state;
    struct buffer into = buffer_of(16);
    struct json_writer writer = json_writer(&into);
    json_put_text(&writer, TEXT("much more than sixteen bytes"));
    assert_true(into.failed);
    assert_true(into.length <= 16);
    buffer_free(&into);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(value_is_read_whole),
        cmocka_unit_test(what_is_not_one_json_value_is_rejected_with_the_reason),
        cmocka_unit_test(number_that_fits_nothing_is_refused_at_its_place),
        cmocka_unit_test(an_object_that_no_text_is_made_of_is_json_all_the_same),
        cmocka_unit_test(nesting_is_bounded_and_brackets_in_strings_do_not_count),
        cmocka_unit_test(writer_puts_the_commas),
        cmocka_unit_test(any_bytes_are_written_as_valid_json),
        cmocka_unit_test(text_that_is_valid_comes_back_the_same),
        cmocka_unit_test(bytes_that_are_not_utf8_become_the_replacement_character),
        cmocka_unit_test(doubles_read_back_the_same_in_the_fewest_digits),
        cmocka_unit_test(writer_stays_within_its_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

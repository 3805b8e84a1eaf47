#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "service/http_route.h"

static const struct path_entry table[] = {
    {"POST", "/v1/orders", "place"},
    {"GET", "/v1/orders/{id}", "look up"},
    {"POST", "/v1/orders/{id}/cancel", "cancel"},
    {"GET", "/v1/stock/{sku}", "stock"},
    {"PUT", "/v1/stock/{sku}", "set"},
    {"GET", "/v1/stock/total", "total"},
    {"GET", "/", "page"},
};
static char room[256];
static struct path_found found;

static enum path_match find(const char *method, const char *target)
{
    return path_find(table, sizeof(table) / sizeof(table[0]), method, text_of(target), room, &found);
}

#define assert_text(text, expected)                                                                          \
    do {                                                                                                     \
        assert_int_equal((text).length, sizeof(expected) - 1);                                               \
        assert_memory_equal((text).at, expected, sizeof(expected) - 1);                                      \
    } while (0)

static void path_is_found_by_its_method(void **state)
{
    (void)state;
    assert_int_equal(find("POST", "/v1/orders"), PATH_FOUND);
    assert_string_equal(found.entry->what, "place");
    assert_int_equal(find("POST", "/v1/orders/7/cancel"), PATH_FOUND);
    assert_string_equal(found.entry->what, "cancel");
    assert_text(found.parameters[0], "7");
    assert_int_equal(find("GET", "/"), PATH_FOUND);
    assert_string_equal(found.entry->what, "page");
}

static void head_is_taken_where_get_is(void **state)
{
    (void)state;
    assert_int_equal(find("HEAD", "/v1/orders/7"), PATH_FOUND);
    assert_int_equal(find("HEAD", "/v1/orders"), PATH_METHOD);
}

static void literal_goes_before_parameter(void **state)
{
    (void)state;
    assert_int_equal(find("GET", "/v1/stock/total"), PATH_FOUND);
    assert_string_equal(found.entry->what, "total");
    assert_int_equal(find("PUT", "/v1/stock/total"), PATH_FOUND);
    assert_string_equal(found.entry->what, "set");
}

static void other_method_is_told_which_are_allowed(void **state)
{
    (void)state;
    assert_int_equal(find("DELETE", "/v1/stock/A"), PATH_METHOD);
    assert_string_equal(found.allow, "GET, HEAD, PUT");
    assert_int_equal(find("GET", "/v1/orders"), PATH_METHOD);
    assert_string_equal(found.allow, "POST");
}

static void unknown_paths_are_unknown(void **state)
{
    (void)state;
    static const char *const paths[] = {"/v1",
                                        "/v1/orders/",
                                        "/v1/orders//cancel",
                                        "/v1/orders/7/cancel/x",
                                        "/v1/orders/7/",
                                        "//",
                                        "*",
                                        "",
                                        "v1/orders",
                                        "/V1/orders",
                                        "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18"};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        assert_int_equal(find("POST", paths[i]), PATH_UNKNOWN);
}

static void absolute_form_is_taken(void **state)
{
    (void)state;
    assert_int_equal(find("GET", "http://localhost:8080/v1/orders/7?x=1"), PATH_FOUND);
    assert_text(found.parameters[0], "7");
    assert_int_equal(find("GET", "HTTP://localhost"), PATH_FOUND);
    assert_string_equal(found.entry->what, "page");
}

static void parameters_are_decoded_one_segment_each(void **state)
{
    (void)state;
    assert_int_equal(find("GET", "/v1/stock/a%2Fb%20+%C3%a9"), PATH_FOUND);
    assert_text(found.parameters[0], "a/b +\xc3\xa9");
}

static void an_id_in_capitals_is_the_same_id(void **state)
{
    (void)state;
    assert_int_equal(find("GET", "/v1/orders/0190AB6C-1D2E-7F30-8A1B-C2D3E4F50617"), PATH_FOUND);
    assert_text(found.parameters[0], "0190ab6c-1d2e-7f30-8a1b-c2d3e4f50617");
    assert_int_equal(find("GET", "/v1/orders/%30190AB6C-1D2E-7F30-8A1B-C2D3E4F50617"), PATH_FOUND);
    assert_text(found.parameters[0], "0190ab6c-1d2e-7f30-8a1b-c2d3e4f50617");
    assert_int_equal(find("GET", "/v1/orders/NO-UUID"), PATH_FOUND);
    assert_text(found.parameters[0], "NO-UUID");
    assert_int_equal(find("GET", "/v1/stock/0190AB6C-1D2E-7F30-8A1B-C2D3E4F50617"), PATH_FOUND);
    assert_text(found.parameters[0], "0190AB6C-1D2E-7F30-8A1B-C2D3E4F50617");
}

static void bad_escapes_are_malformed(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "/v1/stock/%",     "/v1/stock/%4",     "/v1/stock/%zz",     "/v1/stock/%00",  "/v1/stock/%ff",
        "/v1/stock/a?x=%", "/v1/stock/a?%0=1", "/v1/stock/a?x=%c3", "/v1/stock/%4g1", "/v1/stock/a?x=%+1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(find("GET", bad[i]), PATH_MALFORMED);
}

static void query_is_split_and_decoded(void **state)
{
    (void)state;
    assert_int_equal(find("GET", "/v1/stock/A?after=B+C%2B&limit=10&&flag&e=&q=a=b"), PATH_FOUND);
    assert_int_equal(found.query_count, 5);
    assert_text(found.query[0].name, "after");
    assert_text(found.query[0].value, "B C+");
    assert_text(found.query[1].value, "10");
    assert_text(found.query[2].name, "flag");
    assert_text(found.query[2].value, "");
    assert_text(found.query[3].value, "");
    assert_text(found.query[4].value, "a=b");
    assert_int_equal(find("GET", "/v1/stock/A?"), PATH_FOUND);
    assert_int_equal(found.query_count, 0);
}

static void more_query_than_there_is_room_for_is_malformed(void **state)
{
    (void)state;
    assert_int_equal(find("GET", "/v1/stock/A?a&b&c&d&e&f&g&h"), PATH_FOUND);
    assert_int_equal(found.query_count, REQUEST_QUERY_MAX);
    assert_int_equal(find("GET", "/v1/stock/A?a&b&c&d&e&f&g&h&i"), PATH_MALFORMED);
}

static void idempotency_key_is_the_same_quoted_and_bare(void **state)
{
    (void)state;
    struct text key;
    assert_true(idempotency_key_parse(TEXT("\"8e03978e-40d5\""), room, &key));
    assert_text(key, "8e03978e-40d5");
    assert_true(idempotency_key_parse(TEXT(" 8e03978e-40d5\t"), room, &key));
    assert_text(key, "8e03978e-40d5");
    assert_true(idempotency_key_parse(TEXT("\"a\\\"b \\\\\""), room, &key));
    assert_text(key, "a\"b \\");
}

static void bad_idempotency_keys_are_refused(void **state)
{
    (void)state;
    static const struct text bad[] = {
        TEXT_INIT(""),         TEXT_INIT("\"\""),     TEXT_INIT("\""),     TEXT_INIT("\"a"),
        TEXT_INIT("a\""),      TEXT_INIT("a b"),      TEXT_INIT("a\"b"),   TEXT_INIT("\"a\"b\""),
        TEXT_INIT("\"a\\\""),  TEXT_INIT("\"a\\n\""), TEXT_INIT("\"\t\""), TEXT_INIT("\"a\"; q"),
        TEXT_INIT("\xc3\xa9"), TEXT_INIT("a\x7f"),
    };
    struct text key;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(idempotency_key_parse(bad[i], room, &key));
}

static void idempotency_key_is_bounded(void **state)
{
    (void)state;
    char bytes[IDEMPOTENCY_KEY_BYTES_MAX + 1], into[sizeof(bytes)];
    struct text key;
    memset(bytes, 'k', sizeof(bytes));
    assert_true(idempotency_key_parse((struct text){bytes, sizeof(bytes) - 1}, into, &key));
    assert_false(idempotency_key_parse((struct text){bytes, sizeof(bytes)}, into, &key));
}

static void media_type_is_lower_case_without_parameters(void **state)
{
    (void)state;
    struct text type = media_type(TEXT(" Application/JSON ; charset=UTF-8"), room);
    assert_text(type, "application/json");
    assert_true(media_type_is_json(type));
    assert_true(media_type_is_json(TEXT("application/cloudevents+json")));
    assert_false(media_type_is_json(TEXT("text/plain")));
    assert_false(media_type_is_json(TEXT("application/+json")));
    assert_false(media_type_is_json(TEXT("")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(path_is_found_by_its_method),
        cmocka_unit_test(head_is_taken_where_get_is),
        cmocka_unit_test(literal_goes_before_parameter),
        cmocka_unit_test(other_method_is_told_which_are_allowed),
        cmocka_unit_test(unknown_paths_are_unknown),
        cmocka_unit_test(absolute_form_is_taken),
        cmocka_unit_test(parameters_are_decoded_one_segment_each),
        cmocka_unit_test(an_id_in_capitals_is_the_same_id),
        cmocka_unit_test(bad_escapes_are_malformed),
        cmocka_unit_test(query_is_split_and_decoded),
        cmocka_unit_test(more_query_than_there_is_room_for_is_malformed),
        cmocka_unit_test(idempotency_key_is_the_same_quoted_and_bare),
        cmocka_unit_test(bad_idempotency_keys_are_refused),
        cmocka_unit_test(idempotency_key_is_bounded),
        cmocka_unit_test(media_type_is_lower_case_without_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

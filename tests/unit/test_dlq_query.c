/* dlq_query and dlq_page: what a request asks for, and the page that it gets. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "service/dlq_page.h"
#include "service/dlq_query.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- lists */

static struct dlq_query list_of(const char *name, const char *value, struct codec_faults *faults)
{
    struct dlq_query query;
    const struct request request = {.query = {{text_of(name), text_of(value)}}, .query_count = name ? 1 : 0};
    faults->count = 0;
    dlq_query_of_list(&request, &query, faults);
    return query;
}

static void list_shows_a_hundred_open_ones_by_default(void **state)
{
    (void)state;
    struct codec_faults faults;
    const struct dlq_query query = list_of(NULL, NULL, &faults);
    assert_int_equal(faults.count, 0);
    assert_int_equal(query.limit, 100);
    assert_int_equal(query.state, LETTER_OPEN);
    assert_false(query.all_states);
    assert_int_equal(query.after_partition, -1);
    assert_null(query.filter.class);
}

static void parameters_of_a_list_are_read(void **state)
{
    (void)state;
    struct codec_faults faults;
    struct dlq_query first = list_of("class", "RETRY", &faults), query;
    dlq_query_copy(&first, &query);
    memset(&first, 'x', sizeof(first)); /* the copy needs nothing of it */
    assert_string_equal(query.filter.class, "RETRY");
    assert_int_equal(list_of("state", "dropped", &faults).state, LETTER_DROPPED);
    assert_true(list_of("state", "all", &faults).all_states);
    assert_true(list_of("by", "fingerprint", &faults).by_cause);
    assert_int_equal(list_of("limit", "1000", &faults).limit, 1000);
    assert_true(list_of("since", "1970-01-01T00:00:01Z", &faults).filter.since_us == 1000000);
    query = list_of("after", "3:5000000000", &faults);
    assert_int_equal(query.after_partition, 3);
    assert_true(query.after_offset == INT64_C(5000000000));
    assert_int_equal(faults.count, 0);
}

static void wrong_parameters_of_a_list_are_named(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"clas", "RETRY"}, {"state", "new"}, {"by", "type"},   {"limit", "0"},    {"limit", "1001"},
        {"limit", "ten"},  {"after", "3"},   {"after", "3:"},  {"after", "-1:2"}, {"since", "yesterday"},
        {"until", "1"},    {"after", ":"},   {"after", "1:x"}, {"limit", "1e2"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct codec_faults faults;
        (void)list_of(cases[i][0], cases[i][1], &faults);
        if (faults.count != 1 || strcmp(faults.fault[0].path, cases[i][0]) != 0)
            fail_msg("%s=%s", cases[i][0], cases[i][1]);
    }
}

/* ---- orders */

static struct dlq_query order_of(const char *body, bool drop, struct codec_faults *faults)
{
    json_t *json;
    struct error error;
    static struct dlq_query query;
    assert_int_equal(json_read_request(text_of(body), &json, &error), OK);
    faults->count = 0;
    dlq_query_of_order(json, drop, &query, faults);
    json_decref(json);
    return query;
}

static void order_is_read(void **state)
{
    (void)state;
    struct codec_faults faults;
    struct dlq_query query;
    const struct dlq_query read =
        order_of("{\"type\":\"OrderPlaced\",\"key\":\"k\",\"rate\":5,\"limit\":7,\"again\":true,"
                 "\"dry_run\":true,\"by\":\"ann\",\"reason\":\"test orders\"}",
                 true, &faults);
    dlq_query_copy(&read, &query);
    assert_int_equal(faults.count, 0);
    assert_string_equal(query.filter.type, "OrderPlaced");
    assert_string_equal(query.filter.key, "k");
    assert_int_equal(query.rate_per_hour, 5 * 3600);
    assert_int_equal(query.letters_max, 7);
    assert_true(query.again);
    assert_true(query.dry_run);
    assert_string_equal(query.by, "ann");
    assert_string_equal(query.reason, "test orders");
    assert_int_equal(order_of("{}", false, &faults).rate_per_hour, 100 * 3600);
    assert_int_equal(order_of("{\"rate\":\"30/min\"}", false, &faults).rate_per_hour, 1800);
    assert_int_equal(order_of("{\"rate\":0}", false, &faults).rate_per_hour, 0);
    assert_int_equal(faults.count, 0);
}

static void wrong_orders_are_named(void **state)
{
    (void)state;
    static const struct {
        bool drop;
        const char *body, *path;
    } cases[] = {
        {false, "{\"typ\":\"x\"}", "typ"},
        {false, "{\"type\":1}", "type"},
        {false, "{\"rate\":-1}", "rate"},
        {false, "{\"rate\":\"fast\"}", "rate"},
        {false, "{\"limit\":\"7\"}", "limit"},
        {false, "{\"again\":1}", "again"},
        {false, "{\"dry_run\":\"yes\"}", "dry_run"},
        {false, "{\"by\":\"a\\nb\"}", "by"},
        {false, "{\"since\":5}", "since"},
        {false, "{\"reason\":\"only a drop has one\"}", "reason"},
        {true, "{}", "reason"},
        {true, "{\"reason\":\"\"}", "reason"},
        {true, "{\"reason\":\"two\\r\\nlines\"}", "reason"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct codec_faults faults;
        (void)order_of(cases[i].body, cases[i].drop, &faults);
        if (faults.count == 0 || strcmp(faults.fault[0].path, cases[i].path) != 0)
            fail_msg("%s", cases[i].body);
    }
}

static void place_is_two_numbers(void **state)
{
    (void)state;
    int32_t partition;
    int64_t offset;
    assert_true(dlq_place(TEXT("3"), TEXT("5000000000"), &partition, &offset));
    assert_int_equal(partition, 3);
    assert_true(offset == INT64_C(5000000000));
    assert_false(dlq_place(TEXT("2147483648"), TEXT("0"), &partition, &offset));
    assert_false(dlq_place(TEXT("-1"), TEXT("0"), &partition, &offset));
    assert_false(dlq_place(TEXT("0"), TEXT("-1"), &partition, &offset));
    assert_false(dlq_place(TEXT("a"), TEXT("0"), &partition, &offset));
}

/* ---- pages */

/* Three partitions of ten, mixed as a reader gives them. */
static struct dlq_page page_of(size_t limit, int32_t after_partition, int64_t after_offset, size_t bytes)
{
    enum { PARTITIONS = 3, OFFSETS = 10 };
    struct dlq_page page;
    struct error error;
    char *json = malloc(bytes);
    assert_non_null(json);
    memset(json, 'x', bytes);
    json[0] = json[bytes - 1] = '"';
    assert_int_equal(dlq_page_new(&page, limit, after_partition, after_offset, &error), OK);
    for (int64_t offset = 0; offset < OFFSETS; offset++)
        for (int32_t partition = PARTITIONS - 1; partition >= 0; partition--)
            dlq_page_add(&page, partition, offset, (struct text){json, bytes});
    free(json);
    return page;
}

static void page_is_the_first_of_what_comes_behind_a_place(void **state)
{
    (void)state;
    int32_t partition = -1;
    int64_t offset = 0, seen = 0;
    for (;;) {
        struct dlq_page page = page_of(4, partition, offset, 8);
        for (size_t i = 0; i < page.count; i++, seen++) {
            assert_int_equal(page.items[i].partition, seen / 10);
            assert_int_equal(page.items[i].offset, seen % 10);
        }
        bool more = page.more;
        assert_int_equal(page.count, more ? 4 : 2);
        partition = page.items[page.count - 1].partition;
        offset = page.items[page.count - 1].offset;
        dlq_page_free(&page);
        if (!more)
            break;
    }
    assert_int_equal(seen, 30);
}

static void page_is_bounded_in_bytes_and_skips_nothing(void **state)
{
    (void)state;
    struct buffer body = buffer_of(32 << 20);
    struct dlq_page page = page_of(1000, -1, 0, 300000);
    assert_true(page.more);
    assert_in_range(page.count, 2, 29);
    assert_true(page.bytes <= DLQ_PAGE_BYTES_MAX);
    for (size_t i = 0; i < page.count; i++)
        assert_int_equal(page.items[i].partition * 10 + page.items[i].offset, i);
    dlq_page_to_json(&page, &body);
    json_t *json;
    struct error error;
    assert_int_equal(json_read(buffer_text(&body), &json, &error), OK);
    assert_int_equal(json_array_size(json_object_get(json, "items")), page.count);
    assert_true(json_text(json, "next").length > 0);
    json_decref(json);
    buffer_free(&body);
    dlq_page_free(&page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_shows_a_hundred_open_ones_by_default),
        cmocka_unit_test(parameters_of_a_list_are_read),
        cmocka_unit_test(wrong_parameters_of_a_list_are_named),
        cmocka_unit_test(order_is_read),
        cmocka_unit_test(wrong_orders_are_named),
        cmocka_unit_test(place_is_two_numbers),
        cmocka_unit_test(page_is_the_first_of_what_comes_behind_a_place),
        cmocka_unit_test(page_is_bounded_in_bytes_and_skips_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "wire/events.h"

static void event_types_are_found_by_both_names(void **state)
{
    (void)state;
    assert_ptr_equal(event_type_find(TEXT("weir.OrderPlaced")), &order_placed_type);
    assert_ptr_equal(event_type_find(TEXT("EmailFailed")), &email_failed_type);
    assert_null(event_type_find(TEXT("")));
    assert_null(event_type_find(TEXT("weir.")));
    assert_null(event_type_find(TEXT("orderplaced")));
    assert_null(event_type_find(TEXT("other.OrderPlaced")));
}

static void event_types_are_in_the_order_of_their_numbers(void **state)
{
    (void)state;
    int count = 0;
    for (; event_types[count]; count++)
        assert_int_equal(event_types[count]->number, count + 1);
    assert_int_equal(count, 13);
    assert_int_equal(stock_level_type.topic, TOPIC_STOCK);
    assert_int_equal(stock_level_type.key_offset, offsetof(struct stock_level, sku));
    assert_int_equal(payment_captured_type.key_offset, offsetof(struct payment_captured, order_id));
    struct order_rejected rejected;
    assert_ptr_equal(EVENT_TYPE_OF(&rejected), &order_rejected_type);
    assert_ptr_equal(EVENT_TYPE_OF((const struct email_sent *)NULL), &email_sent_type);
}

static void an_order_id_in_capitals_is_lowered_and_a_sku_is_not(void **state)
{
    (void)state;
    struct arena *arena = arena_new(1 << 16);
    const struct text capitals = TEXT("0190AB6C-1D2E-7F30-8A1B-C2D3E4F50617");
    struct order_cancelled order = {.order_id = capitals};
    struct stock_level stock = {.sku = capitals};
    assert_true(event_lower_id(&order_cancelled_type, &order, arena));
    assert_true(text_is(order.order_id, "0190ab6c-1d2e-7f30-8a1b-c2d3e4f50617"));
    assert_true(text_is(capitals, "0190AB6C-1D2E-7F30-8A1B-C2D3E4F50617")); /* bytes of others stay theirs */
    assert_true(event_lower_id(&stock_level_type, &stock, arena));
    assert_ptr_equal(stock.sku.at, capitals.at);
    order.order_id = TEXT("NOT-A-UUID");
    assert_true(event_lower_id(&order_cancelled_type, &order, arena));
    assert_true(text_is(order.order_id, "NOT-A-UUID"));
    arena_destroy(arena);
}

static void last_header_of_a_name_counts(void **state)
{
    (void)state;
    const struct header headers[] = {{TEXT("ce_id"), TEXT("1")},
                                     {TEXT("ce_type"), TEXT("t")},
                                     {TEXT("ce_id"), TEXT("2")},
                                     {TEXT("CE_ID"), TEXT("3")}};
    assert_ptr_equal(header_find(headers, 4, HEADER_ID), &headers[2]);
    assert_ptr_equal(header_find(headers, 2, HEADER_ID), &headers[0]);
    assert_null(header_find(headers, 4, HEADER_TRACEPARENT));
    assert_null(header_find(NULL, 0, HEADER_ID));
}

static void traceparent_is_checked_as_w3c_says(void **state)
{
    (void)state;
#define TRACE "0af7651916cd43dd8448eb211c80319c"
#define SPAN  "b7ad6b7169203331"
    assert_true(traceparent_valid(TEXT("00-" TRACE "-" SPAN "-01")));
    assert_true(traceparent_valid(TEXT("00-" TRACE "-" SPAN "-ff")));
    assert_true(traceparent_valid(TEXT("cc-" TRACE "-" SPAN "-01")));
    assert_true(traceparent_valid(TEXT("cc-" TRACE "-" SPAN "-01-more")));
    assert_false(traceparent_valid(TEXT("")));
    assert_false(traceparent_valid(TEXT("00-" TRACE "-" SPAN "-0")));
    assert_false(traceparent_valid(TEXT("00-" TRACE "-" SPAN "-01-more")));
    assert_false(traceparent_valid(TEXT("cc-" TRACE "-" SPAN "-01x")));
    assert_false(traceparent_valid(TEXT("ff-" TRACE "-" SPAN "-01")));
    assert_false(traceparent_valid(TEXT("0x-" TRACE "-" SPAN "-01")));
    assert_false(traceparent_valid(TEXT("00-0AF7651916CD43DD8448EB211C80319C-" SPAN "-01")));
    assert_false(traceparent_valid(TEXT("00-00000000000000000000000000000000-" SPAN "-01")));
    assert_false(traceparent_valid(TEXT("00-" TRACE "-0000000000000000-01")));
    assert_false(traceparent_valid(TEXT("00 " TRACE "-" SPAN "-01")));
    assert_false(traceparent_valid(TEXT("00-" TRACE " " SPAN "-01")));
    assert_false(traceparent_valid(TEXT("00-" TRACE "-" SPAN " 01")));
    assert_false(traceparent_valid(TEXT("00-" TRACE "-" SPAN "-0g")));
}

static void next_span_is_of_its_parents_trace(void **state)
{
    (void)state;
    struct id id;
    char into[HEADER_TRACEPARENT_BYTES + 1];
    assert_true(id_parse(TEXT("01937a5e-5c1e-7b60-a1d4-7a0c5b6e9f11"), &id));
    struct text parent = TEXT("cc-" TRACE "-" SPAN "-03-more");
    struct text next = traceparent_next(parent, id, into);
    assert_true(text_is(next, "00-" TRACE "-a1d47a0c5b6e9f11-03"));
    assert_true(traceparent_valid(next));
    assert_int_equal(into[HEADER_TRACEPARENT_BYTES], '\0');
}

static void new_trace_is_the_same_for_the_same_id(void **state)
{
    (void)state;
    struct id id, zero = {{0}}, half = {{1}};
    char into[HEADER_TRACEPARENT_BYTES + 1];
    assert_true(id_parse(TEXT("01937a5e-5c1e-7b60-a1d4-7a0c5b6e9f11"), &id));
    assert_true(text_is(traceparent_next(TEXT("junk"), id, into),
                        "00-01937a5e5c1e7b60a1d47a0c5b6e9f11-a1d47a0c5b6e9f11-01"));
    assert_true(traceparent_valid(traceparent_next(TEXT(""), zero, into)));
    assert_true(traceparent_valid(traceparent_next(TEXT(""), half, into)));
}

static void frame_goes_there_and_back(void **state)
{
    (void)state;
    struct buffer value = buffer_of(64);
    struct error error;
    struct text datum;
    int32_t id;
    frame_write(&value, 0x01020304);
    buffer_add_string(&value, "datum");
    assert_memory_equal(value.at, "\0\1\2\3\4datum", value.length);
    assert_int_equal(frame_read(buffer_text(&value), &id, &datum, &error), OK);
    assert_int_equal(id, 0x01020304);
    assert_true(text_is(datum, "datum"));
    assert_int_equal(frame_read(TEXT("\0\0\0\0\7"), &id, &datum, &error), OK);
    assert_int_equal(id, 7);
    assert_int_equal(datum.length, 0);
    buffer_free(&value);
}

static void what_is_not_framed_is_rejected(void **state)
{
    (void)state;
    const struct text values[] = {{NULL, 0},
                                  TEXT("\0\0\0\1"),
                                  TEXT("\1\0\0\0\1x"),
                                  TEXT("{\"order_id\":1}"),
                                  TEXT("\0\xff\xff\xff\xff")};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct error error;
        struct text datum;
        int32_t id;
        assert_int_equal(frame_read(values[i], &id, &datum, &error), REJECT);
        assert_string_equal(error.cause, "framing");
    }
}

static void files_are_the_registry_without_one(void **state)
{
    (void)state;
    struct registry *registry = NULL;
    struct error error;
    int32_t id;
    assert_int_equal(registry_open(NULL, &registry, &error), OK);
    for (int i = 0; event_types[i]; i++) {
        const struct event_type *type = NULL;
        const struct codec_plan *plan = NULL;
        assert_int_equal(registry_id(registry, event_types[i], &id, &error), OK);
        assert_int_equal(id, event_types[i]->number * 100 + event_types[i]->version);
        assert_int_equal(registry_plan(registry, id, &type, &plan, &error), OK);
        assert_ptr_equal(type, event_types[i]);
        assert_non_null(plan);
    }
    const int32_t unknown[] = {0, 1, 100, 199, 1400, INT32_MAX};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        const struct event_type *type;
        const struct codec_plan *plan;
        assert_int_equal(registry_plan(registry, unknown[i], &type, &plan, &error), REJECT);
        assert_string_equal(error.cause, "schema-unknown");
    }
    registry_close(registry);
    registry_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(event_types_are_found_by_both_names),
        cmocka_unit_test(event_types_are_in_the_order_of_their_numbers),
        cmocka_unit_test(an_order_id_in_capitals_is_lowered_and_a_sku_is_not),
        cmocka_unit_test(last_header_of_a_name_counts),
        cmocka_unit_test(traceparent_is_checked_as_w3c_says),
        cmocka_unit_test(next_span_is_of_its_parents_trace),
        cmocka_unit_test(new_trace_is_the_same_for_the_same_id),
        cmocka_unit_test(frame_goes_there_and_back),
        cmocka_unit_test(what_is_not_framed_is_rejected),
        cmocka_unit_test(files_are_the_registry_without_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

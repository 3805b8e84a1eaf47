/* What is in a record's headers comes back from the column, whatever they are, and from the form before. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/header_blob.h"

#include <stdlib.h>

#define UUID  "0193aaaa-0000-7000-8000-0123456789ab"
#define TRACE "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static struct arena *arena;

static int setup(void **state)
{
    (void)state;
    arena = arena_new(1 << 20);
    return arena ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    arena_destroy(arena);
    return 0;
}

static struct text there_and_back(const struct header *headers, size_t count)
{
    struct text blob;
    const struct header *got;
    size_t got_count;
    bool damaged;
    assert_true(header_blob_encode(arena, headers, count, &blob));
    assert_true(header_blob_decode(arena, blob, &got, &got_count, &damaged));
    assert_int_equal(got_count, count);
    for (size_t i = 0; i < count; i++) {
        assert_true(text_equal(got[i].name, headers[i].name));
        assert_true(text_equal(got[i].value, headers[i].value));
        assert_int_equal(got[i].value.at == NULL, headers[i].value.at == NULL);
    }
    return blob;
}

static void an_event_of_weir_takes_a_third_of_its_headers(void **state)
{
    (void)state;
    const struct header headers[] = {
        {TEXT("ce_specversion"), TEXT("1.0")},
        {TEXT("ce_id"), TEXT(UUID)},
        {TEXT("ce_source"), TEXT("/weir/inventory")},
        {TEXT("ce_type"), TEXT("weir.StockReserved")},
        {TEXT("ce_time"), TEXT("2025-11-21T12:00:20.000000Z")},
        {TEXT("ce_subject"), TEXT(UUID)},
        {TEXT("content-type"), TEXT("application/avro")},
        {TEXT("traceparent"), TEXT(TRACE)},
    };
    /* 2, for names 8, for values 8, two UUIDs, one trace, the time */
    assert_int_equal(there_and_back(headers, 8).length, 2 + 8 + 8 + 2 * 16 + 26 + 27);
}

static void values_that_are_nearly_of_a_form_stay_as_they_are(void **state)
{
    (void)state;
    const struct header headers[] = {
        {TEXT("ce_id"), TEXT("0193AAAA-0000-7000-8000-0123456789AB")},
        {TEXT("ce_id"), TEXT("0193aaaa-0000-7000-8000-0123456789a")},
        {TEXT("ce_id"), TEXT("0193aaaa-0000-7000-8000-0123456789ag")},
        {TEXT("ce_id"), TEXT("0193aaaa0-000-7000-8000-0123456789ab")},
        {TEXT("ce_id"), TEXT("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")},
        {TEXT("other"), TEXT(UUID)},
        {TEXT("other"), TEXT("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01")},
        {TEXT("ce_type"), TEXT("weir.Order")},
        {TEXT("ce_specversion"), TEXT("application/avro")},
        {TEXT("Ce_type"), TEXT("weir.OrderPlaced")},
        {TEXT("ce_type"), TEXT("")},
        {TEXT("ce_type"), {NULL, 0}},
        {TEXT(""), TEXT("")},
        {TEXT(""), {NULL, 0}},
        {TEXT("\x80"), TEXT("\0\x80\0")},
    };
    there_and_back(headers, sizeof(headers) / sizeof(*headers));
    for (size_t from = 0; from < sizeof(headers) / sizeof(*headers); from++)
        there_and_back(headers + from, 1); /* each as the first */
    there_and_back(NULL, 0);
}

static void headers_of_any_bytes_come_back(void **state)
{
    (void)state;
    static char bytes[20000];
    uint32_t number = 1;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        number = number * 1664525 + 1013904223;
        bytes[i] = (char)(number >> 24);
    }
    for (size_t length = 0; length < sizeof(bytes); length = length * 2 + 1) {
        const struct header headers[] = {{{bytes, length}, {bytes + 1, length / 2}},
                                         {TEXT("ce_type"), {bytes, length}}};
        there_and_back(headers, 2);
        arena_reset(arena);
    }
}

static void the_form_before_is_read(void **state)
{
    (void)state;
    static const char blob[] = "\x05"
                               "ce_id"
                               "\x04"
                               "abc"
                               "\x00"
                               "\x01"
                               "\x01"
                               "n"
                               "\x00";
    const struct header *got;
    size_t count;
    bool damaged;
    assert_true(header_blob_decode(arena, (struct text){blob, sizeof(blob) - 1}, &got, &count, &damaged));
    assert_int_equal(count, 3);
    assert_true(text_is(got[0].name, "ce_id") && text_is(got[0].value, "abc"));
    assert_true(got[1].name.length == 0 && got[1].value.length == 0 && got[1].value.at);
    assert_true(text_is(got[2].name, "n") && !got[2].value.at);
}

static void what_is_cut_or_unknown_is_damaged(void **state)
{
    (void)state;
    const struct header headers[] = {{TEXT("ce_id"), TEXT(UUID)}, {TEXT("n"), TEXT("v")}};
    struct text blob;
    const struct header *got;
    size_t count;
    bool damaged = false;
    assert_true(header_blob_encode(arena, headers, 2, &blob));
    size_t whole = 2 + 1 + 1 + 16;
    for (size_t length = 3; length < blob.length; length++)
        if (length != whole) {
            char *cut = malloc(length); /* so that who reads on is found */
            memcpy(cut, blob.at, length);
            assert_false(header_blob_decode(arena, (struct text){cut, length}, &got, &count, &damaged));
            assert_true(damaged);
            free(cut);
        }
    static const struct text unknown[] = {
        TEXT_INIT("\x80\x00\x7f\x00"), /* a name */
        TEXT_INIT("\x80\x00\x01\x7e"), /* a value of ce_specversion */
        TEXT_INIT("\x80\x00\x02"
                  "n\x02"),            /* a known value of a name that is not known */
        TEXT_INIT("\x80\x00\x01\x7f"), /* a form */
        TEXT_INIT("\x80\x00\x01\x04"), /* a kind */
    };
    for (size_t i = 0; i < sizeof(unknown) / sizeof(*unknown); i++) {
        assert_false(header_blob_decode(arena, unknown[i], &got, &count, &damaged));
        assert_true(damaged);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_of_weir_takes_a_third_of_its_headers),
        cmocka_unit_test(values_that_are_nearly_of_a_form_stay_as_they_are),
        cmocka_unit_test(headers_of_any_bytes_come_back),
        cmocka_unit_test(the_form_before_is_read),
        cmocka_unit_test(what_is_cut_or_unknown_is_damaged),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

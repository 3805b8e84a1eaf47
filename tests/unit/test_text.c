#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/text.h"

static const struct text nothing = {NULL, 0};

static void texts_compare_by_bytes_then_length(void **state)
{
    (void)state;
    assert_true(text_compare(TEXT("a"), TEXT("b")) < 0);
    assert_true(text_compare(TEXT("a"), TEXT("\xff")) < 0);
    assert_true(text_compare(TEXT("ab"), TEXT("a")) > 0);
    assert_int_equal(text_compare(TEXT("a\0b"), TEXT("a\0b")), 0);
    assert_int_equal(text_compare(nothing, TEXT("")), 0);
    assert_true(text_equal(nothing, TEXT("")));
    assert_false(text_equal(TEXT("a\0b"), TEXT("a\0c")));
    assert_true(text_is(nothing, NULL));
    assert_true(text_equal_nocase(TEXT("KEY-1"), TEXT("key-1")));
    assert_false(text_equal_nocase(TEXT("key@"), TEXT("key`"))); /* 0x20 apart, and no letters */
}

static void copy_ends_with_a_nul_that_is_not_counted(void **state)
{
    (void)state;
    struct arena *arena = arena_new(64);
    struct text copy = text_copy(arena, TEXT("abc"));
    assert_int_equal(copy.length, 3);
    assert_string_equal(copy.at, "abc");
    copy = text_copy(arena, nothing);
    assert_string_equal(copy.at, "");
    static const char large[100];
    assert_null(text_copy(arena, (struct text){large, sizeof(large)}).at);
    arena_destroy(arena);
}

static void decimal_numbers_are_read_up_to_both_ends(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {{"0", 0},
                {"-0", 0},
                {"007", 7},
                {"9223372036854775807", INT64_MAX},
                {"-9223372036854775808", INT64_MIN}};
    static const char *const bad[] = {"",
                                      "-",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "1.0",
                                      "0x1",
                                      "9223372036854775808",
                                      "-9223372036854775809",
                                      "99999999999999999999",
                                      "--1"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        int64_t value = 42;
        assert_true(text_to_int64(text_of(good[i].text), &value));
        assert_true(value == good[i].value);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int64_t value = 42;
        assert_false(text_to_int64(text_of(bad[i]), &value));
        assert_int_equal(value, 42);
    }
}

static void printable_has_neither_controls_nor_high_bytes(void **state)
{
    (void)state;
    assert_true(text_is_printable(TEXT("SKU-1~!"), 64));
    assert_false(text_is_printable(nothing, 64));
    assert_false(text_is_printable(TEXT("abc"), 2));
    assert_true(text_is_printable(TEXT("a b"), 64));
    assert_false(text_is_printable(TEXT("a\n"), 64));
    assert_false(text_is_printable(TEXT("a\x7f"), 64));
    assert_false(text_is_printable(TEXT("\xc3\xa9"), 64));
}

static void a_cut_goes_through_no_character(void **state)
{
    (void)state;
    const struct text text = TEXT("a\xc3\xa9\xf0\x9f\x98\x80z"); /* 1, 2, 4 and 1 bytes */
    static const size_t kept[] = {0, 1, 1, 3, 3, 3, 3, 7, 8, 8};
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        assert_int_equal(text_cut(text, i).length, kept[i]);
    assert_int_equal(text_cut(TEXT("\x80\x80\x80\x80\x80\x80"), 5).length, 2); /* no UTF-8: not for ever */
    assert_int_equal(text_cut(TEXT("\x80\x80\x80"), 2).length, 0);
}

/* Every code point in the encoding that is right for it, and in every one that is too long for it. */
static void utf8_is_what_unicode_says(void **state)
{
    (void)state;
    for (uint32_t point = 0; point <= 0x110000; point++) {
        unsigned char four[4] = {
            (unsigned char)(0xf0 | point >> 18), (unsigned char)(0x80 | (point >> 12 & 63)),
            (unsigned char)(0x80 | (point >> 6 & 63)), (unsigned char)(0x80 | (point & 63))};
        unsigned char three[3] = {(unsigned char)(0xe0 | (point >> 12 & 15)), four[2], four[3]};
        unsigned char two[2] = {(unsigned char)(0xc0 | (point >> 6 & 31)), four[3]};
        bool surrogate = point >= 0xd800 && point <= 0xdfff;
        if (text_is_utf8((struct text){(char *)four, 4}) != (point > 0xffff && point <= 0x10ffff))
            fail_msg("U+%X in four bytes", point);
        if (point <= 0xffff && text_is_utf8((struct text){(char *)three, 3}) != (point > 0x7ff && !surrogate))
            fail_msg("U+%X in three bytes", point);
        if (point <= 0x7ff && text_is_utf8((struct text){(char *)two, 2}) != (point > 0x7f))
            fail_msg("U+%X in two bytes", point);
    }
    assert_true(text_is_utf8(nothing));
    assert_int_equal(text_characters(nothing), 0);
    assert_int_equal(text_characters(TEXT("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x9f")), 4);
    static const char *const cut[] = {"\xc3",  "\xe2\x82", "\xf0\x9f\x8d", "\x80",
                                      "a\xff", "\xfe",     "\xc3(",        "\xe2\x82("};
    for (size_t i = 0; i < sizeof(cut) / sizeof(cut[0]); i++)
        assert_false(text_is_utf8(text_of(cut[i])));
}

static void what_could_steer_a_terminal_is_spelt_out(void **state)
{
    (void)state;
    struct buffer buffer = buffer_of(1000);
    buffer_add_plain(&buffer, TEXT("Zo\xc3\xab \xe2\x82\xac\x1b[2J\n\x7f\xc2\x9b"));
    assert_true(text_is(buffer_text(&buffer), "Zo\xc3\xab \xe2\x82\xac\\x1b[2J\\x0a\\x7f\\x9b"));
    buffer_clear(&buffer);
    buffer_add_plain(&buffer, TEXT("a\xc3\0b\xff"));
    assert_true(text_is(buffer_text(&buffer), "a\\xc3\\x00b\\xff"));
    buffer_free(&buffer);
}

static void buffer_grows_up_to_its_bound_and_then_stays_as_it_is(void **state)
{
    (void)state;
    struct buffer buffer = buffer_of(1000);
    for (int i = 0; i < 100; i++)
        buffer_add(&buffer, "0123456789", 10);
    assert_false(buffer.failed);
    assert_int_equal(buffer.length, 1000);
    buffer_add_char(&buffer, 'x');
    assert_true(buffer.failed);
    assert_int_equal(buffer.length, 1000);
    buffer_clear(&buffer);
    assert_false(buffer.failed);
    buffer_add_string(&buffer, "a");
    buffer_add_text(&buffer, nothing);
    buffer_add_text(&buffer, TEXT("b"));
    buffer_print(&buffer, "%d", 7);
    assert_true(text_is(buffer_text(&buffer), "ab7"));
    buffer_print(&buffer, "%1000d", 7);
    assert_true(buffer.failed);
    assert_true(text_is(buffer_text(&buffer), "ab7"));
    assert_null(buffer_room(&buffer, 1));
    buffer_free(&buffer);
    assert_int_equal(buffer.bytes_max, 1000);
    assert_int_equal(buffer.length, 0);
}

static void distance_counts_what_must_be_changed(void **state)
{
    (void)state;
    assert_int_equal(text_distance(TEXT("emti"), TEXT("emit")), 2);
    assert_int_equal(text_distance(TEXT(""), TEXT("watch")), 5);
    assert_int_equal(text_distance(TEXT("order"), TEXT("order")), 0);
    assert_int_equal(text_distance(TEXT("orders"), TEXT("order")), 1);
    char long_text[TEXT_DISTANCE_BYTES_MAX + 1];
    memset(long_text, 'a', sizeof(long_text));
    assert_true(text_distance((struct text){long_text, sizeof(long_text)}, TEXT("a")) == SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_compare_by_bytes_then_length),
        cmocka_unit_test(copy_ends_with_a_nul_that_is_not_counted),
        cmocka_unit_test(decimal_numbers_are_read_up_to_both_ends),
        cmocka_unit_test(distance_counts_what_must_be_changed),
        cmocka_unit_test(printable_has_neither_controls_nor_high_bytes),
        cmocka_unit_test(a_cut_goes_through_no_character),
        cmocka_unit_test(utf8_is_what_unicode_says),
        cmocka_unit_test(buffer_grows_up_to_its_bound_and_then_stays_as_it_is),
        cmocka_unit_test(what_could_steer_a_terminal_is_spelt_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "wire/events.h"

#include <stdio.h>

static struct order_item items[120];
static char skus[120][32];

/* A valid order of so many items at 3 × 100. */
static struct order_placed order_of(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        snprintf(skus[i], sizeof(skus[i]), "SKU-%zu", i);
        items[i] = (struct order_item){text_of(skus[i]), 3, 100};
    }
    return (struct order_placed){
        .order_id = TEXT("01937a5e-5c1e-7b60-a1d4-7a0c5b6e9f11"),
        .customer_id = TEXT("customer-1"),
        .email = TEXT("a@example.com"),
        .locale = TEXT("en"),
        .currency = TEXT("EUR"),
        .total_minor = (int64_t)count * 300,
        .items = items,
        .items_count = count,
    };
}

/* The paths of all faults, joined by spaces. */
static void check(const struct order_placed *order, const char *paths)
{
    static struct codec_faults faults;
    struct buffer found = buffer_of(4096);
    faults.count = 0;
    bool valid = order_placed_valid(order, &faults);
    for (size_t i = 0; i < faults.count; i++)
        buffer_print(&found, "%s%s", i ? " " : "", faults.fault[i].path);
    if (!text_is(buffer_text(&found), paths))
        fail_msg("'%.*s', not '%s'", TEXT_ARG(buffer_text(&found)), paths);
    buffer_free(&found);
    assert_int_equal(valid, paths[0] == '\0');
    assert_int_equal(order_placed_valid(order, NULL), valid);
}

static void count_of_items_is_1_to_100(void **state)
{
    (void)state;
    struct order_placed order = order_of(0);
    check(&order, "items");
    order = order_of(1);
    check(&order, "");
    order = order_of(100);
    check(&order, "");
    order = order_of(101);
    check(&order, "items");
}

static void quantity_and_price_have_their_bounds(void **state)
{
    (void)state;
    struct order_placed order = order_of(2);
    items[1].quantity = 0;
    check(&order, "items[1].quantity");
    items[1].quantity = 10001;
    check(&order, "items[1].quantity");
    items[1].quantity = INT32_MIN;
    check(&order, "items[1].quantity");
    items[1].quantity = 10000;
    order.total_minor = 300 + 1000000;
    check(&order, "");
    items[1].unit_price_minor = -1;
    check(&order, "items[1].unit_price_minor");
    items[1].unit_price_minor = 1000000000001;
    check(&order, "items[1].unit_price_minor");
    items[1].unit_price_minor = 1000000000000;
    order.total_minor = 300 + 10000000000000000;
    check(&order, "");
    items[1].unit_price_minor = 0;
    order.total_minor = 300;
    check(&order, "");
}

static void total_is_the_sum(void **state)
{
    (void)state;
    struct order_placed order = order_of(100);
    order.total_minor++;
    check(&order, "total_minor");
    /* the largest order there is */
    for (size_t i = 0; i < 100; i++)
        items[i] = (struct order_item){items[i].sku, 10000, 1000000000000};
    order.total_minor = 1000000000000000000;
    check(&order, "");
    /* a sum that is wrong because an item is says nothing more */
    items[7].quantity = -1;
    check(&order, "items[7].quantity");
}

static void skus_are_ids_and_distinct(void **state)
{
    (void)state;
    struct order_placed order = order_of(3);
    items[2].sku = items[0].sku;
    check(&order, "items[2].sku");
    items[2].sku = TEXT("");
    check(&order, "items[2].sku");
    items[2].sku = TEXT("sku\n");
    check(&order, "items[2].sku");
    items[2].sku = TEXT("Größe");
    check(&order, "items[2].sku");
    char long_sku[65];
    memset(long_sku, '~', sizeof(long_sku));
    items[2].sku = (struct text){long_sku, 65};
    check(&order, "items[2].sku");
    items[2].sku.length = 64;
    check(&order, "");
}

static void ids_are_what_they_say(void **state)
{
    (void)state;
    struct order_placed order = order_of(1);
    order.order_id = TEXT("01937A5E-5C1E-7B60-A1D4-7A0C5B6E9F11");
    check(&order, "");
    order.order_id = TEXT("01937a5e5c1e7b60a1d47a0c5b6e9f11");
    check(&order, "order_id");
    order.order_id = TEXT("");
    check(&order, "order_id");
    order = order_of(1);
    order.customer_id = TEXT("");
    check(&order, "customer_id");
    order.customer_id = TEXT("a\0b");
    check(&order, "customer_id");
}

static void currency_is_three_capital_letters(void **state)
{
    (void)state;
    struct order_placed order = order_of(1);
    const struct text wrong[] = {TEXT(""), TEXT("EU"), TEXT("EURO"), TEXT("eur"), TEXT("E1R"), TEXT("€")};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        order.currency = wrong[i];
        check(&order, "currency");
    }
    order.currency = TEXT("JPY");
    check(&order, "");
}

static void email_is_a_mailbox(void **state)
{
    (void)state;
#define X63 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X61 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    const struct text right[] = {
        TEXT("a@b"),
        TEXT("first.last+tag@sub.example.co"),
        TEXT("!#$%&'*+-/=?^_`{|}~@example.com"),
        TEXT("\"a b\"@example.com"),
        TEXT("\"a\\\"@\\\\b\"@example.com"),
        TEXT("\"\"@example.com"),
        TEXT("a@[192.0.2.1]"),
        TEXT("a@[IPv6:2001:db8::1]"),
        TEXT("a@xn--bcher-kva.example"),
        TEXT(X63 "x@example.com"),
        TEXT("a@" X63 ".example"),
        /* 254: 64 + @ + 63 + . + 63 + . + 61 */
        TEXT(X63 "x@" X63 "." X63 "." X61),
    };
    const struct text wrong[] = {
        TEXT(""),
        TEXT("@"),
        TEXT("a"),
        TEXT("a@"),
        TEXT("@b"),
        TEXT("a b@c"),
        TEXT(".a@b"),
        TEXT("a.@b"),
        TEXT("a..b@c"),
        TEXT("a@b@c"),
        TEXT("a@-b"),
        TEXT("a@b-"),
        TEXT("a@b..c"),
        TEXT("a@b."),
        TEXT("a@.b"),
        TEXT("a@b_c"),
        TEXT("a@b\r\nBcc: c@d"),
        TEXT("a\n@b"),
        TEXT("a\0@b"),
        TEXT("a@b\0"),
        TEXT("\"a\n\"@b"),
        TEXT("\"a\\\n\"@b"),
        TEXT("\"a\"b\"@c"),
        TEXT("\"a\\\"@c"),
        TEXT("\"@c"),
        TEXT("käthe@example.com"),
        TEXT("a@b\x7f"),
        TEXT("Name <a@b>"),
        TEXT("a@[192.0.2.256]"),
        TEXT("a@[]"),
        TEXT("a@[IPv6:]"),
        TEXT("a@[IPv6:1.2.3.4"),
        TEXT("a@[192.0.2.1]x"),
        TEXT("a@[1.2.3.4\0]"),
        TEXT(X63 "xx@example.com"),
        TEXT("a@" X63 "x.example"),
        TEXT(X63 "x@" X63 "." X63 "." X61 "x"),
    };
    struct order_placed order = order_of(1);
    assert_int_equal(right[sizeof(right) / sizeof(right[0]) - 1].length, 254);
    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        order.email = right[i];
        check(&order, "");
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        order.email = wrong[i];
        check(&order, "email");
    }
}

static void locale_is_a_well_formed_tag(void **state)
{
    (void)state;
    const struct text right[] = {
        TEXT("de"),
        TEXT("DE-at"),
        TEXT("zh-Hant-TW"),
        TEXT("es-419"),
        TEXT("sl-rozaj-biske-1994"),
        TEXT("zh-cmn-Hans-CN"),
        TEXT("de-CH-1901"),
        TEXT("de-1996"),
        TEXT("en-a-bbb-x-a-ccc"),
        TEXT("x-whatever"),
        TEXT("x-a-1"),
        TEXT("i-klingon"),
        TEXT("sgn-BE-FR"),
        TEXT("abcd"),
        TEXT("abcdefgh"),
        TEXT("zh-gan-yue-cmn"),
        TEXT("de-DE-u-co-phonebk"),
        TEXT("art-lojban"),
        TEXT("en-0-abc"),
    };
    const struct text wrong[] = {
        TEXT(""),
        TEXT("e"),
        TEXT("-"),
        TEXT("en-"),
        TEXT("-en"),
        TEXT("en--US"),
        TEXT("en_US"),
        TEXT("en-US.UTF-8"),
        TEXT("1e"),
        TEXT("abcdefghi"),
        TEXT("en-toolongsub"),
        TEXT("x"),
        TEXT("x-"),
        TEXT("en-x"),
        TEXT("en-a"),
        TEXT("en-a-b"),
        TEXT("de-419-DE"),
        TEXT("i-unknown"),
        TEXT("en-US\n"),
        TEXT("de\0"),
        TEXT("a-DE"),
        TEXT("1-abc"),
        TEXT("en-abc-abc-abc-abc"),
        TEXT("en-aaaaaaaa-bbbbbbbb-cccccccc-dddddddd-eeeeeeee-ffffffff-gggggggg-hh"),
    };
    struct order_placed order = order_of(1);
    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        order.locale = right[i];
        check(&order, "");
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        order.locale = wrong[i];
        check(&order, "locale");
    }
}

static void every_fault_is_told_up_to_the_bound(void **state)
{
    (void)state;
    struct order_placed order = order_of(2);
    order.order_id = order.customer_id = order.email = order.locale = order.currency = TEXT("");
    items[0] = items[1] = (struct order_item){TEXT(""), 0, -1};
    check(
        &order,
        "order_id customer_id email locale currency items[0].sku items[0].quantity items[0].unit_price_minor "
        "items[1].sku items[1].quantity items[1].unit_price_minor");
    order = order_of(100);
    for (size_t i = 0; i < 100; i++)
        items[i].quantity = 0;
    struct codec_faults faults;
    faults.count = 0;
    assert_false(order_placed_valid(&order, &faults));
    assert_int_equal(faults.count, CODEC_FAULTS_MAX);
}

static void faults_are_added_to_those_that_are_there(void **state)
{
    (void)state;
    struct codec_faults faults;
    struct order_placed order = order_of(0);
    faults.count = 0;
    codec_fault_add(&faults, "is missing", "placed_at");
    assert_false(order_placed_valid(&order, &faults));
    assert_int_equal(faults.count, 2);
    assert_string_equal(faults.fault[1].path, "items");
    order = order_of(1);
    assert_true(order_placed_valid(&order, &faults));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(count_of_items_is_1_to_100),
        cmocka_unit_test(quantity_and_price_have_their_bounds),
        cmocka_unit_test(total_is_the_sum),
        cmocka_unit_test(skus_are_ids_and_distinct),
        cmocka_unit_test(ids_are_what_they_say),
        cmocka_unit_test(currency_is_three_capital_letters),
        cmocka_unit_test(email_is_a_mailbox),
        cmocka_unit_test(locale_is_a_well_formed_tag),
        cmocka_unit_test(every_fault_is_told_up_to_the_bound),
        cmocka_unit_test(faults_are_added_to_those_that_are_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

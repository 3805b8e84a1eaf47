/* inventory: no unit is made or lost, whatever comes in whatever order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/metrics.h"
#include "inventory/inventory.h"
#include "items.h"
#include "support/handlers.h"
#include "support/samples.h"

#include <stdio.h>

extern const struct service inventory_service;

enum { SKUS = 4, ORDERS = 120, STEPS = 4000, BATCH_MAX = 12 };

static const struct text skus[SKUS] = {TEXT_INIT("cup"), TEXT_INIT("kettle"), TEXT_INIT("pot"),
                                       TEXT_INIT("tea")};
static const int64_t ttl_us = 60 * INT64_C(1000000);

static struct inventory_state inventory_state(void)
{
    static struct reserved_hint hints[RESERVED_HINTS]; /* of earlier tests as well: only hints */
    return (struct inventory_state){.reservation_ttl_us = ttl_us, .hints = hints};
}

static void set_stock(struct handlers *handlers, struct text sku, const char *body)
{
    assert_int_equal(handlers_request(handlers, "PUT", "/v1/stock/{sku}", sku.at, body, NULL), 200);
}

/* 0, 0 for a SKU that was never heard of. */
static struct stock_row stock_of(struct handlers *handlers, struct text sku)
{
    handlers_begin(handlers);
    const struct stock_row *row = stock_find(handlers->work, sku);
    struct stock_row copy = row ? *row : (struct stock_row){0};
    handlers_commit(handlers);
    return copy;
}

static struct order_placed order_of(struct text order_id, struct order_item *items, size_t count)
{
    struct order_placed order = {
        .order_id = order_id,
        .customer_id = TEXT("c-1"),
        .email = TEXT("ada@example.org"),
        .locale = TEXT("en"),
        .currency = TEXT("EUR"),
        .items = items,
        .items_count = count,
    };
    for (size_t i = 0; i < count; i++)
        order.total_minor += items[i].quantity * items[i].unit_price_minor;
    return order;
}

#define ORDER_1 TEXT("0193aaaa-0000-7000-8000-000000000001")

static size_t said_count(const struct handlers *handlers, const struct event_type *type)
{
    size_t count = 0;
    for (size_t i = 0; i < handlers->said_count; i++)
        count += handlers->said[i].type == type;
    return count;
}

/* ---- the books, kept beside */

struct book {
    struct text order_id;
    struct order_item items[SKUS];
    size_t item_count;
    bool reserved, released, taken; /* as told by inventory's events, and by the decisions */
};

struct books {
    struct handlers *handlers;
    struct samples samples;
    struct book orders[ORDERS];
    int64_t put_in[SKUS]; /* by hand, in sum */
};

static void make_orders(struct books *books)
{
    for (uint32_t i = 0; i < ORDERS; i++) {
        struct book *book = &books->orders[i];
        char id[ID_TEXT_BYTES + 1];
        snprintf(id, sizeof(id), "0193aaaa-0000-7000-8000-0000%08x", i);
        book->order_id = text_copy(books->handlers->arena, text_of(id));
        book->item_count = 1 + samples_below(&books->samples, SKUS - 1);
        size_t first = samples_below(&books->samples, SKUS);
        for (size_t k = 0; k < book->item_count; k++)
            book->items[k] = (struct order_item){.sku = skus[(first + k) % SKUS],
                                                 .quantity = 1 + (int32_t)samples_below(&books->samples, 4),
                                                 .unit_price_minor = 100};
    }
}

static void give_random_event(struct books *books)
{
    struct handlers *handlers = books->handlers;
    struct book *book = &books->orders[samples_below(&books->samples, ORDERS)];
    const struct order_placed order = order_of(book->order_id, book->items, book->item_count);
    const struct payment_captured captured = {
        .order_id = book->order_id, .payment_id = TEXT("p"), .currency = TEXT("EUR"), .provider = TEXT("t")};
    const struct order_confirmed confirmed = {.order_id = book->order_id, .payment_id = TEXT("p")};
    const struct order_rejected rejected = {.order_id = book->order_id};
    const struct order_cancelled cancelled = {.order_id = book->order_id};
    switch (samples_below(&books->samples, 8)) {
    case 0:
    case 1:
    case 2:
    case 3: /* also again and again */
        assert_int_equal(handlers_take(handlers, &order_placed_type, &order), OK);
        break;
    case 4:
        assert_int_equal(handlers_take(handlers, &payment_captured_type, &captured), OK);
        break;
    case 5:
        assert_int_equal(handlers_take(handlers, &order_confirmed_type, &confirmed), OK);
        break;
    case 6:
        assert_int_equal(handlers_take(handlers, &order_rejected_type, &rejected), OK);
        break;
    default:
        assert_int_equal(handlers_take(handlers, &order_cancelled_type, &cancelled), OK);
    }
}

static void adjust_by_hand(struct books *books)
{
    size_t which = samples_below(&books->samples, SKUS);
    int by = (int)samples_below(&books->samples, 15) - 5;
    char body[64];
    snprintf(body, sizeof(body), "{\"by\":%d,\"reason\":\"count\"}", by);
    int status =
        handlers_request(books->handlers, "POST", "/v1/stock/{sku}/adjust", skus[which].at, body, NULL);
    assert_true(status == 200 || (status == 409 && by < 0));
    if (status == 200)
        books->put_in[which] += by;
}

/* Every unit that was put in is available, reserved or taken, and what is reserved is what the held orders
 * hold. */
static void check_books(struct books *books)
{
    struct handlers *handlers = books->handlers;
    int64_t held[SKUS] = {0}, taken[SKUS] = {0};
    handlers_begin(handlers);
    for (size_t i = 0; i < ORDERS; i++) {
        const struct book *book = &books->orders[i];
        const struct reservation_row *row = rows_get(handlers->work, &reservations_table,
                                                     &(struct reservation_row){.order_id = book->order_id});
        if (!row)
            continue;
        assert_true(row->state != RESERVATION_HELD || row->final == FINAL_NONE);
        for (size_t k = 0; k < book->item_count; k++)
            for (size_t s = 0; s < SKUS; s++)
                if (text_equal(book->items[k].sku, skus[s])) {
                    held[s] += row->state == RESERVATION_HELD ? book->items[k].quantity : 0;
                    taken[s] += row->state == RESERVATION_TAKEN ? book->items[k].quantity : 0;
                }
    }
    for (size_t s = 0; s < SKUS; s++) {
        const struct stock_row *stock = stock_find(handlers->work, skus[s]);
        int64_t available = stock ? stock->available : 0, reserved = stock ? stock->reserved : 0;
        assert_true(available >= 0);
        assert_int_equal(reserved, held[s]);
        assert_int_equal(available + reserved + taken[s], books->put_in[s]);
        assert_int_equal(stock ? stock->put_in : 0, books->put_in[s]);
    }
    handlers_commit(handlers);
}

/* Each order is answered once, and given back at most once after it was reserved. */
static void check_said(struct books *books)
{
    for (size_t i = 0; i < books->handlers->said_count; i++) {
        const struct said *said = &books->handlers->said[i];
        if (said->type == &stock_level_type)
            continue;
        struct text order_id = *(const struct text *)said->data;
        struct book *book = books->orders;
        while (!text_equal(book->order_id, order_id))
            book++;
        if (said->type == &stock_released_type) {
            assert_true(book->reserved && !book->released);
            book->released = true;
        } else {
            assert_false(book->taken);
            book->taken = true; /* answered */
            book->reserved = said->type == &stock_reserved_type;
        }
    }
}

static void no_unit_is_made_or_lost(void **nothing)
{
    (void)nothing;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct inventory_state state = inventory_state();
        struct books books = {.handlers = handlers_open(&inventory_service, &state),
                              .samples = samples_of(seed)};
        make_orders(&books);
        for (int step = 0; step < STEPS;) {
            size_t batch = 1 + samples_below(&books.samples, BATCH_MAX);
            handlers_begin(books.handlers);
            for (size_t i = 0; i < batch; i++, step++)
                give_random_event(&books);
            handlers_commit(books.handlers);
            if (samples_below(&books.samples, 6) == 0)
                adjust_by_hand(&books);
            if (samples_below(&books.samples, 10) == 0)
                handlers_advance(books.handlers, ttl_us / 3);
            if (samples_below(&books.samples, 5) == 0)
                handlers_tick(books.handlers, "expiry");
            if (samples_below(&books.samples, 5) == 0)
                check_books(&books);
        }
        check_books(&books);
        check_said(&books);
        assert_true(said_count(books.handlers, &stock_reserved_type) > 0);
        assert_true(said_count(books.handlers, &stock_rejected_type) > 0);
        assert_true(said_count(books.handlers, &stock_released_type) > 0);
        handlers_close(books.handlers);
    }
}

/* ---- the rules one by one */

static void a_short_item_rejects_the_order_and_nothing_is_set_aside(void **nothing)
{
    (void)nothing;
    struct inventory_state state = inventory_state();
    struct handlers *handlers = handlers_open(&inventory_service, &state);
    set_stock(handlers, skus[0], "{\"available\":5}");
    set_stock(handlers, skus[1], "{\"available\":1}");
    struct order_item items[] = {{skus[0], 5, 100}, {skus[1], 2, 100}};
    const struct order_placed order = order_of(ORDER_1, items, 2);
    assert_int_equal(handlers_give(handlers, &order), OK);
    assert_int_equal(handlers->said_count, 1);
    const struct stock_rejected *said = handlers->said[0].data;
    assert_ptr_equal(handlers->said[0].type, &stock_rejected_type);
    assert_true(text_equal(said->sku, skus[1]) && said->wanted == 2 && said->available == 1);
    assert_int_equal(stock_of(handlers, skus[0]).available, 5);
    handlers_close(handlers);
}

static void a_decision_that_comes_before_the_order_is_remembered(void **nothing)
{
    (void)nothing;
    struct inventory_state state = inventory_state();
    struct handlers *handlers = handlers_open(&inventory_service, &state);
    set_stock(handlers, skus[0], "{\"available\":5}");
    struct order_item items[] = {{skus[0], 5, 100}};
    const struct order_placed order = order_of(ORDER_1, items, 1);
    const struct order_cancelled cancelled = {.order_id = order.order_id};
    assert_int_equal(handlers_give(handlers, &cancelled), OK);
    assert_int_equal(handlers_give(handlers, &order), OK);
    assert_int_equal(handlers->said_count, 0);
    assert_int_equal(stock_of(handlers, skus[0]).available, 5);
    handlers_close(handlers);
}

static void a_reservation_runs_out_unless_it_is_paid(void **nothing)
{
    (void)nothing;
    struct inventory_state state = inventory_state();
    struct handlers *handlers = handlers_open(&inventory_service, &state);
    set_stock(handlers, skus[0], "{\"available\":10}");
    struct order_item items[] = {{skus[0], 3, 100}};
    const struct order_placed unpaid = order_of(ORDER_1, items, 1);
    const struct order_placed paid = order_of(TEXT("0193aaaa-0000-7000-8000-000000000002"), items, 1);
    const struct payment_captured captured = {
        .order_id = paid.order_id, .payment_id = TEXT("p"), .currency = TEXT("EUR"), .provider = TEXT("t")};
    assert_int_equal(handlers_give(handlers, &captured), OK); /* the money may come first */
    assert_int_equal(handlers_give(handlers, &unpaid), OK);
    assert_int_equal(handlers_give(handlers, &paid), OK);
    handlers_advance(handlers, ttl_us);
    handlers_tick(handlers, "expiry");
    assert_int_equal(said_count(handlers, &stock_released_type), 0); /* order speaks first */
    handlers_advance(handlers, RESERVATION_GRACE_US);
    handlers_tick(handlers, "expiry");
    assert_int_equal(said_count(handlers, &stock_released_type), 1);
    const struct stock_released *said = handlers->said[handlers->said_count - 1].data;
    assert_true(text_equal(said->order_id, unpaid.order_id) && text_is(said->reason, "expired"));
    assert_int_equal(stock_of(handlers, skus[0]).available, 7);
    assert_int_equal(stock_of(handlers, skus[0]).reserved, 3);
    handlers_close(handlers);
}

static void a_late_confirmation_takes_the_units_again_where_they_are(void **nothing)
{
    (void)nothing;
    struct inventory_state state = inventory_state();
    struct metrics *metrics = metrics_new();
    state.short_total = metrics_get(metrics, &inventory_service.metrics[0], NULL);
    struct handlers *handlers = handlers_open(&inventory_service, &state);
    set_stock(handlers, skus[0], "{\"available\":3}");
    struct order_item items[] = {{skus[0], 3, 100}};
    const struct order_placed first = order_of(ORDER_1, items, 1);
    const struct order_placed second = order_of(TEXT("0193aaaa-0000-7000-8000-000000000002"), items, 1);
    const struct order_confirmed confirmed = {.order_id = first.order_id, .payment_id = TEXT("p")};
    const struct order_confirmed second_confirmed = {.order_id = second.order_id, .payment_id = TEXT("p")};
    assert_int_equal(handlers_give(handlers, &first), OK);
    handlers_advance(handlers, ttl_us + RESERVATION_GRACE_US);
    handlers_tick(handlers, "expiry");
    assert_int_equal(stock_of(handlers, skus[0]).available, 3);
    assert_int_equal(handlers_give(handlers, &confirmed), OK);
    assert_int_equal(stock_of(handlers, skus[0]).available, 0);
    assert_int_equal(handlers_give(handlers, &second), OK); /* rejected: nothing is left */
    handlers_begin(handlers);
    handlers_read(handlers);
    assert_int_equal(handlers_take(handlers, &order_confirmed_type, &second_confirmed), OK);
    assert_int_equal(metric_value(state.short_total), 0); /* a batch may yet be run again */
    handlers_commit(handlers);
    assert_int_equal(metric_value(state.short_total), 1);
    assert_int_equal(stock_of(handlers, skus[0]).available, 0);
    assert_int_equal(stock_of(handlers, skus[0]).reserved, 0);
    handlers_close(handlers);
    metrics_destroy(metrics);
}

static void a_level_is_told_at_most_once_a_second_and_the_last_one_is_told(void **nothing)
{
    (void)nothing;
    struct inventory_state state = inventory_state();
    struct handlers *handlers = handlers_open(&inventory_service, &state);
    set_stock(handlers, skus[0], "{\"available\":1}");
    handlers_tick(handlers, "level");
    set_stock(handlers, skus[0], "{\"available\":2}");
    handlers_tick(handlers, "level");
    set_stock(handlers, skus[0], "{\"available\":3}");
    handlers_advance(handlers, STOCK_LEVEL_INTERVAL_US - 1);
    handlers_tick(handlers, "level");
    assert_int_equal(handlers->said_count, 1);
    handlers_advance(handlers, 1);
    handlers_tick(handlers, "level");
    handlers_tick(handlers, "level");
    assert_int_equal(handlers->said_count, 2);
    assert_int_equal(((const struct stock_level *)handlers->said[1].data)->available, 3);
    handlers_close(handlers);
}

static void what_is_not_set_aside_any_more_is_forgotten_after_its_age(void **nothing)
{
    (void)nothing;
    const int64_t day_us = INT64_C(86400) * 1000000;
    struct inventory_state state = inventory_state();
    state.prune.age_us = 90 * day_us;
    struct handlers *handlers = handlers_open(&inventory_service, &state);
    set_stock(handlers, skus[0], "{\"available\":10}");
    struct order_item items[] = {{skus[0], 2, 1}};
    const struct order_placed first = order_of(ORDER_1, items, 1);
    const struct order_placed second = order_of(TEXT("0193aaaa-0000-7000-8000-000000000002"), items, 1);
    const struct payment_captured captured = {.order_id = second.order_id, .payment_id = TEXT("p")};
    const struct order_confirmed confirmed = {.order_id = first.order_id, .payment_id = TEXT("p")};
    assert_int_equal(handlers_give(handlers, &first), OK);
    assert_int_equal(handlers_give(handlers, &confirmed), OK);
    assert_int_equal(handlers_give(handlers, &second), OK);
    assert_int_equal(handlers_give(handlers, &captured), OK); /* paid: held until it is decided */
    for (int days = 89; days <= 91; days += 2) {
        handlers_advance(handlers, (days == 89 ? 89 : 2) * day_us);
        handlers_tick(handlers, "prune");
        handlers_begin(handlers);
        assert_int_equal(rows_count(handlers->work, &reservations_table, NULL, NULL, 0), days == 89 ? 2 : 1);
        handlers_commit(handlers);
    }
    assert_int_equal(stock_of(handlers, skus[0]).available, 6);
    assert_int_equal(stock_of(handlers, skus[0]).reserved, 2);
    handlers_close(handlers);
}

/* ---- HTTP */

static void stock_is_set_adjusted_and_listed_page_by_page(void **nothing)
{
    (void)nothing;
    struct inventory_state state = inventory_state();
    struct handlers *handlers = handlers_open(&inventory_service, &state);
    struct text body;
    assert_int_equal(handlers_request(handlers, "GET", "/v1/stock/{sku}", "cup", NULL, NULL), 404);
    for (size_t s = 0; s < SKUS; s++)
        set_stock(handlers, skus[s], "{\"available\":7}");
    assert_int_equal(handlers_request(handlers, "GET", "/v1/stock/{sku}", "cup", NULL, &body), 200);
    assert_string_equal(body.at, "{\"sku\":\"cup\",\"available\":7,\"reserved\":0}");
    assert_int_equal(handlers_request(handlers, "POST", "/v1/stock/{sku}/adjust", "cup",
                                      "{\"by\":-8,\"reason\":\"x\"}", NULL),
                     409);
    assert_int_equal(handlers_request(handlers, "POST", "/v1/stock/{sku}/adjust", "cup",
                                      "{\"by\":-7,\"reason\":\"x\"}", NULL),
                     200);
    assert_int_equal(handlers_request(handlers, "PUT", "/v1/stock/{sku}", "cup", "{\"available\":-1}", &body),
                     422);
    assert_non_null(strstr(body.at, "\"available\":\"must be a whole number from 0 to 1000000000000\""));
    assert_int_equal(handlers_request(handlers, "PUT", "/v1/stock/{sku}", "c\tup", "{\"available\":1}", NULL),
                     422);
    assert_int_equal(
        handlers_request(handlers, "PUT", "/v1/stock/{sku}", "cup", "{\"available\":\"1\"}", NULL), 422);
    assert_int_equal(handlers_request(handlers, "GET", "/v1/stock", NULL, NULL, &body), 200);
    assert_non_null(strstr(body.at, "\"next\":null"));
    handlers_close(handlers);
}

static void items_are_packed_and_unpacked(void **nothing)
{
    (void)nothing;
    struct arena *arena = arena_new(1 << 20);
    struct order_item items[] = {{skus[0], 1, 0},
                                 {skus[1], 10000, INT64_C(1000000000000)},
                                 {skus[2], 128, 127}},
                      *again;
    size_t count;
    struct text packed = items_pack(arena, items, 3);
    assert_true(items_unpack(arena, packed, &again, &count));
    assert_int_equal(count, 3);
    for (size_t i = 0; i < count; i++)
        assert_true(text_equal(again[i].sku, items[i].sku) && again[i].quantity == items[i].quantity &&
                    again[i].unit_price_minor == items[i].unit_price_minor);
    for (size_t length = 0; length < packed.length; length++)
        assert_false(items_unpack(arena, (struct text){packed.at, length}, &again, &count));
    arena_destroy(arena);
}

int main(int argc, char **argv)
{
    scratch_choose(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_unit_is_made_or_lost),
        cmocka_unit_test(a_short_item_rejects_the_order_and_nothing_is_set_aside),
        cmocka_unit_test(a_decision_that_comes_before_the_order_is_remembered),
        cmocka_unit_test(a_reservation_runs_out_unless_it_is_paid),
        cmocka_unit_test(a_late_confirmation_takes_the_units_again_where_they_are),
        cmocka_unit_test(a_level_is_told_at_most_once_a_second_and_the_last_one_is_told),
        cmocka_unit_test(what_is_not_set_aside_any_more_is_forgotten_after_its_age),
        cmocka_unit_test(stock_is_set_adjusted_and_listed_page_by_page),
        cmocka_unit_test(items_are_packed_and_unpacked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Several instances of inventory on one PostgreSQL, each a process: they want the same stock at the same
 * moment.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "inventory/inventory.h"
#include "support/handlers.h"
#include "support/rivals.h"

extern const struct service inventory_service;

enum { STOCK = 100 };

static struct inventory_state inventory = {.reservation_ttl_us = 60 * INT64_C(1000000)};

static void run_out(struct handlers *handlers, int instance)
{
    (void)instance;
    handlers_tick_beside(handlers, "expiry");
    handlers_tick_beside(handlers, "level");
}

/* Events in the outbox on the topic of answers, whoever wrote them. */
static int64_t answers(struct handlers *handlers)
{
    const struct outbox_row *rows;
    int64_t after_seq = 0, found = 0;
    bool more = true;
    struct error error;
    assert_int_equal(work_begin(handlers->work, &error), OK);
    while (more) {
        size_t count = outbox_read(handlers->work, after_seq, 1000, &rows, &more);
        for (size_t i = 0; i < count; i++)
            found += text_is(rows[i].topic, "inventory");
        after_seq = count ? rows[count - 1].seq : after_seq;
        assert_int_equal(work_failed(handlers->work, &error), OK);
    }
    work_rollback(handlers->work);
    return found;
}

static void stock_is_never_sold_twice_and_given_back_once(void **state)
{
    (void)state;
    struct handlers *handlers = handlers_open(&inventory_service, &inventory);
    handlers_request(handlers, "PUT", "/v1/stock/{sku}", "hot", "{\"available\":100}", NULL);
    for (int i = 0; i < RIVALS_SKUS; i++)
        handlers_request(handlers, "PUT", "/v1/stock/{sku}", rivals_skus[i].at, "{\"available\":100000}",
                         NULL);
    handlers_in_processes(handlers, RIVALS_INSTANCES, rivals_place);
    assert_int_equal(rivals_number(handlers, "SELECT available FROM weir_inventory.stock WHERE sku = 'hot'"),
                     0);
    assert_int_equal(rivals_number(handlers, "SELECT reserved FROM weir_inventory.stock WHERE sku = 'hot'"),
                     STOCK);
    assert_int_equal(
        rivals_number(handlers, "SELECT count(*) FROM weir_inventory.reservations WHERE state = 1"), STOCK);
    assert_int_equal(
        rivals_number(handlers, "SELECT count(*) FROM weir_inventory.reservations WHERE state = 4"),
        RIVALS_INSTANCES * RIVALS_ORDERS - STOCK);
    assert_int_equal(rivals_number(handlers, "SELECT sum(reserved)::bigint FROM weir_inventory.stock"),
                     2 * STOCK);

    clock_advance(3600 * INT64_C(1000000));
    handlers_in_processes(handlers, RIVALS_INSTANCES, run_out);
    assert_int_equal(rivals_number(handlers, "SELECT available FROM weir_inventory.stock WHERE sku = 'hot'"),
                     STOCK);
    assert_int_equal(rivals_number(handlers, "SELECT sum(reserved)::bigint FROM weir_inventory.stock"), 0);
    assert_int_equal(
        rivals_number(handlers, "SELECT count(*) FROM weir_inventory.reservations WHERE state = 3"), STOCK);
    /* one StockReserved or StockRejected and, of those that were reserved, one StockReleased */
    assert_int_equal(answers(handlers), RIVALS_INSTANCES * RIVALS_ORDERS + STOCK);
    clock_advance(STOCK_LEVEL_INTERVAL_US); /* between two levels of one SKU */
    handlers_tick_beside(handlers, "level");
    assert_int_equal(rivals_number(handlers, "SELECT count(*) FROM weir_inventory.stock WHERE due_at > 0"),
                     0);
    handlers_close(handlers);
}

static void what_is_only_looked_at_is_not_waited_for(void **state)
{
    (void)state;
    struct handlers *first = handlers_open(&inventory_service, &inventory);
    handlers_request(first, "PUT", "/v1/stock/{sku}", "cup", "{\"available\":5}", NULL);
    struct handlers *second = handlers_join(&inventory_service, first->context.state, first->url);
    const struct order_placed order = rivals_order(first->arena, 3, 1); /* "cup" and "hot" */
    struct text body;
    handlers_begin(first);
    handlers_want(first, &order_placed_type, &order);
    handlers_read(first); /* has the row of "cup" in hand */
    assert_int_equal(handlers_request(second, "GET", "/v1/stock", NULL, NULL, &body), 200);
    assert_true(text_equal(body, TEXT("{\"items\":[{\"sku\":\"cup\",\"available\":5,\"reserved\":0}],"
                                      "\"next\":null}")));
    handlers_commit(first);
    handlers_close(second);
    handlers_close(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stock_is_never_sold_twice_and_given_back_once),
        cmocka_unit_test(what_is_only_looked_at_is_not_waited_for),
    };
    char *on_postgres[] = {"", "postgres", NULL};
    scratch_choose(2, on_postgres);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What handlers say: the ids that events are given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "support/handlers.h"

#include <stdio.h>

enum { SAID = 3 * EMIT_NAMES };

/* Two kinds take turns: more names than are kept, and such as have one place. */
static enum outcome on_order_placed(struct work *work, const struct event *event, struct error *error)
{
    const struct order_placed *order = event->data;
    const struct order_confirmed confirmed = {.order_id = order->order_id, .payment_id = TEXT("p")};
    const struct order_cancelled cancelled = {.order_id = order->order_id};
    (void)error;
    for (int i = 0; i < SAID; i++) {
        if (i % 2)
            work_emit(work, &cancelled);
        else
            work_emit(work, &confirmed);
    }
    return OK;
}

static const struct subscription subscriptions[] = {
    {.type = &order_placed_type, .handle = on_order_placed, .ordering = ORDERED},
    {0},
};
static const struct rows_table *const no_tables[] = {NULL};
static const struct service speaker = {
    .name = "speaker", .subscriptions = subscriptions, .tables = no_tables};

static void the_nth_event_of_a_kind_has_the_id_of_its_parent_its_kind_and_n(void **state)
{
    (void)state;
    const struct order_placed placed = {.order_id = TEXT("00000000-0000-7000-8000-000000000001")};
    struct handlers *handlers = handlers_open(&speaker, NULL);
    for (int item = 0; item < 3; item++) {
        assert_int_equal(handlers_give(handlers, &placed), OK);
        assert_int_equal(handlers->said_count, (size_t)(item + 1) * SAID);
        for (int i = 0; i < SAID; i++) {
            const struct said *said = &handlers->said[item * SAID + i];
            char name[96], id[ID_TEXT_BYTES];
            snprintf(name, sizeof(name), "speaker/%s/%d", i % 2 ? "OrderCancelled" : "OrderConfirmed", i);
            struct text expected = id_to_text(id_derive(handlers->context.id, text_of(name)), id);
            assert_true(text_equal(said->id, expected));
        }
    }
    handlers_close(handlers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nth_event_of_a_kind_has_the_id_of_its_parent_its_kind_and_n),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

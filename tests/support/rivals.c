#include "support/rivals.h"

#include "base/clock.h"
#include "support/cluster.h"

const struct text rivals_skus[RIVALS_SKUS] = {TEXT_INIT("cup"), TEXT_INIT("kettle"), TEXT_INIT("pot"),
                                              TEXT_INIT("tea")};

struct order_placed rivals_order(struct arena *arena, int instance, int number)
{
    struct order_item *items = arena_take_zeroed(arena, 2 * sizeof(*items));
    int hot = number % 2;
    items[hot] = (struct order_item){.sku = TEXT("hot"), .quantity = 1, .unit_price_minor = 100};
    items[!hot] = (struct order_item){
        .sku = rivals_skus[(number / 2 + instance) % RIVALS_SKUS], .quantity = 1, .unit_price_minor = 100};
    return (struct order_placed){
        .order_id = text_of(arena_print(arena, "0193aaaa-0000-7000-8000-%04x%08x", instance, number)),
        .customer_id = text_of(arena_print(arena, "c-%d", number % 7)),
        .email = TEXT("ada@example.org"),
        .locale = TEXT("en"),
        .currency = TEXT("EUR"),
        .total_minor = 200,
        .items = items,
        .items_count = 2,
        .placed_at = clock_wall_us(),
    };
}

void rivals_place(struct handlers *handlers, int instance)
{
    for (int first = 0; first < RIVALS_ORDERS; first += RIVALS_BATCH) {
        const struct event_type *types[RIVALS_BATCH];
        struct order_placed orders[RIVALS_BATCH];
        const void *data[RIVALS_BATCH];
        for (int i = 0; i < RIVALS_BATCH; i++) {
            orders[i] = rivals_order(handlers->arena, instance, first + i);
            types[i] = &order_placed_type;
            data[i] = &orders[i];
        }
        handlers_batch(handlers, types, data, RIVALS_BATCH);
    }
}

int64_t rivals_number(const struct handlers *handlers, const char *sql)
{
    return cluster_do(handlers->url, sql);
}

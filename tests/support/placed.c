#include "support/placed.h"

#include "flow/dispatch.h"

#include <stdlib.h>

struct buffer placed_value(struct text order_id, struct text customer, struct text mark)
{
    struct order_item item = {.sku = TEXT("sku"), .quantity = 1, .unit_price_minor = 5};
    const struct order_placed order = {
        .order_id = order_id,
        .customer_id = customer,
        .email = TEXT("a@b.example"),
        .locale = mark,
        .currency = TEXT("EUR"),
        .total_minor = 5,
        .items = &item,
        .items_count = 1,
        .placed_at = 1,
    };
    struct error error;
    struct buffer value = buffer_of(10000);
    frame_write(&value, 101);
    if (codec_encode(order_placed_type.codec, &order, &value, &error) != OK)
        abort();
    return value;
}

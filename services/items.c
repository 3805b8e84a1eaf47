#include "items.h"

#include <assert.h>

enum { NUMBER_BYTES_MAX = 10 };

static char *put_number(char *at, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        *at++ = (char)(value | 0x80);
    *at++ = (char)value;
    return at;
}

static bool take_number(struct text *from, uint64_t *ret)
{
    uint64_t value = 0;
    for (size_t i = 0; i < from->length && i < NUMBER_BYTES_MAX; i++) {
        uint8_t byte = (uint8_t)from->at[i];
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            from->at += i + 1;
            from->length -= i + 1;
            *ret = value;
            return true;
        }
    }
    return false;
}

struct text items_pack(struct arena *arena, const struct order_item *items, size_t count)
{
    size_t bytes_max = NUMBER_BYTES_MAX;
    for (size_t i = 0; i < count; i++)
        bytes_max += 3 * NUMBER_BYTES_MAX + items[i].sku.length;
    char *start = arena_take(arena, bytes_max);
    if (!start)
        return (struct text){NULL, 0};
    char *at = put_number(start, count);
    for (size_t i = 0; i < count; i++) {
        assert(items[i].quantity >= 0 && items[i].unit_price_minor >= 0);
        at = put_number(at, items[i].sku.length);
        if (items[i].sku.length)
            memcpy(at, items[i].sku.at, items[i].sku.length);
        at += items[i].sku.length;
        at = put_number(at, (uint64_t)items[i].quantity);
        at = put_number(at, (uint64_t)items[i].unit_price_minor);
    }
    return (struct text){start, (size_t)(at - start)};
}

static bool take_item(struct text *from, struct order_item *ret)
{
    uint64_t length, quantity, price;
    if (!take_number(from, &length) || length > from->length)
        return false;
    ret->sku = (struct text){from->at, (size_t)length};
    from->at += length;
    from->length -= (size_t)length;
    if (!take_number(from, &quantity) || quantity > INT32_MAX || !take_number(from, &price) ||
        price > INT64_MAX)
        return false;
    ret->quantity = (int32_t)quantity;
    ret->unit_price_minor = (int64_t)price;
    return true;
}

bool items_unpack(struct arena *arena, struct text packed, struct order_item **ret_items, size_t *ret_count)
{
    uint64_t count;
    if (!take_number(&packed, &count) || count > ITEMS_COUNT_MAX)
        return false;
    struct order_item *items = arena_take_zeroed(arena, (size_t)count * sizeof(*items));
    if (!items)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!take_item(&packed, &items[i]))
            return false;
    if (packed.length)
        return false;
    *ret_items = items;
    *ret_count = (size_t)count;
    return true;
}

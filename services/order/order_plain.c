/*
 * order_plain: the body of POST /v1/orders as nearly everybody writes it, read without a tree of values.
 *
 * Nothing is refused here: whatever is not as plain as this (an escape, a byte that is no ASCII, a sign or
 * a fraction, a member that is unknown, missing or there twice, a text after the object) is left to the JSON
 * reader, which knows what is wrong with it, if anything is.
 */
#include "order/order.h"

#include "items.h"

#include <stdlib.h>

enum { PLAIN_BYTES_MAX = 64 << 10, DIGITS_MAX = 18 };

struct cursor {
    const char *at, *end;
};

static void skip_spaces(struct cursor *cursor)
{
    while (cursor->at < cursor->end &&
           (*cursor->at == ' ' || *cursor->at == '\n' || *cursor->at == '\r' || *cursor->at == '\t'))
        cursor->at++;
}

/* The character, with spaces around it. */
static bool take(struct cursor *cursor, char c)
{
    skip_spaces(cursor);
    if (cursor->at == cursor->end || *cursor->at != c)
        return false;
    cursor->at++;
    skip_spaces(cursor);
    return true;
}

static bool take_string(struct cursor *cursor, struct text *ret)
{
    if (cursor->at == cursor->end || *cursor->at != '"')
        return false;
    const char *start = ++cursor->at;
    while (cursor->at < cursor->end && *cursor->at >= ' ' && *cursor->at <= '~' && *cursor->at != '"' &&
           *cursor->at != '\\')
        cursor->at++;
    if (cursor->at == cursor->end || *cursor->at != '"')
        return false;
    *ret = (struct text){start, (size_t)(cursor->at - start)};
    cursor->at++;
    return true;
}

static bool take_number(struct cursor *cursor, int64_t *ret)
{
    const char *start = cursor->at;
    int64_t value = 0;
    while (cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9' &&
           cursor->at - start < DIGITS_MAX)
        value = value * 10 + (*cursor->at++ - '0');
    *ret = value;
    return cursor->at > start && (*start != '0' || cursor->at == start + 1);
}

/* The next member's name and its colon; *more: it is not the first. False also at the object's end. */
static bool take_name(struct cursor *cursor, bool more, struct text *ret)
{
    return (!more || take(cursor, ',')) && take_string(cursor, ret) && take(cursor, ':');
}

static bool take_item(struct cursor *cursor, struct order_item *item)
{
    struct text name;
    int64_t quantity = 0;
    unsigned seen = 0, bit;
    if (!take(cursor, '{'))
        return false;
    for (int i = 0; i < 3; i++) {
        bool taken;
        if (!take_name(cursor, i > 0, &name))
            return false;
        if (text_is(name, "sku")) {
            bit = 1;
            taken = take_string(cursor, &item->sku);
        } else if (text_is(name, "quantity")) {
            bit = 2;
            taken = take_number(cursor, &quantity);
        } else {
            bit = 4;
            taken = text_is(name, "unit_price_minor") && take_number(cursor, &item->unit_price_minor);
        }
        if (!taken || seen & bit)
            return false;
        seen |= bit;
    }
    item->quantity = (int32_t)quantity;
    return take(cursor, '}') && quantity <= INT32_MAX;
}

static bool take_items(struct cursor *cursor, struct order_item *items, size_t *ret_count)
{
    size_t count = 0;
    if (!take(cursor, '['))
        return false;
    do
        if (count == ITEMS_COUNT_MAX || !take_item(cursor, &items[count++]))
            return false;
    while (take(cursor, ','));
    *ret_count = count;
    return take(cursor, ']');
}

static struct text *text_member(struct order_placed *order, struct text name)
{
    return text_is(name, "order_id")      ? &order->order_id
           : text_is(name, "customer_id") ? &order->customer_id
           : text_is(name, "email")       ? &order->email
           : text_is(name, "locale")      ? &order->locale
           : text_is(name, "currency")    ? &order->currency
                                          : NULL;
}

void *order_plain_read(struct text body)
{
    struct cursor cursor = {body.at, body.at + body.length};
    struct order_placed order = {0};
    struct order_item items[ITEMS_COUNT_MAX];
    struct text name;
    if (body.length == 0 || body.length > PLAIN_BYTES_MAX || !take(&cursor, '{'))
        return NULL;
    for (bool more = false; !more || !take(&cursor, '}'); more = true) {
        if (!take_name(&cursor, more, &name))
            return NULL;
        struct text *member = text_member(&order, name);
        bool items_next = !member && text_is(name, "items") && !order.items_count;
        if (member ? member->at || !take_string(&cursor, member)
                   : !items_next || !take_items(&cursor, items, &order.items_count))
            return NULL;
    }
    bool given = order.customer_id.at && order.email.at && order.currency.at && order.items_count;
    if (cursor.at != cursor.end || !given || (order.order_id.at && !order.order_id.length))
        return NULL;
    if (!order.locale.at)
        order.locale = TEXT("en"); /* the schema's default */
    struct order_placed *plain = malloc(sizeof(*plain) + order.items_count * sizeof(*items));
    if (!plain)
        return NULL;
    *plain = order;
    plain->items = memcpy(plain + 1, items, order.items_count * sizeof(*items));
    return plain;
}

/* From within the body to the same place of its copy; what is not of the body stays. */
static void move(struct text *text, struct text body, const char *to)
{
    if (text->at >= body.at && text->at < body.at + body.length)
        text->at = to + (text->at - body.at);
}

struct order_placed *order_plain_copy(struct arena *arena, const struct order_placed *plain, struct text body)
{
    struct text bytes = text_copy(arena, body);
    struct order_placed *order = arena_take(arena, sizeof(*order));
    struct order_item *items = arena_take(arena, plain->items_count * sizeof(*items));
    if (!bytes.at || !order || !items)
        return NULL;
    *order = *plain;
    order->items = memcpy(items, plain->items, plain->items_count * sizeof(*items));
    struct text *const texts[] = {&order->order_id, &order->customer_id, &order->email, &order->locale,
                                  &order->currency};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        move(texts[i], body, bytes.at);
    for (size_t i = 0; i < order->items_count; i++)
        move(&items[i].sku, body, bytes.at);
    return order;
}

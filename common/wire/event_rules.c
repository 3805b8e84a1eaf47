/* event_rules: what an event must be beyond its schema, whoever made it. */
#include "wire/events.h"

enum { ID_BYTES_MAX = 64 };

static void check_printable(struct text text, bool may_be_empty, const char *name,
                            struct codec_faults *faults)
{
    if (!text_is_printable(text, ID_BYTES_MAX) && !(may_be_empty && !text.length))
        codec_fault_add(faults, "must be 1 to 64 printable ASCII characters", "%s", name);
}

bool event_currency_valid(struct text currency)
{
    for (size_t i = 0; i < currency.length; i++)
        if (currency.at[i] < 'A' || currency.at[i] > 'Z')
            return false;
    return currency.length == 3;
}

static void check_money(int64_t amount_minor, struct text currency, struct codec_faults *faults)
{
    if (amount_minor < 0)
        codec_fault_add(faults, "must not be negative", "amount_minor");
    if (!event_currency_valid(currency))
        codec_fault_add(faults, "must be an ISO 4217 code of three letters", "currency");
}

static void check_payment(const struct event_type *type, const void *data, struct codec_faults *faults)
{
    const struct payment_captured *captured = type == &payment_captured_type ? data : NULL;
    const struct payment_refunded *refunded = type == &payment_refunded_type ? data : NULL;
    if (type == &order_confirmed_type)
        check_printable(((const struct order_confirmed *)data)->payment_id, true, "payment_id", faults);
    else if (type == &payment_failed_type)
        check_printable(((const struct payment_failed *)data)->payment_id, true, "payment_id", faults);
    if (captured || refunded) {
        check_printable(captured ? captured->payment_id : refunded->payment_id, false, "payment_id", faults);
        check_money(captured ? captured->amount_minor : refunded->amount_minor,
                    captured ? captured->currency : refunded->currency, faults);
    }
}

bool event_lower_id(const struct event_type *type, const void *data, struct arena *arena)
{
    struct text *key = (struct text *)((uintptr_t)data + type->key_offset);
    return type->topic == TOPIC_STOCK || id_lower(arena, key);
}

bool event_same_key(const struct event_type *type, struct text a, struct text b)
{
    struct id id;
    return text_equal(a, b) || (type->topic != TOPIC_STOCK && text_equal_nocase(a, b) && id_parse(a, &id));
}

bool event_valid(const struct event_type *type, const void *data, struct codec_faults *faults)
{
    size_t before = faults->count;
    struct text key = *(const struct text *)(const void *)((const char *)data + type->key_offset);
    struct id id;
    if (type == &order_placed_type)
        return order_placed_valid(data, faults);
    if (type->topic == TOPIC_STOCK)
        check_printable(key, false, "sku", faults);
    else if (!id_parse(key, &id))
        codec_fault_add(faults, "must be a UUID", "order_id");
    check_payment(type, data, faults);
    return faults->count == before;
}

#include "wire/events.h"

#include <arpa/inet.h>

enum {
    ITEMS_MAX = 100,
    QUANTITY_MAX = 10000,
    ID_BYTES_MAX = 64,
    EMAIL_BYTES_MAX = 254,
    EMAIL_LOCAL_BYTES_MAX = 64,
    DOMAIN_LABEL_BYTES_MAX = 63,
    LOCALE_BYTES_MAX = 64,
};
static const int64_t price_minor_max = 1000000000000;

static bool is_alpha(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
    return is_alpha(c) || is_digit(c);
}

static bool all(struct text text, bool (*is)(char))
{
    for (size_t i = 0; i < text.length; i++)
        if (!is(text.at[i]))
            return false;
    return true;
}

/* Takes what stands before the separator, or all of the rest. False when nothing was left to take. */
static bool part_next(struct text *rest, char separator, struct text *ret)
{
    if (!rest->at)
        return false;
    const char *end = rest->length ? memchr(rest->at, separator, rest->length) : NULL;
    *ret = (struct text){rest->at, end ? (size_t)(end - rest->at) : rest->length};
    *rest = end ? (struct text){end + 1, rest->length - ret->length - 1} : (struct text){NULL, 0};
    return true;
}

/* ---- RFC 5321, 4.1.2: Mailbox = Local-part "@" ( Domain / address-literal ) */

static bool is_atext(char c)
{
    return is_alnum(c) || (c && strchr("!#$%&'*+-/=?^_`{|}~", c));
}

static bool dot_string_valid(struct text text)
{
    struct text atom;
    while (part_next(&text, '.', &atom))
        if (atom.length == 0 || !all(atom, is_atext))
            return false;
    return true;
}

/* Inside the quotes: printable ASCII and space; a quote or a backslash behind a backslash. */
static bool quoted_string_valid(struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] == '"')
            return false;
        if (text.at[i] == '\\' && ++i == text.length)
            return false;
        if (text.at[i] < ' ' || text.at[i] > '~')
            return false;
    }
    return true;
}

static bool is_ldh(char c)
{
    return is_alnum(c) || c == '-';
}

static bool domain_valid(struct text text)
{
    struct text label;
    while (part_next(&text, '.', &label))
        if (label.length == 0 || label.length > DOMAIN_LABEL_BYTES_MAX || !all(label, is_ldh) ||
            label.at[0] == '-' || label.at[label.length - 1] == '-')
            return false;
    return true;
}

/* [192.0.2.1] or [IPv6:2001:db8::1] */
static bool address_literal_valid(struct text text)
{
    char address[INET6_ADDRSTRLEN];
    unsigned char binary[sizeof(struct in6_addr)];
    if (text.length < 2 || text.at[0] != '[' || text.at[text.length - 1] != ']')
        return false;
    text = (struct text){text.at + 1, text.length - 2};
    bool v6 = text.length > 5 && text_equal_nocase((struct text){text.at, 5}, TEXT("IPv6:"));
    if (v6)
        text = (struct text){text.at + 5, text.length - 5};
    if (text.length >= sizeof(address) || (text.length && memchr(text.at, '\0', text.length)))
        return false;
    memcpy(address, text.at, text.length);
    address[text.length] = '\0';
    return inet_pton(v6 ? AF_INET6 : AF_INET, address, binary) == 1;
}

static bool email_valid(struct text email)
{
    const char *at =
        email.length && email.length <= EMAIL_BYTES_MAX ? memrchr(email.at, '@', email.length) : NULL;
    if (!at)
        return false;
    struct text local = {email.at, (size_t)(at - email.at)};
    struct text domain = {at + 1, email.length - local.length - 1};
    if (local.length == 0 || local.length > EMAIL_LOCAL_BYTES_MAX || domain.length == 0)
        return false;
    bool quoted = local.length >= 2 && local.at[0] == '"' && local.at[local.length - 1] == '"';
    if (quoted ? !quoted_string_valid((struct text){local.at + 1, local.length - 2})
               : !dot_string_valid(local))
        return false;
    return domain.at[0] == '[' ? address_literal_valid(domain) : domain_valid(domain);
}

/* ---- RFC 5646, 2.1: a well-formed language tag */

static const char *const grandfathered[] = {
    "en-GB-oed", "i-ami", "i-bnn",     "i-default", "i-enochian", "i-hak",
    "i-klingon", "i-lux", "i-mingo",   "i-navajo",  "i-pwn",      "i-tao",
    "i-tay",     "i-tsu", "sgn-BE-FR", "sgn-BE-NL", "sgn-CH-DE",
};

/* Subtags one after another; at the end .subtag is empty. */
struct tag {
    struct text rest;
    struct text subtag;
    bool broken; /* an empty subtag, or one longer than 8, or other than letters and digits */
};

static void tag_next(struct tag *tag)
{
    tag->subtag = (struct text){NULL, 0};
    if (!part_next(&tag->rest, '-', &tag->subtag))
        return;
    if (tag->subtag.length == 0 || tag->subtag.length > 8 || !all(tag->subtag, is_alnum))
        tag->broken = true;
}

static bool is_variant(struct text subtag)
{
    return subtag.length >= 5 || (subtag.length == 4 && is_digit(subtag.at[0]));
}

static bool is_singleton(struct text subtag)
{
    return subtag.length == 1 && subtag.at[0] != 'x' && subtag.at[0] != 'X';
}

/* x- and then anything of 1 to 8. */
static bool private_use_valid(struct tag *tag)
{
    tag_next(tag);
    if (!tag->subtag.length)
        return false;
    while (tag->subtag.length && !tag->broken)
        tag_next(tag);
    return !tag->broken;
}

static bool locale_valid(struct text locale)
{
    if (locale.length == 0 || locale.length > LOCALE_BYTES_MAX)
        return false;
    for (size_t i = 0; i < sizeof(grandfathered) / sizeof(grandfathered[0]); i++)
        if (text_equal_nocase(locale, text_of(grandfathered[i])))
            return true;
    struct tag tag = {.rest = locale};
    tag_next(&tag);
    if (tag.subtag.length == 1)
        return !is_singleton(tag.subtag) && is_alpha(tag.subtag.at[0]) && private_use_valid(&tag);
    if (tag.subtag.length < 2 || !all(tag.subtag, is_alpha))
        return false;
    bool extended = tag.subtag.length <= 3;
    tag_next(&tag);
    for (int i = 0; extended && i < 3 && tag.subtag.length == 3 && all(tag.subtag, is_alpha); i++)
        tag_next(&tag);
    if (tag.subtag.length == 4 && all(tag.subtag, is_alpha))
        tag_next(&tag);
    if ((tag.subtag.length == 2 && all(tag.subtag, is_alpha)) ||
        (tag.subtag.length == 3 && all(tag.subtag, is_digit)))
        tag_next(&tag);
    while (is_variant(tag.subtag))
        tag_next(&tag);
    while (is_singleton(tag.subtag)) {
        tag_next(&tag);
        if (tag.subtag.length < 2)
            return false;
        while (tag.subtag.length >= 2)
            tag_next(&tag);
    }
    if (tag.broken)
        return false;
    return tag.subtag.length == 0 || (tag.subtag.length == 1 && private_use_valid(&tag));
}

/* ---- */

/* The sum of the items' prices; false where it does not fit. */
static bool total(const struct order_placed *order, int64_t *ret)
{
    *ret = 0;
    for (size_t i = 0; i < order->items_count; i++) {
        int64_t price;
        if (__builtin_mul_overflow(order->items[i].unit_price_minor, (int64_t)order->items[i].quantity,
                                   &price) ||
            __builtin_add_overflow(*ret, price, ret))
            return false;
    }
    return true;
}

static void check_items(const struct order_placed *order, struct codec_faults *faults)
{
    if (order->items_count < 1 || order->items_count > ITEMS_MAX)
        codec_fault_add(faults, "must be 1 to 100 items", "items");
    /* Past the bound nothing more is said, so that a long list costs no more than a full one. */
    for (size_t i = 0; i < order->items_count && i < ITEMS_MAX; i++) {
        const struct order_item *item = &order->items[i];
        bool again = false;
        for (size_t k = 0; k < i && !again; k++)
            again = text_equal(order->items[k].sku, item->sku);
        if (!text_is_printable(item->sku, ID_BYTES_MAX))
            codec_fault_add(faults, "must be 1 to 64 printable ASCII characters", "items[%zu].sku", i);
        else if (again)
            codec_fault_add(faults, "must be another than those before it", "items[%zu].sku", i);
        if (item->quantity < 1 || item->quantity > QUANTITY_MAX)
            codec_fault_add(faults, "must be 1 to 10000", "items[%zu].quantity", i);
        if (item->unit_price_minor < 0 || item->unit_price_minor > price_minor_max)
            codec_fault_add(faults, "must be 0 to 1000000000000", "items[%zu].unit_price_minor", i);
    }
}

bool order_placed_valid(const struct order_placed *order, struct codec_faults *faults)
{
    struct codec_faults found; /* large, and nearly always empty: not cleared */
    found.count = 0;
    struct id id;
    int64_t sum;
    if (!id_parse(order->order_id, &id))
        codec_fault_add(&found, "must be a UUID", "order_id");
    if (!text_is_printable(order->customer_id, ID_BYTES_MAX))
        codec_fault_add(&found, "must be 1 to 64 printable ASCII characters", "customer_id");
    if (!email_valid(order->email))
        codec_fault_add(&found, "must be an e-mail address of at most 254 characters", "email");
    if (!locale_valid(order->locale))
        codec_fault_add(&found, "must be a BCP 47 language tag", "locale");
    if (!event_currency_valid(order->currency))
        codec_fault_add(&found, "must be an ISO 4217 code of three letters", "currency");
    size_t before = found.count;
    check_items(order, &found);
    /* The sum of items that are wrong themselves says nothing. */
    if (found.count == before && (!total(order, &sum) || sum != order->total_minor))
        codec_fault_add(&found, "must be the sum of quantity times unit_price_minor", "total_minor");
    for (size_t i = 0; i < found.count; i++)
        codec_fault_add(faults, found.fault[i].reason, "%s", found.fault[i].path);
    return found.count == 0;
}

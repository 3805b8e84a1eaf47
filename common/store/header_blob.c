#include "store/header_blob.h"

/* Never the beginning of the form before: a length of 0 in more bytes than it needs. */
static const char MARK[2] = {(char)0x80, 0};

enum { KNOWN_VALUES_MAX = 24, HEX_BYTES_MAX = 26, NO_FORM = -1 };

/* Names in the order in which events have them, so that each is found where it is looked for first. */
static const struct known {
    struct text name;
    struct text values[KNOWN_VALUES_MAX]; /* up to the first without a name */
} KNOWN[] = {
    {TEXT_INIT(HEADER_SPECVERSION), {TEXT_INIT("1.0")}},
    {TEXT_INIT(HEADER_ID), {{NULL, 0}}},
    {TEXT_INIT(HEADER_SOURCE),
     {TEXT_INIT("/weir/order"), TEXT_INIT("/weir/inventory"), TEXT_INIT("/weir/payment"),
      TEXT_INIT("/weir/email"), TEXT_INIT("/weir/analytics")}},
    {TEXT_INIT(HEADER_TYPE),
     {TEXT_INIT("weir.OrderPlaced"), TEXT_INIT("weir.OrderConfirmed"), TEXT_INIT("weir.OrderRejected"),
      TEXT_INIT("weir.OrderCancelled"), TEXT_INIT("weir.StockReserved"), TEXT_INIT("weir.StockRejected"),
      TEXT_INIT("weir.StockReleased"), TEXT_INIT("weir.StockLevel"), TEXT_INIT("weir.PaymentCaptured"),
      TEXT_INIT("weir.PaymentFailed"), TEXT_INIT("weir.PaymentRefunded"), TEXT_INIT("weir.EmailSent"),
      TEXT_INIT("weir.EmailFailed")}},
    {TEXT_INIT(HEADER_TIME), {{NULL, 0}}},
    {TEXT_INIT(HEADER_SUBJECT), {{NULL, 0}}},
    {TEXT_INIT(HEADER_CONTENT_TYPE), {TEXT_INIT("application/avro")}},
    {TEXT_INIT(HEADER_TRACEPARENT), {{NULL, 0}}},
};
enum { KNOWN_COUNT = sizeof(KNOWN) / sizeof(*KNOWN) };

/* x stands for a hexadecimal digit in lower case, two for a byte. */
static const struct text FORMS[] = {
    TEXT_INIT("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"),
    TEXT_INIT("xx-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx"),
};
static const size_t FORM_BYTES[] = {16, HEX_BYTES_MAX};
enum { FORM_COUNT = sizeof(FORMS) / sizeof(*FORMS), VALUE_BYTES = 0, VALUE_KNOWN, VALUE_FORM };

/* ---- to bytes */

static char *number_put(char *at, size_t number)
{
    for (; number >= 0x80; number >>= 7)
        *at++ = (char)(number | 0x80);
    *at++ = (char)number;
    return at;
}

static char *bytes_put(char *at, struct text text)
{
    if (text.length)
        memcpy(at, text.at, text.length);
    return at + text.length;
}

static const struct known *known_find(struct text name, size_t place)
{
    if (place < KNOWN_COUNT && text_equal(KNOWN[place].name, name))
        return &KNOWN[place];
    for (size_t i = 0; i < KNOWN_COUNT; i++)
        if (text_equal(KNOWN[i].name, name))
            return &KNOWN[i];
    return NULL;
}

static int digit_of(char character)
{
    return character >= '0' && character <= '9'   ? character - '0'
           : character >= 'a' && character <= 'f' ? character - 'a' + 10
                                                  : -1;
}

/* False where the text is not of the form; what was written is then nothing. */
static bool form_pack(struct text form, struct text text, char *into)
{
    if (text.length != form.length)
        return false;
    for (size_t i = 0; i < form.length; i++) {
        if (form.at[i] != 'x') {
            if (text.at[i] != form.at[i])
                return false;
            continue;
        }
        int high = digit_of(text.at[i]), low = digit_of(text.at[i + 1]);
        if (high < 0 || low < 0)
            return false;
        *into++ = (char)(high << 4 | low);
        i++;
    }
    return true;
}

static char *value_put(char *at, const struct known *known, struct text value)
{
    if (!value.at && !value.length)
        return number_put(at, 0);
    for (size_t i = 0; known && i < KNOWN_VALUES_MAX && known->values[i].at; i++)
        if (text_equal(known->values[i], value))
            return number_put(at, 1 + (i << 2 | VALUE_KNOWN));
    for (size_t i = 0; i < FORM_COUNT; i++) {
        char packed[HEX_BYTES_MAX];
        if (!form_pack(FORMS[i], value, packed))
            continue;
        at = number_put(at, 1 + (i << 2 | VALUE_FORM));
        return bytes_put(at, (struct text){packed, FORM_BYTES[i]});
    }
    at = number_put(at, 1 + (value.length << 2 | VALUE_BYTES));
    return bytes_put(at, value);
}

bool header_blob_encode(struct arena *arena, const struct header *headers, size_t count, struct text *ret)
{
    enum { NUMBER_BYTES_MAX = 5 };
    size_t bytes = sizeof(MARK);
    for (size_t i = 0; i < count; i++)
        bytes += 2 * NUMBER_BYTES_MAX + headers[i].name.length + headers[i].value.length;
    char *first = arena_take(arena, bytes);
    if (!first)
        return false;
    char *at = count ? bytes_put(first, (struct text){MARK, sizeof(MARK)}) : first;
    for (size_t i = 0; i < count; i++) {
        const struct known *known = known_find(headers[i].name, i);
        if (known) {
            at = number_put(at, (size_t)(known - KNOWN) << 1 | 1);
        } else {
            at = number_put(at, headers[i].name.length << 1);
            at = bytes_put(at, headers[i].name);
        }
        at = value_put(at, known, headers[i].value);
    }
    *ret = (struct text){first, (size_t)(at - first)};
    return true;
}

/* ---- and back */

static bool number_take(struct text *from, size_t *ret)
{
    size_t number = 0;
    for (unsigned shift = 0; from->length && shift < 35; shift += 7) {
        unsigned char byte = (unsigned char)*from->at;
        from->at++;
        from->length--;
        number |= (size_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret = number;
            return true;
        }
    }
    return false;
}

static bool bytes_take(struct text *from, size_t length, struct text *ret)
{
    if (length > from->length)
        return false;
    *ret = (struct text){from->at, length};
    from->at += length;
    from->length -= length;
    return true;
}

/* The value as it stands there; *ret_form where it is packed. */
static bool header_take(struct text *from, bool marked, struct header *ret, int *ret_form)
{
    size_t number;
    const struct known *known = NULL;
    *ret_form = NO_FORM;
    if (!number_take(from, &number))
        return false;
    if (marked && (number & 1)) {
        if (number >> 1 >= KNOWN_COUNT)
            return false;
        known = &KNOWN[number >> 1];
        ret->name = known->name;
    } else if (!bytes_take(from, marked ? number >> 1 : number, &ret->name)) {
        return false;
    }
    ret->value = (struct text){NULL, 0};
    if (!number_take(from, &number))
        return false;
    if (number == 0)
        return true;
    number--;
    if (!marked)
        return bytes_take(from, number, &ret->value);
    size_t which = number >> 2;
    switch (number & 3) {
    case VALUE_BYTES:
        return bytes_take(from, which, &ret->value);
    case VALUE_KNOWN:
        if (!known || which >= KNOWN_VALUES_MAX || !known->values[which].at)
            return false;
        ret->value = known->values[which];
        return true;
    case VALUE_FORM:
        if (which >= FORM_COUNT)
            return false;
        *ret_form = (int)which;
        return bytes_take(from, FORM_BYTES[which], &ret->value);
    default:
        return false;
    }
}

static bool form_unpack(struct arena *arena, struct text form, struct text *value)
{
    char *into = arena_take(arena, form.length);
    const char *packed = value->at;
    if (!into)
        return false;
    for (size_t i = 0; i < form.length; i++) {
        if (form.at[i] != 'x') {
            into[i] = form.at[i];
            continue;
        }
        unsigned char byte = (unsigned char)*packed++;
        into[i] = "0123456789abcdef"[byte >> 4];
        into[++i] = "0123456789abcdef"[byte & 15];
    }
    *value = (struct text){into, form.length};
    return true;
}

bool header_blob_decode(struct arena *arena, struct text blob, const struct header **ret, size_t *ret_count,
                        bool *ret_damaged)
{
    size_t count = 0;
    struct header header;
    int form;
    bool marked = blob.length >= sizeof(MARK) && memcmp(blob.at, MARK, sizeof(MARK)) == 0;
    if (marked) {
        blob.at += sizeof(MARK);
        blob.length -= sizeof(MARK);
    }
    *ret_damaged = true;
    for (struct text left = blob; left.length; count++)
        if (!header_take(&left, marked, &header, &form))
            return false;
    *ret_damaged = false;
    struct header *list = arena_take(arena, count * sizeof(*list));
    if (!list)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (!header_take(&blob, marked, &list[i], &form))
            return false; /* cannot be: they were counted */
        if (form != NO_FORM && !form_unpack(arena, FORMS[form], &list[i].value))
            return false;
    }
    *ret = list;
    *ret_count = count;
    return true;
}

#include "store/header_blob.h"

static size_t number_bytes(size_t number)
{
    size_t bytes = 1;
    for (; number >= 0x80; number >>= 7)
        bytes++;
    return bytes;
}

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

static size_t value_number(struct text value)
{
    return value.at || value.length ? value.length + 1 : 0;
}

bool header_blob_encode(struct arena *arena, const struct header *headers, size_t count, struct text *ret)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += number_bytes(headers[i].name.length) + headers[i].name.length +
                 number_bytes(value_number(headers[i].value)) + headers[i].value.length;
    char *first = arena_take(arena, bytes);
    if (!first)
        return false;
    char *at = first;
    for (size_t i = 0; i < count; i++) {
        at = number_put(at, headers[i].name.length);
        at = bytes_put(at, headers[i].name);
        at = number_put(at, value_number(headers[i].value));
        at = bytes_put(at, headers[i].value);
    }
    *ret = (struct text){first, bytes};
    return true;
}

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

static bool header_take(struct text *from, struct header *ret)
{
    size_t name_length, value;
    if (!number_take(from, &name_length) || !bytes_take(from, name_length, &ret->name) ||
        !number_take(from, &value))
        return false;
    ret->value = (struct text){NULL, 0};
    return value == 0 || bytes_take(from, value - 1, &ret->value);
}

bool header_blob_decode(struct arena *arena, struct text blob, const struct header **ret, size_t *ret_count,
                        bool *ret_damaged)
{
    size_t count = 0;
    struct header header;
    *ret_damaged = true;
    for (struct text left = blob; left.length; count++)
        if (!header_take(&left, &header))
            return false;
    *ret_damaged = false;
    struct header *list = arena_take(arena, count * sizeof(*list));
    if (!list)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!header_take(&blob, &list[i]))
            return false; /* cannot be: they were counted */
    *ret = list;
    *ret_count = count;
    return true;
}

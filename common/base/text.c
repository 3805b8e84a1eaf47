#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int text_compare(struct text a, struct text b)
{
    size_t shorter = a.length < b.length ? a.length : b.length;
    int order = shorter ? memcmp(a.at, b.at, shorter) : 0;
    if (order)
        return order;
    return a.length < b.length ? -1 : a.length > b.length;
}

struct text text_copy(struct arena *arena, struct text text)
{
    char *at = arena_take(arena, text.length + 1);
    if (!at)
        return (struct text){NULL, 0};
    if (text.length)
        memcpy(at, text.at, text.length);
    at[text.length] = '\0';
    return (struct text){at, text.length};
}

struct text text_trim(struct text text)
{
    while (text.length && (text.at[0] == ' ' || text.at[0] == '\t'))
        text.at++, text.length--;
    while (text.length && (text.at[text.length - 1] == ' ' || text.at[text.length - 1] == '\t'))
        text.length--;
    return text;
}

uint64_t text_hash(struct text text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < text.length; i++)
        hash = (hash ^ (unsigned char)text.at[i]) * 0x100000001b3u;
    return hash ^ (hash >> 32);
}

bool text_to_int64(struct text text, int64_t *ret)
{
    size_t i = 0;
    bool negative = text.length && text.at[0] == '-';
    if (negative)
        i = 1;
    if (i == text.length)
        return false;
    int64_t value = 0;
    for (; i < text.length; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
        int digit = text.at[i] - '0';
        /* built downwards, so that INT64_MIN fits */
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_sub_overflow(value, digit, &value))
            return false;
    }
    if (!negative && __builtin_sub_overflow((int64_t)0, value, &value))
        return false;
    *ret = value;
    return true;
}

bool text_is_printable(struct text text, size_t length_max)
{
    if (text.length == 0 || text.length > length_max)
        return false;
    for (size_t i = 0; i < text.length; i++)
        if (text.at[i] < 0x20 || text.at[i] > 0x7e)
            return false;
    return true;
}

bool text_is_utf8(struct text text)
{
    const unsigned char *at = (const unsigned char *)text.at;
    for (size_t i = 0; i < text.length;) {
        unsigned char lead = at[i++];
        if (lead < 0x80)
            continue;
        size_t follow = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
        if (lead < 0xc2 || lead > 0xf4 || text.length - i < follow)
            return false;
        unsigned char low = 0x80, high = 0xbf;
        if (lead == 0xe0)
            low = 0xa0;
        else if (lead == 0xed)
            high = 0x9f;
        else if (lead == 0xf0)
            low = 0x90;
        else if (lead == 0xf4)
            high = 0x8f;
        if (at[i] < low || at[i] > high)
            return false;
        for (size_t end = i++ + follow; i < end; i++)
            if (at[i] < 0x80 || at[i] > 0xbf)
                return false;
    }
    return true;
}

struct text text_cut(struct text text, size_t bytes_max)
{
    enum { FOLLOWING_MAX = 3 }; /* bytes of a character behind its first; what has more is no UTF-8 */
    if (text.length <= bytes_max)
        return text;
    text.length = bytes_max;
    for (int i = 0; i < FOLLOWING_MAX && text.length; i++, text.length--)
        if (((unsigned char)text.at[text.length] & 0xc0) != 0x80)
            break;
    return text;
}

size_t text_characters(struct text text)
{
    size_t count = 0;
    for (size_t i = 0; i < text.length; i++)
        count += ((unsigned char)text.at[i] & 0xc0) != 0x80;
    return count;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

bool text_equal_nocase(struct text a, struct text b)
{
    if (a.length != b.length)
        return false;
    for (size_t i = 0; i < a.length; i++)
        if (lower(a.at[i]) != lower(b.at[i]))
            return false;
    return true;
}

size_t text_distance(struct text a, struct text b)
{
    size_t row[TEXT_DISTANCE_BYTES_MAX + 1];
    if (a.length > TEXT_DISTANCE_BYTES_MAX || b.length > TEXT_DISTANCE_BYTES_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= b.length; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.length; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.length; j++) {
            size_t best = diagonal + (a.at[i - 1] != b.at[j - 1]);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[b.length];
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->at);
    *buffer = buffer_of(buffer->bytes_max);
}

void buffer_clear(struct buffer *buffer)
{
    buffer->length = 0;
    buffer->failed = false;
}

char *buffer_room(struct buffer *buffer, size_t bytes)
{
    if (buffer->failed)
        return NULL;
    if (buffer->capacity - buffer->length >= bytes)
        return buffer->at + buffer->length;
    if (bytes > buffer->bytes_max || buffer->length > buffer->bytes_max - bytes) {
        buffer->failed = true;
        return NULL;
    }
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    while (capacity < buffer->length + bytes)
        capacity *= 2;
    if (capacity > buffer->bytes_max)
        capacity = buffer->bytes_max;
    char *at = realloc(buffer->at, capacity);
    if (!at) {
        buffer->failed = true;
        return NULL;
    }
    buffer->at = at;
    buffer->capacity = capacity;
    return at + buffer->length;
}

void buffer_add(struct buffer *buffer, const void *bytes, size_t count)
{
    if (count == 0)
        return;
    char *at = buffer_room(buffer, count);
    if (!at)
        return;
    memcpy(at, bytes, count);
    buffer->length += count;
}

void buffer_add_text(struct buffer *buffer, struct text text)
{
    buffer_add(buffer, text.at, text.length);
}

void buffer_add_string(struct buffer *buffer, const char *string)
{
    buffer_add(buffer, string, strlen(string));
}

void buffer_add_char(struct buffer *buffer, char c)
{
    buffer_add(buffer, &c, 1);
}

void buffer_print(struct buffer *buffer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) {
        buffer->failed = true;
        return;
    }
    char *at = buffer_room(buffer, (size_t)length + 1);
    if (!at)
        return;
    va_start(arguments, format);
    vsnprintf(at, (size_t)length + 1, format, arguments);
    va_end(arguments);
    buffer->length += (size_t)length;
}

void buffer_add_plain(struct buffer *buffer, struct text text)
{
    bool utf8 = text_is_utf8(text);
    for (size_t i = 0; i < text.length; i++) {
        unsigned char c = (unsigned char)text.at[i];
        bool control = c < 0x20 || c == 0x7f;
        bool c1 = c == 0xc2 && i + 1 < text.length && (unsigned char)text.at[i + 1] < 0xa0;
        if (control || (c >= 0x80 && !utf8))
            buffer_print(buffer, "\\x%02x", c);
        else if (c1)
            buffer_print(buffer, "\\x%02x", (unsigned char)text.at[++i]);
        else
            buffer_add_char(buffer, text.at[i]);
    }
}

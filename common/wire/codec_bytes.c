#include "wire/codec_bytes.h"

#include <assert.h>

const unsigned char *codec_get_varint(const unsigned char *at, const unsigned char *end, uint64_t *ret)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && at < end; shift += 7) {
        uint64_t byte = *at++;
        /* The tenth byte has room for the 64th bit alone. */
        if (shift == 63 && byte > 1)
            return NULL;
        value |= (byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret = value;
            return at;
        }
    }
    return NULL;
}

bool codec_is_utf8_slow(struct text text)
{
    return text_is_utf8(text);
}

void codec_add_long(struct buffer *into, int64_t value)
{
    unsigned char bytes[CODEC_LONG_BYTES_MAX];
    buffer_add(into, bytes, (size_t)(codec_put_long(bytes, value) - bytes));
}

bool codec_list_grow(struct arena *arena, void **items, size_t count, size_t *capacity, size_t more,
                     size_t item_bytes)
{
    if (*items && more <= *capacity - count)
        return true;
    size_t room = count + more;
    if (room < *capacity * 2)
        room = *capacity * 2;
    size_t bytes;
    if (__builtin_mul_overflow(room, item_bytes, &bytes))
        return false;
    void *at = arena_take(arena, bytes);
    if (!at)
        return false;
    if (count)
        memcpy(at, *items, count * item_bytes);
    *items = at;
    *capacity = room;
    return true;
}

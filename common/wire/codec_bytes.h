/*
 * codec_bytes: Avro binary, value by value, for the codec and the code that eventgen writes.
 *
 * codec_get_x(at, end, …) reads one value and returns where the next begins, or NULL where the bytes
 * are not one; nothing at or past end is ever read. codec_put_x(at, …) writes one and returns where the
 * next goes; the caller has made room: CODEC_LONG_BYTES_MAX for an int, a long or a length, plus the text
 * itself. NULL where the value cannot be written.
 */
#ifndef WIRE_CODEC_BYTES_H
#define WIRE_CODEC_BYTES_H

#include "base/text.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Avro's float and double are copied as they are");

enum { CODEC_LONG_BYTES_MAX = 10 };

/* For those past the first byte. An encoding longer than it need be is read, as by every Avro library;
 * one that does not fit 64 bits is not. */
const unsigned char *codec_get_varint(const unsigned char *at, const unsigned char *end, uint64_t *ret);
bool codec_is_utf8_slow(struct text text);
void codec_add_long(struct buffer *into, int64_t value);

static inline const unsigned char *codec_get_long(const unsigned char *at, const unsigned char *end,
                                                  int64_t *ret)
{
    uint64_t raw;
    if (__builtin_expect(at < end && *at < 0x80, 1)) {
        raw = *at++;
    } else {
        at = codec_get_varint(at, end, &raw);
        if (!at)
            return NULL;
    }
    *ret = (int64_t)((raw >> 1) ^ (0 - (raw & 1)));
    return at;
}

static inline const unsigned char *codec_get_int(const unsigned char *at, const unsigned char *end,
                                                 int32_t *ret)
{
    int64_t value;
    at = codec_get_long(at, end, &value);
    if (!at || value < INT32_MIN || value > INT32_MAX)
        return NULL;
    *ret = (int32_t)value;
    return at;
}

/* The index of a symbol or a branch. */
static inline const unsigned char *codec_get_index(const unsigned char *at, const unsigned char *end,
                                                   int32_t count, int32_t *ret)
{
    int64_t value;
    at = codec_get_long(at, end, &value);
    if (!at || value < 0 || value >= count)
        return NULL;
    *ret = (int32_t)value;
    return at;
}

static inline const unsigned char *codec_get_boolean(const unsigned char *at, const unsigned char *end,
                                                     bool *ret)
{
    if (at >= end || *at > 1)
        return NULL;
    *ret = *at == 1;
    return at + 1;
}

static inline const unsigned char *codec_get_float(const unsigned char *at, const unsigned char *end,
                                                   float *ret)
{
    if ((size_t)(end - at) < sizeof(*ret))
        return NULL;
    memcpy(ret, at, sizeof(*ret));
    return at + sizeof(*ret);
}

static inline const unsigned char *codec_get_double(const unsigned char *at, const unsigned char *end,
                                                    double *ret)
{
    if ((size_t)(end - at) < sizeof(*ret))
        return NULL;
    memcpy(ret, at, sizeof(*ret));
    return at + sizeof(*ret);
}

static inline const unsigned char *codec_get_fixed(const unsigned char *at, const unsigned char *end,
                                                   size_t bytes, struct text *ret)
{
    if ((size_t)(end - at) < bytes)
        return NULL;
    *ret = (struct text){(const char *)at, bytes};
    return at + bytes;
}

static inline const unsigned char *codec_get_bytes(const unsigned char *at, const unsigned char *end,
                                                   struct text *ret)
{
    int64_t length;
    at = codec_get_long(at, end, &length);
    if (!at || length < 0 || length > end - at)
        return NULL;
    *ret = (struct text){(const char *)at, (size_t)length};
    return at + length;
}

/* Most text is ASCII and short: eight bytes at a time, the last eight overlapping. */
static inline bool codec_is_utf8(struct text text)
{
    const uint64_t high = 0x8080808080808080u;
    const char *at = text.at;
    size_t left = text.length;
    uint64_t seen = 0, word;
    if (left >= 8) {
        for (; left > 8; at += 8, left -= 8) {
            memcpy(&word, at, 8);
            seen |= word;
        }
        memcpy(&word, at + left - 8, 8);
        seen |= word;
    } else {
        for (size_t i = 0; i < left; i++)
            seen |= (uint64_t)(unsigned char)at[i];
    }
    return __builtin_expect((seen & high) == 0, 1) || codec_is_utf8_slow(text);
}

static inline const unsigned char *codec_get_string(const unsigned char *at, const unsigned char *end,
                                                    struct text *ret)
{
    at = codec_get_bytes(at, end, ret);
    return at && codec_is_utf8(*ret) ? at : NULL;
}

/*
 * The head of an array's or a map's block: *ret_count items follow, 0 at the end. Where the writer gave
 * the block's size in bytes, *ret_block_end is where it must end, else NULL. A count that what is left
 * cannot hold, at item_bytes_min (at least 1) an item, is refused before anything is taken for it.
 */
static inline const unsigned char *codec_get_block(const unsigned char *at, const unsigned char *end,
                                                   size_t item_bytes_min, size_t *ret_count,
                                                   const unsigned char **ret_block_end)
{
    int64_t count, bytes;
    *ret_block_end = NULL;
    at = codec_get_long(at, end, &count);
    if (!at)
        return NULL;
    if (__builtin_expect(count < 0, 0)) {
        at = count == INT64_MIN ? NULL : codec_get_long(at, end, &bytes);
        if (!at || bytes < 0 || bytes > end - at)
            return NULL;
        count = -count;
        *ret_block_end = at + bytes;
    }
    if ((uint64_t)count > (uint64_t)(end - at) / item_bytes_min)
        return NULL;
    *ret_count = (size_t)count;
    return at;
}

/* Room for more items behind those that are there; grows by doubling, as blocks may come one by one.
 * False past the arena's bound. */
bool codec_list_grow(struct arena *arena, void **items, size_t count, size_t *capacity, size_t more,
                     size_t item_bytes);

static inline unsigned char *codec_put_long(unsigned char *at, int64_t value)
{
    uint64_t raw = ((uint64_t)value << 1) ^ (0 - ((uint64_t)value >> 63));
    while (raw >= 0x80) {
        *at++ = (unsigned char)(raw | 0x80);
        raw >>= 7;
    }
    *at++ = (unsigned char)raw;
    return at;
}

static inline unsigned char *codec_put_boolean(unsigned char *at, bool value)
{
    *at = value;
    return at + 1;
}

static inline unsigned char *codec_put_float(unsigned char *at, float value)
{
    memcpy(at, &value, sizeof(value));
    return at + sizeof(value);
}

static inline unsigned char *codec_put_double(unsigned char *at, double value)
{
    memcpy(at, &value, sizeof(value));
    return at + sizeof(value);
}

static inline unsigned char *codec_put_fixed(unsigned char *at, size_t bytes, struct text value)
{
    if (value.length != bytes)
        return NULL;
    if (bytes)
        memcpy(at, value.at, bytes);
    return at + bytes;
}

static inline unsigned char *codec_put_bytes(unsigned char *at, struct text value)
{
    at = codec_put_long(at, (int64_t)value.length);
    if (value.length)
        memcpy(at, value.at, value.length);
    return at + value.length;
}

static inline unsigned char *codec_put_string(unsigned char *at, struct text value)
{
    return codec_is_utf8(value) ? codec_put_bytes(at, value) : NULL;
}

static inline unsigned char *codec_put_index(unsigned char *at, int32_t count, int32_t value)
{
    return value >= 0 && value < count ? codec_put_long(at, value) : NULL;
}

#endif

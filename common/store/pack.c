#include "store/pack.h"

#include "store/header_blob.h"

enum { VERSION = 1, NUMBER_BYTES_MAX = 10 };

enum {
    FLAG_SAME_TOPIC = 1, /* as the event before */
    FLAG_BY_KEY = 2,     /* partition -1 */
    FLAG_SAME_TIME = 4,  /* as the event before */
    FLAG_KEY_NULL = 8,
    FLAG_VALUE_NULL = 16,
    FLAGS_KNOWN = 31,
};

/* ---- to bytes */

static size_t event_bytes_max(const struct outbox_row *row, struct text headers)
{
    return 1 + 6 * NUMBER_BYTES_MAX + row->topic.length + row->key.length + row->value.length +
           headers.length;
}

size_t pack_count(const struct outbox_row *rows, const struct text *headers, size_t count, size_t bytes_max)
{
    size_t bytes = 1 + event_bytes_max(&rows[0], headers[0]), taken = 1;
    for (; taken < count && taken < PACK_EVENTS_MAX && rows[taken].part == rows[0].part; taken++) {
        /* Its numbers take few bytes, and its topic most often none. */
        bytes += rows[taken].key.length + rows[taken].value.length + headers[taken].length + 8;
        if (!text_equal(rows[taken].topic, rows[taken - 1].topic))
            bytes += rows[taken].topic.length;
        if (bytes > bytes_max)
            break;
    }
    return taken;
}

static char *number_put(char *at, uint64_t number)
{
    for (; number >= 0x80; number >>= 7)
        *at++ = (char)(number | 0x80);
    *at++ = (char)number;
    return at;
}

static char *signed_put(char *at, int64_t number)
{
    return number_put(at, (uint64_t)number << 1 ^ (number < 0 ? UINT64_MAX : 0));
}

static char *text_put(char *at, struct text text)
{
    at = number_put(at, text.length);
    if (text.length)
        memcpy(at, text.at, text.length);
    return at + text.length;
}

static char *event_put(char *at, const struct outbox_row *row, const struct outbox_row *before,
                       struct text headers)
{
    int64_t since_us = (int64_t)((uint64_t)row->created_us - (before ? (uint64_t)before->created_us : 0));
    bool same_topic = before && text_equal(row->topic, before->topic);
    *at++ = (char)((same_topic ? FLAG_SAME_TOPIC : 0) | (row->partition == -1 ? FLAG_BY_KEY : 0) |
                   (since_us == 0 ? FLAG_SAME_TIME : 0) | (row->key_null ? FLAG_KEY_NULL : 0) |
                   (row->value_null ? FLAG_VALUE_NULL : 0));
    if (!same_topic)
        at = text_put(at, row->topic);
    if (row->partition != -1)
        at = signed_put(at, row->partition);
    if (since_us != 0)
        at = signed_put(at, since_us);
    if (!row->key_null)
        at = text_put(at, row->key);
    if (!row->value_null)
        at = text_put(at, row->value);
    return text_put(at, headers);
}

bool pack_encode(struct arena *arena, const struct outbox_row *rows, const struct text *headers, size_t count,
                 struct text *ret)
{
    size_t bytes = 1;
    for (size_t i = 0; i < count; i++)
        bytes += event_bytes_max(&rows[i], headers[i]);
    char *first = arena_take(arena, bytes), *at = first;
    if (!first)
        return false;
    *at++ = VERSION;
    for (size_t i = 0; i < count; i++)
        at = event_put(at, &rows[i], i ? &rows[i - 1] : NULL, headers[i]);
    *ret = (struct text){first, (size_t)(at - first)};
    return true;
}

/* ---- and back */

static bool byte_take(struct text *from, unsigned *ret)
{
    if (from->length == 0)
        return false;
    *ret = (unsigned char)*from->at++;
    from->length--;
    return true;
}

static bool number_take(struct text *from, uint64_t *ret)
{
    unsigned byte;
    *ret = 0;
    for (unsigned shift = 0; shift < 7 * NUMBER_BYTES_MAX && byte_take(from, &byte); shift += 7) {
        *ret |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool signed_take(struct text *from, int64_t *ret)
{
    uint64_t number;
    if (!number_take(from, &number))
        return false;
    *ret = (int64_t)(number >> 1 ^ (number & 1 ? UINT64_MAX : 0));
    return true;
}

static bool text_take(struct text *from, struct text *ret)
{
    uint64_t length;
    if (!number_take(from, &length) || length > from->length)
        return false;
    *ret = (struct text){from->at, (size_t)length};
    from->at += length;
    from->length -= (size_t)length;
    return true;
}

static bool event_take(struct text *from, const struct outbox_row *before, struct outbox_row *row,
                       struct text *headers)
{
    unsigned flags;
    int64_t partition = -1, since_us = 0;
    *row = (struct outbox_row){.created_us = before ? before->created_us : 0};
    if (!byte_take(from, &flags) || flags > FLAGS_KNOWN)
        return false;
    row->key_null = flags & FLAG_KEY_NULL;
    row->value_null = flags & FLAG_VALUE_NULL;
    if (flags & FLAG_SAME_TOPIC) {
        if (!before)
            return false;
        row->topic = before->topic;
    } else if (!text_take(from, &row->topic)) {
        return false;
    }
    if (!(flags & FLAG_BY_KEY) &&
        (!signed_take(from, &partition) || partition < INT32_MIN || partition > INT32_MAX))
        return false;
    row->partition = (int32_t)partition;
    if (!(flags & FLAG_SAME_TIME) && !signed_take(from, &since_us))
        return false;
    row->created_us = (int64_t)((uint64_t)row->created_us + (uint64_t)since_us);
    return (row->key_null || text_take(from, &row->key)) &&
           (row->value_null || text_take(from, &row->value)) && text_take(from, headers);
}

bool pack_decode(struct arena *arena, struct text body, size_t events, struct outbox_row **ret,
                 bool *ret_damaged)
{
    unsigned version;
    *ret_damaged =
        events < 1 || events > PACK_EVENTS_MAX || !byte_take(&body, &version) || version != VERSION;
    if (*ret_damaged)
        return false;
    struct outbox_row *rows = arena_take(arena, events * sizeof(*rows));
    if (!rows)
        return false;
    for (size_t i = 0; i < events; i++) {
        struct text headers;
        if (!event_take(&body, i ? &rows[i - 1] : NULL, &rows[i], &headers)) {
            *ret_damaged = true;
            return false;
        }
        if (!header_blob_decode(arena, headers, &rows[i].headers, &rows[i].header_count, ret_damaged))
            return false;
    }
    *ret_damaged = body.length != 0;
    *ret = rows;
    return !*ret_damaged;
}

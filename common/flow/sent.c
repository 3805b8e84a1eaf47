#include "flow/sent.h"

void sent_free(struct sent *sent)
{
    int_map_free(&sent->parts);
}

bool sent_add(struct sent *sent, int64_t seq, int32_t part)
{
    if (sent->parts.count >= SENT_ROWS_MAX || !int_map_reserve(&sent->parts, sizeof(part), 1))
        return false;
    *(int32_t *)int_map_put(&sent->parts, seq) = part;
    return true;
}

bool sent_has(const struct sent *sent, int64_t seq)
{
    return int_map_find(&sent->parts, seq);
}

void sent_remove(struct sent *sent, int64_t seq)
{
    int_map_remove(&sent->parts, seq);
}

void sent_clear(struct sent *sent)
{
    int_map_clear(&sent->parts);
}

size_t sent_count(const struct sent *sent)
{
    return sent->parts.count;
}

void sent_parts(const struct sent *sent, bool *parts, int32_t count)
{
    int64_t seq;
    void *value;
    for (size_t at = 0; sent->parts.count && int_map_next(&sent->parts, &at, &seq, &value);) {
        int32_t part = *(const int32_t *)value;
        if (part >= 0 && part < count)
            parts[part] = true;
    }
}

#include "flow/sent.h"

#include <stdlib.h>
#include <string.h>

enum { PLACES_MIN = 1024 };

static size_t place_of(const struct sent *sent, int64_t seq)
{
    return (size_t)((uint64_t)seq * UINT64_C(0x9e3779b97f4a7c15) >> 20) & sent->mask;
}

/* Its place, or the empty one where it would be. */
static size_t find(const struct sent *sent, int64_t seq)
{
    size_t at = place_of(sent, seq);
    while (sent->rows[at].seq && sent->rows[at].seq != seq)
        at = (at + 1) & sent->mask;
    return at;
}

static bool grow(struct sent *sent)
{
    size_t places = sent->rows ? (sent->mask + 1) * 2 : PLACES_MIN;
    struct sent_row *rows = calloc(places, sizeof(*rows));
    if (!rows)
        return false;
    struct sent grown = {.rows = rows, .count = sent->count, .mask = places - 1};
    for (size_t i = 0; sent->rows && i <= sent->mask; i++)
        if (sent->rows[i].seq)
            grown.rows[find(&grown, sent->rows[i].seq)] = sent->rows[i];
    free(sent->rows);
    *sent = grown;
    return true;
}

void sent_free(struct sent *sent)
{
    free(sent->rows);
    *sent = (struct sent){NULL, 0, 0};
}

bool sent_add(struct sent *sent, int64_t seq, int32_t part)
{
    if (sent->count >= SENT_ROWS_MAX || ((!sent->rows || sent->count * 2 > sent->mask) && !grow(sent)))
        return false;
    size_t at = find(sent, seq);
    sent->count += !sent->rows[at].seq;
    sent->rows[at] = (struct sent_row){seq, part};
    return true;
}

bool sent_has(const struct sent *sent, int64_t seq)
{
    return sent->count && sent->rows[find(sent, seq)].seq;
}

void sent_remove(struct sent *sent, int64_t seq)
{
    size_t at = sent->count ? find(sent, seq) : 0;
    if (!sent->count || !sent->rows[at].seq)
        return;
    sent->count--;
    /* Who stands behind moves up where the gap would hide it. */
    for (size_t next = (at + 1) & sent->mask; sent->rows[next].seq; next = (next + 1) & sent->mask) {
        size_t home = place_of(sent, sent->rows[next].seq);
        if (((next - home) & sent->mask) < ((next - at) & sent->mask))
            continue;
        sent->rows[at] = sent->rows[next];
        at = next;
    }
    sent->rows[at].seq = 0;
}

void sent_clear(struct sent *sent)
{
    if (sent->rows)
        memset(sent->rows, 0, (sent->mask + 1) * sizeof(*sent->rows));
    sent->count = 0;
}

void sent_parts(const struct sent *sent, bool *parts, int32_t count)
{
    for (size_t i = 0; sent->count && i <= sent->mask; i++)
        if (sent->rows[i].seq && sent->rows[i].part >= 0 && sent->rows[i].part < count)
            parts[sent->rows[i].part] = true;
}

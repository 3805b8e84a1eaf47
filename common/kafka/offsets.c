#include "kafka/offsets.h"

#include <assert.h>
#include <stdlib.h>

enum { OFFSETS_FIRST_CAPACITY = 256 };

/*
 * A ring of the offsets that are taken and not below the watermark, ascending. What is done is kept as
 * its complement (negative), so that an entry is 8 bytes and looking for the watermark reads nothing else.
 */
struct offsets {
    int64_t *ring;
    size_t capacity; /* a power of two */
    size_t first, count;
    int64_t watermark;
};

struct offsets *offsets_new(void)
{
    struct offsets *offsets = calloc(1, sizeof(*offsets));
    if (!offsets)
        return NULL;
    offsets->capacity = OFFSETS_FIRST_CAPACITY;
    offsets->ring = malloc(offsets->capacity * sizeof(*offsets->ring));
    offsets->watermark = -1;
    if (!offsets->ring) {
        free(offsets);
        return NULL;
    }
    return offsets;
}

void offsets_destroy(struct offsets *offsets)
{
    if (!offsets)
        return;
    free(offsets->ring);
    free(offsets);
}

static int64_t *entry(const struct offsets *offsets, size_t index)
{
    return &offsets->ring[(offsets->first + index) & (offsets->capacity - 1)];
}

static int64_t value_of(int64_t entry)
{
    return entry < 0 ? ~entry : entry;
}

static bool grow(struct offsets *offsets)
{
    if (offsets->capacity >= OFFSETS_OPEN_MAX)
        return false;
    int64_t *ring = malloc(offsets->capacity * 2 * sizeof(*ring));
    if (!ring)
        return false;
    for (size_t i = 0; i < offsets->count; i++)
        ring[i] = *entry(offsets, i);
    free(offsets->ring);
    offsets->ring = ring;
    offsets->capacity *= 2;
    offsets->first = 0;
    return true;
}

bool offsets_take(struct offsets *offsets, int64_t offset)
{
    assert(offset >= 0 && offset >= offsets->watermark);
    assert(offsets->count == 0 || offset > value_of(*entry(offsets, offsets->count - 1)));
    if (offsets->count == offsets->capacity && !grow(offsets))
        return false;
    offsets->count++;
    *entry(offsets, offsets->count - 1) = offset;
    return true;
}

/* Index of the first entry that is not below offset. */
static size_t search(const struct offsets *offsets, int64_t offset)
{
    if (offsets->count == 0)
        return 0;
    int64_t head = value_of(*entry(offsets, 0));
    if (offset <= head)
        return 0;
    /* Where offsets are dense, as they mostly are, it is where it must be; gaps put it further down, never
     * up. */
    uint64_t ahead = (uint64_t)(offset - head);
    size_t high = ahead < offsets->count ? (size_t)ahead : offsets->count;
    if (high < offsets->count && value_of(*entry(offsets, high)) == offset)
        return high;
    size_t low = 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (value_of(*entry(offsets, middle)) < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void offsets_done(struct offsets *offsets, int64_t offset)
{
    size_t index = search(offsets, offset);
    if (index >= offsets->count || *entry(offsets, index) != offset)
        return;
    *entry(offsets, index) = ~offset;
    while (offsets->count && *entry(offsets, 0) < 0) {
        offsets->watermark = ~*entry(offsets, 0) + 1;
        offsets->first = (offsets->first + 1) & (offsets->capacity - 1);
        offsets->count--;
    }
}

int64_t offsets_watermark(const struct offsets *offsets)
{
    return offsets->watermark;
}

size_t offsets_open(const struct offsets *offsets)
{
    return offsets->count;
}

int64_t offsets_lowest(const struct offsets *offsets)
{
    return offsets->count ? *entry(offsets, 0)
                          : -1; /* the first is never done: it would be below the watermark */
}

void offsets_forget_from(struct offsets *offsets, int64_t offset)
{
    offsets->count = search(offsets, offset);
}

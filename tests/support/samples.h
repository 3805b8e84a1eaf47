/*
 * samples: random schemas and values of them, the same for the same seed; and whether two values are alike.
 */
#ifndef SUPPORT_SAMPLES_H
#define SUPPORT_SAMPLES_H

#include "wire/codec_type.h"

struct samples {
    uint64_t state;
    int names; /* given out so far, so that each is another */
};

static inline struct samples samples_of(uint64_t seed)
{
    return (struct samples){.state = seed * 0x9e3779b97f4a7c15u + 1};
}
uint64_t samples_next(struct samples *samples);
size_t samples_below(struct samples *samples, size_t count);

/* The JSON of a record, nested to at most depth. Some are refused by schema_parse(): arrays of nothing. */
void samples_schema(struct samples *samples, int depth, struct buffer *into);
/* Text with NULs and beyond ASCII, extreme numbers, every branch; no nan and no infinity. */
void *samples_value(struct samples *samples, const struct schema *schema, struct arena *arena);

bool samples_same(const struct schema *schema, const void *a, const void *b);
/* True where JSON tells the branches of every union apart. */
bool samples_json_is_clear(const struct schema *schema);

#endif

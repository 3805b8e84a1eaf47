#include "store/newcomers.h"

#include <stdlib.h>
#include <string.h>

enum { PROBES = 3, PROBE_BITS = 20, WORDS = NEWCOMERS_BITS / 64 };
_Static_assert(NEWCOMERS_BITS == 1 << PROBE_BITS && PROBES * PROBE_BITS <= 64, "a hash has the probes' bits");

void newcomers_free(struct newcomers *newcomers)
{
    free(newcomers->bits);
    *newcomers = (struct newcomers){0};
}

static size_t probe(uint64_t hash, int number)
{
    return (size_t)(hash >> (number * PROBE_BITS)) & (NEWCOMERS_BITS - 1);
}

static bool has(const uint64_t *filter, uint64_t hash)
{
    for (int i = 0; i < PROBES; i++)
        if (!(filter[probe(hash, i) / 64] >> probe(hash, i) % 64 & 1))
            return false;
    return true;
}

bool newcomers_pass(struct newcomers *newcomers, uint64_t hash)
{
    if (!newcomers->bits && !(newcomers->bits = calloc(2 * WORDS, sizeof(*newcomers->bits))))
        return false;
    uint64_t *young = newcomers->bits + newcomers->young * WORDS;
    const uint64_t *old = newcomers->bits + !newcomers->young * WORDS;
    if (has(young, hash))
        return false;
    bool known = has(old, hash);
    for (int i = 0; i < PROBES; i++)
        young[probe(hash, i) / 64] |= UINT64_C(1) << probe(hash, i) % 64;
    if (++newcomers->count == NEWCOMERS_KEYS) {
        newcomers->young = !newcomers->young;
        newcomers->count = 0;
        memset(newcomers->bits + newcomers->young * WORDS, 0, WORDS * sizeof(*newcomers->bits));
    }
    return !known && newcomers->doubt == 0;
}

void newcomers_right(struct newcomers *newcomers)
{
    if (newcomers->doubt)
        newcomers->doubt--;
    else
        newcomers->doubt_next = 0;
}

void newcomers_wrong(struct newcomers *newcomers)
{
    unsigned doubt = newcomers->doubt_next ? newcomers->doubt_next : NEWCOMERS_DOUBT_MIN;
    newcomers->doubt = doubt;
    newcomers->doubt_next = doubt * 2 < NEWCOMERS_DOUBT_MAX ? doubt * 2 : NEWCOMERS_DOUBT_MAX;
}

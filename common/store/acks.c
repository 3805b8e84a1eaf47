#include "store/acks.h"

#include "store/pack.h"

#include <stdlib.h>

enum { PLACES_MIN = 256 };

static size_t place_of(const struct acks *acks, int64_t seq)
{
    return (size_t)((uint64_t)seq * UINT64_C(0x9e3779b97f4a7c15) >> 20) & acks->mask;
}

/* Its place, or the empty one where it would be. */
static size_t find(const struct acks *acks, int64_t seq)
{
    size_t at = place_of(acks, seq);
    while (acks->packs[at].seq && acks->packs[at].seq != seq)
        at = (at + 1) & acks->mask;
    return at;
}

void acks_free(struct acks *acks)
{
    free(acks->packs);
    *acks = (struct acks){NULL, 0, 0};
}

bool acks_reserve(struct acks *acks, size_t more)
{
    size_t count = acks->count + more < ACKS_PACKS_MAX ? acks->count + more : ACKS_PACKS_MAX;
    size_t places = acks->packs ? acks->mask + 1 : PLACES_MIN;
    if (more == 0)
        return true;
    while (places < count * 2)
        places *= 2;
    if (acks->packs && places == acks->mask + 1)
        return true;
    struct acks grown = {calloc(places, sizeof(*grown.packs)), acks->count, places - 1};
    if (!grown.packs)
        return false;
    for (size_t i = 0; acks->packs && i <= acks->mask; i++)
        if (acks->packs[i].seq)
            grown.packs[find(&grown, acks->packs[i].seq)] = acks->packs[i];
    free(acks->packs);
    *acks = grown;
    return true;
}

const struct acks_pack *acks_find(const struct acks *acks, int64_t pack_seq)
{
    if (acks->count == 0)
        return NULL;
    const struct acks_pack *pack = &acks->packs[find(acks, pack_seq)];
    return pack->seq ? pack : NULL;
}

bool acks_has(const struct acks *acks, int64_t event_seq)
{
    const struct acks_pack *pack = acks_find(acks, pack_seq_of(event_seq));
    size_t index = pack_index_of(event_seq);
    return pack && (pack->bits[index / 64] >> index % 64 & 1);
}

static void oldest_remove(struct acks *acks)
{
    int64_t oldest = INT64_MAX;
    for (size_t i = 0; i <= acks->mask; i++)
        if (acks->packs[i].seq && acks->packs[i].seq < oldest)
            oldest = acks->packs[i].seq;
    acks_remove(acks, oldest);
}

void acks_note(struct acks *acks, int64_t pack_seq, const uint64_t bits[4])
{
    if (!acks_find(acks, pack_seq) && acks->count == ACKS_PACKS_MAX)
        oldest_remove(acks);
    struct acks_pack *pack = &acks->packs[find(acks, pack_seq)];
    acks->count += !pack->seq;
    pack->seq = pack_seq;
    for (int i = 0; i < 4; i++)
        pack->bits[i] |= bits[i];
}

/* What stands behind it is moved up, so that no search ends before it. */
void acks_remove(struct acks *acks, int64_t pack_seq)
{
    if (!acks_find(acks, pack_seq))
        return;
    size_t hole = find(acks, pack_seq);
    for (size_t at = (hole + 1) & acks->mask; acks->packs[at].seq; at = (at + 1) & acks->mask) {
        size_t home = place_of(acks, acks->packs[at].seq);
        if (((at - home) & acks->mask) < ((at - hole) & acks->mask))
            continue;
        acks->packs[hole] = acks->packs[at];
        hole = at;
    }
    acks->packs[hole] = (struct acks_pack){.seq = 0};
    acks->count--;
}

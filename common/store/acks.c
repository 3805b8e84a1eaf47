#include "store/acks.h"

#include "store/pack.h"

void acks_free(struct acks *acks)
{
    int_map_free(&acks->packs);
}

bool acks_reserve(struct acks *acks, size_t more)
{
    size_t room = ACKS_PACKS_MAX - acks->packs.count;
    return more == 0 || int_map_reserve(&acks->packs, sizeof(struct acks_pack), more < room ? more : room);
}

const struct acks_pack *acks_find(const struct acks *acks, int64_t pack_seq)
{
    return int_map_find(&acks->packs, pack_seq);
}

bool acks_has(const struct acks *acks, int64_t event_seq)
{
    const struct acks_pack *pack = acks_find(acks, pack_seq_of(event_seq));
    size_t index = pack_index_of(event_seq);
    return pack && (pack->bits[index / 64] >> index % 64 & 1);
}

static void oldest_remove(struct acks *acks)
{
    int64_t oldest = INT64_MAX, seq;
    void *pack;
    for (size_t at = 0; int_map_next(&acks->packs, &at, &seq, &pack);)
        oldest = seq < oldest ? seq : oldest;
    acks_remove(acks, oldest);
}

void acks_note(struct acks *acks, int64_t pack_seq, const uint64_t bits[4])
{
    if (acks->packs.count == ACKS_PACKS_MAX && !acks_find(acks, pack_seq))
        oldest_remove(acks);
    struct acks_pack *pack = int_map_put(&acks->packs, pack_seq);
    for (int i = 0; i < 4; i++)
        pack->bits[i] |= bits[i];
}

void acks_remove(struct acks *acks, int64_t pack_seq)
{
    int_map_remove(&acks->packs, pack_seq);
}

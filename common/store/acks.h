/*
 * acks: which events of packs (store/pack.h) are acknowledged while others of their pack are not. The row of
 * a pack is deleted when all of them are; until then this is known here alone: after a crash the whole pack
 * is sent again, as all that was not deleted. Inside common/store only; the loop's thread.
 */
#ifndef STORE_ACKS_H
#define STORE_ACKS_H

#include "base/int_map.h"

/* Packs that are acknowledged in part: no more than have events under way at Kafka. Past it the oldest is
 * forgotten, and sent again when the table is read anew. */
enum { ACKS_PACKS_MAX = 1 << 17 };

/* Of an event the bit of its place in the pack. */
struct acks_pack {
    uint64_t bits[4];
};

/* All zero: empty. */
struct acks {
    struct int_map packs; /* struct acks_pack, by the pack's number */
};

void acks_free(struct acks *acks);
/* Room for so many packs more, so that acks_note() cannot fail. False: out of memory. */
MUST_CHECK bool acks_reserve(struct acks *acks, size_t more);
/* NULL: nothing of it is acknowledged. Valid until the next call that changes any. */
const struct acks_pack *acks_find(const struct acks *acks, int64_t pack_seq);
/* Of an event's number. */
bool acks_has(const struct acks *acks, int64_t event_seq);
void acks_note(struct acks *acks, int64_t pack_seq, const uint64_t bits[4]);
void acks_remove(struct acks *acks, int64_t pack_seq);

#endif

/*
 * pack: events of one transaction as one row of the outbox, and their numbers. Pure, inside common/store
 * only.
 *
 * PostgreSQL's work for a row (insert, index entry, deletion, vacuum) costs more than its bytes: under load a
 * pack has as many events as its page has room for. All are of one part, and so have one reader. A pack whose
 * only event is larger than a page is stored out of line.
 *
 * An event's number is the pack's << 16 | (events in the pack - 1) << 8 | its place in it: it goes up with
 * the pack's and within it, and tells by itself when all of a pack is acknowledged.
 *
 * Body: 1 (the version), then of each event a byte of flags (enum in pack.c) and what they do not say: topic,
 * partition, time, key, value, headers (store/header_blob.h). Numbers are in base 128, low part first, signed
 * ones as zigzag; the time is told by its distance from the event before, bytes after their length.
 */
#ifndef STORE_PACK_H
#define STORE_PACK_H

#include "store/outbox.h"

enum { PACK_EVENTS_MAX = 256 };

static inline int64_t pack_event_seq(int64_t pack_seq, size_t events, size_t index)
{
    return (int64_t)((uint64_t)pack_seq << 16 | (uint64_t)(events - 1) << 8 | (uint64_t)index);
}

static inline int64_t pack_seq_of(int64_t event_seq)
{
    return event_seq >> 16;
}

static inline size_t pack_events_of(int64_t event_seq)
{
    return (size_t)((uint64_t)event_seq >> 8 & 0xff) + 1;
}

static inline size_t pack_index_of(int64_t event_seq)
{
    return (size_t)((uint64_t)event_seq & 0xff);
}

/* How many of the rows, from the first on, make the next pack: of one part, at most PACK_EVENTS_MAX, at most
 * bytes_max bytes where they are more than one. At least 1 of count. headers: of each, encoded. */
size_t pack_count(const struct outbox_row *rows, const struct text *headers, size_t count, size_t bytes_max);
/* Into the arena. False: it has no room. */
MUST_CHECK bool pack_encode(struct arena *arena, const struct outbox_row *rows, const struct text *headers,
                            size_t count, struct text *ret);
/* events rows: slices of the body, lists in the arena; seq, part and elsewhere are not set. False: no room,
 * or *ret_damaged. */
MUST_CHECK bool pack_decode(struct arena *arena, struct text body, size_t events, struct outbox_row **ret,
                            bool *ret_damaged);

#endif

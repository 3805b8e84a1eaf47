/*
 * decode: a record as it came, to an event for a handler, or the reason why not. Pure but for the registry's
 * cache.
 *
 * OUTAGE, while the schema registry is away or a schema is on its way from it, holds the record and counts
 * nothing; FATAL is the registry's (wire/registry.h).
 *
 * Who owes a dead letter: a record whose type cannot be told (no framing, unknown schema id, null on any
 * topic but `stock`), in every service that reads the topic; one of a known type that cannot be decoded
 * (truncated, trailing bytes, ce_type that contradicts its schema, a key that is not its order id), in those
 * that handle that type. A type that nobody here handles is passed.
 *
 * An order id is a UUID, and a UUID in capitals is the same one: event.key and the order_id in event.data are
 * in lower case whatever case record's key and value have. The record itself stays as it came.
 */
#ifndef FLOW_DECODE_H
#define FLOW_DECODE_H

#include "flow/handler.h"
#include "kafka/consumer.h"

enum { DECODE_TYPES_MAX = 64 };

struct decode {
    struct registry *registry;
    const struct subscription
        *by_number[DECODE_TYPES_MAX]; /* event number to subscription, NULL: not handled */
};

enum outcome decode_open(struct decode *decode, const struct subscription *subscriptions,
                         struct registry *registry, struct error *error);

/*
 * record: as it first was: a copy on a retry topic with the topic, partition and offset of its origin. OK:
 * *ret_subscription and *ret_event are set, or *ret_subscription is NULL: passed. REJECT, OUTAGE (registry),
 * RETRY (memory). error may be NULL. arena NULL: all but the event's data is told, for a record that must not be looked at any
 * closer.
 */
struct decoded {
    const struct subscription *subscription;
    struct event event;
};
MUST_CHECK enum outcome decode_record(const struct decode *decode, const struct record *record,
                                      const struct header *headers, size_t header_count, struct arena *arena,
                                      struct decoded *ret, struct error *error);
/* The id of an event that came without ce_id. */
struct id decode_origin_id(struct text topic, int32_t partition, int64_t offset);

#endif

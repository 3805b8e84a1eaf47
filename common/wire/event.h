/*
 * event: an event as services see it, and the record headers that carry it (CloudEvents binary mode).
 */
#ifndef WIRE_EVENT_H
#define WIRE_EVENT_H

#include "base/ids.h"
#include "wire/codec.h"
#include "wire/registry.h"
#include "wire/topic.h"

/* One row of topics.def with what eventgen made of its schema. */
struct event_type {
    int number;
    const char *name;      /* "OrderPlaced"      */
    const char *full_name; /* "weir.OrderPlaced" */
    enum topic_id topic;
    const struct codec_type *codec;
    size_t key_offset;          /* of the struct text in the struct that is the record's key */
    int version;                /* of the schema that is written: schemas/<name>.avsc        */
    const char *const *schemas; /* JSON text of versions 1 to version                        */
};
extern const struct event_type *const event_types[]; /* in the order of their numbers, NULL at the end */
const struct event_type *event_type_find(struct text full_name); /* "weir.OrderPlaced" or "OrderPlaced" */

/* One header of a record. Value may hold any bytes; absent and empty are the same here. */
struct header {
    struct text name;
    struct text value;
};

/* Names, once. */
#define HEADER_ID           "ce_id"
#define HEADER_SOURCE       "ce_source"
#define HEADER_TYPE         "ce_type"
#define HEADER_SPECVERSION  "ce_specversion"
#define HEADER_TIME         "ce_time"
#define HEADER_SUBJECT      "ce_subject"
#define HEADER_CONTENT_TYPE "content-type"
#define HEADER_TRACEPARENT  "traceparent"

enum {
    HEADERS_COUNT_MAX = 64,       /* a record with more is REJECT ("headers")      */
    HEADERS_BYTES_MAX = 64 << 10, /* names and values together, likewise           */
    HEADER_TRACEPARENT_BYTES = 55,
};

/* The year 10000: no clock says more, and as microseconds it can be counted with. */
#define RECORD_TIMESTAMP_MS_MAX INT64_C(253402300800000)

/* What a handler is given. Everything points into the record or the batch's arena. */
struct event {
    const struct event_type *type;
    const void *data; /* the generated struct of type                                      */
    struct id id;     /* the dedupe id: ce_id, or topic, partition and offset without one  */
    struct text key;
    struct text source;      /* ce_source; empty from upstreams that send none                    */
    struct text traceparent; /* valid W3C, else empty                                             */
    int64_t time_us;         /* ce_time where valid, else the record's timestamp                  */
    enum topic_id topic;
};

const struct header *header_find(const struct header *headers, size_t count,
                                 const char *name); /* the last of that name */
bool traceparent_valid(struct text traceparent);
/* A new trace, or the next span of the parent's trace. Deterministic in id, so that a replay is alike. */
struct text traceparent_next(struct text parent, struct id id, char into[HEADER_TRACEPARENT_BYTES + 1]);

/* Confluent framing: 0x00 and a big-endian id, then the datum. REJECT ("framing") otherwise. */
enum { FRAME_BYTES = 5 };
MUST_CHECK enum outcome frame_read(struct text value, int32_t *ret_schema_id, struct text *ret_datum,
                                   struct error *error);
void frame_write(struct buffer *into, int32_t schema_id);

/*
 * The rules of a valid order (CONTRACT.md "A valid order"), beyond its schema. Adds a fault for each
 * thing that is wrong, by the same paths as codec_from_json(). Written by hand in wire/order_rules.c;
 * HTTP, emit and every service call this one.
 */
struct order_placed;
bool order_placed_valid(const struct order_placed *order, struct codec_faults *faults);
/* An order id with capitals names the same order: in lower case from here on, in the arena. For every door
 * that an event of others comes through; data was decoded for the caller just now. False: no memory. */
MUST_CHECK bool event_lower_id(const struct event_type *type, const void *data, struct arena *arena);
/* Do both name the same thing? A UUID does in either case, a SKU is its bytes. */
bool event_same_key(const struct event_type *type, struct text a, struct text b);
bool event_currency_valid(struct text currency); /* three capital letters */
/* The rules of any event, this one's among them: order_id is a UUID, SKUs and payment ids are 1 to 64
 * printable ASCII characters, money is not negative and has a currency. */
bool event_valid(const struct event_type *type, const void *data, struct codec_faults *faults);

#endif

/*
 * letter: one dead letter: what its headers say, whether a filter takes it, and the copy that sends it back.
 * Pure but for asking the schema registry for its type; slices point into the record, its headers and the
 * arena.
 */
#ifndef FLOW_LETTER_H
#define FLOW_LETTER_H

#include "kafka/consumer.h"
#include "kafka/producer.h"
#include "wire/origin.h"

enum { LETTER_REASON_BYTES_MAX = 256, LETTER_FINGERPRINT_BYTES = 16 };

enum letter_state {
    LETTER_OPEN,     /* nobody has done anything about it        */
    LETTER_REDRIVEN, /* a copy went back; this one is history    */
    LETTER_DROPPED   /* given up for good, with a reason         */
};
const char *letter_state_name(enum letter_state state); /* "open", "redriven", "dropped" */

struct letter {
    const struct record *record;
    const struct header *headers;
    size_t header_count;
    struct origin origin;
    const char *service;     /* of Weir, that failed on it; NULL: another's */
    bool foreign;            /* on a topic that is not one of Weir's        */
    struct text type;        /* full name: the schema's, else ce_type; empty where it cannot be told */
    struct text id;          /* ce_id, else topic/partition/offset of its origin                     */
    struct text fingerprint; /* as it says, else made of who failed and the exception's class     */
    /* By the audit (flow/audit.h). */
    enum letter_state state;
    unsigned settled_count; /* how often something was done about it */
    int64_t settled_us;     /* the last time */
};

/* headers: as record_headers() gave them, also where it was REJECT. A registry that cannot be asked makes
 * ce_type the type; registry may be NULL. */
void letter_read(const struct record *record, const struct header *headers, size_t header_count,
                 struct registry *registry, struct arena *arena, struct letter *ret);
struct text letter_header(const struct letter *letter, const char *name); /* empty when absent */
/* Two letters with one are one delivery of one event: the service lets only the first of them take effect. */
uint64_t letter_delivery(const struct letter *letter);

/* All that is set must fit. */
struct letter_filter {
    const char *service, *type /* OrderPlaced or weir.OrderPlaced */, *class, *fingerprint, *id, *key;
    int64_t since_us, until_us; /* of the letter's timestamp, until exclusive; 0: any time */
    bool at;                    /* only the one at: */
    int32_t partition;
    int64_t offset;
};
bool letter_matches(const struct letter_filter *filter, const struct letter *letter);

/* What is to be done about letters. */
struct letter_order {
    bool drop;
    const char *reason;     /* of a drop */
    const char *by;         /* user@host */
    int64_t first_delay_ms; /* of RETRY_DELAYS: names the retry topic */
    int64_t now_us;
};
/*
 * The copy that carries it out, key, value and all headers as they are but for:
 *
 *   to retry.<service>.<first delay>, where a service of Weir failed: weir_attempt 0, weir_due_at now; a
 *   redrive has weir_redrives one higher, weir_redriven_at and _by; a drop has weir_drop, weir_dropped_at and
 *   _by. __dlq.errors.* stay, or are made of what Spring or Connect say.
 *
 *   home to the topic where it first was, for all others: the headers of their error are taken away. A drop
 *   of such a letter sends nothing: *ret_send is false, and only the audit knows.
 *
 * REJECT ("origin") where that cannot be told; ("memory") past the arena's bound. partition is by key,
 * timestamp now.
 */
MUST_CHECK enum outcome letter_copy(const struct letter *letter, const struct letter_order *order,
                                    struct arena *arena, struct producer_record *ret, bool *ret_send,
                                    struct error *error);

#endif

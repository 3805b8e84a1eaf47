/*
 * audit: what people did with dead letters, a JSON object a letter on the topic `audit`, and the set of the
 * letters that were settled, read back from there. Pure, any thread.
 */
#ifndef FLOW_AUDIT_H
#define FLOW_AUDIT_H

#include "base/json.h"
#include "flow/letter.h"

struct audit_entry {
    enum letter_state action; /* LETTER_REDRIVEN or LETTER_DROPPED */
    struct text service;      /* empty: not one of Weir's          */
    struct text topic;        /* where the dead letter lies …      */
    int32_t partition;
    int64_t offset; /* … to here                         */
    struct text event_id, key, fingerprint, to /* the topic it was sent to; empty: none */;
    bool key_null;
    struct text reason; /* of a drop, else empty */
    struct text by;
    int64_t at_us;
    struct text run; /* one id for all that was done in one go */
};
/* What a record brought with it (event_id, key, fingerprint) is cut as by audit_cut(): a letter must not be
 * able to make an entry that Kafka does not take. */
enum { AUDIT_TEXT_BYTES_MAX = 1024 };
struct text audit_cut(struct text text); /* not through a character of UTF-8 */
void audit_write(const struct audit_entry *entry, struct buffer *into);
/* REJECT ("audit") for what is none; extra members are passed over. Slices point into *ret_json, which the
 * caller gives back by json_decref(). */
MUST_CHECK enum outcome audit_read(struct text value, struct audit_entry *ret, json_t **ret_json,
                                   struct error *error);

/* Only which letter and what was done, ten times as fast: whoever lists dead letters reads all of the audit.
 * Slices point into value. False: not as audit_write() writes it, ask audit_read(). */
bool audit_place(struct text value, enum letter_state *ret_action, struct text *ret_topic,
                 int32_t *ret_partition, int64_t *ret_offset);

/*
 * The letters that were settled, by place. An entry is AUDIT_SETTLED_BYTES; at most AUDIT_SETTLED_MAX of
 * them, that is 48 MiB, and half as much again while the set grows.
 */
enum { AUDIT_SETTLED_MAX = 1500000, AUDIT_SETTLED_BYTES = 24 };
struct settled;
struct settled *settled_new(void); /* NULL when out of memory */
void settled_destroy(struct settled *settled);
/* topic: the caller's number of it. What was done last counts. RETRY ("audit-full") past the bound. */
MUST_CHECK enum outcome settled_add(struct settled *settled, uint16_t topic, int32_t partition,
                                    int64_t offset, enum letter_state action, int64_t at_us,
                                    struct error *error);
/* Sets letter's state, settled_count and settled_us. */
void settled_tell(const struct settled *settled, uint16_t topic, struct letter *letter);
size_t settled_count(const struct settled *settled);

#endif

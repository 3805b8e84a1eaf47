/*
 * letters: the dead letters of one service or of all, as a stream, with what the audit knows of each. Nothing
 * is kept of a letter once the next one is asked for, so that memory does not grow with their number; what
 * was settled is a set with a bound (audit.h). For tools and threads of their own: it waits for Kafka.
 */
#ifndef FLOW_LETTERS_H
#define FLOW_LETTERS_H

#include "flow/audit.h"
#include "kafka/client.h"

enum {
    LETTERS_OPEN_MS = 15000,  /* to find topics and their ends                          */
    LETTERS_SILENT_MS = 30000 /* with records to come and none coming: Kafka is away    */
};

struct letters_settings {
    struct client_settings client;
    struct registry *registry;          /* lent; may be NULL: types are then by ce_type */
    const char *topic;                  /* NULL: dlq.<service> of filter->service, or of all services */
    const struct letter_filter *filter; /* lent */
    bool (*stopped)(void *owner);       /* asked now and then; may be NULL */
    void *owner;
};

struct letters;
/* Reads the audit to its end. RETRY ("stopped") where that was asked for; OUTAGE where Kafka does not answer
 * or falls silent. */
MUST_CHECK enum outcome letters_open(const struct letters_settings *settings, struct letters **ret,
                                     struct error *error);
/* From the beginning of the topics to the ends that they have now. Before the first letters_next(), and again
 * for another pass. Topics that do not exist are passed over; *ret_topics counts those that do, may be NULL.
 * REJECT ("topic"), EXIT_NO_INPUT, where it is the one of settings->topic. */
MUST_CHECK enum outcome letters_rewind(struct letters *letters, size_t *ret_topics, struct error *error);
/* *ret: the next letter that matches, valid until the next call or rewind; or *ret_end; or neither, after a
 * short while. Those of one key come in the order in which they lie. */
MUST_CHECK enum outcome letters_next(struct letters *letters, const struct letter **ret, bool *ret_end,
                                     struct error *error);
struct arena *letters_arena(struct letters *letters); /* of the letter in hand */
void letters_close(struct letters *letters);          /* accepts NULL */

#endif

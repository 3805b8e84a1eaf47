/*
 * copy: a record's byte-for-byte copy for a retry or dead letter topic, with the headers that tell where it
 * first was, how often it was tried and why it failed. It leaves as an outbox row of the transaction that
 * lets the record go. Origin is written once and never changed; the last failure replaces the one before.
 */
#ifndef FLOW_COPY_H
#define FLOW_COPY_H

#include "kafka/consumer.h"
#include "store/rows.h"
#include "wire/origin.h"

enum { COPY_MESSAGE_BYTES_MAX = 256, FINGERPRINT_BYTES = 16 };

enum failure_class { FAILED_RETRY, FAILED_REJECT, FAILED_CRASH, FAILURE_CLASSES };
extern const char *const failure_class_names[FAILURE_CLASSES]; /* "RETRY", "REJECT", "CRASH" */

struct failure {
    enum failure_class class; /* of a dead letter: RETRY has used up its attempts */
    const struct error *error;
    int deliveries; /* in all, this one included                              */
    int attempt;    /* since the first or the last redrive, this one included */
    int64_t first_failed_us;
};

/* Who makes the copy. */
struct copier {
    const char *service;
    const char *group;
};

/*
 * home: the record as it first was (topic, partition, offset; a negative one is left out). origin: what its
 * headers said where it came from one of our retry topics, else NULL: then headers of our names are not ours
 * and are replaced. due_us: 0 on dead letters. The row is of the work's arena, and needs the record no more.
 */
void copy_move(struct work *work, const struct copier *copier, const char *topic, const struct record *home,
               const struct header *headers, size_t header_count, const struct origin *origin,
               const struct failure *failure, int64_t due_us, int64_t now_us);
/* Class and cause and service, not the words of the message: stable across records of one cause. */
void copy_fingerprint(const char *service, enum failure_class class, const struct error *error,
                      char into[FINGERPRINT_BYTES + 1]);

#endif

/*
 * dlq: a record that can never succeed goes to dlq.<service>, byte for byte, with its reason, as an outbox
 * row of the transaction that lets it go.
 */
#ifndef FLOW_DLQ_H
#define FLOW_DLQ_H

#include "kafka/consumer.h"
#include "store/rows.h"

enum { DLQ_MESSAGE_BYTES_MAX = 256, DLQ_FINGERPRINT_BYTES = 16 };

struct dlq_reason {
    const char *class; /* "REJECT", "RETRY", "CRASH" */
    const struct error *error;
    int attempt; /* deliveries so far, this one included */
    int64_t first_failed_us;
};
/* Headers of a record on a main topic that are ours are replaced; all others are kept. */
void dlq_move(struct work *work, const char *service, const char *group, const struct record *record,
              const struct header *headers, size_t header_count, const struct dlq_reason *reason);
/* Class and cause and service, not the words of the message: stable across records of one cause. */
void dlq_fingerprint(const char *service, const char *class, const struct error *error,
                     char into[DLQ_FINGERPRINT_BYTES + 1]);

#endif

/*
 * relay: committed outbox rows to Kafka, many in flight, in order per key.
 *
 * In step (the steady state) it gets each committed batch's rows from memory; what the broker has
 * acknowledged is deleted with the next batch's transaction, so the table is only written, never read. Behind
 * (at start, after a full producer queue, after a fatal producer error) it reads the table in order until it
 * has caught up; new rows then wait in the table. A row is gone when deleted, not when passed. A fatal
 * producer is replaced by a new one, and all that is in the table is sent again with the same ids. Thread:
 * the loop's; reports come in on the producer's.
 */
#ifndef FLOW_RELAY_H
#define FLOW_RELAY_H

#include "kafka/producer.h"
#include "store/outbox.h"

enum {
    RELAY_READ_MAX = 1000,     /* rows read from the table in one turn             */
    RELAY_ACKED_MAX = 1 << 20, /* acknowledged and not yet deleted                 */
    RELAY_SETTLE_MS = 100,     /* an idle loop deletes acknowledged rows this late */
    RELAY_REOPEN_MS_MIN = 500, /* between two new producers                        */
    RELAY_REOPEN_MS_MAX = 30000,
};

struct relay;
MUST_CHECK enum outcome relay_open(const struct producer_settings *settings, void (*wake)(void *owner),
                                   void *wake_owner, struct relay **ret, struct error *error);
/* In a unit of work: deletes what was acknowledged, and when behind reads and sends. */
void relay_turn(struct relay *relay, struct work *work);
void relay_committed(struct relay *relay, const struct outbox_row *rows,
                     size_t count); /* the work's own rows are sent */
void relay_rolled_back(struct relay *relay);
bool relay_behind(const struct relay *relay);
/* How long the loop may wait before relay_turn() has something to do: 0 now, -1 for ever (a wake comes
 * first). */
int64_t relay_wait_ms(struct relay *relay);
size_t relay_in_flight(const struct relay *relay); /* sent, not yet reported */
bool relay_connected(const struct relay *relay);
void relay_close(struct relay *relay, int timeout_ms);

#endif

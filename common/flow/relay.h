/*
 * relay: committed outbox rows to Kafka, many in flight, in order per key.
 *
 * In step (the steady state) it gets each committed batch's rows from memory, and sends them while the next
 * batch waits for the database; what the broker has acknowledged is deleted with a later batch's transaction,
 * so the table is only written, never read. Behind (at start, after a full producer queue, after a fatal
 * producer error) it reads the table in order until it has caught up; new rows then wait in the table. A row
 * is gone when deleted, not when passed. A fatal producer is replaced by a new one, and all that is in the
 * table is sent again with the same ids.
 *
 * A broker refuses a whole batch for one record in it (a topic's max.message.bytes above all). Which one it
 * was is found out by a producer that sends each alone: only that row is set aside, and no other of its key
 * has passed it before. Thread: the loop's; reports come in on the producer's.
 *
 * Beside other processes on the database (store/instances.h) it sends what is of its own parts. Rows that
 * another wrote for them are read with each commit, and by a poll while it is idle; they go first: whoever
 * wrote an earlier row of a key that a commit touches had committed before. A row that is under way is never
 * sent again, unless its producer is done for.
 */
#ifndef FLOW_RELAY_H
#define FLOW_RELAY_H

#include "kafka/producer.h"
#include "store/instances.h"
#include "store/outbox.h"

enum {
    RELAY_READ_MAX = 1000,     /* rows read from the table in one turn             */
    RELAY_ACKED_MAX = 1 << 20, /* acknowledged and not yet deleted                 */
    RELAY_REFUSED_MAX = 64,    /* refused between two turns; the rest is sent again at the start */
    RELAY_POLL_MS_MIN = 20,    /* an idle loop looks for rows of other instances, after it has found some */
    RELAY_POLL_MS_MAX = 200,   /* … and when it has found none for a while */
    RELAY_SETTLE_MS = 100,     /* an idle loop deletes acknowledged rows this late */
    RELAY_REOPEN_MS_MIN = 500, /* between two new producers                        */
    RELAY_REOPEN_MS_MAX = 30000,
    RELAY_ALONE_MS = 30000, /* so long after a refused batch each record is sent alone */
};

struct relay;
struct spans;
MUST_CHECK enum outcome relay_open(const struct producer_settings *settings, void (*wake)(void *owner),
                                   void *wake_owner, struct relay **ret, struct error *error);
/* In a unit of work: deletes what was acknowledged, and when behind reads and sends. */
void relay_turn(struct relay *relay, struct work *work);
/* Its rows are sent by the next relay_send(), before anything else of this relay's; they are read from work
 * then, which must not begin anew before. */
void relay_committed(struct relay *relay, const struct work *work);
/* What was committed and is not sent yet. Also while the next unit of work is open: it does not touch the
 * store. Before the loop waits for anything but the store, and before a beat. */
void relay_send(struct relay *relay);
void relay_rolled_back(struct relay *relay);
/* After relay_committed(): rows that were refused and are set aside now, since the last call. */
size_t relay_set_aside(struct relay *relay);
bool relay_behind(const struct relay *relay);
/* Whose parts are sent; lent. Before the first turn. */
void relay_share(struct relay *relay, const struct instances *instances);
/* Parts were gained, or the last of the other instances has gone: the table may hold more to be sent. */
void relay_look_again(struct relay *relay);
/* After relay_send(): sets true for each part of which something was sent and is not deleted yet. */
void relay_parts(const struct relay *relay, bool busy[INSTANCE_PARTS_MAX]);
/* How long until other instances' rows are looked for by themselves, in an empty unit of work; -1: never. */
int64_t relay_poll_ms(const struct relay *relay, int64_t now_us);
/* How long the loop may wait before relay_turn() has something to do: 0 now, -1 for ever (a wake comes
 * first). */
int64_t relay_wait_ms(struct relay *relay);
size_t relay_in_flight(const struct relay *relay); /* sent, not yet reported */
bool relay_connected(const struct relay *relay);
/* Sends are spans from now on; NULL: they are not. */
void relay_trace(struct relay *relay, struct spans *spans);
/* Is it the brokers that do not take what is sent, because this principal may not write there? Why, until a
 * record was taken again. Any thread. */
bool relay_refused(struct relay *relay, char *into, size_t into_bytes);
void relay_close(struct relay *relay, int timeout_ms);

#endif

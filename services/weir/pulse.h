/*
 * pulse: the orders as they pass, read from the topics by a thread of its own and outside of any group: how many, how long from
 * accepted to confirmed, and which of them are not at their end yet.
 *
 * Dead letters are read as they come.
 *
 * An order is settled when its decision is in `orders`, its money is where it belongs, and every mail that its events ask for is
 * sent or has failed. At most PULSE_ORDERS_MAX are looked after; then the oldest is forgotten.
 */
#ifndef WEIR_PULSE_H
#define WEIR_PULSE_H

#include "kafka/client.h"

#include <stdint.h>

enum { PULSE_ORDERS_MAX = 1 << 20, PULSE_OPEN_MS = 15000, PULSE_WINDOW_MS = 10000 };

struct pulse_counts {
    int64_t placed, confirmed, rejected, cancelled; /* distinct orders, since the start */
    int64_t mails_sent, mails_failed;
    int64_t open;      /* placed and not settled */
    int64_t stuck;     /* of these, with a dead letter at a service that has a part in the order */
    int64_t dead;      /* letters */
    int64_t forgotten; /* of these, no longer looked after */
    int64_t p50_us, p99_us;         /* accepted to confirmed, of the last PULSE_WINDOW_MS or so; -1: none */
    int64_t all_p50_us, all_p99_us; /* since the start */
    int64_t records;                /* read; stands still when nothing happens */
    char sample_id[40];             /* an order that was confirmed; empty: none yet */
};

struct pulse;
/* From now on. OUTAGE where the topics cannot be read. */
MUST_CHECK enum outcome pulse_open(const struct client_settings *client, struct pulse **ret, struct error *error);
void pulse_counts(struct pulse *pulse, struct pulse_counts *ret); /* any thread */
void pulse_close(struct pulse *pulse); /* accepts NULL */

#endif

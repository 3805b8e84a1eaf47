/*
 * books: the account at the end. Every order by its status, every unit of stock, every cent and every mail, compared between the topics,
 * the services' databases, the gateway's ledger and the mail sink's index. What is still under way goes on at the next start and is a
 * line of its own, not a difference; so is what orders lack that have a dead letter, until it is redriven.
 *
 * Called when the services have stopped and Kafka still answers.
 */
#ifndef WEIR_BOOKS_H
#define WEIR_BOOKS_H

#include "kafka/client.h"

#include <limits.h>

enum { BOOKS_ORDERS_MAX = 8 << 20, BOOKS_SAID_MAX = 20, BOOKS_READ_MS = 1500, BOOKS_SILENT_MS = 10000 };

struct books_settings {
    struct client_settings client;
    const char *order_url, *inventory_url, *payment_url, *email_url; /* databases */
    const int64_t *retry_delays_ms; /* of the services: their retry topics are looked into for what is left */
    size_t retry_delay_count;
    const char *ledger;     /* the gateway's ledger.ndjson, NULL: a gateway of somebody else's */
    const char *mail_index; /* the sink's index.ndjson, NULL: a mail server of somebody else's */
};

/* Prints them on stdout, each difference with what it is (at most BOOKS_SAID_MAX of them in full). OUTAGE where something cannot be read. */
MUST_CHECK enum outcome books_print(const struct books_settings *settings, bool *ret_balanced, struct error *error);

#endif

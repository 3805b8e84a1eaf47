/*
 * gateway_sim: a stand-in for a payment gateway, for `weir gateway`, `weir up` and tests.
 *
 *     POST /v1/charges  {order_id, customer_id, amount_minor, currency}   Idempotency-Key needed
 *     POST /v1/refunds  {payment_id, amount_minor, currency}              likewise
 *     GET  /v1/ledger?after=N&limit=N                                     totals, and entries after number N
 *
 * 200 captured or refunded, 402 declined, 400 and 422 what is wrong with the request, 404 no such payment,
 * 409 the first request with this key is still under way. One key, one entry, one answer, also over a
 * restart: the ledger DIRECTORY/ledger.ndjson is written and synced before any answer goes out. It declines
 * by percentage, and whenever customer_id begins with "declined-".
 */
#ifndef WEIR_GATEWAY_SIM_H
#define WEIR_GATEWAY_SIM_H

#include "weir/failures.h"

enum {
    GATEWAY_CONNECTIONS_MAX = 1024,
    GATEWAY_HEADER_BYTES_MAX = 16 << 10,
    GATEWAY_BODY_BYTES_MAX = 64 << 10,
    GATEWAY_ENTRIES_MAX = 4 << 20,
    GATEWAY_PAGE_MAX = 10000,
};

struct gateway_settings {
    const char *listen;    /* host:port, port 0 picks one           */
    const char *directory; /* made where missing; NULL: in memory only */
    int decline_percent;
    struct failures failures;
    int64_t latency_min_ms, latency_max_ms;
};

struct gateway_counts {
    int64_t charges, declines, refunds; /* entries, those of before a restart included */
    int64_t repeats;                    /* answered again from the ledger               */
    int64_t timeouts, lost;
};

struct gateway;
MUST_CHECK enum outcome gateway_open(const struct gateway_settings *settings, struct gateway **ret,
                                     struct error *error);
const char *gateway_address(const struct gateway *gateway); /* "127.0.0.1:1026" */
/* Until gateway_stop() or until stop_fd (-1: none) is readable. OUTAGE where the ledger cannot be written:
 * nothing was answered. */
MUST_CHECK enum outcome gateway_run(struct gateway *gateway, int stop_fd, struct error *error);
void gateway_stop(struct gateway *gateway);                          /* any thread */
struct gateway_counts gateway_counts(const struct gateway *gateway); /* any thread */
void gateway_close(struct gateway *gateway);                         /* accepts NULL */

#endif

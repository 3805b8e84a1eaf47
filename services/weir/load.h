/*
 * load: a steady stream of orders by POST /v1/orders, open loop: orders are due by the clock, not by the answers to those before.
 *
 * A thread of its own with LOAD_CONNECTIONS_MAX kept connections. Each order has its id and Idempotency-Key from the start and
 * is sent again, the same, until it is answered: a service that dies in the middle costs none and doubles none.
 */
#ifndef WEIR_LOAD_H
#define WEIR_LOAD_H

#include "base/text.h"

enum { LOAD_CONNECTIONS_MAX = 256, LOAD_RATE_MAX = 100000, LOAD_GOODS_MAX = 1024 };

struct load_settings {
    const char *host; /* of weir-order; NULL: loopback. Looked up for each connection, so that several are all used */
    int port;
    const char *token; /* API_TOKEN as shop_token() gives it; NULL: none */
    int64_t rate; /* orders a second */
    int64_t count_max; /* 0: without end */
    const struct text *goods; /* SKUs to buy; valid until load_stop() */
    size_t goods_count;
};

struct load_counts {
    int64_t accepted; /* answered 202 */
    int64_t refused;  /* answered anything else that is final */
    int64_t waiting;  /* due or sent, and not answered */
};

struct load;
MUST_CHECK enum outcome load_start(const struct load_settings *settings, struct load **ret, struct error *error);
struct load_counts load_counts(struct load *load); /* any thread */
bool load_done(struct load *load); /* count_max are answered */
/* No new orders; those sent are waited for, at most wait_ms. Ends the thread; the counts stay readable. */
void load_stop(struct load *load, int wait_ms);
void load_free(struct load *load); /* stopped before; accepts NULL */

#endif

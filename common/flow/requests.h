/*
 * requests: the door of HTTP into the loop: a bounded queue, and what makes a POST safe to repeat.
 */
#ifndef FLOW_REQUESTS_H
#define FLOW_REQUESTS_H

#include "flow/handler.h"

#include <pthread.h>

enum { IDEMPOTENCY_KEPT_S = 24 * 3600, IDEMPOTENCY_PRUNE_MAX = 500 };

/* ---- the queue: any thread puts, the loop takes */

struct requests {
    pthread_mutex_t lock;
    struct waiting_request {
        void *exchange;
        const struct request *request;
        int64_t since_us;
    } * ring;
    size_t capacity, first, count;
    bool closed;
};

MUST_CHECK enum outcome requests_open(struct requests *requests, size_t count_max, struct error *error);
void requests_close(struct requests *requests);
/* False when full or shut. *ret_wake: it was empty. */
bool requests_put(struct requests *requests, void *exchange, const struct request *request, bool *ret_wake);
size_t requests_take(struct requests *requests, struct waiting_request *ret, size_t count_max);
void requests_shut(struct requests *requests); /* draining: no more */

/* ---- idempotency: the first answer of a key, kept for IDEMPOTENCY_KEPT_S */

extern const struct rows_table idempotency_table;

void idempotency_keys(struct work *work, const struct request *request);
/*
 * True: *answer is set (the first answer again, 409 while the first still runs, that is: is in this same
 * batch, or 422 for another payload); the handler must not run.
 */
bool idempotency_answered(struct work *work, const struct request *request, struct answer *answer);
/* After the handler: keeps the answer, but for 400, 422 and 5xx. */
void idempotency_keep(struct work *work, const struct request *request, const struct answer *answer);
size_t idempotency_prune(struct work *work, int64_t now_us);

#endif

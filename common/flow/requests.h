/*
 * requests: the door of HTTP into the loop: a bounded queue. Any thread puts, the loop takes. A request is
 * lent until its exchange is answered.
 */
#ifndef FLOW_REQUESTS_H
#define FLOW_REQUESTS_H

#include "flow/handler.h"

#include <pthread.h>

struct requests {
    pthread_mutex_t lock;
    struct waiting_request {
        void *exchange;
        const struct request *request;
        int64_t since_us; /* monotonic */
    } * ring;
    size_t capacity, first, count;
    bool closed;
};

MUST_CHECK enum outcome requests_open(struct requests *requests, size_t count_max, struct error *error);
void requests_close(struct requests *requests); /* also one that is all zero; nobody puts any more */
/* False when full or shut. *ret_wake: it was empty. */
bool requests_put(struct requests *requests, void *exchange, const struct request *request, bool *ret_wake);
/* In the order in which they came, at most count_max. */
size_t requests_take(struct requests *requests, struct waiting_request *ret, size_t count_max);
void requests_shut(struct requests *requests); /* draining: no more */

#endif

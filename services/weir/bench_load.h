/*
 * bench_load: a step's load on its way out: the schedule, and the two that send by it. A sender is called on
 * a thread of its own and comes back when every order was sent (or dropped) and answered, or at give_up_us.
 */
#ifndef WEIR_BENCH_LOAD_H
#define WEIR_BENCH_LOAD_H

#include "bench_order.h"
#include "bench_track.h"

struct bench_load {
    struct bench_track *track;
    const struct bench_order *orders;
    size_t count, next; /* next: not sent yet */
    uint32_t first;     /* number of orders[0] */
    int64_t begun_us, begun_wall_us;
    int64_t outstanding_max;    /* past it an order is dropped, not sent */
    _Atomic int64_t give_up_us; /* monotonic */
    atomic_bool cut;            /* what was not sent is dropped */
    struct bench_cart cart;
    struct bench_behind behind; /* the sender's, as are those below; to be read when it has come back */
    uint64_t resent;
    int64_t cpu_us;
};

/* The order load->next is due and may be sent; those that may not are dropped on the way. */
bool bench_load_due(struct bench_load *load, int64_t now_us);
/* Draws it and says that it is sent. free_us: bench_behind_note(). Returns its index. */
size_t bench_load_take(struct bench_load *load, int64_t free_us, int64_t now_us, struct bench_draft *ret);
/* Until the next one is due, at least 0; -1: there is none. */
int64_t bench_load_wait_us(const struct bench_load *load, int64_t now_us);
bool bench_load_over(const struct bench_load *load, int64_t now_us); /* all sent, or given up */

enum {
    BENCH_TICK_US = 100,   /* a sender does not wake more often than that for what is due */
    BENCH_POLL_US = 20000, /* nor seldom than that */
};

struct bench_http; /* one thread, at most BENCH_CONNECTIONS_MAX kept connections, a request on each at a time
                    */
/* token: API_TOKEN, lent; NULL: none. */
MUST_CHECK enum outcome bench_http_open(const char *host, int port, const char *token, int connections,
                                        struct bench_http **ret, struct error *error);
void bench_http_run(struct bench_http *http, struct bench_load *load);
void bench_http_close(struct bench_http *http); /* accepts NULL */

struct bench_kafka; /* straight to `orders`, as an upstream system's producer */
MUST_CHECK enum outcome bench_kafka_open(const struct client_settings *client, struct registry *registry,
                                         struct bench_kafka **ret, struct error *error);
void bench_kafka_run(struct bench_kafka *kafka, struct bench_load *load);
/* The producer is done for: its error. NULL while it is not. Any thread. */
const struct error *bench_kafka_failed(struct bench_kafka *kafka);
void bench_kafka_close(struct bench_kafka *kafka); /* accepts NULL */

#endif

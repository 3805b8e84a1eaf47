/*
 * dispatch: the loop. One thread owns the store; whatever changes a service's data comes to it through one of
 * four doors (record, request, answer, tick) as an item of a batch.
 *
 * One turn of the loop:
 *
 *   take      what is waiting at the doors, bounded in count and bytes: batches are small when idle, large
 * when busy decode    records to events; what nobody here handles is passed, what cannot be told is marked
 * for the dead letters read      begin; note the event ids in the inbox; the rows that the keys hooks name;
 * all in one go handle    each item by its handler; one that fails is undone alone (rows.h) and routed by its
 * outcome write     rows, inbox, outbox, calls; commit, in one go let go    outbox rows to the relay, calls
 * to their lanes, answers to HTTP, offsets to the consumer
 *
 * A commit that a constraint refuses is run again item by item, so that one bad item costs only itself. A
 * commit that cannot be done (OUTAGE) lets nothing go: records are held and come again, requests get 503,
 * answers wait.
 */
#ifndef FLOW_DISPATCH_H
#define FLOW_DISPATCH_H

#include "flow/handler.h"
#include "flow/lanes.h"
#include "kafka/consumer.h"

enum {
    DISPATCH_BATCH_BYTES_MAX = 8 << 20,    /* record bytes in a batch                       */
    DISPATCH_BATCH_MEMORY_MAX = 128 << 20, /* a batch's arena; on PostgreSQL there are two  */
    DISPATCH_REQUESTS_MAX = 4096,          /* queued; more are answered 503                 */
    DISPATCH_OUTBOX_ROWS_MAX = 200000,     /* past it no records are taken (reason backlog) */
    DISPATCH_OUTAGE_MS_MIN = 200,          /* backoff of the loop while its store is away   */
    DISPATCH_OUTAGE_MS_MAX = 10000,
};

struct metrics;
struct dispatch;

struct dispatch_settings {
    const char *service;
    const struct subscription *subscriptions; /* ended by .type == NULL */
    const struct tick *ticks;                 /* ended by .name == NULL; may be NULL */
    const struct lane *const *lanes;          /* NULL ended; may be NULL */
    const struct lane_limits *limits;         /* in the order of lanes */
    void *state;                              /* the service's */
    struct store *store;                      /* lent, open and migrated with flow_tables too */
    struct registry *registry;                /* lent */
    struct net *net;                          /* lent; NULL where there are no lanes */
    struct metrics *metrics;                  /* lent */
    struct client_settings client;
    const char *group_id;
    const int64_t *retry_delays_ms; /* RETRY_DELAYS, one retry topic each; copied */
    size_t retry_delay_count;
    const char *crash_note;      /* file of the crash guard (flow/crash.h); NULL: none is kept */
    const struct config *config; /* BATCH_COUNT_MAX, INBOX_AGE, … (flow_settings) */
    struct spans *spans;         /* for traces; lent, NULL where there are none */
    int64_t backlog_max;         /* outbox rows past which routes with .backlog get 503 */
    /* On the loop's thread: what becomes of a request handed to dispatch_request(). */
    void (*answer)(void *exchange, const struct answer *answer);
};

extern const struct setting flow_settings[];
extern const struct rows_table *const flow_tables[]; /* to be migrated beside the service's own; NULL ended */

/* Does not wait for Kafka. The consumer starts to fetch. */
MUST_CHECK enum outcome dispatch_open(const struct dispatch_settings *settings, struct dispatch **ret,
                                      struct error *error);
/* The loop, on the calling thread, until dispatch_stop() and all in hand is finished and relayed, or
 * drain_left_ms() (asked often) is used up. OK: drained. FATAL: why, after having tried to drain. */
MUST_CHECK enum outcome dispatch_run(struct dispatch *dispatch, int64_t (*drain_left_ms)(void),
                                     struct error *error);
void dispatch_stop(struct dispatch *dispatch); /* any thread */
/* When the loop last began a turn (monotonic clock): it does at least once a second but for the time that a
 * batch takes. Any thread. */
int64_t dispatch_turned_us(const struct dispatch *dispatch);
/* After dispatch_run() has returned, on its thread. Bounded by timeout_ms. */
void dispatch_close(struct dispatch *dispatch, int timeout_ms);

/* One thread, any: a topic that the brokers have. One of this service's retry topics that RETRY_DELAYS does
 * not name is read from now on; all else is nothing. False: too many of them, or memory is out; it is not
 * read. */
MUST_CHECK bool dispatch_read_old(struct dispatch *dispatch, const char *topic);

/* Any thread. request and exchange must live until settings.answer is called, exactly once. False: full or
 * draining, not taken (answer 503). */
MUST_CHECK bool dispatch_request(struct dispatch *dispatch, void *exchange, const struct request *request);

/* Any thread. False: why not, into reason. */
bool dispatch_ready(const struct dispatch *dispatch, char *reason, size_t reason_bytes);
/* Any thread. Records are not taken while paused (reason operator); requests and answers go on. Resuming also
 * ends what the flood guard began. */
void dispatch_pause(struct dispatch *dispatch);
void dispatch_resume(struct dispatch *dispatch);
/* Any thread: why nothing is taken, held keys, waiting records, as a JSON object. */
void dispatch_status(const struct dispatch *dispatch, struct buffer *into);
struct consumer *dispatch_consumer(const struct dispatch *dispatch); /* for lag metrics */

#endif

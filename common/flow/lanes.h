/*
 * lanes: calls to the outside, many in flight, in order by key, kept in the table `calls` from the
 * transaction that asks for them to the one that settles them.
 *
 * A record that needs a call is done as soon as the call is in the table: offsets never wait for a network
 * peer, and a call survives whatever happens to the process. (The design held such records unsettled instead;
 * then a slow peer would hold the watermark, and what was waiting could not be looked at.) An attempt is
 * marked active, durably, before it is sent: one that was active when the process died comes back as
 * ambiguous.
 *
 * Bounds: calls in flight a lane (lane_limits.concurrency), places in memory (LANES_PLACES_MAX; the rest
 * waits in the table), attempts by a token bucket (rate). After an OUTAGE the lane lets one probe at a time
 * through, with backoff, until one succeeds. Thread: the loop's, except that answers come in from net's.
 *
 * Many instances on one database (lanes_share): a call is begun only by the owner of its key's part, so that
 * calls of one key go one after another, whoever asks for them. One that another instance asked for is marked
 * `elsewhere`: its owner looks for these every LANES_POLL_MS, and before it begins any call. Where a part
 * goes to another owner, what waits is read by that one from the table, and what is active is finished by who
 * has begun it (`holder`), with later calls of its key waiting; a holder that is buried leaves ambiguous
 * answers. An answer counts only while the row says that the call is this instance's.
 *
 * The rate is divided by parts: an instance has rate × parts owned ÷ all parts, and of the burst likewise,
 * but at least one attempt, so that no part starves. When the share changes the bucket goes on with what it
 * has, cut to the new burst; one that had no part begins with one attempt. So in any time T all instances
 * together begin at most rate × T + burst + one attempt for each instance that had a part in it; in a
 * hand-over nothing is counted twice, as a part is let go before it is taken.
 */
#ifndef FLOW_LANES_H
#define FLOW_LANES_H

#include "flow/handler.h"

enum {
    LANES_MAX = 4,
    LANES_CONCURRENCY_MAX = 512,
    LANES_PLACES_MAX = 10000,
    LANES_DELAYS_MAX = 16,
    LANES_OUTAGE_MS_MIN = 500,
    LANES_OUTAGE_MS_MAX = 15000,
    LANES_POLL_MS = 200,        /* between two looks at what other instances have written  */
    LANES_POLL_ROWS_MAX = 1000, /* taken over at a look, and calls of others looked after */
};

/* What a lane may do at once; a service's start() may change it. */
struct lane_limits {
    int concurrency;       /* calls in flight                                     */
    int timeout_ms;        /* of one attempt                                      */
    int64_t rate_per_hour; /* attempts begun, 0: no limit; burst a tenth of a minute's worth, at least 1 */
    int64_t
        delays_ms[LANES_DELAYS_MAX]; /* after the first, second … attempt; up to a tenth more, by chance */
    size_t delay_count;
};

struct lanes;
struct net;
struct instances;
struct lane_answer; /* one that came back, until lanes_answered() or lanes_return() */
struct metrics;
struct spans;
extern const struct rows_table calls_table;

MUST_CHECK enum outcome lanes_new(const struct lane *const *lanes, const struct lane_limits *limits,
                                  void *state, struct net *net, struct metrics *metrics,
                                  void (*wake)(void *owner), void *wake_owner, struct lanes **ret,
                                  struct error *error);
/* Calls are spans from now on; NULL: they are not. */
void lanes_trace(struct lanes *lanes, struct spans *spans);
void lanes_destroy(struct lanes *lanes); /* after the net is closed */
/* Before anything else: who works on the database. Looked into at each call; without it this process is
 * alone. Where others are, the tables instance and calls are in one schema. */
void lanes_share(struct lanes *lanes, const struct instances *instances);

/* In a unit of work, before work_read(): fills the places from the table with calls of owned parts, lets go
 * those of others (of what was active when its process died, the answers come after the commit). */
void lanes_load(struct lanes *lanes, struct work *work, int64_t now_us);
bool lanes_wants_load(const struct lanes *lanes);
/* Answers that came back, at most count_max. */
size_t lanes_take(struct lanes *lanes, struct lane_answer **ret, size_t count_max);
void lanes_return(struct lanes *lanes, struct lane_answer *answer); /* the batch failed: it comes again */
const struct call *lane_answer_call(const struct lane_answer *answer);
void lane_answer_keys(const struct lane_answer *answer, struct work *work);
/* The service's hook and what follows from it, in the item's unit of work. */
enum outcome lane_answer_handle(struct lanes *lanes, struct lane_answer *answer, struct work *work,
                                int64_t now_us, struct error *error);
/* A constraint refuses what its hook does: the call is dropped, loudly, so that it costs only itself. */
void lane_answer_give_up(struct lanes *lanes, struct lane_answer *answer, struct work *work,
                         const struct error *why);
/* In a work's item: a call is asked for (work_call). */
void lanes_add(struct lanes *lanes, struct work *work, const struct lane *lane, struct call *call);
/* Around a work's item, as work_item_begin() and work_item_undo(). */
void lanes_item_begin(struct lanes *lanes);
void lanes_item_undo(struct lanes *lanes);
/* At the end of a batch, before its commit: puts what was added in line, and what other instances have
 * written for this one, marks those active that may begin now. */
void lanes_begin(struct lanes *lanes, struct work *work, int64_t now_us);
void lane_answer_free(struct lane_answer *answer); /* after commit */
/* After commit: sends what was begun, forgets what was settled. */
void lanes_committed(struct lanes *lanes);
void lanes_rolled_back(struct lanes *lanes);
/* True when lanes_begin() would begin something now; else *ret_at_us says when to look again (0: never by
 * itself). */
bool lanes_due(struct lanes *lanes, int64_t now_us, int64_t *ret_at_us);
size_t lanes_in_flight(struct lanes *lanes); /* sent, and not yet taken as answers */
void lanes_stop(struct lanes *lanes);        /* draining: begin nothing more */

#endif

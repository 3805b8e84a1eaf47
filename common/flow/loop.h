/*
 * loop: what the files of the loop share: the item, the dispatch that holds everything, and the calls between
 * them. Inside flow/ only.
 *
 *   dispatch.c  open, the doors, the loop, drain, close
 *   batch.c     a batch from its doors to the commit, and what follows from it
 *   item.c      one item: decoded, its rows named, handled, routed by its outcome
 *   tick.c      ticks, each a unit of work of its own
 *   outage.c    what happens when nothing can go on: the store is away, or the process must end
 */
#ifndef FLOW_LOOP_H
#define FLOW_LOOP_H

#include "base/log.h"
#include "flow/context.h"
#include "flow/decode.h"
#include "flow/dispatch.h"
#include "flow/meters.h"
#include "flow/relay.h"
#include "flow/requests.h"
#include "store/inbox.h"

#include <stdatomic.h>

enum {
    TICKS_MAX = 16,
    HOLDS_MAX = 1024, /* partitions whose backoff is remembered */
    PRUNE_INTERVAL_MS = 10000,
    INBOX_PRUNE_MAX = 2000,
};

enum door { DOOR_RECORD, DOOR_REQUEST, DOOR_ANSWER };

enum item_state {
    ITEM_OPEN,     /* to be handled                                                        */
    ITEM_DONE,     /* it took effect (or needs none: passed, duplicate); let go after commit */
    ITEM_REJECTED, /* its dead letter is in the outbox; let go after commit                */
    ITEM_HELD,     /* failed for now: after commit its partition is held from it on         */
    ITEM_STALE,    /* behind a held one, or taken away by a rebalance: it comes again       */
};

/* One thing to be handled in a batch. */
struct item {
    enum door door;
    enum item_state state;
    enum meter_outcome meter;
    bool reject; /* a constraint refused it: straight to the dead letters */
    /* DOOR_RECORD */
    struct record record;
    struct decoded decoded;
    struct inbox_note *note;
    /* DOOR_REQUEST */
    struct waiting_request request;
    struct answer answer;
    /* DOOR_ANSWER */
    struct lane_answer *lane_answer;
    /* Why it was rejected or held. Last: large and nearly always empty, it is not cleared for each item. */
    struct error error;
};

struct dispatch {
    struct dispatch_settings settings;
    struct context context;
    struct work *work;
    struct relay *relay;
    struct lanes *lanes;
    struct consumer *consumer;
    struct decode decode;
    struct meters meters;
    struct requests requests;
    const char **topics;                  /* NULL ended */
    enum topic_id topic_ids[TOPIC_COUNT]; /* by the consumer's index */
    bool reads[TOPIC_COUNT];
    size_t batch_count_max;
    int64_t inbox_age_us;

    /* the batch in hand */
    struct item *items;
    size_t count;
    struct record *records; /* room for consumer_take() */
    struct held {
        int topic_index;
        int32_t partition;
    } * held; /* partitions that a record of this batch stopped */
    size_t held_count;

    int64_t tick_due_us[TICKS_MAX];
    int64_t prune_due_us;
    int64_t settle_due_us; /* monotonic; 0: nothing to settle */

    /* backoff */
    int64_t outage_ms;
    int64_t outage_until_us; /* monotonic: nothing is taken before */
    struct hold {
        int topic_index;
        int32_t partition;
        int64_t offset;
        int64_t delay_ms;
        int attempts;
    } holds[HOLDS_MAX];
    size_t hold_count;

    /* shared */
    int wake_fd;
    atomic_bool woken;
    atomic_bool stopping;
    atomic_bool in_outage;
    char outage_reason[ERROR_TEXT_BYTES_MAX]; /* written before in_outage is set */
    bool fatal;
    struct error fatal_error;
};

/* ---- batch.c */
/* Handles all items, commits, and lets each go where its outcome says. count 0: serves relay and lanes only.
 */
void batch_run(struct dispatch *dispatch, struct item *items, size_t count);
/* After a commit, also of a tick: outbox rows to the relay, calls to their lanes, items to where they go. */
void batch_let_go(struct dispatch *dispatch, struct item *items, size_t count, int64_t since_us);
void batch_put_back(struct dispatch *dispatch, struct item *items, size_t count);
/* In a batch: the later records of this record's partition are left alone. */
void batch_hold(struct dispatch *dispatch, struct item *item);
bool batch_holds(const struct dispatch *dispatch, const struct record *record);

/* ---- item.c */
/* What a record is, before anything is read. Sets the item's state where there is nothing to handle. */
enum outcome item_decode(struct dispatch *dispatch, struct item *item, struct error *error);
void item_keys(struct dispatch *dispatch, struct item *item);
/* OK: the item's state is set. OUTAGE, FATAL: the batch cannot go on. */
enum outcome item_handle(struct dispatch *dispatch, struct item *item, struct error *error);

/* ---- tick.c */
void ticks_run(struct dispatch *dispatch); /* those that are due */
/* Milliseconds until the next one. */
int64_t ticks_wait_ms(const struct dispatch *dispatch, int64_t now_us);

/* ---- outage.c */
void give_up(struct dispatch *dispatch, const struct error *error);
void outage_begin(struct dispatch *dispatch, const struct error *error);
void outage_end(struct dispatch *dispatch);

#endif

/*
 * loop: what the files of the loop share: the item, the dispatch that holds everything, and the calls between
 * them. Inside flow/ only.
 *
 *   dispatch.c  open, the doors, the loop, drain, close
 *   batch.c     a batch from its doors to the commit, and what follows from it
 *   item.c      one item: decoded, its rows named, handled
 *   route.c     where a record goes that did not succeed: retry topic, waiting room, dead letters
 *   waiters.c   what waited behind a head that is settled
 *   sharing.c   which parts of the keys are this process's, where others work on the database as well
 *   tick.c      ticks, each a unit of work of its own
 *   trace.c     spans, where there are traces
 *   outage.c    what happens when nothing can go on: the store is away, or the process must end
 */
#ifndef FLOW_LOOP_H
#define FLOW_LOOP_H

#include "base/log.h"
#include "base/log_few.h"
#include "flow/chaos.h"
#include "flow/context.h"
#include "flow/copy.h"
#include "flow/crash.h"
#include "flow/decode.h"
#include "flow/dispatch.h"
#include "flow/flood.h"
#include "flow/idempotency.h"
#include "flow/meters.h"
#include "flow/relay.h"
#include "flow/requests.h"
#include "flow/retry.h"
#include "flow/trace.h"
#include "store/inbox.h"
#include "store/instances.h"
#include "store/waiting.h"

#include <stdatomic.h>

enum {
    TICKS_MAX = 16,
    PRUNE_INTERVAL_MS = 10000,
    BATCH_RACES_MAX = 8,   /* a batch that other instances were in the way of is tried again so often */
    WAITERS_KEYS_MAX = 64, /* keys that are drained in one batch            */
    WAITERS_MAX = 500,     /* records that waited, in one batch             */
    HOLD_SAID_MS = 30000,
    SCHEMA_WAITS_MS = 1500, /* since the last hold of that kind, until it counts as over */
    HOLD_SCHEMA_MS = 250,   /* … for the registry to know its schema */
    HOLD_FULL_MS = 1000,    /* a partition waits so long for the room to empty */
    ROOM_FULL_SAID_MS = 2 * HOLD_FULL_MS + 1000, /* … and when none has come for so long, it is over */
    INBOX_PRUNE_MAX = 2000,
};

/* DOOR_WAITING: a record that waited behind one that failed, out of the store. */
enum door { DOOR_RECORD, DOOR_REQUEST, DOOR_ANSWER, DOOR_WAITING };

enum item_state {
    ITEM_OPEN,     /* to be handled                                                             */
    ITEM_DONE,     /* it took effect (or needs none: passed, duplicate); let go after commit     */
    ITEM_RETRIED,  /* its copy for a retry topic is in the outbox; let go after commit           */
    ITEM_WAITS,    /* its key is held: it is in the waiting room; let go after commit            */
    ITEM_REJECTED, /* its dead letter is in the outbox; let go after commit                      */
    ITEM_DROPPED,  /* people gave it up; let go after commit                                     */
    ITEM_HELD,     /* it stays where it is: after commit its partition is held from it on        */
    ITEM_STALE,    /* behind a held one, or taken away by a rebalance: it comes again            */
};

enum hold_reason { HOLD_NOT_DUE, HOLD_ROOM_FULL, HOLD_KEYS_FULL, HOLD_FLOOD, HOLD_SCHEMA, HOLD_REASONS };

/* One thing to be handled in a batch. */
struct item {
    enum door door;
    enum item_state state;
    enum meter_outcome meter;
    int crashes;  /* of the process while it was handled; 1 or more: in a batch of its own */
    bool unknown; /* its schema cannot be had now: its partition waits, the others do not */
    bool refused; /* from before its batch: a constraint refused it, or it kills the process */
    bool own;     /* this process wrote it, and has its effect: only its id is noted (own.h) */
    bool reject;  /* so, or it cannot be decoded: straight to the dead letters, as class */
    /* DOOR_RECORD, DOOR_WAITING */
    struct record record;      /* as delivered */
    const struct record *home; /* as it first was: the same, or a copy in the arena with its origin */
    const struct header *headers;
    size_t header_count;
    const struct origin *origin; /* of a copy on one of our retry topics; else NULL */
    enum topic_id topic;         /* home's; TOPIC_COUNT: none of ours */
    struct decoded decoded;
    struct inbox_note *note;
    enum failure_class class;       /* of the dead letter */
    size_t step;                    /* on the retry ladder where it came from, then where it goes */
    int64_t due_us;                 /* ITEM_RETRIED, HOLD_NOT_DUE: wall time */
    enum hold_reason hold;          /* ITEM_HELD */
    struct waiting_record *waiting; /* DOOR_WAITING: its row in this unit of work */
    struct trace_item trace;
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
    struct own own;
    struct work *work;
    /* The other one, in turn: committed last, its rows perhaps not sent yet. NULL: the store is never waited
     * for, and they are sent at once. */
    struct work *spare;
    struct relay *relay;
    struct lanes *lanes;
    struct consumer *consumer;
    struct instances instances;
    unsigned rebalances;                                       /* of the consumer, at the last beat */
    int64_t release_until_us[INSTANCE_PARTS_MAX];              /* monotonic; 0: it is wanted */
    _Atomic int32_t instances_seen, parts_owned, parts_wanted; /* for other threads */
    struct decode decode;
    struct meters meters;
    struct requests requests;
    const char **topics; /* main ones, then retry topics; NULL ended */
    size_t topic_count;  /* of main ones */
    bool reads[TOPIC_COUNT];
    struct copier copier;
    struct retry retry;
    struct waiting_room room;
    struct flood flood;
    struct log_few retried_few, waits_few, dead_few; /* lines that come by the record */
    struct crash *crash;                             /* NULL: no note is kept */
    struct chaos chaos;
    bool loaded;                          /* room and suspects are counted */
    bool counted_beside;                  /* room: others were there */
    int64_t count_at_us;                  /* monotonic: when it is counted again */
    unsigned races;                       /* lost to other instances, one after the other */
    bool trip;                            /* a reject was not allowed in this batch */
    size_t batch_handled, batch_rejected; /* so far in it, for the guard */
    bool hold_rejected;                   /* a key waits also behind a record that can never succeed */
    bool hold_used_up;                    /* … behind one that has used up its attempts */
    atomic_bool resume_asked;
    atomic_bool in_flood;
    char flood_reason[ERROR_TEXT_BYTES_MAX];    /* by reason_set(), before in_flood */
    atomic_bool schema_waits;                   /* a partition waits for the registry */
    char schema_reason[ERROR_TEXT_BYTES_MAX];   /* by reason_set(), before schema_waits */
    int64_t schema_waits_until_us;              /* monotonic: over when none has come here since */
    _Atomic int64_t held_keys, waiting_records; /* for other threads */
    _Atomic int64_t held_since_us;              /* of the key that is held longest, 0: none */
    _Atomic int64_t turned_us;                  /* the loop's last turn began (monotonic) */
    int64_t held_look_us;                       /* when it is looked up again */
    int64_t held_keys_max;                      /* WAITING_KEYS_MAX */
    atomic_bool room_full;                      /* a partition waits for the waiting room */
    int64_t room_full_until_us;                 /* monotonic: over when none has come here since */
    size_t batch_count_max;
    int64_t inbox_age_us;

    /* the batch in hand */
    struct item *items;
    size_t count;
    size_t batch_items;     /* in the unit of work that is open */
    struct record *records; /* room for consumer_take() */
    struct held {
        int topic_index;
        int32_t partition;
    } * held; /* partitions that a record of this batch stopped */
    size_t held_count;
    struct item *waiters; /* WAITERS_MAX of them */
    size_t waiters_max;   /* fewer after a batch of them failed */
    bool waiters_refused; /* the next one alone: a constraint refuses it */
    struct error waiters_error;
    int64_t hold_said_us[HOLD_REASONS]; /* monotonic; 0: never */

    int64_t tick_due_us[TICKS_MAX];
    int64_t prune_due_us;
    int64_t settle_due_us; /* monotonic; 0: nothing to settle */

    /* backoff */
    int64_t outage_ms;
    int64_t outage_until_us; /* monotonic: nothing is taken before */
    bool outage_of_handler;  /* not the store: only a record that is handled ends it */

    /* shared */
    int wake_fd;
    atomic_bool woken;
    atomic_bool stopping;
    atomic_bool in_outage;
    char outage_reason[ERROR_TEXT_BYTES_MAX]; /* by reason_set(), before in_outage */
    bool fatal;
    struct error fatal_error;
};

/* ---- batch.c */
/* Handles all items, commits, and lets each go where its outcome says. count 0: serves relay and lanes only.
 */
void batch_run(struct dispatch *dispatch, struct item *items, size_t count);
/* Records that waited behind a head that is settled, as a batch of their own. */
void batch_run_waiters(struct dispatch *dispatch);
/* After a commit, also of a tick: outbox rows to the relay, calls to their lanes, items to where they go. */
void batch_let_go(struct dispatch *dispatch, struct item *items, size_t count, int64_t since_us);
void batch_rolled_back(struct dispatch *dispatch);
void batch_put_back(struct dispatch *dispatch, struct item *items, size_t count);
/* In a batch: the later records of this record's partition are left alone. */
void batch_hold(struct dispatch *dispatch, struct item *item, enum hold_reason reason);
bool batch_holds(const struct dispatch *dispatch, const struct record *record);

/* ---- item.c */
void item_clear(struct item *item, enum door door);
/* The process has died on it so many times: refused when it is enough. */
void item_suspect(struct item *item, int crashes);
/* What a record is, before anything is read. Sets the item's state where there is nothing to handle. */
enum outcome item_decode(struct dispatch *dispatch, struct item *item, struct error *error);
void item_keys(struct dispatch *dispatch, struct item *item);
void item_want_held(struct dispatch *dispatch, struct item *item); /* after waiting_answered() */
/* OK: the item's state is set. RETRY: the batch is too large for its memory. OUTAGE, FATAL: it cannot go on.
 */
enum outcome item_handle(struct dispatch *dispatch, struct item *item, struct error *error);

/* ---- route.c: in an item's unit of work, after its handler's changes were undone */
/* True: the item's key is held by another record, so that it waits (or its partition does). */
bool route_behind(struct dispatch *dispatch, struct item *item);
void route_ok(struct dispatch *dispatch, struct item *item);
void route_retry(struct dispatch *dispatch, struct item *item);
void route_reject(struct dispatch *dispatch, struct item *item, enum failure_class class);
void route_drop(struct dispatch *dispatch, struct item *item);
/* Nothing for anybody here: if it waits, it does so no longer. */
void route_passed(struct dispatch *dispatch, struct item *item);
/* After the commit: said and counted. */
void route_tell(struct dispatch *dispatch, const struct item *item);
/* Now and then: what route_tell() left out, as numbers; ending: all of it. */
void route_tell_rest(struct dispatch *dispatch, bool ending);

/* ---- waiters.c */
/* In a unit of work, before anything is read: fills dispatch->waiters, at most limit. */
size_t waiters_find(struct dispatch *dispatch, size_t limit);
bool waiters_paused(const struct dispatch *dispatch);
/* Now and then, beside other processes: what they have changed. */
void waiters_count(struct dispatch *dispatch);
/* Now and then, while keys are held: since when. A unit of work of its own. */
void waiters_look(struct dispatch *dispatch);

/* ---- tick.c */
void ticks_run(struct dispatch *dispatch); /* those that are due */
/* Milliseconds until the next one. */
int64_t ticks_wait_ms(const struct dispatch *dispatch, int64_t now_us);

/* ---- sharing.c */
/* Between units of work, each turn: beats when it is time. False: nothing may be done now. */
MUST_CHECK bool sharing_beat(struct dispatch *dispatch);
int64_t sharing_wait_ms(const struct dispatch *dispatch, int64_t now_us);
/* At the end of a drain. False: the last process on the database has found something in the outbox, and sends
 * it in the next turns. */
MUST_CHECK bool sharing_leave(struct dispatch *dispatch);

/* ---- outage.c */
void give_up(struct dispatch *dispatch, const struct error *error);
void outage_begin(struct dispatch *dispatch, const struct error *error);
/* A copy of one of the three reasons, for other threads. */
void reason_get(const char from[ERROR_TEXT_BYTES_MAX], char into[ERROR_TEXT_BYTES_MAX]);
void outage_probe(struct dispatch *dispatch);
void outage_passed(struct dispatch *dispatch, const struct item *items, size_t count);
void outage_end(struct dispatch *dispatch);
/* A partition waits for the registry: said at /readyz while it does. */
void schema_wait_begin(struct dispatch *dispatch, const struct error *error);
void schema_wait_look(struct dispatch *dispatch);
/* A partition waits for the waiting room: metric and status say "backlog" while it does. */
void room_full_begin(struct dispatch *dispatch);
void room_full_look(struct dispatch *dispatch);
/* The flood guard: nothing is taken until it is probed or an operator says go on. */
void flood_begin(struct dispatch *dispatch, const struct error *error);
void flood_look(struct dispatch *dispatch); /* is it time to probe, or over? */

#endif

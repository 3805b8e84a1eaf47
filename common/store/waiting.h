/*
 * waiting: the waiting room. While a record of a key fails, the later ones of that key wait here, in order;
 * other keys notice nothing.
 *
 * Two tables. `held` has a row for each key that waits, with its head: the record that failed.
 *
 *   RETRYING  the head is on a retry topic
 *   DEAD      the head is a dead letter: the key waits until it is redriven or dropped
 *   DRAINING  the head is settled: the waiting ones are handled in their order, until none is left
 *
 * `waiting` has the records behind it as they came. A key is held in one topic: order is promised per key of
 * a topic, and a handler may well wait for what comes through another one.
 *
 * Bound: records_max rows in `waiting`; past it waiting_add() refuses and the partition has to wait. All
 * functions are called inside a unit of work, on the loop's thread; what they change stands with its commit,
 * and an item's undo takes it back (waiting_item_begin, waiting_item_undo).
 */
#ifndef STORE_WAITING_H
#define STORE_WAITING_H

#include "store/rows.h"
#include "wire/event.h"

enum held_state { HELD_RETRYING = 1, HELD_DEAD = 2, HELD_DRAINING = 3 };

struct held_key {
    struct text topic, key; /* the primary key */
    int64_t state;          /* enum held_state */
    struct id head;         /* its event id */
    int64_t attempts;       /* of the head, all deliveries */
    int64_t waiting;        /* rows behind it */
    int64_t next_seq;
    int64_t since_us;
    int64_t due_us; /* RETRYING: the head's next attempt */
    struct text reason;
};

/* A record as it came. */
struct waiting_record {
    struct text topic, key;
    int64_t seq; /* given by waiting_add() */
    int64_t partition, offset, timestamp_ms;
    int64_t value_null;
    struct text value;
    struct text headers; /* header_blob */
    int64_t since_us;
};

extern const struct rows_table held_table, waiting_table;

enum {
    WAITING_SLOTS = 1 << 16,    /* of the filter in front of `held`                              */
    WAITING_PENDING_MAX = 4096, /* changes of it in one unit of work; more leave "perhaps" behind */
    WAITING_LOADED_MAX = 10000, /* keys that are counted into it at start; with more, all is "perhaps" */
};

/*
 * What is known of the two tables without asking them: counts, and a counting filter of the held keys, so
 * that the many that are not held cost no look-up. "Perhaps" too often is slow, never wrong.
 *
 * Where other processes work on the database as well (PostgreSQL) the filter holds what this unit of work adds, and
 * the table is asked: each unit of work asks with its first flight whether any key is held at all (waiting_ask,
 * waiting_answered), and looks for its own keys only then. The counts are then as of the last waiting_count(), and
 * records_max is passed by what others add in between.
 */
struct waiting_room {
    int64_t records_max;
    bool shared;           /* other processes change the tables */
    bool asking, none;     /* of the open unit of work: is any key held? No. */
    int64_t keys, records, draining; /* committed */
    uint8_t slots[WAITING_SLOTS];    /* held keys that fall into it; UINT8_MAX: perhaps for ever */
    struct waiting_pending {
        uint16_t slot;
        bool up; /* counted already; else to be counted down after the commit */
    } pending[WAITING_PENDING_MAX];
    size_t pending_count, item_pending;
    struct waiting_delta {
        int64_t keys, records, draining;
    } work, item; /* of the open unit of work; as it was when the item began */
};

/* In a unit of work at start: counts what is there. */
void waiting_load(struct waiting_room *room, struct work *work, int64_t records_max);
/* Counts again, where others change the tables. Not within a unit of work. */
MUST_CHECK enum outcome waiting_count(struct waiting_room *room, struct store *store, struct error *error);
/* Where others change the tables, around work_read(): until it is answered nothing is wanted. True: keys are held, and
 * what is wanted now is to be read by another work_read(). */
void waiting_ask(struct waiting_room *room, struct work *work);
bool waiting_answered(struct waiting_room *room, struct work *work);
void waiting_item_begin(struct waiting_room *room);
void waiting_item_undo(struct waiting_room *room);
void waiting_committed(struct waiting_room *room);
void waiting_rolled_back(struct waiting_room *room);

/* Names what waiting_held() will ask for. */
void waiting_want(const struct waiting_room *room, struct work *work, struct text topic, struct text key);
/* NULL: this key is not held. */
struct held_key *waiting_held(const struct waiting_room *room, struct work *work, struct text topic,
                              struct text key);

/* The key's record with this id has failed: it is the head now, RETRYING or DEAD. held: as waiting_held()
 * gave it, or NULL. */
void waiting_hold(struct waiting_room *room, struct work *work, struct held_key *held, struct text topic,
                  struct text key, struct id head, enum held_state state, int64_t attempts, int64_t due_us,
                  struct text reason, int64_t now_us);
/* The head is settled, or given up: what waits is drained; a key with nothing waiting is let go. */
void waiting_release(struct waiting_room *room, struct work *work, struct held_key *held);

/* A record arrives for a held key. False: the room is full, nothing changed. */
MUST_CHECK bool waiting_add(struct waiting_room *room, struct work *work, struct held_key *held,
                            const struct waiting_record *record, const struct header *headers,
                            size_t header_count);
/* A waiting record was handled or moved on; the last one of a draining key lets it go. */
void waiting_taken(struct waiting_room *room, struct work *work, struct held_key *held,
                   struct waiting_record *record);

/* Since when the key that has waited longest is held, 0 for none; what this unit of work changed is not
 * looked at. */
int64_t waiting_oldest_us(struct work *work);
/* Keys that are draining and that nobody else has in hand, at most limit. */
size_t waiting_draining(struct work *work, size_t limit, struct held_key ***ret);
/* The next ones of a key, in order, at most limit. */
size_t waiting_next(struct work *work, struct text topic, struct text key, size_t limit,
                    struct waiting_record ***ret);
#endif

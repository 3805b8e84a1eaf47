/*
 * outbox: records to be sent, written in the transaction of the effect that they tell of.
 *
 * Order: seq. Rows of one key are written by one loop, or by several under that key's row lock, so that their
 * seq is their commit order. A row is gone when it is deleted, which is after the broker has acknowledged it.
 *
 * In the table many rows of one transaction stand as one (store/pack.h), which is deleted when all of them
 * are acknowledged. What is acknowledged until then is kept in memory (store/acks.h), and not read again;
 * after a crash it is, and sent again, as all that was not deleted.
 *
 * With several instances on one database (store/instances.h) a row bears the part of its key, and whether its
 * writer did not own that part: it is the part's owner who sends it.
 */
#ifndef STORE_OUTBOX_H
#define STORE_OUTBOX_H

#include "store/rows.h"
#include "wire/event.h"

enum {
    OUTBOX_READ_PACKS_MAX = 128,      /* rows of the table in one reading: about a megabyte */
    OUTBOX_READ_BYTES_MAX = 16 << 20, /* … where events are large: no more of the unit of work's arena */
};

struct outbox_row {
    int64_t seq; /* given by work_commit(); goes up, with gaps, and never comes again; at least 1 */
    struct text topic;
    int32_t partition; /* of the record; -1: by its key */
    struct text key;
    struct text value;
    bool key_null;
    bool value_null;
    const struct header *headers; /* wire/event.h */
    size_t header_count;
    int64_t created_us;
    int32_t part;   /* given by work_commit() */
    bool elsewhere; /* given by work_commit(): not this instance's to send; read: another had written it */
};

/* In the item in hand. All that row points to is kept by reference until work_commit(): it must live as
 * long as the work's arena. */
void outbox_add(struct work *work, const struct outbox_row *row);
/* After work_commit(): what was added, in the order of seq, until the next work_begin(): by part, and within
 * a part in the order in which it was added. */
size_t outbox_added(const struct work *work, const struct outbox_row **ret_rows);
/* Acknowledged with this work's commit. What is unknown, or was acknowledged before, is passed over. */
void outbox_done(struct work *work, const int64_t *seqs, size_t count);
/* To be set aside with this work's commit: the broker will never take it. Kept in the table outbox_refused,
 * not read again. */
void outbox_refused(struct work *work, int64_t seq, struct text reason);
/* Rows of this instance's parts with seq above after, and those that other instances wrote, in order, at most
 * limit, for the relay's start and after a fault; without those that are acknowledged. *ret_more: there may
 * be more than were read, also where none were. In the arena. Between work_begin() and work_commit(). */
size_t outbox_read(struct work *work, int64_t after_seq, size_t limit, const struct outbox_row **ret_rows,
                   bool *ret_more);
/* Rows that other instances have written for parts of this one, in order, at most limit, as above. */
size_t outbox_read_elsewhere(struct work *work, size_t limit, const struct outbox_row **ret_rows,
                             bool *ret_more);
/* The same, to be read in the flight of the commit, when it holds all its locks: whoever wrote an earlier row
 * of a key that this work touches has committed by then. Given after work_commit(), until the next
 * work_begin(). */
void outbox_want_elsewhere(struct work *work, size_t limit);
/* False: nothing was written and so nothing read. *ret_more: there are more than were read. */
bool outbox_elsewhere(const struct work *work, const struct outbox_row **ret_rows, size_t *ret_count,
                      bool *ret_more);
/* Rows there are, those acknowledged among them whose pack is not, and the oldest's created_us (0: none), of
 * parts that this instance owns; beside other instances as of the last beat, and about. Kept in memory, any
 * thread. */
int64_t outbox_rows(const struct store *store);
int64_t outbox_oldest_us(const struct store *store);

#endif

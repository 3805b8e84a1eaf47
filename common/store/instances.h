/*
 * instances: who works on this database, and which part of its keys is whose.
 *
 * Several processes of one service may share a PostgreSQL database. What they do to its rows is kept apart by
 * row locks; what follows from a commit - a record to be sent, a call to the outside - must be done by one of
 * them, in order by key. So keys are divided into parts, by the same hash as Kafka's partitions of the
 * service's first topic, and each part has one owner: whoever Kafka has given that partition, as soon as the
 * one before it has let go.
 *
 * Two tables. `instance`: a row for each process, with the time of its last beat by the database's clock. One
 * that has not beaten for INSTANCE_DEAD_MS is buried by another: its row is deleted, its parts are free.
 * `part`: number and owner. Every commit holds its own instance's row (FOR KEY SHARE), so that one that was
 * buried (stopped, cut off) cannot commit any more: it ends with exit code 75, and comes back as a new one.
 * So an owner changes only by its own hand, between two of its commits, or by its death.
 *
 * With SQLite there is one process, one part, and this costs nothing. Thread: the loop's.
 */
#ifndef STORE_INSTANCES_H
#define STORE_INSTANCES_H

#include "base/ids.h"
#include "store/store.h"

enum {
    INSTANCE_BEAT_MS = 2000,  /* between two beats of one that has nothing to take or to release      */
    INSTANCE_TAKE_MS = 200,   /* … while a part that it wants is still another's                      */
    INSTANCE_DEAD_MS = 15000, /* without a beat: buried by the next one that looks                    */
    INSTANCE_STEADY_MS =
        5000, /* a longer gap between two own beats: the database, or this process, was away */
    INSTANCE_PARTS_MAX = 1024,    /* partitions of the first topic; more share parts                      */
    INSTANCE_OUTBOX_MAX = 300000, /* packs of the outbox that a beat looks at, to count its own             */
};

struct instances {
    bool shared; /* false: SQLite; one part, always this process's */
    struct id self;
    int32_t part_count; /* 0: not known yet, nothing is owned */
    bool owned[INSTANCE_PARTS_MAX];
    bool wanted[INSTANCE_PARTS_MAX]; /* set by the flow before a beat: take it as soon as it is free */
    bool busy[INSTANCE_PARTS_MAX];   /* set by the flow: not wanted any more, and not to be released yet */
    bool gained[INSTANCE_PARTS_MAX]; /* by the last beat: read what its owner before has left behind */
    int32_t owned_count, wanted_count, gained_count;
    int32_t others;  /* processes beside this one, by the last beat */
    int64_t beat_us; /* monotonic, of the next; 0: at once */
    /* Its own. */
    bool joined;          /* its row is there, as far as it knows */
    int64_t beaten_us;    /* monotonic, of the last beat; 0: none */
    int64_t bury_from_us; /* after a gap the others get time to beat as well */
    int32_t part_rows;    /* in the table `part` */
};

/* The part of a key. 0 where part_count is not known. A record without a key has part 0. */
int32_t instances_part(const struct instances *instances, struct text key, bool key_null);
/* May this process do what follows from a commit of that part? Not any more once it is not wanted. */
bool instances_own(const struct instances *instances, int32_t part);

/*
 * Beats: says that this process lives, buries the dead, releases what is owned and neither wanted nor busy,
 * takes what is wanted and free. While it is alone it takes every part, whatever Kafka says, and wants them:
 * there is nobody else to send what lies there. Does nothing before beat_us. instances stays where it is
 * until instances_leave(): commits look into it. part_count is the larger of what the flow has set and what
 * the table says: it may grow; rows keep the part they were written with, and a part that no key falls into
 * any more is owned by whoever asks first. Not within a unit of work. OK, OUTAGE as everywhere; FATAL with
 * exit code 75: this process was buried.
 */
MUST_CHECK enum outcome instances_beat(struct store *store, struct instances *instances, struct error *error);
/* At the end, with nothing under way: releases all and deletes its own row, as instances_leave(). *ret_left
 * false: not so, as it is the last one and the outbox is not empty. Another wrote that for one that had
 * looked for the last time: it is to be read after a beat. Of several that leave together the last one finds
 * it. */
MUST_CHECK enum outcome instances_leave_empty(struct store *store, struct instances *instances,
                                              bool *ret_left, struct error *error);
/* At the end: releases all, deletes its own row. */
void instances_leave(struct store *store, struct instances *instances);

#endif

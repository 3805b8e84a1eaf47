/*
 * The inside of lanes, for lanes.c (calls from their beginning to their answer) and lanes_table.c (what the
 * table says, and whose calls are whose) only. Thread: the loop's, but for what struct lanes has under lock.
 */
#ifndef FLOW_LANES_INSIDE_H
#define FLOW_LANES_INSIDE_H

#include "flow/bucket.h"
#include "flow/lanes.h"
#include "flow/trace.h"
#include "net/net.h"
#include "store/instances.h"

#include <pthread.h>
#include <stdatomic.h>

enum place_state {
    PLACE_WAITING,  /* in line: by key, then by due time                  */
    PLACE_BEGUN,    /* marked active in the open transaction              */
    PLACE_ACTIVE,   /* sent                                               */
    PLACE_ANSWERED, /* came back, with the loop                           */
    PLACE_SETTLED,  /* gone with the open transaction                     */
    PLACE_FOREIGN,  /* active at another instance: its key waits          */
};

/* A call in memory. Its payload is read when it begins, and let go when it is sent. */
struct place {
    struct place *previous, *next; /* in the lane's line, in order of creation */
    struct line *line;
    struct id id;
    uint64_t key_hash; /* two keys with one hash only wait for each other */
    int64_t created_us, part;
    int64_t due_us;
    enum place_state state;
    /* the open transaction, for its rollback */
    bool touched;
    bool fresh; /* its row is of this transaction */
    enum place_state before;
    int64_t due_before_us;
};

struct line {
    const struct lane *lane;
    struct lane_limits limits;
    struct place *first, *last; /* every place of the lane, oldest first */
    size_t places;
    size_t active;             /* begun, active or answered */
    size_t foreign;            /* active at other instances */
    int64_t look_at_us;        /* nothing becomes due before; 0: look now */
    bool more;                 /* the table holds calls that have no place */
    int64_t loaded_created_us; /* calls before here have a place or are gone */
    /* outage: one probe at a time */
    int64_t outage_ms;
    int64_t closed_until_us;
    int64_t seen_us; /* the wall, when it was last looked at */
    struct bucket bucket;
    struct metric *seconds[4], *in_flight, *waiting; /* ok, retry, failed, outage */
};

/* What came back; also the carrier of a call while it is sent. */
struct lane_answer {
    struct lane_answer *next;
    struct lanes *lanes;
    struct line *line;
    struct place *place;
    struct arena *arena; /* the call's own copy, until it is answered */
    struct call call;
    struct net_result result;
    char *body;
    struct trace_call trace;
};

struct lanes {
    struct line line[LANES_MAX];
    size_t count;
    void *state;
    struct net *net;
    struct spans *spans; /* NULL: no traces */
    void (*wake)(void *owner);
    void *wake_owner;
    struct arena *arena; /* for building a request */
    bool loaded;
    bool stopped;
    const struct instances *instances; /* NULL: this process is alone */
    bool had[INSTANCE_PARTS_MAX];      /* parts that were owned when the places were filled */
    bool had_others;
    int64_t had_beat_us;
    bool loading;    /* by the open transaction */
    bool reload;     /* it was rolled back: what the places stand for is not sure */
    bool looking;    /* at what other instances do; in the open transaction */
    int64_t look_us; /* monotonic: the next time */
    int64_t last_created_us;
    struct lane_answer *begun;     /* to be sent after commit */
    struct lane_answer *returning; /* ambiguous, to be taken after commit */
    struct place **touched;        /* by the open transaction */
    size_t touched_count, touched_capacity;
    struct added { /* calls asked for in the open transaction, not yet in line */
        struct line *line;
        struct call call; /* its texts are the work's */
    } * added;
    size_t added_count, added_capacity, added_mark;

    pthread_mutex_t lock;
    struct lane_answer *answered, **answered_end;
    atomic_size_t sent; /* handed to the net, not yet answered */
};

/* ---- who works on the database */

static inline bool lanes_shared(const struct lanes *lanes)
{
    return lanes->instances && lanes->instances->shared;
}

static inline bool lanes_beside_others(const struct lanes *lanes)
{
    return lanes_shared(lanes) && lanes->instances->others > 0;
}

static inline bool lanes_owns(const struct lanes *lanes, int64_t part)
{
    return !lanes_shared(lanes) ||
           (part >= 0 && part < INSTANCE_PARTS_MAX && instances_own(lanes->instances, (int32_t)part));
}

static inline int64_t lanes_part(const struct lanes *lanes, struct text key)
{
    return lanes_shared(lanes) ? instances_part(lanes->instances, key, false) : 0;
}

static inline struct id lanes_self(const struct lanes *lanes)
{
    return lanes_shared(lanes) ? lanes->instances->self : (struct id){{0}};
}

static inline bool lanes_holds(const struct lanes *lanes, const struct call *call)
{
    return !lanes_shared(lanes) || id_equal(call->holder, lanes->instances->self);
}

/* ---- places (lanes.c) */

/* In line by its time of creation. NULL when out of memory. */
struct place *place_insert(struct line *line, const struct call *call);
/* The same within the bound; past it, as without memory, NULL, and the line knows that there are more. */
struct place *place_add(struct line *line, const struct call *call);
void place_remove(struct place *place);
/* The only way from one state to another inside a transaction. False when out of memory: then nothing has
 * changed. */
bool place_go(struct lanes *lanes, struct place *place, enum place_state state);
/* A carrier with a copy of the call of its own. NULL when out of memory. */
struct lane_answer *lane_answer_new(struct lanes *lanes, struct line *line, struct place *place,
                                    const struct call *call);
void lane_answer_drop(struct lane_answer *answer);

/* ---- the table (lanes_table.c) */

/* Strictly ascending: the order of calls is the order of their creation. */
void lanes_follow(struct lanes *lanes, struct call *row);
/* An earlier call of a key that another instance asked for goes before one that would begin now, or is new.
 */
void lanes_look_elsewhere(struct lanes *lanes, struct work *work, int64_t now_us);

#endif

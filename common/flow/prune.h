/*
 * prune: takes rows that have come to their end out of a table, by age and in bounded steps, for a tick.
 *
 * A table is walked by its primary key, PRUNE_ROWS_MAX rows a step, from where the last step ended; a walk
 * that has come to the end begins again PRUNE_PAUSE_US later. There is no index on the age: it would be
 * written with every change of every row, for rows that are looked at once.
 *
 * Each instance walks by itself; a row that another has in hand is passed over until the next walk.
 *
 * What a row guarded is gone with it: an event that comes again later takes effect again. So the age
 * (FINISHED_AGE) is far above what may still bring one: the topics' retention, the dead letters', and
 * INBOX_AGE.
 */
#ifndef FLOW_PRUNE_H
#define FLOW_PRUNE_H

#include "flow/handler.h"

enum {
    PRUNE_ROWS_MAX = 500,
    PRUNE_STEP_MS = 1000, /* interval of the tick */
    PRUNE_KEY_BYTES_MAX = 256,
    PRUNE_KEY_COLUMNS_MAX = 2,
};
#define PRUNE_PAUSE_US (INT64_C(3600) * 1000000)

/* A constant table at file scope. All key columns are texts, at most PRUNE_KEY_COLUMNS_MAX. */
struct prune_table {
    const struct rows_table *table;
    /* The next rows: "order_id > $1 ORDER BY order_id", "(a, b) > ($1, $2) ORDER BY a, b". */
    const char *next;
    /*
     * Has the row come to its end, before before_us? It is then deleted; what belongs to it is the callee's
     * to delete, before that.
     */
    bool (*over)(struct work *work, void *row, int64_t before_us);
    bool always; /* walked though nothing is taken (before_us then lies before all time): over() has more to
                    do */
};

struct prune {
    int64_t age_us; /* 0: nothing is ever taken */
    int64_t begin_us;
    size_t lengths[PRUNE_KEY_COLUMNS_MAX];
    char keys[PRUNE_KEY_COLUMNS_MAX][PRUNE_KEY_BYTES_MAX];
};

/* One step, inside a unit of work of its own, first thing in it. Returns how many rows were looked at. */
size_t prune_step(struct work *work, struct prune *prune, const struct prune_table *table);

#endif

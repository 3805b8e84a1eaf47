/*
 * table: what `weir up` shows while it runs: each service's metrics page and the pulse of the orders, redrawn each second on a
 * terminal, else as one line every few seconds, if it says anything new, and else one a minute, so that a log shows life.
 */
#ifndef WEIR_TABLE_H
#define WEIR_TABLE_H

#include "ask.h"
#include "pulse.h"

enum { TABLE_SERVICES_MAX = 8, TABLE_LINE_MS = 5000, TABLE_BEAT_MS = 60000, TABLE_DRAW_MS = 1000, TABLE_ASK_MS = 1000 };

struct table_service {
    const char *name;
    int port;
    /* As last seen; kept over a service's death, and begun again from 0 with its next life. */
    bool up;
    int64_t handled, duplicates, lag, outbox_rows;
    int64_t retried; /* records moved to a retry topic or held back to be tried again, and calls that came to nothing */
    int64_t waiting; /* keys whose records wait behind one that failed */
    int64_t dead;    /* letters, of this life of the service */
    int64_t calls;   /* to the outside, under way or waiting for their turn */
    const char *paused;        /* "outage", "flood", …: no records are taken; NULL: they are */
    bool peer_away;            /* what it calls has only failed since it last answered */
    int64_t calls_ok, calls_away; /* answers that settle a call; ones that say that nobody is there */
    double handled_per_second;
    int64_t asked_us, handled_ever; /* over all its lives */
    int64_t drawn_us, drawn_ever;   /* when last drawn: the rate is since then */
};

struct table {
    struct table_service services[TABLE_SERVICES_MAX];
    size_t count;
    bool terminal, colour;
    int lines_drawn; /* of the table that stands on the terminal now */
    int64_t begun_us;
    uint64_t line_hash; /* of the last line, but for its time */
    int64_t line_us;    /* when it was printed; 0: none yet */
};

/* Asks every service for its metrics, at most TABLE_ASK_MS each. */
void table_ask(struct table *table, struct ask *ask);
/* Everything that the services have read is handled, retries included, everything they wrote is on the topics, and no call is
 * under way. What waits behind a dead letter waits for people. */
bool table_idle(const struct table *table);
void table_draw(struct table *table, const struct pulse_counts *counts);
/* Before anything else is printed: the next table is drawn below it. */
void table_leave(struct table *table);

#endif

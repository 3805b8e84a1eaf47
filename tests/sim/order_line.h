/*
 * order_line: the loop as a service "order" runs it, on PostgreSQL and a Kafka in memory (sim.h), for tests
 * of one process's loop. The clock is held. What fails is a failed assertion.
 */
#ifndef SIM_ORDER_LINE_H
#define SIM_ORDER_LINE_H

#include "flow/dispatch.h"
#include "sim/sim.h"
#include "support/cluster.h"

struct order_line {
    struct sim sim;
    char url[CLUSTER_URL_BYTES];
    struct config *config;
    struct registry *registry;
    struct metrics *metrics;
    struct store *store;
    struct dispatch *dispatch;
    struct error error;
};

/* A database of its own with flow's tables, topics, and nothing that runs yet. arguments: settings of the
 * loop, as on a command line, NULL ended. line is all zero. */
void order_line_make(struct order_line *line, struct cluster *cluster, char **arguments);
/* The loop, to be run by dispatch_run() and closed by the test. */
void order_line_open(struct order_line *line, const struct subscription *subscriptions);
void order_line_end(struct order_line *line);

#endif

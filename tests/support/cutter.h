/*
 * cutter: a way to a cluster (support/cluster.h) that is cut at the n-th message. A thread of the test passes
 * the messages of PostgreSQL's protocol on, one by one; at that message both ends are closed, before it is
 * passed.
 */
#ifndef SUPPORT_CUTTER_H
#define SUPPORT_CUTTER_H

#include "support/cluster.h"

#include <stdbool.h>

enum cutter_side {
    CUTTER_TO_SERVER, /* it is never heard, and what follows it neither */
    CUTTER_TO_CLIENT, /* it was done, and the answer is lost */
};

struct cutter;

/* url: of a database of the cluster; through: the same by the cutter. */
struct cutter *cutter_start(const struct cluster *cluster, const char *url, char through[CLUSTER_URL_BYTES]);
void cutter_end(struct cutter *cutter);
/* The n-th message from now that goes to that side; 0: none. refuse: that many connections after it find
 * nobody. */
void cutter_cut(struct cutter *cutter, enum cutter_side side, uint64_t at, int refuse);
/* After cutter_cut(): once more, so many messages to that side after the first time. */
void cutter_cut_again(struct cutter *cutter, uint64_t after);
uint64_t cutter_messages(struct cutter *cutter, enum cutter_side side); /* since cutter_cut() */

#endif

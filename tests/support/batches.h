/*
 * batches: a worker that does what the loop does, over whatever fails: on an outage it tries the batch again,
 * on anything worse it begins anew, and the inbox keeps it from doing a batch twice. For tests in which the
 * store's parts fail in turn.
 */
#ifndef SUPPORT_BATCHES_H
#define SUPPORT_BATCHES_H

#include <stdbool.h>
#include <stdint.h>

enum { BATCHES = 4, BATCHES_TRIES_MAX = 60 };

/* Until all are done, from the first; *acknowledged is the last one that is. False: never got there. */
bool batches_work_through(const char *url, int64_t *acknowledged);
void batches_stop(void); /* what a batches_work_through() that gave up left open */
/* Faults are over: how many are there, from the first without a gap, each once and with its outbox rows? -1:
 * the store cannot be opened. */
int64_t batches_there(const char *url);

#endif

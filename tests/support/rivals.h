/*
 * rivals: orders for instances of a service that share a database, each a process (handlers_in_processes()):
 * they want the same rows at the same moment, and crosswise.
 */
#ifndef SUPPORT_RIVALS_H
#define SUPPORT_RIVALS_H

#include "support/handlers.h"

enum { RIVALS_INSTANCES = 3, RIVALS_ORDERS = 90, RIVALS_BATCH = 6, RIVALS_SKUS = 4 };

extern const struct text rivals_skus[RIVALS_SKUS]; /* but for "hot" */

/* Every order wants one of "hot" and one of rivals_skus, in either order. Until the arena's end. */
struct order_placed rivals_order(struct arena *arena, int instance, int number);
/* RIVALS_ORDERS of them, in batches of RIVALS_BATCH. */
void rivals_place(struct handlers *handlers, int instance);
/* Of their database: the first column of the first row. */
int64_t rivals_number(const struct handlers *handlers, const char *sql);

#endif

/*
 * items: an order's items as a service keeps them in a row until the order is decided: a few bytes an item
 * instead of a table of their own.
 *
 * A count, then for each item SKU length, SKU, quantity and unit price; numbers are 7 bits a byte, lowest
 * first. Pure, any thread.
 */
#ifndef SERVICES_ITEMS_H
#define SERVICES_ITEMS_H

#include "wire/events.h"

enum { ITEMS_COUNT_MAX = 100 }; /* of a valid order */

/* Of a valid order: quantities and prices are not negative. {NULL, 0} past the arena's bound. */
struct text items_pack(struct arena *arena, const struct order_item *items, size_t count);
/* SKUs point into packed. False where packed is not what items_pack() made, or past the arena's bound. */
bool items_unpack(struct arena *arena, struct text packed, struct order_item **ret_items, size_t *ret_count);

#endif

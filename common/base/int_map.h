/*
 * int_map: values of one size, each by a number above 0. Open addressing, at most half full; what stands
 * behind one that is removed moves up, so that it may change for as long as the process lives. One owner, one
 * thread. It has no bound: its owner names one.
 *
 * A value is where it is until the next call that reserves or removes.
 */
#ifndef BASE_INT_MAP_H
#define BASE_INT_MAP_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All zero: empty. */
struct int_map {
    int64_t *keys;         /* 0: an empty place */
    unsigned char *values; /* behind the keys, in the same memory */
    size_t value_bytes;
    size_t count, mask; /* mask + 1 places; 0: none yet */
};

void int_map_free(struct int_map *map);
/* Room for so many keys more, so that int_map_put() cannot fail. value_bytes: the same each time. False: out
 * of memory, and all is as it was. */
MUST_CHECK bool int_map_reserve(struct int_map *map, size_t value_bytes, size_t more);
/* Its value; all zero where the key is new. There is room. */
void *int_map_put(struct int_map *map, int64_t key);
/* NULL: it is not there. */
void *int_map_find(const struct int_map *map, int64_t key);
void int_map_remove(struct int_map *map, int64_t key); /* also where it is not there */
void int_map_clear(struct int_map *map);               /* keeps its memory */
/* One after the other, in no order: *at is 0 at first. False: there is none left. Nothing is put or removed
 * meanwhile. */
bool int_map_next(const struct int_map *map, size_t *at, int64_t *ret_key, void **ret_value);

#endif

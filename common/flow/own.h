/*
 * own: which records this process wrote itself, of events whose effect its own rows bore already when they
 * were emitted (emit_as.effected). The service reads the topic, as what others write there is news to it, and
 * what it wrote comes back: to decode that and to look up rows which it cannot change costs as much as all
 * else about it. So it is known again by its value, whole, noted in the inbox, and let go.
 *
 * A hint, and forgotten at any time: after a restart, in another process of the service, or when many are on
 * their way, the record is handled like any other, which changes nothing.
 *
 * Inside flow/ only; the loop's thread.
 */
#ifndef FLOW_OWN_H
#define FLOW_OWN_H

#include "base/ids.h"

enum { OWN_PLACES = 1 << 12 }; /* 96 KiB from the first event on; one that takes another's place ends it */

/* All zero: none yet. */
struct own {
    struct own_place {
        uint64_t hash; /* 0: empty */
        struct id id;
    } * places;
};

void own_free(struct own *own);
uint64_t own_hash(struct text value); /* never 0 */
/* Of an event that is committed to the outbox: its value's hash and its id. Without memory it is not known
 * again. */
void own_add(struct own *own, uint64_t hash, struct id id);
/* False: it is not known. */
bool own_find(const struct own *own, struct text value, struct id *ret_id);

#endif

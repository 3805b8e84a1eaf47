/*
 * own: which records this process wrote itself, of events whose effect its own rows bore already when they
 * were emitted (emit_as.effected). The service reads the topic, as what others write there is news to it, and
 * what it wrote comes back: to decode that and to look up rows which it cannot change costs as much as all
 * else about it. So it is known again by its key and its value, noted in the inbox, and let go. Of the value
 * it is a hash that is kept, which whoever may write to the topic could meet on purpose, but not for the key
 * of another order.
 *
 * A hint, and forgotten at any time: after a restart, in another process of the service, or when many are on
 * their way, the record is handled like any other, which changes nothing.
 *
 * Inside flow/ only; the loop's thread.
 */
#ifndef FLOW_OWN_H
#define FLOW_OWN_H

#include "base/ids.h"

enum { OWN_PLACES = 1 << 12 }; /* 192 KiB from the first event on; one that takes another's place ends it */

struct own_mark {
    struct id key;
    uint64_t hash; /* of the value, never 0 */
    size_t length; /* its bytes */
};

/* All zero: none yet. */
struct own {
    struct own_place {
        struct own_mark mark;
        struct id id;
    } * places;
};

void own_free(struct own *own);
struct own_mark own_mark_of(struct text key, struct text value);
/* Of an event that is committed to the outbox, with its id. Without memory it is not known again. */
void own_add(struct own *own, const struct own_mark *mark, struct id id);
/* False: it is not known. */
bool own_find(const struct own *own, struct text key, struct text value, struct id *ret_id);

#endif

/*
 * newcomers: which rows are there for certain not, as far as this process can know? A key that comes for the
 * first time has, almost always, no row yet, and to look for it costs the database as much as a third of the
 * insert. So the keys that came lately are remembered in two Bloom filters, of which the older one is emptied
 * when the younger one is full: what was added is never missed among the last NEWCOMERS_KEYS, and now and
 * then a key is taken for known that is new, which costs a look.
 *
 * That a row is there all the same (written before the start, long ago or by another instance) only the
 * database can tell, when the insert meets it. Then nothing passes for a while, longer each time until once
 * all went well: a topic that is read again from its start is looked up and not tried.
 *
 * Inside common/store only; the loop's thread.
 */
#ifndef STORE_NEWCOMERS_H
#define STORE_NEWCOMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NEWCOMERS_KEYS = 1 << 16, /* of each filter */
    NEWCOMERS_BITS =
        1 << 20, /* of each filter: 128 KiB. Of new keys about one in a hundred is taken for known */
    NEWCOMERS_DOUBT_MIN = 16, /* commits */
    NEWCOMERS_DOUBT_MAX = 4096,
};

/* All zero: nothing came yet. */
struct newcomers {
    uint64_t *bits; /* both filters; NULL: none yet */
    size_t young;   /* the younger one: 0 or 1 */
    size_t count;   /* of keys in it */
    unsigned doubt; /* so many commits more nothing passes */
    unsigned doubt_next;
};

void newcomers_free(struct newcomers *newcomers);
/* hash: of the key, all 64 bits alike good. True: it comes for the first time, and is to be taken for one
 * that has no row. False also where there is no memory. It is remembered in either case. */
bool newcomers_pass(struct newcomers *newcomers, uint64_t hash);
/* A unit of work that asked was committed. */
void newcomers_right(struct newcomers *newcomers);
/* … or met a row that was taken for none. */
void newcomers_wrong(struct newcomers *newcomers);

#endif

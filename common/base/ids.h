/*
 * ids: UUIDs. Version 7 where Weir makes one (so that rows of new ids land together), derived ones
 * where doing a thing again must give the same id.
 */
#ifndef BASE_IDS_H
#define BASE_IDS_H

#include "base/text.h"

struct id {
    uint8_t bytes[16];
};

enum { ID_TEXT_BYTES = 36 };

/* Any thread. Ids of one process are strictly increasing. */
struct id id_new(void);
/*
 * The same parent and name always give the same id. It takes over the parent's first 48 bits, so
 * that ids derived from time-ordered ids are time-ordered; the rest is SHA-256(parent, SHA-256(name))
 * (version 8).
 */
struct id id_derive(struct id parent, struct text name);
/* The same in two steps, for who derives many ids by one name. */
struct id_name {
    unsigned char digest[32];
};
struct id_name id_name_of(struct text name);
struct id id_derive_named(struct id parent, const struct id_name *name);
/* Any text as an id: a UUID as it is (either case), anything else by SHA-256 (version 8). */
struct id id_from_text(struct text text);
/* Only a UUID in its 36 byte form. */
bool id_parse(struct text text, struct id *ret);
/* A UUID with capitals is the same id: *text becomes its lower case, in the arena. Anything else stays as it
 * is. False: no memory. */
struct arena;
MUST_CHECK bool id_lower(struct arena *arena, struct text *text);
/* Lower case, no NUL. Returns a slice of into. */
struct text id_to_text(struct id id, char into[ID_TEXT_BYTES]);
static inline bool id_equal(struct id a, struct id b)
{
    return memcmp(a.bytes, b.bytes, sizeof(a.bytes)) == 0;
}

#endif

/*
 * header_blob: a record's headers as one column's bytes: for each the length of its name, the name, then 0
 * for the null value or its length + 1 and the value. Lengths are in base 128, low part first. Pure.
 */
#ifndef STORE_HEADER_BLOB_H
#define STORE_HEADER_BLOB_H

#include "wire/event.h"

/* Into the arena. False: it has no room. */
MUST_CHECK bool header_blob_encode(struct arena *arena, const struct header *headers, size_t count,
                                   struct text *ret);
/* Slices of the blob, the list in the arena. False: no room, or *ret_damaged. */
MUST_CHECK bool header_blob_decode(struct arena *arena, struct text blob, const struct header **ret,
                                   size_t *ret_count, bool *ret_damaged);

#endif

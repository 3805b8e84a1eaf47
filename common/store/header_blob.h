/*
 * header_blob: a record's headers as one column's bytes, which is written twice (log and table) for every
 * record that is sent, so that what all of Weir's own events have in common is not in it. Pure.
 *
 * 0x80 0x00, then for each header its name and its value. Numbers are in base 128, low part first.
 * - Name: 2 × its length and its bytes, or 2 × its number among those that are known + 1.
 * - Value: 0 for the null value. Else 1 + 4 × its length and its bytes; 2 + 4 × its number among those that
 * are known of this name; or 3 + 4 × a form's number and the bytes of its hexadecimal digits (UUID,
 * traceparent). No headers: no bytes. Known names, values and forms keep their numbers for ever, what is new
 * comes at the end.
 *
 * Read also: the form before, without the first two bytes (it never began so): for each header the length of
 * its name, the name, then 0 for the null value or its length + 1 and the value.
 */
#ifndef STORE_HEADER_BLOB_H
#define STORE_HEADER_BLOB_H

#include "wire/event.h"

/* Into the arena. False: it has no room. */
MUST_CHECK bool header_blob_encode(struct arena *arena, const struct header *headers, size_t count,
                                   struct text *ret);
/* Slices of the blob, constants, and the list and what was packed in the arena. False: no room, or
 * *ret_damaged. */
MUST_CHECK bool header_blob_decode(struct arena *arena, struct text blob, const struct header **ret,
                                   size_t *ret_count, bool *ret_damaged);

#endif

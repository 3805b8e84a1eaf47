/*
 * offsets: for one partition, which records are done, and up to where that is without a gap. Pure.
 *
 * What may be committed is the offset after the last record such that it and every record taken before it is
 * done. Offsets of a partition need not be dense (compaction, control records).
 */
#ifndef KAFKA_OFFSETS_H
#define KAFKA_OFFSETS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OFFSETS_OPEN_MAX = 1 << 17 }; /* taken and not yet below the watermark */

struct offsets;

struct offsets *offsets_new(void);
void offsets_destroy(struct offsets *offsets);
/* Ascending; false past OFFSETS_OPEN_MAX (then take no more until some are done). */
bool offsets_take(struct offsets *offsets, int64_t offset);
/* Any order; an offset that is not open is ignored (it was taken under an earlier assignment). */
void offsets_done(struct offsets *offsets, int64_t offset);
/* The offset to commit, -1 before the first. Never goes back. */
int64_t offsets_watermark(const struct offsets *offsets);
size_t offsets_open(const struct offsets *offsets);
/* The lowest that is open, -1 for none: where a rewind must begin. */
int64_t offsets_lowest(const struct offsets *offsets);
/* Rewinds: forgets everything open at and above offset. */
void offsets_forget_from(struct offsets *offsets, int64_t offset);

#endif

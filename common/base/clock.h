/*
 * clock: wall time and monotonic time, and one process-wide hand to move them in tests.
 *
 * Any thread. Waiting and time-outs use the monotonic clock; only what is written down uses the wall.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include "base/text.h"

#include <stdint.h>

int64_t clock_wall_us(void);      /* microseconds since 1970, UTC                          */
int64_t clock_monotonic_us(void); /* microseconds since some start; never goes back        */
/* Tests only: from now on both clocks stand still and advance by this call. */
void clock_hold(int64_t wall_us);
void clock_advance(int64_t by_us);
void clock_release(void);

enum { CLOCK_RFC3339_BYTES_MAX = 32 };
/* 2026-11-21T12:34:56.123456Z; years 0001 to 9999, others are clamped. Returns into. */
char *clock_to_rfc3339(int64_t wall_us, char into[CLOCK_RFC3339_BYTES_MAX]);
/* RFC 3339 with any offset, up to nine fraction digits (those past six are cut). */
bool clock_from_rfc3339(struct text text, int64_t *ret_wall_us);
/* YYYY-MM-DD, UTC midnight. */
bool clock_from_date(struct text text, int64_t *ret_wall_us);

#endif

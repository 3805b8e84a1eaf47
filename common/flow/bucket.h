/*
 * bucket: a token bucket for attempts, of which an instance has its share. Pure, one thread.
 *
 * It fills by rate × share ÷ parts up to burst × share ÷ parts, but at least one attempt, so that no part
 * starves; the burst is a tenth of a minute's worth. What is rounded is rounded down, to millionths of an
 * attempt, and what does not divide is kept. When the share changes, what is there stays, cut to the new
 * burst; a share of 0 keeps what it has (at most one attempt) and gets nothing.
 */
#ifndef FLOW_BUCKET_H
#define FLOW_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct bucket {
    int64_t rate_per_hour; /* 0: no limit */
    int64_t share, parts;  /* 1 and 1: all of it */
    int64_t micro, rest;   /* attempts in millionths; what did not divide */
    int64_t at_us;         /* filled up to then */
};

/* Full, with all of the rate. */
void bucket_init(struct bucket *bucket, int64_t rate_per_hour, int64_t now_us);
/* By the old share until now, by the new one from now on. parts > 0. */
void bucket_share(struct bucket *bucket, int64_t share, int64_t parts, int64_t now_us);
/* Leaves one attempt at most: who was here before may have spent the burst just now. */
void bucket_spend_burst(struct bucket *bucket);
/* Up to now. A clock that was set back gives nothing, one that was put ahead at most an hour's worth. */
void bucket_fill(struct bucket *bucket, int64_t now_us);
/* When there is an attempt to take, as far as it is filled: now_us or later; INT64_MAX: never. */
int64_t bucket_when_us(const struct bucket *bucket, int64_t now_us);
void bucket_take(struct bucket *bucket); /* one */

#endif

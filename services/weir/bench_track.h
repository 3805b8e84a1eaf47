/*
 * bench_track: the orders of a step, and what becomes of each, read from `orders` and `emails` by a thread of
 * its own and outside of any group. Everything is when, since the order's intended start.
 */
#ifndef WEIR_BENCH_TRACK_H
#define WEIR_BENCH_TRACK_H

#include "kafka/client.h"

#include <stdatomic.h>
#include <stdint.h>

enum { BENCH_TRACK_OPEN_MS = 15000 };

enum bench_decision { BENCH_UNDECIDED, BENCH_CONFIRMED, BENCH_REJECTED, BENCH_CANCELLED };

/* Times are microseconds since due_us, plus 1; 0: not yet. Each field has one writer, the sender's thread,
 * the producer's or the reader's, and is read by any. */
struct bench_order {
    int64_t due_us; /* since the step's begin */
    _Atomic uint32_t sent_us, accepted_us, decided_us, mailed_us;
    _Atomic uint8_t decision, refused, dropped, placed_seen;
};

/* So far, of this step. */
struct bench_counts {
    int64_t sent, dropped, accepted, refused;
    int64_t decided, confirmed, mailed; /* mailed: of order_confirmed */
    int64_t placed_again, decided_again;
    int64_t records, foreign; /* read; of these, no order of this step */
    int64_t last_mail_us;     /* monotonic; 0: none yet */
};

struct bench_track;
struct registry;
/* Reads from now on. run: bench_order_id(). The registry is the reader's thread's from here on. OUTAGE where
 * the topics cannot be read. */
MUST_CHECK enum outcome bench_track_open(const struct client_settings *client, struct registry *registry,
                                         uint64_t run, struct bench_track **ret, struct error *error);
void bench_track_close(struct bench_track *track); /* accepts NULL */

/* Orders with the numbers from first on; begun_us: the step's begin, monotonic. They are the caller's, until
 * bench_track_end(). */
void bench_track_begin(struct bench_track *track, struct bench_order *orders, size_t count, uint32_t first,
                       int64_t begun_us);
void bench_track_end(struct bench_track *track);

/* What the sender has to say; now_us: monotonic. Any thread. */
void bench_track_sent(struct bench_track *track, size_t index, int64_t now_us);
void bench_track_accepted(struct bench_track *track, size_t index, int64_t now_us);
void bench_track_refused(struct bench_track *track, size_t index);
void bench_track_dropped(struct bench_track *track, size_t index); /* never sent */

struct bench_counts bench_track_counts(struct bench_track *track); /* any thread */
/* Sent, and neither refused nor decided. Any thread. */
int64_t bench_track_outstanding(struct bench_track *track);
/* The longest time of this step for which there was always a next record to read: how late the reader may
 * have been. Any thread. */
int64_t bench_track_behind_max_us(struct bench_track *track);
/* The reader has failed for good: its error. NULL while it has not. */
const struct error *bench_track_failed(struct bench_track *track);

#endif

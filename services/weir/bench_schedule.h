/*
 * bench_schedule: when the orders of a step are due, drawn before it begins; and how far behind its schedule
 * the generator was.
 *
 * Memory and arithmetic only: no clock, no thread.
 */
#ifndef WEIR_BENCH_SCHEDULE_H
#define WEIR_BENCH_SCHEDULE_H

#include "base/error.h"
#include "base/hdr.h"

enum bench_arrivals { BENCH_POISSON, BENCH_CONSTANT };

/* xorshift64*, seeded so that neighbouring seeds have nothing in common. */
struct bench_random {
    uint64_t state;
};
struct bench_random bench_random_of(uint64_t seed, uint64_t stream);
uint64_t bench_random_next(struct bench_random *random);
uint32_t bench_random_below(struct bench_random *random, uint32_t bound);

/*
 * Microseconds from the step's begin of all orders that are due before length_us, ascending, in a malloc()ed
 * array. The same arguments give the same ones. REJECT past BENCH_STEP_ORDERS_MAX.
 */
MUST_CHECK enum outcome bench_schedule_draw(enum bench_arrivals arrivals, double rate, int64_t length_us,
                                            uint64_t seed, int64_t **ret_due_us, size_t *ret_count,
                                            struct error *error);

/* What made orders leave late. */
struct bench_behind {
    uint64_t sent;
    uint64_t behind, late; /* by the generator's own fault: by more than BENCH_BEHIND_US, BENCH_LATE_US */
    uint64_t waited;       /* by more than BENCH_BEHIND_US because no connection was free */
    int64_t waited_max_us;
    struct hdr *own; /* how late by the generator's own fault, of every order; hdr_new(), the caller's */
};
/* An order leaves now. free_us: since when there has been a connection for it; before due_us where it did not
 * matter. */
void bench_behind_note(struct bench_behind *behind, int64_t due_us, int64_t free_us, int64_t now_us);
/* The generator could not keep its schedule: the run says nothing about what it was to measure. */
bool bench_behind_bottleneck(const struct bench_behind *behind);

#endif
